//! A key in Redis that one process holds at a time, for sources of which only one node may take. Used by the
//! sources on Redis. Unlike the lease of a list it guards nothing by itself: what it is for does.

use std::time::Duration;

use redis::RedisResult;

use crate::redis_link::RedisConnection;

/// How long it is held without being renewed.
const LEASE: Duration = Duration::from_secs(3);
/// How often it has to be renewed.
pub const RENEW: Duration = Duration::from_secs(1);
/// How often another node asks for it.
pub const LOOK: Duration = Duration::from_millis(250);

const HOLD: &str = "
    local held = redis.call('GET', KEYS[1])
    if held and held ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1";

const RENEW_IT: &str = "
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

const LET_GO: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
    return 0";

/// The wish of this process to hold a key.
#[derive(Debug)]
pub struct RedisTurn {
    key: String,
    node: String,
    token: String,
}

impl RedisTurn {
    /// Of this key, for the node of this name.
    pub fn new(key: String, node: &str) -> RedisTurn {
        RedisTurn { key, node: node.to_owned(), token: String::new() }
    }

    /// From now on it is wished for under a new token: commands under the old one fail.
    pub fn begin(&mut self) {
        self.token = format!("{}#{:016x}", self.node, rand::random::<u64>());
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its value while this process holds it: the node's name, `#`, and what tells one session from the next.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// For how long it is held, in milliseconds.
    pub fn lease_ms() -> u64 {
        LEASE.as_millis() as u64
    }

    /// Takes it; `false`: it is another's.
    pub async fn hold(&self, redis: &mut RedisConnection) -> RedisResult<bool> {
        self.run(HOLD, redis).await
    }

    /// Holds it for longer; `false`: it is not held any more, and another one may have had it meanwhile.
    pub async fn renew(&self, redis: &mut RedisConnection) -> RedisResult<bool> {
        self.run(RENEW_IT, redis).await
    }

    async fn run(&self, script: &str, redis: &mut RedisConnection) -> RedisResult<bool> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(&self.key).arg(&self.token).arg(RedisTurn::lease_ms());
        eval.query_async(redis).await
    }

    /// Lets it go, if it is held.
    pub async fn let_go(&self, redis: &mut RedisConnection) -> RedisResult<()> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(LET_GO).arg(1).arg(&self.key).arg(&self.token).query_async(redis).await
    }
}
