//! Applies entries within one transaction: the row of each, its words, and what an edit, a delete or a reaction
//! does to the entry that it is about. All rows that a batch needs are read together, changed in memory in the
//! order of the records, and written together: a handful of statements for a thousand records. Called by the
//! archive; knows no commit.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::store::ids::IdKey;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::postgres::notes::Notes;
use crate::store::postgres::rooms::{self, Rooms};
use crate::store::postgres::rows::{Row, Rows};
use crate::store::record::Record;
use crate::store::rooms::{Room, stored};

/// Whether rooms have one writer, or several over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// One. Another entry at a place that is taken is an error.
    One,
    /// Several, with logs that may be taken back: a newer life of a log replaces what an older one has at its
    /// places and above; what comes late from an older life is left out.
    Several,
}

/// A log that goes on from an earlier place under a new life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewind {
    room: RoomName,
    /// The first place of the new life.
    first: Offset,
}

/// Applies records in their order, within a transaction that the caller has begun and ends. Returns what is to be
/// said in the program's log once it is kept.
pub async fn apply(
    session: &Session,
    ids: IdKey,
    hands: Hands,
    records: &[&Record],
) -> Result<Vec<String>, Trouble> {
    let mut warnings = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let mut batch = Batch::load(session, ids, hands, rest).await?;
        let (done, rewind) = batch.apply(rest)?;
        batch.write(session).await?;
        warnings.append(&mut batch.warnings);
        if let Some(Rewind { room, first }) = rewind {
            let Record::Entry(entry) = rest[done] else { break };
            rewind_room(session, &room, first, entry).await?;
        }
        rest = &rest[done..];
    }
    Ok(warnings)
}

/// One round of loading, changing and writing.
struct Batch<'a> {
    hands: Hands,
    ids: IdKey,
    rooms: Rooms,
    rows: Rows,
    /// Room, entry, user, mark: whether on, and the place of the newest change.
    reactions: BTreeMap<(i64, Offset, &'a str, &'a str), (bool, Offset)>,
    notes: Notes<'a>,
    warnings: Vec<String>,
}

impl<'a> Batch<'a> {
    async fn load(
        session: &Session,
        ids: IdKey,
        hands: Hands,
        records: &[&'a Record],
    ) -> Result<Batch<'a>, Trouble> {
        let names: BTreeSet<&RoomName> = records.iter().filter_map(|record| room_of(record)).collect();
        let rooms = rooms::open(session, names).await?;
        let mut wanted = HashSet::new();
        for record in records {
            let Record::Entry(entry) = record else { continue };
            let Some(opened) = rooms.get(&entry.room) else { continue };
            if entry.offset <= opened.room.top {
                wanted.insert((opened.room.id, entry.offset));
            }
            if entry.kind != Kind::Message && entry.of <= opened.room.top {
                wanted.insert((opened.room.id, entry.of));
            }
        }
        let rows = Rows::load(session, wanted).await?;
        let notes = if hands == Hands::Several { Notes::that_grow() } else { Notes::default() };
        Ok(Batch { hands, ids, rooms, rows, reactions: BTreeMap::new(), notes, warnings: Vec::new() })
    }

    /// Up to the end, or to an entry with which a log is taken back: so many records are done then.
    fn apply(&mut self, records: &[&'a Record]) -> Result<(usize, Option<Rewind>), Trouble> {
        for (n, record) in records.iter().enumerate() {
            match record {
                Record::Entry(entry) => {
                    if let Some(rewind) = self.entry(entry)? {
                        return Ok((n, Some(rewind)));
                    }
                }
                Record::Seen(seen) => self.notes.seen(seen),
                Record::Read(mark) => self.notes.read(mark),
                Record::Session(note) => self.notes.session(note),
                Record::Dead(letter) => self.notes.dead(letter),
                Record::DeadGone(id) => self.notes.dead_gone(id),
                Record::Rules(rules) => self.notes.rules(rules),
                // Kept in the spool of hooks, for as long as it takes to tell it.
                Record::Event(_) => {}
            }
        }
        Ok((records.len(), None))
    }

    async fn write(&self, session: &Session) -> Result<(), Trouble> {
        self.rows.write(session).await?;
        self.write_reactions(session).await?;
        self.notes.write(session, &self.rooms, self.ids).await?;
        rooms::write(session, &self.rooms).await
    }

    fn entry(&mut self, entry: &'a Entry) -> Result<Option<Rewind>, Trouble> {
        let mut opened = self.rooms.get(&entry.room).expect("every room of the batch was opened").clone();
        if self.hands == Hands::Several {
            if let Some(rewind) = self.rewinds(&opened, entry) {
                return Ok(Some(rewind));
            }
            if entry.epoch < opened.room.epoch && life_at(&opened.lives, entry.offset) != Some(entry.epoch) {
                return Ok(None);
            }
        }
        if entry.offset <= opened.room.top {
            if entry.offset < opened.room.first || self.is_repeat(&opened.room, entry)? {
                return Ok(None);
            }
        } else {
            self.extend(&mut opened, entry);
        }
        let line_gone = self.change_target(&mut opened.room, entry);
        let row = Row::new(&opened.room, entry, line_gone, self.ids);
        opened.room.bytes += row.line_bytes();
        opened.changed = true;
        self.rows.insert(opened.room.id, entry.offset, row);
        self.rooms.insert(entry.room.clone(), opened);
        Ok(None)
    }

    /// Whether with this entry a log goes on from an earlier place.
    fn rewinds(&self, opened: &rooms::Opened, entry: &Entry) -> Option<Rewind> {
        let room = &opened.room;
        if entry.offset > room.top || entry.offset < room.first || entry.epoch < room.epoch {
            return None;
        }
        let taken_by_older = self.rows.get(room.id, entry.offset).is_some_and(|row| row.epoch < entry.epoch);
        (entry.epoch > room.epoch || taken_by_older)
            .then(|| Rewind { room: entry.room.clone(), first: entry.offset })
    }

    /// Whether a place that is taken has this very entry. A free one in the middle of the log takes it.
    fn is_repeat(&self, room: &Room, entry: &Entry) -> Result<bool, Trouble> {
        let Some(row) = self.rows.get(room.id, entry.offset) else { return Ok(false) };
        if self.hands == Hands::One && !row.is_of(entry) {
            return Err(Trouble::told(format!(
                "room {} has another entry at offset {}; the journal and the store do not belong together: put \
                 the right store in its place, or move the journal away and start again",
                entry.room.as_str(),
                entry.offset
            )));
        }
        Ok(true)
    }

    /// The log grows: its newest offset, its life, and a hole where offsets are left out.
    fn extend(&mut self, opened: &mut rooms::Opened, entry: &Entry) {
        let room = &mut opened.room;
        if entry.epoch != room.epoch || room.top == 0 {
            opened.lives.push((entry.epoch, entry.offset));
            opened.relived = true;
            room.epoch = entry.epoch;
        }
        if entry.offset > room.top + 1 {
            self.warnings.push(format!(
                "room {}: offsets {} to {} never reached the store; readers are told that they are missing",
                entry.room.as_str(),
                room.top + 1,
                entry.offset - 1
            ));
        }
        if room.is_empty() {
            room.first = entry.offset;
            room.oldest = entry.ts;
        }
        room.top = entry.offset;
        room.used = room.used.max(entry.ts);
    }

    /// What the entry does to the one that it is about. Whether its own line goes at once.
    fn change_target(&mut self, room: &mut Room, entry: &'a Entry) -> bool {
        if entry.kind == Kind::Message {
            return false;
        }
        let Some(target) = self.rows.get(room.id, entry.of) else { return false };
        let (is_message, is_gone, edited) = (target.kind == Kind::Message.word(), target.gone, target.edited);
        match entry.kind {
            Kind::React => self.react(room.id, entry),
            // An edit of a deleted message, or one that comes after a newer one, loses its own line.
            Kind::Edit if is_message && (is_gone || entry.offset < edited) => return true,
            Kind::Edit if is_message => {
                let data = line::data_of(&entry.line).unwrap_or(b"null").to_vec();
                self.drop_edit(room, edited);
                self.rewrite(
                    room,
                    entry.of,
                    |old| line::amended(old, &data, entry.offset),
                    Some(entry.offset),
                );
            }
            Kind::Delete if is_message && !is_gone => {
                self.drop_edit(room, edited);
                self.rewrite(room, entry.of, line::blanked, None);
            }
            Kind::Message | Kind::Edit | Kind::Delete => {}
        }
        false
    }

    /// The message gets another line, by an edit at this place or because it is deleted.
    fn rewrite(
        &mut self,
        room: &mut Room,
        offset: Offset,
        new: impl FnOnce(&[u8]) -> Vec<u8>,
        edited: Option<Offset>,
    ) {
        let Some(row) = self.rows.change(room.id, offset) else { return };
        let old = row.line_bytes();
        let line = new(row.line.as_deref().unwrap_or_default().as_bytes());
        row.set_line(room.id, &line, edited.is_some());
        match edited {
            Some(edited) => row.edited = edited,
            None => row.gone = true,
        }
        room.bytes = (room.bytes + row.line_bytes()).saturating_sub(old);
    }

    /// The line of an edit that a later change replaces.
    fn drop_edit(&mut self, room: &mut Room, offset: Offset) {
        if offset == 0 {
            return;
        }
        let Some(row) = self.rows.change(room.id, offset) else { return };
        room.bytes = room.bytes.saturating_sub(row.line_bytes());
        row.line = None;
        row.gone = true;
    }

    fn react(&mut self, room: i64, entry: &'a Entry) {
        let Some(mark) = &entry.mark else { return };
        let user = entry.user.as_ref().map_or("", UserName::as_str);
        let kept = self.reactions.entry((room, entry.of, user, mark)).or_default();
        if kept.1 < entry.offset {
            *kept = (!entry.off, entry.offset);
        }
    }

    async fn write_reactions(&self, session: &Session) -> Result<(), Trouble> {
        if self.reactions.is_empty() {
            return Ok(());
        }
        let all = || self.reactions.iter();
        let rooms: Vec<i64> = all().map(|((room, ..), _)| *room).collect();
        let of: Vec<i64> = all().map(|((_, of, ..), _)| stored(*of)).collect();
        let users: Vec<&str> = all().map(|((_, _, user, _), _)| *user).collect();
        let marks: Vec<&str> = all().map(|((.., mark), _)| *mark).collect();
        let on: Vec<bool> = all().map(|(_, (on, _))| *on).collect();
        let places: Vec<i64> = all().map(|(_, (_, s))| stored(*s)).collect();
        let sql = "INSERT INTO reactions AS old (room, of, u, k, \"on\", s) \
                   SELECT * FROM unnest($1::int8[], $2::int8[], $3::text[], $4::text[], $5::bool[], $6::int8[]) \
                   ON CONFLICT (room, of, u, k) DO UPDATE SET \"on\" = excluded.\"on\", s = excluded.s \
                   WHERE old.s < excluded.s";
        session.execute(sql, &[&rooms, &of, &users, &marks, &on, &places]).await?;
        Ok(())
    }
}

fn room_of(record: &Record) -> Option<&RoomName> {
    match record {
        Record::Entry(entry) => Some(&entry.room),
        Record::Seen(seen) => Some(&seen.room),
        Record::Read(mark) => Some(&mark.room),
        Record::Session(_) | Record::Dead(_) | Record::DeadGone(_) | Record::Event(_) | Record::Rules(_) => {
            None
        }
    }
}

/// The life that a place belongs to.
fn life_at(lives: &[(Epoch, Offset)], offset: Offset) -> Option<Epoch> {
    lives.iter().rev().find(|(_, first)| *first <= offset).map(|(epoch, _)| *epoch)
}

/// Takes back what older lives of a log have at `first` and above. What taken back edits have changed keeps the
/// changed words until another edit comes; what they have deleted stays deleted: the old words are gone.
async fn rewind_room(session: &Session, name: &RoomName, first: Offset, by: &Entry) -> Result<(), Trouble> {
    let mut rooms = rooms::open(session, BTreeSet::from([name])).await?;
    let Some(opened) = rooms.get_mut(name) else { return Ok(()) };
    let (room, from, epoch) = (&mut opened.room, stored(first), stored(by.epoch.0));
    let sql = "DELETE FROM entries WHERE room = $1 AND s >= $2 AND e < $3 \
               RETURNING s, coalesce(octet_length(line), 0)::int8";
    let taken = session.query(sql, &[&room.id, &from, &epoch]).await?;
    let places: Vec<i64> = taken.iter().map(|row| row.get(0)).collect();
    let bytes: i64 = taken.iter().map(|row| row.get::<_, i64>(1)).sum();
    session
        .execute(
            "UPDATE entries SET edited = 0 WHERE room = $1 AND s < $2 AND edited = ANY($3)",
            &[&room.id, &from, &places],
        )
        .await?;
    session
        .execute(
            "DELETE FROM reactions WHERE room = $1 AND (of >= $2 OR s = ANY($3))",
            &[&room.id, &from, &places],
        )
        .await?;
    let top = "SELECT coalesce(max(s), $2::int8 - 1) FROM entries WHERE room = $1 AND s >= $2";
    let top = session.row(top, &[&room.id, &from]).await?;
    room.top = top.map_or(first - 1, |row| rooms::number(&row, 0));
    room.bytes = room.bytes.saturating_sub(bytes.max(0) as u64);
    opened.lives.retain(|(epoch, begun)| *begun < first || *epoch >= by.epoch);
    // A later place of the new life may have come before.
    opened.lives.iter_mut().filter(|life| life.0 == by.epoch).for_each(|life| life.1 = life.1.min(first));
    if room.top < first {
        room.epoch = opened.lives.last().map_or(room.epoch, |(epoch, _)| *epoch);
    }
    (opened.changed, opened.relived) = (true, true);
    log::info!(
        "store: room {} goes on from offset {first} under a new life; {} entries of the one before are taken back",
        name.as_str(),
        places.len()
    );
    rooms::write(session, &rooms).await
}
