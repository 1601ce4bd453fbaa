//! Promise: a room tells who is in it, each user once however many tabs are open, and who is typing; a large
//! room tells how many.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};

/// Above so many users only their number is told.
const NAMED_USERS: usize = 1_000;

/// Waits for the next news of who is here.
async fn hears_of(guest: &mut Guest, came: Value, went: Value, who: u64) {
    let line = guest.hears_a("pres").await;
    assert_eq!(
        (&line.json["in"], &line.json["out"], line.number("who")),
        (&came, &went, who),
        "{}",
        line.raw
    );
}

async fn who(guest: &mut Guest, room: &str) -> Value {
    guest.asks(json!({"t": "who", "r": room})).await.json["list"].clone()
}

#[tokio::test]
async fn a_newcomer_gets_the_whole_list_and_the_others_get_the_newcomer() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    hears_of(&mut ann, json!([{"u": "ann"}]), json!([]), 1).await;
    let mut bob = hall.join("lobby", "bob").await;
    hears_of(&mut ann, json!([{"u": "bob"}]), json!([]), 2).await;
    hears_of(&mut bob, json!([{"u": "ann"}, {"u": "bob"}]), json!([]), 2).await;
    bob.goes().await;
    hears_of(&mut ann, json!([]), json!(["bob"]), 1).await;
}

#[tokio::test]
async fn the_list_comes_behind_live() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("hello").await;
    let mut bob = hall.enter("bob").await;
    bob.sends(r#"{"t":"join","r":"lobby","last":1}"#).await;
    let mut order = Vec::new();
    while order.len() < 4 {
        order.push(bob.claims("anything", |_| true).await.t().to_owned());
    }
    assert_eq!(order, ["joined", "msg", "live", "pres"]);
}

#[tokio::test]
async fn a_user_is_here_once_however_many_tabs_are_open() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    let tabs = [hall.join("lobby", "bob").await, hall.join("lobby", "bob").await];
    hears_of(&mut ann, json!([{"u": "ann"}]), json!([]), 1).await;
    hears_of(&mut ann, json!([{"u": "bob"}]), json!([]), 2).await;
    assert_eq!(who(&mut ann, "lobby").await, json!([{"u": "ann", "n": 1}, {"u": "bob", "n": 2}]));
    let [first, second] = tabs;
    first.goes().await;
    hall.figure_becomes("roomcast_connections", |n| n == 2.0).await;
    assert_eq!(who(&mut ann, "lobby").await, json!([{"u": "ann", "n": 1}, {"u": "bob", "n": 1}]));
    assert!(ann.hears_no_more().await.iter().all(|line| line.t() != "pres"), "nobody went");
    second.wire.cut(true);
    hears_of(&mut ann, json!([]), json!(["bob"]), 1).await;
}

#[tokio::test]
async fn what_the_token_says_about_a_user_is_shown() {
    let hall = Hall::with(&[&format!("auth.secret={SECRET}")]).await;
    let mut ann = hall.join("lobby", "ann").await;
    hears_of(&mut ann, json!([{"u": "ann"}]), json!([]), 1).await;
    let info = json!({"name": "Zoë", "pic": 7});
    let mut zoe = hall.enter_with(&Token::of("zoe").with("info", info.clone()).signed(), "zoe").await;
    zoe.joins("lobby").await;
    hears_of(&mut ann, json!([{"u": "zoe", "d": info}]), json!([]), 2).await;
    assert_eq!(who(&mut ann, "lobby").await[1], json!({"u": "zoe", "n": 1, "d": info}));
}

#[tokio::test]
async fn a_quiet_reader_is_not_shown() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    hears_of(&mut ann, json!([{"u": "ann"}]), json!([]), 1).await;
    let mut bob = hall.enter("bob").await;
    let joined = bob.joins_with("lobby", json!({"quiet": true})).await;
    assert_eq!(joined.number("who"), 1);
    ann.says("alone?").await;
    bob.hears("alone?").at(1).await;
    assert_eq!(who(&mut ann, "lobby").await, json!([{"u": "ann", "n": 1}]));
    // He may step into the light, and out of it again.
    bob.joins("lobby").await;
    hears_of(&mut ann, json!([{"u": "bob"}]), json!([]), 2).await;
    bob.joins_with("lobby", json!({"quiet": true})).await;
    hears_of(&mut ann, json!([]), json!(["bob"]), 1).await;
    bob.goes().await;
    ann.says("alone!").await;
    assert!(ann.hears_no_more().await.iter().all(|line| line.t() != "pres"));
}

#[tokio::test]
async fn a_room_may_keep_to_itself_who_is_here() {
    let hall = Hall::with(&["rooms.rule=[{match = \"alerts\", presence = false}]"]).await;
    let mut ann = hall.join("alerts", "ann").await;
    let mut bob = hall.enter("bob").await;
    assert_eq!(bob.joins("alerts").await.number("who"), 0);
    bob.says("fire").await;
    ann.hears("fire").from("bob").at(1).await;
    assert!(
        ann.hears_no_more().await.iter().chain(&bob.hears_no_more().await).all(|line| line.t() != "pres")
    );
}

#[tokio::test]
async fn the_list_is_read_page_by_page() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    let mut others = Vec::new();
    for name in ["eve", "bob", "dan", "cid"] {
        others.push(hall.join("lobby", name).await);
    }
    let mut names = Vec::new();
    let mut pages = Vec::new();
    loop {
        let mut ask = json!({"t": "who", "r": "lobby", "n": 2});
        if let Some(last) = names.last() {
            ask["after"] = json!(last);
        }
        let page = ann.asks(ask).await;
        let list = page.json["list"].as_array().expect("a list");
        names.extend(list.iter().map(|user| user["u"].as_str().expect("a name").to_owned()));
        pages.push(list.len());
        if page.json["more"] != true {
            break;
        }
    }
    assert_eq!(names, ["ann", "bob", "cid", "dan", "eve"]);
    assert_eq!(pages, [2, 2, 1]);
}

// ---- typing ----

async fn hears_typing(guest: &mut Guest, user: &str, on: bool) -> Line {
    let line = guest.hears_a("typing").await;
    assert_eq!((line.text("u"), !line.has("off")), (user, on), "{}", line.raw);
    line
}

#[tokio::test]
async fn typing_shows_to_the_others_only_and_ends_by_itself_after_six_seconds() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let began = Instant::now();
    ann.sends(r#"{"t":"typing","r":"lobby"}"#).await;
    hears_typing(&mut bob, "ann", true).await;
    // Saying it again is no news, and a newcomer is told.
    ann.sends(r#"{"t":"typing","r":"lobby"}"#).await;
    assert!(ann.hears_no_more().await.iter().all(|line| line.t() != "typing"), "not to herself");
    assert!(bob.hears_no_more().await.iter().all(|line| line.t() != "typing"), "once");
    let mut cid = hall.join("lobby", "cid").await;
    hears_typing(&mut cid, "ann", true).await;
    hears_typing(&mut bob, "ann", false).await;
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_secs(6), "it ended after {lasted:?}");
    assert!(lasted < Duration::from_secs(9), "it ended only after {lasted:?}");
    hears_typing(&mut cid, "ann", false).await;
    assert_eq!(ann.asks(json!({"t": "join", "r": "lobby"})).await.s(), 0, "it has no place in the log");
}

#[tokio::test]
async fn typing_ends_with_the_message_with_leaving_with_a_cut_and_when_told_so() {
    let hall = Hall::open().await;
    let mut bob = hall.join("lobby", "bob").await;
    let typing = r#"{"t":"typing","r":"lobby"}"#;
    let mut ann = hall.join("lobby", "ann").await;

    ann.sends(typing).await;
    hears_typing(&mut bob, "ann", true).await;
    ann.says("done").await;
    let next = bob.claims("the next line", |line| line.t() != "pres").await;
    assert_eq!(
        (next.t(), next.has("off")),
        ("typing", true),
        "it ends before the message shows: {}",
        next.raw
    );
    bob.hears("done").at(1).await;

    ann.sends(typing).await;
    hears_typing(&mut bob, "ann", true).await;
    ann.sends(r#"{"t":"typing","r":"lobby","off":true}"#).await;
    hears_typing(&mut bob, "ann", false).await;

    ann.sends(typing).await;
    hears_typing(&mut bob, "ann", true).await;
    ann.asks(json!({"t": "leave", "r": "lobby"})).await;
    hears_typing(&mut bob, "ann", false).await;

    ann.joins("lobby").await;
    ann.sends(typing).await;
    hears_typing(&mut bob, "ann", true).await;
    ann.wire.cut(false);
    hears_typing(&mut bob, "ann", false).await;
}

#[tokio::test]
async fn who_is_not_in_the_room_does_not_type_in_it() {
    let hall = Hall::open().await;
    let mut bob = hall.join("lobby", "bob").await;
    let mut eve = hall.enter("eve").await;
    eve.sends(r#"{"t":"typing","r":"lobby"}"#).await;
    eve.is_refused(403, "not-joined").await;
    assert!(bob.hears_no_more().await.iter().all(|line| line.t() != "typing"));
}

// ---- large rooms ----

#[tokio::test]
async fn a_room_of_more_than_a_thousand_tells_only_how_many() {
    let hall = Hall::with(&["limits.connections_per_address=0"]).await;
    let mut ann = hall.join("stadium", "ann").await;
    let mut crowd = Vec::new();
    for n in 0..NAMED_USERS + 50 {
        let mut fan = hall.enter(&format!("fan-{n:04}")).await;
        fan.joins("stadium").await;
        crowd.push(fan);
    }
    let all = NAMED_USERS as u64 + 51;
    let mut bob = hall.enter("bob").await;
    assert_eq!(bob.joins("stadium").await.number("who"), all + 1);
    let list = bob.hears_a("pres").await;
    assert_eq!(
        (list.number("who"), list.has("in"), list.has("out")),
        (all + 1, false, false),
        "{}",
        list.raw
    );
    // Ann was there when the room was small. What she hears is a number from some moment on.
    let told = ann.claims("the number", |line| line.t() == "pres" && line.number("who") == all + 1).await;
    assert_eq!((told.has("in"), told.has("out")), (false, false), "{}", told.raw);
    bob.goes().await;
    ann.claims("one less", |line| line.t() == "pres" && line.number("who") == all && !line.has("out")).await;
    let (mut names, mut last) = (0, None::<String>);
    loop {
        let page =
            ann.asks(json!({"t": "who", "r": "stadium", "n": 500, "after": last.unwrap_or_default()})).await;
        let list = page.json["list"].as_array().expect("a list");
        names += list.len() as u64;
        last = list.last().map(|user| user["u"].as_str().expect("a name").to_owned());
        if page.json["more"] != true {
            break;
        }
    }
    assert_eq!(names, all);
}
