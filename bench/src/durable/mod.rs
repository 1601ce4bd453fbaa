//! How many messages a second survive a power cut, and how long each waits for that: the disk alone, the journal alone,
//! SQLite alone, and the whole server. Called by the scenario `durable`; each part keeps a given number of messages
//! under way, no more and no less, for a given time.

pub mod disk;
pub mod journal;
pub mod server;
pub mod sqlite;

use serde::Serialize;

use crate::histogram::Histogram;

/// Bytes of a message's line: a chat line with what the protocol puts around it.
pub const LINE_BYTES: usize = 200;
/// Rooms that the messages go to in turn, where there is no server.
pub const ROOMS: u64 = 1_000;

/// What one part achieved.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Achieved {
    /// Messages that were durable, a second.
    pub per_s: f64,
    /// From handing one over until it was known to be durable.
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Achieved {
    /// From the waits of all messages within `seconds`.
    pub fn of(waits_ns: &Histogram, seconds: f64) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        Self {
            per_s: waits_ns.total() as f64 / seconds,
            p50_us: us(waits_ns.quantile(0.5)),
            p99_us: us(waits_ns.quantile(0.99)),
            max_us: us(waits_ns.max()),
        }
    }
}
