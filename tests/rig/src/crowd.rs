//! A crowd: writers and readers who go on whatever happens to the server, or to the servers behind one
//! address. What they see is in their diaries; a story asks only how far they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Guest;
use crate::reader::{self, Goal, Memory, Seen};
use crate::writer::{self, Written};
use crate::{PATIENCE, eventually, within};

/// Who comes, and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server listens, or what stands in front of several.
    pub address: SocketAddr,
    /// Where the diaries go.
    pub diaries: PathBuf,
    /// What their chances come from.
    pub seed: u64,
    /// Where all of it happens. Each client is in two of them, so that a room has writers and readers of every
    /// kind.
    pub rooms: Vec<String>,
    /// How many write.
    pub writers: usize,
    /// How many read: every second one comes back by the server's cursor.
    pub readers: usize,
    /// Whether the writers also edit, delete and react.
    pub changes: bool,
    /// After how long without a sign of life every second pair of clients gives a link up; the others wait for
    /// ever. None: all of them do.
    pub silence: Option<Duration>,
}

/// Everybody who is at the server.
pub struct Crowd {
    plan: Plan,
    writers: Vec<(JoinHandle<Written>, watch::Receiver<Written>)>,
    readers: Vec<(JoinHandle<Seen>, watch::Receiver<Seen>)>,
    stop: watch::Sender<bool>,
    goal: watch::Sender<Goal>,
}

impl Plan {
    fn two_rooms(&self, number: usize) -> Vec<String> {
        [number, number + 1].map(|room| self.rooms[room % self.rooms.len()].clone()).to_vec()
    }

    fn silence_of(&self, number: usize) -> Option<Duration> {
        self.silence.filter(|_| (number / 2).is_multiple_of(2))
    }

    fn writer(&self, number: usize) -> writer::Plan {
        writer::Plan {
            address: self.address,
            name: format!("writer-{number}"),
            rooms: self.two_rooms(number),
            seed: self.seed.wrapping_add(1_000 + number as u64),
            burst: 8,
            pause: Duration::from_millis(150),
            bytes: 300,
            changes: self.changes,
            silence: self.silence_of(number),
        }
    }

    fn reader(&self, number: usize) -> reader::Plan {
        reader::Plan {
            address: self.address,
            name: format!("reader-{number}"),
            rooms: self.two_rooms(number / 2),
            memory: [Memory::Own, Memory::Server][number % 2],
            seed: self.seed.wrapping_add(2_000 + number as u64),
            silence: self.silence_of(number),
        }
    }
}

impl Crowd {
    /// Lets them begin.
    pub fn start(plan: Plan) -> Crowd {
        let (stop, goal) = (watch::Sender::new(false), watch::Sender::new(None));
        let write = |number: usize| {
            let (progress, shown) = watch::channel(Written::default());
            let (writer, folder, stop) = (plan.writer(number), plan.diaries.clone(), stop.subscribe());
            let task = tokio::spawn(async move { writer::write(writer, &folder, stop, progress).await });
            (task, shown)
        };
        let read = |number: usize| {
            let (progress, shown) = watch::channel(Seen::default());
            let (reader, folder, goal) = (plan.reader(number), plan.diaries.clone(), goal.subscribe());
            let task = tokio::spawn(async move { reader::read(reader, &folder, goal, progress).await });
            (task, shown)
        };
        let writers = (0..plan.writers).map(write).collect();
        let readers = (0..plan.readers).map(read).collect();
        Crowd { plan, writers, readers, stop, goal }
    }

    /// Who came.
    pub fn plan(&self) -> &Plan {
        &self.plan
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

    /// Waits until everybody has got on since this was asked: each writer had so many acknowledgements more, each
    /// reader saw in each of his rooms what nobody had seen before. Those who did not, when [`PATIENCE`] ends.
    pub async fn everybody_goes_on(&mut self, acknowledgements: u64) -> Result<(), Vec<String>> {
        let wanted: Vec<u64> = self.acks().iter().map(|acked| acked + acknowledgements).collect();
        let heads = self.heads_seen();
        let gets_on = |reader: &watch::Receiver<Seen>| {
            reader.borrow().upto.iter().all(|(room, upto)| heads.get(room).is_none_or(|head| upto > head))
        };
        let behind = || -> Vec<String> {
            let writers = self.acks().into_iter().zip(&wanted).enumerate();
            let writers = writers.filter(|(_, (now, wanted))| now < wanted);
            let writers = writers.map(|(number, (acked, _))| format!("writer-{number} with {acked} acked"));
            let readers = self.readers.iter().enumerate().filter(|(_, (_, shown))| !gets_on(shown));
            let readers =
                readers.map(|(number, (_, shown))| format!("reader-{number} at {:?}", shown.borrow().upto));
            writers.chain(readers).collect()
        };
        let all = within(PATIENCE, async || behind().is_empty().then_some(())).await;
        all.ok_or_else(behind)
    }

    fn acks(&self) -> Vec<u64> {
        self.writers.iter().map(|(_, shown)| shown.borrow().acked).collect()
    }

    /// The place up to which somebody has seen each room.
    fn heads_seen(&self) -> BTreeMap<String, u64> {
        let mut heads = BTreeMap::new();
        for (_, shown) in &self.readers {
            for (room, upto) in &shown.borrow().upto {
                let head = heads.entry(room.clone()).or_insert(*upto);
                *head = (*head).max(*upto);
            }
        }
        heads
    }

    /// All stop where they are; their diaries are whole up to there.
    pub async fn breaks_up(self) {
        let writers = self.writers.into_iter().map(|(task, _)| {
            task.abort();
            tokio::spawn(async move { task.await.map(|_| ()) })
        });
        let readers = self.readers.into_iter().map(|(task, _)| {
            task.abort();
            tokio::spawn(async move { task.await.map(|_| ()) })
        });
        for gone in writers.chain(readers).collect::<Vec<_>>() {
            // An error says that he was stopped, as he was told; a panic of his has been printed.
            gone.await.expect("waiting does not fail").ok();
        }
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

/// The head of every room, as the server at this address tells it. Each call needs a name of its own.
pub async fn heads(name: &str, address: SocketAddr, plan: &Plan) -> BTreeMap<String, u64> {
    let rooms: BTreeMap<&str, Value> = plan.rooms.iter().map(|room| (room.as_str(), json!({}))).collect();
    let mut guest = Guest::enter(address, &plan.diaries, name, json!({"rooms": rooms})).await;
    let mut heads = BTreeMap::new();
    for room in &plan.rooms {
        let joined =
            guest.hears("joined", |frame| frame["t"] == "joined" && frame["r"] == room.as_str()).await;
        heads.insert(room.clone(), joined["s"].as_u64().expect("a head is a number"));
    }
    guest.goes().await;
    heads
}

/// Somebody new reads every room from its first place to its head.
pub async fn reads_all(name: &str, address: SocketAddr, plan: &Plan, heads: BTreeMap<String, u64>) {
    let reader = reader::Plan {
        address,
        name: name.to_owned(),
        rooms: plan.rooms.clone(),
        memory: Memory::Own,
        seed: 0,
        silence: None,
    };
    let goal = watch::Sender::new(Some(Arc::new(heads)));
    let reading = reader::read(reader, &plan.diaries, goal.subscribe(), watch::Sender::default());
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| panic!("{name} does not come to the end of the rooms"));
}

/// All diaries of a folder, by their names.
pub fn diaries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the diaries are there");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    paths.sort();
    paths
}
