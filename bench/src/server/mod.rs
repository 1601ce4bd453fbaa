//! The other side of a measurement: the server's process. Owns starting and stopping it and reading from /proc what it
//! costs. Called by the scenarios and `measure.rs`; knows nothing of rooms or messages.

pub mod http;
pub mod process;
pub mod procfs;
pub mod redis;
pub mod syscalls;
