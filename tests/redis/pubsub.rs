//! Redis pub/sub as a source: heard while somebody listens, counted when it is dropped.

use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::redis_link::{RedisConnection, RedisLink};
use roomcast::sources::redis_pubsub::RedisPubSub;
use roomcast::sources::redis_turn::RedisTurn;

use crate::fixtures::backend::command;
use crate::fixtures::eventually;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;
use crate::fixtures::source_node::{Graves, SourceNode, parts};

fn channels(url: &str, names: &[&str], shared: bool) -> RedisPubSub {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let turn = shared.then(|| RedisTurn::new("roomcast:{src}:listener".into(), "node"));
    RedisPubSub::new(RedisLink::parse(url).unwrap(), names, "app_".into(), turn)
}

/// Publishes; tells how many listened.
async fn publish(redis: &mut RedisConnection, channel: &str, item: &str) -> i64 {
    command(redis, &["PUBLISH", channel, item]).await
}

/// Waits until somebody listens to a channel.
async fn is_heard(redis: &mut RedisConnection, channel: &str) {
    eventually("somebody to listen", async || (publish(redis, channel, "\"?\"").await > 0).then_some(()))
        .await;
}

#[actix_rt::test]
async fn channels_and_patterns_are_rooms() {
    let (server, rooms, graves) = (Server::start(&[]).await, Rooms::open(), Graves::default());
    let mut redis = server.connect().await;
    let parts = SourceQueueParts { graves: Some(graves.dig()), ..parts(&rooms) };
    let node = SourceNode::start_with(channels(&server.url(), &["news", "app_room:*"], false), parts);
    is_heard(&mut redis, "news").await;
    for number in 0..300 {
        publish(&mut redis, "app_room:shop", &number.to_string()).await;
    }
    publish(&mut redis, "app_room:a*", "1").await;
    publish(&mut redis, "news", "no json").await;
    publish(&mut redis, "other", "2").await;
    publish(&mut redis, "news", r#"{"room":"till","content":3}"#).await;
    let heard = rooms.hear(302).await;
    let shop: Vec<&str> =
        heard.iter().filter(|heard| heard.room == "shop").map(|heard| heard.data.as_str()).collect();
    assert_eq!(shop, (0..300).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    let last = heard.last().unwrap();
    assert_eq!((heard[0].room.as_str(), last.room.as_str(), last.data.as_str()), ("news", "till", "3"));
    eventually("both dead letters", async || (graves.kept().len() == 2).then_some(())).await;
    let kept = graves.kept();
    assert!(kept[0].reason.starts_with("bad-room") && kept[1].reason.starts_with("not-json"), "{kept:?}");
    assert_eq!((node.counters.lost(), heard.len()), (0, 302));
}

#[actix_rt::test]
async fn what_comes_faster_than_the_rooms_take_it_is_dropped_and_counted() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let node = SourceNode::start(channels(&server.url(), &["news"], false), &rooms);
    is_heard(&mut redis, "news").await;
    rooms.hear(1).await;
    rooms.be_busy(true);
    let mut flood = redis::pipe();
    for number in 0..6_000 {
        flood.cmd("PUBLISH").arg("news").arg(number);
    }
    flood.query_async::<()>(&mut redis).await.unwrap();
    rooms.be_asked(3).await;
    rooms.be_busy(false);
    let all = async || {
        let news = rooms.heard().len() as u64 - 1;
        (news + node.counters.lost() == 6_000).then_some(news)
    };
    let heard = eventually("every item to be heard or counted", all).await;
    assert!((4_000..5_000).contains(&heard), "{heard}");
}

#[actix_rt::test]
async fn of_nodes_that_share_their_rooms_one_listens() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let nodes = [(); 2].map(|()| SourceNode::start(channels(&server.url(), &["news"], true), &rooms));
    for node in &nodes {
        node.is_connected().await;
    }
    is_heard(&mut redis, "news").await;
    for number in 0..100 {
        assert_eq!(publish(&mut redis, "news", &number.to_string()).await, 1);
    }
    rooms.hear(101).await;
    let [first, second] = nodes;
    let (holder, other) = if first.counters.is_taking() { (first, second) } else { (second, first) };
    holder.drain().await;
    other.is_taking().await;
    is_heard(&mut redis, "news").await;
    assert_eq!(publish(&mut redis, "news", "\"last\"").await, 1);
    eventually("it to be heard", async || rooms.data().contains(&"\"last\"".to_owned()).then_some(())).await;
}

#[actix_rt::test]
async fn it_listens_again_after_the_server_was_away() {
    let (mut server, rooms) = (Server::start(&[]).await, Rooms::open());
    let node = SourceNode::start(channels(&server.url(), &["news"], false), &rooms);
    is_heard(&mut server.connect().await, "news").await;
    server.kill();
    eventually("the node to notice", async || (!node.counters.is_connected()).then_some(())).await;
    server.restart().await;
    let mut redis = server.connect().await;
    is_heard(&mut redis, "news").await;
    publish(&mut redis, "news", "\"back\"").await;
    eventually("it to be heard", async || rooms.data().contains(&"\"back\"".to_owned()).then_some(())).await;
}
