//! Applies entries to the tables within one transaction: the row of each, its words, and what an edit, a
//! delete or a reaction does to the entry that it is about. Called by the archive; knows no file and no commit.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension};

use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::Offset;
use crate::chat::names::{MessageId, UserName};
use crate::store::ids::IdKey;
use crate::store::outgoing::Leaves;
use crate::store::record::{Item, Lsn, Record};
use crate::store::rooms::{Room, stored};
use crate::store::sqlite::errors::Trouble;
use crate::store::sqlite::notes;
use crate::store::sqlite::outgoing;
use crate::store::sqlite::rooms::{self, Rooms};
use crate::store::sqlite::words::{self, WordChanges};
use crate::store::words::of_line;

const INSERT: &str = "INSERT INTO entries (room, s, e, ts, kind, u, id, h, of, gone, line) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// What a transaction did beside writing rows.
#[derive(Debug, Default)]
pub struct Done {
    /// Whether words were blanked, so that the log has to be emptied as well.
    pub blanked: bool,
    /// What is to be said in the program's log once the transaction is kept.
    pub warnings: Vec<String>,
}

/// One transaction.
pub struct Batch<'a> {
    db: &'a Connection,
    rooms: &'a mut Rooms,
    ids: IdKey,
    leaves: Option<&'a Leaves>,
    words: WordChanges,
    done: Done,
}

/// An entry's row, as far as changes need it.
struct Found {
    n: i64,
    kind: Option<Kind>,
    line: Option<Vec<u8>>,
    edited: Offset,
    gone: bool,
}

impl<'a> Batch<'a> {
    /// Within a transaction that the caller has begun and ends.
    pub fn new(db: &'a Connection, rooms: &'a mut Rooms, ids: IdKey) -> Batch<'a> {
        Batch { db, rooms, ids, leaves: None, words: WordChanges::default(), done: Done::default() }
    }

    /// Entries that these name are listed as well.
    pub fn listing(self, leaves: Option<&'a Leaves>) -> Batch<'a> {
        Batch { leaves, ..self }
    }

    /// Applies the records in their order.
    pub fn apply(mut self, items: &[Item]) -> Result<Done, Trouble> {
        for item in items {
            match &item.record {
                Record::Entry(entry) => self.entry(entry, item.lsn)?,
                Record::Seen(seen) => {
                    let room = self.rooms.open(self.db, &seen.room)?.id;
                    notes::seen(self.db, room, self.ids, seen)?;
                }
                Record::Read(mark) => {
                    let room = self.rooms.open(self.db, &mark.room)?.id;
                    notes::read(self.db, room, mark)?;
                }
                Record::Session(note) => notes::session(self.db, note)?,
                Record::Dead(letter) => notes::dead(self.db, letter)?,
                Record::DeadGone(id) => {
                    self.done.blanked |= notes::dead_gone(self.db, id)?;
                }
                Record::Rules(rules) => {
                    self.done.blanked |= notes::rules(self.db, rules)?;
                }
                // Kept in the spool of hooks, for as long as it takes to tell it.
                Record::Event(_) => {}
            }
        }
        self.rooms.write(self.db)?;
        self.done.blanked |= self.words.write(self.db)?;
        Ok(self.done)
    }

    fn entry(&mut self, entry: &Entry, lsn: Lsn) -> Result<(), Trouble> {
        let mut room = self.rooms.open(self.db, &entry.room)?;
        if entry.offset <= room.top {
            if entry.offset < room.first || self.is_repeat(&room, entry)? {
                return Ok(());
            }
        } else {
            self.extend(&mut room, entry)?;
        }
        let line_gone = self.change_target(&mut room, entry)?;
        self.insert(&room, entry, line_gone)?;
        if self.leaves.is_some_and(|leaves| leaves.lists(&entry.room)) {
            outgoing::list(self.db, lsn, room.id, entry.offset)?;
        }
        room.bytes += if line_gone { 0 } else { entry.line.len() as u64 };
        self.rooms.change(&entry.room, room);
        Ok(())
    }

    /// Whether a place that is taken has this very entry. A free one in the middle of the log takes it.
    fn is_repeat(&self, room: &Room, entry: &Entry) -> Result<bool, Trouble> {
        let sql = "SELECT e, ts, kind, u, line, edited OR gone FROM entries WHERE room = ?1 AND s = ?2";
        let same = self
            .db
            .prepare_cached(sql)?
            .query_row((room.id, stored(entry.offset)), |row| {
                let changed: bool = row.get(5)?;
                Ok(row.get::<_, i64>(0)? == stored(entry.epoch.0)
                    && row.get::<_, i64>(1)? == stored(entry.ts)
                    && row.get_ref(2)?.as_bytes()? == entry.kind.word().as_bytes()
                    && row.get_ref(3)?.as_bytes_or_null()?
                        == entry.user.as_ref().map(|user| user.as_str().as_bytes())
                    && (changed || row.get_ref(4)?.as_bytes_or_null()? == Some(&entry.line[..])))
            })
            .optional()?;
        if same == Some(false) {
            return Err(Trouble::told(format!(
                "room {} has another entry at offset {}; the journal and the store do not belong together: put \
                 the right store in its place, or move the journal away and start again",
                entry.room.as_str(),
                entry.offset
            )));
        }
        Ok(same.is_some())
    }

    /// The log grows: its newest offset, its life, and a hole where offsets are left out.
    fn extend(&mut self, room: &mut Room, entry: &Entry) -> Result<(), Trouble> {
        if entry.epoch != room.epoch || room.top == 0 {
            rooms::add_step(self.db, room.id, entry.epoch, entry.offset)?;
            room.epoch = entry.epoch;
        }
        if entry.offset > room.top + 1 {
            self.done.warnings.push(format!(
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
        Ok(())
    }

    fn insert(&mut self, room: &Room, entry: &Entry, line_gone: bool) -> Result<(), Trouble> {
        let number = entry.id.as_ref().map(|id| self.ids.number(room.id, entry.user.as_ref(), id));
        let line = if line_gone { ValueRef::Null } else { ValueRef::Text(&entry.line) };
        let mut insert = self.db.prepare_cached(INSERT)?;
        insert.execute(rusqlite::params![
            room.id,
            stored(entry.offset),
            stored(entry.epoch.0),
            stored(entry.ts),
            entry.kind.word(),
            entry.user.as_ref().map(UserName::as_str),
            entry.id.as_ref().map(MessageId::as_str),
            number,
            stored(entry.of),
            line_gone,
            ToSqlOutput::Borrowed(line),
        ])?;
        if entry.kind == Kind::Message
            && let Some(row) = words::row_of(room.id, entry.offset)
        {
            self.words.add(row, of_line(&entry.line));
        }
        Ok(())
    }

    /// What the entry does to the one that it is about. Whether its own line goes at once.
    fn change_target(&mut self, room: &mut Room, entry: &Entry) -> Result<bool, Trouble> {
        if entry.kind == Kind::Message {
            return Ok(false);
        }
        let Some(target) = self.find(room.id, entry.of)? else { return Ok(false) };
        let is_message = target.kind == Some(Kind::Message);
        match entry.kind {
            Kind::React => self.react(room.id, entry)?,
            Kind::Edit if is_message => return self.edit(room, entry, target),
            Kind::Delete if is_message && !target.gone => self.delete(room, entry, target)?,
            Kind::Message | Kind::Edit | Kind::Delete => {}
        }
        Ok(false)
    }

    fn find(&self, room: i64, offset: Offset) -> Result<Option<Found>, rusqlite::Error> {
        let sql = "SELECT n, kind, line, edited, gone FROM entries WHERE room = ?1 AND s = ?2";
        let mut find = self.db.prepare_cached(sql)?;
        find.query_row((room, stored(offset)), |row| {
            Ok(Found {
                n: row.get(0)?,
                kind: Kind::of_word(row.get_ref(1)?.as_str()?),
                line: row.get_ref(2)?.as_bytes_or_null()?.map(<[u8]>::to_vec),
                edited: rooms::number(row, 3)?,
                gone: row.get(4)?,
            })
        })
        .optional()
    }

    /// The message gets the new words; the edit before this one loses its line. An edit of a deleted message,
    /// or one that comes after a newer one, loses its own.
    fn edit(&mut self, room: &mut Room, entry: &Entry, target: Found) -> Result<bool, Trouble> {
        if target.gone || entry.offset < target.edited {
            return Ok(true);
        }
        let old = target.line.unwrap_or_default();
        let new = line::amended(&old, line::data_of(&entry.line).unwrap_or(b"null"), entry.offset);
        self.replace_words(room.id, entry.of, &old, Some(of_line(&new)));
        self.drop_edit(room, target.edited)?;
        self.db.prepare_cached("UPDATE entries SET line = ?2, edited = ?3 WHERE n = ?1")?.execute((
            target.n,
            ToSqlOutput::Borrowed(ValueRef::Text(&new)),
            stored(entry.offset),
        ))?;
        room.bytes = (room.bytes + new.len() as u64).saturating_sub(old.len() as u64);
        Ok(false)
    }

    /// The message's words go, and with them the line of its newest edit.
    fn delete(&mut self, room: &mut Room, entry: &Entry, target: Found) -> Result<(), Trouble> {
        let old = target.line.unwrap_or_default();
        let new = line::blanked(&old);
        self.replace_words(room.id, entry.of, &old, None);
        self.drop_edit(room, target.edited)?;
        self.db
            .prepare_cached("UPDATE entries SET line = ?2, gone = 1 WHERE n = ?1")?
            .execute((target.n, ToSqlOutput::Borrowed(ValueRef::Text(&new))))?;
        room.bytes = (room.bytes + new.len() as u64).saturating_sub(old.len() as u64);
        Ok(())
    }

    fn replace_words(&mut self, room: i64, offset: Offset, old: &[u8], new: Option<String>) {
        self.done.blanked = true;
        if let Some(row) = words::row_of(room, offset) {
            self.words.replace(row, of_line(old), new);
        }
    }

    fn drop_edit(&mut self, room: &mut Room, offset: Offset) -> Result<(), Trouble> {
        if offset == 0 {
            return Ok(());
        }
        let Some(edit) = self.find(room.id, offset)? else { return Ok(()) };
        self.db.prepare_cached("UPDATE entries SET line = NULL, gone = 1 WHERE n = ?1")?.execute([edit.n])?;
        room.bytes = room.bytes.saturating_sub(edit.line.map_or(0, |line| line.len() as u64));
        Ok(())
    }

    fn react(&mut self, room: i64, entry: &Entry) -> Result<(), rusqlite::Error> {
        let Some(mark) = &entry.mark else { return Ok(()) };
        let sql = "INSERT INTO reactions (room, of, u, k, \"on\", s) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                   ON CONFLICT DO UPDATE SET \"on\" = excluded.\"on\", s = excluded.s WHERE s < excluded.s";
        self.db.prepare_cached(sql)?.execute((
            room,
            stored(entry.of),
            entry.user.as_ref().map_or("", UserName::as_str),
            &**mark,
            !entry.off,
            stored(entry.offset),
        ))?;
        Ok(())
    }
}
