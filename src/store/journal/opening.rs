//! How a journal is opened: the folder and its lock, what recovery has found, and where the writing goes on. A part of
//! the journal, apart because it runs once.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::header::PAGE;
use super::recovery::{self, OldSegment};
use super::segment::Segment;
use super::{Found, Journal, JournalError, Sealed};
use crate::store::record::Lsn;

impl Journal {
    pub(super) fn open_on(
        disk: Box<dyn Disk>,
        dir: &Path,
        after: Lsn,
        segment_bytes_max: u64,
    ) -> Result<(Journal, Found), JournalError> {
        make_folder(&*disk, dir)?;
        let lock = lock(dir)?;
        let recovered = recovery::read(dir, after)?;
        let mut journal = Journal {
            dir: dir.to_owned(),
            disk,
            segment_bytes_max,
            _lock: lock,
            current: None,
            sealed: VecDeque::new(),
            spare: None,
            next: recovered.next,
            next_segment: recovered.segments.last().map_or(0, |segment| segment.header.number) + 1,
            freed: 0,
            unfreed: VecDeque::new(),
            bytes: 0,
            scrub: false,
            group: Vec::new(),
        };
        let mut found = recovered.found;
        journal.tidy(&recovered.blank, &recovered.unreadable, &mut found)?;
        journal.take_over(recovered.segments)?;
        Ok((journal, found))
    }

    /// Files without a header: empty ones go, damaged ones step aside for people to look at.
    fn tidy(&self, blank: &[PathBuf], unreadable: &[PathBuf], found: &mut Found) -> Result<(), JournalError> {
        for path in blank {
            self.disk.remove(path).map_err(|error| JournalError::io("remove", path, &error))?;
        }
        for path in unreadable {
            let aside = path.with_extension("damaged");
            fs::rename(path, &aside).map_err(|error| JournalError::io("rename", path, &error))?;
            found.notes.push(format!("it is now {}; remove it when it is of no more use", aside.display()));
        }
        Ok(())
    }

    /// Goes on where the process before has ended.
    fn take_over(&mut self, segments: Vec<OldSegment>) -> Result<(), JournalError> {
        let count = segments.len();
        for (at, old) in segments.into_iter().enumerate() {
            let used = old.end - PAGE as u64;
            if used > 0 {
                self.unfreed.push_back((old.last, used));
                self.bytes += used;
            }
            let is_last = at + 1 == count;
            if is_last && old.clean && old.last + 1 == self.next && old.end < self.segment_bytes_max {
                let path = old.path.clone();
                let resumed = Segment::resume(
                    &*self.disk,
                    old.path,
                    old.header,
                    (old.end, old.len),
                    self.segment_bytes_max,
                )
                .map_err(|error| JournalError::io("write", &path, &error))?;
                self.current = Some(resumed);
                continue;
            }
            self.sealed.push_back(Sealed {
                path: old.path,
                last: old.last,
                end: old.len,
                len: old.len,
                failed: false,
            });
        }
        if self.current.is_none() {
            self.current = Some(self.begin_segment(false)?);
        }
        Ok(())
    }
}

fn make_folder(disk: &dyn Disk, dir: &Path) -> Result<(), JournalError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(dir).and_then(|()| match dir.parent() {
        Some(parent) if parent != Path::new("") => disk.sync_folder(parent),
        _ => disk.sync_folder(Path::new(".")),
    });
    made.map_err(|error| JournalError::io("make", dir, &error))
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|error| JournalError::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Io(format!(
            "another process has the journal in {} open; stop it, or give this one a store of its own",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(JournalError::io("lock", &path, &error)),
    }
}
