//! Who is here, as all nodes tell it, when one of them dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast_rig::client::{Client, Guest};
use roomcast_rig::eventually;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{folder, seed};

const PEOPLE: usize = 500;
/// Of those whose node dies, every so-manyth does not come back.
const GOES_FOR_GOOD: usize = 3;
/// When all nodes have to be right again.
const RIGHT_AFTER: Duration = Duration::from_secs(6);
/// Longest that somebody takes to come back.
const COMES_BACK_AFTER: Duration = Duration::from_secs(1);
/// Pause between two questions.
const LOOK: Duration = Duration::from_millis(100);

/// What became of those whose links were cut.
#[derive(Default)]
struct Fates {
    joined: usize,
    gone: BTreeSet<String>,
    came_back: BTreeSet<String>,
}

/// Somebody who is in the lobby. When his link is cut he comes back elsewhere, or not.
async fn person(number: usize, front: SocketAddr, mut dice: StdRng, fates: Arc<Mutex<Fates>>) {
    let name = format!("person-{number:03}");
    let mut was_there = false;
    loop {
        let Some(mut client) = Client::connect(front, None).await else {
            sleep(LOOK.mul_f64(dice.random())).await;
            continue;
        };
        let hello = json!({"t": "hello", "v": 1, "u": name, "rooms": {"lobby": {}}});
        client.say(&hello.to_string()).await;
        let mut is_there = false;
        while let Some(line) = client.hear().await {
            if !is_there && line.contains(r#""t":"joined""#) {
                is_there = true;
                let mut fates = fates.lock().expect("nobody panics with it");
                if was_there {
                    fates.came_back.insert(name.clone());
                } else {
                    fates.joined += 1;
                }
            }
        }
        was_there |= is_there;
        if was_there && number.is_multiple_of(GOES_FOR_GOOD) {
            fates.lock().expect("nobody panics with it").gone.insert(name);
            return;
        }
        sleep(COMES_BACK_AFTER.mul_f64(dice.random())).await;
    }
}

/// Asks a node who is in the lobby, page after page.
async fn who(guest: &mut Guest) -> BTreeSet<String> {
    let (mut all, mut after) = (BTreeSet::new(), None::<String>);
    loop {
        let mut ask = json!({"t": "who", "r": "lobby", "n": 200, "i": 7});
        if let Some(after) = &after {
            ask["after"] = json!(after);
        }
        guest.say(&ask).await;
        let page = guest.hears("who", |frame| frame["t"] == "who").await;
        let list = page["list"].as_array().expect("a list");
        all.extend(list.iter().map(|entry| entry["u"].as_str().expect("a name").to_owned()));
        after = list.last().and_then(|entry| entry["u"].as_str()).map(str::to_owned);
        if page["more"] != true {
            return all;
        }
    }
}

/// Watches one node from now on, unseen: who came and went, each time.
struct Watcher {
    task: JoinHandle<()>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// Who is here, by all that was told.
    here: BTreeSet<String>,
    /// How often each was told to have gone, and who was told to have come, since the story asked to begin.
    went: BTreeMap<String, usize>,
    came: BTreeSet<String>,
}

impl Heard {
    fn hears(&mut self, frame: &Value) {
        for name in frame["out"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            *self.went.entry(name.to_owned()).or_default() += 1;
            self.here.remove(name);
        }
        let names = frame["in"].as_array().into_iter().flatten().filter_map(|entry| entry["u"].as_str());
        for name in names {
            self.came.insert(name.to_owned());
            self.here.insert(name.to_owned());
        }
    }
}

impl Watcher {
    async fn at(address: SocketAddr) -> Watcher {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut client = eventually("a link", async || Client::connect(address, None).await).await;
        client.say(r#"{"t":"hello","v":1,"u":"watcher","rooms":{"lobby":{"quiet":true}}}"#).await;
        let pages = heard.clone();
        let task = tokio::spawn(async move {
            while let Some(line) = client.hear().await {
                let frame: Value = serde_json::from_str(&line).expect("frames are JSON");
                if frame["t"] == "pres" {
                    pages.lock().expect("nobody panics with it").hears(&frame);
                }
            }
        });
        Watcher { task, heard }
    }

    /// Waits until all of these have been told to be here; news of many people come in parts.
    async fn has_heard_of(&self, everybody: &BTreeSet<String>) {
        let all =
            async || (self.heard.lock().expect("nobody panics with it").here == *everybody).then_some(());
        eventually("everybody to be told of", all).await;
    }

    /// What was told before does not count.
    fn begins(&self) {
        let mut heard = self.heard.lock().expect("nobody panics with it");
        heard.went.clear();
        heard.came.clear();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn people_of_a_dead_node_are_gone_in_six_seconds_and_who_comes_back_was_never_away() {
    let seed = seed();
    let folder = folder("presence", seed);
    println!("presence: logs in {}", folder.display());
    let mut stage = Stage::open(&Plan::of(Shape::Sentinel), &folder).await;
    let mut dice = StdRng::seed_from_u64(seed);
    let fates = Arc::new(Mutex::new(Fates::default()));
    let _turn = crate::story::TURN.lock().await;
    let front = stage.balancer.address;
    let mut watchers = Vec::new();
    for node in &stage.nodes {
        watchers.push(Watcher::at(node.address()).await);
    }
    let people: Vec<_> = (0..PEOPLE)
        .map(|number| tokio::spawn(person(number, front, StdRng::from_rng(&mut dice), fates.clone())))
        .collect();
    let all_joined = async || (fates.lock().expect("nobody panics with it").joined == PEOPLE).then_some(());
    eventually("everybody to be there", all_joined).await;
    let everybody: BTreeSet<String> = (0..PEOPLE).map(|number| format!("person-{number:03}")).collect();

    let dying = dice.random_range(0..stage.nodes.len());
    let living: Vec<usize> = (0..stage.nodes.len()).filter(|number| *number != dying).collect();
    let unseen = json!({"rooms": {"lobby": {"quiet": true}}});
    let mut askers = Vec::new();
    for number in &living {
        let (address, diaries) = (stage.nodes[*number].address(), folder.join("diaries"));
        let mut asker = Guest::enter(address, &diaries, &format!("asker-{number}"), unseen.clone()).await;
        let complete = async || (who(&mut asker).await == everybody).then_some(());
        eventually("every node to know everybody", complete).await;
        askers.push(asker);
        watchers[*number].has_heard_of(&everybody).await;
        watchers[*number].begins();
    }

    let killed = Instant::now();
    stage.nodes[dying].kill();
    let mut right_after = vec![None; living.len()];
    while killed.elapsed() < RIGHT_AFTER {
        for (asker, right) in askers.iter_mut().zip(&mut right_after) {
            let told = who(asker).await;
            let is_right = told == expected(&everybody, &fates);
            *right = right.filter(|_| is_right).or(is_right.then(|| killed.elapsed()));
        }
        sleep(LOOK).await;
    }
    sleep_until(killed + RIGHT_AFTER).await;
    let wanted = expected(&everybody, &fates);
    let (gone, came_back) = {
        let fates = fates.lock().expect("nobody panics with it");
        (fates.gone.clone(), fates.came_back.clone())
    };
    assert!(!gone.is_empty() && !came_back.is_empty(), "the node had people of both kinds");
    for (asker, number) in askers.iter_mut().zip(&living) {
        let told = who(asker).await;
        let ghosts: Vec<&String> = told.difference(&wanted).collect();
        let absent: Vec<&String> = wanted.difference(&told).collect();
        assert!(
            told == wanted,
            "after {RIGHT_AFTER:?} node {number} has ghosts {ghosts:?} and lacks {absent:?}; seed {seed}, {}",
            folder.display()
        );
    }
    for number in &living {
        let heard = watchers[*number].heard.lock().expect("nobody panics with it");
        let flickers: Vec<&String> = heard.went.keys().filter(|name| !gone.contains(*name)).collect();
        let came = &heard.came;
        assert!(flickers.is_empty(), "node {number} says that these went: {flickers:?}; seed {seed}");
        assert!(came.is_empty(), "node {number} says that these came, who were there: {came:?}; seed {seed}");
        let wanted: BTreeMap<String, usize> = gone.iter().map(|name| (name.clone(), 1)).collect();
        assert_eq!(heard.went, wanted, "node {number} tells each departure once; seed {seed}");
    }
    println!(
        "presence: {PEOPLE} people, {} gone with their node, {} came back elsewhere; right after {right_after:.1?}",
        gone.len(),
        came_back.len()
    );
    people.iter().for_each(JoinHandle::abort);
    for asker in askers {
        asker.goes().await;
    }
    stage.node_comes_back(dying);
    stage.nodes[dying].is_ready().await;
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

/// Everybody but those who went for good.
fn expected(everybody: &BTreeSet<String>, fates: &Mutex<Fates>) -> BTreeSet<String> {
    let gone = &fates.lock().expect("nobody panics with it").gone;
    everybody.difference(gone).cloned().collect()
}
