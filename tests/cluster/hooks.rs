//! A backend that is told of what happens on several nodes: each message of each room in its order, though the nodes
//! are killed, and the backend is away; sessions that die with their node end for it as well.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use roomcast::store::letters::Letters;
use roomcast::store::record::Letter;
use roomcast::store::spool::letters::SpoolLetters;
use roomcast_rig::backend::{Backend, status};
use roomcast_rig::eventually;
use roomcast_rig::server::call;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story;

const ROOMS: [&str; 3] = ["lobby", "team-1", "team-2"];
/// Messages of one round.
const ROUND: u64 = 30;

/// Says the numbers from one to before another, each at the next node that takes it.
async fn say(nodes: &[SocketAddr], numbers: std::ops::Range<u64>) {
    for number in numbers {
        let room = ROOMS[number as usize % ROOMS.len()];
        let body = json!({"r": room, "d": number, "id": format!("n{number}")}).to_string();
        let mut turn = number as usize;
        eventually("a node takes the message", async || {
            turn += 1;
            let answer = call(nodes[turn % nodes.len()], "POST", "/api/publish", &body).await;
            answer.filter(|(status, _)| *status == 200)
        })
        .await;
    }
}

/// What a room's messages were, in the order in which they were first told.
fn told(backend: &Backend) -> BTreeMap<String, Vec<u64>> {
    let mut rooms: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for event in backend.events_once().iter().filter(|event| event["event"] == "on_message") {
        let room = rooms.entry(event["r"].as_str().expect("a room").to_owned()).or_default();
        let (s, d) = (event["s"].as_u64().expect("a place"), event["d"].as_u64().expect("a number"));
        assert!(room.last().is_none_or(|(last, _)| *last + 1 == s), "{event} after {:?}", room.last());
        room.push((s, d));
    }
    rooms.into_iter().map(|(room, list)| (room, list.into_iter().map(|(_, d)| d).collect())).collect()
}

/// A session on a node, by a stream of events: it is there as long as its socket.
async fn visitor(node: SocketAddr, user: &str) -> TcpStream {
    let mut socket = TcpStream::connect(node).await.expect("the node listens");
    let request = format!("GET /v1/stream?user={user}&rooms=lobby HTTP/1.1\r\nHost: {node}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("the node reads");
    socket
}

fn is_about(name: &'static str, user: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == name && event["u"] == user
}

/// The dead letters of a node.
fn letters(stage: &Stage, node: usize) -> SpoolLetters {
    let file = stage.nodes[node].setup.home.join(format!("data/roomcast.node-{node}.hooks.db"));
    SpoolLetters::open(&file).expect("it can be opened").expect("every node has a file of hooks")
}

/// What the backend can never take is a dead letter of the node that posted it, and can be posted again.
async fn one_at_fault(backend: &Backend, stage: &Stage, nodes: &[SocketAddr]) {
    backend.answers(|posted| if posted.body.contains("poison") { status(422) } else { status(200) });
    for d in ["poison", "fine"] {
        let body = json!({"r": "lobby", "d": d}).to_string();
        let answer = call(nodes[2], "POST", "/api/publish", &body).await;
        assert_eq!(answer.map(|(status, _)| status), Some(200));
    }
    backend.hears("what is fine", |event| event["d"] == "fine").await;
    let lists: Vec<Vec<Letter>> =
        (0..nodes.len()).map(|node| letters(stage, node).list(10).expect("they can be read")).collect();
    let all: Vec<&Letter> = lists.iter().flatten().collect();
    assert!(all.len() == 1 && all[0].reason.contains("answered 422"), "{all:?}");
    let node = lists.iter().position(|list| !list.is_empty()).expect("one node has it");
    backend.answers(|_| status(200));
    assert_eq!(letters(stage, node).post_again(&all[0].id), Ok(true));
    backend.hears("what was refused before", |event| event["d"] == "poison").await;
}

#[tokio::test]
async fn a_backend_hears_of_all_nodes_though_they_are_killed() {
    let _turn = story::TURN.lock().await;
    let mut backend = Backend::open().await;
    let plan = backend.hooks(&[]).iter().fold(Plan::of(Shape::Single), |plan, setting| plan.with(setting));
    let folder = story::folder("a backend of three nodes", story::seed());
    let mut stage = Stage::open(&plan, &folder).await;
    let nodes: Vec<SocketAddr> = stage.nodes.iter().map(|node| node.address()).collect();
    let _ann = visitor(nodes[0], "ann").await;
    let opened = backend.hears("ann comes", is_about("on_open", "ann")).await;
    say(&nodes, 0..ROUND).await;
    backend.hears_message("lobby", 1).await;

    stage.nodes[0].kill();
    say(&nodes, ROUND..2 * ROUND).await;
    // Whoever posted may have been the one that was killed: another node goes on.
    let second = (2 * ROUND / ROOMS.len() as u64) - 1;
    backend.hears_message("lobby", second).await;
    stage.node_comes_back(0);
    stage.nodes[0].is_ready().await;
    let closed = backend.hears("ann's end", is_about("on_close", "ann")).await;
    assert_eq!((&closed["code"], &closed["session"]), (&json!(1006), &opened["session"]));

    backend.goes().await;
    say(&nodes, 2 * ROUND..3 * ROUND).await;
    stage.nodes[1].kill();
    backend.answers(|_| status(503));
    backend.comes().await;
    say(&nodes, 3 * ROUND..4 * ROUND).await;
    stage.node_comes_back(1);
    backend.answers(|_| status(200));
    let all = 4 * ROUND;
    eventually("all messages are told", async || {
        (told(&backend).values().map(Vec::len).sum::<usize>() as u64 >= all).then_some(())
    })
    .await;
    for (at, room) in ROOMS.iter().enumerate() {
        let said: Vec<u64> = (0..all).filter(|number| *number as usize % ROOMS.len() == at).collect();
        assert_eq!(told(&backend)[*room], said, "{room}: all, in the order in which they were said");
    }
    stage.is_whole().await;
    one_at_fault(&backend, &stage, &nodes).await;
    stage.closes().await;
}
