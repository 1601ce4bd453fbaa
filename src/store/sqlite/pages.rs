//! Parts of a room's log, read by offset, by time and by words: at most so many entries and so many bytes of
//! lines, one entry at the least. Called by the reading side.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::chat::entry::Kind;
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::UserName;
use crate::store::archive::StoredEntry;
use crate::store::page::{Filling, Limits, Page};
use crate::store::rooms::{Room, stored};
use crate::store::sqlite::rooms::number;
use crate::store::sqlite::words;

const UP: &str =
    "SELECT s, ts, kind, u, of, line FROM entries WHERE room = ?1 AND s BETWEEN ?2 AND ?3 ORDER BY s";
const DOWN: &str =
    "SELECT s, ts, kind, u, of, line FROM entries WHERE room = ?1 AND s BETWEEN ?2 AND ?3 ORDER BY s DESC";

/// The oldest entries between two offsets, both included.
pub fn upwards(
    db: &Connection,
    room: i64,
    from: Offset,
    to: Offset,
    limits: Limits,
) -> Result<Page, rusqlite::Error> {
    fill(db, UP, room, from, to, limits)
}

/// The newest entries between two offsets, both included; oldest first all the same.
pub fn downwards(
    db: &Connection,
    room: i64,
    from: Offset,
    to: Offset,
    limits: Limits,
) -> Result<Page, rusqlite::Error> {
    let (mut list, more) = fill(db, DOWN, room, from, to, limits)?;
    list.reverse();
    Ok((list, more))
}

fn fill(
    db: &Connection,
    sql: &str,
    room: i64,
    from: Offset,
    to: Offset,
    limits: Limits,
) -> Result<Page, rusqlite::Error> {
    let mut list = Filling::new(limits);
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query((room, stored(from), stored(to)))?;
    while let Some(row) = rows.next()? {
        if !take(&mut list, row)? {
            break;
        }
    }
    Ok((list.entries, list.more))
}

/// Puts a row with the columns of [`UP`] on the page. `false`: it does not fit, the page is done.
fn take(page: &mut Filling, row: &Row<'_>) -> Result<bool, rusqlite::Error> {
    let line = row.get_ref(5)?.as_bytes_or_null()?;
    if !page.has_place_for(line.map_or(0, <[u8]>::len)) {
        return Ok(false);
    }
    page.entries.push(StoredEntry {
        offset: number(row, 0)?,
        ts: number(row, 1)?,
        kind: kind(row, 2)?,
        user: user(row, 3)?,
        of: number(row, 4)?,
        line: line.map(Bytes::copy_from_slice),
    });
    Ok(true)
}

/// A column with the word of a kind. What somebody has changed by hand counts as a message.
pub fn kind(row: &Row<'_>, column: usize) -> Result<Kind, rusqlite::Error> {
    Ok(Kind::of_word(row.get_ref(column)?.as_str()?).unwrap_or(Kind::Message))
}

/// A column with a user or nothing.
pub fn user(row: &Row<'_>, column: usize) -> Result<Option<UserName>, rusqlite::Error> {
    Ok(row.get_ref(column)?.as_str_or_null()?.and_then(|name| UserName::new(name).ok()))
}

/// A page of a room's log.
pub fn page(db: &Connection, room: &Room, from: PageFrom, limits: Limits) -> Result<Page, rusqlite::Error> {
    let before = |offset: Offset| match offset.min(room.top + 1) {
        0 | 1 => Ok((Vec::new(), false)),
        end => downwards(db, room.id, room.first, end - 1, limits),
    };
    match from {
        PageFrom::After(offset) => {
            upwards(db, room.id, offset.saturating_add(1).max(room.first), room.top, limits)
        }
        PageFrom::Since(ts) => upwards(db, room.id, since(db, room, ts)?, room.top, limits),
        PageFrom::Before(offset) => before(offset),
        PageFrom::Until(ts) => before(since(db, room, ts)?),
    }
}

/// The first offset whose entry is not older than `ts`; `top + 1` for none. Server time rises with the offset,
/// so about twenty looks are enough for a million entries. Where a clock was set back, it is a place at which
/// the time passes `ts`, not always the first.
pub fn since(db: &Connection, room: &Room, ts: u64) -> Result<Offset, rusqlite::Error> {
    let mut look =
        db.prepare_cached("SELECT s, ts FROM entries WHERE room = ?1 AND s >= ?2 ORDER BY s LIMIT 1")?;
    let (mut low, mut high) = (room.first, room.top + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = look
            .query_row((room.id, stored(middle)), |row| Ok((number(row, 0)?, number(row, 1)?)))
            .optional()?;
        match found {
            Some((offset, time)) if time < ts => low = offset + 1,
            _ => high = middle,
        }
    }
    // In a hole the answer is the entry behind it.
    let behind = look.query_row((room.id, stored(low)), |row| number(row, 0)).optional()?;
    Ok(behind.unwrap_or(room.top + 1))
}

/// The newest messages before an offset that have all words of a typed search.
pub fn find(
    db: &Connection,
    room: &Room,
    typed: &str,
    before: Offset,
    limits: Limits,
) -> Result<Page, rusqlite::Error> {
    let Some(wanted) = words::search(db, typed)? else { return Ok((Vec::new(), false)) };
    let newest = before.saturating_sub(1).min(room.top);
    let (Some(from), Some(to)) = (words::row_of(room.id, room.first), words::row_of(room.id, newest)) else {
        return Ok((Vec::new(), false));
    };
    let mut hits = db.prepare_cached(
        "SELECT rowid FROM words WHERE words MATCH ?1 AND rowid BETWEEN ?2 AND ?3 ORDER BY rowid DESC",
    )?;
    let mut entry = db.prepare_cached(
        "SELECT s, ts, kind, u, of, line FROM entries \
         WHERE room = ?1 AND s = ?2 AND kind = 'msg' AND NOT gone",
    )?;
    let mut list = Filling::new(limits);
    let mut rows = hits.query((wanted, from, to))?;
    while let Some(hit) = rows.next()? {
        let offset = words::offset_of(hit.get(0)?);
        let mut found = entry.query((room.id, stored(offset)))?;
        if let Some(row) = found.next()?
            && !take(&mut list, row)?
        {
            break;
        }
    }
    list.entries.reverse();
    Ok((list.entries, list.more))
}
