//! What native clients write: one JSON object per line becomes a request, or a problem that says what
//! to mend. Called by the session. The contract is docs/protocol.md.

use crate::chat::data::Data;
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::{Mark, MessageId, RoomName};
use crate::chat::room::Resume;
use crate::protocols::codes::Problem;

mod line;
#[cfg(test)]
mod tests;

use line::Line;

/// Most entries in one page of the log or of the roster.
pub const PAGE_MAX: usize = 500;
/// Longest text that is searched for, in bytes, without the white space around it.
pub const WORDS_BYTES_MAX: usize = 512;
/// Longest name of a session, in bytes.
pub const SESSION_BYTES_MAX: usize = 64;

/// The request number that an answer echoes.
pub type RequestNumber = Option<u64>;

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// Says who it is, and may come back into rooms.
    Hello {
        /// The token, unless the URL had one.
        token: Option<String>,
        /// The name of a guest.
        user: Option<String>,
        /// The session to go on with: 1-64 digits and small letters, as `welcome` named it.
        session: Option<Box<str>>,
        /// Rooms to enter at once.
        joins: Vec<Join>,
        /// Rooms that cannot be entered as they were asked for, each with what to mend.
        refused: Vec<Problem>,
    },
    /// Enters a room.
    Join(Join),
    /// Goes out of a room.
    Leave {
        /// Which room.
        room: RoomName,
    },
    /// Says something.
    Publish(Publish),
    /// Gives a message new words.
    Edit {
        /// Which room.
        room: RoomName,
        /// Which message.
        of: Offset,
        /// Its new data.
        data: Data,
        /// The sender's id of the edit.
        id: Option<MessageId>,
    },
    /// Takes a message back.
    Delete {
        /// Which room.
        room: RoomName,
        /// Which message.
        of: Offset,
        /// The sender's id of the delete.
        id: Option<MessageId>,
    },
    /// Reacts to an entry, or takes that back.
    React {
        /// Which room.
        room: RoomName,
        /// To which entry.
        of: Offset,
        /// With what.
        mark: Mark,
        /// Whether it is taken back.
        off: bool,
        /// The sender's id of the reaction.
        id: Option<MessageId>,
    },
    /// Has read a room.
    Read {
        /// Which room.
        room: RoomName,
        /// All up to here.
        offset: Offset,
    },
    /// Has handed entries to the application.
    Got {
        /// Which room.
        room: RoomName,
        /// All up to here.
        offset: Offset,
    },
    /// Begins or stops typing.
    Typing {
        /// Which room.
        room: RoomName,
        /// Whether it begins.
        on: bool,
    },
    /// Asks who is here.
    Who {
        /// Which room.
        room: RoomName,
        /// Only users whose names come after this one.
        after: Option<String>,
        /// At most so many.
        n: usize,
    },
    /// Asks for older or newer entries.
    Log {
        /// Which room.
        room: RoomName,
        /// From which place, in which direction.
        from: PageFrom,
        /// At most so many.
        n: usize,
    },
    /// Searches for messages.
    Find {
        /// Which room.
        room: RoomName,
        /// What the user typed, 1-512 bytes without white space around it.
        words: String,
        /// Only messages older than this offset.
        before: Option<Offset>,
        /// At most so many.
        n: usize,
    },
    /// Asks for the user's rooms.
    Rooms,
    /// Shows a new token.
    Auth {
        /// The new token.
        token: String,
    },
    /// Asks for a sign of life.
    Ping,
    /// Goes.
    Bye,
}

/// Entering a room.
#[derive(Debug)]
pub struct Join {
    /// Which room.
    pub room: RoomName,
    /// What the reader has seen already.
    pub resume: Resume,
    /// Reading without being shown to the others.
    pub quiet: bool,
    /// A token that grants this room.
    pub grant: Option<String>,
}

/// Saying something.
#[derive(Debug)]
pub struct Publish {
    /// Which room.
    pub room: RoomName,
    /// The sender's id of the message.
    pub id: Option<MessageId>,
    /// What is said.
    pub data: Data,
    /// The entry it replies to.
    pub reply_to: Option<Offset>,
    /// `false`: for who is here now only.
    pub keep: bool,
}

/// What an answer to a line carries so that the client knows which request it belongs to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The request number.
    pub i: RequestNumber,
    /// The room as the client wrote it, when it was a room's name; a direct room in its one form.
    pub room: Option<RoomName>,
    /// The message id as the client wrote it, when it was an id.
    pub id: Option<MessageId>,
}

/// Reads one line. The reference is filled as far as the line could be read, so that an error can be told
/// apart from others.
pub fn read(line: &str) -> (Reference, Result<Request, Problem>) {
    if !line.starts_with('{') {
        // A list could be read as an object whose keys are left out.
        return (Reference::default(), Err(Problem::bad_json("a line is a JSON object: {\"t\":…}")));
    }
    match serde_json::from_str::<Line>(line) {
        Ok(line) => (line.reference(), line.request()),
        Err(error) => {
            let (reference, problem) = line::look_at_wrong(line, &error);
            (reference, Err(problem))
        }
    }
}
