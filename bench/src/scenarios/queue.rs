//! A backend pushes into a list and browsers hear it: by the server's own RESP door and by a real Redis beside it,
//! pipelined and one push at a time.

use super::bench::Bench;
use crate::client::{Pace, QueueDoor, Speakers};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::measure::Subject;
use crate::options::{Queue, Shape, Way};
use crate::report::{faults_cell, milliseconds, number, optional};
use crate::server::redis;

/// Name of the list, the server's default.
const LIST: &str = "message_queue";
/// Messages that one who pushes one by one may be ahead of the slowest listener: it bounds the list's length.
const AHEAD_MAX: u32 = 256;

const HEADS: &[&str] = &[
    "way, listeners",
    "pushes/s",
    "server CPU µs / push",
    "Redis CPU µs / push",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "syncs / push",
    "other cores",
    "faults",
];

const NOTES: &str = "Latency runs from the push until a listener has read the message. One by one: the next push leaves \
    when the one before is answered. The door answers when the message is kept, Redis when it is in the list.";

pub fn run(bench: &mut Bench, queue: &Queue) -> Result<(), Failure> {
    if queue.window == 0 || queue.listeners.contains(&0) {
        return Err(Failure::Usage("--window and --listeners must be above 0".to_owned()));
    }
    let redis = queue.way.contains(&Way::Redis);
    let left_out = match (redis, bench.common.url.is_some(), redis::is_installed()) {
        (true, true, _) => " A running server has its own Redis, so those rows are left out.",
        (true, false, false) => " No `redis-server` was found, so its rows are missing.",
        _ => "",
    };
    let ways = queue.way.iter().filter(|way| **way == Way::Door || left_out.is_empty());
    let mut rows = vec![];
    let mut commands = vec![];
    for way in ways {
        let mut last = String::new();
        for listeners in &queue.listeners {
            for pipelined in [true, false] {
                let (row, command) = measure(bench, *way, *listeners, pipelined.then_some(queue.window))?;
                rows.push(row);
                last = command;
            }
        }
        commands.push(format!("`{last}`"));
    }
    let notes = format!("Servers: {}. {NOTES}{left_out}", commands.join("; "));
    bench.report.table("Queue", &notes, HEADS, &rows)
}

/// One row, and how its server was started. `pipeline`: messages in flight, or none to push one by one.
fn measure(
    bench: &mut Bench,
    way: Way,
    listeners: usize,
    pipeline: Option<u32>,
) -> Result<(Vec<String>, String), Failure> {
    let redis = match way {
        Way::Redis => Some(redis::start()?),
        Way::Door => None,
    };
    let more = redis.iter().flat_map(|(_, address)| ["--redis".to_owned(), format!("redis://{address}/0")]);
    let server = bench.server(&more.collect::<Vec<_>>())?;
    let address = redis.as_ref().map(|(_, address)| *address).or(server.door).ok_or_else(|| {
        Failure::Usage("where is the running server's RESP door? give it with --door".to_owned())
    })?;
    let door = QueueDoor { address, list: LIST.to_owned(), unanswered_max: pipeline.map_or(1, |_| u32::MAX) };
    let shape = Shape { rooms: 1, members: listeners };
    let pace = Pace::Window(pipeline.unwrap_or(AHEAD_MAX));
    let plan = bench.plan(server.address, shape, Speakers::Queue(door), pace)?;

    let by = if way == Way::Door { "RESP door" } else { "Redis" };
    let how = pipeline.map_or_else(|| "one by one".to_owned(), |window| format!("{window} in flight"));
    let name = format!("{by}, {how}, {listeners}");
    let case = bench.case("queue", &name, "roomcast", &server.command);
    let beside = redis.iter().map(|(owned, _)| owned.pid()).collect();
    let subject = Subject { pids: server.pids.clone(), beside, metrics: Some(server.address) };
    let figures = bench.measure(&case, plan, bench.timing(), &subject)?;
    let command = server.command.clone();
    server.stop()?;
    if let Some((owned, _)) = redis {
        owned.stop()?;
    }
    Ok((row(&name, &figures), command))
}

fn row(name: &str, figures: &Figures) -> Vec<String> {
    let syncs = figures.calls.and_then(|calls| calls.traced).map(|traced| traced.syncs_per_delivery);
    let deliveries_per_push = figures.deliveries_per_s / figures.messages_per_s.max(f64::MIN_POSITIVE);
    vec![
        name.to_owned(),
        number(figures.messages_per_s),
        optional(figures.cpu_us_per_message),
        optional(figures.beside_cpu_us_per_message),
        number(figures.deliveries_per_s),
        milliseconds(figures.latency_p50_us),
        milliseconds(figures.latency_p99_us),
        milliseconds(figures.latency_max_us),
        optional(syncs.map(|syncs| syncs * deliveries_per_push)),
        number(figures.other_cores),
        faults_cell(&figures.faults),
    ]
}
