//! Promise: a room has one order, and it is the same for everybody, byte for byte; an `ack` names the place
//! that everybody sees.

use std::collections::BTreeMap;

use futures_util::future::{join, join_all};
use rand::Rng;
use serde_json::json;

use crate::stage::dice;
use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::stream::{Follower, Transcript};
use crate::stage::tokens::{SECRET, Token};

const WRITERS: u64 = 8;
const READERS: u64 = 8;
const MESSAGES: u64 = 500;

#[tokio::test]
async fn eight_readers_of_eight_writers_see_one_sequence_and_the_acks_agree() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::with(&[&secret, "limits.messages_per_second=0"]).await;
    let transcript = Transcript::default();
    let readers = join_all((0..READERS).map(|n| {
        let (hall, transcript) = (&hall, &transcript);
        async move {
            let wire = hall.wire(&format!("/v1/ws?user=reader-{n}")).await;
            let (mut reader, _) = Follower::join(wire, "lobby", transcript, r#","since":0"#).await;
            // The transcript holds all readers to the same bytes at the same place.
            reader.up_to(WRITERS * MESSAGES).await;
        }
    }));
    let mut dice = dice();
    let sizes: Vec<u64> = (0..WRITERS).map(|_| dice.random_range(1..=20)).collect();
    let writers = join_all(sizes.iter().zip(0..).map(|(size, n)| write(&hall, n, *size)));
    let ((), acks) = join(async { drop(readers.await) }, writers).await;
    let seen: BTreeMap<(String, String), (u64, u64)> = transcript
        .entries()
        .iter()
        .map(|line| ((line.text("u").into(), line.text("id").into()), (line.s(), line.number("ts"))))
        .collect();
    let told: BTreeMap<(String, String), (u64, u64)> = acks.into_iter().flatten().collect();
    assert_eq!(told.len() as u64, WRITERS * MESSAGES);
    assert_eq!(seen, told, "what the acks say is what everybody sees");
    for n in 0..WRITERS {
        let places = (0..MESSAGES).map(|i| told[&(format!("writer-{n}"), i.to_string())].0);
        assert!(places.is_sorted(), "a writer's messages keep his order");
    }
}

type Acks = Vec<((String, String), (u64, u64))>;

/// Says all messages, several lines per frame, with the same ids as all other writers; the acks.
async fn write(hall: &Hall, n: u64, lines_per_frame: u64) -> Acks {
    let name = format!("writer-{n}");
    let mut writer = hall.enter_with(&Token::of(&name).rooms(&["lobby"]).signed(), &name).await;
    let mut acks = Vec::new();
    let mut next = 0;
    while next < MESSAGES {
        let end = MESSAGES.min(next + lines_per_frame);
        let lines =
            (next..end).map(|i| json!({"t": "pub", "r": "lobby", "id": i.to_string(), "d": i}).to_string());
        writer.sends(lines.collect::<Vec<_>>().join("\n")).await;
        for i in next..end {
            let ack = writer.hears_a("ack").await;
            assert_eq!(ack.text("id"), i.to_string(), "acks come in the order of the lines");
            assert!(!ack.has("dup"), "ids of different users do not collide: {}", ack.raw);
            acks.push(((name.clone(), i.to_string()), (ack.s(), ack.number("ts"))));
        }
        next = end;
    }
    acks
}

#[tokio::test]
async fn the_same_id_of_two_users_is_two_messages_and_of_one_user_is_one() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let mut tab = hall.join("lobby", "ann").await;
    let publish = json!({"t": "pub", "r": "lobby", "d": "once", "id": "1"});
    let first = ann.asks(publish.clone()).await;
    let other = bob.asks(publish.clone()).await;
    let again = tab.asks(publish.clone()).await;
    assert_eq!((first.s(), other.s(), again.s()), (1, 2, 1));
    assert_eq!((first.has("dup"), other.has("dup"), again.json["dup"].as_bool()), (false, false, Some(true)));
    assert_eq!(again.number("ts"), first.number("ts"), "the repeat tells of the message that was said");
    let elsewhere = bob.joins("kitchen").await;
    let mut in_kitchen = publish.clone();
    in_kitchen["r"] = json!("kitchen");
    let kitchen = bob.asks(in_kitchen).await;
    assert_eq!(
        (elsewhere.s(), kitchen.s(), kitchen.has("dup")),
        (0, 1, false),
        "ids are remembered per room"
    );
    ann.hears("once").from("ann").at(1).await;
    ann.hears("once").from("bob").at(2).await;
    ann.hears_no_message().await;
}

#[tokio::test]
async fn lines_of_one_frame_are_done_in_their_order() {
    let hall = Hall::open().await;
    let mut ann = Guest::silent(hall.wire("/v1/ws?user=ann").await, "ann");
    ann.sends(concat!(
        "{\"t\":\"join\",\"r\":\"lobby\",\"i\":1}\n",
        "{\"t\":\"pub\",\"r\":\"lobby\",\"d\":\"first\",\"i\":2}\r\n",
        "\n",
        "  {\"t\":\"pub\",\"r\":\"lobby\",\"d\":\"second\",\"i\":3}\n",
        "nonsense\n",
        "{\"t\":\"leave\",\"r\":\"lobby\",\"i\":4}\n",
        "{\"t\":\"pub\",\"r\":\"lobby\",\"d\":\"third\",\"i\":5}\n",
    ))
    .await;
    let mut answers = Vec::new();
    while answers.len() < 6 {
        let line = ann.claims("an answer", |line| matches!(line.t(), "joined" | "ack" | "err" | "ok")).await;
        answers.push((line.t().to_owned(), line.json["i"].as_u64(), line.json["s"].as_u64()));
    }
    let expected = [
        ("joined", Some(1), Some(0)),
        ("ack", Some(2), Some(1)),
        ("ack", Some(3), Some(2)),
        ("err", None, None),
        ("ok", Some(4), None),
        ("err", Some(5), None),
    ];
    assert_eq!(answers, expected.map(|(t, i, s)| (t.to_owned(), i, s)));
}

#[tokio::test]
async fn what_is_not_kept_takes_no_place() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("kept").await;
    let fleeting = json!({"t": "pub", "r": "lobby", "d": {"x": 1}, "id": "f", "keep": false});
    let ack = ann.asks(fleeting.clone()).await;
    assert_eq!((ack.t(), ack.has("s")), ("ack", false), "{}", ack.raw);
    bob.hears("kept").at(1).await;
    let heard = bob.hears(json!({"x": 1})).from("ann").with_id("f").await;
    assert!(!heard.has("s"), "{}", heard.raw);
    ann.says("kept too").await;
    bob.hears("kept too").at(2).await;
    let again = ann.asks(fleeting).await;
    assert_eq!((again.has("s"), again.json["dup"].as_bool()), (false, Some(true)), "{}", again.raw);
    bob.hears_no_message().await;
    let mut cid = hall.enter("cid").await;
    assert_eq!(
        cid.joins_with("lobby", json!({"since": 0})).await.number("n"),
        2,
        "and nobody is shown it later"
    );
}

#[tokio::test]
async fn data_is_passed_on_as_the_bytes_that_were_written() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    for data in [
        r#"{"b":1,  "a":[1.50,1e3,-0],"b":2}"#,
        r#""caf\u00e9 \ud83d\ude00 😀 \/""#,
        "null",
        "12345678901234567890123",
        r#""</script>\n""#,
    ] {
        ann.sends(format!(r#"{{"d":{data},"r":"lobby","t":"pub"}}"#)).await;
        let line = bob.hears_a("msg").await;
        assert!(line.raw.contains(&format!(r#","d":{data}}}"#)), "{data} became {}", line.raw);
    }
}

#[tokio::test]
async fn a_reply_and_a_push_stand_in_the_same_order() {
    let hall = Hall::open().await;
    let mut bob = hall.join("lobby", "bob").await;
    let pushed = hall.publish(&json!({"r": "lobby", "u": "shop", "d": {"paid": 17}, "id": "o-17"})).await;
    assert_eq!(
        (pushed.status, pushed.json()["s"].as_u64(), pushed.json()["dup"].as_bool()),
        (200, Some(1), Some(false))
    );
    bob.hears(json!({"paid": 17})).from("shop").at(1).with_id("o-17").await;
    let again =
        hall.publish(&json!({"r": "lobby", "u": "shop", "d": {"paid": 17}, "id": "o-17"})).await.json();
    assert_eq!((again["s"].as_u64(), again["dup"].as_bool()), (Some(1), Some(true)));
    bob.asks(json!({"t": "pub", "r": "lobby", "d": "thanks", "re": 1})).await;
    let thanks = bob.hears("thanks").at(2).await;
    assert_eq!(thanks.number("re"), 1);
    bob.hears_no_message().await;
}
