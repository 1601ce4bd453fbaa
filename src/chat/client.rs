//! How fast one session may speak. Called by the session with the time as a value.

/// A token bucket: `per_second` tokens a second, at most one second's worth saved up.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Tokens left, in thousandths.
    left: u64,
    at_ms: u64,
    refused: u32,
}

/// What a session that spoke too fast has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// When the next one is welcome, in milliseconds.
    pub wait_ms: u64,
    /// How many were refused in a row since the bucket was last full.
    pub refused: u32,
}

impl Pace {
    /// A full bucket.
    pub fn new(per_second: u32, now_ms: u64) -> Pace {
        Pace { left: u64::from(per_second) * 1_000, at_ms: now_ms, refused: 0 }
    }

    /// Takes one token. `per_second` = 0 means no limit.
    pub fn take(&mut self, per_second: u32, now_ms: u64) -> Result<(), TooFast> {
        if per_second == 0 {
            return Ok(());
        }
        let rate = u64::from(per_second);
        let full = rate * 1_000;
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate);
        self.left = (self.left + gained).min(full);
        self.at_ms = self.at_ms.max(now_ms);
        if self.left == full {
            self.refused = 0;
        }
        if self.left >= 1_000 {
            self.left -= 1_000;
            return Ok(());
        }
        self.refused = self.refused.saturating_add(1);
        Err(TooFast { wait_ms: (1_000 - self.left).div_ceil(rate).max(1), refused: self.refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_is_fine_then_it_is_the_rate() {
        let mut pace = Pace::new(20, 0);
        let at_once = (0..100).filter(|_| pace.take(20, 0).is_ok()).count();
        assert_eq!(at_once, 20);
        assert_eq!(pace.take(20, 10).unwrap_err().wait_ms, 40);
        assert!(pace.take(20, 50).is_ok(), "the wait it named was enough");
        assert!(pace.take(20, 51).is_err());
        assert_eq!(pace.take(20, 100_000), Ok(()));
        assert_eq!(pace.refused, 0, "a full bucket forgives");
    }

    #[test]
    fn zero_means_no_limit() {
        let mut pace = Pace::new(0, 0);
        assert!((0..10_000).all(|_| pace.take(0, 0).is_ok()));
    }
}
