//! The engine of several nodes that share rooms through Redis: alone, behind Sentinel, or as a Cluster. Redis gives
//! out the places, in one script; every node hears of its rooms through one channel of its own. When the primary
//! changes, the nodes put back what the new one lacks before anything is written to it. Opened by the wiring, used
//! by the chat server. One thread of its own; each partition is a task on it.

use crate::chat::names::RoomName;
use crate::engines::redis::leaving::LeavingSettings;
use crate::engines::shared::Start;
use crate::redis_link::RedisLink;
use crate::store::archive::ArchiveReader;

mod archive;
mod arriving;
mod asking;
pub mod checks;
mod departing;
pub mod feed;
pub mod filler;
mod folding;
mod frame;
mod handle;
mod hearing;
mod joining;
mod keys;
pub mod leaving;
mod letters;
pub mod life;
mod living;
mod logs;
mod looking;
mod memory;
mod noting;
mod outbox;
mod partition;
mod peers;
mod publishing;
mod reading;
mod recalling;
mod rejoining;
mod repair;
mod replies;
mod ruling;
mod scripts;
mod session;
mod staying;
mod tracing;
mod world;

/// What an engine needs to know.
pub struct Settings {
    /// Where Redis is.
    pub link: RedisLink,
    /// What every key and channel begins with. Not empty, no braces.
    pub prefix: String,
    /// This node's name, for people.
    pub node: String,
    /// How much a room keeps.
    pub keep: Box<dyn Fn(&RoomName) -> RoomKeep + Send>,
    /// The archive behind Redis, if there is one.
    pub archive: Option<ArchiveSettings>,
    /// What leaves, if anything does.
    pub leaving: Option<LeavingSettings>,
}

/// How much a room keeps in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomKeep {
    /// Most entries of its history, about.
    pub history: usize,
    /// Oldest age of an entry, in milliseconds; `u64::MAX` for ever. An idle room is known for a day at the least.
    pub keep_ms: u64,
    /// How long an id is known at the least, in milliseconds. Without an archive at most ten minutes.
    pub dedup_ms: u64,
}

/// An archive that others fill from the feed.
pub struct ArchiveSettings {
    /// Asked for what Redis does not keep any more.
    pub reader: Box<dyn ArchiveReader>,
    /// Most entries in the feed of a partition. When it is full nothing is accepted until the archive goes on.
    pub feed_max: u64,
    /// Most read marks and sessions of a partition that wait for the archive. Of those that come when there are so many,
    /// the archive gets none; they are counted.
    pub notes_max: u64,
}

/// An engine that is ready to start. Checks nothing but the settings: it connects in the background, and starts while
/// Redis is away.
pub fn open(settings: Settings) -> Result<Start, String> {
    life::keys::Keys::new(&settings.prefix, 0, false).map_err(|bad| bad.to_string())?;
    Ok(Box::new(move |sink| handle::start(settings, sink)))
}
