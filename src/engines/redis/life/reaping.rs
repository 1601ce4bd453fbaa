//! Removing what stands under a slot whose holder is gone, and making sure that a new holder finds nothing.
//! [`step`] and [`enter`] are called by the task of each partition; [`Reaping`] plans the steps over all
//! partitions and knows no connection. Everything may be done twice, by two nodes or after a crash in between.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::lease::Lease;
use super::pages::Pages;
use super::roster::{NAMED_AGAIN_BELOW, RECORDS};
use super::wire;
use crate::chat::names::RoomName;

/// Rooms of one step.
const ROOMS_PER_STEP: usize = 100;
/// Rosters up to this size are looked through within a step, larger ones by pages.
const FIELDS_AT_ONCE: usize = 2_000;
/// Entries of rosters after which a step ends early.
const FIELDS_PER_STEP: usize = 4_000;

/// Makes the own lease the only one that writes under its slot in a partition. To be called before the first
/// join of a lease, and again after every new connection. What an earlier holder left is removed first. Fails
/// with the code `LOST` if somebody holds the slot since later: the own lease is lost.
pub async fn enter(redis: &mut impl ConnectionLike, keys: &Keys, own: Lease) -> RedisResult<()> {
    loop {
        let mut call = ENTER.key(keys.owners());
        call.key(keys.rooms_of(own.slot)).arg(own.stamp).arg(own.slot);
        let left: Option<u64> = call.invoke_async(redis).await?;
        let Some(stamp) = left else { return Ok(()) };
        // No pause between the steps: this node can do nothing before it is in.
        while !step(redis, keys, own, Lease { slot: own.slot, stamp }).await? {}
    }
}

/// Removes a gone node from up to a hundred of its rooms in a partition: from the interest and the roster of
/// each. Returns whether nothing is left. Does nothing when the slot has another holder by now. The others are
/// told in large rooms only; everywhere else they know already that the node is gone, and with it its people.
pub async fn step(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    gone: Lease,
) -> RedisResult<bool> {
    let rooms: Vec<String> = redis::cmd("SRANDMEMBER")
        .arg(keys.rooms_of(gone.slot))
        .arg(ROOMS_PER_STEP)
        .query_async(redis)
        .await?;
    let large: Vec<usize> = remove(redis, keys, own, gone, &rooms, FIELDS_AT_ONCE as i64).await?;
    let done = large.first() == Some(&0);
    for at in large.into_iter().filter(|at| *at > 0) {
        let room = &rooms[at - 1];
        clear_roster(redis, keys, gone, room).await?;
        remove(redis, keys, own, gone, std::slice::from_ref(room), -1).await?;
    }
    Ok(done)
}

/// Returns the places, from 1 on, of the rooms that are too large; or 0 alone when nothing is left.
async fn remove(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    gone: Lease,
    rooms: &[String],
    at_once: i64,
) -> RedisResult<Vec<usize>> {
    let mut call = REMOVE.key(keys.owners());
    call.key(keys.rooms_of(gone.slot)).key(keys.counts(gone.slot));
    call.arg(gone.stamp).arg(gone.slot).arg(keys.publish()).arg(keys.inboxes());
    call.arg(wire::head(own.slot, own.stamp)).arg(NAMED_AGAIN_BELOW).arg(at_once);
    call.arg(FIELDS_PER_STEP);
    for name in rooms {
        // The names come from sets that only nodes write; one that is none has no keys to remove.
        let Ok(room) = RoomName::new(name) else {
            redis::cmd("SREM").arg(keys.rooms_of(gone.slot)).arg(name).query_async::<()>(redis).await?;
            return Ok(Vec::new());
        };
        call.key(keys.roster(&room)).key(keys.numbers(&room)).key(keys.meta(&room)).arg(name);
    }
    call.invoke_async(redis).await
}

async fn clear_roster(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    gone: Lease,
    room: &str,
) -> RedisResult<()> {
    let Ok(room) = RoomName::new(room) else { return Ok(()) };
    let roster = keys.roster(&room);
    let mut pages = Pages::new(roster.clone(), format!("{}:*", gone.slot));
    while let Some(page) = pages.next::<redis::Value>(redis).await? {
        if page.is_empty() {
            continue;
        }
        let mut call = DROP.key(keys.owners());
        call.key(&roster).arg(gone.stamp).arg(gone.slot);
        for (field, _) in page {
            call.arg(field);
        }
        call.invoke_async::<()>(redis).await?;
    }
    Ok(())
}

/// The stamp of the lease that holds a slot here, or held it last; 0 for none. One that is gone has an `F` before
/// it, so that a node that does not know yet that it is gone cannot come in again.
const STAMP: &str = "
local function stamp(owner) return tonumber(string.match(owner or '0', '%d+')) end";

/// KEYS 1 owners, 2 rooms of the slot. ARGV 1 own stamp, 2 slot. Returns nil when the slot is the caller's in this
/// partition; else the stamp of whose remains are to be removed first.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local owner = redis.call('HGET', KEYS[1], ARGV[2])
if owner == ARGV[1] then return false end
if stamp(owner) >= tonumber(ARGV[1]) then
  return redis.error_reply('LOST the lease of this node is gone or taken')
end
local clean = not owner or string.sub(owner, 1, 1) == 'F'
if not clean or redis.call('EXISTS', KEYS[2]) == 1 then return string.format('%.0f', stamp(owner)) end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[1])
return false";
    Script::new(&format!("{STAMP}{body}"))
});

/// KEYS 1 owners, 2 rooms of the slot, 3 counts of the slot, then for each room roster, numbers, meta. ARGV 1
/// stamp of who is gone, 2 slot, 3 PUBLISH or SPUBLISH, 4 start of the inboxes' names, 5 head of news, 6 a large
/// room is named again below, 7 largest roster to look through (-1: none needs it), 8 entries after which to stop, then the rooms. Returns
/// the places of the rooms whose rosters are larger; or 0 alone when nothing is left.
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if stamp(redis.call('HGET', KEYS[1], ARGV[2])) > tonumber(ARGV[1]) then return {0} end
local slot, at_once, fields, large = ARGV[2], tonumber(ARGV[7]), 0, {}
local mine = slot .. ':'
for k = 4, #KEYS, 3 do
  local room, roster, numbers, meta = ARGV[9 + (k - 4) / 3], KEYS[k], KEYS[k + 1], KEYS[k + 2]
  if fields >= tonumber(ARGV[8]) then break end
  if at_once >= 0 and redis.call('HLEN', roster) > at_once then
    large[#large + 1] = (k - 4) / 3 + 1
  else
    if at_once >= 0 then
      local all = redis.call('HKEYS', roster)
      fields = fields + #all
      for _, field in ipairs(all) do
        if string.sub(field, 1, #mine) == mine then redis.call('HDEL', roster, field) end
      end
    end
    local others, was = {}, redis.call('HGET', meta, 'i') or ''
    for n in string.gmatch(was, '%d+') do
      if n ~= slot then others[#others + 1] = n end
    end
    local now = table.concat(others, ',')
    if now == '' then redis.call('HDEL', meta, 'i')
    elseif now ~= was then redis.call('HSET', meta, 'i', now) end
    if redis.call('HDEL', numbers, slot) == 1 then
      local news = record(6, room, struct.pack('>I4I4', tonumber(slot), 0))
      if redis.call('HLEN', roster) <= tonumber(ARGV[6]) then
        redis.call('DEL', numbers)
        news = record(7, room, '')
      end
      for _, n in ipairs(others) do redis.call(ARGV[3], ARGV[4] .. n, frame(ARGV[5] .. news)) end
    end
    redis.call('SREM', KEYS[2], room)
  end
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[1], slot, 'F' .. ARGV[1])
  return {0}
end
return large";
    Script::new(&format!("{STAMP}{RECORDS}{body}"))
});

/// KEYS 1 owners, 2 roster. ARGV 1 stamp of who is gone, 2 slot, then fields to remove.
static DROP: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if stamp(redis.call('HGET', KEYS[1], ARGV[2])) > tonumber(ARGV[1]) then return end
for i = 3, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end";
    Script::new(&format!("{STAMP}{body}"))
});

/// The plan of a node that has the duty to remove others: which partition is due for which gone node, so many
/// steps a second in each.
#[derive(Debug)]
pub struct Reaping {
    partitions: u32,
    pause: Duration,
    work: Vec<Work>,
    not_before: Vec<Option<Instant>>,
}

#[derive(Debug)]
struct Work {
    gone: Lease,
    open: BTreeSet<u32>,
}

impl Reaping {
    /// Nothing to do yet. `pause`: between two steps in a partition.
    pub fn new(partitions: u32, pause: Duration) -> Reaping {
        Reaping { partitions, pause, work: Vec::new(), not_before: vec![None; partitions as usize] }
    }

    /// Who is to be removed; see [`Nodes::duty`](super::nodes::Nodes::duty). What was begun goes on, what is not
    /// this node's duty any more stops.
    pub fn duty(&mut self, gone: &[Lease]) {
        self.work.retain(|work| gone.contains(&work.gone));
        for lease in gone {
            if !self.work.iter().any(|work| work.gone == *lease) {
                self.work.push(Work { gone: *lease, open: (0..self.partitions).collect() });
            }
        }
    }

    /// Who is to be removed from a partition by a step now. [`Reaping::stepped`] must follow.
    pub fn next(&self, partition: u32, now: Instant) -> Option<Lease> {
        if self.not_before[partition as usize].is_some_and(|at| now < at) {
            return None;
        }
        self.work.iter().find(|work| work.open.contains(&partition)).map(|work| work.gone)
    }

    /// A step was made; `done`: nothing was left. A step that failed was made without being done.
    pub fn stepped(&mut self, partition: u32, gone: Lease, done: bool, now: Instant) {
        self.not_before[partition as usize] = Some(now + self.pause);
        if done && let Some(work) = self.work.iter_mut().find(|work| work.gone == gone) {
            work.open.remove(&partition);
        }
    }

    /// Who was removed everywhere and is to be [freed](super::lease::free). Named again until the duty ends, so
    /// that a call that fails is repeated.
    pub fn removed(&self) -> impl Iterator<Item = Lease> {
        self.work.iter().filter(|work| work.open.is_empty()).map(|work| work.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_paced_and_end_when_every_partition_is_done() {
        let (a, b) = (Lease { slot: 2, stamp: 20 }, Lease { slot: 3, stamp: 30 });
        let (start, pause) = (Instant::now(), Duration::from_millis(50));
        let mut plan = Reaping::new(2, pause);
        assert_eq!(plan.next(0, start), None);
        plan.duty(&[a, b]);
        assert_eq!(plan.next(0, start), Some(a));
        plan.stepped(0, a, false, start);
        assert_eq!(plan.next(0, start + pause / 2), None);
        assert_eq!(plan.next(1, start), Some(a), "partitions do not wait for each other");
        plan.stepped(1, a, true, start);
        plan.stepped(0, a, true, start + pause);
        assert_eq!(plan.removed().collect::<Vec<_>>(), [a]);
        assert_eq!(plan.next(0, start + pause * 2), Some(b));
        plan.duty(&[b]);
        assert_eq!(plan.removed().count(), 0, "it was freed");
        plan.duty(&[]);
        assert_eq!(plan.next(1, start + pause * 9), None, "another node has the duty");
    }
}
