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

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::store::journal::{Journal, JournalError};
use crate::store::record::{Item, Lsn, Record};

/// Most records of a group.
const GROUP_RECORDS_MAX: usize = 2_000;
/// A group that has so many bytes takes no further record.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How often a failed journal is tried again.
const HEAL_EVERY: Duration = Duration::from_secs(1);

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
        let work = Work {
            journal,
            orders: taken,
            pending: VecDeque::new(),
            scrub_after: None,
            stopping: false,
            failed: None,
            on_event,
            to_archive,
            counters: counters.clone(),
        };
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

/// A journal that takes nothing.
struct Failure {
    /// First number that was not kept.
    from: Lsn,
    /// When to try next; none when it is healed and waits for `resume`.
    next_try: Option<Instant>,
}

/// The thread.
struct Work {
    journal: Journal,
    orders: Receiver<Order>,
    /// Taken from the queue, not yet written.
    pending: VecDeque<Item>,
    /// Words are to go that stand in the records up to this one, which was pending then.
    scrub_after: Option<Lsn>,
    stopping: bool,
    failed: Option<Failure>,
    on_event: OnEvent,
    to_archive: ToArchive,
    counters: Arc<Counters>,
}

impl Work {
    fn run(mut self) {
        while self.wait() {
            self.gather();
            while !self.pending.is_empty() {
                self.commit();
                self.scrub_what_was_pending();
                self.gather();
            }
            if self.stopping {
                return;
            }
        }
    }

    /// Waits for an order, or for the time to try to heal. False when nobody can give an order any more.
    fn wait(&mut self) -> bool {
        let Some(next_try) = self.failed.as_ref().and_then(|failed| failed.next_try) else {
            return self.orders.recv().map(|order| self.take(order)).is_ok();
        };
        match self.orders.recv_timeout(next_try.saturating_duration_since(Instant::now())) {
            Ok(order) => {
                self.take(order);
                if Instant::now() >= next_try {
                    self.heal();
                }
                true
            }
            Err(RecvTimeoutError::Timeout) => {
                self.heal();
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    /// Takes what has queued meanwhile, until a group is full.
    fn gather(&mut self) {
        while !self.stopping && self.pending.len() < GROUP_RECORDS_MAX {
            match self.orders.try_recv() {
                Ok(order) => self.take(order),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Append(items) if self.failed.is_some() => {
                self.counters.thrown_away.fetch_add(items.len() as u64, Ordering::Relaxed);
            }
            Order::Append(items) => self.pending.extend(items),
            Order::Free(upto) => {
                self.journal.free(upto);
                self.count_backlog();
            }
            Order::Scrub => match self.pending.back() {
                Some(item) => self.scrub_after = Some(item.lsn),
                None => self.journal.scrub(),
            },
            Order::Resume(next) => self.resume(next),
            Order::Stop => self.stopping = true,
        }
    }

    fn scrub_what_was_pending(&mut self) {
        let Some(last) = self.scrub_after else { return };
        self.journal.scrub();
        if last < self.journal.next() || self.pending.is_empty() {
            self.scrub_after = None;
        }
    }

    fn resume(&mut self, next: Lsn) {
        match &self.failed {
            Some(Failure { from, next_try: None }) if *from == next => self.failed = None,
            Some(Failure { from, next_try }) => log::error!(
                "the journal was told to go on with record {next}, but {} with {from}; this is a mistake in Roomcast",
                if next_try.is_some() { "is not healed, and will go on" } else { "goes on" }
            ),
            None => {}
        }
    }

    /// Writes the next group.
    fn commit(&mut self) {
        let group = self.next_group();
        let upto = group.last().map_or(0, |item| item.lsn);
        let (from, bytes_before, start) = (self.journal.next(), self.journal.bytes(), Instant::now());
        let result = self.journal.append(&group);
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counters = &self.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.sync_us.fetch_add(took_us, Ordering::Relaxed);
        counters.longest_sync_us.fetch_max(took_us, Ordering::Relaxed);
        match result {
            Ok(()) => {
                counters.groups.fetch_add(1, Ordering::Relaxed);
                counters.records.fetch_add(group.len() as u64, Ordering::Relaxed);
                counters.bytes.fetch_add(self.journal.bytes() - bytes_before, Ordering::Relaxed);
                self.count_backlog();
                (self.on_event)(FromJournal::Kept { upto });
                (self.to_archive)(Arc::new(group));
            }
            Err(error) => self.fail(from, &error, group.len()),
        }
    }

    /// The records that are written together: not more than a group has, but none without the one that it is
    /// kept with.
    fn next_group(&mut self) -> Vec<Item> {
        let (mut count, mut bytes) = (0, 0);
        for item in &self.pending {
            count += 1;
            bytes += weight(&item.record);
            if !item.with_next && (count >= GROUP_RECORDS_MAX || bytes >= GROUP_BYTES_MAX) {
                break;
            }
        }
        if count == self.pending.len() {
            return std::mem::take(&mut self.pending).into();
        }
        self.pending.drain(..count).collect()
    }

    fn fail(&mut self, from: Lsn, error: &JournalError, group: usize) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        let thrown_away = (group + self.pending.len()) as u64;
        self.counters.thrown_away.fetch_add(thrown_away, Ordering::Relaxed);
        self.pending.clear();
        self.failed = Some(Failure { from, next_try: Some(Instant::now() + HEAL_EVERY) });
        let full = matches!(error, JournalError::Full(_));
        (self.on_event)(FromJournal::Failed { from, full, why: error.to_string() });
    }

    fn heal(&mut self) {
        let Some(failed) = &mut self.failed else { return };
        match self.journal.heal(failed.from) {
            Ok(()) => {
                failed.next_try = None;
                (self.on_event)(FromJournal::Healed);
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                failed.next_try = Some(Instant::now() + HEAL_EVERY);
                log::debug!("the journal is not well yet: {error}");
            }
        }
    }

    fn count_backlog(&self) {
        self.counters.backlog_bytes.store(self.journal.bytes(), Ordering::Relaxed);
    }
}

/// About the bytes of a record in the journal: those parts that can be large.
fn weight(record: &Record) -> usize {
    let large = match record {
        Record::Entry(entry) => entry.line.len(),
        Record::Dead(letter) => letter.item.len(),
        Record::Session(note) => note.rooms.len() * 64,
        Record::Seen(_) | Record::Read(_) | Record::DeadGone(_) => 0,
    };
    large + 128
}
