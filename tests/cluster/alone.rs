//! Nodes with database files of their own do not share a Redis: each would give out the same places.

use tempfile::TempDir;

use roomcast_rig::server::{Server, Setup};

use crate::redis::{Redis, Shape};
use crate::wires::Wires;

/// A node with a file of its own, in a folder of its own, that takes from this Redis.
fn with_a_file(redis: &Redis) -> (Server, TempDir) {
    let home = tempfile::tempdir().expect("temporary files can be made");
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), home.path());
    let url = format!("redis://127.0.0.1:{}", redis.servers[0].port);
    setup.environment.push(("REDIS_URL".to_owned(), url));
    (Server::new(setup), home)
}

async fn starts(mut server: Server) -> Server {
    server.spawn();
    server.is_ready().await;
    server
}

#[tokio::test]
async fn a_second_node_with_a_file_of_its_own_is_refused_with_the_reason() {
    let (home, wires) = (tempfile::tempdir().expect("temporary files can be made"), Wires::new());
    let redis = Redis::start(Shape::Single, home.path(), &wires).await;
    let (first, _files) = with_a_file(&redis);
    let mut first = starts(first).await;

    let (mut second, _its_files) = with_a_file(&redis);
    second.spawn();
    assert_eq!(second.is_dead().await.code(), Some(2), "{}", second.last_words());
    let why = second.log();
    assert!(why.contains("a database file of its own") && why.contains("postgres://"), "{why}");
    first.says("/readyz", 200).await;

    // Its own claim does not keep it out after a crash.
    first.kill();
    let mut first = starts(first).await;
    // One that is gone for good is waited for, and followed.
    first.kill();
    starts(second).await;
}
