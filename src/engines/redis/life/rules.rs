//! The rules of rooms: one hash on partition 0, room to JSON, with a number that each change makes one greater. A change
//! is made here from what stands in the hash and written only if that still stands; the same script tells all nodes.
//! Called by the task of partition 0.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::bytes::{Left, Unreadable, put_name};
use super::keys::Keys;
use crate::chat::moderation::{Change, Full, ROOMS_MAX, Rules};
use crate::chat::names::RoomName;
use crate::engines::shared::RuleRefused;

/// How often a change is made anew because another node was faster.
const TRIES: usize = 20;

/// A room has these rules as of this change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Number of the change.
    pub number: u64,
    /// Which room.
    pub room: RoomName,
    /// All of its rules.
    pub rules: Rules,
}

/// A room and its rules, as they stand in the hash.
type Kept = (Vec<u8>, Vec<u8>);
/// All rules, and the number of the newest change among them.
pub type All = (u64, Vec<(RoomName, Rules)>);

/// Changes the rules of a room at a time in Unix milliseconds. None: they were so already.
pub async fn change(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    room: &RoomName,
    change: &Change,
    now: u64,
) -> RedisResult<Result<Option<Told>, RuleRefused>> {
    for _ in 0..TRIES {
        let old: Option<Vec<u8>> =
            redis::cmd("HGET").arg(keys.rules()).arg(room.as_str()).query_async(redis).await?;
        let old = old.unwrap_or_default();
        let Ok(before) = rules_of(&old) else {
            return Ok(Err(RuleRefused::Away("what is kept of its rules cannot be read".into())));
        };
        let rules = match before.with(change, now) {
            Ok(rules) => rules,
            Err(full) => return Ok(Err(RuleRefused::Full(full))),
        };
        let text = rules.to_json();
        if text.as_bytes() == old {
            return Ok(Ok(None));
        }
        let mut body = Vec::new();
        put_name(room.as_str(), &mut body);
        body.extend_from_slice(text.as_bytes());
        let mut call = CHANGE.key(keys.slots());
        call.key(keys.pulse()).key(keys.rules());
        call.arg(keys.publish()).arg(keys.inboxes()).arg(room.as_str()).arg(&old).arg(&text).arg(body);
        match call.arg(ROOMS_MAX).invoke_async(redis).await? {
            0_i64 => {}
            number if number > 0 => {
                return Ok(Ok(Some(Told { number: number.unsigned_abs(), room: room.clone(), rules })));
            }
            _ => return Ok(Err(RuleRefused::Full(Full::Rooms))),
        }
    }
    Ok(Err(RuleRefused::Away("other nodes change the rules of this room all the time".into())))
}

/// All rules; none if the newest change is the one with this number.
pub async fn all(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    known: Option<u64>,
) -> RedisResult<Option<All>> {
    let mut call = ALL.key(keys.pulse());
    let known = known.map_or(-1, |known| i64::try_from(known).unwrap_or(i64::MAX));
    let (number, list): (u64, Vec<Kept>) = call.key(keys.rules()).arg(known).invoke_async(redis).await?;
    if i64::try_from(number) == Ok(known) {
        return Ok(None);
    }
    Ok(Some((number, list.iter().filter_map(|(room, text)| read(room, text)).collect())))
}

/// Only nodes write here; what a later version of this program has written must not end this one.
fn read(room: &[u8], text: &[u8]) -> Option<(RoomName, Rules)> {
    let name = std::str::from_utf8(room).ok().and_then(|room| RoomName::new(room).ok());
    let rules = rules_of(text).ok();
    let read = name.zip(rules);
    if read.is_none() {
        log::error!("redis: the rules of room {} cannot be read and do not hold", room.escape_ascii());
    }
    read
}

fn rules_of(text: &[u8]) -> Result<Rules, Unreadable> {
    if text.is_empty() {
        return Ok(Rules::default());
    }
    Rules::from_json(text).map_err(|_| Unreadable("rules"))
}

/// Reads the content of a frame that tells of a change.
pub fn told(content: &[u8]) -> Result<Told, Unreadable> {
    let mut left = Left(content);
    let number = left.u64("number of the change")?;
    let room = RoomName::new(left.name("room")?).map_err(|_| Unreadable("room"))?;
    Ok(Told { number, room, rules: rules_of(left.0)? })
}

/// Up to which change this node knows the rules. Knows no connection.
#[derive(Debug, Default)]
pub struct Known(Option<u64>);

/// What is to be done about a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Tell it.
    Tell,
    /// Nothing: it is known.
    Nothing,
    /// Ask for all: some before it are missing.
    Ask,
}

impl Known {
    /// The newest change that is known; none before all rules were read.
    pub fn number(&self) -> Option<u64> {
        self.0
    }

    /// At another server, or the same one after a while, nothing is known.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// A change was told.
    pub fn told(&mut self, number: u64) -> Next {
        match self.0 {
            Some(known) if number == known + 1 => {
                self.0 = Some(number);
                Next::Tell
            }
            Some(known) if number <= known => Next::Nothing,
            _ => Next::Ask,
        }
    }

    /// All rules were read, as of a change. Whether they are to be told: not if later changes were told meanwhile.
    pub fn read(&mut self, number: u64) -> bool {
        let is_newer = self.0.is_none_or(|known| number > known);
        if is_newer {
            self.0 = Some(number);
        }
        is_newer
    }
}

/// KEYS 1 slots, 2 pulse, 3 rules. ARGV 1 PUBLISH or SPUBLISH, 2 start of the inboxes' names, 3 room, 4 what must stand
/// there, 5 what is to stand there (nothing: no rules), 6 body of the frame, 7 most rooms. Returns the number of the
/// change; 0 if something else stands there, -1 if there is no place for another room.
static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local old = redis.call('HGET', KEYS[3], ARGV[3])
if (old or '') ~= ARGV[4] then return 0 end
if not old and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[7]) then return -1 end
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[3], ARGV[3])
else
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[5])
end
local number = redis.call('HINCRBY', KEYS[2], 'rules', 1)
local frame = 'R' .. struct.pack('>I4I8', 8 + #ARGV[6], number) .. ARGV[6]
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i + 1], 1, 1) == 'T' then redis.call(ARGV[1], ARGV[2] .. all[i], frame) end
end
return number",
    )
});

/// KEYS 1 pulse, 2 rules. ARGV 1 the change that is known, or -1. Returns the newest one, and room and rules of all if
/// it is another.
static ALL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local number = tonumber(redis.call('HGET', KEYS[1], 'rules') or 0)
local list = {}
if number ~= tonumber(ARGV[1]) then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do list[#list + 1] = {all[i], all[i + 1]} end
end
return {number, list}",
    )
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::moderation::Term;
    use crate::chat::names::UserName;

    #[test]
    fn a_change_survives_the_wire() {
        let change = Change::Mute(UserName::new("a\"b:größe").unwrap(), Term::ForGood);
        let rules = Rules::default().with(&change, 1).unwrap();
        let sent = Told { number: 7, room: RoomName::new("@ann+bob").unwrap(), rules };
        let mut frame = 7_u64.to_be_bytes().to_vec();
        put_name("@ann+bob", &mut frame);
        let head = frame.len();
        frame.extend_from_slice(sent.rules.to_json().as_bytes());
        assert_eq!(told(&frame), Ok(sent.clone()));
        let none = Told { rules: Rules::default(), ..sent };
        assert_eq!(told(&frame[..head]), Ok(none), "nothing: the room has no rules any more");
        for cut in (0..frame.len()).filter(|cut| *cut != head) {
            assert!(told(&frame[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_was_missed_is_asked_for_and_what_is_older_does_not_count() {
        let mut known = Known::default();
        assert_eq!(known.told(5), Next::Ask, "nothing is known yet");
        assert!(known.read(5));
        assert_eq!((known.told(5), known.told(6), known.told(8)), (Next::Nothing, Next::Tell, Next::Ask));
        assert!(!known.read(6), "read before the last one was told");
        assert!(known.read(8));
        assert_eq!((known.told(7), known.told(9)), (Next::Nothing, Next::Tell));
        known.forget();
        assert!(known.read(2), "another server knows less, and counts");
    }
}
