//! The tables of a store and how a file becomes one: settings of a connection, the schema, the check that a
//! file is a store of ours. Called when a store is opened; knows no record. docs/store.md explains the tables
//! to people.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::store::archive::ArchiveError;
use crate::store::ids::IdKey;
use crate::store::sqlite::errors::{self, Trouble};
use crate::store::sqlite::words;

/// Marks the file as ours in bytes 68-71 of its header: "Rmct" in ASCII.
pub const APPLICATION_ID: i32 = 0x526d_6374;
/// The schema that this program writes and reads.
pub const SCHEMA_VERSION: i32 = 1;

/// How long a connection waits for another one that writes, for example the command line.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a page. Entries of 200-400 bytes fill pages of 4 KiB well, and it is the block of the usual file
/// systems and disks, so that no write touches more than it has to.
const PAGE_BYTES: i64 = 4096;
/// Page cache of the writer in KiB. The indexes grow at one leaf per busy room; this holds those of about
/// ten thousand busy rooms and the inner pages of all others.
const WRITER_CACHE_KIB: i64 = 64 << 10;
/// Page cache of a reader in KiB; the kernel's own cache stands behind it.
const READER_CACHE_KIB: i64 = 8 << 10;
/// What the log file is cut down to when it starts anew, in bytes.
const LOG_BYTES_KEPT: i64 = 64 << 20;
/// Statements that a connection keeps prepared; there are about forty.
const STATEMENTS_KEPT: usize = 64;

const TABLES: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE rooms (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    epoch   INTEGER NOT NULL DEFAULT 0,
    top     INTEGER NOT NULL DEFAULT 0,
    first   INTEGER NOT NULL DEFAULT 1,
    bytes   INTEGER NOT NULL DEFAULT 0,
    oldest  INTEGER NOT NULL DEFAULT 0,
    used    INTEGER NOT NULL DEFAULT 0,
    lineage TEXT NOT NULL DEFAULT ''
);

CREATE TABLE owners (
    u    TEXT NOT NULL,
    room INTEGER NOT NULL,
    PRIMARY KEY (u, room)
) WITHOUT ROWID;

CREATE TABLE entries (
    n      INTEGER PRIMARY KEY,
    room   INTEGER NOT NULL,
    s      INTEGER NOT NULL,
    e      INTEGER NOT NULL,
    ts     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    u      TEXT,
    id     TEXT,
    h      INTEGER,
    of     INTEGER NOT NULL DEFAULT 0,
    edited INTEGER NOT NULL DEFAULT 0,
    gone   INTEGER NOT NULL DEFAULT 0,
    line   TEXT
);
CREATE UNIQUE INDEX entries_place ON entries (room, s);
CREATE INDEX entries_id ON entries (h) WHERE h IS NOT NULL;

CREATE TABLE reactions (
    room INTEGER NOT NULL,
    of   INTEGER NOT NULL,
    u    TEXT NOT NULL,
    k    TEXT NOT NULL,
    \"on\" INTEGER NOT NULL,
    s    INTEGER NOT NULL,
    PRIMARY KEY (room, of, u, k)
) WITHOUT ROWID;

CREATE TABLE reads (
    room INTEGER NOT NULL,
    u    TEXT NOT NULL,
    s    INTEGER NOT NULL,
    ts   INTEGER NOT NULL,
    PRIMARY KEY (room, u)
) WITHOUT ROWID;
CREATE INDEX reads_user ON reads (u);
CREATE INDEX reads_time ON reads (room, ts);

CREATE TABLE sessions (
    id    TEXT PRIMARY KEY,
    u     TEXT NOT NULL,
    ts    INTEGER NOT NULL,
    rooms TEXT NOT NULL
);
CREATE INDEX sessions_time ON sessions (ts);

CREATE TABLE seen (
    n    INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    ts   INTEGER NOT NULL,
    u    TEXT,
    id   TEXT NOT NULL,
    h    INTEGER NOT NULL
);
CREATE INDEX seen_room ON seen (room);
CREATE INDEX seen_id ON seen (h);

CREATE TABLE dead (
    n      INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE,
    ts     INTEGER NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    item   BLOB NOT NULL
);

CREATE TABLE rules (
    room  TEXT PRIMARY KEY,
    rules TEXT NOT NULL
) WITHOUT ROWID;

CREATE VIRTUAL TABLE words USING fts5 (
    text, content = '', columnsize = 0, detail = none, tokenize = 'ascii'
);
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);

CREATE VIEW log AS
    SELECT rooms.name AS room, s, strftime('%Y-%m-%d %H:%M:%f', ts / 1000.0, 'unixepoch') AS time,
           kind, u AS user, line -> '$.d' AS data, of, edited, gone, entries.id AS id
    FROM entries JOIN rooms ON rooms.id = entries.room;

CREATE VIEW unread AS
    SELECT reads.u AS user, rooms.name AS room, rooms.top, reads.s AS read, rooms.top - reads.s AS unread
    FROM reads JOIN rooms ON rooms.id = reads.room;
";

/// What stores of earlier programs do not have yet. Those programs go on with a store that has it.
const LATER_TABLES: &str = "
CREATE TABLE IF NOT EXISTS rules (
    room  TEXT PRIMARY KEY,
    rules TEXT NOT NULL
) WITHOUT ROWID;
";

/// Opens the writing connection; creates the file, its folder and the tables where there are none.
pub fn open_writer(path: &Path) -> Result<Connection, ArchiveError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            ArchiveError(format!(
                "cannot create the folder {} of the store: {error}; create it or set another store.url",
                folder.display()
            ))
        })?;
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare_writer(path, flags).map_err(|trouble| errors::explain(path, "open", trouble))
}

fn prepare_writer(path: &Path, flags: OpenFlags) -> Result<Connection, Trouble> {
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    let is_new = !is_store(&db, path)?;
    if is_new {
        // Both count only before the first table is there.
        db.pragma_update(None, "page_size", PAGE_BYTES)?;
        db.pragma_update(None, "auto_vacuum", 0)?;
    }
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::told(format!(
            "the store {} cannot have a write-ahead log (journal mode {mode}); put it on a local disk",
            path.display()
        )));
    }
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
    db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // The archive does it by itself, after it has looked at the pages.
    db.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    db.query_row(&format!("PRAGMA journal_size_limit = {LOG_BYTES_KEPT}"), [], |_| Ok(()))?;
    match is_new {
        true => create(&db)?,
        false => db.execute_batch(LATER_TABLES)?,
    }
    Ok(db)
}

/// Whether the file is a store already; `false` for an empty one. Everything else is refused.
fn is_store(db: &Connection, path: &Path) -> Result<bool, Trouble> {
    let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if application == APPLICATION_ID && version == SCHEMA_VERSION {
        return Ok(true);
    }
    let file = path.display();
    if application == APPLICATION_ID && version > SCHEMA_VERSION {
        return Err(Trouble::told(format!(
            "the store {file} was made by a newer Roomcast (schema {version}, this program knows \
             {SCHEMA_VERSION}); start the newer program, or set store.url to another file"
        )));
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && application == 0 && version == 0 {
        return Ok(false);
    }
    Err(Trouble::told(format!(
        "{file} is an SQLite file of another program, not a store of Roomcast; nothing was changed in it; set \
         store.url to another file"
    )))
}

fn create(db: &Connection) -> Result<(), Trouble> {
    let tx = rusqlite::Transaction::new_unchecked(db, rusqlite::TransactionBehavior::Exclusive)?;
    // Another process may have been faster.
    let there: i32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if there == SCHEMA_VERSION {
        return Ok(());
    }
    tx.execute_batch(TABLES)?;
    let mut put = tx.prepare("INSERT INTO meta (key, value) VALUES (?1, ?2)")?;
    for (key, value) in
        [("applied", 0), ("hash_key_1", rand::random::<i64>()), ("hash_key_2", rand::random::<i64>())]
    {
        put.execute((key, value))?;
    }
    drop(put);
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    tx.commit()?;
    Ok(())
}

/// Opens a second writing connection to a store that is there.
pub fn open_existing(path: &Path) -> Result<Connection, ArchiveError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare_writer(path, flags).map_err(|trouble| errors::explain(path, "open", trouble))
}

/// Opens a reading connection to a store that is there.
pub fn open_reader(path: &Path) -> Result<Connection, ArchiveError> {
    let open = || -> Result<Connection, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        if !is_store(&db, path)? {
            return Err(Trouble::told(format!(
                "{} is empty; start the server once, it makes the store",
                path.display()
            )));
        }
        db.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        db.execute_batch(words::VOCABULARY)?;
        Ok(db)
    };
    open().map_err(|trouble| errors::explain(path, "open", trouble))
}

/// Notes in a store that it is a copy, or that it is one no more.
pub fn set_copy(db: &Connection, is_copy: bool) -> Result<(), rusqlite::Error> {
    let sql =
        "INSERT INTO meta (key, value) VALUES ('copy', ?1) ON CONFLICT DO UPDATE SET value = excluded.value";
    db.execute(sql, [is_copy])?;
    Ok(())
}

/// Whether a store is a copy that no server has used yet.
pub fn is_copy(db: &Connection) -> Result<bool, rusqlite::Error> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM meta WHERE key = 'copy' AND value <> 0)", [], |row| row.get(0))
}

/// The key of the numbers that stand for ids.
pub fn id_key(db: &Connection) -> Result<IdKey, rusqlite::Error> {
    Ok(IdKey::new(meta(db, "hash_key_1")?, meta(db, "hash_key_2")?))
}

/// A number of the table `meta`.
pub fn meta(db: &Connection, key: &str) -> Result<i64, rusqlite::Error> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0))
}
