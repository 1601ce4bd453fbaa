//! The time, in three kinds, because the clock of a machine can jump: what people read, what waits are
//! measured with, and what may be forgotten. All in milliseconds; none of them blocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<(u64, Instant)> = OnceLock::new();

/// Server time for people and frames: Unix milliseconds, as the machine says now.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// For waits: Unix milliseconds of the process's start plus what has passed since. Never jumps, never goes
/// back; it may differ from [`wall_ms`] by as much as the machine's clock was set.
pub fn steady_ms() -> u64 {
    let (at_start, since) = START.get_or_init(|| (wall_ms(), Instant::now()));
    at_start + since.elapsed().as_millis() as u64
}

/// For ages at which something is forgotten: the older of the two. A clock that jumps in either direction so
/// makes things stay longer, never shorter.
pub fn cautious_ms() -> u64 {
    wall_ms().min(steady_ms())
}
