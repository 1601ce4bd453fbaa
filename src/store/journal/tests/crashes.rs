//! Disks that fail and machines that stop, at every point of a story.

use std::fs;

use proptest::prelude::*;

use super::super::{Journal, JournalError};
use super::disks::FaultyDisk;
use super::{item, items, lsns};
use crate::store::record::{Item, Lsn};

const SMALL: u64 = 16 << 10;

/// Appends, and after a failure heals and appends the same again, as the sender does: until it is kept.
fn insist(journal: &mut Journal, group: &[Item]) {
    for _ in 0..4 {
        if journal.append(group).is_ok() {
            return;
        }
        // A second failure is possible while healing; then the next round tries again.
        journal.heal(group[0].lsn).ok();
    }
    panic!("nothing is kept any more");
}

/// A story with every operation of the journal in it.
fn live(journal: &mut Journal) {
    for group in 0..6 {
        let from = group * 40 + 1;
        insist(journal, &items(from..=from + 39));
        if group == 2 {
            journal.scrub();
        }
        if group > 2 {
            journal.free(from - 1);
        }
    }
}

#[test]
fn every_sync_may_fail_once_and_nothing_acknowledged_is_lost() {
    for n in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let open = || Journal::open_on(Box::new(disk.clone()), &folder.path().join("journal"), 0, SMALL);
        disk.0.lock().unwrap().fail_sync = Some(n);
        let mut journal = match open() {
            Ok((journal, _)) => journal,
            Err(error) => {
                assert!(n <= 3, "{error}");
                open().expect("the second sync is fine").0
            }
        };
        live(&mut journal);
        drop(journal);
        let found = super::super::look(&folder.path().join("journal"), 200).unwrap();
        assert_eq!(found.items, items(201..=240), "sync {n}");
        assert_eq!((found.lost, found.notes), (vec![], vec![]), "sync {n}");
        if disk.0.lock().unwrap().syncs < n {
            assert!(n > 10, "the story has more syncs than {n}");
            return;
        }
    }
}

#[test]
fn a_failed_group_is_void_also_when_its_bytes_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&items(1..=2)).unwrap();
    let written = super::segments(folder.path())[0].clone();
    journal.append(&items(3..=4)).unwrap();
    let whole = fs::read(&written).unwrap();
    drop(journal);
    // The same with 3 and 4 refused: healed, and other words under their numbers.
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join(written.file_name().unwrap());
    fs::write(&place, &whole).unwrap();
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    drop(journal.append(&[item(9, "wrong number")]).unwrap_err());
    journal.next = 3;
    journal.heal(3).unwrap();
    drop(journal);
    assert_eq!(lsns(&Journal::open(folder.path(), 0).unwrap().1), [1, 2]);
    let (mut journal, _) = Journal::open(folder.path(), 0).unwrap();
    journal.append(&[item(3, "other words")]).unwrap();
    drop(journal);
    let (_, found) = Journal::open(folder.path(), 0).unwrap();
    assert_eq!(found.items, [item(1, "hi all"), item(2, "hi all"), item(3, "other words")]);
    assert_eq!((found.lost, found.notes), (vec![], vec![]));
}

#[test]
fn a_full_disk_is_said_to_be_full_at_every_byte_and_what_was_kept_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept_once = false;
    for room in (0..60_000).step_by(1_009) {
        let place = folder.path().join(room.to_string());
        let disk = FaultyDisk::default();
        disk.0.lock().unwrap().room = Some(room);
        let open = || Journal::open_on(Box::new(disk.clone()), &place, 0, SMALL);
        let (mut journal, _) = match open() {
            Ok(opened) => opened,
            Err(error) => {
                assert!(matches!(error, JournalError::Full(_)) && error.to_string().contains("make room"));
                continue;
            }
        };
        let mut kept = 0;
        let error = loop {
            match journal.append(&items(kept + 1..=kept + 20)) {
                Ok(()) => kept += 20,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, JournalError::Full(_)), "{error}");
        assert!(journal.append(&items(kept + 1..=kept + 1)).is_err(), "not before it is healed");
        assert!(matches!(journal.heal(kept + 1), Err(JournalError::Full(_))), "no room, no health");
        let room_again = |room| disk.0.lock().unwrap().room = room;
        room_again(Some(SMALL - 1));
        assert!(matches!(journal.heal(kept + 1), Err(JournalError::Full(_))), "too little");
        room_again(None);
        journal.heal(kept + 1).unwrap();
        journal.append(&items(kept + 1..=kept + 5)).unwrap();
        drop(journal);
        assert_eq!(open().unwrap().1.items, items(1..=kept + 5), "room for {room}");
        kept_once |= kept > 0;
    }
    assert!(kept_once);
}

#[test]
fn short_writes_are_finished() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    disk.0.lock().unwrap().write_max = Some(37);
    let (mut journal, _) = Journal::open_on(Box::new(disk.clone()), folder.path(), 0, SMALL).unwrap();
    live(&mut journal);
    drop(journal);
    assert_eq!(super::super::look(folder.path(), 200).unwrap().items, items(201..=240));
}

/// What happens in a random story.
#[derive(Debug, Clone)]
enum Step {
    Append(u64, usize),
    Free(u64),
    Scrub,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..40u64, 1..600usize).prop_map(|(count, words)| Step::Append(count, words)),
        2 => (0..60u64).prop_map(Step::Free),
        1 => Just(Step::Scrub),
    ];
    prop::collection::vec(step, 1..25)
}

fn group(from: Lsn, count: u64, words: usize) -> Vec<Item> {
    (from..from + count).map(|lsn| item(lsn, &"w".repeat(words + (lsn % 7) as usize))).collect()
}

/// All that was ever acknowledged, and what was under way.
#[derive(Default)]
struct Model {
    kept: Vec<Item>,
    under_way: Vec<Item>,
    freed: Lsn,
}

/// Plays the steps until the disk does nothing any more.
fn play(journal: &mut Journal, model: &mut Model, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Append(count, words) => {
                let group = group(journal.next(), *count, *words);
                if journal.append(&group).is_err() {
                    model.under_way = group;
                    return;
                }
                model.kept.extend(group);
            }
            Step::Free(back) => {
                model.freed = model.freed.max((model.kept.len() as u64).saturating_sub(*back));
                journal.free(model.freed);
            }
            Step::Scrub => journal.scrub(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A machine that stops at any operation, twice: what is found is dense, has all that was acknowledged, and
    /// beyond that at most a beginning of what was under way.
    #[test]
    fn a_crash_leaves_what_was_acknowledged(
        first in steps(),
        second in steps(),
        stops in (5..400u64, 0..400u64),
        seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let mut random = seed | 1;
        let mut coin = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 40 & 1 == 1
        };
        for (steps, stop) in [(&first, stops.0), (&second, stops.1)] {
            let disk = FaultyDisk::default();
            disk.0.lock().unwrap().operations_left = Some(stop);
            // The archive has at least what was freed, and may have more.
            let after = model.freed;
            if let Ok((mut journal, found)) =
                Journal::open_on(Box::new(disk.clone()), folder.path(), after, SMALL)
            {
                let beyond = model.kept.len();
                let all: Vec<Item> =
                    model.kept.iter().chain(&model.under_way).filter(|item| item.lsn > after).cloned().collect();
                prop_assert!(found.items.len() + after as usize >= beyond);
                prop_assert_eq!(&found.items[..], &all[..found.items.len()]);
                prop_assert_eq!(&found.lost, &vec![]);
                model.kept.truncate(after as usize);
                model.kept.extend(found.items);
                model.under_way.clear();
                play(&mut journal, &mut model, steps);
            }
            disk.crash(&mut coin);
        }
        let found = Journal::open(folder.path(), model.freed).unwrap().1;
        let all: Vec<Item> =
            model.kept.iter().chain(&model.under_way).filter(|item| item.lsn > model.freed).cloned().collect();
        prop_assert!(found.items.len() + model.freed as usize >= model.kept.len());
        prop_assert_eq!(&found.items[..], &all[..found.items.len()]);
        prop_assert_eq!(found.lost, vec![]);
    }
}
