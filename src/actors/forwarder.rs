//! Brings entries from a feed to a target: one actor for each target, and for each partition where nodes share rooms.
//! Reads on where the target stands, sends, and notes what the target has; so each entry reaches it at least once, and
//! those of a room in their order. Nobody waits for it: while its target is away it waits alone. Started by the wiring.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, ResponseFuture, WrapFuture};
use tokio::sync::watch;

use crate::actors::letters::{Bury, Drain};
use crate::forwards::counters::ForwardCounters;
use crate::forwards::feed::Feed;
use crate::forwards::target::Target;
use crate::sources::dead_letters::MemoryDeadLetters;
use crate::traces::Tracer;

use work::Work;

#[cfg(test)]
mod tests;
mod work;

/// What a forwarder stands on.
pub struct ForwarderParts {
    /// The name of the target.
    pub name: String,
    /// How long at the end it goes on with what waits. Default 2 s.
    pub finish: Duration,
    /// Where entries go that the target can never take. The next ones wait until such an entry is kept there.
    pub graves: Option<Recipient<Bury>>,
    /// Where they go without such a place.
    pub dead: Arc<MemoryDeadLetters>,
    /// Where it counts.
    pub counters: Arc<ForwardCounters>,
    /// Notes what is sent.
    pub tracer: Tracer,
}

/// See above. Starts at once and keeps trying while its target is away. [`Drain`] ends it: what waits is sent as far as
/// that is quick, and the answer comes when it is noted what the target has.
pub struct Forwarder<F, T> {
    begins: Option<(F, T, ForwarderParts)>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl<F: Feed, T: Target> Forwarder<F, T> {
    /// A forwarder that waits for `start()`.
    pub fn new(feed: F, target: T, parts: ForwarderParts) -> Forwarder<F, T> {
        let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(false));
        Forwarder { begins: Some((feed, target, parts)), stop, ended }
    }
}

impl<F: Feed, T: Target> Actor for Forwarder<F, T> {
    type Context = Context<Forwarder<F, T>>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((feed, target, parts)) = self.begins.take() else { return };
        let work = Work::new(feed, target, parts, self.stop.subscribe());
        ctx.spawn(work.run().into_actor(self).map(|(), forwarder, _| {
            forwarder.ended.send_replace(true);
        }));
    }
}

impl<F: Feed, T: Target> Handler<Drain> for Forwarder<F, T> {
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
