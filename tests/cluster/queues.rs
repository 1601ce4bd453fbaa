//! What backends push into a Redis list and a Redis stream while nodes and the primary die: every room has all of
//! it, in the order in which it was pushed, each item once, whether items carry ids or not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use redis::RedisResult;
use roomcast::redis_link::{RedisConnection, RedisLink};
use roomcast_rig::client::Client;
use roomcast_rig::eventually;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story;
use crate::wires::Wire;

/// What backends push to.
const LIST: &str = "message_queue";
const STREAM: &str = "orders";
const SOURCES: &str = r#"queue.sources=[{name="orders", kind="redis_stream", stream="orders"}]"#;
/// Items that show that the queue goes on.
const GOES_ON: u64 = 25;
/// How long the holder of the turn hangs: longer than its lease, and than any time-out.
const HANGS: Duration = Duration::from_secs(10);
/// For how long a primary goes on without its replicas, before it dies.
const ALONE: Duration = Duration::from_millis(300);
/// A lease of 3 s and a look every 250 ms, with room for a busy machine.
const FOLLOWED_MAX: Duration = Duration::from_secs(8);

/// A backend that pushes the numbers from 0 to its rooms in turn. Like a PHP page it hears only whether the
/// push was taken; with a replica that has it, nothing it was told is lost with a primary.
struct Backend {
    rooms: Vec<String>,
    pushed: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    /// Items that it had to push again.
    task: JoinHandle<HashSet<u64>>,
}

impl Backend {
    fn start(url: &str, word: &str, way: Way) -> Backend {
        let rooms: Vec<String> = (0..3).map(|number| format!("{word}-{number}")).collect();
        let (told, pushed) = watch::channel(0);
        let stop = watch::Sender::new(false);
        let link = RedisLink::parse(url).expect("the stage knows its address");
        let pushing = Pushing { link, rooms: rooms.clone(), way, told, stop: stop.subscribe() };
        Backend { rooms, pushed, stop, task: tokio::spawn(pushing.run()) }
    }

    /// Waits until so many more are pushed.
    async fn goes_on(&mut self) {
        let goal = *self.pushed.borrow() + GOES_ON;
        let pushed = tokio::time::timeout(roomcast_rig::PATIENCE, self.pushed.wait_for(|n| *n >= goal)).await;
        pushed.expect("the backend gets on").expect("it is not told to stop");
    }

    /// How many were pushed, and which of them again.
    async fn stops(self) -> (u64, HashSet<u64>) {
        self.stop.send_replace(true);
        let again = self.task.await.expect("a backend does not fail");
        (*self.pushed.borrow(), again)
    }
}

/// How a backend pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `LPUSH` of items with ids.
    Ids,
    /// `LPUSH` of items without.
    Plain,
    /// `XADD` of items without.
    Stream,
}

struct Pushing {
    link: RedisLink,
    rooms: Vec<String>,
    way: Way,
    told: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
}

impl Pushing {
    async fn run(self) -> HashSet<u64> {
        let (mut number, mut again) = (0, HashSet::new());
        while !*self.stop.borrow() {
            let Ok(mut redis) = self.link.connect().await else { continue };
            while !*self.stop.borrow() {
                if self.push(&mut redis, number).await.is_err() {
                    again.insert(number);
                    break;
                }
                number += 1;
                self.told.send_replace(number);
                // So that the story is about faults and not about load.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        again
    }

    async fn push(&self, redis: &mut RedisConnection, number: u64) -> RedisResult<()> {
        let mut item = json!({"room": self.rooms[number as usize % self.rooms.len()], "content": number});
        if self.way == Way::Ids {
            item["id"] = json!(format!("n{number}"));
        }
        let (mut push, key) = match self.way {
            Way::Stream => (redis::cmd("XADD"), STREAM),
            Way::Ids | Way::Plain => (redis::cmd("LPUSH"), LIST),
        };
        push.arg(key);
        if self.way == Way::Stream {
            push.arg("*").arg("payload");
        }
        push.arg(item.to_string()).query_async::<()>(redis).await?;
        match redis.wait_for_replica(key, Duration::from_millis(500)).await? {
            0 => Err((redis::ErrorKind::Io, "no replica has it").into()),
            _ => Ok(()),
        }
    }
}

/// The number of the node whose turn it is.
async fn holder(stage: &Stage) -> usize {
    eventually("a node to have the turn", async || {
        let primary = stage.redis.primary().await;
        let name: Option<String> = stage.redis.servers[primary].ask(&["GET", "{message_queue}:turn"]).await?;
        name?.strip_prefix("node-")?.parse().ok()
    })
    .await
}

/// The number of the node that reads the stream.
async fn reader(stage: &Stage) -> usize {
    eventually("a node to read the stream", async || {
        let primary = stage.redis.primary().await;
        let held: Option<String> =
            stage.redis.servers[primary].ask(&["GET", "{orders}:reader:roomcast"]).await?;
        held?.strip_prefix("node-")?.split('#').next()?.parse().ok()
    })
    .await
}

/// Waits until another node has the turn; tells how long that took.
async fn is_followed(stage: &Stage, old: usize) -> Duration {
    let since = Instant::now();
    eventually("another node to take the turn", async || (holder(stage).await != old).then_some(())).await;
    since.elapsed()
}

/// Waits until nothing waits in Redis any more.
async fn is_empty(stage: &Stage) {
    eventually("the list to be empty", async || {
        let redis = &stage.redis.servers[stage.redis.primary().await];
        let mut left: u64 = redis.ask(&["LLEN", LIST]).await?;
        for number in 0..stage.nodes.len() {
            left += redis.ask::<u64>(&["HLEN", &format!("{{{LIST}}}:proc:node-{number}")]).await?;
        }
        (left == 0).then_some(())
    })
    .await;
    eventually("the stream to be read and acknowledged", async || {
        let redis = &stage.redis.servers[stage.redis.primary().await];
        let groups: Vec<HashMap<String, redis::Value>> = redis.ask(&["XINFO", "GROUPS", STREAM]).await?;
        let is_none = |key: &str| groups[0].get(key) == Some(&redis::Value::Int(0));
        (is_none("lag") && is_none("pending")).then_some(())
    })
    .await;
}

/// Everything that a node tells of these rooms, from the first place to the head.
async fn log_of(address: SocketAddr, rooms: &[String]) -> BTreeMap<String, Vec<u64>> {
    let mut client = eventually("a link", || Client::connect(address, None)).await;
    let asked: BTreeMap<&String, Value> = rooms.iter().map(|room| (room, json!({"since": 0}))).collect();
    client.say(&format!(r#"{{"t":"hello","v":1,"u":"judge","rooms":{}}}"#, json!(asked))).await;
    let (mut open, mut heads) = (rooms.len(), BTreeMap::new());
    let mut log: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while open > 0 {
        let line = tokio::time::timeout(roomcast_rig::PATIENCE, client.hear()).await;
        let line = line.expect("the rooms are read in time").expect("the link stays");
        let frame: Value = serde_json::from_str(&line).expect("a frame is JSON");
        let (Some(room), Some(s)) = (frame["r"].as_str(), frame["s"].as_u64()) else { continue };
        match frame["t"].as_str() {
            Some("joined") => {
                assert!(frame["missing"].is_null(), "{line}");
                heads.insert(room.to_owned(), s);
            }
            Some("msg") => {
                log.entry(room.to_owned()).or_default().push(frame["d"].as_u64().expect("a number"));
                open -= usize::from(heads[room] == s);
            }
            _ => {}
        }
    }
    log
}

/// What a room must have had pushed.
fn of_room(rooms: &[String], room: &str, pushed: u64) -> Vec<u64> {
    (0..pushed).filter(|number| rooms[*number as usize % rooms.len()] == room).collect()
}

#[tokio::test]
async fn what_is_pushed_in_order_is_heard_in_order_whoever_dies() {
    let seed = story::seed();
    let folder = story::folder("pushed in order", seed);
    let mut stage = Stage::open(&Plan::of(Shape::Sentinel).with(SOURCES), &folder).await;
    let _turn = story::TURN.lock().await;
    let url = stage.redis.url().expect("there is a Redis");
    let began = Instant::now();
    let ways = [("ids", Way::Ids), ("plain", Way::Plain), ("stream", Way::Stream)];
    let mut backends = ways.map(|(word, way)| Backend::start(&url, word, way));
    for backend in &mut backends {
        backend.goes_on().await;
    }

    let dead = holder(&stage).await;
    stage.nodes[dead].kill();
    let followed = is_followed(&stage, dead).await;
    println!("the turn of a node that was killed was taken after {followed:.1?}");
    assert!(followed < FOLLOWED_MAX, "{followed:?}");
    for backend in &mut backends {
        backend.goes_on().await;
    }
    stage.node_comes_back(dead);
    stage.nodes[dead].is_ready().await;

    // Mostly one node holds both; if not, the one that reads the stream is as good.
    let frozen = reader(&stage).await;
    stage.node_freezes(frozen);
    tokio::time::sleep(HANGS).await;
    stage.node_thaws(frozen);
    assert_ne!(reader(&stage).await, frozen, "another one has followed");
    assert_ne!(holder(&stage).await, frozen, "here as well");
    for backend in &mut backends {
        backend.goes_on().await;
    }

    let primary = stage.redis.primary().await;
    let before = holder(&stage).await;
    // What is taken from it now no replica knows to be taken.
    stage.cuts_replicas_off(primary, Wire::Silent);
    tokio::time::sleep(ALONE).await;
    stage.redis.servers[primary].kill();
    stage.cuts_replicas_off(primary, Wire::Closed);
    stage.wires.mend();
    stage.redis.has_moved_from(primary).await;
    stage.redis.comes_back(primary, &stage.wires).await;
    for backend in &mut backends {
        backend.goes_on().await;
    }
    println!("the turn was node-{before}'s before the failover and is node-{}'s", holder(&stage).await);
    stage.is_whole().await;

    let drained = holder(&stage).await;
    stage.nodes[drained].stop().await;
    let followed = is_followed(&stage, drained).await;
    println!("the turn of a node that drained was taken {followed:.1?} after its end");
    stage.node_comes_back(drained);
    for backend in &mut backends {
        backend.goes_on().await;
    }
    stage.is_whole().await;

    for ((_, way), backend) in ways.into_iter().zip(backends) {
        let rooms = backend.rooms.clone();
        let (pushed, again) = backend.stops().await;
        is_empty(&stage).await;
        for node in &stage.nodes {
            for (room, mut heard) in log_of(node.address(), &rooms).await {
                if way != Way::Ids {
                    // What a backend itself pushed twice has no id to be known by.
                    let mut seen = HashSet::new();
                    heard.retain(|number| seen.insert(*number) || !again.contains(number));
                }
                // The last one may have been pushed without its backend hearing so.
                heard.truncate(heard.len() - usize::from(heard.last() == Some(&pushed)));
                assert_eq!(
                    heard,
                    of_room(&rooms, &room, pushed),
                    "{room}, seed {seed}, {}",
                    folder.display()
                );
            }
        }
        println!(
            "{}: {pushed} pushed, {} pushed again, 0 lost, 0 doubled, 0 out of order",
            rooms[0],
            again.len()
        );
    }
    println!("{:.0?}", began.elapsed());
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}
