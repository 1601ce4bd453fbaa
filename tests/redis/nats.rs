//! A stream of NATS JetStream as a source, with a real server: in order, each once, whatever dies.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context, stream};
use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::forwards::nats::NatsTarget;
use roomcast::sources::nats::{Nats, NatsParts};
use roomcast_rig::nats::NatsServer;
use serde_json::Value;

use crate::exactness::{House, Queue};
use crate::fixtures::eventually;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::source_node::{Graves, SourceNode, parts};
use crate::targets::Place;

fn orders() -> stream::Config {
    stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        duplicate_window: Duration::from_millis(100),
        ..Default::default()
    }
}

/// A server with the stream `ORDERS` of the subjects `orders.>`.
async fn with_stream() -> (NatsServer, Context) {
    let server = NatsServer::start();
    let context = connect(&server).await;
    eventually("the stream", async || context.create_stream(&orders()).await.ok()).await;
    (server, context)
}

async fn connect(server: &NatsServer) -> Context {
    let client = eventually("a connection", async || async_nats::connect(server.url()).await.ok()).await;
    jetstream::new(client)
}

fn source(server: &NatsServer, node: &str) -> Nats {
    let [url, stream, group] = [&server.url(), "ORDERS", "roomcast"].map(str::to_owned);
    Nats::new(NatsParts { url, stream, group, subject: String::new(), node: node.into() })
}

async fn push(context: &Context, payload: &str) {
    context.publish("orders.new", payload.to_owned().into()).await.unwrap().await.unwrap();
}

async fn push_all(context: &Context, numbers: std::ops::Range<u64>) {
    for number in numbers {
        push(context, &number.to_string()).await;
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// What stands in the bucket: whose turn it is, and how far it is read.
async fn place(context: &Context) -> Option<serde_json::Value> {
    let store = context.get_key_value("roomcast").await.ok()?;
    serde_json::from_slice(&store.get("ORDERS.roomcast").await.ok()??).ok()
}

async fn is_read_up_to(context: &Context, sequence: u64) {
    eventually("the place", async || (place(context).await?["upto"] == sequence).then_some(())).await;
}

#[actix_rt::test]
async fn what_was_there_and_what_comes_later_is_heard_in_order() {
    let ((server, context), rooms) = (with_stream().await, Rooms::open());
    push_all(&context, 0..400).await;
    let node = SourceNode::start(source(&server, "a"), &rooms);
    rooms.hear(400).await;
    push_all(&context, 400..500).await;
    push(&context, r#"{"room":"shop","id":"o-1","content":"paid"}"#).await;
    let heard = rooms.hear(501).await;
    assert_eq!(rooms.data()[..500], numbers(0..500));
    assert_eq!((heard[500].room.as_str(), heard[500].id.as_deref()), ("shop", Some("o-1")));
    is_read_up_to(&context, 501).await;
    eventually("nothing to wait", async || (node.counters.backlog() == 0).then_some(())).await;
    let other = SourceNode::start(source(&server, "b"), &rooms);
    other.is_connected().await;
    assert!(!other.counters.is_taking(), "one node reads at a time");
    node.drain().await;
    other.is_taking().await;
    push(&context, "\"last\"").await;
    rooms.hear(502).await;
    assert_eq!(rooms.repeats(), [] as [&str; 0], "the turn and the place were given over");
}

#[actix_rt::test]
async fn what_is_pushed_twice_under_one_id_is_heard_once() {
    let ((server, context), rooms) = (with_stream().await, Rooms::open());
    let node = SourceNode::start(source(&server, "a"), &rooms);
    let with_id = async || {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "o-17");
        let sent = context.publish_with_headers("orders.new", headers, "1".into()).await.unwrap();
        sent.await.unwrap().duplicate
    };
    assert!(!with_id().await);
    // The server itself knows ids for a while; this one for 100 ms.
    eventually("the server to forget the id", async || (!with_id().await).then_some(())).await;
    eventually("the repeat", async || (node.counters.repeated() == 1).then_some(())).await;
    assert_eq!(rooms.data(), ["1"]);
    assert_eq!(rooms.heard()[0].id.as_deref(), Some("src:m.o-17"));
}

#[actix_rt::test]
async fn a_reader_that_hung_does_no_harm_when_it_goes_on() {
    let ((server, context), rooms) = (with_stream().await, Rooms::open());
    let hanging = SourceNode::start(source(&server, "hanging"), &rooms);
    hanging.is_taking().await;
    let heir = SourceNode::start(source(&server, "heir"), &rooms);
    heir.is_connected().await;
    push_all(&context, 0..200).await;
    rooms.hear(200).await;
    let thaw = hanging.freeze();
    push_all(&context, 200..400).await;
    heir.is_taking().await;
    rooms.hear(400).await;
    drop(thaw);
    push_all(&context, 400..600).await;
    rooms.hear(600).await;
    let stands_by = async || (!hanging.counters.is_taking() && hanging.counters.is_connected()).then_some(());
    eventually("the other one to stand by", stands_by).await;
    assert_eq!(rooms.data(), numbers(0..600));
}

#[actix_rt::test]
async fn poison_is_passed_when_it_is_kept_and_not_before() {
    let ((server, context), rooms, graves) = (with_stream().await, Rooms::open(), Graves::default());
    graves.be_full(true);
    let with_graves = || SourceQueueParts { graves: Some(graves.dig()), ..parts(&rooms) };
    let node = SourceNode::start_with(source(&server, "a"), with_graves());
    for payload in ["1", "no json", "2"] {
        push(&context, payload).await;
    }
    rooms.hear(1).await;
    eventually("the poison to be taken", async || (node.counters.taken() >= 2).then_some(())).await;
    node.drain().await;
    assert!(place(&context).await.unwrap()["upto"].as_u64().unwrap() < 2);
    graves.be_full(false);
    let _next = SourceNode::start_with(source(&server, "b"), with_graves());
    rooms.hear(2).await;
    is_read_up_to(&context, 3).await;
    assert_eq!(rooms.data(), ["1", "2"]);
    let kept = graves.kept();
    assert!(kept.len() == 1 && kept[0].reason.starts_with("not-json"), "{kept:?}");
}

#[actix_rt::test]
async fn a_stream_that_drops_what_is_not_acknowledged_is_refused() {
    let (server, rooms) = (NatsServer::start(), Rooms::open());
    let context = connect(&server).await;
    let config = stream::Config {
        name: "ORDERS".into(),
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    eventually("the stream", async || context.create_stream(&config).await.ok()).await;
    let mut source = source(&server, "a");
    let error = roomcast::sources::source::Source::open(&mut source).await.unwrap_err();
    assert!(error.0.contains("retention"), "{error}");
    assert!(rooms.heard().is_empty());
}

/// A stream whose server keeps what it has acknowledged over a kill.
pub struct NatsQueue {
    server: NatsServer,
    context: Context,
    pushed: u64,
}

impl Queue for NatsQueue {
    type Node = SourceNode<Nats>;
    const NAME: &'static str = "NATS JetStream";
    const IS_ORDERED: bool = true;

    async fn open() -> NatsQueue {
        let (server, context) = with_stream().await;
        NatsQueue { server, context, pushed: 0 }
    }

    async fn push(&mut self, _room: &str, item: &str) {
        push(&self.context, item).await;
        self.pushed += 1;
    }

    fn node(&self, name: &str, house: &House) -> SourceNode<Nats> {
        SourceNode::start_with(source(&self.server, name), house.parts())
    }

    /// The others would miss it for 3 s.
    async fn is_missed(&mut self, _name: &str) {
        let store = self.context.get_key_value("roomcast").await.unwrap();
        let mut place = place(&self.context).await.unwrap();
        place["reader"] = "".into();
        store.put("ORDERS.roomcast", place.to_string().into()).await.unwrap();
    }

    async fn is_empty(&mut self) {
        is_read_up_to(&self.context, self.pushed).await;
    }

    async fn goes_away(&mut self) {
        self.server.kill();
    }

    async fn comes_back(&mut self) {
        self.server.restart();
        self.context = connect(&self.server).await;
        eventually("the stream", async || self.context.get_stream("ORDERS").await.ok().map(drop)).await;
    }
}

/// The stream that takes the subject `orders.log`.
pub struct NatsPlace {
    server: NatsServer,
    context: Context,
}

impl Place for NatsPlace {
    type Target = NatsTarget;
    const NAME: &'static str = "NATS JetStream";
    const KNOWS_REPEATS: bool = true;
    // A server takes 1 MiB.
    const TOO_BIG: usize = 2 << 20;

    async fn open() -> NatsPlace {
        let server = NatsServer::start();
        let context = connect(&server).await;
        let config =
            stream::Config { name: "LOG".into(), subjects: vec!["orders.>".into()], ..Default::default() };
        eventually("the stream", async || context.create_stream(&config).await.ok()).await;
        NatsPlace { server, context }
    }

    fn target(&self) -> NatsTarget {
        NatsTarget::new(self.server.url(), "orders.log".into())
    }

    async fn has(&mut self, count: usize) -> Vec<Value> {
        let stream = eventually("the entries", async || {
            let stream = self.context.get_stream("LOG").await.ok()?;
            (stream.cached_info().state.messages >= count as u64).then_some(stream)
        })
        .await;
        let mut all = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let entry: Value = serde_json::from_slice(&message.payload).unwrap();
            let id = format!("{}@10-{}", entry["r"].as_str().unwrap(), entry["s"]);
            assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), id);
            all.push(entry);
        }
        all
    }

    async fn goes_away(&mut self) {
        self.server.kill();
    }

    async fn comes_back(&mut self) {
        self.server.restart();
        self.context = connect(&self.server).await;
    }
}
