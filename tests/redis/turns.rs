//! Nodes that share their rooms take turns at a list: what was pushed in order is heard in order, whoever
//! drains, dies or hangs.

use std::time::{Duration, Instant};

use roomcast::actors::redis_queue::RedisQueueParts;
use roomcast::redis_link::RedisConnection;
use roomcast::sources::list_keys::ListKeys;
use roomcast::sources::node::ProcessMark;
use roomcast::sources::redis_list::{Claim, RedisList, Turn, is_lost};

use crate::fixtures::backend::{Backend, Ids, command, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node, TIMING, parts};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::{Sentinels, Server};

const TURN: &str = "{message_queue}:turn";

fn in_turns(url: &str, name: &str, rooms: &Rooms) -> RedisQueueParts {
    RedisQueueParts { turns: true, ..parts(url, name, rooms) }
}

fn start(url: &str, name: &str, rooms: &Rooms) -> Node {
    Node::start_with(in_turns(url, name, rooms))
}

/// Waits until a node has the turn; tells which.
async fn has_turn(redis: &mut RedisConnection) -> String {
    eventually("a node to take the turn", async || command::<Option<String>>(redis, &["GET", TURN]).await)
        .await
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[actix_rt::test]
async fn one_of_three_nodes_empties_the_list_and_the_others_stand_by() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let nodes = ["a", "b", "c"].map(|name| start(&server.url(), name, &rooms));
    for node in &nodes {
        node.is_connected().await;
    }
    let items = numbers(0..3_000);
    for item in &items {
        push(&mut redis, item).await.unwrap();
    }
    rooms.hear(3_000).await;
    assert_eq!(rooms.data(), items);
    let taking: Vec<bool> = nodes.iter().map(|node| node.counters.is_taking()).collect();
    assert_eq!(taking.iter().filter(|taking| **taking).count(), 1, "{taking:?}");
    let taken: Vec<u64> = nodes.iter().map(|node| node.counters.taken()).collect();
    assert!(taken.contains(&3_000) && taken.iter().sum::<u64>() == 3_000, "{taken:?}");
}

#[actix_rt::test]
async fn a_node_that_drains_gives_the_turn_back_at_once() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let first = start(&server.url(), "first", &rooms);
    assert_eq!(has_turn(&mut redis).await, "first");
    let second = start(&server.url(), "second", &rooms);
    second.is_connected().await;
    let backend = Backend::start(&server.url(), Ids::None);
    rooms.hear(500).await;
    let asked = Instant::now();
    first.drain().await;
    eventually("the other one's turn", async || second.counters.is_taking().then_some(())).await;
    // A lease lasts 2 s and a blocking wait 0.2 s.
    assert!(asked.elapsed() < Duration::from_millis(1_500), "{:?}", asked.elapsed());
    rooms.hear(1_000).await;
    let (pushed, _) = backend.stop().await;
    rooms.hear(pushed as usize).await;
    assert_eq!(rooms.data(), numbers(0..pushed));
    assert_eq!(rooms.repeats(), [] as [&str; 0], "everything under way was finished");
}

#[actix_rt::test]
async fn what_a_drained_node_could_not_say_comes_first_and_under_its_ids() {
    let (server, rooms, deaf) = (Server::start(&[]).await, Rooms::open(), Rooms::open());
    let mut redis = server.connect().await;
    deaf.be_busy(true);
    let first = start(&server.url(), "first", &deaf);
    push(&mut redis, numbers(0..100)).await.unwrap();
    deaf.be_asked(1).await;
    let second = start(&server.url(), "second", &rooms);
    second.is_connected().await;
    first.drain().await;
    push(&mut redis, numbers(100..200)).await.unwrap();
    let heard = rooms.hear(200).await;
    assert_eq!(rooms.data(), numbers(0..200));
    let ids: Vec<_> = heard[..100].iter().map(|heard| heard.id.clone().unwrap()).collect();
    assert!(ids.is_sorted() && heard[100].id.as_ref().unwrap()[..30] != ids[0][..30], "{ids:?}");
    assert_eq!(second.counters.adopted(), 100);
    second.drain().await;
    assert_eq!(command::<i64>(&mut redis, &["EXISTS", TURN]).await, 0);
}

#[actix_rt::test]
async fn a_dead_nodes_items_come_first_and_what_it_was_handed_before_the_list() {
    let (server, rooms, deaf) = (Server::start(&[]).await, Rooms::open(), Rooms::open());
    let mut redis = server.connect().await;
    deaf.be_busy(true);
    let dying = start(&server.url(), "dying", &deaf);
    push(&mut redis, numbers(0..100)).await.unwrap();
    deaf.be_asked(1).await;
    dying.crash();
    // From a time when nodes did not take turns.
    command::<i64>(&mut redis, &["LPUSH", "{message_queue}:in:dying", "100", "101"]).await;
    push(&mut redis, numbers(102..300)).await.unwrap();
    let mut ids: Vec<String> = command(&mut redis, &["HKEYS", "{message_queue}:proc:dying"]).await;
    ids.sort();
    let _heir = start(&server.url(), "heir", &rooms);
    let heard = rooms.hear(300).await;
    assert_eq!(rooms.data(), numbers(0..300));
    let heard_ids: Vec<String> = heard[..100].iter().map(|heard| heard.id.clone().unwrap()).collect();
    assert_eq!(heard_ids, ids);
}

#[actix_rt::test]
async fn a_node_that_hung_in_its_turn_does_no_harm_when_it_goes_on() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let hanging = start(&server.url(), "hanging", &rooms);
    assert_eq!(has_turn(&mut redis).await, "hanging");
    let heir = start(&server.url(), "heir", &rooms);
    heir.is_connected().await;
    let backend = Backend::start(&server.url(), Ids::None);
    for round in 1..=2 {
        rooms.hear(500 * round).await;
        let (slow, quick) = if round == 1 { (&hanging, &heir) } else { (&heir, &hanging) };
        let thaw = slow.freeze();
        eventually("the heir", async || quick.counters.is_taking().then_some(())).await;
        let (heard, connects) = (rooms.heard().len(), slow.counters.connects());
        rooms.hear(heard + 200).await;
        drop(thaw);
        let anew =
            async || (slow.counters.connects() > connects && slow.counters.is_connected()).then_some(());
        eventually("the other one to stand by", anew).await;
        assert!(quick.counters.is_taking() && !slow.counters.is_taking());
    }
    let (pushed, _) = backend.stop().await;
    rooms.hear(pushed as usize).await;
    assert_eq!(rooms.data(), numbers(0..pushed));
}

#[actix_rt::test]
async fn after_an_outage_of_redis_the_turn_stays_where_it_was() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let rooms = Rooms::open();
    let mut redis = server.connect().await;
    let holder = start(&server.url(), "holder", &rooms);
    assert_eq!(has_turn(&mut redis).await, "holder");
    let other = start(&server.url(), "other", &rooms);
    other.is_connected().await;
    let backend = Backend::start(&server.url(), Ids::None);
    rooms.hear(200).await;
    server.kill();
    eventually("all to notice", async || {
        (!holder.counters.is_connected() && !other.counters.is_connected()).then_some(())
    })
    .await;
    // All leases have run out when it comes back.
    tokio::time::sleep(TIMING.lease).await;
    server.restart().await;
    eventually("the holder to go on", async || holder.counters.is_taking().then_some(())).await;
    let heard = rooms.heard().len();
    rooms.hear(heard + 300).await;
    let (_, again) = backend.stop().await;
    let (mut data, mut last) = (rooms.data(), String::new());
    // What the backend had to push twice was heard twice, and nothing else.
    data.retain(|item| {
        std::mem::replace(&mut last, item.clone()) != *item || !again.contains(&item.parse().unwrap())
    });
    assert_eq!(data, numbers(0..data.len() as u64));
    assert_eq!(has_turn(&mut server.connect().await).await, "holder");
    assert_eq!(other.counters.taken(), 0);
}

#[actix_rt::test]
async fn the_primary_is_killed_under_sentinel_and_items_have_no_ids() {
    let mut group = Sentinels::start().await;
    let rooms = Rooms::open();
    let nodes = ["a", "b"].map(|name| start(&group.url(), name, &rooms));
    for node in &nodes {
        node.is_connected().await;
    }
    let backend = Backend::start(&group.url(), Ids::None);
    rooms.hear(300).await;
    group.primary().kill();
    let pushed = backend.pushed();
    eventually("the backend to go on", async || (backend.pushed() >= pushed + 300).then_some(())).await;
    let (acknowledged, again) = backend.stop().await;
    rooms.hear(acknowledged as usize).await;
    let (mut data, mut last) = (rooms.data(), String::new());
    data.retain(|item| {
        std::mem::replace(&mut last, item.clone()) != *item || !again.contains(&item.parse().unwrap())
    });
    assert!(data.len() as u64 >= acknowledged);
    assert_eq!(data, numbers(0..data.len() as u64), "each once and in order");
}

#[actix_rt::test]
async fn what_a_node_took_before_there_were_turns_is_said_by_itself() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let _holder = start(&server.url(), "holder", &rooms);
    assert_eq!(has_turn(&mut redis).await, "holder");
    command::<i64>(&mut redis, &["HSET", "{message_queue}:proc:old", "000-left-1", "1"]).await;
    command::<i64>(&mut redis, &["LPUSH", "{message_queue}:in:old", "2"]).await;
    let _old = start(&server.url(), "old", &rooms);
    rooms.hear(2).await;
    let mut data = rooms.data();
    data.sort();
    assert_eq!(data, ["1", "2"]);
}

#[actix_rt::test]
async fn a_late_command_of_a_turn_that_is_over_does_nothing() {
    let server = Server::start(&[]).await;
    let mut redis = server.connect().await;
    let lease = Duration::from_secs(60);
    let node = |name| {
        RedisList::new(ListKeys::new(LIST).unwrap(), name, ProcessMark::of_this_process(), lease, true)
    };
    let (old, new) = (node("old"), node("new"));
    for list in [&old, &new] {
        assert!(matches!(list.claim(&mut redis, "").await.unwrap(), Claim::Held));
    }
    assert_eq!(old.come(&mut redis, "", true).await.unwrap(), Turn::Ours(0));
    push(&mut redis, &["1", "2"]).await.unwrap();
    assert_eq!(old.take(&mut redis, &[]).await.unwrap().len(), 2);
    push(&mut redis, "3").await.unwrap();

    // While the other one lives nobody follows, and nobody who may not.
    let theirs = Turn::Theirs("old".into());
    assert_eq!(new.come(&mut redis, "", true).await.unwrap(), theirs);
    assert_eq!(new.come(&mut redis, "old", true).await.unwrap(), theirs);
    assert!(is_lost(&new.take(&mut redis, &[]).await.unwrap_err()), "it is not its turn");
    command::<i64>(&mut redis, &["DEL", "{message_queue}:lease:old"]).await;
    assert_eq!(new.come(&mut redis, "old", false).await.unwrap(), theirs);
    assert_eq!(new.come(&mut redis, "old", true).await.unwrap(), Turn::Ours(2));

    // Its lease is its own again, but not the turn.
    assert!(matches!(old.claim(&mut redis, "").await.unwrap(), Claim::Held));
    assert!(is_lost(&old.take(&mut redis, &[]).await.unwrap_err()));
    assert!(is_lost(&old.adopt(&mut redis, "new").await.unwrap_err()));
    assert!(old.wait(&mut redis, Duration::from_millis(100)).await.unwrap(), "a late wait moves nothing");
    assert_eq!(command::<Vec<String>>(&mut redis, &["LRANGE", LIST, "0", "-1"]).await, ["3"]);
    assert_eq!(old.working(&mut redis).await.unwrap(), [] as [&str; 0]);
    let ids = new.working(&mut redis).await.unwrap();
    let items: Vec<Vec<u8>> =
        new.read(&mut redis, &ids).await.unwrap().into_iter().map(|entry| entry.item).collect();
    assert_eq!(items, [b"1", b"2"]);
}
