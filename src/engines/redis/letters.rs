//! What a partition is told, and what comes back to it from what it has started. Knows nothing of how either is
//! done.

use redis::{RedisResult, Value};
use tokio::sync::oneshot;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::chat::overview::{Look, View};
use crate::engines::redis::life::rules;
use crate::engines::redis::living::Lived;
use crate::engines::redis::noting::Note;
use crate::engines::redis::outbox::Queued;
use crate::engines::redis::rejoining::Filling;
use crate::engines::redis::ruling::{Looked, Ruling};
use crate::engines::redis::tracing::Post;
use crate::engines::shared::{Command, News, RuleRefused};
use crate::store::archive::{Answer, Question, StoredRoom};

/// What a partition is told.
pub enum Letter {
    /// Proposals; their weight is counted already.
    Propose(Vec<Queued>),
    /// A room is to be joined.
    Join {
        /// Which.
        room: RoomName,
        /// Most entries of its tail.
        tail: usize,
        /// Most bytes of them.
        tail_bytes: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<StoredRoom, String>>,
    },
    /// The answers about these rooms have been told.
    Told(Vec<RoomName>),
    /// There are no answers about these rooms; who was told of them before goes on.
    Untold(Vec<RoomName>),
    /// Rooms are not wanted any more.
    Leave(Vec<RoomName>),
    /// A question.
    Read(Asked),
    /// News of this node for others.
    Tell(Vec<(RoomName, News)>),
    /// So many sessions are in rooms on this node.
    Count(Vec<(RoomName, u32)>),
    /// Something to keep beside the logs.
    Note(Vec<Note>),
    /// A command for all nodes.
    Command(Command),
    /// Something for some other nodes; to partition 0.
    Post(Post),
    /// A rule of a room is to be changed.
    Rule(Ruling),
    /// This node's number is given back.
    GiveBack(oneshot::Sender<()>),
    /// The node ends.
    Close(oneshot::Sender<()>),
}

/// A question and where the answer goes.
pub enum Asked {
    /// What an archive is asked.
    Question(Question, oneshot::Sender<Result<Answer, String>>),
    /// The newest places of rooms.
    Tops(Vec<RoomName>, oneshot::Sender<Result<Vec<Offset>, String>>),
    /// What this partition knows of what an operator asks.
    Look(Look, oneshot::Sender<Result<View, String>>),
}

/// What has come back.
pub enum Called {
    /// The answers to a batch and to the wait for replicas.
    Published {
        /// Of the script and of the wait; one of them may be missing.
        answers: RedisResult<Vec<Value>>,
        /// Whether there was a batch.
        batch: bool,
        /// Whether a replica was waited for.
        waited: bool,
    },
    /// The answer to a joining script.
    Joined(RedisResult<Value>),
    /// Redis knows what the archive knows of a room.
    Seeded(RoomName, Result<(), String>),
    /// A hole that the archive may have filled.
    Filled(RoomName, Filling),
    /// The answer to a sign of life, and replicas that are connected.
    Ticked(RedisResult<(Value, usize)>),
    /// How far the archive is.
    Position(RedisResult<Option<String>>),
    /// Something beside the logs.
    Lived(Lived),
    /// What became of an order about a room.
    Ruled(RedisResult<Result<Option<rules::Told>, RuleRefused>>),
    /// All rules, as far as this node does not know them.
    Rules(RedisResult<Looked>),
    /// Something without an answer that matters.
    Done(RedisResult<()>),
}

/// Why a stay has ended.
pub enum Ended {
    /// The node ends.
    Closed,
    /// Something is wrong.
    Trouble(String),
}
