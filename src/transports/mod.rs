//! How bytes reach a client: the bodies of sessions. Called by the wiring and the HTTP routes; knows the actors, and no
//! actor knows it.

mod callers;
pub mod entrance;
pub mod errands;
pub mod long_poll;
pub mod sse;
pub mod websocket;
