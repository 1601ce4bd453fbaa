use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::archive::ArchiveError;

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

#[test]
fn a_hole_is_kept_as_a_hole_and_can_be_filled() {
    let mut store = Store::new();
    store.put([said("a", 1, "one"), said("a", 4, "four")].map(Record::Entry));
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 4]);
    let since = |ts| store.ask(&Question::Since { room: room("a"), ts });
    assert_eq!(
        (since(1_500), since(4_000), since(4_001)),
        (Answer::Offset(4), Answer::Offset(4), Answer::Offset(5))
    );
    store.put([Record::Entry(said("a", 3, "three"))]);
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 3, 4]);
    assert_eq!(offsets(store.ask(&find("a", "three"))), [3]);
}

#[test]
fn another_entry_at_a_place_that_is_taken_is_an_error() {
    let mut store = Store::new();
    store.put([said("a", 1, "one"), said("a", 2, "two")].map(Record::Entry));
    store.put([Record::Entry(said("a", 1, "one"))]);
    store.put([Record::Entry(entry("a", 3, Kind::Delete, 2, ""))]);
    store.put([Record::Entry(said("a", 2, "two"))]);
    assert_eq!(
        offsets(store.ask(&all_of("a"))),
        [1, 2, 3],
        "repeats are known, also of what was deleted since"
    );
    let items = store.items([Record::Entry(said("a", 1, "something else"))]);
    let ArchiveError(text) = store.archive.append(&items).unwrap_err();
    assert!(text.contains("room a has another entry at offset 1"), "{text}");
}

#[test]
fn an_id_is_found_at_its_place_and_in_its_room_only() {
    let mut store = Store::new();
    store.put([with_id(said("a", 1, "x"), "k1"), with_id(said("b", 1, "x"), "k1")].map(Record::Entry));
    let id = |room_name: &str, who: Option<&str>| {
        let (user, id) = (who.map(user), MessageId::new("k1").unwrap());
        let Answer::Place(place) = store.ask(&Question::Id { room: room(room_name), user, id }) else {
            panic!("another answer")
        };
        place.map(|place| place.offset)
    };
    assert_eq!((id("a", Some("ann")), id("b", Some("ann"))), (Some(1), Some(1)));
    assert_eq!((id("a", Some("bob")), id("a", None), id("c", Some("ann"))), (None, None, None));
}

#[test]
fn readers_always_see_whole_transactions() {
    let mut store = Store::new();
    store.put((1..=10).map(|n| Record::Entry(said("a", n, "word"))));
    let done = AtomicBool::new(false);
    let readers: Vec<_> = (0..2).map(|_| store.reader()).collect();
    let all = all_of("a");
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let (done, all) = (&done, &all);
                scope.spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let list = offsets(reader.answer(all).unwrap());
                        let n = list.len() as Offset;
                        assert_eq!(list, (1..=n).collect::<Vec<_>>());
                        assert!(n.is_multiple_of(10) && n >= last, "{n} entries after {last}");
                        last = n;
                    }
                    last
                })
            })
            .collect();
        for batch in 1..200 {
            store.put((1..=10).map(|n| Record::Entry(said("a", batch * 10 + n, "word"))));
            if batch % 20 == 0 {
                store.archive.checkpoint().unwrap();
            }
        }
        done.store(true, Ordering::Release);
        for thread in threads {
            assert!(thread.join().unwrap() >= 10);
        }
    });
    assert_eq!(offsets(store.ask(&all)).len(), 2_000);
}
