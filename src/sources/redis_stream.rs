//! A Redis stream as a source: a group of consumers remembers what is open, and one node at a time reads for it,
//! so that the stream's order is that of the rooms. Called by the actor of sources.
//!
//! New entries are read by a script that looks first whether it is still this node's turn, so that a process that
//! stood still and goes on gets none. Whoever takes the turn claims all open entries of the group, oldest first,
//! before it reads new ones. An entry keeps its id, by which the rooms know it when it comes again.

use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::time::sleep;

use crate::chat::names::BadName;
use crate::redis_link::{RedisConnection, RedisLink};
use crate::sources::door_commands::item_of_fields;
use crate::sources::list_keys::ListKeys;
use crate::sources::redis_turn::{LOOK, RENEW, RedisTurn};
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::traces::Parent;

/// Most entries read in one step.
const TAKE_ITEMS_MAX: usize = 128;
/// Longest wait for an entry.
const BLOCK: Duration = Duration::from_secs(1);
/// What a group's place is before the first entry of a stream.
const BEFORE_ALL: &str = "0-0";

/// Claims open entries (with a cursor), or reads new ones. Keys: turn, stream. Arguments: token, lease, group,
/// consumer, most entries, cursor (empty: read new ones). When there is nothing new it tells the newest id, which
/// the wait for the next one begins at.
const READ: &str = "
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then
      return redis.error_reply('LOST it is not the turn of this node')
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    local group, consumer, most, cursor = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
    if cursor ~= '' then
      local claimed = redis.call('XAUTOCLAIM', KEYS[2], group, consumer, 0, cursor, 'COUNT', most)
      return {claimed[1], claimed[2]}
    end
    local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', KEYS[2], '>')
    if new then return {'', new[1][2]} end
    local facts = redis.call('XINFO', 'STREAM', KEYS[2])
    for i = 1, #facts, 2 do
      if facts[i] == 'last-generated-id' then return {facts[i + 1], {}} end
    end
    return {'$', {}}";

/// Where a new group begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the first entry of the stream.
    #[default]
    First,
    /// Behind what is there already.
    New,
}

/// See above.
pub struct RedisStream {
    link: RedisLink,
    stream: String,
    group: String,
    /// This node's name in the group.
    consumer: String,
    start: Start,
    turn: RedisTurn,
    live: Option<Live>,
}

struct Live {
    redis: RedisConnection,
    blocking: RedisConnection,
    /// Whether it is this node's turn.
    reads: bool,
    /// How far the open entries are claimed; none: all of them.
    claiming: Option<String>,
}

impl RedisStream {
    /// Of this key and this group, for the node of this name.
    pub fn new(
        link: RedisLink,
        stream: &str,
        group: &str,
        node: &str,
        start: Start,
    ) -> Result<RedisStream, BadName> {
        let turn = RedisTurn::new(ListKeys::new(stream)?.reader(group), node);
        let (stream, group, consumer) = (stream.to_owned(), group.to_owned(), node.to_owned());
        Ok(RedisStream { link, stream, group, consumer, start, turn, live: None })
    }

    fn live(&mut self) -> Result<&mut Live, SourceError> {
        self.live.as_mut().ok_or_else(|| SourceError::new("not connected"))
    }

    /// Open entries, or new ones; and the cursor or id that comes with them.
    async fn read(&mut self, cursor: &str) -> Result<(String, Vec<Taken<String>>), SourceError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(READ).arg(2).arg(self.turn.key()).arg(&self.stream);
        eval.arg(self.turn.token()).arg(RedisTurn::lease_ms());
        eval.arg(&self.group).arg(&self.consumer).arg(TAKE_ITEMS_MAX).arg(cursor);
        let (next, entries): (String, Value) = eval.query_async(&mut self.live()?.redis).await?;
        Ok((next, entries_of(entries)?))
    }

    async fn wait(&mut self, after: &str) -> Result<(), SourceError> {
        let mut wait = redis::cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        wait.arg("STREAMS").arg(&self.stream).arg(after);
        wait.query_async::<Value>(&mut self.live()?.blocking).await?;
        Ok(())
    }

    async fn create_group(&self, redis: &mut RedisConnection) -> Result<(), SourceError> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group);
        create.arg(if self.start == Start::First { "0" } else { "$" }).arg("MKSTREAM");
        match create.query_async::<()>(redis).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Source for RedisStream {
    type Receipt = String;

    fn address(&self) -> String {
        self.link.to_string()
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        self.live = None;
        self.turn.begin();
        let mut redis = self.link.connect().await?;
        let blocking = self.link.connect_blocking(BLOCK).await?;
        self.create_group(&mut redis).await?;
        self.live = Some(Live { redis, blocking, reads: false, claiming: None });
        Ok(())
    }

    async fn take(&mut self) -> Result<Batch<String>, SourceError> {
        if !self.live()?.reads {
            let mut redis = self.live()?.redis.clone();
            if !self.turn.hold(&mut redis).await? {
                sleep(LOOK).await;
                return Ok(Batch::StandBy);
            }
            let live = self.live()?;
            (live.reads, live.claiming) = (true, Some(BEFORE_ALL.into()));
        }
        while let Some(cursor) = self.live()?.claiming.clone() {
            let (next, open) = self.read(&cursor).await?;
            self.live()?.claiming = (next != BEFORE_ALL).then_some(next);
            if !open.is_empty() {
                return Ok(Batch::Items(open));
            }
        }
        let (newest, entries) = self.read("").await?;
        if !entries.is_empty() {
            return Ok(Batch::Items(entries));
        }
        self.wait(&newest).await?;
        Ok(Batch::Nothing)
    }

    async fn ack(&mut self, receipts: Vec<String>) -> Result<(), SourceError> {
        let mut ack = redis::cmd("XACK");
        ack.arg(&self.stream).arg(&self.group).arg(receipts);
        Ok(ack.query_async(&mut self.live()?.redis).await?)
    }

    /// Open entries stay with the group; whoever reads next claims them.
    async fn give_back(&mut self, _: Vec<String>) -> Result<(), SourceError> {
        Ok(())
    }

    async fn extend(&mut self, _: &[&String]) -> Result<(), SourceError> {
        let mut redis = self.live()?.redis.clone();
        if self.turn.renew(&mut redis).await? {
            return Ok(());
        }
        Err(SourceError::new("the turn ran out while this node stood still"))
    }

    fn patience(&self) -> Duration {
        RENEW
    }

    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        let mut info = redis::cmd("XINFO");
        info.arg("GROUPS").arg(&self.stream);
        let groups: Vec<Value> = info.query_async(&mut self.live()?.redis).await?;
        Ok(groups.into_iter().find_map(|group| waiting_of(group, &self.group)))
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        match self.live.take() {
            Some(mut live) => Ok(self.turn.let_go(&mut live.redis).await?),
            None => Ok(()),
        }
    }
}

/// What a group has not got yet and what it has got and not acknowledged. The first is known since Redis 7.0.
fn waiting_of(group: Value, name: &str) -> Option<u64> {
    let facts: std::collections::HashMap<String, Value> = FromRedisValue::from_redis_value(group).ok()?;
    let text = |key: &str| facts.get(key).cloned();
    let number = |key: &str| -> Option<u64> { redis::from_redis_value(text(key)?).ok() };
    let found: String = redis::from_redis_value(text("name")?).ok()?;
    (found == name).then(|| number("lag")).flatten().map(|lag| lag + number("pending").unwrap_or(0))
}

/// The fields of an entry without those that say to which trace it belongs (W3C Trace Context), and that trace.
fn without_trace(fields: Vec<Bytes>) -> (Vec<Bytes>, Parent) {
    let value = |name: &str| {
        let field = fields.chunks_exact(2).find(|field| field[0] == name)?;
        std::str::from_utf8(&field[1]).ok()
    };
    let (trace, state) = (value("traceparent"), value("tracestate"));
    if trace.is_none() && state.is_none() {
        return (fields, Parent::default());
    }
    let parent = Parent::read(trace, state);
    let is_other = |field: &&[Bytes]| field[0] != "traceparent" && field[0] != "tracestate";
    (fields.chunks_exact(2).filter(is_other).flatten().cloned().collect(), parent)
}

fn entries_of(entries: Value) -> RedisResult<Vec<Taken<String>>> {
    let Value::Array(entries) = entries else { return Ok(Vec::new()) };
    let mut taken = Vec::with_capacity(entries.len());
    for entry in entries {
        // An entry that was deleted from the stream has nothing to say.
        let Value::Array(parts) = entry else { continue };
        let mut parts = parts.into_iter();
        let (Some(id), Some(Value::Array(fields))) = (parts.next(), parts.next()) else { continue };
        let id: String = redis::from_redis_value(id)?;
        let fields =
            fields.into_iter().map(|field| redis::from_redis_value::<Vec<u8>>(field).map(Bytes::from));
        let fields: Vec<Bytes> = fields.collect::<Result<_, _>>()?;
        let pushed_ms = id.split_once('-').and_then(|(ms, _)| ms.parse().ok());
        let (fields, parent) = without_trace(fields);
        let (item, own) = (item_of_fields(&fields), Some(id.as_str().into()));
        taken.push(Taken { id: own, item, room: Ok(None), pushed_ms, parent, receipt: id });
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_an_entry_is_no_part_of_the_item() {
        let fields =
            |texts: &[&str]| texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let plain: Vec<Bytes> = fields(&["data", "\"hi\""]);
        let traced = fields(&["traceparent", "00-1-2-01", "data", "\"hi\"", "tracestate", "a=1"]);
        assert_eq!(without_trace(traced).0, plain);
        assert_eq!(item_of_fields(&without_trace(plain.clone()).0), item_of_fields(&plain));
    }
}
