//! Patience with busy rooms, and what the log hears when Redis is away. Part of the queue actor.

use std::time::{Duration, Instant};

use crate::actors::redis_queue::RedisQueueParts;
use crate::chat::message::Refused;

/// While Redis is away the log says so again after this time.
const OUTAGE_LOG: Duration = Duration::from_secs(60);

/// Growing waits for busy rooms: what they ask for, at least 5 ms, doubled up to 500 ms.
#[derive(Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    wait_ms: u64,
}

impl Patience {
    const LONGEST_MS: u64 = 500;

    pub(super) fn next_wait(&mut self, refused: &Refused) -> Duration {
        self.since.get_or_insert_with(Instant::now);
        let asked = match refused {
            Refused::Busy { wait_ms } | Refused::NotStored { wait_ms } => *wait_ms,
            _ => Patience::LONGEST_MS,
        };
        self.wait_ms = (self.wait_ms * 2).clamp(5, Patience::LONGEST_MS);
        Duration::from_millis(self.wait_ms.max(asked.min(Patience::LONGEST_MS)))
    }

    pub(super) fn is_over(&self, limit: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() > limit)
    }
}

/// Tells the log once that no items can be taken, and once that they can be again.
pub(super) struct Outage {
    list: String,
    address: String,
    began: Option<Instant>,
    told: Instant,
    was_up: bool,
}

impl Outage {
    pub(super) fn new(parts: &RedisQueueParts) -> Outage {
        let (list, address) = (parts.keys.list().to_owned(), parts.link.to_string());
        Outage { list, address, began: None, told: Instant::now(), was_up: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.began.is_none()
    }

    pub(super) fn note(&mut self, why: &str) {
        let (list, address) = (&self.list, &self.address);
        // What redis answers may quote what others wrote into it.
        let why = why.escape_debug();
        match self.began {
            None => {
                self.began = Some(Instant::now());
                log::warn!("queue {list}: cannot take items from {address} ({why}), retrying");
            }
            Some(began) if self.told.elapsed() >= OUTAGE_LOG => {
                let seconds = began.elapsed().as_secs();
                log::warn!(
                    "queue {list}: still cannot take items from {address} after {seconds} s ({why}), retrying"
                );
            }
            Some(_) => return,
        }
        self.told = Instant::now();
    }

    /// What this node does now that Redis answers.
    pub(super) fn end(&mut self, doing: &str) {
        let (list, address) = (&self.list, &self.address);
        match self.began.take() {
            Some(began) => {
                let seconds = began.elapsed().as_secs_f32();
                log::info!("queue {list}: redis is back after {seconds:.1} s, {doing}");
            }
            None if !self.was_up => log::info!("queue {list}: {doing}, from {address}"),
            None => {}
        }
        self.was_up = true;
    }
}
