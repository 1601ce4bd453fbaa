//! Promise: a program of one's own sees the four events through the library, may refuse, change and close,
//! and may have a path of its own; and when it breaks, it breaks for one session.
//!
//! The program is this very test binary, started again: a server process like any other, with the handlers
//! that stand at the end of this file.

use futures_util::{SinkExt, StreamExt};
use roomcast::actors::events::{Effects, Handler, Incoming, Peer, Verdict};
use roomcast::chat::data::Data;
use roomcast::chat::message::{Draft, Via};
use roomcast::chat::names::{RoomName, UserName};
use roomcast::config::Config;
use roomcast::wiring::Roomcast;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};

use crate::stage::guest::Guest;
use crate::stage::hall::{Hall, program};
use crate::stage::wire::{BINARY, CONTINUATION, FIN, PING, Seen, TEXT, client_frame, frame_head};

/// The test below that is the program, and what has to be set for it to be one.
const PROGRAM_TEST: &str = "handlers::the_program_of_these_stories";
const IS_PROGRAM: &str = "STORIES_HANDLER_PROGRAM";

/// A hall whose server has handlers.
async fn house() -> Hall {
    let home = tempfile::tempdir().expect("a folder for the hall");
    let myself = std::env::current_exe().expect("this very program");
    let mut command = program(myself, home.path());
    command.args(["--exact", PROGRAM_TEST, "--ignored", "--nocapture"]).env(IS_PROGRAM, "1");
    Hall::run(command, home).await
}

// ---- over all rooms ----

#[tokio::test]
async fn a_handler_may_refuse_and_change_what_is_said() {
    let hall = house().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("hello").await;
    bob.hears("hello").at(1).await;
    let refused = ann.asks(json!({"t": "pub", "r": "lobby", "d": "SHOUTING"})).await;
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "please do not shout");
    ann.says("that darn cat").await;
    bob.hears("that **** cat").from("ann").at(2).await;
    // What a backend pushes goes past the handler too.
    hall.publish(&json!({"r": "lobby", "d": "LOUD PUSH"})).await.is_refusal(403, "not-allowed");
    let pushed = hall.publish(&json!({"r": "lobby", "u": "shop", "d": "darn"})).await;
    assert_eq!(pushed.json()["s"], 3);
    bob.hears("****").from("shop").at(3).await;
    bob.hears_no_message().await;
}

#[tokio::test]
async fn a_handler_may_turn_somebody_away_at_the_door() {
    let hall = house().await;
    let mut troll = Guest::silent(hall.wire("/v1/ws?user=troll").await, "troll");
    let told = troll.is_refused(403, "not-allowed").await;
    assert_eq!(told.text("msg"), "not you");
    assert_eq!(troll.is_closed_with(4003).await.text("why"), "not-allowed");
    assert_eq!(hall.join("lobby", "ann").await.says("he is gone").await.s(), 1);
}

#[tokio::test]
async fn a_handler_may_close_a_session_with_a_code_of_its_own() {
    let hall = house().await;
    let mut watcher = hall.join("events", "watcher").await;
    let mut bob = hall.join("lobby", "bob").await;
    watcher.hears("opened bob").at(1).await;
    bob.sends(json!({"t": "pub", "r": "lobby", "d": "/close 4123"}).to_string()).await;
    assert_eq!(bob.is_closed_with(4123).await.text("why"), "as you wish");
    watcher.hears("closed bob with 4123").at(2).await;
}

#[tokio::test]
async fn a_handler_hears_of_coming_going_and_breaking() {
    let hall = house().await;
    let mut watcher = hall.join("events", "watcher").await;
    hall.enter("ann").await.goes().await;
    watcher.hears("opened ann").await;
    watcher.hears("closed ann with 1000").await;
    hall.enter("bob").await.wire.cut(false);
    watcher.hears("opened bob").await;
    watcher.hears("closed bob with 1006").await;
    let mut cid = hall.enter("cid").await;
    watcher.hears("opened cid").await;
    cid.wire.writer.frame(FIN | 0x40 | TEXT, b"{}").await;
    cid.is_closed_with(1002).await;
    watcher.hears("error of cid").await;
    watcher.hears("closed cid with 1002").await;
    watcher.hears_no_message().await;
}

#[tokio::test]
async fn a_handler_that_panics_closes_its_session_and_no_other() {
    let hall = house().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    bob.sends(json!({"t": "pub", "r": "lobby", "d": "/panic"}).to_string()).await;
    bob.is_closed_with(1011).await;
    assert_eq!(ann.says("what was that?").await.s(), 1);
    let answer = hall.publish(&json!({"r": "lobby", "d": "/panic"})).await;
    answer.is_refusal(403, "not-allowed");
    let mut bob = hall.join("lobby", "bob").await;
    ann.says("you are back").await;
    bob.hears("you are back").at(2).await;
    let mut raw = hall.wire("/echo").await;
    raw.writer.text("/panic").await;
    assert_eq!(raw.until_closed().await.0, Some(1011));
    assert_eq!(ann.says("and on").await.s(), 3);
}

// ---- a path of its own ----

#[tokio::test]
async fn an_echo_gives_back_text_and_binary_as_they_came() {
    let hall = house().await;
    let mut wire = hall.wire("/echo?x=1").await;
    wire.writer.text("grüße 😀").await;
    assert_eq!(wire.next().await, Seen::Text("grüße 😀".into()));
    wire.writer.text("").await;
    assert_eq!(wire.next().await, Seen::Text(String::new()));
    wire.writer.frame(FIN | BINARY, &[0, 255, 10]).await;
    assert_eq!(wire.next().await, Seen::Binary(vec![0, 255, 10].into()));
    // In fragments, with a ping between.
    wire.writer.frame(BINARY, b"one ").await;
    wire.writer.frame(CONTINUATION, b"two ").await;
    wire.writer.frame(FIN | PING, b"ping").await;
    wire.writer.frame(FIN | CONTINUATION, b"three").await;
    assert_eq!(wire.next().await, Seen::Pong("ping".into()));
    assert_eq!(wire.next().await, Seen::Binary("one two three".into()));
    // Many at once keep their order.
    let frames: Vec<u8> =
        (0..1_000).flat_map(|n| client_frame(FIN | TEXT, n.to_string().as_bytes())).collect();
    wire.writer.bytes(&frames).await;
    for n in 0..1_000 {
        assert_eq!(wire.next().await, Seen::Text(n.to_string()));
    }
}

#[tokio::test]
async fn another_client_library_agrees_up_to_sixteen_mebibytes() {
    let hall = house().await;
    let sizes = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let url = format!("ws://{}/echo", hall.address());
    let connected = tokio_tungstenite::connect_async_with_config(url, Some(sizes), true).await;
    let (socket, _) = connected.expect("let in");
    let (mut to, mut from) = socket.split();
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20] {
        let data: Vec<u8> = (0..bytes).map(|n| (n * 31 % 251) as u8).collect();
        let message = Message::binary(data.clone());
        let (sent, came) = futures_util::future::join(to.send(message), from.next()).await;
        sent.expect("the server reads");
        let came = came.expect("an answer").expect("a proper frame");
        assert_eq!(came.into_data().len(), data.len());
    }
    to.send(Message::text("grüße")).await.expect("the server reads");
    assert_eq!(from.next().await.expect("an answer").expect("a proper frame"), Message::text("grüße"));
    let close = CloseFrame { code: CloseCode::Library(3333), reason: "enough".into() };
    to.send(Message::Close(Some(close))).await.expect("the server reads");
    let Some(Ok(Message::Close(Some(answer)))) = from.next().await else { panic!("no close frame") };
    assert_eq!(u16::from(answer.code), 3333);
}

#[tokio::test]
async fn a_message_of_more_than_sixteen_mebibytes_is_refused_at_its_header() {
    let hall = house().await;
    let mut wire = hall.wire("/echo").await;
    wire.writer.bytes(&frame_head(FIN | BINARY, (16 << 20) + 1)).await;
    assert_eq!(wire.until_closed().await.0, Some(1009));
}

#[tokio::test]
async fn a_raw_path_closes_and_is_closed_with_codes() {
    let hall = house().await;
    for code in [1000, 3000, 4999] {
        let mut wire = hall.wire("/echo").await;
        wire.writer.close(code).await;
        let (found, _, texts) = wire.until_closed().await;
        assert_eq!((found, texts.len()), (Some(code), 0), "no line of another protocol before it");
        let mut wire = hall.wire("/echo").await;
        wire.writer.text(&format!("/close {code}")).await;
        let (found, why, texts) = wire.until_closed().await;
        assert_eq!((found, why.as_str(), texts.len()), (Some(code), "as you wish", 0));
    }
    let mut wire = hall.wire("/echo").await;
    wire.writer.text("/refuse").await;
    assert_eq!(wire.until_closed().await, (Some(1008), "no".into(), Vec::new()));
    let mut wire = hall.wire("/echo").await;
    wire.writer.frame(FIN | TEXT, b"\xff").await;
    assert_eq!(wire.until_closed().await.0, Some(1007));
}

// ---- the program ----

#[test]
#[ignore = "the server of these stories; they start it"]
fn the_program_of_these_stories() {
    if std::env::var_os(IS_PROGRAM).is_none() {
        return;
    }
    let mut config = Config::default();
    config.queue.door.listen = String::new();
    // The first line of the test runner has no end yet.
    println!();
    let roomcast = Roomcast::new(config).listen("127.0.0.1:0").rooms(Watcher).raw("/echo", Echo);
    roomcast.run().expect("the server starts and ends");
}

/// Watches all rooms, and tells in the room `events` what it sees.
struct Watcher;

fn report(effects: &mut Effects, who: &Peer, text: String) {
    // Its own coming and going the watcher need not hear of.
    if who.user.as_ref().is_some_and(|user| user.as_str() == "watcher") {
        return;
    }
    effects.say(Draft {
        room: RoomName::new("events").expect("a good name"),
        user: Some(UserName::new("house").expect("a good name")),
        id: None,
        data: Data::text(&text),
        kind: None,
        reply_to: None,
        keep: true,
        via: Via::Api,
        span: Default::default(),
    });
}

fn name(who: &Peer) -> &str {
    who.user.as_ref().map_or("nobody", UserName::as_str)
}

impl Handler for Watcher {
    fn on_open(&mut self, who: &Peer, effects: &mut Effects) -> Verdict {
        if name(who) == "troll" {
            return Verdict::Refuse("not you".into());
        }
        report(effects, who, format!("opened {}", name(who)));
        Verdict::Accept
    }

    fn on_message(&mut self, who: &Peer, message: Incoming<'_>, effects: &mut Effects) -> Verdict {
        let Incoming::Draft(draft) = message else { panic!("rooms have drafts") };
        let Ok(text) = serde_json::from_slice::<String>(draft.data.as_bytes()) else {
            return Verdict::Accept;
        };
        if text == "/panic" {
            panic!("as you wish");
        }
        if let (Some(code), Some(connection)) = (text.strip_prefix("/close "), who.connection) {
            effects.close(connection, code.parse().expect("a code"), "as you wish");
            return Verdict::Refuse("done".into());
        }
        if text.len() > 4 && text.chars().any(char::is_alphabetic) && !text.chars().any(char::is_lowercase) {
            return Verdict::Refuse("please do not shout".into());
        }
        draft.data = Data::text(&text.replace("darn", "****"));
        Verdict::Accept
    }

    fn on_close(&mut self, who: &Peer, code: u16, effects: &mut Effects) {
        report(effects, who, format!("closed {} with {code}", name(who)));
    }

    fn on_error(&mut self, who: &Peer, _: &str, effects: &mut Effects) {
        report(effects, who, format!("error of {}", name(who)));
    }
}

/// Owns `/echo`.
struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, who: &Peer, message: Incoming<'_>, effects: &mut Effects) -> Verdict {
        let connection = who.connection.expect("nobody pushes to a path");
        match message {
            Incoming::Text(text) if text == "/panic" => panic!("as you wish"),
            Incoming::Text(text) if text == "/refuse" => return Verdict::Refuse("no".into()),
            Incoming::Text(text) => match text.strip_prefix(b"/close ") {
                Some(code) => {
                    let code = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok());
                    effects.close(connection, code.expect("a code"), "as you wish");
                }
                None => effects.send_text(connection, text),
            },
            Incoming::Binary(bytes) => effects.send_binary(connection, bytes),
            Incoming::Draft(_) => panic!("a path has no rooms"),
        }
        Verdict::Accept
    }
}
