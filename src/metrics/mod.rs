//! What the server counts. Whoever works counts here with relaxed atomics; a scrape adds the worker
//! threads up and shows them by the one table in [`table`]. Knows nothing of those who count.
//!
//! Deliveries are message copies on their way to readers. When nothing is under way in this instant:
//! accepted = delivered + waiting + dropped (all reasons together). What is said while a reader is behind in
//! a room is not on its way to it: such a copy is accepted only if it is caught up later, so that copies
//! passed over for a gap are in none of these numbers; `lanes_cut` tells how often readers fell behind.

pub mod process;
pub mod sheet;
pub mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::registry::Registry;

use crate::metrics::sheet::Sheet;

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
    /// Times that a reader was taken out of a room's live stream because it was too slow.
    pub lanes_cut: Count,
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
    /// How late the loop was at its worst in the last ten seconds, in microseconds.
    pub loop_late_us: Level,
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
    /// … because the store could not keep them.
    pub messages_refused_not_stored: Count,
    /// Steps that wait until something is kept.
    pub unkept: Level,
    /// Members that are behind.
    pub behind: Level,
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
    /// Polls over plain HTTP that were let in.
    pub polls: Count,
}

/// The words of `err` frames and of refused HTTP requests that have a row of their own.
const WHYS: [&str; 30] = [
    "bad-json",
    "unknown-type",
    "bad-room",
    "too-old-version",
    "handshake",
    "bad-token",
    "expired",
    "bad-key",
    "closed",
    "no-session",
    "not-stored",
    "not-allowed",
    "not-joined",
    "muted",
    "banned",
    "frozen",
    "slow-mode",
    "foreign-origin",
    "no-room",
    "no-entry",
    "not-found",
    "method",
    "slow",
    "epoch-changed",
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
        self.extras.lock().unwrap_or_else(PoisonError::into_inner).push(extra);
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
        f.debug_struct("Metrics").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Sample name with labels → value; checks the form of every line on the way.
    fn samples(metrics: &Arc<Metrics>) -> BTreeMap<String, f64> {
        let text = metrics.encode();
        assert!(text.ends_with("# EOF\n"));
        let (mut samples, mut described) = (BTreeMap::new(), String::new());
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(!words.is_empty() && words != ".", "{name} has no help");
                described = name.to_owned();
                continue;
            }
            if line.starts_with("# TYPE ") {
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&described), "{name} stands below {described}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
        samples
    }

    #[test]
    fn every_delivery_is_somewhere() {
        let metrics = Metrics::new(2);
        for (index, n) in [(0, 10), (1, 1 << 60)] {
            let worker = metrics.worker(index);
            worker.deliveries_accepted.add(n);
            worker.deliveries_waiting.add(n);
            worker.deliveries_waiting.sub(5);
            worker.deliveries_delivered.add(2);
            worker.deliveries_dropped_slow.inc();
            worker.deliveries_dropped_closed.add(2);
        }
        let of = |name: &str| samples(&metrics)[&format!("roomcast_deliveries_{name}")];
        assert_eq!(of("accepted_total"), 10.0 + (1u64 << 60) as f64);
        assert_eq!(of("delivered_total"), 4.0);
        assert_eq!(
            (of("dropped_total{reason=\"slow\"}"), of("dropped_total{reason=\"closed\"}")),
            (2.0, 4.0)
        );
        let text = metrics.encode();
        assert!(
            text.contains(&format!("roomcast_deliveries_accepted_total {}\n", (1u64 << 60) + 10)),
            "all digits"
        );
        assert!(text.contains(&format!("roomcast_deliveries_waiting {}\n", 1u64 << 60)), "all digits");
    }

    #[test]
    fn the_names_that_others_rely_on_are_there() {
        let shown = samples(&Metrics::new(1));
        for name in [
            "roomcast_deliveries_waiting",
            "roomcast_socket_writes_total",
            "roomcast_messages_accepted_total{via=\"session\"}",
            "roomcast_messages_accepted_total{via=\"queue\"}",
            "roomcast_messages_accepted_total{via=\"api\"}",
            "roomcast_messages_refused_total{reason=\"busy\"}",
            "roomcast_upgrades_refused_total{reason=\"origin\"}",
            "roomcast_sessions",
            "roomcast_rooms",
            "roomcast_members",
            "roomcast_history_bytes",
        ] {
            assert_eq!(shown.get(name), Some(&0.0), "{name}");
        }
    }

    #[test]
    fn a_process_shows_its_own_figures() {
        let shown = samples(&Metrics::new(1));
        assert!(shown["process_resident_memory_bytes"] > 100_000.0);
        assert!(shown["process_open_fds"] >= 3.0);
        assert!(shown["process_start_time_seconds"] > 1.7e9);
        assert!(shown.contains_key("process_cpu_seconds_total"));
    }

    #[test]
    fn an_unknown_word_gets_no_row_of_its_own() {
        let metrics = Metrics::new(1);
        metrics.errors.count("rate");
        metrics.errors.count("made up by a client");
        let shown = samples(&metrics);
        assert_eq!(shown["roomcast_errors_total{why=\"rate\"}"], 1.0);
        assert_eq!(shown["roomcast_errors_total{why=\"other\"}"], 1.0);
    }

    #[test]
    fn who_counts_elsewhere_is_shown_too() {
        let metrics = Metrics::new(1);
        metrics.add(Box::new(|sheet| {
            sheet.gauge("roomcast_queue_connected", "Whether the queue is there", 1);
            sheet.counters("roomcast_queue_dead", "Items that could not be read", "reason", [("json", 3)]);
        }));
        let shown = samples(&metrics);
        assert_eq!(shown["roomcast_queue_connected"], 1.0);
        assert_eq!(shown["roomcast_queue_dead_total{reason=\"json\"}"], 3.0);
    }
}
