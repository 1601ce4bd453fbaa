//! The law of the house: what a room is, what may be said in it, who is there, what is remembered.
//! Called by the floors above. Knows no socket, no actor, no Redis and no clock: time comes in as a
//! value, effects go out as values.

pub mod changes;
pub mod client;
pub mod data;
pub mod dedup;
pub mod entry;
pub mod history;
pub mod line;
pub mod message;
pub mod moderation;
pub mod names;
pub mod overview;
pub mod permission;
pub mod presence;
pub mod receipt;
pub mod room;
pub mod rooms;
pub mod rulebook;
pub mod settings;
pub mod trace;
pub mod typing;
