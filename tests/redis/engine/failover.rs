//! The primary dies, hangs, comes back empty or is left behind, while writers write: what was acknowledged is kept,
//! once, at one place, on all nodes.

use std::rc::Rc;
use std::time::Duration;

use roomcast::engines::shared::Safety;

use super::load::Load;
use super::stage::{Node, judge, message};
use super::switch::Switch;
use crate::fixtures::backend::command;
use crate::fixtures::eventually;
use crate::fixtures::servers::{Sentinels, Server};

async fn joined(urls: &[&str]) -> Vec<Rc<Node>> {
    let mut nodes = Vec::new();
    for (at, url) in urls.iter().enumerate() {
        let node = Rc::new(Node::start(url, at as u32 + 1));
        node.join("a").await;
        nodes.push(node);
    }
    nodes
}

/// A primary with a replica that is in step.
pub async fn pair() -> (Server, Server) {
    let primary = Server::start(&[]).await;
    let port = primary.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    let mut redis = primary.connect().await;
    eventually("the replica to be in step", async || {
        let info: String = command(&mut redis, &["INFO", "replication"]).await;
        info.contains("state=online").then_some(())
    })
    .await;
    (primary, replica)
}

/// The replica hears nothing any more, and will be a primary.
pub async fn cut(replica: &Server) {
    let client = redis::Client::open(replica.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut redis).await.unwrap();
}

#[actix_rt::test]
async fn an_engine_starts_while_redis_is_away() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let node = Node::start(&server.url(), 1);
    eventually("trouble to be told", async || {
        node.health()
            .last()
            .is_some_and(|health| health.as_ref().is_some_and(|why| why.contains("Redis")))
            .then_some(())
    })
    .await;
    let refused = node.say("a", "x");
    assert!(matches!(node.settled(refused).await, roomcast::engines::shared::Outcome::Refused(_)));
    let waits = node.say("a", "y");
    server.restart().await;
    node.is_well().await;
    assert_eq!(node.place(waits).await, (1, false));
}

#[actix_rt::test]
async fn redis_is_killed_and_comes_back_empty() {
    let mut server = Server::start(&[]).await;
    let url = server.url();
    let nodes = joined(&[&url, &url]).await;
    let load = Load::start(&nodes, "a", Safety::Replicated);
    for _ in 0..2 {
        load.goes_on(500).await;
        server.kill();
        server.restart().await;
        load.goes_on(500).await;
    }
    load.ends_well("empty return").await;
    for node in &nodes {
        assert!(node.seen("a").rewinds.is_empty() && node.seen("a").skips.is_empty());
    }
}

#[actix_rt::test]
async fn an_idle_room_goes_on_after_an_empty_return() {
    let mut server = Server::start(&[]).await;
    let nodes = joined(&[&server.url()]).await;
    for n in 1..=3 {
        nodes[0].place(nodes[0].say("a", &format!("m{n}"))).await;
    }
    nodes[0].reaches("a", 3).await;
    server.kill();
    server.restart().await;
    assert_eq!(nodes[0].place(nodes[0].say("a", "next")).await, (4, false), "no place is given out twice");
    let repeat = nodes[0].say("a", "m2");
    assert_eq!(nodes[0].place(repeat).await, (2, true), "the ids are known again");
}

async fn replica_takes_over(safety: Safety) {
    let (mut primary, replica) = pair().await;
    let switch = Switch::start(primary.port).await;
    let nodes = joined(&[&switch.url(), &switch.url()]).await;
    let load = Load::start(&nodes, "a", safety);
    load.goes_on(500).await;
    cut(&replica).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    primary.kill();
    // A word of which only the answer got through, and to none of them the entry, would be another story.
    switch.is_quiet().await;
    switch.turn_to(replica.port);
    load.goes_on(500).await;
    load.ends_well(&format!("replica promoted, {safety:?}")).await;
    for node in &nodes {
        assert!(node.seen("a").rewinds.is_empty() && node.seen("a").skips.is_empty());
    }
}

#[actix_rt::test]
async fn a_replica_that_was_cut_off_takes_over_with_replicated_acks() {
    replica_takes_over(Safety::Replicated).await;
}

#[actix_rt::test]
async fn a_replica_that_was_cut_off_takes_over_with_fast_acks() {
    replica_takes_over(Safety::Sequenced).await;
}

#[actix_rt::test]
async fn a_node_that_stays_with_the_old_primary_takes_back_and_says_again() {
    let (primary, replica) = pair().await;
    let (left, right) = (Switch::start(primary.port).await, Switch::start(primary.port).await);
    let nodes = joined(&[&left.url(), &right.url()]).await;
    let load = Load::start(&nodes, "a", Safety::Sequenced);
    load.goes_on(500).await;
    cut(&replica).await;
    right.turn_to(replica.port);
    // Until the others have gone on: the left one does not come in time for the repair.
    let mut redis = replica.connect().await;
    eventually("the right node to be at the new primary", async || {
        let fence: Option<String> = command(&mut redis, &["GET", "chat:{p0}f"]).await;
        let info: String = command(&mut redis, &["INFO", "server"]).await;
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim().to_owned();
        fence.filter(|fence| fence.ends_with(&run)).map(drop)
    })
    .await;
    load.goes_on(300).await;
    let before = nodes[0].seen("a").top;
    left.turn_to(replica.port);
    load.goes_on(500).await;
    load.ends_well("split brain").await;
    let rewinds = nodes[0].seen("a").rewinds;
    assert!(rewinds.len() == 1 && rewinds[0] < before, "{rewinds:?} of {before}");
    assert!(nodes[1].seen("a").rewinds.is_empty());
    drop(primary);
}

/// What is acknowledged behind places that its node has not heard of keeps its place, and so these are taken back where
/// they were heard, and said again.
#[actix_rt::test]
async fn places_that_nobody_at_the_new_primary_has_heard_of_are_said_again() {
    let (primary, replica) = pair().await;
    let (left, right) = (Switch::start(primary.port).await, Switch::start(primary.port).await);
    let nodes = joined(&[&left.url(), &right.url()]).await;
    let says = async |at: usize, id: &str| {
        let node: &Node = &nodes[at];
        let ticket = node.propose(message("a", id), id, true, Safety::Sequenced);
        (id.to_owned(), node.place(ticket).await.0)
    };
    let mut acked = vec![says(0, "both-heard").await];
    nodes[1].reaches("a", 1).await;
    cut(&replica).await;
    right.deafen();
    for id in ["left-1", "left-2", "left-3"] {
        says(0, id).await;
    }
    acked.push(says(1, "right-behind-them").await);
    assert_eq!((acked[1].1, nodes[1].seen("a").top), (5, 1));
    right.turn_to(replica.port);
    acked.push(says(1, "right-goes-on").await);
    assert_eq!(acked[2].1, 6);
    left.turn_to(replica.port);
    acked.push(says(0, "left-comes-after").await);
    acked.extend(["left-1", "left-2", "left-3"].map(|id| (id.to_owned(), 0)));
    // Three are said again, and one is new.
    for node in &nodes {
        node.reaches("a", 10).await;
    }
    assert_eq!(nodes[0].seen("a").rewinds, [1], "where they were heard they are taken back");
    assert!(nodes[1].seen("a").rewinds.is_empty(), "who has not heard them has nothing to take back");
    judge(&[&nodes[0], &nodes[1]], "a", &acked);
    drop(primary);
}

#[actix_rt::test]
async fn a_primary_that_hangs_counts_as_dead_until_it_answers() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let nodes = joined(&[&url, &url]).await;
    let load = Load::start(&nodes, "a", Safety::Replicated);
    load.goes_on(300).await;
    server.freeze();
    eventually("the nodes to notice", async || {
        nodes.iter().all(|node| node.health().last().is_some_and(Option::is_some)).then_some(())
    })
    .await;
    server.thaw();
    load.goes_on(300).await;
    load.ends_well("frozen and thawed").await;
}

async fn sentinels_choose(fate: impl FnOnce(&mut Server)) {
    let mut group = Sentinels::start().await;
    let url = group.url();
    let nodes = joined(&[&url, &url]).await;
    let load = Load::start(&nodes, "a", Safety::Replicated);
    load.goes_on(300).await;
    fate(group.primary());
    load.goes_on(500).await;
    load.ends_well("sentinel").await;
    for node in &nodes {
        assert!(node.seen("a").skips.is_empty());
    }
}

#[actix_rt::test]
async fn the_sentinels_choose_another_primary_when_it_is_killed() {
    sentinels_choose(Server::kill).await;
}

#[actix_rt::test]
async fn the_sentinels_choose_another_primary_when_it_hangs() {
    sentinels_choose(|server| server.freeze()).await;
}

#[actix_rt::test]
async fn a_server_that_was_left_behind_is_not_gone_back_to() {
    let (old, new) = pair().await;
    let switch = Switch::start(old.port).await;
    let nodes = joined(&[&switch.url()]).await;
    nodes[0].place(nodes[0].say("a", "x")).await;
    cut(&new).await;
    switch.turn_to(new.port);
    nodes[0].place(nodes[0].say("a", "y")).await;
    // Somebody's table of addresses is old.
    switch.turn_to(old.port);
    let said = nodes[0].say("a", "z");
    eventually("the old server to be refused", async || {
        let health = nodes[0].health();
        health.last().and_then(Option::as_ref).is_some_and(|why| why.contains("left behind")).then_some(())
    })
    .await;
    assert_eq!(nodes[0].outcome(said), None);
    switch.turn_to(new.port);
    assert_eq!(nodes[0].place(said).await, (3, false));
    let seen = nodes[0].reaches("a", 3).await;
    assert!(seen.rewinds.is_empty() && nodes[0].faults().is_empty(), "{:?}", seen.rewinds);
}
