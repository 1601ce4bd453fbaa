//! What the client threads and the measuring thread share: the phase, the counters and the outcome at the end. The
//! measuring thread holds a `Client`; the loops see `Shared`. Counters are atomics on lines of their own, written by
//! one thread each (a room's count by all that have listeners in it, once a read).

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::event_loop::EventLoop;
use super::plan::Plan;
use crate::histogram::Histogram;
use crate::sys;
use crate::tally::Faults;

/// What the client threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Connect = 0,
    /// Speakers speak, stalled listeners do not read.
    Speak = 1,
    /// Nobody speaks; what is under way arrives.
    Drain = 2,
    /// As `Drain`, and the stalled listeners read what is left for them.
    Resume = 3,
    Stop = 4,
}

/// What one thread has counted so far.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub ready: AtomicU64,
    pub failed: AtomicU64,
    pub delivered: AtomicU64,
    pub sent: AtomicU64,
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
}

/// One room, as all threads see it.
#[repr(align(128))]
pub(super) struct Room {
    /// Deliveries to all its listeners, the stalled ones not counted while they stall.
    pub delivered: AtomicU64,
    /// What each entry of the room starts with, up to the offset.
    pub line_start: String,
}

pub(super) struct Shared {
    pub plan: Plan,
    phase: AtomicU8,
    /// Only messages stamped between these two count for latency.
    measure_from_ns: AtomicU64,
    measure_until_ns: AtomicU64,
    pub counters: Vec<Counters>,
    pub rooms: Vec<Room>,
    /// Newest sequence of each publisher.
    pub sent: Vec<AtomicU32>,
    complaint: Mutex<Option<String>>,
}

impl Shared {
    pub fn new(plan: Plan) -> Self {
        let room = |room| Room {
            delivered: AtomicU64::new(0),
            line_start: format!("{{\"t\":\"msg\",\"r\":\"{}\",\"s\":", Plan::room_name(room)),
        };
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            measure_from_ns: AtomicU64::new(u64::MAX),
            measure_until_ns: AtomicU64::new(u64::MAX),
            counters: (0..plan.threads).map(|_| Counters::default()).collect(),
            rooms: (0..plan.rooms).map(room).collect(),
            sent: (0..plan.publishers()).map(|_| AtomicU32::new(0)).collect(),
            complaint: Mutex::new(None),
            plan,
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Connect,
            1 => Phase::Speak,
            2 => Phase::Drain,
            3 => Phase::Resume,
            _ => Phase::Stop,
        }
    }

    pub fn measures(&self, stamped_ns: u64) -> bool {
        (self.measure_from_ns.load(Relaxed)..self.measure_until_ns.load(Relaxed)).contains(&stamped_ns)
    }

    /// Keeps the first thing that looked wrong, for a person to read.
    pub fn complain(&self, text: impl FnOnce() -> String) {
        let mut complaint = self.complaint.lock().expect("no thread panics while it complains");
        complaint.get_or_insert_with(|| text().chars().take(400).collect());
    }

    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().expect("no thread panics while it complains").clone()
    }

    fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| counter(counters).load(Relaxed)).sum()
    }
}

/// Adds to a counter that only the calling thread writes; cheaper than an atomic addition.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}

/// What a client thread, or all of them, found in a whole run.
#[derive(Default)]
pub struct Outcome {
    pub latency_ns: Histogram,
    pub faults: Faults,
    /// How late the schedule itself was at its worst (rate only).
    pub lag_max_ns: u64,
    pub acknowledged: u64,
    /// Messages published in the whole run.
    pub sent: u64,
    /// `gap` and `skip` lines: losses that the server told.
    pub told_gaps: u64,
    /// Stalled listeners that the server closed, and what the stalled ones read at the end.
    pub stalled_closed: u64,
    pub stalled_heard: u64,
}

impl Outcome {
    fn merge(&mut self, other: &Self) {
        self.latency_ns.merge(&other.latency_ns);
        self.faults += other.faults;
        self.lag_max_ns = self.lag_max_ns.max(other.lag_max_ns);
        self.acknowledged += other.acknowledged;
        self.told_gaps += other.told_gaps;
        self.stalled_closed += other.stalled_closed;
        self.stalled_heard += other.stalled_heard;
    }
}

/// The counters at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at_ns: u64,
    pub delivered: u64,
    pub sent: u64,
    pub reads: u64,
    pub bytes: u64,
}

/// A running client side.
pub struct Client {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Outcome>>>,
}

impl Client {
    /// Starts the threads; they connect and join at once.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(plan));
        let spawn = |thread| {
            let shared = shared.clone();
            let work = move || EventLoop::new(&shared, thread)?.run();
            std::thread::Builder::new().name(format!("client-{thread}")).spawn(work)
        };
        let threads = (0..shared.plan.threads).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    pub fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Relaxed);
    }

    pub fn measure_from(&self, at_ns: u64) {
        self.shared.measure_from_ns.store(at_ns, Relaxed);
    }

    pub fn measure_until(&self, at_ns: u64) {
        self.shared.measure_until_ns.store(at_ns, Relaxed);
    }

    pub fn ready(&self) -> u64 {
        self.shared.sum(|counters| &counters.ready)
    }

    pub fn failed(&self) -> u64 {
        self.shared.sum(|counters| &counters.failed)
    }

    /// True when a thread has ended before it was told to.
    pub fn broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    pub fn now(&self) -> Moment {
        Moment {
            at_ns: sys::monotonic_ns(),
            delivered: self.shared.sum(|counters| &counters.delivered),
            sent: self.shared.sum(|counters| &counters.sent),
            reads: self.shared.sum(|counters| &counters.reads),
            bytes: self.shared.sum(|counters| &counters.bytes),
        }
    }

    /// Deliveries that all messages sent so far have to make.
    pub fn deliveries_due(&self) -> u64 {
        let plan = &self.shared.plan;
        let per_room = plan.publishers_per_room().max(1);
        let sent = self.shared.sent.iter().enumerate();
        sent.map(|(publisher, sent)| {
            u64::from(sent.load(Relaxed)) * plan.readers_of(publisher / per_room) as u64
        })
        .sum()
    }

    /// The first thing that looked wrong, if any.
    pub fn complaint(&self) -> Option<String> {
        self.shared.complaint()
    }

    /// Stops the threads, closes all connections and sums up.
    pub fn finish(self) -> io::Result<Outcome> {
        self.enter(Phase::Stop);
        let mut outcome = Outcome::default();
        for thread in self.threads {
            let part = thread.join().map_err(|_| io::Error::other("a client thread panicked"))??;
            outcome.merge(&part);
        }
        outcome.sent = self.shared.sum(|counters| &counters.sent);
        if self.shared.plan.acknowledged {
            outcome.faults.unacknowledged =
                outcome.sent.saturating_sub(outcome.acknowledged + outcome.faults.refused);
        }
        Ok(outcome)
    }
}
