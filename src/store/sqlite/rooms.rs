//! Rooms as rows: number, newest and oldest offset, bytes, lineage; with those in memory that are written to.
//! Called by the writing side, within its transaction. Knows no entry.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row};

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{Owners, RoomName};

/// Most rooms kept in memory (some 200 bytes each); above it those without changes are forgotten.
const ROOMS_MAX: usize = 50_000;
/// Most lives of a log that a room remembers. Older ones are forgotten: who comes with one of them is told
/// that he may have missed everything, and a room grows no list without end.
const LINEAGE_MAX: usize = 256;

/// A room's row without its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Its number.
    pub id: i64,
    /// The life of its newest entry.
    pub epoch: Epoch,
    /// Newest offset ever.
    pub top: Offset,
    /// Oldest offset that is kept; `top + 1` for none.
    pub first: Offset,
    /// Bytes of the lines kept.
    pub bytes: u64,
    /// Server time of the oldest entry kept, Unix milliseconds.
    pub oldest: u64,
    /// Server time of the newest entry, Unix milliseconds.
    pub used: u64,
}

impl Room {
    /// Columns that [`Room::read`] wants, in this order.
    pub const COLUMNS: &str = "id, epoch, top, first, bytes, oldest, used";

    /// From a row with these columns in front.
    pub fn read(row: &Row<'_>) -> Result<Room, rusqlite::Error> {
        Ok(Room {
            id: row.get(0)?,
            epoch: Epoch(number(row, 1)?),
            top: number(row, 2)?,
            first: number(row, 3)?,
            bytes: number(row, 4)?,
            oldest: number(row, 5)?,
            used: number(row, 6)?,
        })
    }

    /// Whether any entry is kept.
    pub fn is_empty(&self) -> bool {
        self.first > self.top
    }

    /// Writes all but the lineage.
    pub fn write(&self, db: &Connection) -> Result<(), rusqlite::Error> {
        let sql = "UPDATE rooms SET epoch = ?2, top = ?3, first = ?4, bytes = ?5, oldest = ?6, used = ?7 \
                   WHERE id = ?1";
        db.prepare_cached(sql)?.execute((
            self.id,
            stored(self.epoch.0),
            stored(self.top),
            stored(self.first),
            stored(self.bytes),
            stored(self.oldest),
            stored(self.used),
        ))?;
        Ok(())
    }
}

/// A number as SQLite keeps it, signed; what no file can hold becomes the largest.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column that holds a number of ours, none of which is negative.
pub fn number(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    row.get::<_, i64>(column).map(|number| number.max(0) as u64)
}

/// The rooms that are being written to.
#[derive(Debug, Default)]
pub struct Rooms {
    known: HashMap<RoomName, Room, ahash::RandomState>,
    changed: Vec<RoomName>,
}

impl Rooms {
    /// The room with this name; a new row where there is none.
    pub fn open(&mut self, db: &Connection, name: &RoomName) -> Result<Room, rusqlite::Error> {
        if let Some(room) = self.known.get(name) {
            return Ok(*room);
        }
        let room = match find(db, name)? {
            Some(room) => room,
            None => insert(db, name)?,
        };
        if self.known.len() >= ROOMS_MAX {
            let changed: std::collections::HashSet<RoomName> = self.changed.iter().cloned().collect();
            self.known.retain(|name, _| changed.contains(name));
        }
        self.known.insert(name.clone(), room);
        Ok(room)
    }

    /// Notes what has become of an opened room; it is written by [`Rooms::write`].
    pub fn change(&mut self, name: &RoomName, room: Room) {
        let old = self.known.insert(name.clone(), room);
        if old != Some(room) {
            self.changed.push(name.clone());
        }
    }

    /// Writes every changed room once.
    pub fn write(&mut self, db: &Connection) -> Result<(), rusqlite::Error> {
        self.changed.sort_unstable();
        self.changed.dedup();
        for name in self.changed.drain(..) {
            if let Some(room) = self.known.get(&name) {
                room.write(db)?;
            }
        }
        Ok(())
    }

    /// Forgets one that somebody else has changed.
    pub fn forget(&mut self, name: &RoomName) {
        self.known.remove(name);
    }

    /// Forgets all, after a transaction that came to nothing.
    pub fn clear(&mut self) {
        self.known.clear();
        self.changed.clear();
    }
}

/// The row of a room.
pub fn find(db: &Connection, name: &RoomName) -> Result<Option<Room>, rusqlite::Error> {
    let sql = format!("SELECT {} FROM rooms WHERE name = ?1", Room::COLUMNS);
    db.prepare_cached(&sql)?.query_row([name.as_str()], Room::read).optional()
}

fn insert(db: &Connection, name: &RoomName) -> Result<Room, rusqlite::Error> {
    db.prepare_cached("INSERT INTO rooms (name) VALUES (?1)")?.execute([name.as_str()])?;
    let id = db.last_insert_rowid();
    let owners = match name.owners() {
        None => [None, None],
        Some(Owners::One(user)) => [Some(user), None],
        Some(Owners::Two(first, second)) => [Some(first), Some(second)],
    };
    for user in owners.into_iter().flatten() {
        db.prepare_cached("INSERT OR IGNORE INTO owners (u, room) VALUES (?1, ?2)")?.execute((user, id))?;
    }
    Ok(Room { id, epoch: Epoch(0), top: 0, first: 1, bytes: 0, oldest: 0, used: 0 })
}

/// The lives of a room's log, oldest first, each with its first offset.
pub fn lineage(db: &Connection, id: i64) -> Result<Vec<(Epoch, Offset)>, rusqlite::Error> {
    let text: String =
        db.prepare_cached("SELECT lineage FROM rooms WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    Ok(text.split(' ').filter_map(step).collect())
}

/// A new life of the log begins at `first`.
pub fn add_step(db: &Connection, id: i64, epoch: Epoch, first: Offset) -> Result<(), rusqlite::Error> {
    let mut steps = lineage(db, id)?;
    steps.push((epoch, first));
    let skip = steps.len().saturating_sub(LINEAGE_MAX);
    let text: Vec<String> =
        steps[skip..].iter().map(|(epoch, first)| format!("{}:{first}", epoch.to_text())).collect();
    db.prepare_cached("UPDATE rooms SET lineage = ?2 WHERE id = ?1")?.execute((id, text.join(" ")))?;
    Ok(())
}

/// Every log begins a new life behind its newest entry. For a copy that takes the place of a store: its offsets
/// may have been given out once more after the copying, and nobody must take one entry for the other.
pub fn begin_new_lives(db: &Connection) -> Result<(), rusqlite::Error> {
    // Like the epochs of the server itself, which count microseconds; and never one that was there.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64);
    let newest: i64 = db.query_row("SELECT coalesce(max(epoch), 0) FROM rooms", [], |row| row.get(0))?;
    let epoch = Epoch(now.max(newest.max(0) as u64 + 1));
    let sql = "UPDATE rooms SET epoch = ?1, lineage = lineage || ' ' || ?2 || ':' || (top + 1) WHERE top > 0";
    db.execute(sql, (stored(epoch.0), epoch.to_text()))?;
    Ok(())
}

/// One step of the written form: the epoch as on the wire, a colon, the first offset; `k3f9:813`.
fn step(text: &str) -> Option<(Epoch, Offset)> {
    let (epoch, first) = text.split_once(':')?;
    Some((Epoch(u64::from_str_radix(epoch, 36).ok()?), first.parse().ok()?))
}
