//! A backup is taken while the server works, and is whole.

use std::time::Duration;

use roomcast_rig::eventually;
use roomcast_rig::server::Server;
use roomcast_rig::writer::{self, Plan, Written};
use serde_json::json;
use tokio::sync::watch;

use crate::stage::Stage;

#[tokio::test]
async fn a_backup_under_load_has_all_that_was_acknowledged_before() {
    let stage = Stage::new();
    let mut server = Server::start(stage.setup()).await;
    let (stop, (progress, shown)) = (watch::Sender::new(false), watch::channel(Written::default()));
    let plan = Plan {
        address: server.address(),
        name: "writer".into(),
        rooms: vec!["lobby".into()],
        seed: 7,
        burst: 8,
        pause: Duration::from_millis(10),
        bytes: 500,
        changes: false,
        silence: None,
    };
    let (folder, told) = (stage.diaries(), stop.subscribe());
    let writing = tokio::spawn(async move { writer::write(plan, &folder, told, progress).await });
    eventually("some load", async || (shown.borrow().acked > 300).then_some(())).await;

    let before = shown.borrow().acked;
    let file = stage.home().join("backup.db");
    let mut command = server.setup.command(&["--store", &server.setup.store, "backup"]);
    command.arg(&file);
    let taken = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let after = shown.borrow().acked;
    assert!(!writing.is_finished(), "it was taken under load");
    stop.send_replace(true);
    let written = writing.await.expect("the writer does not fail");
    server.stop().await;

    // The restored server is another one, in another folder.
    let restored = Stage::new();
    std::fs::copy(&file, restored.home().join("roomcast.db")).expect("a backup is one file");
    let setup = restored.setup();
    let verified = setup.command(&["verify", "--store", &setup.store]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    let mut second = Server::start(setup).await;
    let mut reader = restored.guest(second.address(), "reader").await;
    let joined = reader.hears("joined", |frame| frame["t"] == "joined").await;
    let head = joined["s"].as_u64().expect("a head");
    println!(
        "{before} acknowledged before the backup, {after} after it, {head} in it, {} in all",
        written.sent
    );
    assert!((before..=written.sent).contains(&head), "{head} messages are in the backup");
    // One writer: the places are in the order of his numbers.
    for number in 1..=head {
        let entry = reader.hears("the next", |frame| frame["s"] == number && frame["r"] == "lobby").await;
        assert_eq!(entry["id"], json!(format!("writer-{number}")));
    }
    reader.goes().await;
    second.stop().await;
}
