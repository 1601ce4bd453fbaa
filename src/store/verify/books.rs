//! What a verification reads of an archive, whatever keeps it: all from one state of it. Called by the checks;
//! each kind of archive has its own way to give the rows.

use super::VerifyError;
use crate::store::ids::IdKey;

/// What reading gives.
pub type Result<T> = std::result::Result<T, VerifyError>;

/// An archive at one moment.
pub trait Books {
    /// Sees from now on the state that the archive has now; the number of the last record in it.
    fn begin(&self) -> Result<u64>;

    /// Sees the present again; the number of the last record now.
    fn end(&self) -> Result<u64>;

    /// What the keeper of the rows itself has found wrong in them.
    fn complaints(&self) -> Result<Vec<String>>;

    /// The key of the numbers that stand for ids.
    fn id_key(&self) -> Result<IdKey>;

    /// All rooms, by their numbers.
    fn rooms(&self, each: &mut dyn FnMut(RoomRow)) -> Result<()>;

    /// All entries, by room and offset.
    fn entries(&self, each: &mut dyn FnMut(EntryRow)) -> Result<()>;

    /// The entry at an offset of a room.
    fn entry_at(&self, room: i64, s: u64) -> Result<Option<EntryRow>>;

    /// Pairs of entries with one id of one user in one room.
    fn repeated_ids(&self, each: &mut dyn FnMut(Repeated)) -> Result<()>;

    /// Place and time of the newest entry with an id, whose number is given too.
    fn newest_of_id(
        &self,
        number: i64,
        room: i64,
        id: &str,
        user: Option<&str>,
    ) -> Result<Option<(u64, u64)>>;

    /// All messages, and whether the search index has words of them. Returns how many entries the index has words
    /// of that are no messages of the archive.
    fn words(&self, each: &mut dyn FnMut(WordsRow<'_>)) -> Result<u64>;
}

/// A room's row.
#[derive(Debug)]
pub struct RoomRow {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The present life of its log.
    pub epoch: u64,
    /// Newest offset.
    pub top: u64,
    /// Oldest offset that is kept.
    pub first: u64,
    /// All lives as they are written.
    pub lineage: String,
}

/// An entry's row.
#[derive(Debug)]
pub struct EntryRow {
    /// The number of its room.
    pub room: i64,
    /// Its offset.
    pub s: u64,
    /// The life of the log.
    pub e: u64,
    /// Unix milliseconds.
    pub ts: u64,
    /// `msg`, `edit`, `del` or `react`.
    pub kind: String,
    /// Who.
    pub u: Option<String>,
    /// The sender's own id.
    pub id: Option<String>,
    /// The number of the id.
    pub h: Option<i64>,
    /// Offset of the newest edit.
    pub edited: u64,
    /// Deleted or replaced.
    pub gone: bool,
    /// What readers get.
    pub line: Option<Vec<u8>>,
}

/// Two entries with one id.
#[derive(Debug)]
pub struct Repeated {
    /// Name of the room.
    pub room: String,
    /// Offset of the first.
    pub first: u64,
    /// Offset of the second.
    pub second: u64,
    /// The id.
    pub id: String,
    /// Milliseconds between them.
    pub apart: u64,
}

/// A message and the search index.
#[derive(Debug)]
pub struct WordsRow<'a> {
    /// Name of the room.
    pub room: &'a str,
    /// Its offset.
    pub s: u64,
    /// Whether it was deleted.
    pub gone: bool,
    /// What readers get.
    pub line: &'a [u8],
    /// Whether the index has words of it.
    pub indexed: bool,
}
