//! What every archive is judged by: entries to write, questions to ask, a plain model, and stories. Used by the
//! tests of each archive.

pub mod chance;
pub mod leaving;
pub mod model;
pub mod retention;
pub mod stories;

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::{MessageId, RoomName, UserName};
use roomcast::store::archive::{Answer, Archive, ArchiveReader, Question};
use roomcast::store::record::{Item, Lsn, Record};

/// Where an archive keeps what it has.
pub trait Home {
    /// Opens it. Only one is open at a time.
    fn open(&self) -> Box<dyn Archive>;
}

/// An archive in a home of its own.
pub struct Stage {
    // Before its home: it ends first.
    archive: Option<Box<dyn Archive>>,
    home: Box<dyn Home>,
    pub lsn: Lsn,
}

impl Stage {
    pub fn new(home: impl Home + 'static) -> Stage {
        Stage { archive: Some(home.open()), home: Box::new(home), lsn: 0 }
    }

    pub fn archive(&mut self) -> &mut dyn Archive {
        self.archive.as_mut().unwrap().as_mut()
    }

    /// Ends the archive and opens it again.
    pub fn reopen(&mut self) {
        self.archive = None;
        self.archive = Some(self.home.open());
    }

    /// Numbers the records and applies them.
    pub fn put(&mut self, records: impl IntoIterator<Item = Record>) {
        let items = self.items(records);
        self.archive().append(&items).unwrap();
    }

    /// Numbers the records.
    pub fn items(&mut self, records: impl IntoIterator<Item = Record>) -> Vec<Item> {
        let number = |record| {
            self.lsn += 1;
            Item { lsn: self.lsn, record, with_next: false }
        };
        records.into_iter().map(number).collect()
    }

    pub fn reader(&self) -> Box<dyn ArchiveReader> {
        self.archive.as_ref().unwrap().reader().unwrap()
    }

    pub fn ask(&self, question: &Question) -> Answer {
        self.reader().answer(question).unwrap()
    }
}

pub fn room(name: &str) -> RoomName {
    RoomName::new(name).unwrap()
}

pub fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

/// An entry by ann; time is the offset in seconds.
pub fn entry(room_name: &str, offset: Offset, kind: Kind, of: Offset, words: &str) -> Entry {
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

pub fn said(room_name: &str, offset: Offset, words: &str) -> Entry {
    entry(room_name, offset, Kind::Message, 0, words)
}

pub fn with_id(mut entry: Entry, id: &str) -> Entry {
    entry.id = Some(MessageId::new(id).unwrap());
    entry
}

/// The offsets of an answer with entries.
pub fn offsets(answer: Answer) -> Vec<Offset> {
    let Answer::Entries { list, .. } = answer else { panic!("{answer:?} has no entries") };
    list.iter().map(|entry| entry.offset).collect()
}

pub fn find(room_name: &str, words: &str) -> Question {
    Question::Find { room: room(room_name), words: words.into(), before: u64::MAX, n: 100, bytes: 1 << 20 }
}

pub fn all_of(room_name: &str) -> Question {
    Question::Range { room: room(room_name), from: 1, to: u64::MAX, bytes: 1 << 30 }
}

/// Makes a test of every story, each on a stage of its own.
macro_rules! every_story {
    ($stage:expr) => {
        $crate::common::tests_of! { $stage; stories:
            every_answer_is_that_of_a_plain_model,
            what_was_applied_is_there_after_a_reopen,
            a_hole_is_kept_as_a_hole_and_can_be_filled,
            another_entry_at_a_place_that_is_taken_is_an_error,
            an_id_is_found_at_its_place_and_in_its_room_only,
            readers_always_see_whole_transactions,
            what_comes_and_goes_in_one_transaction_was_never_found,
            long_pages_come_whole,
            a_word_is_found_far_back_and_in_its_room_only,
            nothing_that_is_typed_is_syntax,
        }
        $crate::common::tests_of! { $stage; retention:
            entries_go_by_age_and_a_room_never_gives_an_offset_twice,
            a_pinned_entry_stays_whatever_its_age,
            entries_go_by_bytes_of_a_room,
            what_hangs_on_forgotten_entries_goes_with_them,
            many_rooms_are_walked_in_steps_and_each_is_seen,
        }
        $crate::common::tests_of! { $stage; leaving:
            what_leaves_is_listed_until_all_have_it,
            a_listener_from_the_first_gets_what_is_there,
            what_a_room_forgets_stays_listed_without_its_words,
            numbers_that_come_again_leave_again,
            without_listeners_nothing_is_listed,
        }
    };
}

macro_rules! tests_of {
    ($stage:expr; $module:ident: $($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            $crate::common::$module::$name($stage);
        })*
    };
}

pub(crate) use {every_story, tests_of};
