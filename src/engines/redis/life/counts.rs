//! How many sessions are in which room, as each node writes it down for its own rooms, and as anybody reads it
//! without asking the nodes. Reading walks through hashes by pages; it is for operators, not for every message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::lease::Lease;
use super::pages::{Pages, starting_with};
use crate::chat::names::{RoomName, UserName};
use crate::engines::shared::NodeSlot;

/// Counts are written so often at the most.
const PAUSE: Duration = Duration::from_millis(250);
/// Most rooms of one call.
const ROOMS_PER_CALL: usize = 1_000;

/// The counts of this node that Redis does not know yet. One per partition; knows no connection.
#[derive(Debug, Default)]
pub struct Counts {
    now: HashMap<RoomName, u32>,
    changed: HashMap<RoomName, u32>,
    not_before: Option<Instant>,
}

impl Counts {
    /// So many sessions are in a room on this node now.
    pub fn set(&mut self, room: &RoomName, sessions: u32) {
        let before = match sessions {
            0 => self.now.remove(room),
            _ => self.now.insert(room.clone(), sessions),
        };
        if before.unwrap_or(0) != sessions {
            self.changed.insert(room.clone(), sessions);
        }
    }

    /// All counts are to be written again: Redis or the lease is another one.
    pub fn all_again(&mut self) {
        self.changed.extend(self.now.iter().map(|(room, sessions)| (room.clone(), *sessions)));
        self.not_before = None;
    }

    /// What is to be [written](write) now; empty when nothing has changed or it is too early.
    pub fn take(&mut self, now: Instant) -> Vec<(RoomName, u32)> {
        if self.changed.is_empty() || self.not_before.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let rooms: Vec<RoomName> = self.changed.keys().take(ROOMS_PER_CALL).cloned().collect();
        // More than fit one call go on at once.
        self.not_before = (rooms.len() == self.changed.len()).then_some(now + PAUSE);
        rooms.into_iter().filter_map(|room| self.changed.remove_entry(&room)).collect()
    }

    /// When [`Counts::take`] has something; none: when something changes.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        (!self.changed.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    /// A call has failed: its counts are to be written again, unless there are newer ones.
    pub fn failed(&mut self, call: Vec<(RoomName, u32)>) {
        for (room, sessions) in call {
            self.changed.entry(room).or_insert(sessions);
        }
    }
}

/// A room that somebody is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomCount {
    /// Which.
    pub room: RoomName,
    /// Sessions on all nodes.
    pub sessions: u64,
}

/// Writes counts of this node; 0 removes. Fails with the code `LOST` as [`tell`](super::roster::tell) does.
pub async fn write(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    counts: &[(RoomName, u32)],
) -> RedisResult<()> {
    let mut call = WRITE.key(keys.owners());
    call.key(keys.counts(own.slot)).arg(own.stamp).arg(own.slot);
    for (room, sessions) in counts {
        call.arg(room.as_str()).arg(*sessions);
    }
    call.invoke_async(redis).await
}

/// The first `n` rooms of a partition by name whose names start with `prefix`, with their sessions on all `live`
/// slots. The partitions' lists are to be merged.
pub async fn rooms(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    live: &[NodeSlot],
    prefix: &str,
    n: usize,
) -> RedisResult<Vec<RoomCount>> {
    // Memory stays bounded by `n` and a page. A room that drops out never comes in again with a part of its count:
    // whatever is added, the first `n` names only become smaller.
    let mut found: BTreeMap<RoomName, HashMap<NodeSlot, u64>> = BTreeMap::new();
    for slot in live {
        let mut pages = Pages::new(keys.counts(*slot), starting_with(prefix));
        while let Some(page) = pages.next(redis).await? {
            for (name, sessions) in page {
                // Only nodes write here, and they write names only.
                let Ok(room) = RoomName::new(&name) else { continue };
                found.entry(room).or_default().insert(*slot, sessions);
            }
            while found.len() > n {
                found.pop_last();
            }
        }
    }
    let count = |(room, slots): (RoomName, HashMap<NodeSlot, u64>)| RoomCount {
        room,
        sessions: slots.values().sum(),
    };
    Ok(found.into_iter().map(count).collect())
}

/// How many sessions and users are in a room, on all `live` slots. Users are counted once, in a large room once
/// for each node.
pub async fn room(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    live: &[NodeSlot],
    room: &RoomName,
) -> RedisResult<(u64, u64)> {
    let mut call = COUNT.key(keys.roster(room));
    call.key(keys.numbers(room));
    for slot in live {
        call.key(keys.counts(*slot));
    }
    call.arg(room.as_str()).arg(live).invoke_async(redis).await
}

/// The users in a room on all `live` slots, each once, in order of their names: up to `n` of those after `after`.
/// Walks through the whole roster of the room by pages.
pub async fn users(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    live: &[NodeSlot],
    room: &RoomName,
    after: Option<&str>,
    n: usize,
) -> RedisResult<Vec<UserName>> {
    let mut found = BTreeSet::new();
    let mut pages = Pages::new(keys.roster(room), "*".to_owned());
    while let Some(page) = pages.next::<redis::Value>(redis).await? {
        for (field, _) in page {
            let Some((slot, user)) = field.split_once(':') else { continue };
            let alive = slot.parse().is_ok_and(|slot| live.contains(&slot));
            if !alive || after.is_some_and(|after| user <= after) {
                continue;
            }
            found.extend(UserName::new(user));
        }
        while found.len() > n {
            found.pop_last();
        }
    }
    Ok(found.into_iter().collect())
}

/// KEYS 1 owners, 2 counts. ARGV 1 stamp, 2 slot, then room and sessions in turn.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[1] then
  return redis.error_reply('LOST the lease of this node is gone or taken')
end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '0' then redis.call('HDEL', KEYS[2], ARGV[i])
  else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end",
    )
});

/// KEYS 1 roster, 2 numbers, then the counts of each live slot. ARGV 1 room, then the live slots. Returns sessions
/// and users.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local sessions, users, live = 0, 0, {}
for k = 3, #KEYS do
  sessions = sessions + (tonumber(redis.call('HGET', KEYS[k], ARGV[1])) or 0)
end
for i = 2, #ARGV do live[ARGV[i]] = true end
local numbers = redis.call('HGETALL', KEYS[2])
for i = 1, #numbers, 2 do
  if live[numbers[i]] then users = users + tonumber(numbers[i + 1]) end
end
if #numbers == 0 then
  local seen = {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local slot, user = string.match(field, '^(%d+):(.*)$')
    if live[slot] and not seen[user] then seen[user] = true; users = users + 1 end
  end
end
return {sessions, users}",
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_when_they_have_changed_and_not_too_often() {
        let (mut counts, start) = (Counts::default(), Instant::now());
        let (lobby, hall) = (RoomName::new("lobby").unwrap(), RoomName::new("hall").unwrap());
        assert_eq!((counts.take(start), counts.due(start)), (vec![], None));
        counts.set(&lobby, 1);
        counts.set(&lobby, 2);
        assert_eq!(counts.take(start), [(lobby.clone(), 2)]);
        counts.set(&lobby, 2);
        assert_eq!(counts.due(start), None, "nothing has changed");
        counts.set(&hall, 1);
        counts.set(&lobby, 0);
        assert_eq!((counts.take(start), counts.due(start)), (vec![], Some(start + PAUSE)));
        let call = counts.take(start + PAUSE);
        assert_eq!(
            BTreeMap::from_iter(call.clone()),
            BTreeMap::from([(hall.clone(), 1), (lobby.clone(), 0)])
        );
        counts.set(&lobby, 3);
        counts.failed(call);
        let again = BTreeMap::from_iter(counts.take(start + PAUSE * 2));
        assert_eq!(again, BTreeMap::from([(hall.clone(), 1), (lobby.clone(), 3)]));
        counts.all_again();
        assert_eq!(BTreeMap::from_iter(counts.take(start)), again);
    }
}
