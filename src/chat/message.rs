//! What people read: a message before and after a room has given it its place.
//! Made by protocols and sources, taken by rooms.

use crate::chat::data::Data;
use crate::chat::names::{Mark, MessageId, RoomName, UserName};
use crate::traces::Span;

/// Place in a room's log: 1, 2, 3 … with no holes. 0 is the place before the first message.
pub type Offset = u64;

/// Which life of a room's log an offset belongs to. On the wire in base 36.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The form on the wire, for example `k3f9`.
    ///
    /// ```
    /// use roomcast::chat::message::Epoch;
    /// assert_eq!(Epoch(36 * 36 + 10).to_text(), "10a");
    /// ```
    pub fn to_text(self) -> String {
        let (mut rest, mut digits) = (self.0, Vec::with_capacity(13));
        loop {
            digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize]);
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        digits.iter().rev().map(|digit| *digit as char).collect()
    }
}

/// The door that a message came through. Told to readers for pushes, so that a page can show them
/// differently from people's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Said by a session.
    Session,
    /// Pushed through a queue: a Redis list or the RESP door.
    Queue,
    /// Pushed through the server API.
    Api,
}

/// A message as its sender asks for it, before the room has given it a place.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it is to be said.
    pub room: RoomName,
    /// Who says it; a backend may leave it out.
    pub user: Option<UserName>,
    /// The sender's own id: a repeat within the dedup window takes no new place.
    pub id: Option<MessageId>,
    /// What is said.
    pub data: Data,
    /// A backend's own word for the kind of message; plain messages have none.
    pub kind: Option<Box<str>>,
    /// The entry that this one replies to.
    pub reply_to: Option<Offset>,
    /// `false`: heard by who is there now, not logged, takes no offset.
    pub keep: bool,
    /// Through which door it came.
    pub via: Via,
    /// Its way through the server, if that is noted. A program of its own writes `Span::default()`.
    pub span: Span,
}

/// A change to an entry as its sender asks for it. It becomes an entry of its own.
#[derive(Debug, Clone)]
pub struct Alteration {
    /// In whose log.
    pub room: RoomName,
    /// Who asks; none: an operator.
    pub user: Option<UserName>,
    /// The sender's own id.
    pub id: Option<MessageId>,
    /// The entry that it is about.
    pub of: Offset,
    /// What is to become of it.
    pub what: Altering,
}

/// What is to become of an entry.
#[derive(Debug, Clone)]
pub enum Altering {
    /// It gets new data.
    Edit(Data),
    /// It is taken back.
    Delete,
    /// Somebody reacts to it, or takes that back.
    React {
        /// With what.
        mark: Mark,
        /// Whether it is taken back.
        off: bool,
    },
}

/// What became of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its place; 0 for a message that was not to be kept.
    pub offset: Offset,
    /// The life of the log that the place belongs to.
    pub epoch: Epoch,
    /// Server time of the (first) acceptance, Unix milliseconds.
    pub ts: u64,
    /// Whether the id had been accepted before; then nothing was said again.
    pub duplicate: bool,
}

/// Why a draft was not accepted. Nothing was said and nothing is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// More is queued towards the sockets than may be; try again after the wait.
    Busy {
        /// Milliseconds.
        wait_ms: u64,
    },
    /// The server is about to stop; try again elsewhere or later with the same id.
    Draining,
    /// No room can be added, because `limits.rooms` are open.
    TooManyRooms,
    /// What it is about has been deleted meanwhile, on another node.
    NoEntry,
    /// The application's own handler refused it, in its words.
    ByHandler(String),
    /// The store cannot keep it now; try again after the wait with the same id.
    NotStored {
        /// Milliseconds.
        wait_ms: u64,
    },
}

impl Refused {
    /// Whether the same draft may be accepted later.
    pub fn is_for_now(&self) -> bool {
        matches!(self, Refused::Busy { .. } | Refused::Draining | Refused::NotStored { .. })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Busy { wait_ms } => write!(f, "the server is busy, try again in {wait_ms} ms"),
            Refused::Draining => write!(f, "the server is stopping, send it again with the same id"),
            Refused::TooManyRooms => write!(f, "no more rooms can be opened, raise limits.rooms"),
            Refused::NoEntry => write!(f, "the entry is not there any more"),
            Refused::ByHandler(why) => write!(f, "refused by the application: {why}"),
            Refused::NotStored { wait_ms } => {
                write!(f, "the server cannot keep it now, send it again with the same id in {wait_ms} ms")
            }
        }
    }
}
