//! One measurement from start to end: connect, warm up, measure, count system calls, drain, close the books. Brings the
//! client side and the server's process together; called by the scenarios. Never judges a time, only reports it.

use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Moment, Outcome, Phase, Plan};
use crate::failure::Failure;
use crate::figures::{Calling, Figures};
use crate::progress::Progress;
use crate::server::http;
use crate::server::procfs::{self, Cost};
use crate::server::syscalls::CallCounter;
use crate::sys;

/// How often the measuring thread looks.
const GLANCE: Duration = Duration::from_millis(50);
/// Connecting that makes no progress for so long has failed.
const CONNECT_SILENCE: Duration = Duration::from_secs(20);
/// Draining that brings nothing for so long has ended.
const DRAIN_SILENCE: Duration = Duration::from_secs(3);
/// Listeners that had stalled and then read nothing for so long have all there was.
const READ_ON_SILENCE: Duration = Duration::from_secs(1);
/// Names of the server's own counters, for where the kernel does not let us count.
const METRIC_WRITES: &str = "roomcast_socket_writes_total";
const METRIC_DELIVERED: &str = "roomcast_deliveries_delivered_total";

/// How long each part lasts.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub warm_up: Duration,
    pub measured: Duration,
    /// System calls are counted for so long, after the measured time.
    pub counted: Duration,
}

/// Whose costs are read.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub pids: Vec<u32>,
    /// Programs that the server needs, shown apart (a Redis).
    pub beside: Vec<u32>,
    /// Where /metrics can be asked, if it can.
    pub metrics: Option<SocketAddrV4>,
}

/// Connects all of `plan` and waits until everybody has joined; returns how long that took.
pub fn connect(plan: Plan, progress: &Progress) -> Result<(Client, Duration), Failure> {
    let wanted = plan.connections() as u64;
    let start = Instant::now();
    let client = Client::start(plan)?;
    progress.count("connecting", wanted);
    let mut last = (0, Instant::now());
    loop {
        let ready = client.ready();
        progress.at(ready);
        if ready >= wanted {
            return Ok((client, start.elapsed()));
        }
        if ready != last.0 {
            last = (ready, Instant::now());
        }
        if client.failed() > 0 || client.broken() || last.1.elapsed() > CONNECT_SILENCE {
            let complaint = client.complaint().unwrap_or_else(|| "the others never heard `live`".to_owned());
            client.finish()?;
            return Err(Failure::Run(format!("only {ready} of {wanted} connections joined: {complaint}")));
        }
        sleep(Duration::from_millis(1));
    }
}

/// Runs `plan` once against `subject`.
pub fn run(plan: Plan, timing: Timing, subject: &Subject, progress: &Progress) -> Result<Figures, Failure> {
    let stalled = plan.stalled;
    let mut figures = Figures { connections: plan.connections() as u64, ..Figures::default() };
    let before = procfs::cost(&subject.pids);
    let (client, took) = connect(plan, progress)?;
    let joined = procfs::cost(&subject.pids).since(&before);
    figures.connected(took, joined.cpu_s());

    client.enter(Phase::Speak);
    watch(&client, "warming up", timing.warm_up, progress, || ());
    let window = measure_window(&client, timing.measured, subject, progress, &mut figures);
    figures.calls = count_calls(&client, timing.counted, subject, progress);
    figures.window = Some(window);

    client.enter(Phase::Drain);
    drain(&client, progress);
    if stalled > 0 {
        client.enter(Phase::Resume);
        read_on(&client, progress);
    }
    progress.done();
    figures.complaint = client.complaint();
    figures.books(&client.finish()?);
    Ok(figures)
}

/// The measured time itself.
fn measure_window(
    client: &Client,
    measured: Duration,
    subject: &Subject,
    progress: &Progress,
    figures: &mut Figures,
) -> Window {
    let mut rss = vec![];
    let sample = || subject.pids.iter().map(|pid| procfs::rss(*pid)).sum::<u64>();
    let start = Sight::take(client, subject);
    client.measure_from(start.client.at_ns);
    rss.push(sample());
    let mut turn = 0;
    watch(client, "measuring", measured, progress, || {
        turn += 1;
        if turn % 5 == 0 {
            rss.push(sample());
        }
    });
    let end = Sight::take(client, subject);
    client.measure_until(end.client.at_ns);
    rss.push(sample());
    figures.rss_samples = rss;
    Window { start, end }
}

/// Everything that is read at the two ends of the measured time.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub client: Moment,
    pub server: Cost,
    pub beside: Cost,
    pub client_cpu_s: f64,
    pub machine_busy_s: f64,
}

impl Sight {
    fn take(client: &Client, subject: &Subject) -> Self {
        Self {
            client: client.now(),
            server: procfs::cost(&subject.pids),
            beside: procfs::cost(&subject.beside),
            client_cpu_s: sys::own_cpu_seconds(),
            machine_busy_s: procfs::machine_busy_s(),
        }
    }
}

/// The measured time, by its ends.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Sight,
    pub end: Sight,
}

/// Counts the server's system calls for a while, by trace points or else by the server's own counters.
fn count_calls(
    client: &Client,
    counted: Duration,
    subject: &Subject,
    progress: &Progress,
) -> Option<Calling> {
    if subject.pids.is_empty() || counted.is_zero() {
        return None;
    }
    let mut counter = CallCounter::start(&subject.pids);
    let metrics = || subject.metrics.and_then(|address| Some(http::get(address, "/metrics").ok()?.1));
    let page_before = if counter.is_none() { metrics() } else { None };
    let before = (client.now().delivered, counter.as_mut().map(CallCounter::read));
    watch(client, "counting system calls", counted, progress, || ());
    let delivered = client.now().delivered - before.0;
    if let (Some(mut counter), Some(calls_before)) = (counter, before.1) {
        return Some(Calling::traced(calls_before, counter.read(), delivered));
    }
    let (before, after) = (page_before?, metrics()?);
    let grown = |name| Some(http::metric(&after, name)? - http::metric(&before, name)?);
    Some(Calling::told(grown(METRIC_WRITES)?, grown(METRIC_DELIVERED)?))
}

/// Lets `time` pass, with a bar and a glance now and then.
fn watch(client: &Client, name: &str, time: Duration, progress: &Progress, mut glance: impl FnMut()) {
    progress.count(name, time.as_millis() as u64);
    let start = Instant::now();
    while start.elapsed() < time && !client.broken() {
        sleep(GLANCE.min(time.saturating_sub(start.elapsed())));
        progress.at(start.elapsed().as_millis() as u64);
        glance();
    }
}

/// Waits until all that was sent has arrived, or nothing comes any more.
fn drain(client: &Client, progress: &Progress) {
    let due = client.deliveries_due();
    progress.count("draining", due);
    let mut last = (0, Instant::now());
    while last.1.elapsed() < DRAIN_SILENCE && !client.broken() {
        let delivered = client.now().delivered;
        progress.at(delivered);
        if delivered != last.0 {
            last = (delivered, Instant::now());
        } else if delivered >= due && last.1.elapsed() > Duration::from_millis(200) {
            // A little longer than needed, so that a doubled message at the very end is seen too.
            return;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Waits until the listeners that had stalled have read all that is left for them.
fn read_on(client: &Client, progress: &Progress) {
    progress.count("stalled listeners read on", 0);
    let mut last = (client.now().reads, Instant::now());
    while last.1.elapsed() < READ_ON_SILENCE && !client.broken() {
        sleep(GLANCE);
        let reads = client.now().reads;
        if reads != last.0 {
            last = (reads, Instant::now());
        }
    }
}

/// What the outcome of all threads adds to the figures; apart from `Figures` so that those know no client.
impl Figures {
    fn books(&mut self, outcome: &Outcome) {
        self.faults = outcome.faults;
        self.told_gaps = outcome.told_gaps;
        self.sent_in_all = outcome.sent;
        self.stalled_closed = outcome.stalled_closed;
        self.stalled_heard = outcome.stalled_heard;
        self.lag_max_us = outcome.lag_max_ns as f64 / 1e3;
        self.latency(&outcome.latency_ns);
        self.sum_up();
    }
}

#[cfg(test)]
mod tests;
