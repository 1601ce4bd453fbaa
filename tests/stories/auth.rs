//! Promise: who somebody is, a token says; what is wrong with it is told before the door is closed; and who
//! has none comes in only where the demo is open to him.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::tokens::{self, RSA_PUBLIC, SECRET, Token};

const RSA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.pub.pem");
const P256_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pub.pem");

/// A hall that asks everybody for a token.
async fn strict_hall() -> Hall {
    Hall::with(&[&format!("auth.secret={SECRET}"), "demo.enabled=off"]).await
}

/// Comes with this token and is sent away, after being told why.
async fn is_sent_away(hall: &Hall, token: &str, why: &str) {
    let mut guest = Guest::silent(hall.wire(&format!("/v1/ws?token={token}")).await, "nobody");
    guest.is_refused(401, why).await;
    let bye = guest.is_closed_with(4001).await;
    assert_eq!(bye.text("why"), why);
}

#[tokio::test]
async fn a_token_of_each_kind_opens_the_door() {
    let hall = strict_hall().await;
    hall.enter_with(&Token::of("ann").signed(), "ann").await.joins("lobby").await;
    let hall = Hall::with(&[&format!("auth.public_key={RSA_FILE}"), "demo.enabled=off"]).await;
    hall.enter_with(&Token::of("bob").rs256(), "bob").await.joins("lobby").await;
    is_sent_away(&hall, &Token::of("bob").es256(), "bad-token").await;
    let hall = Hall::with(&[&format!("auth.public_key={P256_FILE}"), "demo.enabled=off"]).await;
    hall.enter_with(&Token::of("cid").es256(), "cid").await.joins("lobby").await;
    is_sent_away(&hall, &Token::of("cid").rs256(), "bad-token").await;
}

#[tokio::test]
async fn a_token_that_has_run_out_is_told_so() {
    let hall = strict_hall().await;
    is_sent_away(&hall, &Token::of("ann").ends_in(-1).signed(), "expired").await;
    is_sent_away(&hall, &Token::of("ann").ends_in(-100_000).signed(), "expired").await;
    hall.enter_with(&Token::of("ann").with("exp", json!(null)).signed(), "ann").await;
}

#[tokio::test]
async fn a_forged_or_damaged_token_is_refused() {
    let hall = strict_hall().await;
    let good = Token::of("ann").signed();
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let (header, _) = head.split_once('.').expect("three parts");
    let other_claims = Token::of("eve").signed();
    let claims = other_claims.split('.').nth(1).expect("three parts");
    for token in [
        "nonsense".to_owned(),
        "a.b.c".to_owned(),
        format!("{head}."),
        format!("{head}.{}", signature.chars().rev().collect::<String>()),
        format!("{header}.{claims}.{signature}"),
        Token::of("ann").hs256("another secret, just as long as the right one"),
        Token::of("ann").with("sub", json!(null)).signed(),
        Token::of("").signed(),
        Token::of("ann").with("nbf", tokens::now() + 3_600).signed(),
        Token::of("ann").with("rooms", "lobby").signed(),
    ] {
        is_sent_away(&hall, &token, "bad-token").await;
    }
}

#[tokio::test]
async fn the_token_does_not_choose_how_it_is_checked() {
    let hall = strict_hall().await;
    is_sent_away(&hall, &Token::of("ann").unsigned(), "bad-token").await;
    is_sent_away(&hall, &Token::of("ann").hs512(), "bad-token").await;
    is_sent_away(&hall, &Token::of("ann").rs256(), "bad-token").await;
    // Everybody knows the public key. It must not pass for a secret.
    let hall = Hall::with(&[&format!("auth.public_key={RSA_FILE}"), "demo.enabled=off"]).await;
    is_sent_away(&hall, &Token::of("ann").hs256(RSA_PUBLIC), "bad-token").await;
    is_sent_away(&hall, &Token::of("ann").hs256(RSA_PUBLIC.trim_end()), "bad-token").await;
    is_sent_away(&hall, &Token::of("ann").unsigned(), "bad-token").await;
    assert!(!hall.log().contains("eyJ"), "no token in the log");
}

#[tokio::test]
async fn a_token_comes_in_the_url_in_hello_or_in_a_header() {
    let hall = strict_hall().await;
    let token = Token::of("ann").signed();
    hall.enter_with(&token, "ann").await;
    let mut by_hello = Guest::silent(hall.wire("/v1/ws").await, "ann");
    let welcome = by_hello.asks(json!({"t": "hello", "v": 1, "token": token})).await;
    assert_eq!((welcome.t(), welcome.text("u"), welcome.number("v")), ("welcome", "ann", 1));
    assert_eq!((welcome.number("ping"), welcome.number("max")), (25_000, 65_536));
    let wire = hall.knock("/v1/ws", &[("Authorization", &format!("Bearer {token}"))]).await;
    Guest::welcomed(wire.expect("let in"), "ann").await;
    let mut by_bad_hello = Guest::silent(hall.wire("/v1/ws").await, "nobody");
    by_bad_hello.asks(json!({"t": "hello", "token": "nonsense"})).await.is_err(401, "bad-token");
    by_bad_hello.is_closed_with(4001).await;
}

#[tokio::test]
async fn who_speaks_before_hello_is_asked_who_he_is() {
    let hall = strict_hall().await;
    let mut nobody = Guest::silent(hall.wire("/v1/ws?user=ann").await, "nobody");
    for ask in [
        json!({"t": "join", "r": "lobby"}),
        json!({"t": "pub", "r": "lobby", "d": 1}),
        json!({"t": "who", "r": "lobby"}),
        json!({"t": "log", "r": "lobby"}),
        json!({"t": "typing", "r": "lobby"}),
    ] {
        nobody.asks(ask).await.is_err(401, "bad-token");
    }
    assert_eq!(nobody.asks(json!({"t": "ping"})).await.t(), "pong");
    let welcome = nobody.asks(json!({"t": "hello", "token": Token::of("ann").signed()})).await;
    assert_eq!(welcome.t(), "welcome");
    nobody.joins("lobby").await;
}

#[tokio::test]
async fn a_token_may_list_rooms_by_name_and_by_pattern() {
    let hall = strict_hall().await;
    let token = Token::of("ann").rooms(&["lobby", "team-*", "*-log"]);
    let mut ann = hall.enter_with(&token.signed(), "ann").await;
    for room in ["lobby", "team-red", "team-", "build-log"] {
        ann.joins(room).await;
    }
    for room in ["lobby2", "Team-red", "log", "other", "@bob"] {
        ann.asks(json!({"t": "join", "r": room})).await.is_err(403, "not-allowed");
        ann.asks(json!({"t": "pub", "r": room, "d": 1})).await.is_err(403, "not-allowed");
    }
    // A room that the token lists needs no joining to speak there.
    let mut bob = hall.enter_with(&Token::of("bob").signed(), "bob").await;
    bob.joins("team-blue").await;
    assert_eq!(ann.asks(json!({"t": "pub", "r": "team-blue", "d": "over the fence"})).await.t(), "ack");
    bob.hears("over the fence").from("ann").at(1).await;
    bob.asks(json!({"t": "pub", "r": "lobby", "d": 1})).await.is_err(403, "not-joined");
}

#[tokio::test]
async fn a_room_may_ask_for_a_token_that_lists_it() {
    let rule =
        "rooms.rule=[{match = \"staff-*\", join = \"token\"}, {match = \"stage\", publish = \"token\"}]";
    let hall = Hall::with(&[&format!("auth.secret={SECRET}"), rule]).await;
    let mut guest = hall.enter("guest").await;
    guest.asks(json!({"t": "join", "r": "staff-1"})).await.is_err(403, "not-allowed");
    guest.joins("stage").await;
    guest.asks(json!({"t": "pub", "r": "stage", "d": 1})).await.is_err(403, "not-allowed");
    let token = Token::of("ann").rooms(&["staff-*", "stage"]).signed();
    let mut ann = hall.enter_with(&token, "ann").await;
    ann.joins("staff-1").await;
    ann.joins("stage").await;
    ann.says("curtain up").await;
    guest.hears("curtain up").from("ann").at(1).await;
}

#[tokio::test]
async fn a_reading_token_reads_and_does_not_speak() {
    let hall = strict_hall().await;
    let mut ann = hall.enter_with(&Token::of("ann").signed(), "ann").await;
    let mut bob = hall.enter_with(&Token::of("bob").with("pub", false).signed(), "bob").await;
    ann.joins("lobby").await;
    bob.joins("lobby").await;
    ann.says("hello").await;
    bob.hears("hello").at(1).await;
    bob.asks(json!({"t": "pub", "r": "lobby", "d": "me too"})).await.is_err(403, "not-allowed");
    bob.asks(json!({"t": "typing", "r": "lobby"})).await.is_err(403, "not-allowed");
    ann.hears_no_message().await;
}

#[tokio::test]
async fn a_room_may_be_granted_beside_the_token() {
    let hall = strict_hall().await;
    let mut ann = hall.enter_with(&Token::of("ann").rooms(&["lobby"]).signed(), "ann").await;
    let join = |token: &Token| json!({"t": "join", "r": "vault", "token": token.signed()});
    ann.asks(json!({"t": "join", "r": "vault"})).await.is_err(403, "not-allowed");
    ann.asks(join(&Token::of("bob").rooms(&["vault"]))).await.is_err(403, "not-allowed");
    ann.asks(join(&Token::of("ann").rooms(&["cellar"]))).await.is_err(403, "not-allowed");
    ann.asks(join(&Token::of("ann").rooms(&["vault"]).ends_in(-5))).await.is_err(401, "expired");
    assert_eq!(ann.asks(join(&Token::of("ann").rooms(&["vault"]))).await.t(), "joined");
    assert_eq!(ann.asks(json!({"t": "pub", "r": "vault", "d": 1})).await.t(), "ack");
}

#[tokio::test]
async fn the_end_of_a_token_is_announced_and_then_ends_the_session() {
    let hall = strict_hall().await;
    let ends = tokens::now() + 3;
    let mut ann = hall.enter_with(&Token::of("ann").with("exp", ends).signed(), "ann").await;
    let notice = ann.hears_a("expiring").await;
    assert!(notice.number("in") <= 3, "{}", notice.raw);
    let bye = ann.is_closed_with(4001).await;
    assert_eq!(bye.text("why"), "expired");
    assert!(tokens::now() >= ends, "not before its time");
}

#[tokio::test]
async fn the_notice_comes_a_minute_before_the_end() {
    let hall = strict_hall().await;
    let ends = tokens::now() + 62;
    let mut ann = hall.enter_with(&Token::of("ann").with("exp", ends).signed(), "ann").await;
    let notice = ann.hears_a("expiring").await;
    let left = notice.number("in");
    assert!((50..=60).contains(&left), "{}", notice.raw);
    ann.joins("lobby").await;
}

#[tokio::test]
async fn a_new_token_carries_the_session_over_the_end_of_the_old_one() {
    let hall = strict_hall().await;
    let (first, second) = (tokens::now() + 2, tokens::now() + 5);
    let mut ann = hall.enter_with(&Token::of("ann").with("exp", first).signed(), "ann").await;
    ann.joins("lobby").await;
    let began = Instant::now();
    let ok = ann.asks(json!({"t": "auth", "token": Token::of("ann").with("exp", second).signed()})).await;
    assert_eq!(ok.t(), "ok");
    let bye = ann.is_closed_with(4001).await;
    assert_eq!(bye.text("why"), "expired");
    assert!(tokens::now() >= second && began.elapsed() > Duration::from_secs(2), "it lived on");
}

#[tokio::test]
async fn a_new_token_is_checked_like_the_first_and_the_session_stays_when_it_is_bad() {
    let hall = strict_hall().await;
    let mut ann = hall.enter_with(&Token::of("ann").signed(), "ann").await;
    ann.joins("lobby").await;
    let auth = |token: String| json!({"t": "auth", "token": token});
    ann.asks(auth("nonsense".into())).await.is_err(401, "bad-token");
    ann.asks(auth(Token::of("ann").ends_in(-9).signed())).await.is_err(401, "expired");
    ann.asks(auth(Token::of("bob").signed())).await.is_err(403, "not-allowed");
    assert_eq!(ann.says("still here").await.s(), 1);
    // A token for fewer rooms ends the stay in the others.
    ann.joins("attic").await;
    assert_eq!(ann.asks(auth(Token::of("ann").rooms(&["attic"]).signed())).await.t(), "ok");
    let told = ann.is_refused(403, "not-allowed").await;
    assert_eq!(told.text("r"), "lobby");
    ann.asks(json!({"t": "leave", "r": "lobby"})).await.is_err(403, "not-joined");
    assert_eq!(ann.says("up here").await.s(), 1);
}

#[tokio::test]
async fn a_guest_comes_in_where_the_demo_is_open_to_him() {
    let hall = Hall::open().await;
    let mut nameless = Guest::silent(hall.wire("/v1/ws").await, "nameless");
    nameless.sends(r#"{"t":"join","r":"lobby"}"#).await;
    assert!(nameless.hears_a("welcome").await.text("u").starts_with("guest-"));
    nameless.hears_a("joined").await;
    // Whoever came through a proxy is not at this machine.
    for header in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"] {
        let wire = hall.knock("/v1/ws?user=ann", &[(header, "203.0.113.9")]).await.expect("let in");
        let mut far = Guest::silent(wire, "far");
        far.asks(json!({"t": "join", "r": "lobby"})).await.is_err(401, "bad-token");
    }
    // Nor is a page whose name was pointed at this machine.
    let wire = hall.knock("/v1/ws?user=ann", &[("Host", "rebound.example:8080")]).await.expect("let in");
    Guest::silent(wire, "far").asks(json!({"t": "join", "r": "lobby"})).await.is_err(401, "bad-token");
    let open = Hall::with(&["demo.enabled=on"]).await;
    let wire = open.knock("/v1/ws?user=ann", &[("X-Forwarded-For", "203.0.113.9")]).await.expect("let in");
    Guest::welcomed(wire, "ann").await.joins("lobby").await;
}

#[tokio::test]
async fn a_guest_whose_name_is_none_is_told_so_and_sent_away() {
    let hall = Hall::open().await;
    for name in ["", "a%0Ab", &"x".repeat(129)] {
        let mut guest = Guest::silent(hall.wire(&format!("/v1/ws?user={name}")).await, name);
        guest.is_refused(400, "bad-name").await;
        guest.is_closed_with(4000).await;
    }
}

#[tokio::test]
async fn who_never_says_hello_is_closed() {
    let hall = Hall::with(&["demo.enabled=off", "limits.handshake=1s"]).await;
    let began = Instant::now();
    let mut silent = Guest::silent(hall.wire("/v1/ws").await, "silent");
    let bye = silent.is_closed_with(4001).await;
    assert_eq!(bye.text("why"), "no-hello");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_foreign_page_does_not_get_in() {
    let hall = Hall::with(&["server.origins=same, https://app.example, https://*.shop.example"]).await;
    let own = format!("http://{}", hall.address());
    for origin in [own.as_str(), "https://app.example", "https://a.shop.example"] {
        let wire = hall.knock("/v1/ws?user=ann", &[("Origin", origin)]).await;
        Guest::welcomed(wire.unwrap_or_else(|answer| panic!("{origin}: {answer:?}")), "ann").await;
    }
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil.example",
        "https://shop.example.evil.example",
        "http://127.0.0.1:1",
        "null",
        "file://",
    ] {
        let answer = hall.knock("/v1/ws?user=ann", &[("Origin", origin)]).await.expect_err(origin);
        answer.is_refusal(403, "foreign-origin");
    }
    assert_eq!(hall.figure("roomcast_upgrades_refused_total{reason=\"origin\"}").await, 7.0);
}

#[tokio::test]
async fn there_is_one_path_and_no_proxy() {
    let hall = Hall::open().await;
    for path in ["/", "/ws", "/v1/ws/", "/v2/ws", "/v1/../v1/ws"] {
        hall.knock(path, &[]).await.expect_err(path).is_refusal(404, "not-found");
    }
    let connect = "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n";
    let answer = hall.request(connect).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    answer.json();
}

#[tokio::test]
async fn what_is_no_proper_handshake_is_told_what_to_mend() {
    let hall = Hall::open().await;
    let head = "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n";
    for (method, headers, code) in [
        ("GET", format!("{key}Sec-WebSocket-Version: 12\r\n"), 426),
        ("GET", key.to_owned(), 426),
        ("GET", "Sec-WebSocket-Version: 13\r\n".to_owned(), 400),
        ("GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n".to_owned(), 400),
        ("POST", format!("{key}Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n"), 405),
    ] {
        let answer = hall.request(&format!("{method} /v1/ws HTTP/1.1\r\n{head}{headers}\r\n")).await;
        answer.is_refusal(code, if code == 405 { "method" } else { "handshake" });
    }
    let answer = hall.get("/v1/ws").await;
    answer.is_refusal(426, "handshake");
}
