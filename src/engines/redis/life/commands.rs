//! What operators have all nodes do: sent to the inbox of every slot on partition 0, and kept for a minute, so that
//! a node whose inbox was cut in that moment makes up for it. Called by the task of partition 0.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::wire::{self, Order};
use crate::engines::shared::Command;

/// Most commands that are kept for nodes that have missed them.
const KEPT: usize = 256;
/// A command that is older is not made up for: meanwhile its user may have come back for good reasons.
const KEPT_MS: u64 = 60_000;

/// Has all nodes carry out a command, this one included. Returns how many were reached at once; the others hear
/// of it by their next tick.
pub async fn send(redis: &mut impl ConnectionLike, keys: &Keys, command: &Command) -> RedisResult<u64> {
    let mut call = SEND.key(keys.slots());
    call.key(keys.pulse()).key(keys.commands());
    call.arg(keys.publish()).arg(keys.inboxes()).arg(wire::command(command)).arg(KEPT);
    call.invoke_async(redis).await
}

/// The commands after a number that are not older than a minute, with their numbers, oldest first.
pub async fn missed(
    redis: &mut impl ConnectionLike,
    keys: &Keys,
    after: u64,
) -> RedisResult<Vec<(u64, Command)>> {
    let mut call = MISSED.key(keys.commands());
    let list: Vec<(u64, Vec<u8>)> = call.arg(after).arg(KEPT_MS).invoke_async(redis).await?;
    let mut commands = Vec::new();
    for (number, body) in list {
        match wire::order_body(number, &body) {
            Ok(Order::Command(number, command)) => commands.push((number, command)),
            // Written by a later version of this program.
            Ok(Order::Left(..)) => log::warn!("command {number} is not carried out: it is none"),
            Err(why) => log::warn!("command {number} is not carried out: {why}"),
        }
    }
    Ok(commands)
}

/// Which commands this node has carried out. Knows no connection.
#[derive(Debug, Default)]
pub struct Done {
    upto: Option<u64>,
}

impl Done {
    /// A command has come in a frame. Returns whether to carry it out. If some before it are missing, it waits
    /// for them: after the next tick it is among the [`missed`] ones.
    pub fn is_new(&mut self, number: u64) -> bool {
        let is_next = self.upto.is_some_and(|upto| number == upto + 1);
        if is_next {
            self.upto = Some(number);
        }
        is_next
    }

    /// One of the [`missed`] commands. Returns whether to carry it out.
    pub fn make_up(&mut self, number: u64) -> bool {
        let is_later = self.upto.is_none_or(|upto| number > upto);
        if is_later {
            self.upto = Some(number);
        }
        is_later
    }

    /// A tick has told the number of the newest command. Returns after which number to ask for [`missed`] ones;
    /// [`Done::make_up`] for each of them and [`Done::made_up`] with that newest number follow.
    pub fn ticked(&mut self, newest: u64) -> Option<u64> {
        match self.upto {
            Some(upto) if upto < newest => Some(upto),
            // The first tick, or Redis has forgotten: what was before is not this node's business.
            None => {
                self.upto = Some(newest);
                None
            }
            Some(upto) if upto > newest => {
                self.upto = Some(newest);
                None
            }
            Some(_) => None,
        }
    }

    /// All commands up to this number were carried out, or are too old.
    pub fn made_up(&mut self, upto: u64) {
        self.upto = self.upto.max(Some(upto));
    }
}

/// KEYS 1 slots, 2 pulse, 3 commands. ARGV 1 PUBLISH or SPUBLISH, 2 start of the inboxes' names, 3 kind and body,
/// 4 how many are kept. Returns how many were reached.
static SEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local number = tonumber(redis.call('HGET', KEYS[2], 'command') or 0) + 1
-- whatever became of the hash: ids of a stream only grow
local top = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
if top then number = math.max(number, string.match(top[1], '^%d+') + 1) end
redis.call('HSET', KEYS[2], 'command', number)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], number .. '-1', 't', now, 'c', ARGV[3])
local frame, reached = 'C' .. struct.pack('>I4I8', 8 + #ARGV[3], number) .. ARGV[3], 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i + 1], 1, 1) == 'T' then
    reached = reached + redis.call(ARGV[1], ARGV[2] .. all[i], frame)
  end
end
return reached",
    )
});

/// KEYS 1 commands. ARGV 1 number, 2 greatest age in ms. Returns number and body of those that came later.
static MISSED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local list = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], string.format('%.0f-2', ARGV[1]), '+')) do
  local fields = entry[2]
  if now - fields[2] <= tonumber(ARGV[2]) then
    list[#list + 1] = {string.match(entry[1], '^%d+'), fields[4]}
  end
end
return list",
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_carried_out_once() {
        let mut done = Done::default();
        assert!(!done.is_new(7), "before the first tick nothing is known");
        assert_eq!(done.ticked(7), None);
        assert!(done.is_new(8) && !done.is_new(8));
        assert_eq!(done.ticked(8), None);
        assert!(!done.is_new(10), "9 was missed");
        assert_eq!(done.ticked(10), Some(8));
        assert!(done.make_up(9) && done.is_new(10) && !done.make_up(10));
        done.made_up(10);
        assert_eq!(done.ticked(10), None);
        assert_eq!(done.ticked(0), None, "Redis has forgotten");
        assert!(done.is_new(1));
    }

    #[test]
    fn what_is_too_old_is_passed_over() {
        let mut done = Done::default();
        done.ticked(3);
        assert_eq!(done.ticked(300), Some(3));
        assert!(done.make_up(299));
        done.made_up(300);
        assert!(!done.make_up(300) && done.is_new(301));
    }
}
