//! A part of a room's log on its way to who asked for it: at most so many entries and so many bytes of lines, one
//! entry at the least. The same for every archive.

use crate::store::archive::StoredEntry;

/// Some entries and whether there are more in the direction that was asked for.
pub type Page = (Vec<StoredEntry>, bool);

/// How much a page may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of lines; one entry at the least.
    pub bytes: usize,
}

/// A page that is being filled.
#[derive(Debug)]
pub struct Filling {
    /// What is on it.
    pub entries: Vec<StoredEntry>,
    /// Whether something did not fit.
    pub more: bool,
    bytes: usize,
    limits: Limits,
}

impl Filling {
    /// An empty one.
    pub fn new(limits: Limits) -> Filling {
        Filling { entries: Vec::new(), more: false, bytes: 0, limits }
    }

    /// Whether an entry with a line of so many bytes fits; the caller then pushes it. If not, the page is done.
    pub fn has_place_for(&mut self, line_bytes: usize) -> bool {
        self.bytes += line_bytes;
        let fits = self.entries.is_empty() || self.bytes <= self.limits.bytes;
        if self.entries.len() == self.limits.entries || !fits {
            self.more = true;
            return false;
        }
        true
    }

    /// Entries and bytes of lines that still fit.
    pub fn left(&self) -> (usize, usize) {
        let entries = self.limits.entries.saturating_sub(self.entries.len());
        (entries, self.limits.bytes.saturating_sub(self.bytes))
    }
}
