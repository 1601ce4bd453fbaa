//! The list of what leaves the store, in a table of its own that is made when the first is to leave; how far its
//! listeners are stands in the table `meta`. Entries are listed by the batch that writes them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::archive::ArchiveError;
use crate::store::outgoing::{BEFORE_ALL, Leaving, Listed, Listener, Number, OutgoingReader, Standing};
use crate::store::record::Lsn;
use crate::store::rooms::stored;
use crate::store::sqlite::errors::{Trouble, explain};
use crate::store::sqlite::pages;
use crate::store::sqlite::rooms::number;
use crate::store::sqlite::schema;

type Sql<T> = Result<T, rusqlite::Error>;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS outgoing (
    n    INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    s    INTEGER NOT NULL
)";
/// Where a listener stands, in the table `meta`.
const KEY: &str = "forward:";

/// Makes the list ready; without listeners there is none. Where each listener stands, in their order.
pub fn begin(db: &Connection, leaving: &Leaving) -> Result<Vec<Number>, Trouble> {
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    if leaving.listeners.is_empty() {
        forget_others(&tx, &[])?;
        tx.execute_batch("DROP TABLE IF EXISTS outgoing")?;
        tx.commit()?;
        return Ok(Vec::new());
    }
    tx.execute_batch(TABLE)?;
    forget_others(&tx, &leaving.listeners)?;
    // Records that were lost with a journal get their numbers again.
    let sql = "UPDATE meta SET value = ?3 WHERE substr(key, 1, ?1) = ?2 AND value > ?3";
    tx.execute(sql, (KEY.len() as i64, KEY, stored(leaving.newest)))?;
    let mut places = Vec::with_capacity(leaving.listeners.len());
    for listener in &leaving.listeners {
        places.push(match place_of(&tx, &listener.name)? {
            Some(place) => place,
            None => begin_at(&tx, listener, leaving)?,
        });
    }
    trim(&tx)?;
    tx.commit()?;
    Ok(places)
}

fn key(listener: &str) -> String {
    format!("{KEY}{listener}")
}

fn place_of(db: &Connection, listener: &str) -> Sql<Option<Number>> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT value FROM meta WHERE key = ?1";
    db.prepare_cached(sql)?.query_row([key(listener)], |row| row.get(0)).optional()
}

fn forget_others(db: &Connection, listeners: &[Listener]) -> Sql<()> {
    let mut known = db.prepare("SELECT key FROM meta WHERE substr(key, 1, ?1) = ?2")?;
    let known: Vec<String> =
        known.query_map((KEY.len() as i64, KEY), |row| row.get(0))?.collect::<Sql<_>>()?;
    for old in known.iter().filter(|old| listeners.iter().all(|listener| key(&listener.name) != **old)) {
        db.execute("DELETE FROM meta WHERE key = ?1", [old])?;
    }
    Ok(())
}

fn begin_at(db: &Connection, listener: &Listener, leaving: &Leaving) -> Sql<Number> {
    let place = match listener.from_first {
        true => {
            list_what_is_there(db, leaving)?;
            BEFORE_ALL
        }
        false => stored(leaving.newest),
    };
    db.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key(&listener.name), place))?;
    Ok(place)
}

/// Lists the entries that are not listed yet: all of them are older than those of their rooms that are.
fn list_what_is_there(db: &Connection, leaving: &Leaving) -> Sql<()> {
    db.execute_batch(
        "CREATE TEMP TABLE wanted (room INTEGER PRIMARY KEY);
         CREATE TEMP TABLE listed (room INTEGER, s INTEGER, PRIMARY KEY (room, s)) WITHOUT ROWID;
         INSERT OR IGNORE INTO listed SELECT room, s FROM outgoing;",
    )?;
    let mut rooms = db.prepare("SELECT id, name FROM rooms")?;
    let mut rooms = rooms.query([])?;
    while let Some(row) = rooms.next()? {
        let name = RoomName::new(row.get_ref(1)?.as_str()?);
        if name.is_ok_and(|name| leaving.leaves.lists(&name)) {
            db.prepare_cached("INSERT INTO wanted (room) VALUES (?1)")?.execute([row.get::<_, i64>(0)?])?;
        }
    }
    // A new record's number is above all; these get numbers below all, in their own order.
    db.execute_batch(
        "INSERT INTO outgoing (n, room, s)
         SELECT (SELECT min(0, coalesce(min(n) - 1, 0)) FROM outgoing)
                - row_number() OVER (ORDER BY entries.n DESC) + 1, entries.room, entries.s
         FROM entries JOIN wanted ON wanted.room = entries.room
         WHERE NOT EXISTS (SELECT 1 FROM listed WHERE listed.room = entries.room AND listed.s = entries.s);
         DROP TABLE listed; DROP TABLE wanted;",
    )
}

/// An entry is listed in the transaction that keeps it.
pub fn list(db: &Connection, lsn: Lsn, room: i64, offset: u64) -> Sql<()> {
    let sql = "INSERT OR IGNORE INTO outgoing (n, room, s) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?.execute((stored(lsn), room, stored(offset)))?;
    Ok(())
}

/// Notes how far listeners are.
pub fn note(db: &Connection, upto: &[(String, Number)]) -> Result<(), Trouble> {
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    for (listener, place) in upto {
        let sql = "UPDATE meta SET value = ?2 WHERE key = ?1 AND value < ?2";
        tx.prepare_cached(sql)?.execute((key(listener), place))?;
    }
    trim(&tx)?;
    tx.commit()?;
    Ok(())
}

fn trim(db: &Connection) -> Sql<()> {
    let sql = "DELETE FROM outgoing WHERE n <= (SELECT min(value) FROM meta WHERE substr(key, 1, ?1) = ?2)";
    db.prepare_cached(sql)?.execute((KEY.len() as i64, KEY))?;
    Ok(())
}

/// Reads the list, on a connection of its own.
#[derive(Debug)]
pub struct SqliteOutgoing {
    path: PathBuf,
    db: Connection,
}

impl SqliteOutgoing {
    /// Of a store whose list was begun.
    pub fn open(path: &Path) -> Result<SqliteOutgoing, ArchiveError> {
        Ok(SqliteOutgoing { path: path.to_owned(), db: schema::open_reader(path)? })
    }

    fn read(&self, place: Number, n: usize, bytes: usize) -> Sql<Vec<Listed>> {
        let sql = "SELECT o.n, rooms.name, o.s, entries.e, entries.ts, entries.u, entries.line \
                   FROM outgoing AS o JOIN rooms ON rooms.id = o.room \
                   LEFT JOIN entries ON entries.room = o.room AND entries.s = o.s \
                   WHERE o.n > ?1 ORDER BY o.n LIMIT ?2";
        let mut list = self.db.prepare_cached(sql)?;
        let mut rows = list.query((place, stored(n as u64)))?;
        let (mut found, mut read) = (Vec::new(), 0);
        while read < bytes
            && let Some(row) = rows.next()?
        {
            // A name that is none of ours any more was put there by hand.
            let Ok(room) = RoomName::new(row.get_ref(1)?.as_str()?) else { continue };
            let line = row.get_ref(6)?.as_bytes_or_null()?.map(Bytes::copy_from_slice);
            read += line.as_ref().map_or(0, Bytes::len);
            let is_there = row.get_ref(3)? != rusqlite::types::ValueRef::Null;
            let standing = |line| -> Sql<Standing> {
                let (epoch, ts) = (Epoch(number(row, 3)?), number(row, 4)?);
                Ok(Standing { epoch, ts, user: pages::user(row, 5)?, line })
            };
            let entry = if is_there { Some(standing(line)?) } else { None };
            found.push(Listed { number: row.get(0)?, room, offset: number(row, 2)?, entry });
        }
        Ok(found)
    }
}

impl OutgoingReader for SqliteOutgoing {
    fn after(&mut self, place: Number, n: usize, bytes: usize) -> Result<Vec<Listed>, ArchiveError> {
        self.read(place, n, bytes).map_err(|error| explain(&self.path, "read", error.into()))
    }

    fn waiting(&mut self, place: Number) -> Result<u64, ArchiveError> {
        let count = || -> Sql<u64> {
            let sql = "SELECT count(*) FROM outgoing WHERE n > ?1";
            self.db.prepare_cached(sql)?.query_row([place], |row| number(row, 0))
        };
        count().map_err(|error| explain(&self.path, "read", error.into()))
    }
}
