//! Promise: whatever somebody sends, he is told what is wrong with it, and it is nobody else's concern.

use rand::Rng;
use serde_json::json;

use crate::stage::dice;
use crate::stage::guest::Guest;
use crate::stage::hall::Hall;
use crate::stage::wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Seen, TEXT, client_frame};

#[tokio::test]
async fn every_malformed_line_gets_its_error_and_the_connection_stays() {
    let hall = Hall::with(&["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let deep = format!(r#"{{"t":"pub","r":"lobby","d":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let long = format!(r#"{{"t":"join","r":"{}"}}"#, "x".repeat(129));
    let long_id = format!(r#"{{"t":"pub","r":"lobby","d":1,"id":"{}"}}"#, "x".repeat(65));
    for (line, code, why) in [
        ("", 400, "bad-json"),
        ("\n\n", 400, "bad-json"),
        ("hello", 400, "bad-json"),
        ("null", 400, "bad-json"),
        ("[]", 400, "bad-json"),
        ("{}", 400, "bad-json"),
        ("{\"t\":\"ping\"", 400, "bad-json"),
        ("{\"t\":\"ping\"}}", 400, "bad-json"),
        ("{\"t\":\"ping\"} {\"t\":\"ping\"}", 400, "bad-json"),
        (r#"{"t":5}"#, 400, "bad-json"),
        (r#"{"t":null}"#, 400, "bad-json"),
        (r#"{"t":""}"#, 400, "unknown-type"),
        (r#"{"t":"dance"}"#, 400, "unknown-type"),
        (r#"{"t":"JOIN","r":"lobby"}"#, 400, "unknown-type"),
        (r#"{"t":"join"}"#, 400, "bad-room"),
        (r#"{"t":"join","r":""}"#, 400, "bad-room"),
        (r#"{"t":"join","r":"a\u0000b"}"#, 400, "bad-room"),
        (r#"{"t":"join","r":"a\nb"}"#, 400, "bad-room"),
        (r#"{"t":"join","r":"all-*"}"#, 400, "bad-room"),
        (r#"{"t":"join","r":"@"}"#, 400, "bad-room"),
        (&long, 400, "bad-room"),
        (r#"{"t":"join","r":5}"#, 400, "bad-json"),
        (r#"{"t":"join","r":"lobby","since":-1}"#, 400, "bad-json"),
        (r#"{"t":"join","r":"lobby","since":1.5}"#, 400, "bad-json"),
        (r#"{"t":"join","r":"lobby","since":1,"last":2}"#, 400, "bad-json"),
        (r#"{"t":"join","r":"lobby","last":99999999999999999999}"#, 400, "bad-json"),
        (r#"{"t":"join","r":"\ud800"}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby"}"#, 400, "bad-json"),
        (r#"{"t":"pub","d":1}"#, 400, "bad-room"),
        (r#"{"t":"pub","r":"lobby","d":}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"d":2}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":01}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":NaN}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"id":""}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"id":7}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"id":"a\u001fb"}"#, 400, "bad-json"),
        (&long_id, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"re":0}"#, 400, "bad-json"),
        (r#"{"t":"pub","r":"lobby","d":1,"keep":"no"}"#, 400, "bad-json"),
        (&deep, 400, "bad-json"),
        (r#"{"t":"pub","r":"attic","d":1}"#, 403, "not-joined"),
        (r#"{"t":"leave","r":"attic"}"#, 403, "not-joined"),
        (r#"{"t":"who","r":"attic"}"#, 403, "not-joined"),
        (r#"{"t":"log","r":"attic"}"#, 403, "not-joined"),
        (r#"{"t":"log","r":"lobby","before":1,"after":1}"#, 400, "bad-json"),
        (r#"{"t":"log","r":"lobby","after":"x"}"#, 400, "bad-json"),
        (r#"{"t":"who","r":"lobby","after":5}"#, 400, "bad-json"),
        (r#"{"t":"auth"}"#, 400, "bad-json"),
        (r#"{"t":"auth","token":"x"}"#, 401, "bad-token"),
        (r#"{"t":"hello","v":2}"#, 400, "too-old-version"),
        (r#"{"t":"hello","rooms":[]}"#, 400, "bad-json"),
    ] {
        ann.sends(line).await;
        let answer = ann.hears_a("err").await;
        assert_eq!(
            (answer.number("code"), answer.text("why")),
            (code, why),
            "{line} is answered by {}",
            answer.raw
        );
    }
    assert_eq!(ann.says("still here").await.s(), 1);
    assert!(ann.hears_no_more().await.iter().all(|line| line.t() == "pres"), "one error for each, no more");
}

#[tokio::test]
async fn an_error_names_the_request_it_is_about() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    for line in [
        r#"{"i":7,"t":"dance"}"#,
        r#"{"i":7,"t":"join","r":5}"#,
        r#"{"t":"pub","r":"lobby","i":7}"#,
        r#"{"t":"pub","r":"lobby","d":1,"id":"","i":7}"#,
    ] {
        ann.sends(line).await;
        assert_eq!(ann.hears_a("err").await.number("i"), 7, "{line}");
    }
    ann.sends(r#"{"t":"pub","r":"attic","d":1,"id":"k-1"}"#).await;
    let answer = ann.is_refused(403, "not-joined").await;
    assert_eq!((answer.text("r"), answer.text("id")), ("attic", "k-1"));
}

#[tokio::test]
async fn keys_that_nobody_knows_and_odd_spellings_are_fine() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.sends(
        "\t{ \"x\" : {\"y\":[1]} , \"t\":\"p\\u0075b\", \"r\":\"lobb\\u0079\", \"d\":true, \"e\":null } \r\n",
    )
    .await;
    assert_eq!(ann.hears_a("ack").await.s(), 1);
    ann.hears(true).from("ann").at(1).await;
    // A name is one name however it is written: é in one code point or in two.
    ann.joins("caf\u{e9}").await;
    ann.asks(json!({"t": "join", "r": "cafe\u{301}"})).await.is_err(400, "bad-room");
}

#[tokio::test]
async fn a_binary_message_is_refused_and_the_connection_stays() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.wire.writer.frame(FIN | BINARY, br#"{"t":"ping"}"#).await;
    ann.is_refused(400, "bad-json").await;
    assert_eq!(ann.says("in text then").await.s(), 1);
}

#[tokio::test]
async fn text_that_is_not_utf_8_ends_the_session_with_1007() {
    let hall = Hall::open().await;
    let bad: [&[u8]; 6] =
        [b"\xff", b"ok \xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"{\"t\":\"\xe9\"}"];
    for bytes in bad {
        let mut ann = hall.join("lobby", "ann").await;
        ann.wire.writer.frame(FIN | TEXT, bytes).await;
        ann.is_closed_with(1007).await;
    }
    // Over two fragments it is found as well, at the latest with the last.
    let mut ann = hall.join("lobby", "ann").await;
    ann.wire.writer.frame(TEXT, b"caf\xc3").await;
    ann.wire.writer.frame(FIN | CONTINUATION, b"(").await;
    ann.is_closed_with(1007).await;
}

#[tokio::test]
async fn a_frame_against_the_rules_ends_the_session_with_1002() {
    let hall = Hall::open().await;
    let mut unmasked = vec![FIN | TEXT, 12];
    unmasked.extend_from_slice(br#"{"t":"ping"}"#);
    let long_ping = client_frame(FIN | PING, &[0; 126]);
    let interleaved = [client_frame(TEXT, b"{"), client_frame(FIN | TEXT, b"}")].concat();
    for (what, bytes) in [
        ("a reserved bit", client_frame(FIN | 0x40 | TEXT, b"{}")),
        ("another reserved bit", client_frame(FIN | 0x10 | TEXT, b"{}")),
        ("an unmasked frame", unmasked),
        ("an unknown opcode", client_frame(FIN | 3, b"")),
        ("an unknown control opcode", client_frame(FIN | 11, b"")),
        ("a continuation of nothing", client_frame(FIN | CONTINUATION, b"x")),
        ("a message within a message", interleaved),
        ("a ping in fragments", client_frame(PING, b"x")),
        ("a long ping", long_ping),
        ("a close frame of one byte", client_frame(FIN | CLOSE, b"\x03")),
        ("a close code that is never sent", client_frame(FIN | CLOSE, &1005u16.to_be_bytes())),
        ("a close code of nobody", client_frame(FIN | CLOSE, &999u16.to_be_bytes())),
    ] {
        println!("{what}");
        let mut ann = hall.join("lobby", "ann").await;
        ann.wire.writer.bytes(&bytes).await;
        ann.is_closed_with(1002).await;
        assert_eq!(ann.wire.next().await, Seen::End, "{what}");
    }
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_pings_between() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let message = r#"{"t":"pub","r":"lobby","d":"smile 😀","i":9}"#.as_bytes();
    // Every split, also within a character.
    for at in 0..=message.len() {
        if at % 10 == 0 {
            // A new pair: the pace is twenty messages a second.
            ann = hall.join("lobby", "ann").await;
        }
        ann.wire.writer.frame(TEXT, &message[..at]).await;
        ann.wire.writer.frame(FIN | PING, b"are you there?").await;
        assert_eq!(next_but_state(&mut ann).await, Seen::Pong("are you there?".into()), "split at {at}");
        ann.wire.writer.frame(CONTINUATION, b"").await;
        ann.wire.writer.frame(FIN | PONG, b"nobody asked").await;
        ann.wire.writer.frame(FIN | CONTINUATION, &message[at..]).await;
        assert_eq!(ann.hears_a("ack").await.s(), at as u64 + 1);
        bob.hears("smile 😀").from("ann").at(at as u64 + 1).await;
    }
}

/// The next frame that is no news about who is here or what was said.
async fn next_but_state(guest: &mut Guest) -> Seen {
    loop {
        match guest.wire.next().await {
            Seen::Text(text) => assert!(text.contains("\"pres\"") || text.contains("\"msg\""), "{text}"),
            seen => return seen,
        }
    }
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let hall = Hall::open().await;
    let mut ann = hall.join("lobby", "ann").await;
    for byte in client_frame(FIN | TEXT, br#"{"t":"pub","r":"lobby","d":"slowly"}"#) {
        assert!(ann.wire.writer.bytes(&[byte]).await);
    }
    ann.hears("slowly").from("ann").at(1).await;
}

#[tokio::test]
async fn a_close_frame_is_answered_with_its_own_code() {
    let hall = Hall::open().await;
    for code in [1000, 1001, 3000, 4999] {
        let mut ann = hall.join("lobby", "ann").await;
        // What was said before is answered before.
        ann.sends(r#"{"t":"pub","r":"lobby","d":"last words"}"#).await;
        ann.wire.writer.close(code).await;
        let (found, _, texts) = ann.wire.until_closed().await;
        assert_eq!(found, Some(code));
        assert!(texts.iter().any(|text| text.contains("\"ack\"")), "{texts:?}");
        assert_eq!(ann.wire.next().await, Seen::End);
    }
    let mut ann = hall.join("lobby", "ann").await;
    ann.wire.writer.frame(FIN | CLOSE, b"").await;
    assert_eq!(ann.wire.until_closed().await.0, None);
    let mut ann = hall.join("lobby", "ann").await;
    ann.sends(r#"{"t":"bye"}"#).await;
    ann.is_closed_with(1000).await;
}

#[tokio::test]
async fn a_thousand_frames_of_garbage_do_not_disturb_the_others() {
    let hall = Hall::with(&["limits.messages_per_second=0"]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    let mut dice = dice();
    for n in 1..=1_000u64 {
        let mut wire = hall.wire("/v1/ws?user=vandal").await;
        let mut bytes = vec![0; dice.random_range(1..300)];
        dice.fill(&mut bytes[..]);
        if dice.random() {
            // Half of them are well-formed outside, so that the garbage gets further in.
            bytes =
                client_frame([FIN | TEXT, FIN | BINARY, TEXT, FIN | PING][dice.random_range(0..4)], &bytes);
        }
        wire.writer.bytes(&bytes).await;
        if dice.random() {
            wire.cut(dice.random());
        } else {
            wire.writer.close(1000).await;
        }
        if n % 100 == 0 {
            let said = n / 100;
            assert_eq!(ann.says(&format!("calm {said}")).await.s(), said);
            bob.hears(format!("calm {said}")).from("ann").at(said).await;
        }
    }
    hall.figure_becomes("roomcast_connections", |n| n == 2.0).await;
    assert!(!hall.log().contains("panicked"), "{}", hall.log());
    ann.hears_no_message().await;
    bob.hears_no_message().await;
}
