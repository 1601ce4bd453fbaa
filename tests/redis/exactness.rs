//! What holds for every queue, whatever it is: a node that is killed between taking and acknowledging, items that are
//! pushed twice, items that can never be said, a server that is away. Nothing is lost, nothing is doubled, and each
//! room's order is kept where the queue keeps one.
//!
//! `ROOMCAST_SOURCE_KILLS` says how often a node is killed (10), `ROOMCAST_AWAY_SECS` for how long a server is away (3).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::sources::counters::QueueCounters;
use roomcast::sources::source::Source;

use crate::fixtures::eventually;
use crate::fixtures::node::Node;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::source_node::{Graves, SourceNode, parts};

/// Kills where `ROOMCAST_SOURCE_KILLS` says nothing else.
const KILLS: u64 = 10;
/// Seconds where `ROOMCAST_AWAY_SECS` says nothing else.
const AWAY_SECS: u64 = 3;
/// The items go to so many rooms in turn.
const ROOMS: u64 = 5;
/// Items before and after an absence and the like.
const ITEMS: u64 = 20;

/// A queue with its server.
pub trait Queue: Sized {
    type Node: Taker;
    /// For what is printed.
    const NAME: &'static str;
    /// Pushed for each life of a node.
    const ITEMS_PER_LIFE: u64 = 20;
    /// Whether a room's items come in the order in which they were pushed.
    const IS_ORDERED: bool;

    async fn open() -> Self;

    /// Pushes an item of this room, under no id of its own beyond what stands in it.
    async fn push(&mut self, room: &str, item: &str);

    /// A node that takes from it.
    fn node(&self, name: &str, house: &House) -> Self::Node;

    /// A node has crashed, and the story does not wait until the others miss it.
    async fn is_missed(&mut self, _name: &str) {}

    /// Waits until nothing is left in it.
    async fn is_empty(&mut self);

    /// The word of each dead letter's reason, oldest first.
    async fn reasons(&mut self, house: &House) -> Vec<String> {
        let word = |reason: &str| reason.split(':').next().unwrap_or_default().to_owned();
        house.graves.kept().iter().map(|letter| word(&letter.reason)).collect()
    }

    async fn goes_away(&mut self);

    async fn comes_back(&mut self);
}

/// What a story can do with a node, whichever actor it is.
pub trait Taker {
    fn counters(&self) -> Arc<QueueCounters>;
    fn crash(self);
}

impl<S: Source> Taker for SourceNode<S> {
    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }

    fn crash(self) {
        SourceNode::crash(self);
    }
}

impl Taker for Node {
    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }

    fn crash(self) {
        Node::crash(self);
    }
}

/// The rooms and the place for what can never be said.
pub struct House {
    pub rooms: Rooms,
    pub graves: Graves,
}

impl House {
    fn open() -> House {
        House { rooms: Rooms::open(), graves: Graves::default() }
    }

    /// For a node that is served by the actor of sources.
    pub fn parts(&self) -> SourceQueueParts {
        SourceQueueParts { graves: Some(self.graves.dig()), ..parts(&self.rooms) }
    }

    /// Every number once in its room, and in order where there is one.
    fn has_all(&self, numbers: Range<u64>, is_ordered: bool) {
        let mut heard: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for message in self.rooms.heard() {
            heard.entry(message.room).or_default().push(message.data.parse().unwrap());
        }
        let mut wanted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for number in numbers {
            wanted.entry(room_of(number)).or_default().push(number);
        }
        if !is_ordered {
            heard.values_mut().for_each(|numbers| numbers.sort_unstable());
        }
        assert_eq!(heard, wanted);
    }
}

fn room_of(number: u64) -> String {
    format!("room-{}", number % ROOMS)
}

/// As the environment says.
pub fn number_of(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

async fn push_all<Q: Queue>(queue: &mut Q, numbers: Range<u64>) {
    for number in numbers {
        let room = room_of(number);
        queue.push(&room, &format!(r#"{{"room":"{room}","content":{number}}}"#)).await;
    }
}

async fn kills<Q: Queue>() {
    let (mut queue, house) = (Q::open().await, House::open());
    let kills = number_of("ROOMCAST_SOURCE_KILLS", KILLS);
    house.rooms.be_busy_every(2);
    for kill in 0..kills {
        let (name, pushed) = (format!("node-{kill}"), (kill + 1) * Q::ITEMS_PER_LIFE);
        // One time nothing of it is said. The next time most is, and something is said and perhaps not acknowledged.
        let is_deaf = kill % 2 == 0;
        house.rooms.be_busy(is_deaf);
        push_all(&mut queue, pushed - Q::ITEMS_PER_LIFE..pushed).await;
        let node = queue.node(&name, &house);
        match is_deaf {
            true => house.rooms.be_asked(1).await,
            false => drop(house.rooms.hear((pushed - Q::ITEMS_PER_LIFE / 2) as usize).await),
        }
        node.crash();
        queue.is_missed(&name).await;
    }
    house.rooms.be_busy(false);
    house.rooms.be_busy_every(u64::MAX);
    let (last, all) = (queue.node("last", &house), kills * Q::ITEMS_PER_LIFE);
    // What waits is much where a queue is slow, and each part of it gets time of its own.
    for part in (0..=all).step_by(ITEMS as usize) {
        house.rooms.hear(part as usize).await;
    }
    house.rooms.hear(all as usize).await;
    queue.is_empty().await;
    house.has_all(0..all, Q::IS_ORDERED);
    let again = house.rooms.repeats().len();
    println!("{}: {kills} kills, {all} items, {again} came again and were known", Q::NAME);
    last.crash();
}

async fn duplicates<Q: Queue>() {
    let (mut queue, house) = (Q::open().await, House::open());
    let node = queue.node("a", &house);
    for number in 0..ITEMS {
        let room = room_of(number);
        let item = format!(r#"{{"room":"{room}","id":"n{number}","content":{number}}}"#);
        queue.push(&room, &item).await;
        queue.push(&room, &item).await;
    }
    eventually("the repeats", async || (node.counters().repeated() == ITEMS).then_some(())).await;
    queue.is_empty().await;
    house.has_all(0..ITEMS, Q::IS_ORDERED);
    assert_eq!(node.counters().accepted(), 2 * ITEMS, "a repeat is acknowledged as well");
    node.crash();
}

async fn poison<Q: Queue>() {
    let (mut queue, house) = (Q::open().await, House::open());
    let node = queue.node("a", &house);
    push_all(&mut queue, 0..ITEMS).await;
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for item in ["no json", r#"{"room":"a*","content":1}"#, &deep] {
        queue.push("room-0", item).await;
    }
    push_all(&mut queue, ITEMS..2 * ITEMS).await;
    house.rooms.hear(2 * ITEMS as usize).await;
    queue.is_empty().await;
    house.has_all(0..2 * ITEMS, Q::IS_ORDERED);
    let mut reasons = queue.reasons(&house).await;
    reasons.sort();
    assert_eq!(reasons, ["bad-room", "not-json", "too-deep"]);
    assert_eq!(node.counters().dead_total(), 3);
    node.crash();
}

async fn away<Q: Queue>() {
    let (mut queue, house) = (Q::open().await, House::open());
    let node = queue.node("a", &house);
    push_all(&mut queue, 0..ITEMS).await;
    house.rooms.hear(ITEMS as usize).await;
    let seconds = number_of("ROOMCAST_AWAY_SECS", AWAY_SECS);
    queue.goes_away().await;
    eventually("the node to notice", async || (!node.counters().is_connected()).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    queue.comes_back().await;
    let since = std::time::Instant::now();
    push_all(&mut queue, ITEMS..2 * ITEMS).await;
    house.rooms.hear(2 * ITEMS as usize).await;
    queue.is_empty().await;
    house.has_all(0..2 * ITEMS, Q::IS_ORDERED);
    println!("{}: away for {seconds} s, all heard {:?} after it was back", Q::NAME, since.elapsed());
    node.crash();
}

macro_rules! stories {
    ($($(#[$when:meta])? $name:ident: $queue:ty,)+) => {
        $($(#[$when])?
        mod $name {
            #[actix_rt::test]
            async fn kills_between_taking_and_acknowledging_lose_and_double_nothing() {
                super::kills::<$queue>().await;
            }

            #[actix_rt::test]
            async fn what_is_pushed_twice_under_one_id_is_heard_once() {
                super::duplicates::<$queue>().await;
            }

            #[actix_rt::test]
            async fn poison_stops_nobody_and_is_kept_with_its_reason() {
                super::poison::<$queue>().await;
            }

            #[actix_rt::test]
            async fn a_server_that_is_away_is_waited_for() {
                super::away::<$queue>().await;
            }
        })+
    };
}

stories! {
    a_redis_list: crate::lists::ListQueue,
    a_redis_stream: crate::streams::StreamQueue,
    #[cfg(feature = "nats")]
    a_nats_stream: crate::nats::NatsQueue,
    #[cfg(feature = "sqs")]
    an_sqs_fifo_queue: crate::sqs::FifoQueue,
    #[cfg(feature = "sqs")]
    an_sqs_standard_queue: crate::sqs::StandardQueue,
    #[cfg(feature = "pubsub")]
    a_pubsub_subscription: crate::google::OrderedSubscription,
}
