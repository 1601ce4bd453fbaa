//! One Redis list and the keys beside it: how items are taken without loss and forgotten when a room has
//! them. Called by the queue actor. Decides nothing: it does one step at a time, each atomic in Redis.
//!
//! ```text
//! list ──BLMOVE──▶ :in:<node> ──take──▶ :proc:<node> ──forget──▶ (gone)
//!   └────────────────take────────────────▲    └─────bury───▶ :dead
//! ```
//! An item stands in exactly one of these places, whatever dies when. Every step but the first checks the
//! node's lease inside Redis, so that a command that comes late, from a connection given up long ago,
//! finds the lease changed and does nothing. Where nodes take turns, the steps that bring new items check
//! the turn as well, and `BLMOVE` leaves the item where it is: it cannot check anything, and may come late.
//! Redis 6.2 or later is needed (`BLMOVE`); with 7.0 or later a Redis that has run out of memory can still
//! be emptied.

use std::time::Duration;

use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, Value};

use crate::redis_link::RedisConnection;
use crate::sources::list_keys::ListKeys;
use crate::sources::list_scripts::{ADOPT, BURY, CLAIM, Call, LEAVE, READ, RENEW, TAKE, TURN};
use crate::sources::node::{EntryIds, ProcessMark};

/// Most items taken in one step.
pub const TAKE_ITEMS_MAX: usize = 256;
/// A step takes no further item once it has this many bytes; one more item may go beyond.
pub const TAKE_BYTES_MAX: usize = 4 << 20;
/// Nodes that have not been seen for so long are struck off the register, in seconds.
const REGISTER_SECONDS: u64 = 3_600;

/// An item under the id it got when it was taken. It keeps the id wherever it goes, so that it is known
/// again when it comes a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Sorts by age; at most 64 bytes.
    pub id: String,
    /// As the backend pushed it.
    pub item: Vec<u8>,
}

/// What came of asking for the lease.
#[derive(Debug)]
pub enum Claim {
    /// It is ours.
    Held,
    /// Another process has it.
    HeldBy {
        /// Who; `None` if the key holds something else.
        mark: Option<ProcessMark>,
        /// The value of the key, to take it over with.
        value: String,
        /// When it runs out unless it is renewed.
        left: Duration,
    },
}

/// Whose turn it is to empty a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ours, and so many entries of the one before came over with it.
    Ours(u64),
    /// That of the node of this name.
    Theirs(String),
}

/// Whether an error says that the lease or the turn is another's, or nobody's.
pub fn is_lost(error: &RedisError) -> bool {
    error.code() == Some("LOST")
}

/// Whether an error says that Redis has no memory left. Taking items still works then, waiting does not.
pub fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// A node's hold on a list.
#[derive(Debug)]
pub struct RedisList {
    keys: ListKeys,
    node: String,
    mark: ProcessMark,
    /// Counts the sessions of this process; part of the lease, so that commands of an earlier one fail.
    session: u64,
    lease_ms: u64,
    ids: EntryIds,
    /// Whether nodes take turns.
    turns: bool,
}

impl RedisList {
    /// The list as seen by the node of this name. A lease lasts `lease` unless it is renewed. With `turns`
    /// one node at a time empties the list; all nodes of a list must agree on that.
    pub fn new(keys: ListKeys, node: &str, mark: ProcessMark, lease: Duration, turns: bool) -> RedisList {
        let ids = EntryIds::new(mark.nonce());
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        RedisList { keys, node: node.to_owned(), mark, session: 0, lease_ms, ids, turns }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The list's keys.
    pub fn keys(&self) -> &ListKeys {
        &self.keys
    }

    /// The process that holds, or wants, the lease.
    pub fn mark(&self) -> &ProcessMark {
        &self.mark
    }

    /// The ids that entries get.
    pub fn ids(&self) -> &EntryIds {
        &self.ids
    }

    /// Goes on under another name.
    pub fn rename(&mut self, node: String) {
        self.node = node;
    }

    /// Begins a new session; what earlier ones still have under way fails from the next claim on.
    pub fn begin_session(&mut self) {
        self.session += 1;
    }

    /// Takes the lease if it is free or still has the value `over` (`""`: only if it is free).
    pub async fn claim(&self, redis: &mut RedisConnection, over: &str) -> RedisResult<Claim> {
        let mut call = Call::new(CLAIM);
        call.key(self.keys.lease(&self.node)).key(self.keys.nodes());
        call.arg(over).arg(self.token()).arg(self.lease_ms).arg(&self.node);
        let answer: Option<(String, i64)> = call.run(redis).await?;
        let Some((value, left_ms)) = answer else {
            return Ok(Claim::Held);
        };
        let mark = value.rsplit_once('#').and_then(|(mark, _)| ProcessMark::parse(mark));
        Ok(Claim::HeldBy { mark, value, left: Duration::from_millis(left_ms.max(0).unsigned_abs()) })
    }

    /// Renews the lease and notes that the node lives.
    pub async fn renew(&self, redis: &mut RedisConnection) -> RedisResult<()> {
        let mut call = self.guarded(RENEW);
        call.key(self.keys.nodes()).arg(&self.node);
        call.run(redis).await
    }

    /// Comes to the turn if it is nobody's, or if it was `holder`'s, whose lease is gone, and `may_follow`.
    /// What that one has left comes over in the same step. Renews the lease.
    pub async fn come(
        &self,
        redis: &mut RedisConnection,
        holder: &str,
        may_follow: bool,
    ) -> RedisResult<Turn> {
        let keys = &self.keys;
        let mut call = self.guarded(TURN);
        call.key(keys.turn()).key(keys.working(&self.node)).key(keys.handed(&self.node)).key(keys.list());
        call.key(keys.lease(holder)).key(keys.working(holder)).key(keys.handed(holder));
        call.arg(&self.node).arg(holder).arg(u8::from(may_follow));
        let (whose, came): (String, u64) = call.run(redis).await?;
        Ok(if whose == self.node { Turn::Ours(came) } else { Turn::Theirs(whose) })
    }

    /// Waits for an item, at most `block`, on a connection that carries nothing else. The item stands in
    /// the list of what this node was handed, and [`take`](RedisList::take) finds it there. Where nodes take
    /// turns it stays in the list: its oldest item is moved to the place where it is.
    pub async fn wait(&self, blocking: &mut RedisConnection, block: Duration) -> RedisResult<bool> {
        let mut wait = redis::cmd("BLMOVE");
        wait.arg(self.keys.list());
        if self.turns {
            wait.arg(self.keys.list()).arg("RIGHT").arg("RIGHT");
        } else {
            wait.arg(self.keys.handed(&self.node)).arg("RIGHT").arg("LEFT");
        }
        let item: Value = wait.arg(block.as_secs_f64()).query_async(blocking).await?;
        Ok(!matches!(item, Value::Nil))
    }

    /// Forgets the `settled` entries and takes the oldest items, what this node was handed first.
    pub async fn take(&self, redis: &mut RedisConnection, settled: &[String]) -> RedisResult<Vec<Entry>> {
        let mut call = self.guarded_in_turn(TAKE);
        call.key(self.keys.working(&self.node)).key(self.keys.handed(&self.node)).key(self.keys.list());
        call.arg(TAKE_ITEMS_MAX).arg(TAKE_BYTES_MAX);
        call.arg(self.ids.start()).arg(self.ids.reserve(TAKE_ITEMS_MAX)).arg(settled);
        let Value::Array(answer) = call.run(redis).await? else {
            return Err(unexpected());
        };
        let mut entries = Vec::with_capacity(answer.len() / 2);
        let mut parts = answer.into_iter();
        while let (Some(id), Some(Value::BulkString(item))) = (parts.next(), parts.next()) {
            entries.push(Entry { id: String::from_redis_value(id)?, item });
        }
        Ok(entries)
    }

    /// The ids of all that this node works on, oldest first.
    pub async fn working(&self, redis: &mut RedisConnection) -> RedisResult<Vec<String>> {
        let mut ids: Vec<String> =
            redis::cmd("HKEYS").arg(self.keys.working(&self.node)).query_async(redis).await?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Those of the entries that are still this node's own.
    pub async fn read(&self, redis: &mut RedisConnection, ids: &[String]) -> RedisResult<Vec<Entry>> {
        let mut call = self.guarded(READ);
        call.key(self.keys.working(&self.node)).arg(ids);
        let Value::Array(items) = call.run(redis).await? else {
            return Err(unexpected());
        };
        let entries = ids.iter().zip(items).filter_map(|(id, item)| match item {
            Value::BulkString(item) => Some(Entry { id: id.clone(), item }),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// Forgets entries that are settled.
    pub async fn forget(&self, redis: &mut RedisConnection, ids: &[String]) -> RedisResult<()> {
        redis::cmd("HDEL").arg(self.keys.working(&self.node)).arg(ids).query_async(redis).await
    }

    /// Moves entries to the dead letters, at most `keep` of which are kept. Tells how many were dropped.
    pub async fn bury(
        &self,
        redis: &mut RedisConnection,
        letters: &[(&str, String)],
        keep: usize,
    ) -> RedisResult<u64> {
        let mut call = self.guarded(BURY);
        call.key(self.keys.working(&self.node)).key(self.keys.dead()).arg(keep);
        for (id, letter) in letters {
            call.arg(id).arg(letter);
        }
        call.run(redis).await
    }

    /// Nodes of this list that have no lease.
    pub async fn gone(&self, redis: &mut RedisConnection) -> RedisResult<Vec<String>> {
        let mut nodes: Vec<String> =
            redis::cmd("ZRANGE").arg(self.keys.nodes()).arg(0).arg(-1).query_async(redis).await?;
        nodes.retain(|node| *node != self.node);
        if nodes.is_empty() {
            return Ok(nodes);
        }
        let leases: Vec<String> = nodes.iter().map(|node| self.keys.lease(node)).collect();
        let held: Vec<Option<String>> = redis::cmd("MGET").arg(leases).query_async(redis).await?;
        Ok(nodes.into_iter().zip(held).filter_map(|(node, lease)| lease.is_none().then_some(node)).collect())
    }

    /// Takes over what a node without a lease has left. Entries keep their ids. Tells the ids, oldest first.
    pub async fn adopt(&self, redis: &mut RedisConnection, node: &str) -> RedisResult<Vec<String>> {
        let mut call = self.guarded_in_turn(ADOPT);
        call.key(self.keys.working(&self.node)).key(self.keys.lease(node)).key(self.keys.working(node));
        call.key(self.keys.handed(node)).key(self.keys.nodes());
        call.arg(self.ids.adopted_start()).arg(self.ids.reserve(TAKE_ITEMS_MAX)).arg(TAKE_ITEMS_MAX);
        call.arg(node).arg(REGISTER_SECONDS);
        let mut ids: Vec<String> = call.run(redis).await?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Puts back what this node was handed, in its old order, and lets the lease and the turn go. What it works on stays
    /// under its ids: the node finds it at its next start, another one adopts it before.
    pub async fn leave(&self, redis: &mut RedisConnection) -> RedisResult<()> {
        let mut call = self.guarded(LEAVE);
        call.key(self.keys.handed(&self.node)).key(self.keys.list()).key(self.keys.working(&self.node));
        call.key(self.keys.nodes()).key(self.keys.turn()).arg(&self.node);
        call.run(redis).await
    }

    /// How many items wait in the list.
    pub async fn backlog(&self, redis: &mut RedisConnection) -> RedisResult<u64> {
        redis::cmd("LLEN").arg(self.keys.list()).query_async(redis).await
    }

    /// Waits until a replica has what was taken. An item that only the primary knows to be taken would come
    /// again, under another id, from the replica that takes its place.
    pub async fn replicate(&self, redis: &mut RedisConnection, limit: Duration) -> RedisResult<bool> {
        Ok(redis.wait_for_replica(self.keys.list(), limit).await? > 0)
    }

    /// Whether the primary believes that a replica is connected.
    pub async fn has_replica(&self, redis: &mut RedisConnection) -> RedisResult<bool> {
        Ok(redis.replicas_of(self.keys.list()).await? > 0)
    }

    fn token(&self) -> String {
        format!("{}#{}", self.mark, self.session)
    }

    /// A script that does nothing unless the lease is ours; first key and first two arguments are taken.
    fn guarded(&self, script: &'static str) -> Call {
        let mut call = Call::new(script);
        call.key(self.keys.lease(&self.node)).arg(self.token()).arg(self.lease_ms);
        call
    }

    /// The same for one that does nothing unless it is our turn, either, where nodes take turns; second key
    /// and third argument are taken as well.
    fn guarded_in_turn(&self, script: &'static str) -> Call {
        let mut call = self.guarded(script);
        call.key(self.keys.turn()).arg(if self.turns { &self.node } else { "" });
        call
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "redis answered a script with another type than it returns").into()
}
