//! The commit thread: turns records from all over the server into groups, makes each group durable in the journal
//! with one sync, says so, and passes the group on to the archive. Owns the journal. Called by the engine through
//! cheap handles, never waited for; knows no room and no socket.
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use roomcast::store::committer::{Committer, FromJournal};
//! use roomcast::store::journal::Journal;
//! use roomcast::store::record::{Item, Record};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let (journal, _found) = Journal::open(folder.path(), 0).unwrap();
//! let (tell, told) = mpsc::channel();
//! let committer = Committer::start(
//!     journal,
//!     Box::new(move |event| tell.send(event).unwrap()),
//!     Box::new(|items: Arc<Vec<Item>>| { /* put them where the archive's thread takes them */ drop(items) }),
//! );
//! committer.append(vec![Item { lsn: 1, record: Record::DeadGone("d-1".into()), with_next: false }]);
//! assert_eq!(told.recv().unwrap(), FromJournal::Kept { upto: 1 });
//! committer.free(1); // when the archive has made it durable
//! committer.stop();
//! ```

mod work;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::store::journal::Journal;
use crate::store::record::{Item, Lsn};
use work::Work;

/// What the commit thread says, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromJournal {
    /// All records up to there are durable.
    Kept {
        /// Number of the last of them.
        upto: Lsn,
    },
    /// No record from there on is durable, and none is taken until [`Committer::resume`]. Said once.
    Failed {
        /// Number of the first that was not kept.
        from: Lsn,
        /// Whether the disk is full.
        full: bool,
        /// For people; ends with what to do.
        why: String,
    },
    /// The journal takes records again, as soon as it is told to resume.
    Healed,
}

/// What the thread has done so far. All are sums since the start but `longest_sync_us`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Groups that are durable.
    pub groups: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Bytes of them in the journal.
    pub bytes: AtomicU64,
    /// Syncs of groups, failed ones included.
    pub syncs: AtomicU64,
    /// Microseconds that writing and syncing of groups took.
    pub sync_us: AtomicU64,
    /// The longest of them, in microseconds.
    pub longest_sync_us: AtomicU64,
    /// Groups that could not be kept, and vain attempts to heal.
    pub failures: AtomicU64,
    /// Records that came after a failure and were thrown away; their sender was told.
    pub thrown_away: AtomicU64,
    /// Bytes in the journal that the archive does not have durably.
    pub backlog_bytes: AtomicU64,
}

enum Order {
    Append(Vec<Item>),
    Free(Lsn),
    Scrub,
    Resume(Lsn),
    Stop,
}

/// A handle on the commit thread. Orders are done in the order in which they were given, by whichever handle.
///
/// The queue to the thread has no bound of its own: who appends keeps account of what is under way (appended
/// and neither `Kept` nor `Failed`) and stops at a bound.
#[derive(Clone)]
pub struct Committer {
    orders: Sender<Order>,
    counters: Arc<Counters>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Takes what the commit thread says; called on that thread, so it passes it on and returns.
pub type OnEvent = Box<dyn Fn(FromJournal) + Send>;
/// Takes each durable group, in order; called on that thread. It may block while the archive is far behind: then
/// no further group is committed, which is how the archive slows the senders down.
pub type ToArchive = Box<dyn FnMut(Arc<Vec<Item>>) + Send>;

impl Committer {
    /// Starts the thread. `Kept` is said before the group goes to the archive.
    pub fn start(journal: Journal, on_event: OnEvent, to_archive: ToArchive) -> Committer {
        let (orders, taken) = channel();
        let counters = Arc::new(Counters::default());
        counters.backlog_bytes.store(journal.bytes(), Ordering::Relaxed);
        let work = Work::new(journal, taken, on_event, to_archive, counters.clone());
        let thread = Builder::new().name("journal".to_owned()).spawn(move || work.run());
        let thread = thread.expect("a process that cannot start a thread cannot serve");
        Committer { orders, counters, thread: Arc::new(Mutex::new(Some(thread))) }
    }

    /// Puts records into the journal: numbers dense from the last ones on. Those that belong together
    /// (`with_next`) come in one call. Answered by `Kept` or `Failed`.
    pub fn append(&self, items: Vec<Item>) {
        if !items.is_empty() {
            self.order(Order::Append(items));
        }
    }

    /// The archive has everything up to there, durably.
    pub fn free(&self, upto: Lsn) {
        self.order(Order::Free(upto));
    }

    /// Words were deleted that stand in the journal; see [`Journal::scrub`].
    pub fn scrub(&self) {
        self.order(Order::Scrub);
    }

    /// After `Healed`: records come again, from this number on, the one that `Failed` named.
    pub fn resume(&self, next: Lsn) {
        self.order(Order::Resume(next));
    }

    /// Commits what was appended before, ends the thread and closes the journal. Returns when that is done. What
    /// is ordered later is not done.
    pub fn stop(&self) {
        self.order(Order::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the journal's thread ended with a panic");
        }
    }

    /// Bytes in the journal that the archive does not have durably.
    pub fn backlog_bytes(&self) -> u64 {
        self.counters.backlog_bytes.load(Ordering::Relaxed)
    }

    /// What the thread has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn order(&self, order: Order) {
        if let Err(unsent) = self.orders.send(order)
            && let Order::Append(items) = unsent.0
        {
            log::error!("{} records came after the journal was closed; they are not kept", items.len());
        }
    }
}
