//! One clock for all connections of a thread: who has to be looked at, and when.
//! Owned by the hub. A timer for each connection would cost three hundred bytes each.

/// Length of one slot, in milliseconds: how late somebody may be looked at.
pub const TICK_MS: u64 = 250;
/// Slots; what lies further ahead is looked at once around and put back.
const SLOTS: usize = 256;

/// A ring of slots of [`TICK_MS`] each, holding keys of whoever is due then.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// The tick up to which (excluding) everything was taken.
    next_tick: u64,
}

impl<K> Wheel<K> {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Wheel<K> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next_tick: now_ms / TICK_MS }
    }

    /// Puts `key` where it comes up at `due_ms` or up to one tick later; at most one round ahead. Whoever
    /// takes it looks again at what is really due.
    pub fn schedule(&mut self, due_ms: u64, key: K) {
        let tick = due_ms.div_ceil(TICK_MS).clamp(self.next_tick, self.next_tick + SLOTS as u64 - 1);
        self.slots[(tick % SLOTS as u64) as usize].push(key);
    }

    /// Takes who has come up.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<K> {
        let mut due = Vec::new();
        let now_tick = now_ms / TICK_MS;
        // After a long pause every slot is due, and no slot twice.
        let end = now_tick.min(self.next_tick + SLOTS as u64 - 1);
        while self.next_tick <= end {
            due.append(&mut self.slots[(self.next_tick % SLOTS as u64) as usize]);
            self.next_tick += 1;
        }
        self.next_tick = self.next_tick.max(now_tick + 1);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_up_once_and_not_too_early() {
        let mut wheel = Wheel::new(10_000);
        for due in [10_000, 10_001, 11_000, 70_000] {
            wheel.schedule(due, due);
        }
        let mut seen = Vec::new();
        for now in (10_000..80_000).step_by(100) {
            for due in wheel.take_due(now) {
                assert!(now >= due && now <= due + TICK_MS + 100, "{due} came at {now}");
                seen.push(due);
            }
        }
        assert_eq!(seen, [10_000, 10_001, 11_000, 70_000]);
    }

    #[test]
    fn after_a_long_pause_all_come_up() {
        let mut wheel = Wheel::new(0);
        wheel.schedule(5_000, "a");
        wheel.schedule(10_000_000, "far ahead");
        assert_eq!(wheel.take_due(9_000_000), ["a", "far ahead"]);
        assert!(wheel.take_due(9_100_000).is_empty());
    }
}
