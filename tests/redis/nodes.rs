//! Several nodes on one list, and what becomes of the items of those that die or hang.

use std::collections::HashSet;

use crate::fixtures::backend::{Backend, Ids, command, numbered, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;
use roomcast::sources::list_keys::ListKeys;
use roomcast::sources::node::ProcessMark;
use roomcast::sources::redis_list::{Claim, RedisList, is_lost};

#[actix_rt::test]
async fn three_nodes_take_each_item_once() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let nodes = ["a", "b", "c"].map(|name| Node::start(&server.url(), name, &rooms));
    for node in &nodes {
        node.is_connected().await;
    }
    let backends = [(); 4].map(|()| Backend::start(&server.url(), Ids::Own));
    rooms.wait_for_all(&nodes).await;
    let mut pushed = 0;
    for backend in backends {
        pushed = pushed.max(backend.stop().await.0);
    }
    let heard = rooms.hear(pushed as usize).await;
    let distinct: HashSet<_> = heard.iter().map(|heard| heard.data.clone()).collect();
    assert_eq!(distinct.len(), heard.len());
    assert!(nodes.iter().all(|node| node.counters.accepted() > 0), "all of them had work");
}

impl Rooms {
    /// Waits until every node has brought something.
    async fn wait_for_all(&self, nodes: &[Node]) {
        eventually("every node to take items", async || {
            nodes.iter().all(|node| node.counters.accepted() >= 20).then_some(())
        })
        .await;
    }
}

#[actix_rt::test]
async fn every_item_is_taken_by_one_node_only() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let nodes = ["a", "b", "c"].map(|name| Node::start(&server.url(), name, &rooms));
    for number in 0..3_000 {
        // Without ids of their own: taken twice, an item would be heard twice.
        push(&mut redis, number.to_string()).await.unwrap();
    }
    let heard = rooms.hear(3_000).await;
    let distinct: HashSet<_> = heard.iter().map(|heard| heard.data.clone()).collect();
    assert_eq!((heard.len(), distinct.len()), (3_000, 3_000));
    assert_eq!(nodes.iter().map(|node| node.counters.taken()).sum::<u64>(), 3_000);
}

#[actix_rt::test]
async fn the_items_of_a_dead_node_are_adopted_under_their_ids_and_before_newer_ones() {
    let (server, rooms, deaf) = (Server::start(&[]).await, Rooms::open(), Rooms::open());
    let mut redis = server.connect().await;
    deaf.be_busy(true);
    let dying = Node::start(&server.url(), "dying", &deaf);
    let items: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    push(&mut redis, &items).await.unwrap();
    deaf.be_asked(1).await;
    dying.crash();
    let mut ids: Vec<String> = command(&mut redis, &["HKEYS", "{message_queue}:proc:dying"]).await;
    ids.sort();
    assert_eq!(ids.len(), 100);
    // One more that the dead node had been handed and not yet taken.
    command::<i64>(&mut redis, &["LPUSH", "{message_queue}:in:dying", "100"]).await;
    let heir = Node::start(&server.url(), "heir", &rooms);
    let heard = rooms.hear(101).await;
    let heard_ids: Vec<String> = heard.iter().take(100).map(|heard| heard.id.clone().unwrap()).collect();
    assert_eq!(heard_ids, ids);
    let wanted: Vec<String> = (0..=100).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
    assert_eq!(heir.counters.adopted(), 101);
    heir.drain().await;
    let left: Vec<String> = command(&mut redis, &["KEYS", "*"]).await;
    assert_eq!(left, ["{message_queue}:nodes"], "the register forgets the dead node after an hour");
}

#[actix_rt::test]
async fn a_node_that_hung_says_nothing_that_another_has_adopted() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let (first, second) = (Rooms::open(), &rooms);
    first.be_busy(true);
    let hanging = Node::start(&server.url(), "hanging", &first);
    let items: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    push(&mut redis, &items).await.unwrap();
    first.be_asked(1).await;
    let thaw = hanging.freeze();
    let _heir = Node::start(&server.url(), "heir", second);
    second.hear(50).await;
    first.be_busy(false);
    drop(thaw);
    let lost = async || (hanging.counters.connects() >= 2).then_some(());
    eventually("the hanging node to find its lease gone", lost).await;
    hanging.is_connected().await;
    assert!(first.heard().is_empty(), "it said {:?}", first.data());
    // It goes on as a node like any other.
    for number in 0..200 {
        push(&mut redis, numbered(number)).await.unwrap();
    }
    eventually("all items", async || (first.heard().len() + second.heard().len() == 250).then_some(())).await;
}

#[actix_rt::test]
async fn a_second_living_node_of_the_same_name_goes_on_under_another() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let one = Node::start(&server.url(), "same", &rooms);
    one.is_connected().await;
    let two = Node::start(&server.url(), "same", &rooms);
    two.is_connected().await;
    let mut nodes: Vec<String> = command(&mut redis, &["ZRANGE", "{message_queue}:nodes", "0", "-1"]).await;
    nodes.sort();
    assert_eq!((nodes.len(), nodes[0].as_str()), (2, "same"));
    assert!(nodes[1].starts_with("same-"), "{nodes:?}");
    assert!(one.counters.is_connected());
}

#[actix_rt::test]
async fn the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", other.id())).unwrap();
    let ticks = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let lease = format!("nonce|{}|{}|{}|{ticks}#1", boot.trim(), namespace.display(), other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    command::<()>(&mut redis, &["SET", "{message_queue}:lease:a", &lease, "PX", "3600000"]).await;
    command::<i64>(&mut redis, &["HSET", "{message_queue}:proc:a", "000-left-1", "7"]).await;
    let _node = Node::start(&server.url(), "a", &rooms);
    let heard = rooms.hear(1).await;
    assert_eq!((heard[0].id.as_deref(), heard[0].data.as_str()), (Some("000-left-1"), "7"));
    assert_eq!(command::<i64>(&mut redis, &["EXISTS", LIST]).await, 0);
}

#[actix_rt::test]
async fn a_late_command_of_a_lease_that_is_gone_does_nothing() {
    let server = Server::start(&[]).await;
    let mut redis = server.connect().await;
    let lease = std::time::Duration::from_secs(60);
    let holder =
        || RedisList::new(ListKeys::new(LIST).unwrap(), "a", ProcessMark::of_this_process(), lease, false);
    let (old, new) = (holder(), holder());
    assert!(matches!(old.claim(&mut redis, "").await.unwrap(), Claim::Held));
    push(&mut redis, &["1", "2"]).await.unwrap();
    assert_eq!(old.take(&mut redis, &[]).await.unwrap().len(), 2);
    push(&mut redis, "3").await.unwrap();
    let Claim::HeldBy { value, .. } = new.claim(&mut redis, "").await.unwrap() else { panic!("it is held") };
    assert!(matches!(new.claim(&mut redis, &value).await.unwrap(), Claim::Held));
    let ids = old.working(&mut redis).await.unwrap();
    assert!(is_lost(&old.take(&mut redis, &ids).await.unwrap_err()));
    assert!(is_lost(&old.read(&mut redis, &ids).await.unwrap_err()));
    assert!(is_lost(&old.bury(&mut redis, &[(&ids[0], "{}".into())], 10).await.unwrap_err()));
    assert!(is_lost(&old.adopt(&mut redis, "b").await.unwrap_err()));
    assert!(is_lost(&old.leave(&mut redis).await.unwrap_err()));
    assert!(is_lost(&old.renew(&mut redis).await.unwrap_err()));
    let items: Vec<Vec<u8>> =
        new.read(&mut redis, &ids).await.unwrap().into_iter().map(|entry| entry.item).collect();
    assert_eq!(items, [b"1", b"2"]);
    assert_eq!(command::<i64>(&mut redis, &["LLEN", LIST]).await, 1, "the third item still waits");
}
