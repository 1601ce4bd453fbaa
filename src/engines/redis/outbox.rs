//! What waits to get a place, what is on its way, and what has a place but not yet the safety that was asked for.
//! Owned by a partition. Outcomes leave in the order of the proposals. Knows no connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::chat::message::{Accepted, Epoch, Offset, Refused};
use crate::chat::names::RoomName;
use crate::engines::redis::frame;
use crate::engines::shared::{Outcome, Safety};

/// Most messages in one call.
const BATCH_MESSAGES: usize = 200;
/// Most bytes in one call, one message at the least.
const BATCH_BYTES: usize = 1 << 20;
/// How long a proposal waits that surely has no place yet.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long one waits whose fate is not known, or that is not as safe as was asked for.
const DOUBT_MAX: Duration = Duration::from_secs(30);
/// What the sender of a refused one is told to wait.
const RETRY_MS: u64 = 1_000;
/// What a waiting proposal takes beside its body, about.
const OVERHEAD: u64 = 128;

/// A place in the feed of an archive: epoch and number.
pub type Fed = (u64, u64);

/// A proposal that waits.
#[derive(Debug, Clone)]
pub struct Queued {
    /// None: nobody waits for the outcome.
    pub ticket: Option<u64>,
    /// Where.
    pub room: RoomName,
    /// See [`frame::body`].
    pub body: Bytes,
    /// What its outcome promises.
    pub safety: Safety,
    /// When it came.
    pub since: Instant,
    /// Whether it may have a place that nobody told us of.
    pub tried: bool,
}

impl Queued {
    fn weight(&self) -> u64 {
        self.body.len() as u64 + OVERHEAD
    }
}

/// What a script says of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has a place.
    Placed {
        /// The place, 0 for one that takes none.
        offset: Offset,
        /// The epoch.
        epoch: u64,
        /// When its first copy was proposed, Unix milliseconds.
        ts: u64,
        /// Whether it was known.
        known: bool,
        /// Where it stands in the feed.
        fed: Option<Fed>,
    },
    /// What it is about is deleted.
    Gone,
    /// Its room must be loaded from the archive first.
    Unloaded,
}

impl Said {
    /// Reads what `publish.lua` says.
    pub fn parse(text: &[u8]) -> Option<Said> {
        let (first, rest) = text.split_first()?;
        let known = match first {
            b'g' => return Some(Said::Gone),
            b'u' => return Some(Said::Unloaded),
            b'+' => false,
            b'=' => true,
            _ => return None,
        };
        let mut parts = std::str::from_utf8(rest).ok()?.split(':');
        let mut number = || parts.next()?.parse().ok();
        let (offset, epoch, ts) = (number()?, number()?, number()?);
        let fed = match parts.next() {
            Some(text) => Some(fed_of(text)?),
            None => None,
        };
        Some(Said::Placed { offset, epoch, ts, known, fed })
    }
}

/// `epoch-n`.
pub fn fed_of(text: &str) -> Option<Fed> {
    let (epoch, n) = text.split_once('-')?;
    Some((epoch.parse().ok()?, n.parse().ok()?))
}

/// A message that a script has answered.
struct Told {
    queued: Queued,
    outcome: Outcome,
    fed: Option<Fed>,
    replicated: bool,
}

/// Outcomes with their tickets.
pub type Settled = Vec<(u64, Outcome)>;

/// See above.
pub struct Outbox {
    queue: VecDeque<Queued>,
    flying: Vec<Queued>,
    told: VecDeque<Told>,
    /// Bytes of all that has no outcome yet, over all partitions.
    bytes: Arc<AtomicU64>,
}

impl Outbox {
    /// `bytes` is what [`Shared::waiting_bytes`](crate::engines::shared::Shared::waiting_bytes) tells.
    pub fn new(bytes: Arc<AtomicU64>) -> Outbox {
        Outbox { queue: VecDeque::new(), flying: Vec::new(), told: VecDeque::new(), bytes }
    }

    /// What a proposal counts in [`Outbox::new`]'s bytes; whoever sends a proposal here has added it.
    pub fn weight(body: &Bytes) -> u64 {
        body.len() as u64 + OVERHEAD
    }

    /// Takes one more. Its weight is counted already.
    pub fn push(&mut self, queued: Queued) {
        self.queue.push_back(queued);
    }

    /// Takes one more that this node found itself.
    pub fn push_own(&mut self, room: RoomName, body: Bytes) {
        self.bytes.fetch_add(Outbox::weight(&body), Relaxed);
        let (safety, since) = (Safety::Sequenced, Instant::now());
        self.queue.push_back(Queued { ticket: None, room, body, safety, since, tried: true });
    }

    /// Whether nothing waits for anything.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.flying.is_empty() && self.told.is_empty()
    }

    /// The next batch: it counts as on its way. Those of `blocked` rooms wait in their order.
    pub fn take(&mut self, blocked: impl Fn(&RoomName) -> bool) -> &[Queued] {
        debug_assert!(self.flying.is_empty(), "one batch at a time");
        let mut bytes = 0;
        let mut passed_over = VecDeque::new();
        while self.flying.len() < BATCH_MESSAGES {
            let Some(next) = self.queue.front() else { break };
            if blocked(&next.room) {
                passed_over.extend(self.queue.pop_front());
                continue;
            }
            bytes += next.body.len();
            if bytes > BATCH_BYTES && !self.flying.is_empty() {
                break;
            }
            self.flying.extend(self.queue.pop_front());
        }
        while let Some(queued) = passed_over.pop_back() {
            self.queue.push_front(queued);
        }
        &self.flying
    }

    /// The batch was answered, one answer for each. Calls `placed` with what has got a place of its own, its
    /// offset and its epoch. Returns the rooms that must be loaded first.
    pub fn answered(
        &mut self,
        answers: Vec<Said>,
        mut placed: impl FnMut(&Queued, Offset, u64),
    ) -> Vec<RoomName> {
        let (mut back, mut unloaded) = (Vec::new(), Vec::new());
        for (queued, said) in std::mem::take(&mut self.flying).into_iter().zip(answers) {
            let (outcome, fed) = match said {
                Said::Unloaded => {
                    unloaded.push(queued.room.clone());
                    back.push(queued);
                    continue;
                }
                Said::Gone => (Outcome::Gone, None),
                Said::Placed { offset, epoch, ts, known, fed } => {
                    // An earlier try of ours whose answer was lost is no repeat.
                    let ours = !known || (queued.tried && ts == frame::ts_of(&queued.body));
                    if ours && offset > 0 {
                        placed(&queued, offset, epoch);
                    }
                    let accepted = Accepted { offset, epoch: Epoch(epoch), ts, duplicate: !ours };
                    (Outcome::Placed(accepted), fed)
                }
            };
            self.told.push_back(Told { queued, outcome, fed, replicated: false });
        }
        self.put_back(back);
        unloaded
    }

    /// The batch was not carried out; `surely`: nothing of it.
    pub fn failed(&mut self, surely: bool) {
        let mut back = std::mem::take(&mut self.flying);
        back.iter_mut().for_each(|queued| queued.tried |= !surely);
        self.put_back(back);
    }

    fn put_back(&mut self, back: Vec<Queued>) {
        back.into_iter().rev().for_each(|queued| self.queue.push_front(queued));
    }

    /// The server may be another one now: what has no outcome yet is asked for again, under the same keys.
    pub fn start_over(&mut self) {
        self.failed(false);
        let told = std::mem::take(&mut self.told);
        self.put_back(told.into_iter().map(|told| Queued { tried: true, ..told.queued }).collect::<Vec<_>>());
    }

    /// A replica has everything that has a place so far.
    pub fn replicated(&mut self) {
        self.told.iter_mut().for_each(|told| told.replicated = true);
    }

    /// Whether something waits for a replica.
    pub fn awaits_replica(&self) -> bool {
        self.told.iter().any(|told| told.queued.safety >= Safety::Replicated && !told.replicated)
    }

    /// Whether something waits for the archive.
    pub fn awaits_archive(&self) -> bool {
        self.told.iter().any(|told| told.queued.safety == Safety::Archived && told.fed.is_some())
    }

    /// Takes out what is safe enough. `replica`: whether one is needed where it was asked for; `archived`: how
    /// far the archive is.
    pub fn settle(&mut self, replica: bool, archived: Fed) -> Settled {
        let mut settled = Vec::new();
        while let Some(first) = self.told.front() {
            let replicated = first.replicated || !replica;
            let safe = match (&first.outcome, first.queued.safety, first.fed) {
                (Outcome::Placed(_), Safety::Archived, Some(fed)) => archived >= fed,
                (Outcome::Placed(_), Safety::Replicated | Safety::Archived, _) => replicated,
                _ => true,
            };
            if !safe {
                break;
            }
            if let Some(told) = self.told.pop_front() {
                self.bytes.fetch_sub(told.queued.weight(), Relaxed);
                settled.extend(told.queued.ticket.map(|ticket| (ticket, told.outcome)));
            }
        }
        settled
    }

    /// Refuses what has waited too long.
    pub fn expire(&mut self, now: Instant) -> Settled {
        let mut settled = Vec::new();
        let refused = || Outcome::Refused(Refused::NotStored { wait_ms: RETRY_MS });
        while self.told.front().is_some_and(|told| now.duration_since(told.queued.since) > DOUBT_MAX) {
            if let Some(told) = self.told.pop_front() {
                self.bytes.fetch_sub(told.queued.weight(), Relaxed);
                settled.extend(told.queued.ticket.map(|ticket| (ticket, refused())));
            }
        }
        let late = |queued: &Queued| {
            let patience = if queued.tried { DOUBT_MAX } else { WAIT_MAX };
            now.duration_since(queued.since) > patience
        };
        // Behind what is on its way or waits for its safety, the order says: wait. What this node says again has no
        // ticket: it was acknowledged, and is never given up.
        let expired = |queued: &Queued| queued.ticket.is_some() && late(queued);
        if self.told.is_empty() && self.flying.is_empty() && self.queue.iter().any(expired) {
            // What a room would get behind a refused one goes with it: a sender that says both again keeps its order.
            let mut given_up = ahash::AHashSet::new();
            let queue = std::mem::take(&mut self.queue);
            let (gone, left): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(|queued| {
                if expired(queued) {
                    given_up.insert(queued.room.clone());
                }
                queued.ticket.is_some() && given_up.contains(&queued.room)
            });
            self.queue = left;
            for queued in gone {
                self.bytes.fetch_sub(queued.weight(), Relaxed);
                settled.extend(queued.ticket.map(|ticket| (ticket, refused())));
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests;
