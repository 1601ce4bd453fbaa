//! What SQLite's errors mean for people: each text names the file and what to do. Called by everything that
//! touches the store.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::archive::ArchiveError;

/// What stopped a step: SQLite, or something that was found and has its text already.
#[derive(Debug)]
pub enum Trouble {
    /// SQLite says no.
    Sql(rusqlite::Error),
    /// Ready for people.
    Told(ArchiveError),
}

impl Trouble {
    /// Something that was found.
    pub fn told(text: String) -> Trouble {
        Trouble::Told(ArchiveError(text))
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

/// The error of doing `what` (a verb) with the store at `path`.
pub fn explain(path: &Path, what: &str, trouble: Trouble) -> ArchiveError {
    let error = match trouble {
        Trouble::Told(told) => return told,
        Trouble::Sql(error) => error,
    };
    let todo = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full; free some space, it goes on by itself",
        Some(ErrorCode::ReadOnly) => {
            "it cannot be written; give the user of the server the right to write the file and its folder"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "see that the folder is there and that the user of the server may read and write in it"
        }
        Some(ErrorCode::NotADatabase) => {
            "it is no SQLite file; nothing was changed in it; set store.url to another file"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "it is damaged; stop the server, put a backup in its place, and keep the damaged file for \
             `sqlite3 FILE .recover`"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program is writing to it for too long; end that program, it goes on by itself"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk does not read or write it; see the system's log",
        _ => "keep the file and look at this text in the troubles section of docs/store.md",
    };
    ArchiveError(format!("cannot {what} the store {}: {error}; {todo}", path.display()))
}
