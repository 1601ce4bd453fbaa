//! The server API beyond a single message.

use super::*;

fn with(request: TestRequest, key: &str) -> TestRequest {
    request.insert_header((header::AUTHORIZATION, format!("Bearer {key}")))
}

fn post(path: &str, body: &str) -> TestRequest {
    with(TestRequest::post().uri(path).set_payload(body.to_owned()), KEY)
}

/// The lines of an answer.
async fn lines_of(answer: ServiceResponse<impl MessageBody>) -> Vec<Value> {
    let text = String::from_utf8(read_body(answer).await.to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[actix_web::test]
async fn an_operator_looks_at_rooms() {
    let (house, _, _, looks) = Scene::with_key().build_with_all();
    let get = |uri: &str| {
        TestRequest::get().uri(uri).insert_header((header::AUTHORIZATION, format!("Bearer {KEY}")))
    };
    let told = async |uri: &str| {
        let answer = ask(&house, FAR, get(uri)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{uri}");
        assert_eq!(header_of(&answer, header::CACHE_CONTROL), "no-store");
        json_of(answer).await
    };
    let list = json!({"list": [{"r": "lobby", "sessions": 4}], "more": true});
    assert_eq!(told("/api/rooms?prefix=team-&after=team-7&n=9").await, list);
    let state =
        json!({"r": "gr\u{f6}\u{df}e/1+%2f", "e": "10", "s": 129, "first": 1, "sessions": 4, "users": 3});
    assert_eq!(told("/api/rooms/gr%C3%B6%C3%9Fe%2F1%2B%252f").await, state);
    let who =
        json!({"r": "lobby", "list": [{"u": "ann"}, {"u": "zoe", "d": {"name": "Zoe"}}], "more": false});
    assert_eq!(told("/api/rooms/lobby/who?after=a").await, who);
    let (prefix, after) = ("team-".into(), Some("team-7".into()));
    let name = |text: &str| RoomName::new(text).unwrap();
    let asked = [
        Look::Rooms { prefix, only: None, after, n: 9 },
        Look::Room(name("gr\u{f6}\u{df}e/1+%2f")),
        Look::Who { room: name("lobby"), after: Some("a".into()), n: 100 },
    ];
    assert_eq!(*looks.lock().unwrap(), asked);
    for (uri, code, why) in [
        ("/api/rooms/none", 404, "no-room"),
        ("/api/rooms/a*", 400, "bad-room"),
        ("/api/rooms/lobby/who?n=0", 400, "bad-query"),
        ("/api/rooms/lobby/who?prefix=a", 400, "bad-query"),
        ("/api/rooms?key=a-key-of-the-shop", 400, "bad-query"),
        ("/api/rooms/lobby/other", 404, "not-found"),
    ] {
        is_refusal(&json_of(ask(&house, FAR, get(uri)).await).await, code, why);
    }
    for uri in ["/api/rooms", "/api/rooms/lobby", "/api/rooms/lobby/who"] {
        let stranger = ask(&house, LOCAL, TestRequest::get().uri(uri)).await;
        is_refusal(&json_of(stranger).await, 401, "bad-key");
        let wrong = ask(&house, LOCAL, TestRequest::post().uri(uri)).await;
        assert_eq!(header_of(&wrong, header::ALLOW), "GET, HEAD");
        is_refusal(&json_of(wrong).await, 405, "method");
    }
}

#[actix_web::test]
async fn a_batch_answers_line_by_line() {
    let (house, heard) = Scene::with_key().build();
    let long = format!(r#"{{"r":"a","d":"{}"}}"#, "x".repeat(1000));
    let body = [
        r#"{"r":"a","d":1,"id":"x-1"}"#,
        "{",
        r#"{"r":"b","d":2}"#,
        "",
        &long,
        r#"{"r":"a","d":3,"u":"shop"}"#,
    ];
    let answer = ask(&house, FAR, post("/api/batch", &(body.join("\n") + "\n"))).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header_of(&answer, header::CONTENT_TYPE), "application/x-ndjson");
    let lines = lines_of(answer).await;
    let said = |room: &str| json!({"r": room, "s": 129, "e": "10", "dup": false});
    assert_eq!([&lines[0], &lines[2], &lines[5]], [&said("a"), &said("b"), &said("a")]);
    for (at, code, why) in [(1, 400, "bad-json"), (3, 400, "bad-json"), (4, 413, "too-big")] {
        let line = &lines[at];
        assert_eq!((&line["line"], &line["code"], &line["why"]), (&json!(at + 1), &json!(code), &json!(why)));
        assert!(!line["msg"].as_str().unwrap().is_empty());
    }
    assert_eq!(lines.len(), 6);
    let heard = heard.lock().unwrap();
    let data: Vec<&[u8]> = heard.iter().map(|draft| draft.data.as_bytes()).collect();
    assert_eq!(data, [&b"1"[..], b"2", b"3"], "in the order of the lines");
}

#[actix_web::test]
async fn a_batch_has_its_bounds() {
    let (house, heard) = Scene::with_key().build();
    let line = r#"{"r":"a","d":1}"#;
    let many = vec![line; 1_001].join("\n");
    let (lines, bytes) = (format!("{}\n", vec!["{}"; 1_001].join("\n")), many);
    for body in [lines, bytes] {
        let answer = ask(&house, FAR, post("/api/batch", &body)).await;
        is_refusal(&json_of(answer).await, 413, "too-big");
    }
    assert!(heard.lock().unwrap().is_empty(), "nothing of it was said");
    is_refusal(&json_of(ask(&house, FAR, post("/api/batch", "")).await).await, 400, "bad-json");
    let stranger = TestRequest::post().uri("/api/batch").set_payload(line);
    is_refusal(&json_of(ask(&house, FAR, stranger).await).await, 401, "bad-key");
}

#[actix_web::test]
async fn what_the_chat_server_refuses_in_a_batch_names_its_line() {
    let refused = Err(Refused::Busy { wait_ms: 1_200 });
    let (house, _) = Scene { answer: refused, ..Scene::with_key() }.build();
    let answer = ask(&house, FAR, post("/api/batch", "{}\n{\"r\":\"a\",\"d\":1}")).await;
    let lines = lines_of(answer).await;
    assert_eq!((&lines[0]["line"], &lines[0]["why"]), (&json!(1), &json!("bad-json")));
    assert_eq!((&lines[1]["line"], &lines[1]["why"]), (&json!(2), &json!("busy")));
    assert_eq!((&lines[1]["code"], &lines[1]["wait"]), (&json!(503), &json!(1_200)));
    let answer = ask(&house, FAR, post("/api/broadcast", r#"{"rooms":["a","b"],"d":1}"#)).await;
    assert_eq!(answer.status(), StatusCode::OK, "each room has its own outcome");
    assert_eq!(json_of(answer).await["b"]["why"], "busy");
}

#[actix_web::test]
async fn a_broadcast_names_its_rooms() {
    let (house, heard) = Scene::with_key().build();
    let body = r#"{"rooms":["b","@bob+ann"],"d":"maintenance at 18:00","id":"m-1","u":"ops"}"#;
    let answer = ask(&house, FAR, post("/api/broadcast", body)).await;
    let place = json!({"s": 129, "e": "10", "dup": false});
    assert_eq!(json_of(answer).await, json!({"b": place, "@ann+bob": place}));
    let rooms: Vec<String> =
        heard.lock().unwrap().drain(..).map(|draft| draft.room.as_str().to_owned()).collect();
    assert_eq!(rooms, ["b", "@ann+bob"]);
    let many =
        format!(r#"{{"rooms":{},"d":1}}"#, json!((0..1_001).map(|n| n.to_string()).collect::<Vec<_>>()));
    let long = format!(r#"{{"rooms":["a"],"d":"{}"}}"#, "x".repeat(1_000));
    for (body, code, why) in [
        (r#"{"rooms":[],"d":1}"#, 400, "bad-json"),
        (r#"{"rooms":["a","a"],"d":1}"#, 400, "bad-json"),
        (r#"{"rooms":["a","b*"],"d":1}"#, 400, "bad-room"),
        (r#"{"rooms":["a"]}"#, 400, "bad-json"),
        (r#"{"rooms":"a","d":1}"#, 400, "bad-json"),
        (&many, 400, "bad-json"),
        (&long, 413, "too-big"),
    ] {
        is_refusal(&json_of(ask(&house, FAR, post("/api/broadcast", body)).await).await, code, why);
    }
    assert!(heard.lock().unwrap().is_empty(), "a call that is wrong says nothing anywhere");
}

#[actix_web::test]
async fn a_backend_reads_the_log_and_blanks_an_entry() {
    let (house, _, _, looks) = Scene::with_key().build_with_all();
    let get = |uri: &str| with(TestRequest::get().uri(uri), KEY);
    let delete = |uri: &str| with(TestRequest::delete().uri(uri), KEY);
    let page = json_of(ask(&house, FAR, get("/api/rooms/lobby/log?after=6&n=2")).await).await;
    let list = json!([{"t": "msg", "s": 7, "ts": 1, "d": "hi"}, {"t": "skip", "s": 8, "n": 1}]);
    assert_eq!(page, json!({"t": "page", "r": "lobby", "e": "10", "list": list, "more": true}));
    for uri in ["/api/rooms/lobby/log?before=6", "/api/rooms/lobby/log"] {
        assert_eq!(ask(&house, FAR, get(uri)).await.status(), StatusCode::OK);
    }
    let froms: Vec<(PageFrom, usize)> = looks
        .lock()
        .unwrap()
        .iter()
        .filter_map(|look| match look {
            Look::Log { from, n, .. } => Some((*from, *n)),
            _ => None,
        })
        .collect();
    let between = json_of(ask(&house, FAR, get("/api/rooms/lobby/log?after=6&before=8")).await).await;
    assert_eq!((&between["list"], &between["more"]), (&json!([list[0]]), &json!(false)));
    let newest = PageFrom::Before(u64::MAX);
    assert_eq!(froms, [(PageFrom::After(6), 2), (PageFrom::Before(6), 100), (newest, 100)]);
    for (uri, code, why) in [
        ("/api/rooms/lobby/log?before=-1", 400, "bad-query"),
        ("/api/rooms/lobby/log?after=x", 400, "bad-query"),
        ("/api/rooms/none/log", 404, "no-room"),
    ] {
        is_refusal(&json_of(ask(&house, FAR, get(uri)).await).await, code, why);
    }
    let erased = json_of(ask(&house, FAR, delete("/api/rooms/lobby/log/128?u=mod")).await).await;
    assert_eq!(erased, json!({"r": "lobby", "s": 130, "e": "10"}));
    for (uri, code, why) in [
        ("/api/rooms/lobby/log/7", 404, "no-entry"),
        ("/api/rooms/lobby/log/x", 400, "bad-query"),
        ("/api/rooms/lobby/log/128?u=", 400, "bad-json"),
    ] {
        is_refusal(&json_of(ask(&house, FAR, delete(uri)).await).await, code, why);
    }
    let wrong = ask(&house, FAR, get("/api/rooms/lobby/log/128")).await;
    assert_eq!(header_of(&wrong, header::ALLOW), "DELETE");
    is_refusal(&json_of(wrong).await, 405, "method");
}

#[actix_web::test]
async fn the_rules_of_a_room_are_set_and_shown() {
    let (house, _) = Scene::with_key().build();
    for (order, body, told) in [
        ("mute", r#"{"u":"bob"}"#, json!({"r": "a/b", "u": "bob", "until": null})),
        ("ban", r#"{"u":"eve","for":0}"#, json!({"r": "a/b", "u": "eve", "until": 0})),
        ("freeze", r#"{"for":0}"#, json!({"r": "a/b", "until": 0})),
        ("slow", r#"{"every":10}"#, json!({"r": "a/b", "every": 10})),
        ("role", r#"{"u":"ann","role":"moderator"}"#, json!({"r": "a/b", "u": "ann", "role": "moderator"})),
    ] {
        let answer = ask(&house, FAR, post(&format!("/api/rooms/a%2Fb/{order}"), body)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{order}");
        assert_eq!(json_of(answer).await, told);
    }
    let rules = with(TestRequest::get().uri("/api/rooms/a%2Fb/rules"), KEY);
    assert_eq!(
        json_of(ask(&house, FAR, rules).await).await,
        json!({"r": "a/b", "muted": [{"u": "bob", "until": null}], "banned": [], "frozen": null, "slow": 10,
            "roles": {"ann": "moderator"}})
    );
    for (uri, body, code, why) in [
        ("/api/rooms/a*/mute", r#"{"u":"bob"}"#, 400, "bad-room"),
        ("/api/rooms/lobby/mute", r#"{"u":""}"#, 400, "bad-json"),
        ("/api/rooms/lobby/freeze", "{}", 400, "bad-json"),
    ] {
        is_refusal(&json_of(ask(&house, FAR, post(uri, body)).await).await, code, why);
    }
}

#[actix_web::test]
async fn a_key_opens_what_its_scopes_and_rooms_say() {
    let key = |key: &str, scope: Scope, rooms: Option<&[&str]>| ApiKey {
        scopes: Some(vec![scope]),
        rooms: rooms.map(|rooms| rooms.iter().map(|room| (*room).to_owned()).collect()),
        ..ApiKey::new(key)
    };
    let api_keys = vec![
        key("writes", Scope::Publish, None),
        key("writes-teams", Scope::Publish, Some(&["team-*"])),
        key("reads", Scope::Read, None),
        key("reads-teams", Scope::Read, Some(&["team-*", "ops"])),
        key("rules-teams", Scope::Admin, Some(&["team-*"])),
    ];
    let (house, heard, orders, looks) = Scene { api_keys, ..Scene::default() }.build_with_all();
    let call = async |key: &str, method: &str, path: &str, body: &str| {
        let request = match method {
            "GET" => TestRequest::get(),
            "DELETE" => TestRequest::delete(),
            _ => TestRequest::post().set_payload(body.to_owned()),
        };
        ask(&house, FAR, with(request.uri(path), key)).await.status().as_u16()
    };
    let team = r#"{"r":"team-1","d":1}"#;
    let lobby = r#"{"r":"lobby","d":1}"#;
    for (key, method, path, body, code) in [
        ("writes", "POST", "/api/publish", lobby, 200),
        ("writes-teams", "POST", "/api/publish", team, 200),
        ("writes-teams", "POST", "/api/publish", lobby, 403),
        ("writes-teams", "POST", "/api/broadcast", r#"{"rooms":["team-1","lobby"],"d":1}"#, 403),
        ("writes", "GET", "/api/rooms/lobby", "", 403),
        ("writes", "POST", "/api/disconnect", r#"{"u":"bob"}"#, 403),
        ("reads", "POST", "/api/publish", lobby, 403),
        ("reads", "GET", "/api/rooms/lobby/log", "", 200),
        ("reads", "DELETE", "/api/rooms/lobby/log/128", "", 403),
        ("reads-teams", "GET", "/api/rooms/team-1/who", "", 200),
        ("reads-teams", "GET", "/api/rooms/lobby", "", 403),
        ("reads-teams", "GET", "/api/rooms", "", 200),
        ("rules-teams", "DELETE", "/api/rooms/team-1/log/128", "", 200),
        ("rules-teams", "DELETE", "/api/rooms/lobby/log/128", "", 403),
        ("rules-teams", "POST", "/api/join", r#"{"u":"bob","rooms":["team-1"]}"#, 200),
        ("rules-teams", "POST", "/api/leave", r#"{"u":"bob","rooms":["lobby"]}"#, 403),
        ("rules-teams", "POST", "/api/disconnect", r#"{"u":"bob"}"#, 403),
        ("rules-teams", "POST", "/api/rooms/team-1/mute", r#"{"u":"bob","for":600}"#, 200),
        ("rules-teams", "POST", "/api/rooms/lobby/ban", r#"{"u":"bob"}"#, 403),
        ("rules-teams", "GET", "/api/rooms/team-1/rules", "", 403),
        ("reads-teams", "GET", "/api/rooms/team-1/rules", "", 200),
        ("reads-teams", "GET", "/api/rooms/lobby/rules", "", 403),
        ("reads", "POST", "/api/rooms/lobby/slow", r#"{"every":10}"#, 403),
    ] {
        assert_eq!(call(key, method, path, body).await, code, "{key}: {method} {path} {body}");
    }
    assert_eq!(heard.lock().unwrap().len(), 2);
    let only = Some(vec![Pattern::new("team-*"), Pattern::new("ops")]);
    let listed = Look::Rooms { prefix: String::new(), only, after: None, n: 100 };
    assert!(looks.lock().unwrap().contains(&listed), "a list has the key's rooms only");
    let (user, room) = (UserName::new("bob").unwrap(), RoomName::new("team-1").unwrap());
    assert_eq!(*orders.lock().unwrap(), [Command::Join { user, room }]);
    let batch = format!("{team}\n{lobby}");
    let request = with(TestRequest::post().uri("/api/batch").set_payload(batch), "writes-teams");
    let lines = lines_of(ask(&house, FAR, request).await).await;
    assert_eq!((&lines[0]["s"], &lines[1]["code"], &lines[1]["line"]), (&json!(129), &json!(403), &json!(2)));
    let told = ask(&house, FAR, with(publish(&json!({"r": "lobby", "d": 1})), "reads")).await;
    let told = json_of(told).await;
    is_refusal(&told, 403, "not-allowed");
    assert!(told["msg"].as_str().unwrap().contains("\"publish\""), "{told}");
}

#[actix_web::test]
async fn what_became_of_an_entry_is_asked_with_what_the_log_has_of_it() {
    let (house, ..) = Scene::with_key().build_with_all();
    let call = async |path: &str| {
        let request = TestRequest::get().uri(&format!("/api/trace/{path}"));
        let request = request.insert_header((header::AUTHORIZATION, format!("Bearer {KEY}")));
        json_of(ask(&house, FAR, request).await).await
    };
    let told = call("lobby/128?n=7").await;
    assert_eq!(
        told,
        json!({"r": "lobby", "s": 128, "e": "10", "t": "edit", "id": "x", "u": "ann", "ts": 5, "of": 7, "stored": true,
            "origin": null, "counts": {"acked": 0, "got": 1, "sent": 0, "slow": 0, "gone": 0, "not joined": 0},
            "list": [{"session": "3v8k-0-7-0", "u": "bob", "state": "got"}], "more": false, "silent": []})
    );
    let eve = call("lobby/128?user=eve").await;
    assert_eq!(eve["list"], json!([{"u": "eve", "state": "not joined"}]));
    assert_eq!((&eve["counts"]["not joined"], &eve["counts"]["got"]), (&json!(1), &json!(0)));
    for (path, code, why) in [
        ("lobby/0", 404, "no-entry"),
        ("lobby/6", 404, "no-entry"),
        ("lobby/1000", 404, "no-entry"),
        ("none/128", 404, "no-room"),
        ("a*/128", 400, "bad-room"),
        ("lobby/x", 400, "bad-query"),
        ("lobby/128?session=s9f2a", 400, "bad-query"),
        ("lobby/128?user=", 400, "bad-query"),
    ] {
        is_refusal(&call(path).await, code, why);
    }
}

#[actix_web::test]
async fn a_connection_is_kept_whatever_is_asked_on_it() {
    let (house, _) = Scene::with_key().build();
    let (address, handle) = serve(house);
    let mut link = TcpStream::connect(address).await.unwrap();
    let body = r#"{"r":"lobby","d":1}"#;
    for (line, key, code) in [
        ("POST /api/batch", KEY, "200"),
        ("POST /api/rooms", KEY, "405"),
        ("POST /api/nothing", KEY, "404"),
        ("GET /api/rooms", KEY, "200"),
        ("GET /api/rooms/none", KEY, "404"),
        ("GET /api/rooms?n=0", KEY, "400"),
        ("DELETE /api/rooms/lobby/log/7", KEY, "404"),
        ("POST /api/broadcast", "wrong", "401"),
        ("POST /api/broadcast", KEY, "400"),
        ("PUT /api/publish", KEY, "405"),
        ("POST /api/publish", KEY, "200"),
    ] {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let (head, told) = exchange(&mut link, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{line}: {head}");
        assert!(!head.to_lowercase().contains("connection: close"), "{line}: {head}");
        let told: Value = serde_json::from_str(told.trim()).unwrap();
        if code != "200" {
            assert_eq!(told["code"].to_string(), code, "{line}: {told}");
        }
    }
    handle.stop(false).await;
}
