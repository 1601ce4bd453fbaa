//! A Redis stream as a target. Each entry has the fields `id`, by which a reader knows one that comes again, `room`, and
//! `payload` with the frame. A batch is one transaction: the stream has all of it or nothing. Called by forwarders.

use crate::forwards::redis_list::explained;
use crate::forwards::target::{Outgoing, Target, TargetError};
use crate::redis_link::{RedisConnection, RedisLink};

/// Most entries in one transaction.
const BATCH: usize = 128;

/// See above.
pub struct RedisStreamTarget {
    link: RedisLink,
    stream: String,
    maxlen: u64,
    redis: Option<RedisConnection>,
}

impl RedisStreamTarget {
    /// The stream with this key. `maxlen`: about so many entries stay in it; 0: all.
    pub fn new(link: RedisLink, stream: &str, maxlen: u64) -> RedisStreamTarget {
        RedisStreamTarget { link, stream: stream.to_owned(), maxlen, redis: None }
    }

    async fn add(&mut self, entries: &[Outgoing]) -> Result<(), TargetError> {
        let Some(redis) = &mut self.redis else { return Err(TargetError::away("not connected")) };
        let mut all = redis::pipe();
        all.atomic();
        for entry in entries {
            let add = all.cmd("XADD").arg(&self.stream);
            if self.maxlen > 0 {
                add.arg("MAXLEN").arg("~").arg(self.maxlen);
            }
            add.arg("*").arg("id").arg(entry.id()).arg("room").arg(entry.room.as_str());
            add.arg("payload").arg(&entry.line[..]).ignore();
        }
        let added = all.query_async::<()>(redis).await;
        if added.is_err() {
            // It may still be carried out on this connection, behind what comes next.
            self.redis = None;
        }
        added.map_err(|error| explained(error, &self.stream))
    }
}

impl Target for RedisStreamTarget {
    fn address(&self) -> String {
        format!("the stream {} of {}", self.stream, self.link)
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.redis = None;
        self.redis = Some(self.link.connect().await?);
        Ok(())
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        match self.add(entries).await {
            Ok(()) => (entries.len(), None),
            Err(error) => (0, Some(error)),
        }
    }

    fn batch(&self) -> usize {
        BATCH
    }
}
