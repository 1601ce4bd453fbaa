//! The rules of rooms on several nodes: what one node is told all hold to, also one that comes later, and though the
//! nodes are killed.

use std::net::SocketAddr;

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, call, get};
use serde_json::{Value, json};

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{TURN, folder, seed};

async fn order(node: SocketAddr, what: &str, body: Value) {
    let path = format!("/api/rooms/lobby/{what}");
    let (status, text) = call(node, "POST", &path, &body.to_string()).await.expect("the node answers");
    assert_eq!(status, 200, "{what} {body}: {text}");
}

async fn rules(node: SocketAddr) -> Option<Value> {
    let (status, body) = get(node, "/api/rooms/lobby/rules").await?;
    (status == 200).then(|| serde_json::from_str(&body).expect("answers are JSON"))
}

/// Waits until all nodes hold to the same rules.
async fn agree(nodes: &[SocketAddr], wanted: &Value) {
    for node in nodes {
        let right = async || (rules(*node).await.as_ref() == Some(wanted)).then_some(());
        eventually(&format!("{node} to hold to {wanted}"), right).await;
    }
}

fn says(id: &str) -> Value {
    json!({"t": "pub", "r": "lobby", "d": "hi", "id": id})
}

fn wanted(muted: &[&str], banned: &[&str]) -> Value {
    let list = |users: &[&str]| -> Vec<Value> {
        users.iter().map(|user| json!({"u": user, "until": null})).collect()
    };
    json!({"r": "lobby", "muted": list(muted), "banned": list(banned), "frozen": null, "slow": 0,
        "roles": {"may": "moderator"}})
}

async fn all_nodes_hold_to_rules(shape: Shape) {
    let folder = folder(&format!("rules {shape:?}"), seed());
    let plan = Plan { spare: 1, ..Plan::of(shape).with("limits.ping=60s") };
    let mut stage = Stage::open(&plan, &folder).await;
    let _turn = TURN.lock().await;
    let mut nodes: Vec<SocketAddr> = stage.nodes.iter().map(Server::address).collect();
    let diaries = folder.join("diaries");
    let enter = async |node: SocketAddr, name: &str| {
        Guest::enter(node, &diaries, name, json!({"rooms": {"lobby": {}}})).await
    };
    let mut bob = enter(nodes[1], "bob").await;
    let mut eve = enter(nodes[2], "eve").await;
    order(nodes[0], "role", json!({"u": "may", "role": "moderator"})).await;
    order(nodes[0], "mute", json!({"u": "bob"})).await;
    let own = rules(nodes[0]).await;
    assert_eq!(own, Some(wanted(&["bob"], &[])), "who has taken the order holds to it before it answers");
    agree(&nodes, &wanted(&["bob"], &[])).await;
    let refused = bob.asks(&says("b-1")).await;
    assert_eq!((&refused["code"], &refused["why"]), (&json!(403), &json!("muted")), "{refused}");
    order(nodes[1], "ban", json!({"u": "eve"})).await;
    let out = eve.hears("her ban", |frame| frame["t"] == "err").await;
    assert_eq!((&out["r"], &out["why"]), (&json!("lobby"), &json!("banned")), "{out}");
    let whom = wanted(&["bob"], &["eve"]);
    agree(&nodes, &whom).await;

    // Two nodes are asked in the same moment, again and again: no order is lost.
    let (even, odd) = (0..10, 10..20);
    let many = async |node: SocketAddr, numbers: std::ops::Range<u32>| {
        for number in numbers {
            order(node, "mute", json!({"u": format!("user-{number:02}")})).await;
        }
    };
    tokio::join!(many(nodes[0], even), many(nodes[2], odd));
    let names: Vec<String> = (0..20).map(|number| format!("user-{number:02}")).collect();
    let muted: Vec<&str> = std::iter::once("bob").chain(names.iter().map(String::as_str)).collect();
    agree(&nodes, &wanted(&muted, &["eve"])).await;

    // A node that comes later knows the rules, and so does one that was killed.
    stage.node_joins().await;
    nodes.push(stage.nodes[3].address());
    stage.nodes[0].kill();
    order(nodes[1], "mute", json!({"u": "bob", "for": 0})).await;
    stage.node_comes_back(0);
    stage.nodes[0].is_ready().await;
    agree(&nodes, &wanted(&muted[1..], &["eve"])).await;
    assert_eq!(bob.asks(&says("b-2")).await["t"], "ack");
    for node in [nodes[0], nodes[3]] {
        let mut late = Guest::enter(node, &diaries, "user-07", json!({"rooms": {"lobby": {}}})).await;
        assert_eq!(late.asks(&says("u-1")).await["why"], "muted");
        let mut eve = Guest::enter(node, &diaries, "eve", json!({})).await;
        eve.say(&json!({"t": "join", "r": "lobby"})).await;
        let refused = eve.hears("a refusal", |frame| frame["t"] == "err").await;
        assert_eq!(refused["why"], "banned", "{refused}");
    }
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

#[tokio::test]
async fn all_nodes_at_one_redis_hold_to_the_rules_of_a_room() {
    all_nodes_hold_to_rules(Shape::Single).await;
}

#[tokio::test]
async fn all_nodes_at_a_redis_cluster_hold_to_the_rules_of_a_room() {
    all_nodes_hold_to_rules(Shape::Cluster).await;
}
