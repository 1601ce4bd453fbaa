//! Promise: who has a collector of traces sees the way of a message from the door to its readers, as one trace, also one
//! that a backend has begun; and a collector that is away slows nobody.

use roomcast_rig::backend::{Backend, refuses};
use serde_json::{Value, json};

use crate::stage::collector::{Collector, Seen};
use crate::stage::eventually;
use crate::stage::hall::Hall;
use crate::stage::http::Answer;

/// The page that operators read.
const PAGE: &str = include_str!("../../docs/traces.md");

/// Kinds of spans, as OTLP numbers them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;

fn trace(n: u32) -> String {
    format!("{:032x}", 0x0af7_6519_0000_0000_u128 + u128::from(n))
}

/// A push of a backend that has begun a trace.
async fn push(hall: &Hall, body: &Value, trace: &str, flags: &str) -> Answer {
    let body = body.to_string();
    hall.request(&format!(
        "POST /api/publish HTTP/1.1\r\nHost: {}\r\nConnection: close\r\ntraceparent: 00-{trace}-b7ad6b7169203331-{flags}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        hall.address(),
        body.len()
    ))
    .await
}

fn borrowed(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

/// Each span lies within the time of the trace and says when it was.
fn is_in_order(spans: &[&Seen]) {
    for span in spans {
        assert!(span.time.0 > 1_700_000_000_000_000_000 && span.time.0 <= span.time.1, "{span:?}");
    }
}

#[tokio::test]
async fn a_push_of_a_backend_is_one_trace_to_its_readers_and_to_the_hook() {
    let (collector, backend) = (Collector::open(), Backend::open().await);
    let settings = backend.hooks(&[
        &collector.setting(),
        // Nothing begins here: only what the backend has begun is shown.
        "traces.sample=0",
        "traces.attributes=deployment.environment.name=a%20test",
        "log.access=true",
        "log.format=json",
    ]);
    let hall = Hall::stored(&borrowed(&settings)).await;
    let (mut ann, _bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    for n in 1..=20 {
        let said = hall.publish(&json!({"r": "other", "u": "ann", "d": n})).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
    let id = trace(1);
    let said = push(&hall, &json!({"r": "lobby", "u": "ann", "d": "whispered words"}), &id, "01").await;
    assert_eq!(said.json()["s"], 1, "{said:?}");
    ann.hears("whispered words").at(1).await;

    let spans = collector.sees(&id, &["POST /api/publish", "keep", "fan out", "post events"]).await;
    let (door, keep) = (&spans["POST /api/publish"], &spans["keep"]);
    let (fan_out, post) = (&spans["fan out"], &spans["post events"]);
    assert_eq!((door.kind, door.parent.as_str(), &door.failure), (SERVER, "b7ad6b7169203331", &None));
    assert_eq!(door.notes["http.response.status_code"], "200");
    assert_eq!(
        (door.notes["http.request.method"].as_str(), door.notes["http.route"].as_str()),
        ("POST", "/api/publish")
    );
    assert_eq!(
        (keep.kind, &keep.parent, keep.notes["roomcast.kept_by"].as_str()),
        (INTERNAL, &door.id, "journal")
    );
    assert_eq!((fan_out.kind, &fan_out.parent), (PRODUCER, &door.id));
    let told =
        ["roomcast.room", "roomcast.offset", "roomcast.receivers"].map(|key| fan_out.notes[key].as_str());
    assert_eq!(told, ["lobby", "1", "2"]);
    assert_eq!(
        (post.kind, &post.parent, post.notes["http.response.status_code"].as_str()),
        (CLIENT, &door.id, "200")
    );
    assert!(keep.time.1 <= fan_out.time.0, "it is kept before anybody sees it: {keep:?} {fan_out:?}");
    is_in_order(&[door, keep, fan_out, post]);
    // What the hook got leads on from its own span.
    let of_trace = |posted: &roomcast_rig::backend::Posted| {
        posted.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("traceparent") && *value == format!("00-{id}-{}-01", post.id)
        })
    };
    backend.is_asked("a request within the trace", of_trace).await;

    assert_eq!(
        (door.server["service.name"].as_str(), door.server["service.version"].as_str()),
        ("roomcast", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(door.server["deployment.environment.name"], "a test");
    // Twenty pushes of nobody's trace, and the sessions, have left nothing.
    let all = collector.spans();
    assert!(all.iter().all(|span| span.trace == id), "{all:#?}");
    let shown = format!("{all:?}");
    assert!(!shown.contains("whispered") && !shown.contains("ann"), "neither words nor users: {shown}");
    let line = || async { hall.log().lines().find(|line| line.contains(&id)).map(str::to_owned) };
    let line = eventually("a line of the log with the trace", line).await;
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&line["path"], &line["trace"]), (&json!("/api/publish"), &json!(id)));
    hall.figure_becomes("roomcast_traces_sent_total", |sent| sent >= 4.0).await;
    assert_eq!(hall.figure("roomcast_traces_reached").await, 1.0);
}

#[tokio::test]
async fn what_a_session_says_is_followed_through_the_question_to_its_application() {
    let (collector, backend) = (Collector::open(), Backend::open().await);
    backend.answers(refuses("rude", "be polite"));
    let hall =
        Hall::with(&borrowed(&backend.asked(&["publish"], &[&collector.setting(), "traces.sample=1"]))).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("hello").await;
    let rude = ann.asks(json!({"t": "pub", "r": "lobby", "d": "rude", "id": "r-1"})).await;
    rude.is_err(403, "not-allowed");

    let fan_out = collector.sees_one("a message given out", |span| span.name == "fan out").await;
    let spans = collector.sees(&fan_out.trace, &["publish", "ask the application", "fan out"]).await;
    let (door, question) = (&spans["publish"], &spans["ask the application"]);
    assert_eq!((door.kind, door.parent.as_str()), (SERVER, ""));
    assert_eq!((question.kind, &question.parent, &fan_out.parent), (CLIENT, &door.id, &door.id));
    assert_eq!(fan_out.notes["roomcast.receivers"], "1");
    let hash = roomcast::log::user_hash("ann");
    assert_eq!(door.notes["roomcast.user_hash"], hash, "as lines of the log name her");
    is_in_order(&[door, question, &fan_out]);
    let refused = collector
        .sees_one("a message that is refused", |span| span.name == "publish" && span.failure.is_some())
        .await;
    assert_eq!(refused.failure.as_deref(), Some("refused by the application"));
    assert_ne!(refused.trace, fan_out.trace);
    let asked: Vec<String> =
        backend.posted().iter().map(|posted| posted.header("traceparent").to_owned()).collect();
    assert_eq!(asked[0], format!("00-{}-{}-01", question.trace, question.id));
    assert!(asked[1].starts_with(&format!("00-{}-", refused.trace)));
    let shown = format!("{:?}", collector.spans());
    assert!(!shown.contains("hello") && !shown.contains("ann\"") && !shown.contains("polite"), "{shown}");
}

#[tokio::test]
async fn who_comes_with_a_trace_decides_and_a_stranger_does_not() {
    let collector = Collector::open();
    let hall = Hall::with(&[
        &collector.setting(),
        "traces.sample=0",
        "auth.api_keys=key-of-the-shop",
        "store.url=none",
    ])
    .await;
    let with_key = |trace: String, flags: &'static str, key: &'static str| {
        let (hall, body) = (&hall, r#"{"r":"lobby","d":1}"#);
        async move {
            hall.request(&format!(
                "POST /api/publish HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
                 traceparent: 00-{trace}-b7ad6b7169203331-{flags}\r\nContent-Length: {}\r\n\r\n{body}",
                hall.address(),
                body.len()
            ))
            .await
            .status
        }
    };
    assert_eq!(with_key(trace(1), "01", "another-key").await, 401, "a stranger's trace is not looked at");
    assert_eq!(with_key(trace(2), "00", "key-of-the-shop").await, 200, "one that its owner does not sample");
    assert_eq!(with_key(trace(3), "01", "key-of-the-shop").await, 200);
    let spans = collector.sees(&trace(3), &["POST /api/publish", "fan out"]).await;
    assert_eq!(spans["fan out"].notes["roomcast.receivers"], "0");
    assert!(!spans.contains_key("keep"), "rooms in memory keep nothing");
    let others: Vec<Seen> = collector.spans().into_iter().filter(|span| span.trace != trace(3)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_collector_that_is_away_slows_nobody_and_what_does_not_fit_is_counted() {
    let mut collector = Collector::away();
    let setting = collector.setting();
    let hall =
        Hall::with(&[&setting, "traces.sample=1", "traces.queue=8", "limits.messages_per_second=0"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    for n in 1..=100 {
        assert_eq!(ann.says(&n.to_string()).await.s(), n);
    }
    hall.figure_becomes("roomcast_traces_dropped_total", |dropped| dropped >= 100.0).await;
    let waiting = hall.figure("roomcast_traces_waiting").await;
    assert!(waiting <= 8.0, "{waiting} spans wait");
    let told = || async { hall.log().contains("the collector takes no spans").then_some(()) };
    eventually("the log says so", told).await;
    assert_eq!(hall.figure("roomcast_traces_sent_total").await, 0.0);
    assert_eq!(hall.figure("roomcast_traces_reached").await, 0.0);
    collector.comes();
    hall.figure_becomes("roomcast_traces_reached", |reached| reached == 1.0).await;
    collector.sees_one("a span that has waited", |span| span.name == "publish").await;
    ann.says("the last one").await;
    assert_eq!(hall.log().matches("the collector takes no spans").count(), 1, "told once");
}

#[tokio::test]
async fn the_start_on_the_page_works_as_it_stands_there() {
    let collector = Collector::open();
    let start = PAGE.lines().find_map(|line| line.strip_prefix("OTEL_EXPORTER_OTLP_ENDPOINT="));
    let (_, flags) =
        start.and_then(|rest| rest.split_once(" roomcast ")).expect("the page says how to start");
    let home = tempfile::tempdir().expect("a folder for the hall");
    let mut command = crate::stage::hall::program(crate::stage::hall::PROGRAM, home.path());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).args(flags.split_whitespace());
    command.args(["--listen", "127.0.0.1:0", "--store", "none", "--set", "queue.door.listen="]);
    let hall = Hall::run(command, home).await;
    let call = PAGE.lines().find(|line| line.starts_with("curl ")).expect("the page says how to push");
    let call = call.replace("127.0.0.1:8080", &hall.address().to_string());
    let output = std::process::Command::new("sh").args(["-c", &call]).output().expect("a shell");
    let said: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(said["s"], 1, "{said}");
    let (_, rest) = call.split_once("traceparent: 00-").expect("the call has a trace");
    let (trace, rest) = rest.split_once('-').expect("a trace and a span");
    let spans = collector.sees(trace, &["POST /api/publish", "fan out"]).await;
    assert!(rest.starts_with(&spans["POST /api/publish"].parent), "{spans:?}");
    for name in [
        "publish",
        "keep",
        "fan out",
        "post events",
        "ask the application",
        "forward",
        "take from a queue",
        "push at the door",
    ] {
        assert!(PAGE.contains(&format!("`{name}`")), "the page does not tell of {name}");
    }
}
