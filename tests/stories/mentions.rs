//! Promise: who is called by name finds it in her inbox, once, and only where she may read.

use serde_json::json;

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::view::{View, Way};

/// What an inbox holds: room and place of each call.
async fn inbox(guest: &mut Guest) -> Vec<(String, u64)> {
    let name = format!("@{}", guest.name);
    guest.joins(&name).await;
    let view = View::of_pages(guest, &name, 100, Way::Forwards).await;
    let calls = view.lines.keys().map(|place| view.at(*place)["d"].clone());
    calls
        .map(|call| (call["r"].as_str().expect("a room").to_owned(), call["s"].as_u64().expect("a place")))
        .collect()
}

fn call(room: &str, place: u64) -> (String, u64) {
    (room.to_owned(), place)
}

#[tokio::test]
async fn a_call_is_noted_at_once_and_outlives_a_restart() {
    let mut hall = Hall::stored(&[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.joins("@ann").await;
    bob.says("nobody is meant").await;
    bob.says("hello @ann, lunch?").await;
    let note = ann.claims("the call", |line: &Line| line.t() == "msg" && line.json["r"] == "@ann").await;
    assert_eq!((note.s(), &note.json["d"]), (1, &json!({"r": "lobby", "s": 2})), "{}", note.raw);
    bob.says("@ann @ann, @ann!").await;
    let said =
        bob.asks(json!({"t": "pub", "r": "lobby", "d": {"to": ["x@ann.org"], "text": "(@ann)"}})).await;
    assert_eq!(said.s(), 4);
    bob.says("mail x@ann or @annabel").await;
    hall.publish(&json!({"r": "lobby", "d": {"text": "order of @ann"}})).await;
    ann.goes().await;
    bob.goes().await;
    for _ in 0..2 {
        let mut ann = hall.enter("ann").await;
        let found = inbox(&mut ann).await;
        assert_eq!(found, [call("lobby", 2), call("lobby", 3), call("lobby", 4), call("lobby", 6)]);
        ann.goes().await;
        hall.restarts().await;
    }
}

#[tokio::test]
async fn what_is_said_again_under_its_id_calls_once() {
    let mut hall = Hall::stored(&[]).await;
    let publish = json!({"t": "pub", "r": "lobby", "d": "@ann", "id": "k-1"});
    for _ in 0..2 {
        let mut bob = hall.join("lobby", "bob").await;
        for _ in 0..2 {
            assert_eq!(bob.asks(publish.clone()).await.s(), 1);
        }
        hall.restarts().await;
    }
    assert_eq!(inbox(&mut hall.enter("ann").await).await, [call("lobby", 1)]);
}

#[tokio::test]
async fn a_message_calls_sixteen_at_most() {
    let hall = Hall::stored(&[]).await;
    let mut bob = hall.join("lobby", "bob").await;
    bob.says(&(0..20).map(|n| format!("@user{n} ")).collect::<String>()).await;
    for (n, called) in [(0, true), (15, true), (16, false), (19, false)] {
        let found = inbox(&mut hall.enter(&format!("user{n}")).await).await;
        assert_eq!(!found.is_empty(), called, "user{n}: {found:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_of_rooms_that_she_may_not_read() {
    let secret = format!("auth.secret={SECRET}");
    let rules = "rooms.rule=[{match = \"staff\", join = \"token\"}]";
    let hall = Hall::stored(&[&secret, rules]).await;
    let staff = Token::of("bob").rooms(&["staff", "lobby"]).signed();
    let mut bob = hall.enter_with(&staff, "bob").await;
    bob.joins("staff").await;
    bob.says("what about @ann?").await;
    bob.joins("lobby").await;
    bob.says("hi @ann").await;
    let mut boss = hall.enter("bob").await;
    boss.joins("@bob+cid").await;
    boss.says("@ann need not know").await;
    assert_eq!(inbox(&mut hall.enter("ann").await).await, [call("lobby", 1)]);
}

#[tokio::test]
async fn an_inbox_is_hers_alone() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::stored(&[&secret]).await;
    let everything = Token::of("eve").rooms(&["*", "@*"]).signed();
    let mut eve = hall.enter_with(&everything, "eve").await;
    for ask in [
        json!({"t": "join", "r": "@ann"}),
        json!({"t": "pub", "r": "@ann", "d": "spam"}),
        json!({"t": "log", "r": "@ann"}),
        json!({"t": "find", "r": "@ann", "q": "lobby"}),
    ] {
        let answer = eve.asks(ask).await;
        assert_eq!((answer.t(), answer.number("code")), ("err", 403), "{}", answer.raw);
    }
    let mut ann = hall.enter("ann").await;
    ann.joins("@ann").await;
    hall.publish(&json!({"r": "@ann", "d": "of the shop"})).await;
    ann.hears("of the shop").at(1).await;
}
