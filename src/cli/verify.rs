//! `roomcast verify`: reads a store, and logs of clients with it, and prints what is wrong in it, with its place.
//! Works while a server runs. Knows the configuration and the verification, nothing of how a store looks.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use super::{FAILED, Failure, UNAVAILABLE, WRONG_USE};
use crate::chat::names::RoomName;
use crate::config::Config;
use crate::store::verify::{Place, Report, VerifyError, verify};

/// Faults that are printed one by one; a broken store can have as many as it has entries.
const FAULTS_PRINTED_MAX: usize = 200;
/// Rooms that are printed. Those with something wrong come first.
const ROOMS_PRINTED_MAX: usize = 200;

/// What `verify` takes.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Logs of clients, each {"dir":"in"|"out","ms":…,"frame":{…}} in each line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    clients: Vec<PathBuf>,
    /// The store [default: the one that the configuration names]
    #[arg(long, value_name = "URL")]
    pub(super) store: Option<String>,
}

/// What is printed, and whether all is well.
pub(super) fn run(verify_this: &Verify, config: &Config) -> Result<(String, bool), Failure> {
    let store = config.store.place().map_err(|why| Failure::new(WRONG_USE, why))?.ok_or_else(|| {
        Failure::new(UNAVAILABLE, "store.url is \"none\": there is no store; name one with --store")
    })?;
    let journal = store.journal_dir();
    let place = Place { store: &store, journal: &journal, clients: &verify_this.clients };
    let ids_ms = |room: &str| RoomName::new(room).map_or(0, |room| config.rooms.of(&room).dedup_window_ms);
    let report = verify(&place, &ids_ms).map_err(|error| {
        let code = match error {
            VerifyError::NoStore(_) => UNAVAILABLE,
            VerifyError::BadLog(_) => WRONG_USE,
            VerifyError::Unreadable(_) => FAILED,
        };
        Failure::new(code, error)
    })?;
    let head =
        format!("{store}: {} records applied, {} in the journal behind it\n", report.applied, report.tail);
    Ok((head + &print(&report), report.faults.is_empty()))
}

fn print(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a text does not fail.
    let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
    line(format!(
        "{:<32} {:>9} {:>9} {:>9} {:>6} {:>8} {:>13} {:>6}",
        "room", "entries", "first", "top", "lost", "doubled", "out of order", "holes"
    ));
    let mut rooms: Vec<_> = report.rooms.iter().collect();
    rooms.sort_by_key(|(_, room)| room.lost + room.doubled + room.out_of_order + room.holes == 0);
    for (name, room) in rooms.iter().take(ROOMS_PRINTED_MAX) {
        line(format!(
            "{:<32} {:>9} {:>9} {:>9} {:>6} {:>8} {:>13} {:>6}",
            name.escape_debug().to_string(),
            room.entries,
            room.first,
            room.top,
            room.lost,
            room.doubled,
            room.out_of_order,
            room.holes
        ));
    }
    if rooms.len() > ROOMS_PRINTED_MAX {
        line(format!("and {} more rooms", rooms.len() - ROOMS_PRINTED_MAX));
    }
    let clients = &report.clients;
    if clients.files > 0 {
        line(format!(
            "{} clients: {} frames, {} acks, {} entries seen, {} repeats dropped",
            clients.files, clients.frames, clients.acks, clients.seen, clients.dropped
        ));
    }
    for note in &report.notes {
        line(format!("note: {}", note.escape_debug()));
    }
    for fault in report.faults.iter().take(FAULTS_PRINTED_MAX) {
        line(format!("fault: {fault}"));
    }
    if report.faults.len() > FAULTS_PRINTED_MAX {
        line(format!("and {} more faults", report.faults.len() - FAULTS_PRINTED_MAX));
    }
    line(match report.faults.len() {
        0 => "fine: no fault found".to_owned(),
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    });
    text
}

#[cfg(test)]
mod tests;
