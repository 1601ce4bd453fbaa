//! A subscription of Google Pub/Sub as a source, with Google's own stand-in in place of the service: in order per key,
//! each once, whichever node takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::forwards::pubsub::{PubSubTarget, PubSubTopic};
use roomcast::sources::pubsub::{PubSub, PubSubParts};
use roomcast::sources::source::Source;
use roomcast_rig::google::{Google, Published, SUBSCRIPTION};
use serde_json::Value;

use crate::exactness::{House, Queue};
use crate::fixtures::eventually;
use crate::fixtures::relay::Relay;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::source_node::{SourceNode, parts};
use crate::targets::Place;

async fn google(is_ordered: bool) -> Google {
    let google = Google::start().await;
    google.has_subscription(is_ordered).await;
    google
}

fn pubsub(endpoint: String, node: &str) -> PubSub {
    let parts = PubSubParts {
        subscription: SUBSCRIPTION.into(),
        endpoint,
        node: node.into(),
        // What stands in the environment of the tests is not meant.
        environment: |_| None,
    };
    PubSub::new(parts).unwrap()
}

/// What is taken is leased for a second only, so that what a crash leaves comes again soon.
fn start(google: &Google, node: &'static str, parts: SourceQueueParts) -> SourceNode<PubSub> {
    let endpoint = google.endpoint();
    SourceNode::start_from(move || pubsub(endpoint, node).leased_for(Duration::from_secs(1)), parts)
}

async fn publish_all(google: &Google, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = format!("g{}", number % 3);
        google.publish(&key, &[("room", &key)], &number.to_string()).await;
    }
}

/// Of each of the three rooms, in the order in which it was heard.
fn heard_by_room(rooms: &Rooms) -> HashMap<String, Vec<u64>> {
    let mut by_room: HashMap<String, Vec<u64>> = HashMap::new();
    for heard in rooms.heard() {
        by_room.entry(heard.room).or_default().push(heard.data.parse().unwrap());
    }
    by_room
}

fn has_all_in_order(rooms: &Rooms, until: u64) {
    let by_room = heard_by_room(rooms);
    for room in 0..3 {
        let wanted: Vec<u64> = (room..until).step_by(3).collect();
        assert_eq!(by_room[&format!("g{room}")], wanted, "g{room}");
    }
}

#[actix_rt::test]
async fn what_was_there_and_what_comes_later_is_heard_in_the_order_of_its_key() {
    let (google, rooms) = (google(true).await, Rooms::open());
    publish_all(&google, 0..60).await;
    let node = start(&google, "a", parts(&rooms));
    rooms.hear(60).await;
    publish_all(&google, 60..90).await;
    rooms.hear(90).await;
    google.is_empty().await;
    has_all_in_order(&rooms, 90);
    assert!(node.counters.is_taking() && node.counters.age_ms() < 60_000);
    node.drain().await;
}

#[actix_rt::test]
async fn attributes_name_the_room_and_the_id_where_the_item_does_not() {
    let (google, rooms) = (google(false).await, Rooms::open());
    let node = start(&google, "a", parts(&rooms));
    google.publish("", &[], "1").await;
    rooms.hear(1).await;
    google.publish("", &[("room", "till"), ("id", "o-17")], "2").await;
    rooms.hear(2).await;
    google.publish("", &[("room", "till"), ("id", "o-17")], "3").await;
    eventually("the repeat", async || (node.counters.repeated() == 1).then_some(())).await;
    google.publish("", &[("room", "till")], r#"{"room":"shop","id":"o-1","content":4}"#).await;
    rooms.hear(3).await;
    google.publish("", &[("room", "a*")], "5").await;
    eventually("the dead letter", async || (node.counters.dead_total() == 1).then_some(())).await;
    google.is_empty().await;
    let heard: Vec<(String, String, String)> =
        rooms.heard().into_iter().map(|heard| (heard.room, heard.id.unwrap(), heard.data)).collect();
    let said = |at: usize| (heard[at].0.as_str(), heard[at].1.as_str(), heard[at].2.as_str());
    assert!(heard[0].0 == "lobby" && heard[0].1.starts_with("src:"), "{heard:?}");
    assert_eq!((said(1), said(2)), (("till", "src:m.o-17", "2"), ("shop", "o-1", "4")));
}

#[actix_rt::test]
async fn two_nodes_share_a_subscription_and_keep_the_order_of_each_key() {
    let (google, rooms) = (google(true).await, Rooms::open());
    let nodes = ["a", "b"].map(|name| start(&google, name, parts(&rooms)));
    for node in &nodes {
        node.is_connected().await;
    }
    publish_all(&google, 0..90).await;
    rooms.hear(90).await;
    google.is_empty().await;
    has_all_in_order(&rooms, 90);
    let taken = nodes.map(|node| node.counters.taken());
    assert!(taken.iter().all(|taken| *taken > 0), "both are at work: {taken:?}");
}

#[actix_rt::test]
async fn a_reader_that_hung_does_no_harm_when_it_goes_on() {
    let (google, rooms) = (google(true).await, Rooms::open());
    let hanging = start(&google, "hanging", parts(&rooms));
    publish_all(&google, 0..30).await;
    rooms.hear(30).await;
    let thaw = hanging.freeze();
    publish_all(&google, 30..60).await;
    let heir = start(&google, "heir", parts(&rooms));
    // What went to the one that hangs is the other's when its lease is over; but the stand-in may give it to the same one
    // again and again, and what follows it under its key has to wait then.
    eventually("the heir to take over", async || (heir.counters.taken() >= 10).then_some(())).await;
    drop(thaw);
    publish_all(&google, 60..90).await;
    rooms.hear(90).await;
    google.is_empty().await;
    has_all_in_order(&rooms, 90);
}

#[actix_rt::test]
async fn a_node_that_drains_gives_back_what_the_rooms_do_not_take() {
    let (google, deaf, rooms) = (google(true).await, Rooms::open(), Rooms::open());
    publish_all(&google, 0..9).await;
    deaf.be_busy(true);
    let endpoint = google.endpoint();
    // With the usual lease of 30 s.
    let node = SourceNode::start_from(move || pubsub(endpoint, "a"), parts(&deaf));
    deaf.be_asked(2).await;
    node.drain().await;
    let since = Instant::now();
    let _other = start(&google, "b", parts(&rooms));
    rooms.hear(9).await;
    assert!(since.elapsed() < Duration::from_secs(20), "it was nobody's");
    has_all_in_order(&rooms, 9);
}

#[actix_rt::test]
async fn what_busy_rooms_keep_waiting_stays_this_nodes_own() {
    let (google, rooms) = (google(true).await, Rooms::open());
    rooms.be_busy(true);
    let node = start(&google, "a", parts(&rooms));
    publish_all(&google, 0..9).await;
    rooms.be_asked(1).await;
    let since = Instant::now();
    // Longer than three leases.
    eventually("time to pass", async || (since.elapsed() > Duration::from_millis(3_200)).then_some(())).await;
    rooms.be_busy(false);
    rooms.hear(9).await;
    google.is_empty().await;
    has_all_in_order(&rooms, 9);
    let delivered: Vec<u64> = google.published().await.iter().map(|message| message.deliveries).collect();
    assert!(node.counters.waits() > 0);
    assert_eq!(delivered, [1; 9], "nothing came a second time");
}

#[actix_rt::test]
async fn a_server_that_hangs_is_noticed_and_waited_for() {
    let (google, rooms) = (google(true).await, Rooms::open());
    let node = start(&google, "a", parts(&rooms));
    publish_all(&google, 0..3).await;
    rooms.hear(3).await;
    google.signal("-STOP");
    eventually("the node to notice", async || (!node.counters.is_connected()).then_some(())).await;
    google.signal("-CONT");
    publish_all(&google, 3..6).await;
    rooms.hear(6).await;
    google.is_empty().await;
    has_all_in_order(&rooms, 6);
}

#[actix_rt::test]
async fn a_subscription_that_is_not_there_is_told() {
    let google = Google::start().await;
    let error = pubsub(google.endpoint(), "a").open().await.unwrap_err();
    assert!(error.0.contains("NOT_FOUND") && error.0.contains(SUBSCRIPTION), "{error}");
}

/// One whose server keeps all it has while nobody reaches it.
pub struct OrderedSubscription {
    google: Google,
    relay: Relay,
}

impl Queue for OrderedSubscription {
    type Node = SourceNode<PubSub>;
    const NAME: &'static str = "Google Pub/Sub";
    // The stand-in gives out one message of a key at a time, and looks for the next one every 10 ms.
    const ITEMS_PER_LIFE: u64 = 10;
    const IS_ORDERED: bool = true;

    async fn open() -> OrderedSubscription {
        let google = google(true).await;
        let relay = Relay::start(google.port).await;
        OrderedSubscription { google, relay }
    }

    async fn push(&mut self, room: &str, item: &str) {
        self.google.publish(room, &[], item).await;
    }

    fn node(&self, name: &str, house: &House) -> SourceNode<PubSub> {
        let (endpoint, name) = (format!("http://127.0.0.1:{}", self.relay.port), name.to_owned());
        let make = move || pubsub(endpoint, &name).leased_for(Duration::from_secs(1));
        SourceNode::start_from(make, house.parts())
    }

    async fn is_empty(&mut self) {
        self.google.is_empty().await;
    }

    async fn goes_away(&mut self) {
        self.relay.cut().await;
    }

    async fn comes_back(&mut self) {
        self.relay.mend().await;
    }
}

/// The topic, as its stand-in has it.
pub struct TopicPlace(OrderedSubscription);

impl Place for TopicPlace {
    type Target = PubSubTarget;
    const NAME: &'static str = "Google Pub/Sub";
    const KNOWS_REPEATS: bool = false;
    // Pub/Sub takes 10 MB.
    const TOO_BIG: usize = 11_000_000;

    async fn open() -> TopicPlace {
        TopicPlace(OrderedSubscription::open().await)
    }

    fn target(&self) -> PubSubTarget {
        let endpoint = format!("http://127.0.0.1:{}", self.0.relay.port);
        let topic = "projects/p/topics/pushes".into();
        PubSubTarget::new(PubSubTopic { topic, endpoint, environment: |_| None }).unwrap()
    }

    async fn has(&mut self, count: usize) -> Vec<Value> {
        let published = eventually("the entries", async || {
            let published = self.0.google.published().await;
            let ids: std::collections::HashSet<&String> =
                published.iter().map(|message| &message.attributes["id"]).collect();
            (ids.len() >= count).then(|| published.clone())
        })
        .await;
        let entry = |message: &Published| {
            let entry: Value = serde_json::from_str(&message.data).unwrap();
            assert_eq!(
                (entry["r"].as_str().unwrap(), &message.attributes["room"]),
                (message.key.as_str(), &message.key)
            );
            assert_eq!(message.attributes["id"], format!("{}@10-{}", message.key, entry["s"]));
            entry
        };
        published.iter().map(entry).collect()
    }

    async fn goes_away(&mut self) {
        self.0.relay.cut().await;
    }

    async fn comes_back(&mut self) {
        self.0.relay.mend().await;
    }
}
