//! The command from the outside: what it prints and its exit codes.

use bytes::Bytes;

use super::super::{FAILED, FINE, UNAVAILABLE, WRONG_USE, run_with};
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::archive::Archive;
use crate::store::record::{Item, Record};
use crate::store::sqlite::SqliteArchive;

fn roomcast(arguments: &[&str]) -> (i32, String) {
    let mut out = Vec::new();
    let arguments = ["roomcast", "--config", "/dev/null", "verify"].iter().chain(arguments);
    let code = run_with(arguments.map(Into::into), Vec::new(), &mut out);
    (code, String::from_utf8(out).unwrap())
}

fn item(lsn: u64, offset: u64) -> Item {
    let line = format!(r#"{{"t":"msg","r":"lobby","s":{offset},"id":"7-{offset}","ts":9,"d":"hi"}}"#);
    let entry = Entry {
        room: RoomName::new("lobby").unwrap(),
        epoch: Epoch(7),
        offset,
        ts: 9,
        kind: Kind::Message,
        user: None,
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(line),
    };
    Item { lsn, record: Record::Entry(entry), with_next: false }
}

#[test]
fn the_exit_code_says_whether_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rooms.db");
    let url = format!("sqlite://{}", file.display());
    assert_eq!(roomcast(&["--store", &url]), (UNAVAILABLE, String::new()));
    assert_eq!(roomcast(&["--store", "none"]).0, UNAVAILABLE);
    assert_eq!(roomcast(&["--store", "mysql://x"]).0, WRONG_USE);
    assert_eq!(roomcast(&["--bogus"]).0, WRONG_USE);

    let mut archive = SqliteArchive::open(&file).unwrap();
    archive.append(&[item(1, 1), item(2, 2)]).unwrap();
    let (code, text) = roomcast(&["--store", &url]);
    assert_eq!(code, FINE, "{text}");
    assert!(text.starts_with(&format!("{}: 2 records applied, 0 in the journal", file.display())), "{text}");
    assert!(text.ends_with("fine: no fault found\n"), "{text}");

    let log = folder.path().join("ann.jsonl");
    std::fs::write(&log, r#"{"dir":"in","ms":1,"frame":{"t":"ack","r":"lobby","s":3,"id":"7-3","ts":9}}"#)
        .unwrap();
    let (code, text) = roomcast(&["--store", &url, "--clients", log.to_str().unwrap()]);
    assert_eq!(code, FAILED);
    assert!(text.contains("fault: room lobby: client ann, line 1: entry 3 was acknowledged"), "{text}");
    assert!(text.contains("1 clients: 1 frames, 1 acks") && text.ends_with("1 fault\n"), "{text}");
    let row = text.lines().find(|line| line.starts_with("lobby ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["lobby", "2", "1", "2", "1", "0", "0", "0"]);
    std::fs::write(&log, "no json\n").unwrap();
    assert_eq!(roomcast(&["--store", &url, "--clients", log.to_str().unwrap()]).0, WRONG_USE);
}
