//! Who is in a room on which node, in Redis, and telling the others about it. Called by the task of each
//! partition with what [`Telling`](super::telling::Telling) has collected. One script keeps and tells in one
//! step, so that whoever asks for a roster and hears what comes after it in her inbox has missed nothing.
//!
//! A room with more than [`Limits::named`] users is large. Then nobody is named any more: the others are told
//! how many users there are on each node ([`Told::Number`](super::wire::Told::Number)), with every call that
//! changes it. The roster itself stays whole, so that the room can be named again when it has shrunk by a tenth
//! ([`Told::NamedAgain`](super::wire::Told::NamedAgain)). A user on two nodes counts twice in a large room.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script, ScriptInvocation};

use super::keys::Keys;
use super::lease::Lease;
use super::pages::{Pages, starting_with};
use super::wire;
use crate::chat::data::Data;
use crate::chat::names::{RoomName, UserName};
use crate::chat::presence::NAMED_USERS_MAX;
use crate::engines::shared::News;

/// A large room is named again when it has no more than so many users; below the limit, so that a room at the
/// limit does not go to and fro.
pub(super) const NAMED_AGAIN_BELOW: usize = NAMED_USERS_MAX - NAMED_USERS_MAX / 10;

/// Most users of an [`Op::All`] that is one step.
const USERS_AT_ONCE: usize = 2_000;
/// Users of a step when they are more.
const USERS_PER_STEP: usize = 1_000;
/// Entries of rosters after which an answer is continued in another step.
const ENTRIES_PER_ANSWER: usize = 4_000;

/// When a room is large.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most users that are named.
    pub named: usize,
    /// A large room with no more users than this is named again.
    pub again: usize,
}

impl Default for Limits {
    /// What a room tells its own members too: 1,000, and 900 to come back.
    fn default() -> Limits {
        Limits { named: NAMED_USERS_MAX, again: NAMED_AGAIN_BELOW }
    }
}

/// What is to be told of one room, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomNews {
    /// Which.
    pub room: RoomName,
    /// What.
    pub ops: Vec<Op>,
    /// Whether nobody is there on this node after that.
    pub empty: bool,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// As the contract has it.
    News(News),
    /// These and no others are there on this node. Only what Redis did not know is told.
    All(Vec<(UserName, Option<Arc<Data>>)>),
}

/// How a room is told of after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// With names.
    Named,
    /// With a number: call at most four times a second for it.
    Large,
}

/// Keeps who came and went, and tells everything to all other nodes that have joined the rooms: one message for
/// each. Answers for each room in turn. Fails with the code `LOST`, having done nothing, if the lease does not
/// hold this partition: [enter](super::reaping::enter) it again if the lease is still held, and tell [`Op::All`].
///
/// One step in Redis, but for rooms in which [`Op::All`] names thousands of users: those take a step for each
/// thousand, so that nobody else waits for long.
pub async fn tell(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    limits: Limits,
    news: &[RoomNews],
) -> RedisResult<Vec<Size>> {
    for RoomNews { room, ops, .. } in news {
        for op in ops {
            if let Op::All(users) = op
                && users.len() > USERS_AT_ONCE
            {
                settle(redis, keys, own, limits, room, users).await?;
            }
        }
    }
    let mut call = TELL.key(keys.owners());
    call.key(keys.rooms_of(own.slot));
    call.arg(own.stamp).arg(own.slot).arg(keys.publish()).arg(keys.inboxes());
    call.arg(wire::head(own.slot, own.stamp)).arg(limits.named).arg(limits.again);
    for RoomNews { room, ops, empty } in news {
        let is_settled = |op: &&Op| matches!(op, Op::All(users) if users.len() > USERS_AT_ONCE);
        call.key(keys.roster(room)).key(keys.numbers(room)).key(keys.meta(room));
        call.arg(room.as_str()).arg(u8::from(*empty));
        call.arg(ops.len() - ops.iter().filter(is_settled).count());
        for op in ops.iter().filter(|op| !is_settled(op)) {
            argue(&mut call, op);
        }
    }
    let large: Vec<bool> = call.invoke_async(redis).await?;
    Ok(large.into_iter().map(|large| if large { Size::Large } else { Size::Named }).collect())
}

/// [`Op::All`] in several steps: everybody comes, a thousand at a time, and then whoever else stands in the roster
/// goes, page by page.
async fn settle(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    limits: Limits,
    room: &RoomName,
    users: &[(UserName, Option<Arc<Data>>)],
) -> RedisResult<()> {
    let news = |ops| [RoomNews { room: room.clone(), ops, empty: false }];
    let here: HashSet<&str> = users.iter().map(|(user, _)| user.as_str()).collect();
    for some in users.chunks(USERS_PER_STEP) {
        let came = |(user, info): &(UserName, _)| Op::News(News::Came(user.clone(), Option::clone(info)));
        let step = news(some.iter().map(came).collect());
        Box::pin(tell(redis, keys, own, limits, &step)).await?;
    }
    let mine = format!("{}:", own.slot);
    let mut pages = Pages::new(keys.roster(room), starting_with(&mine));
    while let Some(page) = pages.next::<redis::Value>(redis).await? {
        let names = page.iter().filter_map(|(field, _)| field.strip_prefix(&mine));
        let others = names.filter(|name| !here.contains(name)).filter_map(|name| UserName::new(name).ok());
        let went: Vec<Op> = others.map(|user| Op::News(News::Went(user))).collect();
        if !went.is_empty() {
            Box::pin(tell(redis, keys, own, limits, &news(went))).await?;
        }
    }
    Ok(())
}

/// Three arguments for each, and three more for each user of [`Op::All`].
fn argue(call: &mut ScriptInvocation<'_>, op: &Op) {
    let json = |info: &Option<Arc<Data>>| info.as_ref().map_or(Vec::new(), |info| info.as_bytes().to_vec());
    match op {
        Op::News(News::Came(user, info)) => call.arg("+").arg(user.as_str()).arg(json(info)),
        Op::News(News::Went(user)) => call.arg("-").arg(user.as_str()).arg(""),
        Op::News(passing) => {
            let (kind, body) = wire::passing(passing).expect("who comes and goes was handled above");
            call.arg(".").arg(kind).arg(body)
        }
        Op::All(users) => {
            call.arg("=").arg(users.len()).arg("");
            for (user, info) in users {
                call.arg("*").arg(user.as_str()).arg(json(info));
            }
            call
        }
    };
}

/// Has the rosters of rooms sent into this node's own inbox, where they stand in order with the news: a frame with
/// [`Told::Roster`](super::wire::Told::Roster) for each room. Only for rooms that were joined before. After a cut
/// of Redis as a whole not at once but a second or two later: the others are just telling who is there with them,
/// and whoever has not would seem to be gone. Fails with the code `DEAF` if nobody listens to the inbox: subscribe
/// again, and join again.
pub async fn ask(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    own: Lease,
    rooms: &[RoomName],
) -> RedisResult<()> {
    let mut open = rooms;
    while !open.is_empty() {
        let mut call = ASK.key(keys.owners());
        call.arg(keys.publish()).arg(keys.inbox(own.slot)).arg(wire::head(own.slot, own.stamp)).arg(own.slot);
        call.arg(ENTRIES_PER_ANSWER);
        for room in open {
            call.key(keys.roster(room)).key(keys.numbers(room)).arg(room.as_str());
        }
        let answered: usize = call.invoke_async(redis).await?;
        open = &open[answered.clamp(1, open.len())..];
    }
    Ok(())
}

/// Makes a record of news, and a frame of the head and the records; see `wire.rs`.
pub(super) const RECORDS: &str = "
local function frame(content)
  return 'N' .. struct.pack('>I4', #content) .. content
end
local function record(kind, room, body)
  return struct.pack('>I4', 2 + #room + #body) .. string.char(kind, #room) .. room .. body
end";

/// KEYS 1 owners, 2 rooms of the slot, then for each room roster, numbers, meta. ARGV 1 stamp, 2 slot, 3 PUBLISH
/// or SPUBLISH, 4 start of the inboxes' names, 5 head of news, 6 most users that are named, 7 named again below,
/// then for each room its name, whether nobody is left there, the number of its ops and the ops, three arguments each: `+` user info, `-` user,
/// `.` kind body, `=` number of users, and as many times `*` user info. Returns for each room whether it is large.
static TELL: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[1] then
  return redis.error_reply('LOST the lease of this node is gone or taken')
end
local slot, most, again = ARGV[2], tonumber(ARGV[6]), tonumber(ARGV[7])
local mine = slot .. ':'
local boxes, order, sizes, a = {}, {}, {}, 8
local function send(who, list, without)
  if not who or #list == 0 then return end
  local text = table.concat(list)
  for n in string.gmatch(who, '%d+') do
    if n ~= without then
      local box = boxes[n]
      if not box then box = {ARGV[5]}; boxes[n] = box; order[#order + 1] = n end
      box[#box + 1] = text
    end
  end
end
for k = 3, #KEYS, 3 do
  local room, empty, ops, roster, numbers = ARGV[a], ARGV[a + 1] == '1', ARGV[a + 2], KEYS[k], KEYS[k + 1]
  local all, plain, moved, here = {}, {}, 0, false
  a = a + 3
  local function came(user, info)
    moved = moved + redis.call('HSET', roster, mine .. user, info)
    here = true
    all[#all + 1] = record(1, room, string.char(#user) .. user .. info)
  end
  local function went(user)
    moved = moved - redis.call('HDEL', roster, mine .. user)
    all[#all + 1] = record(2, room, string.char(#user) .. user)
  end
  for _ = 1, tonumber(ops) do
    local op, x, y = ARGV[a], ARGV[a + 1], ARGV[a + 2]
    a = a + 3
    if op == '+' then came(x, y)
    elseif op == '-' then went(x)
    elseif op == '.' then
      local text = record(tonumber(x), room, y)
      all[#all + 1] = text; plain[#plain + 1] = text
    else
      local old = {}
      for _, field in ipairs(redis.call('HKEYS', roster)) do
        if string.sub(field, 1, #mine) == mine then old[string.sub(field, #mine + 1)] = true end
      end
      for _ = 1, tonumber(x) do
        local user, info = ARGV[a + 1], ARGV[a + 2]
        a = a + 3
        if old[user] then redis.call('HSET', roster, mine .. user, info); old[user] = nil; here = true
        else came(user, info) end
      end
      for user in pairs(old) do went(user) end
    end
  end
  if empty then redis.call('SREM', KEYS[2], room)
  elseif here then redis.call('SADD', KEYS[2], room) end
  local who, total = redis.call('HGET', KEYS[k + 2], 'i'), redis.call('HLEN', roster)
  local large = redis.call('EXISTS', numbers) == 1
  if large and total <= again then
    redis.call('DEL', numbers)
    large = false
    send(who, plain, slot)
    send(who, {record(7, room, '')})
  elseif large then
    if moved ~= 0 then
      local n = math.max(0, redis.call('HINCRBY', numbers, slot, moved))
      if n == 0 then redis.call('HDEL', numbers, slot) end
      plain[#plain + 1] = record(6, room, struct.pack('>I4I4', tonumber(slot), n))
    end
    send(who, plain, slot)
  elseif total > most then
    local sums = {}
    for _, field in ipairs(redis.call('HKEYS', roster)) do
      local s = string.match(field, '^%d+')
      sums[s] = (sums[s] or 0) + 1
    end
    large = true
    send(who, plain, slot)
    for s, n in pairs(sums) do
      redis.call('HSET', numbers, s, n)
      send(who, {record(6, room, struct.pack('>I4I4', tonumber(s), n))}, s)
    end
  else
    send(who, all, slot)
  end
  sizes[#sizes + 1] = large and 1 or 0
end
for _, n in ipairs(order) do redis.call(ARGV[3], ARGV[4] .. n, frame(table.concat(boxes[n]))) end
return sizes";
    Script::new(&format!("{RECORDS}{body}"))
});

/// KEYS 1 owners, then for each room roster, numbers. ARGV 1 PUBLISH or SPUBLISH, 2 own inbox, 3 head of news, 4 own slot, 5
/// entries after which to stop, then the rooms. Returns how many of them were answered.
static ASK: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local own, stamps, entries = ARGV[4], {}, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do stamps[all[i]] = tonumber(all[i + 1]) end
for k = 2, #KEYS, 2 do
  local room, parts, holders, seen = ARGV[6 + (k - 2) / 2], {}, {}, {}
  -- who has no stamp is gone, and is being removed
  local function counts(slot)
    local stamp = stamps[slot]
    if slot == own or not stamp then return false end
    if not seen[slot] then
      seen[slot] = true
      holders[#holders + 1] = struct.pack('>I4I8', tonumber(slot), stamp)
    end
    return true
  end
  local large = redis.call('HGETALL', KEYS[k + 1])
  for i = 1, #large, 2 do
    if counts(large[i]) then
      parts[#parts + 1] = struct.pack('>I4I4', tonumber(large[i]), tonumber(large[i + 1]))
    end
  end
  if #large == 0 then
    local all = redis.call('HGETALL', KEYS[k])
    for i = 1, #all, 2 do
      local slot, user = string.match(all[i], '^(%d+):(.*)$')
      local info = all[i + 1]
      if counts(slot) then
        parts[#parts + 1] = struct.pack('>I4', tonumber(slot)) .. string.char(#user) .. user
          .. struct.pack('>I4', #info) .. info
      end
    end
  end
  local body = string.char(#large == 0 and 1 or 0) .. struct.pack('>I4', #holders)
    .. table.concat(holders) .. table.concat(parts)
  if redis.call(ARGV[1], ARGV[2], frame(ARGV[3] .. record(8, room, body))) == 0 then
    return redis.error_reply('DEAF nobody listens to the inbox of this node')
  end
  entries = entries + #parts
  if entries >= tonumber(ARGV[5]) then return k / 2 end
end
return (#KEYS - 1) / 2";
    Script::new(&format!("{RECORDS}{body}"))
});
