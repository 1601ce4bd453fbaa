//! What forwarding to a target has done and how far it is behind: numbers for /metrics. Written by forwarders, read by
//! anybody. Knows nothing of how the numbers are shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of one target on this node. Several forwarders may share them, one a partition.
#[derive(Debug, Default)]
pub struct ForwardCounters {
    forwarded: AtomicU64,
    retries: AtomicU64,
    dead: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicU64,
    behind_ms: AtomicU64,
    serving: AtomicU64,
    troubled: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $read:ident, $count:ident;)*) => {$(
        $(#[$doc])*
        pub fn $read(&self) -> u64 {
            self.$read.load(Relaxed)
        }

        /// Counts up the number of the same name.
        pub fn $count(&self, n: u64) {
            self.$read.fetch_add(n, Relaxed);
        }
    )*};
}

impl ForwardCounters {
    counters! {
        /// Entries that the target has taken, repeats after a crash among them.
        forwarded, count_forwarded;
        /// How often something had to be tried again, because the target or the feed was away.
        retries, count_retries;
        /// Entries that the target can never take, put among the dead letters.
        dead, count_dead;
        /// Entries that were forgotten before the target had them.
        lost, count_lost;
    }

    /// Entries that wait for the target, as far as this node serves it; looked at every few seconds.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// How old the oldest entry is that waits, in milliseconds, as far as this node serves the target.
    pub fn behind_ms(&self) -> u64 {
        self.behind_ms.load(Relaxed)
    }

    /// For how many partitions this node serves the target; 0: others do.
    pub fn serving(&self) -> u64 {
        self.serving.load(Relaxed)
    }

    /// Whether entries reach the target, by this node or by another one.
    pub fn is_connected(&self) -> bool {
        self.troubled.load(Relaxed) == 0
    }
}

/// One forwarder's part in the gauges of its target. What it has added goes when it is dropped.
#[derive(Debug)]
pub struct Share {
    counters: Arc<ForwardCounters>,
    waiting: u64,
    behind_ms: u64,
    serves: bool,
    is_troubled: bool,
}

impl Share {
    /// One that cannot reach its target yet.
    pub fn new(counters: Arc<ForwardCounters>) -> Share {
        counters.troubled.fetch_add(1, Relaxed);
        Share { counters, waiting: 0, behind_ms: 0, serves: false, is_troubled: true }
    }

    /// The counters.
    pub fn all(&self) -> &ForwardCounters {
        &self.counters
    }

    /// Whether all is well, as far as this node can tell.
    pub fn set_well(&mut self, is_well: bool) {
        if self.is_troubled == is_well {
            self.is_troubled = !is_well;
            change(&self.counters.troubled, u64::from(is_well), u64::from(!is_well));
        }
    }

    /// Whether this node serves the target.
    pub fn set_serves(&mut self, serves: bool) {
        change(&self.counters.serving, self.serves.into(), serves.into());
        self.serves = serves;
        if !serves {
            self.set_waiting(0);
            self.set_behind_ms(0);
        }
    }

    /// How many entries wait.
    pub fn set_waiting(&mut self, entries: u64) {
        change(&self.counters.waiting, self.waiting, entries);
        self.waiting = entries;
    }

    /// How old the oldest of them is. The counters show the newest word of any forwarder.
    pub fn set_behind_ms(&mut self, behind_ms: u64) {
        if behind_ms > 0 || self.behind_ms > 0 {
            self.counters.behind_ms.store(behind_ms, Relaxed);
        }
        self.behind_ms = behind_ms;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_serves(false);
        self.set_well(true);
    }
}

fn change(figure: &AtomicU64, old: u64, new: u64) {
    figure.fetch_add(new, Relaxed);
    figure.fetch_sub(old, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarders_share_the_gauges_of_a_target() {
        let counters = Arc::new(ForwardCounters::default());
        let mut shares = [Share::new(counters.clone()), Share::new(counters.clone())];
        assert!(!counters.is_connected());
        for share in &mut shares {
            share.set_well(true);
            share.set_serves(true);
            share.set_waiting(5);
        }
        shares[0].set_waiting(2);
        assert_eq!((counters.is_connected(), counters.serving(), counters.waiting()), (true, 2, 7));
        let [first, second] = shares;
        drop(first);
        assert_eq!((counters.is_connected(), counters.serving(), counters.waiting()), (true, 1, 5));
        drop(second);
        assert_eq!((counters.serving(), counters.waiting(), counters.behind_ms()), (0, 0, 0));
    }
}
