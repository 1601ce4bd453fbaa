//! What the commit thread does: takes orders, forms groups, writes them, and after a failure heals the journal. Started
//! by the committer; alone with the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::{Counters, FromJournal, OnEvent, Order, ToArchive};
use crate::store::journal::{Journal, JournalError};
use crate::store::record::{Item, Lsn, Record};

/// Most records of a group.
const GROUP_RECORDS_MAX: usize = 2_000;
/// A group that has so many bytes takes no further record.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Where a sync takes longer than this, a group waits a moment for those who were just answered.
const SLOW_SYNC: Duration = Duration::from_millis(1);
/// The group before was as large at the least: several speak at a time.
const CROWD: usize = 16;
/// How often a failed journal is tried again.
const HEAL_EVERY: Duration = Duration::from_secs(1);

/// A journal that takes nothing.
struct Failure {
    /// First number that was not kept.
    from: Lsn,
    /// When to try next; none when it is healed and waits for `resume`.
    next_try: Option<Instant>,
}

/// The thread.
pub(super) struct Work {
    journal: Journal,
    orders: Receiver<Order>,
    /// Taken from the queue, not yet written.
    pending: VecDeque<Item>,
    /// Words are to go that stand in the records up to this one, which was pending then.
    scrub_after: Option<Lsn>,
    stopping: bool,
    failed: Option<Failure>,
    /// How long the last sync took, when it ended, and how many records it was for.
    last: Option<(Duration, Instant, usize)>,
    on_event: OnEvent,
    to_archive: ToArchive,
    counters: Arc<Counters>,
}

impl Work {
    pub(super) fn new(
        journal: Journal,
        orders: Receiver<Order>,
        on_event: OnEvent,
        to_archive: ToArchive,
        counters: Arc<Counters>,
    ) -> Work {
        let pending = VecDeque::new();
        let (scrub_after, stopping, failed, last) = (None, false, None, None);
        Work { journal, orders, pending, scrub_after, stopping, failed, last, on_event, to_archive, counters }
    }

    pub(super) fn run(mut self) {
        while self.wait() {
            self.gather();
            while !self.pending.is_empty() {
                self.linger();
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

    /// On a slow disk those who were just answered speak again while others wait already. Written at once, the two
    /// would take turns, each waiting for the other's sync; so the group waits while more keeps coming, for half a
    /// sync at the most.
    fn linger(&mut self) {
        let Some((took, ended, records)) = self.last.take() else { return };
        if took < SLOW_SYNC || records < CROWD {
            return;
        }
        let (until, gap) = (ended + took / 2, took / 8);
        while !self.stopping && self.pending.len() < GROUP_RECORDS_MAX {
            let left = until.saturating_duration_since(Instant::now()).min(gap);
            match self.orders.recv_timeout(left) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
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
        let took = start.elapsed();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.last = Some((took, start + took, group.len()));
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
        Record::Event(event) => event.bytes(),
        Record::Rules(rules) => rules.text.len(),
        Record::Seen(_) | Record::Read(_) | Record::DeadGone(_) => 0,
    };
    large + 128
}
