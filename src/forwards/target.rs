//! The contract of a place where entries go. Implemented by each kind of target, called by the forwarder that serves
//! it. A target knows its server and nothing of where entries come from.

use std::fmt;

use bytes::Bytes;

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};

/// An entry on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// In whose log it stands. A target that keeps an order keeps that of each room.
    pub room: RoomName,
    /// The life of the log.
    pub epoch: Epoch,
    /// The place.
    pub offset: Offset,
    /// When it was accepted, Unix milliseconds.
    pub ts_ms: u64,
    /// Who said it; a backend may leave it out.
    pub user: Option<UserName>,
    /// The frame that readers got, with the epoch in `e`: one JSON object in one line.
    pub line: Bytes,
}

impl Outgoing {
    /// An entry with the frame that readers get.
    ///
    /// ```
    /// use roomcast::chat::message::Epoch;
    /// use roomcast::chat::names::RoomName;
    /// use roomcast::forwards::target::Outgoing;
    ///
    /// let room = RoomName::new("lobby").unwrap();
    /// let frame = br#"{"t":"msg","r":"lobby","s":7,"id":"a","ts":1,"d":"hi"}"#;
    /// let entry = Outgoing::new(room, Epoch(36), 7, 1, None, frame);
    /// assert_eq!(&entry.line[..], br#"{"e":"10","t":"msg","r":"lobby","s":7,"id":"a","ts":1,"d":"hi"}"#);
    /// assert_eq!(entry.id(), "lobby@10-7");
    /// ```
    pub fn new(
        room: RoomName,
        epoch: Epoch,
        offset: Offset,
        ts_ms: u64,
        user: Option<UserName>,
        frame: &[u8],
    ) -> Outgoing {
        let line = match frame.strip_prefix(b"{") {
            Some(rest) => [format!("{{\"e\":\"{}\",", epoch.to_text()).as_bytes(), rest].concat().into(),
            // Not written by a room. It goes out as it is rather than not at all.
            None => Bytes::copy_from_slice(frame),
        };
        Outgoing { room, epoch, offset, ts_ms, user, line }
    }

    /// What a target knows it by when it comes again: `room@epoch-offset`. At most 163 bytes.
    pub fn id(&self) -> String {
        format!("{}@{}-{}", self.room.as_str(), self.epoch.to_text(), self.offset)
    }
}

/// Why a target has not taken an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// It takes nothing now, and why. The entry is offered again, with growing waits, for ever.
    Away(String),
    /// It can never take this one. That becomes a dead letter, and the next one follows.
    Refused {
        /// Which of those that were sent.
        index: usize,
        /// Why, for people.
        why: String,
    },
}

impl TargetError {
    /// It takes nothing now: lower case, no full stop.
    pub fn away(why: impl fmt::Display) -> TargetError {
        TargetError::Away(why.to_string())
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Away(why) | TargetError::Refused { why, .. } => f.write_str(why),
        }
    }
}

impl std::error::Error for TargetError {}

impl From<redis::RedisError> for TargetError {
    fn from(error: redis::RedisError) -> TargetError {
        TargetError::away(error)
    }
}

/// Where entries go. After [`TargetError::Away`] everything that it has not told to have is as if it had not been
/// sent, and [`Target::open`] comes next.
pub trait Target: Unpin + 'static {
    /// Where it is, for logs: no password.
    fn address(&self) -> String;

    /// Connects, from scratch.
    fn open(&mut self) -> impl Future<Output = Result<(), TargetError>>;

    /// Takes entries in order, oldest first, at most [`Target::batch`]. Returns how many from the front it has for
    /// sure: all of them, or fewer with an error. Those behind may be there too, and come again with the same
    /// [`Outgoing::id`]. The index of [`TargetError::Refused`] is that number: all before it are there.
    ///
    /// Returns in the end, whatever the server does. May be dropped in the middle; then nothing is known.
    fn send(&mut self, entries: &[Outgoing]) -> impl Future<Output = (usize, Option<TargetError>)>;

    /// Most entries in one call; at least 1.
    fn batch(&self) -> usize;
}
