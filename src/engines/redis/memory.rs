//! What this node has heard or published in the last minute, so that it can put back what a new primary lacks.
//! Owned by a partition; bounded by time and bytes. Knows no connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;

/// How long an entry is remembered: longer than a failover takes.
const AGE_MAX: Duration = Duration::from_secs(60);
/// What an entry takes beside its body, about.
const OVERHEAD: usize = 160;

/// One entry.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The life of the log.
    pub epoch: u64,
    /// See [`frame::body`](super::frame::body).
    pub body: Bytes,
    since: Instant,
}

/// See above.
pub struct Memory {
    rooms: AHashMap<RoomName, BTreeMap<Offset, Kept>>,
    order: VecDeque<(Instant, RoomName, Offset)>,
    bytes: usize,
    bytes_max: usize,
}

impl Memory {
    /// Remembers at most so many bytes.
    pub fn new(bytes_max: usize) -> Memory {
        Memory { rooms: AHashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Remembers an entry. Of two with the same offset the younger epoch counts.
    pub fn put(&mut self, room: &RoomName, offset: Offset, epoch: u64, body: Bytes) {
        let since = Instant::now();
        let entries = match self.rooms.get_mut(room) {
            Some(entries) => entries,
            None => self.rooms.entry(room.clone()).or_default(),
        };
        if entries.get(&offset).is_some_and(|old| old.epoch >= epoch) {
            return;
        }
        self.bytes += body.len() + OVERHEAD;
        if let Some(old) = entries.insert(offset, Kept { epoch, body, since }) {
            self.bytes -= old.body.len() + OVERHEAD;
        }
        self.order.push_back((since, room.clone(), offset));
        while self.bytes > self.bytes_max {
            self.forget_oldest();
        }
    }

    /// Forgets what is too old.
    pub fn tidy(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(since, ..)| now.duration_since(*since) > AGE_MAX) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((since, room, offset)) = self.order.pop_front() else { return };
        // It may have been replaced by a younger one, or taken out.
        if self.rooms.get(&room).and_then(|entries| entries.get(&offset)).is_some_and(|e| e.since == since) {
            self.take(&room, offset);
        }
    }

    /// Takes an entry out.
    pub fn take(&mut self, room: &RoomName, offset: Offset) -> Option<Kept> {
        let entries = self.rooms.get_mut(room)?;
        let kept = entries.remove(&offset)?;
        self.bytes -= kept.body.len() + OVERHEAD;
        if entries.is_empty() {
            self.rooms.remove(room);
        }
        Some(kept)
    }

    /// All rooms with their entries in order.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, &BTreeMap<Offset, Kept>)> {
        self.rooms.iter()
    }

    /// The entries of a room in order.
    pub fn of(&self, room: &RoomName) -> Option<&BTreeMap<Offset, Kept>> {
        self.rooms.get(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_youngest_life_of_a_place_is_remembered_within_the_bounds() {
        let mut memory = Memory::new(10 * (OVERHEAD + 1));
        let room = RoomName::new("a").unwrap();
        for offset in 1..=20 {
            memory.put(&room, offset, 1, Bytes::from_static(b"x"));
        }
        let offsets = |memory: &Memory| memory.of(&room).unwrap().keys().copied().collect::<Vec<_>>();
        assert_eq!(offsets(&memory), (11..=20).collect::<Vec<_>>());
        memory.put(&room, 20, 2, Bytes::from_static(b"y"));
        memory.put(&room, 20, 1, Bytes::from_static(b"z"));
        assert_eq!(memory.of(&room).unwrap()[&20].body, "y");
        memory.tidy(Instant::now() + AGE_MAX + Duration::from_secs(1));
        assert!(memory.of(&room).is_none());
        assert_eq!((memory.bytes, memory.order.len()), (0, 0));
    }
}
