//! Promise: a backend sees which rooms are in use, how each stands and who is there.

use serde_json::{Value, json};

use crate::stage::eventually;
use crate::stage::hall::Hall;

async fn told(hall: &Hall, path: &str) -> Value {
    let answer = hall.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// All rooms, a page of so many at a time.
async fn rooms(hall: &Hall, prefix: &str, n: usize) -> Vec<(String, u64)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = told(hall, &format!("/api/rooms?prefix={prefix}&n={n}{after}")).await;
        let list = page["list"].as_array().expect("a list");
        assert!(list.len() <= n, "{page}");
        all.extend(list.iter().map(|room| {
            (room["r"].as_str().expect("a name").to_owned(), room["sessions"].as_u64().expect("a number"))
        }));
        match page["more"] == true {
            true => after = format!("&after={}", all.last().expect("more follows something").0),
            false => return all,
        }
    }
}

#[tokio::test]
async fn rooms_and_people_are_told_to_a_backend() {
    let mut hall = Hall::stored(&[]).await;
    assert_eq!(rooms(&hall, "", 9).await, []);
    hall.get("/api/rooms/lobby").await.is_refusal(404, "no-room");
    let mut ann = hall.join("lobby", "ann").await;
    let desk = hall.join("lobby", "ann").await;
    let mut zoe = hall.enter("zoe").await;
    zoe.joins_with("lobby", json!({"quiet": true})).await;
    let others = [hall.join("team-1", "bob").await, hall.join("team-2", "bob").await];
    let state = told(&hall, "/api/rooms/lobby").await;
    let epoch = state["e"].as_str().expect("an epoch").to_owned();
    assert_eq!(state, json!({"r": "lobby", "e": epoch, "s": 0, "first": 1, "sessions": 3, "users": 1}));
    ann.says("hi").await;
    ann.says("anyone?").await;
    let state = told(&hall, "/api/rooms/lobby").await;
    assert_eq!(state, json!({"r": "lobby", "e": epoch, "s": 2, "first": 1, "sessions": 3, "users": 1}));
    let who = told(&hall, "/api/rooms/lobby/who").await;
    assert_eq!(who, json!({"r": "lobby", "list": [{"u": "ann"}], "more": false}), "zoe reads unseen");
    let all = [("lobby", 3), ("team-1", 1), ("team-2", 1)].map(|(name, n)| (name.to_owned(), n));
    for n in [1, 2, 3, 9] {
        assert_eq!(rooms(&hall, "", n).await, all);
    }
    assert_eq!(rooms(&hall, "team-", 1).await, all[1..]);
    for guest in others.into_iter().chain([desk]) {
        guest.goes().await;
    }
    let left = || async { (rooms(&hall, "", 9).await == [("lobby".to_owned(), 2)]).then_some(()) };
    eventually("only the lobby in use", left).await;

    hall.restarts().await;
    let state = told(&hall, "/api/rooms/lobby").await;
    assert_eq!(state, json!({"r": "lobby", "e": epoch, "s": 2, "first": 1, "sessions": 0, "users": 0}));
    assert_eq!(rooms(&hall, "", 9).await, [], "nobody is anywhere");
    let who = told(&hall, "/api/rooms/lobby/who").await;
    assert_eq!(who, json!({"r": "lobby", "list": [], "more": false}));
    hall.get("/api/rooms/hall").await.is_refusal(404, "no-room");
}

#[tokio::test]
async fn a_large_room_is_told_page_by_page() {
    let hall = Hall::open().await;
    let mut names: Vec<String> = (0..25).map(|n| format!("guest {n}")).collect();
    let mut guests = Vec::new();
    for name in &names {
        let mut guest = hall.enter_as(name).await;
        guest.joins("gr\u{f6}\u{df}e/1").await;
        guests.push(guest);
    }
    names.sort_unstable();
    let (mut heard, mut after) = (Vec::new(), String::new());
    loop {
        let page = told(&hall, &format!("/api/rooms/gr%C3%B6%C3%9Fe%2F1/who?n=10{after}")).await;
        let list = page["list"].as_array().expect("a list");
        heard.extend(list.iter().map(|shown| shown["u"].as_str().expect("a name").to_owned()));
        if page["more"] != true {
            break;
        }
        assert_eq!(list.len(), 10);
        after = format!("&after={}", heard.last().expect("ten").replace(' ', "%20"));
    }
    assert_eq!(heard, names);
}
