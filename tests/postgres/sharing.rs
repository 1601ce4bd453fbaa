//! Several nodes with one archive: positions, repeats, logs that are taken back.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::{Epoch, Offset};
use roomcast::store::archive::{Answer, Keep, Position, Question, SharedArchive, StoredRoom};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::record::{Cursor, ReadMark, Record, RoomRules, SessionNote};

use crate::common::{all_of, entry, find, offsets, room, said, user};
use crate::server::Database;

const START: Position = Position { epoch: 0, n: 0 };

fn at(epoch: u64, n: u64) -> Position {
    Position { epoch, n }
}

fn open(database: &Database) -> PostgresArchive {
    PostgresArchive::open_shared(&database.url()).unwrap()
}

fn under(epoch: u64, mut entry: Entry) -> Entry {
    entry.epoch = Epoch(epoch);
    entry
}

fn ask(archive: &PostgresArchive, question: &Question) -> Answer {
    SharedArchive::reader(archive).unwrap().answer(question).unwrap()
}

fn room_of(archive: &PostgresArchive, name: &str) -> StoredRoom {
    let question = Question::Room { room: room(name), tail: 0, tail_bytes: 0 };
    let Answer::Room(Some(room)) = ask(archive, &question) else { panic!("{name} is not there") };
    room
}

/// The words at each place of a room.
fn log(archive: &PostgresArchive, name: &str) -> Vec<(Offset, String)> {
    let Answer::Entries { list, .. } = ask(archive, &all_of(name)) else { panic!("another answer") };
    let words = |line: Bytes| serde_json::from_slice::<serde_json::Value>(&line).unwrap()["d"].to_string();
    list.into_iter().map(|e| (e.offset, e.line.map(words).unwrap_or_default())).collect()
}

#[test]
fn a_partition_moves_on_only_from_where_it_stands() {
    let database = Database::new();
    let (mut one, mut two) = (open(&database), open(&database));
    assert_eq!(one.positions().unwrap(), []);
    assert!(one.append_shared(3, START, at(5, 2), &[under(5, said("a", 1, "one"))]).unwrap());
    assert!(
        !two.append_shared(3, START, at(5, 9), &[under(5, said("a", 2, "two"))]).unwrap(),
        "it has moved"
    );
    assert!(two.append_shared(3, at(5, 2), at(5, 3), &[under(5, said("a", 2, "two"))]).unwrap());
    assert!(!one.append_shared(3, at(5, 2), at(5, 4), &[under(5, said("a", 3, "x"))]).unwrap());
    assert!(two.append_shared(7, START, at(5, 1), &[]).unwrap(), "a partition of its own");
    assert_eq!(one.positions().unwrap(), [(3, at(5, 3)), (7, at(5, 1))]);
    assert_eq!(offsets(ask(&one, &all_of("a"))), [1, 2], "what came too late was not written");
    assert!(
        two.append_shared(3, at(5, 2), at(5, 3), &[under(5, said("a", 2, "two"))]).unwrap(),
        "the call that was taken last is taken as done"
    );
    assert_eq!(offsets(ask(&one, &all_of("a"))), [1, 2]);
}

#[test]
fn the_same_entries_again_change_nothing() {
    let database = Database::new();
    let mut archive = open(&database);
    let entries = [
        under(5, said("a", 1, "first words")),
        under(5, said("a", 2, "second")),
        under(5, entry("a", 3, Kind::Edit, 1, "better words")),
        under(5, entry("a", 4, Kind::Delete, 2, "")),
    ];
    assert!(archive.append_shared(0, START, at(5, 4), &entries).unwrap());
    let (before, rooms) = (log(&archive, "a"), database.sql("SELECT * FROM roomcast.rooms"));
    assert!(archive.append_shared(0, at(5, 4), at(5, 8), &entries).unwrap());
    assert!(archive.append_shared(0, at(5, 8), at(5, 9), &entries[1..2]).unwrap());
    assert_eq!((log(&archive, "a"), database.sql("SELECT * FROM roomcast.rooms")), (before, rooms));
    assert_eq!(offsets(ask(&archive, &find("a", "first"))), [0; 0]);
    assert_eq!(offsets(ask(&archive, &find("a", "better"))), [1]);
}

#[test]
fn a_newer_life_replaces_what_an_older_one_has_above_its_start() {
    let database = Database::new();
    let mut archive = open(&database);
    let old: Vec<Entry> = (1..=6).map(|n| under(5, said("a", n, &format!("old{n}")))).collect();
    let late = [
        under(5, entry("a", 7, Kind::Edit, 2, "changed by what is taken back")),
        under(5, entry("a", 8, Kind::React, 1, "")),
        under(5, said("b", 1, "other room")),
    ];
    archive.append_shared(0, START, at(5, 9), &[&old[..], &late].concat()).unwrap();
    assert_eq!(room_of(&archive, "a").lineage, [(Epoch(5), 1)]);

    let new = [
        under(6, said("a", 5, "new5")),
        under(6, entry("a", 6, Kind::Edit, 2, "new2")),
        under(5, said("a", 7, "late from the old life")),
        under(5, said("a", 3, "old3")),
    ];
    archive.append_shared(0, at(5, 9), at(6, 4), &new).unwrap();
    let quoted = |text: &str| format!("\"{text}\"");
    let expected: Vec<(Offset, String)> =
        [(1, "old1"), (2, "new2"), (3, "old3"), (4, "old4"), (5, "new5"), (6, "new2")]
            .map(|(n, text)| (n, quoted(text)))
            .into();
    assert_eq!(log(&archive, "a"), expected);
    let a = room_of(&archive, "a");
    assert_eq!((a.lineage, a.top, a.first), (vec![(Epoch(5), 1), (Epoch(6), 5)], 6, 1));
    assert_eq!(offsets(ask(&archive, &find("a", "old6"))), [0; 0], "what is taken back is not found");
    assert_eq!(offsets(ask(&archive, &find("a", "new5"))), [5]);
    let sums = "SELECT bytes = (SELECT sum(octet_length(line)) FROM roomcast.entries WHERE room = rooms.id) \
                FROM roomcast.rooms WHERE name = 'a'";
    assert_eq!(database.sql(sums), "t", "the room weighs what its lines do");
    assert_eq!(offsets(ask(&archive, &all_of("b"))), [1]);
}

/// A log with failovers by chance, as the stream of a partition has it, and what has to stand at the end.
#[test]
fn any_split_of_a_stream_with_repeats_gives_the_same_log() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..6 {
        let (mut stream, mut right): (Vec<Entry>, Vec<(Epoch, String)>) = (Vec::new(), Vec::new());
        let mut lineage: Vec<(Epoch, Offset)> = Vec::new();
        for epoch in 1..=5u64 {
            let back = random.random_range(0..=right.len().min(4));
            right.truncate(right.len() - back);
            for n in 0..random.random_range(1..15) {
                let (offset, words) = (right.len() as Offset + 1, format!("life{epoch} nr{n}"));
                if n == 0 {
                    lineage.retain(|(_, first)| *first < offset);
                    lineage.push((Epoch(epoch), offset));
                }
                stream.push(under(epoch, said("a", offset, &words)));
                right.push((Epoch(epoch), format!("\"{words}\"")));
            }
        }
        let database = Database::new();
        let mut archive = open(&database);
        let (mut done, mut stands, mut n) = (0, START, 0);
        while done < stream.len() {
            // Some come again, as after a crash of the node between its commit and its note of it.
            let from = done - random.random_range(0..=done.min(10));
            let to = random.random_range(done + 1..=stream.len());
            n += 1;
            assert!(archive.append_shared(1, stands, at(9, n), &stream[from..to]).unwrap());
            (done, stands) = (to, at(9, n));
        }
        let expected: Vec<(Offset, String)> =
            (1..).zip(right.iter().map(|(_, words)| words.clone())).collect();
        assert_eq!(log(&archive, "a"), expected);
        assert_eq!(room_of(&archive, "a").lineage, lineage);
        let epochs = database.sql("SELECT string_agg(e::text, ' ' ORDER BY s) FROM roomcast.entries");
        let right: Vec<String> = right.iter().map(|(epoch, _)| epoch.0.to_string()).collect();
        assert_eq!(epochs, right.join(" "));
    }
}

#[test]
fn notes_only_grow() {
    let database = Database::new();
    let (mut one, mut two) = (open(&database), open(&database));
    let read = |offset, ts| Record::Read(ReadMark { room: room("a"), user: user("ann"), offset, ts });
    let stood = |offset, ts| {
        let rooms = vec![Cursor { room: room("a"), epoch: Epoch(5), offset, quiet: false }];
        Record::Session(SessionNote { session: "s1".into(), user: user("ann"), ts, rooms })
    };
    one.note(&[read(7, 10), read(5, 20), stood(7, 10)]).unwrap();
    two.note(&[read(6, 30), stood(3, 5)]).unwrap();
    let mark = Question::ReadMark { room: room("a"), user: user("ann") };
    assert_eq!(ask(&one, &mark), Answer::ReadMark(7));
    let Answer::Session(Some(note)) = ask(&one, &Question::Session("s1".into())) else {
        panic!("no session")
    };
    assert_eq!((note.ts, note.rooms[0].offset), (10, 7), "what was noted later stays");
    two.note(&[read(8, 1), stood(9, 11)]).unwrap();
    assert_eq!(ask(&one, &mark), Answer::ReadMark(8));
    let error = one.note(&[Record::Entry(said("a", 1, "x"))]).unwrap_err();
    assert!(error.0.contains("append_shared"), "{error}");
}

#[test]
fn of_two_rules_of_a_room_those_of_the_later_change_count_in_whatever_order_they_come() {
    let database = Database::new();
    let (mut one, mut two) = (open(&database), open(&database));
    let rules = |name: &str, text: &str, version| RoomRules { room: room(name), text: text.into(), version };
    let (slow, slower) = (r#"{"slow":1}"#, r#"{"slow":2}"#);
    one.note(&[rules("a", slower, 7), rules("a", slow, 5), rules("b", slow, 6)].map(Record::Rules)).unwrap();
    two.note(&[rules("a", slow, 6), rules("b", slower, 8)].map(Record::Rules)).unwrap();
    let kept = vec![rules("a", slower, 7), rules("b", slower, 8)];
    assert_eq!(ask(&one, &Question::Rules), Answer::Rules(kept));
    // Rules that have ended do not come back with an older change that comes late.
    two.note(&[Record::Rules(rules("b", "", 9))]).unwrap();
    one.note(&[Record::Rules(rules("b", slower, 8))]).unwrap();
    let kept = vec![rules("a", slower, 7), rules("b", "", 9)];
    assert_eq!(ask(&one, &Question::Rules), Answer::Rules(kept));
    // A day later that need not be known any more.
    let forget = |archive: &mut PostgresArchive, now: u64| {
        let keep = |_: &str| Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX };
        while SharedArchive::forget(archive, &keep, now).unwrap().more {}
    };
    let now = roomcast::clock::wall_ms();
    forget(&mut one, now);
    assert_eq!(database.sql("SELECT count(*) FROM roomcast.rules"), "2");
    forget(&mut one, now + 25 * 3_600_000);
    assert_eq!(ask(&two, &Question::Rules), Answer::Rules(vec![rules("a", slower, 7)]));
}

#[test]
fn nodes_write_and_forget_at_the_same_time() {
    let database = Database::new();
    let keep = |_: &str| Keep { age_ms: 300_000, bytes: 0, pin: false, ids_ms: 0 };
    let mut nodes: Vec<PostgresArchive> = (0..3).map(|_| open(&database)).collect();
    std::thread::scope(|scope| {
        for (part, node) in nodes.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut stands = START;
                for batch in 0..20 {
                    let rooms = (0..10).map(|n| format!("room-{part}-{n}")).collect::<Vec<_>>();
                    let entries: Vec<Entry> = rooms
                        .iter()
                        .flat_map(|name| (1..=30).map(move |n| said(name, batch * 30 + n, "words")))
                        .collect();
                    let upto = at(5, (batch + 1) * 300);
                    assert!(node.append_shared(part as u16, stands, upto, &entries).unwrap());
                    stands = upto;
                    // Read marks in the rooms of all partitions.
                    let marks = (0..3).map(|other| {
                        let (room, user) = (room(&format!("room-{other}-{}", batch % 10)), user("ann"));
                        Record::Read(ReadMark { room, user, offset: batch * 30, ts: batch })
                    });
                    node.note(&marks.collect::<Vec<_>>()).unwrap();
                    SharedArchive::forget(node, &keep, 600_000).unwrap();
                }
            });
        }
    });
    let archive = &mut nodes[0];
    while SharedArchive::forget(archive, &keep, 600_000).unwrap().more {}
    for part in 0..3 {
        for n in 0..10 {
            let name = format!("room-{part}-{n}");
            assert_eq!(offsets(ask(archive, &all_of(&name))), (300..=600).collect::<Vec<_>>(), "{name}");
        }
    }
    let sums = "SELECT bool_and(bytes = (SELECT sum(octet_length(line)) FROM roomcast.entries WHERE room = rooms.id)) \
                FROM roomcast.rooms";
    assert_eq!(database.sql(sums), "t");
}
