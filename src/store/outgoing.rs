//! The contract of the list of what leaves a store: beside the log stands, for each entry that somebody else is to get,
//! its number and its place. The writing side lists entries in the transaction that keeps them and notes how far each
//! reader of the list is; the reading side looks them up as they are now. What every reader has is taken off the list.
//! An entry that its room has forgotten stays listed, so that a reader who comes late knows that he lacks it.

use std::fmt;

use bytes::Bytes;

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::store::archive::ArchiveError;
use crate::store::record::Lsn;

/// A place in the list: the number of the record; 0 and below for what was there before the list began. It rises.
pub type Number = i64;

/// Before everything that is or will be listed.
pub const BEFORE_ALL: Number = Number::MIN;

/// Which rooms' entries are listed.
pub struct Leaves(Box<dyn Fn(&RoomName) -> bool + Send>);

impl Leaves {
    /// Those of the rooms that this says.
    pub fn new(rooms: impl Fn(&RoomName) -> bool + Send + 'static) -> Leaves {
        Leaves(Box::new(rooms))
    }

    /// Whether a room's entries are listed.
    pub fn lists(&self, room: &RoomName) -> bool {
        (self.0)(room)
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaves")
    }
}

/// Somebody who reads the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// His place is kept under this name.
    pub name: String,
    /// Whether he begins, when he was never there before, at the first entry that is kept; else behind the newest.
    pub from_first: bool,
}

/// What a store is to list, and for whom.
#[derive(Debug)]
pub struct Leaving {
    /// Which rooms' entries.
    pub leaves: Leaves,
    /// All who read it. Others who once did are forgotten.
    pub listeners: Vec<Listener>,
    /// Number of the newest record, in the archive or on its way there.
    pub newest: Lsn,
}

/// The writing side, which an archive has beside its own.
pub trait OutgoingWriter {
    /// From now on entries are listed; without listeners they are not, and the list goes. Returns where each listener stands, in their order. The first start with a
    /// listener from the first entry lists what is there, which takes about a second a million entries.
    fn begin_outgoing(&mut self, leaving: Leaving) -> Result<Vec<Number>, ArchiveError>;

    /// Notes how far listeners are, and takes off the list what all of them have. Who is farther already stays there.
    fn note_outgoing(&mut self, upto: &[(String, Number)]) -> Result<(), ArchiveError>;

    /// A reading side, for another thread.
    fn outgoing(&self) -> Result<Box<dyn OutgoingReader>, ArchiveError>;
}

/// The reading side. May block.
pub trait OutgoingReader: Send {
    /// What is listed behind a place, oldest first: at most `n`, and not much more than so many bytes of lines.
    fn after(&mut self, place: Number, n: usize, bytes: usize) -> Result<Vec<Listed>, ArchiveError>;

    /// How many are listed behind a place.
    fn waiting(&mut self, place: Number) -> Result<u64, ArchiveError>;
}

/// An entry on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its place in the list.
    pub number: Number,
    /// Its room.
    pub room: RoomName,
    /// Its place in the room.
    pub offset: Offset,
    /// What stands there; none when the room has forgotten it.
    pub entry: Option<Standing>,
}

/// What stands at a place of a log now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The life of the log.
    pub epoch: Epoch,
    /// When it was accepted, Unix milliseconds.
    pub ts: u64,
    /// Who said it.
    pub user: Option<UserName>,
    /// Its line as it is now: edited words stand at the message, a deleted message has none. `None` for an edit that
    /// a later change has replaced.
    pub line: Option<Bytes>,
}
