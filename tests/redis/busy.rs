//! A busy server slows the queue; it neither loses items nor piles them up in memory.

use crate::fixtures::backend::{command, numbered, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;

#[actix_rt::test]
async fn while_the_rooms_are_busy_items_stay_in_redis() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    rooms.be_busy(true);
    let node = Node::start(&server.url(), "a", &rooms);
    for number in 0..5_000 {
        push(&mut redis, numbered(number)).await.unwrap();
    }
    rooms.be_asked(5).await;
    assert!(rooms.heard().is_empty() && node.counters.accepted() == 0);
    assert!(node.counters.taken() <= 256, "one batch waits, no more: {}", node.counters.taken());
    let waiting: i64 = command(&mut redis, &["LLEN", LIST]).await;
    assert!(waiting >= 5_000 - 256, "the rest waits in redis: {waiting}");
    rooms.be_busy(false);
    rooms.hear(5_000).await;
    let wanted: Vec<String> = (0..5_000).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
    assert!(node.counters.waits() >= 5);
}

#[actix_rt::test]
async fn a_drain_while_busy_leaves_everything_in_redis_for_the_next_start() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    rooms.be_busy(true);
    let items: Vec<String> = (0..500).map(numbered).collect();
    push(&mut redis, &items).await.unwrap();
    let node = Node::start(&server.url(), "a", &rooms);
    rooms.be_asked(2).await;
    node.drain().await;
    assert!(rooms.heard().is_empty());
    let kept: i64 = command(&mut redis, &["HLEN", "{message_queue}:proc:a"]).await;
    let waiting: i64 = command(&mut redis, &["LLEN", LIST]).await;
    let lease: i64 = command(&mut redis, &["EXISTS", "{message_queue}:lease:a"]).await;
    assert_eq!((kept + waiting, lease), (500, 0));
    rooms.be_busy(false);
    let _node = Node::start(&server.url(), "a", &rooms);
    rooms.hear(500).await;
    let wanted: Vec<String> = (0..500).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
}

#[actix_rt::test]
async fn what_a_node_was_handed_goes_back_in_order_at_a_drain() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let node = Node::start(&server.url(), "a", &rooms);
    node.is_connected().await;
    rooms.be_busy(true);
    push(&mut redis, numbered(0)).await.unwrap();
    rooms.be_asked(1).await;
    // As if two blocking waits had been answered while the batch of item 0 was waiting.
    for number in 1..=2 {
        command::<i64>(&mut redis, &["LPUSH", "{message_queue}:in:a", &numbered(number)]).await;
    }
    push(&mut redis, numbered(3)).await.unwrap();
    node.drain().await;
    let list: Vec<String> = command(&mut redis, &["LRANGE", LIST, "0", "-1"]).await;
    assert_eq!(list, [numbered(3), numbered(2), numbered(1)]);
}

#[actix_rt::test]
async fn a_full_redis_can_still_be_emptied() {
    let (server, rooms) = (Server::start(&["--maxmemory-policy", "noeviction"]).await, Rooms::open());
    let mut redis = server.connect().await;
    let items: Vec<String> = (0..2_000).map(numbered).collect();
    push(&mut redis, &items).await.unwrap();
    command::<()>(&mut redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(push(&mut redis, "1").await.is_err(), "nothing more fits");
    let _node = Node::start(&server.url(), "a", &rooms);
    rooms.hear(2_000).await;
    eventually("the list to be empty", async || {
        (command::<i64>(&mut redis, &["EXISTS", LIST, "{message_queue}:proc:a"]).await == 0).then_some(())
    })
    .await;
    command::<()>(&mut redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
    push(&mut redis, numbered(2_000)).await.unwrap();
    rooms.hear(2_001).await;
}
