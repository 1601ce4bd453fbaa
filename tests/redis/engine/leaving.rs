//! What leaves rooms in Redis: targets share a stream, one node serves a target, and what does not fit is told.

use std::sync::Arc;

use redis::cmd;
use roomcast::chat::names::RoomName;
use roomcast::engines::redis::leaving::{Exits, LeavingSettings, RedisFeed};
use roomcast::forwards::feed::{Feed, Next, Start, Wanted};
use roomcast::redis_link::RedisLink;

use super::stage::Node;
use crate::fixtures::eventually;
use crate::fixtures::servers::Server;

/// A node whose rooms of teams leave, into a stream of so many entries.
fn node(url: &str, max: u64) -> Node {
    Node::start_with(url, 1, |settings| {
        let leaves = Box::new(|room: &RoomName| room.as_str().starts_with("team"));
        settings.leaving = Some(LeavingSettings { leaves, max });
    })
}

fn feed_from(url: &str, target: &str, start: Start) -> RedisFeed {
    let targets = ["one", "two"].map(str::to_owned);
    let exits = Exits::new(RedisLink::parse(url).unwrap(), "chat", targets);
    let wanted: Wanted = Arc::new(|room: &RoomName| room.as_str() != "team-secret");
    exits.feeds(target, start, &wanted).remove(0)
}

async fn opened(url: &str, target: &str, start: Start) -> RedisFeed {
    let mut feed = feed_from(url, target, start);
    feed.open().await.unwrap();
    feed
}

/// Says so many in a room; returns when all have their places.
async fn say(node: &Node, room: &str, ids: std::ops::RangeInclusive<u64>) {
    let tickets: Vec<u64> = ids.map(|n| node.say(room, &format!("m{n}"))).collect();
    for ticket in tickets {
        node.place(ticket).await;
    }
}

/// The next entries: offsets, and the mark behind them.
async fn next(feed: &mut RedisFeed, n: usize) -> (Vec<u64>, (u64, u64)) {
    match feed.next(n).await.unwrap() {
        Next::Entries { list, upto } => (list.iter().map(|(_, entry)| entry.offset).collect(), upto),
        other => panic!("no entries but {other:?}"),
    }
}

async fn length(server: &Server) -> u64 {
    cmd("XLEN").arg("chat:{p0}o").query_async(&mut server.connect().await).await.unwrap()
}

#[actix_rt::test]
async fn targets_share_a_stream_that_forgets_what_all_have() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let node = node(&url, 1_000);
    let (mut one, mut two) = (opened(&url, "one", Start::New).await, opened(&url, "two", Start::New).await);
    assert_eq!((one.next(9).await.unwrap(), two.next(9).await.unwrap()), (Next::Nothing, Next::Nothing));
    say(&node, "team", 1..=3).await;
    say(&node, "lobby", 1..=3).await;
    say(&node, "team-secret", 1..=2).await;
    say(&node, "team", 4..=5).await;
    assert_eq!(length(&server).await, 7, "the lobby does not leave");
    let (first, upto) = next(&mut one, 3).await;
    assert_eq!(first, [1, 2, 3]);
    assert_eq!(next(&mut one, 3).await.0, [1, 2, 3], "the same again until it is noted");
    one.note(upto).await.unwrap();
    let (rest, upto) = next(&mut one, 9).await;
    assert_eq!(rest, [4, 5], "what it does not want is passed over");
    one.note(upto).await.unwrap();
    assert_eq!((one.waiting().await.unwrap(), two.waiting().await.unwrap()), (0, 7));
    assert_eq!(length(&server).await, 7, "the other one has nothing yet");
    let (all, upto) = next(&mut two, 9).await;
    assert_eq!(all, [1, 2, 3, 4, 5]);
    two.note(upto).await.unwrap();
    assert_eq!(length(&server).await, 0);
    // Who comes late with an earlier place changes nothing.
    say(&node, "team", 6..=6).await;
    two.note((upto.0, upto.1 - 1)).await.unwrap();
    two.close().await.unwrap();
    two.open().await.unwrap();
    assert_eq!(next(&mut two, 9).await.0, [6]);
    assert_eq!(node.faults(), Vec::<String>::new());
}

#[actix_rt::test]
async fn one_node_at_a_time_serves_a_target() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let node = node(&url, 1_000);
    let mut first = opened(&url, "one", Start::First).await;
    let mut second = opened(&url, "one", Start::First).await;
    say(&node, "team", 1..=2).await;
    let (offsets, upto) = next(&mut first, 9).await;
    assert_eq!(offsets, [1, 2]);
    assert_eq!(second.next(9).await.unwrap(), Next::StandBy);
    first.stay().await.unwrap();
    // The first one stands still: its turn runs out, and what it notes then counts for nothing.
    eventually("the second one to take over", async || {
        matches!(second.next(9).await.unwrap(), Next::Entries { .. }).then_some(())
    })
    .await;
    assert!(first.note(upto).await.is_err() && first.stay().await.is_err());
    assert_eq!(next(&mut second, 9).await.0, [1, 2], "nobody has noted anything");
    second.note(upto).await.unwrap();
    second.close().await.unwrap();
    first.open().await.unwrap();
    assert_eq!(first.next(9).await.unwrap(), Next::Nothing, "given back is followed at once");
}

#[actix_rt::test]
async fn what_does_not_fit_is_told() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let node = node(&url, 100);
    let mut one = opened(&url, "one", Start::New).await;
    assert_eq!(one.next(9).await.unwrap(), Next::Nothing);
    say(&node, "team", 1..=10).await;
    let (offsets, upto) = next(&mut one, 4).await;
    assert_eq!(offsets, [1, 2, 3, 4]);
    one.note(upto).await.unwrap();
    say(&node, "team", 11..=600).await;
    let left = length(&server).await;
    assert!((100..=300).contains(&left), "{left}: Redis trims whole nodes of a stream");
    let Next::Lost { entries, upto } = one.next(9).await.unwrap() else { panic!("a hole is there") };
    assert_eq!(entries, 600 - 4 - left);
    one.note(upto).await.unwrap();
    let (offsets, _) = next(&mut one, 1_000).await;
    assert_eq!(offsets, (601 - left..=600).collect::<Vec<_>>());
    // A new target begins behind all that, or at the first that waits.
    let mut new = opened(&url, "two", Start::New).await;
    assert_eq!(new.next(9).await.unwrap(), Next::Nothing);
    let mut old = opened(&url, "three", Start::First).await;
    assert_eq!(next(&mut old, 1).await.0, [601 - left]);
}
