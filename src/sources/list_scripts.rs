//! The scripts that run inside Redis, each one atomic step of a list. Called by the list alone.
//! All but the first do nothing unless the node's lease has the value of the first argument; the second
//! one is the lease's span in milliseconds.

use redis::{FromRedisValue, RedisResult, ToRedisArgs};

use crate::redis_link::RedisConnection;

/// A script with its keys and arguments. It is sent whole each time: after a failover the new primary may
/// not know it, and a second attempt would cost more than the kilobyte.
pub struct Call {
    script: &'static str,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// Without keys and arguments yet.
    pub fn new(script: &'static str) -> Call {
        Call { script, keys: Vec::new(), args: Vec::new() }
    }

    /// Adds a key.
    pub fn key(&mut self, key: impl Into<String>) -> &mut Call {
        self.keys.push(key.into());
        self
    }

    /// Adds an argument, or several.
    pub fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Call {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// Runs it.
    pub async fn run<T: FromRedisValue>(self, redis: &mut RedisConnection) -> RedisResult<T> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(self.script).arg(self.keys.len()).arg(self.keys).arg(self.args);
        eval.query_async(redis).await
    }
}

/// The first lines of every script but `CLAIM`. `PEXPIRE` stands first for a second reason: a script that
/// has written once may go on when Redis is out of memory, and taking items is what frees it.
///
/// With `in turn` the second key is the turn and the third argument the name that it must have; empty: any.
macro_rules! guarded {
    (in turn $body:literal) => {
        concat!(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then
               return redis.error_reply('LOST the lease of this node is gone or taken')
             end
             if ARGV[3] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[3] then
               return redis.error_reply('LOST it is not the turn of this node')
             end
             redis.call('PEXPIRE', KEYS[1], ARGV[2])
            ",
            $body
        )
    };
    ($body:literal) => {
        concat!(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then
               return redis.error_reply('LOST the lease of this node is gone or taken')
             end
             redis.call('PEXPIRE', KEYS[1], ARGV[2])
            ",
            $body
        )
    };
}

/// Takes the lease. Keys: lease, register. Arguments: value that may be replaced, own value, span, node.
/// `DEL` stands before `SET` for the same reason as `PEXPIRE` elsewhere: it is allowed without memory.
pub const CLAIM: &str = "
    local held = redis.call('GET', KEYS[1])
    if (held or '') ~= ARGV[1] then return {held or '', redis.call('PTTL', KEYS[1])} end
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[4])
    return nil";

/// Renews the lease. Keys: lease, register. Further argument: node.
pub const RENEW: &str = guarded!(
    "
    redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[3])
    return true"
);

/// Comes to the turn. Keys: lease, turn, own working, own handed, list, then of the one whose turn it was
/// thought to be: lease, working and handed. Further arguments: node, that one's name (empty: nobody's), and
/// whether one whose lease is gone may be followed. Answers whose turn it is and how many entries came over.
///
/// What a node was handed has no ids yet and goes back to the list, as its oldest. Nothing is handed out where
/// nodes take turns; it can only be left from a time when they did not.
pub const TURN: &str = guarded!(
    "
    local me, holder, came = ARGV[3], redis.call('GET', KEYS[2]) or '', 0
    while redis.call('LMOVE', KEYS[4], KEYS[5], 'LEFT', 'RIGHT') do end
    if holder == me then return {me, 0} end
    if holder ~= '' then
      if holder ~= ARGV[4] or ARGV[5] ~= '1' or redis.call('EXISTS', KEYS[6]) == 1 then return {holder, 0} end
      local left = redis.call('HGETALL', KEYS[7])
      for i = 1, #left, 2 do
        redis.call('HSET', KEYS[3], left[i], left[i + 1])
        came = came + 1
      end
      if came > 0 then redis.call('DEL', KEYS[7]) end
      while redis.call('LMOVE', KEYS[8], KEYS[5], 'LEFT', 'RIGHT') do end
    end
    redis.call('SET', KEYS[2], me)
    return {me, came}"
);

/// Forgets what is settled and takes the oldest items. Keys: lease, turn, working, handed, list. Further
/// arguments: whose turn, most items, most bytes, start of the ids, first number, settled ids.
/// Items are copied first and cut off second: if the copy fails, nothing is gone. The right end of both
/// lists is the oldest.
pub const TAKE: &str = guarded!(in turn
    "
    local most, bytes_most, start, number = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
    if #ARGV > 7 then redis.call('HDEL', KEYS[3], unpack(ARGV, 8)) end
    local out, count, bytes = {}, 0, 0
    for k = 4, 5 do
      while count < most and bytes < bytes_most do
        local chunk = redis.call('LRANGE', KEYS[k], -math.min(16, most - count), -1)
        if #chunk == 0 then break end
        local pairs, taken = {}, 0
        for i = #chunk, 1, -1 do
          if bytes >= bytes_most then break end
          local id = start .. string.format('%012x', number + count)
          pairs[#pairs + 1] = id; pairs[#pairs + 1] = chunk[i]
          out[#out + 1] = id; out[#out + 1] = chunk[i]
          count = count + 1; taken = taken + 1; bytes = bytes + #chunk[i]
        end
        redis.call('HSET', KEYS[3], unpack(pairs))
        redis.call('LTRIM', KEYS[k], 0, -taken - 1)
      end
    end
    return out"
);

/// Reads entries. Keys: lease, working. Further arguments: ids.
pub const READ: &str = guarded!("return redis.call('HMGET', KEYS[2], unpack(ARGV, 3))");

/// Moves entries to the dead letters. Keys: lease, working, dead. Further arguments: how many to keep,
/// then id and letter in turn.
pub const BURY: &str = guarded!(
    "
    local keep = tonumber(ARGV[3])
    for i = 4, #ARGV, 2 do
      if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
        redis.call('LPUSH', KEYS[3], ARGV[i + 1])
        redis.call('HDEL', KEYS[2], ARGV[i])
      end
    end
    local over = redis.call('LLEN', KEYS[3]) - keep
    if over <= 0 then return 0 end
    redis.call('LTRIM', KEYS[3], 0, keep - 1)
    return over"
);

/// Takes over what another node left. Keys: own lease, turn, own working, then of the other lease, working and
/// handed, then the register. Further arguments: whose turn, start of the ids, first number, most items, node,
/// seconds after which the register forgets.
pub const ADOPT: &str = guarded!(in turn
    "
    local ids, start, number, most, node = {}, ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
    if redis.call('EXISTS', KEYS[4]) == 1 then return ids end
    local left = redis.call('HGETALL', KEYS[5])
    for i = 1, #left, 2 do
      redis.call('HSET', KEYS[3], left[i], left[i + 1])
      ids[#ids + 1] = left[i]
    end
    if #left > 0 then redis.call('DEL', KEYS[5]) end
    for n = 0, most - 1 do
      local item = redis.call('LINDEX', KEYS[6], -1)
      if not item then break end
      local id = start .. string.format('%012x', number + n)
      redis.call('HSET', KEYS[3], id, item)
      redis.call('RPOP', KEYS[6])
      ids[#ids + 1] = id
    end
    local seen = tonumber(redis.call('ZSCORE', KEYS[7], node) or 0)
    if redis.call('TIME')[1] - seen > tonumber(ARGV[8]) and redis.call('EXISTS', KEYS[6]) == 0 then
      redis.call('ZREM', KEYS[7], node)
    end
    return ids"
);

/// Gives back and goes. Keys: lease, handed, list, working, register, turn. Further argument: node.
/// With entries left the turn keeps the node's name, so that whoever follows takes them over first.
pub const LEAVE: &str = guarded!(
    "
    while redis.call('LMOVE', KEYS[2], KEYS[3], 'LEFT', 'RIGHT') do end
    if redis.call('EXISTS', KEYS[4]) == 0 then
      redis.call('ZREM', KEYS[5], ARGV[3])
      if redis.call('GET', KEYS[6]) == ARGV[3] then redis.call('DEL', KEYS[6]) end
    end
    redis.call('DEL', KEYS[1])
    return true"
);
