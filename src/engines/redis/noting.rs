//! What waits to be kept beside the logs: read marks, sessions, rooms that users own. The newest of each counts, so
//! only that one waits. One per partition; knows no connection.

use ahash::AHashMap;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use crate::chat::names::{RoomName, UserName};
use crate::engines::redis::life::keys::Keys;
use crate::engines::redis::life::notes;
use crate::store::record::{ReadMark, SessionNote};

/// Most notes of one kind in a call.
const CALL_MAX: usize = 200;
/// Most notes that wait. What comes above that is not kept; it happens only while Redis is away for long.
const WAITING_MAX: usize = 200_000;

/// Something to keep.
#[derive(Debug, Clone)]
pub enum Note {
    /// How far a user has read, for the room.
    Read(ReadMark),
    /// The same, for the user.
    ReadBy(ReadMark),
    /// Where a session stands.
    Session(SessionNote),
    /// A user's room was written to, at a time in Unix milliseconds.
    Used(UserName, RoomName, u64),
}

/// See above.
#[derive(Debug, Default)]
pub struct Noting {
    reads: AHashMap<(RoomName, UserName), ReadMark>,
    reads_by: AHashMap<(RoomName, UserName), ReadMark>,
    sessions: AHashMap<Box<str>, SessionNote>,
    uses: AHashMap<(UserName, RoomName), u64>,
    full: bool,
}

impl Noting {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.reads.len() + self.reads_by.len() + self.sessions.len() + self.uses.len()
    }

    /// One more waits.
    pub fn push(&mut self, note: Note) {
        if self.len() >= WAITING_MAX {
            if !std::mem::replace(&mut self.full, true) {
                log::warn!("redis: too many read marks and sessions wait; new ones are not kept");
            }
            return;
        }
        self.full = false;
        match note {
            Note::Read(mark) => newer(&mut self.reads, mark),
            Note::ReadBy(mark) => newer(&mut self.reads_by, mark),
            Note::Session(note) => {
                self.sessions.insert(note.session.clone(), note);
            }
            Note::Used(user, room, ts) => {
                self.uses.insert((user, room), ts);
            }
        }
    }

    /// Some that are to be written now.
    pub fn take(&mut self) -> Call {
        Call {
            reads: some(&mut self.reads),
            reads_by: some(&mut self.reads_by),
            sessions: some(&mut self.sessions),
            uses: some(&mut self.uses).into_iter().map(|((user, room), ts)| (user, room, ts)).collect(),
        }
    }

    /// A call was not carried out: its notes wait again, where no newer ones do.
    pub fn failed(&mut self, call: Call) {
        for (at, mark) in call.reads {
            self.reads.entry(at).or_insert(mark);
        }
        for (at, mark) in call.reads_by {
            self.reads_by.entry(at).or_insert(mark);
        }
        for (at, note) in call.sessions {
            self.sessions.entry(at).or_insert(note);
        }
        for (user, room, ts) in call.uses {
            self.uses.entry((user, room)).or_insert(ts);
        }
    }
}

fn newer(marks: &mut AHashMap<(RoomName, UserName), ReadMark>, mark: ReadMark) {
    let at = (mark.room.clone(), mark.user.clone());
    if marks.get(&at).is_none_or(|old| old.offset <= mark.offset) {
        marks.insert(at, mark);
    }
}

fn some<K: Clone + Eq + std::hash::Hash, V>(from: &mut AHashMap<K, V>) -> Vec<(K, V)> {
    let keys: Vec<K> = from.keys().take(CALL_MAX).cloned().collect();
    keys.iter().filter_map(|key| from.remove_entry(key)).collect()
}

/// What is being written.
#[derive(Debug, Clone, Default)]
pub struct Call {
    reads: Vec<((RoomName, UserName), ReadMark)>,
    reads_by: Vec<((RoomName, UserName), ReadMark)>,
    sessions: Vec<(Box<str>, SessionNote)>,
    uses: Vec<(UserName, RoomName, u64)>,
}

impl Call {
    /// Writes it; for `due_max` see [`notes::read`].
    pub async fn write(
        self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        due_max: u64,
    ) -> RedisResult<()> {
        fn values<K, V>(list: Vec<(K, V)>) -> Vec<V> {
            list.into_iter().map(|(_, value)| value).collect()
        }
        if !self.reads.is_empty() {
            notes::read(connection, keys, &values(self.reads), due_max).await?;
        }
        if !self.reads_by.is_empty() {
            notes::read_by(connection, keys, &values(self.reads_by)).await?;
        }
        if !self.sessions.is_empty() {
            notes::note_sessions(connection, keys, &values(self.sessions), due_max).await?;
        }
        if !self.uses.is_empty() {
            notes::used(connection, keys, &self.uses).await?;
        }
        Ok(())
    }
}
