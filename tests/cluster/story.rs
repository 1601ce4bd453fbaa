//! How a story goes: everything is started, a crowd writes and reads, something breaks and is mended (again and
//! again in a long run), everybody comes to the end, and a judge reads what they wrote down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast_rig::checker::{Checker, Report};
use roomcast_rig::crowd::{self, Crowd};
use roomcast_rig::eventually;
use tokio::sync::Mutex;

use crate::figures::{self, Moment};
use crate::stage::{Plan, Stage};

/// Where all of it happens.
const ROOMS: [&str; 4] = ["lobby", "ops", "team-1", "näh & fern"];
/// After how long without a sign of life half of the clients give a link up; the nodes ping every second.
const SILENCE: Duration = Duration::from_secs(3);
/// Acknowledgements before the first fault, so that every room has a past.
pub const PAST: u64 = 300;
/// Acknowledgements of each writer that show that he goes on.
const GOES_ON: u64 = 5;

/// One story at a time: they measure how long things take.
pub static TURN: Mutex<()> = Mutex::const_new(());

/// What a story may do with its readers beside what is always right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewinds {
    /// Nobody is cut off from the others, so nothing has to be taken back.
    None,
    /// Somebody was cut off, or the only one who had an entry died.
    Some,
}

/// Now, in Unix milliseconds, as in the diaries.
pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    u64::try_from(since.as_millis()).expect("it fits for ever")
}

/// The number that a variable of the environment gives.
pub fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// An empty folder that stays after a failure, for whoever looks for its cause.
pub fn folder(name: &str, seed: u64) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}-{seed}", name.replace(' ', "-")));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("the folder of an earlier run can be removed");
    }
    std::fs::create_dir_all(folder.join("diaries")).expect("the target folder can be written");
    folder
}

/// The chances of this run.
pub fn seed() -> u64 {
    let seed = number_from("ROOMCAST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}; to have it again: ROOMCAST_SEED={seed}");
    seed
}

/// Who comes to a stage.
pub fn crowd(stage: &Stage, plan: &Plan, seed: u64) -> crowd::Plan {
    crowd::Plan {
        address: stage.balancer.address,
        diaries: stage.folder.join("diaries"),
        seed,
        rooms: ROOMS.map(str::to_owned).to_vec(),
        writers: 8,
        readers: 24,
        changes: plan.changes,
        silence: Some(SILENCE),
    }
}

/// Those who did not get on after a fault.
pub type Stuck = Vec<String>;

/// A story under way.
pub struct Story {
    name: &'static str,
    seed: u64,
    pub dice: StdRng,
    pub stage: Stage,
    pub crowd: Crowd,
    faults: Vec<Moment>,
}

impl Story {
    /// The moment of a fault, from which its cost counts.
    pub fn strikes(&mut self) {
        self.faults.push(now());
    }

    /// Waits until everybody has got on since now.
    pub async fn goes_on(&mut self) -> Result<(), Stuck> {
        self.crowd.everybody_goes_on(GOES_ON).await
    }

    /// One of the primaries of a Cluster, by chance.
    pub async fn any_primary(&mut self) -> usize {
        let primaries = self.stage.redis.primaries().await;
        primaries[self.dice.random_range(0..primaries.len())]
    }

    /// One of the nodes, by chance.
    pub fn any_node(&mut self) -> usize {
        self.dice.random_range(0..self.stage.nodes.len())
    }
}

/// Plays a story: `strike` breaks something, calls [`Story::strikes`] at that moment, and mends it. It comes
/// once, or as often as fits into `ROOMCAST_CLUSTER_SECS` seconds.
pub async fn plays(
    name: &'static str,
    plan: Plan,
    rewinds: Rewinds,
    strike: impl AsyncFn(&mut Story) -> Result<(), Stuck>,
) {
    let (seed, length) = (seed(), Duration::from_secs(number_from("ROOMCAST_CLUSTER_SECS").unwrap_or(0)));
    let folder = folder(name, seed);
    println!("{name}: diaries and logs in {}", folder.display());
    let stage = Stage::open(&plan, &folder).await;
    let turn = TURN.lock().await;
    let began = Instant::now();
    let crowd = Crowd::start(crowd(&stage, &plan, seed));
    let mut story = Story { name, seed, dice: StdRng::seed_from_u64(seed), stage, crowd, faults: Vec::new() };
    story.crowd.acked_reaches(PAST).await;
    loop {
        let struck = async {
            strike(&mut story).await?;
            story.goes_on().await
        };
        if let Err(stuck) = struck.await {
            story.breaks_up(stuck).await;
        }
        story.stage.is_whole().await;
        if began.elapsed() >= length {
            break;
        }
    }
    story.ends(rewinds, began).await;
    drop(turn);
    if number_from("ROOMCAST_KEEP").is_none() {
        std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
    }
}

impl Story {
    /// Everybody comes to the end; then the verdict.
    async fn ends(mut self, rewinds: Rewinds, began: Instant) {
        let written = self.crowd.writers_stop().await;
        let heads = self.heads().await;
        let plan = self.crowd.plan().clone();
        let (seen, late) = self.crowd.readers_reach(heads.clone()).await;
        crowd::reads_all("last", plan.address, &plan, heads.clone()).await;
        for (number, node) in self.stage.nodes.iter().enumerate() {
            // Every node tells the same log.
            crowd::reads_all(&format!("last-of-{number}"), node.address(), &plan, heads.clone()).await;
        }
        let report = judge(&plan.diaries, true);
        let cost = figures::cost(&crowd::diaries(&plan.diaries), &self.faults);
        println!("{}\n{}", figures::HEAD, figures::row(self.name, self.faults.len(), &report, cost));
        println!("{:.0?}, {} faults in all", began.elapsed(), self.faults.len());
        let place = format!("{}, seed {}, {}", self.name, self.seed, self.stage.folder.display());
        assert!(report.is_clean(), "a promise was broken; {place}\n{report}");
        assert!(late.is_empty(), "these do not reach the heads: {late:?}; {place}");
        assert_eq!(report.acked, written.iter().map(|written| written.acked).sum::<u64>(), "{place}");
        assert!(report.acked > PAST, "the crowd went on; {place}");
        assert_eq!(report.forgotten, 0, "nothing is old enough to be forgotten; {place}");
        let forgotten = seen.iter().map(|seen| seen.forgotten).sum::<u64>();
        assert_eq!(forgotten, 0, "every node knows all settled sessions; {place}");
        assert!(rewinds == Rewinds::Some || report.rewinds == 0, "nobody was cut off; {place}\n{report}");
        self.stage.closes().await;
    }

    /// The head of every room, when all nodes tell the same.
    async fn heads(&self) -> BTreeMap<String, u64> {
        let plan = self.crowd.plan();
        let mut attempt = 0;
        eventually("all nodes to tell the same heads", async || {
            attempt += 1;
            let mut told = Vec::new();
            for (number, node) in self.stage.nodes.iter().enumerate() {
                let name = format!("asker-{number}-{attempt}");
                told.push(crowd::heads(&name, node.address(), plan).await);
            }
            told.windows(2).all(|pair| pair[0] == pair[1]).then(|| told.swap_remove(0))
        })
        .await
    }

    /// Somebody does not go on: what the diaries say up to here.
    async fn breaks_up(self, who: Stuck) -> ! {
        let (diaries, folder) = (self.crowd.plan().diaries.clone(), self.stage.folder.clone());
        self.crowd.breaks_up().await;
        let report = judge(&diaries, false);
        panic!(
            "{}: these do not go on after a fault: {who:?}; seed {}, {}\nthe diaries up to there:\n{report}",
            self.name,
            self.seed,
            folder.display()
        );
    }
}

/// The verdict on all diaries; with `whole` the one named `last` is that of somebody who came when all was over.
pub fn judge(diaries: &Path, whole: bool) -> Report {
    let mut checker = Checker::of_several_nodes();
    for path in crowd::diaries(diaries) {
        let is_last = whole && path.file_stem().is_some_and(|name| name == "last");
        let read = if is_last { checker.read_last(&path) } else { checker.read(&path) };
        read.unwrap_or_else(|error| panic!("a diary is broken: {error}"));
    }
    checker.verdict()
}
