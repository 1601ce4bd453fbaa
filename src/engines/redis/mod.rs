//! Rooms that several nodes share through Redis. Started by the wiring, called by the chat server through the
//! contract in `engines/shared.rs`.

pub mod life;
