//! Fills the archive that nodes share from what their rooms accept: of each partition's feed in Redis one node reads
//! on, appends to the archive in batches, and lets Redis forget what the archive has. Which node that is, a small
//! lease says; that no entry is written twice or left out when two believe it, the archive's own positions see to.
//! Started and stopped by the wiring beside the engine. While the archive is away the feeds grow up to their limit
//! (`feed_max`; then nothing more is accepted), and are caught up afterwards. What stands beside the logs (`life/due.rs`)
//! goes the same way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::watch;

use crate::engines::redis::feed::Feed;
use crate::engines::redis::life::keys::Keys;
use crate::redis_link::RedisLink;
use crate::store::archive::{Keep, SharedArchive};

use serving::Server;
use writer::Writer;

mod noting;
mod serving;
mod writer;

/// What it needs to know.
pub struct FillerSettings {
    /// Where Redis is.
    pub link: RedisLink,
    /// As that of the engine.
    pub prefix: String,
    /// Where the entries go.
    pub archive: Box<dyn SharedArchive>,
    /// How much a room keeps in the archive, by its name.
    pub keep: Box<dyn Fn(&str) -> Keep + Send>,
}

/// What a node has brought from Redis to the archive. All but the last three only ever grow.
#[derive(Debug, Default)]
pub struct FillerFigures {
    /// Entries that this node has brought to the archive, repeats among them.
    pub archived: AtomicU64,
    /// Calls of the archive that failed.
    pub failures: AtomicU64,
    /// Entries that no program of this version has written; they are left out.
    pub unreadable: AtomicU64,
    /// Entries that left a feed before they were read: the archive lacks them.
    pub missed: AtomicU64,
    /// Read marks, places of sessions and rules of rooms that this node has brought to the archive, repeats among them.
    pub notes: AtomicU64,
    /// Those for which there was no place among those that wait; the archive lacks them until they change again.
    pub notes_dropped: AtomicU64,
    /// Partitions that this node serves.
    pub served: AtomicU64,
    /// Entries in the feeds that this node serves.
    pub waiting: AtomicU64,
    /// Read marks, places of sessions and rules that wait in partitions that this node serves.
    pub notes_waiting: AtomicU64,
}

/// What the tasks share.
struct Shared {
    figures: FillerFigures,
    /// Why the archive takes nothing of a partition that it is this node's turn to fill it from, for people.
    complaints: Mutex<BTreeMap<u16, String>>,
    stopping: AtomicBool,
}

impl Shared {
    /// The archive takes a partition's entries, or another node looks after that; or it does not, and why. Said
    /// once for all partitions.
    fn feel(&self, partition: u16, complaint: Option<String>) {
        let mut known = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let was_well = known.is_empty();
        match complaint {
            Some(why) => {
                if was_well {
                    log::error!("archive: the feeds in Redis grow: {why}");
                }
                known.insert(partition, why);
            }
            None => {
                known.remove(&partition);
                if !was_well && known.is_empty() {
                    log::info!("archive: entries go from the feeds to the archive again");
                }
            }
        }
    }
}

/// Brings the feeds of all partitions to the archive, as far as it is this node's turn.
pub struct Filler {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Filler {
    /// Starts two threads: one that reads feeds, one that writes to the archive. Redis and the archive may be away.
    pub fn start(settings: FillerSettings) -> Result<Filler, String> {
        let FillerSettings { link, prefix, archive, keep } = settings;
        Keys::new(&prefix, 0, false).map_err(|bad| format!("redis.prefix: {bad}"))?;
        let shared = Arc::new(Shared {
            figures: FillerFigures::default(),
            complaints: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let writer = Writer::start(archive, keep)?;
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the runtime of the feeds: {error}"))?;
        let told = shared.clone();
        let work = move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, serve_all(link, prefix, writer, told, stopped));
        };
        let thread = thread::Builder::new().name("redis-feed".into()).spawn(work);
        let thread = thread.map_err(|error| format!("cannot start the thread redis-feed: {error}"))?;
        Ok(Filler { shared, stop, thread: Some(thread) })
    }

    /// What it has done.
    pub fn figures(&self) -> &FillerFigures {
        &self.shared.figures
    }

    /// Why the archive takes nothing, for the readiness page; none: all is well, or another node's business.
    pub fn complaint(&self) -> Option<String> {
        self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).values().next().cloned()
    }

    /// Ends what is under way and gives the leases back, so that other nodes go on at once. Blocks until then: as
    /// long as one call of the archive may take.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        // The receiver is gone when the thread has ended by itself, by a panic.
        self.stop.send(true).unwrap_or_default();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("archive: the thread that reads the feeds has panicked");
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve_all(
    link: RedisLink,
    prefix: String,
    writer: Writer,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    let tasks = Feed::all(&link, &prefix).into_iter().zip(0..).map(|(feed, partition)| {
        let keys = Keys::new(&prefix, u32::from(partition), link.is_cluster());
        let keys = keys.expect("the prefix was checked at the start");
        let server = Server::new(link.clone(), feed, keys, partition, writer.clone(), shared.clone());
        tokio::task::spawn_local(server.run(stopped.clone()))
    });
    for task in tasks.collect::<Vec<_>>() {
        if let Err(error) = task.await {
            log::error!("archive: a task that reads a feed has ended: {error}");
        }
    }
}
