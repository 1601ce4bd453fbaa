//! Whether this node should get new visitors. Whoever can be away hands in a check; nobody is known here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Says why somebody cannot work just now, or nothing when all is well. Must not block.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether this node should get new visitors.
#[derive(Default)]
pub struct Readiness {
    draining: AtomicBool,
    checks: Mutex<Vec<(&'static str, Check)>>,
}

impl Readiness {
    /// Adds somebody who can be away, by the name that operators know him under.
    pub fn add(&self, name: &'static str, check: Check) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).push((name, check));
    }

    /// The server stops: not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the server stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why this node should get no new visitors; empty when it should.
    pub fn reasons(&self) -> Vec<String> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let failed =
            checks.iter().filter_map(|(name, check)| check().err().map(|why| format!("{name}: {why}")));
        self.is_draining().then(|| "draining".to_owned()).into_iter().chain(failed).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("reasons", &self.reasons()).finish()
    }
}
