//! Starts the sources beside the lists, each with an actor of its own. Called by the wiring of the queues.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::actors::letters::{Drain, PublishBatch};
use crate::actors::source_queue::{SourceQueue, SourceQueueParts};
use crate::chat::names::RoomName;
use crate::chat::trace::Door;
#[cfg(feature = "sqs")]
use crate::clouds::aws::sqs::SqsParts;
#[cfg(any(feature = "sqs", feature = "pubsub"))]
use crate::clouds::environment::of_this_process;
use crate::config::Config;
use crate::http::readiness::Readiness;
use crate::redis_link::RedisLink;
use crate::sources::counters::QueueCounters;
#[cfg(feature = "nats")]
use crate::sources::nats::{Nats, NatsParts};
#[cfg(feature = "pubsub")]
use crate::sources::pubsub::{PubSub, PubSubParts};
use crate::sources::redis_pubsub::RedisPubSub;
use crate::sources::redis_stream::RedisStream;
use crate::sources::redis_turn::RedisTurn;
use crate::sources::source::Source;
use crate::sources::source_settings::{SourceKind, SourceSettings};
#[cfg(feature = "sqs")]
use crate::sources::sqs::Sqs;
use crate::traces::Tracer;
use crate::wiring::ServeError;
use crate::wiring::queues::{Counted, Graves, limits, open_graves, watch};

/// How long a busy server is asked again at a drain.
const FINISH: Duration = Duration::from_secs(2);

/// What all sources stand on.
pub(super) struct Floor<'a> {
    pub config: &'a Config,
    pub chat: &'a Recipient<PublishBatch>,
    pub graves: Graves<'a>,
    pub room: &'a RoomName,
    pub node: &'a str,
    /// Whether nodes share the rooms.
    pub shared: bool,
    /// `redis.url`.
    pub link: Option<&'a RedisLink>,
    pub ready: &'a Readiness,
    pub tracer: &'a Tracer,
}

/// Starts all of them.
pub(super) fn start(floor: &Floor<'_>, all: &mut Counted) -> Result<Vec<Recipient<Drain>>, ServeError> {
    floor.config.queue.sources.iter().map(|settings| floor.start(settings, all)).collect()
}

impl Floor<'_> {
    fn start(&self, settings: &SourceSettings, all: &mut Counted) -> Result<Recipient<Drain>, ServeError> {
        let wrong = |error: String| ServeError::Config(error);
        match settings.kind {
            SourceKind::RedisStream => {
                let (link, group) = (settings.link(self.link).map_err(wrong)?, settings.group());
                let source = RedisStream::new(link, &settings.stream, group, self.node, settings.start);
                let source = source.map_err(|bad| wrong(format!("queue.sources: stream: {bad}")))?;
                self.serve(source, settings, all)
            }
            SourceKind::RedisPubsub => {
                let link = settings.link(self.link).map_err(wrong)?;
                let (channels, prefix) = (settings.channels.clone(), settings.prefix.clone());
                let key = || format!("{}:{{{}}}:listener", self.config.redis.prefix, settings.name);
                let turn = self.shared.then(|| RedisTurn::new(key(), self.node));
                let source = RedisPubSub::new(link, channels, prefix, turn);
                self.serve(source, settings, all)
            }
            #[cfg(feature = "nats")]
            SourceKind::Nats => {
                let source = Nats::new(NatsParts {
                    url: settings.url.clone(),
                    stream: settings.stream.clone(),
                    group: settings.group().to_owned(),
                    subject: settings.subject.clone(),
                    node: self.node.to_owned(),
                });
                self.serve(source, settings, all)
            }
            #[cfg(feature = "sqs")]
            SourceKind::Sqs => {
                let source = Sqs::new(SqsParts {
                    queue_url: settings.url.clone(),
                    region: settings.region.clone(),
                    endpoint: settings.endpoint.clone(),
                    environment: of_this_process,
                });
                let named = |error| wrong(format!("queue.sources: {:?}: {error}", settings.name));
                self.serve(source.map_err(named)?, settings, all)
            }
            #[cfg(feature = "pubsub")]
            SourceKind::Pubsub => {
                let source = PubSub::new(PubSubParts {
                    subscription: settings.subscription.clone(),
                    endpoint: settings.endpoint.clone(),
                    node: self.node.to_owned(),
                    environment: of_this_process,
                });
                let named = |error| wrong(format!("queue.sources: {:?}: {error}", settings.name));
                self.serve(source.map_err(named)?, settings, all)
            }
            // The check of the configuration has told how to build with it.
            #[cfg(not(all(feature = "nats", feature = "sqs", feature = "pubsub")))]
            kind => Err(wrong(format!("queue.sources: {} is not built in", kind.word()))),
        }
    }

    fn serve<S: Source>(
        &self,
        source: S,
        settings: &SourceSettings,
        all: &mut Counted,
    ) -> Result<Recipient<Drain>, ServeError> {
        let counters = Arc::new(QueueCounters::default());
        all.push((settings.name.clone(), counters.clone()));
        watch(self.ready, &settings.name, &source.address(), counters.clone());
        let room = settings.room.as_deref().map_or(Ok(self.room.clone()), RoomName::new);
        let parts = SourceQueueParts {
            name: settings.name.clone(),
            door: Door::named(settings.kind.word(), &settings.name),
            room: room.map_err(|bad| ServeError::Config(format!("queue.sources.room: {bad}")))?,
            limits: limits(self.config),
            finish: FINISH,
            chat: self.chat.clone(),
            graves: open_graves(self.config, self.graves, &counters)?,
            dead: Arc::default(),
            counters,
            tracer: self.tracer.clone(),
        };
        Ok(SourceQueue::new(source, parts).start().recipient())
    }
}
