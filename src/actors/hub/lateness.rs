//! How late a worker's loop is: what everything else on its thread waits for. Owned by the hub, which has a beat anyway.

use std::time::{Duration, Instant};

/// Beats that are remembered: those of about ten seconds.
const BEATS: usize = 40;

/// Compares when beats come with when they were due.
#[derive(Debug)]
pub struct Lateness {
    last: Option<Instant>,
    late: [u32; BEATS],
    next: usize,
}

impl Default for Lateness {
    fn default() -> Lateness {
        Lateness { last: None, late: [0; BEATS], next: 0 }
    }
}

impl Lateness {
    /// A beat that was due `every` after the one before. The worst of the last beats, in microseconds.
    pub fn beat(&mut self, now: Instant, every: Duration) -> u64 {
        let Some(last) = self.last.replace(now) else { return 0 };
        let late = now.saturating_duration_since(last).saturating_sub(every);
        self.late[self.next] = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
        self.next = (self.next + 1) % BEATS;
        self.late.iter().copied().max().map_or(0, u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_the_last_beats_counts_and_is_forgotten() {
        let every = Duration::from_millis(250);
        let mut lateness = Lateness::default();
        let mut now = Instant::now();
        assert_eq!(lateness.beat(now, every), 0);
        now += every + Duration::from_millis(30);
        assert_eq!(lateness.beat(now, every), 30_000);
        for _ in 1..BEATS {
            now += every;
            assert_eq!(lateness.beat(now, every), 30_000);
        }
        now += every;
        assert_eq!(lateness.beat(now, every), 0);
        now += Duration::from_millis(1);
        assert_eq!(lateness.beat(now, every), 0, "early is not late");
    }
}
