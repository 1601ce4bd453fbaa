//! What outlives a restart: the journal, which makes an acknowledgement durable, and behind it the archive,
//! which people can open and search. Called by the engines; knows rooms only as names and entries.

pub mod archive;
pub mod committer;
pub mod cursors;
pub mod ids;
pub mod journal;
pub mod letters;
pub mod outgoing;
pub mod page;
pub mod place;
pub mod postgres;
pub mod record;
pub mod rooms;
pub mod sqlite;
pub mod verify;
pub mod words;
