//! Opens and ends what a backend is told and asked by. Called by the wiring alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::actors::chat_server::{Tap, Telling};
use crate::actors::hook_poster::{HookPoster, HookPosterParts, wait_until_empty};
use crate::chat::names::RoomName;
use crate::clock;
use crate::config::Config;
use crate::config::backing::Backing;
use crate::forwards::feed::Wanted;
use crate::hooks::figures::{AllAskFigures, AskFigures, PostFigures};
use crate::hooks::post::Post;
use crate::hooks::question::Questions;
use crate::hooks::settings::{Event, HooksSettings, patterns};
use crate::hooks::signature::Keys;
use crate::hooks::target::{HookTarget, HookTargetParts};
use crate::metrics::Metrics;
use crate::metrics::sheet::Sheet;
use crate::store::archive::ArchiveError;
use crate::store::record::Record;
use crate::store::spool::{Spool, Wants};
use crate::traces::Tracer;
use crate::wiring::ServeError;

/// Bytes of records on their way to a spool in memory; what comes beyond it is dropped and counted.
const TAPPED_BYTES_MAX: u64 = 64 << 20;
/// Records that go into a spool in memory together.
const TAPPED_MAX: usize = 1_000;

/// What hooks need, open; nothing is posted yet.
pub struct Hooks {
    spool: Option<Arc<Spool>>,
    filled: Filled,
    figures: Arc<PostFigures>,
    asked: Arc<AllAskFigures>,
    settings: HooksSettings,
    message_bytes: usize,
    /// Records that did not get into a spool in memory.
    untapped: Arc<AtomicU64>,
    tracer: Tracer,
}

/// How events get into the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// All, with the archive of this node's own.
    ByJournal,
    /// All, by a tap; it ends with the process.
    InMemory,
    /// Those of sessions, by a tap; entries of rooms come from Redis.
    BesideRedis,
}

/// What posts.
pub struct Posting {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    spool: Arc<Spool>,
    fleeting: bool,
}

impl Hooks {
    /// Opens the spool, if something is to be posted.
    pub fn open(config: &Config, node: &str, tracer: &Tracer) -> Result<Hooks, ServeError> {
        let settings = config.hooks.clone();
        let filled = match config.backing().map_err(ServeError::Config)? {
            Backing::Store(_) => Filled::ByJournal,
            Backing::Memory => Filled::InMemory,
            Backing::Redis(_) => Filled::BesideRedis,
        };
        let mut spool = None;
        if settings.is_used() {
            let file = config.hooks_file(node).map_err(ServeError::Config)?;
            let opened = open_spool(file.as_deref(), wants_of(&settings), filled);
            spool = Some(Arc::new(opened.map_err(|error| ServeError::System(format!("hooks: {error}")))?));
        }
        Ok(Hooks {
            spool,
            filled,
            figures: Arc::default(),
            asked: Arc::default(),
            settings,
            message_bytes: config.limits.message_bytes,
            untapped: Arc::default(),
            tracer: tracer.clone(),
        })
    }

    /// What a store fills beside its archive.
    pub fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.clone().filter(|_| self.filled == Filled::ByJournal)
    }

    /// The rooms whose entries come from Redis to be posted; none where they come another way, or not at all.
    pub fn wanted(&self) -> Option<Wanted> {
        let is_wanted = self.filled == Filled::BesideRedis && self.settings.wants(Event::OnMessage);
        let rooms = patterns(&self.settings.rooms);
        let wanted = move |room: &RoomName| rooms.iter().any(|pattern| pattern.matches(room.as_str()));
        is_wanted.then(|| Arc::new(wanted) as Wanted)
    }

    /// Posts entries that come from Redis.
    pub fn target(&self) -> Result<HookTarget, ServeError> {
        let spool = self.spool.clone();
        let spool = spool.ok_or_else(|| ServeError::System("hooks: nothing is to be posted".into()))?;
        let HooksSettings { url, batch, keep, .. } = &self.settings;
        Ok(HookTarget::new(HookTargetParts {
            post: self.post()?,
            url: url.clone(),
            batch: *batch,
            keep_ms: keep.millis(),
            spool,
            figures: self.figures.clone(),
            tracer: self.tracer.clone(),
        }))
    }

    fn post(&self) -> Result<Post, ServeError> {
        let HooksSettings { secret, timeout, .. } = &self.settings;
        let keys =
            Keys::read(secret).map_err(|error| ServeError::Config(format!("hooks.secret: {error}")))?;
        Ok(Post::new(keys, timeout.duration(), self.settings.reach()))
    }

    /// What the chat server tells.
    pub fn telling(&self) -> Result<Option<Telling>, ServeError> {
        let Some(spool) = &self.spool else { return Ok(None) };
        let tap = match self.filled {
            Filled::ByJournal => None,
            Filled::InMemory | Filled::BesideRedis => Some(tap_into(spool.clone(), self.untapped.clone())?),
        };
        Ok(Some(Telling {
            opens: self.settings.wants(Event::OnOpen),
            closes: self.settings.wants(Event::OnClose),
            errors: self.settings.wants(Event::OnError),
            tap,
            ..Telling::new()
        }))
    }

    /// Asks the questions of a worker thread; none when nothing is asked. On that thread.
    pub fn questions(&self) -> Option<Questions> {
        let HooksSettings { ask, secret, .. } = &self.settings;
        // The check of the configuration has read the secret.
        let keys = Keys::read(secret).ok().filter(|_| ask.is_used())?;
        let post = Post::new(keys, ask.timeout.duration(), self.settings.reach());
        Some(Questions::new(ask.clone(), post, self.message_bytes, self.asked.clone()))
    }

    /// Starts to post, and puts the figures among the others.
    pub fn start(&self, metrics: &Metrics) -> Result<Option<Posting>, ServeError> {
        if self.settings.ask.is_used() {
            let asked = self.asked.clone();
            metrics.add(Box::new(move |sheet| write_asked(sheet, &asked)));
        }
        let Some(spool) = self.spool.clone() else { return Ok(None) };
        let HooksSettings { url, batch, keep, .. } = &self.settings;
        let parts = HookPosterParts {
            spool: spool.clone(),
            post: self.post()?,
            url: url.clone(),
            batch: *batch,
            keep_ms: keep.millis(),
            figures: self.figures.clone(),
            tracer: self.tracer.clone(),
        };
        let (figures, untapped) = (self.figures.clone(), self.untapped.clone());
        metrics.add(Box::new(move |sheet| write_posted(sheet, &figures, untapped.load(Relaxed))));
        let (stop, stopped) = watch::channel(false);
        let task = actix_rt::spawn(HookPoster::new(parts).run(stopped));
        Ok(Some(Posting { stop, task, spool, fleeting: self.filled == Filled::InMemory }))
    }
}

impl Posting {
    /// Ends the request that is under way. Where what waits would be lost, it is posted first, if that takes no longer
    /// than `patience`.
    pub async fn stop(self, patience: Duration) {
        if self.fleeting {
            wait_until_empty(self.spool, patience).await;
        }
        // An error: it has ended by itself, by a panic, and the log has told.
        self.stop.send(true).unwrap_or_default();
        if timeout(patience, self.task).await.is_err() {
            log::warn!(
                "hooks: the backend did not answer in time; it gets the last events again after the restart"
            );
        }
    }
}

/// The spool of a file, or one in memory.
fn open_spool(file: Option<&Path>, wants: Wants, filled: Filled) -> Result<Spool, ArchiveError> {
    let Some(file) = file else { return Spool::in_memory(wants) };
    let spool = Spool::open(file, wants)?;
    if filled == Filled::BesideRedis {
        // Where a journal fills it, this is done behind what the journal still has.
        spool.end_sessions()?;
    }
    Ok(spool)
}

fn wants_of(settings: &HooksSettings) -> Wants {
    Wants {
        opens: settings.wants(Event::OnOpen),
        messages: settings.wants(Event::OnMessage),
        closes: settings.wants(Event::OnClose),
        errors: settings.wants(Event::OnError),
        rooms: patterns(&settings.rooms),
        bytes_max: settings.spool_bytes,
    }
}

/// About the bytes of a record on its way.
fn weight(record: &Record) -> u64 {
    let large = match record {
        Record::Entry(entry) => entry.line.len(),
        Record::Event(event) => event.bytes(),
        _ => 0,
    };
    large as u64 + 128
}

/// A thread that puts what comes through the tap into a spool.
fn tap_into(spool: Arc<Spool>, lost: Arc<AtomicU64>) -> Result<Tap, ServeError> {
    let under_way = Arc::new(AtomicU64::new(0));
    let (records, inbox): (Sender<Record>, Receiver<Record>) = channel();
    let counted = under_way.clone();
    let work = move || {
        while let Ok(first) = inbox.recv() {
            let mut batch = vec![first];
            batch.extend(inbox.try_iter().take(TAPPED_MAX));
            counted.fetch_sub(batch.iter().map(weight).sum(), Relaxed);
            if let Err(error) = spool.take(&batch) {
                log::error!("hooks: {} events are lost: {error}", batch.len());
            }
        }
    };
    let thread = thread::Builder::new().name("hooks".into()).spawn(work);
    thread.map_err(|error| ServeError::System(format!("cannot start the thread hooks: {error}")))?;
    Ok(Box::new(move |record| {
        let bytes = weight(&record);
        let is_full = under_way.fetch_add(bytes, Relaxed) > TAPPED_BYTES_MAX;
        if is_full || records.send(record).is_err() {
            under_way.fetch_sub(bytes, Relaxed);
            let before = lost.fetch_add(1, Relaxed);
            if (before + 1).is_power_of_two() {
                log::error!(
                    "hooks: {} events were dropped, because they come faster than they are noted",
                    before + 1
                );
            }
        }
    }))
}

fn write_posted(sheet: &mut Sheet, figures: &PostFigures, untapped: u64) {
    let of = |figure: &AtomicU64| figure.load(Relaxed);
    sheet.counter("roomcast_hooks_sent", "Events that the backend has taken", of(&figures.sent));
    sheet.counter("roomcast_hooks_requests", "Requests with events that it has taken", of(&figures.requests));
    sheet.counter("roomcast_hooks_retried", "Requests that are made again later", of(&figures.retried));
    sheet.counter("roomcast_hooks_failed", "Events that went among the dead letters", of(&figures.failed));
    let dropped = of(&figures.dropped) + untapped;
    sheet.counter("roomcast_hooks_dropped", "Events dropped because too many waited", dropped);
    sheet.gauge("roomcast_hooks_waiting", "Events that wait for the backend", of(&figures.waiting));
    sheet.gauge("roomcast_hooks_bytes", "Bytes of events that wait, and of dead letters", of(&figures.bytes));
    let oldest = match of(&figures.oldest_ms) {
        0 => 0,
        ts => clock::wall_ms().saturating_sub(ts),
    };
    sheet.gauge("roomcast_hooks_oldest_milliseconds", "Age of the oldest event that waits", oldest);
    sheet.gauge("roomcast_hooks_reached", "1 while the backend took the last request", of(&figures.reached));
}

fn write_asked(sheet: &mut Sheet, figures: &AllAskFigures) {
    let kinds = [("connect", &figures.connect), ("join", &figures.join), ("publish", &figures.publish)];
    let each = |read: fn(&AskFigures) -> &AtomicU64| {
        kinds.map(|(kind, figures)| (kind, read(figures).load(Relaxed)))
    };
    type Read = fn(&AskFigures) -> &AtomicU64;
    let families: [(&'static str, &'static str, Read); 5] = [
        ("roomcast_asked_allowed", "Questions that the backend answered with yes", |one| &one.allowed),
        ("roomcast_asked_refused", "Questions that it answered with no", |one| &one.refused),
        ("roomcast_asked_failed", "Questions without an answer in time, or with an unreadable one", |one| {
            &one.failed
        }),
        ("roomcast_asked_turned_away", "Questions not asked because too many were open", |one| {
            &one.turned_away
        }),
        ("roomcast_asked_microseconds", "Time that all answers together took", |one| &one.waited_us),
    ];
    for (name, help, read) in families {
        sheet.counters(name, help, "question", each(read));
    }
    sheet.gauge("roomcast_asked_open", "Questions without an answer now", figures.open.load(Relaxed));
}
