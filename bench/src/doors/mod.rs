//! Clients of the other doors: readers over WebSocket, event stream and long poll, and backends that push over HTTP, RESP
//! and Redis. Simpler than `client/`, which measures latency as well; these only count. Called by `scenarios/doors.rs`.

pub mod pushers;
pub mod readers;
