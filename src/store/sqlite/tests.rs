//! The archive in SQLite, tried by itself; what it shares with other archives is tried by `tests/archives`.

mod backup;
mod files;
mod retention;
mod traces;

use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;

use crate::chat::entry::{Entry, Kind};
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::store::archive::{Answer, Archive, ArchiveReader, Question};
use crate::store::record::{Item, Lsn, Record};
use crate::store::sqlite::SqliteArchive;

/// A store in a folder of its own.
struct Store {
    folder: TempDir,
    archive: SqliteArchive,
    lsn: Lsn,
}

impl Store {
    fn new() -> Store {
        let folder = tempfile::tempdir().unwrap();
        let archive = SqliteArchive::open(&folder.path().join("data/roomcast.db")).unwrap();
        Store { folder, archive, lsn: 0 }
    }

    fn path(&self) -> PathBuf {
        self.archive.path().to_owned()
    }

    /// Numbers the records and applies them.
    fn put(&mut self, records: impl IntoIterator<Item = Record>) {
        let items = self.items(records);
        self.archive.append(&items).unwrap();
    }

    fn items(&mut self, records: impl IntoIterator<Item = Record>) -> Vec<Item> {
        let number = |record| {
            self.lsn += 1;
            Item { lsn: self.lsn, record, with_next: false }
        };
        records.into_iter().map(number).collect()
    }

    fn reader(&self) -> Box<dyn ArchiveReader> {
        self.archive.reader().unwrap()
    }

    fn ask(&self, question: &Question) -> Answer {
        self.reader().answer(question).unwrap()
    }

    /// Everything that the store's files hold.
    fn bytes(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.folder.path().join("data")).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    fn has(&self, text: &str) -> bool {
        self.bytes().windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Bytes of the main file.
    fn size(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }
}

fn room(name: &str) -> RoomName {
    RoomName::new(name).unwrap()
}

fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

/// An entry by ann; time is the offset in seconds.
fn entry(room_name: &str, offset: Offset, kind: Kind, of: Offset, words: &str) -> Entry {
    let (ts, word) = (offset * 1000, kind.word());
    let data = serde_json::to_string(words).unwrap();
    let about = if of > 0 { format!(",\"of\":{of}") } else { String::new() };
    Entry {
        room: room(room_name),
        epoch: Epoch(7),
        offset,
        ts,
        kind,
        user: Some(user("ann")),
        id: None,
        of,
        mark: None,
        off: false,
        line: Bytes::from(format!(
            r#"{{"t":"{word}","r":"{room_name}","s":{offset},"u":"ann","ts":{ts},"d":{data}{about}}}"#
        )),
    }
}

fn said(room_name: &str, offset: Offset, words: &str) -> Entry {
    entry(room_name, offset, Kind::Message, 0, words)
}

/// The offsets of an answer with entries.
fn offsets(answer: Answer) -> Vec<Offset> {
    let Answer::Entries { list, .. } = answer else { panic!("{answer:?} has no entries") };
    list.iter().map(|entry| entry.offset).collect()
}

fn find(room_name: &str, words: &str) -> Question {
    Question::Find { room: room(room_name), words: words.into(), before: u64::MAX, n: 100, bytes: 1 << 20 }
}

fn all_of(room_name: &str) -> Question {
    Question::Range { room: room(room_name), from: 1, to: u64::MAX, bytes: 1 << 30 }
}
