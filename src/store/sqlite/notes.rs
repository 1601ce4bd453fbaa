//! The small tables beside the log: read marks, sessions, ids without a place, dead letters, rules; how each is
//! written and read. The newest counts everywhere.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::chat::names::{RoomName, UserName};
use crate::store::cursors;
use crate::store::ids::IdKey;
use crate::store::record::{Letter, ReadMark, RoomRules, Seen, SessionNote};
use crate::store::rooms::stored;
use crate::store::sqlite::rooms::number;

/// An id that took no place.
pub fn seen(db: &Connection, room: i64, ids: IdKey, seen: &Seen) -> Result<(), rusqlite::Error> {
    let hash = ids.number(room, seen.user.as_ref(), &seen.id);
    let user = seen.user.as_ref().map(UserName::as_str);
    db.prepare_cached("INSERT INTO seen (room, ts, u, id, h) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
        room,
        stored(seen.ts),
        user,
        seen.id.as_str(),
        hash,
    ))?;
    Ok(())
}

/// How far a user has read.
pub fn read(db: &Connection, room: i64, mark: &ReadMark) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO reads (room, u, s, ts) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT DO UPDATE SET s = excluded.s, ts = excluded.ts";
    db.prepare_cached(sql)?.execute((room, mark.user.as_str(), stored(mark.offset), stored(mark.ts)))?;
    Ok(())
}

/// Where a session stands.
pub fn session(db: &Connection, note: &SessionNote) -> Result<(), rusqlite::Error> {
    let cursors = cursors::to_json(&note.rooms);
    let sql = "INSERT INTO sessions (id, u, ts, rooms) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT DO UPDATE SET u = excluded.u, ts = excluded.ts, rooms = excluded.rooms";
    db.prepare_cached(sql)?.execute((&*note.session, note.user.as_str(), stored(note.ts), cursors))?;
    Ok(())
}

/// Where a session stood.
pub fn session_of(db: &Connection, session: &str) -> Result<Option<SessionNote>, rusqlite::Error> {
    let mut find = db.prepare_cached("SELECT u, ts, rooms FROM sessions WHERE id = ?1")?;
    let note = find
        .query_row([session], |row| {
            let cursors: String = row.get(2)?;
            let Ok(user) = UserName::new(row.get_ref(0)?.as_str()?) else { return Ok(None) };
            let rooms = cursors::from_json(&cursors);
            Ok(Some(SessionNote { session: session.into(), user, ts: number(row, 1)?, rooms }))
        })
        .optional()?;
    Ok(note.flatten())
}

/// A dead letter; one with an id that is there already is the same one.
pub fn dead(db: &Connection, letter: &Letter) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR IGNORE INTO dead (id, ts, source, reason, item) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute((
        &*letter.id,
        stored(letter.ts),
        &*letter.source,
        &*letter.reason,
        &letter.item[..],
    ))?;
    Ok(())
}

/// A dead letter goes; whether it was there.
pub fn dead_gone(db: &Connection, id: &str) -> Result<bool, rusqlite::Error> {
    Ok(db.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([id])? > 0)
}

/// The newest `n` dead letters, newest first.
pub fn newest_dead(db: &Connection, n: usize) -> Result<Vec<Letter>, rusqlite::Error> {
    let mut list =
        db.prepare_cached("SELECT id, ts, source, reason, item FROM dead ORDER BY dead.n DESC LIMIT ?1")?;
    list.query_map([stored(n as u64)], letter)?.collect()
}

/// One dead letter.
pub fn one_dead(db: &Connection, id: &str) -> Result<Option<Letter>, rusqlite::Error> {
    let mut find = db.prepare_cached("SELECT id, ts, source, reason, item FROM dead WHERE id = ?1")?;
    find.query_row([id], letter).optional()
}

/// A room has these rules now; whether older ones went.
pub fn rules(db: &Connection, rules: &RoomRules) -> Result<bool, rusqlite::Error> {
    if rules.text.is_empty() {
        let sql = "DELETE FROM rules WHERE room = ?1";
        return Ok(db.prepare_cached(sql)?.execute([rules.room.as_str()])? > 0);
    }
    let sql =
        "INSERT INTO rules (room, rules) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET rules = excluded.rules";
    db.prepare_cached(sql)?.execute((rules.room.as_str(), &*rules.text))?;
    Ok(false)
}

/// The rules of all rooms.
pub fn all_rules(db: &Connection) -> Result<Vec<RoomRules>, rusqlite::Error> {
    let mut list = db.prepare_cached("SELECT room, rules FROM rules ORDER BY room")?;
    let rules = list.query_map([], |row| {
        let room = RoomName::new(row.get_ref(0)?.as_str()?).ok();
        let text = row.get_ref(1)?.as_str()?.into();
        Ok(room.map(|room| RoomRules { room, text, version: 0 }))
    })?;
    rules.filter_map(Result::transpose).collect()
}

fn letter(row: &Row<'_>) -> Result<Letter, rusqlite::Error> {
    let text = |column| -> Result<Box<str>, rusqlite::Error> { Ok(row.get_ref(column)?.as_str()?.into()) };
    Ok(Letter {
        id: text(0)?,
        ts: number(row, 1)?,
        source: text(2)?,
        reason: text(3)?,
        item: bytes::Bytes::copy_from_slice(row.get_ref(4)?.as_bytes()?),
    })
}
