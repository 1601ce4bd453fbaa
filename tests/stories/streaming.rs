//! Promise: who reads by an event stream reads what everybody reads, and with nothing but what a browser's EventSource
//! does by itself he goes on exactly where he was cut off, over restarts as well.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::events::{Event, Stream};
use crate::stage::guest::Line;
use crate::stage::hall::Hall;
use crate::stage::polls::Link;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::{PATIENCE, dice};

const FAST: &str = "limits.messages_per_second=0";
/// Twelve rooms: more than a cursor may name.
const MANY: u64 = 12;

/// What a reader has seen of some rooms, entry by entry.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<String, Vec<String>>);

impl Seen {
    /// Takes a line. An entry has to stand right behind the last one of its room.
    pub fn takes(&mut self, line: &Line) {
        match line.t() {
            "msg" | "edit" | "del" | "react" => {
                let seen = self.0.entry(line.text("r").to_owned()).or_default();
                assert_eq!(line.s(), seen.len() as u64 + 1, "a hole or an overlap: {}", line.raw);
                seen.push(line.raw.clone());
            }
            "joined" => assert!(!line.has("missing"), "{}", line.raw),
            "gap" | "skip" | "rewind" | "err" => panic!("nothing is missing here: {}", line.raw),
            _ => {}
        }
    }

    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The entries of a room, from the first on.
    pub fn of(&self, room: &str) -> &[String] {
        self.0.get(room).map_or(&[], Vec::as_slice)
    }
}

/// A stream's events up to the one with the n-th entry.
async fn reads(stream: &mut Stream, seen: &mut Seen, n: usize) {
    let goal = seen.count() + n;
    while seen.count() < goal {
        let Event { line, id } = stream.next().await.expect("the stream goes on");
        let is_entry = matches!(line.t(), "msg" | "react" | "edit" | "del");
        assert!(!is_entry || id.is_some(), "an entry moves the cursor: {}", line.raw);
        assert!(line.t() != "live" || !stream.last_id.is_empty(), "an id comes with live at the latest");
        seen.takes(&line);
    }
}

#[tokio::test]
async fn a_stream_brings_what_a_websocket_brings_byte_for_byte() {
    let hall = Hall::with(&[FAST, "limits.ping=300ms"]).await;
    let mut bob = hall.join("lobby", "bob").await;
    bob.says("before").await;
    let mut stream = Stream::open(&hall, "/v1/stream?rooms=lobby&last=10&user=ann").await;
    let head = stream.head.clone();
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(head.header(name), Some(value), "{head:?}");
    }
    let first = stream.next().await.expect("a first event");
    assert_eq!((first.line.t(), first.line.text("u")), ("welcome", "ann"));
    assert!(stream.retry.is_some(), "it says when to come back");
    assert_eq!(stream.comments, 1, "it begins with something for proxies to pass on");
    let joined = stream.hears_a("joined").await;
    assert_eq!((joined.s(), joined.number("n")), (1, 1));
    stream.hears_a("live").await;
    assert_eq!(stream.last_id, format!("lobby@{}-1", joined.text("e")));
    let here = bob.claims("ann comes", |line| line.t() == "pres" && line.raw.contains("ann")).await;
    assert_eq!(here.number("who"), 2);

    let mut own = Vec::new();
    for line in [
        json!({"t": "pub", "r": "lobby", "d": {"text": "zwei \" \\ €", "n": [1, 2]}, "id": "b-2"}),
        json!({"t": "edit", "r": "lobby", "of": 1, "d": "changed"}),
        json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"}),
        json!({"t": "del", "r": "lobby", "of": 2}),
    ] {
        bob.sends(line.to_string()).await;
        let t = line["t"].as_str().expect("a type").replace("pub", "msg");
        own.push(bob.hears_a(&t).await.raw);
    }
    bob.sends(r#"{"t":"typing","r":"lobby"}"#).await;
    for expected in own {
        let event = stream.until(&expected, |line| line.has("s") && line.t() != "live").await;
        assert_eq!(event.raw, expected);
    }
    assert_eq!(stream.hears_a("typing").await.text("u"), "bob");
    stream.hears_a_comment().await;
    drop(stream);
    let gone = bob
        .claims("ann goes at once", |line| line.t() == "pres" && line.raw.contains("\"out\":[\"ann\"]"))
        .await;
    assert_eq!(gone.number("who"), 1);
}

#[tokio::test]
async fn a_browser_that_is_cut_at_random_sees_each_entry_once() {
    const PATH: &str = "/v1/stream?rooms=a,b%2525%252Cc&last=1000&user=reader";
    let mut dice = dice();
    let hall = Hall::stored(&[FAST, "rooms.history=20"]).await;
    let mut seen = Seen::default();
    let mut stream = Stream::open(&hall, PATH).await;
    let mut writers = [hall.join("a", "ann").await, hall.join("b%,c", "bob").await];
    let mut said = 0;
    for _ in 0..40 {
        for _ in 0..dice.random_range(1..40) {
            writers[dice.random_range(0..2)].says("x").await;
            said += 1;
        }
        let n = dice.random_range(0..=said - seen.count());
        reads(&mut stream, &mut seen, n).await;
        stream = stream.again(&hall, PATH).await;
    }
    let rest = said - seen.count();
    reads(&mut stream, &mut seen, rest).await;
    assert_eq!(seen.count(), seen.of("a").len() + seen.of("b%,c").len());
}

#[tokio::test]
async fn in_many_rooms_the_server_remembers_them_over_restarts_too() {
    let mut dice = dice();
    let mut hall = Hall::stored(&[FAST]).await;
    let rooms: Vec<String> = (0..MANY).map(|n| format!("room-{n}")).collect();
    let path = format!("/v1/stream?rooms={}&last=1000&user=reader", rooms.join(","));
    let mut seen = Seen::default();
    let mut stream = Stream::open(&hall, &path).await;
    let mut writer = hall.enter("ann").await;
    let mut said = 0;
    for round in 0..24 {
        for _ in 0..dice.random_range(1..30) {
            let room = &rooms[dice.random_range(0..rooms.len())];
            writer.asks(json!({"t": "join", "r": room, "quiet": true})).await;
            writer.asks(json!({"t": "pub", "r": room, "d": round})).await.s();
            said += 1;
        }
        let n = dice.random_range(0..=said - seen.count());
        reads(&mut stream, &mut seen, n).await;
        if stream.last_id.is_empty() {
            stream.hears_a("live").await;
        }
        assert!(stream.last_id.starts_with("~s") && stream.last_id.len() < 1_000, "{}", stream.last_id);
        if round % 8 == 7 {
            drop(writer);
            hall.restarts().await;
            writer = hall.enter("ann").await;
        }
        stream = stream.again(&hall, &path).await;
    }
    let rest = said - seen.count();
    reads(&mut stream, &mut seen, rest).await;
    // Somebody else's cursor opens nothing of hers, and one that nobody knows says so before it begins anew.
    for (user, id) in [("eve", stream.last_id.as_str()), ("reader", "~s1z.7-3")] {
        let path = path.replace("reader", user).replace("last=1000", "last=0");
        let mut other = Stream::ask(&hall, &path, &[("Last-Event-ID", id)]).await.expect("let in");
        other.hears_a("err").await.is_err(404, "no-session");
        assert_eq!(other.hears_a("joined").await.number("n"), 0);
    }
}

#[tokio::test]
async fn a_server_that_stops_says_when_to_come_back_and_ends_the_stream() {
    let mut hall = Hall::with(&["server.drain=5s"]).await;
    let mut stream = Stream::open(&hall, "/v1/stream?rooms=lobby&user=ann").await;
    stream.hears_a("live").await;
    hall.signal("TERM");
    let bye = stream.hears_a("bye").await;
    assert_eq!((bye.number("code"), Some(bye.number("wait"))), (4200, stream.retry), "{}", bye.raw);
    assert!(stream.next().await.is_none(), "nothing comes after the last word");
    assert_eq!(hall.ended().await.code(), Some(0));
    assert!(!hall.log().contains("are cut"), "{}", hall.log());
}

/// Messages that a slow reader does not read in time: more than kernels keep between two sockets.
const MUCH: u64 = 11_000;

/// A hall with a rule for slow readers, in which somebody listens by a stream and does not read what is said.
async fn with_one_who_does_not_read(rule: &str) -> (Hall, Stream) {
    let rule = format!("rooms.slow_reader={rule}");
    let hall = Hall::with(&[
        FAST,
        &rule,
        "limits.outbox_bytes=200000",
        "rooms.history=20000",
        "rooms.history_bytes=100000000",
    ])
    .await;
    let mut stream = Stream::open(&hall, SLOW).await;
    stream.hears_a("live").await;
    let (mut ann, text) = (Link::to(&hall).await, "x".repeat(1_000));
    for from in (0..MUCH).step_by(100) {
        let line = |n: u64| json!({"t": "pub", "r": "lobby", "d": text, "id": n.to_string()}).to_string();
        let lines: Vec<String> = (from..from + 100).map(line).collect();
        let answer = ann.post("/v1/send?user=ann", &lines.join("\n")).await;
        assert_eq!(answer.body.matches("\"t\":\"ack\"").count(), 100, "{}", answer.body);
    }
    (hall, stream)
}

const SLOW: &str = "/v1/stream?rooms=lobby&user=slow";

#[tokio::test]
async fn who_does_not_read_is_closed_and_has_missed_nothing_when_he_comes_back() {
    let (hall, mut stream) = with_one_who_does_not_read("close").await;
    hall.figure_becomes("roomcast_deliveries_dropped_total{reason=\"slow\"}", |n| n > 0.0).await;
    let mut seen = Seen::default();
    let end = Instant::now() + PATIENCE;
    while let Ok(Some(Event { line, .. })) = stream.next_before(end).await {
        if line.t() == "bye" {
            assert_eq!((line.number("code"), stream.retry), (4202, Some(0)), "{}", line.raw);
        }
        seen.takes(&line);
    }
    let before = seen.count();
    assert!(before < MUCH as usize, "he was closed before the end");
    let mut again = stream.again(&hall, SLOW).await;
    reads(&mut again, &mut seen, MUCH as usize - before).await;
}

#[tokio::test]
async fn where_rooms_wait_for_slow_readers_a_stream_is_led_on_at_its_own_pace() {
    let (hall, mut stream) = with_one_who_does_not_read("wait").await;
    assert!(hall.figure("roomcast_lanes_cut_total").await > 0.0, "he fell behind");
    assert!(hall.figure("roomcast_outbox_bytes").await < 1_000_000.0);
    let mut seen = Seen::default();
    reads(&mut stream, &mut seen, MUCH as usize).await;
    assert_eq!(hall.figure("roomcast_deliveries_dropped_total{reason=\"slow\"}").await, 0.0);
}

#[tokio::test]
async fn who_names_fewer_rooms_than_before_enters_no_others() {
    let hall = Hall::with(&[FAST]).await;
    let path = |rooms: u64| {
        let rooms: Vec<String> = (0..rooms).map(|n| format!("room-{n}")).collect();
        format!("/v1/stream?rooms={}&user=ann", rooms.join(","))
    };
    let mut stream = Stream::open(&hall, &path(MANY)).await;
    let last = format!("room-{}", MANY - 1);
    stream.until("the last room", |line| line.t() == "live" && line.json["r"] == last.as_str()).await;
    let mut fewer = stream.again(&hall, &path(MANY - 2)).await;
    let last = format!("room-{}", MANY - 3);
    fewer.until("the last of fewer", |line| line.t() == "live" && line.json["r"] == last.as_str()).await;
    hall.figure_becomes("roomcast_members", |n| n == (MANY - 2) as f64).await;
}

#[tokio::test]
async fn what_cannot_be_a_stream_is_refused_with_the_reason() {
    let strict = Hall::with(&[
        &format!("auth.secret={SECRET}"),
        "demo.enabled=off",
        "store.url=none",
        "limits.rooms_per_session=3",
    ])
    .await;
    let token = Token::of("ann").rooms(&["lobby", "ops"]).signed();
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; roomcast_token={token}");
    let refused = async |path: &str, headers: &[(&str, &str)]| match Stream::ask(&strict, path, headers).await
    {
        Err(answer) => answer,
        Ok(stream) => panic!("{path} is let in: {stream:?}"),
    };
    let good: [(&str, &str); 1] = [("Authorization", &bearer)];
    for (path, code, why) in [
        ("/v1/stream", 400, "bad-room"),
        ("/v1/stream?rooms=team-*", 400, "bad-room"),
        ("/v1/stream?rooms=a,b,c,d", 429, "rooms"),
        ("/v1/stream?rooms=lobby&since=lobby", 400, "bad-json"),
        ("/v1/stream?rooms=lobby&last=many", 400, "bad-json"),
        ("/v1/stream?rooms=lobby&last=1&from=2", 400, "bad-json"),
        ("/v1/stream?rooms=lobby&since=~s1.1-2", 400, "rooms"),
    ] {
        refused(path, &good).await.is_refusal(code, why);
    }
    let path = "/v1/stream?rooms=lobby";
    refused(path, &[good[0], ("Last-Event-ID", "lobby@x")]).await.is_refusal(400, "bad-json");
    let foreign = refused(path, &[good[0], ("Origin", "https://evil.example")]).await;
    foreign.is_refusal(403, "foreign-origin");
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let nobody = refused(path, &[]).await;
    nobody.is_refusal(401, "bad-token");
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
    refused(path, &[("Authorization", "Bearer nonsense")]).await.is_refusal(401, "bad-token");
    let old = Token::of("ann").ends_in(-5).signed();
    refused(&format!("{path}&token={old}"), &[]).await.is_refusal(401, "expired");
    strict
        .request(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ))
        .await
        .is_refusal(405, "method");

    for (path, headers) in [
        (path.to_owned(), vec![good[0]]),
        (path.to_owned(), vec![("Cookie", &*cookie)]),
        (format!("{path}&token={token}"), vec![]),
    ] {
        let mut stream = Stream::ask(&strict, &path, &headers).await.expect("let in");
        stream.hears_a("live").await;
    }
    // A room that is not hers is refused in the stream, as over a WebSocket; the others go on.
    let mut stream = Stream::ask(&strict, "/v1/stream?rooms=secret,ops", &good).await.expect("let in");
    let refusal = stream.hears_a("err").await;
    assert_eq!(refusal.is_err(403, "not-allowed").text("r"), "secret");
    assert_eq!(stream.hears_a("live").await.text("r"), "ops");
    let own = format!("http://{}", strict.address());
    let allowed = Stream::ask(&strict, path, &[good[0], ("Origin", &own)]).await.expect("its own page");
    assert_eq!(allowed.head.header("access-control-allow-origin"), Some(&*own));
}

#[tokio::test]
async fn the_limits_of_connections_hold_for_streams() {
    let hall = Hall::with(&["limits.connections=2", "limits.connections_per_address=1"]).await;
    let first = Stream::open(&hall, "/v1/stream?rooms=lobby").await;
    let refused = Stream::ask(&hall, "/v1/stream?rooms=lobby", &[]).await.expect_err("one for each address");
    refused.is_refusal(429, "connections");
    assert_eq!(refused.header("retry-after"), Some("5"));
    drop(first);
    hall.figure_becomes("roomcast_sessions", |n| n == 0.0).await;
    Stream::open(&hall, "/v1/stream?rooms=lobby").await.hears_a("live").await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let hall = Hall::with(&[&format!("auth.secret={SECRET}"), "demo.enabled=off"]).await;
    let token = Token::of("ann").ends_in(2).signed();
    let path = format!("/v1/stream?rooms=lobby&token={token}");
    let mut stream = Stream::open(&hall, &path).await;
    assert!(stream.hears_a("expiring").await.number("in") <= 2);
    let bye = stream.hears_a("bye").await;
    assert_eq!((bye.number("code"), bye.text("why")), (4001, "expired"));
    assert!(stream.next().await.is_none());
    assert!(stream.retry.is_some_and(|ms| ms >= Duration::from_secs(30).as_millis() as u64));
}
