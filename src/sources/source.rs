//! The contract of a queue that backends push into: items are taken, said in the rooms, and acknowledged when the
//! rooms have kept them. Implemented by each kind of queue, called by the actor that serves them all. A source
//! knows its server and nothing of rooms beyond their names.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::chat::names::RoomName;
use crate::sources::poison::Poison;
use crate::traces::Parent;

/// An item in somebody's hands.
#[derive(Debug)]
pub struct Taken<R> {
    /// The source's own name for it, the same when it comes again; at most 40 bytes. None where there is none:
    /// such an item is as new each time.
    pub id: Option<Box<str>>,
    /// As the backend pushed it.
    pub item: Bytes,
    /// Where it goes if it names no room itself; none: the source's default. Or why it can go nowhere.
    pub room: Result<Option<RoomName>, Poison>,
    /// When it was pushed, Unix milliseconds, where the source tells.
    pub pushed_ms: Option<u64>,
    /// The trace that its sender has begun, where the source hands such things over.
    pub parent: Parent,
    /// What the source needs back to forget it.
    pub receipt: R,
}

/// What came of a wait for items.
#[derive(Debug)]
pub enum Batch<R> {
    /// These, oldest first.
    Items(Vec<Taken<R>>),
    /// Nothing came for a while.
    Nothing,
    /// Another node takes the items now.
    StandBy,
}

/// Why a source cannot go on: it is opened anew after a while.
#[derive(Debug)]
pub struct SourceError(pub String);

impl SourceError {
    /// With these words; lower case, no full stop.
    pub fn new(text: impl fmt::Display) -> SourceError {
        SourceError(text.to_string())
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(any(feature = "sqs", feature = "pubsub"))]
impl From<crate::clouds::error::CloudError> for SourceError {
    fn from(error: crate::clouds::error::CloudError) -> SourceError {
        SourceError::new(error)
    }
}

impl From<redis::RedisError> for SourceError {
    fn from(error: redis::RedisError) -> SourceError {
        SourceError::new(error)
    }
}

/// A queue. After any error everything that was taken and not acknowledged is as if it had not been taken, and
/// [`Source::open`] comes next.
pub trait Source: Unpin + 'static {
    /// What is needed to acknowledge an item.
    type Receipt: 'static;

    /// Where it is, for logs: no password.
    fn address(&self) -> String;

    /// Connects, from scratch.
    fn open(&mut self) -> impl Future<Output = Result<(), SourceError>>;

    /// The next items, oldest first; those that came before and were not acknowledged come again. Waits for about
    /// a second. Not called again before all that it gave is acknowledged or given back.
    fn take(&mut self) -> impl Future<Output = Result<Batch<Self::Receipt>, SourceError>>;

    /// The rooms have kept these, or they are among the dead letters: they never come again.
    fn ack(&mut self, receipts: Vec<Self::Receipt>) -> impl Future<Output = Result<(), SourceError>>;

    /// Nobody works on these any more; they may come again at once.
    fn give_back(&mut self, receipts: Vec<Self::Receipt>) -> impl Future<Output = Result<(), SourceError>>;

    /// These are still being worked on. Called every [`Source::patience`] as long as there are any.
    fn extend(&mut self, receipts: &[&Self::Receipt]) -> impl Future<Output = Result<(), SourceError>>;

    /// How often [`Source::extend`] has to be called.
    fn patience(&self) -> Duration;

    /// How many items wait there, taken ones included, where the source can tell.
    fn waiting(&mut self) -> impl Future<Output = Result<Option<u64>, SourceError>>;

    /// How many items it has dropped since it was asked last. Only a source without acknowledgements drops any.
    fn dropped(&mut self) -> u64 {
        0
    }

    /// Goes; another node may take over at once.
    fn close(&mut self) -> impl Future<Output = Result<(), SourceError>>;
}
