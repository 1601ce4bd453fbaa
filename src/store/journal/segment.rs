//! One file of the journal while records are added to it: made or reused, zeroed ahead, written and synced a
//! group at a time; later emptied. Used by the journal alone; knows bytes, no record.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Handle, is_full, write_all_at, write_zeros};
use super::frame;
use super::header::{Header, PAGE};
use crate::store::record::Lsn;

/// Most bytes of a segment in service.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// So much is zeroed ahead, so that a sync seldom has to write down a new length too: that would double its time.
pub(super) const STEP: u64 = 1 << 20;

/// The segment that is written.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Where the checksums of its records start.
    pub(super) seed: u32,
    handle: Box<dyn Handle>,
    /// Where the next record goes.
    end: u64,
    /// The file has so many bytes; from `end` on they are zero.
    len: u64,
    /// Most bytes of it, unless one group alone needs more.
    max: u64,
}

/// An empty file that can be used again.
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

impl Segment {
    /// A new durable file of at most `max` bytes (more if one group alone needs more). With `roomy` it fails as
    /// full unless a whole step can be zeroed ahead.
    pub(super) fn create(
        disk: &dyn Disk,
        path: PathBuf,
        header: Header,
        max: u64,
        roomy: bool,
    ) -> io::Result<Segment> {
        let handle = disk.create(&path)?;
        let end = PAGE as u64;
        let segment =
            Segment { path: path.clone(), header, seed: frame::seed(header.salt), handle, end, len: 0, max };
        let made = segment.begin(roomy).and_then(|segment| {
            disk.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
            Ok(segment)
        });
        if made.is_err() {
            // Nothing is in it. What cannot be removed now is seen as empty by the next opening.
            disk.remove(&path).ok();
        }
        made
    }

    /// Begins anew in an emptied file, durably. It has its room already.
    pub(super) fn reuse(disk: &dyn Disk, spare: Spare, header: Header, max: u64) -> io::Result<Segment> {
        let begun = disk.open(&spare.path).and_then(|handle| {
            let (path, seed, end) = (spare.path.clone(), frame::seed(header.salt), PAGE as u64);
            Segment { path, header, seed, handle, end, len: spare.len, max }.begin(false)
        });
        if begun.is_err() {
            // A file whose sync failed is not asked again.
            disk.remove(&spare.path).ok();
        }
        begun
    }

    /// Writes the header and the first zeros.
    fn begin(mut self, roomy: bool) -> io::Result<Segment> {
        write_all_at(&*self.handle, &self.header.page(), 0)?;
        self.len = self.len.max(PAGE as u64);
        let step = STEP.min(self.max);
        self.zero_ahead(step)?;
        if roomy && self.len < step {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.handle.sync()?;
        Ok(self)
    }

    /// Goes on in a file whose bytes from `end` to `len` are zero, as an opening has read. What it read is made
    /// durable, for the process before may have died between writing and syncing.
    pub(super) fn resume(
        disk: &dyn Disk,
        path: PathBuf,
        header: Header,
        (end, len): (u64, u64),
        max: u64,
    ) -> io::Result<Segment> {
        let handle = disk.open(&path)?;
        handle.sync()?;
        Ok(Segment { path, header, seed: frame::seed(header.salt), handle, end, len, max })
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Number of the first record that it can have.
    pub(super) fn start(&self) -> Lsn {
        self.header.start
    }

    /// Whether no record is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.end == PAGE as u64
    }

    /// Whether so many more bytes go in. An empty one takes any group.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.is_empty() || self.end + bytes as u64 <= self.max
    }

    /// Writes a group and makes it durable. After an error nothing more may be written here.
    pub(super) fn write_group(&mut self, group: &[u8]) -> io::Result<()> {
        write_all_at(&*self.handle, group, self.end)?;
        let end = self.end + group.len() as u64;
        if end > self.len {
            self.len = end;
            let left = self.max.saturating_sub(end).min(STEP);
            self.zero_ahead(end + left)?;
        }
        self.handle.sync()?;
        self.end = end;
        Ok(())
    }

    /// Writes zeros from the end of the file up to there. Near the end of the disk as many as go: without them
    /// a sync takes longer, that is all.
    fn zero_ahead(&mut self, to: u64) -> io::Result<()> {
        let (reached, result) = write_zeros(&*self.handle, self.len, to);
        self.len = self.len.max(reached);
        result.or_else(|error| if is_full(&error) { Ok(()) } else { Err(error) })
    }
}

/// Takes the words out of a file that is no longer needed: what stays is its header and zeros. `used`: where
/// its last record ends; `len`: the bytes of the file.
pub(super) fn wipe(disk: &dyn Disk, path: &Path, used: u64, len: u64) -> io::Result<Spare> {
    let handle = disk.open(path)?;
    // Cutting is cheaper than zeroing, and more than one step need not be kept.
    if len > STEP {
        handle.set_len(STEP)?;
    }
    let (_, result) = write_zeros(&*handle, PAGE as u64, used.min(STEP));
    result?;
    handle.sync()?;
    Ok(Spare { path: path.to_owned(), len: len.min(STEP) })
}
