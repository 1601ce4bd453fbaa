//! Which entries of rooms were sampled lately, and where in their traces: what is posted or forwarded later, by somebody
//! who has the entry alone, finds its way back. Owned by the tracer. It forgets the oldest, and all at the end.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use opentelemetry::trace::SpanContext;

/// Most entries that are known; some 150 bytes each.
const ENTRIES_MAX: usize = 4_096;

/// See above. Entries are known by a hash of their ids: a wrong way back once in a very long time is no harm.
#[derive(Debug, Default)]
pub(super) struct Recent {
    hasher: RandomState,
    table: Mutex<Table>,
    /// Read before the lock is taken: where nothing is sampled nobody takes it.
    n: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    order: VecDeque<u64>,
    places: HashMap<u64, SpanContext>,
}

impl Recent {
    pub(super) fn remember(&self, id: &str, place: SpanContext) {
        let hash = self.hasher.hash_one(id);
        let mut table = self.table();
        if table.places.insert(hash, place).is_none() {
            table.order.push_back(hash);
        }
        if table.order.len() > ENTRIES_MAX
            && let Some(oldest) = table.order.pop_front()
        {
            table.places.remove(&oldest);
        }
        self.n.store(table.order.len(), Relaxed);
    }

    /// The places of those that are known, at most `most`, in the order of the ids.
    pub(super) fn find(&self, ids: impl Iterator<Item = impl AsRef<str>>, most: usize) -> Vec<SpanContext> {
        if self.n.load(Relaxed) == 0 {
            return Vec::new();
        }
        // Before the lock is taken: to find out an id may be work, and who remembers one waits for nobody.
        let hashes: Vec<u64> = ids.map(|id| self.hasher.hash_one(id.as_ref())).collect();
        let table = self.table();
        hashes.iter().filter_map(|hash| table.places.get(hash).cloned()).take(most).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    fn place(n: u64) -> SpanContext {
        let trace = TraceId::from_bytes(u128::from(n).to_be_bytes());
        let span = SpanId::from_bytes(n.to_be_bytes());
        SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default())
    }

    #[test]
    fn the_newest_are_known_and_the_oldest_forgotten() {
        let recent = Recent::default();
        assert!(recent.find(["lobby@1-1"].iter(), 9).is_empty());
        for n in 1..=ENTRIES_MAX as u64 + 1 {
            recent.remember(&format!("lobby@1-{n}"), place(n));
        }
        let find = |ids: &[&str], most| recent.find(ids.iter(), most);
        assert_eq!(find(&["lobby@1-1"], 9), []);
        assert_eq!(find(&["lobby@1-3", "other@1-3", "lobby@1-2"], 9), [place(3), place(2)]);
        assert_eq!(find(&["lobby@1-3", "lobby@1-2"], 1), [place(3)]);
        recent.remember("lobby@1-3", place(7));
        assert_eq!(find(&["lobby@1-3"], 9), [place(7)], "the last one counts");
    }
}
