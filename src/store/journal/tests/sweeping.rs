//! Freed segments give their room back, and deleted words leave the folder.

use super::super::Journal;
use super::disks::FaultyDisk;
use super::{item, items, lsns, segments, stands};

const SECRET: &str = "the words that have to go";

#[test]
fn bytes_are_counted_until_they_are_freed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&items(1..=10)).unwrap();
    let ten = journal.bytes();
    assert!(ten > 10 * 80, "{ten}");
    journal.append(&items(11..=20)).unwrap();
    journal.free(9);
    assert!(journal.bytes() > ten, "half of a group is not freed");
    journal.free(10);
    let left = journal.bytes();
    drop(journal);
    let (mut journal, _) = Journal::open(folder.path(), 10).unwrap();
    assert!(journal.bytes() >= left, "an opening does not know what was freed");
    journal.free(20);
    assert_eq!(journal.bytes(), 0);
}

#[test]
fn deleted_words_leave_with_the_next_free() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&[item(1, SECRET), item(2, "delete 1")]).unwrap();
    journal.scrub();
    assert!(stands(folder.path(), SECRET), "the archive does not have it yet");
    journal.free(2);
    assert!(!stands(folder.path(), SECRET));
    journal.append(&items(3..=4)).unwrap();
    drop(journal);
    assert_eq!(lsns(&Journal::open(folder.path(), 2).unwrap().1), [3, 4]);
}

#[test]
fn deleted_words_leave_at_once_when_the_archive_was_faster() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&[item(1, SECRET), item(2, "delete 1")]).unwrap();
    journal.free(2);
    journal.scrub();
    assert!(!stands(folder.path(), SECRET));
    let files = segments(folder.path()).len();
    journal.scrub();
    assert_eq!(segments(folder.path()).len(), files, "an empty segment has no words");
}

#[test]
fn deleted_words_leave_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&[item(1, SECRET)]).unwrap();
    for round in 0..50 {
        let from = 2 + round * 10;
        journal.append(&items(from..=from + 9)).unwrap();
        if round == 3 {
            journal.scrub();
        }
        // The archive is a round behind.
        journal.free(from - 1);
        if round > 4 {
            assert!(!stands(folder.path(), SECRET), "round {round}");
        }
    }
    assert!(segments(folder.path()).len() <= 3);
    drop(journal);
    let (_, found) = Journal::open(folder.path(), 491).unwrap();
    assert_eq!((lsns(&found), found.lost), ((492..=501).collect(), vec![]));
}

#[test]
fn many_scrubs_before_a_free_make_one_new_segment() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    for lsn in 1..=100 {
        journal.append(&items(lsn..=lsn)).unwrap();
        journal.scrub();
    }
    assert_eq!(segments(folder.path()).len(), 1);
    journal.free(50);
    assert_eq!(segments(folder.path()).len(), 2);
    journal.free(100);
    assert_eq!(segments(folder.path()).len(), 2, "one of them a spare");
    assert!(!stands(folder.path(), "hi all"));
}

#[test]
fn a_long_life_takes_few_files_and_uses_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let (mut journal, _) = Journal::open_on(Box::new(disk.clone()), folder.path(), 0, 16 << 10).unwrap();
    let (mut names, mut most) = (std::collections::BTreeSet::new(), 0);
    for round in 0..200 {
        journal.append(&items(round * 20 + 1..=round * 20 + 20)).unwrap();
        journal.free((round * 20).saturating_sub(60));
        let files = segments(folder.path());
        most = most.max(files.len());
        names.extend(files);
    }
    assert!(most <= 4 && names.len() < 10, "{most} at once, {} in all", names.len());
    drop(journal);
    let (_, found) = Journal::open_on(Box::new(disk), folder.path(), 3920, 16 << 10).unwrap();
    assert_eq!((found.items, found.lost), (items(3921..=4000), vec![]));
}

#[test]
fn a_fresh_journal_takes_about_a_mebibyte() {
    let folder = tempfile::tempdir().unwrap();
    let (_journal, _) = Journal::open(folder.path(), 0).unwrap();
    let bytes: u64 = segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(bytes, 1 << 20);
}
