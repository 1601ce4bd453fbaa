//! The rules of rooms: one hash on partition 0, room to JSON, with a number that each change makes one greater. A change
//! is made here from what stands in the hash and written only if that still stands; the same script tells all nodes.
//! Called by the task of partition 0.
//!
//! Beside the number (`rules` in the pulse) stands, where there is an archive, that the hash has all that the archive has
//! (`whole`): a Redis that comes back empty, or a replica that takes over, does not say so, and takes no change until
//! [`restore`] was there. `upto` is the newest change that the hash knows although it is not whole: from the memory of nodes
//! (`rule_repair.rs`), or from a time without an archive. Numbers never come again: where a hash begins anew they go on
//! with the time in microseconds, so that of two versions of a room's rules the greater number is always the later one.

use std::sync::LazyLock;

use ahash::AHashMap;
use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::bytes::{Left, Unreadable, put_name};
use super::keys::Keys;
use crate::chat::moderation::{Change, Full, ROOMS_MAX, Rules};
use crate::chat::names::RoomName;
use crate::engines::shared::RuleRefused;
use crate::store::record::RoomRules;

/// How often a change is made anew because another node was faster.
const TRIES: usize = 20;
/// Most rooms whose rules the archive lacks. Only an archive that is away for long gets so far behind, and changes of so many
/// rooms; then no other room's rules change.
const DUE_MAX: usize = 2 * ROOMS_MAX;
/// Rooms in one call.
const CALL_MAX: usize = 200;

/// A room has these rules as of this change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Number of the change.
    pub number: u64,
    /// Which room.
    pub room: RoomName,
    /// All of its rules.
    pub rules: Rules,
    /// The same as they stand in the hash.
    pub text: Vec<u8>,
}

/// A room and its rules, as they stand in the hash.
pub type Kept = (Vec<u8>, Vec<u8>);

/// The same of many rooms.
type Texts = AHashMap<Vec<u8>, Vec<u8>>;

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct All {
    /// Number of the newest change among them.
    pub number: u64,
    /// Whether all that the archive has is among them.
    pub whole: bool,
    /// As they stand in the hash; none if that change was known.
    pub list: Option<Vec<Kept>>,
}

/// Changes the rules of a room at a time in Unix milliseconds, and marks that for the archive, if there is one. None:
/// they were so already.
pub async fn change(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    has_archive: bool,
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
        let text = rules.to_json().into_bytes();
        if text == old && !has_archive {
            return Ok(Ok(None));
        }
        let mut body = Vec::new();
        put_name(room.as_str(), &mut body);
        body.extend_from_slice(&text);
        let mut call = CHANGE.key(keys.slots());
        call.key(keys.pulse()).key(keys.rules()).key(keys.rules_due());
        call.arg(keys.publish()).arg(keys.inboxes()).arg(room.as_str()).arg(&old).arg(&text).arg(body);
        match call.arg(ROOMS_MAX).arg(u8::from(has_archive)).arg(DUE_MAX).invoke_async(redis).await? {
            0_i64 => {}
            FULL => return Ok(Err(RuleRefused::Full(Full::Rooms))),
            NOT_WHOLE => {
                let why = "the rules of rooms have not come back from the archive yet";
                return Ok(Err(RuleRefused::Away(why.into())));
            }
            DUE => {
                let why = "the archive lacks too many changes of rules; see why it takes nothing";
                return Ok(Err(RuleRefused::Away(why.into())));
            }
            SAME => return Ok(Ok(None)),
            number => {
                let number = u64::try_from(number).unwrap_or(0);
                return Ok(Ok(Some(Told { number, room: room.clone(), rules, text })));
            }
        }
    }
    Ok(Err(RuleRefused::Away("other nodes change the rules of this room all the time".into())))
}

/// All rules. Those of a change that is known are not told again.
pub async fn all(redis: &mut impl ConnectionLike, keys: &Keys, known: Option<u64>) -> RedisResult<All> {
    let mut call = ALL.key(keys.pulse());
    let known = known.map_or(-1, |known| i64::try_from(known).unwrap_or(i64::MAX));
    let (number, whole, list): (u64, bool, Vec<Kept>) =
        call.key(keys.rules()).arg(known).invoke_async(redis).await?;
    let list = (i64::try_from(number) != Ok(known)).then_some(list);
    Ok(All { number, whole, list })
}

/// Brings back what an archive has, each as of its version, unless the hash knows a newer change; then it is whole.
/// Several nodes may be at it.
pub async fn restore(redis: &mut impl ConnectionLike, keys: &Keys, list: &[RoomRules]) -> RedisResult<()> {
    let mut parts = list.chunks(CALL_MAX).peekable();
    loop {
        let part = parts.next().unwrap_or_default();
        let is_last = parts.peek().is_none();
        let mut call = RESTORE.key(keys.pulse());
        call.key(keys.rules()).key(keys.rules_due()).arg(u8::from(is_last));
        for rules in part {
            call.arg(rules.room.as_str()).arg(&*rules.text).arg(rules.version);
        }
        call.invoke_async::<()>(redis).await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Reads what stands in the hash. Only nodes write there; what a later version of this program has written must not end
/// this one.
pub fn read((room, text): &Kept) -> Option<(RoomName, Rules)> {
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
    Ok(Told { number, room, rules: rules_of(left.0)?, text: left.0.to_vec() })
}

/// What this node knows of the rules, and up to which change. Knows no connection.
#[derive(Debug, Default)]
pub struct Known {
    /// At this server; none before all rules were read there.
    at: Option<u64>,
    /// All of them as of a change, at whatever server; none before they were read for the first time.
    memory: Option<(u64, Texts)>,
}

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
        self.at
    }

    /// All rules that this node knows, as of a change: what a server that has forgotten them can have back.
    pub fn memory(&self) -> Option<(u64, Vec<Kept>)> {
        let (number, rules) = self.memory.as_ref()?;
        Some((*number, rules.iter().map(|(room, text)| (room.clone(), text.clone())).collect()))
    }

    /// At another server, or the same one after a while, nothing is known of what stands there.
    pub fn forget(&mut self) {
        self.at = None;
    }

    /// A change was told.
    pub fn told(&mut self, told: &Told) -> Next {
        match (self.at, &mut self.memory) {
            (Some(known), Some((number, rules))) if told.number == known + 1 => {
                let room = told.room.as_str().as_bytes().to_vec();
                match told.text.is_empty() {
                    true => drop(rules.remove(&room)),
                    false => drop(rules.insert(room, told.text.clone())),
                }
                *number = told.number;
                self.at = Some(told.number);
                Next::Tell
            }
            (Some(known), _) if told.number <= known => Next::Nothing,
            _ => Next::Ask,
        }
    }

    /// All rules were read, as of a change. Whether they are to be told: not if later changes were told meanwhile.
    pub fn read(&mut self, number: u64, list: &[Kept]) -> bool {
        let is_newer = self.at.is_none_or(|known| number > known);
        if is_newer {
            self.at = Some(number);
            self.memory = Some((number, list.iter().cloned().collect()));
        }
        is_newer
    }
}

/// What [`CHANGE`] says instead of a number.
const FULL: i64 = -1;
const NOT_WHOLE: i64 = -2;
const DUE: i64 = -3;
const SAME: i64 = -4;

/// KEYS 1 slots, 2 pulse, 3 rules, 4 rules that are due. ARGV 1 PUBLISH or SPUBLISH, 2 start of the inboxes' names, 3 room,
/// 4 what must stand there, 5 what is to stand there (nothing: no rules), 6 body of the frame, 7 most rooms, 8 whether there
/// is an archive, 9 most rooms that are due. Returns the number of the change; 0 if something else stands there, -1 if there
/// is no place for another room, -2 if the rules are not whole, -3 if too many are due, -4 if it stands there already.
static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local has_archive = ARGV[8] == '1'
if has_archive and redis.call('HGET', KEYS[2], 'whole') ~= '1' then return -2 end
local old = redis.call('HGET', KEYS[3], ARGV[3])
if (old or '') ~= ARGV[4] then return 0 end
if ARGV[4] == ARGV[5] then return -4 end
if not old and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[7]) then return -1 end
if has_archive and redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[9]) and not redis.call('ZSCORE', KEYS[4], ARGV[3]) then
  return -3
end
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[3], ARGV[3])
else
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[5])
end
local number = redis.call('HINCRBY', KEYS[2], 'rules', 1)
if has_archive then
  redis.call('ZADD', KEYS[4], string.format('%.0f', number), ARGV[3])
else
  -- An archive that comes later, or comes back, lacks this one.
  redis.call('HDEL', KEYS[2], 'whole')
  redis.call('HSET', KEYS[2], 'upto', string.format('%.0f', number))
end
local frame = 'R' .. struct.pack('>I4I8', 8 + #ARGV[6], number) .. ARGV[6]
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i + 1], 1, 1) == 'T' then redis.call(ARGV[1], ARGV[2] .. all[i], frame) end
end
return number",
    )
});

/// KEYS 1 pulse, 2 rules. ARGV 1 the change that is known, or -1. Returns the newest one, whether the rules are whole, and
/// room and rules of all if it is another change.
static ALL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local number = tonumber(redis.call('HGET', KEYS[1], 'rules') or 0)
local list = {}
if number ~= tonumber(ARGV[1]) then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do list[#list + 1] = {all[i], all[i + 1]} end
end
return {number, redis.call('HGET', KEYS[1], 'whole') == '1' and 1 or 0, list}",
    )
});

/// A number for what begins anew; greater than those in ARGV-like lists of texts.
pub(super) const FRESH: &str = "
local function fresh(...)
  local time = redis.call('TIME')
  local number = time[1] * 1000000 + time[2]
  for i = 1, select('#', ...) do number = math.max(number, tonumber((select(i, ...)) or 0) + 1) end
  return string.format('%.0f', number)
end";

/// KEYS 1 pulse, 2 rules, 3 rules that are due. ARGV 1 whether these are the last ones, then for each room its name, its rules
/// and their version (0: of an archive that had one writer).
static RESTORE: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if redis.call('HGET', KEYS[1], 'whole') == '1' then return end
local known = tonumber(redis.call('HGET', KEYS[1], 'upto') or 0)
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or 0)
for a = 2, #ARGV, 3 do
  local room, text, version = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  newest = math.max(newest, version)
  if version > known then
    if text == '' then redis.call('HDEL', KEYS[2], room) else redis.call('HSET', KEYS[2], room, text) end
  elseif version == 0 and known == 0 and text ~= '' then
    redis.call('HSETNX', KEYS[2], room, text)
  elseif text ~= '' and redis.call('HEXISTS', KEYS[2], room) == 0 then
    -- They have ended, and the archive does not know it.
    redis.call('ZADD', KEYS[3], 'NX', fresh(newest), room)
  end
end
redis.call('HSET', KEYS[1], 'newest', string.format('%.0f', newest))
if ARGV[1] == '1' then
  local number = fresh(redis.call('HGET', KEYS[1], 'rules'), newest, known)
  for _, room in ipairs(redis.call('HKEYS', KEYS[2])) do redis.call('ZADD', KEYS[3], 'NX', number, room) end
  redis.call('HSET', KEYS[1], 'rules', number, 'whole', '1')
  redis.call('HDEL', KEYS[1], 'upto', 'newest')
end";
    Script::new(&format!("{FRESH}{body}"))
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
        let text = rules.to_json().into_bytes();
        let sent = Told { number: 7, room: RoomName::new("@ann+bob").unwrap(), rules, text };
        let mut frame = 7_u64.to_be_bytes().to_vec();
        put_name("@ann+bob", &mut frame);
        let head = frame.len();
        frame.extend_from_slice(sent.rules.to_json().as_bytes());
        assert_eq!(told(&frame), Ok(sent.clone()));
        let none = Told { rules: Rules::default(), text: Vec::new(), ..sent };
        assert_eq!(told(&frame[..head]), Ok(none), "nothing: the room has no rules any more");
        for cut in (0..frame.len()).filter(|cut| *cut != head) {
            assert!(told(&frame[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_was_missed_is_asked_for_and_what_is_older_does_not_count() {
        let told = |number, text: &str| Told {
            number,
            room: RoomName::new("a").unwrap(),
            rules: rules_of(text.as_bytes()).unwrap(),
            text: text.into(),
        };
        let slow = r#"{"slow":1}"#;
        let kept = |rooms: &[&str]| -> Vec<Kept> {
            rooms.iter().map(|room| (room.as_bytes().to_vec(), slow.into())).collect()
        };
        let mut known = Known::default();
        assert_eq!((known.told(&told(5, slow)), known.memory()), (Next::Ask, None), "nothing is known yet");
        assert!(known.read(5, &[]));
        let next: Vec<Next> = [5, 6, 8].map(|number| known.told(&told(number, slow))).into();
        assert_eq!(next, [Next::Nothing, Next::Tell, Next::Ask]);
        assert_eq!(known.memory(), Some((6, kept(&["a"]))));
        assert!(!known.read(6, &[]), "read before the last one was told");
        assert!(known.read(8, &kept(&["a", "b"])));
        assert_eq!((known.told(&told(7, slow)), known.told(&told(9, ""))), (Next::Nothing, Next::Tell));
        known.forget();
        assert_eq!((known.number(), known.memory()), (None, Some((9, kept(&["b"])))), "for the next server");
        assert_eq!(known.told(&told(10, slow)), Next::Ask);
        assert!(known.read(2, &[]), "another server knows less, and counts");
    }
}
