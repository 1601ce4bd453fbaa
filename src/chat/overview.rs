//! Rooms as an operator sees them, over all nodes: which are in use, how one stands, who is there. Asked by the
//! server API, answered by the chat server, for shared rooms with what the engine knows. Only the questions and
//! answers: knows no store and no node.

use std::sync::Arc;

use bytes::Bytes;

use crate::chat::data::Data;
use crate::chat::history::PageFrom;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{Pattern, RoomName, UserName};

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The rooms that somebody is in, in order of their names.
    Rooms {
        /// Only names that start with this; empty for all.
        prefix: String,
        /// Only names that one of these covers; none for all.
        only: Option<Vec<Pattern>>,
        /// Only names that come after this one.
        after: Option<String>,
        /// At most so many.
        n: usize,
    },
    /// One room.
    Room(RoomName),
    /// A page of a room's log.
    Log {
        /// Whose.
        room: RoomName,
        /// From which place, in which direction.
        from: PageFrom,
        /// At most so many entries.
        n: usize,
        /// And about so many bytes of them; one entry at the least.
        bytes: usize,
    },
    /// The users who are shown in a room, each once, in order of their names.
    Who {
        /// Which room.
        room: RoomName,
        /// Only names that come after this one.
        after: Option<String>,
        /// At most so many.
        n: usize,
    },
}

/// The answer to the [`Look`] of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum View {
    /// Some rooms, and whether there are more.
    Rooms(Vec<RoomCount>, bool),
    /// A room; none if nobody is in it and nothing was ever said there.
    Room(Option<RoomState>),
    /// Some entries; none if nothing was ever said there.
    Log(Option<LogPage>),
    /// Some users, and whether there are more.
    Who(Vec<Shown>, bool),
}

/// Which names are meant by [`Look::Rooms`].
pub fn is_meant(name: &str, prefix: &str, only: Option<&[Pattern]>, after: Option<&str>) -> bool {
    name.starts_with(prefix)
        && after.is_none_or(|after| name > after)
        && only.is_none_or(|only| only.iter().any(|pattern| pattern.matches(name)))
}

/// Some entries of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The present life of the log.
    pub epoch: Epoch,
    /// Offsets and lines, oldest first; a place that is not shown any more has no line.
    pub list: Vec<(Offset, Option<Bytes>)>,
    /// Whether there are more in the direction that was asked for.
    pub more: bool,
}

/// A room that somebody is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomCount {
    /// Which.
    pub room: RoomName,
    /// Sessions on all nodes, quiet ones included.
    pub sessions: u64,
}

/// How a room stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomState {
    /// The life of its log.
    pub epoch: Epoch,
    /// Offset of its newest entry; 0 if nothing was ever said.
    pub top: Offset,
    /// Offset of the oldest entry that can be read; `top + 1` for none.
    pub first: Offset,
    /// Sessions on all nodes, quiet ones included.
    pub sessions: u64,
    /// Users who are shown, each once; in a room that is too large for names once for each node.
    pub users: u64,
}

/// A user who is shown in a room.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Who.
    pub user: UserName,
    /// What her token says about her.
    pub info: Option<Arc<Data>>,
}
