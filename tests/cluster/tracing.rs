//! What became of a message, asked of any of several nodes: each answers for all, and one that does not answer is named
//! and not waited for.

use std::net::SocketAddr;
use std::time::Duration;

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, get};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{TURN, folder, seed};

/// Longest that a question may take, whatever the other nodes do.
const ANSWER_MAX: Duration = Duration::from_secs(4);

async fn trace(node: SocketAddr, path: &str) -> Value {
    let asked = Instant::now();
    let (status, body) = get(node, &format!("/api/trace/lobby/{path}")).await.expect("the node answers");
    assert_eq!(status, 200, "{path}: {body}");
    let took = asked.elapsed();
    assert!(took < ANSWER_MAX, "answered only after {took:?}");
    serde_json::from_str(&body).expect("answers are JSON")
}

/// User, state and node of each session.
fn states(trace: &Value) -> Vec<(String, String, String)> {
    let list = trace["list"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {trace}")).to_owned();
    let mut all: Vec<_> =
        list.map(|session| (text(&session["u"]), text(&session["state"]), text(&session["node"]))).collect();
    all.sort();
    all
}

#[tokio::test]
async fn any_node_tells_what_became_of_a_message_and_names_a_node_that_is_silent() {
    let folder = folder("tracing", seed());
    let mut stage = Stage::open(&Plan::of(Shape::Single).with("limits.ping=60s"), &folder).await;
    let _turn = TURN.lock().await;
    let nodes: Vec<SocketAddr> = stage.nodes.iter().map(Server::address).collect();
    let diaries = folder.join("diaries");
    let mut guests = Vec::new();
    for (at, name) in [(0, "ann"), (1, "bob"), (1, "eve")] {
        guests.push(Guest::enter(nodes[at], &diaries, name, json!({"rooms": {"lobby": {}}})).await);
    }
    let said = guests[0].asks(&json!({"t": "pub", "r": "lobby", "d": "hi", "id": "hi-1"})).await;
    assert_eq!(said["s"], 1, "{said}");
    guests[1].reads_up_to("lobby", 1).await;
    guests[1].say(&json!({"t": "got", "r": "lobby", "s": 1})).await;
    guests.remove(2).goes().await;
    let row = |user: &str, state: &str, node: &str| (user.to_owned(), state.to_owned(), node.to_owned());
    let all = [row("ann", "got", "node-0"), row("bob", "acked", "node-1"), row("eve", "gone", "node-1")];
    for node in &nodes {
        let agrees = async || (states(&trace(*node, "1").await) == all).then_some(());
        eventually(&format!("{node} to tell of all three"), agrees).await;
        let told = trace(*node, "1").await;
        assert_eq!((&told["id"], &told["u"], &told["silent"]), (&json!("hi-1"), &json!("ann"), &json!([])));
        let origin = &told["origin"];
        assert_eq!((&origin["door"], &origin["kept"]), (&json!("websocket"), &json!("redis")), "{told}");
        assert_eq!(origin["node"], "node-0");
        assert!(origin["stored"].as_u64() >= told["ts"].as_u64(), "{told}");
        let max = trace(*node, "1?user=max").await;
        assert_eq!(max["list"], json!([{"u": "max", "state": "not joined"}]));
    }
    let first = trace(nodes[2], "1?n=1").await;
    assert_eq!((first["list"].as_array().map(Vec::len), &first["more"]), (Some(1), &json!(true)));
    assert_eq!(first["counts"], trace(nodes[2], "1").await["counts"]);

    // What came from a queue is told with the queue's name.
    let url = stage.redis.url().expect("the nodes share it");
    let client = redis::Client::open(url).expect("an address");
    let mut link = client.get_multiplexed_async_connection().await.expect("Redis listens");
    let item = json!({"room": "lobby", "id": "o-17", "user": "shop", "content": "paid"}).to_string();
    let pushed = redis::cmd("LPUSH").arg("message_queue").arg(item).query_async::<u64>(&mut link).await;
    pushed.expect("it is a list");
    guests[1].reads_up_to("lobby", 2).await;
    let known = async || Some(trace(nodes[1], "2").await).filter(|told| told["origin"] != Value::Null);
    let told = eventually("the node that took it to know so", known).await;
    let origin = &told["origin"];
    assert_eq!((&origin["door"], &origin["name"]), (&json!("list"), &json!("message_queue")), "{told}");
    assert_eq!((&told["id"], &told["u"], &told["via"]), (&json!("o-17"), &json!("shop"), &json!("queue")));

    // A node that stands still is named, and the others are heard.
    stage.node_freezes(1);
    let told = trace(nodes[2], "1").await;
    stage.node_thaws(1);
    assert_eq!((&told["silent"], states(&told)), (&json!(["node-1"]), vec![all[0].clone()]), "{told}");
    let max = trace(nodes[2], "1?user=bob").await;
    assert!(
        max["list"] == json!([]) || max["list"][0]["state"] == "acked",
        "nobody says that he was not there: {max}"
    );
    let whole = async || (states(&trace(nodes[2], "1").await) == all).then_some(());
    eventually("the node to answer again", whole).await;

    // So is one that was killed a moment ago. What it alone has known is not known any more.
    stage.nodes.remove(0).kill();
    let told = trace(nodes[2], "1").await;
    assert_eq!((&told["silent"], &told["origin"]), (&json!(["node-0"]), &Value::Null), "{told}");
    assert_eq!((&told["t"], &told["id"], &told["stored"]), (&json!("msg"), &json!("hi-1"), &json!(true)));
    assert_eq!(states(&told), all[1..]);
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}
