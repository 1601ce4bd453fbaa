//! Promise: whoever runs the server sees how it is, and can stop it without anybody losing anything.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::{Value, json};

use crate::stage::guest::Guest;
use crate::stage::hall::{Hall, PROGRAM, program};
use crate::stage::tokens::{SECRET, Token};
use crate::stage::wire::{FIN, PONG, Seen};
use crate::stage::{dice, eventually};

#[tokio::test]
async fn the_server_says_how_it_is() {
    let hall = Hall::open().await;
    let alive = hall.get("/healthz").await;
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok\n"));
    let ready = hall.get("/readyz").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true, "reasons": []})));
    let metrics = hall.get("/metrics").await;
    let kind = metrics.header("content-type").expect("a type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(metrics.body.ends_with("# EOF\n"));
    for (path, code, why) in [("/nothing", 404, "not-found"), ("/api/publish", 405, "method")] {
        hall.get(path).await.is_refusal(code, why);
    }
}

#[tokio::test]
async fn figures_follow_what_happens() {
    let hall = Hall::open().await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    ann.says("one").await;
    ann.says("two").await;
    bob.hears("one").await;
    bob.hears("two").await;
    hall.publish(&json!({"r": "attic", "d": 3})).await;
    ann.sends("nonsense").await;
    ann.is_refused(400, "bad-json").await;
    for (figure, value) in [
        ("roomcast_connections", 2.0),
        ("roomcast_sessions", 2.0),
        ("roomcast_rooms", 2.0),
        ("roomcast_members", 2.0),
        ("roomcast_messages_accepted_total{via=\"session\"}", 2.0),
        ("roomcast_messages_accepted_total{via=\"api\"}", 1.0),
        ("roomcast_history_entries", 3.0),
        ("roomcast_errors_total{why=\"bad-json\"}", 1.0),
    ] {
        hall.figure_becomes(figure, |found| found == value).await;
    }
}

#[tokio::test]
async fn every_copy_is_accounted_for_after_a_wild_run() {
    let secret = format!("auth.secret={SECRET}");
    let hall = Hall::with(&[&secret, "limits.messages_per_second=0", "limits.outbox_bytes=100000"]).await;
    let mut dice = dice();
    let mut speaker = hall.enter_with(&Token::of("speaker").rooms(&["*"]).signed(), "speaker").await;
    let (mut here, data) = (Vec::<Guest>::new(), "x".repeat(20_000));
    for round in 0..400 {
        let room = format!("room-{}", dice.random_range(0..4));
        match dice.random_range(0..10) {
            0..=2 => here.push(hall.join(&room, &format!("guest-{round}")).await),
            3 if !here.is_empty() => {
                let at = dice.random_range(0..here.len());
                here[at].sends(json!({"t": "join", "r": room, "last": 10}).to_string()).await;
            }
            4 if !here.is_empty() => {
                here.swap_remove(dice.random_range(0..here.len())).wire.cut(dice.random())
            }
            5 if !here.is_empty() => {
                let at = dice.random_range(0..here.len());
                here[at].sends(json!({"t": "typing", "r": room}).to_string()).await;
                here[at].sends(json!({"t": "leave", "r": room}).to_string()).await;
            }
            // Nobody reads meanwhile, so that outboxes fill and readers are closed as slow.
            _ => {
                for _ in 0..20 {
                    speaker.sends(json!({"t": "pub", "r": room, "d": data}).to_string()).await;
                    speaker.hears_a("ack").await;
                }
            }
        }
    }
    for guest in here.drain(..) {
        guest.wire.cut(dice.random());
    }
    speaker.goes().await;
    hall.figure_becomes("roomcast_connections", |n| n == 0.0).await;
    let figures = hall.figures().await;
    let of = |name: &str| *figures.get(name).unwrap_or_else(|| panic!("no {name} in {figures:#?}"));
    let (slow, closed) = (
        of("roomcast_deliveries_dropped_total{reason=\"slow\"}"),
        of("roomcast_deliveries_dropped_total{reason=\"closed\"}"),
    );
    let (accepted, delivered) =
        (of("roomcast_deliveries_accepted_total"), of("roomcast_deliveries_delivered_total"));
    println!("accepted {accepted}, delivered {delivered}, slow {slow}, closed {closed}");
    assert!(delivered > 0.0 && closed > 0.0, "it was a wild run");
    assert_eq!(of("roomcast_deliveries_waiting"), 0.0);
    assert_eq!(accepted, delivered + slow + closed);
    assert_eq!(of("roomcast_outbox_bytes"), 0.0);
    assert_eq!((of("roomcast_sessions"), of("roomcast_members")), (0.0, 0.0));
    assert_eq!(of("roomcast_connections_opened_total"), of("roomcast_connections_closed_total"));
}

// ---- the end ----

#[tokio::test]
async fn a_stop_is_announced_and_polite_and_quick() {
    let mut hall = Hall::open().await;
    let mut guests = Vec::new();
    for n in 0..20 {
        guests.push(hall.join("lobby", &format!("guest-{n}")).await);
    }
    guests[0].says("last words").await;
    for guest in &mut guests[1..] {
        guest.hears("last words").from("guest-0").at(1).await;
    }
    let began = Instant::now();
    hall.signal("TERM");
    for guest in &mut guests {
        let bye = guest.is_closed_with(4200).await;
        assert_eq!(bye.text("why"), "restart");
        assert!((500..2_500).contains(&bye.number("wait")), "{}", bye.raw);
        guest.wire.writer.close(4200).await;
    }
    let status = hall.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert!(!hall.log().contains("cut"), "nobody was cut: {}", hall.log());
}

/// Somebody who keeps his connection open after it was closed, so that the server has something to wait for.
async fn stubborn(hall: &Hall) -> Guest {
    hall.join("lobby", "stubborn").await
}

#[tokio::test]
async fn a_stopping_server_is_not_ready_and_lets_nobody_in() {
    let mut hall = Hall::open().await;
    let guest = stubborn(&hall).await;
    hall.signal("TERM");
    let told = eventually("/readyz says 503", || async {
        Some(hall.get("/readyz").await).filter(|answer| answer.status == 503)
    });
    assert_eq!(told.await.json(), json!({"ready": false, "reasons": ["draining"]}));
    assert_eq!(hall.get("/healthz").await.status, 200, "it lives still");
    hall.knock("/v1/ws?user=late", &[]).await.expect_err("a late guest").is_refusal(503, "draining");
    hall.publish(&json!({"r": "lobby", "d": "late"})).await.is_refusal(503, "draining");
    guest.wire.cut(false);
    assert_eq!(hall.ended().await.code(), Some(0));
}

/// Signals that come closer together than this are one wish; far more than the server takes for it.
const SECOND_THOUGHT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn whoever_asks_again_does_not_want_to_wait() {
    let mut hall = Hall::with(&["server.drain=10m"]).await;
    let mut guest = stubborn(&hall).await;
    hall.signal("TERM");
    let bye = guest.hears_a("bye").await;
    assert_eq!(bye.number("code"), 4200);
    // Somebody sees it wait and asks again: the pause is the story.
    tokio::time::sleep(SECOND_THOUGHT).await;
    let began = Instant::now();
    hall.signal("TERM");
    let status = hall.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn one_wish_that_comes_twice_at_once_is_one() {
    let mut hall = Hall::open().await;
    let mut guest = hall.join("lobby", "ann").await;
    // As a process manager does that signals the process and its whole group.
    let pid = hall.pid().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid, &pid]).status().expect("kill can be run");
    assert!(sent.success());
    guest.is_closed_with(4200).await;
    guest.wire.writer.close(4200).await;
    assert_eq!(hall.ended().await.code(), Some(0));
}

#[tokio::test]
async fn whoever_does_not_answer_the_close_is_not_waited_for_longer_than_the_drain() {
    let mut hall = Hall::with(&["server.drain=1s"]).await;
    let mut guest = stubborn(&hall).await;
    let began = Instant::now();
    hall.signal("INT");
    guest.hears_a("bye").await;
    assert_eq!(hall.ended().await.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(10));
    assert!(hall.log().contains("1 sessions did not end in time"), "{}", hall.log());
    // It was no rude end for him either: the close frame is there.
    assert_eq!(guest.wire.until_closed().await.0, Some(4200));
}

#[tokio::test]
async fn a_pong_that_nobody_asked_for_keeps_nothing_waiting() {
    let mut hall = Hall::open().await;
    let mut guest = hall.join("lobby", "ann").await;
    guest.wire.writer.frame(FIN | PONG, b"").await;
    hall.signal("TERM");
    guest.is_closed_with(4200).await;
    guest.wire.writer.close(4200).await;
    assert_eq!(guest.wire.next().await, Seen::End);
    assert_eq!(hall.ended().await.code(), Some(0));
}

// ---- the command line ----

/// Runs the program with these arguments in an empty folder.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().expect("a folder");
    run_in(program(PROGRAM, home.path()).args(arguments))
}

fn run_in(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

#[test]
fn version_tells_the_version() {
    let (code, out, err) = run(&["version"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, concat!("roomcast ", env!("CARGO_PKG_VERSION"), "\n"), "")
    );
}

#[test]
fn check_config_tells_what_differs_and_what_cannot_work() {
    let (code, out, _) = run(&["check-config"]);
    assert_eq!(code, 0);
    assert!(out.contains("every key has its default"), "{out}");
    let (code, out, _) =
        run(&["check-config", "--set", "limits.ping=30s", "--set", "auth.secret=a-secret-of-32-bytes"]);
    assert_eq!(code, 0);
    assert!(out.contains("limits.ping = \"30s\"") && out.contains("2 keys differ"), "{out}");
    assert!(out.contains("auth.secret = (set)") && !out.contains("a-secret"), "{out}");
    for (flags, hint) in [
        (vec!["--set", "limits.pong=30s"], "ping"),
        (vec!["--set", "limits.ping=soon"], "limits.ping"),
        (vec!["--set", "limits.ping=0s"], "limits.ping"),
        (vec!["--set", "limits.ping"], "--set"),
        (vec!["--set", "server.listen=nowhere"], "server.listen"),
        (vec!["--config", "missing.toml"], "missing.toml"),
        (vec!["--no-such-flag"], "--no-such-flag"),
    ] {
        let (code, out, err) = run(&[&["check-config"], &flags[..]].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{flags:?}");
        assert!(err.contains(hint), "{flags:?} should hint at {hint}: {err}");
    }
}

#[test]
fn a_file_is_read_and_its_faults_are_named_by_line() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("config.toml"), "[limits]\nping = \"30s\"\n").expect("a file");
    let (code, out, _) = run_in(program(PROGRAM, home.path()).arg("check-config"));
    assert_eq!(code, 0);
    assert!(out.contains("config.toml") && out.contains("limits.ping = \"30s\""), "{out}");
    let environment = ("ROOMCAST__LIMITS__PING", "40s");
    let (_, out, _) =
        run_in(program(PROGRAM, home.path()).arg("check-config").env(environment.0, environment.1));
    assert!(out.contains("limits.ping = \"40s\""), "the environment goes before the file: {out}");
    std::fs::write(home.path().join("config.toml"), "[limits]\npings = \"30s\"\n").expect("a file");
    let (code, _, err) = run_in(program(PROGRAM, home.path()).arg("check-config"));
    assert_eq!(code, 2);
    assert!(err.contains("pings") && err.contains("ping") && err.contains('2'), "{err}");
}

#[test]
fn an_address_that_is_taken_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, err) = run(&["--listen", &address, "--set", "queue.door.listen="]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&address) && err.contains("--listen"), "{err}");
}

#[tokio::test]
async fn token_makes_tokens_that_the_server_takes() {
    let secret = format!("auth.secret={SECRET}");
    let (code, token, err) = run(&["token", "--set", &secret, "--user", "ann", "--rooms", "lobby, team-*"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let hall = Hall::with(&[&secret, "demo.enabled=off"]).await;
    let mut ann = hall.enter_with(token.trim(), "ann").await;
    ann.joins("team-red").await;
    ann.asks(json!({"t": "join", "r": "attic"})).await.is_err(403, "not-allowed");
    let (_, token, _) = run(&["token", "--set", &secret, "--user", "bob", "--expires", "forever"]);
    hall.enter_with(token.trim(), "bob").await.joins("attic").await;
    for wrong in [
        vec!["token", "--user", "ann"],
        vec!["token", "--set", &secret],
        vec!["token", "--set", &secret, "--user", ""],
        vec!["token", "--set", &secret, "--user", "ann", "--expires", "soon"],
    ] {
        let (code, out, err) = run(&wrong);
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}");
        assert!(!err.is_empty() && !err.contains(SECRET), "{err}");
    }
}

#[tokio::test]
async fn send_says_something_and_its_exit_code_tells_how_it_went() {
    let hall = Hall::with(&["auth.api_keys=key-one-of-the-shop"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let url = format!("http://{}", hall.address());
    let key = "auth.api_keys=key-one-of-the-shop";
    // The story's own thread keeps the guests awake, so the program runs on another.
    let run = async |arguments: Vec<String>| {
        let running = tokio::task::spawn_blocking(move || {
            run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        });
        running.await.expect("it ran")
    };
    let send = |more: &[&str]| -> Vec<String> {
        ["send", "lobby", "hello \"all\""].iter().chain(more).map(|text| (*text).to_owned()).collect()
    };
    let (code, out, err) = run(send(&["--url", &url, "--set", key, "--id", "s-1"])).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let told: Value = serde_json::from_str(&out).expect("it prints the answer");
    assert_eq!((&told["r"], &told["s"], &told["dup"]), (&json!("lobby"), &json!(1), &json!(false)));
    ann.hears("hello \"all\"").at(1).with_id("s-1").await;
    let (code, out, _) = run(send(&["--url", &url, "--set", key, "--id", "s-1"])).await;
    assert_eq!((code, out.contains("\"dup\":true")), (0, true), "{out}");
    let (code, _, err) = run(send(&["--url", &url, "--set", "auth.api_keys=some-other-long-key"])).await;
    assert_eq!(code, 1);
    assert!(err.contains("401") && !err.contains("some-other-long-key"), "{err}");
    let (code, _, err) = run(send(&["--url", "http://127.0.0.1:1"])).await;
    assert_eq!(code, 69);
    assert!(err.contains("127.0.0.1:1") && err.contains("start it"), "{err}");
    for wrong in [send(&["--url", "nowhere"]), vec!["send".into(), "lobby".into()]] {
        assert_eq!(run(wrong).await.0, 2);
    }
    ann.hears_no_message().await;
}

// ---- what is written ----

#[tokio::test]
async fn json_logs_are_one_object_per_line_with_the_usual_names() {
    let mut hall =
        Hall::with_flags(&["server.drain=1s"], &["--log-format", "json", "--log-level", "debug"]).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.sends("nonsense").await;
    ann.is_refused(400, "bad-json").await;
    hall.signal("TERM");
    ann.is_closed_with(4200).await;
    hall.ended().await;
    let log = hall.log();
    assert!(log.contains("stopping"), "{log}");
    for line in log.lines() {
        let json: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        let text = |key: &str| json[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}"));
        assert!(["DEBUG", "INFO", "WARNING", "ERROR"].contains(&text("severity")), "{line}");
        assert!(text("time").ends_with('Z') && text("time").len() == 24, "{line}");
        assert!(!text("message").is_empty(), "{line}");
    }
}
