//! The contract between the chat server and whatever keeps its rooms. The chat server gives items out in
//! order and shows nothing before it is told that it is kept; it asks for what is not in memory and gets the
//! answer later. No call blocks: everything that takes time comes back through the [`Sink`].

use std::sync::Arc;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::store::archive::{Answer, Question, StoredRoom};
use crate::store::record::{Item, Lsn, RoomRules};

/// Keeps rooms.
pub trait Engine: Send {
    /// Keeps items. Their numbers follow one another without a hole, over all calls.
    /// [`EngineSays::Kept`] or [`EngineSays::Failed`] follows.
    fn keep(&mut self, items: Vec<Item>);

    /// After a failure and [`EngineSays::Healed`]: what comes now begins with this number.
    fn go_on(&mut self, next: Lsn);

    /// Asks; [`EngineSays::Answered`] follows.
    fn ask(&mut self, ask: Ask);

    /// Bytes that are kept but not in the archive yet. The caller makes senders wait above a limit.
    fn backlog_bytes(&self) -> u64;
}

/// Where an engine tells what has happened; called from its threads.
pub type Sink = Arc<dyn Fn(EngineSays) + Send + Sync>;

/// An engine that knows what it has, and is not started yet.
pub struct Opened {
    /// What happened last, in order: not in the archive yet, so it must be in memory.
    pub replay: Vec<Item>,
    /// What the archive knows of the rooms in it, without entries; none for rooms that it does not know.
    pub rooms: Vec<(RoomName, Option<StoredRoom>)>,
    /// The rules of all rooms that have any, as the archive knows them.
    pub rules: Vec<RoomRules>,
    /// The number of the next item.
    pub next: Lsn,
    /// Starts it.
    pub start: Start,
}

/// Starts an engine that tells what happens to a sink.
pub type Start = Box<dyn FnOnce(Sink) -> Result<Box<dyn Engine>, String> + Send>;

/// Questions that are answered together.
#[derive(Debug)]
pub struct Ask {
    /// Comes back with the answer.
    pub ticket: u64,
    /// The answers must know everything up to here.
    pub after: Lsn,
    /// The questions.
    pub questions: Vec<Question>,
}

/// What an engine tells.
#[derive(Debug)]
pub enum EngineSays {
    /// All items up to this number are kept as safely as the engine can.
    Kept {
        /// The last one.
        upto: Lsn,
    },
    /// Items from this number on are not kept, those that were given out since then included. Nothing more is
    /// taken until [`EngineSays::Healed`].
    Failed {
        /// The first one that is not kept.
        from: Lsn,
        /// Why, for people.
        why: String,
    },
    /// Items can be kept again.
    Healed,
    /// The answers to an [`Ask`], one for each question.
    Answered {
        /// Which.
        ticket: u64,
        /// The answers; or why there are none, for people.
        answers: Result<Vec<Answer>, String>,
    },
    /// All items up to this number can be asked for.
    Archived {
        /// The last one.
        upto: Lsn,
    },
    /// The archive takes nothing more, and why; none: it does again. Items are kept all the same.
    ArchiveFails(Option<String>),
    /// Rooms have forgotten what was too old or too much: each with its oldest offset now.
    Forgotten(Vec<(RoomName, Offset)>),
}
