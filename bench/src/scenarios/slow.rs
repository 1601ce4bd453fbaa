//! Listeners that stop reading, and what that does to the others: the same load without and with them, and the server's
//! memory over the time.

use std::time::Duration;

use super::bench::Bench;
use super::talk::pace_text;
use crate::client::{Pace, Speakers};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::measure::{Subject, Timing};
use crate::options::Slow;
use crate::report::{faults_cell, mebibytes, milliseconds, number, optional};

/// Memory that grows shows only after some time.
const MEASURED_MIN: Duration = Duration::from_secs(10);

/// Bytes of a payload where nothing else is said: the kernel takes some megabytes for a reader that reads nothing, and
/// what it takes does not trouble the server.
const PAYLOAD_BYTES: usize = 1024;

const HEADS: &[&str] = &[
    "listeners",
    "deliveries/s",
    "CPU µs / delivery",
    "p50 ms",
    "p99 ms",
    "max ms",
    "RSS MiB start",
    "highest",
    "end",
    "closed as slow",
    "other cores",
    "faults",
];

pub fn run(bench: &mut Bench, slow: &Slow) -> Result<(), Failure> {
    if slow.stalled == 0 || slow.stalled > slow.shape.rooms * slow.shape.members || slow.window == 0 {
        return Err(Failure::Usage(
            "--stalled and --window must be above 0, and some listeners must exist".to_owned(),
        ));
    }
    let usual = std::mem::replace(&mut bench.payload_bytes, bench.common.bytes.unwrap_or(PAYLOAD_BYTES));
    let result = compare(bench, slow);
    bench.payload_bytes = usual;
    result
}

fn compare(bench: &mut Bench, slow: &Slow) -> Result<(), Failure> {
    let pace = Pace::Window(slow.window);
    let timing = Timing { measured: bench.common.measured().max(MEASURED_MIN), ..bench.timing() };
    let mut rows = vec![];
    let mut notes = String::new();
    for stalled in [0, slow.stalled] {
        let server = bench.server(&[])?;
        let name = format!("{}, {stalled} stalled, {}", slow.shape, pace_text(pace));
        let case = bench.case("slow", &name, "roomcast", &server.command);
        let mut plan = bench.plan(server.address, slow.shape, Speakers::OneApart, pace)?;
        plan.stalled = stalled;
        let subject = Subject { pids: server.pids.clone(), beside: vec![], metrics: Some(server.address) };
        let figures = bench.measure(&case, plan, timing, &subject)?;
        notes = notes_of(&server.command, &figures);
        server.stop()?;
        rows.push(row(&name, &figures, stalled));
    }
    bench.report.table("Slow readers", &notes, HEADS, &rows)
}

fn row(name: &str, figures: &Figures, stalled: usize) -> Vec<String> {
    let (first, highest, last) = figures.rss().unwrap_or_default();
    vec![
        name.to_owned(),
        number(figures.deliveries_per_s),
        optional(figures.cpu_us_per_delivery),
        milliseconds(figures.latency_p50_us),
        milliseconds(figures.latency_p99_us),
        milliseconds(figures.latency_max_us),
        mebibytes(first),
        mebibytes(highest),
        mebibytes(last),
        format!("{} of {stalled}", figures.stalled_closed),
        number(figures.other_cores),
        faults_cell(&figures.faults),
    ]
}

fn notes_of(command: &str, figures: &Figures) -> String {
    let series: Vec<String> = figures.rss_samples.iter().map(|rss| mebibytes(*rss)).collect();
    format!(
        "Server: `{command}`. Stalled listeners have a small receive buffer and read nothing while the others are \
         measured; afterwards they read what was left for them ({} entries, {} told gaps), which has to be whole and in \
         order as far as it goes. RSS with stalled listeners, four times a second, MiB: {}",
        figures.stalled_heard,
        figures.told_gaps,
        series.join(" ")
    )
}
