//! The reading side: answers questions on a connection of its own, each from one state of the store. Asked by
//! reader threads; never writes.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::archive::{
    Answer, ArchiveError, ArchiveReader, Question, StoredPlace, StoredRoom, StoredState, UserRoom,
};
use crate::store::ids::IdKey;
use crate::store::page::{Limits, Page};
use crate::store::record::Lsn;
use crate::store::rooms::{Room, stored};
use crate::store::sqlite::errors::{Trouble, explain};
use crate::store::sqlite::notes;
use crate::store::sqlite::pages;
use crate::store::sqlite::rooms::{self, number};
use crate::store::sqlite::schema;

type Sql<T> = Result<T, rusqlite::Error>;

/// One reader.
#[derive(Debug)]
pub struct SqliteReader {
    path: PathBuf,
    db: Connection,
    ids: IdKey,
}

impl SqliteReader {
    /// Opens a store that is there, for reading only.
    pub fn open(path: &Path) -> Result<SqliteReader, ArchiveError> {
        let db = schema::open_reader(path)?;
        let ids = schema::id_key(&db).map_err(|error| explain(path, "read", error.into()))?;
        Ok(SqliteReader { path: path.to_owned(), db, ids })
    }

    /// Number of the last record that has been applied.
    pub fn applied(&self) -> Result<Lsn, ArchiveError> {
        let applied = schema::meta(&self.db, "applied");
        applied.map(|lsn| lsn.max(0) as Lsn).map_err(|error| explain(&self.path, "read", error.into()))
    }

    /// All parts of an answer are read from one state of the store: a transaction sees no later commit.
    fn ask(&self, question: &Question) -> Result<Answer, Trouble> {
        let state = Transaction::new_unchecked(&self.db, TransactionBehavior::Deferred)?;
        let answer = self.answer_of(&state, question)?;
        state.commit()?;
        Ok(answer)
    }

    fn answer_of(&self, db: &Connection, question: &Question) -> Sql<Answer> {
        Ok(match question {
            Question::Room { room, tail, tail_bytes } => {
                Answer::Room(stored_room(db, room, Limits { entries: *tail, bytes: *tail_bytes })?)
            }
            Question::Range { room, from, to, bytes } => entries(db, room, |room| {
                let limits = Limits { entries: usize::MAX, bytes: *bytes };
                pages::upwards(db, room.id, *from, *to, limits)
            })?,
            Question::Page { room, from, n, bytes } => {
                entries(db, room, |room| pages::page(db, room, *from, Limits { entries: *n, bytes: *bytes }))?
            }
            Question::Find { room, words, before, n, bytes } => entries(db, room, |room| {
                pages::find(db, room, words, *before, Limits { entries: *n, bytes: *bytes })
            })?,
            Question::Since { room, ts } => {
                Answer::Offset(rooms::find(db, room)?.map_or(Ok(1), |room| pages::since(db, &room, *ts))?)
            }
            Question::Entry { room, offset, user } => {
                Answer::Entry(state_of(db, room, *offset, user.as_ref())?)
            }
            Question::Id { room, user, id } => Answer::Place(self.place(db, room, user.as_ref(), id)?),
            Question::Ids { room, since, n } => ids_of(db, room, *since, *n)?,
            Question::Session(session) => Answer::Session(notes::session_of(db, session)?),
            Question::RoomsOf { user, n } => Answer::RoomsOf(rooms_of(db, user, *n)?),
            Question::ReadMarks { room, n } => Answer::ReadMarks(read_marks(db, room, *n)?),
            Question::ReadMark { room, user } => Answer::ReadMark(read_mark(db, room, user)?),
            Question::Dead { n } => Answer::Dead(notes::newest_dead(db, *n)?),
            Question::Rules => Answer::Rules(notes::all_rules(db)?),
        })
    }

    /// The newest place of an id.
    fn place(
        &self,
        db: &Connection,
        room: &RoomName,
        user: Option<&UserName>,
        id: &MessageId,
    ) -> Sql<Option<StoredPlace>> {
        let Some(room) = rooms::find(db, room)? else { return Ok(None) };
        let hash = self.ids.number(room.id, user, id);
        let user = user.map(UserName::as_str);
        let of_entry = db
            .prepare_cached(
                "SELECT e, s, ts FROM entries WHERE h = ?1 AND room = ?2 AND u IS ?3 AND id = ?4 \
                 ORDER BY n DESC LIMIT 1",
            )?
            .query_row((hash, room.id, user, id.as_str()), |row| {
                Ok(StoredPlace {
                    epoch: Epoch(number(row, 0)?),
                    offset: number(row, 1)?,
                    ts: number(row, 2)?,
                })
            })
            .optional()?;
        let of_seen = db
            .prepare_cached(
                "SELECT ts FROM seen WHERE h = ?1 AND room = ?2 AND u IS ?3 AND id = ?4 \
                 ORDER BY n DESC LIMIT 1",
            )?
            .query_row((hash, room.id, user, id.as_str()), |row| {
                Ok(StoredPlace { epoch: room.epoch, offset: 0, ts: number(row, 0)? })
            })
            .optional()?;
        Ok(match (of_entry, of_seen) {
            (Some(entry), Some(seen)) => Some(if seen.ts > entry.ts { seen } else { entry }),
            (entry, seen) => entry.or(seen),
        })
    }
}

impl ArchiveReader for SqliteReader {
    fn answer(&mut self, question: &Question) -> Result<Answer, ArchiveError> {
        self.ask(question).map_err(|trouble| explain(&self.path, "read", trouble))
    }
}

fn entries(db: &Connection, room: &RoomName, read: impl FnOnce(&Room) -> Sql<Page>) -> Sql<Answer> {
    let (list, more) = rooms::find(db, room)?.map_or_else(|| Ok((Vec::new(), false)), |room| read(&room))?;
    Ok(Answer::Entries { list, more })
}

fn stored_room(db: &Connection, name: &RoomName, tail: Limits) -> Sql<Option<StoredRoom>> {
    // A room with read marks alone has a row too.
    let Some(room) = rooms::find(db, name)?.filter(|room| room.top > 0) else { return Ok(None) };
    let (list, _) = pages::downwards(db, room.id, room.first, room.top, tail)?;
    let lineage = rooms::lineage(db, room.id)?;
    Ok(Some(StoredRoom { lineage, top: room.top, first: room.first, tail: list }))
}

fn state_of(
    db: &Connection,
    room: &RoomName,
    offset: Offset,
    user: Option<&UserName>,
) -> Sql<Option<StoredState>> {
    let Some(room) = rooms::find(db, room)? else { return Ok(None) };
    let sql = "SELECT kind, u, gone, edited FROM entries WHERE room = ?1 AND s = ?2";
    let found = db
        .prepare_cached(sql)?
        .query_row((room.id, stored(offset)), |row| {
            let (kind, user) = (pages::kind(row, 0)?, pages::user(row, 1)?);
            // An edit without a line is replaced, not deleted.
            let deleted = row.get(2)? && kind == crate::chat::entry::Kind::Message;
            Ok(StoredState { kind, user, deleted, edited: number(row, 3)?, reactions: Vec::new() })
        })
        .optional()?;
    let Some(mut state) = found else { return Ok(None) };
    let sql = "SELECT k, \"on\", s FROM reactions WHERE room = ?1 AND of = ?2 AND u = ?3 ORDER BY s";
    state.reactions = db
        .prepare_cached(sql)?
        .query_map((room.id, stored(offset), user.map_or("", UserName::as_str)), |row| {
            Ok((row.get_ref(0)?.as_str()?.into(), row.get(1)?, number(row, 2)?))
        })?
        .collect::<Sql<_>>()?;
    Ok(Some(state))
}

type PlacedId = (Option<UserName>, MessageId, StoredPlace);

/// The newest ids, of entries and of messages without a place, merged by time.
fn ids_of(db: &Connection, room: &RoomName, since: u64, n: usize) -> Sql<Answer> {
    let Some(room) = rooms::find(db, room)? else { return Ok(Answer::Ids(Vec::new(), false)) };
    let entries = "SELECT u, id, ts, e, s FROM entries WHERE room = ?1 ORDER BY s DESC";
    let seen = "SELECT u, id, ts, ?2, 0 FROM seen WHERE room = ?1 ORDER BY n DESC";
    let mut list = newest_ids(db, entries, (room.id,), since, n)?;
    list.extend(newest_ids(db, seen, (room.id, stored(room.epoch.0)), since, n)?);
    // Stable: of the same millisecond, each kind keeps its order.
    list.sort_by_key(|(_, _, place)| std::cmp::Reverse(place.ts));
    let more = list.len() > n;
    list.truncate(n);
    Ok(Answer::Ids(list, more))
}

/// One more than `n`, if there are so many.
fn newest_ids(
    db: &Connection,
    sql: &str,
    of: impl rusqlite::Params,
    since: u64,
    n: usize,
) -> Sql<Vec<PlacedId>> {
    let mut list = Vec::new();
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(of)?;
    while let Some(row) = rows.next()? {
        let ts = number(row, 2)?;
        if ts < since || list.len() > n {
            break;
        }
        let id = row.get_ref(1)?.as_str_or_null()?.and_then(|id| MessageId::new(id).ok());
        let Some(id) = id else { continue };
        let place = StoredPlace { epoch: Epoch(number(row, 3)?), offset: number(row, 4)?, ts };
        list.push((pages::user(row, 0)?, id, place));
    }
    Ok(list)
}

fn rooms_of(db: &Connection, user: &UserName, n: usize) -> Sql<Vec<UserRoom>> {
    let mut list = db.prepare_cached(
        "SELECT rooms.name, rooms.top, coalesce(reads.s, 0) \
         FROM (SELECT room FROM reads WHERE u = ?1 UNION SELECT room FROM owners WHERE u = ?1) AS hers \
         JOIN rooms ON rooms.id = hers.room \
         LEFT JOIN reads ON reads.room = hers.room AND reads.u = ?1 \
         ORDER BY max(rooms.used, coalesce(reads.ts, 0)) DESC, rooms.name LIMIT ?2",
    )?;
    let mut rows = list.query((user.as_str(), stored(n as u64)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(room) = RoomName::new(row.get_ref(0)?.as_str()?) else { continue };
        found.push(UserRoom { room, top: number(row, 1)?, read: number(row, 2)? });
    }
    Ok(found)
}

fn read_marks(db: &Connection, room: &RoomName, n: usize) -> Sql<Vec<(UserName, Offset)>> {
    let Some(room) = rooms::find(db, room)? else { return Ok(Vec::new()) };
    let mut list = db.prepare_cached(
        "SELECT u, s FROM reads INDEXED BY reads_time WHERE room = ?1 ORDER BY ts DESC, u LIMIT ?2",
    )?;
    let mut rows = list.query((room.id, stored(n as u64)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(user) = pages::user(row, 0)? {
            found.push((user, number(row, 1)?));
        }
    }
    Ok(found)
}

fn read_mark(db: &Connection, room: &RoomName, user: &UserName) -> Sql<Offset> {
    let Some(room) = rooms::find(db, room)? else { return Ok(0) };
    let mut find = db.prepare_cached("SELECT s FROM reads WHERE room = ?1 AND u = ?2")?;
    Ok(find.query_row((room.id, user.as_str()), |row| number(row, 0)).optional()?.unwrap_or(0))
}
