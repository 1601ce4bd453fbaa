//! Sees to it that a node with a database file of its own is alone at its Redis: a second one would give out the same
//! places in the same rooms to other people. Called by the wiring, before anything is taken from a queue.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::http::readiness::Readiness;
use crate::redis_link::{RedisConnection, RedisLink};
use crate::wiring::ServeError;

/// How long a claim stands after it was last renewed, in milliseconds.
const CLAIM_MS: u64 = 9_000;
/// Pause between two renewals.
const RENEW: Duration = Duration::from_secs(3);
/// Pause between two looks at the claim of another node.
const LOOK: Duration = Duration::from_millis(500);

/// KEYS 1: the claim. ARGV 1: this node, 2: how long it stands, in milliseconds. Returns nothing if the claim is this
/// node's now, else whose it is and for how many more milliseconds.
const CLAIM: &str = "local owner = redis.call('GET', KEYS[1]) \
    if owner and owner ~= ARGV[1] then return {owner, redis.call('PTTL', KEYS[1])} end \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return nil";

/// A claim to be alone.
pub struct Claim {
    link: RedisLink,
    key: String,
    node: String,
}

impl Claim {
    /// The claim of a node at a Redis. `prefix` is that of all keys.
    pub fn new(link: RedisLink, prefix: &str, node: &str) -> Claim {
        Claim { link, key: format!("{prefix}:alone"), node: node.to_owned() }
    }

    /// Claims to be alone, and goes on claiming. A claim of another node that is not renewed is waited out; if it is
    /// renewed, this node does not start. A Redis that is away is claimed when it comes.
    pub async fn hold(self, ready: &Readiness) -> Result<(), ServeError> {
        let mut left = u64::MAX;
        loop {
            match self.claim().await {
                Ok(None) => break,
                Ok(Some((owner, ms))) if ms > left => return Err(ServeError::Config(self.refusal(&owner))),
                Ok(Some((_, ms))) => left = ms,
                Err(error) => {
                    log::warn!("cannot see whether another node is at {}: {error}", self.link);
                    break;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        let complaint = Arc::new(Mutex::new(None));
        let shown = complaint.clone();
        let check = move || {
            let complaint = shown.lock().unwrap_or_else(PoisonError::into_inner);
            complaint.clone().map_or(Ok(()), Err::<(), String>)
        };
        ready.add("alone", Box::new(check));
        actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(RENEW).await;
                // Without Redis nobody takes anything from it, this node as little as another.
                let Ok(found) = self.claim().await else { continue };
                let refusal = found.map(|(owner, _)| self.refusal(&owner));
                if let Some(refusal) = &refusal {
                    log::error!("{refusal}");
                }
                *complaint.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
            }
        });
        Ok(())
    }

    async fn claim(&self) -> redis::RedisResult<Option<(String, u64)>> {
        let mut connection: RedisConnection = self.link.connect().await?;
        let mut eval = redis::cmd("EVAL");
        eval.arg(CLAIM).arg(1).arg(&self.key).arg(&self.node).arg(CLAIM_MS);
        eval.query_async(&mut connection).await
    }

    fn refusal(&self, owner: &str) -> String {
        format!(
            "store.url: node {} runs at {} with a database file of its own, and nodes cannot share one; for several \
             nodes use store.url = \"postgres://…\" or \"none\" on all of them, for nodes that share nothing \
             engine.kind = \"memory\"",
            owner.escape_debug(),
            self.link
        )
    }
}
