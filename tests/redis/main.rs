//! Stories about everything by which backends push, with real Redis servers and real clients.
//! Each story starts its own servers on free ports and ends them, also when it fails.
//!
//! Those about NATS, Amazon SQS and Google Pub/Sub are there with the features of these names, and need nats-server,
//! Python with moto (the one on the path, or beside the moto_server that `MOTO_SERVER` names), and Go, by which Google's
//! own stand-in is built.
//!
//! Needed on the path: redis-server, redis-sentinel, redis-cli, redis-benchmark, php with php-redis and
//! Predis, node. See `clients.rs` for the clients' packages.

mod busy;
mod clients;
mod crashes;
mod dead_letters;
mod door;
mod engine;
mod exactness;
mod failover;
mod figures;
mod fixtures;
#[cfg(feature = "pubsub")]
mod google;
mod life;
mod life_due;
mod life_notes;
mod life_rules;
mod lists;
#[cfg(feature = "nats")]
mod nats;
mod nodes;
mod order;
mod pubsub;
#[cfg(feature = "sqs")]
mod sqs;
mod streams;
#[cfg(any(feature = "nats", feature = "sqs", feature = "pubsub"))]
mod targets;
mod turns;
