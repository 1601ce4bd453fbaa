//! What is kept beside the logs: how far users have read, where sessions stand, which rooms a user has to do with.
//! Called by the task of the partition that the room, the session or the user belongs to. The newest counts, and
//! read marks only grow; so everything may be written twice and in any order.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::bytes::{Left, Unreadable, put_name, put_text};
use super::due;
use super::keys::Keys;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::store::record::{Cursor, ReadMark, SessionNote};

/// A session that was not heard of for so long is forgotten.
pub const SESSION_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// The read marks of a room or a user in which nothing was read for so long are forgotten.
pub const READS_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Most rooms that are known of a user; those that were used longest ago are forgotten.
pub const ROOMS_PER_USER: usize = 1_000;
/// A clock of a node that is ahead by more than this does not make its notes newer than those of others.
const CLOCKS_MS: u64 = 5_000;
/// First byte of a session's note: how the rest is written.
const VERSION: u8 = 1;

/// Keeps how far users have read rooms of this partition. [`read_by`] belongs to each, in the partitions of the
/// users. The archive is to have them too, as one of at most `due_max` notes that wait for it; 0: there is none.
pub async fn read(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    marks: &[ReadMark],
    due_max: u64,
) -> RedisResult<()> {
    let mut call = READ.key(keys.due());
    call.key(keys.due_count()).arg(READS_KEPT.as_secs()).arg(due_max);
    for mark in marks {
        call.key(keys.reads(&mark.room)).key(keys.read_times(&mark.room));
        call.arg(mark.room.as_str()).arg(mark.user.as_str()).arg(mark.offset).arg(mark.ts);
    }
    call.invoke_async(redis).await
}

/// The same for the users of this partition: which rooms they have read, and how far.
pub async fn read_by(redis: &mut impl ConnectionLike, keys: &Keys, marks: &[ReadMark]) -> RedisResult<()> {
    let uses = marks.iter().map(|mark| (&mark.user, &mark.room, mark.offset, mark.ts));
    use_rooms(redis, keys, uses).await
}

/// Rooms were written to that the users of this partition own (`@ann`, `@ann+bob`), at a server time in Unix
/// milliseconds. Then they are among their rooms, even if they have never been there.
pub async fn used(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    uses: &[(UserName, RoomName, u64)],
) -> RedisResult<()> {
    use_rooms(redis, keys, uses.iter().map(|(user, room, ts)| (user, room, 0, *ts))).await
}

async fn use_rooms<'a>(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    uses: impl Iterator<Item = (&'a UserName, &'a RoomName, Offset, u64)>,
) -> RedisResult<()> {
    let mut call = USE.arg(READS_KEPT.as_secs());
    call.arg(ROOMS_PER_USER);
    for (user, room, offset, ts) in uses {
        call.key(keys.rooms_of_user(user)).key(keys.reads_of_user(user));
        call.arg(room.as_str()).arg(offset).arg(ts);
    }
    call.invoke_async(redis).await
}

/// Keeps where sessions of this partition stand. `due_max` as above.
pub async fn note_sessions(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    notes: &[SessionNote],
    due_max: u64,
) -> RedisResult<()> {
    let mut call = SESSION.key(keys.due());
    call.key(keys.due_count()).arg(SESSION_KEPT.as_secs()).arg(due_max).arg(CLOCKS_MS);
    for note in notes {
        call.key(keys.session(&note.session)).arg(note.ts).arg(encode(note)).arg(&*note.session);
    }
    call.invoke_async(redis).await
}

/// Where a session stood; none if it is not known (any more).
pub async fn session(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    session: &str,
) -> RedisResult<Option<SessionNote>> {
    let note: Option<Vec<u8>> = redis::cmd("GET").arg(keys.session(session)).query_async(redis).await?;
    Ok(note.and_then(|note| read_note(session, &note)))
}

/// A session's note as it stands in Redis; nothing: it has none (any more).
pub(super) fn read_note(session: &str, note: &[u8]) -> Option<SessionNote> {
    if note.is_empty() {
        return None;
    }
    let read = decode(session, note);
    if let Err(why) = &read {
        // A session that cannot be gone on with begins anew; that is better than no answer at all.
        log::warn!("the note of session {} is not used: {why}", session.escape_debug());
    }
    read.ok()
}

/// The time stands first, where the script finds it.
fn encode(note: &SessionNote) -> Vec<u8> {
    let mut out = note.ts.to_be_bytes().to_vec();
    out.push(VERSION);
    put_name(note.user.as_str(), &mut out);
    for cursor in &note.rooms {
        put_text(cursor.room.as_str(), &mut out);
        out.extend_from_slice(&cursor.epoch.0.to_be_bytes());
        out.extend_from_slice(&cursor.offset.to_be_bytes());
        out.push(u8::from(cursor.quiet));
    }
    out
}

fn decode(session: &str, bytes: &[u8]) -> Result<SessionNote, Unreadable> {
    let mut left = Left(bytes);
    let ts = left.u64("time")?;
    if left.byte("version")? != VERSION {
        return Err(Unreadable("version"));
    }
    let user = UserName::new(left.name("user")?).map_err(|_| Unreadable("user"))?;
    let mut rooms = Vec::new();
    while !left.is_empty() {
        rooms.push(Cursor {
            room: RoomName::new(left.text("room")?).map_err(|_| Unreadable("room"))?,
            epoch: Epoch(left.u64("epoch")?),
            offset: left.u64("offset")?,
            quiet: left.flag("quiet")?,
        });
    }
    Ok(SessionNote { session: session.into(), user, ts, rooms })
}

/// Compares offsets as texts: numbers of Lua are exact only up to 2^53.
pub(super) const LESS: &str = "
local function less(a, b) return #a < #b or #a == #b and a < b end";

/// KEYS 1 due, 2 count, then for each mark the reads and their times. ARGV 1 seconds that they are kept, 2 most that are
/// due, then for each mark room, user, offset, ms.
static READ: LazyLock<Script> = LazyLock::new(|| {
    let body = "
for k = 3, #KEYS, 2 do
  local a = 3 + (k - 3) * 2
  local room, user, offset = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  if less(redis.call('HGET', KEYS[k], user) or '0', offset) then
    redis.call('HSET', KEYS[k], user, offset)
    redis.call('ZADD', KEYS[k + 1], 'GT', ARGV[a + 3], user)
    redis.call('EXPIRE', KEYS[k], ARGV[1])
    redis.call('EXPIRE', KEYS[k + 1], ARGV[1])
    is_due('r' .. #room .. ':' .. room .. user)
  end
end";
    Script::new(&format!("{LESS}{}{body}", due::MARK))
});

/// KEYS for each use the rooms of the user and her reads. ARGV 1 seconds that they are kept, 2 most rooms, then for
/// each use room, offset (0: not read), ms.
static USE: LazyLock<Script> = LazyLock::new(|| {
    let body = "
for k = 1, #KEYS, 2 do
  local a = 3 + (k - 1) / 2 * 3
  local room, offset = ARGV[a], ARGV[a + 1]
  redis.call('ZADD', KEYS[k], 'GT', ARGV[a + 2], room)
  if less(redis.call('HGET', KEYS[k + 1], room) or '0', offset) then
    redis.call('HSET', KEYS[k + 1], room, offset)
  end
  local over = redis.call('ZCARD', KEYS[k]) - ARGV[2]
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', KEYS[k], 0, over - 1)) do
      redis.call('ZREM', KEYS[k], old)
      redis.call('HDEL', KEYS[k + 1], old)
    end
  end
  redis.call('EXPIRE', KEYS[k], ARGV[1])
  redis.call('EXPIRE', KEYS[k + 1], ARGV[1])
end";
    Script::new(&format!("{LESS}{body}"))
});

/// KEYS 1 due, 2 count, then the sessions. ARGV 1 seconds that they are kept, 2 most that are due, 3 how far clocks may be
/// apart in ms, then for each session ms, the note and its name. A note that is older than the one that is kept is left
/// out: a node may learn late that a session has gone on elsewhere.
static SESSION: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local time = redis.call('TIME')
local latest = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
for k = 3, #KEYS do
  local a = 4 + (k - 3) * 3
  local old = redis.call('GETRANGE', KEYS[k], 0, 7)
  local newer = #old == 8 and struct.unpack('>I8', old) or 0
  if newer <= tonumber(ARGV[a]) or newer > latest then
    redis.call('SET', KEYS[k], ARGV[a + 1], 'EX', ARGV[1])
    is_due('s' .. ARGV[a + 2])
  end
end";
    Script::new(&format!("{}{body}", due::MARK))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_being_written() {
        let cursor = |room: &str, quiet| Cursor {
            room: RoomName::new(room).unwrap(),
            epoch: Epoch(u64::MAX),
            offset: 7,
            quiet,
        };
        let rooms = vec![cursor("a:b", true), cursor("größe", false)];
        let user = UserName::new("ann:1").unwrap();
        let note = SessionNote { session: "s1".into(), user, ts: 1_700_000_000_123, rooms };
        let bytes = encode(&note);
        assert_eq!(decode("s1", &bytes), Ok(note.clone()));
        let empty = SessionNote { rooms: vec![], ..note };
        assert_eq!(decode("s1", &encode(&empty)), Ok(empty.clone()));
        let without_rooms = encode(&empty).len();
        for cut in (0..bytes.len()).filter(|cut| *cut != without_rooms && *cut != without_rooms + 24) {
            assert!(decode("s1", &bytes[..cut]).is_err(), "{cut}");
        }
        let mut newer = bytes;
        newer[8] = VERSION + 1;
        assert_eq!(decode("s1", &newer), Err(Unreadable("version")));
    }
}
