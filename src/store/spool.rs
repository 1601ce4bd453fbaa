//! What an application's backend is still to be told: events in the order in which they happened, until it has taken
//! them, and those that it never will. Filled behind the journal with the same records as the archive, so that what was
//! acknowledged is told whatever happens to the process; emptied by whoever posts. A file of its own beside the store,
//! or memory where nothing is kept. Every call blocks, so no actor calls it on its thread.

pub mod letters;
mod lines;
mod tables;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::Notify;

use crate::chat::names::{Pattern, UserName};
use crate::clock;
use crate::store::archive::ArchiveError;
use crate::store::record::{Happened, Item, Lsn, Record, SessionEvent};
use crate::store::rooms::stored;
use crate::store::sqlite::errors::{Trouble, explain};

/// The close code of a session that ended with its server, or whose link was cut (RFC 6455, 7.4.1).
const CUT: u16 = 1006;
/// What stands for the file of a spool in memory.
const IN_MEMORY: &str = "in memory";

/// Which events are kept for the backend.
#[derive(Debug, Clone)]
pub struct Wants {
    /// Beginnings of sessions.
    pub opens: bool,
    /// Entries of rooms.
    pub messages: bool,
    /// Ends of sessions.
    pub closes: bool,
    /// Broken connections.
    pub errors: bool,
    /// The rooms whose entries are told.
    pub rooms: Vec<Pattern>,
    /// Most bytes of all that waits and has failed; above it the oldest goes.
    pub bytes_max: u64,
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in this spool: grows, and is never given again.
    pub n: i64,
    /// When it happened, Unix milliseconds.
    pub ts: u64,
    /// The event as a JSON object.
    pub body: String,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels {
    /// Events that wait.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Bytes of those that have failed.
    pub failed_bytes: u64,
    /// Events that were dropped in this process's life, because there were too many.
    pub dropped: u64,
}

/// See above.
pub struct Spool {
    path: PathBuf,
    wants: Wants,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    db: Connection,
    /// Names this spool in the ids of requests.
    id: String,
    /// Number of the last record that was taken; none for a new spool.
    applied: Option<Lsn>,
    levels: Levels,
    /// Changes when somebody else has written to the file.
    version: i64,
}

impl Spool {
    /// Opens the spool in a file; makes it where there is none.
    pub fn open(path: &Path, wants: Wants) -> Result<Spool, ArchiveError> {
        let explained = |trouble| explain(path, "open", trouble);
        let db = tables::open(path).map_err(explained)?;
        Spool::over(db, path, wants).map_err(|error| explained(error.into()))
    }

    /// A spool that ends with the process.
    pub fn in_memory(wants: Wants) -> Result<Spool, ArchiveError> {
        let path = Path::new(IN_MEMORY);
        let explained = |trouble| explain(path, "open", trouble);
        let db = tables::in_memory().map_err(explained)?;
        Spool::over(db, path, wants).map_err(|error| explained(error.into()))
    }

    fn over(db: Connection, path: &Path, wants: Wants) -> Result<Spool, rusqlite::Error> {
        let id = tables::text(&db, "id")?.unwrap_or_default();
        let applied = tables::number(&db, "applied")?.map(|n| n.max(0) as Lsn);
        let levels = tables::levels(&db)?;
        let version = tables::version(&db)?;
        let state = Mutex::new(State { db, id, applied, levels, version });
        Ok(Spool { path: path.to_owned(), wants, state, news: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a transaction has rolled it back; the levels are changed behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, what: &str, error: rusqlite::Error) -> ArchiveError {
        explain(&self.path, what, Trouble::Sql(error))
    }

    /// Number of the last record that was taken; none for a new spool, which begins wherever it is told to.
    pub fn applied(&self) -> Option<Lsn> {
        self.state().applied
    }

    /// Says behind which record this spool begins: a new one, or one whose records are of another life of the store.
    pub fn begin_behind(&self, lsn: Lsn) -> Result<(), ArchiveError> {
        let mut state = self.state();
        tables::put_number(&state.db, "applied", stored(lsn))
            .map_err(|error| self.explain("write to", error))?;
        state.applied = Some(lsn);
        Ok(())
    }

    /// Takes records with their numbers, all or none; those that it has are skipped.
    pub fn append(&self, items: &[Item]) -> Result<(), ArchiveError> {
        let mut state = self.state();
        let known = items.partition_point(|item| Some(item.lsn) <= state.applied);
        let fresh = &items[known..];
        let Some(last) = fresh.last() else { return Ok(()) };
        let records = fresh.iter().map(|item| &item.record);
        state.put(&self.wants, records, Some(last.lsn)).map_err(|error| self.explain("write to", error))?;
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    /// Takes records that have no numbers, because nothing keeps them.
    pub fn take(&self, records: &[Record]) -> Result<(), ArchiveError> {
        let put = self.state().put(&self.wants, records.iter(), None);
        put.map_err(|error| self.explain("write to", error))?;
        self.news.notify_one();
        Ok(())
    }

    /// Says of all sessions that are open that they have ended: those of a process before this one.
    pub fn end_sessions(&self) -> Result<usize, ArchiveError> {
        let mut state = self.state();
        let open = tables::open_sessions(&state.db).map_err(|error| self.explain("read", error))?;
        let ts = clock::wall_ms();
        let ended = |(session, user): (String, String)| {
            let user = UserName::new(&user).ok()?;
            Some(Record::Event(SessionEvent {
                session: session.into(),
                user,
                ts,
                what: Happened::Closed(CUT),
            }))
        };
        let ended: Vec<Record> = open.into_iter().filter_map(ended).collect();
        state.put(&self.wants, ended.iter(), None).map_err(|error| self.explain("write to", error))?;
        Ok(ended.len())
    }

    /// Makes what was taken survive a power cut. Returns the number up to which that is true.
    pub fn sync(&self) -> Result<Lsn, ArchiveError> {
        let applied = self.state().applied.unwrap_or(0);
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        // A commit writes the log without a sync; a checkpoint, which empties it, syncs both files. So a log that is
        // not there has nothing that is not in the main file.
        match File::open(&log).and_then(|log| log.sync_data()) {
            Ok(()) => Ok(applied),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(applied),
            Err(error) => Err(ArchiveError(format!(
                "cannot make {} durable: {error}; see the system's log",
                Path::new(&log).display()
            ))),
        }
    }

    /// How much there is now, and when the oldest event that waits happened (0: none waits).
    pub fn levels(&self) -> Result<(Levels, u64), ArchiveError> {
        let mut state = self.state();
        let mut look = || -> Result<u64, rusqlite::Error> {
            state.look_again()?;
            let sql = "SELECT ts FROM events ORDER BY n LIMIT 1";
            let oldest: Option<i64> =
                state.db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
            Ok(oldest.map_or(0, |ts| ts.max(0) as u64))
        };
        let oldest = look().map_err(|error| self.explain("read", error))?;
        Ok((state.levels, oldest))
    }

    /// Waits until something may have come. A letter that an operator has put back is not noticed so.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// The name of this spool: letters and digits.
    pub fn id(&self) -> String {
        self.state().id.clone()
    }

    /// The oldest events that wait: at most `most`, and at most `bytes` unless one alone has more. The same ones again,
    /// also after a restart, until they are taken or have failed; unless `most` has become less.
    pub fn next(&self, most: usize, bytes: usize) -> Result<Vec<Waiting>, ArchiveError> {
        let mut state = self.state();
        let next = state.look_again().and_then(|()| state.next(most, bytes));
        next.map_err(|error| self.explain("read", error))
    }

    /// The backend has all events up to a number.
    pub fn taken(&self, upto: i64) -> Result<(), ArchiveError> {
        self.state().forget(upto).map_err(|error| self.explain("write to", error))
    }

    /// Takes events, each with its time, that can never be posted: they are dead letters.
    pub fn bury(&self, events: &[(u64, String)], reason: &str) -> Result<(), ArchiveError> {
        let buried = self.state().bury(&self.wants, events, reason);
        buried.map_err(|error| self.explain("write to", error))
    }

    /// Events up to a number that happened before a time, Unix milliseconds, go among those that have failed. Returns
    /// how many.
    pub fn give_up(&self, upto: i64, before: u64, reason: &str) -> Result<usize, ArchiveError> {
        let failed = self.state().fail(upto, before, reason);
        failed.map_err(|error| self.explain("write to", error))
    }
}

impl State {
    /// Counts anew when an operator has put letters back or dropped some.
    fn look_again(&mut self) -> Result<(), rusqlite::Error> {
        let version = tables::version(&self.db)?;
        if version != self.version {
            self.levels = Levels { dropped: self.levels.dropped, ..tables::levels(&self.db)? };
            self.version = version;
        }
        Ok(())
    }

    fn put<'a>(
        &mut self,
        wants: &Wants,
        records: impl Iterator<Item = &'a Record>,
        applied: Option<Lsn>,
    ) -> Result<(), rusqlite::Error> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let mut levels = self.levels;
        for record in records {
            let Some((ts, body)) = note(&tx, wants, record)? else { continue };
            let sql = "INSERT INTO events (ts, bytes, body) VALUES (?1, ?2, ?3)";
            tx.prepare_cached(sql)?.execute((stored(ts), body.len() as i64, &body))?;
            levels.waiting += 1;
            levels.waiting_bytes += body.len() as u64;
        }
        make_room(&tx, wants.bytes_max, &mut levels)?;
        if let Some(applied) = applied {
            tables::put_number(&tx, "applied", stored(applied))?;
        }
        tx.commit()?;
        // The first, and then ever more seldom: it goes on for as long as the backend is away.
        if levels.dropped.checked_ilog2() != self.levels.dropped.checked_ilog2() {
            log::error!(
                "hooks: {} events were dropped so far, because more than hooks.spool_bytes wait for the backend",
                levels.dropped
            );
        }
        self.levels = levels;
        self.applied = applied.or(self.applied);
        Ok(())
    }

    fn bury(&mut self, wants: &Wants, events: &[(u64, String)], reason: &str) -> Result<(), rusqlite::Error> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let mut levels = self.levels;
        for (ts, body) in events {
            // 0: none of those that have waited here.
            let sql = "INSERT INTO failed (event, ts, reason, bytes, body) VALUES (0, ?1, ?2, ?3, ?4)";
            tx.prepare_cached(sql)?.execute((stored(*ts), reason, body.len() as i64, body))?;
            levels.failed_bytes += body.len() as u64;
        }
        make_room(&tx, wants.bytes_max, &mut levels)?;
        tx.commit()?;
        self.levels = levels;
        Ok(())
    }

    fn next(&mut self, most: usize, bytes_max: usize) -> Result<Vec<Waiting>, rusqlite::Error> {
        let border = tables::number(&self.db, "border")?;
        let sql = "SELECT n, ts, body FROM events WHERE n <= ?1 ORDER BY n LIMIT ?2";
        let mut list = self.db.prepare_cached(sql)?;
        let read =
            |upto: i64, list: &mut rusqlite::CachedStatement<'_>| -> Result<Vec<Waiting>, rusqlite::Error> {
                let mut rows = list.query((upto, i64::try_from(most).unwrap_or(i64::MAX)))?;
                let (mut found, mut bytes) = (Vec::new(), 0);
                while let Some(row) = rows.next()? {
                    let (ts, body): (i64, String) = (row.get(1)?, row.get(2)?);
                    bytes += body.len();
                    if bytes > bytes_max && !found.is_empty() {
                        break;
                    }
                    found.push(Waiting { n: row.get(0)?, ts: ts.max(0) as u64, body });
                }
                Ok(found)
            };
        let mut found = read(border.unwrap_or(i64::MAX), &mut list)?;
        if found.is_empty() && border.is_some() {
            // What stood before the border was dropped.
            found = read(i64::MAX, &mut list)?;
        }
        let Some(last) = found.last().map(|last| last.n) else { return Ok(found) };
        if border != Some(last) {
            tables::put_number(&self.db, "border", last)?;
        }
        Ok(found)
    }

    fn forget(&mut self, upto: i64) -> Result<(), rusqlite::Error> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let (n, bytes) = tables::sum_of_events(&tx, upto, u64::MAX)?;
        tx.prepare_cached("DELETE FROM events WHERE n <= ?1")?.execute([upto])?;
        tables::remove(&tx, "border")?;
        tx.commit()?;
        self.levels.waiting = self.levels.waiting.saturating_sub(n);
        self.levels.waiting_bytes = self.levels.waiting_bytes.saturating_sub(bytes);
        Ok(())
    }

    fn fail(&mut self, upto: i64, before: u64, reason: &str) -> Result<usize, rusqlite::Error> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let before_stored = i64::try_from(before).unwrap_or(i64::MAX);
        let (n, bytes) = tables::sum_of_events(&tx, upto, before)?;
        let sql = "INSERT INTO failed (event, ts, reason, bytes, body) \
                   SELECT n, ts, ?3, bytes, body FROM events WHERE n <= ?1 AND ts < ?2 ORDER BY n";
        tx.prepare_cached(sql)?.execute((upto, before_stored, reason))?;
        tx.prepare_cached("DELETE FROM events WHERE n <= ?1 AND ts < ?2")?.execute((upto, before_stored))?;
        if n > 0 {
            tables::remove(&tx, "border")?;
        }
        tx.commit()?;
        self.levels.waiting = self.levels.waiting.saturating_sub(n);
        self.levels.waiting_bytes = self.levels.waiting_bytes.saturating_sub(bytes);
        self.levels.failed_bytes += bytes;
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    }
}

/// Remembers which sessions are open. Returns the event that is to be told, if this is one.
fn note(db: &Connection, wants: &Wants, record: &Record) -> Result<Option<(u64, String)>, rusqlite::Error> {
    let event = match record {
        Record::Entry(entry) => {
            let is_told =
                wants.messages && wants.rooms.iter().any(|pattern| pattern.matches(entry.room.as_str()));
            return Ok(is_told.then(|| (entry.ts, lines::of_entry(entry))));
        }
        Record::Event(event) => event,
        _ => return Ok(None),
    };
    let is_told = match event.what {
        Happened::Opened(_) => {
            if wants.closes {
                tables::session_opened(db, &event.session, event.user.as_str())?;
            }
            wants.opens
        }
        Happened::Closed(_) => {
            tables::session_closed(db, &event.session)?;
            wants.closes
        }
        Happened::Failed(_) => wants.errors,
    };
    Ok(is_told.then(|| (event.ts, lines::of_session(event))))
}

/// Drops the oldest of what has failed, then the oldest of what waits, until the rest may stay. What waits leaves a
/// note among what has failed.
fn make_room(db: &Connection, bytes_max: u64, levels: &mut Levels) -> Result<(), rusqlite::Error> {
    let too_much = |levels: &Levels| levels.waiting_bytes + levels.failed_bytes > bytes_max;
    while too_much(levels)
        && let Some((n, bytes)) = tables::oldest_failed(db)?
    {
        db.prepare_cached("DELETE FROM failed WHERE n = ?1")?.execute([n])?;
        levels.failed_bytes = levels.failed_bytes.saturating_sub(bytes);
    }
    let dropped = levels.dropped;
    while too_much(levels)
        && let Some((n, bytes)) = tables::oldest_event(db)?
    {
        db.prepare_cached("DELETE FROM events WHERE n = ?1")?.execute([n])?;
        levels.waiting -= 1;
        levels.waiting_bytes = levels.waiting_bytes.saturating_sub(bytes);
        levels.dropped += 1;
    }
    if levels.dropped > dropped {
        tables::note_dropped(db, levels.dropped - dropped, clock::wall_ms())?;
    }
    Ok(())
}
