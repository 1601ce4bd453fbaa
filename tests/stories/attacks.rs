//! Promise: what one client does on purpose, the others do not feel. Each story is an attack that once
//! worked, or that was tried against a server built like this one.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::stage::eventually;
use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::wire::{Seen, client_frame};

const NO_PACE: &str = "limits.messages_per_second=0";
const MEGABYTE: u64 = 1 << 20;

/// A server that lives answers.
async fn lives(hall: &Hall) {
    let mut witness = hall.join("witness", "witness").await;
    witness.says("still here").await;
    witness.goes().await;
}

#[tokio::test]
async fn rooms_that_are_left_by_closing_give_their_number_away_safely() {
    // With place for a few rooms only, every new one takes the number of one that was just left.
    let hall = Hall::with(&["limits.rooms=12", NO_PACE]).await;
    let mut big = hall.join("big", "reader").await;
    for round in 0..60 {
        let mut all = Vec::new();
        for n in 0..4 {
            let mut guest = Guest::silent(hall.wire(&format!("/v1/ws?user=u{n}")).await, "visitor");
            let room = format!("e{round}-{n}");
            guest.sends(format!("{{\"t\":\"join\",\"r\":\"{room}\"}}\n{{\"t\":\"bye\"}}")).await;
            big.sends(json!({"t": "pub", "r": "big", "d": round}).to_string()).await;
            all.push(guest);
        }
        for guest in &mut all {
            guest.is_closed_with(1000).await;
        }
    }
    lives(&hall).await;
}

#[tokio::test]
async fn a_full_house_still_answers() {
    let hall = Hall::with(&["limits.rooms=3"]).await;
    let mut ann = hall.enter("ann").await;
    for room in ["a", "b", "c"] {
        ann.joins(room).await;
    }
    assert_eq!(ann.says("all rooms are taken, and this comes through").await.s(), 1);
    let refused = ann.asks(json!({"t": "join", "r": "d"})).await;
    refused.is_err(429, "rooms");
    ann.asks(json!({"t": "leave", "r": "a"})).await;
    ann.joins("d").await;
}

#[tokio::test]
async fn pages_of_the_log_have_a_size() {
    let hall = Hall::with(&[NO_PACE, "rooms.history=300"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let large = "x".repeat(60_000);
    for _ in 0..100 {
        ann.asks(json!({"t": "pub", "r": "lobby", "d": large})).await;
    }
    let page = ann.asks(json!({"t": "log", "r": "lobby", "n": 500})).await;
    assert!(page.raw.len() < 140_000, "a page of {} bytes", page.raw.len());
    assert_eq!(page.json["more"], true);
    let before = hall.memory();
    let many = json!({"t": "log", "r": "lobby", "n": 500}).to_string() + "\n";
    ann.sends(many.repeat(200)).await;
    let mut bob = hall.join("lobby", "bob").await;
    assert_eq!(bob.asks(json!({"t": "ping"})).await.t(), "pong");
    let grown = hall.memory().saturating_sub(before);
    assert!(grown < 64 * MEGABYTE, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn who_asks_for_replays_and_does_not_read_them_is_not_listened_to() {
    let hall = Hall::with(&[NO_PACE]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 0..512 {
        ann.asks(json!({"t": "pub", "r": "lobby", "d": format!("{n} {}", "x".repeat(400))})).await;
    }
    let mut greedy = hall.join("lobby", "greedy").await;
    let before = hall.memory();
    let join = json!({"t": "join", "r": "lobby", "last": 512}).to_string() + "\n";
    // 5,000 replays of 512 entries; who does not read them is stopped by his own full socket.
    for _ in 0..100 {
        let frame = client_frame(0x81, join.repeat(50).as_bytes());
        let sent = greedy.wire.writer.bytes(&frame);
        if timeout(Duration::from_millis(50), sent).await.is_err() {
            break;
        }
    }
    lives(&hall).await;
    let waiting = hall.figure("roomcast_deliveries_waiting").await;
    let grown = hall.memory().saturating_sub(before);
    println!("{waiting} frames wait, memory grew by {grown} bytes");
    assert!(grown < 48 * MEGABYTE, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn a_silent_guest_who_is_closed_leaves_no_ghost() {
    // The moment in which guests get their name is the moment in which silent ones are closed.
    let hall = Hall::with(&["limits.handshake=1s", "limits.ping=500ms"]).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(hall.wire("/v1/ws").await);
    }
    // Read without answering pings, all are closed for their silence.
    for wire in &mut silent {
        loop {
            match wire.reader.next().await {
                Seen::Close(code, _) => break assert_eq!(code, Some(4201)),
                Seen::End => panic!("the link ended without a close frame"),
                _ => {}
            }
        }
    }
    drop(silent);
    hall.figure_becomes("roomcast_sessions", |n| n == 0.0).await;
    lives(&hall).await;
}

#[tokio::test]
async fn absurd_ends_of_tokens_are_only_far_away() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::with(&[&secret]).await;
    for exp in [i64::MAX, 1 << 53, 99_999_999_999_999] {
        let token = Token::of("ann").with("exp", exp).signed();
        let mut ann = Guest::silent(hall.wire(&format!("/v1/ws?token={token}")).await, "ann");
        let first = ann.claims("an answer", |_| true).await;
        assert!(matches!(first.t(), "welcome" | "err"), "{}", first.raw);
    }
    lives(&hall).await;
}

#[tokio::test]
async fn hundreds_of_hellos_in_one_frame_are_just_many() {
    let hall = Hall::with(&[NO_PACE]).await;
    let mut ann = hall.enter("ann").await;
    ann.sends("{\"t\":\"hello\",\"v\":1}\n{\"t\":\"ping\"}\n".repeat(1_000)).await;
    for _ in 0..1_000 {
        ann.hears_a("pong").await;
    }
    lives(&hall).await;
}

#[tokio::test]
async fn a_hello_that_fails_enters_nothing() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    let mut eve = Guest::silent(hall.wire("/v1/ws").await, "eve");
    eve.sends(r#"{"t":"hello","token":"bad","rooms":{"lobby":{}}}"#).await;
    eve.is_refused(401, "bad-token").await;
    eve.is_closed_with(4001).await;
    // Nor does it for somebody who is known already; he stays who he was.
    let mut bob = hall.enter("bob").await;
    bob.sends(r#"{"t":"hello","token":"bad","rooms":{"lobby":{}}}"#).await;
    bob.is_refused(401, "bad-token").await;
    assert_eq!(bob.hears_no_more().await.len(), 0);
    let heard = ann.hears_no_more().await;
    assert!(heard.iter().all(|line| !line.raw.contains("guest-") && !line.raw.contains("bob")), "{heard:#?}");
}

#[tokio::test]
async fn typing_of_a_quiet_reader_ends_with_his_stay() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    let mut zoe = hall.enter("zoe").await;
    zoe.joins_with("lobby", json!({"quiet": true})).await;
    zoe.sends(r#"{"t":"typing","r":"lobby"}"#).await;
    ann.hears_a("typing").await;
    let began = std::time::Instant::now();
    zoe.goes().await;
    let off = ann.hears_a("typing").await;
    assert_eq!(off.json["off"], true);
    assert!(began.elapsed().as_secs() < 4, "it ended with the stay, not by itself");
}

#[tokio::test]
async fn lists_are_no_objects() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.sends(r#"["join","lobby",5,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null]"#)
        .await;
    ann.is_refused(400, "bad-json").await;
    let answer = hall.publish(&json!(["lobby", "u", 1, "x"])).await;
    answer.is_refusal(400, "bad-json");
    eventually("the server lives", || async { (hall.get("/healthz").await.status == 200).then_some(()) })
        .await;
}
