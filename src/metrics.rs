//! What the server counts, and the one table of how it is shown (OpenMetrics text). Whoever works counts
//! here with relaxed atomics; a scrape adds the worker threads up. Knows nothing of those who count.
//!
//! Deliveries are message copies on their way to readers. When nothing is under way in this instant:
//! accepted = delivered + waiting + dropped (all reasons together).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// So many less; never below what was added.
    pub fn sub(&self, n: u64) {
        let before = self.0.fetch_sub(n, Ordering::Relaxed);
        debug_assert!(before >= n, "a level of {before} cannot sink by {n}");
    }

    /// Exactly so many.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// How many now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker thread counts. On cache lines of its own, so that threads do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Message copies meant for readers of this worker.
    pub deliveries_accepted: Count,
    /// Copies that the kernel took.
    pub deliveries_delivered: Count,
    /// Copies in outboxes.
    pub deliveries_waiting: Level,
    /// Copies thrown away because their reader was too slow and was closed.
    pub deliveries_dropped_slow: Count,
    /// Copies thrown away because their reader went away.
    pub deliveries_dropped_closed: Count,
    /// Writes to sockets.
    pub socket_writes: Count,
    /// Bytes that the kernel took.
    pub socket_bytes_out: Count,
    /// Bytes read.
    pub socket_bytes_in: Count,
    /// WebSocket messages of clients.
    pub messages_in: Count,
    /// WebSocket connections begun.
    pub connections_opened: Count,
    /// WebSocket connections ended.
    pub connections_closed: Count,
    /// Sessions there now.
    pub sessions: Level,
    /// Bytes in outboxes.
    pub outbox_bytes: Level,
    /// Pings written.
    pub pings_sent: Count,
}

/// What the chat server counts.
#[derive(Debug, Default)]
pub struct ChatCounters {
    /// Rooms open.
    pub rooms: Level,
    /// Places of sessions in rooms.
    pub members: Level,
    /// Sessions that have said who they are.
    pub sessions: Level,
    /// Messages that got a place, said by sessions.
    pub messages_accepted_session: Count,
    /// Messages that got a place, out of a queue.
    pub messages_accepted_queue: Count,
    /// Messages that got a place, through the server API.
    pub messages_accepted_api: Count,
    /// Repeats that were known by their id.
    pub messages_duplicate: Count,
    /// Refused because too much was under way to the sockets.
    pub messages_refused_busy: Count,
    /// Refused because the server stops.
    pub messages_refused_draining: Count,
    /// Refused because no room can be added.
    pub messages_refused_rooms: Count,
    /// Refused by the application's own handler.
    pub messages_refused_handler: Count,
    /// Bytes in the hot history of all rooms.
    pub history_bytes: Level,
    /// Entries in the hot history of all rooms.
    pub history_entries: Level,
    /// Message ids remembered.
    pub dedup_ids: Level,
    /// Bytes under way to the worker threads.
    pub hub_queued_bytes: Level,
}

/// WebSocket requests that were turned away.
#[derive(Debug, Default)]
pub struct DoorCounters {
    /// The page's origin is not allowed.
    pub refused_origin: Count,
    /// Too many connections from one address.
    pub refused_address: Count,
    /// Too many connections in all.
    pub refused_full: Count,
    /// The handshake is wrong.
    pub refused_handshake: Count,
    /// The server stops.
    pub refused_draining: Count,
    /// Nothing is at that path.
    pub refused_path: Count,
}

/// The words of `err` frames and of refused HTTP requests that have a row of their own.
const WHYS: [&str; 22] = [
    "bad-json",
    "unknown-type",
    "bad-room",
    "bad-id",
    "too-old-version",
    "bad-token",
    "expired",
    "bad-key",
    "closed",
    "not-allowed",
    "not-joined",
    "foreign-origin",
    "no-room",
    "no-entry",
    "not-found",
    "method",
    "too-big",
    "rate",
    "rooms",
    "busy",
    "draining",
    "internal",
];

/// Errors told to clients, by their `why`.
#[derive(Debug, Default)]
pub struct ErrorCounters {
    known: [Count; WHYS.len()],
    other: Count,
}

impl ErrorCounters {
    /// One more error with this word; words without a row of their own are counted together.
    pub fn count(&self, why: &str) {
        let place = WHYS.iter().position(|known| *known == why);
        place.map_or(&self.other, |place| &self.known[place]).inc();
    }
}

/// Adds the families of somebody who counts elsewhere to every scrape.
pub type Extra = Box<dyn Fn(&mut Sheet) + Send + Sync>;

/// Everything that is counted.
pub struct Metrics {
    workers: Vec<Arc<WorkerCounters>>,
    /// Counted by the chat server.
    pub chat: ChatCounters,
    /// Counted at the door.
    pub door: DoorCounters,
    /// Counted wherever an error is told.
    pub errors: ErrorCounters,
    extras: Mutex<Vec<Extra>>,
    started: SystemTime,
}

impl Metrics {
    /// For so many worker threads.
    pub fn new(workers: usize) -> Arc<Metrics> {
        Arc::new(Metrics {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            chat: ChatCounters::default(),
            door: DoorCounters::default(),
            errors: ErrorCounters::default(),
            extras: Mutex::default(),
            started: SystemTime::now(),
        })
    }

    /// The counters of one worker thread. Panics if there are not so many.
    pub fn worker(&self, index: usize) -> Arc<WorkerCounters> {
        Arc::clone(&self.workers[index])
    }

    /// Shows more at every scrape.
    pub fn add(&self, extra: Extra) {
        self.extras
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(extra);
    }

    /// All figures as OpenMetrics text.
    pub fn encode(self: &Arc<Metrics>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut text = String::with_capacity(8 << 10);
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes every write");
        text
    }

    fn sum(&self, of: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(worker)).sum()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sheet = Sheet::default();
        self.deliveries(&mut sheet);
        self.connections(&mut sheet);
        self.rooms(&mut sheet);
        self.refusals(&mut sheet);
        process(&mut sheet, self.started);
        for extra in self.extras.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            extra(&mut sheet);
        }
        sheet
            .families
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

/// The table of names. Counters get `_total` when they are written.
impl Metrics {
    fn deliveries(&self, sheet: &mut Sheet) {
        // Read before what comes later in a copy's life, so that a scrape never shows more going out than in.
        let dropped = [
            ("slow", self.sum(|w| w.deliveries_dropped_slow.get())),
            ("closed", self.sum(|w| w.deliveries_dropped_closed.get())),
        ];
        let delivered = self.sum(|w| w.deliveries_delivered.get());
        let waiting = self.sum(|w| w.deliveries_waiting.get());
        let accepted = self.sum(|w| w.deliveries_accepted.get());
        sheet.counter(
            "roomcast_deliveries_accepted",
            "Message copies meant for a reader; accepted = delivered + waiting + dropped",
            accepted,
        );
        sheet.counter(
            "roomcast_deliveries_delivered",
            "Message copies handed to the kernel whole",
            delivered,
        );
        sheet.gauge(
            "roomcast_deliveries_waiting",
            "Message copies in outboxes",
            waiting,
        );
        sheet.counters(
            "roomcast_deliveries_dropped",
            "Message copies thrown away with their reader's connection",
            "reason",
            dropped,
        );
    }

    fn connections(&self, sheet: &mut Sheet) {
        sheet.counter(
            "roomcast_socket_writes",
            "Writes to WebSocket connections",
            self.sum(|w| w.socket_writes.get()),
        );
        sheet.counter(
            "roomcast_socket_out_bytes",
            "Bytes written to WebSocket connections",
            self.sum(|w| w.socket_bytes_out.get()),
        );
        sheet.counter(
            "roomcast_socket_in_bytes",
            "Bytes read from WebSocket connections",
            self.sum(|w| w.socket_bytes_in.get()),
        );
        sheet.counter(
            "roomcast_messages_in",
            "WebSocket messages read",
            self.sum(|w| w.messages_in.get()),
        );
        sheet.counter(
            "roomcast_connections_opened",
            "WebSocket connections begun",
            self.sum(|w| w.connections_opened.get()),
        );
        sheet.counter(
            "roomcast_connections_closed",
            "WebSocket connections ended",
            self.sum(|w| w.connections_closed.get()),
        );
        sheet.gauge(
            "roomcast_connections",
            "WebSocket connections there now",
            self.sum(|w| w.sessions.get()),
        );
        sheet.gauge(
            "roomcast_outbox_bytes",
            "Bytes waiting for slow readers",
            self.sum(|w| w.outbox_bytes.get()),
        );
        sheet.counter(
            "roomcast_pings_sent",
            "WebSocket pings written",
            self.sum(|w| w.pings_sent.get()),
        );
    }

    fn rooms(&self, sheet: &mut Sheet) {
        let chat = &self.chat;
        sheet.gauge(
            "roomcast_sessions",
            "Sessions that have said who they are",
            chat.sessions.get(),
        );
        sheet.gauge("roomcast_rooms", "Rooms open", chat.rooms.get());
        sheet.gauge(
            "roomcast_members",
            "Places of sessions in rooms",
            chat.members.get(),
        );
        let accepted = [
            ("session", chat.messages_accepted_session.get()),
            ("queue", chat.messages_accepted_queue.get()),
            ("api", chat.messages_accepted_api.get()),
        ];
        sheet.counters(
            "roomcast_messages_accepted",
            "Messages that got their place in a room, by the door they came through",
            "via",
            accepted,
        );
        sheet.counter(
            "roomcast_messages_duplicate",
            "Repeats known by their id, said once only",
            chat.messages_duplicate.get(),
        );
        let refused = [
            ("busy", chat.messages_refused_busy.get()),
            ("draining", chat.messages_refused_draining.get()),
            ("rooms", chat.messages_refused_rooms.get()),
            ("handler", chat.messages_refused_handler.get()),
        ];
        sheet.counters(
            "roomcast_messages_refused",
            "Messages that got no place",
            "reason",
            refused,
        );
        sheet.gauge(
            "roomcast_history_bytes",
            "Bytes of the hot history of all rooms",
            chat.history_bytes.get(),
        );
        sheet.gauge(
            "roomcast_history_entries",
            "Entries of the hot history of all rooms",
            chat.history_entries.get(),
        );
        sheet.gauge(
            "roomcast_dedup_ids",
            "Message ids remembered in all rooms",
            chat.dedup_ids.get(),
        );
        sheet.gauge(
            "roomcast_hub_queued_bytes",
            "Bytes under way to the worker threads",
            chat.hub_queued_bytes.get(),
        );
    }

    fn refusals(&self, sheet: &mut Sheet) {
        let door = &self.door;
        let refused = [
            ("origin", door.refused_origin.get()),
            ("address", door.refused_address.get()),
            ("full", door.refused_full.get()),
            ("handshake", door.refused_handshake.get()),
            ("draining", door.refused_draining.get()),
            ("path", door.refused_path.get()),
        ];
        sheet.counters(
            "roomcast_upgrades_refused",
            "WebSocket requests turned away",
            "reason",
            refused,
        );
        let known = WHYS.into_iter().zip(self.errors.known.iter().map(Count::get));
        let all = known.chain([("other", self.errors.other.get())]);
        sheet.counters("roomcast_errors", "Errors told to clients", "why", all);
    }
}

/// The families of one scrape, in the order they are shown.
#[derive(Debug, Default)]
pub struct Sheet {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    grows: bool,
    label: Option<&'static str>,
    samples: Vec<(&'static str, f64)>,
}

impl Sheet {
    /// A number that only grows. `name` without `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.push(Family {
            name,
            help,
            grows: true,
            label: None,
            samples: vec![("", value as f64)],
        });
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.push(Family {
            name,
            help,
            grows: false,
            label: None,
            samples: vec![("", value as f64)],
        });
    }

    /// Numbers that only grow, told apart by a label.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let samples = values.into_iter().map(|(value, n)| (value, n as f64)).collect();
        self.push(Family {
            name,
            help,
            grows: true,
            label: Some(label),
            samples,
        });
    }

    /// Numbers that go up and down, told apart by a label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let samples = values.into_iter().map(|(value, n)| (value, n as f64)).collect();
        self.push(Family {
            name,
            help,
            grows: false,
            label: Some(label),
            samples,
        });
    }

    fn push(&mut self, family: Family) {
        debug_assert!(
            !family.name.ends_with("_total"),
            "{}: the ending is added when it is written",
            family.name
        );
        debug_assert!(
            self.families.iter().all(|other| other.name != family.name),
            "{} is there twice",
            family.name
        );
        self.families.push(family);
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for_each_sample(self, encoder)
    }
}

fn for_each_sample(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let kind = match family.grows {
        true => ConstCounter::new(0u64).metric_type(),
        false => ConstGauge::new(0i64).metric_type(),
    };
    let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for (value, n) in &family.samples {
        let labels = family.label.map(|label| [(label, *value)]);
        let labelled = match &labels {
            Some(labels) => metric.encode_family(labels)?,
            None => metric.encode_family(&NO_LABELS)?,
        };
        match family.grows {
            true => ConstCounter::new(*n).encode(labelled)?,
            false => ConstGauge::new(*n).encode(labelled)?,
        }
    }
    Ok(())
}

const NO_LABELS: [(&str, &str); 0] = [];

/// Clock ticks per second in /proc: fixed at 100 by Linux for what programs see, whatever the kernel uses.
const TICKS_PER_SECOND: f64 = 100.0;

/// The usual figures of a process, where /proc has them. A figure that is not to be had is left out.
fn process(sheet: &mut Sheet, started: SystemTime) {
    let mut show = |name, help, grows, value: Option<f64>| {
        if let Some(value) = value {
            sheet.push(Family {
                name,
                help,
                grows,
                label: None,
                samples: vec![("", value)],
            });
        }
    };
    show(
        "process_cpu_seconds",
        "CPU time of this process",
        true,
        cpu_seconds(),
    );
    show(
        "process_resident_memory_bytes",
        "Memory in use",
        false,
        status_kib("VmRSS:").map(|kib| kib * 1024.0),
    );
    let open = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|list| list.count() as f64);
    show("process_open_fds", "Open file descriptors", false, open);
    let started = started
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|age| age.as_secs_f64());
    show(
        "process_start_time_seconds",
        "Start of this process, Unix time",
        false,
        started,
    );
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets and may contain blanks; user and system time are
    // the 14th and 15th, so the 12th and 13th after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn status_kib(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
