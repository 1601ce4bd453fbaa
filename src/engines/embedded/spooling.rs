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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::names::UserName;
    use crate::store::journal::Journal;
    use crate::store::record::{Happened, Record, SessionEvent};
    use crate::store::spool::Wants;

    fn spool(folder: &Path) -> Spool {
        let wants = Wants {
            opens: false,
            messages: false,
            closes: true,
            errors: false,
            rooms: Vec::new(),
            bytes_max: 1 << 20,
        };
        Spool::open(&folder.join("hooks.db"), wants).unwrap()
    }

    /// Records of sessions that end, one each.
    fn items(numbers: std::ops::RangeInclusive<Lsn>) -> Vec<Item> {
        let item = |lsn| {
            let (session, user) = (format!("s-{lsn}").into(), UserName::new("ann").unwrap());
            let event = SessionEvent { session, user, ts: lsn, what: Happened::Closed(1000) };
            Item { lsn, record: Record::Event(event), with_next: false }
        };
        numbers.map(item).collect()
    }

    fn told(spool: &Spool) -> Vec<u64> {
        spool.next(100, usize::MAX).unwrap().iter().map(|event| event.ts).collect()
    }

    #[test]
    fn what_the_archive_had_before_a_kill_and_the_spool_had_not_is_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&dir, 0).unwrap();
        journal.append(&items(1..=5)).unwrap();
        drop(journal);
        let first = spool(folder.path());
        first.begin_behind(0).unwrap();
        first.append(&items(1..=2)).unwrap();
        drop(first);
        // The archive has four, the spool two, the journal five.
        let spool = spool(folder.path());
        let after = begin(&spool, &dir, 4).unwrap();
        assert_eq!(after, 2);
        let (journal, found) = Journal::open(&dir, after).unwrap();
        catch_up(&spool, &found.items, journal.next() - 1).unwrap();
        assert_eq!(told(&spool), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_new_spool_begins_where_the_archive_is() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path());
        assert_eq!(begin(&spool, &folder.path().join("journal"), 7), Ok(7));
        assert_eq!(spool.applied(), Some(7));
    }

    #[test]
    fn a_spool_of_a_later_time_than_the_store_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path());
        spool.begin_behind(100).unwrap();
        let dir = folder.path().join("journal");
        let after = begin(&spool, &dir, 3).unwrap();
        assert_eq!(after, 3, "nothing before what the archive has is looked for");
        catch_up(&spool, &[], 3).unwrap();
        spool.append(&items(4..=4)).unwrap();
        assert_eq!(told(&spool), [4]);
    }

    #[test]
    fn what_the_journal_forgot_while_hooks_were_off_is_not_called_damage() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("journal");
        // A journal that begins behind what an earlier one had.
        let (mut journal, _) = Journal::open(&dir, 50).unwrap();
        journal.append(&items(51..=52)).unwrap();
        drop(journal);
        let spool = spool(folder.path());
        spool.begin_behind(10).unwrap();
        let after = begin(&spool, &dir, 52).unwrap();
        let (journal, found) = Journal::open(&dir, after).unwrap();
        assert!(found.lost.is_empty(), "{:?}", found.notes);
        catch_up(&spool, &found.items, journal.next() - 1).unwrap();
        assert_eq!(told(&spool), [51, 52]);
    }
}
