//! Promise: whoever joins sees everything from his cut on, once and in order, however much is being said in
//! that moment; and what cannot be had any more is told in exact numbers.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::stage::dice;
use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::stream::{Follower, Transcript};
use crate::stage::tokens::{SECRET, Token};

/// Four of them say 10,000 messages a second: 25 lines every 10 ms each.
const SPEAKERS: usize = 4;
const LINES_PER_FRAME: u64 = 25;
const BEAT: Duration = Duration::from_millis(10);
/// Twenty readers come ten times each.
const READERS: u64 = 20;
const JOINS: usize = 10;

#[tokio::test]
async fn two_hundred_joins_during_a_burst_have_no_hole_and_no_overlap() {
    check_joins_during_a_burst(100_000, 100_000, "").await;
}

#[tokio::test]
async fn joins_during_a_burst_get_from_the_store_what_is_not_hot_any_more() {
    check_joins_during_a_burst(64, 100_000, "").await;
}

#[tokio::test]
async fn joins_during_a_burst_are_told_exactly_what_a_short_history_lacks() {
    check_joins_during_a_burst(300, 300, "none").await;
}

/// `hot` entries are in memory, `history` of them can be had.
async fn check_joins_during_a_burst(hot: u64, history: u64, store: &str) {
    let (secret, kept) = (format!("auth.secret={SECRET}"), format!("rooms.history={hot}"));
    let store = if store.is_empty() { "limits.rooms=1000".to_owned() } else { format!("store.url={store}") };
    let hall = Hall::with(&[&secret, &kept, &store, "limits.messages_per_second=0"]).await;
    let (transcript, stop) = (Transcript::default(), Cell::new(false));
    let began = Instant::now();
    let speakers = join_all((0..SPEAKERS).map(|n| speak(&hall, n, &stop)));
    let readers = async {
        let seed: u64 = dice().random();
        join_all((0..READERS).map(|n| come_and_go(&hall, &transcript, history, seed.wrapping_add(n)))).await;
        stop.set(true);
    };
    let (said, ()) = join(speakers, readers).await;
    let said: u64 = said.iter().sum();
    println!("{said} messages in {:?}", began.elapsed());
    // One more reads all that is kept: the end has no hole either.
    let wire = hall.wire("/v1/ws?user=last").await;
    let (last, joined) = Follower::join(wire, "lobby", &transcript, r#","since":0"#).await;
    assert_eq!((joined.s(), last.last, joined.number("n")), (said, said, said.min(history)));
}

/// Says things until it is told to stop; how many.
async fn speak(hall: &Hall, n: usize, stop: &Cell<bool>) -> u64 {
    let name = format!("speaker-{n}");
    let mut speaker = hall.enter_with(&Token::of(&name).rooms(&["lobby"]).signed(), &name).await;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut said = 0;
    while !stop.get() {
        beat.tick().await;
        let lines = (said..said + LINES_PER_FRAME)
            .map(|i| format!(r#"{{"t":"pub","r":"lobby","id":"{i}","d":"number {i} of {name}"}}"#));
        speaker.sends(lines.collect::<Vec<_>>().join("\n")).await;
        for _ in 0..LINES_PER_FRAME {
            speaker.hears_a("ack").await;
        }
        said += LINES_PER_FRAME;
    }
    said
}

/// Joins ten times, each time in another way, and reads a while.
async fn come_and_go(hall: &Hall, transcript: &Transcript, history: u64, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut seen, mut epoch) = (0, None);
    for _ in 0..JOINS {
        let wire = hall.wire(&format!("/v1/ws?user=reader-{seed}")).await;
        // How far back he asks for; none for nothing old.
        let (more, wanted) = match dice.random_range(0..3) {
            0 => (String::new(), None),
            1 => {
                let last: u64 = dice.random_range(0..500);
                (format!(r#","last":{last},"quiet":true"#), Some(Wanted::Last(last)))
            }
            _ => {
                let since = seen - dice.random_range(0..=seen.min(1_000));
                let known = epoch.as_ref().map_or(String::new(), |epoch| format!(r#","e":"{epoch}""#));
                (format!(r#","since":{since}{known}"#), Some(Wanted::Since(since)))
            }
        };
        let (mut reader, joined) = Follower::join(wire, "lobby", transcript, &more).await;
        let (top, n, missing) = (joined.s(), joined.number("n"), joined.json.get("missing"));
        let first_kept = top.saturating_sub(history) + 1;
        let (expected, lacking) = match wanted {
            None => (0, None),
            Some(Wanted::Last(last)) => (last.min(top).min(history), None),
            Some(Wanted::Since(since)) if since + 1 < first_kept => {
                (history, Some(json!([since + 1, first_kept - 1])))
            }
            Some(Wanted::Since(since)) => (top - since, None),
        };
        assert_eq!((n, missing), (expected, lacking.as_ref()), "{more} is answered by {}", joined.raw);
        reader.up_to(top + dice.random_range(1..1_500)).await;
        (seen, epoch) = (reader.last, Some(reader.epoch));
        reader.wire.cut(dice.random());
    }
}

enum Wanted {
    Last(u64),
    Since(u64),
}

#[tokio::test]
async fn a_newcomer_hears_what_is_said_from_now_on() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("nobody is here yet").await;
    let mut bob = hall.enter("bob").await;
    let joined = bob.joins("lobby").await;
    assert_eq!((joined.s(), joined.number("n"), joined.number("who")), (1, 0, 2));
    ann.says("hello").await;
    bob.hears("hello").from("ann").at(2).await;
    bob.says("hi").await;
    ann.hears("hi").from("bob").at(3).await;
    ann.hears_no_message().await;
    bob.hears_no_message().await;
}

#[tokio::test]
async fn a_newcomer_may_ask_for_the_last_so_many() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=5 {
        ann.says(&format!("line {n}")).await;
    }
    for (last, first) in [(2, 4), (5, 1), (99, 1), (0, 6)] {
        let mut bob = hall.enter("bob").await;
        let joined = bob.joins_with("lobby", json!({"last": last})).await;
        assert_eq!((joined.s(), joined.number("n"), joined.has("missing")), (5, 6 - first, false));
        for n in first..=5 {
            bob.hears(format!("line {n}")).from("ann").at(n).await;
        }
        bob.hears_no_message().await;
        bob.goes().await;
    }
}

#[tokio::test]
async fn a_newcomer_may_ask_for_all_since_a_time() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    let times =
        [ann.says("one").await, ann.says("two").await, ann.says("three").await].map(|a| a.number("ts"));
    for from in [0, times[1], times[2], times[2] + 1] {
        let mut bob = hall.enter("bob").await;
        let joined = bob.joins_with("lobby", json!({"from": from})).await;
        let wanted = times.iter().filter(|ts| **ts >= from).count() as u64;
        assert_eq!((joined.s(), joined.number("n")), (3, wanted), "from {from} of {times:?}");
    }
}

#[tokio::test]
async fn joining_again_from_an_older_place_replays_and_doubles_nothing() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    for n in 1..=3 {
        ann.says(&format!("line {n}")).await;
        bob.hears(format!("line {n}")).at(n).await;
    }
    let joined = bob.joins_with("lobby", json!({"since": 1})).await;
    assert_eq!((joined.s(), joined.number("n"), joined.number("who")), (3, 2, 2));
    bob.hears("line 2").at(2).await;
    bob.hears("line 3").at(3).await;
    ann.says("line 4").await;
    bob.hears("line 4").at(4).await;
    bob.hears_no_message().await;
    let who = ann.asks(json!({"t": "who", "r": "lobby"})).await;
    assert_eq!(who.json["list"], json!([{"u": "ann", "n": 1}, {"u": "bob", "n": 1}]));
}

#[tokio::test]
async fn who_was_away_too_long_is_told_exactly_what_is_missing() {
    let hall = Hall::with(&["store.url=none", "rooms.history=16", "limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=40 {
        ann.says(&format!("line {n}")).await;
    }
    // 25 to 40 are kept.
    for (since, n, missing) in [
        (0, 16, json!([1, 24])),
        (10, 16, json!([11, 24])),
        (23, 16, json!([24, 24])),
        (24, 16, json!(null)),
        (38, 2, json!(null)),
        (40, 0, json!(null)),
    ] {
        let mut bob = hall.enter("bob").await;
        let joined = bob.joins_with("lobby", json!({"since": since})).await;
        assert_eq!((joined.s(), joined.number("n")), (40, n), "since {since}: {}", joined.raw);
        assert_eq!(joined.json["missing"], missing, "since {since}: {}", joined.raw);
        for line in 41 - n..=40 {
            bob.hears(format!("line {line}")).at(line).await;
        }
        bob.hears_no_message().await;
        bob.goes().await;
    }
}

#[tokio::test]
async fn who_knows_another_life_of_the_room_is_told_so_and_gets_what_is_kept() {
    let hall = Hall::with(&["rooms.history=3"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=5 {
        ann.says(&format!("line {n}")).await;
    }
    let epoch = ann.joins("lobby").await.text("e").to_owned();
    let mut bob = hall.enter("bob").await;
    let joined = bob.joins_with("lobby", json!({"since": 4, "e": "older"})).await;
    assert_eq!((joined.s(), joined.number("n"), joined.text("e")), (5, 3, epoch.as_str()));
    assert_eq!((&joined.json["missing"], &joined.json["was"]), (&json!("all"), &json!("older")));
    for n in 3..=5 {
        bob.hears(format!("line {n}")).at(n).await;
    }
    // An offset that this life never reached is of another one too.
    let mut cid = hall.enter("cid").await;
    let joined = cid.joins_with("lobby", json!({"since": 6, "e": epoch})).await;
    assert_eq!((joined.json["missing"].as_str(), joined.number("n")), (Some("all"), 3));
}

#[tokio::test]
async fn one_hello_brings_back_all_rooms() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("kitchen", "ann").await, hall.join("garden", "bob").await);
    for n in 1..=3 {
        ann.says(&format!("kitchen {n}")).await;
        bob.says(&format!("garden {n}")).await;
    }
    let epoch = ann.joins("kitchen").await.text("e").to_owned();
    let mut cid = Guest::silent(hall.wire("/v1/ws").await, "cid");
    let rooms = json!({"kitchen": {"since": 2, "e": epoch}, "garden": {"last": 1}, "attic": null});
    cid.sends(json!({"t": "hello", "v": 1, "u": "cid", "rooms": rooms}).to_string()).await;
    assert_eq!(cid.hears_a("welcome").await.text("u"), "cid");
    for (room, s, n) in [("attic", 0, 0), ("garden", 3, 1), ("kitchen", 3, 1)] {
        let joined = cid.hears_a("joined").await;
        assert_eq!((joined.text("r"), joined.s(), joined.number("n")), (room, s, n), "{}", joined.raw);
    }
    cid.hears("kitchen 3").in_room("kitchen").at(3).await;
    cid.hears("garden 3").in_room("garden").at(3).await;
    bob.says("garden 4").await;
    cid.hears("garden 4").in_room("garden").at(4).await;
}

#[tokio::test]
async fn one_bad_room_does_not_spoil_a_hello() {
    let hall = Hall::open().await;
    let mut ann = Guest::silent(hall.wire("/v1/ws").await, "ann");
    let rooms =
        json!({"attic": {}, "all-*": {}, "@bob": {}, "cellar": {"since": 1, "last": 1}, "garden": {}});
    ann.sends(json!({"t": "hello", "u": "ann", "rooms": rooms}).to_string()).await;
    assert_eq!(ann.hears_a("welcome").await.text("u"), "ann");
    let mut refused = Vec::new();
    while refused.len() < 3 {
        refused.push(ann.hears_a("err").await.text("why").to_owned());
    }
    refused.sort();
    assert_eq!(refused, ["bad-json", "bad-room", "not-allowed"]);
    for room in ["attic", "garden"] {
        assert_eq!(ann.hears_a("joined").await.text("r"), room);
    }
    assert!(ann.hears_no_more().await.iter().all(|line| matches!(line.t(), "live" | "pres")));
}

#[tokio::test]
async fn an_inbox_and_a_direct_room_are_for_those_they_are_named_after() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.enter("ann").await, hall.enter("bob").await);
    let mut eve = hall.enter("eve").await;
    ann.joins("@ann").await;
    ann.joins("@ann+bob").await;
    bob.joins("@ann+bob").await;
    ann.says("between us").await;
    bob.hears("between us").from("ann").at(1).await;
    for room in ["@ann", "@ann+bob", "@bob"] {
        eve.asks(json!({"t": "join", "r": room})).await.is_err(403, "not-allowed");
        let spoken = eve.asks(json!({"t": "pub", "r": room, "d": "let me in"})).await;
        spoken.is_err(403, "not-allowed");
        eve.asks(json!({"t": "log", "r": room})).await.is_err(403, "not-joined");
        eve.asks(json!({"t": "who", "r": room})).await.is_err(403, "not-joined");
    }
    for room in ["@", "@ann+bob+eve", "@+ann"] {
        eve.asks(json!({"t": "join", "r": room})).await.is_err(400, "bad-room");
    }
    bob.hears_no_message().await;
}

#[tokio::test]
async fn who_left_hears_nothing_more_and_may_not_speak() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let ok = bob.asks(json!({"t": "leave", "r": "lobby"})).await;
    assert_eq!((ok.t(), ok.text("r")), ("ok", "lobby"));
    ann.says("is bob gone?").await;
    bob.hears_no_message().await;
    bob.asks(json!({"t": "leave", "r": "lobby"})).await.is_err(403, "not-joined");
    bob.asks(json!({"t": "pub", "r": "lobby", "d": "no"})).await.is_err(403, "not-joined");
    let joined = bob.joins_with("lobby", json!({"since": 0})).await;
    assert_eq!(joined.number("n"), 1);
    bob.hears("is bob gone?").at(1).await;
}

#[tokio::test]
async fn the_log_is_read_page_by_page_both_ways() {
    let hall = Hall::with(&["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=10 {
        ann.says(&format!("line {n}")).await;
    }
    for (ask, places, more) in [
        (json!({"before": 8, "n": 3}), vec![5, 6, 7], true),
        (json!({"before": 3}), vec![1, 2], false),
        (json!({"after": 7, "n": 2}), vec![8, 9], true),
        (json!({"after": 8, "n": 50}), vec![9, 10], false),
        (json!({"n": 1}), vec![10], true),
        (json!({"after": 10}), vec![], false),
    ] {
        let mut request = json!({"t": "log", "r": "lobby"});
        request.as_object_mut().unwrap().extend(ask.as_object().unwrap().clone());
        let page = ann.asks(request.clone()).await;
        assert_eq!((page.t(), page.json["more"].as_bool()), ("page", Some(more)), "{request}");
        let found: Vec<u64> =
            page.json["list"].as_array().unwrap().iter().map(|e| e["s"].as_u64().unwrap()).collect();
        assert_eq!(found, places, "{request}");
    }
}
