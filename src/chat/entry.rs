//! One place in a room's log as it is kept: what was said or done there, by whom, and the line that every
//! reader gets. Made by the chat server when a room gives out the place; taken by the store.

use bytes::Bytes;

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};

/// What stands at a place of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something said.
    Message,
    /// New words for an earlier message.
    Edit,
    /// An earlier message is taken back.
    Delete,
    /// A reaction to an earlier message, or its end.
    React,
}

impl Kind {
    /// The type of its frames.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Message => "msg",
            Kind::Edit => "edit",
            Kind::Delete => "del",
            Kind::React => "react",
        }
    }

    /// The kind whose frames have this type.
    pub fn of_word(word: &str) -> Option<Kind> {
        [Kind::Message, Kind::Edit, Kind::Delete, Kind::React].into_iter().find(|kind| kind.word() == word)
    }
}

/// One entry of a room's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose log.
    pub room: RoomName,
    /// The life of the log.
    pub epoch: Epoch,
    /// The place: 1, 2, 3 …
    pub offset: Offset,
    /// Server time, Unix milliseconds.
    pub ts: u64,
    /// What it is.
    pub kind: Kind,
    /// Who; a backend may leave it out.
    pub user: Option<UserName>,
    /// The sender's own id, by which a repeat is known; none if the sender gave none.
    pub id: Option<MessageId>,
    /// The entry that this one is about: edited, deleted, reacted or replied to. 0 for none.
    pub of: Offset,
    /// What a reaction is made with, for example `+1`.
    pub mark: Option<Box<str>>,
    /// Whether a reaction is taken back.
    pub off: bool,
    /// One line of JSON, the same for every reader, without a line break.
    pub line: Bytes,
}
