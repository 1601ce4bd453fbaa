//! What is kept, in the order in which it happened. One record is what the journal writes and the archive
//! applies; both see the same records with the same numbers.

use bytes::Bytes;

use crate::chat::entry::Entry;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};

/// Number of a record: 1, 2, 3 … over the whole life of a store, in the order of acceptance. 0 is before the
/// first.
pub type Lsn = u64;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A room has given out a place.
    Entry(Entry),
    /// A message that is not kept was said under an id; a repeat must be known.
    Seen(Seen),
    /// Somebody has read a room up to a place. The newest counts.
    Read(ReadMark),
    /// Where a session stands in its rooms. The newest counts.
    Session(SessionNote),
    /// An item of a queue that can never be said.
    Dead(Letter),
    /// A dead letter was requeued or dropped.
    DeadGone(Box<str>),
    /// Something about a session that an application's backend is told.
    Event(SessionEvent),
    /// A room has other rules for its users. The newest count.
    Rules(RoomRules),
}

/// What happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvent {
    /// Tells it from all other sessions, of other processes too. Not the name that its client may go on with.
    pub session: Box<str>,
    /// Whose it is.
    pub user: UserName,
    /// When, Unix milliseconds.
    pub ts: u64,
    /// What.
    pub what: Happened,
}

impl SessionEvent {
    /// Bytes of those parts that can be large.
    pub fn bytes(&self) -> usize {
        match &self.what {
            Happened::Opened(info) => info.as_ref().map_or(0, Bytes::len),
            Happened::Closed(_) => 0,
            Happened::Failed(why) => why.len(),
        }
    }
}

/// What can happen to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// It has begun; with what its token shows of the user, as JSON.
    Opened(Option<Bytes>),
    /// It has ended, with this close code.
    Closed(u16),
    /// Its connection broke a rule or failed; why, for people.
    Failed(Box<str>),
}

/// The rules of a room, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRules {
    /// Which room.
    pub room: RoomName,
    /// As JSON; empty: it has none (any more).
    pub text: Box<str>,
    /// Which change made them so, where several programs write: of two the greater one counts. 0 where one writes;
    /// then the later one counts, and no journal keeps it.
    pub version: u64,
}

/// The id of a message that took no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it was said.
    pub room: RoomName,
    /// Who said it.
    pub user: Option<UserName>,
    /// Its id.
    pub id: MessageId,
    /// When, Unix milliseconds.
    pub ts: u64,
}

/// How far a user has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// Where.
    pub room: RoomName,
    /// Who.
    pub user: UserName,
    /// All up to this place.
    pub offset: Offset,
    /// When, Unix milliseconds.
    pub ts: u64,
}

/// Where a session stands: what a client without any state of its own goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionNote {
    /// The session's name, as `welcome` told it.
    pub session: Box<str>,
    /// Whose it is.
    pub user: UserName,
    /// When it was last heard of, Unix milliseconds.
    pub ts: u64,
    /// The rooms that it is in.
    pub rooms: Vec<Cursor>,
}

/// A session's place in one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which room.
    pub room: RoomName,
    /// The life of the log that `offset` belongs to.
    pub epoch: Epoch,
    /// All up to here has reached the application.
    pub offset: Offset,
    /// Read without being shown to the others.
    pub quiet: bool,
}

/// A dead letter as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its own id.
    pub id: Box<str>,
    /// When it came, Unix milliseconds.
    pub ts: u64,
    /// The queue it came through.
    pub source: Box<str>,
    /// Why it can never be said.
    pub reason: Box<str>,
    /// The item, byte for byte.
    pub item: Bytes,
}

/// A record on its way to the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub lsn: Lsn,
    /// What happened.
    pub record: Record,
    /// Kept together with the next one or not at all.
    pub with_next: bool,
}
