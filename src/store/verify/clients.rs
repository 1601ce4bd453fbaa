//! The logs of clients: reads them line by line, holds each client to the rules of the stream, and compares
//! what was acknowledged and seen with the store and with what the other clients saw.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::VerifyError;
use super::archive::{self, File};
use super::lines::fingerprint;
use super::report::{Kind, Report};
use super::stream::{Seen, Session};
use super::tail::{self, Tail};
use crate::chat::message::Offset;

/// One line of a log.
#[derive(Deserialize)]
struct Logged {
    dir: Direction,
    #[serde(default)]
    dropped: bool,
    frame: Value,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Direction {
    In,
    Out,
}

/// Checks all logs.
pub(super) fn check(
    logs: &[PathBuf],
    file: &File<'_>,
    tail: &Tail,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut others = Others::default();
    for log in logs {
        report.clients.files += 1;
        let mut client = Client {
            name: name_of(log),
            file,
            tail,
            session: Session::default(),
            acks: HashMap::new(),
            views: Vec::new(),
        };
        client.read(log, report)?;
        client.compare(&mut others, report)?;
    }
    Ok(())
}

fn name_of(log: &Path) -> String {
    log.file_stem().unwrap_or_default().to_string_lossy().escape_debug().to_string()
}

/// What the clients before saw at each place: room, epoch, offset, with the client's name.
#[derive(Default)]
struct Others(HashMap<(String, String, Offset), (u64, String)>);

/// One client's log on its way through.
struct Client<'a> {
    name: String,
    file: &'a File<'a>,
    tail: &'a Tail,
    session: Session,
    /// Where each id of this client was acknowledged.
    acks: HashMap<(String, String), Offset>,
    views: Vec<View>,
}

/// An entry as this client saw it.
struct View {
    room: String,
    epoch: String,
    s: Offset,
    print: u64,
    /// Its words had been changed or taken back before.
    changed: bool,
    /// The line of the log.
    at: usize,
}

/// What the store has at a place.
enum Stored {
    /// An entry: the id that readers see, who said it, its line if it is still the one that was said.
    Entry {
        id: Option<String>,
        user: Option<String>,
        line: Option<Vec<u8>>,
    },
    /// It is older than what the room keeps.
    Forgotten,
    Nothing,
}

impl Client<'_> {
    fn read(&mut self, log: &Path, report: &mut Report) -> Result<(), VerifyError> {
        let bad = |at: usize, error: &dyn std::fmt::Display| {
            VerifyError::BadLog(format!(
                "{}, line {at}: {error}; each line is {{\"dir\":\"in\" or \"out\",\"ms\":…,\"frame\":{{…}}}}",
                log.display()
            ))
        };
        let mut log_lines = BufReader::new(fs::File::open(log).map_err(|error| bad(1, &error))?);
        let mut line = String::new();
        for at in 1.. {
            line.clear();
            if log_lines.read_line(&mut line).map_err(|error| bad(at, &error))? == 0 {
                return Ok(());
            }
            let logged: Logged = match serde_json::from_str(&line) {
                Ok(logged) => logged,
                Err(_) if line.trim().is_empty() => continue,
                Err(_) if !line.ends_with('\n') => {
                    report
                        .notes
                        .push(format!("client {}: the last line is cut; it is not looked at", self.name));
                    return Ok(());
                }
                Err(error) => return Err(bad(at, &error)),
            };
            report.clients.frames += 1;
            match logged.dir {
                Direction::Out => self.session.sent(&logged.frame),
                Direction::In => self.received(&logged, at, report)?,
            }
        }
        Ok(())
    }

    fn place(&self, line: usize) -> String {
        format!("client {}, line {line}", self.name)
    }

    fn received(&mut self, logged: &Logged, at: usize, report: &mut Report) -> Result<(), VerifyError> {
        let frame = &logged.frame;
        if frame["t"] == "ack" {
            return self.acknowledged(frame, &self.place(at), report);
        }
        for odd in self.session.received(frame, logged.dropped) {
            report.fault_in(&odd.room, odd.kind, odd.count, format!("{}: {}", self.place(at), odd.what));
        }
        match self.session.seen() {
            Some(Seen::New { room, epoch, s }) => {
                report.clients.seen += 1;
                let (print, changed) = (fingerprint(frame), was_changed(frame));
                self.views.push(View { room, epoch, s, print, changed, at });
            }
            Some(Seen::Dropped) => report.clients.dropped += 1,
            None => {}
        }
        if let (Some("rewind"), Some(room), Some(s)) =
            (frame["t"].as_str(), frame["r"].as_str(), frame["s"].as_u64())
        {
            // Taken back: other entries may stand there now.
            self.views.retain(|view| view.room != room || view.s <= s);
        }
        Ok(())
    }

    /// What was seen is what is kept, and what the others saw.
    fn compare(&self, others: &mut Others, report: &mut Report) -> Result<(), VerifyError> {
        for view in &self.views {
            let (room, s) = (view.room.as_str(), view.s);
            let line = match self.stored(room, s)? {
                Stored::Nothing => {
                    let what = format!("{}: entry {s} was seen and is not there", self.place(view.at));
                    report.fault_in(room, Kind::Lost, 1, what);
                    None
                }
                Stored::Entry { line: None, .. } => continue,
                Stored::Entry { line, .. } => line,
                Stored::Forgotten => None,
            };
            if view.changed {
                continue;
            }
            let kept = line.map(|line| serde_json::from_slice(&line).map_or(0, |kept| fingerprint(&kept)));
            if kept.is_some_and(|kept| kept != view.print) {
                let what = format!(
                    "{}: entry {s} was seen with another line than the store has",
                    self.place(view.at)
                );
                report.fault_in(room, Kind::Mismatch, 1, what);
            }
            let key = (view.room.clone(), view.epoch.clone(), s);
            let (theirs, name) = others.0.entry(key).or_insert_with(|| (view.print, self.name.clone()));
            if *theirs != view.print {
                let what =
                    format!("{}: entry {s} has another line than client {name} saw", self.place(view.at));
                report.fault_in(room, Kind::Mismatch, 1, what);
            }
        }
        Ok(())
    }

    /// What was acknowledged is there, under its id, and once.
    fn acknowledged(&mut self, frame: &Value, place: &str, report: &mut Report) -> Result<(), VerifyError> {
        let (Some(room), Some(s)) = (frame["r"].as_str(), frame["s"].as_u64()) else { return Ok(()) };
        report.clients.acks += 1;
        let id = frame["id"].as_str();
        if let Some(id) = id {
            let other = self.acks.insert((room.to_owned(), id.to_owned()), s);
            if let Some(other) = other.filter(|other| *other != s) {
                let what = format!("{place}: the id {} got {other} and then {s}", id.escape_debug());
                report.fault_in(room, Kind::Doubled, 1, what);
            }
        }
        match self.stored(room, s)? {
            Stored::Forgotten => {}
            Stored::Nothing => {
                report.fault_in(
                    room,
                    Kind::Lost,
                    1,
                    format!("{place}: entry {s} was acknowledged and is not there"),
                );
            }
            Stored::Entry { id: stored, user, .. } => {
                if id.is_some() && id != stored.as_deref() {
                    let stored = stored.unwrap_or_else(|| "no id".to_owned());
                    let what = format!(
                        "{place}: entry {s} was acknowledged as {}, the store has {} there",
                        id.unwrap_or_default().escape_debug(),
                        stored.escape_debug()
                    );
                    report.fault_in(room, Kind::Lost, 1, what);
                } else if self.session.user().is_some()
                    && user.is_some()
                    && self.session.user() != user.as_deref()
                {
                    let what = format!(
                        "{place}: entry {s} was acknowledged to {}, the store has another user",
                        self.session.user().unwrap_or_default().escape_debug()
                    );
                    report.fault_in(room, Kind::Mismatch, 1, what);
                }
            }
        }
        Ok(())
    }

    fn stored(&self, room: &str, s: Offset) -> Result<Stored, VerifyError> {
        if let Some(entry) = self.tail.entry(room, s) {
            let columns = tail::columns(entry);
            let line = (!self.tail.changes(room, s)).then(|| entry.line.to_vec());
            return Ok(Stored::Entry { id: columns.shown_id(), user: columns.u.map(str::to_owned), line });
        }
        let Some(known) = self.file.rooms.get(room) else { return Ok(Stored::Nothing) };
        if s < known.first {
            return Ok(Stored::Forgotten);
        }
        let Some(row) = self.file.books.entry_at(known.id, s)? else { return Ok(Stored::Nothing) };
        let id = archive::columns(room, &row).shown_id();
        let changed = row.edited > 0 || row.gone || self.tail.changes(room, s);
        Ok(Stored::Entry { id, user: row.u, line: row.line.filter(|_| !changed) })
    }
}

/// Whether a frame is a message whose words were changed or taken back before it was seen.
fn was_changed(frame: &Value) -> bool {
    frame.get("edited").is_some() || frame.get("gone").is_some()
}
