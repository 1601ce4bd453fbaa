//! What rooms in Redis accept comes into the archive: in order, once, whoever of the nodes brings it, and after
//! outages of either service.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::MessageId;
use roomcast::engines::engine::Ask;
use roomcast::engines::redis::filler::{Filler, FillerSettings};
use roomcast::engines::redis::{ArchiveSettings, RoomKeep, Settings, open};
use roomcast::engines::shared::{Outcome, Proposal, Safety, Says, Shared};
use roomcast::redis_link::RedisLink;
use roomcast::store::archive::{Answer, Keep, Question, SharedArchive};
use roomcast::store::postgres::PostgresArchive;

use crate::common::{all_of, find, offsets, room, user};
use crate::server::{Database, Server, eventually, free_port};

const PREFIX: &str = "chat";

/// A Redis server that keeps nothing on the disk.
struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    process: Child,
}

impl Redis {
    fn start() -> Redis {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let process = run_redis(port, folder.path());
        let redis = Redis { port, folder, process };
        redis.answers();
        redis
    }

    fn answers(&self) {
        eventually("Redis to answer", || self.try_ask::<String>(&["PING"]));
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(word);
        });
        command.query(&mut connection).ok()
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|| panic!("no answer to {words:?}"))
    }

    /// Kills it; what it had is lost.
    fn comes_back_empty(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = run_redis(self.port, self.folder.path());
        self.answers();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run_redis(port: u16, folder: &std::path::Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
    ]);
    command.arg(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server runs; on Debian: apt-get install redis-server")
}

type Answered = Result<Vec<Answer>, String>;

/// An engine as a chat server holds it.
struct Node {
    engine: Box<dyn Shared>,
    settled: Arc<Mutex<HashMap<u64, Outcome>>>,
    answers: Arc<Mutex<HashMap<u64, Answered>>>,
    tickets: u64,
}

impl Node {
    fn start(redis: &Redis, database: &Database, feed_max: u64) -> Node {
        let archive = PostgresArchive::open_shared(&database.url()).unwrap();
        let settings = Settings {
            link: RedisLink::parse(&redis.url()).unwrap(),
            prefix: PREFIX.into(),
            keep: Box::new(|_| RoomKeep { history: 100_000, keep_ms: 3_600_000, dedup_ms: 600_000 }),
            archive: Some(ArchiveSettings { reader: archive.new_reader(), feed_max }),
        };
        let (settled, answers): (Arc<Mutex<HashMap<_, _>>>, Arc<Mutex<HashMap<_, _>>>) = Default::default();
        let (outcomes, told) = (settled.clone(), answers.clone());
        let sink = move |says| match says {
            Says::Settled(list) => outcomes.lock().unwrap().extend(list),
            Says::Answered { ticket, answers } => {
                told.lock().unwrap().insert(ticket, answers);
            }
            _ => {}
        };
        let engine = open(settings).unwrap()(Arc::new(sink)).unwrap();
        Node { engine, settled, answers, tickets: 0 }
    }

    fn propose(&mut self, name: &str, kind: Kind, of: Offset, words: &str, safety: Safety) -> u64 {
        self.tickets += 1;
        let (word, id) = (kind.word(), format!("id-{}-{words}", self.tickets));
        let about = if of > 0 { format!(",\"of\":{of}") } else { String::new() };
        let ts = roomcast::clock::wall_ms();
        let line = format!(
            r#"{{"t":"{word}","r":"{name}","s":0,"id":"{id}","u":"ann","ts":{ts},"d":"{words}"{about}}}"#
        );
        let entry = Entry {
            room: room(name),
            epoch: Epoch(0),
            offset: 0,
            ts,
            kind,
            user: Some(user("ann")),
            id: Some(MessageId::new(&id).unwrap()),
            of,
            mark: None,
            off: false,
            line: Bytes::from(line),
        };
        let key = id.into_bytes().into();
        self.engine.propose(vec![Proposal { ticket: self.tickets, entry, key, logged: true, safety }]);
        self.tickets
    }

    fn say(&mut self, name: &str, words: &str) -> u64 {
        self.propose(name, Kind::Message, 0, words, Safety::Sequenced)
    }

    /// Where it is; none while it is not settled.
    fn outcome(&self, ticket: u64) -> Option<Outcome> {
        self.settled.lock().unwrap().get(&ticket).cloned()
    }

    fn place(&self, ticket: u64) -> Offset {
        match eventually("an outcome", || self.outcome(ticket)) {
            Outcome::Placed(accepted) => accepted.offset,
            other => panic!("no place but {other:?}"),
        }
    }

    fn ask(&mut self, question: Question) -> Answer {
        self.tickets += 1;
        self.engine.ask(Ask { ticket: self.tickets, after: 0, questions: vec![question] });
        let answers = eventually("an answer", || self.answers.lock().unwrap().remove(&self.tickets));
        answers.unwrap().remove(0)
    }
}

fn feed(redis: &Redis, database: &Database) -> Filler {
    let settings = FillerSettings {
        link: RedisLink::parse(&redis.url()).unwrap(),
        prefix: PREFIX.into(),
        archive: Box::new(PostgresArchive::open_shared(&database.url()).unwrap()),
        keep: Box::new(|_| Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX }),
    };
    Filler::start(settings).unwrap()
}

/// What the archive has of a room, as its own reader tells.
fn archived(database: &Database, question: &Question) -> Answer {
    let archive = PostgresArchive::open_shared(&database.url()).unwrap();
    SharedArchive::reader(&archive).unwrap().answer(question).unwrap()
}

fn archive_reaches(database: &Database, name: &str, top: Offset) {
    eventually(&format!("the archive to reach {top} in {name}"), || {
        let sql = format!("SELECT coalesce(max(top), 0) FROM roomcast.rooms WHERE name = '{name}'");
        (database.sql(&sql).parse::<u64>().unwrap() >= top).then_some(())
    });
}

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
