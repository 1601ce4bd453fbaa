//! What is on the disk: after a reopen, in the hands of people, and when it is something else.

use super::*;
use crate::store::archive::ArchiveError;
use crate::store::record::RoomRules;

fn refused(path: &std::path::Path) -> String {
    let ArchiveError(text) = SqliteArchive::open(path).unwrap_err();
    assert!(text.contains(&path.display().to_string()), "{text} names the file");
    text
}

#[test]
fn what_was_applied_is_there_after_a_reopen() {
    let mut store = Store::new();
    store.put([said("a", 1, "one"), said("a", 2, "two")].map(Record::Entry));
    store.archive = SqliteArchive::open(&store.path()).unwrap();
    assert_eq!(store.archive.applied(), 2);
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 2]);
    assert_eq!(offsets(store.ask(&find("a", "two"))), [2]);
}

#[test]
fn a_store_of_an_earlier_program_gets_what_it_lacks() {
    let mut store = Store::new();
    store.put([Record::Entry(said("a", 1, "one"))]);
    store.archive.db.execute_batch("DROP TABLE rules").unwrap();
    store.archive = SqliteArchive::open(&store.path()).unwrap();
    assert_eq!(store.ask(&Question::Rules), Answer::Rules(Vec::new()));
    let rules = |text: &str| RoomRules { room: room("a"), text: text.into(), version: 0 };
    store.put([rules(r#"{"slow":1}"#), rules(r#"{"slow":2}"#)].map(Record::Rules));
    store.archive = SqliteArchive::open(&store.path()).unwrap();
    assert_eq!(store.ask(&Question::Rules), Answer::Rules(vec![rules(r#"{"slow":2}"#)]));
    store.put([Record::Rules(rules(""))]);
    assert_eq!(store.ask(&Question::Rules), Answer::Rules(Vec::new()));
    assert_eq!(offsets(store.ask(&all_of("a"))), [1]);
}

#[test]
fn people_can_ask_the_views_and_search_all_rooms() {
    let mut store = Store::new();
    store.put(
        [said("a", 1, "one"), said("b", 1, "Invoice paid"), entry("b", 2, Kind::Delete, 1, "")]
            .map(Record::Entry),
    );
    store.put([Record::Entry(said("c", 1, "an invoice"))]);
    store.put([Record::Read(crate::store::record::ReadMark {
        room: room("b"),
        user: user("ann"),
        offset: 1,
        ts: 9,
    })]);
    let text = |sql: &str| -> String { store.archive.db.query_row(sql, [], |row| row.get(0)).unwrap() };
    let log = "SELECT group_concat(concat_ws(' ', room, s, time, kind, user, data, gone, id), ';') FROM log WHERE room < 'c'";
    assert_eq!(
        text(log),
        "a 1 1970-01-01 00:00:01.000 msg ann \"one\" 0;b 1 1970-01-01 00:00:01.000 msg ann null 1;\
         b 2 1970-01-01 00:00:02.000 del ann \"\" 0"
    );
    assert_eq!(text("SELECT concat_ws(' ', user, room, top, read, unread) FROM unread"), "ann b 2 1 1");
    let search = "SELECT group_concat(log.room) FROM words JOIN rooms ON rooms.id = words.rowid >> 35 \
                  JOIN log ON log.room = rooms.name AND log.s = words.rowid & 34359738367 \
                  WHERE words MATCH 'inv*'";
    assert_eq!(text(search), "c");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let text =
        "this is a text of somebody, longer than the header of an SQLite file; it must stay as it is.....";
    std::fs::write(&path, text).unwrap();
    assert!(refused(&path).contains("set store.url to another file"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    std::fs::remove_file(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE things (a); INSERT INTO things VALUES (1);").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    assert!(refused(&path).contains("of another program"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_store_and_a_damaged_one_are_refused() {
    let store = Store::new();
    store.archive.db.pragma_update(None, "user_version", 2).unwrap();
    assert!(refused(&store.path()).contains("newer Roomcast (schema 2"));
    store.archive.db.pragma_update(None, "user_version", 1).unwrap();
    let path = store.path();
    let Store { folder, archive, .. } = store;
    drop(archive);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..4096].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    assert!(refused(&path).contains("put a backup in its place"));
    drop(folder);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let ArchiveError(text) = SqliteArchive::open(&folder.path().join("file/x.db")).unwrap_err();
    assert!(text.contains("cannot create the folder") && text.contains("store.url"), "{text}");
    let ArchiveError(text) = SqliteArchive::open(folder.path()).unwrap_err();
    assert!(text.contains("see that the folder is there"), "{text}");
}

#[test]
fn records_can_be_given_again_after_an_error() {
    let mut store = Store::new();
    store.put([Record::Entry(said("a", 1, "one"))]);
    let pages: i64 = store.archive.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let set = |store: &Store, pages: i64| {
        store.archive.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap()
    };
    // As a disk that is full.
    set(&store, pages);
    let items = store.items((2..=3_000).map(|n| Record::Entry(said("a", n, "a few words to fill pages"))));
    let ArchiveError(text) = store.archive.append(&items).unwrap_err();
    assert!(text.contains("the disk is full; free some space"), "{text}");
    assert_eq!((store.archive.applied(), offsets(store.ask(&all_of("a")))), (1, vec![1]));
    set(&store, 1 << 30);
    store.archive.append(&items).unwrap();
    assert_eq!(offsets(store.ask(&all_of("a"))).len(), 3_000);
    assert_eq!(offsets(store.ask(&find("a", "fill"))).len(), 100);
}

#[test]
fn a_store_that_was_moved_away_takes_nothing_more() {
    let mut store = Store::new();
    store.put([Record::Entry(said("a", 1, "one"))]);
    let items = store.items([Record::Entry(said("a", 2, "two"))]);
    let (path, aside) = (store.path(), store.path().with_extension("aside"));
    std::fs::rename(&path, &aside).unwrap();
    for error in [store.archive.append(&items).unwrap_err(), store.archive.checkpoint().unwrap_err()] {
        assert!(error.0.contains("is gone") && error.0.contains("put it back"), "{error}");
    }
    std::fs::write(&path, "").unwrap();
    assert!(store.archive.append(&items).unwrap_err().0.contains("another file has taken the place"));
    std::fs::rename(&aside, &path).unwrap();
    store.archive.append(&items).unwrap();
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 2]);
}
