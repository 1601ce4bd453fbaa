//! What nodes remember of the rules of rooms, for a server that knows less: a replica that took over too early, or a Redis
//! that came back empty. A part of the repair of partition 0: while nobody writes, each node that knows a later change than
//! the server puts down all rules that it knows; before writing begins, those as of the latest change take the place of the
//! server's. So a ban that was acknowledged outlives a failover. Called by the task of partition 0.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::rules::{FRESH, Kept};
use crate::engines::shared::NodeSlot;

/// Bytes of rules in one call, those of one room more.
const CALL_BYTES: usize = 512 << 10;
/// What was put down for a repair that never ended goes after so many seconds.
const STAGED_KEPT_S: u64 = 600;

/// The repair that is going on.
#[derive(Debug, Clone, Copy)]
pub struct Repair<'a> {
    /// Its key.
    pub key: &'a str,
    /// Names the server process.
    pub run_id: &'a str,
}

/// Puts down all rules that this node knows as of a change. Nothing happens where a later one is known.
pub async fn stage(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    repair: Repair<'_>,
    node: NodeSlot,
    number: u64,
    rules: &[Kept],
) -> RedisResult<()> {
    let (mut rest, mut is_first) = (rules, true);
    loop {
        let mut call = STAGE.key(repair.key);
        call.key(keys.pulse()).key(format!("{}{node}", keys.rules_staged()));
        call.arg(repair.run_id).arg(number).arg(node).arg(u8::from(is_first)).arg(STAGED_KEPT_S);
        let mut bytes = 0;
        let some = rest.iter().take_while(|(room, text)| {
            let has_place = bytes < CALL_BYTES;
            bytes += room.len() + text.len();
            has_place
        });
        let (now, later) = rest.split_at(some.count());
        call.arg(u8::from(later.is_empty()));
        for (room, text) in now {
            call.arg(room).arg(text);
        }
        let is_wanted: bool = call.invoke_async(redis).await?;
        if !is_wanted || later.is_empty() {
            return Ok(());
        }
        (rest, is_first) = (later, false);
    }
}

/// What was put down takes the place of what the server knows, if that is less. If there is an archive it is asked before
/// anything changes, for the nodes that live may lack what one that died had brought there.
pub async fn apply(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    repair: Repair<'_>,
    has_archive: bool,
) -> RedisResult<()> {
    let mut call = APPLY.key(repair.key);
    call.key(keys.pulse()).key(keys.rules()).key(keys.rules_due());
    call.arg(repair.run_id).arg(keys.rules_staged()).arg(u8::from(has_archive)).invoke_async(redis).await
}

/// KEYS 1 repair, 2 pulse, 3 what this node puts down. ARGV 1 run id of the server, 2 number of the change, 3 node, 4 whether
/// this is the first call, 5 seconds that it stays, 6 whether it is the last call, then rooms and their rules. Returns whether
/// it is wanted.
static STAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local number = tonumber(ARGV[2])
if redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then return 0 end
if tonumber(redis.call('HGET', KEYS[2], 'rules') or 0) >= number then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'rules') or 0) >= number then return 0 end
if ARGV[4] == '1' then redis.call('DEL', KEYS[3]) end
for a = 7, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[a], ARGV[a + 1]) end
redis.call('EXPIRE', KEYS[3], ARGV[5])
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'rules', ARGV[2], 'rules of', ARGV[3]) end
return 1",
    )
});

/// KEYS 1 repair, 2 pulse, 3 rules, 4 rules that are due. ARGV 1 run id of the server, 2 start of the names of what was put
/// down, 3 whether there is an archive.
static APPLY: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then return end
if ARGV[3] == '1' and redis.call('HDEL', KEYS[2], 'whole') == 1 then
  redis.call('HSET', KEYS[2], 'upto', redis.call('HGET', KEYS[2], 'rules') or 0)
end
local known, node = redis.call('HGET', KEYS[1], 'rules'), redis.call('HGET', KEYS[1], 'rules of')
if not known or tonumber(redis.call('HGET', KEYS[2], 'rules') or 0) >= tonumber(known) then return end
local number, due = fresh(known), {}
for _, room in ipairs(redis.call('HKEYS', KEYS[3])) do due[#due + 1] = room end
redis.call('DEL', KEYS[3])
local staged = redis.call('HGETALL', ARGV[2] .. node)
for i = 1, #staged, 2 do
  redis.call('HSET', KEYS[3], staged[i], staged[i + 1])
  due[#due + 1] = staged[i]
end
redis.call('DEL', ARGV[2] .. node)
redis.call('HSET', KEYS[2], 'rules', number, 'upto', known)
if ARGV[3] == '1' then
  for _, room in ipairs(due) do redis.call('ZADD', KEYS[4], number, room) end
end";
    Script::new(&format!("{FRESH}{body}"))
});
