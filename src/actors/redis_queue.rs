//! The actor that brings what backends push into one Redis list. It takes a batch, says it in the rooms,
//! waits until they have it, and only then forgets it in Redis; so a busy server slows the queue and not
//! the memory, and a crash at any point repeats items under the same ids instead of losing them.
//! Started and drained by the wiring. Knows the chat server by one letter only.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Recipient, ResponseFuture, WrapFuture};
use redis::RedisError;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::actors::letters::{Drain, PublishBatch};
use crate::chat::message::{Accepted, Draft, Refused};
use crate::chat::names::{MessageId, RoomName};
use crate::redis_link::{Backoff, RedisConnection, RedisLink};
use crate::sources::counters::QueueCounters;
use crate::sources::dead_letters::{DeadLetter, preview};
use crate::sources::node::ProcessMark;
use crate::sources::payload::{PayloadLimits, Poison, Reason, decode};
use crate::sources::redis_list::{Claim, Entry, ListKeys, RedisList, is_lost, is_out_of_memory};

/// Entries read at a time when those of an earlier session are said again.
const REPLAY_CHUNK: usize = 64;
/// Dead letters written in one step hold at most so many bytes, one more letter not counted.
const BURY_BYTES_MAX: usize = 4 << 20;
/// Longest that a batch waits for a replica to know that it was taken.
const REPLICA_WAIT: Duration = Duration::from_millis(100);
/// How long nobody asks again when no replica has answered.
const REPLICA_PAUSE: Duration = Duration::from_secs(1);
/// Wait between two takes while Redis has no memory for a blocking wait.
const OUT_OF_MEMORY_WAIT: Duration = Duration::from_millis(200);
/// While Redis is away the log says so again after this time.
const OUTAGE_LOG: Duration = Duration::from_secs(60);

/// The spans of the protocol between nodes. All nodes of a list must agree on them.
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
            finish: Duration::from_secs(2),
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
    /// [`QueueTiming::default`] outside of tests.
    pub timing: QueueTiming,
    /// The chat server.
    pub chat: Recipient<PublishBatch>,
    /// Where it counts.
    pub counters: Arc<QueueCounters>,
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

/// Why a session with Redis ended.
enum Trouble {
    /// Redis did not answer, or not as it should.
    Redis(RedisError),
    /// The lease is gone or taken: what this node worked on may be another's now.
    LeaseLost,
    /// The chat server is gone.
    ChatGone,
    /// The server stops.
    Stopping,
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        if is_lost(&error) { Trouble::LeaseLost } else { Trouble::Redis(error) }
    }
}

/// What lives as long as the actor.
struct Queue {
    parts: RedisQueueParts,
    list: RedisList,
    stop: watch::Receiver<bool>,
    /// Entries that are said or buried, but may still stand in Redis.
    settled: RefCell<Vec<String>>,
    /// All own entries up to this number are settled. A failover may bring some of them back to life.
    settled_up_to: Cell<Option<u64>>,
}

/// What lives as long as the connections.
struct Session {
    redis: RedisConnection,
    began: Instant,
    /// When the last command was sent that renewed the lease.
    renewed: Cell<Instant>,
    /// Entries that the janitor has taken over and nobody has said yet.
    adopted: RefCell<Vec<String>>,
    replica_pause: Cell<Option<Instant>>,
}

impl Queue {
    fn new(parts: RedisQueueParts, stop: watch::Receiver<bool>) -> Queue {
        let mark = ProcessMark::of_this_process();
        let list = RedisList::new(parts.keys.clone(), &parts.node, mark, parts.timing.lease);
        Queue { parts, list, stop, settled: RefCell::default(), settled_up_to: Cell::new(None) }
    }

    async fn run(mut self) {
        let mut outage = Outage::new(&self.parts);
        let mut backoff = Backoff::new();
        while !self.is_stopping() {
            let connects = self.parts.counters.connects();
            let Err(trouble) = self.session(&mut outage).await else { break };
            self.parts.counters.set_connected(false);
            if self.parts.counters.connects() > connects {
                backoff.reset();
            }
            match trouble {
                Trouble::Stopping => break,
                Trouble::Redis(error) => outage.note(&error.to_string()),
                Trouble::ChatGone => outage.note("the chat server is gone"),
                Trouble::LeaseLost => {
                    let list = self.list.keys().list();
                    log::warn!(
                        "queue {list}: the lease ran out while this node stood still, reading its items again"
                    );
                }
            }
            let wait = sleep(backoff.next_wait());
            tokio::select! { () = wait => {}, () = self.stopped() => break }
        }
        self.parts.counters.set_connected(false);
    }

    /// Connects and works until something breaks or the server stops.
    async fn session(&mut self, outage: &mut Outage) -> Result<(), Trouble> {
        let mut stop = self.stop.clone();
        let ready = tokio::select! {
            ready = self.begin() => ready,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let (session, blocking) = ready?;
        outage.over(self.list.node());
        self.parts.counters.set_connected(true);
        let worked = tokio::select! {
            worked = self.work(&session, blocking) => worked,
            never = self.keep(&session) => match never {},
        };
        match worked {
            Ok(()) | Err(Trouble::Stopping) => self.leave(&session).await,
            Err(trouble) => Err(trouble),
        }
    }

    async fn begin(&mut self) -> Result<(Session, RedisConnection), Trouble> {
        let mut redis = self.parts.link.connect().await?;
        let blocking = self.parts.link.connect_blocking(self.parts.timing.block).await?;
        self.list.begin_session();
        let renewed = Cell::new(self.claim(&mut redis).await?);
        self.parts.counters.count_connects(1);
        let (began, adopted, replica_pause) = (Instant::now(), RefCell::default(), Cell::new(None));
        Ok((Session { redis, began, renewed, adopted, replica_pause }, blocking))
    }

    /// Waits for the lease. Tells when the command was sent that got it.
    async fn claim(&mut self, redis: &mut RedisConnection) -> Result<Instant, Trouble> {
        let mut over = String::new();
        let mut waiting_since = None;
        loop {
            let sent = Instant::now();
            let (mark, value, left) = match self.list.claim(redis, &over).await? {
                Claim::Held => return Ok(sent),
                Claim::HeldBy { mark, value, left } => (mark, value, left),
            };
            let (list, node) = (self.list.keys().list(), self.list.node());
            if mark.is_some_and(|mark| mark.is_same(self.list.mark()) || self.list.mark().sees_dead(&mark)) {
                over = value;
                continue;
            }
            over.clear();
            if waiting_since.is_none() {
                log::info!(
                    "queue {list}: another process still holds the lease of node {node}, waiting for it to run out"
                );
            }
            if waiting_since.get_or_insert(sent).elapsed() > self.parts.timing.give_way {
                let other = format!("{}-{:06x}", self.parts.node, rand::random::<u32>() >> 8);
                log::error!(
                    "queue {list}: another living process is node {node} as well, going on as {other}; \
                     give each server a server.node of its own"
                );
                self.list.rename(other);
                waiting_since = None;
                continue;
            }
            sleep(left.clamp(Duration::from_millis(10), Duration::from_millis(250))).await;
        }
    }

    /// Says what earlier sessions left, then takes and says batch after batch.
    async fn work(&self, session: &Session, mut blocking: RedisConnection) -> Result<(), Trouble> {
        let mut redis = session.redis.clone();
        self.forget_settled(&mut redis).await?;
        let left = self.list.working(&mut redis).await?;
        self.replay(session, left).await?;
        while !self.is_stopping() {
            let adopted = session.adopted.take();
            self.replay(session, adopted).await?;
            let entries = self.take(session).await?;
            if !entries.is_empty() {
                self.replicate(session).await?;
                self.settle(session, entries).await?;
                continue;
            }
            match self.list.wait(&mut blocking, self.parts.timing.block).await {
                Err(error) if is_out_of_memory(&error) => sleep(OUT_OF_MEMORY_WAIT).await,
                waited => drop(waited?),
            }
        }
        Ok(())
    }

    async fn take(&self, session: &Session) -> Result<Vec<Entry>, Trouble> {
        let sent = Instant::now();
        let settled = self.settled.borrow().clone();
        let entries = self.list.take(&mut session.redis.clone(), &settled).await?;
        session.renewed.set(sent);
        self.settled.borrow_mut().clear();
        self.parts.counters.count_taken(entries.len() as u64);
        Ok(entries)
    }

    /// Says entries that were taken before: by an earlier session, or by a node that is gone.
    async fn replay(&self, session: &Session, ids: Vec<String>) -> Result<(), Trouble> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut redis = session.redis.clone();
        let (said, open): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.was_settled(id));
        self.settled.borrow_mut().extend(said);
        for ids in open.chunks(REPLAY_CHUNK) {
            let entries = self.list.read(&mut redis, ids).await?;
            self.parts.counters.count_taken(entries.len() as u64);
            self.settle(session, entries).await?;
            self.forget_settled(&mut redis).await?;
        }
        self.forget_settled(&mut redis).await
    }

    fn was_settled(&self, id: &str) -> bool {
        let number = self.list.ids().number_of(id);
        number.is_some() && number <= self.settled_up_to.get()
    }

    /// Says entries in order until each is either accepted or buried.
    async fn settle(&self, session: &Session, entries: Vec<Entry>) -> Result<(), Trouble> {
        let last = entries.iter().filter_map(|entry| self.list.ids().number_of(&entry.id)).max();
        let mut open = entries;
        let mut patience = Patience::default();
        while !open.is_empty() {
            self.check_lease(session)?;
            let Round { again, dead, refused } = self.say(open).await?;
            self.bury(session, &dead).await?;
            open = again;
            if let Some(refused) = refused {
                self.wait_for_rooms(&refused, &mut patience).await?;
            }
        }
        self.settled_up_to.set(self.settled_up_to.get().max(last));
        Ok(())
    }

    /// Asks the rooms once.
    async fn say(&self, entries: Vec<Entry>) -> Result<Round, Trouble> {
        let mut round = Round::default();
        let (mut asked, mut drafts) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for entry in entries {
            match self.draft(&entry) {
                Ok(draft) => {
                    drafts.push(draft);
                    asked.push(entry);
                }
                Err(poison) => round.dead.push((entry, poison)),
            }
        }
        if asked.is_empty() {
            return Ok(round);
        }
        let answers = self.parts.chat.send(PublishBatch(drafts)).await.map_err(|_| Trouble::ChatGone)?;
        debug_assert_eq!(answers.len(), asked.len(), "the answer has one entry for each draft");
        for (entry, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(accepted) => self.note_accepted(entry.id, accepted),
                Err(refused @ (Refused::Busy { .. } | Refused::Draining)) => {
                    round.refused.get_or_insert(refused);
                    round.again.push(entry);
                }
                Err(refused) => round.dead.push((entry, Poison::new(Reason::Refused, refused.to_string()))),
            }
        }
        Ok(round)
    }

    fn draft(&self, entry: &Entry) -> Result<Draft, Poison> {
        let mut draft = decode(&entry.item, &self.parts.room, self.parts.limits)?;
        if draft.id.is_none() {
            // Should it come again after a crash, the room knows it by this.
            draft.id = MessageId::new(&entry.id).ok();
        }
        Ok(draft)
    }

    fn note_accepted(&self, id: String, accepted: Accepted) {
        self.settled.borrow_mut().push(id);
        self.parts.counters.count_accepted(1);
        self.parts.counters.count_repeated(accepted.duplicate.into());
    }

    /// Waits before the rooms are asked again; the items stay in Redis under this node's name.
    async fn wait_for_rooms(&self, refused: &Refused, patience: &mut Patience) -> Result<(), Trouble> {
        let stopping = self.is_stopping();
        if stopping && (*refused == Refused::Draining || patience.is_over(self.parts.timing.finish)) {
            return Err(Trouble::Stopping);
        }
        self.parts.counters.count_waits(1);
        self.parts.counters.set_waiting(true);
        let wait = sleep(patience.next_wait(refused));
        tokio::select! { () = wait => {}, () = self.stopped(), if !stopping => {} }
        self.parts.counters.set_waiting(false);
        Ok(())
    }

    async fn bury(&self, session: &Session, dead: &[(Entry, Poison)]) -> Result<(), Trouble> {
        let list = self.list.keys().list();
        let mut rest = dead;
        while !rest.is_empty() {
            let (mut letters, mut bytes) = (Vec::new(), 0);
            while let Some(((entry, poison), tail)) = rest.split_first() {
                if bytes > BURY_BYTES_MAX {
                    break;
                }
                let letter = DeadLetter::new(list, &entry.id, poison, &entry.item).to_json();
                bytes += letter.len();
                letters.push((entry.id.as_str(), letter));
                rest = tail;
            }
            let dropped = self.list.bury(&mut session.redis.clone(), &letters, self.parts.dead_items).await?;
            self.parts.counters.count_dead_forgotten(dropped);
        }
        for (_, poison) in dead {
            self.parts.counters.count_dead(poison.reason);
        }
        if let Some((entry, poison)) = dead.first() {
            let (count, key, item) = (dead.len(), self.list.keys().dead(), preview(&entry.item));
            log::warn!(
                "queue {list}: {count} dead letters in {key}, the first is {item}: {}",
                poison.to_string().escape_debug()
            );
        }
        Ok(())
    }

    async fn forget_settled(&self, redis: &mut RedisConnection) -> Result<(), Trouble> {
        let settled = self.settled.borrow().clone();
        for ids in settled.chunks(1_000) {
            self.list.forget(redis, ids).await?;
        }
        self.settled.borrow_mut().clear();
        Ok(())
    }

    /// Lets a replica know what was taken before anybody hears it, where there are replicas.
    async fn replicate(&self, session: &Session) -> Result<(), Trouble> {
        if !self.parts.link.has_replicas()
            || session.replica_pause.get().is_some_and(|since| since.elapsed() < REPLICA_PAUSE)
        {
            return Ok(());
        }
        let known = self.list.replicate(&mut session.redis.clone(), REPLICA_WAIT).await?;
        session.replica_pause.set((!known).then(Instant::now));
        Ok(())
    }

    /// Refuses to go on when the lease may have run out, as it does when the process was stopped: what it
    /// has in hand may have been adopted and said by another node.
    fn check_lease(&self, session: &Session) -> Result<(), Trouble> {
        let safe = self.parts.timing.lease.mul_f32(0.8);
        if session.renewed.get().elapsed() < safe { Ok(()) } else { Err(Trouble::LeaseLost) }
    }

    /// Renews the lease, looks for nodes that are gone, and measures the list; beside [`work`](Queue::work).
    async fn keep(&self, session: &Session) -> std::convert::Infallible {
        let mut redis = session.redis.clone();
        loop {
            sleep(self.parts.timing.renew).await;
            let sent = Instant::now();
            // An error is not told from here: the lease is then not renewed, and the work finds that out.
            let Ok(()) = self.list.renew(&mut redis).await else { return std::future::pending().await };
            session.renewed.set(sent);
            if let Err(error) = self.look_around(session, &mut redis).await {
                log::debug!("queue {}: looking for dead nodes: {error}", self.list.keys().list());
            }
        }
    }

    async fn look_around(&self, session: &Session, redis: &mut RedisConnection) -> Result<(), RedisError> {
        self.parts.counters.set_backlog(self.list.backlog(redis).await?);
        if session.began.elapsed() < self.parts.timing.adopt_after {
            return Ok(());
        }
        for node in self.list.gone(redis).await? {
            let ids = self.list.adopt(redis, &node).await?;
            if ids.is_empty() {
                continue;
            }
            log::warn!(
                "queue {}: node {node} is gone, taking over {} items",
                self.list.keys().list(),
                ids.len()
            );
            self.parts.counters.count_adopted(ids.len() as u64);
            session.adopted.borrow_mut().extend(ids);
        }
        Ok(())
    }

    async fn leave(&self, session: &Session) -> Result<(), Trouble> {
        let mut redis = session.redis.clone();
        self.forget_settled(&mut redis).await?;
        self.list.leave(&mut redis).await?;
        log::info!("queue {}: stopped, what was not said is back in redis", self.list.keys().list());
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // An error means that the actor is gone, which is a stop as well.
        let _gone = stop.wait_for(|stop| *stop).await;
    }
}

/// What came of asking the rooms once.
#[derive(Default)]
struct Round {
    /// Refused for now, in order.
    again: Vec<Entry>,
    /// Refused for ever.
    dead: Vec<(Entry, Poison)>,
    /// The first reason of those refused for now.
    refused: Option<Refused>,
}

/// Growing waits for busy rooms: what they ask for, at least 5 ms, doubled up to 500 ms.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    wait_ms: u64,
}

impl Patience {
    const LONGEST_MS: u64 = 500;

    fn next_wait(&mut self, refused: &Refused) -> Duration {
        self.since.get_or_insert_with(Instant::now);
        let asked = if let Refused::Busy { wait_ms } = refused { *wait_ms } else { Patience::LONGEST_MS };
        self.wait_ms = (self.wait_ms * 2).clamp(5, Patience::LONGEST_MS);
        Duration::from_millis(self.wait_ms.max(asked.min(Patience::LONGEST_MS)))
    }

    fn is_over(&self, limit: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() > limit)
    }
}

/// Tells the log once that Redis is away, and once that it is back.
struct Outage {
    list: String,
    address: String,
    since: Option<Instant>,
    told: Option<Instant>,
    was_up: bool,
}

impl Outage {
    fn new(parts: &RedisQueueParts) -> Outage {
        let (list, address) = (parts.keys.list().to_owned(), parts.link.to_string());
        Outage { list, address, since: None, told: None, was_up: false }
    }

    fn note(&mut self, why: &str) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.told.is_some_and(|told| told.elapsed() < OUTAGE_LOG) {
            return;
        }
        self.told = Some(Instant::now());
        let (list, address, seconds) = (&self.list, &self.address, since.elapsed().as_secs());
        // What redis answers may quote what others wrote into it.
        let why = why.escape_debug();
        log::warn!("queue {list}: cannot take items from {address} for {seconds} s now ({why}), retrying");
    }

    fn over(&mut self, node: &str) {
        let (list, address) = (&self.list, &self.address);
        match self.since.take() {
            Some(since) => {
                log::info!(
                    "queue {list}: redis is back after {:.1} s, node {node}",
                    since.elapsed().as_secs_f32()
                );
            }
            None if !self.was_up => log::info!("queue {list}: taking items from {address} as node {node}"),
            None => {}
        }
        self.was_up = true;
        self.told = None;
    }
}
