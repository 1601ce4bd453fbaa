//! Rooms as rows: number, newest and oldest offset, bytes, lineage; with those in memory that are written to.
//! Called by the writing side, within its transaction. Knows no entry.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::store::rooms::{Room, lives_as_text, lives_in, new_epoch, owners, stored};

/// Most rooms kept in memory (some 200 bytes each); above it those without changes are forgotten.
const ROOMS_MAX: usize = 50_000;
/// Columns that [`read`] wants, in this order.
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

/// Writes all of a room but the lineage.
pub fn write(db: &Connection, room: &Room) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE rooms SET epoch = ?2, top = ?3, first = ?4, bytes = ?5, oldest = ?6, used = ?7 \
               WHERE id = ?1";
    db.prepare_cached(sql)?.execute((
        room.id,
        stored(room.epoch.0),
        stored(room.top),
        stored(room.first),
        stored(room.bytes),
        stored(room.oldest),
        stored(room.used),
    ))?;
    Ok(())
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
                write(db, room)?;
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
    let sql = format!("SELECT {} FROM rooms WHERE name = ?1", COLUMNS);
    db.prepare_cached(&sql)?.query_row([name.as_str()], read).optional()
}

fn insert(db: &Connection, name: &RoomName) -> Result<Room, rusqlite::Error> {
    db.prepare_cached("INSERT INTO rooms (name) VALUES (?1)")?.execute([name.as_str()])?;
    let id = db.last_insert_rowid();
    for user in owners(name).into_iter().flatten() {
        db.prepare_cached("INSERT OR IGNORE INTO owners (u, room) VALUES (?1, ?2)")?.execute((user, id))?;
    }
    Ok(Room::new(id))
}

/// The lives of a room's log, oldest first, each with its first offset.
pub fn lineage(db: &Connection, id: i64) -> Result<Vec<(Epoch, Offset)>, rusqlite::Error> {
    let text: String =
        db.prepare_cached("SELECT lineage FROM rooms WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    Ok(lives_in(&text))
}

/// A new life of the log begins at `first`.
pub fn add_step(db: &Connection, id: i64, epoch: Epoch, first: Offset) -> Result<(), rusqlite::Error> {
    let mut steps = lineage(db, id)?;
    steps.push((epoch, first));
    db.prepare_cached("UPDATE rooms SET lineage = ?2 WHERE id = ?1")?.execute((id, lives_as_text(&steps)))?;
    Ok(())
}

/// Every log begins a new life behind its newest entry. For a copy that takes the place of a store: its offsets
/// may have been given out once more after the copying, and nobody must take one entry for the other.
pub fn begin_new_lives(db: &Connection) -> Result<(), rusqlite::Error> {
    let newest: i64 = db.query_row("SELECT coalesce(max(epoch), 0) FROM rooms", [], |row| row.get(0))?;
    let epoch = new_epoch(newest);
    let sql = "UPDATE rooms SET epoch = ?1, lineage = lineage || ' ' || ?2 || ':' || (top + 1) WHERE top > 0";
    db.execute(sql, (stored(epoch.0), epoch.to_text()))?;
    Ok(())
}
