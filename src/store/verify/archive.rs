//! The checks of the archive: each room's offsets are dense, each line says what its columns say, lineages ascend,
//! no id has two places, deleted words are gone.

use std::collections::HashMap;

use super::books::{Books, EntryRow, Repeated, Result, RoomRow, WordsRow};
use super::lines::Columns;
use super::report::{Kind, Report, RoomReport};
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, UserName};
use crate::store::ids::IdKey;
use crate::store::words::of_line;

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

/// The archive, as it is at one moment.
pub(super) struct File<'a> {
    pub(super) books: &'a dyn Books,
    pub(super) rooms: HashMap<String, Room>,
}

impl<'a> File<'a> {
    /// Reads the rooms.
    pub(super) fn open(books: &'a dyn Books, report: &mut Report) -> Result<File<'a>> {
        let mut rooms = HashMap::new();
        books.rooms(&mut |row| {
            let room = read_room(row, report);
            let figures = RoomReport { first: room.first, top: room.top, ..RoomReport::default() };
            report.rooms.insert(room.name.clone(), figures);
            rooms.insert(room.name.clone(), room);
        })?;
        Ok(File { books, rooms })
    }

    /// All checks of the archive alone. `ids_ms` tells by a room's name how long its ids are remembered.
    pub(super) fn check(&self, ids_ms: &dyn Fn(&str) -> u64, report: &mut Report) -> Result<()> {
        for line in self.books.complaints()? {
            report.fault(Kind::File, format!("the file is damaged: {}", line.escape_debug()));
        }
        self.entries(report)?;
        self.ids(ids_ms, report)?;
        self.words(report)
    }

    fn entries(&self, report: &mut Report) -> Result<()> {
        let by_id: HashMap<i64, &Room> = self.rooms.values().map(|room| (room.id, room)).collect();
        let ids = self.books.id_key()?;
        // Where each room should go on.
        let mut next: HashMap<i64, Offset> = HashMap::new();
        self.books.entries(&mut |row| {
            let (id, s) = (row.room, row.s);
            let Some(room) = by_id.get(&id) else {
                report.fault(
                    Kind::Mismatch,
                    format!("entry {s} belongs to room number {id}, which is not there"),
                );
                return;
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
            check_entry(room, &row, &ids, report);
        })?;
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

    /// An id has one place as long as it is remembered.
    fn ids(&self, ids_ms: &dyn Fn(&str) -> u64, report: &mut Report) -> Result<()> {
        self.books.repeated_ids(&mut |Repeated { room, first, second, id, apart }| {
            if apart < ids_ms(&room) {
                let what = format!("the id {} of one user stands at {first} and {second}", id.escape_debug());
                report.fault_in(&room, Kind::Doubled, 1, what);
            }
        })
    }

    /// The index has the words of every message and none of a deleted one.
    fn words(&self, report: &mut Report) -> Result<()> {
        let left = self.books.words(&mut |WordsRow { room, s, gone, line, indexed }| {
            if gone && indexed {
                let what = format!("entry {s} was deleted, and its words are still in the search index");
                report.fault_in(room, Kind::Words, 1, what);
            } else if !gone && !indexed && !of_line(line).is_empty() {
                let what = format!("entry {s} has words that the search index does not have");
                report.fault_in(room, Kind::Words, 1, what);
            }
        })?;
        if left > 0 {
            let what = format!("the search index has words of {left} entries that are not there");
            report.fault(Kind::Words, what);
        }
        Ok(())
    }
}

/// One entry by itself.
fn check_entry(room: &Room, row: &EntryRow, ids: &IdKey, report: &mut Report) {
    let (s, e) = (row.s, row.e);
    let mut wrong =
        |what: String| report.fault_in(&room.name, Kind::Mismatch, 1, format!("entry {s}: {what}"));
    match &row.line {
        Some(line) => columns(&room.name, row).differs(line).into_iter().for_each(&mut wrong),
        None if row.gone && row.kind == "edit" => {}
        None => wrong("it has no line, and nothing has replaced it".to_owned()),
    }
    if room.epoch_at(s).is_some_and(|epoch| epoch != Epoch(e)) {
        wrong(format!("it is of epoch {}, which the room's lineage does not have there", Epoch(e).to_text()));
    }
    let fits = match &row.id {
        None => row.h.is_none(),
        Some(id) => match (MessageId::new(id), row.u.as_deref().map(UserName::new).transpose()) {
            (Ok(id), Ok(user)) => row.h == Some(ids.number(room.id, user.as_ref(), &id)),
            _ => false,
        },
    };
    if !fits {
        wrong("the number of its id (column h) does not fit the id: a repeat would not be known".to_owned());
    }
}

/// The columns of a row that its line says too.
pub(super) fn columns<'a>(room: &'a str, row: &'a EntryRow) -> Columns<'a> {
    Columns {
        room,
        s: row.s,
        e: row.e,
        ts: row.ts,
        kind: &row.kind,
        u: row.u.as_deref(),
        id: row.id.as_deref(),
        edited: row.edited,
        gone: row.gone,
    }
}

fn read_room(row: RoomRow, report: &mut Report) -> Room {
    let RoomRow { id, name, epoch, top, first, lineage } = row;
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
    Room { id, name, top, first, lineage: steps }
}
