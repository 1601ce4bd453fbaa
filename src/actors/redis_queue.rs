//! The actor that brings what backends push into one Redis list. It takes a batch, says it in the rooms,
//! waits until they have it, and only then forgets it in Redis; so a busy server slows the queue and not
//! the memory, and a crash at any point repeats items under the same ids instead of losing them.
//! Where nodes share the rooms they take turns: one at a time empties the list, so that what was pushed
//! in order is heard in order. Started and drained by the wiring. Knows the chat server by one letter only.

mod saying;
mod taking;
mod turns;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Recipient, ResponseFuture, WrapFuture};
use tokio::sync::watch;

use crate::actors::letters::{Drain, PublishBatch};
use crate::actors::redis_queue::taking::Queue;
use crate::chat::names::RoomName;
use crate::redis_link::RedisLink;
use crate::sources::counters::QueueCounters;
use crate::sources::list_keys::ListKeys;
use crate::sources::payload::PayloadLimits;
use crate::traces::Tracer;

/// The spans of the protocol between nodes. All nodes of a list must agree on them. The defaults are for nodes
/// that do not take turns.
#[derive(Debug, Clone, Copy)]
pub struct QueueTiming {
    /// Longest blocking wait for an item. Default 1 s.
    pub block: Duration,
    /// How long a node's lease lasts without being renewed. Default 10 s.
    pub lease: Duration,
    /// How often the lease is renewed and dead nodes are looked for. Default 3 s.
    pub renew: Duration,
    /// How long a node must be connected before it adopts from others: after an outage of Redis all leases
    /// are gone, and the living must have time to take theirs back. Default 12 s.
    pub adopt_after: Duration,
    /// How long to wait for the lease when another process renews it; then go on under another name.
    /// Default 12 s.
    pub give_way: Duration,
    /// How often a node looks whether it is its turn. Default 250 ms.
    pub look: Duration,
    /// How long a busy server is asked again at a drain. Default 2 s.
    pub finish: Duration,
}

impl Default for QueueTiming {
    fn default() -> QueueTiming {
        QueueTiming {
            block: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            renew: Duration::from_secs(3),
            adopt_after: Duration::from_secs(12),
            give_way: Duration::from_secs(12),
            look: Duration::from_millis(250),
            finish: Duration::from_secs(2),
        }
    }
}

impl QueueTiming {
    /// For nodes that take turns: nobody takes items while the one whose turn it was is missed, so it is missed
    /// for a short time only. One that is killed is followed after 2 to 3.3 s.
    pub fn in_turns() -> QueueTiming {
        QueueTiming {
            lease: Duration::from_secs(3),
            renew: Duration::from_secs(1),
            adopt_after: Duration::from_secs(3),
            give_way: Duration::from_secs(5),
            ..QueueTiming::default()
        }
    }
}

/// What a queue actor needs.
#[derive(Clone)]
pub struct RedisQueueParts {
    /// Where Redis is.
    pub link: RedisLink,
    /// Which list.
    pub keys: ListKeys,
    /// Where items go that name no room.
    pub room: RoomName,
    /// What an item may be at most.
    pub limits: PayloadLimits,
    /// This node's name, the same after a restart and different from all other nodes: host and port.
    pub node: String,
    /// Dead letters kept in Redis.
    pub dead_items: usize,
    /// Whether one node at a time empties the list. So it must be where nodes share the rooms, and all nodes of
    /// a list must agree on it; without it they take items side by side.
    pub turns: bool,
    /// [`QueueTiming::default`], or [`QueueTiming::in_turns`], outside of tests.
    pub timing: QueueTiming,
    /// The chat server.
    pub chat: Recipient<PublishBatch>,
    /// Where it counts.
    pub counters: Arc<QueueCounters>,
    /// Begins the spans of items.
    pub tracer: Tracer,
}

/// One list's queue. Starts at once and keeps trying while Redis is away. [`Drain`] ends it: the batch
/// under way is finished, the rest goes back to the list, and the answer comes when that is done.
pub struct RedisQueue {
    parts: Option<RedisQueueParts>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl RedisQueue {
    /// A queue that waits for `start()`.
    pub fn new(parts: RedisQueueParts) -> RedisQueue {
        RedisQueue { parts: Some(parts), stop: watch::Sender::new(false), ended: watch::Sender::new(false) }
    }
}

impl Actor for RedisQueue {
    type Context = Context<RedisQueue>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(parts) = self.parts.take() else { return };
        let (queue, ended) = (Queue::new(parts, self.stop.subscribe()), self.ended.clone());
        let work = async move {
            queue.run().await;
            ended.send_replace(true);
        };
        ctx.spawn(work.into_actor(self));
    }
}

impl Handler<Drain> for RedisQueue {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.stop.send_replace(true);
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            // An error means that the actor is gone, and then its work has ended as well.
            let _gone = ended.wait_for(|ended| *ended).await;
        })
    }
}
