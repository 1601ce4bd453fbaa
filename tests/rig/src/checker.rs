//! The judge: says from the clients' diaries alone whether a server kept its promises. Nothing of the server
//! is looked at, neither its store nor its log, so that the judge cannot share its mistakes.
//!
//! `reading` follows one diary line by line; `held` is what its client has of a room after it; `ledger` holds
//! what all of them say about a room together, and finds where they contradict each other.

mod held;
mod ledger;
mod reading;
mod report;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use ledger::Ledger;
use reading::Reading;
pub use report::{Fault, Report};

use crate::frame::Frame;

/// One line of a diary.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    dir: Direction,
    ms: u64,
    #[serde(borrow)]
    frame: &'a RawValue,
    #[serde(default)]
    dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    In,
    Out,
}

/// Whose diary it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// One of many clients.
    Client,
    /// Somebody who came when all was over and read each room from its first place to its last.
    LastReader,
}

/// How many nodes the clients talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Nodes {
    /// What one client has seen is there for the next who asks, and nothing is ever taken back.
    #[default]
    One,
    /// A node may hear of an entry a moment after another, and may have to take back what it showed while it
    /// was cut off.
    Several,
}

/// By what a room is judged.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    forgetting: bool,
    several_nodes: bool,
    has_last_reader: bool,
}

/// Takes diaries, then gives its verdict.
#[derive(Debug, Default)]
pub struct Checker {
    rooms: BTreeMap<String, Ledger>,
    report: Report,
    forgetting: bool,
    nodes: Nodes,
    last_reader: Option<String>,
}

impl Checker {
    /// A judge of a server that forgets nothing.
    pub fn new() -> Checker {
        Checker::default()
    }

    /// A judge of a server that may forget what is old, as long as it says so.
    pub fn of_a_forgetful_server() -> Checker {
        Checker { forgetting: true, ..Checker::default() }
    }

    /// A judge of several nodes that share rooms. A `rewind` makes a client forget what it had above that place;
    /// what was acknowledged there may then have another place, and has to have exactly one.
    pub fn of_several_nodes() -> Checker {
        Checker { nodes: Nodes::Several, ..Checker::default() }
    }

    /// Reads the diary of a client; what is wrong with the file where it cannot be read.
    pub fn read(&mut self, diary: &Path) -> Result<(), String> {
        self.take(diary, Role::Client)
    }

    /// Reads the diary of somebody who came when all was over and read each room from its first place. What
    /// he was not shown is lost.
    pub fn read_last(&mut self, diary: &Path) -> Result<(), String> {
        self.take(diary, Role::LastReader)
    }

    fn take(&mut self, path: &Path, role: Role) -> Result<(), String> {
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        self.take_lines(&name, BufReader::new(file), role)
    }

    fn take_lines(&mut self, name: &str, lines: impl BufRead, role: Role) -> Result<(), String> {
        let mut reading = Reading::new(name, role, self.nodes, &mut self.rooms, &mut self.report);
        for (number, line) in (1..).zip(lines.lines()) {
            let line = line.map_err(|error| format!("{name}:{number}: {error}"))?;
            let place = |error: String| format!("{name}:{number}: {error}");
            let line: Line = serde_json::from_str(&line).map_err(|error| place(error.to_string()))?;
            let frame = Frame::read(line.frame.get()).map_err(place)?;
            match line.dir {
                Direction::Out => reading.said(&frame, line.ms),
                Direction::In => reading.heard(&frame, line.frame.get(), line.ms, line.dropped),
            }
        }
        reading.ends();
        if role == Role::LastReader {
            self.last_reader = Some(name.to_owned());
        }
        Ok(())
    }

    /// What all diaries together say.
    pub fn verdict(mut self) -> Report {
        let by = Verdict {
            forgetting: self.forgetting,
            several_nodes: self.nodes == Nodes::Several,
            has_last_reader: self.last_reader.is_some(),
        };
        for (room, ledger) in self.rooms {
            ledger.judge(&room, by, &mut self.report);
        }
        self.report
    }
}

#[cfg(test)]
mod tests;
