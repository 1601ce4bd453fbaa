//! Promise: an operator mutes, bans, freezes, slows down and gives roles, and everybody holds to it: over a WebSocket
//! and over plain HTTP, after a crash and after a restart. Backends are never stopped.

use serde_json::{Value, json};

use crate::stage::eventually;
use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;

const FAST: &str = "limits.messages_per_second=0";

/// Carries out an order about the lobby; its answer.
async fn order(hall: &Hall, what: &str, body: Value) -> Value {
    let answer = hall.call("POST", &format!("/api/rooms/lobby/{what}"), &body.to_string()).await;
    assert_eq!(answer.status, 200, "{what} {body}: {answer:?}");
    let told = answer.json();
    assert_eq!(told["r"], "lobby", "{told}");
    told
}

async fn rules(hall: &Hall) -> Value {
    hall.get("/api/rooms/lobby/rules").await.json()
}

fn says(text: &str, id: &str) -> Value {
    json!({"t": "pub", "r": "lobby", "d": text, "id": id})
}

/// What a POST of lines by a guest is answered.
async fn posts(hall: &Hall, user: &str, lines: &[Value]) -> Vec<Line> {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = hall.call("POST", &format!("/v1/send?user={user}"), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.lines().map(|line| Line::of(line.to_owned())).collect()
}

/// A wait is told that is not longer than a minute.
fn waits(line: &Line) {
    assert!((1..=60_000).contains(&line.number("wait")), "{}", line.raw);
}

#[tokio::test]
async fn who_is_muted_reads_on_and_writes_nowhere() {
    let hall = Hall::with(&[FAST]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    bob.says("one").await;
    ann.hears("one").await;
    let told = order(&hall, "mute", json!({"u": "bob", "for": 60})).await;
    assert!(told["until"].as_u64() > Some(1_700_000_000_000), "{told}");
    for what in [
        says("two", "b-2"),
        json!({"t": "pub", "r": "lobby", "d": "unkept", "keep": false}),
        json!({"t": "edit", "r": "lobby", "of": 1, "d": "other"}),
        json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"}),
        json!({"t": "typing", "r": "lobby"}),
    ] {
        let refused = bob.asks(what).await;
        waits(refused.is_err(403, "muted"));
        assert!(refused.text("msg").starts_with("you can write again in "), "{}", refused.raw);
    }
    let posted = posts(&hall, "bob", &[says("three", "b-3"), json!({"t": "ping"})]).await;
    waits(posted[0].is_err(403, "muted"));
    assert_eq!(posted[1].t(), "pong");
    // He reads on, takes back what he has said, and writes elsewhere; a backend speaks in his name.
    ann.says("hello").await;
    bob.hears("hello").at(2).await;
    assert_eq!(bob.asks(json!({"t": "del", "r": "lobby", "of": 1})).await.t(), "ack");
    assert_eq!(hall.publish(&json!({"r": "lobby", "u": "bob", "d": "by the shop"})).await.status, 200);
    bob.hears("by the shop").at(4).await;
    bob.joins("ops").await;
    bob.says("elsewhere").await;
    assert_eq!(order(&hall, "mute", json!({"u": "bob", "for": 0})).await["until"], 0);
    bob.joins("lobby").await;
    assert_eq!(bob.says("again").await.s(), 5);
    assert_eq!(hall.figure("roomcast_errors_total{why=\"muted\"}").await, 6.0);
}

#[tokio::test]
async fn what_was_said_before_a_mute_is_acknowledged_again() {
    let hall = Hall::with(&[FAST]).await;
    let mut bob = hall.join("lobby", "bob").await;
    let first = bob.asks(says("one", "b-1")).await;
    order(&hall, "mute", json!({"u": "bob"})).await;
    let again = bob.asks(says("one", "b-1")).await;
    assert_eq!((again.t(), again.s(), &again.json["dup"]), ("ack", first.s(), &json!(true)), "{}", again.raw);
    let refused = bob.asks(says("two", "b-2")).await;
    assert!(!refused.is_err(403, "muted").has("wait"), "for good: {}", refused.raw);
}

#[tokio::test]
async fn who_is_banned_goes_and_neither_comes_nor_reads() {
    let hall = Hall::stored(&[FAST]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let (mut bob, mut phone) = (hall.join("ops", "bob").await, hall.join("lobby", "bob").await);
    bob.joins("lobby").await;
    bob.says("secret").await;
    ann.hears("secret").await;
    order(&hall, "ban", json!({"u": "bob", "for": 60})).await;
    for guest in [&mut bob, &mut phone] {
        let told = guest.is_refused(403, "banned").await;
        assert_eq!(told.text("r"), "lobby", "{}", told.raw);
        waits(&told);
    }
    let who = hall.get("/api/rooms/lobby/who").await.json();
    assert_eq!(who["list"], json!([{"u": "ann"}]), "he is not there any more");
    for what in [
        json!({"t": "join", "r": "lobby"}),
        says("two", "b-2"),
        json!({"t": "log", "r": "lobby"}),
        json!({"t": "find", "r": "lobby", "q": "secret"}),
        json!({"t": "who", "r": "lobby"}),
    ] {
        waits(bob.asks(what).await.is_err(403, "banned"));
    }
    waits(posts(&hall, "bob", &[says("three", "b-3")]).await[0].is_err(403, "banned"));
    hall.get("/v1/rooms/lobby/log?user=bob&n=5").await.is_refusal(403, "banned");
    let polled = hall.get("/v1/poll?user=bob&rooms=lobby&last=5").await;
    assert!(polled.body.contains("\"why\":\"banned\"") && !polled.body.contains("secret"), "{polled:?}");
    assert_eq!(hall.call("POST", "/api/join", r#"{"u":"bob","rooms":["lobby"]}"#).await.status, 200);
    bob.is_refused(403, "banned").await;
    // His other rooms stay, and so does the lobby for everybody else.
    ann.says("peace").await;
    ann.hears_no_message().await;
    assert_eq!(bob.asks(json!({"t": "pub", "r": "ops", "d": "hi", "id": "o-1"})).await.t(), "ack");
    order(&hall, "ban", json!({"u": "bob", "for": 0})).await;
    assert_eq!(bob.joins("lobby").await.s(), 2);
}

#[tokio::test]
async fn in_a_frozen_room_moderators_and_backends_speak() {
    let hall = Hall::with(&[FAST]).await;
    let (mut ann, mut may) = (hall.join("lobby", "ann").await, hall.join("lobby", "may").await);
    ann.says("one").await;
    order(&hall, "freeze", json!({"for": 60})).await;
    for guest in [&mut ann, &mut may] {
        waits(guest.asks(says("two", "x-2")).await.is_err(403, "frozen"));
        waits(
            guest.asks(json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"})).await.is_err(403, "frozen"),
        );
    }
    may.asks(json!({"t": "del", "r": "lobby", "of": 1})).await.is_err(403, "not-allowed");
    order(&hall, "role", json!({"u": "may", "role": "moderator"})).await;
    may.hears("one").await;
    assert_eq!(may.says("order, please").await.s(), 2);
    let deleted = may.asks(json!({"t": "del", "r": "lobby", "of": 1})).await;
    assert_eq!((deleted.t(), deleted.s()), ("ack", 3), "{}", deleted.raw);
    let heard = ann.hears_a("del").await;
    assert_eq!((heard.text("u"), heard.number("of")), ("may", 1));
    may.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": "x"})).await.is_err(404, "no-entry");
    assert_eq!(hall.publish(&json!({"r": "lobby", "d": "from the shop"})).await.status, 200);
    order(&hall, "role", json!({"u": "may", "role": "member"})).await;
    may.asks(says("three", "x-3")).await.is_err(403, "frozen");
    order(&hall, "freeze", json!({"for": 0})).await;
    assert_eq!(ann.says("thaw").await.s(), 5);
    assert_eq!(
        rules(&hall).await,
        json!({"r": "lobby", "muted": [], "banned": [], "frozen": null, "slow": 0, "roles": {}})
    );
}

#[tokio::test]
async fn in_a_slow_room_everybody_pauses_between_two_messages() {
    let hall = Hall::with(&[FAST]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let mut may = hall.join("lobby", "may").await;
    order(&hall, "slow", json!({"every": 60})).await;
    order(&hall, "role", json!({"u": "may", "role": "moderator"})).await;
    assert_eq!(ann.asks(says("one", "a-1")).await.t(), "ack");
    waits(ann.asks(says("two", "a-2")).await.is_err(429, "slow-mode"));
    waits(posts(&hall, "ann", &[says("three", "a-3")]).await[0].is_err(429, "slow-mode"));
    let again = ann.asks(says("one", "a-1")).await;
    assert_eq!((again.t(), &again.json["dup"]), ("ack", &json!(true)), "the same message is no other one");
    assert_eq!(ann.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": "ONE"})).await.t(), "ack");
    assert_eq!(bob.asks(says("hi", "b-1")).await.t(), "ack");
    for n in 0..3 {
        assert_eq!(may.asks(says("calm", &format!("m-{n}"))).await.t(), "ack");
    }
    order(&hall, "slow", json!({"every": 0})).await;
    assert_eq!(ann.asks(says("two", "a-2")).await.t(), "ack");
    assert_eq!(ann.asks(says("three", "a-3")).await.t(), "ack");
}

/// Bob is muted, eve banned, the room slow, ann a moderator.
async fn holds(hall: &Hall, until: &Value) {
    assert_eq!(
        rules(hall).await,
        json!({"r": "lobby", "muted": [{"u": "bob", "until": null}], "banned": [{"u": "eve", "until": until}],
            "frozen": null, "slow": 60, "roles": {"ann": "moderator"}})
    );
    let mut bob = hall.join("lobby", "bob").await;
    bob.asks(says("x", "b-x")).await.is_err(403, "muted");
    let mut eve: Guest = hall.enter("eve").await;
    eve.asks(json!({"t": "join", "r": "lobby"})).await.is_err(403, "banned");
    let mut ann = hall.join("lobby", "ann").await;
    for n in 0..2 {
        let id = format!("{}-{n}", rand::random::<u32>());
        assert_eq!(ann.asks(says("hi", &id)).await.t(), "ack");
    }
}

#[tokio::test]
async fn rules_outlive_a_crash_and_a_restart() {
    let mut hall = Hall::stored(&[FAST]).await;
    order(&hall, "mute", json!({"u": "bob"})).await;
    let until = order(&hall, "ban", json!({"u": "eve", "for": 600})).await["until"].clone();
    order(&hall, "mute", json!({"u": "zoe", "for": 600})).await;
    order(&hall, "mute", json!({"u": "zoe", "for": 0})).await;
    order(&hall, "slow", json!({"every": 60})).await;
    order(&hall, "role", json!({"u": "ann", "role": "moderator"})).await;
    // What is in the journal alone, then what the archive has, then both.
    hall.crashes().await;
    holds(&hall, &until).await;
    hall.restarts().await;
    holds(&hall, &until).await;
    order(&hall, "mute", json!({"u": "bob", "for": 0})).await;
    hall.crashes().await;
    assert_eq!(rules(&hall).await["muted"], json!([]));
    for (what, body) in [
        ("ban", json!({"u": "eve", "for": 0})),
        ("slow", json!({"every": 0})),
        ("role", json!({"u": "ann", "role": "member"})),
    ] {
        order(&hall, what, body).await;
    }
    hall.restarts().await;
    let none = json!({"r": "lobby", "muted": [], "banned": [], "frozen": null, "slow": 0, "roles": {}});
    assert_eq!(rules(&hall).await, none);
}

#[tokio::test]
async fn a_rule_ends_by_itself() {
    let hall = Hall::with(&[FAST]).await;
    let mut bob = hall.join("lobby", "bob").await;
    order(&hall, "mute", json!({"u": "bob", "for": 1})).await;
    bob.asks(says("now", "b-1")).await.is_err(403, "muted");
    let ended = || async { (rules(&hall).await["muted"] == json!([])).then_some(()) };
    eventually("the mute to end", ended).await;
    assert_eq!(bob.asks(says("now", "b-1")).await.t(), "ack");
}
