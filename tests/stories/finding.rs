//! Promise: the search finds what stands in a room now, the moment it is said, for whoever may read it.

use serde_json::json;

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::view::page;

/// The places where all of these words stand.
async fn find(guest: &mut Guest, room: &str, words: &str) -> Vec<u64> {
    let (list, more) = page(guest, json!({"t": "find", "r": room, "q": words})).await;
    assert!(!more, "{list:#?}");
    list.into_iter().map(|line| Line::of(line).s()).collect()
}

#[tokio::test]
async fn what_was_said_is_found_at_once() {
    let mut hall = Hall::stored(&["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=30 {
        let said = ann.says(&format!("invoice{n} of the shop")).await;
        assert_eq!(
            find(&mut ann, "lobby", &format!("invoice{n} shop")).await,
            [said.s()],
            "right after the ack"
        );
    }
    let ack =
        ann.asks(json!({"t": "pub", "r": "lobby", "d": {"a": ["Grüße", {"b": "aus Köln"}], "n": 5}})).await;
    for words in ["grüße köln", "GRUSSE", "koln aus", "Köl"] {
        let expected: &[u64] = if words == "GRUSSE" { &[] } else { &[31] };
        assert_eq!(find(&mut ann, "lobby", words).await, expected, "{words} in {}", ack.raw);
    }
    assert_eq!(
        find(&mut ann, "lobby", "aus invoice1").await,
        Vec::<u64>::new(),
        "all words have to be there"
    );
    hall.publish(&json!({"r": "lobby", "d": "parcel"})).await;
    assert_eq!(find(&mut ann, "lobby", "parcel").await, [32]);
    hall.crashes().await;
    let mut ann = hall.join("lobby", "ann").await;
    assert_eq!(find(&mut ann, "lobby", "invoice7 shop").await, [7], "the search outlives a crash");
    assert_eq!(find(&mut ann, "lobby", "parcel").await, [32]);
}

#[tokio::test]
async fn what_was_edited_away_or_deleted_is_not_found() {
    let mut hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("apple").await;
    ann.says("banana").await;
    for (words, others) in [("cherry", "apple"), ("damson", "cherry")] {
        ann.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": words})).await;
        assert_eq!(find(&mut ann, "lobby", words).await, [1], "the message, not the edit");
        assert_eq!(find(&mut ann, "lobby", others).await, Vec::<u64>::new());
    }
    let (list, _) = page(&mut ann, json!({"t": "find", "r": "lobby", "q": "damson"})).await;
    assert!(list[0].ends_with(r#""d":"damson","edited":4}"#), "{list:?}");
    ann.asks(json!({"t": "del", "r": "lobby", "of": 2})).await;
    assert_eq!(find(&mut ann, "lobby", "banana").await, Vec::<u64>::new());
    ann.asks(json!({"t": "del", "r": "lobby", "of": 1})).await;
    hall.restarts().await;
    let mut ann = hall.join("lobby", "ann").await;
    for words in ["apple", "banana", "cherry", "damson"] {
        assert_eq!(find(&mut ann, "lobby", words).await, Vec::<u64>::new(), "{words}");
    }
}

#[tokio::test]
async fn one_finds_in_the_rooms_that_one_may_read_and_in_no_other() {
    let secret = format!("auth.secret={SECRET}");
    let rules = "rooms.rule=[{match = \"staff\", join = \"token\"}]";
    let hall = Hall::stored(&[&secret, rules]).await;
    let mut bob = hall.enter_with(&Token::of("bob").rooms(&["staff", "lobby"]).signed(), "bob").await;
    bob.joins("staff").await;
    bob.says("treasure").await;
    bob.joins("lobby").await;
    bob.says("nothing here").await;
    assert_eq!(find(&mut bob, "staff", "treasure").await, [1]);
    assert_eq!(find(&mut bob, "lobby", "treasure").await, Vec::<u64>::new(), "rooms do not mix");
    let mut ann = hall.enter("ann").await;
    ann.asks(json!({"t": "find", "r": "staff", "q": "treasure"})).await.is_err(403, "not-joined");
    ann.asks(json!({"t": "find", "r": "lobby", "q": "nothing"})).await.is_err(403, "not-joined");
    ann.joins("lobby").await;
    assert_eq!(find(&mut ann, "lobby", "nothing").await, [1]);
}

#[tokio::test]
async fn odd_characters_are_harmless() {
    let hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("rock and roll, NEAR the or-chestra").await;
    for words in [
        "\"",
        "\"\"\"",
        "*",
        "a*b\"",
        "(",
        "rock OR (",
        "NEAR(rock roll, 5)",
        "^rock",
        "-rock",
        "text:rock",
        "'",
        "'; DROP TABLE words; --",
        "%",
        "_",
        "\\",
        "\u{0}",
        "rock\u{0}roll",
        "🎸",
        "\u{200d}",
        "{rock}",
        "+",
        "<b>",
    ] {
        let (list, _) = page(&mut ann, json!({"t": "find", "r": "lobby", "q": words})).await;
        assert!(list.len() <= 1, "{words:?}: {list:?}");
    }
    assert_eq!(
        find(&mut ann, "lobby", "\"rock\" (roll)").await,
        [1],
        "what is no letter only separates words"
    );
    assert_eq!(find(&mut ann, "lobby", "near").await, [1], "no word is a command");
    for (ask, why) in
        [(json!("  "), "bad-json"), (json!("x".repeat(513)), "bad-json"), (json!(7), "bad-json")]
    {
        ann.asks(json!({"t": "find", "r": "lobby", "q": ask})).await.is_err(400, why);
    }
}

#[tokio::test]
async fn what_is_found_comes_in_pages_newest_first() {
    let hall = Hall::stored(&["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=40 {
        ann.says(if n % 2 == 0 { "even" } else { "odd" }).await;
    }
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let mut ask = json!({"t": "find", "r": "lobby", "q": "even", "n": 6});
        if let Some(before) = before {
            ask["before"] = json!(before);
        }
        let (list, more) = page(&mut ann, ask).await;
        let places: Vec<u64> = list.into_iter().map(|line| Line::of(line).s()).collect();
        assert!(places.is_sorted() && places.len() <= 6 && !places.is_empty(), "{places:?}");
        before = places.first().copied();
        found.splice(0..0, places);
        if !more {
            break;
        }
    }
    assert_eq!(found, (1..=20).map(|n| 2 * n).collect::<Vec<u64>>());
}

#[tokio::test]
async fn without_a_store_nobody_is_promised_a_search() {
    let hall = Hall::with(&["store.url=none"]).await;
    let mut ann = Guest::silent(hall.wire("/v1/ws?user=ann").await, "ann");
    let welcome = ann.hears_a("welcome").await;
    let can: Vec<&str> =
        welcome.json["can"].as_array().expect("a list").iter().filter_map(|word| word.as_str()).collect();
    for word in ["edit", "react", "read", "got", "log"] {
        assert!(can.contains(&word), "{}", welcome.raw);
    }
    for word in ["find", "rooms", "session"] {
        assert!(!can.contains(&word), "{}", welcome.raw);
    }
    ann.joins("lobby").await;
    for ask in [json!({"t": "find", "r": "lobby", "q": "x"}), json!({"t": "rooms"})] {
        ann.asks(ask).await.is_err(400, "unknown-type");
    }
}
