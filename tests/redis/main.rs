//! Stories about everything by which backends push, with real Redis servers and real clients.
//! Each story starts its own servers on free ports and ends them, also when it fails.
//!
//! Needed on the path: redis-server, redis-sentinel, redis-cli, redis-benchmark, php with php-redis and
//! Predis, node. See `clients.rs` for the clients' packages.

mod busy;
mod clients;
mod crashes;
mod dead_letters;
mod door;
mod engine;
mod failover;
mod figures;
mod fixtures;
mod life;
mod life_notes;
mod nodes;
mod order;
mod pubsub;
mod streams;
mod turns;
