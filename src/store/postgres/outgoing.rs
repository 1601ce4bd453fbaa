//! The list of what leaves the store, in a table of its own that is made when the first is to leave; how far its
//! listeners are stands in the table `meta`. For a server that is alone with its store.

use std::time::Duration;

use bytes::Bytes;

use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::archive::ArchiveError;
use crate::store::outgoing::{
    BEFORE_ALL, Leaves, Leaving, Listed, Listener, Number, OutgoingReader, Standing,
};
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::{Trouble, explain};
use crate::store::postgres::link::{Link, Role, Session};
use crate::store::postgres::pages;
use crate::store::postgres::rooms::number;
use crate::store::record::{Item, Record};
use crate::store::rooms::stored;

/// How long a question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long listing all that is there may take.
pub const BEGIN_LIMIT: Duration = Duration::from_secs(600);
/// Where a listener stands, in the table `meta`.
const KEY: &str = "forward:";

/// Makes the list ready; without listeners there is none. Where each listener stands, in their order.
pub async fn begin(session: &Session, leaving: &Leaving) -> Result<Vec<Number>, Trouble> {
    session.batch("BEGIN; SET LOCAL statement_timeout = '600s'").await?;
    if leaving.listeners.is_empty() {
        forget_others(session, &[]).await?;
        session.batch("DROP TABLE IF EXISTS outgoing; COMMIT").await?;
        return Ok(Vec::new());
    }
    let table =
        "CREATE TABLE IF NOT EXISTS outgoing (n bigint PRIMARY KEY, room bigint NOT NULL, s bigint NOT NULL)";
    session.batch(table).await?;
    forget_others(session, &leaving.listeners).await?;
    // Records that were lost with a journal get their numbers again.
    let sql = "UPDATE meta SET value = $2 WHERE starts_with(key, $1) AND value > $2";
    session.execute(sql, &[&KEY, &stored(leaving.newest)]).await?;
    let mut places = Vec::with_capacity(leaving.listeners.len());
    for listener in &leaving.listeners {
        let sql = "SELECT value FROM meta WHERE key = $1";
        places.push(match session.row(sql, &[&key(&listener.name)]).await? {
            Some(row) => row.get(0),
            None => begin_at(session, listener, leaving).await?,
        });
    }
    trim(session).await?;
    session.batch("COMMIT").await?;
    Ok(places)
}

fn key(listener: &str) -> String {
    format!("{KEY}{listener}")
}

async fn forget_others(session: &Session, listeners: &[Listener]) -> Result<(), Trouble> {
    let kept: Vec<String> = listeners.iter().map(|listener| key(&listener.name)).collect();
    let sql = "DELETE FROM meta WHERE starts_with(key, $1) AND key <> ALL ($2)";
    session.execute(sql, &[&KEY, &kept]).await?;
    Ok(())
}

async fn begin_at(session: &Session, listener: &Listener, leaving: &Leaving) -> Result<Number, Trouble> {
    let place = match listener.from_first {
        true => {
            list_what_is_there(session, &leaving.leaves).await?;
            BEFORE_ALL
        }
        false => stored(leaving.newest),
    };
    let sql = "INSERT INTO meta (key, value) VALUES ($1, $2)";
    session.execute(sql, &[&key(&listener.name), &place]).await?;
    Ok(place)
}

/// Lists the entries that are not listed yet: all of them are older than those of their rooms that are.
async fn list_what_is_there(session: &Session, leaves: &Leaves) -> Result<(), Trouble> {
    let rooms = session.query("SELECT id, name FROM rooms", &[]).await?;
    let is_wanted = |row: &tokio_postgres::Row| {
        let name = RoomName::new(row.get::<_, &str>(1));
        name.is_ok_and(|name| leaves.lists(&name)).then(|| row.get(0))
    };
    let wanted: Vec<i64> = rooms.iter().filter_map(is_wanted).collect();
    // A new record's number is above all; these get numbers below all. Within a room the order is that of the places.
    let sql = "INSERT INTO outgoing (n, room, s) \
               SELECT (SELECT least(0, coalesce(min(n) - 1, 0)) FROM outgoing) \
                      - row_number() OVER (ORDER BY e.ts DESC, e.room DESC, e.s DESC) + 1, e.room, e.s \
               FROM entries e WHERE e.room = ANY ($1) \
               AND NOT EXISTS (SELECT 1 FROM outgoing o WHERE o.room = e.room AND o.s = e.s)";
    session.execute(sql, &[&wanted]).await?;
    Ok(())
}

/// Lists entries in the transaction that keeps them.
pub async fn list(session: &Session, leaves: &Leaves, items: &[Item]) -> Result<(), Trouble> {
    let (mut numbers, mut rooms, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let Record::Entry(entry) = &item.record else { continue };
        if leaves.lists(&entry.room) {
            numbers.push(stored(item.lsn));
            rooms.push(entry.room.as_str());
            offsets.push(stored(entry.offset));
        }
    }
    if numbers.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outgoing (n, room, s) \
               SELECT new.n, rooms.id, new.s FROM unnest($1::int8[], $2::text[], $3::int8[]) AS new (n, name, s) \
               JOIN rooms ON rooms.name = new.name ON CONFLICT DO NOTHING";
    session.execute(sql, &[&numbers, &rooms, &offsets]).await?;
    Ok(())
}

/// Notes how far listeners are.
pub async fn note(session: &Session, upto: &[(String, Number)]) -> Result<(), Trouble> {
    session.batch("BEGIN").await?;
    for (listener, place) in upto {
        let sql = "UPDATE meta SET value = $2 WHERE key = $1 AND value < $2";
        session.execute(sql, &[&key(listener), place]).await?;
    }
    trim(session).await?;
    session.batch("COMMIT").await
}

async fn trim(session: &Session) -> Result<(), Trouble> {
    let sql = "DELETE FROM outgoing WHERE n <= (SELECT min(value) FROM meta WHERE starts_with(key, $1))";
    session.execute(sql, &[&KEY]).await?;
    Ok(())
}

/// Reads the list, on a connection of its own.
pub struct PostgresOutgoing(Link);

impl PostgresOutgoing {
    /// Of a store whose list was begun.
    pub fn new(url: PostgresUrl) -> PostgresOutgoing {
        PostgresOutgoing(Link::new(url, Role::Reader))
    }
}

impl OutgoingReader for PostgresOutgoing {
    fn after(&mut self, place: Number, n: usize, bytes: usize) -> Result<Vec<Listed>, ArchiveError> {
        let sql = "SELECT o.n, rooms.name, o.s, entries.e, entries.ts, entries.u, entries.line \
                   FROM outgoing AS o JOIN rooms ON rooms.id = o.room \
                   LEFT JOIN entries ON entries.room = o.room AND entries.s = o.s \
                   WHERE o.n > $1 ORDER BY o.n LIMIT $2";
        let rows = self.0.run(LIMIT, async |session| session.query(sql, &[&place, &stored(n as u64)]).await);
        let rows = rows.map_err(|trouble| explain(self.0.url(), "read", trouble))?;
        let (mut found, mut read) = (Vec::new(), 0);
        for row in &rows {
            if read >= bytes {
                break;
            }
            // A name that is none of ours any more was put there by hand.
            let Ok(room) = RoomName::new(row.get::<_, &str>(1)) else { continue };
            let line = row.get::<_, Option<&str>>(6).map(|line| Bytes::copy_from_slice(line.as_bytes()));
            read += line.as_ref().map_or(0, Bytes::len);
            let is_there = row.get::<_, Option<i64>>(3).is_some();
            let entry = is_there.then(|| Standing {
                epoch: Epoch(number(row, 3)),
                ts: number(row, 4),
                user: pages::user(row, 5),
                line,
            });
            found.push(Listed { number: row.get(0), room, offset: number(row, 2), entry });
        }
        Ok(found)
    }

    fn waiting(&mut self, place: Number) -> Result<u64, ArchiveError> {
        let sql = "SELECT count(*) FROM outgoing WHERE n > $1";
        let row = self.0.run(LIMIT, async |session| session.row(sql, &[&place]).await);
        let row = row.map_err(|trouble| explain(self.0.url(), "read", trouble))?;
        Ok(row.map_or(0, |row| number(&row, 0)))
    }
}
