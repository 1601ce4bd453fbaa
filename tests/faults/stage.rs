//! What all stories share: a folder for the server and its clients, messages by number, the verdict.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use roomcast_rig::checker::{Checker, Report};
use roomcast_rig::client::Guest;
use roomcast_rig::reader::{self, Goal, Memory, Seen};
use roomcast_rig::server::Setup;
use roomcast_rig::writer::{self, Written};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_roomcast");

/// A number from the environment, where it is set.
fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// How often a story kills: `ROOMCAST_KILLS` makes it long.
pub fn kills(usual: usize) -> usize {
    number_from("ROOMCAST_KILLS").map_or(usual, |kills| kills as usize)
}

/// Chance that can be had again: prints its seed, and takes `ROOMCAST_SEED` instead where that is set.
pub fn dice() -> StdRng {
    let seed = number_from("ROOMCAST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}; to have it again: ROOMCAST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A folder of a story; gone with it.
pub struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Stage {
        let folder = tempfile::tempdir().expect("a folder for the story");
        std::fs::create_dir(folder.path().join("diaries")).expect("it is empty");
        Stage { folder }
    }

    /// Where the server lives.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    pub fn diaries(&self) -> PathBuf {
        self.home().join("diaries")
    }

    pub fn setup(&self) -> Setup {
        Setup::new(PROGRAM, self.home())
    }

    /// Somebody who joins the lobby with all that was said there.
    pub async fn guest(&self, address: SocketAddr, name: &str) -> Guest {
        let rooms = json!({"rooms": {"lobby": {"since": 0}}});
        Guest::enter(address, &self.diaries(), name, rooms).await
    }

    /// Somebody who comes when all is over reads these rooms from their beginnings to their heads.
    pub async fn last_reader(&self, address: SocketAddr, rooms: &[&str]) -> BTreeMap<String, u64> {
        let heads = heads(address, &self.home().join("diaries"), rooms).await;
        let plan = reader::Plan {
            address,
            name: "last".into(),
            rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
            memory: Memory::Own,
            seed: 0,
            silence: None,
        };
        let goal = watch::Sender::new(Some(Arc::new(heads.clone())));
        let folder = self.diaries();
        let reading = reader::read(plan, &folder, goal.subscribe(), watch::Sender::<Seen>::default());
        timeout(roomcast_rig::PATIENCE, reading).await.expect("the last reader comes to the end");
        heads
    }

    /// Somebody who reads the lobby from its first message on, all the time, over all kills.
    pub fn spectator(&self, address: SocketAddr) -> Spectator {
        let plan = reader::Plan {
            address,
            name: "spectator".into(),
            rooms: vec!["lobby".into()],
            memory: Memory::Own,
            seed: 1,
            silence: None,
        };
        let (goal, folder) = (watch::Sender::new(None), self.diaries());
        let told = goal.subscribe();
        let task =
            tokio::spawn(async move { reader::read(plan, &folder, told, watch::Sender::default()).await });
        Spectator { task, goal }
    }

    /// Somebody who writes into the lobby until he is told to stop, and what he has done so far.
    pub fn writer(&self, address: SocketAddr, number: u64, stop: watch::Receiver<bool>) -> Writing {
        let plan = writer::Plan {
            address,
            name: format!("writer-{number}"),
            rooms: vec!["lobby".into()],
            seed: number,
            burst: 8,
            pause: Duration::from_millis(40),
            bytes: 500,
            changes: true,
            silence: None,
        };
        let ((progress, shown), folder) = (watch::channel(Written::default()), self.diaries());
        let task = tokio::spawn(async move { writer::write(plan, &folder, stop, progress).await });
        Writing { task, shown }
    }

    /// What the judge says about all diaries.
    pub fn verdict(&self, mut checker: Checker) -> Report {
        for entry in std::fs::read_dir(self.diaries()).expect("the diaries are there") {
            let path = entry.expect("a folder can be listed").path();
            let is_last = path.file_stem().is_some_and(|name| name == "last");
            let read = if is_last { checker.read_last(&path) } else { checker.read(&path) };
            read.unwrap_or_else(|error| panic!("a diary is broken: {error}"));
        }
        checker.verdict()
    }

    /// Fails unless the judge finds nothing at all.
    pub fn is_clean(&self) -> Report {
        let report = self.verdict(Checker::new());
        assert!(report.is_clean(), "the judge finds:\n{report}");
        assert_eq!(report.forgotten, 0, "{report}");
        report
    }
}

/// Somebody who writes.
pub struct Writing {
    pub task: JoinHandle<Written>,
    pub shown: watch::Receiver<Written>,
}

/// Somebody who reads all the time.
pub struct Spectator {
    task: JoinHandle<Seen>,
    goal: watch::Sender<Goal>,
}

impl Spectator {
    /// Waits until he has read this far; then he goes.
    pub async fn reaches(self, heads: BTreeMap<String, u64>) {
        self.goal.send_replace(Some(Arc::new(heads)));
        let ended = timeout(roomcast_rig::PATIENCE, self.task).await;
        ended.expect("the spectator comes to the end").expect("he does not fail");
    }
}

/// The heads of rooms.
pub async fn heads(address: SocketAddr, diaries: &Path, rooms: &[&str]) -> BTreeMap<String, u64> {
    let plain: BTreeMap<&str, Value> = rooms.iter().map(|room| (*room, json!({}))).collect();
    let mut guest = Guest::enter(address, diaries, "asker", json!({"rooms": plain})).await;
    let mut heads = BTreeMap::new();
    for room in rooms {
        let joined = guest.hears("joined", |frame| frame["t"] == "joined" && frame["r"] == *room).await;
        heads.insert((*room).to_owned(), joined["s"].as_u64().expect("a head is a number"));
    }
    guest.goes().await;
    heads
}

/// A message for the lobby with a text of about so many bytes.
pub fn message(id: &str, bytes: usize) -> Value {
    json!({"t": "pub", "r": "lobby", "id": id, "d": format!("{id} {}", "word ".repeat(bytes / 5))})
}

/// Says numbered messages one after the other; each has to be acknowledged.
pub async fn says(guest: &mut Guest, prefix: &str, numbers: Range<u64>) {
    for number in numbers {
        let answer = guest.asks(&message(&format!("{prefix}-{number}"), 100)).await;
        assert_eq!(answer["t"], "ack", "{answer}");
    }
}

/// Says a message again and again until it is acknowledged: with the same id, as a client does.
pub async fn gets_through(guest: &mut Guest, message: &Value, patience: Duration) -> Value {
    let trying = async {
        loop {
            let answer = guest.asks(message).await;
            if answer["t"] == "ack" {
                return answer;
            }
            assert_eq!((&answer["code"], &answer["why"]), (&json!(503), &json!("not-stored")), "{answer}");
            // What the server asks for before the next try.
            tokio::time::sleep(Duration::from_millis(answer["wait"].as_u64().unwrap_or(50))).await;
        }
    };
    timeout(patience, trying).await.unwrap_or_else(|_| panic!("refused for {patience:?}: {message}"))
}

/// A server that cannot keep anything still answers its readers.
pub async fn still_answers(guest: &mut Guest, room: &str) {
    guest.say(&json!({"t": "ping"})).await;
    guest.hears("pong", |frame| frame["t"] == "pong").await;
    guest.say(&json!({"t": "log", "r": room, "i": 71, "n": 5})).await;
    let page = guest.hears("a page", |frame| frame["i"] == 71).await;
    assert_eq!(page["t"], "page", "{page}");
    guest.say(&json!({"t": "join", "r": room, "last": 3, "i": 72})).await;
    let joined = guest.hears("joined", |frame| frame["t"] == "joined" && frame["n"] == 3).await;
    let head = joined["s"].clone();
    guest.hears("live", |frame| frame["t"] == "live" && frame["r"] == room && frame["s"] == head).await;
}
