//! What is remembered of entries and of who has left, for those who ask what became of an entry: where the newest entries
//! came from, the newest ends of memberships, and what slow readers were left out of. All else stands in the rooms, the
//! sessions and the hubs anyway; `answering.rs` looks it up when somebody asks.
//!
//! Invariant: nothing is noted for each reader while entries go out.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use super::work::AckTo;
use super::{ChatServer, Membership, Seat};
use crate::actors::letters::ConnectionId;
use crate::chat::message::{Accepted, Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::rooms::RoomKey;
use crate::chat::trace::{Asked, Door, SessionName, Wire};
use crate::clock;
use crate::engines::shared::Safety;
use crate::store::record::Lsn;

mod answering;

/// Entries whose origin is remembered, of all rooms together. About 100 bytes each.
const ENTRIES_MAX: usize = 10_000;
/// Ends of memberships that are remembered. About 140 bytes each.
const LEFT_MAX: usize = 10_000;
/// Times that a slow reader was left out that are remembered.
const GAPS_MAX: usize = 1_000;
/// The close code of a reader that was too slow.
const SLOW: u16 = 4202;

/// How an entry was kept when its sender heard so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Memory,
    /// Under this number in the journal.
    Journal(Lsn),
    Shared(Safety),
}

impl Kept {
    /// Of a record; 0 for none.
    pub(super) fn of_record(lsn: Lsn) -> Kept {
        if lsn == 0 { Kept::Memory } else { Kept::Journal(lsn) }
    }

    fn word(self) -> Option<&'static str> {
        match self {
            Kept::Memory => None,
            Kept::Journal(_) => Some("journal"),
            // With a copy on a replica where there is one; that is the room's setting, and may be none.
            Kept::Shared(Safety::Sequenced | Safety::Replicated) => Some("redis"),
            Kept::Shared(Safety::Archived) => Some("archive"),
        }
    }
}

/// Where an entry came from.
struct Remembered {
    room: RoomName,
    offset: Offset,
    ts: u64,
    door: Door,
    session: Option<ConnectionId>,
    kept: Kept,
    /// When it was kept; 0 while that is not known.
    stored: u64,
}

/// Somebody who was in a room.
struct Left {
    room: RoomName,
    connection: ConnectionId,
    user: UserName,
    wire: Wire,
    since: Offset,
    ack: Offset,
    /// The newest offset of the room when he left.
    top: Offset,
    ts: u64,
    code: Option<u16>,
    why: Cow<'static, str>,
}

/// What a slow reader was left out of.
struct Gap {
    room: RoomName,
    connection: ConnectionId,
    missed: (Offset, Offset),
}

/// What is remembered for those who ask.
pub(super) struct Traces {
    /// Names this process in the names of its sessions.
    run: String,
    entries: VecDeque<Remembered>,
    left: VecDeque<Left>,
    gaps: VecDeque<Gap>,
    kept_last: u64,
}

impl Default for Traces {
    fn default() -> Traces {
        Traces {
            run: Epoch(rand::random()).to_text(),
            entries: VecDeque::new(),
            left: VecDeque::new(),
            gaps: VecDeque::new(),
            kept_last: 0,
        }
    }
}

impl Traces {
    /// Sessions are named as backends hear of them.
    pub(super) fn name_by(&mut self, run: u64) {
        self.run = Epoch(run).to_text();
    }

    /// The journal has told now what it has kept.
    pub(super) fn kept_at(&mut self, now: u64) {
        self.kept_last = now;
    }

    /// When it last did, Unix milliseconds.
    pub(super) fn kept_last(&self) -> u64 {
        self.kept_last
    }

    fn name(&self, connection: ConnectionId) -> SessionName<'_> {
        name_in(&self.run, connection)
    }

    /// The newest entry that is remembered at a place; of several lives of a log the one with this time.
    fn entry(&self, asked: &Asked) -> Option<&Remembered> {
        self.entries.iter().rev().find(|entry| {
            entry.offset == asked.offset
                && entry.room.as_str() == asked.room
                && asked.ts.is_none_or(|ts| ts == entry.ts)
        })
    }

    /// Who was left out of an entry, and of what with it.
    fn gaps_of(&self, asked: &Asked) -> Gaps {
        let is_of = |gap: &&Gap| {
            gap.room.as_str() == asked.room && (gap.missed.0..=gap.missed.1).contains(&asked.offset)
        };
        self.gaps.iter().filter(is_of).map(|gap| (gap.connection, gap.missed)).collect()
    }
}

fn name_in(run: &str, ConnectionId { worker, slot, generation }: ConnectionId) -> SessionName<'_> {
    SessionName { run: run.into(), place: (worker.into(), slot.into(), generation.into()) }
}

/// What sessions were left out of.
type Gaps = HashMap<ConnectionId, (Offset, Offset), RandomState>;

/// Adds to a ring, which forgets its oldest.
fn push<T>(ring: &mut VecDeque<T>, item: T, max: usize) {
    if ring.capacity() == 0 {
        ring.reserve_exact(max);
    }
    if ring.len() >= max {
        ring.pop_front();
    }
    ring.push_back(item);
}

/// Why a session ended whose connection was closed with this code, in a word.
pub(super) fn why_of(code: u16) -> Cow<'static, str> {
    match code {
        1000 | 1001 | 1005 => "client",
        1006 => "cut",
        1002..=1010 => "broken",
        1011 => "internal",
        4201 => "no-pong",
        SLOW => "slow",
        4200 => "restart",
        _ => "closed",
    }
    .into()
}

impl ChatServer {
    /// Remembers where an entry came from. `at`: when it was kept, Unix milliseconds.
    pub(super) fn remember_origin(
        &mut self,
        room: RoomName,
        place: &Accepted,
        to: &AckTo,
        kept: Kept,
        at: u64,
    ) {
        let (door, session) = self.door_of(to);
        let is_kept = match kept {
            Kept::Memory => false,
            Kept::Journal(lsn) => lsn <= self.keeping.kept(),
            Kept::Shared(_) => true,
        };
        let stored = if is_kept { at } else { 0 };
        let Accepted { offset, ts, .. } = *place;
        let entry = Remembered { room, offset, ts, door, session, kept, stored };
        push(&mut self.traces.entries, entry, ENTRIES_MAX);
    }

    /// Through which door somebody speaks who is told what becomes of it.
    fn door_of(&self, to: &AckTo) -> (Door, Option<ConnectionId>) {
        match to {
            AckTo::Session(connection, ..) => {
                let door = match self.seat(*connection) {
                    Some(Seat::Session { wire, .. }) => Door::from(*wire),
                    _ => Door::SESSION,
                };
                (door, Some(*connection))
            }
            AckTo::Batch(at, _) => {
                (self.work.batches.get(*at).map_or(Door::SERVER, |batch| batch.door.clone()), None)
            }
            AckTo::Alone(_) => (Door::API, None),
            AckTo::Nobody => (Door::SERVER, None),
        }
    }

    /// Remembers that somebody has left a room.
    pub(super) fn note_left(
        &mut self,
        connection: ConnectionId,
        user: &UserName,
        wire: Wire,
        membership: Membership,
        (code, why): (Option<u16>, Cow<'static, str>),
    ) {
        if wire == Wire::Send {
            return;
        }
        let room = self.rooms.get(membership.room);
        let left = Left {
            room: room.name.clone(),
            connection,
            user: user.clone(),
            wire,
            since: membership.since,
            ack: membership.ack,
            top: room.history.top(),
            ts: clock::wall_ms(),
            code,
            why,
        };
        push(&mut self.traces.left, left, LEFT_MAX);
    }

    /// Remembers what a slow reader was left out of.
    pub(super) fn note_gap(&mut self, connection: ConnectionId, key: RoomKey, missed: (Offset, Offset)) {
        let room = self.rooms.get(key).name.clone();
        push(&mut self.traces.gaps, Gap { room, connection, missed }, GAPS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_forgets_its_oldest_and_stays_as_large_as_it_is() {
        let mut ring = VecDeque::new();
        for n in 0..10 {
            push(&mut ring, n, 4);
        }
        assert_eq!(ring, [6, 7, 8, 9]);
        assert_eq!(ring.capacity(), 4);
        assert!(
            size_of::<Remembered>() <= 104 && size_of::<Left>() <= 144,
            "the memory that docs/api.md tells"
        );
    }

    #[test]
    fn of_two_entries_that_stood_at_a_place_the_one_with_the_time_is_meant() {
        let mut traces = Traces::default();
        let room = RoomName::new("lobby").unwrap();
        for (offset, ts) in [(1, 5), (2, 6), (2, 9)] {
            let entry = Remembered {
                room: room.clone(),
                offset,
                ts,
                door: Door::API,
                session: None,
                kept: Kept::Memory,
                stored: 0,
            };
            push(&mut traces.entries, entry, ENTRIES_MAX);
        }
        let asked = |room: &str, offset, ts| Asked {
            room: room.into(),
            offset,
            ts,
            user: None,
            session: None,
            after: None,
            n: 1,
        };
        let found = |asked: Asked| traces.entry(&asked).map(|entry| entry.ts);
        assert_eq!(found(asked("lobby", 2, Some(6))), Some(6));
        assert_eq!(found(asked("lobby", 2, None)), Some(9), "the newest");
        assert_eq!(found(asked("lobby", 2, Some(7))), None);
        assert_eq!(found(asked("ops", 2, None)), None);
    }
}
