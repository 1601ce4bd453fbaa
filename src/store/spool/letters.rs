//! The events that a backend never took, for an operator's hands. Works beside a running server: each call is one
//! short transaction, and who comes second waits. Used by the command line.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};

use super::tables;
use crate::store::archive::ArchiveError;
use crate::store::letters::Letters;
use crate::store::record::Letter;
use crate::store::sqlite::errors::{Trouble, explain};

/// The queue that such letters name as their source.
pub const SOURCE: &str = "hooks";
/// How the ids of such letters begin.
const PREFIX: &str = "hook-";

const COLUMNS: &str = "SELECT n, ts, reason, body FROM failed";

/// Those of one spool.
#[derive(Debug)]
pub struct SpoolLetters {
    path: PathBuf,
    db: Connection,
}

impl SpoolLetters {
    /// Opens those of the spool in this file; `None` where there is none (yet).
    pub fn open(path: &Path) -> Result<Option<SpoolLetters>, ArchiveError> {
        if !path.exists() {
            return Ok(None);
        }
        let db = tables::open_existing(path).map_err(|trouble| explain(path, "open", trouble))?;
        Ok(Some(SpoolLetters { path: path.to_owned(), db }))
    }

    /// Puts one back behind all that waits; the server posts it within a second or so. `false`: there is no such letter
    /// (any more), or it stands for events that are gone.
    pub fn post_again(&mut self, id: &str) -> Result<bool, ArchiveError> {
        let Some(n) = number(id) else { return Ok(false) };
        let again = || -> Result<bool, rusqlite::Error> {
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            // It has the time of now: it is to be tried as long as others are.
            let sql = "INSERT INTO events (ts, bytes, body) SELECT ?2, bytes, body FROM failed \
                       WHERE n = ?1 AND event IS NOT NULL";
            let now = i64::try_from(crate::clock::wall_ms()).unwrap_or(i64::MAX);
            let found = tx.execute(sql, (n, now))? > 0;
            if found {
                tx.execute("DELETE FROM failed WHERE n = ?1", [n])?;
            }
            tx.commit()?;
            Ok(found)
        };
        again().map_err(|error| self.explain("write to", error))
    }

    fn explain(&self, what: &str, error: rusqlite::Error) -> ArchiveError {
        explain(&self.path, what, Trouble::Sql(error))
    }
}

impl Letters for SpoolLetters {
    fn list(&mut self, n: usize) -> Result<Vec<Letter>, ArchiveError> {
        let read = || -> Result<Vec<Letter>, rusqlite::Error> {
            let mut list = self.db.prepare(&format!("{COLUMNS} ORDER BY n DESC LIMIT ?1"))?;
            list.query_map([i64::try_from(n).unwrap_or(i64::MAX)], letter)?.collect()
        };
        read().map_err(|error| self.explain("read", error))
    }

    fn ids(&mut self) -> Result<Vec<String>, ArchiveError> {
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            let id = |row: &Row<'_>| Ok(format!("{PREFIX}{}", row.get::<_, i64>(0)?));
            self.db.prepare("SELECT n FROM failed ORDER BY n")?.query_map([], id)?.collect()
        };
        read().map_err(|error| self.explain("read", error))
    }

    fn show(&mut self, id: &str) -> Result<Option<Letter>, ArchiveError> {
        let Some(n) = number(id) else { return Ok(None) };
        let found = self.db.query_row(&format!("{COLUMNS} WHERE n = ?1"), [n], letter).optional();
        found.map_err(|error| self.explain("read", error))
    }

    fn remove(&mut self, id: &str) -> Result<bool, ArchiveError> {
        let Some(n) = number(id) else { return Ok(false) };
        let gone = self.db.execute("DELETE FROM failed WHERE n = ?1", [n]);
        gone.map(|n| n > 0).map_err(|error| self.explain("write to", error))
    }
}

fn number(id: &str) -> Option<i64> {
    id.strip_prefix(PREFIX)?.parse().ok()
}

fn letter(row: &Row<'_>) -> Result<Letter, rusqlite::Error> {
    let (n, ts): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (reason, body): (String, String) = (row.get(2)?, row.get(3)?);
    Ok(Letter {
        id: format!("{PREFIX}{n}").into(),
        ts: ts.max(0) as u64,
        source: SOURCE.into(),
        reason: reason.into(),
        item: body.into(),
    })
}
