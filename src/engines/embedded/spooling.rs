//! The spool beside the archive: both take the same records behind the journal, and the journal forgets none that one
//! of them lacks. So whatever is acknowledged is told to the backend, also if the process is killed between the two.

use std::path::Path;
use std::sync::Arc;

use crate::store::archive::{Archive, ArchiveError, ArchiveReader, Forgotten, Keep};
use crate::store::journal;
use crate::store::outgoing::{Leaving, Number, OutgoingReader, OutgoingWriter};
use crate::store::record::{Item, Lsn};
use crate::store::spool::Spool;

/// Says behind which record the journal is to be read, so that both get all that they lack. `applied` is how far the
/// archive is.
pub(super) fn begin(spool: &Spool, journal_dir: &Path, applied: Lsn) -> Result<Lsn, ArchiveError> {
    let Some(told) = spool.applied() else {
        // A new one tells what happens from now on.
        spool.begin_behind(applied)?;
        return Ok(applied);
    };
    // While hooks were off the journal may have forgotten what the archive had.
    let first = journal::first(journal_dir).map_err(|error| ArchiveError(error.to_string()))?;
    let told = first.map_or(applied, |first| told.max(first - 1));
    Ok(told.min(applied))
}

/// Gives the spool what it lacks of a journal up to its newest record, and ends the sessions of the process that wrote
/// it.
pub(super) fn catch_up(spool: &Spool, items: &[Item], newest: Lsn) -> Result<(), ArchiveError> {
    if spool.applied().is_some_and(|told| told > newest) {
        log::warn!(
            "hooks: the store is older than what was told of it, for example a copy that was put in its place; what \
             happens from now on is told"
        );
        spool.begin_behind(newest)?;
    }
    spool.append(items)?;
    let ended = spool.end_sessions()?;
    if ended > 0 {
        log::info!(
            "hooks: {ended} sessions ended with the process before this one; their on_close has the code 1006"
        );
    }
    Ok(())
}

/// An archive and the spool beside it.
pub(super) struct Spooled {
    archive: Box<dyn Archive>,
    spool: Arc<Spool>,
}

impl Spooled {
    /// Both, as far as [`begin`] and [`catch_up`] have brought them.
    pub(super) fn new(archive: Box<dyn Archive>, spool: Arc<Spool>) -> Spooled {
        Spooled { archive, spool }
    }
}

impl OutgoingWriter for Spooled {
    fn begin_outgoing(&mut self, leaving: Leaving) -> Result<Vec<Number>, ArchiveError> {
        self.archive.begin_outgoing(leaving)
    }

    fn note_outgoing(&mut self, upto: &[(String, Number)]) -> Result<(), ArchiveError> {
        self.archive.note_outgoing(upto)
    }

    fn outgoing(&self) -> Result<Box<dyn OutgoingReader>, ArchiveError> {
        self.archive.outgoing()
    }
}

impl Archive for Spooled {
    fn applied(&self) -> Lsn {
        self.archive.applied()
    }

    fn append(&mut self, items: &[Item]) -> Result<(), ArchiveError> {
        // Each skips what it has, so a try after an error of one of them doubles nothing in the other.
        self.spool.append(items)?;
        self.archive.append(items)
    }

    fn checkpoint(&mut self) -> Result<Lsn, ArchiveError> {
        let archived = self.archive.checkpoint()?;
        Ok(self.spool.sync()?.min(archived))
    }

    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Result<Forgotten, ArchiveError> {
        self.archive.forget(keep, now)
    }

    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError> {
        self.archive.reader()
    }
}
