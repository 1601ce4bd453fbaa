//! The archive in a PostgreSQL: the same behaviour as the one in a file, for a server that is alone with it
//! ([`PostgresArchive::open`], behind a journal) and for several nodes that share it
//! ([`PostgresArchive::open_shared`], behind their engine). All calls block, on threads of their own; after an outage
//! they work again by themselves. A thread that runs actors calls them through [`apart`]. Knows rooms only as names and entries; docs/store.md shows the tables.

pub mod address;
pub(super) mod books;
mod errors;
mod forgetting;
pub mod letters;
mod link;
mod notes;
mod outgoing;
mod pages;
mod reading;
mod rooms;
mod rows;
pub(super) mod schema;
mod tls;
mod words;
mod writing;

use std::fmt;
use std::time::Duration;

use crate::chat::entry::Entry;
use crate::store::archive::{
    Archive, ArchiveError, ArchiveReader, Forgotten, Keep, OpenError, Position, SharedArchive,
};
use crate::store::ids::IdKey;
use crate::store::outgoing::{Leaves, Leaving, Number, OutgoingReader, OutgoingWriter};
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::{Trouble, explain};
use crate::store::postgres::forgetting::Place;
use crate::store::postgres::link::{Link, Role, Session};
use crate::store::postgres::outgoing::PostgresOutgoing;
use crate::store::postgres::reading::PostgresReader;
use crate::store::postgres::writing::Hands;
use crate::store::record::{Item, Lsn, Record};
use crate::store::rooms::stored;

/// How long one transaction may take before its connection is given up.
const LIMIT: Duration = Duration::from_secs(40);

/// The writing side of a store.
pub struct PostgresArchive {
    link: Link,
    ids: IdKey,
    applied: Lsn,
    place: Place,
    /// Which entries are listed as they are written, because they leave; none: none.
    leaves: Option<Leaves>,
}

impl fmt::Debug for PostgresArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresArchive").field("url", self.link.url()).finish_non_exhaustive()
    }
}

impl PostgresArchive {
    /// Opens the store in this database for a server that is its only writer; makes the tables where there are
    /// none. Waits some seconds for a server before it to let go. In tables that were read in from a dump, the
    /// rooms begin a new life of their logs, once.
    pub fn open(url: &PostgresUrl) -> Result<PostgresArchive, OpenError> {
        PostgresArchive::open_as(url, Role::OnlyWriter)
    }

    /// Opens the store for one of several nodes.
    pub fn open_shared(url: &PostgresUrl) -> Result<PostgresArchive, OpenError> {
        PostgresArchive::open_as(url, Role::Writer)
    }

    fn open_as(url: &PostgresUrl, role: Role) -> Result<PostgresArchive, OpenError> {
        let mut link = Link::new(url.clone(), role);
        let opened = link.run(LIMIT, async |session| {
            schema::prepare(session, url).await?;
            if role == Role::OnlyWriter {
                begin_as_copy(session, url).await?;
            }
            Ok((schema::id_key(session).await?, schema::meta(session, "applied").await?))
        });
        let (ids, applied) =
            opened.map_err(|trouble| OpenError::of(trouble.is_away(), explain(url, "open", trouble)))?;
        Ok(PostgresArchive {
            link,
            ids,
            applied: applied.max(0) as Lsn,
            place: Place::Rooms(0),
            leaves: None,
        })
    }

    /// A reading side of its own, for another thread. It connects with its first question.
    pub fn new_reader(&self) -> Box<dyn ArchiveReader> {
        Box::new(PostgresReader::new(self.link.url().clone(), self.ids))
    }

    fn forget_step(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError> {
        let place = self.place;
        let stepped = self.link.run(LIMIT, async |session| {
            session.batch("BEGIN").await?;
            let stepped = forgetting::step(session, place, keep, now).await?;
            session.batch("COMMIT").await?;
            Ok(stepped)
        });
        let (forgotten, next) = stepped.map_err(|trouble| explain(self.link.url(), "forget in", trouble))?;
        self.place = next;
        Ok(forgotten)
    }
}

async fn begin_as_copy(session: &Session, url: &PostgresUrl) -> Result<(), Trouble> {
    session.batch("BEGIN").await?;
    if schema::is_copy(session).await? {
        rooms::begin_new_lives(session).await?;
        log::info!("the store {url} was read in from a copy: its rooms begin a new life of their logs");
    }
    session.batch("COMMIT").await
}

impl Archive for PostgresArchive {
    fn applied(&self) -> Lsn {
        self.applied
    }

    fn append(&mut self, items: &[Item]) -> Result<(), ArchiveError> {
        let (ids, had, leaves) = (self.ids, self.applied, self.leaves.as_ref());
        let done = self.link.run(LIMIT, async |session| {
            session.batch("BEGIN").await?;
            // Asked each time: what a broken connection has left undone is known only to the database.
            let there =
                session.row("SELECT value FROM meta WHERE key = 'applied' FOR NO KEY UPDATE", &[]).await?;
            let there = there.map_or(0, |row| row.get::<_, i64>(0).max(0) as Lsn);
            check_not_behind(there, had)?;
            let fresh = &items[items.partition_point(|item| item.lsn <= there)..];
            let Some(last) = fresh.last() else {
                session.batch("COMMIT").await?;
                return Ok((there, Vec::new()));
            };
            let records: Vec<&Record> = fresh.iter().map(|item| &item.record).collect();
            let warnings = writing::apply(session, ids, Hands::One, &records).await?;
            if let Some(leaves) = leaves {
                outgoing::list(session, leaves, fresh).await?;
            }
            session.execute("UPDATE meta SET value = $1 WHERE key = 'applied'", &[&stored(last.lsn)]).await?;
            session.batch("COMMIT").await?;
            Ok((last.lsn, warnings))
        });
        let (applied, warnings) = done.map_err(|trouble| explain(self.link.url(), "write to", trouble))?;
        self.applied = applied;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(())
    }

    /// Every commit was on disk before it was told (`synchronous_commit` is at least `on` for our connections).
    fn checkpoint(&mut self) -> Result<Lsn, ArchiveError> {
        Ok(self.applied)
    }

    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError> {
        self.forget_step(keep, now)
    }

    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError> {
        Ok(self.new_reader())
    }
}

impl OutgoingWriter for PostgresArchive {
    fn begin_outgoing(&mut self, leaving: Leaving) -> Result<Vec<Number>, ArchiveError> {
        let begun =
            self.link.run(outgoing::BEGIN_LIMIT, async |session| outgoing::begin(session, &leaving).await);
        let places = begun.map_err(|trouble| explain(self.link.url(), "write to", trouble))?;
        self.leaves = (!leaving.listeners.is_empty()).then_some(leaving.leaves);
        Ok(places)
    }

    fn note_outgoing(&mut self, upto: &[(String, Number)]) -> Result<(), ArchiveError> {
        let noted = self.link.run(LIMIT, async |session| outgoing::note(session, upto).await);
        noted.map_err(|trouble| explain(self.link.url(), "write to", trouble))
    }

    fn outgoing(&self) -> Result<Box<dyn OutgoingReader>, ArchiveError> {
        Ok(Box::new(PostgresOutgoing::new(self.link.url().clone())))
    }
}

/// A database can go back: a standby that lacked the last commits has taken over, or a copy was read in.
fn check_not_behind(there: Lsn, had: Lsn) -> Result<(), Trouble> {
    if there >= had {
        return Ok(());
    }
    Err(Trouble::told(format!(
        "the database has gone back: it had all records up to {had} and now has those up to {there}; start the \
         server again, it then fills from its journal what that still has"
    )))
}

impl SharedArchive for PostgresArchive {
    fn positions(&mut self) -> Result<Vec<(u16, Position)>, ArchiveError> {
        let read = self.link.run(LIMIT, async |session| {
            session.query("SELECT part, epoch, n FROM positions ORDER BY part", &[]).await
        });
        let rows = read.map_err(|trouble| explain(self.link.url(), "read", trouble))?;
        let position = |row: &tokio_postgres::Row| {
            let part = u16::try_from(row.get::<_, i32>(0)).ok()?;
            Some((part, Position { epoch: rooms::number(row, 1), n: rooms::number(row, 2) }))
        };
        Ok(rows.iter().filter_map(position).collect())
    }

    fn append_shared(
        &mut self,
        partition: u16,
        after: Position,
        upto: Position,
        entries: &[Entry],
    ) -> Result<bool, ArchiveError> {
        let ids = self.ids;
        let records: Vec<Record> = entries.iter().cloned().map(Record::Entry).collect();
        let done = self.link.run(LIMIT, async |session| {
            session.batch("BEGIN").await?;
            let stands = lock_position(session, partition).await?;
            if stands != after {
                session.batch("ROLLBACK").await?;
                // At the end already: an answer was lost on its way, and this is the same call again.
                return Ok((stands == upto, Vec::new()));
            }
            let sql = "UPDATE positions SET epoch = $2, n = $3 WHERE part = $1";
            session.execute(sql, &[&i32::from(partition), &stored(upto.epoch), &stored(upto.n)]).await?;
            let records: Vec<&Record> = records.iter().collect();
            let warnings = writing::apply(session, ids, Hands::Several, &records).await?;
            session.batch("COMMIT").await?;
            Ok((true, warnings))
        });
        let (ours, warnings) = done.map_err(|trouble| explain(self.link.url(), "write to", trouble))?;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(ours)
    }

    fn note(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        let ids = self.ids;
        if records.iter().any(|record| matches!(record, Record::Entry(_))) {
            return Err(ArchiveError("an entry is no note; give it to append_shared".into()));
        }
        let notes: Vec<&Record> = records.iter().collect();
        let done = self.link.run(LIMIT, async |session| {
            session.batch("BEGIN").await?;
            writing::apply(session, ids, Hands::Several, &notes).await?;
            session.batch("COMMIT").await
        });
        done.map_err(|trouble| explain(self.link.url(), "write to", trouble))
    }

    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError> {
        self.forget_step(keep, now)
    }

    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError> {
        Ok(self.new_reader())
    }
}

/// Where a partition stands, locked for this transaction; the zero position for one that is new.
async fn lock_position(session: &Session, partition: u16) -> Result<Position, Trouble> {
    let part = i32::from(partition);
    let sql = "INSERT INTO positions (part, epoch, n) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING";
    session.execute(sql, &[&part]).await?;
    let sql = "SELECT epoch, n FROM positions WHERE part = $1 FOR UPDATE";
    let row = session.row(sql, &[&part]).await?;
    Ok(row.map_or(Position::default(), |row| Position {
        epoch: rooms::number(&row, 0),
        n: rooms::number(&row, 1),
    }))
}

/// Does something on a thread of its own and waits for it. A thread that runs actors has a runtime already, and
/// cannot enter the one of a link.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
