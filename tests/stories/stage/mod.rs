//! What the stories are played with: the hall (a server process), guests (chat users), wires (raw
//! WebSocket clients), tokens and views of a log. Knows nothing of any single story.

#[cfg(feature = "otel")]
pub mod collector;
pub mod events;
pub mod guest;
pub mod hall;
pub mod http;
pub mod polls;
pub mod stream;
pub mod tokens;
pub mod view;
pub mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Longest wait for one thing to happen. Far more than it takes, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at something that has no event of its own, such as a figure.
const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something; fails with `what` when that takes too long.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Chance that can be had again: prints its seed, and takes `STORY_SEED` instead where that is set.
pub fn dice() -> StdRng {
    let given = std::env::var("STORY_SEED").ok().map(|text| text.parse().expect("STORY_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("seed {seed}; to have it again: STORY_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
