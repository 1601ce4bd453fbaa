//! The stream through which an archive behind Redis is filled: one per partition, written by the publish script in the
//! order of acceptance, and by repairs. Read by whoever fills the archive, on a connection of its own; how far that is
//! tells the engine which proposals are archived.
//!
//! A place in the stream is `epoch-n`: the epoch in which it was written, and a count within it. After a repair an
//! entry may come again under a later place, and an entry that was taken back may be replaced by one of a later
//! epoch at the same offset.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Value};

use crate::chat::entry::Entry;
use crate::chat::names::RoomName;
use crate::engines::redis::frame;
use crate::engines::redis::keys::{Keys, PARTITIONS};
use crate::engines::redis::outbox::fed_of;
use crate::engines::redis::replies;
use crate::redis_link::RedisLink;

const REACHED: &str = include_str!("lua/feed_reached.lua");
pub(super) const TAKE_TURN: &str = include_str!("lua/feed_take_turn.lua");
pub(super) const RETURN_TURN: &str = include_str!("lua/feed_return_turn.lua");

/// A place in the stream: the epoch in which it was written, and a count within it.
pub type Place = (u64, u64);

/// One partition's stream.
#[derive(Debug, Clone)]
pub struct Feed(Keys);

impl Feed {
    /// All streams behind an address. `prefix` is the configured one.
    pub fn all(link: &RedisLink, prefix: &str) -> Vec<Feed> {
        let partitions = if link.is_cluster() { PARTITIONS as usize } else { 1 };
        (0..partitions).map(|number| Feed(Keys::new(prefix, number))).collect()
    }

    /// A key of the partition: the server that has it has the stream.
    pub fn key(&self) -> String {
        self.0.feed()
    }

    /// The next entries behind a place, at most `n`, each with its place. What cannot be read is told in the log and
    /// passed over: its place is taken, without an entry.
    pub async fn read(
        &self,
        redis: &mut impl ConnectionLike,
        after: Place,
        n: usize,
    ) -> RedisResult<Vec<(Place, Option<Entry>)>> {
        let mut range = redis::cmd("XRANGE");
        range.arg(self.key()).arg(format!("({}-{}", after.0, after.1)).arg("+").arg("COUNT").arg(n);
        let items = replies::list(range.query_async(redis).await?)?;
        items.into_iter().map(item).collect()
    }

    /// The same; if there is nothing, the server waits so long for something. On a connection of its own.
    pub async fn wait(
        &self,
        redis: &mut impl ConnectionLike,
        after: Place,
        n: usize,
        wait: Duration,
    ) -> RedisResult<Vec<(Place, Option<Entry>)>> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(n).arg("BLOCK").arg(wait.as_millis() as u64);
        read.arg("STREAMS").arg(self.key()).arg(format!("{}-{}", after.0, after.1));
        items(read.query_async(redis).await?)
    }

    /// The archive has everything up to a place: proposals hear of it, and the stream forgets it. Who comes late with
    /// an earlier place changes nothing. Returns how many entries are left.
    pub async fn reached(&self, redis: &mut impl ConnectionLike, place: Place) -> RedisResult<u64> {
        let mut call = redis::cmd("EVAL");
        call.arg(REACHED).arg(2).arg(self.key()).arg(self.0.feed_position()).arg(place.0).arg(place.1);
        call.query_async(redis).await
    }

    /// Takes or keeps the turn of filling the archive from here, for so long. Whether it is theirs.
    pub async fn take_turn(
        &self,
        redis: &mut impl ConnectionLike,
        who: &str,
        time: Duration,
    ) -> RedisResult<bool> {
        let mut call = redis::cmd("EVAL");
        call.arg(TAKE_TURN).arg(1).arg(self.0.feed_turn()).arg(who).arg(time.as_millis() as u64);
        call.query_async(redis).await
    }

    /// Gives the turn back, if it is still theirs.
    pub async fn return_turn(&self, redis: &mut impl ConnectionLike, who: &str) -> RedisResult<()> {
        let mut call = redis::cmd("EVAL");
        call.arg(RETURN_TURN).arg(1).arg(self.0.feed_turn()).arg(who);
        call.query_async(redis).await
    }
}

/// The entries in the answer to a read of one stream.
pub(super) fn items(answer: Value) -> RedisResult<Vec<(Place, Option<Entry>)>> {
    let streams = match answer {
        Value::Nil => return Ok(Vec::new()),
        streams => replies::list(streams)?,
    };
    let Some(stream) = streams.into_iter().next() else { return Ok(Vec::new()) };
    let items = replies::list(stream)?.into_iter().nth(1).unwrap_or_default();
    replies::list(items)?.into_iter().map(item).collect()
}

fn item(item: Value) -> RedisResult<(Place, Option<Entry>)> {
    let mut parts = replies::list(item)?.into_iter();
    let id = replies::text(parts.next().unwrap_or_default())?;
    let fields = replies::pairs(parts.next().unwrap_or_default())?;
    let field =
        |name: &[u8]| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice());
    let text = |name: &[u8]| field(name).and_then(|value| std::str::from_utf8(value).ok());
    let read = || {
        let room = RoomName::new(text(b"r")?).ok()?;
        frame::entry(&room, text(b"o")?.parse().ok()?, text(b"e")?.parse().ok()?, field(b"b")?)
    };
    let entry = read();
    if entry.is_none() {
        log::error!("redis: the item {} of a feed cannot be read", id.escape_debug());
    }
    Ok((fed_of(&id).unwrap_or_default(), entry))
}
