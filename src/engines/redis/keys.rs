//! What things are called in Redis. One [`Keys`] per partition; every name begins with the configured prefix, and
//! all names of a partition share its tag, so that a Cluster keeps them on one server. Knows no connection.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::engines::shared::NodeSlot;

/// Partitions of a Cluster. Few, so that batches stay full; changing it moves every room.
pub const PARTITIONS: u32 = 16;

/// The partition of a name among so many: of a room, a user or a session. The same on every node and in every
/// version: the key of the hash is fixed.
pub fn partition_of(name: &str, partitions: u32) -> usize {
    if partitions <= 1 {
        return 0;
    }
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    (hasher.finish() % u64::from(partitions)) as usize
}

/// The names of one partition.
#[derive(Debug, Clone)]
pub struct Keys {
    base: String,
}

impl Keys {
    /// `prefix` is the configured one, without a colon.
    pub fn new(prefix: &str, partition: usize) -> Keys {
        Keys { base: format!("{prefix}:{{p{partition}}}") }
    }

    fn named(&self, kind: &str) -> String {
        format!("{}{kind}", self.base)
    }

    fn of_room(&self, kind: &str, room: &str) -> Vec<u8> {
        [self.base.as_bytes(), kind.as_bytes(), b":", room.as_bytes()].concat()
    }

    /// Whose turn it is: `epoch:run id`.
    pub fn fence(&self) -> String {
        self.named("f")
    }

    /// Exists while the epoch is young.
    pub fn young(&self) -> String {
        self.named("fy")
    }

    /// The stream that fills an archive.
    pub fn feed(&self) -> String {
        self.named("a")
    }

    /// How many entries this epoch has put into the feed.
    pub fn feed_count(&self) -> String {
        self.named("an")
    }

    /// How far the archive has come in the feed: `epoch-n`.
    pub fn feed_position(&self) -> String {
        self.named("ap")
    }

    /// Which node fills the archive from the feed.
    pub fn feed_turn(&self) -> String {
        self.named("at")
    }

    /// The stream of what leaves.
    pub fn leaving(&self) -> String {
        self.named("o")
    }

    /// How many entries were ever put into it.
    pub fn leaving_count(&self) -> String {
        self.named("on")
    }

    /// Where each target stands in it.
    pub fn leaving_places(&self) -> String {
        self.named("op")
    }

    /// When each target was last known to a node.
    pub fn leaving_seen(&self) -> String {
        self.named("os")
    }

    /// Which node brings entries to a target.
    pub fn leaving_turn(&self, target: &str) -> String {
        format!("{}ot:{target}", self.base)
    }

    /// When each node was last alive, by Redis' clock.
    pub fn signs(&self) -> String {
        self.named("l")
    }

    /// The repair that is going on.
    pub fn repair(&self) -> String {
        self.named("r")
    }

    /// Rooms with staged entries.
    pub fn staged_rooms(&self) -> String {
        self.named("rr")
    }

    /// Staged entries of a room.
    pub fn staged(&self, room: &str) -> Vec<u8> {
        self.of_room("rs", room)
    }

    /// Top, interest, lives, dedup bucket of a room.
    pub fn meta(&self, room: &str) -> Vec<u8> {
        self.of_room("t", room)
    }

    /// The newest entries of a room.
    pub fn history(&self, room: &str) -> Vec<u8> {
        self.of_room("h", room)
    }

    /// One of the two dedup buckets of a room.
    pub fn dedup(&self, bucket: u8, room: &str) -> Vec<u8> {
        self.of_room(if bucket == 0 { "d0" } else { "d1" }, room)
    }

    /// The newest change of each changed message of a room.
    pub fn changes(&self, room: &str) -> Vec<u8> {
        self.of_room("x", room)
    }

    /// Inbox channels without the number of the node.
    pub fn inboxes(&self) -> String {
        self.named("n:")
    }

    /// The inbox channel of a node.
    pub fn inbox(&self, node: NodeSlot) -> String {
        format!("{}n:{node}", self.base)
    }

    /// The channel that proves that a node's session lives on a server.
    pub fn session(&self, node: NodeSlot, nonce: u64) -> String {
        format!("{}n:{node}:{nonce:016x}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_spread_over_all_partitions_and_stay_there() {
        let at = |name: &str| partition_of(name, PARTITIONS);
        let mut seen = [0; PARTITIONS as usize];
        (0..1_600).for_each(|n| seen[at(&format!("room-{n}"))] += 1);
        assert!(seen.iter().all(|rooms| (50..=150).contains(rooms)), "{seen:?}");
        // Fixed for ever: another program version must find the same rooms.
        assert_eq!((at("lobby"), at("@ann+bob"), at("ä")), (LOBBY, DIRECT, UMLAUT));
        assert_eq!(partition_of("lobby", 1), 0);
    }

    const LOBBY: usize = 15;
    const DIRECT: usize = 11;
    const UMLAUT: usize = 12;

    #[test]
    fn all_names_begin_with_the_prefix_and_share_the_tag() {
        let keys = Keys::new("chat", 3);
        assert_eq!(keys.meta("a:b"), b"chat:{p3}t:a:b");
        assert_eq!(keys.inbox(7), "chat:{p3}n:7");
        assert_eq!(keys.session(7, 255), "chat:{p3}n:7:00000000000000ff");
        assert_ne!(keys.dedup(0, "x"), keys.dedup(1, "x"));
    }
}
