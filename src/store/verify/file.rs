//! The books of an archive in an SQLite file.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};

use super::books::{Books, EntryRow, Repeated, Result, RoomRow, WordsRow};
use crate::store::ids::IdKey;
use crate::store::sqlite::{schema, words};

/// Lines of `PRAGMA integrity_check` that are told.
const COMPLAINTS_MAX: usize = 20;

/// The file.
pub struct FileBooks(pub Connection);

impl FileBooks {
    fn applied(&self) -> Result<u64> {
        Ok(schema::meta(&self.0, "applied").map(|number| u64::try_from(number).unwrap_or(0))?)
    }
}

impl Books for FileBooks {
    fn begin(&self) -> Result<u64> {
        self.0.execute_batch("BEGIN")?;
        self.applied()
    }

    fn end(&self) -> Result<u64> {
        self.0.execute_batch("COMMIT")?;
        self.applied()
    }

    fn complaints(&self) -> Result<Vec<String>> {
        let mut check = self.0.prepare(&format!("PRAGMA integrity_check({COMPLAINTS_MAX})"))?;
        let told =
            check.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(told.into_iter().filter(|line| line != "ok").collect())
    }

    fn id_key(&self) -> Result<IdKey> {
        Ok(schema::id_key(&self.0)?)
    }

    fn rooms(&self, each: &mut dyn FnMut(RoomRow)) -> Result<()> {
        let mut list =
            self.0.prepare("SELECT id, name, epoch, top, first, lineage FROM rooms ORDER BY id")?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            each(RoomRow {
                id: row.get(0)?,
                name: row.get(1)?,
                epoch: number(row, 2)?,
                top: number(row, 3)?,
                first: number(row, 4)?,
                lineage: row.get(5)?,
            });
        }
        Ok(())
    }

    fn entries(&self, each: &mut dyn FnMut(EntryRow)) -> Result<()> {
        let sql = "SELECT room, s, e, ts, kind, u, id, h, edited, gone, line FROM entries ORDER BY room, s";
        let mut list = self.0.prepare(sql)?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            each(entry(row)?);
        }
        Ok(())
    }

    fn entry_at(&self, room: i64, s: u64) -> Result<Option<EntryRow>> {
        let sql = "SELECT room, s, e, ts, kind, u, id, h, edited, gone, line FROM entries \
                   WHERE room = ?1 AND s = ?2";
        let mut find = self.0.prepare_cached(sql)?;
        Ok(find.query_row((room, i64::try_from(s).unwrap_or(i64::MAX)), entry).optional()?)
    }

    fn repeated_ids(&self, each: &mut dyn FnMut(Repeated)) -> Result<()> {
        let sql = "SELECT rooms.name, a.s, b.s, a.id, b.ts - a.ts FROM entries a \
                   JOIN entries b ON b.h = a.h AND b.room = a.room AND b.s > a.s AND b.id = a.id AND b.u IS a.u \
                   JOIN rooms ON rooms.id = a.room WHERE a.h IS NOT NULL ORDER BY a.room, a.s";
        let mut list = self.0.prepare(sql)?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let (first, second, apart) = (number(row, 1)?, number(row, 2)?, number(row, 4)?);
            each(Repeated { room: row.get(0)?, first, second, id: row.get(3)?, apart });
        }
        Ok(())
    }

    fn newest_of_id(&self, hash: i64, room: i64, id: &str, user: Option<&str>) -> Result<Option<(u64, u64)>> {
        let sql = "SELECT s, ts FROM entries WHERE h = ?1 AND room = ?2 AND id = ?3 AND u IS ?4 \
                   ORDER BY s DESC LIMIT 1";
        let mut find = self.0.prepare_cached(sql)?;
        let found = find.query_row((hash, room, id, user), |row| Ok((number(row, 0)?, number(row, 1)?)));
        Ok(found.optional()?)
    }

    fn words(&self, each: &mut dyn FnMut(WordsRow<'_>)) -> Result<u64> {
        self.0.execute_batch(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.verify_words USING fts5vocab(main, words, instance)",
        )?;
        let mut list = self.0.prepare("SELECT DISTINCT doc FROM temp.verify_words")?;
        let indexed: HashSet<i64> = list.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut left = indexed.clone();
        let sql = "SELECT entries.room, rooms.name, s, gone, line FROM entries \
                   JOIN rooms ON rooms.id = entries.room WHERE kind = 'msg'";
        let mut list = self.0.prepare(sql)?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let (room, s): (String, _) = (row.get(1)?, number(row, 2)?);
            let Some(place) = words::row_of(row.get(0)?, s) else { continue };
            left.remove(&place);
            let line = row.get_ref(4)?.as_bytes_or_null().unwrap_or(None).unwrap_or_default();
            let indexed = indexed.contains(&place);
            each(WordsRow { room: &room, s, gone: row.get(3)?, line, indexed });
        }
        Ok(left.len() as u64)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
    Ok(EntryRow {
        room: row.get(0)?,
        s: number(row, 1)?,
        e: number(row, 2)?,
        ts: number(row, 3)?,
        kind: row.get(4)?,
        u: row.get(5)?,
        id: row.get(6)?,
        h: row.get(7)?,
        edited: number(row, 8)?,
        gone: row.get(9)?,
        line: row.get_ref(10)?.as_bytes_or_null().unwrap_or(Some(b"")).map(<[u8]>::to_vec),
    })
}

/// A column that holds a number of ours; a negative one counts as 0, which nothing has.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}
