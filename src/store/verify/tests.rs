//! A store and clients' logs without a fault, and one planted fault of each kind.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::Connection;

use super::{Kind, Place, Report, VerifyError, verify};
use crate::chat::entry::{self, Entry};
use crate::chat::line;
use crate::chat::message::Epoch;
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::archive::Archive;
use crate::store::journal::Journal;
use crate::store::place::StorePlace;
use crate::store::record::{Item, Record};
use crate::store::sqlite::SqliteArchive;

const WINDOW_MS: u64 = 1_000;

/// An entry of the lobby whose line says what its columns say.
fn said(s: u64, user: &str, id: &str, words: &str) -> Entry {
    let ts = 100_000 + s * 10;
    let line =
        format!(r#"{{"t":"msg","r":"lobby","s":{s},"id":"{id}","u":"{user}","ts":{ts},"d":"{words}"}}"#);
    Entry {
        room: RoomName::new("lobby").unwrap(),
        epoch: Epoch(7),
        offset: s,
        ts,
        kind: entry::Kind::Message,
        user: Some(UserName::new(user).unwrap()),
        id: Some(MessageId::new(id).unwrap()),
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(line),
    }
}

/// An edit (with words) or a delete (without) of an earlier entry.
fn changed(s: u64, of: u64, words: Option<&str>) -> Entry {
    let (ts, word) = (100_000 + s * 10, if words.is_some() { "edit" } else { "del" });
    let data = words.map(|words| format!(r#""d":"{words}","#)).unwrap_or_default();
    let line = format!(r#"{{"t":"{word}","r":"lobby","s":{s},"u":"ann","ts":{ts},{data}"of":{of}}}"#);
    let kind = if words.is_some() { entry::Kind::Edit } else { entry::Kind::Delete };
    Entry { kind, id: None, of, line: Bytes::from(line), ..said(s, "ann", "x", "") }
}

struct Shop {
    folder: tempfile::TempDir,
    logs: Vec<PathBuf>,
}

impl Shop {
    /// A store with eight entries in the archive and two more in the journal.
    fn open() -> Shop {
        let mut entries: Vec<Entry> =
            (1..=5).map(|s| said(s, "ann", &format!("k-{s}"), &format!("word{s} there"))).collect();
        entries.push(changed(6, 2, Some("better words")));
        entries.push(changed(7, 3, None));
        entries.push(changed(8, 2, Some("best words")));
        entries.push(said(9, "ann", "k-9", "in the journal"));
        entries.push(changed(10, 4, Some("edited late")));
        Shop::with(&entries, 8)
    }

    /// The first so many of these are in the archive, all are in the journal.
    fn with(entries: &[Entry], archived: usize) -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let items: Vec<Item> = entries
            .iter()
            .zip(1..)
            .map(|(entry, lsn)| Item { lsn, record: Record::Entry(entry.clone()), with_next: false })
            .collect();
        let mut archive = SqliteArchive::open(&folder.path().join("rooms.db")).unwrap();
        archive.append(&items[..archived]).unwrap();
        archive.checkpoint().unwrap();
        let (mut journal, _) = Journal::open(&folder.path().join("rooms.journal"), 0).unwrap();
        journal.append(&items).unwrap();
        Shop { folder, logs: Vec::new() }
    }

    fn sql(&self, sql: &str) {
        Connection::open(self.folder.path().join("rooms.db")).unwrap().execute_batch(sql).unwrap();
    }

    /// A client's log. A line that starts with `>` was sent, one with `x` was received and dropped.
    fn log(&mut self, name: &str, lines: &str) {
        let path = self.folder.path().join(format!("{name}.jsonl"));
        let text: String = lines
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| match line.split_at(1) {
                (">", frame) => format!("{{\"dir\":\"out\",\"ms\":1,\"frame\":{frame}}}\n"),
                ("x", frame) => format!("{{\"dir\":\"in\",\"ms\":1,\"dropped\":true,\"frame\":{frame}}}\n"),
                _ => format!("{{\"dir\":\"in\",\"ms\":1,\"frame\":{line}}}\n"),
            })
            .collect();
        fs::write(&path, text).unwrap();
        self.logs.push(path);
    }

    fn verify(&self) -> Result<Report, VerifyError> {
        let (database, journal) =
            (self.folder.path().join("rooms.db"), self.folder.path().join("rooms.journal"));
        let store = StorePlace::Sqlite(database);
        verify(&Place { store: &store, journal: &journal, clients: &self.logs }, &|_| WINDOW_MS)
    }

    /// Exactly these faults are found, each with this in its text.
    #[track_caller]
    fn finds(&self, expected: &[(Kind, &str)]) -> Report {
        let report = self.verify().unwrap();
        let told = format!("{:#?}", report.faults);
        assert_eq!(report.faults.len(), expected.len(), "{told}");
        for ((kind, part), fault) in expected.iter().zip(&report.faults) {
            assert!(fault.kind == *kind && fault.text.contains(part), "{part}: {told}");
        }
        report
    }
}

fn msg(s: u64) -> String {
    String::from_utf8(said(s, "ann", &format!("k-{s}"), &format!("word{s} there")).line.to_vec()).unwrap()
}

#[test]
fn a_store_in_order_is_found_to_be_so_also_while_it_is_open() {
    let shop = Shop::open();
    let report = shop.finds(&[]);
    let lobby = &report.rooms["lobby"];
    assert_eq!((lobby.entries, lobby.first, lobby.top), (10, 1, 10));
    assert_eq!((report.applied, report.tail), (8, 2));
    let _open = SqliteArchive::open(&shop.folder.path().join("rooms.db")).unwrap();
    let _journal = Journal::open(&shop.folder.path().join("rooms.journal"), 8).unwrap();
    shop.finds(&[]);
}

#[test]
fn no_store_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("rooms.db");
    let place = Place { store: &StorePlace::Sqlite(nowhere.clone()), journal: folder.path(), clients: &[] };
    assert!(matches!(verify(&place, &|_| 0), Err(VerifyError::NoStore(why)) if why.contains("no store at")));
    assert!(!nowhere.exists());
    fs::write(&nowhere, "something else entirely, much longer than a header of SQLite would have to be")
        .unwrap();
    assert!(matches!(verify(&place, &|_| 0), Err(VerifyError::Unreadable(_))));
}

#[test]
fn every_planted_fault_of_the_archive_is_found() {
    let set = "UPDATE entries SET ";
    for (sql, expected) in [
        ("DELETE FROM entries WHERE s IN (4, 5)", (Kind::Hole, "nothing stands at 4 to 5")),
        ("DELETE FROM entries WHERE s = 8", (Kind::Hole, "nothing stands at 8 to 8, the newest")),
        ("UPDATE rooms SET top = 7", (Kind::Mismatch, "entry 8 stands after the newest offset (7)")),
        ("UPDATE rooms SET first = 2", (Kind::Mismatch, "entry 1 stands before the first one")),
        ("UPDATE rooms SET lineage = '7:1 6:5 7:6'", (Kind::Mismatch, "does not ascend at 6:5")),
        ("UPDATE rooms SET lineage = '7:1 what'", (Kind::Mismatch, "does not ascend at what")),
        ("UPDATE rooms SET epoch = 9", (Kind::Mismatch, "does not end with its epoch 9")),
        (&format!("{set} e = 8 WHERE s = 1"), (Kind::Mismatch, "entry 1: it is of epoch 8")),
        (&format!("{set} line = 'x' WHERE s = 1"), (Kind::Mismatch, "entry 1: the line is no JSON")),
        (&format!("{set} line = NULL WHERE s = 7"), (Kind::Mismatch, "entry 7: it has no line")),
        (
            &format!("{set} ts = 5 WHERE s = 1"),
            (Kind::Mismatch, "the line says ts = 100010, the columns say 5"),
        ),
        (&format!("{set} kind = 'react' WHERE s = 7"), (Kind::Mismatch, "the line says t = \"del\"")),
        (&format!("{set} u = 'bob', h = h + 1 WHERE s = 1"), (Kind::Mismatch, "the line says u = \"ann\"")),
        (&format!("{set} h = h + 1 WHERE s = 1"), (Kind::Mismatch, "(column h) does not fit")),
        (
            "INSERT INTO words (rowid, text) SELECT (room << 35) | 3, 'word3' FROM entries WHERE s = 3",
            (Kind::Words, "entry 3 was deleted, and its words are still"),
        ),
        (
            "INSERT INTO words (words, rowid, text) SELECT 'delete', (room << 35) | 1, 'word1 there' \
             FROM entries WHERE s = 1",
            (Kind::Words, "entry 1 has words that the search index does not have"),
        ),
        (
            "INSERT INTO words (rowid, text) VALUES (77, 'nobody')",
            (Kind::Words, "words of 1 entries that are not there"),
        ),
        (
            "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'entries_id'",
            (Kind::File, "the file is damaged"),
        ),
    ] {
        let shop = Shop::open();
        shop.sql(sql);
        let report = shop.verify().unwrap();
        let first = report.faults.iter().find(|fault| fault.kind == expected.0);
        let told = format!("{sql}: {:#?}", report.faults);
        assert!(first.is_some_and(|fault| fault.text.contains(expected.1)), "{told}");
    }
}

#[test]
fn deleted_words_in_a_line_are_found() {
    let shop = Shop::open();
    shop.sql("UPDATE entries SET line = replace(line, 'null', '\"word3\"') WHERE s = 3");
    shop.finds(&[(Kind::Mismatch, "entry 3: it was deleted, and its words are still in the line")]);
}

#[test]
fn an_id_has_one_place_as_long_as_it_is_remembered() {
    let twice = |second: u64, user: &str, archived| {
        let entries = [
            said(1, "ann", "k", "a"),
            said(2, "ann", "k-2", "b"),
            Entry {
                ts: 100_010 + second,
                line: Bytes::from(
                    String::from_utf8(said(3, user, "k", "c").line.to_vec())
                        .unwrap()
                        .replace("100030", &(100_010 + second).to_string()),
                ),
                ..said(3, user, "k", "c")
            },
        ];
        Shop::with(&entries, archived)
    };
    for archived in [3, 2, 0] {
        let report = twice(WINDOW_MS - 1, "ann", archived)
            .finds(&[(Kind::Doubled, "the id k of one user stands at 1 and")]);
        assert_eq!(report.rooms["lobby"].doubled, 1);
        twice(WINDOW_MS, "ann", archived).finds(&[]);
        twice(1, "bob", archived).finds(&[]);
    }
}

#[test]
fn every_planted_fault_of_the_journal_is_found() {
    let all: Vec<Entry> = (1..=4).map(|s| said(s, "ann", &format!("k-{s}"), "hi")).collect();
    let with = |tail: &[u64]| {
        let mut entries = all[..2].to_vec();
        entries.extend(tail.iter().map(|s| all[*s as usize - 1].clone()));
        Shop::with(&entries, 2)
    };
    with(&[3, 4]).finds(&[]);
    with(&[4]).finds(&[(Kind::Hole, "nothing stands at 3 to 3 in the journal")]);
    with(&[4, 3]).finds(&[(Kind::OutOfOrder, "the journal has entry 3 after a later one")]);
    with(&[3, 3]).finds(&[(Kind::Doubled, "the journal has entry 3 a second time")]);
    with(&[2, 3]).finds(&[(Kind::Doubled, "the journal has entry 2, and so has the archive")]);
    let wrong = Entry { ts: 5, ..all[2].clone() };
    Shop::with(&[all[0].clone(), wrong], 1).finds(&[
        (Kind::Hole, "nothing stands at 2 to 2"),
        (Kind::Mismatch, "entry 3 in the journal: the line says ts"),
    ]);
}

#[test]
fn lost_records_of_the_journal_are_named() {
    let shop = Shop::open();
    shop.sql("UPDATE meta SET value = 8 WHERE key = 'applied'");
    let folder = shop.folder.path().join("rooms.journal");
    let segment = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .unwrap();
    let (mut journal, _) = Journal::open(&folder, 8).unwrap();
    let more = said(11, "ann", "k-11", "later");
    journal.append(&[Item { lsn: 11, record: Record::Entry(more), with_next: false }]).unwrap();
    drop(journal);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(14).position(|window| window == b"in the journal").unwrap();
    bytes[at] = b'X';
    fs::write(&segment, bytes).unwrap();
    let report = shop.finds(&[
        (Kind::Lost, "records 9 to 9 were acknowledged"),
        (Kind::Hole, "nothing stands at 9 to 9 in the journal"),
    ]);
    assert!(report.notes[0].contains("1 acknowledged records are lost, 9 to 9"), "{:?}", report.notes);
}

/// Ann sees all of it, and what happened to it.
fn all_seen() -> String {
    let later = |entry: Entry| String::from_utf8(entry.line.to_vec()).unwrap();
    let amended = String::from_utf8(line::amended(msg(2).as_bytes(), b"\"best words\"", 8)).unwrap();
    let gone = String::from_utf8(line::blanked(msg(3).as_bytes())).unwrap();
    [
        r#"{"t":"welcome","v":1,"u":"ann"}"#.to_owned(),
        r#">{"t":"join","r":"lobby","last":20}"#.to_owned(),
        r#"{"t":"joined","r":"lobby","s":8,"e":"7","n":8}"#.to_owned(),
        msg(1),
        amended,
        gone,
        msg(4),
        msg(5),
        r#"{"t":"skip","r":"lobby","s":6,"n":1}"#.to_owned(),
        later(changed(7, 3, None)),
        later(changed(8, 2, Some("best words"))),
        r#"{"t":"live","r":"lobby","s":8}"#.to_owned(),
        r#">{"t":"pub","r":"lobby","id":"k-9","d":"in the journal"}"#.to_owned(),
        r#"{"t":"ack","r":"lobby","s":9,"id":"k-9","ts":100090}"#.to_owned(),
        later(said(9, "ann", "k-9", "in the journal")),
        later(changed(10, 4, Some("edited late"))),
    ]
    .join("\n")
}

#[test]
fn clients_who_saw_what_is_kept_are_fine() {
    let mut shop = Shop::open();
    shop.log("ann", &all_seen());
    // Bob was there from the start, saw the words before they changed, and came back twice.
    let edit = |s, of, words: &str| String::from_utf8(changed(s, of, Some(words)).line.to_vec()).unwrap();
    let bob = [
        r#"{"t":"welcome","v":1,"u":"bob"}"#.to_owned(),
        r#">{"t":"join","r":"lobby"}"#.to_owned(),
        r#"{"t":"joined","r":"lobby","s":0,"e":"7","n":0}"#.to_owned(),
        r#"{"t":"live","r":"lobby","s":0}"#.to_owned(),
        msg(1),
        msg(2),
        r#"{"t":"typing","r":"lobby","u":"ann"}"#.to_owned(),
        r#"{"t":"welcome","v":1,"u":"bob"}"#.to_owned(),
        r#">{"t":"join","r":"lobby","since":1,"e":"7"}"#.to_owned(),
        r#"{"t":"joined","r":"lobby","s":3,"e":"7","n":2}"#.to_owned(),
        format!("x{}", msg(2)),
        msg(3),
        r#"{"t":"live","r":"lobby","s":3}"#.to_owned(),
        r#"{"t":"gap","r":"lobby","missing":[4,5],"why":"slow"}"#.to_owned(),
        edit(6, 2, "better words"),
        r#"{"t":"welcome","v":1,"u":"bob"}"#.to_owned(),
        r#">{"t":"hello","v":1,"rooms":{"lobby":{"since":6,"e":"7"}}}"#.to_owned(),
        r#"{"t":"joined","r":"lobby","s":8,"e":"8","n":1,"missing":[7,7]}"#.to_owned(),
        edit(8, 2, "best words"),
        r#"{"t":"live","r":"lobby","s":8}"#.to_owned(),
        r#"{"t":"msg","r":"lobby","id":"8-0-1","ts":1,"d":"not kept"}"#.to_owned(),
    ];
    shop.log("bob", &bob.join("\n"));
    let report = shop.finds(&[]);
    assert_eq!((report.clients.files, report.clients.acks, report.clients.dropped), (2, 1, 1));
    assert_eq!(report.clients.seen, 14);
}

#[test]
fn every_planted_fault_of_a_client_is_found() {
    let gap = |missing: &str| format!(r#"{{"t":"gap","r":"lobby","missing":{missing},"why":"slow"}}"#);
    let ack = |s: u64, id: &str| format!(r#"{{"t":"ack","r":"lobby","s":{s},"id":"{id}","ts":1}}"#);
    let other = msg(1).replace("word1", "words");
    let unkept = |s: u64| String::from_utf8(said(s, "ann", "k", "x").line.to_vec()).unwrap();
    let rejoin = |frame: &str| {
        format!(
            "{}\n{}\n{}\n{frame}",
            msg(1),
            r#"{"t":"welcome","u":"ann"}"#,
            r#">{"t":"join","r":"lobby","since":1}"#
        )
    };
    for (lines, expected) in [
        (format!("{}\n{}", msg(1), msg(1)), vec![(Kind::Doubled, "line 5: entry 1 came again")]),
        (
            format!("{}\n{}", msg(1), msg(4)),
            vec![(Kind::Hole, "entry 4 came, and nothing accounts for 2 to 3")],
        ),
        (
            format!("{}\n{}\n{}", msg(1), msg(4), msg(3)),
            vec![(Kind::Hole, "accounts for 2 to 3"), (Kind::OutOfOrder, "entry 3 came after 4")],
        ),
        (
            format!("{}\n{}", msg(1), gap("[3,4]")),
            vec![(Kind::Hole, "a gap from 3 came, and nothing accounts for 2")],
        ),
        (
            format!("{}\n{}", msg(1), r#"{"t":"skip","r":"lobby","s":3,"n":1}"#),
            vec![(Kind::Hole, "skip at 3 came, and nothing accounts for 2 to 2")],
        ),
        (
            format!("{}\n{}", msg(1), r#"{"t":"live","r":"lobby","s":2}"#),
            vec![(Kind::Hole, "live at 3 came, and nothing accounts for 2 to 2")],
        ),
        (format!("x{}", msg(1)), vec![(Kind::Lost, "entry 1 was dropped, though it was new")]),
        (
            format!("{}\n{}\n{}", msg(1), r#"{"t":"welcome","u":"ann"}"#, msg(4)),
            vec![(Kind::OutOfOrder, "entry 4 came before the room was joined"), (Kind::Hole, "2 to 3")],
        ),
        (
            rejoin(r#"{"t":"joined","r":"lobby","s":5,"e":"7","n":3}"#),
            vec![(Kind::Hole, "joined goes on with 3, and nothing accounts for 2 to 2")],
        ),
        (
            rejoin(r#"{"t":"joined","r":"lobby","s":5,"e":"7","n":1,"missing":[3,4]}"#),
            vec![(Kind::Hole, "joined says that 3 to 4 are missing, but 2 was due")],
        ),
        (
            rejoin(r#"{"t":"joined","r":"lobby","s":5,"e":"7","n":1,"missing":[2,3]}"#),
            vec![(Kind::Hole, "2 to 3 are missing, but 2 was due and 5 comes")],
        ),
        (
            rejoin(r#"{"t":"joined","r":"lobby","s":0,"e":"7","n":0}"#),
            vec![(Kind::Lost, "the log ends at 0, but 1 was seen")],
        ),
        (
            rejoin("").replace("\"since\":1", "\"since\":4")
                + r#"{"t":"joined","r":"lobby","s":5,"e":"7","n":1}"#,
            vec![(Kind::Hole, "went on behind 4, but had seen nothing behind 1")],
        ),
        (ack(99, "k-99"), vec![(Kind::Lost, "entry 99 was acknowledged and is not there")]),
        (ack(1, "k-77"), vec![(Kind::Lost, "entry 1 was acknowledged as k-77, the store has k-1 there")]),
        (
            format!("{}\n{}", ack(1, "k-1"), ack(9, "k-1")),
            vec![(Kind::Doubled, "the id k-1 got 1 and then 9"), (Kind::Lost, "as k-1, the store has k-9")],
        ),
        (
            format!("{}\n{}", r#"{"t":"welcome","u":"eve"}"#, ack(1, "k-1")),
            vec![(Kind::Mismatch, "acknowledged to eve, the store has another user")],
        ),
        (other, vec![(Kind::Mismatch, "entry 1 was seen with another line than the store has")]),
        (
            format!("{}\n{}", gap("[1,98]"), unkept(99)),
            vec![(Kind::Lost, "entry 99 was seen and is not there")],
        ),
    ] {
        let mut shop = Shop::open();
        let start = [
            r#"{"t":"welcome","u":"ann"}"#,
            r#">{"t":"join","r":"lobby"}"#,
            r#"{"t":"joined","r":"lobby","s":0,"e":"7","n":0}"#,
        ];
        shop.log("ann", &format!("{}\n{lines}", start.join("\n")));
        let report = shop.verify().unwrap();
        let told = format!("{lines}\n{:#?}", report.faults);
        assert_eq!(report.faults.len(), expected.len(), "{told}");
        for ((kind, part), fault) in expected.iter().zip(&report.faults) {
            assert!(fault.kind == *kind && fault.text.contains(part), "{told}");
            assert!(fault.text.contains("room lobby: client ann, line "), "{told}");
        }
    }
}

#[test]
fn two_who_saw_different_lines_are_found_where_the_store_no_longer_has_the_entry() {
    let mut shop = Shop::open();
    shop.sql("DELETE FROM entries WHERE s = 1; UPDATE rooms SET first = 2; DELETE FROM words WHERE 0");
    shop.sql(
        "INSERT INTO words (words, rowid, text) \
         SELECT 'delete', (room << 35) | 1, 'word1 there' FROM entries WHERE s = 2",
    );
    let start = "{\"t\":\"joined\",\"r\":\"lobby\",\"s\":0,\"e\":\"7\",\"n\":0}\n";
    shop.log("ann", &format!("{start}{}", msg(1)));
    shop.log("bob", &format!("{start}{}", msg(1)));
    shop.finds(&[]);
    shop.log("eve", &format!("{start}{}", msg(1).replace("word1", "w")));
    shop.finds(&[(Kind::Mismatch, "client eve, line 2: entry 1 has another line than client ann saw")]);
}

#[test]
fn a_log_that_is_none_is_refused_but_may_end_in_the_middle() {
    let mut shop = Shop::open();
    shop.log("ann", &all_seen());
    let whole = fs::read_to_string(&shop.logs[0]).unwrap();
    fs::write(&shop.logs[0], format!("{whole}{{\"dir\":\"in\",\"fra")).unwrap();
    assert!(shop.finds(&[]).notes[0].contains("client ann: the last line is cut"));
    fs::write(&shop.logs[0], format!("{{}}\n{whole}")).unwrap();
    assert!(matches!(shop.verify(), Err(VerifyError::BadLog(why)) if why.contains("ann.jsonl, line 1: ")));
    shop.logs = vec![shop.folder.path().join("none.jsonl")];
    assert!(matches!(shop.verify(), Err(VerifyError::BadLog(why)) if why.contains("none.jsonl")));
}
