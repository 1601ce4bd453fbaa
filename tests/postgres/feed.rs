//! What rooms in Redis accept comes into the archive: in order, once, whoever of the nodes brings it, and after
//! outages of either service.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast::chat::entry::Kind;
use roomcast::chat::message::Offset;
use roomcast::engines::redis::filler::Filler;
use roomcast::engines::shared::{Outcome, Safety};
use roomcast::store::archive::{Answer, Question};

use crate::common::{all_of, find, offsets, room};
use crate::server::{Database, Server, eventually};
use crate::sharers::{Node, Redis, archive_reaches, archived, feed};

#[test]
fn what_rooms_accept_comes_into_the_archive_and_leaves_the_feed() {
    let (redis, database) = (Redis::start(), Database::new());
    let mut node = Node::start(&redis, &database, 100_000);
    let feed = feed(&redis, &database);
    for n in 1..=300 {
        node.say("lobby", &format!("words{n}"));
        node.say(&format!("room-{}", n % 7), "others");
    }
    let edit = node.propose("lobby", Kind::Edit, 5, "better", Safety::Sequenced);
    assert_eq!(node.place(edit), 301);
    // An acknowledgement that promises the archive comes when the archive has it.
    let safe = node.propose("lobby", Kind::Message, 0, "safe", Safety::Archived);
    assert_eq!(node.place(safe), 302);
    assert_eq!(database.sql("SELECT top FROM roomcast.rooms WHERE name = 'lobby'"), "302");
    assert_eq!(offsets(archived(&database, &all_of("lobby"))), (1..=302).collect::<Vec<_>>());
    assert_eq!(archived(&database, &all_of("lobby")), node.ask(all_of("lobby")), "line for line");
    assert_eq!(offsets(archived(&database, &find("lobby", "words5 "))), [0; 0]);
    assert_eq!(offsets(archived(&database, &find("lobby", "better"))), [5]);

    eventually("an empty feed", || (redis.ask::<u64>(&["XLEN", "chat:{p0}a"]) == 0).then_some(()));
    let position = database.sql("SELECT epoch || '-' || n FROM roomcast.positions");
    assert_eq!(redis.ask::<String>(&["GET", "chat:{p0}ap"]), position);
    let figures = feed.figures();
    assert_eq!((figures.archived.load(Relaxed), figures.missed.load(Relaxed)), (602, 0));
    assert_eq!((figures.served.load(Relaxed), figures.waiting.load(Relaxed)), (1, 0));
    assert_eq!(feed.complaint(), None);
    feed.stop();
    assert_eq!(redis.ask::<u64>(&["EXISTS", "chat:{p0}at"]), 0, "the turn is given back");
}

#[test]
fn while_the_archive_is_away_the_feed_grows_to_its_limit_and_is_caught_up_afterwards() {
    let redis = Redis::start();
    let postgres = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(postgres.clone());
    let mut node = Node::start(&redis, &database, 200);
    let feed = feed(&redis, &database);
    let first = node.propose("lobby", Kind::Message, 0, "first", Safety::Archived);
    assert_eq!(node.place(first), 1);

    postgres.kill();
    let tickets: Vec<u64> = (0..150).map(|n| node.say("lobby", &format!("away{n}"))).collect();
    let places: Vec<Offset> = tickets.iter().map(|ticket| node.place(*ticket)).collect();
    assert_eq!(places, (2..=151).collect::<Vec<_>>(), "what Redis has is accepted");
    let complaint = eventually("a complaint", || feed.complaint());
    assert!(complaint.contains("no PostgreSQL answers there"), "{complaint}");
    // One call may carry up to 200 of them, so the feed may become that much longer than its limit; not more.
    let more: Vec<u64> = (0..600).map(|n| node.say("lobby", &format!("more{n}"))).collect();
    eventually("the feed to be full", || (redis.ask::<u64>(&["XLEN", "chat:{p0}a"]) >= 200).then_some(()));
    assert!(redis.ask::<u64>(&["XLEN", "chat:{p0}a"]) <= 400);

    postgres.restart();
    eventually("the complaint to end", || feed.complaint().is_none().then_some(()));
    // Those that waited too long were refused, none is in between.
    let placed = more
        .iter()
        .filter(|ticket| matches!(eventually("an outcome", || node.outcome(**ticket)), Outcome::Placed(_)));
    let top = 151 + placed.count() as Offset;
    archive_reaches(&database, "lobby", top);
    assert_eq!(offsets(archived(&database, &all_of("lobby"))), (1..=top).collect::<Vec<_>>());
    assert_eq!(feed.figures().missed.load(Relaxed), 0);
    let last = node.propose("lobby", Kind::Message, 0, "last", Safety::Archived);
    assert_eq!(node.place(last), top + 1);
}

#[test]
fn nodes_take_turns_and_two_that_believe_it_is_theirs_do_no_harm() {
    let (redis, database) = (Redis::start(), Database::new());
    let mut node = Node::start(&redis, &database, 100_000);
    let mut feeds: Vec<Filler> = (0..3).map(|_| feed(&redis, &database)).collect();
    let mut said = 0;
    for round in 0..30 {
        for _ in 0..50 {
            said += 1;
            node.say("lobby", &format!("words{said}"));
        }
        if round % 5 == 4 {
            // Somebody else takes the turn, while the one who had it has not noticed.
            redis.ask::<u64>(&["DEL", "chat:{p0}at"]);
            archive_reaches(&database, "lobby", said / 2);
        }
        if round == 15 {
            let serving = feeds.iter().position(|feed| feed.figures().served.load(Relaxed) > 0);
            feeds.remove(serving.unwrap_or(0)).stop();
        }
    }
    archive_reaches(&database, "lobby", said);
    assert_eq!(offsets(archived(&database, &all_of("lobby"))), (1..=said).collect::<Vec<_>>());
    assert_eq!(archived(&database, &all_of("lobby")), node.ask(all_of("lobby")));
    assert!(feeds.iter().all(|feed| feed.figures().missed.load(Relaxed) == 0));
}

#[test]
fn a_redis_that_comes_back_empty_is_repaired_and_the_archive_has_the_same_log() {
    let (mut redis, database) = (Redis::start(), Database::new());
    let mut node = Node::start(&redis, &database, 100_000);
    let feed = feed(&redis, &database);
    let join = Question::Room { room: room("lobby"), tail: 0, tail_bytes: 0 };
    node.ask(join.clone());
    let safe = node.propose("lobby", Kind::Message, 0, "first", Safety::Archived);
    node.place(safe);
    let mut top = 1;
    for round in 0..3 {
        let tickets: Vec<u64> = (0..200).map(|n| node.say("lobby", &format!("round{round}nr{n}"))).collect();
        tickets.iter().for_each(|ticket| top = node.place(*ticket).max(top));
        redis.comes_back_empty();
        let safe = node.propose("lobby", Kind::Message, 0, "after", Safety::Archived);
        top = top.max(node.place(safe));
    }
    assert_eq!(top, 604);
    archive_reaches(&database, "lobby", top);
    assert_eq!(offsets(archived(&database, &all_of("lobby"))), (1..=top).collect::<Vec<_>>());
    let (Answer::Room(Some(of_node)), Answer::Room(Some(of_archive))) =
        (node.ask(join.clone()), archived(&database, &join))
    else {
        panic!("no room")
    };
    assert_eq!(of_archive.lineage, of_node.lineage, "entries that were put back keep their life");
    assert_eq!(archived(&database, &all_of("lobby")), node.ask(all_of("lobby")));
    assert_eq!(feed.figures().unreadable.load(Relaxed), 0);
}

/// Two nodes, three who fill the archive, and a world in which chance picks what breaks next.
#[test]
fn whatever_breaks_the_archive_has_what_the_rooms_have() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut redis = Redis::start();
    let postgres = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(postgres.clone());
    let mut nodes = [Node::start(&redis, &database, 100_000), Node::start(&redis, &database, 100_000)];
    let mut fillers: Vec<Filler> = (0..3).map(|_| feed(&redis, &database)).collect();
    let join = |name: &str| Question::Room { room: room(name), tail: 0, tail_bytes: 0 };
    // Who is in a room has it in memory, and can put it back.
    nodes.iter_mut().for_each(|node| ["lobby", "other"].iter().for_each(|name| drop(node.ask(join(name)))));
    let mut promised: Vec<(usize, u64, &str, String)> = Vec::new();
    for round in 0..12 {
        for n in 0..60 {
            let (who, name) = (n % 2, ["lobby", "other"][random.random_range(0..2)]);
            let words = format!("round{round}nr{n}");
            let safety = if n % 3 == 0 { Safety::Archived } else { Safety::Sequenced };
            let ticket = nodes[who].propose(name, Kind::Message, 0, &words, safety);
            promised.push((who, ticket, name, words));
        }
        match random.random_range(0..5) {
            0 => redis.comes_back_empty(),
            1 => {
                postgres.kill();
                postgres.restart();
            }
            2 => drop(redis.ask::<u64>(&["DEL", "chat:{p0}at"])),
            3 => {
                fillers.remove(random.random_range(0..fillers.len())).stop();
                fillers.push(feed(&redis, &database));
            }
            _ => {
                // It is settled before the next thing breaks.
                let (who, ticket, ..) = promised.last().unwrap();
                nodes[*who].place(*ticket);
            }
        }
    }
    let last = nodes[0].propose("lobby", Kind::Message, 0, "the last", Safety::Archived);
    nodes[0].place(last);
    let mut places: HashMap<(&str, Offset), String> = HashMap::new();
    for (who, ticket, name, words) in promised {
        let offset = nodes[who].place(ticket);
        assert_eq!(places.insert((name, offset), words), None, "{name} {offset} was given twice");
    }
    for name in ["lobby", "other"] {
        let Answer::Room(Some(known)) = nodes[1].ask(join(name)) else { panic!("no room") };
        archive_reaches(&database, name, known.top);
        assert_eq!(archived(&database, &all_of(name)), nodes[0].ask(all_of(name)), "{name}, line for line");
        let Answer::Room(Some(kept)) = archived(&database, &join(name)) else { panic!("no room") };
        assert_eq!((kept.lineage, kept.top, kept.first), (known.lineage, known.top, 1));
        let Answer::Entries { list, .. } = archived(&database, &all_of(name)) else { panic!("no entries") };
        for entry in list {
            let line = String::from_utf8(entry.line.unwrap().to_vec()).unwrap();
            if let Some(words) = places.remove(&(name, entry.offset)) {
                assert!(line.contains(&format!("\"d\":\"{words}\"")), "{name} {}: {line}", entry.offset);
            }
        }
    }
    assert!(places.is_empty(), "acknowledged and not there: {places:?}");
}
