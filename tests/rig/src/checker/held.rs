//! What one client holds of one room: all that it was shown or told and that was not taken back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::frame::Frame;

/// Who said it, and under which id. What backends say has the user "".
pub(super) type Key = (String, String);

/// An entry as readers saw it. Lines are kept as their hashes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    /// The whole line; none where its words were changed since.
    line: Option<u64>,
    /// What never changes of a line.
    bare: u64,
    /// Its data; none where its words were changed since.
    pub(super) data: Option<u64>,
    pub(super) is_message: bool,
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The data of a frame as it is compared: its bytes.
pub(super) fn data_of(frame: &Frame) -> u64 {
    hash(frame.d.map(|raw| raw.get()))
}

impl Place {
    /// `line` is all of it, where it came as a line of its own.
    pub(super) fn of(frame: &Frame, line: Option<&str>) -> Place {
        let changed = frame.edited.is_some() || frame.gone == Some(true);
        Place {
            line: line.filter(|_| !changed).map(hash),
            bare: hash((&frame.t, &frame.id, &frame.u, frame.ts, frame.of)),
            data: (!changed).then(|| data_of(frame)),
            is_message: frame.t == "msg",
            key: (frame.u.clone().unwrap_or_default(), frame.id.clone().unwrap_or_default()),
        }
    }

    /// Takes over what another look at the place adds; says so when the two cannot be the same entry.
    pub(super) fn agrees(&mut self, other: Place) -> Result<(), String> {
        let both = |one: Option<u64>, two: Option<u64>| one.is_some() && two.is_some() && one != two;
        if self.bare != other.bare || both(self.line, other.line) || both(self.data, other.data) {
            return Err(format!("was {:?} and is {:?}, or their lines differ", self.key, other.key));
        }
        self.line = self.line.or(other.line);
        self.data = self.data.or(other.data);
        Ok(())
    }
}

/// All that a client holds of a room.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// What the client has shown up to, over all its connections.
    pub(super) shown: u64,
    pub(super) places: BTreeMap<u64, Place>,
    pub(super) skipped: Vec<(u64, u64)>,
    pub(super) missing: Vec<(u64, u64)>,
}

impl Held {
    pub(super) fn shows(&mut self, s: u64) {
        self.shown = s.max(self.shown);
    }

    /// The client knows of an entry now. What it knew of that place before has to be the same.
    pub(super) fn holds(&mut self, s: u64, place: Place) -> Result<(), String> {
        match self.places.entry(s) {
            Slot::Vacant(free) => {
                free.insert(place);
                Ok(())
            }
            Slot::Occupied(mut known) => known.get_mut().agrees(place),
        }
    }

    /// The client comes in without saying where it stands, so nobody can tell it what was taken back: what it had
    /// seen, to be looked at in the end.
    pub(super) fn begins_anew(&mut self) -> BTreeMap<u64, Place> {
        std::mem::take(self).places
    }

    /// Forgets what stands above a place; how many entries that were.
    pub(super) fn rewinds(&mut self, to: u64) -> usize {
        self.shown = self.shown.min(to);
        for ranges in [&mut self.skipped, &mut self.missing] {
            ranges.retain(|(from, _)| *from <= to);
            ranges.iter_mut().for_each(|(_, last)| *last = to.min(*last));
        }
        self.places.split_off(&(to + 1)).len()
    }
}
