//! Connections that have joined a room and wait: what each takes of memory, and what connecting costs.

use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use super::bench::Bench;
use crate::client::{Pace, Speakers};
use crate::failure::Failure;
use crate::measure;
use crate::options::{Idle, Shape};
use crate::progress::Progress;
use crate::report::{faults_cell, mebibytes, number};
use crate::server::procfs::{self, Memory};
use crate::tally::Faults;

/// Time for the server to finish what joining set off before memory is read.
const SETTLE: Duration = Duration::from_secs(2);

const HEADS: &[&str] = &[
    "connections",
    "connections/s",
    "CPU µs / connection",
    "RSS MiB before",
    "with all",
    "after they left",
    "RSS bytes / connection",
    "PSS bytes / connection",
    "CPU % while idle",
    "faults",
];

const NOTES: &str = "RSS is the server's own memory; what the kernel holds for each socket is not in it. CPU per connection \
    covers the handshake, the join and telling the others in the room.";

#[derive(Debug, Serialize)]
struct IdleFigures {
    connections: u64,
    connections_per_s: f64,
    connect_cpu_us: f64,
    memory_before: Memory,
    memory_with_all: Memory,
    memory_after: Memory,
    rss_bytes_per_connection: f64,
    pss_bytes_per_connection: f64,
    idle_cpu_percent: f64,
    faults: Faults,
}

pub fn run(bench: &mut Bench, idle: &Idle) -> Result<(), Failure> {
    if idle.connections == 0 || idle.per_room == 0 {
        return Err(Failure::Usage("--connections and --per-room must be above 0".to_owned()));
    }
    let server = bench.server(&[])?;
    let Some(pid) = server.pids.first().copied() else {
        return Err(Failure::Usage("idle reads the server's memory: give its process with --pid".to_owned()));
    };
    let shape = Shape { rooms: idle.connections.div_ceil(idle.per_room), members: idle.per_room };
    let plan = bench.plan(server.address, shape, Speakers::Nobody, Pace::Window(1))?;
    let connections = plan.connections() as u64;
    let name = format!("{connections} connections, {} a room", idle.per_room);
    let case = bench.case("idle", &name, "roomcast", &server.command);
    let progress = Progress::new(&format!("idle {name}"));

    sleep(SETTLE);
    let (memory_before, cost_before) = (procfs::memory(pid), procfs::cost(&[pid]));
    let (client, took) = measure::connect(plan, &progress)?;
    let connect_cpu_s = procfs::cost(&[pid]).since(&cost_before).cpu_s();
    sleep(SETTLE);
    let quiet_from = procfs::cost(&[pid]);
    sleep(bench.common.measured());
    let idle_cpu_s = procfs::cost(&[pid]).since(&quiet_from).cpu_s();
    let memory_with_all = procfs::memory(pid);
    let complaint = client.complaint();
    progress.done();
    let faults = client.finish()?.faults;
    sleep(SETTLE);
    let memory_after = procfs::memory(pid);
    let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
    let figures = IdleFigures {
        connections,
        connections_per_s: connections as f64 / took.as_secs_f64(),
        connect_cpu_us: connect_cpu_s * 1e6 / connections as f64,
        memory_before,
        memory_with_all,
        memory_after,
        rss_bytes_per_connection: each(memory_before.rss, memory_with_all.rss),
        pss_bytes_per_connection: each(memory_before.pss, memory_with_all.pss),
        idle_cpu_percent: idle_cpu_s / bench.common.secs * 100.0,
        faults,
    };
    bench.report.record(&case, &faults, complaint.as_deref(), &figures)?;
    let notes = format!("Server: `{}`. {NOTES}", server.command);
    server.stop()?;
    bench.report.table("Idle connections", &notes, HEADS, &[row(&name, &figures)])
}

fn row(name: &str, figures: &IdleFigures) -> Vec<String> {
    vec![
        name.to_owned(),
        number(figures.connections_per_s),
        number(figures.connect_cpu_us),
        mebibytes(figures.memory_before.rss),
        mebibytes(figures.memory_with_all.rss),
        mebibytes(figures.memory_after.rss),
        number(figures.rss_bytes_per_connection),
        number(figures.pss_bytes_per_connection),
        number(figures.idle_cpu_percent),
        faults_cell(&figures.faults),
    ]
}
