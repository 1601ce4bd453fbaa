//! One room: its log, who is in it, what is remembered of it.
//! Called by the chat server, which alone owns rooms; so everything of a room happens in one place and
//! the order needs no lock. Knows no frames' contents and no sockets.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::chat::dedup::{Dedup, IdKey, Seen};
use crate::chat::history::{History, Wanted};
use crate::chat::message::{Accepted, Epoch, Offset};
use crate::chat::names::RoomName;
use crate::chat::presence::Roster;
use crate::chat::settings::RoomSettings;
use crate::chat::typing::Typing;

/// A room of this node.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: RoomName,
    /// The life of its log.
    pub epoch: Epoch,
    /// What it keeps and who may do what.
    pub settings: RoomSettings,
    /// The kept tail of its log.
    pub history: History,
    /// Who is here.
    pub roster: Roster,
    /// Who is typing.
    pub typing: Typing,
    dedup: Dedup,
    members: SmallVec<[u32; 4]>,
    /// When it was first found to hold nothing, Unix milliseconds; 0 while it holds something.
    empty_since: u64,
}

/// How long a room that holds nothing stays open, in milliseconds: who comes back within it finds the same
/// epoch, and need not be told that something may be missing.
const EMPTY_MS: u64 = 60_000;

/// What a reader who joins has seen already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Nothing, and wants nothing old.
    FromNow,
    /// All up to an offset of an epoch (on the wire's form; none means the present one).
    Since(Offset, Option<Box<str>>),
    /// Nothing; wants the newest so many.
    Last(usize),
    /// Nothing; wants what was said since a server time (Unix milliseconds).
    From(u64),
}

/// What a reader who joins is going to get.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// Offset of the first entry to replay; `top + 1` for none.
    pub start: Offset,
    /// Offset up to which is replayed; what comes later comes live.
    pub top: Offset,
    /// What was asked for and cannot be had any more.
    pub missing: Option<Missing>,
}

/// Part of the log that a reader asked for and that is gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// These offsets, both included.
    Range(Offset, Offset),
    /// The whole log that the reader knew: it had another life.
    All {
        /// The epoch that the reader named.
        was: Box<str>,
    },
}

impl Room {
    /// An empty room whose first entry will be at offset 1 of `epoch`.
    pub fn new(name: RoomName, settings: RoomSettings, epoch: Epoch) -> Room {
        Room {
            name,
            epoch,
            settings,
            history: History::default(),
            roster: Roster::default(),
            typing: Typing::default(),
            dedup: Dedup::default(),
            members: SmallVec::new(),
            empty_since: 0,
        }
    }

    /// Where a reader's replay begins. The join cut: all up to `top` is replayed, all after it comes live,
    /// and both are decided in the same moment.
    pub fn cut(&self, resume: &Resume) -> Cut {
        let top = self.history.top();
        let (wanted, missing) = match resume {
            Resume::FromNow => (Wanted::Nothing, None),
            Resume::Last(n) => (Wanted::Last(*n), None),
            Resume::From(ts) => (Wanted::From(*ts), None),
            Resume::Since(offset, epoch) => self.since(*offset, epoch.as_deref()),
        };
        Cut { start: self.history.start_of(wanted), top, missing }
    }

    fn since(&self, offset: Offset, epoch: Option<&str>) -> (Wanted, Option<Missing>) {
        let own = self.epoch.to_text();
        if epoch.is_some_and(|known| known != own) || offset > self.history.top() {
            let was = epoch.unwrap_or(&own).into();
            return (Wanted::All, Some(Missing::All { was }));
        }
        let first = self.history.first();
        let missing = (offset + 1 < first).then(|| Missing::Range(offset + 1, first - 1));
        (Wanted::After(offset), missing)
    }

    /// The place of an id that was said here within the window.
    pub fn repeat_of(&mut self, key: IdKey, now: u64) -> Option<Accepted> {
        self.dedup.forget_before(now.saturating_sub(self.settings.dedup_window_ms));
        let Seen { offset, ts } = self.dedup.find(key)?;
        Some(Accepted { offset, epoch: self.epoch, ts, duplicate: true })
    }

    /// The offset that the next kept message gets.
    pub fn next_offset(&self) -> Offset {
        self.history.top() + 1
    }

    /// Keeps a message as the next entry and remembers its id. `frame` is what every reader gets.
    pub fn append(&mut self, ts: u64, frame: Bytes, key: Option<IdKey>) -> Accepted {
        self.history.append(ts, frame, self.settings.history);
        self.remember(self.history.top(), ts, key)
    }

    /// Remembers the id of a message that is not kept.
    pub fn pass_on(&mut self, ts: u64, key: Option<IdKey>) -> Accepted {
        self.remember(0, ts, key)
    }

    fn remember(&mut self, offset: Offset, ts: u64, key: Option<IdKey>) -> Accepted {
        if let Some(key) = key {
            self.dedup.remember(key, Seen { offset, ts });
        }
        Accepted { offset, epoch: self.epoch, ts, duplicate: false }
    }

    /// A session on this worker comes in.
    pub fn add_member(&mut self, worker: usize) {
        if self.members.len() <= worker {
            self.members.resize(worker + 1, 0);
        }
        self.members[worker] += 1;
        self.empty_since = 0;
    }

    /// A session on this worker goes out.
    pub fn remove_member(&mut self, worker: usize) {
        debug_assert!(self.members[worker] > 0, "who leaves has entered");
        self.members[worker] -= 1;
    }

    /// The workers that have members here.
    pub fn workers(&self) -> impl Iterator<Item = usize> + use<> {
        let here: SmallVec<[usize; 8]> =
            self.members.iter().enumerate().filter(|(_, n)| **n > 0).map(|(worker, _)| worker).collect();
        here.into_iter()
    }

    /// How many sessions are in the room.
    pub fn sessions(&self) -> u32 {
        self.members.iter().sum()
    }

    /// Forgets what is too old. Returns whether the room may be closed: for some time nobody has been in it
    /// and nothing was remembered of it.
    pub fn tidy(&mut self, now: u64) -> bool {
        self.history.forget_before(now.saturating_sub(self.settings.keep_ms));
        self.dedup.forget_before(now.saturating_sub(self.settings.dedup_window_ms));
        let holds_something = self.sessions() > 0 || !self.history.is_empty() || !self.dedup.is_empty();
        self.empty_since = match (holds_something, self.empty_since) {
            (true, _) => 0,
            (false, 0) => now,
            (false, since) => since,
        };
        !holds_something && now >= self.empty_since + EMPTY_MS
    }

    /// How many ids are remembered.
    pub fn ids(&self) -> usize {
        self.dedup.len()
    }

    /// Gives up the older half of the remembered ids.
    pub fn forget_half_of_ids(&mut self) {
        self.dedup.forget_half();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::dedup::IdKeys;
    use crate::chat::names::MessageId;
    use crate::chat::settings::RoomsSettings;

    fn room(history: usize) -> Room {
        let name = RoomName::new("lobby").unwrap();
        let settings = RoomsSettings { history, ..RoomsSettings::default() }.of(&name);
        Room::new(name, settings, Epoch(1_000))
    }

    fn with(n: u64, history: usize) -> Room {
        let mut room = room(history);
        for i in 1..=n {
            assert_eq!(room.append(i, Bytes::from(i.to_string()), None).offset, i);
        }
        room
    }

    #[test]
    fn a_reader_gets_what_came_after_what_he_saw() {
        let room = with(131, 512);
        let e = Some(room.epoch.to_text().into());
        assert_eq!(room.cut(&Resume::Since(128, e.clone())), Cut { start: 129, top: 131, missing: None });
        assert_eq!(room.cut(&Resume::Since(131, e)), Cut { start: 132, top: 131, missing: None });
        assert_eq!(room.cut(&Resume::FromNow), Cut { start: 132, top: 131, missing: None });
        assert_eq!(room.cut(&Resume::Last(2)), Cut { start: 130, top: 131, missing: None });
    }

    #[test]
    fn what_is_gone_is_named_exactly() {
        let room = with(900, 780);
        let cut = room.cut(&Resume::Since(42, None));
        assert_eq!(cut, Cut { start: 121, top: 900, missing: Some(Missing::Range(43, 120)) });
        assert_eq!(room.cut(&Resume::Since(120, None)).missing, None);
    }

    #[test]
    fn another_life_of_the_log_begins_again() {
        let room = with(4, 512);
        let cut = room.cut(&Resume::Since(42, Some("z81c".into())));
        assert_eq!(cut, Cut { start: 1, top: 4, missing: Some(Missing::All { was: "z81c".into() }) });
        let ahead = room.cut(&Resume::Since(5, Some(room.epoch.to_text().into())));
        assert!(matches!(ahead.missing, Some(Missing::All { .. })), "nobody has seen what was never said");
    }

    #[test]
    fn an_id_is_a_repeat_within_the_window_only() {
        let mut room = room(512);
        let key = IdKeys::default().key(None, &MessageId::new("o-17").unwrap());
        assert_eq!(room.repeat_of(key, 1_000), None);
        let first = room.append(1_000, Bytes::from_static(b"x"), Some(key));
        let again = room.repeat_of(key, 2_000).unwrap();
        assert_eq!((again.offset, again.ts, again.duplicate), (first.offset, 1_000, true));
        let later = 1_001 + room.settings.dedup_window_ms;
        assert_eq!(room.repeat_of(key, later), None);
    }

    #[test]
    fn a_room_closes_when_nobody_is_there_and_nothing_is_remembered() {
        let mut room = with(3, 512);
        room.add_member(1);
        assert_eq!(room.workers().collect::<Vec<_>>(), [1]);
        let later = 10 + room.settings.keep_ms;
        assert!(!room.tidy(later), "somebody is there");
        room.remove_member(1);
        assert!(!room.tidy(later), "somebody may come back soon");
        assert!(!room.tidy(later + EMPTY_MS - 1));
        assert!(room.tidy(later + EMPTY_MS));
        assert_eq!(room.next_offset(), 4, "offsets are never given out twice");
    }
}
