//! Parts of a room's log, read by offset, by time and by words. A page comes in pieces, so that no more rows and
//! bytes leave the database than are wanted. Called by the reading side.

use bytes::Bytes;
use tokio_postgres::Row;

use crate::chat::entry::Kind;
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::UserName;
use crate::store::archive::StoredEntry;
use crate::store::page::{Filling, Limits, Page};
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::postgres::rooms::number;
use crate::store::postgres::words;
use crate::store::rooms::{Room, stored};

/// Most rows that are looked at for one piece of a page.
const PIECE: usize = 256;
/// So many of a room's newest entries are searched one by one before the index is asked: who looks for a usual word
/// finds enough of it there, and the index would have to bring all its hits to find the newest.
const SEARCHED_ONE_BY_ONE: u64 = 2_000;

/// The inner query looks at no more than a piece; the outer one leaves out what does not fit, but for one row, which
/// tells that there is more. (The first row always fits; so the second one comes in any case.)
const UP: &str = "SELECT s, ts, kind, u, of, line, looked FROM (SELECT *, count(*) OVER () AS looked, \
    row_number() OVER (ORDER BY s) AS nth, \
    sum(coalesce(octet_length(line), 0)) OVER (ORDER BY s) - coalesce(octet_length(line), 0) AS before \
    FROM (SELECT s, ts, kind, u, of, line FROM entries WHERE room = $1 AND s BETWEEN $2 AND $3 \
    ORDER BY s LIMIT $4) AS piece) AS summed WHERE before <= $5 OR nth <= 2 ORDER BY s";
const DOWN: &str = "SELECT s, ts, kind, u, of, line, looked FROM (SELECT *, count(*) OVER () AS looked, \
    row_number() OVER (ORDER BY s DESC) AS nth, \
    sum(coalesce(octet_length(line), 0)) OVER (ORDER BY s DESC) - coalesce(octet_length(line), 0) AS before \
    FROM (SELECT s, ts, kind, u, of, line FROM entries WHERE room = $1 AND s BETWEEN $2 AND $3 \
    ORDER BY s DESC LIMIT $4) AS piece) AS summed WHERE before <= $5 OR nth <= 2 ORDER BY s DESC";

/// The oldest entries between two offsets, both included.
pub async fn upwards(
    session: &Session,
    room: i64,
    from: Offset,
    to: Offset,
    limits: Limits,
) -> Result<Page, Trouble> {
    let (mut page, mut from) = (Filling::new(limits), from);
    while from <= to && !page.more {
        let (looked, last) = piece(session, UP, room, (from, to), &mut page).await?;
        match last {
            Some(last) if looked == PIECE => from = last + 1,
            _ => break,
        }
    }
    Ok((page.entries, page.more))
}

/// The newest entries between two offsets, both included; oldest first all the same.
pub async fn downwards(
    session: &Session,
    room: i64,
    from: Offset,
    to: Offset,
    limits: Limits,
) -> Result<Page, Trouble> {
    let (mut page, mut to) = (Filling::new(limits), to);
    while from <= to && !page.more {
        let (looked, last) = piece(session, DOWN, room, (from, to), &mut page).await?;
        match last {
            Some(last) if looked == PIECE && last > 0 => to = last - 1,
            _ => break,
        }
    }
    page.entries.reverse();
    Ok((page.entries, page.more))
}

/// How many rows were looked at, and the last of those that came.
async fn piece(
    session: &Session,
    sql: &'static str,
    room: i64,
    (from, to): (Offset, Offset),
    page: &mut Filling,
) -> Result<(usize, Option<Offset>), Trouble> {
    let (entries, bytes) = page.left();
    let rows_max = entries.saturating_add(1).min(PIECE) as i64;
    let with: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&room, &stored(from), &stored(to), &rows_max, &stored(bytes as u64)];
    let (mut looked, mut last) = (0, None);
    for row in session.query(sql, &with).await? {
        looked = row.get::<_, i64>(6) as usize;
        if !take(page, &row) {
            break;
        }
        last = Some(number(&row, 0));
    }
    Ok((looked, last))
}

/// Puts a row with the columns of [`UP`] on the page. `false`: it does not fit, the page is done.
fn take(page: &mut Filling, row: &Row) -> bool {
    let line: Option<&str> = row.get(5);
    if !page.has_place_for(line.map_or(0, str::len)) {
        return false;
    }
    page.entries.push(StoredEntry {
        offset: number(row, 0),
        ts: number(row, 1),
        kind: kind(row, 2),
        user: user(row, 3),
        of: number(row, 4),
        line: line.map(|line| Bytes::copy_from_slice(line.as_bytes())),
    });
    true
}

/// A column with the word of a kind. What somebody has changed by hand counts as a message.
pub fn kind(row: &Row, column: usize) -> Kind {
    Kind::of_word(row.get(column)).unwrap_or(Kind::Message)
}

/// A column with a user or nothing.
pub fn user(row: &Row, column: usize) -> Option<UserName> {
    row.get::<_, Option<&str>>(column).and_then(|name| UserName::new(name).ok())
}

/// A page of a room's log.
pub async fn page(session: &Session, room: &Room, from: PageFrom, limits: Limits) -> Result<Page, Trouble> {
    let end = match from {
        PageFrom::After(offset) => {
            let from = offset.saturating_add(1).max(room.first);
            return upwards(session, room.id, from, room.top, limits).await;
        }
        PageFrom::Since(ts) => {
            let from = since(session, room, ts).await?;
            return upwards(session, room.id, from, room.top, limits).await;
        }
        PageFrom::Before(offset) => offset,
        PageFrom::Until(ts) => since(session, room, ts).await?,
    };
    match end.min(room.top + 1) {
        0 | 1 => Ok((Vec::new(), false)),
        end => downwards(session, room.id, room.first, end - 1, limits).await,
    }
}

/// The first offset whose entry is not older than `ts`; `top + 1` for none. Server time rises with the offset,
/// so about twenty looks are enough for a million entries; the database does them in one statement. Where a clock
/// was set back, it is a place at which the time passes `ts`, not always the first.
pub async fn since(session: &Session, room: &Room, ts: u64) -> Result<Offset, Trouble> {
    let sql = "WITH RECURSIVE look (low, high) AS ( \
                 SELECT $2::int8, $3::int8 \
                 UNION ALL \
                 SELECT CASE WHEN found.ts < $4 THEN found.s + 1 ELSE low END, \
                        CASE WHEN found.ts < $4 THEN high ELSE (low + high) / 2 END \
                 FROM look LEFT JOIN LATERAL (SELECT s, ts FROM entries \
                   WHERE room = $1 AND s >= (low + high) / 2 ORDER BY s LIMIT 1) AS found ON true \
                 WHERE low < high) \
               SELECT coalesce((SELECT s FROM entries WHERE room = $1 AND s >= low ORDER BY s LIMIT 1), $3) \
               FROM look WHERE low >= high";
    let row = session.row(sql, &[&room.id, &stored(room.first), &stored(room.top + 1), &stored(ts)]).await?;
    Ok(row.map_or(room.top + 1, |row| number(&row, 0)))
}

/// The newest messages before an offset that have all words of a typed search.
pub async fn find(
    session: &Session,
    room: &Room,
    typed: &str,
    before: Offset,
    limits: Limits,
) -> Result<Page, Trouble> {
    let mut page = Filling::new(limits);
    let newest = before.saturating_sub(1).min(room.top);
    let Some(wanted) = words::search(room.id, typed) else { return Ok((page.entries, false)) };
    if newest < room.first {
        return Ok((page.entries, false));
    }
    let most = stored(limits.entries.saturating_add(1) as u64);
    let border = newest.saturating_sub(SEARCHED_ONE_BY_ONE).max(room.first.saturating_sub(1));
    let one_by_one = "SELECT s FROM (SELECT s, words FROM entries WHERE room = $1 AND s > $2 AND s <= $3 \
                      ORDER BY s DESC OFFSET 0) AS newest \
                      WHERE words @@ $4::text::tsquery ORDER BY s DESC LIMIT $5";
    let rows =
        session.query(one_by_one, &[&room.id, &stored(border), &stored(newest), &wanted, &most]).await?;
    let mut hits: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if (hits.len() as i64) < most && border >= room.first {
        // The words have the room's number with them; a condition on the room would tempt the planner to walk it.
        let by_index = "WITH hits AS MATERIALIZED (SELECT s FROM entries WHERE words @@ $1::text::tsquery) \
                        SELECT s FROM hits WHERE s BETWEEN $2 AND $3 ORDER BY s DESC LIMIT $4";
        let most = most - hits.len() as i64;
        let rows = session.query(by_index, &[&wanted, &stored(room.first), &stored(border), &most]).await?;
        hits.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    for hits in hits.chunks(PIECE) {
        let sql = "SELECT s, ts, kind, u, of, line FROM (SELECT *, row_number() OVER (ORDER BY s DESC) AS nth, \
                   sum(octet_length(line)) OVER (ORDER BY s DESC) - octet_length(line) AS before \
                   FROM (SELECT s, ts, kind, u, of, line FROM entries WHERE room = $1 AND s = ANY($2) \
                   AND kind = 'msg' AND NOT gone AND line IS NOT NULL OFFSET 0) AS piece) AS summed \
                   WHERE before <= $3 OR nth <= 2 ORDER BY s DESC";
        let left = stored(page.left().1 as u64);
        let rows = session.query(sql, &[&room.id, &hits, &left]).await?;
        if !rows.iter().all(|row| take(&mut page, row)) {
            break;
        }
    }
    page.entries.reverse();
    Ok((page.entries, page.more))
}
