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
            let queue = std::mem::take(&mut self.queue);
            let (gone, left): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(expired);
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
mod tests {
    use super::*;
    use crate::chat::entry::{Entry, Kind};

    fn queued(ticket: u64, room: &str, safety: Safety) -> Queued {
        let room = RoomName::new(room).unwrap();
        let entry = Entry {
            room: room.clone(),
            epoch: Epoch(0),
            offset: 0,
            ts: 100 + ticket,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::from_static(b"{}"),
        };
        let body = frame::body(&entry, b"key", true);
        Queued { ticket: Some(ticket), room, body, safety, since: Instant::now(), tried: false }
    }

    fn filled(list: &[(u64, &str, Safety)]) -> Outbox {
        let mut outbox = Outbox::new(Arc::default());
        for (ticket, room, safety) in list {
            let queued = queued(*ticket, room, *safety);
            outbox.bytes.fetch_add(queued.weight(), Relaxed);
            outbox.push(queued);
        }
        outbox
    }

    fn placed(offset: Offset, ts: u64, known: bool, fed: Option<Fed>) -> Said {
        Said::Placed { offset, epoch: 7, ts, known, fed }
    }

    fn tickets(settled: &Settled) -> Vec<u64> {
        settled.iter().map(|(ticket, _)| *ticket).collect()
    }

    #[test]
    fn what_the_script_says_is_read() {
        assert_eq!(Said::parse(b"+5:7:99"), Some(placed(5, 99, false, None)));
        assert_eq!(Said::parse(b"=0:7:99:8-12"), Some(placed(0, 99, true, Some((8, 12)))));
        assert_eq!((Said::parse(b"g"), Said::parse(b"u")), (Some(Said::Gone), Some(Said::Unloaded)));
        for odd in [&b""[..], b"x", b"+", b"+1:2", b"+1:2:3:4", b"+a:b:c"] {
            assert_eq!(Said::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn outcomes_leave_in_order_when_they_are_safe() {
        let mut outbox =
            filled(&[(1, "a", Safety::Archived), (2, "a", Safety::Replicated), (3, "b", Safety::Sequenced)]);
        assert_eq!(outbox.take(|_| false).len(), 3);
        let said = vec![placed(1, 101, false, Some((7, 1))), placed(2, 102, false, Some((7, 2))), Said::Gone];
        let mut own = Vec::new();
        outbox.answered(said, |queued, offset, epoch| own.push((queued.ticket, offset, epoch)));
        assert_eq!(own, [(Some(1), 1, 7), (Some(2), 2, 7)]);
        assert!(outbox.awaits_replica() && outbox.awaits_archive());
        assert!(outbox.settle(true, (7, 0)).is_empty());
        assert_eq!(tickets(&outbox.settle(true, (7, 1))), [1], "the second has no copy yet");
        outbox.replicated();
        assert_eq!(tickets(&outbox.settle(true, (7, 1))), [2, 3]);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes.load(Relaxed), 0);
    }

    #[test]
    fn rooms_that_are_being_loaded_wait_in_their_order() {
        let mut outbox =
            filled(&[(1, "a", Safety::Sequenced), (2, "b", Safety::Sequenced), (3, "a", Safety::Sequenced)]);
        outbox.take(|_| false);
        let unloaded =
            outbox.answered(vec![Said::Unloaded, placed(1, 102, false, None), Said::Unloaded], |_, _, _| {});
        assert_eq!(unloaded.len(), 2);
        assert_eq!(tickets(&outbox.settle(false, (0, 0))), [2]);
        assert!(outbox.take(|room| room.as_str() == "a").is_empty());
        let next: Vec<_> = outbox.take(|_| false).iter().map(|queued| queued.ticket).collect();
        assert_eq!(next, [Some(1), Some(3)]);
    }

    #[test]
    fn an_own_try_whose_answer_was_lost_is_no_repeat() {
        let mut outbox = filled(&[(1, "a", Safety::Sequenced), (2, "a", Safety::Sequenced)]);
        outbox.take(|_| false);
        outbox.failed(false);
        outbox.take(|_| false);
        outbox.answered(vec![placed(1, 101, true, None), placed(2, 55, true, None)], |_, _, _| {});
        let duplicates: Vec<bool> = outbox
            .settle(false, (0, 0))
            .into_iter()
            .map(|(_, outcome)| matches!(outcome, Outcome::Placed(accepted) if accepted.duplicate))
            .collect();
        assert_eq!(duplicates, [false, true], "the second was first said by somebody else");
    }

    #[test]
    fn after_a_stay_everything_without_an_outcome_is_asked_again() {
        let mut outbox = filled(&[(1, "a", Safety::Replicated), (2, "a", Safety::Replicated)]);
        outbox.take(|_| false);
        outbox.answered(vec![placed(1, 101, false, None), placed(2, 102, false, None)], |_, _, _| {});
        outbox.push(queued(3, "a", Safety::Replicated));
        outbox.start_over();
        let next: Vec<_> =
            outbox.take(|_| false).iter().map(|queued| (queued.ticket, queued.tried)).collect();
        assert_eq!(next, [(Some(1), true), (Some(2), true), (Some(3), false)]);
    }

    #[test]
    fn who_waits_too_long_is_refused_but_never_what_was_acknowledged() {
        let mut outbox = filled(&[(1, "a", Safety::Sequenced), (2, "a", Safety::Sequenced)]);
        outbox.push_own(RoomName::new("a").unwrap(), Bytes::from_static(b"again"));
        outbox.take(|_| false);
        outbox.failed(false);
        outbox.push(queued(3, "a", Safety::Sequenced));
        outbox.bytes.fetch_add(queued(3, "a", Safety::Sequenced).weight(), Relaxed);
        let now = Instant::now();
        assert!(outbox.expire(now + WAIT_MAX / 2).is_empty());
        assert_eq!(tickets(&outbox.expire(now + WAIT_MAX * 2)), [3], "the others may have a place");
        assert_eq!(tickets(&outbox.expire(now + DOUBT_MAX * 2)), [1, 2]);
        assert_eq!(outbox.take(|_| false).len(), 1, "what this node says again");
    }
}
