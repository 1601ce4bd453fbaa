//! Queues.
pub mod node;
pub mod payload;
pub mod redis_list;
pub mod settings;
