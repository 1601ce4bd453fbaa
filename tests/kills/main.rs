//! The real server is killed, as `kill -9` does, between taking items from a queue and having them forgotten there. No
//! item is lost, none is said twice, and their order is kept where the queue keeps one.
//!
//! Each queue's service is the real one (Redis, NATS) or the stand-in that its own maker or its users have (Google's for
//! Pub/Sub, moto for SQS). A relay stands between it and the server, sees items and acknowledgements pass, and kills at
//! the worst moments.
//!
//! Needs what `tests/redis` needs. `ROOMCAST_SOURCE_KILLS` says how often the server is killed for each queue.

#[cfg(feature = "pubsub")]
mod google;
mod list;
#[cfg(feature = "nats")]
mod nats;
mod redis;
mod relay;
#[cfg(feature = "sqs")]
mod sqs;
mod story;
mod streams;
mod verdict;
