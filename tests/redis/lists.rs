//! A Redis list as one of the queues of `exactness.rs`; the other stories about lists have files of their own.

use std::time::Duration;

use roomcast::actors::redis_queue::{QueueTiming, RedisQueueParts};
use roomcast::redis_link::RedisConnection;
use roomcast::sources::dead_letters::RedisDeadLetters;
use roomcast::sources::list_keys::ListKeys;

use crate::exactness::{House, Queue};
use crate::fixtures::backend::{command, push};
use crate::fixtures::eventually;
use crate::fixtures::node::{LIST, Node, TIMING, parts};
use crate::fixtures::servers::Server;

/// The node's name: after a crash the next one is the same node, started again.
const NODE: &str = "a";

pub struct ListQueue {
    server: Server,
    redis: RedisConnection,
}

impl Queue for ListQueue {
    type Node = Node;
    const NAME: &'static str = "Redis list";
    const IS_ORDERED: bool = true;

    async fn open() -> ListQueue {
        let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let redis = server.connect().await;
        ListQueue { server, redis }
    }

    async fn push(&mut self, _room: &str, item: &str) {
        push(&mut self.redis, item).await.unwrap();
    }

    fn node(&self, _name: &str, house: &House) -> Node {
        let timing = QueueTiming { lease: Duration::from_millis(500), ..TIMING };
        Node::start_with(RedisQueueParts { timing, ..parts(&self.server.url(), NODE, &house.rooms) })
    }

    /// Its lease would last a moment.
    async fn is_missed(&mut self, _name: &str) {
        let lease = ListKeys::new(LIST).unwrap().lease(NODE);
        command::<i64>(&mut self.redis, &["DEL", &lease]).await;
    }

    async fn is_empty(&mut self) {
        eventually("nothing but the node's lease and dead letters", async || {
            let keys: Vec<String> = command(&mut self.redis, &["KEYS", "*"]).await;
            let is_known = |key: &String| ["lease", "nodes", "dead"].iter().any(|word| key.contains(word));
            keys.iter().all(is_known).then_some(())
        })
        .await;
    }

    async fn reasons(&mut self, _house: &House) -> Vec<String> {
        let dead = RedisDeadLetters::new(ListKeys::new(LIST).unwrap());
        let letters = dead.list(&mut self.redis, 0, 100).await.unwrap();
        let word = |reason: &str| reason.split(':').next().unwrap_or_default().to_owned();
        letters.iter().map(|letter| word(&letter.reason)).collect()
    }

    async fn goes_away(&mut self) {
        self.server.kill();
    }

    async fn comes_back(&mut self) {
        self.server.restart().await;
        self.redis = self.server.connect().await;
    }
}
