//! Notes on their way into Redis: collected, the newest of each only, and kept until Redis has them. One per
//! partition; knows no connection. Bounded: when Redis is away for long, the oldest are given up.

use std::collections::{HashMap, VecDeque};

use crate::chat::names::{RoomName, UserName};
use crate::store::record::{ReadMark, SessionNote};

/// Most notes of one call.
const PER_CALL: usize = 500;
/// Most notes that wait.
const WAITING_MAX: usize = 200_000;

/// Something to be kept. Each goes to the partition of its room, its user or its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// How far a user has read; to the partition of the room.
    Read(ReadMark),
    /// The same; to the partition of the user.
    ReadBy(ReadMark),
    /// A room that a user owns was written to, Unix milliseconds; to the partition of the user.
    Used(UserName, RoomName, u64),
    /// Where a session stands; to the partition of its name.
    Session(SessionNote),
}

/// Of each only the newest is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Read(RoomName, UserName),
    ReadBy(RoomName, UserName),
    Used(RoomName, UserName),
    Session(Box<str>),
}

impl Note {
    fn name(&self) -> Name {
        match self {
            Note::Read(mark) => Name::Read(mark.room.clone(), mark.user.clone()),
            Note::ReadBy(mark) => Name::ReadBy(mark.room.clone(), mark.user.clone()),
            Note::Used(user, room, _) => Name::Used(room.clone(), user.clone()),
            Note::Session(note) => Name::Session(note.session.clone()),
        }
    }

    /// Whether it makes another one of the same name needless.
    fn is_newer_than(&self, other: &Note) -> bool {
        match (self, other) {
            (Note::Read(mark), Note::Read(other)) | (Note::ReadBy(mark), Note::ReadBy(other)) => {
                mark.offset >= other.offset
            }
            (Note::Used(.., ts), Note::Used(.., other)) => ts >= other,
            (Note::Session(note), Note::Session(other)) => note.ts >= other.ts,
            _ => false,
        }
    }
}

/// Notes that Redis does not have yet.
#[derive(Debug, Default)]
pub struct Unkept {
    notes: HashMap<Name, Note>,
    order: VecDeque<Name>,
    given_up: u64,
}

impl Unkept {
    /// Something is to be kept.
    pub fn push(&mut self, note: Note) {
        let name = note.name();
        match self.notes.get_mut(&name) {
            Some(known) if note.is_newer_than(known) => *known = note,
            Some(_) => {}
            None => {
                self.notes.insert(name.clone(), note);
                self.order.push_back(name);
                if self.order.len() > WAITING_MAX {
                    self.give_up_one();
                }
            }
        }
    }

    fn give_up_one(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.notes.remove(&oldest);
        self.given_up += 1;
        // Once in a while is enough to know; every one would fill the log.
        if self.given_up.is_power_of_two() {
            log::warn!(
                "redis has been away for so long that {} read marks and session notes are given up",
                self.given_up
            );
        }
    }

    /// What is to be [kept](super::notes::keep) in the next call, oldest first; empty for nothing. Goes out of here:
    /// what could not be kept comes back by [`Unkept::failed`].
    pub fn take(&mut self) -> Vec<Note> {
        let n = self.order.len().min(PER_CALL);
        self.order.drain(..n).filter_map(|name| self.notes.remove(&name)).collect()
    }

    /// A call has failed. What has become newer meanwhile stays.
    pub fn failed(&mut self, call: Vec<Note>) {
        call.into_iter().for_each(|note| self.push(note));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(user: &str, offset: u64) -> Note {
        let (room, user) = (RoomName::new("lobby").unwrap(), UserName::new(user).unwrap());
        Note::Read(ReadMark { room, user, offset, ts: offset })
    }

    #[test]
    fn the_newest_of_each_is_kept_once() {
        let mut unkept = Unkept::default();
        for note in [read("ann", 1), read("bob", 5), read("ann", 3), read("ann", 2)] {
            unkept.push(note);
        }
        let call = unkept.take();
        assert_eq!(call, [read("ann", 3), read("bob", 5)]);
        assert!(unkept.is_empty());
        unkept.push(read("bob", 6));
        unkept.push(read("eve", 1));
        unkept.failed(call);
        assert_eq!(unkept.take(), [read("bob", 6), read("eve", 1), read("ann", 3)]);
    }

    #[test]
    fn kinds_do_not_replace_each_other() {
        let mut unkept = Unkept::default();
        let Note::Read(mark) = read("ann", 1) else { unreachable!() };
        let (user, room) = (mark.user.clone(), mark.room.clone());
        let session = SessionNote { session: "s1".into(), user: user.clone(), ts: 1, rooms: vec![] };
        let newer = SessionNote { ts: 2, ..session.clone() };
        let all = [Note::Read(mark.clone()), Note::ReadBy(mark), Note::Used(user, room, 7)];
        for note in all.clone().into_iter().chain([Note::Session(newer.clone()), Note::Session(session)]) {
            unkept.push(note);
        }
        let call = unkept.take();
        assert_eq!(call[..3], all);
        assert_eq!(call[3..], [Note::Session(newer)]);
    }

    #[test]
    fn it_has_a_bound() {
        let mut unkept = Unkept::default();
        for n in 0..WAITING_MAX + 3 {
            unkept.push(read(&n.to_string(), 1));
        }
        assert_eq!((unkept.notes.len(), unkept.given_up), (WAITING_MAX, 3));
        let call = unkept.take();
        assert_eq!((call.len(), &call[0]), (PER_CALL, &read("3", 1)));
    }
}
