//! Posts what waits for an application's backend: a batch at a time, in the order in which things happened, the next
//! one when the one before is dealt with. Started and stopped by the wiring. Slows nobody: what it posts comes from a
//! spool, and the spool's calls are made on threads that may block.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::hooks::batch::{BATCH_BYTES_MAX, Outcome, body_of};
use crate::hooks::figures::PostFigures;
use crate::hooks::post::Post;
use crate::hooks::settings::shown;
use crate::store::archive::ArchiveError;
use crate::store::spool::{Spool, Waiting};
use crate::traces::Tracer;

/// First and longest wait before a request is made again, each shortened by up to half at random.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// How often letters that an operator has put back are looked for while nothing comes.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a spool that could not be read or written.
const TROUBLE: Duration = Duration::from_secs(1);

/// What the poster needs to know.
pub struct HookPosterParts {
    /// What waits.
    pub spool: Arc<Spool>,
    /// Makes the requests; of this thread.
    pub post: Post,
    /// Where to.
    pub url: String,
    /// Most events in one request.
    pub batch: usize,
    /// How old an event may become, in milliseconds.
    pub keep_ms: u64,
    /// What is counted.
    pub figures: Arc<PostFigures>,
    /// Notes the requests.
    pub tracer: Tracer,
}

/// See above.
pub struct HookPoster {
    parts: HookPosterParts,
    /// Most events in the next request: fewer after a refusal, to find the one at fault.
    most: usize,
    retry: Duration,
    /// Why the backend takes nothing, as the log was told.
    told: bool,
}

impl HookPoster {
    /// Posts nothing before it runs.
    pub fn new(parts: HookPosterParts) -> HookPoster {
        let most = parts.batch;
        HookPoster { parts, most, retry: RETRY_FIRST, told: false }
    }

    /// Posts until it is told to stop; then it finishes the request that is under way. What waits stays in the spool.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let pause = match self.turn().await {
                Ok(pause) => pause,
                Err(error) => {
                    log::error!("hooks: {error}");
                    Some(Pause::For(TROUBLE))
                }
            };
            let wait = async {
                match pause {
                    None => {}
                    Some(Pause::For(time)) => sleep(time).await,
                    // Without news in time somebody may have put a letter back.
                    Some(Pause::News) => timeout(LOOK, self.parts.spool.news()).await.unwrap_or_default(),
                }
            };
            tokio::select! {
                () = wait => {}
                // An error: who could tell to stop is gone, and so is the need for all this.
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Posts one batch. Returns what to wait for before the next one.
    async fn turn(&mut self) -> Result<Option<Pause>, ArchiveError> {
        let most = self.most;
        let batch = self.spool(move |spool| spool.next(most, BATCH_BYTES_MAX)).await?;
        self.count_waiting().await?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(Some(Pause::News)) };
        let upto = last.n;
        let id = format!("hooks_{}_{}-{}", self.parts.spool.id(), first.n, last.n);
        let events = batch.len();
        match self.request(&id, &batch).await {
            Outcome::Taken => {
                self.spool(move |spool| spool.taken(upto)).await?;
                self.was_taken(events);
                Ok(None)
            }
            Outcome::Later(why, wait) => self.later(upto, why, wait).await.map(Some),
            Outcome::Refused(_, true) if events > 1 => {
                self.most = events.div_ceil(2);
                Ok(None)
            }
            Outcome::Refused(why, _) => {
                log::error!("hooks: {events} events are dead letters now: {}", why.escape_debug());
                self.fail(upto, u64::MAX, why).await?;
                Ok(None)
            }
        }
    }

    async fn request(&self, id: &str, batch: &[Waiting]) -> Outcome {
        let newest = batch.last().map_or(0, |last| last.ts);
        let body = body_of(batch.iter().map(|event| event.body.as_str()), newest);
        let span = self.parts.tracer.of_entries("post events", batch.iter().filter_map(key_of));
        span.number("roomcast.events", i64::try_from(batch.len()).unwrap_or(i64::MAX));
        let url = &self.parts.url;
        let sent = span.over(self.parts.post.send(url, id, body, &span)).await;
        Outcome::of(sent, url).noted(&span)
    }

    fn was_taken(&mut self, events: usize) {
        let figures = &self.parts.figures;
        figures.sent.fetch_add(events as u64, Relaxed);
        figures.requests.fetch_add(1, Relaxed);
        figures.reached.store(1, Relaxed);
        if std::mem::take(&mut self.told) {
            log::info!("hooks: {} takes events again", shown(&self.parts.url));
        }
        self.retry = RETRY_FIRST;
        self.most = self.most.saturating_mul(2).min(self.parts.batch);
    }

    async fn later(&mut self, upto: i64, why: String, wait: Option<Duration>) -> Result<Pause, ArchiveError> {
        self.parts.figures.retried.fetch_add(1, Relaxed);
        self.parts.figures.reached.store(0, Relaxed);
        if !std::mem::replace(&mut self.told, true) {
            log::warn!("hooks: events wait: {}", why.escape_debug());
        }
        let oldest = clock::cautious_ms().saturating_sub(self.parts.keep_ms);
        let keep = Duration::from_millis(self.parts.keep_ms);
        let given_up = self.fail(upto, oldest, format!("given up after {keep:?}: {why}")).await?;
        if given_up > 0 {
            log::error!("hooks: {given_up} events are dead letters now, given up after {keep:?}");
        }
        let backoff = self.retry.mul_f64(rand::random_range(0.5..=1.0));
        self.retry = (self.retry * 2).min(RETRY_LAST);
        Ok(Pause::For(wait.unwrap_or(backoff).max(backoff)))
    }

    async fn fail(&self, upto: i64, before: u64, why: String) -> Result<usize, ArchiveError> {
        let failed = self.spool(move |spool| spool.give_up(upto, before, &why)).await?;
        self.parts.figures.failed.fetch_add(failed as u64, Relaxed);
        Ok(failed)
    }

    async fn count_waiting(&self) -> Result<(), ArchiveError> {
        let (levels, oldest) = self.spool(|spool| spool.levels()).await?;
        let figures = &self.parts.figures;
        figures.note_waiting(levels.waiting, levels.waiting_bytes + levels.failed_bytes, oldest);
        figures.dropped.store(levels.dropped, Relaxed);
        Ok(())
    }

    /// Calls the spool on a thread that may block.
    async fn spool<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Spool) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let spool = self.parts.spool.clone();
        let called = tokio::task::spawn_blocking(move || call(&spool)).await;
        called.unwrap_or_else(|error| Err(ArchiveError(format!("a call of the spool ended: {error}"))))
    }
}

/// The id of the entry that an event tells of, as traces know it; none for other events.
fn key_of(event: &Waiting) -> Option<String> {
    #[derive(Deserialize)]
    struct Key {
        key: String,
    }
    let is_entry = event.body.starts_with("{\"event\":\"on_message\"");
    is_entry.then(|| serde_json::from_str::<Key>(&event.body).ok()).flatten().map(|event| event.key)
}

/// What is waited for.
enum Pause {
    /// A time.
    For(Duration),
    /// Something new.
    News,
}

/// Posts what waits for so long at the most, at the end of a server whose spool ends with it.
pub async fn wait_until_empty(spool: Arc<Spool>, patience: Duration) {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        let looked = spool.clone();
        let levels = tokio::task::spawn_blocking(move || looked.levels()).await;
        match levels {
            Ok(Ok((levels, _))) if levels.waiting > 0 => sleep(Duration::from_millis(50)).await,
            _ => return,
        }
    }
    log::warn!(
        "hooks: events that were kept in memory only are lost with this process; see hooks in docs/hooks.md"
    );
}
