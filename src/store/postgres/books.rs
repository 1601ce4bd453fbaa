//! The books of an archive in a PostgreSQL, for its verification: one transaction that sees one state, read
//! through cursors, some thousand rows at a time.

use std::cell::RefCell;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::store::archive::OpenError;
use crate::store::ids::IdKey;
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::{Trouble, explain};
use crate::store::postgres::link::{Link, Role, Session};
use crate::store::postgres::rooms::number;
use crate::store::postgres::schema;
use crate::store::rooms::stored;
use crate::store::verify::VerifyError;
use crate::store::verify::books::{Books, EntryRow, Repeated, Result, RoomRow, WordsRow};

/// How long a piece of reading may take.
const LIMIT: Duration = Duration::from_secs(600);
const SNAPSHOT: &str = "SET statement_timeout = '600s'; SET idle_in_transaction_session_timeout = '3600s'; \
                        BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
const FETCH: &str = "FETCH 5000 FROM books";

/// The database.
pub struct DatabaseBooks {
    url: PostgresUrl,
    link: RefCell<Link>,
}

impl DatabaseBooks {
    /// Those of the store in this database; `None` where there is no store (yet).
    pub fn open(url: &PostgresUrl) -> std::result::Result<Option<DatabaseBooks>, OpenError> {
        let mut link = Link::new(url.clone(), Role::Reader);
        let there = link.run(LIMIT, async |session| schema::is_there(session, url).await);
        let there =
            there.map_err(|trouble| OpenError::of(trouble.is_away(), explain(url, "open", trouble)))?;
        Ok(there.then(|| DatabaseBooks { url: url.clone(), link: RefCell::new(link) }))
    }

    /// On the same connection as before: another one would see another state.
    fn run<T>(&self, work: impl AsyncFn(&Session) -> std::result::Result<T, Trouble>) -> Result<T> {
        let done = self.link.borrow_mut().run_here(LIMIT, work);
        done.map_err(|trouble| VerifyError::from(explain(&self.url, "read", trouble)))
    }

    fn applied(&self) -> Result<u64> {
        Ok(self.run(async |session| schema::meta(session, "applied").await)?.max(0) as u64)
    }

    /// All rows of a query.
    fn each_row(&self, query: &str, each: &mut dyn FnMut(&Row)) -> Result<()> {
        self.run(async |session| {
            session.batch(&format!("DECLARE books NO SCROLL CURSOR FOR {query}")).await
        })?;
        loop {
            // Not a prepared statement that is kept: the next cursor of this name has other columns.
            let rows = self.run(async |session| session.fetch(FETCH).await)?;
            if rows.is_empty() {
                return self.run(async |session| session.batch("CLOSE books").await);
            }
            rows.iter().for_each(&mut *each);
        }
    }

    fn one(&self, sql: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        Ok(self.run(async |session| session.query(sql, with).await)?.into_iter().next())
    }
}

impl Books for DatabaseBooks {
    fn begin(&self) -> Result<u64> {
        self.run(async |session| session.batch(SNAPSHOT).await)?;
        self.applied()
    }

    fn end(&self) -> Result<u64> {
        self.run(async |session| session.batch("COMMIT").await)?;
        self.applied()
    }

    /// PostgreSQL checks what it reads by itself; `pg_amcheck` does so for all at once.
    fn complaints(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn id_key(&self) -> Result<IdKey> {
        self.run(async |session| schema::id_key(session).await)
    }

    fn rooms(&self, each: &mut dyn FnMut(RoomRow)) -> Result<()> {
        let sql = "SELECT id, name, epoch, top, first, lineage FROM rooms ORDER BY id";
        self.each_row(sql, &mut |row| {
            each(RoomRow {
                id: row.get(0),
                name: row.get(1),
                epoch: number(row, 2),
                top: number(row, 3),
                first: number(row, 4),
                lineage: row.get(5),
            });
        })
    }

    fn entries(&self, each: &mut dyn FnMut(EntryRow)) -> Result<()> {
        let sql = "SELECT room, s, e, ts, kind, u, id, h, edited, gone, line FROM entries ORDER BY room, s";
        self.each_row(sql, &mut |row| each(entry(row)))
    }

    fn entry_at(&self, room: i64, s: u64) -> Result<Option<EntryRow>> {
        let sql = "SELECT room, s, e, ts, kind, u, id, h, edited, gone, line FROM entries \
                   WHERE room = $1 AND s = $2";
        Ok(self.one(sql, &[&room, &stored(s)])?.as_ref().map(entry))
    }

    fn repeated_ids(&self, each: &mut dyn FnMut(Repeated)) -> Result<()> {
        let sql = "SELECT rooms.name, a.s, b.s, a.id, b.ts - a.ts FROM entries a \
                   JOIN entries b ON b.h = a.h AND b.room = a.room AND b.s > a.s AND b.id = a.id \
                   AND b.u IS NOT DISTINCT FROM a.u \
                   JOIN rooms ON rooms.id = a.room WHERE a.h IS NOT NULL ORDER BY a.room, a.s";
        self.each_row(sql, &mut |row| {
            let (first, second, apart) = (number(row, 1), number(row, 2), number(row, 4));
            each(Repeated { room: row.get(0), first, second, id: row.get(3), apart });
        })
    }

    fn newest_of_id(&self, hash: i64, room: i64, id: &str, user: Option<&str>) -> Result<Option<(u64, u64)>> {
        let sql = "SELECT s, ts FROM entries WHERE h = $1 AND room = $2 AND id = $3 \
                   AND u IS NOT DISTINCT FROM $4 ORDER BY s DESC LIMIT 1";
        let found = self.one(sql, &[&hash, &room, &id, &user])?;
        Ok(found.map(|row| (number(&row, 0), number(&row, 1))))
    }

    fn words(&self, each: &mut dyn FnMut(WordsRow<'_>)) -> Result<u64> {
        let sql = "SELECT rooms.name, s, gone, coalesce(line, ''), words IS NOT NULL FROM entries \
                   JOIN rooms ON rooms.id = entries.room WHERE kind = 'msg'";
        self.each_row(sql, &mut |row| {
            let line: &str = row.get(3);
            let (s, gone, indexed) = (number(row, 1), row.get(2), row.get(4));
            each(WordsRow { room: row.get(0), s, gone, line: line.as_bytes(), indexed });
        })?;
        let others = "SELECT count(*) FROM entries WHERE words IS NOT NULL AND kind <> 'msg'";
        Ok(self.one(others, &[])?.map_or(0, |row| number(&row, 0)))
    }
}

fn entry(row: &Row) -> EntryRow {
    EntryRow {
        room: row.get(0),
        s: number(row, 1),
        e: number(row, 2),
        ts: number(row, 3),
        kind: row.get(4),
        u: row.get(5),
        id: row.get(6),
        h: row.get(7),
        edited: number(row, 8),
        gone: row.get(9),
        line: row.get::<_, Option<&str>>(10).map(|line| line.as_bytes().to_vec()),
    }
}
