//! Who works here: a session for each client, one chat server for the rooms, a hub on every worker thread
//! that writes to the sockets, and the queue that brings what backends push.
//! They talk by the letters of [`letters`], and only downwards: session → chat server → hub → outbox.

pub mod admission;
pub mod chat_server;
pub mod connection;
pub mod events;
pub mod forwarder;
pub mod hub;
pub mod letters;
pub mod outbox;
pub mod panics;
pub mod pipe;
pub mod redis_graves;
pub mod redis_queue;
pub mod resp_door;
pub mod session;
pub mod source_queue;
pub mod waits;
pub mod wheel;
