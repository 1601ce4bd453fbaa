//! A Redis stream as a source: in order, each once, whatever dies; one node reads at a time.

use std::time::Duration;

use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::redis_link::{RedisConnection, RedisLink};
use roomcast::sources::redis_stream::{RedisStream, Start};

use crate::exactness::{House, Queue};
use crate::fixtures::backend::{command, numbered};
use crate::fixtures::eventually;
use crate::fixtures::proxy::{Cut, Proxy};
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::{Cluster, Sentinels, Server};
use crate::fixtures::source_node::{Graves, SourceNode, parts};

const STREAM: &str = "orders";
const READER: &str = "{orders}:reader:roomcast";
/// More requests than the story can have.
const REQUESTS_MAX: u64 = 400;

fn stream(url: &str, node: &str) -> RedisStream {
    let link = RedisLink::parse(url).unwrap();
    RedisStream::new(link, STREAM, "roomcast", node, Start::First).unwrap()
}

async fn add(redis: &mut RedisConnection, payload: &str) {
    command::<String>(redis, &["XADD", STREAM, "*", "payload", payload]).await;
}

async fn add_all(redis: &mut RedisConnection, numbers: std::ops::Range<u64>) {
    for number in numbers {
        add(redis, &number.to_string()).await;
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Waits until nothing is open in the group.
async fn all_acknowledged(redis: &mut RedisConnection) {
    eventually("all entries to be acknowledged", async || {
        let pending: redis::Value = command(redis, &["XPENDING", STREAM, "roomcast"]).await;
        let redis::Value::Array(facts) = pending else { panic!("{pending:?}") };
        (facts[0] == redis::Value::Int(0)).then_some(())
    })
    .await;
}

#[actix_rt::test]
async fn what_was_there_and_what_comes_later_is_heard_in_order_and_acknowledged() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    add_all(&mut redis, 0..400).await;
    let node = SourceNode::start(stream(&server.url(), "a"), &rooms);
    rooms.hear(400).await;
    add_all(&mut redis, 400..600).await;
    let item = r#"{"room":"shop","id":"o-1","content":"paid"}"#;
    command::<String>(&mut redis, &["XADD", STREAM, "*", "room", "till", "content", "5"]).await;
    add(&mut redis, item).await;
    let heard = rooms.hear(602).await;
    assert_eq!(rooms.data()[..600], numbers(0..600));
    assert!(heard[0].id.as_ref().unwrap().starts_with("src:"), "{:?}", heard[0].id);
    assert_eq!((heard[600].room.as_str(), heard[600].data.as_str()), ("till", r#""5""#));
    assert_eq!((heard[601].room.as_str(), heard[601].id.as_deref()), ("shop", Some("o-1")));
    all_acknowledged(&mut redis).await;
    assert_eq!(node.counters.taken(), 602);
    node.drain().await;
    assert_eq!(command::<i64>(&mut redis, &["EXISTS", READER]).await, 0, "the turn is given back");
}

#[actix_rt::test]
async fn the_lag_and_the_age_are_told() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    // An entry of long ago, and more of them.
    for number in 1..=10 {
        command::<String>(&mut redis, &["XADD", STREAM, &format!("1700000000000-{number}"), "payload", "1"])
            .await;
    }
    rooms.be_busy(true);
    let node = SourceNode::start(stream(&server.url(), "a"), &rooms);
    rooms.be_asked(2).await;
    assert!(node.counters.age_ms() > 1_000_000_000, "{}", node.counters.age_ms());
    assert!(node.counters.waits() > 0);
    rooms.be_busy(false);
    rooms.hear(10).await;
    let idle = async || (node.counters.age_ms() == 0 && node.counters.backlog() == 0).then_some(());
    eventually("nothing to wait", idle).await;
}

#[actix_rt::test]
async fn a_dead_readers_entries_come_first_and_under_their_ids() {
    let (server, rooms, deaf) = (Server::start(&[]).await, Rooms::open(), Rooms::open());
    let mut redis = server.connect().await;
    deaf.be_busy(true);
    let dying = SourceNode::start(stream(&server.url(), "dying"), &deaf);
    add_all(&mut redis, 0..300).await;
    deaf.be_asked(1).await;
    let heir = SourceNode::start(stream(&server.url(), "heir"), &rooms);
    heir.is_connected().await;
    assert!(!heir.counters.is_taking(), "one node reads at a time");
    dying.crash();
    rooms.hear(300).await;
    assert_eq!(rooms.data(), numbers(0..300));
    all_acknowledged(&mut redis).await;
}

#[actix_rt::test]
async fn a_reader_that_hung_does_no_harm_when_it_goes_on() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let hanging = SourceNode::start(stream(&server.url(), "hanging"), &rooms);
    hanging.is_taking().await;
    let heir = SourceNode::start(stream(&server.url(), "heir"), &rooms);
    heir.is_connected().await;
    add_all(&mut redis, 0..200).await;
    rooms.hear(200).await;
    let thaw = hanging.freeze();
    add_all(&mut redis, 200..400).await;
    heir.is_taking().await;
    rooms.hear(400).await;
    drop(thaw);
    add_all(&mut redis, 400..600).await;
    rooms.hear(600).await;
    let stands_by = async || (!hanging.counters.is_taking() && hanging.counters.is_connected()).then_some(());
    eventually("the other one to stand by", stands_by).await;
    assert_eq!(rooms.data(), numbers(0..600));
    all_acknowledged(&mut redis).await;
}

#[actix_rt::test]
async fn what_is_pushed_twice_with_an_id_is_heard_once() {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let mut redis = server.connect().await;
    let node = SourceNode::start(stream(&server.url(), "a"), &rooms);
    for number in 0..50 {
        add(&mut redis, &numbered(number)).await;
        add(&mut redis, &numbered(number)).await;
    }
    rooms.hear(50).await;
    all_acknowledged(&mut redis).await;
    assert_eq!(rooms.data(), numbers(0..50));
    assert_eq!(node.counters.repeated(), 50);
}

#[actix_rt::test]
async fn poison_is_acknowledged_when_it_is_kept_with_its_reason_and_stops_nobody() {
    let (server, rooms, graves) = (Server::start(&[]).await, Rooms::open(), Graves::default());
    let mut redis = server.connect().await;
    graves.be_full(true);
    let parts = SourceQueueParts { graves: Some(graves.dig()), ..parts(&rooms) };
    let node = SourceNode::start_with(stream(&server.url(), "a"), parts);
    for payload in ["1", "no json", "2", r#"{"room":"a*","content":1}"#, "3"] {
        add(&mut redis, payload).await;
    }
    rooms.hear(1).await;
    graves.be_full(false);
    rooms.hear(3).await;
    all_acknowledged(&mut redis).await;
    assert_eq!(rooms.data(), ["1", "2", "3"]);
    let kept = graves.kept();
    let reasons: Vec<&str> = kept.iter().filter_map(|letter| letter.reason.split(':').next()).collect();
    assert_eq!(reasons, ["not-json", "bad-room"]);
    assert_eq!((&*kept[0].source, &kept[0].item[..]), ("src", &b"no json"[..]));
    assert_eq!(node.counters.dead_total(), 2);
}

#[actix_rt::test]
async fn poison_that_nobody_keeps_stays_in_the_queue() {
    let (server, rooms, graves) = (Server::start(&[]).await, Rooms::open(), Graves::default());
    let mut redis = server.connect().await;
    graves.be_full(true);
    let with_graves = || SourceQueueParts { graves: Some(graves.dig()), ..parts(&rooms) };
    let node = SourceNode::start_with(stream(&server.url(), "a"), with_graves());
    add(&mut redis, "no json").await;
    eventually("it to be taken", async || (node.counters.taken() == 1).then_some(())).await;
    node.drain().await;
    graves.be_full(false);
    let _next = SourceNode::start_with(stream(&server.url(), "a"), with_graves());
    eventually("the dead letter", async || (graves.kept().len() == 1).then_some(())).await;
    all_acknowledged(&mut redis).await;
}

/// Runs the story once with a cut; `false`: it passed before the cut came.
async fn passes_cut(server: &Server, at: u64, how: Cut) -> bool {
    let rooms = Rooms::open();
    let mut redis = server.connect().await;
    command::<()>(&mut redis, &["FLUSHALL"]).await;
    add_all(&mut redis, 0..4).await;
    let proxy = Proxy::start(server.port, at, how).await;
    let mut node = SourceNode::start(stream(&proxy.url(), "a"), &rooms);
    let mut cut = proxy.is_cut_before(rooms.hear(4)).await;
    for number in 4..8 {
        add(&mut redis, &number.to_string()).await;
        cut = cut || proxy.is_cut_before(rooms.hear(number as usize + 1)).await;
    }
    if cut {
        node.crash();
        // It would run out by itself within 3 s.
        command::<i64>(&mut redis, &["DEL", READER]).await;
        node = SourceNode::start(stream(&server.url(), "b"), &rooms);
    }
    rooms.hear(8).await;
    all_acknowledged(&mut redis).await;
    node.drain().await;
    assert_eq!(rooms.data(), numbers(0..8), "request {at}, {how:?}, repeats {:?}", rooms.repeats());
    cut
}

async fn at_every_request(how: Cut) {
    let server = Server::start(&[]).await;
    for at in 1..REQUESTS_MAX {
        if !passes_cut(&server, at, how).await {
            println!("stream, {how:?}: {} places passed", at - 1);
            assert!(at > 15, "the story has more requests than {at}");
            return;
        }
    }
    panic!("the story never passed untouched");
}

#[actix_rt::test]
async fn a_reader_that_dies_before_any_request_loses_nothing() {
    at_every_request(Cut::Before).await;
}

#[actix_rt::test]
async fn a_reader_that_dies_after_any_request_loses_nothing() {
    at_every_request(Cut::After).await;
}

/// Of a server that keeps what it is told over a kill.
pub struct StreamQueue {
    server: Server,
    redis: RedisConnection,
}

impl Queue for StreamQueue {
    type Node = SourceNode<RedisStream>;
    const NAME: &'static str = "Redis stream";
    const IS_ORDERED: bool = true;

    async fn open() -> StreamQueue {
        let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let redis = server.connect().await;
        StreamQueue { server, redis }
    }

    async fn push(&mut self, _room: &str, item: &str) {
        add(&mut self.redis, item).await;
    }

    fn node(&self, name: &str, house: &House) -> SourceNode<RedisStream> {
        SourceNode::start_with(stream(&self.server.url(), name), house.parts())
    }

    /// Its turn would last 3 s.
    async fn is_missed(&mut self, _name: &str) {
        command::<i64>(&mut self.redis, &["DEL", READER]).await;
    }

    async fn is_empty(&mut self) {
        all_acknowledged(&mut self.redis).await;
    }

    async fn goes_away(&mut self) {
        self.server.kill();
    }

    async fn comes_back(&mut self) {
        self.server.restart().await;
        self.redis = self.server.connect().await;
    }
}

/// Adds entries until a replica has them and the server says so; a number may be added twice.
async fn adds_safely(url: &str, numbers: std::ops::Range<u64>) {
    let link = RedisLink::parse(url).unwrap();
    let mut copies = 1;
    for number in numbers {
        eventually("the entry to be taken", async || {
            let mut redis = link.connect().await.ok()?;
            let mut add = redis::cmd("XADD");
            add.arg(STREAM).arg("*").arg("payload").arg(numbered(number));
            let added = add.query_async::<String>(&mut redis).await;
            let known = redis.wait_for_replica(STREAM, Duration::from_millis(300)).await;
            let safe = added.is_ok() && known.is_ok_and(|known| known >= copies);
            if !safe {
                // After the failover a primary may be left without a replica, and nothing fails any more.
                copies = 0;
            }
            safe.then_some(())
        })
        .await;
    }
}

#[actix_rt::test]
async fn the_primary_is_killed_under_sentinel() {
    let (mut group, rooms) = (Sentinels::start().await, Rooms::open());
    let _nodes = ["a", "b"].map(|name| SourceNode::start(stream(&group.url(), name), &rooms));
    adds_safely(&group.url(), 0..50).await;
    rooms.hear(50).await;
    group.primary().kill();
    adds_safely(&group.url(), 50..100).await;
    rooms.hear(100).await;
    assert_eq!(rooms.data(), numbers(0..100));
}

#[actix_rt::test]
async fn a_stream_of_a_cluster_is_read() {
    let (cluster, rooms) = (Cluster::start().await, Rooms::open());
    let node = SourceNode::start(stream(&cluster.url(), "a"), &rooms);
    adds_safely(&cluster.url(), 0..50).await;
    rooms.hear(50).await;
    assert_eq!(rooms.data(), numbers(0..50));
    node.drain().await;
}
