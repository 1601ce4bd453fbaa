//! The checks of the SQLite file: it is whole, each room's offsets are dense, each line says what its columns
//! say, lineages ascend, no id has two places, deleted words are gone. Reads through one snapshot.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, Row};

use super::VerifyError;
use super::lines::Columns;
use super::report::{Kind, Report, RoomReport};
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, UserName};
use crate::store::ids::IdKey;
use crate::store::sqlite::{schema, words};
use crate::store::words::of_line;

/// Lines of `PRAGMA integrity_check` that are told.
const COMPLAINTS_MAX: usize = 20;

/// A room of the file.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) top: Offset,
    pub(super) first: Offset,
    /// Lives of the log with the first offset of each, oldest first.
    pub(super) lineage: Vec<(Epoch, Offset)>,
}

impl Room {
    /// The life that an offset belongs to; none where the lineage does not reach back so far.
    fn epoch_at(&self, s: Offset) -> Option<Epoch> {
        self.lineage.iter().rev().find(|(_, first)| *first <= s).map(|(epoch, _)| *epoch)
    }
}

/// The file, as it is at one moment.
pub(super) struct File<'a> {
    pub(super) db: &'a Connection,
    pub(super) rooms: HashMap<String, Room>,
}

type Result<T> = std::result::Result<T, VerifyError>;

impl<'a> File<'a> {
    /// Reads the rooms.
    pub(super) fn open(db: &'a Connection, report: &mut Report) -> Result<File<'a>> {
        let mut rooms = HashMap::new();
        let mut list = db.prepare("SELECT id, name, epoch, top, first, lineage FROM rooms ORDER BY id")?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let room = read_room(row, report)?;
            let figures = RoomReport { first: room.first, top: room.top, ..RoomReport::default() };
            report.rooms.insert(room.name.clone(), figures);
            rooms.insert(room.name.clone(), room);
        }
        Ok(File { db, rooms })
    }

    /// All checks of the file alone. `ids_ms` tells by a room's name how long its ids are remembered.
    pub(super) fn check(&self, ids_ms: &dyn Fn(&str) -> u64, report: &mut Report) -> Result<()> {
        self.whole(report)?;
        self.entries(report)?;
        self.ids(ids_ms, report)?;
        self.words(report)
    }

    fn whole(&self, report: &mut Report) -> Result<()> {
        let mut check = self.db.prepare(&format!("PRAGMA integrity_check({COMPLAINTS_MAX})"))?;
        let told = check.query_map([], |row| row.get::<_, String>(0))?;
        for line in told {
            match line?.as_str() {
                "ok" => {}
                line => report.fault(Kind::File, format!("the file is damaged: {}", line.escape_debug())),
            }
        }
        Ok(())
    }

    fn entries(&self, report: &mut Report) -> Result<()> {
        let by_id: HashMap<i64, &Room> = self.rooms.values().map(|room| (room.id, room)).collect();
        let ids = schema::id_key(self.db)?;
        let sql = "SELECT room, s, e, ts, kind, u, id, h, edited, gone, line FROM entries ORDER BY room, s";
        let mut list = self.db.prepare(sql)?;
        let mut rows = list.query([])?;
        // Where each room should go on.
        let mut next: HashMap<i64, Offset> = HashMap::new();
        while let Some(row) = rows.next()? {
            let (id, s) = (row.get::<_, i64>(0)?, number(row, 1)?);
            let Some(room) = by_id.get(&id) else {
                report.fault(
                    Kind::Mismatch,
                    format!("entry {s} belongs to room number {id}, which is not there"),
                );
                continue;
            };
            let expected = next.entry(id).or_insert(room.first);
            if s > *expected {
                let (from, to) = (*expected, s - 1);
                report.fault_in(
                    &room.name,
                    Kind::Hole,
                    s - from,
                    format!("nothing stands at {from} to {to}"),
                );
            } else if s < *expected {
                let first = room.first;
                let what = format!("entry {s} stands before the first one that is kept ({first})");
                report.fault_in(&room.name, Kind::Mismatch, 1, what);
            }
            *expected = (*expected).max(s + 1);
            report.rooms.entry(room.name.clone()).or_default().entries += 1;
            self.entry(room, row, &ids, report)?;
        }
        for room in self.rooms.values() {
            let next = next.get(&room.id).copied().unwrap_or(room.first);
            if next <= room.top {
                let what = format!("nothing stands at {next} to {}, the newest offset", room.top);
                report.fault_in(&room.name, Kind::Hole, room.top + 1 - next, what);
            } else if next > room.top + 1 {
                let what = format!("entry {} stands after the newest offset ({})", next - 1, room.top);
                report.fault_in(&room.name, Kind::Mismatch, 1, what);
            }
        }
        Ok(())
    }

    /// One entry by itself.
    fn entry(&self, room: &Room, row: &Row<'_>, ids: &IdKey, report: &mut Report) -> Result<()> {
        let (s, e) = (number(row, 1)?, number(row, 2)?);
        let (kind, u, id): (String, Option<String>, Option<String>) = (row.get(4)?, row.get(5)?, row.get(6)?);
        let columns = Columns {
            room: &room.name,
            s,
            e,
            ts: number(row, 3)?,
            kind: &kind,
            u: u.as_deref(),
            id: id.as_deref(),
            edited: number(row, 8)?,
            gone: row.get(9)?,
        };
        let mut wrong =
            |what: String| report.fault_in(&room.name, Kind::Mismatch, 1, format!("entry {s}: {what}"));
        match row.get_ref(10)?.as_bytes_or_null().unwrap_or(Some(b"")) {
            Some(line) => columns.differs(line).into_iter().for_each(&mut wrong),
            None if columns.gone && kind == "edit" => {}
            None => wrong("it has no line, and nothing has replaced it".to_owned()),
        }
        if room.epoch_at(s).is_some_and(|epoch| epoch != Epoch(e)) {
            wrong(format!(
                "it is of epoch {}, which the room's lineage does not have there",
                Epoch(e).to_text()
            ));
        }
        let hash: Option<i64> = row.get(7)?;
        let fits = match &id {
            None => hash.is_none(),
            Some(id) => match (MessageId::new(id), u.as_deref().map(UserName::new).transpose()) {
                (Ok(id), Ok(user)) => hash == Some(ids.number(room.id, user.as_ref(), &id)),
                _ => false,
            },
        };
        if !fits {
            wrong(
                "the number of its id (column h) does not fit the id: a repeat would not be known".to_owned(),
            );
        }
        Ok(())
    }

    /// An id has one place as long as it is remembered.
    fn ids(&self, ids_ms: &dyn Fn(&str) -> u64, report: &mut Report) -> Result<()> {
        let sql = "SELECT rooms.name, a.s, b.s, a.id, b.ts - a.ts FROM entries a \
                   JOIN entries b ON b.h = a.h AND b.room = a.room AND b.s > a.s AND b.id = a.id AND b.u IS a.u \
                   JOIN rooms ON rooms.id = a.room WHERE a.h IS NOT NULL ORDER BY a.room, a.s";
        let mut list = self.db.prepare(sql)?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let (room, id): (String, String) = (row.get(0)?, row.get(3)?);
            let (first, second) = (number(row, 1)?, number(row, 2)?);
            if number(row, 4)? < ids_ms(&room) {
                let what = format!("the id {} of one user stands at {first} and {second}", id.escape_debug());
                report.fault_in(&room, Kind::Doubled, 1, what);
            }
        }
        Ok(())
    }

    /// The index has the words of every message and none of a deleted one.
    fn words(&self, report: &mut Report) -> Result<()> {
        self.db.execute_batch(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.verify_words USING fts5vocab(main, words, instance)",
        )?;
        let mut list = self.db.prepare("SELECT DISTINCT doc FROM temp.verify_words")?;
        let indexed: HashSet<i64> = list.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut left = indexed.clone();
        let sql = "SELECT entries.room, rooms.name, s, gone, line FROM entries \
                   JOIN rooms ON rooms.id = entries.room WHERE kind = 'msg'";
        let mut list = self.db.prepare(sql)?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let (room, s): (String, _) = (row.get(1)?, number(row, 2)?);
            let Some(place) = words::row_of(row.get(0)?, s) else { continue };
            left.remove(&place);
            let line = row.get_ref(4)?.as_bytes_or_null().unwrap_or(None).unwrap_or_default();
            let gone: bool = row.get(3)?;
            if gone && indexed.contains(&place) {
                let what = format!("entry {s} was deleted, and its words are still in the search index");
                report.fault_in(&room, Kind::Words, 1, what);
            } else if !gone && !indexed.contains(&place) && !of_line(line).is_empty() {
                let what = format!("entry {s} has words that the search index does not have");
                report.fault_in(&room, Kind::Words, 1, what);
            }
        }
        if !left.is_empty() {
            let what = format!("the search index has words of {} entries that are not there", left.len());
            report.fault(Kind::Words, what);
        }
        Ok(())
    }
}

fn read_room(row: &Row<'_>, report: &mut Report) -> Result<Room> {
    let (name, lineage): (String, String) = (row.get(1)?, row.get(5)?);
    let (epoch, top, first) = (number(row, 2)?, number(row, 3)?, number(row, 4)?);
    let mut steps: Vec<(Epoch, Offset)> = Vec::new();
    for text in lineage.split(' ').filter(|text| !text.is_empty()) {
        let step = text.split_once(':').and_then(|(epoch, first)| {
            Some((Epoch(u64::from_str_radix(epoch, 36).ok()?), first.parse::<Offset>().ok()?))
        });
        match step {
            Some(step) if steps.last().is_none_or(|last| last.0 < step.0 && last.1 <= step.1) => {
                steps.push(step)
            }
            _ => {
                let what = format!("its lineage does not ascend at {}", text.escape_debug());
                report.fault_in(&name, Kind::Mismatch, 1, what);
            }
        }
    }
    if top > 0 && steps.last().map(|step| step.0) != Some(Epoch(epoch)) {
        let what = format!("its lineage does not end with its epoch {}", Epoch(epoch).to_text());
        report.fault_in(&name, Kind::Mismatch, 1, what);
    }
    if first == 0 || first > top + 1 {
        let what = format!("its first offset {first} does not fit its newest one {top}");
        report.fault_in(&name, Kind::Mismatch, 1, what);
    }
    Ok(Room { id: row.get(0)?, name, top, first, lineage: steps })
}

/// A column that holds a number of ours; a negative one counts as 0, which nothing has.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

/// Number of the last record that the file has.
pub(super) fn applied(db: &Connection) -> Result<u64> {
    Ok(schema::meta(db, "applied").map(|number| u64::try_from(number).unwrap_or(0))?)
}
