//! A copy of a store that may be in use: one file with everything that was acknowledged before the copying
//! began. Used by the command line; the server knows nothing of it.
//!
//! Plain copying of the files would take them at different moments, and the newest entries are not in the main
//! file but in its log and in the journal. SQLite's backup interface copies pages within one read transaction:
//! one state, no faster way, and the server goes on writing beside it. `VACUUM INTO` would do as well and leave
//! out free pages, but builds every table and index anew, which takes far more time and processor; deleted words
//! are overwritten in a store anyway.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::store::archive::{Archive, ArchiveError};
use crate::store::journal::{self, Found};
use crate::store::record::{Item, Lsn};
use crate::store::sqlite::errors::explain;
use crate::store::sqlite::{SqliteArchive, reading::SqliteReader, schema};

/// Records that are applied to the copy in one transaction, about.
const BATCH: usize = 2_000;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the file.
    pub bytes: u64,
    /// Number of the last record in it.
    pub upto: Lsn,
    /// Records that only the journal had.
    pub from_journal: usize,
    /// Acknowledged records that cannot be read in the journal, from one number to another.
    pub lost: Vec<(Lsn, Lsn)>,
}

/// Copies the store in `database` with its journal to the new file `to`. It has that name only when it is
/// whole.
pub fn copy(database: &Path, journal_dir: &Path, to: &Path) -> Result<Copied, ArchiveError> {
    if to.exists() {
        return Err(ArchiveError(format!("{} is there already; name a file that is not", to.display())));
    }
    if !database.exists() {
        return Err(ArchiveError(format!("there is no store {}; see store.url", database.display())));
    }
    let unfinished = with_ending(to, ".tmp");
    claim(&unfinished)?;
    let made = copy_into(database, journal_dir, &unfinished)
        .and_then(|copied| finish(&unfinished, to).map(|()| copied));
    if made.is_err() {
        tidy(&unfinished);
    }
    made
}

/// Makes the unfinished file, readable for its owner alone.
fn claim(path: &Path) -> Result<(), ArchiveError> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(ArchiveError(format!(
            "{} is there: another backup is being made, or one broke off; in that case remove it",
            path.display()
        ))),
        Err(error) => Err(failed("write", path, &error)),
    }
}

/// The order matters. The journal lets go of records only when the archive has them durably; so what is read
/// from the journal first, and from the archive second, holds every record that was acknowledged before.
fn copy_into(database: &Path, journal_dir: &Path, to: &Path) -> Result<Copied, ArchiveError> {
    let applied = SqliteReader::open(database)?.applied()?;
    let found = look(journal_dir, applied)?;
    copy_pages(database, to)?;
    let mut copy = SqliteArchive::open(to)?;
    let has = copy.applied();
    let newer: Vec<Item> = found.items.into_iter().filter(|item| item.lsn > has).collect();
    apply(&mut copy, &newer)?;
    schema::set_copy(&copy.db, true).map_err(|error| explain(to, "write to", error.into()))?;
    let upto = copy.checkpoint()?;
    drop(copy);
    let bytes = fs::metadata(to).map_err(|error| failed("read", to, &error))?.len();
    let lost = found.lost.into_iter().filter(|(_, last)| *last > has).collect();
    Ok(Copied { bytes, upto, from_journal: newer.len(), lost })
}

fn look(journal_dir: &Path, after: Lsn) -> Result<Found, ArchiveError> {
    if !journal_dir.exists() {
        return Ok(Found::default());
    }
    journal::look(journal_dir, after).map_err(|error| ArchiveError(error.to_string()))
}

fn copy_pages(database: &Path, to: &Path) -> Result<(), ArchiveError> {
    let from = schema::open_reader(database)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copied = Connection::open_with_flags(to, flags).and_then(|mut copy| {
        // All pages in one step: between two steps a write by the server would begin the copy anew.
        let step = Backup::new(&from, &mut copy)?.step(-1)?;
        Ok(step == StepResult::Done)
    });
    match copied {
        Ok(true) => Ok(()),
        Ok(false) => Err(ArchiveError(format!(
            "the store {} was locked by another program for too long; end that program and try again",
            database.display()
        ))),
        Err(error) => Err(explain(to, "copy to", error.into())),
    }
}

/// Records that belong together stay in one transaction.
fn apply(copy: &mut SqliteArchive, mut items: &[Item]) -> Result<(), ArchiveError> {
    while !items.is_empty() {
        let n = items.iter().skip(BATCH - 1).position(|item| !item.with_next);
        let (batch, rest) = items.split_at(n.map_or(items.len(), |n| n + BATCH));
        copy.append(batch)?;
        items = rest;
    }
    Ok(())
}

/// Gives the file its name, durably, unless somebody else has made one in the meantime.
fn finish(unfinished: &Path, to: &Path) -> Result<(), ArchiveError> {
    let synced = File::open(unfinished).and_then(|file| file.sync_all());
    synced.map_err(|error| failed("write", unfinished, &error))?;
    // A link, unlike a rename, replaces nothing. Some file systems have none.
    match fs::hard_link(unfinished, to) {
        Ok(()) => fs::remove_file(unfinished).map_err(|error| failed("remove", unfinished, &error))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(ArchiveError(format!(
                "{} came while the backup was made; name another file",
                to.display()
            )));
        }
        Err(_) => fs::rename(unfinished, to).map_err(|error| failed("rename", unfinished, &error))?,
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("write", folder, &error))
}

/// Takes away what a failed backup has left.
fn tidy(unfinished: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let path = with_ending(unfinished, ending);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::warn!("cannot remove {} ({error}); remove it by hand", path.display()),
        }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> ArchiveError {
    ArchiveError(format!(
        "cannot {what} {}: {error}; look after the folder, its rights and the disk",
        path.display()
    ))
}
