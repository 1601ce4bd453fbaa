//! Promise: whoever asks why somebody did not see a message is told: through which door it came and when it was kept, and
//! what each session has of it, also those that have left, read too slowly, or were never there.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::stage::guest::Line;
use crate::stage::hall::{Hall, PROGRAM, program};
use crate::stage::polls::{Link, Poller};
use crate::stage::wire::{Seen, Wire};
use crate::stage::{PATIENCE, eventually};

/// What became of an entry.
async fn trace(hall: &Hall, path: &str) -> Value {
    let answer = hall.get(&format!("/api/trace/{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// The one session of a user.
fn of<'a>(trace: &'a Value, user: &str) -> &'a Value {
    let list = trace["list"].as_array().expect("a list");
    let hers: Vec<&Value> = list.iter().filter(|session| session["u"] == user).collect();
    assert_eq!(hers.len(), 1, "{user}: {trace}");
    hers[0]
}

/// Waits until a user's session has a state.
async fn becomes(hall: &Hall, path: &str, state: &str) -> Value {
    let right = || async {
        let trace = trace(hall, path).await;
        (trace["list"][0]["state"] == state).then_some(trace)
    };
    eventually(&format!("{path} to be {state}"), right).await
}

/// Pushes into the built-in door.
async fn push(hall: &Hall, item: &Value) {
    let log = hall.log();
    let door = log.split("door ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the door is open");
    let mut link = TcpStream::connect(door).await.expect("the door listens");
    let item = item.to_string();
    let words = ["LPUSH", "message_queue", &item].map(|word| format!("${}\r\n{word}\r\n", word.len()));
    link.write_all(format!("*3\r\n{}", words.concat()).as_bytes()).await.expect("it is read");
    let mut answer = [0; 4];
    link.read_exact(&mut answer).await.expect("it is answered");
    assert_eq!(&answer, b":1\r\n");
}

#[tokio::test]
async fn what_became_of_a_message_is_told_of_everybody() {
    let settings = ["server.node=hall-1", "queue.door.listen=127.0.0.1:0"];
    let mut hall = Hall::stored(&settings).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let eve = hall.join("lobby", "eve").await;
    let said = ann.says("hi").await;
    bob.hears("hi").at(1).await;
    ann.sends(json!({"t": "got", "r": "lobby", "s": 1}).to_string()).await;
    ann.hears_no_more().await;
    eve.goes().await;
    let gone = becomes(&hall, "lobby/1?user=eve", "gone").await;
    let mut zoe = hall.join("lobby", "zoe").await;
    zoe.hears_no_message().await;

    let told = trace(&hall, "lobby/1").await;
    assert_eq!((&told["r"], &told["s"], &told["t"]), (&json!("lobby"), &json!(1), &json!("msg")));
    assert_eq!((&told["id"], &told["u"]), (&json!(said.text("id")), &json!("ann")));
    assert_eq!((&told["ts"], &told["stored"]), (&json!(said.number("ts")), &json!(true)));
    let origin = &told["origin"];
    assert_eq!((&origin["door"], &origin["node"]), (&json!("websocket"), &json!("hall-1")));
    assert_eq!((&origin["kept"], &origin["accepted"]), (&json!("journal"), &told["ts"]));
    assert!(origin["stored"].as_u64() >= told["ts"].as_u64(), "{told}");
    assert_eq!(origin["session"], of(&told, "ann")["session"], "the session that has said it");
    let counts = json!({"acked": 1, "got": 1, "sent": 0, "slow": 0, "gone": 1, "not joined": 1});
    assert_eq!((&told["counts"], &told["more"], &told["silent"]), (&counts, &json!(false), &json!([])));
    let ann_has = of(&told, "ann");
    assert_eq!((&ann_has["state"], &ann_has["ack"]), (&json!("acked"), &json!(1)));
    assert_eq!((&ann_has["via"], &ann_has["node"]), (&json!("websocket"), &json!("hall-1")));
    let bob_has = of(&told, "bob");
    assert_eq!(
        (&bob_has["state"], &bob_has["upto"], &bob_has["ack"]),
        (&json!("got"), &json!(1), &Value::Null)
    );
    let eve_had = of(&told, "eve");
    assert_eq!(
        (&eve_had["state"], &eve_had["code"], &eve_had["why"]),
        (&json!("gone"), &json!(1000), &json!("client"))
    );
    assert!(eve_had["left"].as_u64() >= told["ts"].as_u64(), "{eve_had}");
    assert_eq!(&gone["list"][0], eve_had, "the same, asked about her alone");
    let zoe_has = of(&told, "zoe");
    assert_eq!((&zoe_has["state"], &zoe_has["since"]), (&json!("not joined"), &json!(2)), "{told}");

    // About somebody alone; and about somebody who was never there.
    let max = trace(&hall, "lobby/1?user=max").await;
    assert_eq!(max["list"], json!([{"u": "max", "state": "not joined"}]));
    assert_eq!((&max["counts"]["not joined"], &max["counts"]["got"]), (&json!(1), &json!(0)));
    let session = bob_has["session"].as_str().expect("a name");
    let alone = trace(&hall, &format!("lobby/1?session={session}")).await;
    assert_eq!(alone["list"], json!([bob_has]));

    // Page by page it is the same list.
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = trace(&hall, &format!("lobby/1?n=1{after}")).await;
        assert_eq!(page["counts"], counts, "of all, on each page");
        pages.extend(page["list"].as_array().expect("a list").clone());
        if page["more"] != true {
            break;
        }
        after = format!("&after={}", pages.last().expect("one")["session"].as_str().expect("a name"));
    }
    assert_eq!(json!(pages), told["list"]);

    // What came through other doors, and entries of other kinds.
    push(&hall, &json!({"room": "lobby", "id": "o-17", "user": "shop", "content": "paid"})).await;
    let pushed = trace(&hall, "lobby/2?user=bob").await;
    assert_eq!((&pushed["origin"]["door"], &pushed["via"]), (&json!("door"), &json!("queue")));
    assert_eq!((&pushed["id"], &pushed["u"]), (&json!("o-17"), &json!("shop")));
    assert_eq!(pushed["origin"]["session"], Value::Null);
    assert_eq!(pushed["list"][0]["state"], "got");
    bob.asks(json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"})).await;
    let reaction = trace(&hall, "lobby/3").await;
    assert_eq!((&reaction["t"], &reaction["of"]), (&json!("react"), &json!(1)));
    assert_eq!(reaction["origin"]["session"], bob_has["session"]);
    let erased = hall.call("DELETE", "/api/rooms/lobby/log/1", "").await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let blanked = trace(&hall, "lobby/1").await;
    assert_eq!(
        (&blanked["gone"], &blanked["origin"]),
        (&json!(true), origin),
        "its words are gone, not its story"
    );
    assert_eq!(trace(&hall, "lobby/4").await["origin"]["door"], "api");
    let posted = hall.call("POST", "/v1/send?user=ann", r#"{"t":"join","r":"lobby"}"#).await;
    assert_eq!(posted.status, 200, "{posted:?}");
    let posted = hall.call("POST", "/v1/send?user=ann", r#"{"t":"pub","r":"lobby","d":"by post"}"#).await;
    assert!(posted.body.contains("\"ack\""), "{posted:?}");
    let by_post = trace(&hall, "lobby/5").await;
    assert_eq!(by_post["origin"]["door"], "send");
    assert_eq!(of(&by_post, "ann")["via"], "websocket", "who only posts is no reader");

    // No secret and no address stands in an answer.
    let welcome =
        zoe.heard.iter().find(|line| line.contains("\"welcome\"")).expect("she was welcomed").clone();
    let name = Line::of(welcome).text("session").to_owned();
    let all = told.to_string();
    assert!(!all.contains(&name) && !all.contains("127.0.0.1"), "{all}");

    // After a restart only the store knows of it.
    hall.restarts().await;
    let old = trace(&hall, "lobby/2").await;
    assert_eq!((&old["origin"], &old["stored"], &old["list"]), (&Value::Null, &json!(true), &json!([])));
    assert_eq!(
        (&old["t"], &old["id"], &old["u"], &old["via"]),
        (&json!("msg"), &json!("o-17"), &json!("shop"), &json!("queue"))
    );
    assert_eq!(old["ts"], pushed["ts"]);
    let mut bob = hall.enter("bob").await;
    bob.joins_with("lobby", json!({"since": 2})).await;
    assert_eq!(trace(&hall, "lobby/2?user=bob").await["list"][0]["state"], "acked", "he says so himself");
    assert_eq!(
        trace(&hall, "lobby/5?user=bob").await["list"][0]["state"],
        "got",
        "what he missed was replayed"
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_what_is_forgotten_is_said_so() {
    let hall = Hall::with(&["store.url=none", "rooms.history=4"]).await;
    hall.get("/api/trace/lobby/1").await.is_refusal(404, "no-room");
    let mut ann = hall.join("lobby", "ann").await;
    hall.get("/api/trace/lobby/1").await.is_refusal(404, "no-room");
    for n in 1..=6 {
        ann.says(&n.to_string()).await;
    }
    let kept = trace(&hall, "lobby/6").await;
    assert_eq!(
        (&kept["stored"], &kept["origin"]["stored"]),
        (&json!(false), &Value::Null),
        "in memory alone"
    );
    assert_eq!(kept["origin"]["door"], "websocket");
    let forgotten = hall.get("/api/trace/lobby/2").await;
    forgotten.is_refusal(404, "no-entry");
    assert!(forgotten.body.contains("the oldest that can be read is 3"), "{forgotten:?}");
    for (path, code, why) in [
        ("lobby/7", 404, "no-entry"),
        ("lobby/0", 404, "no-entry"),
        ("lobby/18446744073709551615", 404, "no-entry"),
        ("lobby/18446744073709551616", 400, "bad-query"),
        ("lobby/x", 400, "bad-query"),
        ("lobby/-1", 400, "bad-query"),
        ("lobby/6?user=", 400, "bad-query"),
        ("lobby/6?session=ann", 400, "bad-query"),
        ("lobby/6?after=1", 400, "bad-query"),
        ("lobby/6?n=0", 400, "bad-query"),
        ("lobby/6?n=1001", 400, "bad-query"),
        ("lobby/6?token=x", 400, "bad-query"),
        ("a*/6", 400, "bad-room"),
    ] {
        hall.get(&format!("/api/trace/{path}")).await.is_refusal(code, why);
    }
}

#[tokio::test]
async fn a_poller_and_a_stream_have_what_was_written_to_them() {
    let keys = r#"auth.api_keys=[{key="a-key-of-the-shop",name="shop"},{key="only-speaks",scopes=["publish"],rooms=["lobby"]}]"#;
    let hall = Hall::with(&[keys]).await;
    let call = async |key: &str, method: &str, path: &str, body: &str| {
        let (host, length) = (hall.address(), body.len());
        hall.request(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    };
    let mut poller = Poller::new(&hall, "/v1/poll?rooms=lobby&user=pat").await;
    poller.polls(0).await;
    let mut stream = Link::to(&hall).await;
    stream.sends("GET", "/v1/stream?rooms=lobby&user=sue", &[], "").await;
    let both = || async {
        let rooms = call("a-key-of-the-shop", "GET", "/api/rooms", "").await.json();
        (rooms["list"][0]["sessions"] == 2).then_some(())
    };
    eventually("both to be there", both).await;
    let said = call("a-key-of-the-shop", "POST", "/api/publish", r#"{"r":"lobby","d":"hi"}"#).await;
    assert_eq!(said.json()["s"], 1);
    let traced = async |path: &str| {
        let answer = call("a-key-of-the-shop", "GET", &format!("/api/trace/lobby/1{path}"), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains("a-key-of-the-shop"), "a key is never shown: {answer:?}");
        answer.json()
    };
    let has = async |user: &str, state: &str| {
        let path = format!("?user={user}");
        let right = || async {
            let told = traced(&path).await;
            (told["list"][0]["state"] == state).then_some(told)
        };
        eventually(&format!("{user} to have {state}"), right).await
    };
    let waiting = has("pat", "sent").await;
    assert_eq!((&waiting["list"][0]["via"], &waiting["list"][0]["upto"]), (&json!("poll"), &json!(1)));
    assert_eq!((&waiting["origin"]["door"], &waiting["origin"]["name"]), (&json!("api"), &json!("shop")));
    let lines = poller.polls(0).await;
    assert!(lines.iter().any(|line| line.t() == "msg"), "{lines:?}");
    has("pat", "got").await;
    poller.polls(0).await;
    assert_eq!(has("pat", "acked").await["list"][0]["ack"], 1);
    assert_eq!(has("sue", "got").await["list"][0]["via"], "stream");
    drop(stream);
    let gone = has("sue", "gone").await;
    assert_eq!((&gone["list"][0]["code"], &gone["list"][0]["why"]), (&json!(1006), &json!("cut")));

    let refused = call("only-speaks", "GET", "/api/trace/lobby/1", "").await;
    refused.is_refusal(403, "not-allowed");
    hall.get("/api/trace/lobby/1").await.is_refusal(401, "bad-key");
}

const RULES: &str = r#"
[[rooms.rule]]
match = "gap-*"
slow_reader = "gap"
"#;

/// One message fills so many bytes.
const MESSAGE_BYTES: usize = 50_000;

/// A hall with small outboxes, and somebody in a room who does not read.
async fn frozen(room: &str) -> (Hall, Wire) {
    let home = tempfile::tempdir().expect("a folder for the hall");
    let rules = home.path().join("rules.toml");
    std::fs::write(&rules, RULES).expect("it can be written");
    let mut command = program(PROGRAM, home.path());
    command.args(["--listen", "127.0.0.1:0", "--set", "queue.door.listen=", "--config"]).arg(rules);
    for setting in ["limits.outbox_bytes=400000", "limits.outbox_age=1h"] {
        command.args(["--set", setting]);
    }
    let hall = Hall::run(command, home).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(32 << 10).expect("a TCP socket has this option");
    let socket = socket.connect(hall.address()).await.expect("the server listens");
    let mut wire = Wire::upgrade(socket, hall.address(), "/v1/ws?user=slow", &[]).await.expect("let in");
    wire.writer.text(&format!(r#"{{"t":"join","r":"{room}"}}"#)).await;
    while Line::of(text(&mut wire).await).t() != "live" {}
    (hall, wire)
}

async fn text(wire: &mut Wire) -> String {
    match wire.next_before(Instant::now() + PATIENCE).await {
        Some(Seen::Text(text)) => text,
        other => panic!("a line was to come: {other:?}"),
    }
}

/// Says more until the newest message has this state with the slow reader; what is told of it then.
async fn until(hall: &Hall, room: &str, state: &str) -> Value {
    loop {
        let said = hall.publish(&json!({"r": room, "d": "x".repeat(MESSAGE_BYTES)})).await.json();
        let newest = said["s"].as_u64().expect("an offset");
        assert!(newest < 1_000, "50 MB were said and nothing is {state}");
        let told = trace(hall, &format!("{room}/{newest}?user=slow")).await;
        if told["list"][0]["state"] == state {
            return told;
        }
    }
}

#[tokio::test]
async fn a_reader_who_does_not_read_has_it_on_its_way_until_it_is_cut() {
    let (hall, _wire) = frozen("hall").await;
    let waiting = until(&hall, "hall", "sent").await;
    let s = waiting["s"].as_u64().expect("an offset");
    assert!(s > 1, "a socket takes one message");
    assert_eq!(waiting["list"][0]["upto"], s);
    assert_eq!(trace(&hall, "hall/1").await["list"][0]["state"], "got", "its bytes have left long since");
    until(&hall, "hall", "not joined").await;
    let cut = trace(&hall, &format!("hall/{s}")).await;
    let slow = &cut["list"][0];
    assert_eq!((&slow["state"], &slow["code"], &slow["why"]), (&json!("slow"), &json!(4202), &json!("slow")));
    assert_eq!(cut["counts"]["slow"], 1);
}

#[tokio::test]
async fn a_reader_who_was_left_out_is_told_of_with_what_it_has_missed() {
    let (hall, mut wire) = frozen("gap-hall").await;
    let behind = until(&hall, "gap-hall", "slow").await;
    let (s, upto) = (behind["s"].as_u64(), behind["list"][0]["upto"].as_u64());
    assert!(upto.is_some() && upto < s, "{behind}");
    let gap = loop {
        let line = Line::of(text(&mut wire).await);
        if line.t() == "gap" {
            break line;
        }
    };
    let told = trace(&hall, &format!("gap-hall/{}", s.unwrap_or_default())).await;
    let slow = &told["list"][0];
    assert_eq!((&slow["state"], &slow["missed"]), (&json!("slow"), &gap.json["missing"]), "{told}");
    let next = hall.publish(&json!({"r": "gap-hall", "d": "on"})).await.json()["s"].clone();
    becomes(&hall, &format!("gap-hall/{next}"), "got").await;
}
