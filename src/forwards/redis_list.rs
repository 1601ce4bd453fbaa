//! A Redis list as a target: entries are pushed at its head, so that whoever pops at its tail (RPOP, BRPOP, LMOVE)
//! gets them in their order. A batch is one command: the list has all of it or nothing. Called by forwarders.

use crate::forwards::target::{Outgoing, Target, TargetError};
use crate::redis_link::{RedisConnection, RedisLink};

/// Most entries in one command.
const BATCH: usize = 128;

/// See above.
pub struct RedisList {
    link: RedisLink,
    list: String,
    redis: Option<RedisConnection>,
}

impl RedisList {
    /// The list with this key.
    pub fn new(link: RedisLink, list: &str) -> RedisList {
        RedisList { link, list: list.to_owned(), redis: None }
    }

    async fn push(&mut self, entries: &[Outgoing]) -> Result<(), TargetError> {
        let Some(redis) = &mut self.redis else { return Err(TargetError::away("not connected")) };
        let mut push = redis::cmd("LPUSH");
        push.arg(&self.list);
        entries.iter().for_each(|entry| {
            push.arg(&entry.line[..]);
        });
        let pushed = push.query_async::<u64>(redis).await;
        if pushed.is_err() {
            // It may still be carried out on this connection, behind what comes next.
            self.redis = None;
        }
        pushed.map(drop).map_err(|error| explained(error, &self.list))
    }
}

/// What an error means for somebody who forwards to a key.
pub(super) fn explained(error: redis::RedisError, key: &str) -> TargetError {
    match error.code() {
        Some("WRONGTYPE") => TargetError::away(format!(
            "the key {key:?} holds something of another type; name another key, or rename that one"
        )),
        _ => error.into(),
    }
}

impl Target for RedisList {
    fn address(&self) -> String {
        format!("the list {} of {}", self.list, self.link)
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.redis = None;
        self.redis = Some(self.link.connect().await?);
        Ok(())
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        match self.push(entries).await {
            Ok(()) => (entries.len(), None),
            Err(error) => (0, Some(error)),
        }
    }

    fn batch(&self) -> usize {
        BATCH
    }
}
