//! Waits between attempts to reach something that is away.

use std::time::Duration;

/// Growing waits between attempts: 50 ms, doubled up to 500 ms, each shortened by up to half at random so
/// that many nodes do not come back in step.
#[derive(Debug)]
pub struct Backoff(u64);

impl Backoff {
    const FIRST_MS: u64 = 50;
    const LAST_MS: u64 = 500;

    /// Starts with the shortest wait.
    pub fn new() -> Backoff {
        Backoff(Backoff::FIRST_MS)
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Backoff::LAST_MS);
        Duration::from_millis(rand::random_range(wait / 2..=wait))
    }

    /// Things went well; starts again with the shortest wait.
    pub fn reset(&mut self) {
        self.0 = Backoff::FIRST_MS;
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..20).map(|_| backoff.next_wait().as_millis()).collect();
        assert!((25..=50).contains(&waits[0]) && (50..=100).contains(&waits[1]), "{waits:?}");
        assert!(waits[5..].iter().all(|wait| (250..=500).contains(wait)), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait().as_millis() <= 50);
    }
}
