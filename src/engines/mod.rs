//! How what rooms accept is kept, on this node or on several. The chat server knows the contract only.

pub mod embedded;
pub mod engine;
pub mod redis;
pub mod shared;
