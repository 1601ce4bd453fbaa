//! What happens when the world around the server breaks: a full disk, a disk that fails, a clock that jumps,
//! files that are damaged, kills in the middle of a queue. Each story plays with the real program and real
//! files, and ends with the same judge as the crash test: nothing acknowledged is lost, nothing doubled.

mod backup;
mod clock;
mod damage;
mod disk;
mod queue;
mod retention;
mod shim;
mod stage;
mod sync;
