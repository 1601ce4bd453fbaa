//! The backend as a target of forwarding: where nodes share rooms, one of them posts what a partition's rooms accept,
//! as `on_message`. What the backend refuses for good goes among the dead letters of that node. Called by a forwarder.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ring::digest::{SHA256, digest};
use tokio::time::{Instant, sleep_until};

use crate::chat::message::Epoch;
use crate::clock;
use crate::forwards::target::{Outgoing, Target, TargetError};
use crate::hooks::batch::{BATCH_BYTES_MAX, Outcome, body_of};
use crate::hooks::figures::PostFigures;
use crate::hooks::post::Post;
use crate::hooks::settings::shown;
use crate::store::spool::Spool;
use crate::traces::Tracer;

/// What it needs to know.
pub struct HookTargetParts {
    /// Makes the requests; of this thread.
    pub post: Post,
    /// Where to.
    pub url: String,
    /// Most events in one request.
    pub batch: usize,
    /// How old an event may become, in milliseconds.
    pub keep_ms: u64,
    /// Takes what the backend refuses.
    pub spool: Arc<Spool>,
    /// What is counted.
    pub figures: Arc<PostFigures>,
    /// Notes the requests.
    pub tracer: Tracer,
}

/// See above.
pub struct HookTarget {
    parts: HookTargetParts,
    /// Most events in the next request: fewer after a refusal, to find the one at fault.
    most: usize,
    /// The backend has asked for so much time.
    not_before: Option<Instant>,
}

impl HookTarget {
    /// Posts nothing before it is told to.
    pub fn new(parts: HookTargetParts) -> HookTarget {
        let most = parts.batch;
        HookTarget { parts, most, not_before: None }
    }

    async fn request(&self, events: &[Event]) -> Outcome {
        let newest = events.last().map_or(0, |last| last.ts);
        let body = body_of(events.iter().map(|event| event.body.as_str()), newest);
        let span = self.parts.tracer.of_entries("post events", events.iter().map(|event| &event.key));
        span.number("roomcast.events", i64::try_from(events.len()).unwrap_or(i64::MAX));
        let url = &self.parts.url;
        let sent = span.over(self.parts.post.send(url, &id_of(events), body, &span)).await;
        Outcome::of(sent, url).noted(&span)
    }

    /// Keeps what can never be posted. An error: it has to be offered again.
    async fn bury(&self, events: &[Event], why: String) -> Result<(), TargetError> {
        let letters: Vec<(u64, String)> = events.iter().map(|event| (event.ts, event.body.clone())).collect();
        let n = letters.len();
        let spool = self.parts.spool.clone();
        let buried = tokio::task::spawn_blocking(move || spool.bury(&letters, &why)).await;
        match buried {
            Ok(Ok(())) => {
                self.parts.figures.failed.fetch_add(n as u64, Relaxed);
                log::error!("hooks: {n} events are dead letters now");
                Ok(())
            }
            Ok(Err(error)) => Err(TargetError::away(error)),
            Err(error) => Err(TargetError::away(error)),
        }
    }

    async fn later(&mut self, events: &[Event], why: String) -> (usize, TargetError) {
        self.parts.figures.retried.fetch_add(1, Relaxed);
        self.parts.figures.reached.store(0, Relaxed);
        let oldest = clock::cautious_ms().saturating_sub(self.parts.keep_ms);
        let old = events.iter().take_while(|event| event.ts < oldest).count();
        if old > 0 {
            let reason = format!("given up after {} ms: {why}", self.parts.keep_ms);
            if let Err(error) = self.bury(&events[..old], reason).await {
                return (0, error);
            }
        }
        (old, TargetError::Away(why))
    }
}

/// An entry as it is posted.
struct Event {
    key: String,
    ts: u64,
    body: String,
}

impl Event {
    fn of(entry: &Outgoing) -> Event {
        let key = entry.id();
        let shown = serde_json::to_string(&key).expect("a text has a JSON form");
        let line = String::from_utf8_lossy(&entry.line);
        let rest = line.strip_prefix('{').unwrap_or("}");
        let body = format!("{{\"event\":\"on_message\",\"key\":{shown},{rest}");
        Event { key, ts: entry.ts_ms, body }
    }
}

/// The same events have the same id, whichever node posts them.
fn id_of(events: &[Event]) -> String {
    let keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
    let hash = digest(&SHA256, keys.join("\n").as_bytes());
    let (high, low) = hash.as_ref().split_at(8);
    let number = |bytes: &[u8]| bytes.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
    format!("hooks_{}_{}", Epoch(number(high)).to_text(), Epoch(number(low)).to_text())
}

impl Target for HookTarget {
    fn address(&self) -> String {
        shown(&self.parts.url)
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        if let Some(until) = self.not_before.take() {
            sleep_until(until).await;
        }
        let events: Vec<Event> = entries.iter().map(Event::of).collect();
        let mut done = 0;
        while done < events.len() {
            let rest = &events[done..];
            let piece = &rest[..fitting(rest, self.most)];
            match self.request(piece).await {
                Outcome::Taken => {
                    let figures = &self.parts.figures;
                    figures.sent.fetch_add(piece.len() as u64, Relaxed);
                    figures.requests.fetch_add(1, Relaxed);
                    figures.reached.store(1, Relaxed);
                    self.most = self.most.saturating_mul(2).min(self.parts.batch);
                    done += piece.len();
                }
                Outcome::Later(why, wait) => {
                    self.not_before = wait.map(|wait| Instant::now() + wait);
                    let (old, error) = self.later(piece, why).await;
                    return (done + old, Some(error));
                }
                Outcome::Refused(_, true) if piece.len() > 1 => self.most = piece.len().div_ceil(2),
                Outcome::Refused(why, _) => match self.bury(piece, why).await {
                    Ok(()) => done += piece.len(),
                    Err(error) => return (done, Some(error)),
                },
            }
        }
        (done, None)
    }

    fn batch(&self) -> usize {
        self.parts.batch
    }
}

/// How many events from the front go into one request.
fn fitting(events: &[Event], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |event: &&Event| {
        bytes += event.body.len();
        bytes <= BATCH_BYTES_MAX
    };
    events.iter().take(most).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::names::RoomName;

    fn event(offset: u64) -> Event {
        let room = RoomName::new("a \"b\"").unwrap();
        let frame = format!("{{\"t\":\"msg\",\"r\":\"a \\\"b\\\"\",\"s\":{offset},\"d\":\"x\"}}");
        Event::of(&Outgoing::new(room, Epoch(36), offset, 5, None, frame.as_bytes()))
    }

    #[test]
    fn an_entry_is_told_as_one_of_a_node_of_its_own() {
        assert_eq!(
            event(7).body,
            r#"{"event":"on_message","key":"a \"b\"@10-7","e":"10","t":"msg","r":"a \"b\"","s":7,"d":"x"}"#
        );
    }

    #[test]
    fn the_same_events_have_the_same_id_and_others_another() {
        let (one, two) = ([event(1), event(2)], [event(1), event(3)]);
        assert_eq!(id_of(&one), id_of(&[event(1), event(2)]));
        assert_ne!(id_of(&one), id_of(&two));
        assert!(!id_of(&one).contains('.') && id_of(&one).len() < 40);
    }

    #[test]
    fn a_request_has_at_most_so_many_events_and_bytes() {
        let events = [event(1), event(2), event(3)];
        assert_eq!((fitting(&events, 2), fitting(&events, 9)), (2, 3));
        let large = Event { key: "k".into(), ts: 1, body: "x".repeat(BATCH_BYTES_MAX + 1) };
        assert_eq!(fitting(&[large], 9), 1, "one that is too large goes alone");
    }
}
