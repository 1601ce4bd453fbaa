//! The engine of one node that shares its rooms with nobody: a journal with group commit makes an item durable,
//! and behind it an archive takes the same items, to be asked and searched. Opened and started by the wiring,
//! used by the chat server. Three kinds of threads work here: the journal's, one that fills the archive, and
//! two that answer questions; one more if entries leave.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::chat::names::RoomName;
use crate::engines::engine::{Ask, Engine, EngineSays, Opened, Sink};
use crate::store::archive::{
    Answer, Archive, ArchiveError, ArchiveReader, Keep, OpenError, Question, StoredRoom,
};
use crate::store::committer::{Committer, FromJournal};
use crate::store::journal::Journal;
use crate::store::outgoing;
use crate::store::place::StorePlace;
use crate::store::postgres::{self, PostgresArchive};
use crate::store::record::{Item, Lsn, Record};
use crate::store::spool::Spool;
use crate::store::sqlite::SqliteArchive;

use archiver::{Archiver, ToArchiver};
use leaving::{Departures, Leaving};
use spooling::Spooled;

mod archiver;
pub mod leaving;
mod spooling;

/// How long a question waits for the archive to have all that it must know.
const BEHIND_MAX: Duration = Duration::from_secs(5);
/// How long the archive may be behind an idle journal.
const LINGER: Duration = Duration::from_millis(250);
/// The same while entries leave: they do when the archive has them.
const LINGER_LEAVING: Duration = Duration::from_millis(15);
/// Threads that answer questions. Searches have one of their own, so that a reader who comes back does not
/// wait for them.
const READERS: usize = 2;

/// How far the archive is; shared by the threads.
#[derive(Default)]
pub(super) struct Progress {
    applied: Mutex<Lsn>,
    moved: Condvar,
    /// Bytes of items that the archive does not have yet.
    behind_bytes: AtomicU64,
    /// The same as `applied`, for those who read on behind it.
    moves: watch::Sender<Lsn>,
}

impl Progress {
    fn set(&self, applied: Lsn) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = applied;
        self.moved.notify_all();
        self.moves.send_replace(applied);
    }

    /// Waits until everything up to `lsn` is there; calls `hurry` if it is not. Returns whether it is.
    fn wait_for(&self, lsn: Lsn, hurry: impl FnOnce()) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if *applied >= lsn {
            return true;
        }
        hurry();
        let waited = self.moved.wait_timeout_while(applied, BEHIND_MAX, |applied| *applied < lsn);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Bytes that an item holds in memory while it waits for the archive, about.
pub(super) fn weight(item: &Item) -> u64 {
    let words = match &item.record {
        Record::Entry(entry) => entry.line.len(),
        Record::Dead(letter) => letter.item.len(),
        Record::Session(note) => note.rooms.len() * 64,
        Record::Event(event) => event.bytes(),
        Record::Rules(rules) => rules.text.len(),
        Record::Seen(_) | Record::Read(_) | Record::DeadGone(_) => 0,
    };
    words as u64 + 128
}

/// The engine.
pub struct Embedded {
    committer: Committer,
    readers: [Sender<Ask>; READERS],
    progress: Arc<Progress>,
}

/// What an engine is started from.
struct Parts {
    archive: Box<dyn Archive>,
    journal: Journal,
    queued: Vec<Item>,
    keep: Box<dyn Fn(&str) -> Keep + Send>,
    /// How long the archive may be behind an idle journal.
    linger: Duration,
    progress: Arc<Progress>,
    to_archiver: Sender<ToArchiver>,
    inbox: Receiver<ToArchiver>,
}

/// Opens a store. `keep` tells by a room's name what it keeps, `leaving` which entries somebody else is to get. Nothing
/// runs before [`Opened::start`] but the thread that reads what leaves. With a spool, everything that is kept goes there
/// too.
pub fn open(
    place: &StorePlace,
    keep: impl Fn(&str) -> Keep + Send + 'static,
    leaving: Leaving,
    spool: Option<Arc<Spool>>,
) -> Result<(Opened, Option<Departures>), OpenError> {
    let journal = place.journal_dir();
    match place {
        StorePlace::Sqlite(file) => open_with(SqliteArchive::open(file)?, &journal, keep, leaving, spool),
        // The caller may be on a thread that runs actors.
        StorePlace::Postgres(url) => {
            postgres::apart(|| open_with(PostgresArchive::open(url)?, &journal, keep, leaving, spool))
        }
    }
}

/// The same with an archive that is open, and the folder of its journal. There are departures if there are listeners.
pub fn open_with(
    mut archive: impl Archive + 'static,
    journal_dir: &Path,
    keep: impl Fn(&str) -> Keep + Send + 'static,
    leaving: Leaving,
    spool: Option<Arc<Spool>>,
) -> Result<(Opened, Option<Departures>), OpenError> {
    let applied = archive.applied();
    let after = match &spool {
        Some(spool) => spooling::begin(spool, journal_dir, applied)?,
        None => applied,
    };
    let (journal, mut found) =
        Journal::open(journal_dir, after).map_err(|error| ArchiveError(error.to_string()))?;
    if let Some(spool) = &spool {
        spooling::catch_up(spool, &found.items, journal.next() - 1)?;
        // What the archive has as well is of no more use.
        found.items.retain(|item| item.lsn > applied);
    }
    found.notes.iter().for_each(|note| log::warn!("store: {}", note.escape_debug()));
    for (from, to) in &found.lost {
        log::error!("store: records {from} to {to} are damaged and lost; run `roomcast verify`");
    }
    let replay = found.items;
    let next = journal.next();
    let mut reader = archive.reader()?;
    let rooms = rooms_of(&replay, reader.as_mut())?;
    let Answer::Rules(rules) = reader.answer(&Question::Rules)? else { return Err(other_answer().into()) };
    let queued = replay.clone();
    let progress = Arc::new(Progress::default());
    let (to_archiver, inbox) = channel();
    let departures = depart(&mut archive, leaving, next - 1, &to_archiver, &progress)?;
    let hurries = departures.is_some() || spool.is_some();
    let archive: Box<dyn Archive> = match spool {
        Some(spool) => Box::new(Spooled::new(Box::new(archive), spool)),
        None => Box::new(archive),
    };
    let parts = Parts {
        linger: if hurries { LINGER_LEAVING } else { LINGER },
        archive,
        journal,
        queued,
        keep: Box::new(keep),
        progress,
        to_archiver,
        inbox,
    };
    let start = move |sink: Sink| -> Result<Box<dyn Engine>, String> {
        Embedded::start(parts, sink).map(|engine| Box::new(engine) as Box<dyn Engine>)
    };
    Ok((Opened { replay, rooms, rules, next, start: Box::new(start) }, departures))
}

/// Makes the list of what leaves ready; without listeners there is none. `newest`: number of the newest record.
fn depart(
    archive: &mut impl Archive,
    leaving: Leaving,
    newest: Lsn,
    to_archiver: &Sender<ToArchiver>,
    progress: &Progress,
) -> Result<Option<Departures>, OpenError> {
    let Leaving { leaves, listeners } = leaving;
    let names: Vec<String> = listeners.iter().map(|listener| listener.name.clone()).collect();
    let places = archive.begin_outgoing(outgoing::Leaving { leaves, listeners, newest })?;
    if names.is_empty() {
        return Ok(None);
    }
    let places: BTreeMap<String, outgoing::Number> = names.into_iter().zip(places).collect();
    let moved = progress.moves.subscribe();
    let departures = Departures::start(archive.outgoing()?, to_archiver.clone(), moved, places);
    Ok(Some(departures.map_err(ArchiveError)?))
}

/// What the archive knows of the rooms in which something happened that it does not know yet.
fn rooms_of(
    replay: &[Item],
    reader: &mut dyn ArchiveReader,
) -> Result<Vec<(RoomName, Option<StoredRoom>)>, ArchiveError> {
    let mut rooms: Vec<(RoomName, Option<StoredRoom>)> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for item in replay {
        let name = match &item.record {
            Record::Entry(entry) => &entry.room,
            Record::Seen(seen) => &seen.room,
            _ => continue,
        };
        if !known.insert(name.clone()) {
            continue;
        }
        let question = Question::Room { room: name.clone(), tail: 0, tail_bytes: 0 };
        let Answer::Room(room) = reader.answer(&question)? else {
            return Err(other_answer());
        };
        rooms.push((name.clone(), room));
    }
    Ok(rooms)
}

fn other_answer() -> ArchiveError {
    ArchiveError("the archive gave an answer of another kind than was asked for".into())
}

impl Embedded {
    fn start(parts: Parts, sink: Sink) -> Result<Embedded, String> {
        let Parts { archive, journal, queued, keep, linger, progress, to_archiver, inbox } = parts;
        progress.set(archive.applied());
        let says = sink.clone();
        let on_event = move |event: FromJournal| match event {
            FromJournal::Kept { upto } => says(EngineSays::Kept { upto }),
            FromJournal::Failed { from, why, .. } => says(EngineSays::Failed { from, why }),
            FromJournal::Healed => says(EngineSays::Healed),
        };
        let (queue, counted) = (to_archiver.clone(), progress.clone());
        let to_archive = move |items: Arc<Vec<Item>>| {
            counted.behind_bytes.fetch_add(items.iter().map(weight).sum(), Relaxed);
            // The archiver ends only with the process.
            queue.send(ToArchiver::Items(items)).unwrap_or_default();
        };
        progress.behind_bytes.fetch_add(queued.iter().map(weight).sum(), Relaxed);
        if !queued.is_empty() {
            to_archiver.send(ToArchiver::Items(Arc::new(queued))).unwrap_or_default();
        }
        let mut readers = Vec::with_capacity(READERS);
        for n in 0..READERS {
            let reader = archive.reader().map_err(|error| error.to_string())?;
            readers.push(answering(n, reader, progress.clone(), to_archiver.clone(), sink.clone())?);
        }
        let committer = Committer::start(journal, Box::new(on_event), Box::new(to_archive));
        let archiver = Archiver::new(archive, progress.clone(), committer.clone(), keep, linger, sink);
        spawn("archive", move || archiver.run(&inbox))?;
        let readers = readers.try_into().expect("as many as asked for");
        Ok(Embedded { committer, readers, progress })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start the thread {name}: {error}"))
}

/// A thread that answers.
fn answering(
    n: usize,
    mut reader: Box<dyn ArchiveReader>,
    progress: Arc<Progress>,
    archiver: Sender<ToArchiver>,
    sink: Sink,
) -> Result<Sender<Ask>, String> {
    let (asks, inbox): (Sender<Ask>, Receiver<Ask>) = channel();
    spawn(&format!("reader-{n}"), move || {
        for ask in inbox {
            let hurry = || archiver.send(ToArchiver::Hurry).unwrap_or_default();
            let answers = if progress.wait_for(ask.after, hurry) {
                ask.questions.iter().map(|question| reader.answer(question)).collect::<Result<_, _>>()
            } else {
                Err(ArchiveError("the archive is behind; try again".into()))
            };
            let answers = answers.map_err(|error| error.to_string());
            sink(EngineSays::Answered { ticket: ask.ticket, answers });
        }
    })?;
    Ok(asks)
}

impl Engine for Embedded {
    fn keep(&mut self, items: Vec<Item>) {
        self.committer.append(items);
    }

    fn go_on(&mut self, next: Lsn) {
        self.committer.resume(next);
    }

    fn ask(&mut self, ask: Ask) {
        let is_search = ask.questions.iter().any(|question| matches!(question, Question::Find { .. }));
        if self.readers[usize::from(is_search)].send(ask).is_err() {
            // A thread of the store that ends without being told to has panicked, and the process with it.
            log::error!("store: the thread that reads the archive is gone");
        }
    }

    fn backlog_bytes(&self) -> u64 {
        self.progress.behind_bytes.load(Relaxed)
    }
}

/// Time since something was last done.
pub(super) struct Since(Option<Instant>);

impl Since {
    pub(super) fn never() -> Since {
        Since(None)
    }

    /// Whether it is due again; then it counts as done now.
    pub(super) fn due(&mut self, pause: Duration) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= pause);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
