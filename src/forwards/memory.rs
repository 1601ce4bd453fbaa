//! What leads from rooms that live in memory to those who get copies of their entries: a bounded queue that all of them
//! share. When it is full the oldest entry goes, and whoever had not got it is told how many he lacks. Filled by the
//! chat server, read by forwarders; it ends with the process, and what waited then is lost with the rooms.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::chat::entry::Entry;
use crate::forwards::feed::{Feed, FeedError, Next, Wanted};
use crate::forwards::target::Outgoing;

/// Most bytes of lines that wait; then the oldest go, however few they are.
const BYTES_MAX: usize = 256 << 20;
/// How long a feed waits for something to come.
const WAIT: Duration = Duration::from_secs(1);
/// Nobody else serves the memory of this process.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where entries leave. Clones share it.
#[derive(Clone)]
pub struct MemoryExit(Arc<Shared>);

struct Shared {
    leaves: Wanted,
    entries_max: usize,
    queue: Mutex<Queue>,
    moved: watch::Sender<u64>,
}

/// Entries have numbers from 1 on; `first` is that of the oldest that waits.
struct Queue {
    entries: VecDeque<Outgoing>,
    first: u64,
    bytes: usize,
    /// The number of the newest entry that each target has.
    places: BTreeMap<String, u64>,
}

impl fmt::Debug for MemoryExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryExit")
    }
}

impl MemoryExit {
    /// For entries of the rooms that `leaves` names, and for these targets. At most `entries_max` wait.
    pub fn new(entries_max: usize, targets: impl IntoIterator<Item = String>, leaves: Wanted) -> MemoryExit {
        let places = targets.into_iter().map(|target| (target, 0)).collect();
        let queue = Mutex::new(Queue { entries: VecDeque::new(), first: 1, bytes: 0, places });
        MemoryExit(Arc::new(Shared { leaves, entries_max, queue, moved: watch::Sender::new(0) }))
    }

    /// An entry was accepted.
    pub fn push(&self, entry: &Entry) {
        if !(self.0.leaves)(&entry.room) {
            return;
        }
        let Entry { room, epoch, offset, ts, user, line, .. } = entry.clone();
        let mut queue = self.queue();
        queue.bytes += line.len();
        queue.entries.push_back(Outgoing::new(room, epoch, offset, ts, user, &line));
        while queue.entries.len() > self.0.entries_max || queue.bytes > BYTES_MAX {
            queue.forget_oldest();
        }
        let newest = queue.next() - 1;
        drop(queue);
        self.0.moved.send_replace(newest);
    }

    /// What leads to one of the targets: entries of the rooms that it wants.
    pub fn feed(&self, target: &str, wanted: Wanted) -> MemoryFeed {
        let moved = self.0.moved.subscribe();
        MemoryFeed { exit: self.clone(), target: target.to_owned(), wanted, moved }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The number of the next entry.
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes = self.bytes.saturating_sub(oldest.line.len());
            self.first += 1;
        }
    }

    /// What comes behind a place; none: nothing.
    fn behind(&self, place: u64, n: usize, wanted: &Wanted) -> Option<Next<u64>> {
        if place + 1 < self.first {
            return Some(Next::Lost { entries: self.first - 1 - place, upto: self.first - 1 });
        }
        if place + 1 == self.next() {
            return None;
        }
        let (mut list, mut upto) = (Vec::new(), place);
        for entry in self.entries.iter().skip((place + 1 - self.first) as usize) {
            let is_wanted = wanted(&entry.room);
            if is_wanted && list.len() == n {
                break;
            }
            upto += 1;
            if is_wanted {
                list.push((upto, entry.clone()));
            }
        }
        Some(Next::Entries { list, upto })
    }
}

/// See [`MemoryExit::feed`].
pub struct MemoryFeed {
    exit: MemoryExit,
    target: String,
    wanted: Wanted,
    moved: watch::Receiver<u64>,
}

impl MemoryFeed {
    fn place(&self) -> Result<u64, FeedError> {
        let unknown = || FeedError::new(format!("no entries wait for {}", self.target));
        self.exit.queue().places.get(&self.target).copied().ok_or_else(unknown)
    }
}

impl Feed for MemoryFeed {
    type Mark = u64;

    fn address(&self) -> String {
        "the memory of this process".into()
    }

    async fn open(&mut self) -> Result<(), FeedError> {
        self.place().map(drop)
    }

    async fn next(&mut self, n: usize) -> Result<Next<u64>, FeedError> {
        let until = Instant::now() + WAIT;
        loop {
            self.moved.borrow_and_update();
            let place = self.place()?;
            if let Some(next) = self.exit.queue().behind(place, n, &self.wanted) {
                return Ok(next);
            }
            if timeout_at(until, self.moved.changed()).await.is_err() {
                return Ok(Next::Nothing);
            }
        }
    }

    async fn note(&mut self, upto: u64) -> Result<(), FeedError> {
        let mut queue = self.exit.queue();
        queue.places.insert(self.target.clone(), upto);
        let slowest = queue.places.values().copied().min().unwrap_or(upto);
        while queue.first <= slowest && !queue.entries.is_empty() {
            queue.forget_oldest();
        }
        Ok(())
    }

    async fn stay(&mut self) -> Result<(), FeedError> {
        Ok(())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn waiting(&mut self) -> Result<u64, FeedError> {
        let place = self.place()?;
        Ok(self.exit.queue().next() - 1 - place)
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::entry::Kind;
    use crate::chat::message::Epoch;
    use crate::chat::names::RoomName;
    use bytes::Bytes;

    fn entry(room: &str, offset: u64) -> Entry {
        Entry {
            room: RoomName::new(room).unwrap(),
            epoch: Epoch(1),
            offset,
            ts: 1,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::from_static(b"{\"t\":\"msg\"}"),
        }
    }

    fn offsets(next: Next<u64>) -> Vec<u64> {
        match next {
            Next::Entries { list, .. } => list.into_iter().map(|(_, entry)| entry.offset).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[actix_rt::test]
    async fn the_slowest_target_keeps_entries_and_a_full_queue_tells_what_is_lost() {
        let all: Wanted = Arc::new(|room: &RoomName| room.as_str() != "private");
        let lobby: Wanted = Arc::new(|room: &RoomName| room.as_str() == "lobby");
        let exit = MemoryExit::new(3, ["fast".to_owned(), "slow".to_owned()], all.clone());
        let (mut fast, mut slow) = (exit.feed("fast", all), exit.feed("slow", lobby));
        exit.push(&entry("private", 1));
        exit.push(&entry("lobby", 1));
        exit.push(&entry("team", 1));
        assert_eq!(offsets(fast.next(1).await.unwrap()), [1]);
        assert_eq!(offsets(fast.next(9).await.unwrap()), [1, 1], "the same again until it is noted");
        fast.note(2).await.unwrap();
        exit.push(&entry("lobby", 2));
        exit.push(&entry("lobby", 3));
        assert_eq!(offsets(fast.next(9).await.unwrap()), [2, 3]);
        assert_eq!(slow.next(9).await.unwrap(), Next::Lost { entries: 1, upto: 1 });
        slow.note(1).await.unwrap();
        assert_eq!(offsets(slow.next(1).await.unwrap()), [2]);
        assert_eq!((slow.waiting().await.unwrap(), fast.waiting().await.unwrap()), (3, 2));
        for feed in [&mut slow, &mut fast] {
            feed.note(4).await.unwrap();
            assert_eq!(feed.waiting().await.unwrap(), 0);
        }
        assert!(exit.queue().entries.is_empty() && exit.queue().bytes == 0);
        assert!(exit.feed("unknown", Arc::new(|_| true)).open().await.is_err());
    }
}
