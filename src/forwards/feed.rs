//! The contract of what leads to targets: entries of rooms in their order, and how far one target is with them.
//! Implemented over the archive of one node, over Redis, and over memory; called by forwarders and by whoever else
//! brings entries on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chat::names::RoomName;
use crate::forwards::target::Outgoing;

/// Which rooms' entries somebody wants.
pub type Wanted = Arc<dyn Fn(&RoomName) -> bool + Send + Sync>;

/// Where a target begins that was never there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Behind what is there already.
    #[default]
    New,
    /// At the first entry that is still kept.
    First,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<M> {
    /// Entries in their order, each with the mark that says that all up to it are done.
    Entries {
        /// The entries; none when all that came are of rooms that nobody wants.
        list: Vec<(M, Outgoing)>,
        /// The mark behind all of them.
        upto: M,
    },
    /// Entries that were forgotten before they were read.
    Lost {
        /// How many; where that is not known for sure, how many at most.
        entries: u64,
        /// The mark behind them.
        upto: M,
    },
    /// Nothing came for a while.
    Nothing,
    /// Another node serves this target now.
    StandBy,
}

/// Why a feed cannot go on; it is opened anew after a while. For people: lower case, no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedError(pub String);

impl FeedError {
    /// With these words.
    pub fn new(text: impl fmt::Display) -> FeedError {
        FeedError(text.to_string())
    }
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FeedError {}

impl From<redis::RedisError> for FeedError {
    fn from(error: redis::RedisError) -> FeedError {
        FeedError::new(error)
    }
}

/// What leads to one target. After any error [`Feed::open`] comes next, and it goes on behind what was noted.
pub trait Feed: Unpin + 'static {
    /// A place in it.
    type Mark: Clone + 'static;

    /// What it is, for logs.
    fn address(&self) -> String;

    /// Makes ready, from scratch.
    fn open(&mut self) -> impl Future<Output = Result<(), FeedError>>;

    /// What comes next behind the newest note, at most `n` entries. Waits about a second for something to come. The
    /// same call again gives the same entries; from a store as they are then, without words that were taken back.
    fn next(&mut self, n: usize) -> impl Future<Output = Result<Next<Self::Mark>, FeedError>>;

    /// Everything up to here is done and never comes again, except after a crash.
    fn note(&mut self, upto: Self::Mark) -> impl Future<Output = Result<(), FeedError>>;

    /// Somebody still works on what came last. Called every [`Feed::patience`] as long as that is so. An error: it is
    /// another node's now, and nothing more may be sent.
    fn stay(&mut self) -> impl Future<Output = Result<(), FeedError>>;

    /// How often [`Feed::stay`] has to be called.
    fn patience(&self) -> Duration;

    /// How many entries wait behind the newest note, about.
    fn waiting(&mut self) -> impl Future<Output = Result<u64, FeedError>>;

    /// Goes, when what was noted is kept; another node may take over at once.
    fn close(&mut self) -> impl Future<Output = Result<(), FeedError>>;
}
