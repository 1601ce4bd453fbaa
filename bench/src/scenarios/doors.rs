//! The other doors beside the usual ones: what a reader costs over WebSocket, event stream and long poll, and what a push
//! costs by HTTP, RESP door, Redis list and Redis stream.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::bench::Bench;
use crate::doors::pushers::{Pusher, STREAM, Way};
use crate::doors::readers::{Readers, Wire};
use crate::failure::Failure;
use crate::options::Doors;
use crate::progress::Progress;
use crate::report::{faults_cell, number, optional};
use crate::server::{procfs, redis};
use crate::tally::Faults;

/// Time for the server to finish what joining set off before memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Where each push waits for the one before, so many times fewer are made: the disk takes its time for each.
const ONE_BY_ONE: u32 = 10;
/// Readers that are there before memory is read for the first time.
const FIRST: usize = 50;

const READER_HEADS: &[&str] = &[
    "readers",
    "RSS bytes / reader",
    "messages/s",
    "server CPU µs / delivery",
    "beside a WebSocket",
    "faults",
];
const READER_NOTES: &str = "One message in flight, by HTTP: the next leaves when every reader has the one before. A poll's \
    delivery is an answer and the next request.";
const PUSH_HEADS: &[&str] =
    &["way, backends", "pushes/s", "server CPU µs / push", "Redis CPU µs / push", "faults"];
const PUSH_NOTES: &str = "From the first push until a listener has read the last.";

#[derive(Debug, Serialize)]
struct ReaderFigures {
    readers: u64,
    rss_bytes_per_reader: f64,
    messages_per_s: f64,
    cpu_us_per_delivery: f64,
    faults: Faults,
}

#[derive(Debug, Serialize)]
struct PushFigures {
    pushes: u64,
    pushes_per_s: f64,
    server_cpu_us_per_push: f64,
    redis_cpu_us_per_push: Option<f64>,
    faults: Faults,
}

pub fn run(bench: &mut Bench, doors: &Doors) -> Result<(), Failure> {
    if doors.readers == 0 || doors.pushes == 0 || doors.backends == 0 {
        return Err(Failure::Usage("--readers, --pushes and --backends must be above 0".to_owned()));
    }
    let (mut rows, mut command, mut usual) = (vec![], String::new(), None);
    for wire in [Wire::WebSocket, Wire::Stream, Wire::Poll] {
        let figures = read(bench, doors, wire, &mut command)?;
        let beside = figures.cpu_us_per_delivery / *usual.get_or_insert(figures.cpu_us_per_delivery);
        rows.push(vec![
            format!("{} by {}", figures.readers, wire.name()),
            number(figures.rss_bytes_per_reader),
            number(figures.messages_per_s),
            number(figures.cpu_us_per_delivery),
            format!("× {beside:.2}"),
            faults_cell(&figures.faults),
        ]);
    }
    bench.report.table(
        "Readers by other doors",
        &format!("Server: `{command}`. {READER_NOTES}"),
        READER_HEADS,
        &rows,
    )?;

    let mut ways =
        vec![(Way::HttpSingle, 1), (Way::HttpSingle, doors.backends), (Way::HttpBatch, 1), (Way::Door, 1)];
    if redis::is_installed() && bench.common.url.is_none() {
        ways.extend([(Way::RedisList, 1), (Way::RedisStream, 1)]);
    }
    let (mut rows, mut commands) = (vec![], vec![]);
    for (way, backends) in ways {
        let name = format!("{}, {backends}", way.name());
        let figures = push(bench, doors, way, backends, &name, &mut command)?;
        rows.push(vec![
            name,
            number(figures.pushes_per_s),
            number(figures.server_cpu_us_per_push),
            optional(figures.redis_cpu_us_per_push),
            faults_cell(&figures.faults),
        ]);
        commands.push(format!("`{command}`"));
    }
    commands.dedup();
    let notes = format!("Servers: {}. {PUSH_NOTES}", commands.join("; "));
    bench.report.table("Pushes by other doors", &notes, PUSH_HEADS, &rows)
}

/// One kind of reader.
fn read(
    bench: &mut Bench,
    doors: &Doors,
    wire: Wire,
    command: &mut String,
) -> Result<ReaderFigures, Failure> {
    // Readers that only count answer no pings.
    let server = bench.server(&["--set".to_owned(), "limits.ping=10m".to_owned()])?;
    let Some(pid) = server.pids.first().copied() else {
        return Err(Failure::Usage(
            "doors reads the server's memory: give its process with --pid".to_owned(),
        ));
    };
    command.clone_from(&server.command);
    let progress = Progress::new(&format!("readers by {}", wire.name()));
    let mut readers = Readers::new(wire)?;
    for _ in 0..FIRST {
        readers.enter(server.address)?;
    }
    sleep(SETTLE);
    let before = procfs::rss(pid);
    for _ in 0..doors.readers {
        readers.enter(server.address)?;
    }
    sleep(SETTLE);
    let rss = procfs::rss(pid).saturating_sub(before);

    let mut pusher = Pusher::connect(Way::HttpSingle, server.address, 0, bench.payload_bytes)?;
    let mut pushed = 0;
    let mut speak = |readers: &mut Readers, time: Duration| -> Result<u64, Failure> {
        let (begun, heard) = (Instant::now(), readers.heard);
        while begun.elapsed() < time {
            pushed += 1;
            pusher.push(pushed, pushed)?;
            readers.hear(u64::from(pushed) * readers.count() as u64)?;
        }
        Ok(readers.heard - heard)
    };
    speak(&mut readers, Duration::from_secs_f64(bench.common.warm_up))?;
    let (cost, begun) = (procfs::cost(&[pid]), Instant::now());
    let delivered = speak(&mut readers, bench.common.measured())?;
    let (cost, took) = (procfs::cost(&[pid]).since(&cost), begun.elapsed());
    progress.done();
    let figures = ReaderFigures {
        readers: readers.count() as u64,
        rss_bytes_per_reader: rss as f64 / doors.readers as f64,
        messages_per_s: delivered as f64 / readers.count() as f64 / took.as_secs_f64(),
        cpu_us_per_delivery: cost.cpu_s() * 1e6 / delivered as f64,
        faults: readers.faults,
    };
    let case = bench.case("doors", wire.name(), "roomcast", &server.command);
    bench.report.record(&case, &figures.faults, None, &figures)?;
    drop(readers);
    server.stop()?;
    Ok(figures)
}

/// One way to push.
fn push(
    bench: &mut Bench,
    doors: &Doors,
    way: Way,
    backends: u32,
    name: &str,
    command: &mut String,
) -> Result<PushFigures, Failure> {
    let redis = if way.through_redis() { Some(redis::start()?) } else { None };
    let mut more = vec!["--set".to_owned(), "limits.ping=10m".to_owned()];
    more.extend(redis.iter().flat_map(|(_, address)| ["--redis".to_owned(), format!("redis://{address}/0")]));
    let source = tempfile::NamedTempFile::new()?;
    if way == Way::RedisStream {
        let text = format!(
            "[[queue.sources]]\nname = \"{STREAM}\"\nkind = \"redis_stream\"\nstream = \"{STREAM}\"\n"
        );
        std::fs::write(source.path(), text)?;
        more.extend(["--config".to_owned(), source.path().display().to_string()]);
    }
    let server = bench.server(&more)?;
    command.clone_from(&server.command);
    let address = match (way, &redis) {
        (Way::HttpSingle | Way::HttpBatch, _) => Some(server.address),
        (_, Some((_, address))) => Some(*address),
        (_, None) => server.door,
    };
    let address = address.ok_or_else(|| {
        Failure::Usage("where is the running server's RESP door? give it with --door".to_owned())
    })?;
    let progress = Progress::new(name);
    let mut listener = Readers::new(Wire::WebSocket)?;
    listener.enter(server.address)?;
    let mut pushers = Vec::new();
    for number in 0..backends {
        pushers.push(Pusher::connect(way, address, number, bench.payload_bytes)?);
    }
    let all = if way == Way::HttpSingle { doors.pushes / ONE_BY_ONE } else { doors.pushes };
    let each = all.div_ceil(backends);
    let pushes = u64::from(each) * u64::from(backends);
    let redis_work = || redis.as_ref().map(|(_, address)| redis::work(*address)).transpose();
    let (cost, work, begun) = (procfs::cost(&server.pids), redis_work()?, Instant::now());
    let threads: Vec<_> =
        pushers.into_iter().map(|mut pusher| thread::spawn(move || pusher.push(1, each))).collect();
    listener.hear(pushes)?;
    let took = begun.elapsed();
    let (cost, done) = (procfs::cost(&server.pids).since(&cost), redis_work()?);
    for thread in threads {
        thread.join().map_err(|_| Failure::Run("a backend panicked".to_owned()))??;
    }
    progress.done();
    let per_push = |cpu_s: f64| cpu_s * 1e6 / pushes as f64;
    let figures = PushFigures {
        pushes,
        pushes_per_s: pushes as f64 / took.as_secs_f64(),
        server_cpu_us_per_push: per_push(cost.cpu_s()),
        redis_cpu_us_per_push: done.zip(work).map(|(done, work)| per_push(done.since(&work).cpu_s)),
        faults: listener.faults,
    };
    let case = bench.case("doors", name, "roomcast", &server.command);
    bench.report.record(&case, &figures.faults, None, &figures)?;
    drop(listener);
    server.stop()?;
    if let Some((owned, _)) = redis {
        owned.stop()?;
    }
    Ok(figures)
}
