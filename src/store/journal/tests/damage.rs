//! Files that were cut or changed behind the journal's back.

use std::fs;

use super::super::{Journal, JournalError};
use super::{item, items, lsns, segments, written};
use crate::store::record::Lsn;

const PAGE: usize = 4096;

/// Where the records of a segment begin and end, by their own length fields.
fn places(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = PAGE;
    loop {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if len == 0 {
            return found;
        }
        found.push((at, at + 24 + len));
        at += (24 + len).next_multiple_of(8);
    }
}

/// Opens what the change makes of a journal's only segment: the numbers found, what is lost, what is said.
/// Then adds a record and opens again, to see that the journal goes on.
fn after(folder: &tempfile::TempDir, bytes: &[u8]) -> (Vec<Lsn>, Vec<(Lsn, Lsn)>, Vec<String>) {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join(segments(folder.path())[0].file_name().unwrap()), bytes).unwrap();
    let (mut journal, found) = Journal::open(place.path(), 0).unwrap();
    for item in &found.items {
        assert_eq!(*item, super::item(item.lsn, "hi all"), "what is found is what was written");
    }
    let next = journal.next();
    journal.append(&[item(next, "more")]).unwrap();
    drop(journal);
    let again = Journal::open(place.path(), 0).unwrap().1;
    assert_eq!(again.items[..found.items.len()], found.items);
    assert_eq!(again.items[found.items.len()..], [item(next, "more")]);
    assert_eq!(again.lost, found.lost);
    (lsns(&found), found.lost, found.notes)
}

#[test]
fn a_segment_cut_at_any_byte_of_the_last_record_loses_that_record_only() {
    let folder = written(&[1..=2, 3..=3]);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    let (from, to) = *places(&bytes).last().unwrap();
    for len in from..=to {
        let (found, lost, notes) = after(&folder, &bytes[..len]);
        let whole: &[Lsn] = if len == to { &[1, 2, 3] } else { &[1, 2] };
        assert_eq!((&found[..], &lost[..]), (whole, &[][..]), "cut at {len}");
        let torn = len > from && len < to;
        // Up to the first byte that is not zero a cut looks like an orderly end.
        let visible = bytes[from..len].iter().any(|byte| *byte != 0);
        assert_eq!(notes.len(), usize::from(torn && visible), "{notes:?}");
    }
}

#[test]
fn a_changed_bit_in_the_last_record_cuts_it() {
    let folder = written(&[1..=2, 3..=3]);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    let (from, to) = *places(&bytes).last().unwrap();
    for at in from..to {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let (found, lost, notes) = after(&folder, &changed);
        assert_eq!((&found[..], &lost[..]), (&[1, 2][..], &[][..]), "byte {at}");
        assert!(notes[0].contains(&format!("cut at byte {from}")), "{notes:?}");
    }
}

#[test]
fn a_changed_bit_in_an_acknowledged_record_is_said_aloud_and_costs_that_record_only() {
    let folder = written(&[1..=2, 3..=3, 4..=6]);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    let places = places(&bytes);
    for (lsn, (from, to)) in (1..).zip(&places[..3]) {
        for at in *from..*to {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let (found, lost, notes) = after(&folder, &changed);
            let left: Vec<Lsn> = (1..=6).filter(|one| *one != lsn).collect();
            assert_eq!((found, lost), (left, vec![(lsn, lsn)]), "byte {at}");
            let told = format!("byte {from}: 1 acknowledged records are lost, {lsn} to {lsn}");
            assert!(notes[0].contains(&told), "{notes:?}");
        }
    }
}

#[test]
fn a_hole_over_several_groups_is_named_exactly() {
    let folder = written(&[1..=2, 3..=4, 5..=6, 7..=9]);
    let mut bytes = fs::read(&segments(folder.path())[0]).unwrap();
    let places = places(&bytes);
    bytes[places[1].0..places[5].1].fill(0);
    let (found, lost, _) = after(&folder, &bytes);
    assert_eq!((found, lost), (vec![1, 7, 8, 9], vec![(2, 6)]));
}

#[test]
fn a_last_group_is_cut_where_it_breaks_whatever_stands_behind() {
    let folder = written(&[1..=2, 3..=7]);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    for broken in 2..7 {
        let mut changed = bytes.clone();
        let (from, to) = places(&bytes)[broken];
        changed[from..to].fill(0xff);
        let (found, lost, notes) = after(&folder, &changed);
        assert_eq!(found, (1..=broken as Lsn).collect::<Vec<_>>());
        assert!(lost.is_empty() && notes.len() == 1, "{notes:?}");
        assert!(notes[0].contains(&format!("readable of them: {}", 6 - broken)), "{notes:?}");
    }
}

#[test]
fn damage_and_a_torn_end_are_told_apart() {
    let folder = written(&[1..=2, 3..=3, 4..=7]);
    let mut bytes = fs::read(&segments(folder.path())[0]).unwrap();
    let places = places(&bytes);
    bytes[places[2].0] ^= 1;
    bytes[places[5].0] ^= 1;
    let (found, lost, _) = after(&folder, &bytes);
    assert_eq!((found, lost), (vec![1, 2, 4, 5], vec![(3, 3)]));
}

#[test]
fn a_record_goes_with_the_one_that_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    let mut group = items(1..=4);
    (group[1].with_next, group[2].with_next) = (true, true);
    journal.append(&group).unwrap();
    drop(journal);
    let path = &segments(folder.path())[0];
    let mut bytes = fs::read(path).unwrap();
    let places = places(&bytes);
    bytes[places[3].0 + 30] ^= 1;
    fs::write(path, bytes).unwrap();
    let (journal, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!((lsns(&found), journal.next()), (vec![1], 2));
    assert_eq!((found.notes.len(), found.lost), (3, vec![]), "one for the cut, one for each half");
    drop(journal);
    assert_eq!(lsns(&Journal::open(folder.path(), 0).unwrap().1), [1]);
}

#[test]
fn one_copy_of_a_header_is_enough() {
    let folder = written(&[1..=3]);
    let bytes = fs::read(&segments(folder.path())[0]).unwrap();
    for at in (0..40).chain(PAGE / 2..PAGE / 2 + 40) {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        assert_eq!(after(&folder, &changed), (vec![1, 2, 3], vec![], vec![]), "byte {at}");
    }
}

#[test]
fn a_lost_header_is_said_aloud_and_the_file_put_aside() {
    let folder = written(&[1..=3]);
    let path = &segments(folder.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[..PAGE].fill(0);
    fs::write(path, bytes).unwrap();
    let (journal, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!((found.items.len(), journal.next()), (0, 1));
    assert!(found.notes[0].contains("its first page is damaged"), "{:?}", found.notes);
    assert!(path.with_extension("damaged").exists() && found.notes[1].contains(".damaged"));
}

#[test]
fn a_file_that_was_never_finished_is_nothing() {
    let folder = written(&[1..=3]);
    fs::write(folder.path().join("0000000000000099.seg"), [0; 5000]).unwrap();
    fs::write(folder.path().join("0000000000000098.seg"), "half a header").unwrap();
    let (_journal, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!((lsns(&found), found.notes), (vec![1, 2, 3], vec![]));
    assert_eq!(segments(folder.path()).len(), 1);
}

#[test]
fn what_an_earlier_use_of_a_file_has_left_is_not_read() {
    // The records 4 to 6 of another journal stand where this one would write its own 4 to 6.
    let (other, folder) = (written(&[1..=3, 4..=6]), written(&[1..=3]));
    let path = &segments(folder.path())[0];
    let (mut bytes, stale) = (fs::read(path).unwrap(), fs::read(&segments(other.path())[0]).unwrap());
    let from = places(&bytes).last().unwrap().1.next_multiple_of(8);
    bytes[from..].copy_from_slice(&stale[from..]);
    let (found, lost, notes) = after(&folder, &bytes);
    assert_eq!((found, lost, notes.len()), (vec![1, 2, 3], vec![], 1));
}

#[test]
fn copies_and_later_formats_are_refused() {
    let folder = written(&[1..=3]);
    let path = &segments(folder.path())[0];
    let copy = folder.path().join("copy.seg");
    fs::copy(path, &copy).unwrap();
    let refused = |part: &str| {
        let Err(JournalError::Io(why)) = Journal::open(folder.path(), 0) else { panic!("it opens") };
        assert!(why.contains(part), "{why}");
    };
    refused("say that they are the same segment");
    fs::remove_file(copy).unwrap();
    let mut bytes = fs::read(path).unwrap();
    for at in [0, PAGE / 2] {
        bytes[at + 8] = 2;
        let crc = crc32c::crc32c(&bytes[at..at + 36]);
        bytes[at + 36..at + 40].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
    refused("has format 2, newer than this program knows");
}

#[test]
fn a_missing_segment_in_the_middle_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    for (group, next) in [(1..=2, 3), (3..=5, 6), (6..=7, 8)] {
        journal.append(&items(group)).unwrap();
        journal.heal(next).unwrap();
    }
    drop(journal);
    fs::remove_file(&segments(folder.path())[1]).unwrap();
    let (journal, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!((lsns(&found), journal.next(), found.lost), (vec![1, 2, 6, 7], 8, vec![(3, 5)]));
}
