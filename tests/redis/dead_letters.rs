//! What can never be said is kept with its reason and stops nobody.

use std::sync::Arc;

use actix::Actor;
use bytes::Bytes;
use roomcast::actors::letters::Bury;
use roomcast::actors::redis_graves::{RedisGraves, RedisGravesParts};
use roomcast::redis_link::RedisLink;
use roomcast::sources::counters::QueueCounters;
use roomcast::sources::dead_letters::{DeadLetter, RedisDeadLetters};
use roomcast::sources::list_keys::ListKeys;
use roomcast::sources::poison::Reason;
use roomcast::store::record::Letter;

use crate::fixtures::backend::{command, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node, parts};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;

fn dead() -> RedisDeadLetters {
    RedisDeadLetters::new(ListKeys::new(LIST).unwrap())
}

#[actix_rt::test]
async fn poison_of_every_kind_is_kept_and_the_next_item_is_heard() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let node = Node::start(&server.url(), "a", &rooms);
    let poison: [(Vec<u8>, Reason); 6] = [
        (b"no json".to_vec(), Reason::NotJson),
        (b"\"\xff\xfe\"".to_vec(), Reason::NotUtf8),
        (format!("\"{}\"", "x".repeat(10 << 20)).into_bytes(), Reason::TooBig),
        (format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)).into_bytes(), Reason::TooDeep),
        (br#"{"room":"a*","content":1}"#.to_vec(), Reason::BadRoom),
        (Vec::new(), Reason::NotJson),
    ];
    for (place, (item, _)) in poison.iter().enumerate() {
        push(&mut redis, item.as_slice()).await.unwrap();
        push(&mut redis, place.to_string()).await.unwrap();
    }
    rooms.hear(poison.len()).await;
    assert_eq!(rooms.data(), ["0", "1", "2", "3", "4", "5"]);
    eventually("all dead letters", async || (dead().count(&mut redis).await.unwrap() == 6).then_some(()))
        .await;
    let letters = dead().list(&mut redis, 0, 100).await.unwrap();
    for (letter, (item, reason)) in letters.iter().rev().zip(&poison) {
        assert_eq!(letter.bytes().unwrap(), *item, "kept byte for byte");
        assert!(letter.reason.starts_with(reason.as_str()), "{}", letter.reason);
        assert_eq!(letter.source, LIST);
        assert!(letter.time.ends_with('Z') && letter.time.starts_with("20"), "{}", letter.time);
    }
    assert_eq!(node.counters.dead_total(), 6);
    let left: i64 = command(&mut redis, &["EXISTS", LIST, "{message_queue}:in:a"]).await;
    assert_eq!(left, 0);
}

#[actix_rt::test]
async fn what_the_application_refuses_is_a_dead_letter_with_its_words() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    rooms.refuse("swear");
    let _node = Node::start(&server.url(), "a", &rooms);
    for item in ["1", "\"swear\"", "2"] {
        push(&mut redis, item).await.unwrap();
    }
    rooms.hear(2).await;
    let letter =
        eventually("the dead letter", async || dead().list(&mut redis, 0, 1).await.unwrap().pop()).await;
    assert_eq!(letter.reason, "refused: refused by the application: not in this house");
}

#[actix_rt::test]
async fn an_operator_can_push_again_and_drop() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    rooms.refuse("maybe");
    let _node = Node::start(&server.url(), "a", &rooms);
    push(&mut redis, "\"maybe 1\"").await.unwrap();
    push(&mut redis, "\"maybe 2\"").await.unwrap();
    let letters = eventually("both", async || {
        let letters = dead().list(&mut redis, 0, 10).await.unwrap();
        (letters.len() == 2).then_some(letters)
    })
    .await;
    rooms.refuse("nothing");
    let (second, first): (&DeadLetter, &DeadLetter) = (&letters[0], &letters[1]);
    assert_eq!(dead().show(&mut redis, &first.id).await.unwrap().as_ref(), Some(first));
    assert!(dead().requeue(&mut redis, &first.id).await.unwrap());
    assert_eq!(rooms.hear(1).await[0].data, "\"maybe 1\"");
    assert!(dead().remove(&mut redis, &second.id).await.unwrap());
    assert!(!dead().remove(&mut redis, &second.id).await.unwrap(), "it is gone");
    assert!(!dead().requeue(&mut redis, "nobody").await.unwrap());
    assert_eq!(dead().count(&mut redis).await.unwrap(), 0);
}

#[actix_rt::test]
async fn the_dead_letters_are_bounded_and_what_is_dropped_is_counted() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let mut parts = parts(&server.url(), "a", &rooms);
    parts.dead_items = 10;
    let node = Node::start_with(parts);
    let items: Vec<String> = (0..25).map(|number| format!("no json {number}")).collect();
    push(&mut redis, &items).await.unwrap();
    eventually("15 to be dropped", async || (node.counters.dead_forgotten() == 15).then_some(())).await;
    let letters = dead().list(&mut redis, 0, 100).await.unwrap();
    assert_eq!(letters.len(), 10);
    assert_eq!((letters[0].item.as_str(), letters[9].item.as_str()), ("no json 24", "no json 15"));
}

#[actix_rt::test]
async fn letters_of_the_door_lie_beside_their_lists_where_nodes_share_the_rooms() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let jobs = RedisDeadLetters::new(ListKeys::new("jobs").unwrap());
    let counters = Arc::new(QueueCounters::default());
    let graves = RedisGraves::new(RedisGravesParts {
        link: RedisLink::parse(&server.url()).unwrap(),
        lists: [LIST, "jobs"].map(|list| ListKeys::new(list).unwrap()).to_vec(),
        dead_items: 2,
        counters: counters.clone(),
    })
    .start();
    let letter = |id: &str, source: &str| Letter {
        id: id.into(),
        ts: 1_763_000_000_000,
        source: source.into(),
        reason: "not-json: no value".into(),
        item: Bytes::from_static(b"\xff{"),
    };
    let letters = vec![letter("1", "door:jobs"), letter("2", "door:news"), letter("3", "door:jobs")];
    assert!(graves.send(Bury(letters)).await.unwrap());
    let mut redis = server.connect().await;
    let beside_jobs = jobs.list(&mut redis, 0, 9).await.unwrap();
    let ids: Vec<&str> = beside_jobs.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(ids, ["3", "1"]);
    assert_eq!(beside_jobs[0].bytes().unwrap(), b"\xff{");
    assert_eq!(beside_jobs[0].time, "2025-11-13T02:13:20.000Z");
    assert_eq!(dead().list(&mut redis, 0, 9).await.unwrap()[0].source, "door:news");

    server.kill();
    assert!(!graves.send(Bury(vec![letter("4", "door:jobs")])).await.unwrap(), "redis is away");
    server.restart().await;
    assert!(graves.send(Bury(vec![letter("5", "door:jobs")])).await.unwrap());
    let ids: Vec<String> = jobs
        .list(&mut server.connect().await, 0, 9)
        .await
        .unwrap()
        .into_iter()
        .map(|letter| letter.id)
        .collect();
    assert_eq!((ids, counters.dead_forgotten()), (vec!["5".to_owned(), "3".to_owned()], 1));
}
