//! Notes and rules that an archive lacks: which they are stands in sorted sets beside them, written by the same scripts
//! that write them, so that no node's death loses any. A note that changes again moves to the end and stands there once;
//! so there are at most as many as there are users in rooms and sessions, and a limit below that. Called by whoever fills
//! the archive, one node per partition at a time; two at once do no harm.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::notes;
use crate::chat::names::{RoomName, UserName};
use crate::store::record::{ReadMark, Record, RoomRules};

/// About as many bytes are taken at a time; one note more.
const BYTES_MAX: u64 = 1 << 20;

/// Something that the archive lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    is_rule: bool,
    member: Vec<u8>,
    number: String,
    /// How it stands now; none: it is not kept any more, or cannot be read.
    pub record: Option<Record>,
}

/// What was taken; all of it stays until it is [`done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What has been lacking for longest.
    pub list: Vec<Lacking>,
    /// How many are lacking, these included.
    pub left: u64,
    /// Notes that had no place since the last call.
    pub dropped: u64,
}

/// Takes at most `n`. Rules come first, and only when they are whole: see `rules.rs`.
pub async fn take(redis: &mut impl ConnectionLike, keys: &Keys, n: usize) -> RedisResult<Taken> {
    let mut call = TAKE.key(keys.due());
    call.key(keys.due_count()).key(keys.rules_due()).key(keys.pulse()).key(keys.rules());
    call.arg(keys.base()).arg(n).arg(BYTES_MAX);
    let (dropped, left, list): (u64, u64, Vec<Vec<Vec<u8>>>) = call.invoke_async(redis).await?;
    Ok(Taken { list: list.into_iter().filter_map(lacking).collect(), left, dropped })
}

fn lacking(parts: Vec<Vec<u8>>) -> Option<Lacking> {
    let mut parts = parts.into_iter();
    let (kind, member, number) = (parts.next()?, parts.next()?, parts.next()?);
    let number = String::from_utf8(number).ok()?;
    let rest: Vec<Vec<u8>> = parts.collect();
    let texts: Vec<&str> = rest.iter().map_while(|part| std::str::from_utf8(part).ok()).collect();
    let record = match (kind.as_slice(), texts.as_slice()) {
        (b"R", [room, text]) => rules(room, text, &number),
        (b"r", [room, user, offset, ts]) => mark(room, user, offset, ts),
        // The note itself is no text.
        (b"s", [name, ..]) => notes::read_note(name, rest.get(1)?).map(Record::Session),
        _ => None,
    };
    Some(Lacking { is_rule: kind == b"R", member, number, record })
}

fn rules(room: &str, text: &str, number: &str) -> Option<Record> {
    let room = RoomName::new(room).ok()?;
    Some(Record::Rules(RoomRules { room, text: text.into(), version: number.parse().ok()? }))
}

fn mark(room: &str, user: &str, offset: &str, ts: &str) -> Option<Record> {
    let (room, user) = (RoomName::new(room).ok()?, UserName::new(user).ok()?);
    Some(Record::Read(ReadMark { room, user, offset: offset.parse().ok()?, ts: ts.parse().ok()? }))
}

/// The archive has these, as they were taken. Those that have changed since then stay.
pub async fn done(redis: &mut impl ConnectionLike, keys: &Keys, list: &[Lacking]) -> RedisResult<()> {
    for (key, is_rule) in [(keys.due(), false), (keys.rules_due(), true)] {
        let mut call = DONE.key(key);
        let some: Vec<&Lacking> = list.iter().filter(|lacking| lacking.is_rule == is_rule).collect();
        for lacking in &some {
            call.arg(&lacking.member).arg(&lacking.number);
        }
        if !some.is_empty() {
            call.invoke_async::<()>(redis).await?;
        }
    }
    Ok(())
}

/// What scripts that write notes begin with: KEYS 1 due, 2 count; ARGV 2 most notes that are due, 0: there is no archive.
/// A note for which there is no place is counted.
pub(super) const MARK: &str = "
local function is_due(member)
  local most = tonumber(ARGV[2])
  if most == 0 then return end
  if redis.call('ZCARD', KEYS[1]) >= most and not redis.call('ZSCORE', KEYS[1], member) then
    redis.call('HINCRBY', KEYS[2], 'dropped', 1)
  else
    redis.call('ZADD', KEYS[1], redis.call('HINCRBY', KEYS[2], 'n', 1), member)
  end
end";

/// KEYS 1 due, 2 count, 3 rules that are due, 4 pulse, 5 rules. ARGV 1 start of all names, 2 most, 3 most bytes. Returns
/// how many had no place, how many there are, and of each kind, member, number and what stands there.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local base, most, bytes, list = ARGV[1], tonumber(ARGV[2]), 0, {}
local function is_full() return #list >= most or bytes >= tonumber(ARGV[3]) end
local dropped = redis.call('HGET', KEYS[2], 'dropped')
if dropped then redis.call('HDEL', KEYS[2], 'dropped') end
if redis.call('HGET', KEYS[4], 'whole') == '1' then
  local due = redis.call('ZRANGE', KEYS[3], 0, most - 1, 'WITHSCORES')
  for i = 1, #due, 2 do
    if is_full() then break end
    local text = redis.call('HGET', KEYS[5], due[i]) or ''
    bytes = bytes + #text
    list[#list + 1] = {'R', due[i], due[i + 1], due[i], text}
  end
end
local due = redis.call('ZRANGE', KEYS[1], 0, most - 1, 'WITHSCORES')
for i = 1, #due, 2 do
  if is_full() then break end
  local member, length, at = due[i], string.match(due[i], '^r(%d+):()')
  if length then
    local room = string.sub(member, at, at + length - 1)
    local user = string.sub(member, at + length)
    local offset = redis.call('HGET', base .. 'r:' .. room, user) or ''
    local ms = redis.call('ZSCORE', base .. 'w:' .. room, user) or '0'
    list[#list + 1] = {'r', member, due[i + 1], room, user, offset, ms}
  else
    local name = string.sub(member, 2)
    local note = redis.call('GET', base .. 's:' .. name) or ''
    bytes = bytes + #note
    list[#list + 1] = {'s', member, due[i + 1], name, note}
  end
end
return {tonumber(dropped or 0), redis.call('ZCARD', KEYS[1]) + redis.call('ZCARD', KEYS[3]), list}",
    )
});

/// KEYS 1 what is due. ARGV members, each with its number.
static DONE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
for a = 1, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS[1], ARGV[a]) == ARGV[a + 1] then redis.call('ZREM', KEYS[1], ARGV[a]) end
end",
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[&[u8]]) -> Vec<Vec<u8>> {
        list.iter().map(|part| part.to_vec()).collect()
    }

    #[test]
    fn what_stands_there_becomes_a_record_and_what_is_gone_none() {
        let read = |list: &[&[u8]]| lacking(parts(list)).unwrap().record;
        let mark = ReadMark {
            room: RoomName::new("a:b").unwrap(),
            user: UserName::new("größe").unwrap(),
            offset: u64::MAX,
            ts: 7,
        };
        let offset = u64::MAX.to_string();
        let there: [&[u8]; 7] = [b"r", b"r3:a:b", b"5", b"a:b", "größe".as_bytes(), offset.as_bytes(), b"7"];
        assert_eq!(read(&there), Some(Record::Read(mark)));
        assert_eq!(read(&[b"r", b"r3:a:b", b"5", b"a:b", b"ann", b"", b"0"]), None, "it has expired");
        let rules = RoomRules { room: RoomName::new("a").unwrap(), text: "".into(), version: 9 };
        assert_eq!(read(&[b"R", b"a", b"9", b"a", b""]), Some(Record::Rules(rules)), "they have ended");
        assert_eq!(read(&[b"s", b"ss1", b"9", b"s1", b""]), None);
        assert_eq!(read(&[b"x", b"y", b"9"]), None, "of a later program");
    }
}
