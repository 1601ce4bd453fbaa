//! Roomcast: rooms for browsers, pushes from backends, one order for everybody.
//!
//! The binary is a thin door over this library. A program of its own may build a server with handlers
//! for the four events through [`wiring::Roomcast`].
#![warn(missing_docs)]

pub mod actors;
pub mod auth;
pub mod chat;
pub mod cli;
pub mod clock;
#[cfg(any(feature = "sqs", feature = "pubsub"))]
pub mod clouds;
pub mod collector;
pub mod config;
pub mod engines;
pub mod forwards;
pub mod hooks;
pub mod http;
pub mod http_client;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod protocols;
pub mod redis_link;
pub mod server_settings;
pub mod sources;
pub mod store;
pub mod traces;
pub mod transports;
pub mod units;
pub mod wiring;
