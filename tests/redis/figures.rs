//! How fast items go through the door and through a Redis list, printed. The rooms of these stories do
//! next to nothing, so the figures are those of the way in.

use std::time::Instant;

use roomcast::actors::redis_queue::RedisQueueParts;
use roomcast::redis_link::RedisLink;
use roomcast::sources::redis_stream::{RedisStream, Start};

use crate::door::open_door;
use crate::fixtures::backend::push;
use crate::fixtures::node::{Node, parts};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;
use crate::fixtures::source_node::SourceNode;

const ITEMS: usize = 100_000;

fn item(number: usize) -> String {
    format!(
        r#"{{"room":"room-{}","id":"i{number}","user":"shop","content":{{"text":"Order {number} was paid."}}}}"#,
        number % 100
    )
}

#[actix_rt::test]
async fn through_a_redis_list() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let items: Vec<String> = (0..ITEMS).map(item).collect();
    for chunk in items.chunks(1_000) {
        push(&mut redis, chunk).await.unwrap();
    }
    let start = Instant::now();
    let _node = Node::start(&server.url(), "a", &rooms);
    rooms.hear(ITEMS).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("redis list: {ITEMS} items in {seconds:.2} s, {:.0} items/s", ITEMS as f64 / seconds);
}

#[actix_rt::test]
async fn through_a_redis_stream() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    for chunk in 0..ITEMS / 1_000 {
        let mut pipeline = redis::pipe();
        for number in 0..1_000 {
            let payload = item(chunk * 1_000 + number);
            pipeline.cmd("XADD").arg("orders").arg("*").arg("payload").arg(payload).ignore();
        }
        pipeline.query_async::<()>(&mut redis).await.unwrap();
    }
    let start = Instant::now();
    let link = RedisLink::parse(&server.url()).unwrap();
    let _node = SourceNode::start(RedisStream::new(link, "orders", "g", "a", Start::First).unwrap(), &rooms);
    rooms.hear(ITEMS).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("redis stream: {ITEMS} items in {seconds:.2} s, {:.0} items/s", ITEMS as f64 / seconds);
}

#[actix_rt::test]
async fn latency_through_an_idle_redis_list() {
    latency("redis list", false).await;
}

#[actix_rt::test]
async fn latency_through_an_idle_redis_list_in_a_turn() {
    latency("redis list, in a turn", true).await;
}

async fn latency(what: &str, turns: bool) {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let node = Node::start_with(RedisQueueParts { turns, ..parts(&server.url(), "a", &rooms) });
    node.is_connected().await;
    let mut micros = Vec::new();
    for number in 0..500 {
        let start = Instant::now();
        push(&mut redis, item(number)).await.unwrap();
        rooms.hear(number + 1).await;
        micros.push(start.elapsed().as_micros());
    }
    micros.sort_unstable();
    println!(
        "{what}, one at a time: median {} us, p99 {} us from LPUSH to the rooms",
        micros[250], micros[495]
    );
}

#[actix_rt::test]
async fn through_the_door() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", door.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let start = Instant::now();
    for chunk in 0..ITEMS / 500 {
        let mut pipeline = redis::pipe();
        for number in 0..500 {
            pipeline.cmd("LPUSH").arg("message_queue").arg(item(chunk * 500 + number)).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(rooms.heard().len(), ITEMS, "all was heard before it was answered");
    println!(
        "door, pipelines of 500: {ITEMS} items in {seconds:.2} s, {:.0} items/s",
        ITEMS as f64 / seconds
    );
}
