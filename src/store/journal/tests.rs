//! What the journal promises, tried with damaged files and with disks that fail.

mod codec;
mod committing;
mod crashes;
mod damage;
mod disks;
mod sweeping;

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Found, Journal};
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::record::{Item, Lsn, Record};

/// A message with these words.
fn item(lsn: Lsn, words: &str) -> Item {
    let entry = Entry {
        room: RoomName::new("lobby").unwrap(),
        epoch: Epoch(7),
        offset: lsn,
        ts: 1_763_820_000_000 + lsn,
        kind: Kind::Message,
        user: None,
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(format!(r#"{{"t":"msg","r":"lobby","s":{lsn},"d":"{words}"}}"#)),
    };
    Item { lsn, record: Record::Entry(entry), with_next: false }
}

fn items(lsns: std::ops::RangeInclusive<Lsn>) -> Vec<Item> {
    lsns.map(|lsn| item(lsn, "hi all")).collect()
}

fn lsns(found: &Found) -> Vec<Lsn> {
    found.items.iter().map(|item| item.lsn).collect()
}

/// A folder with a journal of these groups, closed.
fn written(groups: &[std::ops::RangeInclusive<Lsn>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    for group in groups {
        journal.append(&items(group.clone())).unwrap();
    }
    folder
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .collect();
    paths.sort();
    paths
}

/// Whether these words stand anywhere in the folder.
fn stands(folder: &Path, words: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(words.len()).any(|window| window == words.as_bytes())
    })
}

#[test]
fn what_was_written_is_found_again_in_order() {
    let folder = written(&[1..=3, 4..=4, 5..=9]);
    let (journal, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!(found, Found { items: items(1..=9), notes: vec![], lost: vec![] });
    assert_eq!(journal.next(), 10);
    drop(journal);
    let (mut journal, found) = Journal::open(folder.path(), 4).unwrap();
    assert_eq!(lsns(&found), [5, 6, 7, 8, 9]);
    journal.append(&items(10..=10)).unwrap();
    drop(journal);
    assert_eq!(Journal::open(folder.path(), 0).unwrap().1.items, items(1..=10));
    assert_eq!(segments(folder.path()).len(), 1, "an orderly end needs no new segment");
}

#[test]
fn an_archive_that_is_ahead_of_the_journal_sets_the_number() {
    let folder = written(&[1..=3]);
    let (mut journal, found) = Journal::open(folder.path(), 20).unwrap();
    assert_eq!((found, journal.next()), (Found::default(), 21));
    journal.append(&items(21..=22)).unwrap();
    drop(journal);
    let (_, found) = Journal::open(folder.path(), 20).unwrap();
    assert_eq!((lsns(&found), found.lost), (vec![21, 22], vec![]));
}

#[test]
fn records_that_the_archive_never_had_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 20).unwrap();
    journal.append(&items(21..=22)).unwrap();
    drop(journal);
    let (_, found) = Journal::open(folder.path(), 15).unwrap();
    assert_eq!((lsns(&found), found.lost), (vec![21, 22], vec![(16, 20)]));
    assert!(found.notes[0].contains("5 acknowledged records are lost, 16 to 20"), "{:?}", found.notes);
}

#[test]
fn one_process_has_it_open() {
    let folder = written(&[1..=1]);
    let first = Journal::open(folder.path(), 0).unwrap();
    let Err(error) = Journal::open(folder.path(), 0) else { panic!("two have it") };
    assert!(error.to_string().contains("another process has the journal in"), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    assert_eq!(super::look(folder.path(), 0).unwrap().items, items(1..=1), "to look is allowed");
    drop(first);
    assert!(Journal::open(folder.path(), 0).is_ok());
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disks::FaultyDisk::default();
    let open = |after| Journal::open_on(Box::new(disk.clone()), folder.path(), after, 16 << 10).unwrap();
    let (mut journal, _) = open(0);
    let all = [item(1, "small"), item(2, &"large ".repeat(20_000)), item(3, "small"), item(4, "small")];
    for one in &all {
        journal.append(std::slice::from_ref(one)).unwrap();
    }
    assert_eq!(segments(folder.path()).len(), 3);
    drop(journal);
    assert_eq!(open(0).1.items, all);
}

#[test]
fn wrong_numbers_are_refused_and_leave_nothing() {
    let folder = written(&[1..=3]);
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    for wrong in [vec![item(5, "x")], vec![item(3, "x")], vec![item(4, "x"), item(6, "x")]] {
        let error = journal.append(&wrong).unwrap_err();
        assert!(error.to_string().contains("dense ones from 4 on were due"), "{error}");
        assert!(journal.append(&items(4..=4)).is_err(), "not before it is healed");
        assert!(journal.heal(5).is_err());
        journal.heal(4).unwrap();
    }
    journal.append(&items(4..=4)).unwrap();
    drop(journal);
    assert_eq!(Journal::open(folder.path(), 0).unwrap().1.items, items(1..=4));
}

#[test]
fn two_hundred_thousand_records_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    for group in 0..100 {
        journal.append(&items(group * 2000 + 1..=group * 2000 + 2000)).unwrap();
    }
    let bytes = journal.bytes();
    drop(journal);
    let start = std::time::Instant::now();
    let (journal, found) = Journal::open(folder.path(), 0).unwrap();
    println!("200000 records of {} bytes each read in {:?}", bytes / 200_000, start.elapsed());
    assert_eq!((found.items.len(), journal.next(), journal.bytes()), (200_000, 200_001, bytes));
    assert!(found.items.iter().zip(1..).all(|(item, lsn)| item.lsn == lsn));
    let empty = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    drop(Journal::open(&empty.path().join("new"), 0).unwrap());
    println!("an empty journal opened in {:?}", start.elapsed());
}
