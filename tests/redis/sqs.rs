//! Queues of Amazon SQS as sources, with moto's server in place of Amazon's.

use std::collections::HashMap;
use std::time::Duration;

use roomcast::actors::source_queue::SourceQueueParts;
use roomcast::clouds::aws::sqs::SqsParts;
use roomcast::forwards::sqs::SqsTarget;
use roomcast::sources::sqs::Sqs;
use roomcast_rig::moto::{Moto, REGION};
use serde_json::{Value, json};

use crate::exactness::{House, Queue};
use crate::fixtures::eventually;
use crate::fixtures::relay::Relay;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::source_node::{Graves, SourceNode, parts};
use crate::targets::Place;

fn environment(name: &str) -> Option<String> {
    matches!(name, "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY").then(|| "test".to_owned())
}

/// A node that takes from a queue; its source is made on its own thread.
fn start(server: &Moto, queue: &str, parts: SourceQueueParts) -> SourceNode<Sqs> {
    let sqs = SqsParts {
        queue_url: queue.to_owned(),
        region: REGION.into(),
        endpoint: server.endpoint(),
        environment,
    };
    SourceNode::start_from(move || Sqs::new(sqs).unwrap(), parts)
}

#[actix_rt::test]
async fn each_message_of_a_standard_queue_is_heard_once_whoever_takes_it() {
    let (server, rooms) = (Moto::start().await, Rooms::open());
    let queue = server.queue("jobs").await;
    for number in 0..60 {
        server.push(&queue, &number.to_string()).await;
    }
    let nodes = [(); 2].map(|()| start(&server, &queue, parts(&rooms)));
    server.push(&queue, r#"{"room":"shop","id":"o-1","content":"paid"}"#).await;
    let heard = rooms.hear(61).await;
    let mut data: Vec<u64> = heard.iter().filter_map(|heard| heard.data.parse().ok()).collect();
    data.sort_unstable();
    assert_eq!(data, (0..60).collect::<Vec<_>>());
    assert!(heard.iter().any(|heard| heard.room == "shop" && heard.id.as_deref() == Some("o-1")));
    assert!(
        heard.iter().filter(|heard| heard.room == "lobby").all(|heard| heard
            .id
            .as_ref()
            .unwrap()
            .starts_with("src:"))
    );
    for node in nodes {
        node.drain().await;
    }
}

#[actix_rt::test]
async fn a_fifo_queue_keeps_the_order_of_each_group_over_two_nodes() {
    let (server, rooms) = (Moto::start().await, Rooms::open());
    let queue = server.queue("orders.fifo").await;
    let _nodes = [(); 2].map(|()| start(&server, &queue, parts(&rooms)));
    for number in 0..60 {
        let (group, id) = (format!("g{}", number % 3), format!("n{number}"));
        let body = json!({"room": group, "id": id, "content": number}).to_string();
        server.push_in_group(&queue, &group, &id, &body).await;
        if number % 10 == 0 {
            // A backend that was not sure. Moto forgets ids with their messages, SQS does so after five minutes.
            server.push_in_group(&queue, &group, &id, &body).await;
        }
    }
    let heard = rooms.hear(60).await;
    server.is_empty(&queue).await;
    let mut of_group: HashMap<String, Vec<u64>> = HashMap::new();
    for heard in heard {
        of_group.entry(heard.room).or_default().push(heard.data.parse().unwrap());
    }
    for (group, wanted) in [("g0", 0..60), ("g1", 1..60), ("g2", 2..60)] {
        assert_eq!(of_group[group], wanted.step_by(3).collect::<Vec<_>>(), "{group}");
    }
}

#[actix_rt::test]
async fn what_a_dead_node_had_taken_comes_again_and_is_known() {
    let (server, rooms) = (Moto::start().await, Rooms::open());
    let queue = server.queue("jobs").await;
    for number in 0..10 {
        server.push(&queue, &number.to_string()).await;
    }
    // Of ten messages five are said, and none is acknowledged.
    rooms.be_busy_every(1);
    let dying = start(&server, &queue, parts(&rooms));
    rooms.be_asked(1).await;
    dying.crash();
    rooms.be_busy_every(u64::MAX);
    let _heir = start(&server, &queue, parts(&rooms));
    let heard = rooms.hear(10).await;
    server.is_empty(&queue).await;
    let mut data: Vec<u64> = heard.iter().map(|heard| heard.data.parse().unwrap()).collect();
    data.sort_unstable();
    assert_eq!(data, (0..10).collect::<Vec<_>>());
}

#[actix_rt::test]
async fn a_node_that_drains_gives_back_what_the_rooms_do_not_take() {
    let (server, deaf, rooms) = (Moto::start().await, Rooms::open(), Rooms::open());
    let queue = server.queue("jobs").await;
    server.push(&queue, "1").await;
    deaf.be_busy(true);
    let node = start(&server, &queue, parts(&deaf));
    deaf.be_asked(2).await;
    node.drain().await;
    let since = std::time::Instant::now();
    let _other = start(&server, &queue, parts(&rooms));
    rooms.hear(1).await;
    assert!(since.elapsed() < Duration::from_secs(20), "it was not hidden for 30 s any more");
}

#[actix_rt::test]
async fn poison_is_deleted_when_it_is_kept_with_its_reason() {
    let (server, rooms, graves) = (Moto::start().await, Rooms::open(), Graves::default());
    let queue = server.queue("jobs").await;
    let node = start(&server, &queue, SourceQueueParts { graves: Some(graves.dig()), ..parts(&rooms) });
    for body in ["1", "no json", "2"] {
        server.push(&queue, body).await;
    }
    rooms.hear(2).await;
    server.is_empty(&queue).await;
    let kept = graves.kept();
    assert!(kept.len() == 1 && kept[0].reason.starts_with("not-json"), "{kept:?}");
    assert_eq!(node.counters.dead_total(), 1);
}

#[actix_rt::test]
async fn a_server_that_hangs_for_some_seconds_is_waited_for() {
    let (server, rooms) = (Moto::start().await, Rooms::open());
    let queue = server.queue("jobs").await;
    let node = start(&server, &queue, parts(&rooms));
    server.push(&queue, "1").await;
    rooms.hear(1).await;
    server.signal("-STOP");
    eventually("the node to notice", async || (!node.counters.is_connected()).then_some(())).await;
    server.signal("-CONT");
    server.push(&queue, "2").await;
    rooms.hear(2).await;
    server.is_empty(&queue).await;
    assert_eq!(rooms.data(), ["1", "2"]);
}

#[actix_rt::test]
async fn a_queue_that_is_not_there_is_told() {
    let server = Moto::start().await;
    let queue_url = format!("{}/123456789012/nothing", server.endpoint());
    let parts = SqsParts { queue_url, region: REGION.into(), endpoint: String::new(), environment };
    let mut source = Sqs::new(parts).unwrap();
    let error = roomcast::sources::source::Source::open(&mut source).await.unwrap_err();
    assert!(error.0.contains("QueueDoesNotExist") || error.0.contains("NonExistentQueue"), "{error}");
}

/// A queue whose server keeps all it has while nobody reaches it. What is taken is hidden for a second only, so that a
/// story of many kills is short.
struct Stand {
    server: Moto,
    relay: Relay,
    queue: String,
    pushed: u64,
}

impl Stand {
    async fn open(name: &str) -> Stand {
        let server = Moto::start().await;
        let (relay, queue) = (Relay::start(server.port).await, server.queue(name).await);
        Stand { server, relay, queue, pushed: 0 }
    }

    fn parts(&self) -> SqsParts {
        SqsParts {
            queue_url: self.queue.clone(),
            region: REGION.into(),
            endpoint: format!("http://127.0.0.1:{}", self.relay.port),
            environment,
        }
    }

    fn node(&self, house: &House) -> SourceNode<Sqs> {
        let parts = self.parts();
        let make = move || Sqs::new(parts).unwrap().hidden_for(Duration::from_secs(1));
        SourceNode::start_from(make, house.parts())
    }
}

pub struct FifoQueue(Stand);

impl Queue for FifoQueue {
    type Node = SourceNode<Sqs>;
    const NAME: &'static str = "SQS FIFO";
    // The stand-in looks at each message for each answer.
    const ITEMS_PER_LIFE: u64 = 10;
    const IS_ORDERED: bool = true;

    async fn open() -> FifoQueue {
        FifoQueue(Stand::open("orders.fifo").await)
    }

    async fn push(&mut self, room: &str, item: &str) {
        let id = format!("push-{}", self.0.pushed);
        self.0.pushed += 1;
        self.0.server.push_in_group(&self.0.queue, room, &id, item).await;
    }

    fn node(&self, _name: &str, house: &House) -> SourceNode<Sqs> {
        self.0.node(house)
    }

    async fn is_empty(&mut self) {
        self.0.server.is_empty(&self.0.queue).await;
    }

    async fn goes_away(&mut self) {
        self.0.relay.cut().await;
    }

    async fn comes_back(&mut self) {
        self.0.relay.mend().await;
    }
}

pub struct StandardQueue(Stand);

impl Queue for StandardQueue {
    type Node = SourceNode<Sqs>;
    const NAME: &'static str = "SQS standard";
    const ITEMS_PER_LIFE: u64 = 10;
    const IS_ORDERED: bool = false;

    async fn open() -> StandardQueue {
        StandardQueue(Stand::open("jobs").await)
    }

    async fn push(&mut self, _room: &str, item: &str) {
        self.0.server.push(&self.0.queue, item).await;
    }

    fn node(&self, _name: &str, house: &House) -> SourceNode<Sqs> {
        self.0.node(house)
    }

    async fn is_empty(&mut self) {
        self.0.server.is_empty(&self.0.queue).await;
    }

    async fn goes_away(&mut self) {
        self.0.relay.cut().await;
    }

    async fn comes_back(&mut self) {
        self.0.relay.mend().await;
    }
}

/// A queue to which entries go; what was read from it is gone from there.
struct Goal {
    stand: Stand,
    read: Vec<Value>,
}

impl Goal {
    async fn open(name: &str) -> Goal {
        Goal { stand: Stand::open(name).await, read: Vec::new() }
    }

    async fn has(&mut self, count: usize) -> Vec<Value> {
        let asked = json!({"QueueUrl": self.stand.queue, "MaxNumberOfMessages": 10});
        eventually("the entries", async || {
            let answer = self.stand.server.ask("ReceiveMessage", asked.clone()).await?;
            let mut read = Vec::new();
            for message in answer["Messages"].as_array().into_iter().flatten() {
                self.read.push(serde_json::from_str(message["Body"].as_str()?).ok()?);
                read.push(json!({"Id": read.len().to_string(), "ReceiptHandle": message["ReceiptHandle"]}));
            }
            if !read.is_empty() {
                let read = json!({"QueueUrl": self.stand.queue, "Entries": read});
                self.stand.server.ask("DeleteMessageBatch", read).await?;
            }
            let name = |entry: &Value| (entry["r"].to_string(), entry["s"].to_string());
            let different: std::collections::HashSet<_> = self.read.iter().map(name).collect();
            (different.len() >= count).then_some(())
        })
        .await;
        self.read.clone()
    }
}

macro_rules! places {
    ($($place:ident: $queue:literal, $name:literal, $knows_repeats:literal;)+) => {
        $(pub struct $place(Goal);

        impl Place for $place {
            type Target = SqsTarget;
            const NAME: &'static str = $name;
            const KNOWS_REPEATS: bool = $knows_repeats;
            // Ten in a request, and the stand-in takes its time.
            const ENTRIES: u64 = 60;
            // SQS takes 1 MiB.
            const TOO_BIG: usize = 2 << 20;

            async fn open() -> $place {
                $place(Goal::open($queue).await)
            }

            fn target(&self) -> SqsTarget {
                SqsTarget::new(self.0.stand.parts()).unwrap()
            }

            async fn has(&mut self, count: usize) -> Vec<Value> {
                self.0.has(count).await
            }

            async fn goes_away(&mut self) {
                self.0.stand.relay.cut().await;
            }

            async fn comes_back(&mut self) {
                self.0.stand.relay.mend().await;
            }
        })+
    };
}

places! {
    // Moto forgets an id with its message, SQS does so after five minutes.
    FifoPlace: "log.fifo", "SQS FIFO", false;
    StandardPlace: "log", "SQS standard", false;
}
