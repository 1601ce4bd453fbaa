//! What the crash and fault tests are played with: a server process that can be killed, clients that write
//! down all they send and receive, a backend that is told of events, and a judge who reads nothing but what they wrote. Beside them
//! the servers that others keep queues on. Used by tests alone; knows the native protocol (docs/protocol.md) and nothing of the server's insides.

pub mod backend;
pub mod checker;
pub mod client;
pub mod crowd;
pub mod diary;
pub mod frame;
pub mod google;
pub mod http;
pub mod moto;
pub mod nats;
pub mod reader;
pub mod server;
pub mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for one thing to happen. Far more than it takes, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that has no event of its own, such as a figure or a port.
const LOOK: Duration = Duration::from_millis(5);

/// Looks again and again until `look` finds something; fails with `what` when that takes longer than
/// [`PATIENCE`].
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, look).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for: {what}"))
}

/// The same with another patience; none when it ends.
pub async fn within<T>(patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if began.elapsed() >= patience {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where the programs and packages of other languages are: `ROOMCAST_TEST_TOOLS`, or else `target/test-tools`.
pub fn tools() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-tools");
    std::env::var_os("ROOMCAST_TEST_TOOLS").map_or_else(usual, PathBuf::from)
}
