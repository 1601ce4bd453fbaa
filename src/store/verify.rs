//! Reads a store, and what clients say they have seen of it, and finds what contradicts a promise: nothing
//! acknowledged is lost, nothing stands twice, every reader sees every offset once and in order. Called by the
//! command line while a server runs or not; changes nothing. Knows the archive and the journal, no server.

mod archive;
pub mod books;
mod clients;
mod file;
mod lines;
mod report;
mod stream;
mod tail;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::store::archive::{ArchiveError, OpenError};
use crate::store::journal::{self, Found, JournalError};
use crate::store::place::StorePlace;
use crate::store::postgres::books::DatabaseBooks;
use crate::store::sqlite::schema;
use archive::File;
use books::Books;
use file::FileBooks;
pub use report::{Clients, Fault, Kind, Report, RoomReport};
use tail::Tail;

/// A running server moves entries from the journal to the archive; so many times both are read again when
/// something moved in between.
const LOOKS_MAX: usize = 10;

/// Why a verification could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyError {
    /// There is no store at this place.
    NoStore(String),
    /// A client's log cannot be read.
    BadLog(String),
    /// The store cannot be read.
    Unreadable(String),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::NoStore(why) | VerifyError::BadLog(why) | VerifyError::Unreadable(why) => {
                f.write_str(why)
            }
        }
    }
}

impl std::error::Error for VerifyError {}

impl From<rusqlite::Error> for VerifyError {
    fn from(error: rusqlite::Error) -> VerifyError {
        VerifyError::Unreadable(format!("the store cannot be read ({error}); restore the file from a backup"))
    }
}

impl From<ArchiveError> for VerifyError {
    fn from(error: ArchiveError) -> VerifyError {
        VerifyError::Unreadable(error.0)
    }
}

impl From<JournalError> for VerifyError {
    fn from(error: JournalError) -> VerifyError {
        VerifyError::Unreadable(error.to_string())
    }
}

/// What is to be read.
pub struct Place<'a> {
    /// The archive.
    pub store: &'a StorePlace,
    /// The journal's folder; one that is not there is an empty one.
    pub journal: &'a Path,
    /// Logs of clients: one file each, in each line a frame that it received or sent, in that order:
    /// `{"dir":"in","ms":12,"frame":{…}}`, with `"dropped":true` where it dropped a repeat.
    pub clients: &'a [PathBuf],
}

/// Reads a store and the clients' logs. `ids_ms` tells by a room's name how long its ids are remembered, in
/// milliseconds; later an id may come again.
pub fn verify(place: &Place<'_>, ids_ms: &dyn Fn(&str) -> u64) -> Result<Report, VerifyError> {
    let books = open(place.store)?;
    let books = books.as_ref();
    let mut report = Report::default();
    let found = look(books, place, &mut report)?;
    report.tail = found.items.len() as u64;
    report.notes.extend(found.notes.iter().cloned());
    for (from, to) in &found.lost {
        report.fault(
            Kind::Lost,
            format!(
                "records {from} to {to} were acknowledged and are neither in the journal nor in the archive"
            ),
        );
    }
    let tail = Tail::of(found);
    let file = File::open(books, &mut report)?;
    file.check(ids_ms, &mut report)?;
    tail.check(&file, ids_ms, &mut report)?;
    clients::check(place.clients, &file, &tail, &mut report)?;
    Ok(report)
}

fn open(store: &StorePlace) -> Result<Box<dyn Books>, VerifyError> {
    let none = || {
        VerifyError::NoStore(format!(
            "there is no store at {store}; start the server once, or name it with --store"
        ))
    };
    match store {
        StorePlace::Sqlite(file) if !file.is_file() => Err(none()),
        StorePlace::Sqlite(file) => Ok(Box::new(FileBooks(schema::open_reader(file)?))),
        StorePlace::Postgres(url) => match DatabaseBooks::open(url) {
            Ok(Some(books)) => Ok(Box::new(books)),
            Ok(None) => Err(none()),
            Err(OpenError::Away(error)) => Err(VerifyError::NoStore(error.0)),
            Err(OpenError::Failed(error)) => Err(error.into()),
        },
    }
}

/// Begins a snapshot of the archive and reads the journal that goes with it.
fn look(books: &dyn Books, place: &Place<'_>, report: &mut Report) -> Result<Found, VerifyError> {
    for last_look in (0..LOOKS_MAX).map(|n| n + 1 == LOOKS_MAX) {
        report.applied = books.begin()?;
        let found = match place.journal.is_dir() {
            true => journal::look(place.journal, report.applied),
            false => Ok(Found::default()),
        };
        // What seems lost may just have been moved to the archive and freed.
        let settled = found.as_ref().is_ok_and(|found| found.lost.is_empty());
        if settled || last_look {
            return Ok(found?);
        }
        let moved = books.end()? != report.applied;
        if !moved {
            books.begin()?;
            return Ok(found?);
        }
    }
    unreachable!("the last look returns")
}
