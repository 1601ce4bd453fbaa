//! Patience with busy rooms, and what the log hears when a queue's server is away. Used by the actors that take
//! from queues.

use std::time::{Duration, Instant};

use crate::chat::message::Refused;

/// While a server is away the log says so again after this time.
const OUTAGE_LOG: Duration = Duration::from_secs(60);

/// Growing waits for busy rooms: what they ask for, at least 5 ms, doubled up to 500 ms.
#[derive(Default)]
pub struct Patience {
    since: Option<Instant>,
    wait_ms: u64,
}

impl Patience {
    const LONGEST_MS: u64 = 500;

    /// The next wait, for rooms that refused for this reason.
    pub fn next_wait(&mut self, refused: &Refused) -> Duration {
        self.since.get_or_insert_with(Instant::now);
        let asked = match refused {
            Refused::Busy { wait_ms } | Refused::NotStored { wait_ms } => *wait_ms,
            _ => Patience::LONGEST_MS,
        };
        self.wait_ms = (self.wait_ms * 2).clamp(5, Patience::LONGEST_MS);
        Duration::from_millis(self.wait_ms.max(asked.min(Patience::LONGEST_MS)))
    }

    /// Whether it has lasted longer than that.
    pub fn is_over(&self, limit: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() > limit)
    }
}

/// Tells the log once that no items can be taken, and once that they can be again.
pub struct Outage {
    queue: String,
    address: String,
    began: Option<Instant>,
    told: Instant,
    was_up: bool,
}

impl Outage {
    /// Of the queue of this name on this server; the address has no password in it.
    pub fn new(queue: &str, address: &str) -> Outage {
        let (queue, address) = (queue.to_owned(), address.to_owned());
        Outage { queue, address, began: None, told: Instant::now(), was_up: false }
    }

    /// Whether items can be taken, as far as is known.
    pub fn is_over(&self) -> bool {
        self.began.is_none()
    }

    /// An attempt failed.
    pub fn note(&mut self, why: &str) {
        let (queue, address) = (&self.queue, &self.address);
        // What a server answers may quote what others wrote into it.
        let why = why.escape_debug();
        match self.began {
            None => {
                self.began = Some(Instant::now());
                log::warn!("queue {queue}: cannot take items from {address} ({why}), retrying");
            }
            Some(began) if self.told.elapsed() >= OUTAGE_LOG => {
                let seconds = began.elapsed().as_secs();
                log::warn!(
                    "queue {queue}: still cannot take items from {address} after {seconds} s ({why}), retrying"
                );
            }
            Some(_) => return,
        }
        self.told = Instant::now();
    }

    /// What this node does now that the server answers.
    pub fn end(&mut self, doing: &str) {
        let (queue, address) = (&self.queue, &self.address);
        match self.began.take() {
            Some(began) => {
                let seconds = began.elapsed().as_secs_f32();
                log::info!("queue {queue}: the server is back after {seconds:.1} s, {doing}");
            }
            None if !self.was_up => log::info!("queue {queue}: {doing}, from {address}"),
            None => {}
        }
        self.was_up = true;
    }
}
