//! Words to bytes and back: what clients write becomes requests, what happens becomes frames.
//! Called by the actors. Knows the law of the rooms, but no socket and no actor.

pub mod codes;
pub mod native;
pub mod native_frames;
pub mod websocket;
