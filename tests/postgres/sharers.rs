//! What the stories of feeds are played with: a Redis, engines that share rooms through it, and who fills the archive.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
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

/// An engine as a chat server holds it.
pub struct Node {
    engine: Box<dyn Shared>,
    settled: Arc<Mutex<HashMap<u64, Outcome>>>,
    answers: Arc<Mutex<HashMap<u64, Answered>>>,
    tickets: u64,
}

impl Node {
    pub fn start(redis: &Redis, database: &Database, feed_max: u64) -> Node {
        let archive = PostgresArchive::open_shared(&database.url()).unwrap();
        let settings = Settings {
            link: RedisLink::parse(&redis.url()).unwrap(),
            prefix: PREFIX.into(),
            node: "node".into(),
            keep: Box::new(|_| RoomKeep { history: 100_000, keep_ms: 3_600_000, dedup_ms: 600_000 }),
            archive: Some(ArchiveSettings { reader: archive.new_reader(), feed_max }),
            leaving: None,
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
        self.tickets += 1;
        self.engine.ask(Ask { ticket: self.tickets, after: 0, questions: vec![question] });
        let answers = eventually("an answer", || self.answers.lock().unwrap().remove(&self.tickets));
        answers.unwrap().remove(0)
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
