//! Promise: every limit is told before it hurts, costs only the one who is over it, and says what to do.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::stream::{Follower, Transcript};
use crate::stage::tokens::{SECRET, Token};
use crate::stage::wire::{FIN, Seen, TEXT, Wire, frame_head};
use crate::stage::{PATIENCE, eventually};

const SLOW: &str = "roomcast_deliveries_dropped_total{reason=\"slow\"}";

#[tokio::test]
async fn a_message_that_is_too_big_is_refused_and_its_sender_stays() {
    let hall = Hall::with(&["limits.message_bytes=1000"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let message = |bytes: usize| {
        let frame = json!({"t": "pub", "r": "lobby", "d": ""}).to_string();
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    ann.sends(message(1000)).await;
    assert_eq!(ann.hears_a("ack").await.s(), 1);
    // The largest one is exactly four times the limit, which is still read and thrown away.
    for bytes in [1001, 2000, 4000] {
        ann.sends(message(bytes)).await;
        ann.is_refused(413, "too-big").await;
    }
    // In fragments it is no smaller.
    ann.wire.writer.frame(TEXT, &message(1001).as_bytes()[..600]).await;
    ann.wire.writer.frame(FIN, &message(1001).as_bytes()[600..]).await;
    ann.is_refused(413, "too-big").await;
    assert_eq!(ann.says("still here").await.s(), 2);
}

#[tokio::test]
async fn a_header_that_announces_far_too_much_ends_the_session_before_it_is_sent() {
    let hall = Hall::with(&["limits.message_bytes=1000"]).await;
    for length in [4001, 1 << 20, 1 << 40, u64::MAX >> 1] {
        let mut ann = hall.join("lobby", "ann").await;
        ann.wire.writer.bytes(&frame_head(FIN | TEXT, length)).await;
        ann.is_closed_with(1009).await;
    }
}

#[tokio::test]
async fn who_speaks_too_fast_is_told_how_long_to_wait_and_that_is_enough() {
    let hall = Hall::with(&["limits.messages_per_second=5"]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let burst: Vec<String> =
        (0..8).map(|n| json!({"t": "pub", "r": "lobby", "d": n, "i": n}).to_string()).collect();
    ann.sends(burst.join("\n")).await;
    let mut refused = Vec::new();
    for n in 0..8 {
        let answer = ann.claims("an answer", |line| matches!(line.t(), "ack" | "err")).await;
        assert_eq!(answer.number("i"), n, "answers keep the order");
        if answer.t() == "err" {
            refused.push(answer);
        }
    }
    assert!((2..=3).contains(&refused.len()), "a burst of one second's worth is fine: {refused:?}");
    let told: &Line = refused.last().expect("one was refused");
    let wait = told.is_err(429, "rate").number("wait");
    assert!((1..=200).contains(&wait), "at five a second the next is 200 ms away: {}", told.raw);
    // The wait is the story here.
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let said = 8 - refused.len() as u64;
    assert_eq!(ann.says("now?").await.s(), said + 1);
    for n in 0..said {
        bob.hears(n).at(n + 1).await;
    }
    bob.hears("now?").await;
}

#[tokio::test]
async fn who_does_not_stop_being_too_fast_is_closed() {
    let hall = Hall::with(&["limits.messages_per_second=1"]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.sends([r#"{"t":"ping"}"#; 300].join("\n")).await;
    let bye = ann.is_closed_with(4101).await;
    assert_eq!(bye.text("why"), "rate");
    assert_eq!(bob.says("he is gone").await.s(), 1);
}

#[tokio::test]
async fn a_session_may_be_in_so_many_rooms() {
    let hall = Hall::with(&["limits.rooms_per_session=2"]).await;
    let mut ann = hall.join("one", "ann").await;
    ann.joins("two").await;
    ann.asks(json!({"t": "join", "r": "three"})).await.is_err(429, "rooms");
    ann.joins("one").await;
    ann.asks(json!({"t": "leave", "r": "one"})).await;
    ann.joins("three").await;
}

#[tokio::test]
async fn a_server_may_have_so_many_rooms() {
    let hall = Hall::with(&["limits.rooms=2"]).await;
    let mut ann = hall.join("one", "ann").await;
    ann.says("keep it").await;
    ann.joins("two").await;
    ann.says("keep it too").await;
    ann.asks(json!({"t": "join", "r": "three"})).await.is_err(429, "rooms");
    hall.publish(&json!({"r": "four", "d": 1})).await.is_refusal(429, "rooms");
    assert_eq!(ann.says("two still works").await.s(), 2);
}

#[tokio::test]
async fn a_room_that_makes_place_for_another_gives_its_memory_back() {
    let hall = Hall::with(&["limits.rooms=2", "rooms.history_bytes=100000"]).await;
    for n in 0..100 {
        let body = json!({"r": format!("room-{n}"), "d": "x".repeat(5_000), "id": "once"});
        assert_eq!(hall.publish(&body).await.status, 200, "room {n}");
    }
    // A room that nobody is in may be closed at any moment while all places are taken; what is counted has
    // to be what is there.
    let counted = async || {
        let figures = hall.figures().await;
        ["roomcast_rooms", "roomcast_history_entries", "roomcast_dedup_ids", "roomcast_history_bytes"]
            .map(|name| figures[name])
    };
    eventually("figures of at most two rooms", || async {
        let [rooms, entries, ids, bytes] = counted().await;
        let right = rooms <= 2.0 && entries == rooms && ids == rooms && bytes <= rooms * 5_500.0;
        right.then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_address_may_have_so_many_connections() {
    let hall = Hall::with(&["limits.connections_per_address=2", "server.trusted_proxies=127.0.0.1"]).await;
    let (ann, _bob) = (hall.enter("ann").await, hall.enter("bob").await);
    let refused = hall.knock("/v1/ws", &[]).await.expect_err("a third");
    refused.is_refusal(429, "connections");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(hall.get("/healthz").await.status, 200, "plain requests are not counted");
    // Who comes through the proxy is counted by his own address, and cannot choose it.
    let through = |list: &'static str| [("X-Forwarded-For", list)];
    let _cid = hall.knock("/v1/ws", &through("203.0.113.9")).await.expect("another address");
    let _dan = hall.knock("/v1/ws", &through("198.51.100.1, 203.0.113.9")).await.expect("its second");
    let refused = hall.knock("/v1/ws", &through("192.0.2.77, 203.0.113.9")).await.expect_err("its third");
    refused.is_refusal(429, "connections");
    ann.goes().await;
    hall.figure_becomes("roomcast_connections", |n| n == 3.0).await;
    hall.enter("ann").await;
}

#[tokio::test]
async fn a_server_may_have_so_many_connections() {
    let hall = Hall::with(&["limits.connections=2"]).await;
    let (ann, mut bob) = (hall.enter("ann").await, hall.enter("bob").await);
    let refused = hall.knock("/v1/ws", &[]).await.expect_err("a third");
    refused.is_refusal(503, "full");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    bob.joins("lobby").await;
    assert_eq!(bob.says("unharmed").await.s(), 1);
    ann.wire.cut(true);
    hall.figure_becomes("roomcast_connections", |n| n == 1.0).await;
    hall.enter("cid").await;
}

#[tokio::test]
async fn who_sends_a_request_byte_by_byte_is_not_waited_for() {
    let hall = Hall::with(&["limits.handshake=1s"]).await;
    let began = Instant::now();
    for head in ["", "GET /v1/ws HTT", "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: webs"] {
        let mut slow = hall.socket().await;
        slow.write_all(head.as_bytes()).await.expect("the server listens");
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("it hangs up");
        read.expect("politely");
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "after {:?}", began.elapsed());
    hall.join("lobby", "ann").await;
}

#[tokio::test]
async fn who_gives_no_sign_of_life_is_closed_and_who_does_is_not() {
    let hall = Hall::with(&["limits.ping=1s"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let mut dead = hall.join("lobby", "dead").await;
    // Reading without answering pings, while ann answers hers.
    let mut pings = 0;
    let dying = async {
        loop {
            match dead.wire.reader.next().await {
                Seen::Ping(_) => pings += 1,
                Seen::Close(code, _) => return code,
                Seen::End => panic!("no close frame"),
                _ => {}
            }
        }
    };
    let gone = |line: &Line| line.t() == "pres" && line.json["out"] == json!(["dead"]);
    let (code, _) = join(dying, ann.claims("news of the dead", gone)).await;
    assert_eq!(code, Some(4201));
    assert!((1..=3).contains(&pings), "{pings} pings");
    assert_eq!(ann.says("alive").await.s(), 1);
}

// ---- slow readers ----

/// Somebody whose own system takes next to nothing, and who does not read.
async fn stalled(hall: &Hall) -> Wire {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a TCP socket has this option");
    let socket = socket.connect(hall.address()).await.expect("the server listens");
    let mut wire = Wire::upgrade(socket, hall.address(), "/v1/ws?user=stalled", &[]).await.expect("let in");
    wire.writer.text(r#"{"t":"join","r":"lobby"}"#).await;
    loop {
        if let Seen::Text(text) = wire.reader.next().await
            && Line::of(text).t() == "live"
        {
            return wire;
        }
    }
}

/// Says messages of 50 KB with these numbers, each after the ack of the one before.
async fn say_much(hall: &Hall, numbers: Range<u64>) {
    let mut speaker = hall.enter_with(&Token::of("speaker").rooms(&["lobby"]).signed(), "speaker").await;
    let data = "x".repeat(50_000);
    for n in numbers {
        let id = n.to_string();
        speaker.sends(json!({"t": "pub", "r": "lobby", "d": data, "id": id}).to_string()).await;
        assert_eq!(speaker.hears_a("ack").await.text("id"), id);
    }
}

/// Reads what is left: the last two things are `bye` and the close frame, and the framing holds until then.
async fn is_closed_as_slow(wire: Wire) {
    let bye = Guest::silent(wire, "stalled").is_closed_with(4202).await;
    assert_eq!(bye.text("why"), "slow");
}

#[tokio::test]
async fn a_reader_who_falls_behind_is_closed_and_nobody_else_notices() {
    let secret = format!("auth.secret={SECRET}");
    let settings = [
        &secret,
        "store.url=none",
        "limits.messages_per_second=0",
        "limits.outbox_bytes=500000",
        "limits.outbox_age=1h",
        "rooms.history=8",
    ];
    let hall = Hall::with(&settings).await;
    let transcript = Transcript::default();
    let mut others = Vec::new();
    for n in 0..3 {
        let wire = hall.wire(&format!("/v1/ws?user=reader-{n}")).await;
        others.push(Follower::join(wire, "lobby", &transcript, "").await.0);
    }
    // Warm up: what the server needs for this load anyway is there before memory is looked at.
    join(say_much(&hall, 0..50), join_all(others.iter_mut().map(|reader| reader.up_to(50)))).await;
    let before = hall.memory();
    let slow = stalled(&hall).await;
    let reading = join_all(others.iter_mut().map(|reader| reader.up_to(650)));
    join(say_much(&hall, 50..650), reading).await;
    let after = hall.memory();
    hall.figure_becomes(SLOW, |dropped| dropped > 0.0).await;
    is_closed_as_slow(slow).await;
    // 30 MB were said to it. What it may cost is its outbox and some rounding.
    let grown = after.saturating_sub(before);
    println!("memory {before} before, {after} after");
    assert!(grown < 8 << 20, "memory grew by {grown} bytes");
    hall.figure_becomes("roomcast_connections", |n| n == 3.0).await;
    assert_eq!(hall.figure("roomcast_outbox_bytes").await, 0.0);
}

#[tokio::test]
async fn a_reader_who_takes_nothing_for_too_long_is_closed_however_little_waits() {
    let secret = format!("auth.secret={SECRET}");
    let settings =
        [&secret, "limits.messages_per_second=0", "limits.outbox_bytes=100000000", "limits.outbox_age=1s"];
    let hall = Hall::with(&settings).await;
    let mut bob = hall.join("lobby", "bob").await;
    let slow = stalled(&hall).await;
    // As much as kernels keep between two sockets, and some more.
    let speaking = say_much(&hall, 0..240);
    let reading = async {
        for n in 1..=240 {
            assert_eq!(bob.hears_a("msg").await.s(), n);
        }
    };
    join(speaking, reading).await;
    hall.figure_becomes(SLOW, |dropped| dropped > 0.0).await;
    is_closed_as_slow(slow).await;
    assert_eq!(bob.says("unharmed").await.s(), 241);
}

#[tokio::test]
async fn a_reader_who_was_closed_as_slow_comes_back_and_misses_nothing() {
    let secret = format!("auth.secret={SECRET}");
    let settings =
        [&secret, "limits.messages_per_second=0", "limits.outbox_bytes=200000", "rooms.history=1000"];
    let hall = Hall::with(&settings).await;
    let slow = stalled(&hall).await;
    say_much(&hall, 0..240).await;
    hall.figure_becomes(SLOW, |dropped| dropped > 0.0).await;
    let transcript = Transcript::default();
    let mut slow = Guest::silent(slow, "stalled");
    let mut last = 0;
    loop {
        let line = slow.claims("what had left already", |_| true).await;
        match line.t() {
            "msg" => {
                assert_eq!(line.s(), last + 1, "no hole before the close");
                transcript.sees(line.s(), &line.raw);
                last = line.s();
            }
            "bye" => break,
            _ => {}
        }
    }
    let more = format!(r#","since":{last}"#);
    let wire = hall.wire("/v1/ws?user=stalled").await;
    let (mut back, joined) = Follower::join(wire, "lobby", &transcript, &more).await;
    assert_eq!((joined.s(), joined.number("n"), joined.has("missing")), (240, 240 - last, false));
    hall.publish(&json!({"r": "lobby", "d": "and on"})).await;
    back.up_to(241).await;
}
