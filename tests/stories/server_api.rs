//! Promise: a backend says one thing or many, reads what was said, takes it back, and brings people into rooms; and a
//! call that is repeated after a crash does nothing twice.

use serde_json::{Value, json};

use crate::stage::hall::Hall;

/// A call that has to be carried out: its answer.
async fn told(hall: &Hall, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = hall.call(method, path, &body).await;
    assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
    answer.json()
}

/// A batch: its answers.
async fn batch(hall: &Hall, lines: &[Value]) -> Vec<Value> {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = hall.call("POST", "/api/batch", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Offsets and data of the messages in a log, as the API pages through it.
async fn log(hall: &Hall, room: &str, n: usize) -> Vec<(u64, Value)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page =
            told(hall, "GET", &format!("/api/rooms/{room}/log?after={after}&n={n}"), &Value::Null).await;
        let list = page["list"].as_array().expect("a list");
        assert!(list.len() <= n, "{page}");
        all.extend(list.iter().map(|entry| (entry["s"].as_u64().expect("an offset"), entry["d"].clone())));
        after = all.last().map_or(0, |(s, _)| *s);
        if page["more"] != true {
            return all;
        }
    }
}

#[tokio::test]
async fn a_call_that_is_repeated_after_a_crash_does_nothing_twice() {
    let mut hall = Hall::stored(&[]).await;
    let one = json!({"r": "lobby", "u": "shop", "d": "one", "id": "id-1"});
    let many = [
        json!({"r": "lobby", "u": "shop", "d": "two", "id": "id-2"}),
        json!({"r": "ops", "d": "alarm", "id": "id-1"}),
        json!({"r": "lobby", "d": "three", "id": "id-3"}),
    ];
    let all = json!({"rooms": ["ops", "lobby"], "d": "maintenance at 18:00", "id": "m-1"});
    let said = told(&hall, "POST", "/api/publish", &one).await;
    let epoch = said["e"].clone();
    assert_eq!(said, json!({"r": "lobby", "s": 1, "e": epoch, "dup": false}));
    let places: Vec<Value> = batch(&hall, &many).await.iter().map(|told| told["s"].clone()).collect();
    assert_eq!(places, [2, 1, 3]);
    let everywhere = told(&hall, "POST", "/api/broadcast", &all).await;
    assert_eq!((&everywhere["ops"]["s"], &everywhere["lobby"]["s"]), (&json!(2), &json!(4)));

    hall.crashes().await;
    let again = told(&hall, "POST", "/api/publish", &one).await;
    assert_eq!((&again["s"], &again["dup"]), (&json!(1), &json!(true)));
    for (told, place) in batch(&hall, &many).await.iter().zip(places) {
        assert_eq!((&told["s"], &told["dup"]), (&place, &json!(true)), "{told}");
    }
    let everywhere = told(&hall, "POST", "/api/broadcast", &all).await;
    for (room, place) in [("ops", 2), ("lobby", 4)] {
        assert_eq!((&everywhere[room]["s"], &everywhere[room]["dup"]), (&json!(place), &json!(true)));
    }
    let texts = ["one", "two", "three", "maintenance at 18:00"].map(Value::from);
    assert_eq!(log(&hall, "lobby", 3).await, (1..).zip(texts).collect::<Vec<_>>());
    assert_eq!(log(&hall, "ops", 9).await.len(), 2);
}

#[tokio::test]
async fn a_batch_keeps_the_order_of_each_room_and_a_bad_line_stops_no_other() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("a", "ann").await, hall.join("b", "bob").await);
    let mut lines: Vec<Value> =
        (0..200).map(|n| json!({"r": if n % 3 == 0 { "a" } else { "b" }, "d": n})).collect();
    lines.insert(100, json!({"r": "a*", "d": "nowhere"}));
    lines.insert(7, json!("no message"));
    let told = batch(&hall, &lines).await;
    assert_eq!(told.len(), lines.len());
    let refused: Vec<(u64, &str)> =
        told.iter().filter_map(|told| Some((told["line"].as_u64()?, told["why"].as_str()?))).collect();
    assert_eq!(refused, [(8, "bad-json"), (102, "bad-room")]);
    let mut next = [1, 1];
    for (line, told) in lines.iter().zip(&told).filter(|(_, told)| told.get("line").is_none()) {
        let (guest, next) =
            if line["r"] == "a" { (&mut ann, &mut next[0]) } else { (&mut bob, &mut next[1]) };
        assert_eq!(told["s"], json!(*next), "{told}");
        guest.hears(line["d"].clone()).at(*next).await;
        *next += 1;
    }
    ann.hears_no_message().await;
    bob.hears_no_message().await;
}

#[tokio::test]
async fn an_entry_is_blanked_by_the_backend_for_everybody_and_for_good() {
    let mut hall = Hall::stored(&["rooms.history=4"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=12 {
        ann.says(&format!("{n}")).await;
    }
    for (of, s) in [(12, 13), (2, 14)] {
        let erased = told(&hall, "DELETE", &format!("/api/rooms/lobby/log/{of}?u=mod"), &Value::Null).await;
        assert_eq!(erased["s"], json!(s), "what is hot, and what is in the store only");
        let del = ann.hears_a("del").await;
        assert_eq!((del.s(), del.number("of"), del.text("u")), (s, of, "mod"), "{}", del.raw);
    }
    for of in [2, 13, 99] {
        let answer = hall.call("DELETE", &format!("/api/rooms/lobby/log/{of}"), "").await;
        answer.is_refusal(404, "no-entry");
    }
    hall.call("DELETE", "/api/rooms/nowhere/log/1", "").await.is_refusal(404, "no-room");
    let unsigned = told(&hall, "DELETE", "/api/rooms/lobby/log/5", &Value::Null).await;
    assert_eq!(unsigned["s"], json!(15));
    assert!(!ann.hears_a("del").await.has("u"));
    hall.restarts().await;
    let said: Vec<(u64, Value)> =
        log(&hall, "lobby", 5).await.into_iter().filter(|(_, data)| !data.is_null()).collect();
    let left: Vec<(u64, Value)> =
        (1..=11).filter(|n| ![2, 5].contains(n)).map(|n| (n, json!(n.to_string()))).collect();
    assert_eq!(said, left);
    let newest = told(&hall, "GET", "/api/rooms/lobby/log?n=2", &Value::Null).await;
    let offsets: Vec<&Value> = newest["list"].as_array().expect("a list").iter().map(|at| &at["s"]).collect();
    assert_eq!((offsets, &newest["more"]), (vec![&json!(14), &json!(15)], &json!(true)));
}

#[tokio::test]
async fn a_backend_brings_people_into_rooms_and_out_again() {
    let rule = r#"rooms.rule=[{match="staff",join="token"}]"#;
    let hall = Hall::with(&[rule]).await;
    let (mut phone, mut desk) = (hall.enter("bob").await, hall.join("lobby", "bob").await);
    let mut ann = hall.join("lobby", "ann").await;
    let refused = ann.asks(json!({"t": "join", "r": "staff"})).await;
    refused.is_err(403, "not-allowed");
    let bob = json!({"u": "bob", "rooms": ["staff", "lobby"]});
    assert_eq!(told(&hall, "POST", "/api/join", &bob).await, json!({}));
    for (guest, rooms) in [(&mut phone, &["staff", "lobby"][..]), (&mut desk, &["staff"])] {
        for room in rooms {
            let joined = guest.hears_a("joined").await;
            assert_eq!(joined.text("r"), *room, "{}", joined.raw);
        }
    }
    told(&hall, "POST", "/api/publish", &json!({"r": "staff", "d": "welcome"})).await;
    for guest in [&mut phone, &mut desk] {
        guest.hears("welcome").in_room("staff").await;
    }
    assert_eq!(told(&hall, "GET", "/api/rooms/staff", &Value::Null).await["sessions"], json!(2));
    told(&hall, "POST", "/api/leave", &json!({"u": "bob", "rooms": ["staff"]})).await;
    for guest in [&mut phone, &mut desk] {
        guest.is_refused(403, "not-allowed").await;
    }
    assert_eq!(told(&hall, "GET", "/api/rooms/staff", &Value::Null).await["sessions"], json!(0));
    ann.hears_no_message().await;
    let stranger = json!({"u": "eve", "rooms": ["@ann+bob"]}).to_string();
    hall.call("POST", "/api/join", &stranger).await.is_refusal(403, "not-allowed");
}

#[tokio::test]
async fn a_key_opens_its_scopes_in_its_rooms_and_is_never_shown() {
    let keys = r#"auth.api_keys=["opens-all-0123456789",{key="team-page-0123456789",scopes=["publish","read"],rooms=["team-*"]}]"#;
    let hall = Hall::with_flags(&[keys], &["--log-level", "debug"]).await;
    let _guests = [hall.join("lobby", "ann").await, hall.join("team-1", "bob").await];
    let call = async |key: &str, method: &str, path: &str, body: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close", hall.address());
        let length = body.len();
        hall.request(&format!(
            "{head}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    };
    let (all, team) = ("opens-all-0123456789", "team-page-0123456789");
    let said = |room: &str| json!({"r": room, "d": "hi"}).to_string();
    assert_eq!(call(team, "POST", "/api/publish", &said("team-1")).await.status, 200);
    call(team, "POST", "/api/publish", &said("lobby")).await.is_refusal(403, "not-allowed");
    call(team, "DELETE", "/api/rooms/team-1/log/1", "").await.is_refusal(403, "not-allowed");
    call(team, "GET", "/api/rooms/lobby/log", "").await.is_refusal(403, "not-allowed");
    let list = |key| call(key, "GET", "/api/rooms", "");
    let rooms = |answer: Value| answer["list"].as_array().expect("a list").len();
    assert_eq!((rooms(list(all).await.json()), rooms(list(team).await.json())), (2, 1));
    assert_eq!(call(all, "DELETE", "/api/rooms/team-1/log/1", "").await.status, 200);
    let unknown = call("some-other-0123456789", "GET", "/api/rooms", "").await;
    unknown.is_refusal(401, "bad-key");
    assert_eq!(unknown.header("www-authenticate"), Some("Bearer"));
    let in_url = format!("/api/rooms?key={all}");
    call("", "GET", &in_url, "").await.is_refusal(401, "bad-key");
    let log = hall.log();
    for secret in [all, team, "some-other-0123456789"] {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
}
