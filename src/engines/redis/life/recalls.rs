//! Read marks and the rooms of users as they are read, and how they come back from an archive: Redis may have come back
//! empty, or has forgotten what nobody has touched for long. Whether all there is stands in Redis it says itself: in a
//! field without a name of the same hash, which goes when the rest goes. So an archive is asked once and not at every
//! join. Called by the tasks that answer questions.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::notes::{LESS, READS_KEPT, ROOMS_PER_USER};
use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::store::archive::UserRoom;

/// So long it is known of a room or a user that there is nothing to know; as long as a room lives that is idle.
const NOTHING_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Read marks in one call.
const CALL_MAX: usize = 500;

/// How much of what there is stands in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nobody knows.
    Some,
    /// The newest of very many.
    Newest,
    /// All.
    All,
}

impl Known {
    fn of(field: Option<&str>) -> Known {
        match field {
            Some("a") => Known::All,
            Some("n") => Known::Newest,
            _ => Known::Some,
        }
    }

    fn field(self) -> &'static str {
        match self {
            Known::Some => "",
            Known::Newest => "n",
            Known::All => "a",
        }
    }
}

/// The newest read marks of a room, newest first, as Redis has them; and whether these are all.
pub async fn read_marks(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    room: &RoomName,
    n: usize,
) -> RedisResult<(Vec<(UserName, Offset)>, Known)> {
    let mut call = MARKS.key(keys.reads(room));
    call.key(keys.read_times(room)).arg(n);
    let (known, list): (String, Vec<(String, Offset)>) = call.invoke_async(redis).await?;
    // Only nodes write here, and they write names only.
    let mark = |(user, offset): (String, Offset)| Some((UserName::new(&user).ok()?, offset));
    Ok((list.into_iter().filter_map(mark).collect(), Known::of(Some(&known))))
}

/// How far a user has read a room; none: Redis does not know it.
pub async fn read_mark(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    room: &RoomName,
    user: &UserName,
) -> RedisResult<(Option<Offset>, Known)> {
    let mut call = redis::cmd("HMGET");
    call.arg(keys.reads(room)).arg(user.as_str()).arg("");
    let (mark, known): (Option<Offset>, Option<String>) = call.query_async(redis).await?;
    Ok((mark, Known::of(known.as_deref())))
}

/// The rooms that a user has read or owns, most recently used first, as Redis has them; and whether these are all. `top`
/// is 0 in all of them: it stands in the partitions of the rooms, and the caller looks it up.
pub async fn rooms_of(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    user: &UserName,
    n: usize,
) -> RedisResult<(Vec<UserRoom>, Known)> {
    let mut call = MARKS.key(keys.reads_of_user(user));
    call.key(keys.rooms_of_user(user)).arg(n);
    let (known, list): (String, Vec<(String, Offset)>) = call.invoke_async(redis).await?;
    let room =
        |(room, read): (String, Offset)| Some(UserRoom { room: RoomName::new(&room).ok()?, top: 0, read });
    Ok((list.into_iter().filter_map(room).collect(), Known::of(Some(&known))))
}

/// Puts marks of a room back, newest first, without making them due, and says how much that is. A mark that has gone
/// further meanwhile stays. That a user has read nothing is a mark too, of 0.
pub async fn put_marks(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    room: &RoomName,
    marks: &[(UserName, Offset)],
    known: Known,
) -> RedisResult<()> {
    let (mut left, mut parts) = (marks.len(), marks.chunks(CALL_MAX).peekable());
    loop {
        let part = parts.next().unwrap_or_default();
        // How much it is may be said when all is there.
        let known = if parts.peek().is_none() { known } else { Known::Some };
        let mut call = PUT_MARKS.key(keys.reads(room));
        call.key(keys.read_times(room)).arg(READS_KEPT.as_secs()).arg(NOTHING_KEPT.as_secs());
        call.arg(known.field());
        for (user, offset) in part {
            call.arg(user.as_str()).arg(*offset).arg(left);
            left -= 1;
        }
        call.invoke_async::<()>(redis).await?;
        if parts.peek().is_none() {
            return Ok(());
        }
    }
}

/// Puts the rooms of a user back, most recently used first: all there are.
pub async fn put_rooms(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    user: &UserName,
    rooms: &[UserRoom],
) -> RedisResult<()> {
    let mut call = PUT_ROOMS.key(keys.reads_of_user(user));
    call.key(keys.rooms_of_user(user)).arg(READS_KEPT.as_secs()).arg(NOTHING_KEPT.as_secs());
    call.arg(Known::All.field()).arg(ROOMS_PER_USER);
    for (place, known) in rooms.iter().rev().enumerate() {
        call.arg(known.room.as_str()).arg(known.read).arg(place + 1);
    }
    call.invoke_async(redis).await
}

/// KEYS 1 hash of offsets, 2 sorted set of the same members by time. ARGV 1 how many. Returns how much is known, and
/// member and offset of the newest.
static MARKS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local known, list = redis.call('HGET', KEYS[1], '') or '', {}
if tonumber(ARGV[1]) < 1 then return {known, list} end
for i, member in ipairs(redis.call('ZREVRANGE', KEYS[2], 0, ARGV[1] - 1)) do
  list[i] = {member, redis.call('HGET', KEYS[1], member) or '0'}
end
return {known, list}",
    )
});

/// What both scripts below end with: KEYS 1 hash, 2 sorted set; ARGV 1 seconds that they are kept, 2 seconds that is known
/// that there is nothing, 3 how much is known.
const KEEP: &str = "
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], '', ARGV[3])
  if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
end";

/// KEYS 1 reads, 2 their times. ARGV as above, then for each mark user, offset, and what stands for its time: older than
/// all times, and in the same order.
static PUT_MARKS: LazyLock<Script> = LazyLock::new(|| {
    let body = "
for a = 4, #ARGV, 3 do
  local user, offset = ARGV[a], ARGV[a + 1]
  local old = redis.call('HGET', KEYS[1], user)
  if not old or less(old, offset) then redis.call('HSET', KEYS[1], user, offset) end
  if offset ~= '0' then redis.call('ZADD', KEYS[2], 'NX', ARGV[a + 2], user) end
end";
    Script::new(&format!("{LESS}{body}{KEEP}"))
});

/// KEYS 1 reads of the user, 2 her rooms. ARGV as above, 4 most rooms, then for each room its name, offset, and what stands
/// for its time.
static PUT_ROOMS: LazyLock<Script> = LazyLock::new(|| {
    let body = "
for a = 5, #ARGV, 3 do
  local room, offset = ARGV[a], ARGV[a + 1]
  redis.call('ZADD', KEYS[2], 'NX', ARGV[a + 2], room)
  if less(redis.call('HGET', KEYS[1], room) or '0', offset) then redis.call('HSET', KEYS[1], room, offset) end
end
local over = redis.call('ZCARD', KEYS[2]) - ARGV[4]
if over > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
    redis.call('ZREM', KEYS[2], old)
    redis.call('HDEL', KEYS[1], old)
  end
end";
    Script::new(&format!("{LESS}{body}{KEEP}"))
});
