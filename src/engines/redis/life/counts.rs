//! How many sessions are in which room, as each node writes it down for its own rooms, and as anybody reads it
//! without asking the nodes, together with who is in a room. Reading walks through hashes by pages; it is for
//! operators, not for every message.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::lease::Lease;
use super::pages::{Pages, starting_with};
use super::wire;
use crate::chat::names::{RoomName, UserName};
use crate::chat::overview::{RoomCount, Shown};
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
    /// Whatever Redis has of this node may be wrong.
    anew: bool,
}

/// What is to be written in one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writing {
    /// Whether what was written before is forgotten.
    pub anew: bool,
    /// Rooms with their sessions; 0 removes one.
    pub rooms: Vec<(RoomName, u32)>,
}

impl Writing {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        !self.anew && self.rooms.is_empty()
    }
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

    /// All counts are to be written again: Redis or the lease is another one, and may have others.
    pub fn all_again(&mut self) {
        self.anew = true;
        self.changed.retain(|_, sessions| *sessions > 0);
        self.changed.extend(self.now.iter().map(|(room, sessions)| (room.clone(), *sessions)));
        self.not_before = None;
    }

    /// What is to be [written](write) now; empty when nothing has changed or it is too early.
    pub fn take(&mut self, now: Instant) -> Writing {
        let has_something = self.anew || !self.changed.is_empty();
        if !has_something || self.not_before.is_some_and(|at| now < at) {
            return Writing::default();
        }
        let rooms: Vec<RoomName> = self.changed.keys().take(ROOMS_PER_CALL).cloned().collect();
        // More than fit one call go on at once.
        self.not_before = (rooms.len() == self.changed.len()).then_some(now + PAUSE);
        let rooms = rooms.into_iter().filter_map(|room| self.changed.remove_entry(&room)).collect();
        Writing { anew: std::mem::take(&mut self.anew), rooms }
    }

    /// A call has failed: its counts are to be written again, unless there are newer ones.
    pub fn failed(&mut self, call: Writing) {
        self.anew |= call.anew;
        for (room, sessions) in call.rooms {
            self.changed.entry(room).or_insert(sessions);
        }
    }
}

/// Writes counts of this node. Fails with the code `LOST` as [`tell`](super::roster::tell) does.
pub async fn write(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    counts: &Writing,
) -> RedisResult<()> {
    let mut call = WRITE.key(keys.owners());
    call.key(keys.counts(own.slot)).arg(own.stamp).arg(own.slot).arg(u8::from(counts.anew));
    for (room, sessions) in &counts.rooms {
        call.arg(room.as_str()).arg(*sessions);
    }
    call.invoke_async(redis).await
}

/// The first `n` rooms of a partition by name that start with `prefix` and are meant, with their sessions on all
/// `live` slots. The partitions' lists are to be merged.
pub async fn rooms(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    live: &[NodeSlot],
    prefix: &str,
    is_meant: impl Fn(&str) -> bool,
    n: usize,
) -> RedisResult<Vec<RoomCount>> {
    // Memory stays bounded by `n` and a page. A room that drops out never comes in again with a part of its count:
    // whatever is added, the first `n` names only become smaller.
    let mut found: BTreeMap<RoomName, HashMap<NodeSlot, u64>> = BTreeMap::new();
    for slot in live {
        let mut pages = Pages::new(keys.counts(*slot), starting_with(prefix));
        while let Some(page) = pages.next(redis).await? {
            for (name, sessions) in page {
                if !is_meant(&name) {
                    continue;
                }
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
/// Who is on several nodes is shown as the one with the lowest slot shows her. Walks through the whole roster of the
/// room by pages.
pub async fn users(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    live: &[NodeSlot],
    room: &RoomName,
    after: Option<&str>,
    n: usize,
) -> RedisResult<Vec<Shown>> {
    let mut found: BTreeMap<UserName, (NodeSlot, Vec<u8>)> = BTreeMap::new();
    let mut pages = Pages::new(keys.roster(room), "*".to_owned());
    while let Some(page) = pages.next::<Vec<u8>>(redis).await? {
        for (field, info) in page {
            let Some((slot, user)) = field.split_once(':') else { continue };
            let Some(slot) = slot.parse().ok().filter(|slot| live.contains(slot)) else { continue };
            if after.is_some_and(|after| user <= after) {
                continue;
            }
            let Ok(user) = UserName::new(user) else { continue };
            let shown = found.entry(user).or_insert_with(|| (slot, info.clone()));
            if slot < shown.0 {
                *shown = (slot, info);
            }
        }
        while found.len() > n {
            found.pop_last();
        }
    }
    let shown = |(user, (_, info)): (UserName, (_, Vec<u8>))| Shown {
        user,
        // Only nodes write here, and they write what they have checked.
        info: wire::info(&info).unwrap_or_default(),
    };
    Ok(found.into_iter().map(shown).collect())
}

/// KEYS 1 owners, 2 counts. ARGV 1 stamp, 2 slot, 3 whether all is written anew, then room and sessions in turn.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[1] then
  return redis.error_reply('LOST the lease of this node is gone or taken')
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
for i = 4, #ARGV, 2 do
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
        let sorted = |writing: Writing| BTreeMap::from_iter(writing.rooms);
        assert!(counts.take(start).is_empty());
        counts.set(&lobby, 1);
        counts.set(&lobby, 2);
        assert_eq!(counts.take(start), Writing { anew: false, rooms: vec![(lobby.clone(), 2)] });
        counts.set(&lobby, 2);
        assert!(counts.take(start + PAUSE).is_empty(), "nothing has changed");
        counts.set(&hall, 1);
        counts.set(&lobby, 0);
        assert!(counts.take(start).is_empty(), "too early");
        let call = counts.take(start + PAUSE);
        assert_eq!(sorted(call.clone()), BTreeMap::from([(hall.clone(), 1), (lobby.clone(), 0)]));
        counts.set(&lobby, 3);
        counts.failed(call);
        let again = sorted(counts.take(start + PAUSE * 2));
        assert_eq!(again, BTreeMap::from([(hall.clone(), 1), (lobby.clone(), 3)]));
        counts.set(&hall, 0);
        counts.all_again();
        let anew = counts.take(start);
        assert!(anew.anew, "what stands in Redis may be older than the last write");
        assert_eq!(sorted(anew.clone()), BTreeMap::from([(lobby.clone(), 3)]));
        counts.failed(anew);
        assert!(counts.take(start + PAUSE).anew);
    }
}
