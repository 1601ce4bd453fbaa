//! What is old is forgotten while it is written: exactly, and in bounded room on the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use roomcast_rig::checker::Checker;
use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::Server;
use roomcast_rig::writer::{self, Plan, Written};
use serde_json::json;
use tokio::sync::watch;

use crate::stage::Stage;

const RULE: &str = "[[rooms.rule]]\nmatch = \"lobby\"\nkeep = \"2s\"\n";
const WRITES_FOR: Duration = Duration::from_secs(10);
/// Files are made longer in steps, and what is free is used again: they may differ by so much.
const SLACK: u64 = 6 << 20;

#[tokio::test]
async fn four_writers_do_not_outgrow_a_room_that_keeps_two_seconds() {
    let stage = Stage::new();
    let mut setup = stage.setup();
    setup.file = RULE.into();
    // Without a long memory, so that what is asked for has to come from the store.
    let mut server = Server::start(setup.with("rooms.history=16")).await;
    let (stop, progress) = (watch::Sender::new(false), watch::Sender::new(Written::default()));
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let plan = Plan {
                address: server.address(),
                name: format!("writer-{number}"),
                rooms: vec!["lobby".into(), "kept".into()],
                seed: number,
                burst: 8,
                pause: Duration::from_millis(40),
                bytes: 1_500,
                changes: false,
                silence: None,
            };
            let (folder, stop, progress) = (stage.diaries(), stop.subscribe(), progress.clone());
            tokio::spawn(async move { writer::write(plan, &folder, stop, progress).await })
        })
        .collect();

    let (began, mut bytes) = (Instant::now(), Vec::new());
    let mut visit = 0;
    while began.elapsed() < WRITES_FOR {
        old_reader(&stage, &server, visit).await;
        visit += 1;
        bytes.push((began.elapsed(), store_bytes(stage.home())));
    }
    stop.send_replace(true);
    let mut acked = 0;
    for writer in writers {
        acked += writer.await.expect("a writer does not fail").acked;
    }
    let half = |late: bool| {
        let half = bytes.iter().filter(|(at, _)| (*at > WRITES_FOR / 2) == late);
        half.map(|(_, bytes)| *bytes).max().expect("it was looked at in both halves")
    };
    println!("{acked} messages, {visit} visits; store at most {} then {} bytes", half(false), half(true));
    // What the other room keeps is in the file as well: about half of what was said.
    let kept = acked * 1_500;
    assert!(half(true) <= half(false) + kept + SLACK, "the store grows: {bytes:?}");

    // In the end nothing of the room is left but its head.
    let address = server.address();
    let forgotten = async || {
        let mut guest = enter_since_one(&stage, address, "late").await;
        let joined = guest.hears("joined", |frame| frame["t"] == "joined").await;
        guest.goes().await;
        (joined["n"] == 0 && joined["missing"] == json!([2, joined["s"]])).then_some(())
    };
    eventually("the room to forget all but its head", forgotten).await;
    stage.last_reader(address, &["lobby", "kept"]).await;
    server.stop().await;
    let verified = server.setup.command(&["verify", "--store", &server.setup.store]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let report = stage.verdict(Checker::of_a_forgetful_server());
    assert!(report.is_clean(), "the judge finds:\n{report}");
    assert!(report.forgotten > 0, "{report}");
    assert!(report.acked == acked && acked > 200, "{report}");
}

async fn enter_since_one(stage: &Stage, address: std::net::SocketAddr, name: &str) -> Guest {
    let rooms = json!({"rooms": {"lobby": {"since": 1}}});
    Guest::enter(address, &stage.diaries(), name, rooms).await
}

/// A reader who knows only the first place is told exactly what is gone, and gets the rest without a hole.
async fn old_reader(stage: &Stage, server: &Server, visit: u64) {
    let known = async || {
        let mut guest = enter_since_one(stage, server.address(), &format!("old-{visit}")).await;
        let joined = guest.hears("joined", |frame| frame["t"] == "joined").await;
        let head = joined["s"].as_u64().expect("a head");
        // Before the first message there is no place that one could go on from.
        let there = head > 1 && joined["missing"] != "all";
        if there {
            let first = match joined["missing"].as_array() {
                Some(range) => {
                    assert_eq!(range[0], 2, "what was asked for begins at 2: {joined}");
                    range[1].as_u64().expect("an offset") + 1
                }
                None => 2,
            };
            assert_eq!(joined["n"], json!(head + 1 - first), "{joined}");
            guest.hears("live", |frame| frame["t"] == "live").await;
        }
        guest.goes().await;
        there.then_some(())
    };
    eventually("a message to go on from", known).await;
}

/// Bytes of the database with its log.
fn store_bytes(home: &Path) -> u64 {
    let of = |name: &str| std::fs::metadata(home.join(name)).map_or(0, |file| file.len());
    of("roomcast.db") + of("roomcast.db-wal")
}
