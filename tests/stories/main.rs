//! What Roomcast promises, told as stories: a file per promise. Every story opens its own hall, a real
//! server process on a free port, and talks to it over real sockets. Nobody sleeps: who waits, waits for a
//! frame, and a wait that takes too long fails with what was heard until then.

mod stage;

mod attacks;
mod auth;
mod backends;
mod direct;
mod doors;
mod editing;
mod finding;
mod handlers;
mod hooks;
mod hooks_asking;
mod hooks_php;
mod joining;
mod limits;
mod malformed;
mod mentions;
mod moderating;
mod operation;
mod ordering;
mod overview;
mod paging;
mod polling;
mod posting;
mod presence;
mod recovery;
mod resuming;
mod server_api;
mod slow_rooms;
mod starts;
mod streaming;
#[cfg(feature = "otel")]
mod traces;
mod tracing;
mod unread;
