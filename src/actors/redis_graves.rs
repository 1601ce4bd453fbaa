//! Keeps the door's dead letters in Redis, beside those of the lists, where several nodes share the rooms: all
//! of them, and the operator's commands, find them there, with an archive or without. Started by the wiring,
//! asked by the door, which keeps a letter in memory when Redis does not take it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};
use redis::RedisResult;
use tokio::sync::Mutex;

use crate::actors::letters::Bury;
use crate::redis_link::{RedisConnection, RedisLink};
use crate::sources::counters::QueueCounters;
use crate::sources::dead_letters::{DeadLetter, RedisDeadLetters};
use crate::sources::list_keys::ListKeys;
use crate::store::record::Letter;

/// What it needs.
pub struct RedisGravesParts {
    /// Where Redis is.
    pub link: RedisLink,
    /// The lists of `queue.list`, at least one: a letter lies beside its list, one of a channel beside the first.
    pub lists: Vec<ListKeys>,
    /// Dead letters kept beside a list.
    pub dead_items: usize,
    /// Where the door counts.
    pub counters: Arc<QueueCounters>,
}

/// See above. One write at a time, on one connection that is built when it is needed.
pub struct RedisGraves(Rc<Graves>);

struct Graves {
    link: RedisLink,
    lists: Vec<RedisDeadLetters>,
    dead_items: usize,
    counters: Arc<QueueCounters>,
    connection: Mutex<Option<RedisConnection>>,
}

impl RedisGraves {
    /// Waits for `start()`.
    pub fn new(parts: RedisGravesParts) -> RedisGraves {
        let RedisGravesParts { link, lists, dead_items, counters } = parts;
        let lists = lists.into_iter().map(RedisDeadLetters::new).collect();
        RedisGraves(Rc::new(Graves { link, lists, dead_items, counters, connection: Mutex::default() }))
    }
}

impl Actor for RedisGraves {
    type Context = Context<RedisGraves>;
}

impl Handler<Bury> for RedisGraves {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, bury: Bury, _: &mut Self::Context) -> Self::Result {
        let graves = self.0.clone();
        Box::pin(async move {
            let mut connection = graves.connection.lock().await;
            match graves.keep(&mut connection, &bury.0).await {
                Ok(dropped) => graves.counters.count_dead_forgotten(dropped),
                Err(error) => {
                    *connection = None;
                    let why = error.to_string();
                    log::warn!(
                        "door: redis does not take {} dead letters: {}",
                        bury.0.len(),
                        why.escape_debug()
                    );
                    return false;
                }
            }
            true
        })
    }
}

impl Graves {
    async fn keep(&self, open: &mut Option<RedisConnection>, letters: &[Letter]) -> RedisResult<u64> {
        let redis = match open {
            Some(redis) => redis,
            None => open.insert(self.link.connect().await?),
        };
        let mut dropped = 0;
        for (list, letters) in self.by_list(letters) {
            dropped += self.lists[list].keep(redis, &letters, self.dead_items).await?;
        }
        Ok(dropped)
    }

    fn by_list(&self, letters: &[Letter]) -> BTreeMap<usize, Vec<DeadLetter>> {
        let mut sorted: BTreeMap<usize, Vec<DeadLetter>> = BTreeMap::new();
        for letter in letters {
            let name = letter.source.strip_prefix("door:").unwrap_or(&letter.source);
            let list = self.lists.iter().position(|list| list.list_name() == name).unwrap_or(0);
            let form = DeadLetter::of(letter.ts, &letter.source, &letter.id, &letter.reason, &letter.item);
            sorted.entry(list).or_default().push(form);
        }
        sorted
    }
}
