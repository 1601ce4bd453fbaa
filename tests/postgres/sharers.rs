//! What the stories of feeds are played with: a Redis, engines that share rooms through it, and who fills the archive.

use std::collections::{BTreeMap, HashMap};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::moderation::{Change, Rules};
use roomcast::chat::names::{MessageId, RoomName};
use roomcast::engines::engine::Ask;
use roomcast::engines::redis::filler::{Filler, FillerSettings};
use roomcast::engines::redis::{ArchiveSettings, RoomKeep, Settings, open};
use roomcast::engines::shared::{Outcome, Proposal, RuleRefused, Safety, Says, Shared};
use roomcast::redis_link::RedisLink;
use roomcast::store::archive::{Answer, ArchiveError, ArchiveReader, Keep, Question, SharedArchive};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::record::Record;

use crate::common::{room, user};
use roomcast_rig::server::free_port;

use crate::server::{Database, eventually};

const PREFIX: &str = "chat";

/// A Redis server that keeps nothing on the disk.
pub struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    process: Child,
}

impl Redis {
    pub fn start() -> Redis {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let process = run_redis(port, folder.path());
        let redis = Redis { port, folder, process };
        redis.answers();
        redis
    }

    fn answers(&self) {
        eventually("Redis to answer", || self.try_ask::<String>(&["PING"]));
    }

    pub fn url(&self) -> String {
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

    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|| panic!("no answer to {words:?}"))
    }

    /// Kills it; what it had is lost.
    pub fn comes_back_empty(&mut self) {
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

/// What a node was told beside the answers to its questions.
#[derive(Default)]
struct Told {
    /// How its order about a room has ended.
    ruled: HashMap<u64, Result<(), RuleRefused>>,
    /// The rules of all rooms that have any; none before they were told.
    rules: Option<BTreeMap<String, Rules>>,
    health: Option<String>,
}

impl Told {
    fn take(&mut self, list: Vec<(RoomName, Rules)>, all: bool) {
        let rules = self.rules.get_or_insert_default();
        if all {
            rules.clear();
        }
        rules.extend(list.into_iter().map(|(room, rules)| (room.as_str().to_owned(), rules)));
        rules.retain(|_, rules| !rules.is_empty());
    }
}

/// Counts what is asked about that stands beside the logs.
struct Counting {
    reader: Box<dyn ArchiveReader>,
    asked: Arc<AtomicUsize>,
}

impl ArchiveReader for Counting {
    fn answer(&mut self, question: &Question) -> Result<Answer, ArchiveError> {
        let is_beside = matches!(
            question,
            Question::Session(_)
                | Question::RoomsOf { .. }
                | Question::ReadMarks { .. }
                | Question::ReadMark { .. }
                | Question::Rules
        );
        self.asked.fetch_add(usize::from(is_beside), Relaxed);
        self.reader.answer(question)
    }
}

/// An engine as a chat server holds it.
pub struct Node {
    engine: Box<dyn Shared>,
    settled: Arc<Mutex<HashMap<u64, Outcome>>>,
    answers: Arc<Mutex<HashMap<u64, Answered>>>,
    told: Arc<Mutex<Told>>,
    asked: Arc<AtomicUsize>,
    tickets: u64,
}

impl Node {
    pub fn start(redis: &Redis, database: &Database, feed_max: u64) -> Node {
        let archive = PostgresArchive::open_shared(&database.url()).unwrap();
        Node::with(redis, archive.new_reader(), feed_max)
    }

    /// One whose archive is open already.
    pub fn with(redis: &Redis, reader: Box<dyn ArchiveReader>, feed_max: u64) -> Node {
        let asked = Arc::new(AtomicUsize::new(0));
        let reader = Box::new(Counting { reader, asked: asked.clone() });
        let settings = Settings {
            link: RedisLink::parse(&redis.url()).unwrap(),
            prefix: PREFIX.into(),
            node: "node".into(),
            keep: Box::new(|_| RoomKeep { history: 100_000, keep_ms: 3_600_000, dedup_ms: 600_000 }),
            archive: Some(ArchiveSettings { reader, feed_max, notes_max: 1_000 }),
            leaving: None,
        };
        let (settled, answers): (Arc<Mutex<HashMap<_, _>>>, Arc<Mutex<HashMap<_, _>>>) = Default::default();
        let told: Arc<Mutex<Told>> = Default::default();
        let (outcomes, answered, heard) = (settled.clone(), answers.clone(), told.clone());
        let sink = move |says| match says {
            Says::Settled(list) => outcomes.lock().unwrap().extend(list),
            Says::Answered { ticket, answers } => {
                answered.lock().unwrap().insert(ticket, answers);
            }
            Says::Ruled { ticket, settled } => {
                heard.lock().unwrap().ruled.insert(ticket, settled);
            }
            Says::Rules { list, all } => heard.lock().unwrap().take(list, all),
            Says::Health(health) => heard.lock().unwrap().health = health,
            _ => {}
        };
        let engine = open(settings).unwrap()(Arc::new(sink)).unwrap();
        Node { engine, settled, answers, told, asked, tickets: 0 }
    }

    /// How often the archive was asked about what stands beside the logs.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    pub fn note(&mut self, records: Vec<Record>) {
        self.engine.note(records);
    }

    /// Gives an order about a room and waits for what becomes of it.
    pub fn orders(&mut self, name: &str, change: Change) -> Result<(), RuleRefused> {
        self.tickets += 1;
        self.engine.rule(self.tickets, room(name), change);
        eventually("an order to be settled", || self.told.lock().unwrap().ruled.remove(&self.tickets))
    }

    /// The rules of all rooms that have any; none: it does not know them.
    pub fn rules(&self) -> Option<BTreeMap<String, Rules>> {
        self.told.lock().unwrap().rules.clone()
    }

    pub fn health(&self) -> Option<String> {
        self.told.lock().unwrap().health.clone()
    }

    /// Ends politely.
    pub fn close(mut self) {
        let (sender, done) = std::sync::mpsc::channel();
        self.engine.close(Box::new(move || sender.send(()).unwrap()));
        done.recv_timeout(std::time::Duration::from_secs(20)).expect("it ends");
    }

    pub fn propose(&mut self, name: &str, kind: Kind, of: Offset, words: &str, safety: Safety) -> u64 {
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

    pub fn say(&mut self, name: &str, words: &str) -> u64 {
        self.propose(name, Kind::Message, 0, words, Safety::Sequenced)
    }

    /// Where it is; none while it is not settled.
    pub fn outcome(&self, ticket: u64) -> Option<Outcome> {
        self.settled.lock().unwrap().get(&ticket).cloned()
    }

    pub fn place(&self, ticket: u64) -> Offset {
        match eventually("an outcome", || self.outcome(ticket)) {
            Outcome::Placed(accepted) => accepted.offset,
            other => panic!("no place but {other:?}"),
        }
    }

    pub fn ask(&mut self, question: Question) -> Answer {
        self.try_ask(question).unwrap()
    }

    /// Asks again while there is no answer: Redis has just come back.
    pub fn ask_until_answered(&mut self, question: &Question) -> Answer {
        eventually("Redis to be reached", || self.try_ask(question.clone()).ok())
    }

    fn try_ask(&mut self, question: Question) -> Result<Answer, String> {
        self.tickets += 1;
        self.engine.ask(Ask { ticket: self.tickets, after: 0, questions: vec![question] });
        let answers = eventually("an answer", || self.answers.lock().unwrap().remove(&self.tickets));
        answers.map(|mut answers| answers.remove(0))
    }
}

pub fn feed(redis: &Redis, database: &Database) -> Filler {
    let settings = FillerSettings {
        link: RedisLink::parse(&redis.url()).unwrap(),
        prefix: PREFIX.into(),
        archive: Box::new(PostgresArchive::open_shared(&database.url()).unwrap()),
        keep: Box::new(|_| Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX }),
    };
    Filler::start(settings).unwrap()
}

/// What the archive has of a room, as its own reader tells.
pub fn archived(database: &Database, question: &Question) -> Answer {
    let archive = PostgresArchive::open_shared(&database.url()).unwrap();
    SharedArchive::reader(&archive).unwrap().answer(question).unwrap()
}

pub fn archive_reaches(database: &Database, name: &str, top: Offset) {
    eventually(&format!("the archive to reach {top} in {name}"), || {
        let sql = format!("SELECT coalesce(max(top), 0) FROM roomcast.rooms WHERE name = '{name}'");
        (database.sql(&sql).parse::<u64>().unwrap() >= top).then_some(())
    });
}
