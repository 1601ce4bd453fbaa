//! Who takes part: each node holds a slot, a small number, for as long as it looks after its lease. Called by the
//! task of partition 0 alone. Time is Redis's own; no clock of a node counts. Knows no room.
//!
//! A slot is taken (`T <stamp> <end>`), then gone (`G <stamp>`: its holder is missed or has given it back, and
//! what stands under it is being removed), then free (`F <stamp>`). A slot that Redis knows nothing of was forgotten
//! by it, in a failover or with all else; its holder takes it again at the next tick. That is why free slots are
//! written down.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::wire;
use crate::engines::shared::NodeSlot;

/// How long leases hold.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// From one tick to the end of the lease if no other follows, in milliseconds. Ticks come three times as
    /// often.
    pub span_ms: u64,
    /// How long after that it is still forgiven: its users may show up elsewhere meanwhile, and are never missed.
    pub grace_ms: u64,
}

impl Default for Terms {
    /// 3 s and 2 s: with ticks each second a dead node is gone 4 to 6 s after its death.
    fn default() -> Terms {
        Terms { span_ms: 3_000, grace_ms: 2_000 }
    }
}

/// A slot that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Which.
    pub slot: NodeSlot,
    /// When it was taken, in microseconds by Redis. No other lease has the same, and a later one has a greater.
    pub stamp: u64,
}

/// A slot as Redis lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// With its holder, or the last one.
    pub lease: Lease,
    /// What became of the lease.
    pub state: State,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is held.
    Held,
    /// The holder is gone, and what stands under the slot is to be removed.
    Gone,
    /// That was done.
    Free,
}

/// What a tick tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Whether the lease is still held. If not, nothing may be written under it any more: take another one,
    /// enter the partitions with it and join the rooms again.
    pub held: bool,
    /// Number of the newest command; see `commands.rs`.
    pub commands: u64,
    /// All slots that Redis knows, this node's own included.
    pub peers: Vec<Peer>,
}

/// Takes the slot that is wished for if it is free, else the smallest free one. Then
/// [`enter`](super::reaping::enter) every partition, before anything else.
pub async fn take(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    wish: Option<NodeSlot>,
    terms: Terms,
) -> RedisResult<Lease> {
    let mut call = TAKE.key(keys.slots());
    call.key(keys.pulse()).arg(terms.span_ms).arg(wish.unwrap_or(1));
    let (slot, stamp) = call.invoke_async(redis).await?;
    Ok(Lease { slot, stamp })
}

/// Looks after all leases: renews the own one, ends those whose holders are missed, lists what there is. To be
/// called three times per span. What is done under the lease is safe until a span after the moment at which the
/// last successful tick was begun; a node that is later than that asks again before it writes.
pub async fn tick(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    terms: Terms,
) -> RedisResult<Tick> {
    let mut call = TICK.key(keys.slots());
    call.key(keys.pulse()).arg(own.slot).arg(own.stamp).arg(terms.span_ms).arg(terms.grace_ms);
    let (held, commands, list): (bool, u64, Vec<(NodeSlot, u64, String)>) = call.invoke_async(redis).await?;
    let peer = |(slot, stamp, state): (_, _, String)| {
        let state = match state.as_str() {
            "T" => State::Held,
            "G" => State::Gone,
            _ => State::Free,
        };
        Peer { lease: Lease { slot, stamp }, state }
    };
    Ok(Tick { held, commands, peers: list.into_iter().map(peer).collect() })
}

/// Gives the own lease back: all others hear at once that the node is gone. What stands under the slot is removed
/// by another node, or by this one with [`step`](super::reaping::step) and [`free`].
pub async fn give_back(redis: &mut impl ConnectionLike, keys: &Keys, own: Lease) -> RedisResult<()> {
    let mut call = GIVE_BACK.key(keys.slots());
    call.arg(own.slot).arg(own.stamp).arg(keys.publish()).arg(keys.inboxes());
    call.arg(wire::left(own.slot, own.stamp)).invoke_async(redis).await
}

/// Lets the slot of a gone node be taken again. Only after it was removed from all partitions. Returns whether
/// it was so; not if somebody else has done it before.
pub async fn free(redis: &mut impl ConnectionLike, keys: &Keys, gone: Lease) -> RedisResult<bool> {
    FREE.key(keys.slots()).arg(gone.slot).arg(gone.stamp).invoke_async(redis).await
}

/// KEYS 1 slots, 2 pulse. ARGV 1 span in ms, 2 slot that is wished for. Returns slot and stamp.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- a clock that was set back must not make two leases alike
local stamp = math.max(time[1] * 1000000 + time[2], (redis.call('HGET', KEYS[2], 'stamp') or 0) + 1)
stamp = string.format('%.0f', stamp)
redis.call('HSET', KEYS[2], 'stamp', stamp)
local function is_free(slot) return string.sub(redis.call('HGET', KEYS[1], slot) or 'F', 1, 1) == 'F' end
local slot = tonumber(ARGV[2])
if not is_free(slot) then
  slot = 1
  while not is_free(slot) do slot = slot + 1 end
end
redis.call('HSET', KEYS[1], slot, string.format('T %s %.0f', stamp, now + ARGV[1]))
return {slot, stamp}",
    )
});

/// KEYS 1 slots, 2 pulse. ARGV 1 own slot, 2 own stamp, 3 span in ms, 4 grace in ms. Returns whether the own lease
/// is held, the number of the newest command, and slot, stamp, state (T, G, F) of each slot.
static TICK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local span, grace = tonumber(ARGV[3]), tonumber(ARGV[4])
local function taken(stamp) return string.format('T %s %.0f', stamp, now + span) end
-- Nobody has come for a long time: Redis was away, or has another clock now. Nobody could renew, so nobody is
-- late. Not twice in a row, or a single slow node would keep the dead alive.
local last = tonumber(redis.call('HGET', KEYS[2], 'tick') or 0)
local paused = now - last > span * 2 / 3 or last > now
if redis.call('HGET', KEYS[2], 'paused') == '1' and last <= now then
  redis.call('HSET', KEYS[2], 'paused', 0)
  paused = false
elseif paused then
  redis.call('HSET', KEYS[2], 'paused', 1)
end
redis.call('HSET', KEYS[2], 'tick', string.format('%.0f', now))
local own = redis.call('HGET', KEYS[1], ARGV[1])
local held = not own or string.match(own, '^T (%d+) ') == ARGV[2]
if held then redis.call('HSET', KEYS[1], ARGV[1], taken(ARGV[2])) end
local list, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local state, stamp, till = string.match(all[i + 1], '^(%u) (%d+) ?(%d*)$')
  if state == 'T' and (paused or tonumber(till) > now + span) then
    redis.call('HSET', KEYS[1], all[i], taken(stamp))
  elseif state == 'T' and now >= till + grace then
    redis.call('HSET', KEYS[1], all[i], 'G ' .. stamp)
    state = 'G'
  end
  list[#list + 1] = {all[i], stamp, state}
end
return {held and 1 or 0, tonumber(redis.call('HGET', KEYS[2], 'command') or 0), list}",
    )
});

/// KEYS 1 slots. ARGV 1 own slot, 2 own stamp, 3 PUBLISH or SPUBLISH, 4 start of the inboxes' names, 5 the frame.
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local own = redis.call('HGET', KEYS[1], ARGV[1])
if own and string.match(own, '^T (%d+) ') ~= ARGV[2] then return end
redis.call('HSET', KEYS[1], ARGV[1], 'G ' .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i + 1], 1, 1) == 'T' then redis.call(ARGV[3], ARGV[4] .. all[i], ARGV[5]) end
end",
    )
});

/// KEYS 1 slots. ARGV 1 slot, 2 stamp. Returns whether it was gone and is free now.
static FREE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
if redis.call('HGET', KEYS[1], ARGV[1]) ~= 'G ' .. ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'F ' .. ARGV[2])
return 1",
    )
});
