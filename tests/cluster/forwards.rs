//! Copies of what rooms accept, on their way to a Redis list and a Redis stream, while servers, nodes and Redis are
//! killed: every entry arrives, those of a room in their order, and what comes twice comes with the same id. Whoever
//! publishes notices nothing of a target that is away.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use roomcast_rig::eventually;
use roomcast_rig::server::get;
use serde_json::Value;

use crate::processes::Process;
use crate::redis::Shape;
use crate::stage::{Plan, Stage, Store};
use crate::story;

use arriving::{Found, Talker, judged, list, stream};

mod arriving;

const PAGE: &str = include_str!("../../docs/forwarding.md");
const LIST: &str = "audit";
const STREAM: &str = "work";
const ROOMS: [&str; 3] = ["lobby", "team-1", "team-2"];
/// Kills of one story; `ROOMCAST_KILLS` makes it long.
const KILLS: u64 = 8;
/// Messages that show that people get on.
const GOES_ON: u64 = 30;

/// Every room to the list, teams to the stream as well.
fn forwarding(plan: Plan) -> Plan {
    plan.with(
        r#"forward.targets=[{name="audit", kind="redis_list", list="audit"}, {name="work", kind="redis_stream", stream="work"}]"#,
    )
    .with(r#"rooms.forward=["audit"]"#)
    .with(r#"rooms.rule=[{match="team-*", forward=["audit", "work"]}]"#)
}

/// One node that keeps its rooms itself; Redis is nothing but a target.
fn alone(store: Store) -> Plan {
    forwarding(Plan { nodes: 1, store, ..Plan::of(Shape::Single) }).with("engine.kind=memory")
}

/// Waits until the list has so many different entries, and looks at them.
async fn arrived(stage: &Stage, said: u64) -> Found {
    eventually("everything at the list", async || {
        let found = judged(&list(stage).await);
        (found.entries + found.holes >= said).then_some(found)
    })
    .await
}

/// Waits until the stream has those of the teams, and looks at them.
async fn teams_arrived(stage: &Stage, said: u64) -> Found {
    let of_teams = (0..said).filter(|number| number % ROOMS.len() as u64 != 0).count() as u64;
    eventually("everything of the teams at the stream", async || {
        let frames = stream(stage).await;
        assert!(frames.iter().all(|(frame, _)| frame["r"] != "lobby"), "the lobby does not go there");
        let found = judged(&frames);
        (found.entries >= of_teams).then_some(found)
    })
    .await
}

/// A figure of a node, for the list.
async fn figure(node: SocketAddr, name: &str) -> Option<u64> {
    let (_, figures) = get(node, "/metrics").await?;
    let head = format!("roomcast_forward_{name}{{target=\"{LIST}\"}} ");
    figures.lines().find_map(|line| line.strip_prefix(&head))?.parse().ok()
}

fn nodes(stage: &Stage) -> Vec<SocketAddr> {
    stage.nodes.iter().map(|node| node.address()).collect()
}

fn kills() -> u64 {
    let wanted = std::env::var("ROOMCAST_KILLS").ok();
    wanted.map_or(KILLS, |kills| kills.parse().expect("ROOMCAST_KILLS is a number"))
}

async fn open(plan: &Plan, name: &str) -> Stage {
    let stage = Stage::open(plan, &story::folder(name, story::seed())).await;
    if plan.nodes == 1 {
        // Otherwise what it has taken may die with it, and the story could not tell whose fault that is.
        let set = stage.redis.servers[0].ask::<String>(&["CONFIG", "SET", "appendfsync", "always"]).await;
        assert_eq!(set.as_deref(), Some("OK"));
    }
    stage
}

async fn is_killed_again_and_again(store: Store, name: &str, kills: u64) {
    let _turn = story::TURN.lock().await;
    let mut stage = open(&alone(store), name).await;
    let mut talker = Talker::start(nodes(&stage));
    for _ in 0..kills {
        let before = list(&stage).await.len();
        talker.goes_on(GOES_ON).await;
        eventually("some more at the list", async || (list(&stage).await.len() > before).then_some(())).await;
        stage.nodes[0].kill();
        stage.node_comes_back(0);
        stage.nodes[0].is_ready().await;
    }
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    let found = arrived(&stage, said).await;
    println!("{kills} kills, {said} entries: {found:?}");
    assert_eq!((found.entries, found.holes), (said, 0));
    // It is noted ten times a second what a target has, so a kill repeats some batches at the most.
    assert!(found.repeats <= kills * 256, "{found:?}");
    let found = teams_arrived(&stage, said).await;
    assert_eq!(found.holes, 0, "{found:?}");
    let before = list(&stage).await.len();
    stage.nodes[0].stop().await;
    stage.node_comes_back(0);
    stage.nodes[0].is_ready().await;
    let mut talker = Talker::start(nodes(&stage));
    // The first three are known by their ids and get no new place.
    talker.goes_on(said + 1).await;
    talker.stops().await;
    eventually("the new ones", async || (list(&stage).await.len() > before).then_some(())).await;
    assert_eq!(judged(&list(&stage).await).repeats, judged(&list(&stage).await[..before]).repeats);
    stage.closes().await;
}

#[tokio::test]
async fn a_server_is_killed_while_it_forwards() {
    is_killed_again_and_again(Store::File, "kill -9 while forwarding", kills()).await;
}

#[tokio::test]
async fn a_server_with_a_database_is_killed_while_it_forwards() {
    is_killed_again_and_again(Store::Postgres, "kill -9 while forwarding from PostgreSQL", 2).await;
}

#[tokio::test]
async fn nobody_waits_for_a_target_that_is_away() {
    let _turn = story::TURN.lock().await;
    let mut stage = open(&alone(Store::File), "the target is away").await;
    let node = stage.nodes[0].address();
    let mut talker = Talker::start(nodes(&stage));
    talker.goes_on(GOES_ON).await;
    eventually("the first at the list", async || (!list(&stage).await.is_empty()).then_some(())).await;
    stage.redis.servers[0].process().freeze();
    // More than a minute's worth for people, and nobody has waited for the target.
    talker.goes_on(20 * GOES_ON).await;
    eventually("the target to be missed", async || {
        (figure(node, "connected").await? == 0 && figure(node, "retries_total").await? > 0).then_some(())
    })
    .await;
    stage.redis.servers[0].process().thaw();
    eventually("the target to be back", async || (figure(node, "connected").await? == 1).then_some(())).await;
    stage.redis.servers[0].kill();
    talker.goes_on(GOES_ON).await;
    // A restart changes nothing about that.
    stage.nodes[0].stop().await;
    stage.node_comes_back(0);
    talker.goes_on(GOES_ON).await;
    stage.redis.comes_back(0, &stage.wires).await;
    let said = talker.stops().await;
    let found = arrived(&stage, said).await;
    println!("{said} entries: {found:?}");
    assert_eq!((found.entries, found.holes), (said, 0));
    eventually("nothing waits", async || (figure(node, "waiting").await? == 0).then_some(())).await;
    stage.closes().await;
}

#[tokio::test]
async fn the_worker_of_the_page_does_each_entry_once() {
    let _turn = story::TURN.lock().await;
    let stage = open(&alone(Store::File), "the worker of the page").await;
    let code = PAGE.split("```php\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a worker");
    let port = stage.redis.servers[0].port.to_string();
    let file = stage.folder.join("worker.php");
    std::fs::write(&file, code.replace("6379", &port)).expect("the folder can be written");
    let log = stage.folder.join("worker.log");
    let said = |words: &'static str| {
        let log = log.clone();
        async move || Some(std::fs::read_to_string(&log).ok()?.matches(words).count()).filter(|n| *n > 0)
    };
    let mut worker = Process::start("worker", Command::new("php").arg(&file), &stage.folder);
    let mut talker = Talker::start(nodes(&stage));
    eventually("the worker at work", said("msg in lobby")).await;
    worker.kill();
    talker.goes_on(GOES_ON).await;
    let total = talker.stops().await;
    // What was done comes again, as after a crash.
    let done = list(&stage).await;
    let again = stage.redis.servers[0].ask::<u64>(&["RPUSH", LIST, &done[0].0.to_string()]).await;
    assert!(again.is_some());
    let worker = Process::start("worker", Command::new("php").arg(&file), &stage.folder);
    eventually("all of it to be done", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.lines().count() as u64 >= total && list(&stage).await.is_empty()).then_some(())
    })
    .await;
    drop(worker);
    let text = std::fs::read_to_string(&log).expect("it was read before");
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.rsplit(": ").next()?.parse().ok()).collect();
    let lobby: Vec<u64> = numbers.iter().copied().filter(|number| number % 3 == 0).collect();
    let wanted: Vec<u64> = (0..total).step_by(3).collect();
    assert_eq!(lobby, wanted, "each once, in order");
    stage.closes().await;
}

#[tokio::test]
async fn what_rooms_forget_before_it_is_forwarded_is_counted() {
    let _turn = story::TURN.lock().await;
    let plan = alone(Store::File).with("rooms.keep=1s");
    let mut stage = open(&plan, "forgotten before it is forwarded").await;
    let node = stage.nodes[0].address();
    stage.redis.servers[0].kill();
    let mut talker = Talker::start(nodes(&stage));
    talker.goes_on(GOES_ON).await;
    let lost = async || figure(node, "lost_total").await.filter(|lost| *lost > 0);
    eventually("something is forgotten too early", lost).await;
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    stage.redis.comes_back(0, &stage.wires).await;
    let lost = async || {
        let (lost, sent) = (figure(node, "lost_total").await?, figure(node, "entries_total").await?);
        (lost + sent >= said).then_some(lost)
    };
    let lost = eventually("each to be forwarded or counted", lost).await;
    let found = judged(&list(&stage).await);
    println!("{said} entries, {lost} lost: {found:?}");
    assert_eq!((found.entries + lost, found.repeats), (said, 0));
    let told = "were forgotten before";
    assert!(stage.nodes[0].log().matches(told).count() <= 2, "told once a target, not once an entry");
    assert!(stage.nodes[0].log().contains(told));
    stage.closes().await;
}

#[tokio::test]
async fn rooms_in_memory_forward_and_drain() {
    let _turn = story::TURN.lock().await;
    let mut stage = open(&alone(Store::None).with("forward.buffer=40"), "forwarding from memory").await;
    let node = stage.nodes[0].address();
    let mut talker = Talker::start(nodes(&stage));
    talker.goes_on(GOES_ON).await;
    eventually("the first at the list", async || (!list(&stage).await.is_empty()).then_some(())).await;
    stage.redis.servers[0].process().freeze();
    talker.goes_on(200).await;
    stage.redis.servers[0].process().thaw();
    // It is counted as the forwarder comes to the places that are empty; people talk on while it connects again.
    eventually("most of 200 to be lost where there is place for 40", async || {
        figure(node, "lost_total").await.filter(|lost| *lost >= 100)
    })
    .await;
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    let lost = figure(node, "lost_total").await.expect("the node serves its figures");
    // What waits at the end goes out before it.
    stage.nodes[0].stop().await;
    let found = judged(&list(&stage).await);
    println!("{said} entries, {lost} lost: {found:?}");
    assert_eq!(found.entries + found.holes, said);
    assert!(found.holes >= lost, "what was counted is not there");
}

#[tokio::test]
async fn three_nodes_forward_while_nodes_are_killed() {
    let _turn = story::TURN.lock().await;
    let mut stage = open(&forwarding(Plan::of(Shape::Single)), "three nodes forward").await;
    let mut talker = Talker::start(nodes(&stage));
    for _ in 0..2 {
        talker.goes_on(GOES_ON).await;
        let server = eventually("one of them serves the list", async || {
            for (number, node) in nodes(&stage).into_iter().enumerate() {
                if figure(node, "serving").await == Some(1) {
                    return Some(number);
                }
            }
            None
        })
        .await;
        stage.nodes[server].kill();
        let others: Vec<usize> = (0..stage.nodes.len()).filter(|number| *number != server).collect();
        eventually("another one serves it", async || {
            for number in &others {
                if figure(stage.nodes[*number].address(), "serving").await == Some(1) {
                    return Some(());
                }
            }
            None
        })
        .await;
        stage.node_comes_back(server);
        stage.nodes[server].is_ready().await;
    }
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    let found = arrived(&stage, said).await;
    println!("2 kills, {said} entries: {found:?}");
    assert_eq!((found.entries, found.holes), (said, 0));
    assert_eq!(teams_arrived(&stage, said).await.holes, 0);
    let kept: BTreeSet<u64> = nodes_lost(&stage).await;
    assert_eq!(kept, BTreeSet::from([0]), "no node misses anything");
    stage.closes().await;
}

/// What the nodes say that they have lost.
async fn nodes_lost(stage: &Stage) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for node in nodes(stage) {
        lost.extend(figure(node, "lost_total").await);
    }
    lost
}

#[tokio::test]
async fn redis_forgets_everything_while_nodes_forward() {
    let _turn = story::TURN.lock().await;
    let mut stage = open(&forwarding(Plan::of(Shape::Single)), "Redis comes back empty under forwards").await;
    let mut talker = Talker::start(nodes(&stage));
    talker.goes_on(GOES_ON).await;
    eventually("the first at the list", async || (!list(&stage).await.is_empty()).then_some(())).await;
    stage.redis.servers[0].kill();
    stage.redis.servers[0].forgets();
    stage.redis.comes_back(0, &stage.wires).await;
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    // The nodes have put back what they remember, so all of it comes to the new list.
    let found = arrived(&stage, said).await;
    println!("an empty Redis, {said} entries: {found:?}");
    assert_eq!((found.entries, found.holes), (said, 0));
    stage.closes().await;
}

#[tokio::test]
async fn the_primary_is_killed_while_nodes_forward() {
    let _turn = story::TURN.lock().await;
    let mut stage =
        open(&forwarding(Plan::of(Shape::Sentinel)), "the primary dies while nodes forward").await;
    let mut talker = Talker::start(nodes(&stage));
    talker.goes_on(GOES_ON).await;
    let old = stage.redis.primary().await;
    stage.primary_dies(old).await;
    talker.goes_on(GOES_ON).await;
    let said = talker.stops().await;
    let new = stage.redis.primary().await;
    // The list lives in the Redis that has died: what its replica lacks of the list it lacks of the note behind it too.
    let found = eventually("everything at the list of the new primary", async || {
        let lines: Vec<String> = stage.redis.servers[new].ask(&["LRANGE", LIST, "0", "-1"]).await?;
        let frames: Vec<(Value, Option<String>)> =
            lines.iter().rev().map(|line| (serde_json::from_str(line).expect("JSON"), None)).collect();
        let newest = frames.iter().filter_map(|(frame, _)| frame["d"].as_u64()).max()?;
        (newest + 1 >= said).then_some(judged(&frames))
    })
    .await;
    println!("a primary killed, {said} entries: {found:?}");
    assert_eq!((found.entries, found.holes), (said, 0));
    stage.closes().await;
}
