//! A room as archives keep it: newest and oldest offset, bytes, lives of its log; and when it has too much. The
//! same for every archive. Knows no database.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{Owners, RoomName};
use crate::store::archive::Keep;

/// Most lives of a log that a room remembers. Older ones are forgotten: who comes with one of them is told
/// that he may have missed everything, and a room grows no list without end.
const LINEAGE_MAX: usize = 256;

/// A room's row without its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Its number.
    pub id: i64,
    /// The life of its newest entry.
    pub epoch: Epoch,
    /// Newest offset ever.
    pub top: Offset,
    /// Oldest offset that is kept; `top + 1` for none.
    pub first: Offset,
    /// Bytes of the lines kept.
    pub bytes: u64,
    /// Server time of the oldest entry kept, Unix milliseconds.
    pub oldest: u64,
    /// Server time of the newest entry, Unix milliseconds.
    pub used: u64,
}

impl Room {
    /// One that was never written to.
    pub fn new(id: i64) -> Room {
        Room { id, epoch: Epoch(0), top: 0, first: 1, bytes: 0, oldest: 0, used: 0 }
    }

    /// Whether any entry is kept.
    pub fn is_empty(&self) -> bool {
        self.first > self.top
    }

    /// Whether its oldest entry has to go.
    pub fn has_too_much(&self, rule: Keep, now: u64) -> bool {
        if self.is_empty() || rule.pin && self.first >= self.top {
            return false;
        }
        let is_old = rule.age_ms != u64::MAX && self.oldest.saturating_add(rule.age_ms) < now;
        is_old || (rule.bytes > 0 && self.bytes > rule.bytes)
    }
}

/// A number as databases keep it, signed; what none can hold becomes the largest.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The users whom a room belongs to.
pub fn owners(name: &RoomName) -> [Option<&str>; 2] {
    match name.owners() {
        None => [None, None],
        Some(Owners::One(user)) => [Some(user), None],
        Some(Owners::Two(first, second)) => [Some(first), Some(second)],
    }
}

/// The lives of a log in their written form: each as the epoch on the wire, a colon, the first offset, with spaces
/// between; `k3f9:1 k3fa:813`. What is none is left out.
pub fn lives_in(text: &str) -> Vec<(Epoch, Offset)> {
    text.split(' ').filter_map(life).collect()
}

fn life(text: &str) -> Option<(Epoch, Offset)> {
    let (epoch, first) = text.split_once(':')?;
    Some((Epoch(u64::from_str_radix(epoch, 36).ok()?), first.parse().ok()?))
}

/// The written form of the newest lives, at most [`LINEAGE_MAX`].
pub fn lives_as_text(lives: &[(Epoch, Offset)]) -> String {
    let skip = lives.len().saturating_sub(LINEAGE_MAX);
    let text: Vec<String> =
        lives[skip..].iter().map(|(epoch, first)| format!("{}:{first}", epoch.to_text())).collect();
    text.join(" ")
}

/// An epoch that was never there: like those of the server itself it counts microseconds, and it is above the
/// newest one that a store has.
pub fn new_epoch(newest: i64) -> Epoch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64);
    Epoch(now.max(newest.max(0) as u64 + 1))
}
