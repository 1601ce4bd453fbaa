//! Promise: a backend hears of all that happens, each thing once or more and in its order, signed, whatever happens to
//! it or to the server; and slows nobody, however slow it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use roomcast_rig::backend::{Backend, Reply, status};
use serde_json::{Value, json};

use crate::stage::eventually;
use crate::stage::hall::Hall;

async fn stored(backend: &Backend, more: &[&str]) -> Hall {
    let settings = backend.hooks(more);
    Hall::stored(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_else(|| panic!("no text {key} in {event}"))
}

fn named<'a>(events: &'a [Value], name: &str, user: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name && event["u"] == user).collect()
}

/// How often the server is killed in a story; `ROOMCAST_KILLS` makes it long.
fn lives() -> u64 {
    let wanted = std::env::var("ROOMCAST_KILLS").ok();
    wanted.map_or(8, |kills| kills.parse().expect("ROOMCAST_KILLS is a number"))
}

/// The offsets of a room's messages are 1, 2, 3 … up to `top`.
fn is_whole(events: &[Value], room: &str, top: u64) {
    let offsets: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "on_message" && event["r"] == room)
        .map(|event| event["s"].as_u64().expect("an offset"))
        .collect();
    assert_eq!(offsets, (1..=top).collect::<Vec<_>>(), "each message of {room} once, in order");
}

#[tokio::test]
async fn a_backend_hears_the_four_events_in_the_order_in_which_they_happened() {
    let backend = Backend::open().await;
    let hall = stored(&backend, &[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("hello").await;
    let edited = ann.asks(json!({"t": "edit", "r": "lobby", "of": 1, "d": {"text": "hi"}})).await;
    assert_eq!(edited.t(), "ack");
    ann.goes().await;
    let mut bob = hall.enter("bob").await;
    // A frame that is not masked breaks a rule of WebSocket.
    assert!(bob.wire.writer.bytes(b"\x81\x01x").await, "it can be written");
    backend.hears("the end of bob", |event| event["event"] == "on_close" && event["u"] == "bob").await;

    let events = backend.events_once();
    let told: Vec<(&str, &str)> =
        events.iter().map(|event| (text(event, "event"), text(event, "u"))).collect();
    assert_eq!(
        told,
        [
            ("on_open", "ann"),
            ("on_message", "ann"),
            ("on_message", "ann"),
            ("on_close", "ann"),
            ("on_open", "bob"),
            ("on_error", "bob"),
            ("on_close", "bob"),
        ]
    );
    assert_eq!(
        (&events[1]["t"], &events[1]["d"], &events[1]["s"]),
        (&json!("msg"), &json!("hello"), &json!(1))
    );
    assert_eq!(text(&events[1], "key"), format!("lobby@{}-1", text(&events[1], "e")));
    assert_eq!(
        (&events[2]["t"], &events[2]["of"], &events[2]["d"]),
        (&json!("edit"), &json!(1), &json!({"text": "hi"}))
    );
    assert_eq!((&events[0]["session"], &events[3]["code"]), (&events[3]["session"], &json!(1000)));
    assert_eq!((&events[4]["session"], &events[6]["code"]), (&events[6]["session"], &json!(1002)));
    assert_ne!(events[0]["session"], events[4]["session"]);
    // Each request has an id of its own, without the full stop that separates it from what is signed behind it.
    let ids: Vec<String> =
        backend.posted().iter().map(|posted| posted.header("webhook-id").to_owned()).collect();
    let unique: std::collections::HashSet<&String> = ids.iter().collect();
    assert!(unique.len() == ids.len() && ids.iter().all(|id| !id.contains('.')), "{ids:?}");
    hall.figure_becomes("roomcast_hooks_waiting", |waiting| waiting == 0.0).await;
    assert_eq!(hall.figure("roomcast_hooks_sent_total").await, 7.0);
}

#[tokio::test]
async fn a_backend_that_is_away_gets_everything_when_it_comes_and_nobody_waits_for_it() {
    let mut backend = Backend::open().await;
    let hall = stored(&backend, &["limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("first").await;
    backend.hears_message("lobby", 1).await;
    backend.goes().await;
    for n in 2..=150 {
        assert_eq!(ann.says(&n.to_string()).await.s(), n, "said while nobody takes the events");
    }
    hall.figure_becomes("roomcast_hooks_retried_total", |n| n >= 1.0).await;
    assert_eq!(hall.figure("roomcast_hooks_reached").await, 0.0);
    backend.comes().await;
    backend.hears_message("lobby", 150).await;
    is_whole(&backend.events_once(), "lobby", 150);
    // 150 messages: the first alone, the others in requests of at most a hundred.
    assert!(backend.posted().iter().all(|posted| posted.events().len() <= 100));
}

#[tokio::test]
async fn a_backend_that_never_answers_slows_nobody_and_gets_the_same_request_again() {
    let backend = Backend::open().await;
    backend.answers(|_| Reply::Silence);
    let hall = stored(&backend, &["hooks.timeout=300ms", "limits.messages_per_second=0"]).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    for n in 1..=50 {
        ann.says(&n.to_string()).await;
        bob.hears(n.to_string()).at(n).await;
    }
    hall.figure_becomes("roomcast_hooks_retried_total", |n| n >= 2.0).await;
    let posted = backend.posted();
    assert!(posted.len() >= 2);
    for again in &posted[1..] {
        assert_eq!(
            again.header("webhook-id"),
            posted[0].header("webhook-id"),
            "the same batch has the same id"
        );
        assert_eq!(again.body, posted[0].body, "and the same bytes");
    }
    backend.answers(|_| status(204));
    let all = || async { (hall.figure("roomcast_hooks_sent_total").await >= 52.0).then_some(()) };
    eventually("all are sent", all).await;
    let sent: Vec<Value> = backend
        .posted()
        .iter()
        .filter(|posted| posted.status == Some(204))
        .flat_map(|posted| posted.events())
        .collect();
    is_whole(&sent, "lobby", 50);
}

#[tokio::test]
async fn what_was_acknowledged_is_told_though_the_server_is_killed_again_and_again() {
    let backend = Backend::open().await;
    let mut hall = stored(&backend, &["limits.messages_per_second=0"]).await;
    let mut top = 0;
    let lives = lives();
    for life in 0..lives {
        // Now the backend takes what it gets, now it does not, so that kills come before, in and after a request.
        let takes = life % 2 == 1;
        backend.answers(move |_| if takes { status(200) } else { status(503) });
        let user = format!("ann-{life}");
        let mut ann = hall.join("lobby", &user).await;
        for _ in 0..10 {
            top = ann.says("kept").await.s();
        }
        hall.crashes().await;
    }
    backend.answers(|_| status(200));
    assert_eq!(top, lives * 10);
    backend.hears_message("lobby", top).await;
    let last = |event: &Value| event["event"] == "on_close" && event["u"] == format!("ann-{}", lives - 1);
    backend.hears("the end of the last session", last).await;
    let events = backend.events_once();
    is_whole(&events, "lobby", top);
    for life in 0..lives {
        let user = format!("ann-{life}");
        let (opened, closed) = (named(&events, "on_open", &user), named(&events, "on_close", &user));
        assert_eq!((opened.len(), closed.len()), (1, 1), "{user} has come and gone");
        assert_eq!(opened[0]["session"], closed[0]["session"]);
        assert_eq!(closed[0]["code"], 1006, "who was killed with the server was cut off");
        let place = |what: &Value| events.iter().position(|event| event == what).expect("it is there");
        let own = named(&events, "on_message", &user);
        assert_eq!(own.len(), 10);
        assert!(place(opened[0]) < place(own[0]) && place(own[9]) < place(closed[0]), "in order");
    }
    // What came twice is known by its key.
    let mut bodies: HashMap<String, Value> = HashMap::new();
    for event in backend.events() {
        let before = bodies.insert(text(&event, "key").to_owned(), event.clone());
        assert!(before.is_none_or(|before| before == event), "the same key, the same event");
    }
}

#[tokio::test]
async fn a_polite_stop_loses_nothing_either() {
    let backend = Backend::open().await;
    backend.answers(|_| status(503));
    let mut hall = stored(&backend, &[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("before the stop").await;
    hall.restarts().await;
    backend.answers(|_| status(200));
    let closed = backend.hears("the end", |event| event["event"] == "on_close").await;
    assert_eq!(closed["code"], 4200, "the server has said why");
    let told: Vec<Value> = backend.events_once();
    assert_eq!(told.len(), 3, "{told:#?}");
    is_whole(&told, "lobby", 1);
}

#[tokio::test]
async fn what_a_backend_refuses_is_a_dead_letter_that_can_be_posted_again() {
    let backend = Backend::open().await;
    let hall = stored(&backend, &["hooks.events=on_message"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    backend.answers(|_| status(410));
    ann.says("nobody wants this").await;
    hall.figure_becomes("roomcast_hooks_failed_total", |failed| failed == 1.0).await;
    let list = hall.runs(&["dead", "list"]);
    assert!(list.contains("hooks") && list.contains("answered 410"), "{list}");
    let id = list.split_whitespace().next().expect("an id").to_owned();
    let shown: Value = serde_json::from_str(&hall.runs(&["dead", "show", &id])).expect("an event is JSON");
    assert_eq!((&shown["event"], &shown["d"]), (&json!("on_message"), &json!("nobody wants this")));
    backend.answers(|_| status(200));
    ann.says("this is fine").await;
    backend.hears_message("lobby", 2).await;
    assert_eq!(hall.runs(&["dead", "requeue", &id]), "requeued 1\n");
    let again = backend.hears_message("lobby", 1).await;
    assert_eq!(again, shown, "as it was");
    assert_eq!(hall.runs(&["dead", "list"]), "");
}

#[tokio::test]
async fn one_event_at_fault_does_not_take_the_others_with_it() {
    let backend = Backend::open().await;
    backend.answers(|_| status(503));
    let settings = ["hooks.events=on_message", "limits.messages_per_second=0"];
    let hall = stored(&backend, &settings).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=20 {
        ann.says(if n == 13 { "poison" } else { "good" }).await;
    }
    backend.answers(|posted| if posted.body.contains("poison") { status(422) } else { status(200) });
    backend.hears_message("lobby", 20).await;
    let offsets: Vec<u64> = backend.events_once().iter().filter_map(|event| event["s"].as_u64()).collect();
    assert_eq!(offsets, (1..=20).filter(|n| *n != 13).collect::<Vec<_>>());
    let list = hall.runs(&["dead", "list"]);
    assert!(list.lines().count() == 1 && list.contains("-13") && list.contains("answered 422"), "{list}");
}

#[tokio::test]
async fn what_is_too_old_is_given_up() {
    let backend = Backend::open().await;
    backend.answers(|_| status(500));
    let hall = stored(&backend, &["hooks.events=on_message", "hooks.keep=1s"]).await;
    hall.join("lobby", "ann").await.says("nobody takes it").await;
    hall.figure_becomes("roomcast_hooks_failed_total", |failed| failed == 1.0).await;
    let list = hall.runs(&["dead", "list"]);
    assert!(list.contains("given up after 1s") && list.contains("answered 500"), "{list}");
}

#[tokio::test]
async fn a_backend_may_ask_for_time() {
    let backend = Backend::open().await;
    let busy = Arc::new(AtomicBool::new(true));
    let told = busy.clone();
    backend.answers(move |_| match told.swap(false, Relaxed) {
        true => Reply::Say(429, vec![("Retry-After", "2".into())], String::new()),
        false => status(200),
    });
    let hall = stored(&backend, &["hooks.events=on_open"]).await;
    let _ann = hall.enter("ann").await;
    backend.hears("ann", |event| event["u"] == "ann").await;
    let posted = backend.posted();
    assert_eq!(posted.len(), 2, "once before and once after the wait");
    let at = |n: usize| posted[n].header("webhook-timestamp").parse::<u64>().expect("seconds");
    assert!(at(1) - at(0) >= 1, "of two seconds at least one has begun: {} {}", at(0), at(1));
    assert_eq!(posted[0].header("webhook-id"), posted[1].header("webhook-id"));
    assert_ne!(posted[0].header("webhook-signature"), posted[1].header("webhook-signature"), "signed anew");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let backend = Backend::open().await;
    let elsewhere = backend.url("/elsewhere");
    backend.answers(move |_| Reply::Say(302, vec![("Location", elsewhere.clone())], String::new()));
    let hall = stored(&backend, &["hooks.events=on_open"]).await;
    let _ann = hall.enter("ann").await;
    hall.figure_becomes("roomcast_hooks_retried_total", |n| n >= 2.0).await;
    assert!(backend.posted().iter().all(|posted| posted.path == "/events"));
    assert!(hall.log().contains("a redirect; set hooks.url"), "{}", hall.log());
}

#[tokio::test]
async fn a_name_that_stands_for_this_machine_leads_nowhere() {
    let backend = Backend::open().await;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux tells its name");
    let url = format!("hooks.url={}", backend.url("/events").replace("127.0.0.1", name.trim()));
    let settings = backend.hooks(&[&url, "hooks.private_addresses=false"]);
    let hall = Hall::stored(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let _ann = hall.enter("ann").await;
    let refused = || async { hall.log().contains("requests must not go there").then_some(()) };
    eventually("the log says that requests must not go there", refused).await;
    assert!(backend.posted().is_empty(), "nothing has come: {:?}", backend.posted());
}

#[tokio::test]
async fn without_a_store_events_are_told_all_the_same() {
    let backend = Backend::open().await;
    let settings = backend.hooks(&["store.url=none", "server.drain=1s"]);
    let mut hall = Hall::with(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=5 {
        assert_eq!(ann.says("hello").await.s(), n);
    }
    hall.signal("TERM");
    assert!(hall.ended().await.success());
    let events = backend.events_once();
    is_whole(&events, "lobby", 5);
    let names: Vec<&str> = events.iter().map(|event| text(event, "event")).collect();
    assert_eq!((names[0], names[6], names.len()), ("on_open", "on_close", 7), "before the process ended");
}

#[tokio::test]
async fn only_what_was_chosen_is_told() {
    let backend = Backend::open().await;
    let hall = stored(&backend, &["hooks.events=on_message,on_close", "hooks.rooms=team-*"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("not this").await;
    ann.joins("team-red").await;
    ann.says("but this").await;
    ann.goes().await;
    backend.hears("the end", |event| event["event"] == "on_close").await;
    let told: Vec<String> = backend.events_once().iter().map(|event| event["event"].to_string()).collect();
    assert_eq!(told, ["\"on_message\"", "\"on_close\""]);
    backend.hears_message("team-red", 1).await;
}
