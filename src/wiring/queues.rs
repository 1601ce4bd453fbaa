//! Starts and ends what backends push through: a queue actor for each list when there is a Redis, and the
//! built-in RESP door. Called by the wiring alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::timeout;

use crate::actors::letters::{Bury, Drain, PublishBatch};
use crate::actors::redis_graves::{RedisGraves, RedisGravesParts};
use crate::actors::redis_queue::{QueueTiming, RedisQueue, RedisQueueParts};
use crate::actors::resp_door::{RespDoor, RespDoorParts};
use crate::chat::names::RoomName;
use crate::config::Config;
use crate::http::readiness::Readiness;
use crate::metrics::Metrics;
use crate::metrics::sheet::Sheet;
use crate::redis_link::RedisLink;
use crate::sources::counters::QueueCounters;
use crate::sources::dead_letters::MemoryDeadLetters;
use crate::sources::list_keys::ListKeys;
use crate::sources::payload::PayloadLimits;
use crate::traces::Tracer;
use crate::wiring::sources::Floor;
use crate::wiring::{ServeError, sources};

/// What brings the pushes of backends.
pub struct Queues {
    lists: Vec<Addr<RedisQueue>>,
    sources: Vec<Recipient<Drain>>,
    door: Option<Addr<RespDoor>>,
    /// Where the door listens.
    pub door_address: Option<SocketAddr>,
}

/// Who watches what queues do.
#[derive(Clone, Copy)]
pub struct Watchers<'a> {
    /// What is counted.
    pub metrics: &'a Metrics,
    /// Whether new visitors are wanted.
    pub ready: &'a Readiness,
    /// Begins the spans of items.
    pub tracer: &'a Tracer,
}

/// Opens the door and starts taking from the lists. `node` is this node's name, the same after a restart.
pub fn start(
    config: &Config,
    chat: &Recipient<PublishBatch>,
    graves: Option<&Recipient<Bury>>,
    node: &str,
    watchers: &Watchers<'_>,
) -> Result<Queues, ServeError> {
    let Watchers { metrics, ready, tracer } = *watchers;
    let room = RoomName::new(&config.rooms.default)
        .map_err(|bad| ServeError::Config(format!("rooms.default: {bad}")))?;
    let mut all = Vec::new();
    // Nodes that share the rooms must not mix up what was pushed in order; those that do not share them share the work.
    let turns = config.backing().map_err(ServeError::Config)?.foundations().shared;
    let timing = if turns { QueueTiming::in_turns() } else { QueueTiming::default() };
    let link = config.redis.link().map_err(ServeError::Config)?;
    let graves = match link.as_ref().filter(|_| turns) {
        Some(link) => Graves::Redis(link),
        None => graves.map_or(Graves::Memory, Graves::Store),
    };
    let (door, door_address) = open_door(config, chat, graves, (&room, tracer), &mut all)?;
    let floor =
        Floor { config, chat, graves, room: &room, node, shared: turns, link: link.as_ref(), ready, tracer };
    let sources = sources::start(&floor, &mut all)?;
    let mut lists = Vec::new();
    if let Some(link) = link {
        for list in &config.queue.lists {
            let counters = Arc::new(QueueCounters::default());
            all.push((list.name.clone(), counters.clone()));
            watch(ready, &list.name, &link.to_string(), counters.clone());
            let room = list.room.as_deref().map_or(Ok(room.clone()), RoomName::new);
            let parts = RedisQueueParts {
                link: link.clone(),
                keys: keys_of(&list.name)?,
                room: room.map_err(|bad| ServeError::Config(format!("queue.list.room: {bad}")))?,
                limits: limits(config),
                node: node.to_owned(),
                dead_items: config.queue.dead_items,
                turns,
                timing,
                chat: chat.clone(),
                counters,
                tracer: tracer.clone(),
            };
            lists.push(RedisQueue::new(parts).start());
        }
    }
    metrics.add(Box::new(move |sheet| write_counters(sheet, &all)));
    Ok(Queues { lists, sources, door, door_address })
}

pub(super) type Counted = Vec<(String, Arc<QueueCounters>)>;

pub(super) fn limits(config: &Config) -> PayloadLimits {
    PayloadLimits { message_bytes: config.limits.message_bytes }
}

/// Where dead letters of the door and of sources go.
#[derive(Clone, Copy)]
pub(super) enum Graves<'a> {
    Memory,
    Store(&'a Recipient<Bury>),
    /// Beside the lists, where all nodes find them.
    Redis(&'a RedisLink),
}

fn keys_of(list: &str) -> Result<ListKeys, ServeError> {
    ListKeys::new(list).map_err(|bad| ServeError::Config(format!("queue.list: {bad}")))
}

pub(super) fn open_graves(
    config: &Config,
    graves: Graves<'_>,
    counters: &Arc<QueueCounters>,
) -> Result<Option<Recipient<Bury>>, ServeError> {
    let link = match graves {
        Graves::Memory => return Ok(None),
        Graves::Store(store) => return Ok(Some(store.clone())),
        Graves::Redis(link) => link.clone(),
    };
    let lists: Result<Vec<_>, _> = config.queue.lists.iter().map(|list| keys_of(&list.name)).collect();
    let (lists, dead_items, counters) = (lists?, config.queue.dead_items, counters.clone());
    if lists.is_empty() {
        return Ok(None);
    }
    Ok(Some(RedisGraves::new(RedisGravesParts { link, lists, dead_items, counters }).start().recipient()))
}

fn open_door(
    config: &Config,
    chat: &Recipient<PublishBatch>,
    graves: Graves<'_>,
    (room, tracer): (&RoomName, &Tracer),
    all: &mut Counted,
) -> Result<(Option<Addr<RespDoor>>, Option<SocketAddr>), ServeError> {
    let listen = &config.queue.door.listen;
    if listen.is_empty() {
        return Ok((None, None));
    }
    let counters = Arc::new(QueueCounters::default());
    all.push(("door".into(), counters.clone()));
    let cannot = |error: std::io::Error| {
        ServeError::System(format!(
            "cannot open the door for pushes on {listen} ({error}); choose another address with \
             --set queue.door.listen=127.0.0.1:6390, or close it with --set queue.door.listen="
        ))
    };
    let door = RespDoor::bind(RespDoorParts {
        settings: config.queue.door.clone(),
        lists: config.queue.lists.clone(),
        room: room.clone(),
        limits: limits(config),
        chat: chat.clone(),
        dead: Arc::new(MemoryDeadLetters::default()),
        graves: open_graves(config, graves, &counters)?,
        counters,
        tracer: tracer.clone(),
    })
    .map_err(cannot)?;
    let address = door.address().map_err(cannot)?;
    Ok((Some(door.start()), Some(address)))
}

/// A node whose queue is away serves its browsers, but a balancer should know.
pub(super) fn watch(ready: &Readiness, list: &str, address: &str, counters: Arc<QueueCounters>) {
    let complaint = format!("queue {list} cannot be taken from {address}; see the log");
    ready.add(
        "queue",
        Box::new(move || match counters.is_connected() {
            true => Ok(()),
            false => Err(complaint.clone()),
        }),
    );
}

fn write_counters(sheet: &mut Sheet, all: &Counted) {
    let each = |read: fn(&QueueCounters) -> u64| -> Vec<(String, u64)> {
        all.iter().map(|(name, counters)| (name.clone(), read(counters))).collect()
    };
    let help = [
        ("roomcast_queue_taken", "Items taken, repeats after a crash among them", each(QueueCounters::taken)),
        ("roomcast_queue_accepted", "Items that got their place in a room", each(QueueCounters::accepted)),
        (
            "roomcast_queue_repeated",
            "Accepted items whose id was known; said once only",
            each(QueueCounters::repeated),
        ),
        ("roomcast_queue_connects", "Connections built to the queue's server", each(QueueCounters::connects)),
        (
            "roomcast_queue_waits",
            "Batches that had to wait because rooms were busy",
            each(QueueCounters::waits),
        ),
        (
            "roomcast_queue_adopted",
            "Items taken over from nodes that were gone",
            each(QueueCounters::adopted),
        ),
        ("roomcast_queue_dead", "Items put among the dead letters", each(QueueCounters::dead_total)),
        (
            "roomcast_queue_lost",
            "Items of a source without acknowledgements that came faster than the rooms took them",
            each(QueueCounters::lost),
        ),
        (
            "roomcast_queue_dead_forgotten",
            "Dead letters dropped because there were too many",
            each(QueueCounters::dead_forgotten),
        ),
    ];
    for (name, help, values) in help {
        sheet.counters(name, help, "queue", values);
    }
    let (backlog, connected) =
        (each(QueueCounters::backlog), each(|counters| counters.is_connected().into()));
    sheet.gauges(
        "roomcast_queue_backlog",
        "Items waiting in the list when it was last looked at",
        "queue",
        backlog,
    );
    sheet.gauges("roomcast_queue_connected", "1 while items can come", "queue", connected);
    let help = "How old the item taken last was when it was taken, where its queue tells";
    sheet.gauges("roomcast_queue_age_milliseconds", help, "queue", each(QueueCounters::age_ms));
    let taking = each(|counters| counters.is_taking().into());
    let help = "1 while this node takes items, 0 while it stands by or cannot";
    sheet.gauges("roomcast_queue_taking", help, "queue", taking);
}

impl Queues {
    /// Takes nothing new, finishes what is under way and gives the rest back. At most `patience`.
    pub async fn stop(&self, patience: Duration) {
        let all = async {
            for list in &self.lists {
                told(list.send(Drain).await);
            }
            for source in &self.sources {
                told(source.send(Drain).await);
            }
            if let Some(door) = &self.door {
                told(door.send(Drain).await);
            }
        };
        if timeout(patience, all).await.is_err() {
            log::warn!("a queue did not stop in time; what it has taken comes again after the restart");
        }
    }
}

fn told(result: Result<(), MailboxError>) {
    if let Err(error) = result {
        log::warn!("a queue had stopped before it was told to: {error}");
    }
}
