//! What a verification found: figures per room, and every fault with its place. Filled by the checks, printed by
//! the command line.

use std::collections::BTreeMap;
use std::fmt;

use crate::chat::message::Offset;

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By the name of the room.
    pub rooms: BTreeMap<String, RoomReport>,
    /// What is wrong, in the order in which it was found.
    pub faults: Vec<Fault>,
    /// What is worth a look and not wrong.
    pub notes: Vec<String>,
    /// Number of the last record in the archive.
    pub applied: u64,
    /// Records in the journal that the archive does not have yet.
    pub tail: u64,
    /// What the clients' logs had.
    pub clients: Clients,
}

/// A room's figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomReport {
    /// Entries in archive and journal.
    pub entries: u64,
    /// Oldest offset that is kept; `top + 1` for none.
    pub first: Offset,
    /// Newest offset.
    pub top: Offset,
    /// Acknowledged or seen, and not there.
    pub lost: u64,
    /// There or seen more than once.
    pub doubled: u64,
    /// Seen after a later one, or before the room was joined.
    pub out_of_order: u64,
    /// Offsets that nobody accounts for.
    pub holes: u64,
}

/// What the clients' logs had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// Files.
    pub files: u64,
    /// Frames in them.
    pub frames: u64,
    /// Acknowledgements with a place.
    pub acks: u64,
    /// Entries seen.
    pub seen: u64,
    /// Entries that came again and were dropped by the client, as it has to.
    pub dropped: u64,
}

/// What kind of wrong; decides which figure of the room counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Acknowledged or seen, and not there.
    Lost,
    /// There or seen more than once.
    Doubled,
    /// Seen after a later one, or before the room was joined.
    OutOfOrder,
    /// An offset that nobody accounts for.
    Hole,
    /// Two things that have to agree do not.
    Mismatch,
    /// Deleted words that are still there, or words that are not found.
    Words,
    /// The file itself.
    File,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which kind.
    pub kind: Kind,
    /// Where and what, for people. Foreign text in it is escaped.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Report {
    /// Notes a fault of the store or a log.
    pub(super) fn fault(&mut self, kind: Kind, text: String) {
        self.faults.push(Fault { kind, text });
    }

    /// Notes a fault of a room, which counts for `count` places of it.
    pub(super) fn fault_in(&mut self, room: &str, kind: Kind, count: u64, what: impl fmt::Display) {
        let figures = self.rooms.entry(room.to_owned()).or_default();
        match kind {
            Kind::Lost => figures.lost += count,
            Kind::Doubled => figures.doubled += count,
            Kind::OutOfOrder => figures.out_of_order += count,
            Kind::Hole => figures.holes += count,
            Kind::Mismatch | Kind::Words | Kind::File => {}
        }
        self.fault(kind, format!("room {}: {what}", room.escape_debug()));
    }
}
