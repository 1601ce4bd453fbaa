//! What it costs that an acknowledged message outlives a power cut: the server's acknowledgements a second beside what
//! the same disk does bare, what the journal does alone, and what SQLite does alone. Everything is measured in turn,
//! several rounds, because a shared disk changes from minute to minute.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::bench::Bench;
use crate::durable::{Achieved, disk, journal, server, sqlite};
use crate::failure::Failure;
use crate::options::Durable;
use crate::report::{faults_cell, milliseconds, number, optional};
use crate::server::procfs;
use crate::sys;
use crate::tally::Faults;

const HEADS: &[&str] = &[
    "in flight, round",
    "disk syncs/s",
    "server acks/s",
    "p50 ms",
    "p99 ms",
    "CPU µs / ack",
    "journal alone/s",
    "p50 ms",
    "p99 ms",
    "SQLite alone/s",
    "p50 ms",
    "p99 ms",
    "other cores",
    "faults",
];

const NOTES: &str = "Disk: 4 KiB into a file that has its length, then `fdatasync`. Server: publishes through WebSockets, a \
    new one for each `ack`, which comes when the message is durable. Journal: the same without a server. SQLite: WAL, \
    `synchronous = FULL`, a rowid table with one index, one transaction for as many messages as are in flight. All in one \
    run, in turn, on one disk; lines of 200 bytes where there is no server.";

/// One round.
#[derive(Debug, Serialize)]
struct Round {
    in_flight: usize,
    round: usize,
    disk: Achieved,
    server: Option<Achieved>,
    server_cpu_us_per_ack: Option<f64>,
    journal: Achieved,
    sqlite: Achieved,
    other_cores: Option<f64>,
    #[serde(skip)]
    faults: Faults,
    #[serde(skip)]
    complaint: Option<String>,
}

pub fn run(bench: &mut Bench, durable: &Durable) -> Result<(), Failure> {
    if durable.rounds == 0 || durable.in_flight.contains(&0) {
        return Err(Failure::Usage("--rounds and --in-flight must be above 0".to_owned()));
    }
    let mut rows = vec![];
    let mut command = None;
    for round in 1..=durable.rounds {
        for in_flight in &durable.in_flight {
            let (measured, server) = measure(bench, durable, *in_flight, round)?;
            let case = bench.case("durable", &format!("{in_flight}, {round}"), "roomcast", &server);
            bench.report.record(&case, &measured.faults, measured.complaint.as_deref(), &measured)?;
            rows.push(row(&measured));
            command.get_or_insert(server);
        }
    }
    let notes = match command.filter(|command| !command.is_empty()) {
        Some(command) => format!("Server: `{command}`. {NOTES}"),
        None => NOTES.to_owned(),
    };
    bench.report.table("Durable", &notes, HEADS, &rows)
}

/// Everything once, each part in a fresh folder; and how the server was started.
fn measure(
    bench: &Bench,
    durable: &Durable,
    in_flight: usize,
    round: usize,
) -> Result<(Round, String), Failure> {
    let time = bench.common.measured();
    let folder = |name: &str| {
        let made =
            tempfile::Builder::new().prefix(&format!("roomcast-bench-{name}-")).tempdir_in(&durable.folder);
        made.map_err(|error| Failure::Usage(format!("--folder {}: {error}", durable.folder.display())))
    };
    let disk = disk::measure(folder("disk")?.path(), time / 2)?;
    let mut measured = Round {
        in_flight,
        round,
        disk,
        server: None,
        server_cpu_us_per_ack: None,
        journal: journal::measure(folder("journal")?.path(), in_flight, time)?,
        sqlite: Achieved::default(),
        other_cores: None,
        faults: Faults::default(),
        complaint: None,
    };
    let mut command = String::new();
    if !durable.alone {
        let place = folder("server")?;
        command = serve(bench, place.path(), &mut measured)?;
    }
    measured.sqlite = sqlite::measure(folder("sqlite")?.path(), in_flight, time)?;
    Ok((measured, command))
}

fn serve(bench: &Bench, folder: &Path, measured: &mut Round) -> Result<String, Failure> {
    let place = folder.canonicalize()?.join("roomcast.db");
    let server = bench.server(&["--store".to_owned(), format!("sqlite://{}", place.display())])?;
    let sight = || (procfs::cost(&server.pids).cpu_s(), procfs::machine_busy_s(), sys::own_cpu_seconds());
    let (warm_up, time) = (Duration::from_secs_f64(bench.common.warm_up), bench.common.measured());
    let before = sight();
    let outcome = server::measure(server.address, measured.in_flight, bench.payload_bytes, warm_up, time)?;
    let after = sight();
    let command = server.command.clone();
    server.stop()?;
    // Over warm-up and measured time alike: what is acknowledged then costs the same.
    let seconds = (warm_up + time).as_secs_f64();
    let cpu_s = after.0 - before.0;
    let acks = outcome.achieved.per_s * seconds;
    measured.server_cpu_us_per_ack = (acks > 0.0 && cpu_s > 0.0).then(|| cpu_s * 1e6 / acks);
    measured.other_cores = Some(((after.1 - before.1) - cpu_s - (after.2 - before.2)).max(0.0) / seconds);
    measured.server = Some(outcome.achieved);
    measured.faults.unacknowledged = outcome.unacknowledged;
    measured.faults.refused = outcome.refused;
    measured.faults.offset_jumps = outcome.offset_jumps;
    measured.complaint = outcome.complaint;
    Ok(command)
}

fn row(round: &Round) -> Vec<String> {
    let mut cells = vec![format!("{}, {}", round.in_flight, round.round), number(round.disk.per_s)];
    match &round.server {
        Some(server) => {
            cells.extend([number(server.per_s), milliseconds(server.p50_us), milliseconds(server.p99_us)]);
        }
        None => cells.extend(["-", "-", "-"].map(str::to_owned)),
    }
    cells.push(optional(round.server_cpu_us_per_ack));
    for alone in [&round.journal, &round.sqlite] {
        cells.extend([number(alone.per_s), milliseconds(alone.p50_us), milliseconds(alone.p99_us)]);
    }
    cells.push(optional(round.other_cores));
    cells.push(faults_cell(&round.faults));
    cells
}
