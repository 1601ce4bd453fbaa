//! The contract of an archive: takes records in order behind the journal, and answers questions about what is
//! no longer in memory. [`Archive`] is the one writer; [`ArchiveReader`]s ask at the same time from other
//! threads. Both may block, so no actor calls them.

use std::fmt;

use bytes::Bytes;

use crate::chat::entry::{Entry, Kind};
use crate::chat::history::PageFrom;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::outgoing::OutgoingWriter;
use crate::store::record::{Item, Letter, Lsn, Record, RoomRules, SessionNote};

/// Why an archive could not do something, for people; ends with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveError(pub String);

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ArchiveError {}

/// Why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The service that keeps it is not there; it may be later.
    Away(ArchiveError),
    /// Something else; somebody has to do something.
    Failed(ArchiveError),
}

impl OpenError {
    /// The error of a store whose service is away, or has told why not.
    pub fn of(is_away: bool, error: ArchiveError) -> OpenError {
        if is_away { OpenError::Away(error) } else { OpenError::Failed(error) }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (OpenError::Away(error) | OpenError::Failed(error)) = self;
        error.fmt(f)
    }
}

impl std::error::Error for OpenError {}

impl From<ArchiveError> for OpenError {
    fn from(error: ArchiveError) -> OpenError {
        OpenError::Failed(error)
    }
}

/// The writing side. One per store.
pub trait Archive: OutgoingWriter + Send {
    /// Number of the last record that has been applied; 0 for none.
    fn applied(&self) -> Lsn;

    /// Applies records in one transaction. Those with numbers up to [`Archive::applied`] are known and skipped.
    /// Edits and deletes blank the old words in everything the archive holds.
    fn append(&mut self, items: &[Item]) -> Result<(), ArchiveError>;

    /// Makes what is applied survive a power cut. Returns the number up to which that is true.
    fn checkpoint(&mut self) -> Result<Lsn, ArchiveError>;

    /// Takes one small step of forgetting what is too old or too much. `keep` tells the rules of a room by its
    /// name, `now` is server time in Unix milliseconds. Returns what the rooms lost and whether there is more
    /// to do at once.
    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError>;

    /// A reading side of its own, for another thread.
    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError>;
}

/// A place in the stream of what a partition's rooms accept: it rises, first by `epoch`, then by `n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The life of the stream.
    pub epoch: u64,
    /// The number within it.
    pub n: u64,
}

/// The writing side of an archive that several nodes share. Rooms are divided into partitions; the entries of each
/// come in the order of its stream, from one node at a time. Which node that is they settle among themselves; the
/// archive makes sure that one which has lost its turn without knowing does no harm.
pub trait SharedArchive: Send {
    /// How far each partition is; those that are left out stand at the zero position.
    fn positions(&mut self) -> Result<Vec<(u16, Position)>, ArchiveError>;

    /// Takes the entries of a partition's stream behind `after` up to `upto`, all or none. `false`: the partition
    /// does not stand at `after` any more, because another node has taken over; nothing was written. A repeat of
    /// the call that was taken last is taken as done.
    ///
    /// An entry that is there already (same room, offset and epoch) changes nothing. Where a log goes on under a
    /// newer epoch from an offset that is taken, what older epochs have there and above is replaced; what comes from
    /// an older epoch behind that is left out. Words that an edit or a delete had changed before it was taken back
    /// so stay changed.
    fn append_shared(
        &mut self,
        partition: u16,
        after: Position,
        upto: Position,
        entries: &[Entry],
    ) -> Result<bool, ArchiveError>;

    /// Keeps something beside the logs: all but [`Record::Entry`]. Of two read marks the farther one counts, of two
    /// notes about a session the later one, of two rules of a room the one of the greater version. So records may come
    /// twice and in any order.
    fn note(&mut self, records: &[Record]) -> Result<(), ArchiveError>;

    /// As [`Archive::forget`]. Nodes may call it at the same time; one of them does it.
    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError>;

    /// A reading side of its own, for another thread.
    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError>;
}

/// How much a room keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Oldest age of an entry in milliseconds; `u64::MAX` for ever.
    pub age_ms: u64,
    /// Most bytes of lines; 0 for any.
    pub bytes: u64,
    /// Whether the newest entry stays whatever its age.
    pub pin: bool,
    /// Ids of messages are needed so long, in milliseconds.
    pub ids_ms: u64,
}

/// What one step of [`Archive::forget`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Rooms that lost entries, each with the offset of the first one that is left (`top + 1` for none).
    pub rooms: Vec<(RoomName, Offset)>,
    /// Whether another step would find something at once.
    pub more: bool,
}

/// The reading side.
pub trait ArchiveReader: Send {
    /// Answers one question with the [`Answer`] of the same name.
    fn answer(&mut self, question: &Question) -> Result<Answer, ArchiveError>;
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What is known of a room, with the newest so many of its entries (at most `tail_bytes`, one at the least).
    Room {
        /// Which.
        room: RoomName,
        /// Most entries.
        tail: usize,
        /// Most bytes of lines.
        tail_bytes: usize,
    },
    /// The entries from one offset to another, both included, oldest first; stops after `bytes` of lines (one
    /// entry at the least).
    Range {
        /// Which room.
        room: RoomName,
        /// From here.
        from: Offset,
        /// To here.
        to: Offset,
        /// Most bytes.
        bytes: usize,
    },
    /// A page of the log, oldest first.
    Page {
        /// Which room.
        room: RoomName,
        /// From which place, in which direction.
        from: PageFrom,
        /// Most entries.
        n: usize,
        /// Most bytes of lines; one entry at the least.
        bytes: usize,
    },
    /// The first offset whose entry is not older than a server time. `top + 1` when all are.
    Since {
        /// Which room.
        room: RoomName,
        /// Unix milliseconds.
        ts: u64,
    },
    /// What stands at one place, without its line, and how a user has reacted to it.
    Entry {
        /// Which room.
        room: RoomName,
        /// Which place.
        offset: Offset,
        /// Whose reactions.
        user: Option<UserName>,
    },
    /// The place that an id got.
    Id {
        /// Which room.
        room: RoomName,
        /// Who said it.
        user: Option<UserName>,
        /// The id.
        id: MessageId,
    },
    /// The newest ids of a room, newest first, not older than a server time.
    Ids {
        /// Which room.
        room: RoomName,
        /// Unix milliseconds.
        since: u64,
        /// Most ids.
        n: usize,
    },
    /// Messages with all of these words, the newest so many, oldest of them first.
    Find {
        /// Which room.
        room: RoomName,
        /// What a user typed: words, any characters.
        words: String,
        /// Only those before this offset.
        before: Offset,
        /// Most messages.
        n: usize,
        /// Most bytes of lines; one at the least.
        bytes: usize,
    },
    /// Where a session stood.
    Session(Box<str>),
    /// The rooms of a user: those with a read mark of hers, and those that she owns (`@ann`, `@ann+bob`). Most
    /// recently used first.
    RoomsOf {
        /// Whose.
        user: UserName,
        /// Most rooms.
        n: usize,
    },
    /// The newest read marks in a room.
    ReadMarks {
        /// Which room.
        room: RoomName,
        /// Most marks.
        n: usize,
    },
    /// The read mark of one user in a room.
    ReadMark {
        /// Which room.
        room: RoomName,
        /// Whose.
        user: UserName,
    },
    /// Dead letters, newest first.
    Dead {
        /// Most letters.
        n: usize,
    },
    /// The rules of all rooms that have any. Where several write, rules that have ended lately are told too, empty.
    Rules,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Room`; none for a room that was never written to.
    Room(Option<StoredRoom>),
    /// To `Range`, `Page` and `Find`: entries, oldest first.
    Entries {
        /// The entries.
        list: Vec<StoredEntry>,
        /// Whether there are more in the direction that was asked for.
        more: bool,
    },
    /// To `Since`.
    Offset(Offset),
    /// To `Entry`; none if nothing stands there (any more).
    Entry(Option<StoredState>),
    /// To `Id`.
    Place(Option<StoredPlace>),
    /// To `Ids`, and whether there are older ones within the time.
    Ids(Vec<(Option<UserName>, MessageId, StoredPlace)>, bool),
    /// To `Session`.
    Session(Option<SessionNote>),
    /// To `RoomsOf`.
    RoomsOf(Vec<UserRoom>),
    /// To `ReadMarks`.
    ReadMarks(Vec<(UserName, Offset)>),
    /// To `ReadMark`; 0 for none.
    ReadMark(Offset),
    /// To `Dead`.
    Dead(Vec<Letter>),
    /// To `Rules`.
    Rules(Vec<RoomRules>),
}

/// A room as the archive knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRoom {
    /// The lives of its log, oldest first: each with the first offset that belongs to it. The last one is the
    /// present one.
    pub lineage: Vec<(Epoch, Offset)>,
    /// Offset of the newest entry ever.
    pub top: Offset,
    /// Offset of the oldest entry still kept; `top + 1` for none.
    pub first: Offset,
    /// The newest entries, oldest first.
    pub tail: Vec<StoredEntry>,
}

/// An entry as readers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its place.
    pub offset: Offset,
    /// Server time, Unix milliseconds.
    pub ts: u64,
    /// What it is.
    pub kind: Kind,
    /// Who.
    pub user: Option<UserName>,
    /// What it is about; 0 for nothing.
    pub of: Offset,
    /// Its line as it is now: edited words stand at the message, a deleted message has none. `None` for an edit
    /// that a later one has replaced; readers skip the place.
    pub line: Option<Bytes>,
}

/// What one may do with an entry depends on this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// What it is.
    pub kind: Kind,
    /// Who said it.
    pub user: Option<UserName>,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Offset of the newest edit; 0 for none.
    pub edited: Offset,
    /// The reactions of the user that was asked for: with what, whether on, and the place of the newest change.
    pub reactions: Vec<(Box<str>, bool, Offset)>,
}

/// Where and when an id was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPlace {
    /// The life of the log.
    pub epoch: Epoch,
    /// The offset; 0 for a message that took no place.
    pub offset: Offset,
    /// Unix milliseconds.
    pub ts: u64,
}

/// A room in a user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRoom {
    /// Which room.
    pub room: RoomName,
    /// Offset of its newest entry.
    pub top: Offset,
    /// How far the user has read; 0 for nothing.
    pub read: Offset,
}
