//! The thread that fills the archive behind the journal, lets the journal forget what the archive has for
//! good, and forgets what rooms need not keep; it notes how far those are who get copies. It is alone with the
//! archive's writing side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Progress, Since, weight};
use crate::chat::entry::Kind;
use crate::clock;
use crate::engines::engine::{EngineSays, Sink};
use crate::store::archive::{Archive, Keep};
use crate::store::committer::Committer;
use crate::store::outgoing::Number;
use crate::store::record::{Item, Record};

/// Items in one transaction.
const BATCH_ITEMS: usize = 1_000;
/// Pause between two looks at what is too old, and between two tries after an error.
const PAUSE: Duration = Duration::from_secs(1);
/// Time that is spent on what is too old after each such pause.
const TIDY_TIME: Duration = Duration::from_millis(50);
/// Pause between two checkpoints.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// Bytes applied after which a checkpoint comes early, so that the journal's segments come free.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// Bytes in one transaction, one item more: what is written twice before a checkpoint must fit on a nearly full disk.
const BATCH_BYTES: u64 = 1 << 20;
/// How often it is noted how far those are who get copies. After a crash they get again what came since.
const NOTE_PAUSE: Duration = Duration::from_millis(100);
/// Words that were taken back leave the disk within this time.
const SCRUB: Duration = Duration::from_secs(2);

/// What the archiver is told.
pub enum ToArchiver {
    /// Items that are durable in the journal.
    Items(Arc<Vec<Item>>),
    /// Somebody waits for what has come so far.
    Hurry,
    /// One who gets copies has everything up to here.
    Left {
        /// Who.
        listener: String,
        /// Up to where.
        upto: Number,
    },
    /// Somebody waits until that is noted.
    Settle(oneshot::Sender<()>),
}

/// The thread's state.
pub struct Archiver {
    archive: Box<dyn Archive>,
    progress: Arc<Progress>,
    committer: Committer,
    keep: Box<dyn Fn(&str) -> Keep + Send>,
    linger: Duration,
    sink: Sink,
    /// How far those are who get copies, as far as it is not noted yet.
    left: BTreeMap<String, Number>,
    settling: Vec<oneshot::Sender<()>>,
    noted: Since,
    /// Whether noting has failed and that was said.
    note_fails: bool,
    /// Whether words were taken back that may still stand in the journal.
    scrub: bool,
    /// Somebody waits for what comes next.
    hurried: bool,
    unchecked_bytes: u64,
    checkpoint: Since,
    scrubbed: Since,
    tidied: Since,
}

impl Archiver {
    pub(super) fn new(
        archive: Box<dyn Archive>,
        progress: Arc<Progress>,
        committer: Committer,
        keep: Box<dyn Fn(&str) -> Keep + Send>,
        linger: Duration,
        sink: Sink,
    ) -> Archiver {
        Archiver {
            archive,
            progress,
            committer,
            keep,
            linger,
            sink,
            left: BTreeMap::new(),
            settling: Vec::new(),
            noted: Since::never(),
            note_fails: false,
            scrub: false,
            hurried: false,
            unchecked_bytes: 0,
            checkpoint: Since::never(),
            scrubbed: Since::never(),
            tidied: Since::never(),
        }
    }

    /// Works until nobody can send any more.
    pub(super) fn run(mut self, inbox: &Receiver<ToArchiver>) {
        loop {
            match inbox.recv_timeout(PAUSE) {
                Ok(ToArchiver::Items(items)) => self.fill(items, inbox),
                // What somebody waits for may be on its way still.
                Ok(ToArchiver::Hurry) => self.hurried = true,
                Ok(ToArchiver::Left { listener, upto }) => self.hear_left(listener, upto),
                Ok(ToArchiver::Settle(done)) => self.settling.push(done),
                Err(RecvTimeoutError::Timeout) => self.hurried = false,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.note_left();
            self.let_journal_forget();
            self.tidy();
        }
    }

    fn hear_left(&mut self, listener: String, upto: Number) {
        self.left.insert(listener, upto);
    }

    /// Notes how far those are who get copies: now and then, and when somebody waits for it.
    fn note_left(&mut self) {
        if !self.left.is_empty() && (!self.settling.is_empty() || self.noted.due(NOTE_PAUSE)) {
            let left: Vec<(String, Number)> = self.left.clone().into_iter().collect();
            match self.archive.note_outgoing(&left) {
                Ok(()) => self.left.clear(),
                // The next round tries again; after a crash they get again what they have.
                Err(error) if !std::mem::replace(&mut self.note_fails, true) => {
                    log::warn!("store: it cannot be noted what was forwarded: {error}");
                }
                Err(_) => return,
            }
            self.note_fails &= !self.left.is_empty();
        }
        if self.left.is_empty() {
            // Whoever waited may have gone.
            self.settling.drain(..).for_each(|done| done.send(()).unwrap_or_default());
        }
    }

    /// Gathers what comes within the linger and applies it.
    fn fill(&mut self, first: Arc<Vec<Item>>, inbox: &Receiver<ToArchiver>) {
        let linger = if std::mem::take(&mut self.hurried) { Duration::ZERO } else { self.linger };
        let until = Instant::now() + linger;
        let mut batch = Arc::unwrap_or_clone(first);
        while batch.len() < BATCH_ITEMS {
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(ToArchiver::Items(items)) => batch.extend(Arc::unwrap_or_clone(items)),
                Ok(ToArchiver::Left { listener, upto }) => self.hear_left(listener, upto),
                Ok(ToArchiver::Settle(done)) => self.settling.push(done),
                Ok(ToArchiver::Hurry) | Err(_) => break,
            }
        }
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let (mut n, mut bytes) = (0, 0);
            while n < rest.len().min(BATCH_ITEMS) && bytes < BATCH_BYTES {
                bytes += weight(&rest[n]);
                n += 1;
            }
            let (items, later) = rest.split_at(n);
            self.apply(items);
            rest = later;
            if self.unchecked_bytes > CHECKPOINT_BYTES {
                self.let_journal_forget();
            }
        }
    }

    fn apply(&mut self, items: &[Item]) {
        let mut failures = 0u32;
        while let Err(error) = self.archive.append(items) {
            if failures.is_power_of_two() || failures == 0 {
                log::error!("store: {} items wait for the archive: {error}", items.len());
                (self.sink)(EngineSays::ArchiveFails(Some(error.to_string())));
            }
            failures += 1;
            thread::sleep(PAUSE);
        }
        if failures > 0 {
            log::info!("store: the archive takes items again");
            (self.sink)(EngineSays::ArchiveFails(None));
        }
        let bytes = items.iter().map(weight).sum();
        self.unchecked_bytes += bytes;
        self.progress.behind_bytes.fetch_sub(bytes, Relaxed);
        self.scrub |= items.iter().any(takes_words_back);
        let upto = self.archive.applied();
        // Told before anybody who waits for it gets an answer.
        (self.sink)(EngineSays::Archived { upto });
        self.progress.set(upto);
    }

    fn let_journal_forget(&mut self) {
        let scrub = self.scrub && self.scrubbed.due(SCRUB);
        let many = self.unchecked_bytes > CHECKPOINT_BYTES;
        if !scrub && !many && (self.unchecked_bytes == 0 || !self.checkpoint.due(CHECKPOINT)) {
            return;
        }
        if scrub {
            self.committer.scrub();
        }
        match self.archive.checkpoint() {
            Ok(durable) => {
                self.unchecked_bytes = 0;
                self.scrub &= !scrub;
                self.committer.free(durable);
            }
            Err(error) => log::warn!("store: no checkpoint, the journal keeps its segments: {error}"),
        }
    }

    fn tidy(&mut self) {
        if !self.tidied.due(PAUSE) {
            return;
        }
        let until = Instant::now() + TIDY_TIME;
        loop {
            match self.archive.forget(&self.keep, clock::cautious_ms()) {
                Ok(forgotten) => {
                    if !forgotten.rooms.is_empty() {
                        self.unchecked_bytes += 1;
                        (self.sink)(EngineSays::Forgotten(forgotten.rooms));
                    }
                    if !forgotten.more || Instant::now() > until {
                        return;
                    }
                }
                Err(error) => return log::warn!("store: nothing old is forgotten now: {error}"),
            }
        }
    }
}

fn takes_words_back(item: &Item) -> bool {
    matches!(&item.record, Record::Entry(entry) if matches!(entry.kind, Kind::Edit | Kind::Delete))
}
