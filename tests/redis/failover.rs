//! The primary dies or hangs under load: nothing that was acknowledged is lost, the order is kept, and
//! the queue finds the new primary by itself.

use std::collections::HashSet;
use std::time::Instant;

use crate::fixtures::backend::{Backend, Ids};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::{Cluster, Sentinels, Server};

/// Runs a backend and a node, breaks something in between, and checks what was heard.
async fn under_load(story: &str, url: &str, ids: Ids, strike: impl AsyncFnOnce()) {
    let rooms = Rooms::open();
    let node = Node::start(url, "a", &rooms);
    let backend = Backend::start(url, ids);
    rooms.hear(300).await;
    let struck = Instant::now();
    strike().await;
    let pushed = backend.pushed();
    eventually("the backend to go on", async || (backend.pushed() >= pushed + 300).then_some(())).await;
    rooms.hear(pushed as usize + 300).await;
    let (acknowledged, pushed_again) = backend.stop().await;
    let heard = rooms.hear(acknowledged as usize).await;
    let mut numbers: Vec<u64> = heard.iter().map(|heard| heard.data.parse().unwrap()).collect();
    if ids == Ids::None {
        // What the backend itself pushed twice may be heard twice, and nothing else.
        let mut seen = HashSet::new();
        numbers.retain(|number| seen.insert(*number) || !pushed_again.contains(number));
    }
    // The last item may have been pushed without the backend hearing so.
    let wanted: Vec<u64> = (0..numbers.len() as u64).collect();
    assert!(wanted.len() as u64 >= acknowledged);
    assert_eq!(numbers, wanted, "each once and in order");
    println!(
        "{story}: {acknowledged} acknowledged, 0 lost, {} repeats known by their id, longest silence {:.1} s, {} connects",
        rooms.repeats().len(),
        rooms.longest_gap(struck).as_secs_f32(),
        node.counters.connects()
    );
}

#[actix_rt::test]
async fn sentinel_and_the_primary_is_killed() {
    let mut group = Sentinels::start().await;
    under_load("sentinel, kill -9", &group.url(), Ids::Own, async || group.primary().kill()).await;
}

#[actix_rt::test]
async fn sentinel_and_the_primary_hangs() {
    let mut group = Sentinels::start().await;
    under_load("sentinel, SIGSTOP", &group.url(), Ids::Own, async || group.primary().freeze()).await;
    group.primary().thaw();
}

#[actix_rt::test]
async fn sentinel_and_the_primary_is_killed_while_items_have_no_ids() {
    let mut group = Sentinels::start().await;
    under_load("sentinel, kill -9, no ids", &group.url(), Ids::None, async || group.primary().kill()).await;
}

#[actix_rt::test]
async fn cluster_and_the_primary_is_killed() {
    let mut cluster = Cluster::start().await;
    under_load("cluster, kill -9", &cluster.url(), Ids::Own, async || cluster.primary_of(LIST).await.kill())
        .await;
}

#[actix_rt::test]
async fn cluster_and_the_primary_hangs() {
    let mut cluster = Cluster::start().await;
    under_load("cluster, SIGSTOP", &cluster.url(), Ids::Own, async || {
        cluster.primary_of(LIST).await.freeze()
    })
    .await;
}

#[actix_rt::test]
async fn a_single_server_is_killed_and_comes_back_with_what_it_had_written() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    under_load("single, kill -9 and restart", &server.url(), Ids::Own, async || {
        server.kill();
        server.restart().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_single_server_hangs_for_longer_than_a_lease() {
    let server = Server::start(&[]).await;
    under_load("single, SIGSTOP for 4 s", &server.url(), Ids::Own, async || {
        server.freeze();
        // Longer than every response time-out and than the lease of the stories.
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        server.thaw();
    })
    .await;
}
