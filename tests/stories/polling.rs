//! Promise: who polls sees what everybody sees, once and in order, from whatever connection he polls; between two polls
//! he is as present as others; and when there is nothing, he waits as long as he said, or not at all.

use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::json;

use crate::stage::dice;
use crate::stage::guest::Line;
use crate::stage::hall::Hall;
use crate::stage::polls::{Link, Poller};
use crate::stage::tokens::{SECRET, Token};
use crate::streaming::Seen;

const FAST: &str = "limits.messages_per_second=0";

fn types(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(Line::t).collect()
}

#[tokio::test]
async fn a_poll_answers_at_once_or_waits_and_then_says_nothing() {
    let hall = Hall::with(&[FAST]).await;
    let mut bob = hall.join("lobby", "bob").await;
    bob.says("one").await;
    let mut ann = Poller::new(&hall, "/v1/poll?rooms=lobby&last=5&user=ann").await;
    let first = ann.polls(25).await;
    assert_eq!(types(&first), ["welcome", "joined", "msg", "live", "pres"], "{first:?}");
    let epoch = first[1].text("e").to_owned();
    assert_eq!(ann.since, format!("lobby@{epoch}-1"));
    // Plainly: nothing, at once. With a wait: nothing, when it is over.
    assert_eq!(types(&ann.polls(0).await), ["pres"; 0]);
    let began = Instant::now();
    assert!(ann.polls(1).await.is_empty());
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // What is said while he waits ends the wait.
    let url = ann.url(25);
    ann.link.sends("GET", &url, &[], "").await;
    bob.says("two").await;
    let own = bob.asks(json!({"t": "log", "r": "lobby", "n": 1})).await;
    let answer = ann.link.hears().await;
    let mut lines = ann.takes(&answer);
    // That she has got the first comes along with what is worth an answer.
    lines.retain(|line| line.t() != "got");
    assert_eq!((types(&lines), lines[0].s()), (vec!["msg"], 2));
    assert!(own.raw.contains(lines[0].text("id")));
    assert_eq!(ann.since, format!("lobby@{epoch}-2"));
    // An answer that got lost is given again, and what is known is not.
    for since in [1, 2] {
        let mut again = Poller::new(&hall, "/v1/poll?rooms=lobby&user=ann").await;
        again.since = format!("lobby@{epoch}-{since}");
        let lines = again.polls(0).await;
        let entries: Vec<u64> = lines.iter().filter(|line| line.t() == "msg").map(Line::s).collect();
        assert_eq!(entries, (since + 1..=2).collect::<Vec<_>>());
        assert_eq!(again.since, format!("lobby@{epoch}-2"));
    }
}

#[tokio::test]
async fn a_poller_is_present_between_his_polls_and_leaves_after_them() {
    let hall = Hall::with(&["limits.ping=2s"]).await;
    let mut bob = hall.join("lobby", "bob").await;
    let mut ann = Poller::new(&hall, "/v1/poll?rooms=lobby&user=ann").await;
    ann.polls(0).await;
    let is_about_ann = |line: &Line| line.t() == "pres" && line.raw.contains("\"ann\"");
    assert_eq!(bob.claims("ann comes", is_about_ann).await.number("who"), 2);
    for n in 0..5 {
        bob.says(&format!("line {n}")).await;
        // From whatever connection, and so to whatever thread.
        ann.link = Link::to(&hall).await;
        let lines = ann.polls(5).await;
        assert!(lines.iter().any(|line| line.t() == "msg"), "{lines:?}");
    }
    let heard = bob.hears_no_more().await;
    assert!(!heard.iter().any(is_about_ann), "she was here all the time: {heard:?}");
    let gone = bob.claims("ann is gone", is_about_ann).await;
    assert_eq!((&gone.json["out"], gone.number("who")), (&json!(["ann"]), 1));
    hall.figure_becomes("roomcast_sessions", |n| n == 1.0).await;
}

#[tokio::test]
async fn whatever_is_lost_and_wherever_he_polls_he_sees_each_entry_once() {
    let mut dice = dice();
    let hall = Hall::stored(&[FAST, "rooms.history=20", "limits.connections_per_address=0"]).await;
    let mut writers = [hall.join("a", "ann").await, hall.join("b", "bob").await];
    let mut reader = Poller::new(&hall, "/v1/poll?rooms=a,b&last=1000&user=reader").await;
    let (mut seen, mut said) = (Seen::default(), 0);
    for _ in 0..60 {
        for _ in 0..dice.random_range(0..25) {
            writers[dice.random_range(0..2)].says("x").await;
            said += 1;
        }
        match dice.random_range(0..4) {
            // The answer gets lost on its way; he asks again from where he was.
            0 => {
                let url = reader.url(0);
                reader.link.get(&url).await;
            }
            // He hangs up while he waits.
            1 => {
                let url = reader.url(25);
                reader.link.sends("GET", &url, &[], "").await;
                reader.link = Link::to(&hall).await;
            }
            2 => reader.link = Link::to(&hall).await,
            _ => {}
        }
        for line in reader.polls(0).await {
            seen.takes(&line);
        }
        assert_eq!(seen.count(), said, "all that was acknowledged is in the next answer");
    }
}

#[tokio::test]
async fn many_rooms_and_much_at_once_come_in_several_answers() {
    let hall = Hall::stored(&[FAST]).await;
    let rooms: Vec<String> = (0..12).map(|n| format!("room-{n}")).collect();
    let mut reader =
        Poller::new(&hall, &format!("/v1/poll?rooms={}&last=5000&user=reader", rooms.join(","))).await;
    let mut seen = Seen::default();
    reader.polls(0).await.iter().for_each(|line| seen.takes(line));
    assert!(reader.since.starts_with("~s"), "{}", reader.since);
    let mut ann = hall.enter("ann").await;
    let (text, mut said) = ("x".repeat(2_000), 0);
    for room in &rooms {
        ann.joins(room).await;
        for _ in 0..20 {
            let lines: Vec<String> =
                (0..5).map(|_| json!({"t": "pub", "r": room, "d": text}).to_string()).collect();
            ann.sends(lines.join("\n")).await;
            for _ in 0..5 {
                ann.hears_a("ack").await;
                said += 1;
            }
        }
    }
    let mut answers = 0;
    while seen.count() < said {
        if answers % 3 == 1 {
            reader.link = Link::to(&hall).await;
        }
        let lines = reader.polls(5).await;
        let bytes: usize = lines.iter().map(|line| line.raw.len()).sum();
        assert!(bytes < 400_000, "an answer has an end: {bytes}");
        lines.iter().for_each(|line| seen.takes(line));
        answers += 1;
        assert!(answers < 100, "{} of {said}", seen.count());
    }
    assert!(answers > 5, "{answers}");
    assert!(rooms.iter().all(|room| seen.of(room).len() == 100));
}

#[tokio::test]
async fn what_cannot_be_polled_is_refused_and_the_connection_kept() {
    let hall = Hall::with(&[&format!("auth.secret={SECRET}"), "demo.enabled=off", "store.url=none"]).await;
    let token = Token::of("ann").rooms(&["lobby"]).signed();
    let bearer = format!("Bearer {token}");
    let mut link = Link::to(&hall).await;
    let good: [(&str, &str); 1] = [("Authorization", &bearer)];
    for (path, headers, code, why) in [
        ("/v1/poll?rooms=lobby", &[][..], 401, "bad-token"),
        ("/v1/poll?rooms=lobby&wait=long", &good[..], 400, "bad-json"),
        ("/v1/poll?rooms=lobby&since=here", &good[..], 400, "bad-json"),
        ("/v1/poll", &good[..], 400, "bad-room"),
        ("/v1/poll?rooms=lobby", &[good[0], ("Origin", "https://evil.example")][..], 403, "foreign-origin"),
        ("/v1/poll?rooms=1,2,3,4,5,6,7,8,9", &good[..], 400, "rooms"),
    ] {
        link.asks("GET", path, headers, "").await.is_refusal(code, why);
    }
    let answer = link.asks("GET", "/v1/poll?rooms=lobby,secret", &good, "").await;
    let (lines, next) = crate::stage::polls::read(&answer);
    assert!(lines.iter().any(|line| line.t() == "err" && line.text("r") == "secret"), "{lines:?}");
    assert!(next.starts_with("lobby@") && !next.contains("secret"), "{next}");
    let own = format!("http://{}", hall.address());
    let preflight = link.asks("OPTIONS", "/v1/poll", &[("Origin", &own), ("Connection", "close")], "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, POST"));
}

#[tokio::test]
async fn a_poll_that_waits_hears_that_the_server_stops() {
    let mut hall = Hall::with(&["server.drain=5s"]).await;
    let mut ann = Poller::new(&hall, "/v1/poll?rooms=lobby&user=ann").await;
    ann.polls(0).await;
    let url = ann.url(25);
    ann.link.sends("GET", &url, &[], "").await;
    hall.figure_becomes("roomcast_polls_total", |n| n == 2.0).await;
    hall.signal("TERM");
    let answer = ann.link.hears().await;
    let lines = ann.takes(&answer);
    assert_eq!((types(&lines), lines[0].number("code")), (vec!["bye"], 4200));
    ann.polls_are_refused().await;
    assert_eq!(hall.ended().await.code(), Some(0));
}

impl Poller {
    /// The next poll is refused while the server stops, or finds it gone.
    async fn polls_are_refused(&mut self) {
        let url = self.url(0);
        let answer = self.link.get(&url).await;
        answer.is_refusal(503, "draining");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}
