//! Promise: a user's devices agree on what she has read, and the list of her rooms says what is new, over
//! restarts as well.

use serde_json::{Value, json};

use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};

/// The user's rooms by name: head, mark, unread.
async fn rooms(guest: &mut Guest) -> Vec<(String, u64, u64, u64)> {
    let answer = guest.asks(json!({"t": "rooms"})).await;
    assert_eq!(answer.t(), "rooms", "{}", answer.raw);
    let list = answer.json["list"].as_array().unwrap_or_else(|| panic!("no list: {}", answer.raw));
    let number = |room: &Value, key: &str| room[key].as_u64().unwrap_or_else(|| panic!("no {key}: {room}"));
    let read = |room: &Value| {
        let name = room["r"].as_str().expect("a name").to_owned();
        (name, number(room, "s"), number(room, "read"), number(room, "unread"))
    };
    list.iter().map(read).collect()
}

async fn room(guest: &mut Guest, name: &str) -> Option<(u64, u64, u64)> {
    rooms(guest).await.into_iter().find(|room| room.0 == name).map(|(_, s, read, unread)| (s, read, unread))
}

async fn reads(guest: &mut Guest, room: &str, offset: u64) {
    guest.sends(json!({"t": "read", "r": room, "s": offset}).to_string()).await;
}

#[tokio::test]
async fn what_is_read_on_one_device_is_read_on_the_other() {
    let hall = Hall::stored(&[]).await;
    let (mut phone, mut desk) = (hall.join("lobby", "ann").await, hall.join("lobby", "ann").await);
    let mut bob = hall.join("lobby", "bob").await;
    for n in 1..=4 {
        bob.says(&format!("{n}")).await;
    }
    for device in [&mut phone, &mut desk] {
        assert_eq!(room(device, "lobby").await, Some((4, 0, 4)));
    }
    reads(&mut phone, "lobby", 3).await;
    for hearer in [&mut desk, &mut bob] {
        assert_eq!(hearer.hears_a("read").await.raw, r#"{"t":"read","r":"lobby","s":3,"u":"ann"}"#);
    }
    assert_eq!(room(&mut desk, "lobby").await, Some((4, 3, 1)));
    assert_eq!(
        room(&mut bob, "lobby").await.map(|(_, read, _)| read),
        Some(0),
        "it is ann's mark, not bob's"
    );
    reads(&mut desk, "lobby", 4).await;
    assert_eq!(phone.claims("the desk's mark", |line| line.t() == "read" && line.s() == 4).await.s(), 4);
    assert_eq!(room(&mut phone, "lobby").await, Some((4, 4, 0)));
}

#[tokio::test]
async fn a_mark_never_goes_back_and_never_beyond_what_there_is() {
    let hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=3 {
        ann.says(&format!("{n}")).await;
    }
    reads(&mut ann, "lobby", 2).await;
    reads(&mut ann, "lobby", 1).await;
    assert_eq!(room(&mut ann, "lobby").await, Some((3, 2, 1)));
    reads(&mut ann, "lobby", u64::MAX).await;
    assert_eq!(room(&mut ann, "lobby").await, Some((3, 3, 0)), "nobody has read what was not said");
    ann.says("4").await;
    assert_eq!(room(&mut ann, "lobby").await, Some((4, 3, 1)));
    let mut eve = hall.enter("eve").await;
    eve.asks(json!({"t": "read", "r": "lobby", "s": 1})).await.is_err(403, "not-joined");
    eve.asks(json!({"t": "read", "r": "lobby", "s": 0})).await.is_err(400, "bad-json");
}

#[tokio::test]
async fn marks_and_counts_outlive_a_restart() {
    let mut hall = Hall::stored(&[]).await;
    let mut bob = hall.join("lobby", "bob").await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.joins("kitchen").await;
    for n in 1..=5 {
        bob.says(&format!("{n}")).await;
    }
    ann.says("anybody cooking?").await;
    reads(&mut ann, "lobby", 2).await;
    reads(&mut ann, "kitchen", 1).await;
    let before = rooms(&mut ann).await;
    assert_eq!(before.len(), 2, "{before:?}");
    hall.restarts().await;
    let mut ann = hall.enter("ann").await;
    assert_eq!(room(&mut ann, "lobby").await, Some((5, 2, 3)), "without having joined anything");
    assert_eq!(room(&mut ann, "kitchen").await, Some((1, 1, 0)));
    let mut bob = hall.join("lobby", "bob").await;
    bob.says("6").await;
    assert_eq!(room(&mut ann, "lobby").await, Some((6, 2, 4)));
    ann.joins("lobby").await;
    reads(&mut ann, "lobby", 1).await;
    assert_eq!(room(&mut ann, "lobby").await, Some((6, 2, 4)), "not even now does it go back");
}

#[tokio::test]
async fn the_room_hears_how_many_have_got_what_was_said() {
    let hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let (mut bob, mut cid) = (hall.join("lobby", "bob").await, hall.join("lobby", "cid").await);
    ann.says("one").await;
    ann.says("two").await;
    for (n, reader) in [(1, &mut bob), (2, &mut cid)] {
        reader.sends(json!({"t": "got", "r": "lobby", "s": 2}).to_string()).await;
        let told = format!(r#"{{"t":"got","r":"lobby","s":2,"n":{n},"of":3}}"#);
        ann.claims(&told, |line| line.raw == told).await;
    }
    // What was got before is no news, and what was not said cannot be got.
    bob.sends(json!({"t": "got", "r": "lobby", "s": 1}).to_string()).await;
    bob.sends(json!({"t": "got", "r": "lobby", "s": u64::MAX}).to_string()).await;
    ann.says("three").await;
    bob.sends(json!({"t": "got", "r": "lobby", "s": 3}).to_string()).await;
    let next = ann.hears_a("got").await;
    assert_eq!(next.raw, r#"{"t":"got","r":"lobby","s":3,"n":1,"of":3}"#);
    let mut eve = hall.enter("eve").await;
    eve.asks(json!({"t": "got", "r": "lobby", "s": 1})).await.is_err(403, "not-joined");
}

#[tokio::test]
async fn the_list_has_only_rooms_that_one_may_read() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::stored(&[&secret]).await;
    let both = Token::of("ann").rooms(&["red", "blue"]).signed();
    let mut ann = hall.enter_with(&both, "ann").await;
    for name in ["red", "blue"] {
        ann.joins(name).await;
        ann.says("hi").await;
        reads(&mut ann, name, 1).await;
    }
    let mut names: Vec<String> = rooms(&mut ann).await.into_iter().map(|room| room.0).collect();
    names.sort();
    assert_eq!(names, ["blue", "red"]);
    ann.goes().await;
    let one = Token::of("ann").rooms(&["red"]).signed();
    let mut ann = hall.enter_with(&one, "ann").await;
    let names: Vec<String> = rooms(&mut ann).await.into_iter().map(|room| room.0).collect();
    assert_eq!(names, ["red"]);
}
