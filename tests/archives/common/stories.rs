//! Stories that hold for every archive.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;
use roomcast::chat::entry::Kind;
use roomcast::chat::history::PageFrom;
use roomcast::chat::message::Offset;
use roomcast::chat::names::MessageId;
use roomcast::store::archive::{Answer, ArchiveError, Question};
use roomcast::store::record::{Item, Record};

use super::chance::{Chance, ROOMS};
use super::model::Model;
use super::{Stage, all_of, entry, find, offsets, room, said, user, with_id};

pub fn every_answer_is_that_of_a_plain_model(mut store: Stage) {
    let (mut chance, mut model) = (Chance::new(), Model::default());
    let mut applied: Vec<Item> = Vec::new();
    for round in 0..60 {
        let n = chance.random.random_range(1..80);
        let records: Vec<Record> = (0..n).map(|_| chance.record()).collect();
        records.iter().for_each(|record| model.apply(record));
        // Some records come again, as after a crash.
        let again = applied.len().saturating_sub(chance.random.random_range(0..20));
        let mut batch = applied.split_off(again);
        batch.extend(store.items(records));
        store.archive().append(&batch).unwrap();
        applied = batch;
        if round % 7 == 6 {
            let lsn = store.lsn;
            assert_eq!(store.archive().checkpoint().unwrap(), lsn);
        }
        if round % 20 == 19 {
            store.reopen();
            let lsn = store.lsn;
            assert_eq!(store.archive().applied(), lsn);
        }
        let mut reader = store.reader();
        for _ in 0..60 {
            let question = chance.question();
            assert_eq!(reader.answer(&question).unwrap(), model.answer(&question), "{question:?}");
        }
    }
    for name in ROOMS {
        let question = all_of(name);
        assert_eq!(store.ask(&question), model.answer(&question), "{name}");
    }
}

pub fn what_was_applied_is_there_after_a_reopen(mut store: Stage) {
    store.put([said("a", 1, "one"), said("a", 2, "two")].map(Record::Entry));
    store.reopen();
    assert_eq!(store.archive().applied(), 2);
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 2]);
    assert_eq!(offsets(store.ask(&find("a", "two"))), [2]);
}

pub fn a_hole_is_kept_as_a_hole_and_can_be_filled(mut store: Stage) {
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

pub fn another_entry_at_a_place_that_is_taken_is_an_error(mut store: Stage) {
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
    let ArchiveError(text) = store.archive().append(&items).unwrap_err();
    assert!(text.contains("room a has another entry at offset 1"), "{text}");
}

pub fn an_id_is_found_at_its_place_and_in_its_room_only(mut store: Stage) {
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

pub fn readers_always_see_whole_transactions(mut store: Stage) {
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
                store.archive().checkpoint().unwrap();
            }
        }
        done.store(true, Ordering::Release);
        for thread in threads {
            assert!(thread.join().unwrap() >= 10);
        }
    });
    assert_eq!(offsets(store.ask(&all)).len(), 2_000);
}

pub fn what_comes_and_goes_in_one_transaction_was_never_found(mut store: Stage) {
    store.put([
        Record::Entry(said("a", 1, "oneshortlivedword")),
        Record::Entry(entry("a", 2, Kind::Edit, 1, "another")),
        Record::Entry(said("a", 3, "secondshortlivedword")),
        Record::Entry(entry("a", 4, Kind::Delete, 3, "")),
    ]);
    assert_eq!(offsets(store.ask(&find("a", "another"))), [1]);
    assert_eq!(offsets(store.ask(&find("a", "oneshort"))), [0; 0]);
    assert_eq!(offsets(store.ask(&find("a", "secondshort"))), [0; 0]);
}

pub fn long_pages_come_whole(mut store: Stage) {
    store.put((1..=1_500).map(|n| Record::Entry(said("a", n, &"x".repeat((n % 50) as usize)))));
    store.put([Record::Entry(entry("a", 1_501, Kind::Edit, 700, "y"))]);
    store.put([Record::Entry(entry("a", 1_502, Kind::Edit, 700, "z"))]);
    let page = |from, n, bytes| {
        let answer = store.ask(&Question::Page { room: room("a"), from, n, bytes });
        let Answer::Entries { more, .. } = answer else { panic!("another answer") };
        (offsets(answer), more)
    };
    assert_eq!(page(PageFrom::After(10), 1_000, 1 << 20), ((11..=1_010).collect(), true));
    assert_eq!(page(PageFrom::After(502), 1_000, 1 << 20), ((503..=1_502).collect(), false));
    assert_eq!(page(PageFrom::Before(1_503), 256, 1 << 20), ((1_247..=1_502).collect(), true));
    assert_eq!(page(PageFrom::Before(257), 256, 1 << 20), ((1..=256).collect(), false));
    let Answer::Entries { list, .. } = store.ask(&all_of("a")) else { panic!("another answer") };
    let size = |from: usize, to: usize| -> usize {
        list[from - 1..to].iter().map(|entry| entry.line.as_ref().map_or(0, |line| line.len())).sum()
    };
    assert_eq!(page(PageFrom::After(0), 2_000, size(1, 600)), ((1..=600).collect(), true));
    assert_eq!(page(PageFrom::After(0), 2_000, size(1, 600) - 1), ((1..=599).collect(), true));
    assert_eq!(page(PageFrom::After(0), 2_000, size(1, 1_502)), ((1..=1_502).collect(), false));
    assert_eq!(page(PageFrom::Before(2_000), 2_000, size(1_000, 1_502)), ((1_000..=1_502).collect(), true));
    assert_eq!(page(PageFrom::Before(2_000), 2_000, 0), (vec![1_502], true));
}

pub fn a_word_is_found_far_back_and_in_its_room_only(mut store: Stage) {
    for batch in 0..5 {
        let words = |n: u64| if n.is_multiple_of(1_000) { "a needle in hay" } else { "nothing but hay" };
        store.put((1..=1_000).map(|n| Record::Entry(said("a", batch * 1_000 + n, words(n)))));
        store.put((1..=1_000).map(|n| Record::Entry(said("b", batch * 1_000 + n, "a needle each time"))));
    }
    assert_eq!(offsets(store.ask(&find("a", "needle"))), [1_000, 2_000, 3_000, 4_000, 5_000]);
    assert_eq!(offsets(store.ask(&find("a", "hay need"))), [1_000, 2_000, 3_000, 4_000, 5_000]);
    let newest = |before, n| {
        let words = "needle".into();
        offsets(store.ask(&Question::Find { room: room("a"), words, before, n, bytes: 1 << 20 }))
    };
    assert_eq!(
        (newest(4_000, 2), newest(1_000, 2), newest(u64::MAX, 1)),
        (vec![2_000, 3_000], vec![], vec![5_000])
    );
    assert_eq!(offsets(store.ask(&find("a", "hay"))), (4_901..=5_000).collect::<Vec<_>>());
    store.put([Record::Entry(entry("a", 5_001, Kind::Delete, 1_000, ""))]);
    store.put([Record::Entry(entry("a", 5_002, Kind::Edit, 2_000, "straw"))]);
    assert_eq!(offsets(store.ask(&find("a", "needle"))), [3_000, 4_000, 5_000]);
    assert_eq!(offsets(store.ask(&find("a", "stra"))), [2_000]);
}

pub fn nothing_that_is_typed_is_syntax(mut store: Stage) {
    store.put([
        Record::Entry(said("a", 1, "it's 100% \\ \"quoted\" a|b !c d:* <-> and the rest")),
        Record::Entry(said("a", 2, "nul \u{0} and \u{1f600} emoji 東京都")),
    ]);
    for (typed, found) in [
        ("it's", vec![1]),
        ("'", vec![]),
        ("\\", vec![]),
        ("quoted\" OR x", vec![]),
        ("a & b", vec![1]),
        ("!rest", vec![1]),
        ("d:*", vec![1]),
        ("<->", vec![]),
        ("'); DROP TABLE entries; --", vec![]),
        ("%", vec![]),
        ("nul \u{0} and", vec![2]),
        ("東京", vec![2]),
        ("京都", vec![2]),
        ("東都", vec![]),
    ] {
        assert_eq!(offsets(store.ask(&find("a", typed))), found, "{typed}");
    }
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 2]);
}
