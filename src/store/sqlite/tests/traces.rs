//! Deleted words are nowhere in the files.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::archive::Keep;

/// A word that the index has to keep whole, and that nothing else has a part of.
fn secret(random: &mut StdRng) -> String {
    (0..20).map(|_| random.sample(rand::distr::Alphanumeric) as char).collect::<String>().to_lowercase()
}

/// Which of these words have left something in the files. The index keeps a word without what it has in common
/// with the word before it, so the end of a word is looked for.
fn traces<'a>(store: &Store, words: &'a [String]) -> Vec<&'a String> {
    let bytes = store.bytes();
    let ends: std::collections::HashMap<&[u8], &String> =
        words.iter().map(|word| (&word.as_bytes()[8..], word)).collect();
    bytes.windows(12).filter_map(|window| ends.get(window).copied()).collect()
}

#[test]
fn deleted_and_replaced_words_leave_no_trace_in_any_file() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("SEED={seed}");
    deleted_and_replaced_words_leave_no_trace(seed);
}

/// With these chances SQLite moves a row of the index to another page, and what it leaves in the old one is not used again.
#[test]
fn what_was_moved_leaves_no_trace_where_it_was() {
    deleted_and_replaced_words_leave_no_trace(6889928806159194509);
}

fn deleted_and_replaced_words_leave_no_trace(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::new();
    // Many transactions, so that the index has segments on several levels and merges them.
    let (mut secrets, mut kept, mut offset) = (Vec::new(), Vec::new(), 0);
    for _ in 0..120 {
        let mut records = Vec::new();
        for _ in 0..20 {
            offset += 1;
            let word = secret(&mut random);
            records.push(Record::Entry(said("a", offset, &format!("some more words and {word} here"))));
            if offset % 2 == 0 { kept.push(word) } else { secrets.push((offset, word)) }
        }
        store.put(records);
    }
    let words: Vec<String> = secrets.iter().map(|(_, word)| word.clone()).collect();
    store.archive.checkpoint().unwrap();
    assert!(traces(&store, &words).len() >= 2 * words.len(), "lines and index have them before");

    // Half of them are edited, twice and again to be deleted; the others are deleted at once.
    secrets.shuffle(&mut random);
    let mut between = Vec::new();
    for (n, (of, _)) in secrets.iter().enumerate() {
        let mut records = Vec::new();
        let mut change = |kind, words: &str| {
            offset += 1;
            records.push(Record::Entry(entry("a", offset, kind, *of, words)));
        };
        if n % 2 == 0 {
            for _ in 0..2 {
                between.push(secret(&mut random));
                change(Kind::Edit, between.last().unwrap());
            }
            change(Kind::Edit, "harmless");
        }
        if n % 4 != 0 {
            change(Kind::Delete, "");
        }
        store.put(records);
        if n % 100 == 0 {
            store.archive.checkpoint().unwrap();
        }
    }
    assert_eq!(store.archive.checkpoint().unwrap(), store.lsn);
    assert_eq!(traces(&store, &words), Vec::<&String>::new());
    assert_eq!(traces(&store, &between), Vec::<&String>::new());
    for (n, word) in kept.iter().enumerate().step_by(50) {
        assert_eq!(
            offsets(store.ask(&find("a", word))),
            [2 * (n as Offset + 1)],
            "the others are still found"
        );
    }
    let Question::Find { room, words, before, bytes, .. } = find("a", "harmless") else { unreachable!() };
    let found = offsets(store.ask(&Question::Find { room, words, before, bytes, n: secrets.len() }));
    assert_eq!(found.len(), secrets.len().div_ceil(4));
    let sound = "INSERT INTO words (words, rank) VALUES ('integrity-check', 0)";
    store.archive.db.execute(sound, []).unwrap();
}

#[test]
fn what_comes_and_goes_in_one_transaction_was_never_in_the_index() {
    let mut store = Store::new();
    store.put([
        Record::Entry(said("a", 1, "oneshortlivedword")),
        Record::Entry(entry("a", 2, Kind::Edit, 1, "another")),
        Record::Entry(said("a", 3, "secondshortlivedword")),
        Record::Entry(entry("a", 4, Kind::Delete, 3, "")),
    ]);
    store.archive.checkpoint().unwrap();
    assert!(!store.has("shortlivedword"));
    assert_eq!(offsets(store.ask(&find("a", "another"))), [1]);
}

#[test]
fn forgotten_words_leave_no_trace_either() {
    let mut store = Store::new();
    for batch in 0..50 {
        store.put((1..=20).map(|n| Record::Entry(said("a", batch * 20 + n, "thisisforgottenlater"))));
    }
    assert!(store.has("thisisforgottenlater"));
    let keep = |_: &str| Keep { age_ms: 0, bytes: 0, pin: false, ids_ms: 0 };
    while store.archive.forget(&keep, 10_000_000).unwrap().more {}
    store.archive.checkpoint().unwrap();
    assert!(!store.has("isforgottenlater"));

    // What a user deletes after that is overwritten at once, as before.
    store.put([Record::Entry(said("a", 1001, "thisisdeletedlater"))]);
    store.archive.checkpoint().unwrap();
    assert!(store.has("isdeletedlater"));
    store.put([Record::Entry(entry("a", 1002, Kind::Delete, 1001, ""))]);
    store.archive.checkpoint().unwrap();
    assert!(!store.has("isdeletedlater"));
}

#[test]
fn words_of_few_forgotten_entries_are_marked_until_they_are_many() {
    let mut store = Store::new();
    for batch in 0..50 {
        store.put((1..=20).map(|n| Record::Entry(said("a", batch * 20 + n, "thisisforgottenlater"))));
    }
    let marked = |store: &Store| -> i64 {
        let sql = "SELECT value FROM meta WHERE key = 'marked'";
        store.archive.db.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let mut forget_before = |now| {
        let keep = |_: &str| Keep { age_ms: 0, bytes: 0, pin: false, ids_ms: 0 };
        while store.archive.forget(&keep, now).unwrap().more {}
        (marked(&store), offsets(store.ask(&find("a", "thisisforgottenlater"))).len())
    };
    assert_eq!(forget_before(100_000), (99, 100), "99 of 1,000: they are not found, and wait");
    assert_eq!(forget_before(201_000), (0, 100), "200 of 1,000 are a fifth");
}

#[test]
fn a_reader_cannot_hold_up_a_checkpoint() {
    let mut store = Store::new();
    store.put([Record::Entry(said("a", 1, "thefirstsecret"))]);
    let reader = rusqlite::Connection::open(store.path()).unwrap();
    let state = reader.unchecked_transaction().unwrap();
    let count = || -> i64 { state.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap() };
    assert_eq!(count(), 1);

    store.put([Record::Entry(entry("a", 2, Kind::Delete, 1, ""))]);
    assert_eq!(store.archive.checkpoint().unwrap(), 2, "durable in the log, which the reader keeps long");
    assert_eq!(count(), 1, "the reader sees its own state");
    assert!(store.has("thefirstsecret"), "and that has the word");

    state.finish().unwrap();
    assert_eq!(store.archive.checkpoint().unwrap(), 2);
    assert!(!store.has("thefirstsecret"), "the next checkpoint makes good for it");
}
