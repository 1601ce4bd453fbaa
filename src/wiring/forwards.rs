//! Starts and ends what brings copies of entries to targets: a forwarder for each target, over what this node's rooms
//! stand on. Called by the wiring alone.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::timeout;

use crate::actors::forwarder::{Forwarder, ForwarderParts};
use crate::actors::letters::{Bury, Drain};
use crate::chat::names::RoomName;
use crate::chat::settings::RoomsSettings;
#[cfg(feature = "sqs")]
use crate::clouds::aws::sqs::SqsParts;
#[cfg(any(feature = "sqs", feature = "pubsub"))]
use crate::clouds::environment::of_this_process;
use crate::config::Config;
use crate::engines::embedded::leaving::{Departures, Leaving};
use crate::engines::redis::leaving::{Exits, LeavingSettings};
use crate::forwards::counters::ForwardCounters;
use crate::forwards::feed::{Feed, Start, Wanted};
use crate::forwards::memory::MemoryExit;
#[cfg(feature = "nats")]
use crate::forwards::nats::NatsTarget;
#[cfg(feature = "pubsub")]
use crate::forwards::pubsub::{PubSubTarget, PubSubTopic};
use crate::forwards::redis_list::RedisList;
use crate::forwards::redis_stream::RedisStreamTarget;
use crate::forwards::settings::{TargetKind, TargetSettings};
#[cfg(feature = "sqs")]
use crate::forwards::sqs::SqsTarget;
use crate::forwards::target::Target;
use crate::metrics::Metrics;
use crate::metrics::sheet::Sheet;
use crate::redis_link::RedisLink;
use crate::sources::counters::QueueCounters;
use crate::store::outgoing::{Leaves, Listener};
use crate::traces::Tracer;
use crate::wiring::ServeError;
use crate::wiring::hooks::Hooks;
use crate::wiring::queues::{Graves, open_graves};

/// The name under which entries leave for the backend of hooks: no name that a target of the configuration can have.
const HOOKS: &str = "Hooks";
/// How long a forwarder goes on at the end with what waits.
const FINISH: Duration = Duration::from_secs(2);

/// What entries leave from.
pub enum Exit {
    /// Nothing leaves.
    Closed,
    /// Rooms that live in memory.
    Memory(MemoryExit),
    /// The store of this node.
    Store(Departures),
    /// Rooms in Redis.
    Redis(Exits),
}

impl Exit {
    /// That of rooms that live in memory.
    pub fn memory(&self) -> Option<&MemoryExit> {
        if let Exit::Memory(exit) = self { Some(exit) } else { None }
    }
}

/// The forwarders.
pub struct Forwards(Vec<Recipient<Drain>>);

/// Which entries a store of this node's own has to list, and for whom.
pub fn leaving_of(config: &Config) -> Leaving {
    let rooms = config.rooms.clone();
    let listener = |target: &TargetSettings| Listener {
        name: target.name.clone(),
        from_first: target.start == Start::First,
    };
    Leaving {
        leaves: Leaves::new(move |room| !rooms.forward_of(room).is_empty()),
        listeners: config.forward.targets.iter().map(listener).collect(),
    }
}

fn names(config: &Config) -> impl Iterator<Item = String> {
    config.forward.targets.iter().map(|target| target.name.clone())
}

/// The same for rooms that live in memory.
pub fn exit_of_memory(config: &Config) -> Exit {
    if config.forward.targets.is_empty() {
        return Exit::Closed;
    }
    let rooms = config.rooms.clone();
    let leaves: Wanted = Arc::new(move |room: &RoomName| !rooms.forward_of(room).is_empty());
    Exit::Memory(MemoryExit::new(config.forward.buffer, names(config), leaves))
}

/// The same for rooms in Redis, and what its engine has to know.
pub fn exit_of_redis(config: &Config, link: &RedisLink, hooks: &Hooks) -> (Exit, Option<LeavingSettings>) {
    let hooked = hooks.wanted();
    if config.forward.targets.is_empty() && hooked.is_none() {
        return (Exit::Closed, None);
    }
    let rooms = config.rooms.clone();
    let names = names(config).chain(hooked.is_some().then(|| HOOKS.to_owned()));
    let exits = Exits::new(link.clone(), &config.redis.prefix, names);
    let is_hooked = move |room: &RoomName| hooked.as_ref().is_some_and(|wanted| wanted(room));
    let leaves = Box::new(move |room: &RoomName| !rooms.forward_of(room).is_empty() || is_hooked(room));
    (Exit::Redis(exits), Some(LeavingSettings { leaves, max: config.forward.buffer as u64 }))
}

/// Starts a forwarder for each target. `graves`: where a store keeps dead letters.
pub fn start(
    config: &Config,
    exit: &Exit,
    graves: Option<&Recipient<Bury>>,
    metrics: &Metrics,
    hooks: &Hooks,
    tracer: &Tracer,
) -> Result<Forwards, ServeError> {
    let (mut started, mut counted) = (Vec::new(), Vec::new());
    for target in &config.forward.targets {
        let floor = Floor::new(config, target, graves, tracer)?;
        counted.push(Counted {
            name: target.name.clone(),
            counters: floor.counters.clone(),
            graves: floor.graves_counters.clone(),
        });
        let wanted = wanted(&config.rooms, &target.name);
        match exit {
            Exit::Closed => {}
            Exit::Memory(exit) => started.push(floor.serve(exit.feed(&target.name, wanted))?),
            Exit::Store(departures) => started.push(floor.serve(departures.feed(&target.name, wanted))?),
            Exit::Redis(exits) => {
                for feed in exits.feeds(&target.name, target.start, &wanted) {
                    started.push(floor.serve(feed)?);
                }
            }
        }
    }
    if let (Exit::Redis(exits), Some(wanted)) = (exit, hooks.wanted()) {
        let counters = Arc::new(ForwardCounters::default());
        let graves = Arc::default();
        counted.push(Counted { name: HOOKS.to_owned(), counters: counters.clone(), graves });
        for feed in exits.feeds(HOOKS, Start::New, &wanted) {
            // What can never be posted the target keeps itself.
            let parts = ForwarderParts {
                name: HOOKS.to_owned(),
                finish: FINISH,
                graves: None,
                dead: Arc::default(),
                counters: counters.clone(),
                // Its requests are noted where they are made.
                tracer: Tracer::default(),
            };
            started.push(Forwarder::new(feed, hooks.target()?, parts).start().recipient());
        }
    }
    if !counted.is_empty() {
        metrics.add(Box::new(move |sheet| write_counters(sheet, &counted)));
    }
    Ok(Forwards(started))
}

/// The rooms whose entries a target gets.
fn wanted(rooms: &RoomsSettings, target: &str) -> Wanted {
    let (rooms, target) = (rooms.clone(), target.to_owned());
    Arc::new(move |room: &RoomName| rooms.forward_of(room).contains(&target))
}

/// What the forwarders of one target stand on.
struct Floor<'a> {
    target: &'a TargetSettings,
    /// `redis.url`.
    common: Option<RedisLink>,
    counters: Arc<ForwardCounters>,
    graves: Option<Recipient<Bury>>,
    graves_counters: Arc<QueueCounters>,
    tracer: Tracer,
}

impl<'a> Floor<'a> {
    fn new(
        config: &Config,
        target: &'a TargetSettings,
        store: Option<&Recipient<Bury>>,
        tracer: &Tracer,
    ) -> Result<Floor<'a>, ServeError> {
        let common = config.redis.link().map_err(ServeError::Config)?;
        let shared = config.backing().map_err(ServeError::Config)?.foundations().shared;
        let graves_counters = Arc::new(QueueCounters::default());
        let graves = match common.as_ref().filter(|_| shared) {
            Some(link) => Graves::Redis(link),
            None => store.map_or(Graves::Memory, Graves::Store),
        };
        let graves = open_graves(config, graves, &graves_counters)?;
        let (counters, tracer) = (Arc::default(), tracer.clone());
        Ok(Floor { target, common, counters, graves, graves_counters, tracer })
    }

    fn serve<F: Feed>(&self, feed: F) -> Result<Recipient<Drain>, ServeError> {
        let target = self.target;
        let link = || target.link(self.common.as_ref()).map_err(ServeError::Config);
        match target.kind {
            TargetKind::RedisList => Ok(self.start(feed, RedisList::new(link()?, &target.list))),
            TargetKind::RedisStream => {
                Ok(self.start(feed, RedisStreamTarget::new(link()?, &target.stream, target.maxlen)))
            }
            #[cfg(feature = "sqs")]
            TargetKind::Sqs => {
                let queue = SqsTarget::new(SqsParts {
                    queue_url: target.url.clone(),
                    region: target.region.clone(),
                    endpoint: target.endpoint.clone(),
                    environment: of_this_process,
                });
                Ok(self.start(feed, queue.map_err(|error| self.complaint(&error))?))
            }
            #[cfg(feature = "pubsub")]
            TargetKind::Pubsub => {
                let topic = PubSubTarget::new(PubSubTopic {
                    topic: target.topic.clone(),
                    endpoint: target.url.clone(),
                    environment: of_this_process,
                });
                Ok(self.start(feed, topic.map_err(|error| self.complaint(&error))?))
            }
            #[cfg(feature = "nats")]
            TargetKind::Nats => {
                Ok(self.start(feed, NatsTarget::new(target.url.clone(), target.subject.clone())))
            }
            // The check of the configuration has told how to build with it.
            #[cfg(not(all(feature = "nats", feature = "sqs", feature = "pubsub")))]
            _ => Err(self.complaint("its kind is not built in")),
        }
    }

    fn complaint(&self, what: &str) -> ServeError {
        ServeError::Config(format!("forward.targets: {:?}: {what}", self.target.name))
    }

    fn start(&self, feed: impl Feed, target: impl Target) -> Recipient<Drain> {
        let parts = ForwarderParts {
            name: self.target.name.clone(),
            finish: FINISH,
            graves: self.graves.clone(),
            dead: Arc::default(),
            counters: self.counters.clone(),
            tracer: self.tracer.clone(),
        };
        Forwarder::new(feed, target, parts).start().recipient()
    }
}

impl Forwards {
    /// Sends what waits, as far as that is quick, and notes what targets have. At most `patience`.
    pub async fn stop(&self, patience: Duration) {
        let all = self.0.iter().map(|forwarder| async move {
            if let Err(error) = forwarder.send(Drain).await {
                log::warn!("a forwarder had stopped before it was told to: {error}");
            }
        });
        if timeout(patience, futures_util::future::join_all(all)).await.is_err() {
            log::warn!(
                "a forwarder did not stop in time; after the next start it may repeat what it sent last"
            );
        }
    }
}

struct Counted {
    name: String,
    counters: Arc<ForwardCounters>,
    graves: Arc<QueueCounters>,
}

fn write_counters(sheet: &mut Sheet, all: &[Counted]) {
    let each = |read: fn(&ForwardCounters) -> u64| -> Vec<(String, u64)> {
        all.iter().map(|one| (one.name.clone(), read(&one.counters))).collect()
    };
    let grow = [
        (
            "roomcast_forward_entries",
            "Entries that a target has taken from this node, repeats after a crash among them",
            each(ForwardCounters::forwarded),
        ),
        (
            "roomcast_forward_retries",
            "How often this node had to try again because a target or what leads to it was away",
            each(ForwardCounters::retries),
        ),
        (
            "roomcast_forward_dead",
            "Entries that a target can never take, put among the dead letters",
            each(ForwardCounters::dead),
        ),
        (
            "roomcast_forward_lost",
            "Entries that were forgotten before the target had them",
            each(ForwardCounters::lost),
        ),
    ];
    for (name, help, values) in grow {
        sheet.counters(name, help, "target", values);
    }
    let forgotten = all.iter().map(|one| (one.name.clone(), one.graves.dead_forgotten()));
    sheet.counters(
        "roomcast_forward_dead_forgotten",
        "Dead letters dropped because there were too many",
        "target",
        forgotten,
    );
    let now = [
        (
            "roomcast_forward_waiting",
            "Entries that wait for the target, when this node that serves it last looked; those of other targets \
             between them are counted too",
            each(ForwardCounters::waiting),
        ),
        (
            "roomcast_forward_behind_milliseconds",
            "How old the oldest entry was that this node sent or tried to send last; 0 when nothing waits",
            each(ForwardCounters::behind_ms),
        ),
        (
            "roomcast_forward_connected",
            "1 while entries reach the target by this node, or another node serves it",
            each(|counters| counters.is_connected().into()),
        ),
        (
            "roomcast_forward_serving",
            "Partitions whose entries this node brings to the target; 0 while others do",
            each(ForwardCounters::serving),
        ),
    ];
    for (name, help, values) in now {
        sheet.gauges(name, help, "target", values);
    }
}
