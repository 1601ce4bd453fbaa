//! Stories of what rooms need not keep, that hold for every archive.

use roomcast::chat::entry::Kind;
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::MessageId;
use roomcast::store::archive::{Answer, Forgotten, Keep, Question, StoredRoom};
use roomcast::store::record::{Cursor, ReadMark, Record, Seen, SessionNote};

use super::{Stage, all_of, entry, find, offsets, room, said, user};

const FOR_EVER: Keep = Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX };
const DAY: u64 = 24 * 3_600_000;

/// Steps until a walk over all rooms has found no more; what was told.
fn forget(store: &mut Stage, keep: &dyn Fn(&str) -> Keep, now: u64) -> Vec<(String, Offset)> {
    let mut told = Vec::new();
    loop {
        let Forgotten { rooms, more } = store.archive().forget(keep, now).unwrap();
        told.extend(rooms.into_iter().map(|(room, first)| (room.as_str().to_owned(), first)));
        if !more {
            return told;
        }
    }
}

fn room_of(store: &Stage, name: &str) -> StoredRoom {
    let question = Question::Room { room: room(name), tail: 5, tail_bytes: 1 << 20 };
    let Answer::Room(Some(room)) = store.ask(&question) else { panic!("{name} is not there") };
    room
}

fn first(store: &Stage, name: &str) -> Offset {
    room_of(store, name).first
}

pub fn entries_go_by_age_and_a_room_never_gives_an_offset_twice(mut store: Stage) {
    store.put((1..=500).map(|n| Record::Entry(said("short", n, "word"))));
    store.put((1..=500).map(|n| Record::Entry(said("long", n, "word"))));
    let keep = |name: &str| if name == "short" { Keep { age_ms: 100_000, ..FOR_EVER } } else { FOR_EVER };
    assert_eq!(forget(&mut store, &keep, 100_000), [], "nothing is too old yet");

    let told = forget(&mut store, &keep, 300_000);
    assert_eq!(told.last().unwrap(), &("short".to_owned(), 200), "199 s are older than 100 s at 300 s");
    assert_eq!((first(&store, "short"), first(&store, "long")), (200, 1));
    assert_eq!(offsets(store.ask(&all_of("short"))), (200..=500).collect::<Vec<_>>());
    assert_eq!(offsets(store.ask(&find("short", "word"))), (401..=500).collect::<Vec<_>>());

    forget(&mut store, &keep, 10_000_000);
    let empty = room_of(&store, "short");
    assert_eq!((empty.first, empty.top, empty.tail.len()), (501, 500, 0));
    assert_eq!(empty.lineage, [(Epoch(7), 1)], "the row stays");
    store.put([Record::Entry(said("short", 501, "again"))]);
    assert_eq!(first(&store, "short"), 501);
    assert_eq!(offsets(store.ask(&all_of("short"))), [501]);
    assert_eq!(forget(&mut store, &keep, 0), [], "a clock that was set back forgets nothing");
}

pub fn a_pinned_entry_stays_whatever_its_age(mut store: Stage) {
    store.put((1..=50).map(|n| Record::Entry(said("news", n, "word"))));
    forget(&mut store, &|_| Keep { age_ms: 0, pin: true, ..FOR_EVER }, DAY);
    assert_eq!(offsets(store.ask(&all_of("news"))), [50], "the newest alone");
    store.put([Record::Entry(said("news", 51, "newer"))]);
    forget(&mut store, &|_| Keep { age_ms: 0, pin: true, ..FOR_EVER }, DAY);
    assert_eq!(offsets(store.ask(&all_of("news"))), [51]);
}

pub fn entries_go_by_bytes_of_a_room(mut store: Stage) {
    store.put((1..=300).map(|n| Record::Entry(said("a", n, "word"))));
    let bytes: Vec<u64> = (1..=300).map(|n| said("a", n, "word").line.len() as u64).collect();
    let newest_100: u64 = bytes[200..].iter().sum();
    forget(&mut store, &|_| Keep { bytes: newest_100, ..FOR_EVER }, 0);
    assert_eq!(first(&store, "a"), 201);
    forget(&mut store, &|_| Keep { bytes: newest_100 - 1, ..FOR_EVER }, 0);
    assert_eq!(first(&store, "a"), 202, "one byte too many is one entry");

    // An edit and a delete change what a room weighs, and the count follows.
    store.put([
        Record::Entry(entry("a", 301, Kind::Edit, 250, "a few more words than before")),
        Record::Entry(entry("a", 302, Kind::Edit, 250, "less")),
        Record::Entry(entry("a", 303, Kind::Delete, 251, "")),
        Record::Entry(entry("a", 304, Kind::Delete, 250, "")),
    ]);
    let Answer::Entries { list, .. } = store.ask(&all_of("a")) else { panic!("another answer") };
    let weighs: u64 = list.iter().filter_map(|entry| entry.line.as_ref()).map(|line| line.len() as u64).sum();
    forget(&mut store, &|_| Keep { bytes: weighs, ..FOR_EVER }, 0);
    assert_eq!(first(&store, "a"), 202);
    forget(&mut store, &|_| Keep { bytes: weighs - 1, ..FOR_EVER }, 0);
    assert_eq!(first(&store, "a"), 203);
}

pub fn what_hangs_on_forgotten_entries_goes_with_them(mut store: Stage) {
    let mut react = entry("a", 2, Kind::React, 1, "");
    react.mark = Some("+1".into());
    let id = |ts| {
        let id = MessageId::new(&format!("id-{ts}")).unwrap();
        Record::Seen(Seen { room: room("a"), user: None, id, ts })
    };
    let session = |name: &str, ts| {
        let rooms = vec![Cursor { room: room("a"), epoch: Epoch(7), offset: 1, quiet: false }];
        Record::Session(SessionNote { session: name.into(), user: user("ann"), ts, rooms })
    };
    store.put([
        Record::Entry(said("a", 1, "word")),
        Record::Entry(react),
        Record::Read(ReadMark { room: room("a"), user: user("ann"), offset: 2, ts: 5 }),
        id(1000),
        id(2000),
        session("old", DAY),
        session("young", 2 * DAY),
    ]);
    let seen = |store: &Stage, ts: u64| {
        let id = MessageId::new(&format!("id-{ts}")).unwrap();
        store.ask(&Question::Id { room: room("a"), user: None, id }) != Answer::Place(None)
    };
    let entry_of = |store: &Stage, offset| {
        let Answer::Entry(entry) =
            store.ask(&Question::Entry { room: room("a"), offset, user: Some(user("ann")) })
        else {
            panic!("another answer")
        };
        entry
    };
    assert!(seen(&store, 1000) && seen(&store, 2000));
    assert_eq!(entry_of(&store, 1).unwrap().reactions.len(), 1);
    forget(&mut store, &|_| Keep { ids_ms: 500, ..FOR_EVER }, 2_400);
    assert!(!seen(&store, 1000) && seen(&store, 2000));
    forget(&mut store, &|_| Keep { age_ms: DAY, ..FOR_EVER }, 31 * DAY + 1);
    assert_eq!((entry_of(&store, 1), entry_of(&store, 2)), (None, None));
    assert_eq!(store.ask(&Question::Session("old".into())), Answer::Session(None));
    assert!(matches!(store.ask(&Question::Session("young".into())), Answer::Session(Some(_))));
    assert_eq!(store.ask(&Question::ReadMark { room: room("a"), user: user("ann") }), Answer::ReadMark(2));
}

pub fn many_rooms_are_walked_in_steps_and_each_is_seen(mut store: Stage) {
    let name = |n: u64| format!("room-{n}");
    store.put((0..5_000).map(|n| Record::Entry(said(&name(n), 1, "x"))));
    let calls = std::cell::Cell::new(0);
    let keep = |name: &str| {
        calls.set(calls.get() + 1);
        if name.ends_with('7') { Keep { age_ms: 0, ..FOR_EVER } } else { FOR_EVER }
    };
    let mut told = forget(&mut store, &keep, DAY);
    assert!(calls.get() >= 5_000 && calls.get() < 7_000, "each room about once, not {}", calls.get());
    told.sort();
    let mut expected: Vec<(String, Offset)> = (0..500).map(|n| (name(10 * n + 7), 2)).collect();
    expected.sort();
    assert_eq!(told, expected);
}
