//! Promise: what was said can be edited, taken back and reacted to; whoever was there and whoever comes later
//! have the same room, byte for byte.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures_util::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::stage::dice;
use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::view::{View, Way, page, without_room};

/// The lines that come before `live` when somebody joins with everything.
async fn replay(guest: &mut Guest, room: &str) -> Vec<String> {
    let joined = guest.joins_with(room, json!({"since": 0})).await;
    assert!(!joined.has("missing"), "{}", joined.raw);
    let mut lines = Vec::new();
    let mut left = joined.number("n");
    while left > 0 {
        let line = guest.claims("the replay", |line| line.json["r"] == room && line.has("s")).await;
        left -= if line.t() == "skip" { line.number("n") } else { 1 };
        lines.push(line.raw);
    }
    lines
}

async fn change(guest: &mut Guest, change: Value) -> Line {
    let ack = guest.asks(change).await;
    assert_eq!(ack.t(), "ack", "{}", ack.raw);
    ack
}

#[tokio::test]
async fn an_edit_is_an_entry_and_who_comes_later_reads_the_new_words() {
    let hall = Hall::stored(&[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("helo").await;
    let said = bob.hears("helo").at(1).await;
    let ack = change(&mut ann, json!({"t": "edit", "r": "lobby", "of": 1, "d": {"text": "hello"}})).await;
    assert_eq!((ack.s(), ack.has("id"), ack.has("dup")), (2, false, false), "{}", ack.raw);
    let (edit, own) = (bob.hears_a("edit").await, ann.hears_a("edit").await);
    let ts = ack.number("ts");
    let expected =
        format!(r#"{{"t":"edit","r":"lobby","s":2,"u":"ann","ts":{ts},"d":{{"text":"hello"}},"of":1}}"#);
    assert_eq!((&edit.raw, &own.raw), (&expected, &expected));
    let amended = said.raw.replace(r#""d":"helo"}"#, r#""d":{"text":"hello"},"edited":2}"#);
    let mut late = hall.enter("late").await;
    assert_eq!(replay(&mut late, "lobby").await, [amended.clone(), expected.clone()]);
    let (list, more) = page(&mut late, json!({"t": "log", "r": "lobby"})).await;
    assert_eq!(list, [without_room(&amended, "lobby"), without_room(&expected, "lobby")]);
    assert!(!more);
}

#[tokio::test]
async fn a_second_edit_takes_the_place_of_the_first() {
    let hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("one").await;
    for words in ["two", "three"] {
        change(&mut ann, json!({"t": "edit", "r": "lobby", "of": 1, "d": words})).await;
    }
    let mut late = hall.enter("late").await;
    let lines = replay(&mut late, "lobby").await;
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].contains(r#""d":"three","edited":3}"#), "{lines:#?}");
    assert_eq!(lines[1], r#"{"t":"skip","r":"lobby","s":2,"n":1}"#);
    assert!(lines[2].contains(r#""s":3"#) && lines[2].ends_with(r#""d":"three","of":1}"#), "{lines:#?}");
    assert!(!lines.concat().contains("one") && !lines.concat().contains("two"), "old words are gone");
}

#[tokio::test]
async fn a_delete_leaves_who_and_when_and_no_words() {
    let mut hall = Hall::stored(&[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("a secrt").await;
    change(&mut ann, json!({"t": "edit", "r": "lobby", "of": 1, "d": "a secret"})).await;
    let ack = change(&mut ann, json!({"t": "del", "r": "lobby", "of": 1, "id": "d-1"})).await;
    assert_eq!((ack.s(), ack.text("id")), (3, "d-1"));
    let del = bob.hears_a("del").await;
    let ts = ack.number("ts");
    assert_eq!(del.raw, format!(r#"{{"t":"del","r":"lobby","s":3,"id":"d-1","u":"ann","ts":{ts},"of":1}}"#));
    let mut late = hall.enter("late").await;
    let lines = replay(&mut late, "lobby").await;
    assert!(
        lines[0].contains(r#""u":"ann""#) && lines[0].ends_with(r#""d":null,"gone":true}"#),
        "{lines:#?}"
    );
    assert_eq!(lines[1..], [r#"{"t":"skip","r":"lobby","s":2,"n":1}"#, &del.raw]);
    hall.restarts().await;
    let mut later = hall.enter("later").await;
    assert_eq!(replay(&mut later, "lobby").await, lines, "a restart changes nothing");
}

#[tokio::test]
async fn only_who_said_it_changes_it_and_everybody_who_may_write_reacts() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::stored(&[&secret]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("mine").await;
    hall.publish(&json!({"r": "lobby", "d": "of a backend"})).await;
    for of in [1, 2] {
        let edit = json!({"t": "edit", "r": "lobby", "of": of, "d": "his", "id": "e"});
        let refused = bob.asks(edit).await;
        refused.is_err(403, "not-allowed");
        assert_eq!((refused.text("r"), refused.text("id")), ("lobby", "e"));
        bob.asks(json!({"t": "del", "r": "lobby", "of": of})).await.is_err(403, "not-allowed");
    }
    assert_eq!(change(&mut bob, json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"})).await.s(), 3);
    let mut outside = hall.enter("eve").await;
    for ask in [
        json!({"t": "edit", "r": "lobby", "of": 1, "d": 1}),
        json!({"t": "del", "r": "lobby", "of": 1}),
        json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"}),
    ] {
        outside.asks(ask).await.is_err(403, "not-joined");
    }
    let reading = Token::of("ann").with("pub", false).signed();
    let mut reader = hall.enter_with(&reading, "ann").await;
    reader.joins("lobby").await;
    for ask in [
        json!({"t": "edit", "r": "lobby", "of": 1, "d": 1}),
        json!({"t": "del", "r": "lobby", "of": 1}),
        json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"}),
    ] {
        reader.asks(ask).await.is_err(403, "not-allowed");
    }
    let another_tab = &mut hall.join("lobby", "ann").await;
    assert_eq!(change(another_tab, json!({"t": "edit", "r": "lobby", "of": 1, "d": "ours"})).await.s(), 4);
}

#[tokio::test]
async fn what_cannot_be_changed_is_no_entry() {
    let hall = Hall::stored(&["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("one").await;
    change(&mut ann, json!({"t": "react", "r": "lobby", "of": 1, "k": "+1"})).await;
    change(&mut ann, json!({"t": "edit", "r": "lobby", "of": 1, "d": "two"})).await;
    for of in [2, 3, 4, 5_000, u64::MAX] {
        for ask in [
            json!({"t": "edit", "r": "lobby", "of": of, "d": 1}),
            json!({"t": "del", "r": "lobby", "of": of}),
            json!({"t": "react", "r": "lobby", "of": of, "k": "+1"}),
        ] {
            ann.asks(ask).await.is_err(404, "no-entry");
        }
    }
    change(&mut ann, json!({"t": "del", "r": "lobby", "of": 1})).await;
    for ask in [
        json!({"t": "edit", "r": "lobby", "of": 1, "d": 1}),
        json!({"t": "del", "r": "lobby", "of": 1}),
        json!({"t": "react", "r": "lobby", "of": 1, "k": "ok"}),
    ] {
        ann.asks(ask).await.is_err(404, "no-entry");
    }
    ann.asks(json!({"t": "edit", "r": "lobby", "of": 0, "d": 1})).await.is_err(400, "bad-json");
    ann.asks(json!({"t": "react", "r": "lobby", "of": 1, "k": "x".repeat(65)})).await.is_err(400, "bad-json");
    assert_eq!(ann.says("nothing of that took a place").await.s(), 5);
}

#[tokio::test]
async fn a_reaction_stands_once_per_user_and_mark() {
    let mut hall = Hall::stored(&[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("lunch?").await;
    let react = |k: &str| json!({"t": "react", "r": "lobby", "of": 1, "k": k});
    assert_eq!(change(&mut bob, react("+1")).await.s(), 2);
    assert_eq!(change(&mut bob, react("👍")).await.s(), 3, "another mark is another reaction");
    assert_eq!(change(&mut ann, react("+1")).await.s(), 4, "another user's is another reaction");
    let again = change(&mut bob, react("+1")).await;
    assert_eq!((again.s(), again.json["dup"].as_bool()), (2, Some(true)), "{}", again.raw);
    hall.restarts().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let again = change(&mut bob, react("+1")).await;
    assert_eq!((again.s(), again.json["dup"].as_bool()), (2, Some(true)), "{}", again.raw);
    let mut off = react("+1");
    off["off"] = json!(true);
    let gone = change(&mut bob, off).await;
    assert_eq!((gone.s(), gone.has("dup")), (5, false));
    let ts = gone.number("ts");
    assert_eq!(
        ann.hears_a("react").await.raw,
        format!(r#"{{"t":"react","r":"lobby","s":5,"u":"bob","ts":{ts},"of":1,"k":"+1","off":true}}"#)
    );
    assert_eq!(change(&mut bob, react("+1")).await.s(), 6, "what was taken back may be said anew");
    let mut never = react("never");
    never["off"] = json!(true);
    bob.asks(never).await.is_err(404, "no-entry");
    assert_eq!(ann.says("next").await.s(), 7);
}

#[tokio::test]
async fn a_change_that_is_sent_again_is_done_once() {
    let mut hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("one").await;
    let edit = json!({"t": "edit", "r": "lobby", "of": 1, "d": "two", "id": "e-1"});
    let react = json!({"t": "react", "r": "lobby", "of": 1, "k": "+1", "id": "r-1"});
    let del = json!({"t": "del", "r": "lobby", "of": 1, "id": "d-1"});
    let mut first = Vec::new();
    for ask in [&edit, &react, &del] {
        let ack = change(&mut ann, ask.clone()).await;
        assert!(!ack.has("dup"), "{}", ack.raw);
        first.push((ack.s(), ack.number("ts")));
    }
    assert_eq!(first.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [2, 3, 4]);
    for life in ["the same", "the next"] {
        // The message is gone by now; a repeat is a repeat all the same.
        for (ask, first) in [&edit, &react, &del].into_iter().zip(&first) {
            let again = change(&mut ann, ask.clone()).await;
            let found = (again.s(), again.number("ts"), again.json["dup"].as_bool());
            assert_eq!(found, (first.0, first.1, Some(true)), "in {life} life: {}", again.raw);
        }
        hall.restarts().await;
        ann = hall.join("lobby", "ann").await;
    }
    assert_eq!(ann.says("next").await.s(), 5);
}

#[tokio::test]
async fn a_reply_stays_a_reply_whatever_becomes_of_both() {
    let hall = Hall::stored(&[]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("lunch?").await;
    change(&mut bob, json!({"t": "pub", "r": "lobby", "d": "at noone", "re": 1})).await;
    change(&mut bob, json!({"t": "edit", "r": "lobby", "of": 2, "d": "at noon"})).await;
    change(&mut ann, json!({"t": "del", "r": "lobby", "of": 1})).await;
    let mut late = hall.enter("late").await;
    late.joins("lobby").await;
    let view = View::of_pages(&mut late, "lobby", 50, Way::Forwards).await;
    let (reply, gone) = (view.at(2), view.at(1));
    assert_eq!((&reply["re"], &reply["d"], &reply["edited"]), (&json!(1), &json!("at noon"), &json!(3)));
    assert_eq!((&gone["gone"], &gone["d"], &gone["u"]), (&json!(true), &Value::Null, &json!("ann")));
}

// ---- a thousand changes ----

const USERS: usize = 3;
const ACTS: usize = 500;

/// A message that somebody said: where, whose, and what it should be in the end; none once it is deleted.
#[derive(Debug, Clone)]
struct Said {
    place: u64,
    whose: usize,
    words: Option<String>,
}

#[tokio::test]
async fn a_thousand_changes_leave_one_room_for_everybody_with_a_store() {
    let settings = ["limits.messages_per_second=0", "rooms.history=40"];
    let mut hall = Hall::stored(&settings).await;
    let (witness, upto) = live_through_changes(&hall).await;
    hall.restarts().await;
    everybody_sees(&hall, &witness, upto).await;
}

#[tokio::test]
async fn a_thousand_changes_leave_one_room_for_everybody_without_a_store() {
    let hall = Hall::with(&["store.url=none", "limits.messages_per_second=0", "rooms.history=10000"]).await;
    let (witness, upto) = live_through_changes(&hall).await;
    everybody_sees(&hall, &witness, upto).await;
}

/// Everybody changes things at the same time, in front of a witness and of some who come in between.
async fn live_through_changes(hall: &Hall) -> (View, u64) {
    let (seed, said, changes) = (dice().random::<u64>(), RefCell::new(Vec::new()), Cell::new(0));
    let mut witness = hall.join("lobby", "witness").await;
    let acts = join_all((0..USERS).map(|n| act(hall, n, seed.wrapping_add(n as u64), &said, &changes)));
    let late = join_all((0..4).map(|n| {
        let said = &said;
        async move {
            let mut late = hall.enter(&format!("late-{n}")).await;
            crate::stage::eventually("a good part of it", || async {
                (said.borrow().len() > 60 * n).then_some(())
            })
            .await;
            late.joins_with("lobby", json!({"since": 0})).await;
            late
        }
    }));
    let (tops, late) = join(acts, late).await;
    let upto = tops.into_iter().max().expect("somebody acted");
    println!("{upto} places, {} of them changes", changes.get());
    assert!(changes.get() >= 800, "too few changes: {}", changes.get());
    let mut seen = View::default();
    seen.follows(&mut witness, "lobby", upto).await;
    for mut late in late {
        let mut view = View::default();
        view.follows(&mut late, "lobby", upto).await;
        view.is_the_same_as(&seen, &late.name);
    }
    for message in said.borrow().iter() {
        let line = seen.at(message.place);
        match &message.words {
            Some(words) => assert_eq!((&line["d"], line.get("gone")), (&json!(words), None), "{line}"),
            None => assert_eq!((&line["d"], &line["gone"]), (&Value::Null, &json!(true)), "{line}"),
        }
    }
    everybody_sees(hall, &seen, upto).await;
    (seen, upto)
}

/// Who joins with everything and who pages the log either way has the same room.
async fn everybody_sees(hall: &Hall, seen: &View, upto: u64) {
    let mut late = hall.enter("latest").await;
    late.joins_with("lobby", json!({"since": 0})).await;
    let mut view = View::default();
    view.follows(&mut late, "lobby", upto).await;
    view.is_the_same_as(seen, "who joins with since 0");
    for (way, n) in [(Way::Backwards, 7), (Way::Backwards, 500), (Way::Forwards, 11), (Way::Forwards, 500)] {
        View::of_pages(&mut late, "lobby", n, way).await.is_the_same_as(seen, &format!("{way:?} by {n}"));
    }
}

/// One user's random acts; the last place that came of them.
async fn act(hall: &Hall, n: usize, seed: u64, said: &RefCell<Vec<Said>>, changes: &Cell<u64>) -> u64 {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut user = hall.join("lobby", &format!("user-{n}")).await;
    let mut on: BTreeMap<(u64, &str), bool> = BTreeMap::new();
    let mut last = 0;
    for act in 0..ACTS {
        let own: Vec<usize> = {
            let said = said.borrow();
            let is_own = |message: &Said| message.whose == n && message.words.is_some();
            (0..said.len()).filter(|at| is_own(&said[*at])).collect()
        };
        let what = dice.random_range(0..100);
        let words = format!("word-{n}-{act} {}", "\"é\\\n,\"d\":".repeat(dice.random_range(0..3)));
        let own = (!own.is_empty()).then(|| own[dice.random_range(0..own.len())]);
        let any = said.borrow().len();
        let ack = match (what, own) {
            (30..60, Some(at)) => {
                let of = said.borrow()[at].place;
                said.borrow_mut()[at].words = Some(words.clone());
                change(&mut user, json!({"t": "edit", "r": "lobby", "of": of, "d": words})).await
            }
            (60..75, Some(at)) => {
                let of = said.borrow()[at].place;
                said.borrow_mut()[at].words = None;
                change(&mut user, json!({"t": "del", "r": "lobby", "of": of})).await
            }
            (75.., _) if any > 0 => {
                let of = said.borrow()[dice.random_range(0..any)].place;
                let mark = ["+1", "👍", "\"no\""][dice.random_range(0..3)];
                let stands = on.entry((of, mark)).or_insert(false);
                let ask = json!({"t": "react", "r": "lobby", "of": of, "k": mark, "off": *stands});
                let answer = user.asks(ask).await;
                if answer.t() == "err" {
                    // Its author was faster and has taken it back.
                    answer.is_err(404, "no-entry");
                    continue;
                }
                *stands = !*stands;
                answer
            }
            _ => {
                let ack = change(&mut user, json!({"t": "pub", "r": "lobby", "d": words})).await;
                said.borrow_mut().push(Said { place: ack.s(), whose: n, words: Some(words) });
                last = last.max(ack.s());
                continue;
            }
        };
        assert!(!ack.has("dup"), "{}", ack.raw);
        changes.set(changes.get() + 1);
        last = last.max(ack.s());
    }
    last
}
