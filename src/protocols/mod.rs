//! Words to bytes and back: what clients write becomes requests, what happens becomes frames.
//! Called by the actors. Knows the law of the rooms, but no socket and no actor.

pub mod codes;
pub mod cursor;
pub mod events;
pub mod native;
pub mod native_frames;
pub mod standing;
pub mod websocket;
