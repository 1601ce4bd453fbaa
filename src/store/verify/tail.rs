//! The records in the journal that the archive does not have yet: they go on where the archive ends, and what
//! they change in it is remembered for the comparison with what clients saw.

use std::collections::{HashMap, HashSet};

use super::VerifyError;
use super::archive::File;
use super::lines::Columns;
use super::report::{Kind, Report};
use crate::chat::entry::{Entry, Kind as EntryKind};
use crate::chat::message::Offset;
use crate::chat::names::{MessageId, UserName};
use crate::store::ids::IdKey;
use crate::store::journal::Found;
use crate::store::record::Record;

/// What the journal has behind the archive.
#[derive(Debug, Default)]
pub(super) struct Tail {
    entries: HashMap<(String, Offset), Entry>,
    /// Entries whose words were changed or taken back.
    changed: HashSet<(String, Offset)>,
    /// Newest offset of each room in it.
    tops: HashMap<String, Offset>,
    /// What does not come after the one before in its room.
    odd: Vec<(Kind, String, Offset)>,
}

impl Tail {
    /// Takes what the journal had.
    pub(super) fn of(found: Found) -> Tail {
        let mut tail = Tail::default();
        for item in found.items {
            let Record::Entry(entry) = item.record else { continue };
            let room = entry.room.as_str().to_owned();
            if matches!(entry.kind, EntryKind::Edit | EntryKind::Delete) {
                tail.changed.insert((room.clone(), entry.of));
            }
            let top = tail.tops.entry(room.clone()).or_default();
            if tail.entries.contains_key(&(room.clone(), entry.offset)) {
                tail.odd.push((Kind::Doubled, room, entry.offset));
                continue;
            }
            if entry.offset < *top {
                tail.odd.push((Kind::OutOfOrder, room.clone(), entry.offset));
            }
            *top = (*top).max(entry.offset);
            tail.entries.insert((room, entry.offset), entry);
        }
        tail
    }

    /// The entry at a place.
    pub(super) fn entry(&self, room: &str, s: Offset) -> Option<&Entry> {
        self.entries.get(&(room.to_owned(), s))
    }

    /// Whether an entry's words were changed or taken back.
    pub(super) fn changes(&self, room: &str, s: Offset) -> bool {
        self.changed.contains(&(room.to_owned(), s))
    }

    /// Goes on where the archive ends. `ids_ms` tells by a room's name how long its ids are remembered.
    pub(super) fn check(
        &self,
        file: &File<'_>,
        ids_ms: &dyn Fn(&str) -> u64,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        for (kind, room, s) in &self.odd {
            let how = if *kind == Kind::Doubled { "a second time" } else { "after a later one" };
            report.fault_in(room, *kind, 1, format!("the journal has entry {s} {how}"));
        }
        let mut places: Vec<&(String, Offset)> = self.entries.keys().collect();
        places.sort_unstable();
        let mut known = Ids { key: file.books.id_key()?, file, ids_ms, here: HashMap::new() };
        let mut before: Option<(&str, Offset)> = None;
        for place @ (room, s) in places {
            let top = file.rooms.get(room).map_or(0, |room| room.top);
            let after = before.filter(|(name, _)| name == room).map_or(top, |(_, s)| s);
            before = Some((room, (*s).max(after)));
            if *s <= after {
                let what = format!("the journal has entry {s}, and so has the archive");
                report.fault_in(room, Kind::Doubled, 1, what);
                continue;
            }
            if *s > after + 1 {
                let what = format!("nothing stands at {} to {} in the journal", after + 1, s - 1);
                report.fault_in(room, Kind::Hole, s - after - 1, what);
            }
            let entry = &self.entries[place];
            report.rooms.entry(room.clone()).or_default().entries += 1;
            if let Some(what) = columns(entry).differs(&entry.line) {
                report.fault_in(room, Kind::Mismatch, 1, format!("entry {s} in the journal: {what}"));
            }
            known.check(entry, report)?;
        }
        for (room, top) in &self.tops {
            let figures = report.rooms.entry(room.clone()).or_default();
            figures.first = figures.first.max(1);
            figures.top = figures.top.max(*top);
        }
        Ok(())
    }
}

/// The ids that have a place already.
struct Ids<'a> {
    key: IdKey,
    file: &'a File<'a>,
    ids_ms: &'a dyn Fn(&str) -> u64,
    /// Those in the journal: place and time.
    here: HashMap<(&'a str, Option<&'a str>, &'a str), (Offset, u64)>,
}

impl<'a> Ids<'a> {
    /// An id has one place as long as it is remembered.
    fn check(&mut self, entry: &'a Entry, report: &mut Report) -> Result<(), VerifyError> {
        let Some(id) = &entry.id else { return Ok(()) };
        let (room, user) = (entry.room.as_str(), entry.user.as_ref().map(UserName::as_str));
        let mut other = self.here.insert((room, user, id.as_str()), (entry.offset, entry.ts));
        if let (None, Some(known)) = (other, self.file.rooms.get(room)) {
            let hash = self.key.number(known.id, entry.user.as_ref(), id);
            other = self.file.books.newest_of_id(hash, known.id, id.as_str(), user)?;
        }
        if let Some((s, ts)) = other
            && entry.ts.saturating_sub(ts) < (self.ids_ms)(room)
        {
            let id = id.as_str().escape_debug();
            let what = format!("the id {id} of one user stands at {s} and, in the journal, {}", entry.offset);
            report.fault_in(room, Kind::Doubled, 1, what);
        }
        Ok(())
    }
}

/// An entry's columns, before anything has changed it.
pub(super) fn columns(entry: &Entry) -> Columns<'_> {
    Columns {
        room: entry.room.as_str(),
        s: entry.offset,
        e: entry.epoch.0,
        ts: entry.ts,
        kind: entry.kind.word(),
        u: entry.user.as_ref().map(UserName::as_str),
        id: entry.id.as_ref().map(MessageId::as_str),
        edited: 0,
        gone: false,
    }
}
