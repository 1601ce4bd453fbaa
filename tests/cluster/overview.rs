//! The server API of several nodes: every node says the same of all rooms, also when one of them dies, and what one
//! node is asked to do all of them do.

use std::net::SocketAddr;
use std::time::Duration;

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, call, get};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{TURN, folder, seed};

/// When all nodes have to be right again.
const RIGHT_AFTER: Duration = Duration::from_secs(6);

/// Three nodes at one Redis. Guests of a story answer pings only while they listen, and these listen seldom.
fn plan() -> Plan {
    Plan::of(Shape::Single).with("limits.ping=60s")
}

/// What a node says; nothing while it says no.
async fn told(node: SocketAddr, path: &str) -> Option<Value> {
    let (status, body) = get(node, path).await?;
    (status == 200).then(|| serde_json::from_str(&body).expect("answers are JSON"))
}

/// All that one node says, without the epoch, which the story does not know beforehand.
async fn all_of(node: SocketAddr) -> Option<[Value; 3]> {
    let rooms = told(node, "/api/rooms?n=5").await?;
    let mut lobby = told(node, "/api/rooms/lobby").await?;
    assert!(lobby["e"].as_str().is_some_and(|epoch| !epoch.is_empty()), "{lobby}");
    lobby["e"] = json!("");
    Some([rooms, lobby, told(node, "/api/rooms/lobby/who").await?])
}

fn expected(lobby: (u64, &[&str]), team: u64) -> [Value; 3] {
    let (sessions, users) = lobby;
    let list: Vec<Value> = users.iter().map(|user| json!({"u": user})).collect();
    let state =
        json!({"r": "lobby", "e": "", "s": 1, "first": 1, "sessions": sessions, "users": users.len()});
    [
        json!({"list": [{"r": "lobby", "sessions": sessions}, {"r": "team-1", "sessions": team}], "more": false}),
        state,
        json!({"r": "lobby", "list": list, "more": false}),
    ]
}

async fn agree(nodes: &[SocketAddr], wanted: &[Value; 3]) {
    for node in nodes {
        let right = async || (all_of(*node).await.as_ref() == Some(wanted)).then_some(());
        eventually(&format!("{node} to say {wanted:?}"), right).await;
    }
}

#[tokio::test]
async fn every_node_tells_the_same_of_all_rooms() {
    let folder = folder("overview", seed());
    let mut stage = Stage::open(&plan(), &folder).await;
    let _turn = TURN.lock().await;
    let nodes: Vec<SocketAddr> = stage.nodes.iter().map(Server::address).collect();
    let diaries = folder.join("diaries");
    let mut guests = Vec::new();
    for (at, name, rooms) in [
        (0, "ann", json!({"lobby": {}, "team-1": {}})),
        (1, "ann", json!({"lobby": {}})),
        (1, "bob", json!({"lobby": {}})),
        (2, "zoe", json!({"lobby": {}, "team-1": {}})),
        (2, "eve", json!({"lobby": {"quiet": true}})),
    ] {
        guests.push(Guest::enter(nodes[at], &diaries, name, json!({"rooms": rooms})).await);
    }
    guests[0].asks(&json!({"t": "pub", "r": "lobby", "d": "hi", "id": "hi-1"})).await;
    agree(&nodes, &expected((5, &["ann", "bob", "zoe"]), 2)).await;
    let page = told(nodes[1], "/api/rooms?prefix=&n=1").await;
    assert_eq!(page, Some(json!({"list": [{"r": "lobby", "sessions": 5}], "more": true})));
    let next = told(nodes[2], "/api/rooms?after=lobby").await;
    assert_eq!(
        next,
        Some(json!({"list": [{"r": "team-1", "sessions": 2}], "more": false})),
        "from another node"
    );
    let who = told(nodes[0], "/api/rooms/lobby/who?after=ann&n=1").await;
    assert_eq!(who, Some(json!({"r": "lobby", "list": [{"u": "bob"}], "more": true})));
    for node in &nodes {
        assert_eq!(get(*node, "/api/rooms/never").await.map(|(status, _)| status), Some(404));
    }

    let killed = Instant::now();
    stage.nodes[2].kill();
    agree(&nodes[..2], &expected((3, &["ann", "bob"]), 1)).await;
    let took = killed.elapsed();
    assert!(took < RIGHT_AFTER, "right only after {took:?}");
    println!("overview: right {took:.1?} after kill -9 of a node");
    stage.node_comes_back(2);
    stage.nodes[2].is_ready().await;
    agree(&nodes, &expected((3, &["ann", "bob"]), 1)).await;
    for guest in guests.drain(..).take(3) {
        guest.goes().await;
    }
    for node in &nodes {
        let empty =
            async || (told(*node, "/api/rooms").await? == json!({"list": [], "more": false})).then_some(());
        eventually("nobody to be anywhere", empty).await;
    }
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

/// A call that has to be carried out: its answer.
async fn done(node: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, text) = call(node, method, path, &body).await.expect("the node answers");
    assert_eq!(status, 200, "{method} {path}: {text}");
    serde_json::from_str(&text).expect("answers are JSON")
}

#[tokio::test]
async fn what_one_node_is_asked_all_nodes_do() {
    let folder = folder("orders", seed());
    let stage = Stage::open(&plan(), &folder).await;
    let _turn = TURN.lock().await;
    let nodes: Vec<SocketAddr> = stage.nodes.iter().map(Server::address).collect();
    let diaries = folder.join("diaries");
    let mut guests = Vec::new();
    for (at, name) in [(0, "ann"), (1, "ann"), (2, "bob")] {
        let rooms = if name == "bob" { json!({"lobby": {}}) } else { json!({}) };
        guests.push(
            Guest::enter(nodes[at], &diaries, &name_of(name, at), json!({"u": name, "rooms": rooms})).await,
        );
    }
    let hello = json!({"r": "lobby", "d": "one", "id": "id-1"});
    let all = json!({"rooms": ["lobby", "ops"], "d": "two", "id": "id-2"});
    for (node, dup) in nodes.iter().zip([false, true, true]) {
        let place = done(*node, "POST", "/api/publish", &hello).await;
        assert_eq!((&place["s"], &place["dup"]), (&json!(1), &json!(dup)), "one message, whoever is asked");
        let places = done(*node, "POST", "/api/broadcast", &all).await;
        assert_eq!((&places["lobby"]["s"], &places["ops"]["s"]), (&json!(2), &json!(1)));
        assert_eq!(places["ops"]["dup"], json!(dup));
    }
    let erased = done(nodes[1], "DELETE", "/api/rooms/lobby/log/1?u=mod", &Value::Null).await;
    assert_eq!(erased["s"], json!(3));
    let del = guests[2].hears("the deletion", |frame| frame["t"] == "del").await;
    assert_eq!((&del["of"], &del["u"]), (&json!(1), &json!("mod")));
    let log = done(nodes[0], "GET", "/api/rooms/lobby/log", &Value::Null).await;
    assert_eq!(log["list"][1]["d"], json!("two"), "{log}");
    assert_eq!(log["list"][0]["d"], Value::Null, "its words are gone: {log}");
    for node in &nodes[1..] {
        assert_eq!(done(*node, "GET", "/api/rooms/lobby/log", &Value::Null).await, log);
    }
    done(nodes[2], "POST", "/api/join", &json!({"u": "ann", "rooms": ["lobby", "team-9"]})).await;
    for guest in &mut guests[..2] {
        for room in ["lobby", "team-9"] {
            guest.hears("to be let in", |frame| frame["t"] == "joined" && frame["r"] == room).await;
        }
    }
    agree_on(&nodes, "/api/rooms/team-9/who", &json!({"r": "team-9", "list": [{"u": "ann"}], "more": false}))
        .await;
    done(nodes[1], "POST", "/api/leave", &json!({"u": "ann", "rooms": ["team-9"]})).await;
    agree_on(&nodes, "/api/rooms?prefix=team-", &json!({"list": [], "more": false})).await;
    done(nodes[0], "POST", "/api/disconnect", &json!({"u": "ann"})).await;
    agree_on(&nodes, "/api/rooms", &json!({"list": [{"r": "lobby", "sessions": 1}], "more": false})).await;
    for guest in guests.drain(..2) {
        guest.is_cut().await;
    }
    for guest in guests {
        guest.goes().await;
    }
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

/// Of two sessions of a user, each has a diary.
fn name_of(user: &str, at: usize) -> String {
    format!("{user}-{at}")
}

async fn agree_on(nodes: &[SocketAddr], path: &str, wanted: &Value) {
    for node in nodes {
        let right = async || (told(*node, path).await.as_ref() == Some(wanted)).then_some(());
        eventually(&format!("{node} to say {wanted} at {path}"), right).await;
    }
}
