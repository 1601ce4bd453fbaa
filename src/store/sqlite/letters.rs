//! The dead letters of a store for an operator's hands. Works beside a running server: each call is one short
//! transaction, and who comes second waits. Used by the command line.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::archive::ArchiveError;
use crate::store::letters::Letters;
use crate::store::record::Letter;
use crate::store::sqlite::errors::explain;
use crate::store::sqlite::{notes, schema};

/// The dead letters of one store.
#[derive(Debug)]
pub struct SqliteLetters {
    path: PathBuf,
    db: Connection,
}

impl SqliteLetters {
    /// Opens those of the store in this file; `None` where there is no store (yet).
    pub fn open(path: &Path) -> Result<Option<SqliteLetters>, ArchiveError> {
        if !path.exists() {
            return Ok(None);
        }
        let db = schema::open_existing(path)?;
        Ok(Some(SqliteLetters { path: path.to_owned(), db }))
    }
}

impl Letters for SqliteLetters {
    fn list(&mut self, n: usize) -> Result<Vec<Letter>, ArchiveError> {
        notes::newest_dead(&self.db, n).map_err(|error| explain(&self.path, "read", error.into()))
    }

    fn ids(&mut self) -> Result<Vec<String>, ArchiveError> {
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            self.db.prepare("SELECT id FROM dead ORDER BY n")?.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|error| explain(&self.path, "read", error.into()))
    }

    fn show(&mut self, id: &str) -> Result<Option<Letter>, ArchiveError> {
        notes::one_dead(&self.db, id).map_err(|error| explain(&self.path, "read", error.into()))
    }

    fn remove(&mut self, id: &str) -> Result<bool, ArchiveError> {
        notes::dead_gone(&self.db, id).map_err(|error| explain(&self.path, "write to", error.into()))
    }
}
