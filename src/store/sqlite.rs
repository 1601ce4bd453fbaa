//! The archive of the embedded store: one SQLite file that people can open. One thread writes, by
//! [`SqliteArchive`]; any number of threads read, each with a connection of its own. Both block, so no actor
//! calls them. Knows rooms only as names and entries; docs/store.md shows the tables.

pub mod backup;
pub(super) mod errors;
mod forgetting;
pub mod letters;
mod notes;
mod outgoing;
mod pages;
mod reading;
mod rooms;
pub(super) mod schema;
mod scrubbing;
#[cfg(test)]
mod tests;
pub(super) mod words;
mod writing;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::archive::{Archive, ArchiveError, ArchiveReader, Forgotten, Keep};
use crate::store::ids::IdKey;
use crate::store::outgoing::{Leaves, Leaving, Number, OutgoingReader, OutgoingWriter};
use crate::store::record::{Item, Lsn};
use crate::store::rooms::stored;
use crate::store::sqlite::errors::{Trouble, explain};
use crate::store::sqlite::forgetting::Round;
use crate::store::sqlite::outgoing::SqliteOutgoing;
use crate::store::sqlite::reading::SqliteReader;
use crate::store::sqlite::rooms::Rooms;
use crate::store::sqlite::scrubbing::Scrub;
use crate::store::sqlite::writing::{Batch, Done};

/// How long a checkpoint waits for readers before it goes the other way.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(200);
/// Above so many frames the log is copied into the main file (64 MiB), if nobody has asked for a checkpoint before. The
/// same leaf is written again and again; the later it is copied, the less often.
const LOG_FRAMES_HIGH: u64 = 16 << 10;
/// Above so many bytes of log somebody is told that a reader holds it up.
const LOG_BYTES_HIGH: u64 = 512 << 20;

/// The writing side of a store.
#[derive(Debug)]
pub struct SqliteArchive {
    path: PathBuf,
    db: Connection,
    ids: IdKey,
    rooms: Rooms,
    applied: Lsn,
    round: Round,
    /// Which entries are listed as they are written, because they leave; none: none.
    leaves: Option<Leaves>,
    /// Words were blanked, and older pages with them may still be in the log file.
    blanked: bool,
    /// What of the log has to be looked at before it is copied.
    scrub: Scrub,
    /// The log has been told to be long.
    told_long: bool,
    /// Which file it is, to see when somebody moves it away.
    file: FileId,
}

impl SqliteArchive {
    /// Opens the store in this file; makes file and folder where there are none. Takes a few milliseconds for
    /// any size. In a copy made by [`backup::copy`] the rooms begin a new life of their logs, once.
    pub fn open(path: &Path) -> Result<SqliteArchive, ArchiveError> {
        let db = schema::open_writer(path)?;
        let restored = begin_as_copy(&db).map_err(|error| explain(path, "write to", error.into()))?;
        if restored {
            log::info!("the store {} is a copy: its rooms begin a new life of their logs", path.display());
        }
        let loaded = || -> Result<(IdKey, Lsn), rusqlite::Error> {
            Ok((schema::id_key(&db)?, schema::meta(&db, "applied")?.max(0) as Lsn))
        };
        let (ids, applied) = loaded().map_err(|error| explain(path, "read", error.into()))?;
        let scrub = Scrub::new(&db).map_err(|error| explain(path, "read", error.into()))?;
        let file = FileId::of(path)?;
        Ok(SqliteArchive {
            path: path.to_owned(),
            db,
            ids,
            rooms: Rooms::default(),
            applied,
            round: Round::default(),
            leaves: None,
            // What a crash has left in the log goes with the first checkpoint.
            blanked: true,
            scrub,
            told_long: false,
            file,
        })
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn apply(&mut self, items: &[Item], last: Lsn) -> Result<Done, Trouble> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let done = Batch::new(&tx, &mut self.rooms, self.ids).listing(self.leaves.as_ref()).apply(items)?;
        tx.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'applied'")?.execute([stored(last)])?;
        tx.commit()?;
        Ok(done)
    }

    /// Brings the log into the main file as far as readers allow; before that it clears what pages have in their unused
    /// parts. Returns whether all of it is there, and the log file empty, if that was wanted.
    fn bring_log_over(&mut self, emptied: bool) -> Result<bool, Trouble> {
        self.learn()?;
        self.scrub.clear(&self.db)?;
        Ok(self.copy_log(emptied)?)
    }

    fn learn(&mut self) -> Result<u64, Trouble> {
        let log = self.log_path();
        self.scrub.learn(&log).map_err(|error| {
            Trouble::told(format!("cannot read {}: {error}; see the system's log", log.display()))
        })
    }

    /// Does not wait for a checkpoint that nobody asks for, and for no reader: it comes after every batch while one holds up
    /// the log. An error comes again at the next checkpoint.
    fn keep_log_short(&mut self) {
        let shortened = self.learn().and_then(|frames| match frames {
            LOG_FRAMES_HIGH.. => self.bring_log_over(false),
            _ => Ok(true),
        });
        if let Err(trouble) = shortened {
            log::warn!("{}", explain(&self.path, "checkpoint", trouble));
        }
    }

    /// Copies the log into the main file. Returns whether all of it is there and the log file is empty, if that
    /// was wanted.
    fn copy_log(&self, emptied: bool) -> Result<bool, rusqlite::Error> {
        let mode = if emptied { "TRUNCATE" } else { "PASSIVE" };
        self.db.busy_timeout(CHECKPOINT_WAIT)?;
        let told = self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
            let (busy, frames, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(busy == 0 && frames == copied)
        });
        self.db.busy_timeout(schema::BUSY_TIMEOUT)?;
        told
    }

    fn log_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// Readers hold up the copying. Makes the log file itself durable instead.
    fn keep_log(&mut self) -> Result<(), ArchiveError> {
        let path = self.log_path();
        let kept = File::open(&path).and_then(|log| {
            log.sync_data()?;
            log.metadata().map(|meta| meta.len())
        });
        let bytes = kept.map_err(|error| {
            ArchiveError(format!(
                "cannot make {} durable: {error}; it belongs to the store: put it back if it was moved, else see \
                 the system's log",
                path.display()
            ))
        })?;
        if bytes > LOG_BYTES_HIGH && !self.told_long {
            self.told_long = true;
            log::warn!(
                "{} has {} MiB, because somebody has been reading the store for long; end that program, for \
                 example an open sqlite3",
                path.display(),
                bytes >> 20
            );
        }
        Ok(())
    }
}

/// Whether the store was a copy; it is one no more.
fn begin_as_copy(db: &Connection) -> Result<bool, rusqlite::Error> {
    if !schema::is_copy(db)? {
        return Ok(false);
    }
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    rooms::begin_new_lives(&tx)?;
    schema::set_copy(&tx, false)?;
    tx.commit()?;
    Ok(true)
}

impl Archive for SqliteArchive {
    fn applied(&self) -> Lsn {
        self.applied
    }

    fn append(&mut self, items: &[Item]) -> Result<(), ArchiveError> {
        let known = items.partition_point(|item| item.lsn <= self.applied);
        let fresh = &items[known..];
        let Some(last) = fresh.last() else { return Ok(()) };
        self.file.check(&self.path)?;
        match self.apply(fresh, last.lsn) {
            Ok(done) => {
                self.applied = last.lsn;
                self.blanked |= done.blanked;
                done.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                self.keep_log_short();
                Ok(())
            }
            Err(trouble) => {
                // The transaction is taken back as a whole; what memory says of its rooms goes too, so that
                // the same records can be given again.
                self.rooms.clear();
                Err(explain(&self.path, "write to", trouble))
            }
        }
    }

    /// Why the answer is true, with `synchronous = NORMAL`: a commit writes the log without a sync, so a power
    /// cut may take it back (<https://www.sqlite.org/pragma.html#pragma_synchronous>). A checkpoint first syncs
    /// the log, then copies it into the main file, then syncs that
    /// (<https://www.sqlite.org/wal.html#performance_considerations>); when it reports that all frames are
    /// copied, everything committed is in the main file. When a reader needs an older state, only the frames
    /// before it are copied; then we sync the log file ourselves. After a crash SQLite reads the log up to the
    /// last whole commit with right checksums (<https://www.sqlite.org/fileformat2.html#walformat>), so synced
    /// commits are found again. Locks are on the file `-shm` and on the main file, none on the log, so opening
    /// and closing the log once more takes no lock away (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
    fn checkpoint(&mut self) -> Result<Lsn, ArchiveError> {
        self.file.check(&self.path)?;
        let upto = self.applied;
        let copied = self
            .bring_log_over(self.blanked)
            .map_err(|trouble| explain(&self.path, "checkpoint", trouble))?;
        if copied {
            self.blanked = false;
            self.told_long = false;
        } else {
            self.keep_log()?;
        }
        Ok(upto)
    }

    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError> {
        self.file.check(&self.path)?;
        let step = self.round.step(&self.db, keep, now);
        let step = step.map_err(|trouble| explain(&self.path, "forget in", trouble))?;
        self.blanked |= step.blanked;
        step.forgotten.rooms.iter().for_each(|(room, _)| self.rooms.forget(room));
        Ok(step.forgotten)
    }

    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError> {
        Ok(Box::new(SqliteReader::open(&self.path)?))
    }
}

impl OutgoingWriter for SqliteArchive {
    fn begin_outgoing(&mut self, leaving: Leaving) -> Result<Vec<Number>, ArchiveError> {
        let places = outgoing::begin(&self.db, &leaving)
            .map_err(|trouble| explain(&self.path, "write to", trouble))?;
        self.leaves = (!leaving.listeners.is_empty()).then_some(leaving.leaves);
        Ok(places)
    }

    fn note_outgoing(&mut self, upto: &[(String, Number)]) -> Result<(), ArchiveError> {
        self.file.check(&self.path)?;
        outgoing::note(&self.db, upto).map_err(|trouble| explain(&self.path, "write to", trouble))
    }

    fn outgoing(&self) -> Result<Box<dyn OutgoingReader>, ArchiveError> {
        Ok(Box::new(SqliteOutgoing::open(&self.path)?))
    }
}

/// Which file a path names. SQLite goes on writing to a file that was deleted or moved away; nobody would find
/// those entries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(path: &Path) -> Result<FileId, ArchiveError> {
        FileId::read(path).map_err(|error| {
            ArchiveError(format!(
                "the store {} is gone ({error}); put it back in its place, or start the server again",
                path.display()
            ))
        })
    }

    #[cfg(unix)]
    fn read(path: &Path) -> io::Result<FileId> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path)?;
        Ok(FileId(meta.dev(), meta.ino()))
    }

    // An open file can be neither moved nor deleted there.
    #[cfg(not(unix))]
    fn read(_: &Path) -> io::Result<FileId> {
        Ok(FileId(0, 0))
    }

    fn check(self, path: &Path) -> Result<(), ArchiveError> {
        if FileId::of(path)? == self {
            return Ok(());
        }
        Err(ArchiveError(format!(
            "another file has taken the place of the store {} while the server was running; start the server \
             again",
            path.display()
        )))
    }
}
