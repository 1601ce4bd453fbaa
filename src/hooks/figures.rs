//! What hooks count. Written by whoever posts and asks, shown by the wiring.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// About events.
#[derive(Debug, Default)]
pub struct PostFigures {
    /// Events that the backend has taken.
    pub sent: AtomicU64,
    /// Requests that it has taken.
    pub requests: AtomicU64,
    /// Requests that will be made again: no answer in time, or "not now".
    pub retried: AtomicU64,
    /// Events that went among the dead letters.
    pub failed: AtomicU64,
    /// Events that were dropped because too many waited.
    pub dropped: AtomicU64,
    /// Events that wait.
    pub waiting: AtomicU64,
    /// Bytes of those that wait and of dead letters.
    pub bytes: AtomicU64,
    /// When the oldest event that waits happened, Unix milliseconds; 0 while none waits.
    pub oldest_ms: AtomicU64,
    /// 1 while the last request was taken.
    pub reached: AtomicU64,
}

/// About questions of one kind.
#[derive(Debug, Default)]
pub struct AskFigures {
    /// Answered with yes, changes among them.
    pub allowed: AtomicU64,
    /// Answered with no.
    pub refused: AtomicU64,
    /// Without an answer in time, or with one that cannot be read.
    pub failed: AtomicU64,
    /// Not asked, because too many were without an answer.
    pub turned_away: AtomicU64,
    /// Microseconds that all answers together took.
    pub waited_us: AtomicU64,
}

/// About all questions.
#[derive(Debug, Default)]
pub struct AllAskFigures {
    /// Before somebody comes in.
    pub connect: AskFigures,
    /// Before somebody enters a room.
    pub join: AskFigures,
    /// Before something is said.
    pub publish: AskFigures,
    /// Questions without an answer now.
    pub open: AtomicU64,
}

impl PostFigures {
    /// What waits now.
    pub fn note_waiting(&self, events: u64, bytes: u64, oldest_ms: u64) {
        self.waiting.store(events, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.oldest_ms.store(oldest_ms, Relaxed);
    }
}
