//! Promise: a backend may be asked before somebody comes in, enters a room or says something; its answer counts on every
//! door, what one session asks keeps its order meanwhile, and nobody else waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use roomcast_rig::backend::{Backend, Posted, Reply, refuses, says, status};
use serde_json::{Value, json};

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::polls::{Link, read};
use crate::stage::tokens::{SECRET, Token};

async fn asked(backend: &Backend, kinds: &[&str], more: &[&str]) -> Hall {
    let settings = backend.asked(kinds, more);
    Hall::stored(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn is(posted: &Posted, kind: &str) -> bool {
    posted.json()["event"] == kind
}

#[tokio::test]
async fn a_backend_may_refuse_somebody_at_the_door() {
    let backend = Backend::open().await;
    backend.answers(refuses("troll", "not you"));
    let hall = asked(&backend, &["connect"], &[]).await;
    let origin = format!("http://{}", hall.address());
    let headers = [("Origin", origin.as_str()), ("User-Agent", "a story")];
    let wire = hall.knock("/v1/ws?user=troll&x=%20y&token=", &headers).await;
    let Ok(wire) = wire else { panic!("the door itself is open") };
    let mut troll = Guest::silent(wire, "troll");
    // An empty token is none of ours; the name counts.
    let told = troll.hears_a("err").await;
    assert_eq!(told.json["code"], 401);
    drop(troll);

    let wire = hall.knock("/v1/ws?user=troll&x=%20y", &headers).await;
    let Ok(wire) = wire else { panic!("the door itself is open") };
    let mut troll = Guest::silent(wire, "troll");
    let told = troll.is_refused(403, "not-allowed").await;
    assert_eq!(told.text("msg"), "not you");
    assert_eq!(troll.is_closed_with(4003).await.text("why"), "not you");
    let question = backend.is_asked("about the troll", |posted| posted.body.contains("troll")).await.json();
    assert_eq!(
        question,
        json!({
            "event": "connect", "u": "troll", "address": "127.0.0.1", "uri": "/v1/ws?user=troll&x=+y",
            "headers": {"origin": origin, "user-agent": "a story"},
        })
    );
    assert_eq!(hall.join("lobby", "ann").await.says("he is gone").await.s(), 1);
}

#[tokio::test]
async fn a_backend_may_say_more_of_somebody_than_his_token() {
    let backend = Backend::open().await;
    backend.answers(|_| says(&json!({"info": {"name": "Ann B."}, "rooms": ["team-*"]})));
    let hall = asked(&backend, &["connect"], &[&format!("auth.secret={SECRET}")]).await;
    let token = Token::of("ann").with("info", json!({"name": "Ann"})).signed();
    let mut ann = hall.enter_with(&token, "ann").await;
    let question = backend.posted()[0].json();
    assert_eq!(
        (&question["info"], &question["uri"]),
        (&json!({"name": "Ann"}), &json!("/v1/ws")),
        "no token"
    );
    let refused = ann.asks(json!({"t": "join", "r": "lobby"})).await;
    refused.is_err(403, "not-allowed");
    ann.joins("team-red").await;
    let who = ann.asks(json!({"t": "who", "r": "team-red"})).await;
    assert_eq!(who.json["list"][0]["d"], json!({"name": "Ann B."}));
    assert_eq!(backend.posted().len(), 1, "who is in is not asked about again");
}

#[tokio::test]
async fn a_guest_whose_first_line_is_a_join_is_asked_about_first() {
    let backend = Backend::open().await;
    let hall = asked(&backend, &["connect", "join"], &[]).await;
    let mut guest = Guest::silent(hall.wire("/v1/ws").await, "guest");
    let lines =
        [json!({"t": "join", "r": "lobby", "i": 1}), json!({"t": "pub", "r": "lobby", "d": "hi", "i": 2})];
    guest.sends(lines.map(|line| line.to_string()).join("\n")).await;
    assert_eq!(guest.hears_a("welcome").await.json["v"], 1);
    assert_eq!(guest.hears_a("joined").await.json["i"], 1);
    assert_eq!(guest.hears_a("ack").await.json["i"], 2);
    let kinds: Vec<Value> = backend.posted().iter().map(|posted| posted.json()["event"].clone()).collect();
    assert_eq!(kinds, ["connect", "join"]);
}

#[tokio::test]
async fn a_backend_decides_who_enters_and_what_is_said() {
    let backend = Backend::open().await;
    backend.answers(|posted| {
        let question = posted.json();
        match (question["event"].as_str(), question["r"].as_str(), question["d"].as_str()) {
            (Some("join"), Some("cellar"), _) => says(&json!({"refuse": "the cellar is closed"})),
            (Some("publish"), _, Some("LOUD")) => says(&json!({"refuse": "do not shout"})),
            (Some("publish"), _, Some(text)) => says(&json!({"d": text.replace("darn", "****")})),
            _ => status(204),
        }
    });
    let hall = asked(&backend, &["join", "publish"], &[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let refused = ann.asks(json!({"t": "join", "r": "cellar"})).await;
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "the cellar is closed");
    let refused = ann.asks(json!({"t": "pub", "r": "lobby", "d": "LOUD", "id": "a-1"})).await;
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "do not shout");
    assert_eq!(refused.json["r"], "lobby");
    ann.says("that darn cat").await;
    bob.hears("that **** cat").from("ann").at(1).await;
    let edited = ann.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": "darn it"})).await;
    assert_eq!(edited.t(), "ack");
    assert_eq!(bob.hears_a("edit").await.json["d"], "**** it");
    let loud = ann.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": "LOUD"})).await;
    loud.is_err(403, "not-allowed");
    // What is not words is not asked about.
    assert_eq!(bob.asks(json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"})).await.t(), "ack");
    let edits: Vec<Value> =
        backend.posted().iter().map(Posted::json).filter(|json| json["of"] == 1).collect();
    assert_eq!(edits.len(), 2);
    let asked = backend.posted().iter().filter(|posted| is(posted, "publish")).count();
    assert_eq!(asked, 4);
    assert_eq!(hall.figure("roomcast_asked_refused_total{question=\"publish\"}").await, 2.0);
    // What a backend says itself, it need not be asked about.
    assert_eq!(hall.publish(&json!({"r": "lobby", "u": "shop", "d": "LOUD"})).await.status, 200);
}

#[tokio::test]
async fn what_one_session_asks_keeps_its_order_and_others_do_not_wait() {
    let backend = Backend::open().await;
    backend.answers(|posted| if posted.body.contains("wait for me") { Reply::Silence } else { status(200) });
    let more = ["hooks.ask.timeout=1500ms", "hooks.ask.publish_on_failure=allow", "hooks.ask.rooms=lobby"];
    let hall = asked(&backend, &["publish"], &more).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let lines: Vec<String> = ["one", "wait for me", "three"]
        .iter()
        .zip(11..)
        .map(|(d, i)| json!({"t": "pub", "r": "lobby", "d": d, "i": i}).to_string())
        .chain([json!({"t": "who", "r": "lobby", "i": 14}).to_string()])
        .collect();
    ann.sends(lines.join("\n")).await;
    backend.is_asked("about the second", |posted| posted.body.contains("wait for me")).await;
    bob.hears("one").at(1).await;
    assert_eq!(bob.says("meanwhile").await.s(), 2, "while ann waits");
    let answered = |line: &Line| line.has("i") && line.number("i") > 10;
    let mut told = Vec::new();
    for _ in 0..4 {
        let line = ann.claims("an answer", answered).await;
        told.push((line.t().to_owned(), line.number("i")));
    }
    let expected = [("ack", 11), ("ack", 12), ("ack", 13), ("who", 14)];
    assert_eq!(told, expected.map(|(t, i)| (t.to_owned(), i)));
    bob.hears("wait for me").at(3).await;
    bob.hears("three").at(4).await;
}

#[tokio::test]
async fn without_an_answer_the_policy_of_each_question_counts() {
    let backend = Backend::open().await;
    backend.answers(|posted| match posted.json()["event"].as_str() {
        Some("connect") => status(500),
        Some("join") => Reply::Say(200, Vec::new(), "not json".into()),
        _ => Reply::Silence,
    });
    let more =
        ["hooks.ask.timeout=300ms", "hooks.ask.connect_on_failure=allow", "hooks.ask.join_on_failure=allow"];
    let hall = asked(&backend, &["connect", "join", "publish"], &more).await;
    let mut ann = hall.join("lobby", "ann").await;
    let refused = ann.asks(json!({"t": "pub", "r": "lobby", "d": "hi", "id": "a-1"})).await;
    refused.is_err(503, "busy");
    assert!(refused.number("wait") > 0, "it may be tried again");
    for (kind, n) in [("connect", 1.0), ("join", 1.0), ("publish", 1.0)] {
        assert_eq!(hall.figure(&format!("roomcast_asked_failed_total{{question=\"{kind}\"}}")).await, n);
    }
    backend.answers(|_| status(200));
    assert_eq!(ann.asks(json!({"t": "pub", "r": "lobby", "d": "hi", "id": "a-1"})).await.s(), 1);

    let backend = Backend::open().await;
    let closed = asked(&backend, &["connect"], &[]).await;
    backend.answers(|_| Reply::Say(200, Vec::new(), format!("{{\"info\":\"{}\"}}", "x".repeat(100_000))));
    let mut bob = Guest::silent(closed.wire("/v1/ws?user=bob").await, "bob");
    bob.is_refused(503, "busy").await;
    assert_eq!(bob.is_closed_with(4100).await.text("why"), "application");
}

#[tokio::test]
async fn too_many_questions_are_refused_at_once() {
    let backend = Backend::open().await;
    backend.answers(|posted| if posted.body.contains("stuck") { Reply::Silence } else { status(200) });
    let more = ["hooks.ask.in_flight=2", "hooks.ask.timeout=1500ms", "hooks.ask.publish_on_failure=allow"];
    let hall = asked(&backend, &["publish"], &more).await;
    let mut stuck = Vec::new();
    for name in ["ann", "bob"] {
        let mut guest = hall.join("lobby", name).await;
        guest.sends(json!({"t": "pub", "r": "lobby", "d": "stuck"}).to_string()).await;
        stuck.push(guest);
    }
    hall.figure_becomes("roomcast_asked_open", |open| open == 2.0).await;
    let mut cid = hall.join("lobby", "cid").await;
    let refused = cid.asks(json!({"t": "pub", "r": "lobby", "d": "fine"})).await;
    refused.is_err(503, "busy");
    // Whoever waited for an answer in vain goes on as the policy says, and makes room.
    for guest in &mut stuck {
        assert_eq!(guest.hears_a("ack").await.text("r"), "lobby");
    }
    hall.figure_becomes("roomcast_asked_open", |open| open == 0.0).await;
    assert_eq!(cid.asks(json!({"t": "pub", "r": "lobby", "d": "fine"})).await.t(), "ack");
}

#[tokio::test]
async fn the_doors_without_websocket_ask_as_well() {
    let backend = Backend::open().await;
    backend.answers(|posted| {
        let question = posted.json();
        match (question["event"].as_str(), question["u"].as_str(), question["r"].as_str()) {
            (Some("connect"), Some("troll"), _) => says(&json!({"refuse": "not you"})),
            (Some("join"), _, Some("cellar")) => says(&json!({"refuse": "closed"})),
            (Some("publish"), ..) if question["d"] == "LOUD" => says(&json!({"refuse": "do not shout"})),
            (Some("publish"), ..) => says(&json!({"d": "changed"})),
            _ => status(200),
        }
    });
    let hall = asked(&backend, &["connect", "join", "publish"], &[]).await;
    let mut bob = hall.join("lobby", "bob").await;
    let mut link = Link::to(&hall).await;
    let body = [
        json!({"t": "pub", "r": "lobby", "d": "LOUD", "i": 1}),
        json!({"t": "pub", "r": "lobby", "d": "fine", "i": 2}),
        json!({"t": "pub", "r": "cellar", "d": "fine", "i": 3}),
    ];
    let body = body.map(|line| line.to_string()).join("\n");
    let answer = link.post("/v1/send?user=ann", &body).await;
    let told: Vec<Line> = answer.body.lines().map(|line| Line::of(line.to_owned())).collect();
    assert_eq!(told[0].is_err(403, "not-allowed").text("msg"), "do not shout");
    assert_eq!((told[1].t(), told[1].s()), ("ack", 1));
    told[2].is_err(403, "not-joined");
    bob.hears("changed").from("ann").at(1).await;

    let polled = link.get("/v1/poll?user=ann&rooms=lobby,cellar&last=5&wait=0").await;
    let (lines, _) = read(&polled);
    let refused = lines.iter().find(|line| line.t() == "err").expect("the cellar is closed");
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "closed");
    assert!(lines.iter().any(|line| line.t() == "msg" && line.json["d"] == "changed"), "{lines:#?}");

    let (lines, _) = read(&link.get("/v1/poll?user=troll&rooms=lobby&wait=0").await);
    assert_eq!(lines[0].is_err(403, "not-allowed").text("msg"), "not you");
    let question = backend.is_asked("about the troll", |posted| posted.body.contains("troll")).await.json();
    assert_eq!(question["uri"], "/v1/poll?user=troll&rooms=lobby&wait=0");
}

#[tokio::test]
async fn a_session_that_is_gone_on_with_over_http_is_asked_about_new_rooms() {
    let backend = Backend::open().await;
    backend.answers(refuses("\"r\":\"r-9\"", "not this one"));
    let hall = asked(&backend, &["join"], &[]).await;
    let mut link = Link::to(&hall).await;
    // More than eight rooms: the cursor names a session.
    let rooms: Vec<String> = (0..10).map(|n| format!("r-{n}")).collect();
    let first = format!("/v1/poll?user=ann&rooms={}&wait=0", rooms[..9].join(","));
    let (_, next) = read(&link.get(&first).await);
    assert!(next.starts_with('~'), "{next}");
    let before = backend.posted().len();
    assert_eq!(before, 9);
    let second = format!("/v1/poll?user=ann&rooms={}&since={next}&wait=0", rooms.join(","));
    let (lines, _) = read(&link.get(&second).await);
    let refused = lines.iter().find(|line| line.t() == "err").expect("the tenth is refused");
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "not this one");
    let asked: Vec<Value> =
        backend.posted()[before..].iter().map(|posted| posted.json()["r"].clone()).collect();
    assert_eq!(asked.len(), 10, "all that are named: {asked:?}");
}

#[tokio::test]
async fn where_nothing_is_asked_nobody_is_disturbed() {
    let backend = Backend::open().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    backend.answers(move |_| {
        counted.fetch_add(1, Relaxed);
        status(200)
    });
    let hall = asked(&backend, &["publish"], &["hooks.ask.rooms=staff"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("not asked").await;
    assert_eq!(count.load(Relaxed), 0);
    ann.joins("staff").await;
    ann.says("asked").await;
    assert_eq!(count.load(Relaxed), 1);
}
