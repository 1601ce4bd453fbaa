//! A node crashes, or loses its link, at its 1st, 2nd, 3rd … request to Redis, with the request or with the
//! answer lost, until the story passes untouched. Whatever the point: every item is heard, in order, once.

use std::time::Duration;

use roomcast::actors::redis_queue::{QueueTiming, RedisQueueParts};
use roomcast::redis_link::RedisConnection;

use crate::fixtures::backend::{command, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{Node, TIMING, parts};
use crate::fixtures::proxy::{Cut, Proxy};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;

/// Items without ids of their own: what is taken twice under different ids is heard twice.
const ITEMS: [&str; 9] = ["0", "1", "2", "3", "no json", "4", "5", "6", "7"];
/// More requests than the story can have.
const REQUESTS_MAX: u64 = 400;

/// What happens to the node when its wire is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is started again.
    Crash,
    /// It takes turns, and another one follows it.
    Follow,
    Reconnect,
    /// It takes turns.
    ReconnectInTurn,
}

fn quick(url: &str, name: &str, rooms: &Rooms, fate: Fate) -> RedisQueueParts {
    // The wait for the lease of the one before is most of such a story.
    let (lease, renew) = (Duration::from_millis(500), Duration::from_millis(150));
    let timing = QueueTiming { lease, renew, adopt_after: lease, ..TIMING };
    let turns = matches!(fate, Fate::Follow | Fate::ReconnectInTurn);
    let timing = if turns { timing } else { QueueTiming { lease, ..TIMING } };
    RedisQueueParts { turns, timing, ..parts(url, name, rooms) }
}

/// Runs the story once with a cut; `false`: it passed before the cut came.
async fn passes_cut(server: &Server, at: u64, how: Cut, fate: Fate) -> bool {
    let rooms = Rooms::open();
    let mut redis = server.connect().await;
    command::<()>(&mut redis, &["FLUSHALL"]).await;
    push(&mut redis, &ITEMS[..5]).await.unwrap();
    let proxy = Proxy::start(server.port, at, how).await;
    let mut node = Node::start_with(quick(&proxy.url(), "a", &rooms, fate));
    let mut cut = proxy.is_cut_before(rooms.hear(4)).await;
    for (place, item) in ITEMS[5..].iter().enumerate() {
        cut = cut || proxy.is_cut_before(is_waiting(&mut redis)).await;
        push(&mut redis, item).await.unwrap();
        cut = cut || proxy.is_cut_before(rooms.hear(5 + place)).await;
    }
    let mut others = Vec::new();
    if cut && fate == Fate::Crash {
        node.crash();
        node = Node::start_with(quick(&server.url(), "a", &rooms, fate));
    } else if cut && fate == Fate::Follow {
        node.crash();
        node = Node::start_with(quick(&server.url(), "b", &rooms, fate));
        // The register knows the dead one for an hour; its lease may run on if it had nothing yet.
        others.extend(["{message_queue}:nodes", "{message_queue}:lease:a"].map(str::to_owned));
    }
    rooms.hear(8).await;
    let dead =
        async || (command::<i64>(&mut redis, &["LLEN", "{message_queue}:dead"]).await == 1).then_some(());
    eventually("the dead letter", dead).await;
    node.drain().await;
    let story = format!("request {at}, {how:?}, {fate:?}, repeats {:?}", rooms.repeats());
    assert_eq!(rooms.data(), ["0", "1", "2", "3", "4", "5", "6", "7"], "{story}");
    let mut left: Vec<String> = command(&mut redis, &["KEYS", "*"]).await;
    left.retain(|key| !others.contains(key));
    assert_eq!(left, ["{message_queue}:dead"], "{story}");
    cut
}

/// Waits until the node waits, so that the next item comes by the blocking wait.
async fn is_waiting(redis: &mut RedisConnection) {
    eventually("the node to wait for an item", async || {
        command::<String>(redis, &["INFO", "clients"]).await.contains("blocked_clients:1").then_some(())
    })
    .await;
}

async fn at_every_request(how: Cut, fate: Fate) {
    let server = Server::start(&[]).await;
    for at in 1..REQUESTS_MAX {
        if !passes_cut(&server, at, how, fate).await {
            println!("{fate:?}, {how:?}: {} places passed", at - 1);
            assert!(at > 20, "the story has more requests than {at}");
            return;
        }
    }
    panic!("the story never passed untouched");
}

#[actix_rt::test]
async fn a_crash_before_any_request_loses_nothing() {
    at_every_request(Cut::Before, Fate::Crash).await;
}

#[actix_rt::test]
async fn a_crash_after_any_request_loses_nothing() {
    at_every_request(Cut::After, Fate::Crash).await;
}

#[actix_rt::test]
async fn a_link_that_loses_any_request_loses_nothing() {
    at_every_request(Cut::Before, Fate::Reconnect).await;
}

#[actix_rt::test]
async fn a_link_that_loses_any_answer_loses_nothing() {
    at_every_request(Cut::After, Fate::Reconnect).await;
}

#[actix_rt::test]
async fn whoever_follows_a_crash_before_any_request_loses_nothing() {
    at_every_request(Cut::Before, Fate::Follow).await;
}

#[actix_rt::test]
async fn whoever_follows_a_crash_after_any_request_loses_nothing() {
    at_every_request(Cut::After, Fate::Follow).await;
}

#[actix_rt::test]
async fn a_link_that_loses_any_request_in_a_turn_loses_nothing() {
    at_every_request(Cut::Before, Fate::ReconnectInTurn).await;
}

#[actix_rt::test]
async fn a_link_that_loses_any_answer_in_a_turn_loses_nothing() {
    at_every_request(Cut::After, Fate::ReconnectInTurn).await;
}
