//! The actor that brings what backends push into a queue of any kind: it takes, says it in the rooms, waits until
//! they have kept it, and only then acknowledges it there. While rooms are busy nothing more is taken, so the
//! queue fills and not the memory; after a crash items come again, and the rooms know their ids. Started and
//! drained by the wiring. Knows the chat server by one letter, and no kind of queue.

mod work;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Recipient, ResponseFuture, WrapFuture};
use tokio::sync::watch;

use crate::actors::letters::{Bury, Drain, PublishBatch};
use crate::actors::source_queue::work::Work;
use crate::chat::names::RoomName;
use crate::chat::trace::Door;
use crate::sources::counters::QueueCounters;
use crate::sources::dead_letters::MemoryDeadLetters;
use crate::sources::payload::PayloadLimits;
use crate::sources::source::Source;
use crate::traces::Tracer;

/// What it needs beside the source.
#[derive(Clone)]
pub struct SourceQueueParts {
    /// Its name in logs, figures, ids and dead letters; at most 20 bytes.
    pub name: String,
    /// What it is to those who ask where something came from.
    pub door: Door,
    /// Where items go that name no room.
    pub room: RoomName,
    /// What an item may be at most.
    pub limits: PayloadLimits,
    /// How long a busy server is asked again at a drain. Default 2 s.
    pub finish: Duration,
    /// The chat server.
    pub chat: Recipient<PublishBatch>,
    /// Where items go that can never be said. Such an item is acknowledged only when it is kept there.
    pub graves: Option<Recipient<Bury>>,
    /// Where they go without such a place.
    pub dead: Arc<MemoryDeadLetters>,
    /// Where it counts.
    pub counters: Arc<QueueCounters>,
    /// Begins the spans of items.
    pub tracer: Tracer,
}

/// One source's queue. Starts at once and keeps trying while its server is away. [`Drain`] ends it: the batch under
/// way is finished, the rest is given back, and the answer comes when that is done.
pub struct SourceQueue<S> {
    begins: Option<(S, SourceQueueParts)>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl<S: Source> SourceQueue<S> {
    /// A queue that waits for `start()`.
    pub fn new(source: S, parts: SourceQueueParts) -> SourceQueue<S> {
        let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(false));
        SourceQueue { begins: Some((source, parts)), stop, ended }
    }
}

impl<S: Source> Actor for SourceQueue<S> {
    type Context = Context<SourceQueue<S>>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((source, parts)) = self.begins.take() else { return };
        let (work, ended) = (Work::new(source, parts, self.stop.subscribe()), self.ended.clone());
        let work = async move {
            work.run().await;
            ended.send_replace(true);
        };
        ctx.spawn(work.into_actor(self));
    }
}

impl<S: Source> Handler<Drain> for SourceQueue<S> {
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
