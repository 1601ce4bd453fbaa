//! What holds for every target that is another service's queue: entries arrive in the order of their room, those that
//! come again have their old id, a target that is away is waited for, and an entry that it can never take stops nobody.
//!
//! `ROOMCAST_AWAY_SECS` says for how long a target is away (3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use bytes::Bytes;
use roomcast::actors::forwarder::{Forwarder, ForwarderParts};
use roomcast::actors::letters::Drain;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::Epoch;
use roomcast::chat::names::RoomName;
use roomcast::forwards::counters::ForwardCounters;
use roomcast::forwards::memory::{MemoryExit, MemoryFeed};
use roomcast::forwards::target::Target;
use serde_json::{Value, json};

use crate::exactness::number_of;
use crate::fixtures::eventually;
use crate::fixtures::source_node::Graves;

/// The last one's name has letters that not every service takes.
const ROOMS: [&str; 4] = ["lobby", "team-1", "@ann+bob", "über uns"];
const AWAY_SECS: u64 = 3;

/// Where entries go, as those see it who work on them.
pub trait Place: Sized {
    type Target: Target;
    /// For what is printed.
    const NAME: &'static str;
    /// Whether the service itself drops what comes with an id that it knows.
    const KNOWS_REPEATS: bool;
    /// Said at once: more than one request takes.
    const ENTRIES: u64 = 300;
    /// Bytes of an entry that it never takes.
    const TOO_BIG: usize;

    async fn open() -> Self;

    fn target(&self) -> Self::Target;

    /// Waits until so many entries are there that differ; all that have come so far, oldest first.
    async fn has(&mut self, count: usize) -> Vec<Value>;

    async fn goes_away(&mut self);

    async fn comes_back(&mut self);
}

/// Rooms in memory with a forwarder behind them.
struct House<P: Place> {
    exit: MemoryExit,
    forwarder: Addr<Forwarder<MemoryFeed, P::Target>>,
    counters: Arc<ForwardCounters>,
    graves: Graves,
    said: u64,
}

impl<P: Place> House<P> {
    fn open(place: &P) -> House<P> {
        let exit = MemoryExit::new(100_000, ["it".to_owned()], Arc::new(|_| true));
        let (counters, graves) = (Arc::<ForwardCounters>::default(), Graves::default());
        let parts = ForwarderParts {
            name: "it".into(),
            finish: Duration::from_secs(2),
            graves: Some(graves.dig()),
            dead: Arc::default(),
            counters: counters.clone(),
            tracer: Default::default(),
        };
        let forwarder = Forwarder::new(exit.feed("it", Arc::new(|_| true)), place.target(), parts).start();
        House { exit, forwarder, counters, graves, said: 0 }
    }

    /// The next entry of the rooms in turn, with this text.
    fn says(&mut self, text: &str) {
        let room = ROOMS[self.said as usize % ROOMS.len()];
        let offset = self.said / ROOMS.len() as u64 + 1;
        self.said += 1;
        let line =
            json!({"t": "msg", "r": room, "s": offset, "id": format!("n{offset}"), "ts": 1, "d": text});
        self.exit.push(&Entry {
            room: RoomName::new(room).unwrap(),
            epoch: Epoch(36),
            offset,
            ts: 1,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::from(line.to_string()),
        });
    }

    fn says_some(&mut self, count: u64) {
        for _ in 0..count {
            self.says("hello");
        }
    }

    /// Each entry is there, the first time in its room's order. Answers how many came again.
    fn is_told_by(&self, arrived: &[Value], refused: u64) -> usize {
        let (mut known, mut by_room) = (BTreeSet::new(), BTreeMap::<String, Vec<u64>>::new());
        for entry in arrived {
            let (room, offset) = (entry["r"].as_str().unwrap(), entry["s"].as_u64().unwrap());
            assert_eq!(entry["e"], "10", "the epoch stands there: {entry}");
            if known.insert((room.to_owned(), offset)) {
                by_room.entry(room.to_owned()).or_default().push(offset);
            }
        }
        assert_eq!(known.len() as u64, self.said - refused);
        for (room, offsets) in by_room {
            assert!(offsets.is_sorted(), "{room}: {offsets:?}");
        }
        arrived.len() - known.len()
    }

    async fn ends(self) {
        self.forwarder.send(Drain).await.unwrap();
    }
}

async fn order<P: Place>() {
    let mut place = P::open().await;
    let mut house = House::open(&place);
    house.says_some(P::ENTRIES);
    let arrived = place.has(P::ENTRIES as usize).await;
    assert_eq!(house.is_told_by(&arrived, 0), 0, "nothing happened that could make one come again");
    eventually("all to be counted", async || (house.counters.forwarded() == P::ENTRIES).then_some(())).await;
    house.ends().await;
}

async fn away<P: Place>() {
    let mut place = P::open().await;
    let mut house = House::open(&place);
    house.says_some(P::ENTRIES);
    place.has(P::ENTRIES as usize / 2).await;
    // In the middle of its work.
    place.goes_away().await;
    house.says_some(P::ENTRIES);
    eventually("the forwarder to notice", async || (!house.counters.is_connected()).then_some(())).await;
    let seconds = number_of("ROOMCAST_AWAY_SECS", AWAY_SECS);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    place.comes_back().await;
    house.says_some(P::ENTRIES);
    let arrived = place.has(3 * P::ENTRIES as usize).await;
    let repeats = house.is_told_by(&arrived, 0);
    assert!(repeats == 0 || !P::KNOWS_REPEATS, "{repeats} came again");
    assert!(house.counters.retries() > 0);
    println!("{}: away for {seconds} s, {} entries, {repeats} came again", P::NAME, 3 * P::ENTRIES);
    house.ends().await;
}

async fn too_big<P: Place>() {
    let mut place = P::open().await;
    let mut house = House::open(&place);
    house.says_some(3);
    house.says(&"x".repeat(P::TOO_BIG));
    house.says_some(30);
    let arrived = place.has(33).await;
    assert_eq!(house.is_told_by(&arrived, 1), 0);
    let letters = house.graves.kept();
    assert_eq!((letters.len(), house.counters.dead()), (1, 1));
    assert!(letters[0].item.len() > P::TOO_BIG && !letters[0].reason.is_empty(), "{}", letters[0].reason);
    house.ends().await;
}

macro_rules! stories {
    ($(#[$when:meta] $name:ident: $place:ty,)+) => {
        $(#[$when]
        mod $name {
            #[actix_rt::test]
            async fn entries_arrive_in_the_order_of_their_room() {
                super::order::<$place>().await;
            }

            #[actix_rt::test]
            async fn a_target_that_is_away_gets_what_it_lacks_when_it_is_back() {
                super::away::<$place>().await;
            }

            #[actix_rt::test]
            async fn an_entry_that_can_never_be_taken_is_a_dead_letter_and_the_next_ones_follow() {
                super::too_big::<$place>().await;
            }
        })+
    };
}

stories! {
    #[cfg(feature = "nats")]
    a_nats_subject: crate::nats::NatsPlace,
    #[cfg(feature = "sqs")]
    an_sqs_fifo_queue: crate::sqs::FifoPlace,
    #[cfg(feature = "sqs")]
    an_sqs_standard_queue: crate::sqs::StandardPlace,
    #[cfg(feature = "pubsub")]
    a_pubsub_topic: crate::google::TopicPlace,
}
