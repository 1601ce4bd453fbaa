//! The contract between the chat server and rooms that several nodes share. Here a room does not give out its
//! places itself: the chat server proposes, the engine answers with the place, and every node that has joined
//! the room hears of it in the order of the places. No call blocks; all answers come through the [`Sink`],
//! in the order in which they became true.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::chat::data::Data;
use crate::chat::entry::Entry;
use crate::chat::message::{Accepted, Epoch, Offset, Refused};
use crate::chat::moderation::{Change, Full, Rules};
use crate::chat::names::{RoomName, UserName};
use crate::chat::overview::{Look, View};
use crate::chat::trace::{Asked, NodeTrace};
use crate::engines::engine::Ask;
use crate::store::archive::Answer;
use crate::store::record::Record;

/// Another node among those that share rooms: the number of its lease. A number is given out again only after
/// [`Says::NodeGone`].
pub type NodeSlot = u32;

/// Rooms that several nodes share.
pub trait Shared: Send {
    /// Asks for places. [`Says::Settled`] follows for each; in one room in the order of the proposals. While
    /// nothing can be kept they wait, bounded by [`Shared::waiting_bytes`]; what waits too long is refused.
    fn propose(&mut self, proposals: Vec<Proposal>);

    /// Asks; [`Says::Answered`] follows. `Question::Room` is also what makes this node hear of a room: all
    /// entries above the `top` of the answer follow in [`Says::Arrived`], until [`Shared::leave`]. The answer
    /// always knows the room's present epoch, so it is never none; a room that was never written to has top 0.
    /// `Ask::after` does not count here.
    fn ask(&mut self, ask: Ask);

    /// This node does not want to hear of rooms any more.
    fn leave(&mut self, rooms: Vec<RoomName>);

    /// Tells the other nodes that have joined a room. Nothing of it is kept, except who is here.
    fn tell(&mut self, news: Vec<(RoomName, News)>);

    /// Keeps something beside the logs: [`Record::Read`], [`Record::Session`]. The newest of each counts.
    fn note(&mut self, records: Vec<Record>);

    /// So many sessions are in rooms on this node now, for [`Shared::look`] on any node.
    fn count(&mut self, sessions: Vec<(RoomName, u32)>);

    /// Looks at rooms as all nodes together have them; [`Says::Seen`] follows with the ticket, in a few seconds at the
    /// most. No node asks another one, and none has to have joined the room. What other nodes have told in the last
    /// quarter of a second may be missing.
    fn look(&mut self, ticket: u64, look: Look);

    /// Asks the other nodes what became of an entry. Answered in two seconds at the most, with the nodes that have not
    /// answered by then. To each of them comes [`Says::Trace`].
    fn trace(&mut self, asked: Asked, reply: oneshot::Sender<Result<OthersTrace, String>>);

    /// Has all nodes, this one included, carry out a command. [`Says::Command`] comes to each.
    fn command(&mut self, command: Command);

    /// Changes a rule of a room, for all nodes; [`Says::Ruled`] follows with the ticket when that is kept or cannot be,
    /// in a few seconds at the most, and [`Says::Rules`] to each node.
    fn rule(&mut self, ticket: u64, room: RoomName, change: Change);

    /// This node is about to end: its people are gone for all others at once, its lease is given back. `done` is
    /// called when that is so, or cannot be.
    fn close(&mut self, done: Box<dyn FnOnce() + Send>);

    /// Bytes of proposals that have no answer yet. The caller makes senders wait above a limit.
    fn waiting_bytes(&self) -> u64;
}

/// Where an engine tells what has happened; called from its thread.
pub type Sink = Arc<dyn Fn(Says) + Send + Sync>;

/// Starts an engine that tells what happens to a sink.
pub type Start = Box<dyn FnOnce(Sink) -> Result<Box<dyn Shared>, String> + Send>;

/// What is to get a place in a room.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Comes back with the outcome. Grows from one proposal to the next.
    pub ticket: u64,
    /// What every node gets. `epoch` and `offset` are 0 and its `line` has the offset 0; see
    /// [`line::placed`](crate::chat::line::placed).
    pub entry: Entry,
    /// By what a repeat is known in this room; of the sender's own id where there is one, else made by the node.
    pub key: Box<[u8]>,
    /// Whether it takes a place. If not, it comes to the nodes as [`Says::Passed`], and its key is remembered all
    /// the same.
    pub logged: bool,
    /// What its outcome promises.
    pub safety: Safety,
}

/// How safe an entry is when its outcome is told. Each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// It has its place, and the node that proposed it holds a copy.
    Sequenced,
    /// A replica has it too, where there is one.
    Replicated,
    /// The archive has it.
    Archived,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has a place (0 if it was not logged); or had one already, if `duplicate`.
    Placed(Accepted),
    /// The entry that it was about is deleted.
    Gone,
    /// It has none, and nobody has seen it.
    Refused(Refused),
}

/// What a node tells the others that have joined a room.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A user has come in on this node, with what her token says about her.
    Came(UserName, Option<Arc<Data>>),
    /// A user is not in the room on this node any more.
    Went(UserName),
    /// A user has begun or ended to type.
    Typing(UserName, bool),
    /// A user has read everything up to a place.
    Read(UserName, Offset),
    /// How far the sessions of this node have got: everything up to a place, so many of so many.
    Got(Offset, u32, u32),
}

/// A user who is in a room on another node.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// On which.
    pub node: NodeSlot,
    /// Who.
    pub user: UserName,
    /// What her token says about her.
    pub info: Option<Arc<Data>>,
}

/// What operators have all nodes do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// All sessions of a user are closed.
    Disconnect {
        /// Whose.
        user: UserName,
        /// Close code.
        code: u16,
        /// Why, for the client.
        why: Box<str>,
    },
    /// All sessions of a user enter a room, from now on.
    Join {
        /// Who.
        user: UserName,
        /// Which room.
        room: RoomName,
    },
    /// All sessions of a user leave a room.
    Kick {
        /// Who.
        user: UserName,
        /// Which room.
        room: RoomName,
    },
}

/// What other nodes know of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OthersTrace {
    /// Their answers.
    pub parts: Vec<NodeTrace>,
    /// The names of those that have not answered.
    pub silent: Vec<String>,
}

/// Why a rule is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleRefused {
    /// There is no place for it.
    Full(Full),
    /// The service cannot be reached, or does not keep it; why, for people.
    Away(String),
}

/// What an engine tells.
#[derive(Debug)]
pub enum Says {
    /// What became of proposals, by their tickets.
    Settled(Vec<(u64, Outcome)>),
    /// Entries of a joined room: the next ones, without a hole. A new epoch among them begins a new life of the
    /// log in which nothing was taken back.
    Arrived(RoomName, Vec<Entry>),
    /// What this node has shown above `to` was taken back, and may come again at other places. The log goes on
    /// under this epoch.
    Rewound {
        /// Whose log.
        room: RoomName,
        /// The newest place that stands.
        to: Offset,
        /// The life that begins after it.
        epoch: Epoch,
    },
    /// The places up to `to` have passed while this node did not hear of them, and cannot be had any more.
    Skipped {
        /// Whose log.
        room: RoomName,
        /// The last of them.
        to: Offset,
        /// The life that goes on after it.
        epoch: Epoch,
    },
    /// A message that takes no place: its line.
    Passed(RoomName, Bytes),
    /// Another node tells.
    News(RoomName, NodeSlot, News),
    /// Everybody who is in a joined room on other nodes; comes after the room was joined, and again whenever this
    /// node may have missed something.
    Roster(RoomName, Vec<Elsewhere>),
    /// A joined room is too large for names: so many users are in it on these nodes, and those who were named there
    /// before are not named any more. `all`: on all other nodes there is nobody.
    Crowd {
        /// Which room.
        room: RoomName,
        /// How many are where.
        nodes: Vec<(NodeSlot, u32)>,
        /// Whether these are all nodes with somebody.
        all: bool,
    },
    /// Another node is gone, and with it everybody who was there. Said when there was time for them to come back
    /// elsewhere.
    NodeGone(NodeSlot),
    /// The answers to an [`Ask`], one for each question; or why there are none.
    Answered {
        /// Which.
        ticket: u64,
        /// The answers.
        answers: Result<Vec<Answer>, String>,
    },
    /// The answer to a [`Look`]; or why there is none.
    Seen {
        /// Which.
        ticket: u64,
        /// The answer.
        view: Result<View, String>,
    },
    /// Another node asks what became of an entry; the answer goes back to it.
    Trace(Asked, oneshot::Sender<NodeTrace>),
    /// A command that is to be carried out here.
    Command(Command),
    /// What became of an order about a room.
    Ruled {
        /// Which.
        ticket: u64,
        /// Whether it is kept.
        settled: Result<(), RuleRefused>,
    },
    /// Rooms have these rules now.
    Rules {
        /// Each with all of its rules; empty ones for none.
        list: Vec<(RoomName, Rules)>,
        /// Whether no other room has any.
        all: bool,
    },
    /// Why nothing can be proposed with success now, for the readiness page; none: all is well.
    Health(Option<String>),
}
