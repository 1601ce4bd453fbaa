//! Retention: walks all rooms again and again in small steps and takes away what is too old or too much, with
//! words and reactions; then ids without a place, then old sessions. Called by the writing side. Every step is one
//! transaction of at most [`ROWS`] rows. What is deleted becomes free space when PostgreSQL's autovacuum has passed.

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::store::archive::{Forgotten, Keep};
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::postgres::rooms::{self, number};
use crate::store::postgres::schema;
use crate::store::rooms::{Room, stored};

/// Rows of a step: some ten milliseconds, so that records behind the journal do not wait long.
const ROWS: usize = 1_000;
/// Rooms that one step looks at.
const ROOMS_LOOKED_AT: usize = 2_000;
/// A session that was not heard of for so long is forgotten: 30 days, in milliseconds.
const SESSION_AGE_MS: u64 = 30 * 24 * 3_600_000;

/// So long it stays known that rules of a room have ended: a day, in milliseconds. No change comes later than that.
const ENDED_RULES_AGE_MS: u64 = 24 * 3_600_000;

/// Where the walk stands. Kept in memory: after a restart it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the rooms after the one with this number.
    Rooms(i64),
    /// In the ids without a place, of the rooms after this one.
    Seen(i64),
    /// In the sessions.
    Sessions,
}

/// Takes one step, within a transaction that the caller has begun and ends. Returns what was forgotten and where
/// the walk goes on; nothing is done while another program is at it.
pub async fn step(
    session: &Session,
    place: Place,
    keep: &dyn Fn(&str) -> Keep,
    now: u64,
) -> Result<(Forgotten, Place), Trouble> {
    let mut forgotten = Forgotten::default();
    if !schema::may_forget(session).await? {
        return Ok((forgotten, place));
    }
    let next = match place {
        Place::Rooms(after) => Some(in_rooms(session, after, keep, now, &mut forgotten).await?),
        Place::Seen(after) => Some(in_seen(session, after, keep, now).await?),
        Place::Sessions => in_sessions(session, now).await?,
    };
    // A walk that is in the middle goes on at once; at its end all rooms have been looked at.
    forgotten.more = next.is_some();
    Ok((forgotten, next.unwrap_or(Place::Rooms(0))))
}

async fn in_rooms(
    session: &Session,
    after: i64,
    keep: &dyn Fn(&str) -> Keep,
    now: u64,
    forgotten: &mut Forgotten,
) -> Result<Place, Trouble> {
    let sql = "SELECT id, epoch, top, first, bytes, oldest, used, name FROM rooms WHERE id > $1 \
               ORDER BY id LIMIT $2";
    let page = session.query(sql, &[&after, &(ROOMS_LOOKED_AT as i64)]).await?;
    let (mut last, mut left) = (after, ROWS);
    for row in &page {
        let (room, name): (Room, &str) = (rooms::read(row), row.get(7));
        let rule = keep(name);
        if room.has_too_much(rule, now)
            && let Ok(name) = RoomName::new(name)
        {
            if left == 0 {
                return Ok(Place::Rooms(last));
            }
            let (first, taken, whole) = take_oldest(session, room.id, left, rule, now).await?;
            left -= taken;
            if taken > 0 {
                forgotten.rooms.push((name, first));
            }
            if !whole {
                return Ok(Place::Rooms(last));
            }
        }
        last = room.id;
    }
    Ok(if page.len() < ROOMS_LOOKED_AT { Place::Seen(0) } else { Place::Rooms(last) })
}

/// Takes away the oldest entries of a room, at most so many. Returns its new first offset, how many went, and
/// whether it has no more than it may.
async fn take_oldest(
    session: &Session,
    id: i64,
    rows_max: usize,
    rule: Keep,
    now: u64,
) -> Result<(Offset, usize, bool), Trouble> {
    // Another program may be writing to it.
    let sql = "SELECT id, epoch, top, first, bytes, oldest, used FROM rooms WHERE id = $1 FOR NO KEY UPDATE";
    let Some(row) = session.row(sql, &[&id]).await? else { return Ok((0, 0, true)) };
    let mut room = rooms::read(&row);
    // One more is read, because the room then begins with it.
    let sql = "SELECT s, ts, coalesce(octet_length(line), 0)::int8 FROM entries \
               WHERE room = $1 AND s >= $2 ORDER BY s LIMIT $3";
    let oldest = session.query(sql, &[&id, &stored(room.first), &(rows_max as i64 + 1)]).await?;
    let (mut taken, mut next) = (0, None);
    for row in &oldest {
        (room.first, room.oldest) = (number(row, 0), number(row, 1));
        if !room.has_too_much(rule, now) || taken == rows_max {
            next = Some((room.first, room.oldest));
            break;
        }
        taken += 1;
        room.bytes = room.bytes.saturating_sub(number(row, 2));
    }
    (room.first, room.oldest) = next.unwrap_or((room.top + 1, 0));
    let with: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&id, &stored(room.first)];
    session.execute("DELETE FROM entries WHERE room = $1 AND s < $2", &with).await?;
    session.execute("DELETE FROM reactions WHERE room = $1 AND of < $2", &with).await?;
    let sql = "UPDATE rooms SET first = $2, bytes = $3, oldest = $4 WHERE id = $1";
    session.execute(sql, &[&id, &stored(room.first), &stored(room.bytes), &stored(room.oldest)]).await?;
    Ok((room.first, taken, !room.has_too_much(rule, now)))
}

async fn in_seen(
    session: &Session,
    after: i64,
    keep: &dyn Fn(&str) -> Keep,
    now: u64,
) -> Result<Place, Trouble> {
    // From one room to the next through the index, however many ids each has.
    let sql = "WITH RECURSIVE walk (room) AS ( \
                 (SELECT room FROM seen WHERE room > $1 ORDER BY room LIMIT 1) \
                 UNION ALL SELECT (SELECT room FROM seen WHERE room > walk.room ORDER BY room LIMIT 1) \
                 FROM walk WHERE walk.room IS NOT NULL) \
               SELECT id, name FROM (SELECT room FROM walk LIMIT $2) AS walked JOIN rooms ON id = room ORDER BY id";
    let rows = session.query(sql, &[&after, &(ROOMS_LOOKED_AT as i64)]).await?;
    let Some(last) = rows.last() else { return Ok(Place::Sessions) };
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let until: Vec<i64> =
        rows.iter().map(|row| stored(now.saturating_sub(keep(row.get(1)).ids_ms))).collect();
    let sql = "DELETE FROM seen WHERE n IN (SELECT n FROM unnest($1::int8[], $2::int8[]) AS rule (r, until) \
               CROSS JOIN LATERAL (SELECT n FROM seen WHERE room = r AND ts < until OFFSET 0) AS old LIMIT $3)";
    let gone = session.execute(sql, &[&ids, &until, &(ROWS as i64)]).await?;
    Ok(if gone == ROWS as u64 { Place::Seen(after) } else { Place::Seen(last.get(0)) })
}

async fn in_sessions(session: &Session, now: u64) -> Result<Option<Place>, Trouble> {
    let sql = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE ts < $1 LIMIT $2)";
    let until = stored(now.saturating_sub(SESSION_AGE_MS));
    let gone = session.execute(sql, &[&until, &(ROWS as i64)]).await?;
    if gone == ROWS as u64 {
        return Ok(Some(Place::Sessions));
    }
    let sql = "DELETE FROM rules WHERE rules = '' AND room IN \
               (SELECT room FROM rules WHERE rules = '' AND ts < $1 LIMIT $2)";
    let until = stored(now.saturating_sub(ENDED_RULES_AGE_MS));
    session.execute(sql, &[&until, &(ROWS as i64)]).await?;
    Ok(None)
}
