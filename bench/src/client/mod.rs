//! The client side: all connections of a run, on one or two threads with an epoll loop each. Owns connecting, joining,
//! speaking on schedule and accounting for every delivery; must stay far cheaper than the server it measures, so it
//! parses no JSON and keeps no task per connection. Called by `measure.rs` only; knows nothing of processes or tables.

mod connection;
mod event_loop;
mod hearing;
mod joining;
mod plan;
mod shared;
mod speaking;

pub use plan::{Pace, Plan, QueueDoor, Since, Speakers};
pub use shared::{Client, Moment, Outcome, Phase};
