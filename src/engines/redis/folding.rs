//! Entries as readers get them: edits and deletions are folded in, what is too old is left out, and a page has its
//! bounds. Knows no connection.

use ahash::AHashMap;
use bytes::Bytes;

use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::clock;
use crate::engines::redis::frame;
use crate::engines::redis::joining::Facts;
use crate::engines::redis::replies::Row;
use crate::store::archive::{StoredEntry, StoredRoom};

/// The newest change of each changed message; see [`changes`](super::replies::changes).
pub type Changes = AHashMap<Offset, i64>;
/// Some entries, and whether there are more.
pub type Page = (Vec<StoredEntry>, bool);

/// How much of a room's newest entries is wanted.
pub struct Tail {
    /// Most entries.
    pub tail: usize,
    /// Most bytes of lines; one entry at the least.
    pub tail_bytes: usize,
    /// Older entries are not shown, in milliseconds.
    pub age_ms: u64,
}

impl Tail {
    /// What Redis knows of a room.
    pub fn of(
        &self,
        room: &RoomName,
        lineage: Vec<(Epoch, Offset)>,
        top: Offset,
        facts: Facts,
    ) -> StoredRoom {
        let oldest = facts.oldest.as_ref().map_or(top + 1, |row| row.offset);
        let shown = folded(room, facts.rows, &facts.changes, self.age_ms);
        let tail = newest(shown.list, self.tail, self.tail_bytes).0;
        StoredRoom { lineage, top, first: oldest.max(shown.first), tail }
    }
}

/// Entries as readers get them.
pub struct Shown {
    /// What is to be shown.
    pub list: Vec<StoredEntry>,
    /// All before this one are too old to be shown; 0 if none is.
    pub first: Offset,
    /// All entries that were looked at, as they were said.
    pub states: Vec<Entry>,
}

/// Puts changed words at their messages. The rows reach up to the newest change of each of their messages.
pub fn folded(room: &RoomName, rows: Vec<Row>, changes: &Changes, age_ms: u64) -> Shown {
    let oldest = clock::wall_ms().saturating_sub(age_ms);
    let read = |row: &Row| frame::entry(room, row.offset, row.epoch, &row.body);
    let all: Vec<Entry> = rows.iter().filter_map(read).collect();
    let by_offset: AHashMap<Offset, &Entry> = all.iter().map(|entry| (entry.offset, entry)).collect();
    let mut shown = Shown { list: Vec::with_capacity(all.len()), first: 0, states: Vec::new() };
    for entry in &all {
        if entry.ts < oldest {
            shown.first = entry.offset + 1;
            shown.list.clear();
            continue;
        }
        shown.list.push(StoredEntry {
            offset: entry.offset,
            ts: entry.ts,
            kind: entry.kind,
            user: entry.user.clone(),
            of: entry.of,
            line: shown_line(entry, changes, &by_offset),
        });
    }
    shown.states = all;
    shown
}

fn shown_line(entry: &Entry, changes: &Changes, others: &AHashMap<Offset, &Entry>) -> Option<Bytes> {
    let place = if entry.kind == Kind::Edit { entry.of } else { entry.offset };
    let change = changes.get(&place).copied().unwrap_or(0);
    match entry.kind {
        Kind::Edit if change != 0 && change != entry.offset as i64 => None,
        Kind::Message if change < 0 => Some(line::blanked(&entry.line).into()),
        Kind::Message if change > 0 => {
            let edit = others.get(&(change as Offset));
            let data = edit.and_then(|edit| line::data_of(&edit.line));
            Some(data.map_or_else(
                || entry.line.clone(),
                |data| line::amended(&entry.line, data, change as Offset).into(),
            ))
        }
        _ => Some(entry.line.clone()),
    }
}

/// The newest so many, and whether there are older ones.
pub fn newest(mut list: Vec<StoredEntry>, n: usize, bytes_max: usize) -> Page {
    let fits = fitting(list.iter().rev(), n, bytes_max);
    let older = list.len() - fits;
    list.drain(..older);
    (list, older > 0)
}

/// The oldest so many, and whether there are newer ones.
pub fn oldest(mut list: Vec<StoredEntry>, n: usize, bytes_max: usize) -> Page {
    let fits = fitting(list.iter(), n, bytes_max);
    let more = fits < list.len();
    list.truncate(fits);
    (list, more)
}

fn fitting<'a>(list: impl Iterator<Item = &'a StoredEntry>, n: usize, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |(at, entry): &(usize, &StoredEntry)| {
        bytes += entry.line.as_ref().map_or(0, Bytes::len);
        *at < n && (*at == 0 || bytes <= bytes_max)
    };
    list.enumerate().take_while(fits).count()
}
