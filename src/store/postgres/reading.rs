//! The reading side: answers questions on a connection of its own, each from one state of the store. Asked by
//! reader threads; never writes.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use crate::chat::entry::Kind;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::archive::{
    Answer, ArchiveError, ArchiveReader, Question, StoredPlace, StoredRoom, StoredState, UserRoom,
};
use crate::store::ids::IdKey;
use crate::store::page::{Limits, Page};
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::{Trouble, explain};
use crate::store::postgres::link::{Link, Role, Session};
use crate::store::postgres::rooms::{self, number};
use crate::store::postgres::{notes, pages};
use crate::store::rooms::stored;

/// How long a question may take.
const LIMIT: Duration = Duration::from_secs(10);

/// One reader. It connects with its first question, and again after an outage.
pub struct PostgresReader {
    link: Link,
    ids: IdKey,
}

impl PostgresReader {
    /// A reader of a store that is there.
    pub fn new(url: PostgresUrl, ids: IdKey) -> PostgresReader {
        PostgresReader { link: Link::new(url, Role::Reader), ids }
    }
}

impl ArchiveReader for PostgresReader {
    fn answer(&mut self, question: &Question) -> Result<Answer, ArchiveError> {
        let ids = self.ids;
        // All parts of an answer are read from one state of the store: the transaction sees no later commit.
        let answered = self.link.run(LIMIT, async |session| {
            session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
            let answer = answer_of(session, ids, question).await?;
            session.batch("COMMIT").await?;
            Ok(answer)
        });
        answered.map_err(|trouble| explain(self.link.url(), "read", trouble))
    }
}

async fn answer_of(session: &Session, ids: IdKey, question: &Question) -> Result<Answer, Trouble> {
    Ok(match question {
        Question::Room { room, tail, tail_bytes } => {
            let limits = Limits { entries: *tail, bytes: *tail_bytes };
            Answer::Room(stored_room(session, room, limits).await?)
        }
        Question::Range { room, from, to, bytes } => {
            let limits = Limits { entries: usize::MAX, bytes: *bytes };
            match rooms::find(session, room).await? {
                Some(room) => entries(pages::upwards(session, room.id, *from, *to, limits).await?),
                None => entries(Page::default()),
            }
        }
        Question::Page { room, from, n, bytes } => {
            let limits = Limits { entries: *n, bytes: *bytes };
            match rooms::find(session, room).await? {
                Some(room) => entries(pages::page(session, &room, *from, limits).await?),
                None => entries(Page::default()),
            }
        }
        Question::Find { room, words, before, n, bytes } => {
            let limits = Limits { entries: *n, bytes: *bytes };
            match rooms::find(session, room).await? {
                Some(room) => entries(pages::find(session, &room, words, *before, limits).await?),
                None => entries(Page::default()),
            }
        }
        Question::Since { room, ts } => Answer::Offset(match rooms::find(session, room).await? {
            Some(room) => pages::since(session, &room, *ts).await?,
            None => 1,
        }),
        Question::Entry { room, offset, user } => {
            Answer::Entry(state_of(session, room, *offset, user.as_ref()).await?)
        }
        Question::Id { room, user, id } => Answer::Place(place(session, ids, room, user.as_ref(), id).await?),
        Question::Ids { room, since, n } => ids_of(session, room, *since, *n).await?,
        Question::Session(name) => Answer::Session(notes::session_of(session, name).await?),
        Question::RoomsOf { user, n } => Answer::RoomsOf(rooms_of(session, user, *n).await?),
        Question::ReadMarks { room, n } => Answer::ReadMarks(match rooms::find(session, room).await? {
            Some(room) => notes::read_marks(session, room.id, *n).await?,
            None => Vec::new(),
        }),
        Question::ReadMark { room, user } => Answer::ReadMark(match rooms::find(session, room).await? {
            Some(room) => notes::read_mark(session, room.id, user).await?,
            None => 0,
        }),
        Question::Dead { n } => Answer::Dead(notes::newest_dead(session, *n).await?),
        Question::Rules => Answer::Rules(notes::all_rules(session).await?),
    })
}

fn entries((list, more): Page) -> Answer {
    Answer::Entries { list, more }
}

async fn stored_room(
    session: &Session,
    name: &RoomName,
    tail: Limits,
) -> Result<Option<StoredRoom>, Trouble> {
    // A room with read marks alone has a row too.
    let Some(room) = rooms::find(session, name).await?.filter(|room| room.top > 0) else { return Ok(None) };
    let (list, _) = pages::downwards(session, room.id, room.first, room.top, tail).await?;
    let lineage = rooms::lineage(session, room.id).await?;
    Ok(Some(StoredRoom { lineage, top: room.top, first: room.first, tail: list }))
}

async fn state_of(
    session: &Session,
    room: &RoomName,
    offset: Offset,
    user: Option<&UserName>,
) -> Result<Option<StoredState>, Trouble> {
    let Some(room) = rooms::find(session, room).await? else { return Ok(None) };
    let sql = "SELECT kind, u, gone, edited FROM entries WHERE room = $1 AND s = $2";
    let Some(row) = session.row(sql, &[&room.id, &stored(offset)]).await? else { return Ok(None) };
    let kind = pages::kind(&row, 0);
    let sql = "SELECT k, \"on\", s FROM reactions WHERE room = $1 AND of = $2 AND u = $3 ORDER BY s";
    let user = user.map_or("", UserName::as_str);
    let reactions = session.query(sql, &[&room.id, &stored(offset), &user]).await?;
    Ok(Some(StoredState {
        kind,
        user: pages::user(&row, 1),
        // An edit without a line is replaced, not deleted.
        deleted: row.get::<_, bool>(2) && kind == Kind::Message,
        edited: number(&row, 3),
        reactions: reactions
            .iter()
            .map(|row| (row.get::<_, &str>(0).into(), row.get(1), number(row, 2)))
            .collect(),
    }))
}

/// The newest place of an id.
async fn place(
    session: &Session,
    ids: IdKey,
    room: &RoomName,
    user: Option<&UserName>,
    id: &MessageId,
) -> Result<Option<StoredPlace>, Trouble> {
    let Some(room) = rooms::find(session, room).await? else { return Ok(None) };
    let hash = ids.number(room.id, user, id);
    let (user, id) = (user.map(UserName::as_str), id.as_str());
    let with: [&(dyn ToSql + Sync); 4] = [&hash, &room.id, &user, &id];
    let of_entry = "SELECT e, s, ts FROM entries WHERE h = $1 AND room = $2 \
                    AND u IS NOT DISTINCT FROM $3 AND id = $4 ORDER BY s DESC LIMIT 1";
    let of_entry = session.row(of_entry, &with).await?.map(|row| StoredPlace {
        epoch: Epoch(number(&row, 0)),
        offset: number(&row, 1),
        ts: number(&row, 2),
    });
    let of_seen = "SELECT ts FROM seen WHERE h = $1 AND room = $2 \
                   AND u IS NOT DISTINCT FROM $3 AND id = $4 ORDER BY n DESC LIMIT 1";
    let of_seen = session.row(of_seen, &with).await?;
    let of_seen = of_seen.map(|row| StoredPlace { epoch: room.epoch, offset: 0, ts: number(&row, 0) });
    Ok(match (of_entry, of_seen) {
        (Some(entry), Some(seen)) => Some(if seen.ts > entry.ts { seen } else { entry }),
        (entry, seen) => entry.or(seen),
    })
}

type PlacedId = (Option<UserName>, MessageId, StoredPlace);

/// The newest ids, of entries and of messages without a place, merged by time.
async fn ids_of(session: &Session, room: &RoomName, since: u64, n: usize) -> Result<Answer, Trouble> {
    let Some(room) = rooms::find(session, room).await? else { return Ok(Answer::Ids(Vec::new(), false)) };
    let from = pages::since(session, &room, since).await?;
    let of_entries = "SELECT u, id, ts, e, s FROM entries \
                      WHERE room = $1 AND s >= $2 AND ts >= $3 AND id IS NOT NULL ORDER BY s DESC LIMIT $4";
    let most = stored(n.saturating_add(1) as u64);
    let rows = session.query(of_entries, &[&room.id, &stored(from), &stored(since), &most]).await?;
    let mut list: Vec<PlacedId> =
        rows.iter().filter_map(|row| placed(row, Epoch(number(row, 3)), number(row, 4))).collect();
    let of_seen = "SELECT u, id, ts FROM seen WHERE room = $1 AND ts >= $2 ORDER BY n DESC LIMIT $3";
    let rows = session.query(of_seen, &[&room.id, &stored(since), &most]).await?;
    list.extend(rows.iter().filter_map(|row| placed(row, room.epoch, 0)));
    // Stable: of the same millisecond, each kind keeps its order.
    list.sort_by_key(|(_, _, place)| std::cmp::Reverse(place.ts));
    let more = list.len() > n;
    list.truncate(n);
    Ok(Answer::Ids(list, more))
}

fn placed(row: &tokio_postgres::Row, epoch: Epoch, offset: Offset) -> Option<PlacedId> {
    let id = MessageId::new(row.get(1)).ok()?;
    Some((pages::user(row, 0), id, StoredPlace { epoch, offset, ts: number(row, 2) }))
}

async fn rooms_of(session: &Session, user: &UserName, n: usize) -> Result<Vec<UserRoom>, Trouble> {
    let sql = "SELECT rooms.name, rooms.top, coalesce(reads.s, 0) \
               FROM (SELECT room FROM reads WHERE u = $1 UNION SELECT room FROM owners WHERE u = $1) AS hers \
               JOIN rooms ON rooms.id = hers.room \
               LEFT JOIN reads ON reads.room = hers.room AND reads.u = $1 \
               ORDER BY greatest(rooms.used, coalesce(reads.ts, 0)) DESC, rooms.name LIMIT $2";
    let rows = session.query(sql, &[&user.as_str(), &stored(n as u64)]).await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            let room = RoomName::new(row.get(0)).ok()?;
            Some(UserRoom { room, top: number(row, 1), read: number(row, 2) })
        })
        .collect())
}
