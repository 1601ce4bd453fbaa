//! How bytes reach a client: the bodies of sessions. Called by the wiring; knows the actors, and no actor
//! knows it.

pub mod websocket;
