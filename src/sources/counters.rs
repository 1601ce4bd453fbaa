//! What a queue has done and whether it is well: numbers for /metrics and an answer for /readyz.
//! Written by the queue actors, read by anybody. Knows nothing of how the numbers are shown.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sources::poison::Reason;

/// The counters of one list, or of the door. All but the flags only ever grow.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Whether items can come: Redis is there and the lease is held, or the door is open.
    connected: AtomicBool,
    /// Whether this node is the one that takes items, or one of several.
    taking: AtomicBool,
    /// Whether a batch waits because the rooms are busy.
    waiting: AtomicBool,
    taken: AtomicU64,
    accepted: AtomicU64,
    repeated: AtomicU64,
    connects: AtomicU64,
    waits: AtomicU64,
    adopted: AtomicU64,
    dead_forgotten: AtomicU64,
    lost: AtomicU64,
    /// Items in the list when it was last looked at.
    backlog: AtomicU64,
    /// How old the newest taken item was, in milliseconds.
    age_ms: AtomicU64,
    dead: [AtomicU64; Reason::ALL.len()],
}

macro_rules! counters {
    ($($(#[$doc:meta])* $read:ident, $count:ident;)*) => {$(
        $(#[$doc])*
        pub fn $read(&self) -> u64 {
            self.$read.load(Ordering::Relaxed)
        }

        /// Counts up the number of the same name.
        pub fn $count(&self, n: u64) {
            self.$read.fetch_add(n, Ordering::Relaxed);
        }
    )*};
}

impl QueueCounters {
    counters! {
        /// Items taken out of the queue, repeats after a crash among them.
        taken, count_taken;
        /// Items that a room has accepted.
        accepted, count_accepted;
        /// Accepted items that the room knew already; nothing was said again.
        repeated, count_repeated;
        /// How often a connection to Redis was built, one more than reconnects; connections to the door.
        connects, count_connects;
        /// How often a batch had to wait for the rooms.
        waits, count_waits;
        /// Items taken over from a node that was gone.
        adopted, count_adopted;
        /// Dead letters dropped because there were too many.
        dead_forgotten, count_dead_forgotten;
        /// Items that a source without acknowledgements dropped because they came faster than the rooms took them.
        lost, count_lost;
    }

    /// Whether items can come.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Says whether items can come.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether this node takes items; `false` while it stands by because it is another one's turn.
    pub fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// Says whether this node takes items.
    pub fn set_taking(&self, taking: bool) {
        self.taking.store(taking, Ordering::Relaxed);
    }

    /// Whether a batch waits because the rooms are busy.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Says whether a batch waits.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Items in the list when it was last looked at, every few seconds.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Notes how many items wait in the list.
    pub fn set_backlog(&self, items: u64) {
        self.backlog.store(items, Ordering::Relaxed);
    }

    /// How old the item taken last was when it was taken, in milliseconds, where its queue tells.
    pub fn age_ms(&self) -> u64 {
        self.age_ms.load(Ordering::Relaxed)
    }

    /// Notes how old an item was when it was taken.
    pub fn set_age_ms(&self, age_ms: u64) {
        self.age_ms.store(age_ms, Ordering::Relaxed);
    }

    /// Counts a dead letter.
    pub fn count_dead(&self, reason: Reason) {
        self.dead[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Dead letters by reason.
    pub fn dead(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.dead[reason as usize].load(Ordering::Relaxed)))
    }

    /// All dead letters.
    pub fn dead_total(&self) -> u64 {
        self.dead().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_counted_by_reason() {
        let counters = QueueCounters::default();
        for reason in Reason::ALL {
            assert_eq!(Reason::ALL[reason as usize], reason, "the order of ALL is that of the counters");
        }
        counters.count_dead(Reason::Refused);
        counters.count_dead(Reason::Refused);
        counters.count_dead(Reason::TooBig);
        let seen: Vec<_> = counters.dead().filter(|(_, count)| *count > 0).collect();
        assert_eq!(seen, [(Reason::TooBig, 1), (Reason::Refused, 2)]);
        assert_eq!(counters.dead_total(), 3);
    }
}
