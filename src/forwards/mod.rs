//! The way out: what rooms accept goes on to lists, streams and queues of others, and waits there to be worked on. A
//! feed tells what comes next and remembers how far a target is; a target takes entries and says which it has for
//! sure. Called by the forwarders; knows room names and entries, neither sessions nor how a room is run.

pub mod counters;
pub mod feed;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "pubsub")]
pub mod pubsub;
pub mod redis_list;
pub mod redis_stream;
#[cfg(any(feature = "nats", feature = "sqs", feature = "pubsub"))]
mod runs;
pub mod settings;
#[cfg(feature = "sqs")]
pub mod sqs;
pub mod target;
