//! Queues that backends push into, and the RESP door: how an item is taken, read and given back.
//! Called by the queue actors. Knows drafts, but neither rooms nor sessions.

pub mod counters;
pub mod dead_letters;
pub mod door_commands;
pub mod door_turn;
pub mod list_keys;
mod list_scripts;
#[cfg(feature = "nats")]
pub mod nats;
pub mod node;
pub mod payload;
pub mod poison;
#[cfg(feature = "pubsub")]
pub mod pubsub;
pub mod redis_list;
pub mod redis_pubsub;
pub mod redis_stream;
pub mod redis_turn;
pub mod replies;
pub mod resp;
pub mod resp_door;
mod resp_inline;
pub mod settings;
pub mod source;
pub mod source_settings;
#[cfg(feature = "sqs")]
pub mod sqs;
