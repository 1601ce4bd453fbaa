//! What nodes share beside the logs: who takes part, who is in which room, how far everybody has read, and what
//! operators ask for. Called by the tasks of the Redis engine, each with its own connection; the functions do one
//! step in Redis and keep nothing, the types decide when and keep no connection. Knows nothing of entries,
//! fences and subscriptions.
//!
//! The steps of a node, as the engine makes them:
//!
//! 1. On partition 0: [`lease::take`]; subscribe the inboxes of the slot; on each partition [`reaping::enter`];
//!    then join.
//! 2. Each second [`lease::tick`], with its answer to [`nodes::Nodes::seen`] (who is gone), to
//!    [`nodes::Nodes::duty`] (whom to remove) and to [`commands::Done`]. A lease that is not held: begin anew.
//! 3. After a room was joined: [`telling::Telling::all_again`] if anybody is there, and [`roster::ask`].
//! 4. News are collected by [`telling::Telling`] and sent by [`roster::tell`], those of others read by
//!    [`wire::news`] and believed as [`nodes::Nodes::heard`] says.
//! 5. At the end [`lease::give_back`], then [`reaping::step`] on each partition until it is done, and
//!    [`lease::free`].
//!
//! **Invariant**: under a slot only the holder that has entered a partition last writes there. Whoever was away
//! for so long that the others took its place is refused with the code `LOST`.

pub mod bytes;
pub mod commands;
pub mod counts;
pub mod due;
pub mod keys;
pub mod lease;
pub mod nodes;
pub mod notes;
mod pages;
pub mod reaping;
pub mod recalls;
pub mod roster;
pub mod rule_repair;
pub mod rules;
pub mod telling;
pub mod wire;

use redis::RedisError;

/// Whether a script has refused because the lease does not hold: nothing was done. The next
/// [tick](lease::tick) tells whether it is lost, or only the partition has forgotten it.
pub fn is_lost(error: &RedisError) -> bool {
    error.code() == Some("LOST")
}
