//! Promise: a link that is cut costs nobody a message and shows nobody one twice; what was sent again with
//! the same id is said once.

use std::cell::Cell;

use futures_util::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::stage::dice;
use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::stream::{Follower, Transcript};
use crate::stage::tokens::{SECRET, Token};

const CLIENTS: u64 = 20;
const CUTS: usize = 50;

#[tokio::test]
async fn a_thousand_cuts_in_mid_flight_lose_nothing_and_double_nothing() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::with(&[&secret, "limits.messages_per_second=0", "rooms.history=200000"]).await;
    let (transcript, stop, seed) = (Transcript::default(), Cell::new(false), dice().random::<u64>());
    let speakers = join_all((0..3).map(|n| speak(&hall, n, &stop)));
    let clients = async {
        let clients = (0..CLIENTS).map(|n| live_on_a_bad_link(&hall, &transcript, n, seed.wrapping_add(n)));
        let clients = join_all(clients).await;
        stop.set(true);
        clients
    };
    let (said, clients) = join(speakers, clients).await;
    let said: u64 = said.iter().sum();
    println!("{} cuts while {said} messages were said", CLIENTS as usize * CUTS);
    for mut client in clients {
        client.up_to(said).await;
    }
    let entries = transcript.entries();
    assert_eq!(entries.len() as u64, said);
    assert!(entries.iter().map(|line| line.s()).eq(1..=said));
}

async fn speak(hall: &Hall, n: u64, stop: &Cell<bool>) -> u64 {
    let name = format!("speaker-{n}");
    let mut speaker = hall.enter_with(&Token::of(&name).rooms(&["lobby"]).signed(), &name).await;
    let mut said = 0;
    while !stop.get() {
        speaker
            .sends(json!({"t": "pub", "r": "lobby", "d": format!("{name} says {said}")}).to_string())
            .await;
        speaker.hears_a("ack").await;
        said += 1;
    }
    said
}

/// Reads, is cut, comes back where it was, again and again. The follower checks that each entry stands right
/// behind the one before, over all cuts.
async fn live_on_a_bad_link(hall: &Hall, transcript: &Transcript, n: u64, seed: u64) -> Follower {
    let mut dice = StdRng::seed_from_u64(seed);
    let path = format!("/v1/ws?user=reader-{n}");
    let (mut reader, _) = Follower::join(hall.wire(&path).await, "lobby", transcript, r#","since":0"#).await;
    let epoch = reader.epoch.clone();
    for _ in 0..CUTS {
        for _ in 0..dice.random_range(0..100) {
            reader.entry().await;
        }
        let seen = reader.last;
        reader.wire.cut(dice.random());
        let more = format!(r#","since":{seen},"e":"{epoch}""#);
        if dice.random_ratio(1, 5) {
            // This one is cut before it has read anything.
            let mut wire = hall.wire(&path).await;
            wire.writer.text(&format!(r#"{{"t":"join","r":"lobby"{more}}}"#)).await;
            wire.cut(dice.random());
        }
        let (next, joined) = Follower::join(hall.wire(&path).await, "lobby", transcript, &more).await;
        assert!(!joined.has("missing"), "{}", joined.raw);
        assert_eq!(joined.s() - joined.number("n"), seen, "it goes on where it was: {}", joined.raw);
        assert_eq!(next.epoch, epoch);
        reader = next;
    }
    reader
}

#[tokio::test]
async fn what_is_sent_again_after_a_cut_has_its_place_already() {
    let hall = Hall::open().await;
    let mut witness = hall.join("lobby", "witness").await;
    for n in 1..=10 {
        let mut ann = hall.join("lobby", "ann").await;
        let publish = json!({"t": "pub", "r": "lobby", "d": n, "id": format!("k-{n}")});
        ann.sends(publish.to_string()).await;
        // It is said; the ack never reaches ann.
        let said = witness.hears(n).from("ann").at(n).await;
        ann.wire.cut(n % 2 == 0);
        let mut ann = hall.join("lobby", "ann").await;
        let ack = ann.asks(publish).await;
        assert_eq!((ack.s(), ack.json["dup"].as_bool()), (n, Some(true)), "{}", ack.raw);
        assert_eq!(ack.number("ts"), said.number("ts"));
        ann.goes().await;
    }
    witness.hears_no_message().await;
    assert_eq!(hall.figure("roomcast_messages_duplicate_total").await, 10.0);
}

#[tokio::test]
async fn writers_on_bad_links_say_everything_once() {
    let hall = Hall::with(&["limits.messages_per_second=0"]).await;
    let seed = dice().random::<u64>();
    let (transcript, writers, messages) = (Transcript::default(), 5, 40);
    let wire = hall.wire("/v1/ws?user=reader").await;
    let (mut reader, _) = Follower::join(wire, "lobby", &transcript, "").await;
    let writing = join_all((0..writers).map(|n| {
        let hall = &hall;
        async move {
            let mut dice = StdRng::seed_from_u64(seed.wrapping_add(n));
            for message in 0..messages {
                say_on_a_bad_link(hall, &format!("writer-{n}"), message, &mut dice).await;
            }
        }
    }));
    let reading = reader.up_to(writers * messages);
    join(writing, reading).await;
    let entries = transcript.entries();
    for n in 0..writers {
        let own = entries.iter().filter(|line| line.text("u") == format!("writer-{n}"));
        assert!(own.map(|line| line.number("d")).eq(0..messages), "each message once and in order");
    }
}

/// Says one message; the link is cut at some moment in the first attempts.
async fn say_on_a_bad_link(hall: &Hall, name: &str, message: u64, dice: &mut StdRng) {
    let publish = json!({"t": "pub", "r": "lobby", "d": message, "id": message.to_string()});
    while dice.random_bool(0.5) {
        let mut writer: Guest = hall.join("lobby", name).await;
        writer.sends(publish.to_string()).await;
        writer.wire.cut(dice.random());
    }
    let mut writer = hall.join("lobby", name).await;
    assert_eq!(writer.asks(publish).await.t(), "ack");
    writer.goes().await;
}
