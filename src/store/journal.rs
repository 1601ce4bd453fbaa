//! The journal: what makes an acknowledgement durable. Owns the files of one folder; the committer's thread calls
//! it, and nobody else while it is open. Knows records as bytes with numbers; nothing of rooms, of the archive
//! or of who waits.
//!
//! A group of records is written with one `pwrite` and one `fdatasync` and is durable when [`Journal::append`]
//! returns. Records lie in segments of at most 64 MiB; each says with which number it starts, and that makes
//! everything from that number on in earlier segments void. So after a failed write the journal goes on in a
//! new segment ([`Journal::heal`]) and never syncs the old one again: after a failed `fsync` the kernel may have
//! dropped the pages and would call the next one fine.
//!
//! ```
//! use roomcast::store::journal::Journal;
//! use roomcast::store::record::{Item, Record};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let (mut journal, found) = Journal::open(folder.path(), 0).unwrap();
//! assert!(found.items.is_empty());
//! let item = Item { lsn: journal.next(), record: Record::DeadGone("d-1".into()), with_next: false };
//! journal.append(std::slice::from_ref(&item)).unwrap();
//! drop(journal);
//!
//! let (mut journal, found) = Journal::open(folder.path(), 0).unwrap();
//! assert_eq!((found.items, journal.next()), (vec![item], 2));
//! journal.free(1); // the archive has it
//! assert_eq!(journal.bytes(), 0);
//! ```

mod codec;
mod disk;
mod frame;
mod header;
mod opening;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::record::{Item, Lsn};
use disk::{Disk, RealDisk, is_full};
use header::Header;
use recovery::ENDING;
use segment::{SEGMENT_BYTES_MAX, Segment, Spare};

/// Why the journal could not do something, for people; ends with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalError {
    /// The disk is full, or this user's part of it.
    Full(String),
    /// Anything else.
    Io(String),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Full(why) | JournalError::Io(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for JournalError {}

impl JournalError {
    fn io(did: &str, path: &Path, error: &io::Error) -> JournalError {
        let path = path.display();
        if is_full(error) {
            return JournalError::Full(format!("cannot {did} {path} ({error}); make room on the disk"));
        }
        JournalError::Io(format!(
            "cannot {did} {path} ({error}); look after the disk and the folder's rights"
        ))
    }
}

/// What an opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The records after the number that was asked for, ascending; dense but for `lost`.
    pub items: Vec<Item>,
    /// What was cut or is damaged, each with its segment, byte and records; for the log and for people.
    pub notes: Vec<String>,
    /// Acknowledged records that cannot be read, from one number to another, both included.
    pub lost: Vec<(Lsn, Lsn)>,
}

/// Reads a journal without opening it: also while a server writes to it. Its newest records may be missing.
pub fn look(dir: &Path, after: Lsn) -> Result<Found, JournalError> {
    // A segment that is freed between listing and reading makes a second look necessary.
    let look = || recovery::read(dir, after).map(|recovered| recovered.found);
    look().or_else(|_| look()).or_else(|_| look())
}

/// Number of the oldest record that a journal may still have; none where there is no journal, or nothing in it.
pub fn first(dir: &Path) -> Result<Option<Lsn>, JournalError> {
    recovery::first(dir)
}

/// A segment that is written no more.
struct Sealed {
    path: PathBuf,
    last: Lsn,
    /// Behind its last byte that is not zero.
    end: u64,
    len: u64,
    /// Whether a sync of it has failed: then it is never opened again, only removed.
    failed: bool,
}

/// An open journal.
pub struct Journal {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    segment_bytes_max: u64,
    /// Held as long as the journal is open.
    _lock: File,
    /// None after a failure, until the journal is healed.
    current: Option<Segment>,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    spare: Option<Spare>,
    /// Number of the next record.
    next: Lsn,
    /// Number of the next segment.
    next_segment: u64,
    /// The archive has everything up to here.
    freed: Lsn,
    /// What is not freed, a group each: its last number and its bytes.
    unfreed: VecDeque<(Lsn, u64)>,
    bytes: u64,
    /// Deleted words stand in the current segment.
    scrub: bool,
    /// The bytes of a group; kept for its memory.
    group: Vec<u8>,
}

impl Journal {
    /// Opens the journal in a folder, which is made if need be, and reads the records after `after`. Refused
    /// while another process has it open.
    pub fn open(dir: &Path, after: Lsn) -> Result<(Journal, Found), JournalError> {
        Journal::open_on(Box::new(RealDisk), dir, after, SEGMENT_BYTES_MAX)
    }

    /// Number that the next record has to have.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Bytes of the records that are not freed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one group of records with dense numbers from [`Journal::next`] on. They are durable when it
    /// returns. After an error nothing of the group counts, and nothing more is taken until the journal is
    /// healed. The last item must not be one that is kept `with_next`.
    pub fn append(&mut self, items: &[Item]) -> Result<(), JournalError> {
        let Some(last) = items.last() else { return Ok(()) };
        debug_assert!(!last.with_next, "what belongs together comes in one group");
        if self.current.is_none() {
            return Err(JournalError::Io("the journal takes nothing until it is healed".to_owned()));
        }
        if items.iter().zip(self.next..).any(|(item, lsn)| item.lsn != lsn) {
            let (first, next) = (items[0].lsn, self.next);
            self.seal(true);
            return Err(JournalError::Io(format!(
                "records from {first} to {} came where dense ones from {next} on were due; this is a mistake in \
                 Roomcast, please report it",
                last.lsn
            )));
        }
        let written = self.write(items);
        match written {
            Ok(bytes) => {
                self.next = last.lsn + 1;
                self.unfreed.push_back((last.lsn, bytes));
                self.bytes += bytes;
            }
            Err(_) => self.seal(true),
        }
        written.map(|_| ())
    }

    fn write(&mut self, items: &[Item]) -> Result<u64, JournalError> {
        self.encode(items);
        if self.current.as_ref().is_some_and(|segment| !segment.has_room(self.group.len())) {
            let fresh = self.begin_segment(false)?;
            self.seal(false);
            self.current = Some(fresh);
            self.encode(items);
        }
        let segment = self.current.as_mut().expect("append has looked");
        let written = segment.write_group(&self.group);
        written.map_err(|error| JournalError::io("write", &segment.path, &error))?;
        Ok(self.group.len() as u64)
    }

    fn encode(&mut self, items: &[Item]) {
        let seed = self.current.as_ref().expect("append has looked").seed;
        self.group.clear();
        for item in items {
            frame::put(item, items[0].lsn, seed, &mut self.group);
        }
    }

    /// After a failure: goes on in a new segment. `next` must be the number of the first record that was not
    /// kept; whatever the failed write has left of it and of later ones is void from then on, also after a
    /// crash. Needs 1 MiB of room, so that it does not fail again with the next record.
    pub fn heal(&mut self, next: Lsn) -> Result<(), JournalError> {
        if next != self.next {
            return Err(JournalError::Io(format!(
                "the journal goes on with record {}, not {next}",
                self.next
            )));
        }
        let fresh = self.begin_segment(true)?;
        self.seal(false);
        self.current = Some(fresh);
        Ok(())
    }

    /// The archive has everything up to there, durably. Segments that are needed no more lose their words and
    /// are used again or removed.
    pub fn free(&mut self, upto: Lsn) {
        self.freed = self.freed.max(upto);
        while let Some((_, bytes)) = self.unfreed.front().filter(|(last, _)| *last <= self.freed) {
            self.bytes -= bytes;
            self.unfreed.pop_front();
        }
        self.sweep();
    }

    /// Something that stands in the journal was deleted: its words leave the disk as soon as the archive has all
    /// that stands beside it, with the next [`Journal::free`] at the latest that comes after that.
    pub fn scrub(&mut self) {
        self.scrub = true;
        self.sweep();
    }

    fn sweep(&mut self) {
        // Sealing waits for a free that reaches into the segment, so that many scrubs make one new segment.
        let reached = self.current.as_ref().is_some_and(|segment| segment.start() <= self.freed);
        if self.scrub && reached {
            self.part_with_words();
        }
        self.scrub &= self.current.as_ref().is_some_and(|segment| !segment.is_empty());
        while self.sealed.front().is_some_and(|sealed| sealed.last <= self.freed) {
            let sealed = self.sealed.pop_front().expect("it was just seen");
            if let Err(error) = self.retire(&sealed) {
                log::warn!("cannot take the words out of {} ({error}), trying again", sealed.path.display());
                self.sealed.push_front(sealed);
                break;
            }
        }
    }

    /// Seals the current segment while it is in order.
    fn part_with_words(&mut self) {
        if self.current.as_ref().is_none_or(Segment::is_empty) {
            return;
        }
        match self.begin_segment(false) {
            Ok(fresh) => {
                self.seal(false);
                self.current = Some(fresh);
            }
            Err(error) => log::warn!("deleted words stay in the journal for now: {error}"),
        }
    }

    fn retire(&mut self, sealed: &Sealed) -> io::Result<()> {
        if sealed.failed || self.spare.is_some() {
            return self.disk.remove(&sealed.path);
        }
        match segment::wipe(&*self.disk, &sealed.path, sealed.end, sealed.len) {
            Ok(spare) => {
                self.spare = Some(spare);
                Ok(())
            }
            Err(_) => self.disk.remove(&sealed.path),
        }
    }

    /// The current segment is written no more.
    fn seal(&mut self, failed: bool) {
        let Some(segment) = self.current.take() else { return };
        let (end, len, last) = (segment.end(), segment.len(), self.next - 1);
        self.sealed.push_back(Sealed { path: segment.path, last, end, len, failed });
    }

    fn begin_segment(&mut self, roomy: bool) -> Result<Segment, JournalError> {
        let number = self.next_segment;
        // Also after a failure the number is used up: something of it may stand on the disk.
        self.next_segment += 1;
        let max = self.segment_bytes_max;
        let header = Header { number, start: self.next, salt: rand::random() };
        let path = self.dir.join(format!("{number:016}.{ENDING}"));
        let (path, begun) = match self.spare.take() {
            Some(spare) => (spare.path.clone(), Segment::reuse(&*self.disk, spare, header, max)),
            None => (path.clone(), Segment::create(&*self.disk, path, header, max, roomy)),
        };
        begun.map_err(|error| JournalError::io("begin", &path, &error))
    }
}
