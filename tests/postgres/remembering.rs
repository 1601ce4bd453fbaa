//! What stands beside the logs outlives Redis: read marks, where sessions stand, rules of rooms. They come into the archive,
//! and from there back into a Redis that has forgotten them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use roomcast::chat::message::Epoch;
use roomcast::chat::moderation::{Change, Rules, Term};
use roomcast::engines::shared::RuleRefused;
use roomcast::store::archive::{Answer, Question, UserRoom};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::record::{Cursor, ReadMark, Record, SessionNote};

use crate::common::{room, user};
use crate::server::{Database, Server, eventually};
use crate::sharers::{Node, Redis, feed};

fn read(name: &str, who: &str, offset: u64) -> Record {
    let ts = roomcast::clock::wall_ms();
    Record::Read(ReadMark { room: room(name), user: user(who), offset, ts })
}

fn stood(offset: u64) -> SessionNote {
    let rooms = vec![Cursor { room: room("lobby"), epoch: Epoch(7), offset, quiet: false }];
    SessionNote { session: "s1".into(), user: user("ann"), ts: roomcast::clock::wall_ms(), rooms }
}

fn ban(who: &str) -> Change {
    Change::Ban(user(who), Term::ForGood)
}

/// All who are banned in the lobby.
fn banned(rules: &Option<BTreeMap<String, Rules>>) -> Option<Vec<String>> {
    let lobby = rules.as_ref()?.get("lobby").cloned().unwrap_or_default();
    Some(lobby.banned(1).map(|(who, _)| who.to_owned()).collect())
}

/// Waits until the archive has so many read marks, sessions and rooms with rules.
fn archive_has(database: &Database, reads: u64, sessions: u64, rules: u64) {
    let sql = "SELECT (SELECT count(*) FROM roomcast.reads), (SELECT count(*) FROM roomcast.sessions), \
               (SELECT count(*) FROM roomcast.rules WHERE rules <> '')";
    let wanted = format!("{reads}|{sessions}|{rules}");
    eventually(&format!("the archive to have {wanted}"), || (database.sql(sql) == wanted).then_some(()));
}

/// What a node answers about ann, who has read the lobby and the hall.
fn answers(node: &mut Node) -> [Answer; 4] {
    [
        Question::Session("s1".into()),
        Question::ReadMarks { room: room("lobby"), n: 9 },
        Question::ReadMark { room: room("hall"), user: user("ann") },
        Question::RoomsOf { user: user("ann"), n: 9 },
    ]
    .map(|question| node.ask_until_answered(&question))
}

fn right(session: SessionNote) -> [Answer; 4] {
    let of = |name: &str, read| UserRoom { room: room(name), top: 0, read };
    [
        Answer::Session(Some(session)),
        Answer::ReadMarks(vec![(user("bob"), 3), (user("ann"), 5)]),
        Answer::ReadMark(2),
        Answer::RoomsOf(vec![of("hall", 2), of("lobby", 5)]),
    ]
}

#[test]
fn an_empty_redis_gets_back_what_stood_beside_the_logs() {
    let (mut redis, database) = (Redis::start(), Database::new());
    let mut one = Node::start(&redis, &database, 1_000);
    let mut two = Node::start(&redis, &database, 1_000);
    let filler = feed(&redis, &database);
    let session = stood(5);
    one.note(vec![read("lobby", "ann", 5), Record::Session(session.clone())]);
    // Each later than the one before, so that the newest is known.
    eventually("ann's mark", || (database.sql("SELECT count(*) FROM roomcast.reads") == "1").then_some(()));
    two.note(vec![read("lobby", "bob", 3), read("hall", "ann", 2)]);
    one.orders("lobby", ban("eve")).unwrap();
    archive_has(&database, 3, 1, 1);
    eventually("nothing to wait", || (filler.figures().notes_waiting.load(Relaxed) == 0).then_some(()));
    assert_eq!(filler.figures().notes_dropped.load(Relaxed), 0);
    assert_eq!(answers(&mut two), right(session.clone()));
    let asked = (one.asked(), two.asked());
    assert_eq!((answers(&mut one), answers(&mut two)), (right(session.clone()), right(session.clone())));
    assert_eq!((one.asked(), two.asked()), asked, "what Redis knows nobody asks the archive");

    redis.comes_back_empty();
    for node in [&mut one, &mut two] {
        assert_eq!(answers(node), right(session.clone()), "also the first answer");
        assert_eq!(banned(&node.rules()), Some(vec!["eve".to_owned()]));
    }
    // Who comes now was never told.
    let three = Node::start(&redis, &database, 1_000);
    let told = eventually("rules", || three.rules());
    assert_eq!(banned(&Some(told)), Some(vec!["eve".to_owned()]));
    let asked = (one.asked(), two.asked());
    assert_eq!((answers(&mut one), answers(&mut two)), (right(session.clone()), right(session.clone())));
    assert_eq!((one.asked(), two.asked()), asked, "Redis has all of it again");

    // What changes afterwards goes the same way.
    let lift = Change::Ban(user("eve"), Term::Over);
    eventually("an order to be taken", || two.orders("lobby", lift.clone()).ok());
    one.note(vec![read("lobby", "ann", 4), read("lobby", "ann", 6), Record::Session(stood(6))]);
    archive_has(&database, 3, 1, 0);
    let marks = "SELECT s FROM roomcast.reads WHERE u = 'ann' ORDER BY s";
    eventually("ann's marks", || (database.sql(marks) == "2\n6").then_some(()));
    redis.comes_back_empty();
    let lobby = Question::ReadMark { room: room("lobby"), user: user("ann") };
    assert_eq!(one.ask_until_answered(&lobby), Answer::ReadMark(6));
    let four = Node::start(&redis, &database, 1_000);
    assert_eq!(banned(&Some(eventually("rules", || four.rules()))), Some(Vec::new()), "her ban is over");
}

#[test]
fn notes_wait_while_the_archive_is_away_and_what_a_node_leaves_behind_goes_with_it() {
    let mut redis = Redis::start();
    let postgres = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(postgres.clone());
    let mut one = Node::start(&redis, &database, 1_000);
    let mut two = Node::start(&redis, &database, 1_000);
    let filler = feed(&redis, &database);
    one.orders("lobby", ban("eve")).unwrap();
    archive_has(&database, 0, 0, 1);
    postgres.kill();
    one.orders("lobby", ban("mallory")).expect("Redis keeps it");
    one.note(vec![read("lobby", "ann", 5)]);
    let lobby = || Question::ReadMark { room: room("lobby"), user: user("ann") };
    eventually("her mark", || (two.ask(lobby()) == Answer::ReadMark(5)).then_some(()));
    two.note(vec![read("lobby", "bob", 3), read("hall", "ann", 2)]);
    let session = stood(5);
    two.note(vec![Record::Session(session.clone())]);
    // Whoever ends in this moment has it written first.
    two.close();
    eventually("a complaint", || filler.complaint());
    postgres.restart();
    archive_has(&database, 3, 1, 1);
    redis.comes_back_empty();
    eventually("the answers of before", || (answers(&mut one) == right(session.clone())).then_some(()));
    let late = Node::start(&redis, &database, 1_000);
    let told = eventually("rules", || late.rules());
    assert_eq!(banned(&Some(told)), Some(vec!["eve".to_owned(), "mallory".to_owned()]));

    // At the end of the last node the archive has what its sessions left behind.
    one.note(vec![Record::Session(stood(9))]);
    one.close();
    filler.stop();
    assert!(database.sql("SELECT rooms FROM roomcast.sessions").contains("\"s\":9"));
}

#[test]
fn a_ban_that_the_archive_never_saw_outlives_redis_in_the_nodes() {
    let mut redis = Redis::start();
    let postgres = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(postgres.clone());
    let mut one = Node::start(&redis, &database, 1_000);
    let filler = feed(&redis, &database);
    one.orders("lobby", ban("eve")).unwrap();
    archive_has(&database, 0, 0, 1);
    let open = PostgresArchive::open_shared(&database.url()).unwrap();
    postgres.kill();
    one.orders("lobby", ban("mallory")).expect("Redis keeps it");
    redis.comes_back_empty();
    let both = Some(vec!["eve".to_owned(), "mallory".to_owned()]);
    let refused = eventually("an order to be refused", || one.orders("lobby", ban("bob")).err());
    assert!(matches!(&refused, RuleRefused::Away(_)), "{refused:?}");
    assert_eq!(banned(&one.rules()), both, "who knows the rules holds to them");
    // A node that was never told them lets nobody in.
    let mut late = Node::with(&redis, open.new_reader(), 1_000);
    let health = eventually("a node to complain", || late.health());
    assert!(health.contains("the rules of rooms are not known yet"), "{health}");
    assert_eq!(late.rules(), None);

    postgres.restart();
    assert_eq!(banned(&Some(eventually("rules", || late.rules()))), both);
    eventually("an order to be taken", || late.orders("lobby", ban("bob")).ok());
    let three = Some(vec!["bob".to_owned(), "eve".to_owned(), "mallory".to_owned()]);
    eventually("all to hold to it", || (banned(&one.rules()) == three).then_some(()));
    let kept = "SELECT rules FROM roomcast.rules WHERE room = 'lobby'";
    let all = r#"{"banned":{"bob":null,"eve":null,"mallory":null}}"#;
    eventually("the archive to have all", || (database.sql(kept) == all).then_some(()));
    drop(filler);
}
