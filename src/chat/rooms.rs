//! All rooms of this node, by name and by number, and the memory that they may use together.
//! Owned by the chat server. A room opens when somebody first names it and closes when nobody is in it
//! and nothing is remembered of it.

use std::collections::HashMap;

use ahash::RandomState;
use bytes::Bytes;
use slab::Slab;

use crate::chat::dedup::{IdKey, Seen};
use crate::chat::history::Hot;
use crate::chat::message::{Accepted, Epoch, Offset};
use crate::chat::names::RoomName;
use crate::chat::room::{Past, Room};
use crate::chat::settings::RoomsSettings;

/// A room's number in this process while it is open. Workers know rooms by it, so that no name is looked
/// up on the way out. It is given to another room after the room has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey(pub u32);

/// How many rooms are looked at for one that nobody is in.
const GIVE_UP_LOOKS: usize = 10_000;

/// The table of rooms.
#[derive(Debug)]
pub struct Rooms {
    open: Slab<Room>,
    names: HashMap<RoomName, RoomKey, RandomState>,
    settings: RoomsSettings,
    rooms_max: usize,
    next_epoch: u64,
    behind: Behind,
    /// The first epoch of this process. Rooms that show before they keep may have shown what an earlier process
    /// did not keep, so their lives end there.
    boot: Epoch,
    /// All records up to this number are in the store.
    archived: u64,
    /// Where the next look at old rooms begins.
    hand: usize,
    history_bytes: usize,
    history_entries: usize,
    ids: usize,
    /// Rooms that have been closed since somebody last asked.
    closed: Vec<RoomName>,
}

/// What stands behind the rooms of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Nothing: they end with the process.
    Nothing,
    /// A store of this node's own.
    Store,
    /// A service that gives out the places for several nodes.
    Service,
}

impl Rooms {
    /// No rooms yet. `now_us` (Unix microseconds) is where epochs begin: every room's life gets a number that
    /// no room of this or an earlier process has had.
    pub fn new(settings: RoomsSettings, rooms_max: usize, now_us: u64, behind: Behind) -> Rooms {
        Rooms {
            open: Slab::new(),
            names: HashMap::default(),
            settings,
            rooms_max,
            next_epoch: now_us + 1,
            behind,
            boot: Epoch(0),
            archived: 0,
            hand: 0,
            history_bytes: 0,
            history_entries: 0,
            ids: 0,
            closed: Vec::new(),
        }
    }

    /// The number of an open room.
    pub fn find(&self, name: &RoomName) -> Option<RoomKey> {
        self.names.get(name).copied()
    }

    /// The room of this name, opened if need be; none when as many are open as may be. With a store, what it
    /// knows of a room that is not open must have been asked for.
    pub fn find_or_open(&mut self, name: &RoomName, past: Option<Past>) -> Option<RoomKey> {
        if let Some(key) = self.names.get(name) {
            return Some(*key);
        }
        if self.open.len() >= self.rooms_max {
            return None;
        }
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        let settings = self.settings.of(name);
        let room = match past {
            Some(past) => {
                let is_older = past.lives.last().is_some_and(|(epoch, _)| *epoch < self.boot);
                let shows_first = settings.sequenced() && self.behind == Behind::Store;
                let rewound = (shows_first && is_older).then_some(self.boot);
                Room::with_past(name.clone(), settings, past, rewound)
            }
            None => Room::new(name.clone(), settings, epoch, self.behind != Behind::Nothing),
        };
        self.history_bytes += room.history.bytes();
        self.history_entries += room.history.len();
        let key = RoomKey(u32::try_from(self.open.insert(room)).expect("limits.rooms is below 2^32"));
        self.names.insert(name.clone(), key);
        Some(key)
    }

    /// What an earlier process left is restored. Rooms that show before they keep begin a new life, because what
    /// that process showed last may not have been kept.
    pub fn begin(&mut self) {
        self.boot = Epoch(self.next_epoch);
        self.next_epoch += 1;
        for (_, room) in &mut self.open {
            if room.settings.sequenced() {
                room.begin_life(self.boot, room.next_offset());
            }
        }
    }

    /// The store has all records up to this number.
    pub fn note_archived(&mut self, upto: u64) {
        self.archived = self.archived.max(upto);
    }

    /// The number up to which the store has all records.
    pub fn archived(&self) -> u64 {
        self.archived
    }

    /// An open room.
    pub fn get(&self, key: RoomKey) -> &Room {
        &self.open[key.0 as usize]
    }

    /// An open room, to change it. What it keeps changes only through [`Rooms::append`] and the like, which
    /// watch the memory.
    pub fn get_mut(&mut self, key: RoomKey) -> &mut Room {
        &mut self.open[key.0 as usize]
    }

    /// See [`Room::promise`].
    pub fn promise(&mut self, key: RoomKey, ts: u64, lsn: u64, id: Option<IdKey>) -> Accepted {
        self.change(key, |room| room.promise(ts, lsn, id))
    }

    /// See [`Room::show`].
    pub fn show(&mut self, key: RoomKey, hot: Hot) -> Offset {
        let archived = self.archived;
        self.change(key, |room| room.show(hot, archived))
    }

    /// See [`Room::take_back`].
    pub fn take_back(&mut self, key: RoomKey, id: Option<IdKey>) {
        self.change(key, |room| room.take_back(id));
    }

    /// See [`Room::take_back_id`].
    pub fn take_back_id(&mut self, key: RoomKey, id: Option<IdKey>) {
        self.change(key, |room| room.take_back_id(id));
    }

    /// See [`Room::restore_ids`].
    pub fn restore_ids(&mut self, key: RoomKey, ids: Vec<(IdKey, Seen)>, complete: bool) {
        self.change(key, |room| room.restore_ids(ids, complete));
    }

    /// See [`Room::add_id`].
    pub fn add_id(&mut self, key: RoomKey, id: IdKey, seen: Seen) {
        self.change(key, |room| room.add_id(id, seen));
    }

    /// See [`Room::forget_to`].
    pub fn forget_to(&mut self, key: RoomKey, first: Offset) {
        self.change(key, |room| room.forget_to(first));
    }

    /// Puts another frame in the place of one that is hot.
    pub fn replace(&mut self, key: RoomKey, offset: Offset, frame: Bytes) {
        self.change(key, |room| room.history.replace(offset, frame));
    }

    /// See [`Room::pass_on`].
    pub fn pass_on(&mut self, key: RoomKey, ts: u64, id: Option<IdKey>) -> Accepted {
        self.change(key, |room| room.pass_on(ts, id))
    }

    /// See [`Room::repeat_of`].
    pub fn repeat_of(&mut self, key: RoomKey, id: IdKey, now: u64) -> Option<Accepted> {
        self.change(key, |room| room.repeat_of(id, now))
    }

    fn change<T>(&mut self, key: RoomKey, change: impl FnOnce(&mut Room) -> T) -> T {
        let room = &mut self.open[key.0 as usize];
        let (bytes, entries, ids) = (room.history.bytes(), room.history.len(), room.ids());
        let result = change(room);
        self.history_bytes = self.history_bytes + room.history.bytes() - bytes;
        self.history_entries = self.history_entries + room.history.len() - entries;
        self.ids = self.ids + room.ids() - ids;
        result
    }

    /// Whether as many rooms are open as may be.
    pub fn is_full(&self) -> bool {
        self.open.len() >= self.rooms_max
    }

    /// How many rooms are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no room is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Memory of all hot histories, in bytes.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// Entries of all hot histories.
    pub fn history_entries(&self) -> usize {
        self.history_entries
    }

    /// Message ids remembered.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// See [`Room::go_on_after`].
    pub fn go_on_after(&mut self, key: RoomKey, top: Offset, epoch: Epoch) {
        self.change(key, |room| room.go_on_after(top, epoch));
    }

    /// The rooms that have been closed since this was last asked.
    pub fn take_closed(&mut self) -> Vec<RoomName> {
        std::mem::take(&mut self.closed)
    }

    /// The open rooms with their numbers.
    pub fn keys(&self) -> impl Iterator<Item = (RoomKey, &Room)> {
        self.open.iter().map(|(at, room)| (RoomKey(at as u32), room))
    }

    /// The open rooms, to change what is not counted against memory.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RoomKey, &mut Room)> {
        self.open.iter_mut().map(|(at, room)| (RoomKey(at as u32), room))
    }

    /// The open rooms, for lists.
    pub fn iter(&self) -> impl Iterator<Item = &Room> {
        self.open.iter().map(|(_, room)| room)
    }

    /// Looks at up to `n` rooms in turn: forgets what is too old, makes rooms give up their older half while
    /// all together are over their memory, and closes those that have become empty. Returns the closed ones.
    pub fn tidy(&mut self, now: u64, steady: u64, n: usize) -> Vec<RoomKey> {
        let mut closed = Vec::new();
        for _ in 0..n.min(self.open.capacity()) {
            let at = self.step();
            if !self.open.contains(at) {
                continue;
            }
            let key = RoomKey(at as u32);
            if self.tidy_one(key, now, steady) {
                let room = self.open.remove(at);
                self.names.remove(&room.name);
                self.note_closed(room.name);
                closed.push(key);
            }
        }
        closed
    }

    fn tidy_one(&mut self, key: RoomKey, now: u64, steady: u64) -> bool {
        let archived = self.archived;
        let bytes_short = self.history_bytes > self.settings.history_bytes;
        let ids_short = self.ids > self.settings.dedup_ids;
        self.change(key, |room| {
            if bytes_short {
                room.history.forget_half(archived);
            }
            if ids_short {
                room.forget_half_of_ids();
            }
            room.tidy(now, steady, archived)
        })
    }

    /// Closes the next room that nobody is in, to make place for another; looks at [`GIVE_UP_LOOKS`] rooms at
    /// the most. Its offsets are safe: should it open again, it goes on from the store, or begins a new life under
    /// a new epoch.
    pub fn give_one_up(&mut self) -> Option<RoomKey> {
        for _ in 0..GIVE_UP_LOOKS.min(self.open.capacity()) {
            let at = self.step();
            if self.open.get(at).is_some_and(|room| room.can_give_way(self.archived)) {
                let room = self.open.remove(at);
                self.names.remove(&room.name);
                self.history_bytes -= room.history.bytes();
                self.history_entries -= room.history.len();
                self.ids -= room.ids();
                self.note_closed(room.name);
                return Some(RoomKey(at as u32));
            }
        }
        None
    }

    fn note_closed(&mut self, name: RoomName) {
        if self.behind == Behind::Service {
            self.closed.push(name);
        }
    }

    /// The next place to look at.
    fn step(&mut self) -> usize {
        let at = self.hand;
        self.hand = if at + 1 < self.open.capacity() { at + 1 } else { 0 };
        at
    }

    /// Whether something must be given up now, without waiting for the next regular look.
    pub fn is_short(&self) -> bool {
        self.history_bytes > self.settings.history_bytes || self.ids > self.settings.dedup_ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::dedup::IdKeys;
    use crate::chat::names::MessageId;

    fn name(text: &str) -> RoomName {
        RoomName::new(text).unwrap()
    }

    fn rooms(settings: RoomsSettings) -> Rooms {
        Rooms::new(settings, 3, 1_000_000, Behind::Nothing)
    }

    fn append(rooms: &mut Rooms, key: RoomKey, ts: u64, frame: Bytes, id: Option<IdKey>) -> Accepted {
        let accepted = rooms.promise(key, ts, 0, id);
        rooms.show(key, Hot { ts, lsn: 0, frame });
        accepted
    }

    #[test]
    fn a_room_that_opens_again_has_another_life() {
        let mut rooms = rooms(RoomsSettings::default());
        let key = rooms.find_or_open(&name("a"), None).unwrap();
        let first = append(&mut rooms, key, 1, Bytes::from_static(b"x"), None);
        let long_after = 1 + rooms.get(key).settings.keep_ms + 1;
        assert!(rooms.tidy(long_after, 1, 10).is_empty(), "a reader who comes back soon finds it");
        assert_eq!(rooms.tidy(long_after, 3_600_000, 10), [key]);
        assert_eq!((rooms.find(&name("a")), rooms.len(), rooms.history_bytes()), (None, 0, 0));
        let key = rooms.find_or_open(&name("a"), None).unwrap();
        let again = append(&mut rooms, key, 2, Bytes::from_static(b"y"), None);
        assert_eq!((first.offset, again.offset), (1, 1));
        assert_ne!(first.epoch, again.epoch, "the same offset in the same epoch would be two messages");
    }

    #[test]
    fn all_rooms_together_keep_within_their_memory() {
        let mut rooms =
            rooms(RoomsSettings { history_bytes: 10_000, dedup_ids: 50, ..RoomsSettings::default() });
        let keys = IdKeys::default();
        let frame = Bytes::from(vec![b'x'; 100]);
        for n in 0..10_000u64 {
            let key = rooms.find_or_open(&name(["a", "b"][n as usize % 2]), None).unwrap();
            let id = keys.key(None, &MessageId::new(&n.to_string()).unwrap());
            append(&mut rooms, key, n, frame.clone(), Some(id));
            while rooms.is_short() {
                assert!(rooms.tidy(n, n, 1).is_empty(), "rooms that remember something stay");
            }
        }
        assert!(rooms.history_bytes() <= 10_000 && rooms.ids() <= 50);
        assert_eq!(rooms.get(rooms.find(&name("a")).unwrap()).history.top(), 5_000);
    }

    #[test]
    fn rooms_that_nobody_is_in_make_place_for_others() {
        let mut rooms = rooms(RoomsSettings::default());
        for text in ["a", "b", "c"] {
            let key = rooms.find_or_open(&name(text), None).unwrap();
            append(&mut rooms, key, 1, Bytes::new(), None);
        }
        let b = rooms.find(&name("b")).unwrap();
        rooms.get_mut(b).add_member(0);
        assert!(rooms.find_or_open(&name("d"), None).is_none());
        assert!(
            rooms.tidy(2, 2, 10).is_empty(),
            "a room that remembers something is not closed without need"
        );
        assert!(rooms.give_one_up().is_some());
        assert!(rooms.find_or_open(&name("d"), None).is_some());
        assert!(rooms.find(&name("b")).is_some(), "who is in a room keeps it");
    }
}
