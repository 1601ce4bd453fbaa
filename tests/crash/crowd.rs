//! Writers and readers who go on whatever happens to the server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use roomcast_rig::client::Guest;
use roomcast_rig::reader::{self, Goal, Memory, Seen};
use roomcast_rig::writer::{self, Written};
use roomcast_rig::{PATIENCE, eventually, within};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where all of it happens.
pub const ROOMS: [&str; 4] = ["lobby", "ops", "team-1", "näh & fern"];
const WRITERS: usize = 8;
const READERS: usize = 16;

/// Everybody who is at the server.
pub struct Crowd {
    writers: Vec<(JoinHandle<Written>, watch::Receiver<Written>)>,
    readers: Vec<(JoinHandle<Seen>, watch::Receiver<Seen>)>,
    stop: watch::Sender<bool>,
    goal: watch::Sender<Goal>,
}

/// Each is in two rooms, so that a room has writers and readers of every kind.
fn two_rooms(number: usize) -> Vec<String> {
    [number, number + 1].map(|room| ROOMS[room % ROOMS.len()].to_owned()).to_vec()
}

impl Crowd {
    /// Lets them begin.
    pub fn start(address: SocketAddr, diaries: &Path, seed: u64) -> Crowd {
        let (stop, goal) = (watch::Sender::new(false), watch::Sender::new(None));
        let write = |number: usize| {
            let plan = writer::Plan {
                address,
                name: format!("writer-{number}"),
                rooms: two_rooms(number),
                seed: seed.wrapping_add(1_000 + number as u64),
                burst: 8,
                pause: Duration::from_millis(150),
                bytes: 300,
                changes: true,
            };
            let (progress, shown) = watch::channel(Written::default());
            let (folder, stop) = (diaries.to_owned(), stop.subscribe());
            let task = tokio::spawn(async move { writer::write(plan, &folder, stop, progress).await });
            (task, shown)
        };
        let read = |number: usize| {
            let plan = reader::Plan {
                address,
                name: format!("reader-{number}"),
                rooms: two_rooms(number / 2),
                memory: [Memory::Own, Memory::Server][number % 2],
                seed: seed.wrapping_add(2_000 + number as u64),
            };
            let (progress, shown) = watch::channel(Seen::default());
            let (folder, goal) = (diaries.to_owned(), goal.subscribe());
            let task = tokio::spawn(async move { reader::read(plan, &folder, goal, progress).await });
            (task, shown)
        };
        let (writers, readers) = ((0..WRITERS).map(write).collect(), (0..READERS).map(read).collect());
        Crowd { writers, readers, stop, goal }
    }

    /// What was acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.writers.iter().map(|(_, shown)| shown.borrow().acked).sum()
    }

    /// Waits until so much is acknowledged.
    pub async fn acked_reaches(&mut self, acked: u64) {
        let reached = async || {
            assert!(!self.writers.iter().any(|(task, _)| task.is_finished()), "a writer gave up");
            assert!(!self.readers.iter().any(|(task, _)| task.is_finished()), "a reader gave up");
            (self.acked() >= acked).then_some(())
        };
        eventually(&format!("{acked} acknowledgements"), reached).await;
    }

    /// Lets the writers finish what they have begun.
    pub async fn writers_stop(&mut self) -> Vec<Written> {
        self.stop.send_replace(true);
        let finished = async || self.writers.iter().all(|(task, _)| task.is_finished()).then_some(());
        eventually("the last acknowledgements", finished).await;
        let mut all = Vec::new();
        for (task, _) in self.writers.drain(..) {
            all.push(task.await.expect("a writer does not fail"));
        }
        all
    }

    /// Waits until all readers have come this far: what they have seen, and those who did not come.
    pub async fn readers_reach(mut self, heads: BTreeMap<String, u64>) -> (Vec<Seen>, Vec<String>) {
        self.goal.send_replace(Some(Arc::new(heads)));
        let finished = async || self.readers.iter().all(|(task, _)| task.is_finished()).then_some(());
        within(PATIENCE, finished).await;
        let (mut all, mut late) = (Vec::new(), Vec::new());
        for (number, (task, shown)) in self.readers.drain(..).enumerate() {
            if task.is_finished() {
                all.push(task.await.expect("a reader does not fail"));
                continue;
            }
            late.push(format!("reader-{number} at {:?}", shown.borrow().upto));
            task.abort();
            // He was told to end; his diary ends with him.
            assert!(task.await.is_err_and(|error| error.is_cancelled()), "he was not at the goal");
        }
        (all, late)
    }
}

/// The head of every room.
pub async fn heads(address: SocketAddr, diaries: &Path) -> BTreeMap<String, u64> {
    let rooms: BTreeMap<&str, Value> = ROOMS.map(|room| (room, json!({}))).into();
    let mut guest = Guest::enter(address, diaries, "asker", json!({"rooms": rooms})).await;
    let mut heads = BTreeMap::new();
    for room in ROOMS {
        let joined = guest.hears("joined", |frame| frame["t"] == "joined" && frame["r"] == room).await;
        heads.insert(room.to_owned(), joined["s"].as_u64().expect("a head is a number"));
    }
    guest.goes().await;
    heads
}

/// Somebody new reads every room from its first place to its head.
pub async fn reads_all(name: &str, address: SocketAddr, diaries: &Path, heads: BTreeMap<String, u64>) {
    let plan = reader::Plan {
        address,
        name: name.to_owned(),
        rooms: ROOMS.map(str::to_owned).to_vec(),
        memory: Memory::Own,
        seed: 0,
    };
    let goal = watch::Sender::new(Some(Arc::new(heads)));
    let reading = reader::read(plan, diaries, goal.subscribe(), watch::Sender::default());
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| panic!("{name} does not come to the end of the rooms"));
}
