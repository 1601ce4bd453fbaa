//! Promise: what a session may say, a POST may say too, under the same rules: one answer for each line, in order. And a
//! page of the log is the same, however it is asked for.

use serde_json::{Value, json};

use crate::stage::guest::Line;
use crate::stage::hall::Hall;
use crate::stage::http::Answer;
use crate::stage::polls::Link;
use crate::stage::tokens::{SECRET, Token};

const FAST: &str = "limits.messages_per_second=0";

fn lines_of(answer: &Answer) -> Vec<Line> {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/x-ndjson")),
        "{answer:?}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.body.ends_with('\n'), "{answer:?}");
    answer.body.lines().map(|line| Line::of(line.to_owned())).collect()
}

#[tokio::test]
async fn each_line_has_its_answer_in_its_place() {
    let hall = Hall::stored(&[FAST]).await;
    let mut bob = hall.join("lobby", "bob").await;
    let mut link = Link::to(&hall).await;
    let body = [
        json!({"t": "pub", "r": "lobby", "d": "hi", "id": "a-1", "i": 7}),
        json!({"t": "typing", "r": "lobby"}),
        json!({"t": "pub", "r": "lobby", "d": {"n": 1}}),
        json!({"t": "edit", "r": "lobby", "of": 1, "d": "hello", "i": 8}),
        json!({"t": "read", "r": "lobby", "s": 2, "i": 9}),
        json!({"t": "got", "r": "lobby", "s": 2}),
        json!({"t": "react", "r": "lobby", "of": 2, "k": "+1"}),
        json!({"t": "pub", "r": "lobby", "d": "again", "id": "a-1", "i": 10}),
        json!({"t": "edit", "r": "lobby", "of": 77, "d": "nothing", "i": 11}),
        json!({"t": "join", "r": "lobby", "i": 12}),
        json!({"t": "dance"}),
        json!({"t": "who", "r": "lobby", "i": 13}),
        json!({"t": "rooms", "i": 14}),
        json!({"t": "ping", "i": 15}),
    ];
    let body: Vec<String> = body.iter().map(Value::to_string).collect();
    let answers =
        lines_of(&link.post("/v1/send?user=ann", &format!("{}\nnot json\n\n", body.join("\n"))).await);
    let told: Vec<(&str, Option<u64>, Option<u64>)> =
        answers.iter().map(|line| (line.t(), line.json["i"].as_u64(), line.json["s"].as_u64())).collect();
    assert_eq!(
        told,
        [
            ("ack", Some(7), Some(1)),
            ("ok", None, None),
            ("ack", None, Some(2)),
            ("ack", Some(8), Some(3)),
            ("ok", Some(9), None),
            ("ok", None, None),
            ("ack", None, Some(4)),
            ("ack", Some(10), Some(1)),
            ("err", Some(11), None),
            ("err", Some(12), None),
            ("err", None, None),
            ("who", Some(13), Some(4)),
            ("rooms", Some(14), None),
            ("pong", Some(15), None),
            ("err", None, None),
        ],
        "{answers:#?}"
    );
    assert_eq!(answers[7].json["dup"], true);
    answers[8].is_err(404, "no-entry");
    answers[10].is_err(400, "unknown-type");
    answers[14].is_err(400, "bad-json");
    assert_eq!(answers[11].json["list"], json!([{"u": "bob", "n": 1}]), "who posts is not shown as present");
    for (t, s) in [
        ("msg", Some(1)),
        ("typing", None),
        ("msg", Some(2)),
        ("edit", Some(3)),
        ("react", Some(4)),
        ("read", Some(2)),
    ] {
        let line = bob.claims(t, |line| line.t() == t && line.json["s"].as_u64() == s).await;
        assert_eq!(line.text("u"), "ann");
    }
}

#[tokio::test]
async fn pages_of_the_log_are_those_of_a_session() {
    let hall = Hall::with(&[FAST]).await;
    let mut bob = hall.join("a/b €", "bob").await;
    for n in 0..30 {
        bob.says(&format!("line {n}")).await;
    }
    let mut link = Link::to(&hall).await;
    for (query, ask) in [
        ("", json!({})),
        ("&n=5", json!({"n": 5})),
        ("&before=12&n=7", json!({"before": 12, "n": 7})),
        ("&after=20&n=3", json!({"after": 20, "n": 3})),
        ("&after=0", json!({"after": 0})),
        ("&after=900", json!({"after": 900})),
    ] {
        let mut request = json!({"t": "log", "r": "a/b €"});
        request.as_object_mut().expect("keys").extend(ask.as_object().expect("keys").clone());
        let mut expected = bob.asks(request).await.json;
        expected.as_object_mut().expect("keys").remove("i");
        let answer = link.get(&format!("/v1/rooms/a%2Fb%20%E2%82%AC/log?user=ann{query}")).await;
        assert_eq!((answer.status, answer.json()), (200, expected), "{query}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for (path, code, why) in [
        ("/v1/rooms/lobby/log?before=0", 400, "bad-json"),
        ("/v1/rooms/lobby/log?before=1&after=1", 400, "bad-json"),
        ("/v1/rooms/lobby/log?n=x", 400, "bad-json"),
        ("/v1/rooms/@eve/log", 403, "not-allowed"),
        ("/v1/rooms/a*/log", 400, "bad-room"),
    ] {
        link.get(path).await.is_refusal(code, why);
    }
}

#[tokio::test]
async fn the_rules_of_sessions_hold_for_what_is_posted() {
    let hall = Hall::with(&[
        &format!("auth.secret={SECRET}"),
        "demo.enabled=off",
        "limits.messages_per_second=5",
        "limits.message_bytes=1000",
    ])
    .await;
    let mut link = Link::to(&hall).await;
    let token = |rooms: &[&str]| format!("Bearer {}", Token::of("ann").rooms(rooms).signed());
    let (lobby, reader) = (token(&["lobby"]), Token::of("ann").rooms(&["lobby"]).with("pub", false).signed());
    let pub_to = |room: &str, n: u64| json!({"t": "pub", "r": room, "d": "x", "i": n}).to_string();
    link.post("/v1/send", &pub_to("lobby", 1)).await.is_refusal(401, "bad-token");
    let foreign = [("Authorization", &*lobby), ("Origin", "https://evil.example")];
    link.asks("POST", "/v1/send", &foreign, &pub_to("lobby", 1)).await.is_refusal(403, "foreign-origin");
    let own: [(&str, &str); 1] = [("Authorization", &lobby)];
    link.asks("POST", "/v1/send", &own, "").await.is_refusal(400, "bad-json");
    link.asks("POST", "/v1/send", &own, &"{}\n".repeat(101)).await.is_refusal(413, "too-big");
    link.asks("POST", "/v1/send", &own, &"x".repeat(20_000)).await.is_refusal(413, "too-big");

    let long = json!({"t": "pub", "r": "lobby", "d": "x".repeat(1_000)}).to_string();
    let answers =
        lines_of(&link.asks("POST", "/v1/send", &own, &format!("{long}\n{}", pub_to("secret", 2))).await);
    answers[0].is_err(413, "too-big");
    assert_eq!(answers[1].is_err(403, "not-allowed").number("i"), 2);
    let reading =
        lines_of(&link.asks("POST", &format!("/v1/send?token={reader}"), &[], &pub_to("lobby", 3)).await);
    reading[0].is_err(403, "not-allowed");

    // Five a second, over however many requests.
    let mut refused = 0;
    for n in 0..12 {
        let answers = lines_of(&link.asks("POST", "/v1/send", &own, &pub_to("lobby", n)).await);
        match answers[0].t() {
            "ack" => {}
            _ => {
                assert!(answers[0].is_err(429, "rate").number("wait") > 0);
                refused += 1;
            }
        }
    }
    assert!((1..12).contains(&refused), "{refused}");
}

#[tokio::test]
async fn direct_rooms_and_typing_need_no_stream_of_ones_own() {
    let hall = Hall::with(&[FAST]).await;
    let mut bob = hall.join("@ann+bob", "bob").await;
    let mut link = Link::to(&hall).await;
    let body = [
        json!({"t": "typing", "r": "@bob+ann"}),
        json!({"t": "pub", "r": "@ann+bob", "d": "psst", "id": "p-1"}),
        json!({"t": "typing", "r": "@bob+cid", "i": 1}),
    ];
    let body: Vec<String> = body.iter().map(Value::to_string).collect();
    let answers = lines_of(&link.post("/v1/send?user=ann", &body.join("\n")).await);
    assert_eq!((answers[0].t(), answers[1].s()), ("ok", 1));
    answers[2].is_err(403, "not-allowed");
    assert_eq!(bob.hears_a("typing").await.text("u"), "ann");
    bob.hears("psst").from("ann").at(1).await;
    // Many rooms, one after the other: it leaves the oldest for the next.
    for n in 0..30 {
        let line = json!({"t": "typing", "r": format!("room-{n}"), "i": n}).to_string();
        assert_eq!(lines_of(&link.post("/v1/send?user=ann", &line).await)[0].t(), "ok");
    }
    assert!(hall.figure("roomcast_members").await <= 21.0);
}
