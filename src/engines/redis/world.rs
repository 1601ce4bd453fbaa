//! What all partitions of an engine share: its settings, the sink, this node's number, and the board on which each
//! partition says how it is. Everything here lives on the engine's thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::chat::names::RoomName;
use crate::engines::redis::archive::ArchiveThread;
use crate::engines::redis::keys::{Keys, partition_of};
use crate::engines::redis::leaving::LeavingSettings;
use crate::engines::redis::letters::Letter;
use crate::engines::redis::life;
use crate::engines::redis::noting::Note;
use crate::engines::redis::peers::Peers;
use crate::engines::redis::tracing::Traces;
use crate::engines::redis::{RoomKeep, Settings};
use crate::engines::shared::{Says, Sink};
use crate::redis_link::RedisLink;
use crate::redis_link::nodes::Host;

/// How long an epoch lasts, in milliseconds.
pub const EPOCH_LASTS_MS: u64 = 12 * 3_600_000;
/// The shortest life of what Redis knows of an idle room, in milliseconds: two epochs.
const META_LIFE_MS: u64 = 2 * EPOCH_LASTS_MS;
/// The shortest life of the history of an idle room, in milliseconds.
const HISTORY_LIFE_MS: u64 = 60_000;

/// An archive that did not answer what can be done without is left alone for so long.
const RECALL_PAUSE: Duration = Duration::from_secs(2);
/// And the log hears of that so often.
const WARN_PAUSE: Duration = Duration::from_secs(60);

/// See above.
pub struct World {
    /// Where Redis is.
    pub link: RedisLink,
    /// The other nodes, and this node's number.
    pub peers: Peers,
    /// Where everything is told.
    pub sink: Sink,
    /// The archive behind Redis.
    pub archive: Option<ArchiveThread>,
    /// Most entries in a partition's feed; 0: there is no feed.
    pub feed_max: u64,
    /// Most notes of a partition that wait for the archive; 0: there is none.
    pub notes_max: u64,
    /// Bytes of proposals without an outcome.
    pub waiting: Arc<AtomicU64>,
    /// Servers of a Cluster that it spoke of.
    pub hosts: RefCell<Vec<Host>>,
    /// This node's name, for people.
    pub node: String,
    /// Questions to other nodes that are open.
    pub traces: Traces,
    prefix: String,
    keep: Box<dyn Fn(&RoomName) -> RoomKeep + Send>,
    leaving: Option<LeavingSettings>,
    board: RefCell<Board>,
    boxes: RefCell<Vec<UnboundedSender<Letter>>>,
    /// When the archive last did not answer what can be done without.
    recall_failed: Cell<Option<Instant>>,
    rules_known: Cell<bool>,
    rules_came: Notify,
}

/// How the partitions are.
struct Board {
    troubles: Vec<Option<String>>,
    told: Option<Option<String>>,
}

/// How much a room keeps in Redis, as the scripts want it.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// Most entries in the history.
    pub history: usize,
    /// How long an id is known, in milliseconds.
    pub window_ms: u64,
    /// How long an idle room is known, in milliseconds; 0 for ever.
    pub meta_ms: u64,
    /// How long its history stays, in milliseconds; 0 for ever.
    pub history_ms: u64,
    /// Oldest age of an entry that readers get, in milliseconds.
    pub age_ms: u64,
}

impl World {
    /// `partitions` begin as not connected.
    pub fn new(settings: Settings, partitions: usize, sink: Sink, waiting: Arc<AtomicU64>) -> World {
        let archived = settings.archive.is_some();
        let (archive, feed_max, notes_max) = match settings.archive {
            Some(archive) => {
                (Some(ArchiveThread::start(archive.reader)), archive.feed_max, archive.notes_max.max(1))
            }
            None => (None, 0, 0),
        };
        let keep = settings.keep;
        let keep = move |room: &RoomName| {
            let mut keep = keep(room);
            // Ids live in Redis' memory; only an archive can know them for longer.
            keep.dedup_ms = keep.dedup_ms.clamp(1_000, if archived { u64::MAX / 4 } else { 600_000 });
            keep
        };
        World {
            link: settings.link,
            peers: Peers::new(partitions),
            sink,
            archive,
            feed_max,
            notes_max,
            waiting,
            hosts: RefCell::new(Vec::new()),
            node: settings.node,
            traces: Traces::default(),
            prefix: settings.prefix,
            keep: Box::new(keep),
            leaving: settings.leaving,
            boxes: RefCell::new(Vec::new()),
            board: RefCell::new(Board { troubles: vec![None; partitions], told: None }),
            recall_failed: Cell::new(None),
            rules_known: Cell::new(false),
            rules_came: Notify::new(),
        }
    }

    /// The names of a partition.
    pub fn keys(&self, partition: usize) -> Keys {
        Keys::new(&self.prefix, partition)
    }

    /// The same for what is beside the logs.
    pub fn life_keys(&self, partition: usize) -> life::keys::Keys {
        let keys = life::keys::Keys::new(&self.prefix, partition as u32, self.link.is_cluster());
        keys.expect("the prefix was checked when the engine was opened")
    }

    /// Where letters to the partitions go.
    pub fn deliver_to(&self, boxes: Vec<UnboundedSender<Letter>>) {
        *self.boxes.borrow_mut() = boxes;
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.boxes.borrow().len()
    }

    /// Sends a letter to the partition of a name: of a room, a user or a session.
    pub fn post(&self, name: &str, letter: Letter) {
        self.post_at(partition_of(name, self.partitions() as u32), letter);
    }

    /// Sends a letter to a partition.
    pub fn post_at(&self, partition: usize, letter: Letter) {
        if self.boxes.borrow()[partition].send(letter).is_err() {
            log::warn!("redis: partition {partition} has ended; a call is not carried out");
        }
    }

    /// Keeps something beside the logs, where it belongs.
    pub fn note(&self, notes: Vec<Note>) {
        for note in notes {
            let name = match &note {
                Note::Read(mark) => mark.room.as_str(),
                Note::ReadBy(mark) => mark.user.as_str(),
                Note::Session(note) => &note.session,
                Note::Used(user, ..) => user.as_str(),
            };
            let at = partition_of(name, self.partitions() as u32);
            self.post_at(at, Letter::Note(vec![note]));
        }
    }

    /// Whether the archive is asked now for what can be done without.
    pub fn may_recall(&self) -> bool {
        self.recall_failed.get().is_none_or(|failed| failed.elapsed() > RECALL_PAUSE)
    }

    /// It did not answer.
    pub fn recall_failed(&self, why: &str) {
        if self.recall_failed.replace(Some(Instant::now())).is_none_or(|last| last.elapsed() > WARN_PAUSE) {
            log::warn!("redis: read marks do not come back from the archive now: {}", why.escape_debug());
        }
    }

    /// The sink was told the rules of all rooms.
    pub fn rules_are_known(&self) {
        self.rules_known.set(true);
        self.rules_came.notify_waiters();
    }

    /// Waits until it was. Before that nobody may come into a room: he may be banned there.
    pub async fn rules_known(&self) {
        loop {
            let next = self.rules_came.notified();
            if self.rules_known.get() {
                return;
            }
            next.await;
        }
    }

    /// How much a room keeps.
    pub fn lives(&self, room: &RoomName) -> Lives {
        let keep = (self.keep)(room);
        let for_ever = keep.keep_ms == u64::MAX;
        Lives {
            history: keep.history.max(1),
            window_ms: keep.dedup_ms,
            meta_ms: if for_ever { 0 } else { keep.keep_ms.max(META_LIFE_MS) },
            history_ms: if for_ever { 0 } else { keep.keep_ms.max(HISTORY_LIFE_MS) },
            age_ms: keep.keep_ms,
        }
    }

    /// Whether somebody else gets copies of what a room accepts.
    pub fn leaves(&self, room: &RoomName) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| (leaving.leaves)(room))
    }

    /// Most entries in a partition's stream of what leaves; 0: nothing does.
    pub fn leaving_max(&self) -> u64 {
        self.leaving.as_ref().map_or(0, |leaving| leaving.max)
    }

    /// Tells the sink.
    pub fn say(&self, says: Says) {
        (self.sink)(says);
    }

    /// A partition is well, or not and why. The sink hears of it when that changes something.
    pub fn feel(&self, partition: usize, trouble: Option<String>) {
        let mut board = self.board.borrow_mut();
        board.troubles[partition] = trouble;
        let now = board.troubles.iter().flatten().next().cloned();
        let same = board.told.as_ref().is_some_and(|told| told.is_some() == now.is_some());
        if !same {
            board.told = Some(now.clone());
            drop(board);
            self.say(Says::Health(now));
        }
    }
}
