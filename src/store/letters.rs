//! The dead letters of a store for an operator's hands. Works beside a running server. Used by the command line.

use crate::store::archive::ArchiveError;
use crate::store::record::Letter;

/// The dead letters of one store.
pub trait Letters {
    /// The newest `n`, newest first.
    fn list(&mut self, n: usize) -> Result<Vec<Letter>, ArchiveError>;

    /// The ids of all, oldest first.
    fn ids(&mut self) -> Result<Vec<String>, ArchiveError>;

    /// The one with this id.
    fn show(&mut self, id: &str) -> Result<Option<Letter>, ArchiveError>;

    /// Forgets it; `false`: there is no such letter (any more).
    fn remove(&mut self, id: &str) -> Result<bool, ArchiveError>;
}
