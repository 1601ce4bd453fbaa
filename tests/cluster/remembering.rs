//! Redis loses its memory, and nobody notices: who has read what, where sessions stand and who may do what are as before,
//! on every node; while the nodes live, and when they begin anew with it.

use std::net::SocketAddr;
use std::time::Duration;

use roomcast_rig::client::Client;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, call, get};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{TURN, folder, seed};

/// A client without any memory of its own.
struct Visitor(Client);

impl Visitor {
    /// Comes in, and the name of the session. `more` is what the `hello` carries beside the name.
    async fn enter(node: SocketAddr, user: &str, more: Value) -> (Visitor, String) {
        let client = eventually("a link", || Client::connect(node, None)).await;
        let mut visitor = Visitor(client);
        let mut hello = json!({"t": "hello", "v": 1, "u": user});
        hello.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        visitor.says(&hello).await;
        let welcome = visitor.hears(|frame| frame["t"] == "welcome").await;
        (visitor, welcome["session"].as_str().expect("a name").to_owned())
    }

    async fn says(&mut self, frame: &Value) {
        self.0.say(&frame.to_string()).await;
    }

    async fn hears(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let line = self.0.hear().await.expect("the link stays");
                let frame: Value = serde_json::from_str(&line).expect("a frame is JSON");
                if fits(&frame) {
                    return frame;
                }
            }
        };
        tokio::time::timeout(roomcast_rig::PATIENCE, wait).await.expect("a frame that fits")
    }

    /// What a room answers to a frame with an id, or to a join.
    async fn asks(&mut self, frame: &Value) -> Value {
        self.says(frame).await;
        self.hears(|heard| matches!(heard["t"].as_str(), Some("ack" | "err" | "joined"))).await
    }
}

async fn order(node: SocketAddr, what: &str, user: &str) {
    let (path, body) = (format!("/api/rooms/lobby/{what}"), json!({"u": user}).to_string());
    // Right after a fault the server may not keep it yet.
    let taken = async || call(node, "POST", &path, &body).await.filter(|(status, _)| *status == 200);
    eventually("an order to be taken", taken).await;
}

/// Who is muted and banned in the lobby, as a node holds to it.
async fn rules(node: SocketAddr) -> Option<(Vec<String>, Vec<String>)> {
    let (_, body) = get(node, "/api/rooms/lobby/rules").await.filter(|(status, _)| *status == 200)?;
    let rules: Value = serde_json::from_str(&body).expect("answers are JSON");
    let users = |what: &str| {
        let list = rules[what].as_array().into_iter().flatten();
        list.filter_map(|one| one["u"].as_str().map(str::to_owned)).collect()
    };
    Some((users("muted"), users("banned")))
}

/// Waits until a statement answers just this.
async fn archive_says(stage: &Stage, sql: &str, wanted: &str) {
    let archive = stage.archive.as_ref().expect("the story has one");
    let right = async || archive.sql(sql).filter(|told| told == wanted).map(|_| ());
    eventually(&format!("{sql} to say {wanted}"), right).await;
}

const READS: &str = "SELECT string_agg(u || s, ' ' ORDER BY u) FROM roomcast.reads";
const RULES: &str = "SELECT rules FROM roomcast.rules WHERE room = 'lobby'";
const TOP: &str = "SELECT top FROM roomcast.rooms WHERE name = 'lobby'";

/// How far a user has read the lobby, as a node tells her.
async fn has_read(node: SocketAddr, user: &str) -> u64 {
    let (mut visitor, _) = Visitor::enter(node, user, json!({})).await;
    visitor.says(&json!({"t": "rooms", "i": 1})).await;
    let frame = visitor.hears(|frame| frame["i"] == 1).await;
    let lobby = frame["list"].as_array().into_iter().flatten().find(|room| room["r"] == "lobby").cloned();
    lobby.and_then(|room| room["read"].as_u64()).unwrap_or(0)
}

/// Who is banned tries to come in all the time, at one node after the other.
async fn tries_to_come_in(nodes: Vec<SocketAddr>, user: &'static str, stop: watch::Receiver<bool>) -> u64 {
    let mut tries = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !*stop.borrow() {
        pace.tick().await;
        let node = nodes[tries as usize % nodes.len()];
        tries += 1;
        // A node that has just been killed takes nobody.
        let Some(client) = Client::connect(node, None).await else { continue };
        let mut visitor = Visitor(client);
        visitor.says(&json!({"t": "hello", "v": 1, "u": user, "rooms": {"lobby": {}}})).await;
        visitor.says(&json!({"t": "bye"})).await;
        while let Some(line) = visitor.0.hear().await {
            let frame: Value = serde_json::from_str(&line).expect("a frame is JSON");
            assert_ne!(frame["t"], "joined", "{user} is in the room on {node}: {frame}");
        }
    }
    tries
}

/// All is as before on every node.
async fn is_as_before(nodes: &[SocketAddr], session: &str) {
    let wanted = (vec!["bob".to_owned()], vec!["eve".to_owned(), "mallory".to_owned()]);
    for node in nodes {
        eventually(&format!("{node} to hold to the rules"), async || {
            (rules(*node).await.as_ref() == Some(&wanted)).then_some(())
        })
        .await;
        assert_eq!((has_read(*node, "ann").await, has_read(*node, "zoe").await), (5, 6), "{node}");
        let (mut bob, _) = Visitor::enter(*node, "bob", json!({"rooms": {"lobby": {}}})).await;
        bob.hears(|frame| frame["t"] == "joined").await;
        let refused = bob.asks(&json!({"t": "pub", "r": "lobby", "d": "hi", "id": "b"})).await;
        assert_eq!(refused["why"], "muted", "{refused}");
        let (mut eve, _) = Visitor::enter(*node, "eve", json!({})).await;
        let refused = eve.asks(&json!({"t": "join", "r": "lobby"})).await;
        assert_eq!(refused["why"], "banned", "{refused}");
        let (mut ann, name) = Visitor::enter(*node, "ann", json!({"session": session})).await;
        assert_eq!(name, session, "she goes on with it");
        let next = ann.hears(|frame| frame["t"] == "msg" && frame["r"] == "lobby").await;
        assert_eq!(next["s"], 5, "behind what her application has got");
    }
}

#[tokio::test]
async fn redis_forgets_everything_and_nobody_notices() {
    let folder = folder("remembering", seed());
    let plan = Plan::of(Shape::Single).archived().with("limits.ping=60s");
    let mut stage = Stage::open(&plan, &folder).await;
    let _turn = TURN.lock().await;
    let nodes: Vec<SocketAddr> = stage.nodes.iter().map(Server::address).collect();
    let (mut ann, session) = Visitor::enter(nodes[0], "ann", json!({"rooms": {"lobby": {}}})).await;
    let stands = format!("SELECT rooms::json -> 0 ->> 's' FROM roomcast.sessions WHERE id = '{session}'");
    ann.hears(|frame| frame["t"] == "joined").await;
    for number in 1..=6 {
        let said = json!({"t": "pub", "r": "lobby", "d": number, "id": format!("a{number}")});
        assert_eq!(ann.asks(&said).await["t"], "ack");
    }
    ann.says(&json!({"t": "got", "r": "lobby", "s": 4})).await;
    ann.says(&json!({"t": "read", "r": "lobby", "s": 5})).await;
    order(nodes[0], "mute", "bob").await;
    order(nodes[1], "ban", "eve").await;
    archive_says(&stage, READS, "ann5").await;
    archive_says(&stage, &stands, "4").await;
    drop(ann);

    // While the archive is away somebody reads, and somebody is banned.
    stage.archive.as_mut().expect("it was asked for").kill();
    let (mut zoe, _) = Visitor::enter(nodes[1], "zoe", json!({"rooms": {"lobby": {"since": 0}}})).await;
    zoe.hears(|frame| frame["t"] == "msg" && frame["s"] == 6).await;
    zoe.says(&json!({"t": "read", "r": "lobby", "s": 6})).await;
    order(nodes[2], "ban", "mallory").await;
    stage.archive.as_mut().expect("it was asked for").comes_back().await;
    archive_says(&stage, READS, "ann5 zoe6").await;
    let all = r#"{"muted":{"bob":null},"banned":{"eve":null,"mallory":null}}"#;
    archive_says(&stage, RULES, all).await;
    archive_says(&stage, TOP, "6").await;
    is_as_before(&nodes, &session).await;
    archive_says(&stage, &stands, "4").await;

    // Redis forgets, first alone and then together with all nodes.
    let stop = watch::Sender::new(false);
    let eve = tokio::spawn(tries_to_come_in(nodes.clone(), "eve", stop.subscribe()));
    for with_nodes in [false, true] {
        if with_nodes {
            stage.nodes.iter_mut().for_each(Server::kill);
        }
        stage.redis.servers[0].kill();
        stage.redis.servers[0].forgets();
        stage.redis.comes_back(0, &stage.wires).await;
        if with_nodes {
            (0..nodes.len()).for_each(|number| stage.node_comes_back(number));
        }
        stage.is_whole().await;
        is_as_before(&nodes, &session).await;
        archive_says(&stage, &stands, "4").await;
    }
    stop.send_replace(true);
    let tries = eve.await.expect("nobody lets her in");
    assert!(tries > 0);
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}
