//! The tables of a spool and the small questions about them. Called by the spool and by whoever reads its dead letters.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::Levels;
use crate::chat::message::Epoch;
use crate::store::rooms::stored;
use crate::store::sqlite::errors::Trouble;
use crate::store::sqlite::schema::BUSY_TIMEOUT;

/// Marks the file as a spool in bytes 68-71 of its header: "Rmhk" in ASCII.
const APPLICATION_ID: i32 = 0x526d_686b;
/// The tables that this program writes and reads.
const VERSION: i32 = 1;

/// `AUTOINCREMENT`: numbers are in the ids of requests and of dead letters, so none may come again when a table has
/// been empty.
const TABLES: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE events (
    n     INTEGER PRIMARY KEY AUTOINCREMENT,
    ts    INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    body  TEXT NOT NULL
);

CREATE TABLE failed (
    n      INTEGER PRIMARY KEY AUTOINCREMENT,
    event  INTEGER,
    ts     INTEGER NOT NULL,
    reason TEXT NOT NULL,
    bytes  INTEGER NOT NULL,
    body   TEXT NOT NULL
);

CREATE TABLE open (
    session TEXT PRIMARY KEY,
    u       TEXT NOT NULL
) WITHOUT ROWID;
";

/// Opens the spool in a file; makes it, and its folder, where there is none.
pub(super) fn open(path: &Path) -> Result<Connection, Trouble> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            Trouble::told(format!("cannot create the folder {} of the hooks: {error}", folder.display()))
        })?;
    }
    prepare(Connection::open(path)?, path)
}

/// Opens one that is there.
pub(super) fn open_existing(path: &Path) -> Result<Connection, Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare(Connection::open_with_flags(path, flags)?, path)
}

/// One that ends with the connection.
pub(super) fn in_memory() -> Result<Connection, Trouble> {
    let db = Connection::open_in_memory()?;
    create(&db)?;
    Ok(db)
}

fn prepare(db: Connection, path: &Path) -> Result<Connection, Trouble> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = (application, version, tables) == (0, 0, 0);
    if !is_new && (application, version) != (APPLICATION_ID, VERSION) {
        return Err(Trouble::told(format!(
            "{} is no file of hooks of this version; nothing was changed in it; move it away, or start the program \
             that wrote it",
            path.display()
        )));
    }
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::told(format!(
            "{} cannot have a write-ahead log (journal mode {mode}); put it on a local disk",
            path.display()
        )));
    }
    db.pragma_update(None, "synchronous", "NORMAL")?;
    // Words that were told, or taken back, are not to be found in the file afterwards.
    db.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
    if is_new {
        create(&db)?;
    }
    Ok(db)
}

fn create(db: &Connection) -> Result<(), Trouble> {
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Exclusive)?;
    // Another process may have been faster.
    let there: i32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if there == VERSION {
        return Ok(());
    }
    tx.execute_batch(TABLES)?;
    tx.execute("INSERT INTO meta (key, value) VALUES ('id', ?1)", [Epoch(rand::random()).to_text()])?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(())
}

/// A text of the table `meta`.
pub(super) fn text(db: &Connection, key: &str) -> Result<Option<String>, rusqlite::Error> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// A number of the table `meta`.
pub(super) fn number(db: &Connection, key: &str) -> Result<Option<i64>, rusqlite::Error> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// Sets a number of the table `meta`.
pub(super) fn put_number(db: &Connection, key: &str, value: i64) -> Result<(), rusqlite::Error> {
    let sql =
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
    db.prepare_cached(sql)?.execute((key, value))?;
    Ok(())
}

/// Takes a key out of the table `meta`.
pub(super) fn remove(db: &Connection, key: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// A number that changes when another connection has written.
pub(super) fn version(db: &Connection) -> Result<i64, rusqlite::Error> {
    db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// How much there is, counted.
pub(super) fn levels(db: &Connection) -> Result<Levels, rusqlite::Error> {
    let sum = |sql: &str| -> Result<(u64, u64), rusqlite::Error> {
        db.query_row(sql, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))
    };
    let (waiting, waiting_bytes) = sum("SELECT count(*), coalesce(sum(bytes), 0) FROM events")?;
    let (_, failed_bytes) = sum("SELECT count(*), coalesce(sum(bytes), 0) FROM failed")?;
    Ok(Levels { waiting, waiting_bytes, failed_bytes, dropped: 0 })
}

/// Number and bytes of the events up to a number that happened before a time.
pub(super) fn sum_of_events(db: &Connection, upto: i64, before: u64) -> Result<(u64, u64), rusqlite::Error> {
    let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM events WHERE n <= ?1 AND ts < ?2";
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    let sum = |row: &rusqlite::Row<'_>| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)));
    db.prepare_cached(sql)?.query_row((upto, before), sum)
}

/// The oldest event that waits: its number and its bytes.
pub(super) fn oldest_event(db: &Connection) -> Result<Option<(i64, u64)>, rusqlite::Error> {
    oldest(db, "SELECT n, bytes FROM events ORDER BY n LIMIT 1")
}

/// The oldest dead letter that is an event.
pub(super) fn oldest_failed(db: &Connection) -> Result<Option<(i64, u64)>, rusqlite::Error> {
    oldest(db, "SELECT n, bytes FROM failed WHERE event IS NOT NULL ORDER BY n LIMIT 1")
}

fn oldest(db: &Connection, sql: &str) -> Result<Option<(i64, u64)>, rusqlite::Error> {
    let found = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, unsigned(row.get(1)?)));
    db.prepare_cached(sql)?.query_row([], found).optional()
}

/// A session is open.
pub(super) fn session_opened(db: &Connection, session: &str, user: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached("INSERT OR REPLACE INTO open (session, u) VALUES (?1, ?2)")?
        .execute((session, user))?;
    Ok(())
}

/// A session is open no more.
pub(super) fn session_closed(db: &Connection, session: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached("DELETE FROM open WHERE session = ?1")?.execute([session])?;
    Ok(())
}

/// The sessions that are open, each with its user.
pub(super) fn open_sessions(db: &Connection) -> Result<Vec<(String, String)>, rusqlite::Error> {
    let mut list = db.prepare_cached("SELECT session, u FROM open ORDER BY session")?;
    list.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Notes among what has failed that events were dropped: one note for all of a kind that follow one another.
pub(super) fn note_dropped(db: &Connection, n: u64, now: u64) -> Result<(), rusqlite::Error> {
    let sql = "SELECT n, body FROM failed WHERE event IS NULL ORDER BY n DESC LIMIT 1";
    let last: Option<(i64, String)> =
        db.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let dropped = |body: &str| {
        let body: Option<serde_json::Value> = serde_json::from_str(body).ok();
        body.and_then(|body| body["dropped"].as_u64()).unwrap_or(0)
    };
    let before = last.as_ref().map_or(0, |(_, body)| dropped(body));
    let body = serde_json::json!({ "dropped": before + n }).to_string();
    match last {
        Some((row, _)) => {
            let sql = "UPDATE failed SET ts = ?2, body = ?3 WHERE n = ?1";
            db.prepare_cached(sql)?.execute((row, stored(now), body))?;
        }
        None => {
            let sql = "INSERT INTO failed (event, ts, reason, bytes, body) VALUES (NULL, ?1, ?2, 0, ?3)";
            let reason = "dropped: more than hooks.spool_bytes waited for the backend";
            db.prepare_cached(sql)?.execute((stored(now), reason, body))?;
        }
    }
    Ok(())
}

fn unsigned(n: i64) -> u64 {
    n.max(0) as u64
}
