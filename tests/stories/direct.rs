//! Promise: two users have one room of their own, whoever begins and however the name is written; nobody else
//! comes in.

use serde_json::json;

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};

async fn comes_in(guest: &mut Guest, name: &str) -> Line {
    let joined = guest.asks(json!({"t": "join", "r": name, "since": 0})).await;
    assert_eq!((joined.t(), joined.text("r")), ("joined", "@ann+bob"), "{}", joined.raw);
    joined
}

#[tokio::test]
async fn the_two_meet_in_one_room_whoever_begins() {
    let mut hall = Hall::stored(&[]).await;
    let mut bob = hall.enter("bob").await;
    comes_in(&mut bob, "@bob+ann").await;
    let ack = bob.asks(json!({"t": "pub", "r": "@bob+ann", "d": "psst", "id": "p-1"})).await;
    assert_eq!((ack.t(), ack.text("r"), ack.s()), ("ack", "@ann+bob", 1));
    let mut ann = hall.enter("ann").await;
    comes_in(&mut ann, "@ann+bob").await;
    ann.hears("psst").in_room("@ann+bob").from("bob").at(1).await;
    let again = bob.asks(json!({"t": "pub", "r": "@ann+bob", "d": "psst", "id": "p-1"})).await;
    assert_eq!((again.s(), again.json["dup"].as_bool()), (1, Some(true)), "{}", again.raw);
    let edit = ann.asks(json!({"t": "edit", "r": "@bob+ann", "of": 1, "d": "mine"})).await;
    edit.is_err(403, "not-allowed");
    assert_eq!(edit.text("r"), "@ann+bob");
    ann.sends(json!({"t": "read", "r": "@bob+ann", "s": 1}).to_string()).await;
    assert_eq!(bob.hears_a("read").await.text("r"), "@ann+bob");
    hall.restarts().await;
    // Who lists her rooms after a restart finds it, also who has not read it.
    for (name, unread) in [("ann", 0), ("bob", 1)] {
        let mut guest = hall.enter(name).await;
        let rooms = guest.asks(json!({"t": "rooms"})).await;
        let read = 1 - unread;
        let expected = json!([{"r": "@ann+bob", "s": 1, "read": read, "unread": unread}]);
        assert_eq!(rooms.json["list"], expected, "{name}: {}", rooms.raw);
    }
}

#[tokio::test]
async fn a_hello_brings_both_back_whatever_the_order() {
    let hall = Hall::stored(&[]).await;
    let mut ann = hall.enter("ann").await;
    comes_in(&mut ann, "@ann+bob").await;
    ann.asks(json!({"t": "pub", "r": "@ann+bob", "d": "one"})).await;
    let mut bob = Guest::silent(hall.wire("/v1/ws").await, "bob");
    bob.sends(json!({"t": "hello", "u": "bob", "rooms": {"@bob+ann": {"since": 0}}}).to_string()).await;
    bob.hears_a("welcome").await;
    assert_eq!(bob.hears_a("joined").await.text("r"), "@ann+bob");
    bob.hears("one").in_room("@ann+bob").at(1).await;
}

#[tokio::test]
async fn strangers_stay_outside_with_whatever_token() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::stored(&[&secret]).await;
    let mut ann = hall.enter("ann").await;
    comes_in(&mut ann, "@ann+bob").await;
    ann.asks(json!({"t": "pub", "r": "@ann+bob", "d": "secret"})).await;
    let everything = Token::of("eve").rooms(&["*", "@*", "@ann+bob"]).signed();
    let mut eve = hall.enter_with(&everything, "eve").await;
    for name in ["@ann+bob", "@bob+ann"] {
        for ask in [
            json!({"t": "join", "r": name, "since": 0}),
            json!({"t": "pub", "r": name, "d": "hi"}),
            json!({"t": "react", "r": name, "of": 1, "k": "+1"}),
            json!({"t": "log", "r": name}),
            json!({"t": "find", "r": name, "q": "secret"}),
            json!({"t": "who", "r": name}),
            json!({"t": "read", "r": name, "s": 1}),
            json!({"t": "got", "r": name, "s": 1}),
            json!({"t": "typing", "r": name}),
        ] {
            let answer = eve.asks(ask.clone()).await;
            assert_eq!((answer.t(), answer.number("code")), ("err", 403), "{ask}: {}", answer.raw);
        }
    }
    assert_eq!(eve.asks(json!({"t": "rooms"})).await.json["list"], json!([]));
    eve.asks(json!({"t": "join", "r": "@ann+bob+eve"})).await.is_err(400, "bad-room");
}

#[tokio::test]
async fn a_backend_need_not_sort_either() {
    let hall = Hall::with(&["store.url=none", "queue.door.listen=127.0.0.1:0"]).await;
    let mut ann = hall.enter("ann").await;
    comes_in(&mut ann, "@bob+ann").await;
    for (n, name) in ["@bob+ann", "@ann+bob"].iter().enumerate() {
        let answer = hall.publish(&json!({"r": name, "d": n})).await;
        assert_eq!((answer.status, &answer.json()["r"]), (200, &json!("@ann+bob")), "{answer:?}");
        ann.hears(n).in_room("@ann+bob").at(n as u64 + 1).await;
    }
}
