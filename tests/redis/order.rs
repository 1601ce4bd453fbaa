//! Items are heard in the order they were pushed, each once.

use roomcast::sources::list_keys::ListKeys;

use crate::fixtures::backend::{command, numbered, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node, parts};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;

#[actix_rt::test]
async fn what_waited_in_the_list_and_what_comes_later_is_heard_in_order() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let items: Vec<String> = (0..1_000).map(numbered).collect();
    push(&mut redis, &items[..700]).await.unwrap();
    let node = Node::start(&server.url(), "a", &rooms);
    rooms.hear(700).await;
    for item in &items[700..] {
        push(&mut redis, item).await.unwrap();
    }
    rooms.hear(1_000).await;
    let wanted: Vec<String> = (0..1_000).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
    assert!(rooms.batches().1 <= 256, "a batch is bounded");
    let counters = node.counters.clone();
    node.drain().await;
    assert_eq!((counters.taken(), counters.accepted(), counters.repeated()), (1_000, 1_000, 0));
    assert!(command::<Vec<String>>(&mut redis, &["KEYS", "*"]).await.is_empty(), "nothing is left in redis");
}

#[actix_rt::test]
async fn a_busy_room_that_takes_half_a_batch_changes_no_order() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    rooms.be_busy_every(2);
    let mut redis = server.connect().await;
    let items: Vec<String> = (0..3_000).map(numbered).collect();
    push(&mut redis, &items).await.unwrap();
    let _node = Node::start(&server.url(), "a", &rooms);
    rooms.hear(3_000).await;
    let wanted: Vec<String> = (0..3_000).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
}

#[actix_rt::test]
async fn the_known_keys_of_an_item_reach_the_rooms() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let _node = Node::start(&server.url(), "a", &rooms);
    let item = r#"{"room":"orders","user":"shop","id":"o-17","type":"paid","content":{"total": 1.50}}"#;
    push(&mut redis, item).await.unwrap();
    push(&mut redis, r#"{"content":"to the default room"}"#).await.unwrap();
    let heard = rooms.hear(2).await;
    let first = &heard[0];
    assert_eq!((first.room.as_str(), first.data.as_str()), ("orders", r#"{"total": 1.50}"#));
    let names = (first.user.as_deref(), first.id.as_deref(), first.kind.as_deref());
    assert_eq!(names, (Some("shop"), Some("o-17"), Some("paid")));
    assert_eq!(heard[1].room, "lobby");
    let own_id = heard[1].id.as_deref().unwrap();
    assert!(own_id.len() > 30 && own_id.len() <= 64, "an item without an id gets its entry's: {own_id}");
}

#[actix_rt::test]
async fn several_lists_are_taken_side_by_side() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let mut nodes = Vec::new();
    for list in ["jobs", "app:{x}:events"] {
        let parts = roomcast::actors::redis_queue::RedisQueueParts {
            keys: ListKeys::new(list).unwrap(),
            room: roomcast::chat::names::RoomName::new(list).unwrap(),
            ..parts(&server.url(), "a", &rooms)
        };
        nodes.push(Node::start_with(parts));
        command::<i64>(&mut redis, &["LPUSH", list, "1"]).await;
    }
    let mut seen: Vec<String> = rooms.hear(2).await.into_iter().map(|heard| heard.room).collect();
    seen.sort();
    assert_eq!(seen, ["app:{x}:events", "jobs"]);
}

#[actix_rt::test]
async fn a_big_item_travels_alone_and_small_ones_in_batches() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let big = format!("\"{}\"", "x".repeat(3 << 20));
    for _ in 0..8 {
        push(&mut redis, &big).await.unwrap();
    }
    let mut parts = parts(&server.url(), "a", &rooms);
    parts.limits.message_bytes = 4 << 20;
    let _node = Node::start_with(parts);
    rooms.hear(8).await;
    assert_eq!(rooms.batches().1, 2, "the second of 3 MiB crosses the 4 MiB of a batch");
}

#[actix_rt::test]
async fn the_server_starts_without_redis_and_takes_items_when_it_comes() {
    let rooms = Rooms::open();
    let port = crate::fixtures::servers::free_port();
    let node = Node::start(&format!("redis://127.0.0.1:{port}"), "a", &rooms);
    assert!(!node.counters.is_connected());
    let server = Server::start_at(port, &[]).await;
    push(&mut server.connect().await, "1").await.unwrap();
    rooms.hear(1).await;
    assert!(node.counters.is_connected());
}

#[actix_rt::test]
async fn a_wrong_type_under_the_lists_name_is_waited_out() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    command::<()>(&mut redis, &["SET", LIST, "no list"]).await;
    let node = Node::start(&server.url(), "a", &rooms);
    eventually("two attempts", async || (node.counters.connects() >= 2).then_some(())).await;
    assert!(!node.counters.is_connected(), "a connection alone is not enough");
    command::<()>(&mut redis, &["DEL", LIST]).await;
    push(&mut redis, "1").await.unwrap();
    rooms.hear(1).await;
}
