//! The life of a queue: sessions with Redis one after the other, each of which first says what the last
//! one left and then takes batch after batch. Part of the queue actor.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use redis::RedisError;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::actors::redis_queue::RedisQueueParts;
use crate::actors::waits::Outage;
use crate::chat::trace::Door;
use crate::redis_link::RedisConnection;
use crate::redis_link::backoff::Backoff;
use crate::sources::node::ProcessMark;
use crate::sources::redis_list::{Claim, Entry, RedisList, is_lost, is_out_of_memory};

/// Entries read at a time when those of an earlier session are said again.
const REPLAY_CHUNK: usize = 64;
/// Longest that a batch waits for a replica to know that it was taken.
const REPLICA_WAIT: Duration = Duration::from_millis(100);
/// How long nobody asks again when no replica has answered.
const REPLICA_PAUSE: Duration = Duration::from_secs(1);
/// How long a replica is waited for that was there and is not any more, as the rooms wait for it.
const REPLICA_MISSED: Duration = Duration::from_secs(5);
/// Wait between two takes while Redis has no memory for a blocking wait.
const OUT_OF_MEMORY_WAIT: Duration = Duration::from_millis(200);

/// Why a session with Redis ended.
pub(super) enum Trouble {
    /// Redis did not answer, or not as it should.
    Redis(RedisError),
    /// The lease or the turn is gone or taken: what this node worked on may be another's now.
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
pub(super) struct Queue {
    pub(super) parts: RedisQueueParts,
    pub(super) list: RedisList,
    pub(super) door: Door,
    pub(super) stop: watch::Receiver<bool>,
    /// Entries that are said or buried, but may still stand in Redis.
    pub(super) settled: RefCell<Vec<String>>,
    /// All own entries up to this number are settled. A failover may bring some of them back to life.
    pub(super) settled_up_to: Cell<Option<u64>>,
    /// When a replica last knew what was taken.
    pub(super) replica_seen: Cell<Option<Instant>>,
}

/// What lives as long as the connections.
pub(super) struct Session {
    pub(super) redis: RedisConnection,
    pub(super) began: Instant,
    /// When the last command was sent that renewed the lease.
    pub(super) renewed: Cell<Instant>,
    /// Entries that the janitor has taken over and nobody has said yet.
    pub(super) adopted: RefCell<Vec<String>>,
    pub(super) replica_pause: Cell<Option<Instant>>,
    /// Whether this node takes items. Always, where nodes do not take turns.
    pub(super) takes: Cell<bool>,
}

impl Queue {
    pub(super) fn new(parts: RedisQueueParts, stop: watch::Receiver<bool>) -> Queue {
        let mark = ProcessMark::of_this_process();
        let list = RedisList::new(parts.keys.clone(), &parts.node, mark, parts.timing.lease, parts.turns);
        let (settled, settled_up_to, replica_seen) = Default::default();
        let door = Door::named("list", list.keys().list());
        Queue { parts, list, door, stop, settled, settled_up_to, replica_seen }
    }

    pub(super) async fn run(mut self) {
        let mut outage = Outage::new(self.list.keys().list(), &self.parts.link.to_string());
        let mut backoff = Backoff::new();
        let mut left = false;
        while !self.is_stopping() {
            let Err(trouble) = self.session(&mut outage).await else {
                left = true;
                break;
            };
            self.parts.counters.set_connected(false);
            self.parts.counters.set_taking(false);
            if outage.is_over() {
                backoff.reset();
            }
            match trouble {
                Trouble::Stopping => break,
                Trouble::Redis(error) => outage.note(&error.to_string()),
                Trouble::ChatGone => outage.note("the chat server is gone"),
                Trouble::LeaseLost => {
                    let list = self.list.keys().list();
                    log::warn!("queue {list}: the lease ran out while this node stood still, beginning anew");
                }
            }
            let wait = sleep(backoff.next_wait());
            tokio::select! { () = wait => {}, () = self.stopped() => break }
        }
        self.parts.counters.set_connected(false);
        self.parts.counters.set_taking(false);
        if !left && self.parts.counters.connects() > 0 {
            self.leave_late().await;
        }
    }

    /// Leaves by a connection of its own, because the last session broke while the server was stopping.
    async fn leave_late(&mut self) {
        let limit = self.parts.timing.finish;
        let list = self.list.keys().list().to_owned();
        let attempts = async {
            let mut backoff = Backoff::new();
            loop {
                let left = match self.begin().await {
                    Ok((session, _)) => self.leave(&session).await,
                    Err(trouble) => Err(trouble),
                };
                if left.is_ok() {
                    return;
                }
                sleep(backoff.next_wait()).await;
            }
        };
        if tokio::time::timeout(limit, attempts).await.is_err() {
            log::warn!(
                "queue {list}: redis did not hear that this node stops, some items may come again under their ids"
            );
        }
    }

    /// Connects and works until something breaks or the server stops.
    async fn session(&mut self, outage: &mut Outage) -> Result<(), Trouble> {
        let mut stop = self.stop.clone();
        let ready = tokio::select! {
            ready = self.begin() => ready,
            _ = stop.wait_for(|stop| *stop) => return Err(Trouble::Stopping),
        };
        let (session, blocking) = ready?;
        let worked = tokio::select! {
            worked = self.work(&session, blocking, outage) => worked,
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
        let takes = Cell::new(!self.parts.turns);
        Ok((Session { redis, began, renewed, adopted, replica_pause, takes }, blocking))
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
    async fn work(
        &self,
        session: &Session,
        mut blocking: RedisConnection,
        outage: &mut Outage,
    ) -> Result<(), Trouble> {
        let mut redis = session.redis.clone();
        self.forget_settled(&mut redis).await?;
        if self.parts.turns {
            self.come_to_turn(session, outage).await?;
        }
        let left = self.list.working(&mut redis).await?;
        if !left.is_empty() {
            self.note_taking(outage);
        }
        self.replay(session, left).await?;
        while !self.is_stopping() {
            let adopted = session.adopted.take();
            self.replay(session, adopted).await?;
            let entries = self.take(session).await?;
            self.note_taking(outage);
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

    /// Items come. A connection alone does not show that, for the list may be out of order.
    fn note_taking(&self, outage: &mut Outage) {
        outage.end(&format!("taking items as node {}", self.list.node()));
        self.parts.counters.set_connected(true);
        self.parts.counters.set_taking(true);
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
    pub(super) async fn replay(&self, session: &Session, ids: Vec<String>) -> Result<(), Trouble> {
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

    async fn forget_settled(&self, redis: &mut RedisConnection) -> Result<(), Trouble> {
        let settled = self.settled.borrow().clone();
        for ids in settled.chunks(1_000) {
            self.list.forget(redis, ids).await?;
        }
        self.settled.borrow_mut().clear();
        Ok(())
    }

    /// Lets a replica know what was taken before anybody hears it, where there are replicas. Where nodes take
    /// turns nothing is said as long as there is one that may take over and does not know: the next node would
    /// take the same items again, under other ids.
    async fn replicate(&self, session: &Session) -> Result<(), Trouble> {
        if !self.parts.link.has_replicas()
            || session.replica_pause.get().is_some_and(|since| since.elapsed() < REPLICA_PAUSE)
        {
            return Ok(());
        }
        let mut redis = session.redis.clone();
        while !self.list.replicate(&mut redis, REPLICA_WAIT).await? {
            if !self.parts.turns || !self.misses_replica(&mut redis).await? {
                session.replica_pause.set(Some(Instant::now()));
                return Ok(());
            }
            if self.is_stopping() {
                return Err(Trouble::Stopping);
            }
        }
        session.replica_pause.set(None);
        self.replica_seen.set(Some(Instant::now()));
        Ok(())
    }

    async fn misses_replica(&self, redis: &mut RedisConnection) -> Result<bool, Trouble> {
        let was_there = self.replica_seen.get().is_some_and(|seen| seen.elapsed() < REPLICA_MISSED);
        Ok(was_there || self.list.has_replica(redis).await?)
    }

    async fn leave(&self, session: &Session) -> Result<(), Trouble> {
        let mut redis = session.redis.clone();
        self.forget_settled(&mut redis).await?;
        self.list.leave(&mut redis).await?;
        log::info!("queue {}: stopped, what was not said is back in redis", self.list.keys().list());
        Ok(())
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // An error means that the actor is gone, which is a stop as well.
        let _gone = stop.wait_for(|stop| *stop).await;
    }
}
