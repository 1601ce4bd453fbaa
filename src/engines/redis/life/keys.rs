//! The names of the keys and channels of one partition, as far as they are not those of the logs. Used by
//! everything here, so that no name is put together twice. Knows no command.

use crate::chat::names::{BadName, RoomName, UserName};
use crate::engines::shared::NodeSlot;

/// Names of one partition's keys. All of them share one Cluster slot: `<prefix>:{p3}m:lobby`. What is variable
/// stands last, so that it may hold any character and two keys are never the same by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    base: String,
    sharded: bool,
}

impl Keys {
    /// Those of a partition. `sharded`: in a Cluster, where channels belong to partitions too. A prefix with
    /// braces is refused, because they would decide where the keys live.
    pub fn new(prefix: &str, partition: u32, sharded: bool) -> Result<Keys, BadName> {
        if prefix.is_empty() || prefix.len() > 128 || prefix.chars().any(char::is_control) {
            return Err(BadName("a key prefix has 1 to 128 bytes and no control characters; change it"));
        }
        if prefix.contains(['{', '}']) {
            return Err(BadName("a key prefix has no braces, the hash tag is made here; take them out"));
        }
        Ok(Keys { base: format!("{prefix}:{{p{partition}}}"), sharded })
    }

    /// The command that speaks to a channel of this partition.
    pub fn publish(&self) -> &'static str {
        if self.sharded { "SPUBLISH" } else { "PUBLISH" }
    }

    /// What the names of all inboxes start with; the slot follows.
    pub fn inboxes(&self) -> String {
        format!("{}n:", self.base)
    }

    /// The channel on which everything for a node arrives.
    pub fn inbox(&self, slot: NodeSlot) -> String {
        format!("{}n:{slot}", self.base)
    }

    /// Hash: slot -> who has it. On partition 0 only, as the next five.
    pub fn slots(&self) -> String {
        format!("{}L", self.base)
    }

    /// Hash: when somebody last looked after the leases, how many commands there were, and how many changes of rules;
    /// see `rules.rs`.
    pub fn pulse(&self) -> String {
        format!("{}P", self.base)
    }

    /// Hash: slot -> the name of the node that has it or had it last, for people.
    pub fn names(&self) -> String {
        format!("{}names", self.base)
    }

    /// Stream of the newest commands.
    pub fn commands(&self) -> String {
        format!("{}C", self.base)
    }

    /// Hash: room -> its rules, as JSON.
    pub fn rules(&self) -> String {
        format!("{}rules", self.base)
    }

    /// Sorted set: room -> number of the change of its rules that the archive lacks.
    pub fn rules_due(&self) -> String {
        format!("{}duer", self.base)
    }

    /// What the names of hashes start with in which nodes put together the rules that they remember; the slot follows.
    pub fn rules_staged(&self) -> String {
        format!("{}rulesR:", self.base)
    }

    /// Sorted set: which read mark or session -> number of the note that the archive lacks.
    pub fn due(&self) -> String {
        format!("{}due", self.base)
    }

    /// Hash: `n` notes that were ever due, `dropped` how many of them had no place.
    pub fn due_count(&self) -> String {
        format!("{}duen", self.base)
    }

    /// What all names of the partition start with.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Hash: slot -> stamp of the lease that may write here under it, or `F` and the stamp of the last one.
    pub fn owners(&self) -> String {
        format!("{}O", self.base)
    }

    /// Set: the rooms in which something stands under a slot.
    pub fn rooms_of(&self, slot: NodeSlot) -> String {
        format!("{}N:{slot}", self.base)
    }

    /// Hash: room -> sessions there on a node.
    pub fn counts(&self, slot: NodeSlot) -> String {
        format!("{}c:{slot}", self.base)
    }

    /// Hash of a room's log. Its field `i` has the slots that want to hear of the room, as `3,7,12`; all else in it
    /// is none of the business here.
    pub fn meta(&self, room: &RoomName) -> String {
        format!("{}t:{}", self.base, room.as_str())
    }

    /// Hash: `slot:user` -> what her token says about her, or nothing.
    pub fn roster(&self, room: &RoomName) -> String {
        format!("{}m:{}", self.base, room.as_str())
    }

    /// Hash: slot -> users there; only while a room is large.
    pub fn numbers(&self, room: &RoomName) -> String {
        format!("{}k:{}", self.base, room.as_str())
    }

    /// Hash: user -> offset; and without a name, what is known of the others, see `recalls.rs`.
    pub fn reads(&self, room: &RoomName) -> String {
        format!("{}r:{}", self.base, room.as_str())
    }

    /// Sorted set: user -> when she read, Unix milliseconds.
    pub fn read_times(&self, room: &RoomName) -> String {
        format!("{}w:{}", self.base, room.as_str())
    }

    /// Where a session stands. In the partition of its name.
    pub fn session(&self, session: &str) -> String {
        format!("{}s:{session}", self.base)
    }

    /// Sorted set: room -> when the user last had to do with it. In the partition of the user's name.
    pub fn rooms_of_user(&self, user: &UserName) -> String {
        format!("{}u:{}", self.base, user.as_str())
    }

    /// Hash: room -> offset, for the rooms of a user; and without a name, as above. In the partition of the user's name.
    pub fn reads_of_user(&self, user: &UserName) -> String {
        format!("{}v:{}", self.base, user.as_str())
    }
}

#[cfg(test)]
mod tests {
    use redis::cluster_routing::Slot;

    use super::*;

    #[test]
    fn whatever_a_name_holds_the_keys_share_a_slot() {
        let keys = Keys::new("rc", 3, true).unwrap();
        let slot = Slot::for_key("{p3}");
        for text in ["lobby", "{p4}", "}{", "a:b", "größe", "{}"] {
            let (room, user) = (RoomName::new(text).unwrap(), UserName::new(text).unwrap());
            for key in [
                keys.meta(&room),
                keys.roster(&room),
                keys.reads(&room),
                keys.session(text),
                keys.rooms_of_user(&user),
                keys.inbox(7),
            ] {
                assert_eq!(Slot::for_key(&key), slot, "{key}");
            }
        }
        assert_eq!(keys.roster(&RoomName::new("lobby").unwrap()), "rc:{p3}m:lobby");
        assert_eq!(keys.inbox(12), "rc:{p3}n:12");
    }

    #[test]
    fn a_prefix_that_would_move_the_keys_is_refused() {
        for prefix in ["", "a{b}", "a}", "a\n", &"x".repeat(129)] {
            assert!(Keys::new(prefix, 0, false).is_err(), "{prefix:?}");
        }
    }
}
