//! Retention: walks all rooms again and again in small steps and takes away what is too old or too much, with
//! words and reactions; then ids without a place, then old sessions. Called by the writing side. Space that
//! becomes free is used again by what is written next.
//!
//! Words go in two strokes. With their entry they are marked as gone in the search index, which costs as much as
//! adding them; when a fifth of the index is of that kind, its parts are merged into one without them, again in
//! small steps. (Words that a user deletes are overwritten at once, which takes about a millisecond a message.)

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::chat::entry::Kind;
use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::store::archive::{Forgotten, Keep};
use crate::store::rooms::{Room, stored};
use crate::store::sqlite::errors::Trouble;
use crate::store::sqlite::pages;
use crate::store::sqlite::rooms::{self, number};
use crate::store::sqlite::words::{self, WordChanges};
use crate::store::words::of_line;

/// What a step may take. Longer ones would make the records behind the journal wait.
const STEP: Duration = Duration::from_millis(20);
/// Rows of a step: it starts with few and finds out how many fit into its time.
const ROWS_MIN: usize = 64;
const ROWS_MAX: usize = 1_000;
/// Rooms that one step looks at, some microseconds each.
const ROOMS_LOOKED_AT: usize = 2_000;
/// A session that was not heard of for so long is forgotten: 30 days, in milliseconds.
const SESSION_AGE_MS: u64 = 30 * 24 * 3_600_000;

/// Entries kept for one whose words are only marked as gone, at most.
const KEPT_PER_MARKED: u64 = 4;
/// Pages of the search index that one step merges, about.
const MERGED_PAGES: i64 = 64;

/// Where the walk stands. Kept in memory: after a restart it begins anew.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    place: Place,
    rows_max: usize,
    /// Entries in the rooms that this walk has passed.
    kept: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the rooms after the one with this number.
    Rooms(i64),
    /// In the ids without a place, of the rooms after this one.
    Seen(i64),
    Sessions,
    /// In the search index; whether the merge has begun.
    Index(bool),
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Step {
    /// For who asked.
    pub forgotten: Forgotten,
    /// Whether words were taken away.
    pub blanked: bool,
    rows: usize,
    words: WordChanges,
}

impl Default for Round {
    fn default() -> Round {
        Round { place: Place::Rooms(0), rows_max: ROWS_MIN, kept: 0 }
    }
}

impl Round {
    /// Takes one step, in one transaction.
    pub fn step(&mut self, db: &Connection, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Step, Trouble> {
        let began = Instant::now();
        let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let mut step = Step::default();
        let next = match self.place {
            Place::Rooms(after) => Some(self.rooms(&tx, after, keep, now, &mut step)?),
            Place::Seen(after) => Some(self.seen(&tx, after, keep, now, &mut step)?),
            Place::Sessions => self.sessions(&tx, now, &mut step)?,
            Place::Index(begun) => merge(&tx, begun, &mut step)?,
        };
        mark_gone(&tx, &mut step)?;
        tx.commit()?;
        // A walk that is in the middle goes on at once; at its end all rooms have been looked at.
        step.forgotten.more = next.is_some();
        self.place = next.unwrap_or(Place::Rooms(0));
        self.kept *= u64::from(self.place != Place::Rooms(0));
        self.fit(step.rows, began.elapsed());
        Ok(step)
    }

    /// The next step takes as many rows as this one shows to fit.
    fn fit(&mut self, rows: usize, took: Duration) {
        if took > STEP {
            self.rows_max = (self.rows_max / 2).max(ROWS_MIN);
        } else if rows == self.rows_max && took < STEP / 3 {
            self.rows_max = (self.rows_max * 2).min(ROWS_MAX);
        }
    }

    fn rooms(
        &mut self,
        db: &Connection,
        after: i64,
        keep: &dyn Fn(&str) -> Keep,
        now: u64,
        step: &mut Step,
    ) -> Result<Place, Trouble> {
        let sql = format!("SELECT {}, name FROM rooms WHERE id > ?1 ORDER BY id LIMIT ?2", rooms::COLUMNS);
        let page = db
            .prepare_cached(&sql)?
            .query_map((after, ROOMS_LOOKED_AT as i64), |row| Ok((rooms::read(row)?, row.get(7)?)))?
            .collect::<Result<Vec<(Room, String)>, _>>()?;
        let is_last = page.len() < ROOMS_LOOKED_AT;
        let mut last = after;
        for (room, name) in page {
            let rule = keep(&name);
            if room.has_too_much(rule, now)
                && let Ok(name) = RoomName::new(&name)
            {
                let left = self.rows_max - step.rows;
                if left == 0 {
                    return Ok(Place::Rooms(last));
                }
                let (first, whole) = take_oldest(db, room, left, |room| room.has_too_much(rule, now), step)?;
                step.forgotten.rooms.push((name, first));
                if !whole {
                    return Ok(Place::Rooms(last));
                }
                self.kept += room.top + 1 - first;
            } else {
                self.kept += room.top + 1 - room.first;
            }
            last = room.id;
        }
        Ok(if is_last { Place::Seen(0) } else { Place::Rooms(last) })
    }

    fn seen(
        &self,
        db: &Connection,
        after: i64,
        keep: &dyn Fn(&str) -> Keep,
        now: u64,
        step: &mut Step,
    ) -> Result<Place, Trouble> {
        let next = "SELECT seen.room, rooms.name FROM seen JOIN rooms ON rooms.id = seen.room \
                    WHERE seen.room > ?1 ORDER BY seen.room LIMIT 1";
        let old = "SELECT n FROM seen WHERE room = ?1 AND ts < ?2 ORDER BY n LIMIT ?3";
        let mut last = after;
        for _ in 0..ROOMS_LOOKED_AT {
            let found: Option<(i64, String)> = db
                .prepare_cached(next)?
                .query_row([last], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((room, name)) = found else { return Ok(Place::Sessions) };
            let left = self.rows_max - step.rows;
            let sql = format!("DELETE FROM seen WHERE n IN ({old})");
            let until = now.saturating_sub(keep(&name).ids_ms);
            let gone = db.prepare_cached(&sql)?.execute((room, stored(until), left as i64))?;
            step.rows += gone;
            if gone == left {
                return Ok(Place::Seen(last));
            }
            last = room;
        }
        Ok(Place::Seen(last))
    }

    fn sessions(&self, db: &Connection, now: u64, step: &mut Step) -> Result<Option<Place>, Trouble> {
        let sql = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE ts < ?1 LIMIT ?2)";
        let until = now.saturating_sub(SESSION_AGE_MS);
        step.rows = db.prepare_cached(sql)?.execute((stored(until), self.rows_max as i64))?;
        if step.rows == self.rows_max {
            return Ok(Some(Place::Sessions));
        }
        let marked = marked(db)?;
        Ok((marked > 0 && marked * KEPT_PER_MARKED >= self.kept).then_some(Place::Index(false)))
    }
}

/// Marks the words of the step's entries as gone, and counts them.
fn mark_gone(db: &Connection, step: &mut Step) -> Result<(), Trouble> {
    let words = std::mem::take(&mut step.words);
    let rows = words.len() as i64;
    if rows == 0 {
        return Ok(());
    }
    words.mark_gone(db)?;
    let count = "INSERT INTO meta (key, value) VALUES ('marked', ?1) \
                 ON CONFLICT DO UPDATE SET value = value + excluded.value";
    db.prepare_cached(count)?.execute([rows])?;
    Ok(())
}

/// Entries whose words are only marked as gone.
fn marked(db: &Connection) -> Result<u64, rusqlite::Error> {
    let marked =
        db.prepare_cached("SELECT value FROM meta WHERE key = 'marked'")?.query_row([], |row| number(row, 0));
    Ok(marked.optional()?.unwrap_or(0))
}

/// One step of merging the index into one part, which leaves out what is marked. None when it is done.
fn merge(db: &Connection, begun: bool, step: &mut Step) -> Result<Option<Place>, Trouble> {
    let before = db.total_changes();
    // A negative number begins a merge of all parts, a positive one goes on with it.
    let pages = if begun { MERGED_PAGES } else { -MERGED_PAGES };
    db.prepare_cached("INSERT INTO words (words, rank) VALUES ('merge', ?1)")?.execute([pages])?;
    step.blanked = true;
    // Fewer than two changes: nothing was left to do (<https://www.sqlite.org/fts5.html#the_merge_command>).
    if begun && db.total_changes() - before < 2 {
        db.prepare_cached("UPDATE meta SET value = 0 WHERE key = 'marked'")?.execute([])?;
        return Ok(None);
    }
    Ok(Some(Place::Index(true)))
}

/// Takes away the oldest entries of a room, at most so many. Returns its new first offset and whether it has no
/// more than it may.
fn take_oldest(
    db: &Connection,
    mut room: Room,
    rows_max: usize,
    has_too_much: impl Fn(&Room) -> bool,
    step: &mut Step,
) -> Result<(Offset, bool), Trouble> {
    let sql = "SELECT s, ts, kind, gone, line FROM entries WHERE room = ?1 AND s >= ?2 ORDER BY s LIMIT ?3";
    // One more is read, because the room then begins with it.
    let oldest = db
        .prepare_cached(sql)?
        .query_map((room.id, stored(room.first), rows_max as i64 + 1), Oldest::read)?
        .collect::<Result<Vec<_>, _>>()?;
    let mut oldest = oldest.into_iter();
    let mut whole = true;
    let mut taken = 0;
    let next = oldest.find(|entry| {
        (room.first, room.oldest) = (entry.offset, entry.ts);
        if !has_too_much(&room) {
            return true;
        }
        if taken == rows_max {
            whole = false;
            return true;
        }
        taken += 1;
        room.bytes = room.bytes.saturating_sub(entry.bytes);
        if let (Some(old), Some(row)) = (&entry.words, words::row_of(room.id, entry.offset)) {
            step.words.replace(row, old.clone(), None);
        }
        false
    });
    room.first = next.as_ref().map_or(room.top + 1, |entry| entry.offset);
    room.oldest = next.as_ref().map_or(0, |entry| entry.ts);
    for sql in [
        "DELETE FROM entries WHERE room = ?1 AND s < ?2",
        "DELETE FROM reactions WHERE room = ?1 AND of < ?2",
    ] {
        db.prepare_cached(sql)?.execute((room.id, stored(room.first)))?;
    }
    step.blanked |= taken > 0;
    step.rows += taken;
    rooms::write(db, &room)?;
    Ok((room.first, whole))
}

/// One of the oldest entries of a room.
struct Oldest {
    offset: Offset,
    ts: u64,
    bytes: u64,
    /// Its words in the index.
    words: Option<String>,
}

impl Oldest {
    fn read(row: &rusqlite::Row<'_>) -> Result<Oldest, rusqlite::Error> {
        let line = row.get_ref(4)?.as_bytes_or_null()?.unwrap_or_default();
        let is_indexed = pages::kind(row, 2)? == Kind::Message && !row.get::<_, bool>(3)?;
        Ok(Oldest {
            offset: number(row, 0)?,
            ts: number(row, 1)?,
            bytes: line.len() as u64,
            words: is_indexed.then(|| of_line(line)),
        })
    }
}
