//! Stories of the list of what leaves, that hold for every archive.

use roomcast::chat::entry::Kind;
use roomcast::store::archive::Keep;
use roomcast::store::outgoing::{BEFORE_ALL, Leaves, Leaving, Listed, Listener, Number};
use roomcast::store::record::Record;

use super::{Stage, entry, said};

/// From now on the entries of team rooms are listed for these; where each stands.
fn begin(store: &mut Stage, listeners: &[(&str, bool)]) -> Vec<Number> {
    let listener =
        |(name, from_first): &(&str, bool)| Listener { name: (*name).into(), from_first: *from_first };
    let leaving = Leaving {
        leaves: Leaves::new(|room| room.as_str().starts_with("team")),
        listeners: listeners.iter().map(listener).collect(),
        newest: store.lsn,
    };
    store.archive().begin_outgoing(leaving).unwrap()
}

fn listed(store: &mut Stage, place: Number) -> Vec<Listed> {
    store.archive().outgoing().unwrap().after(place, 1_000, 1 << 20).unwrap()
}

/// Room and offset of each.
fn places(store: &mut Stage, place: Number) -> Vec<(String, u64)> {
    let list = listed(store, place);
    assert!(list.is_sorted_by_key(|listed| listed.number), "{list:?}");
    list.into_iter().map(|listed| (listed.room.as_str().to_owned(), listed.offset)).collect()
}

fn note(store: &mut Stage, name: &str, upto: Number) {
    store.archive().note_outgoing(&[(name.to_owned(), upto)]).unwrap();
}

fn of(room: &str, offsets: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    offsets.into_iter().map(|offset| (room.to_owned(), offset)).collect()
}

pub fn what_leaves_is_listed_until_all_have_it(mut store: Stage) {
    store.put([Record::Entry(said("team", 1, "before"))]);
    let new = begin(&mut store, &[("fast", false), ("slow", false)]);
    assert_eq!(new, [1, 1], "behind what is there");
    store.put([Record::Entry(said("team", 2, "a")), Record::Entry(said("lobby", 1, "b"))]);
    store.put([Record::Entry(said("team", 3, "c"))]);
    assert_eq!(places(&mut store, 1), of("team", [2, 3]));
    let list = listed(&mut store, 1);
    assert_eq!(list.iter().map(|listed| listed.number).collect::<Vec<_>>(), [2, 4], "those of the records");
    let standing = list[0].entry.as_ref().unwrap();
    assert_eq!(standing.line.as_deref(), Some(&said("team", 2, "a").line[..]));
    assert_eq!((standing.epoch, standing.ts), (said("team", 2, "a").epoch, 2_000));
    let reader = &mut store.archive().outgoing().unwrap();
    assert_eq!((reader.waiting(1).unwrap(), reader.waiting(2).unwrap()), (2, 1));
    assert_eq!(reader.after(1, 1, 1 << 20).unwrap().len(), 1, "no more than was asked for");
    assert_eq!(reader.after(1, 9, 1).unwrap().len(), 1, "nor many more bytes");

    note(&mut store, "fast", 4);
    assert_eq!(places(&mut store, 1), of("team", [2, 3]), "the slow one has nothing yet");
    note(&mut store, "slow", 2);
    assert_eq!(places(&mut store, BEFORE_ALL), of("team", [3]));
    note(&mut store, "slow", 1);
    store.reopen();
    assert_eq!(begin(&mut store, &[("slow", false), ("fast", true)]), [2, 4], "nobody goes back");
    note(&mut store, "slow", 4);
    assert!(places(&mut store, BEFORE_ALL).is_empty());
}

pub fn a_listener_from_the_first_gets_what_is_there(mut store: Stage) {
    store.put((1..=3).map(|n| Record::Entry(said("team", n, "old"))));
    store.put((1..=2).map(|n| Record::Entry(said("team-2", n, "old"))));
    store.put([Record::Entry(said("lobby", 1, "old"))]);
    begin(&mut store, &[("new", false)]);
    store.put([Record::Entry(said("team", 4, "new"))]);
    let places_of = |store: &mut Stage, name: &str| -> Vec<u64> {
        let all = places(store, BEFORE_ALL);
        all.into_iter().filter(|(room, _)| room == name).map(|(_, offset)| offset).collect()
    };
    let stands = begin(&mut store, &[("new", false), ("first", true)]);
    assert_eq!(stands, [6, BEFORE_ALL]);
    assert_eq!(
        (places_of(&mut store, "team"), places_of(&mut store, "team-2")),
        (vec![1, 2, 3, 4], vec![1, 2])
    );
    assert_eq!(places(&mut store, 6), of("team", [4]), "the old ones are before all new ones");
    // Half of that is done, and one more comes who wants all.
    let half = listed(&mut store, BEFORE_ALL)[2].number;
    note(&mut store, "first", half);
    note(&mut store, "new", 7);
    assert_eq!(places(&mut store, BEFORE_ALL).len(), 3);
    let stands = begin(&mut store, &[("first", true), ("third", true)]);
    assert_eq!(stands, [half, BEFORE_ALL]);
    assert_eq!(
        (places_of(&mut store, "team"), places_of(&mut store, "team-2")),
        (vec![1, 2, 3, 4], vec![1, 2])
    );
    assert_eq!(places(&mut store, half).len(), 3, "who was further sees nothing twice");
}

pub fn what_a_room_forgets_stays_listed_without_its_words(mut store: Stage) {
    begin(&mut store, &[("one", false)]);
    store.put((1..=4).map(|n| Record::Entry(said("team", n, "word"))));
    store.put([
        Record::Entry(entry("team", 5, Kind::Edit, 4, "first")),
        Record::Entry(said("team", 6, "word")),
    ]);
    store.put([Record::Entry(entry("team", 7, Kind::Edit, 4, "second"))]);
    let keep = |_: &str| Keep { age_ms: 1, bytes: 0, pin: false, ids_ms: u64::MAX };
    while store.archive().forget(&keep, 4_001).unwrap().more {}
    let list = listed(&mut store, 0);
    let there: Vec<bool> = list.iter().map(|listed| listed.entry.is_some()).collect();
    assert_eq!(there, [false, false, false, true, true, true, true]);
    let line = |at: usize| list[at].entry.as_ref().unwrap().line.as_deref();
    assert!(line(3).unwrap().windows(6).any(|bytes| bytes == b"second"), "as it is now");
    assert_eq!(line(4), None, "an edit that was replaced");
    assert!(line(6).is_some());
}

pub fn numbers_that_come_again_leave_again(mut store: Stage) {
    begin(&mut store, &[("one", false), ("two", false)]);
    store.put((1..=3).map(|n| Record::Entry(said("team", n, "a"))));
    note(&mut store, "one", 3);
    note(&mut store, "two", 1);
    // Somebody had noted more than the archive has, and the journal with the rest is gone.
    note(&mut store, "one", 9);
    assert_eq!(begin(&mut store, &[("one", false), ("two", false)]), [3, 1]);
    store.put([Record::Entry(said("team", 4, "b"))]);
    note(&mut store, "two", 3);
    assert_eq!(places(&mut store, 3), of("team", [4]));
}

pub fn without_listeners_nothing_is_listed(mut store: Stage) {
    begin(&mut store, &[("one", false)]);
    store.put([Record::Entry(said("team", 1, "a"))]);
    assert!(begin(&mut store, &[]).is_empty());
    store.put([Record::Entry(said("team", 2, "b"))]);
    assert_eq!(begin(&mut store, &[("one", false)]), [2], "he is a new one");
    assert!(places(&mut store, BEFORE_ALL).is_empty());
}
