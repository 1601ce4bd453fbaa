//! What makes a repeat harmless: the ids said in a room, with the places they got.
//! Called by the room. Ids of different users do not collide, because the user is part of the key.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};

use ahash::RandomState;

use crate::chat::message::Offset;
use crate::chat::names::{MessageId, UserName};

/// What an id costs in memory, in bytes: one map slot and one queue slot. Part of every budget.
pub const ID_BYTES: usize = 80;

/// A user's id as 128 keyed hash bits. Two ids would have to collide under both keys, which are drawn
/// anew in every process: with a million ids in a window the chance is below 10⁻²⁶.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdKey(u64, u64);

/// The two hash keys of this process.
#[derive(Debug, Clone)]
pub struct IdKeys(RandomState, RandomState);

impl Default for IdKeys {
    fn default() -> IdKeys {
        IdKeys(RandomState::new(), RandomState::new())
    }
}

impl IdKeys {
    /// The key of `id` said by `user`.
    pub fn key(&self, user: Option<&UserName>, id: &MessageId) -> IdKey {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            user.map(UserName::as_str).hash(&mut hasher);
            id.as_str().hash(&mut hasher);
            hasher.finish()
        };
        IdKey(half(&self.0), half(&self.1))
    }
}

/// The place that an id got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Offset in the room; 0 for a message that was not kept.
    pub offset: Offset,
    /// When it was accepted, Unix milliseconds.
    pub ts: u64,
}

/// The ids of one room's dedup window.
#[derive(Debug, Default)]
pub struct Dedup {
    seen: HashMap<IdKey, Seen, RandomState>,
    order: VecDeque<(u64, IdKey)>,
}

impl Dedup {
    /// The place of an id said before, if it is still remembered.
    pub fn find(&self, key: IdKey) -> Option<Seen> {
        self.seen.get(&key).copied()
    }

    /// Remembers an id that [`Dedup::find`] did not know.
    pub fn remember(&mut self, key: IdKey, seen: Seen) {
        let before = self.seen.insert(key, seen);
        debug_assert!(before.is_none(), "an id is remembered once");
        self.order.push_back((seen.ts, key));
    }

    /// Adds ids that a store knows, newest first, all older than those remembered so far.
    pub fn restore(&mut self, ids: impl IntoIterator<Item = (IdKey, Seen)>) {
        for (key, seen) in ids {
            if let std::collections::hash_map::Entry::Vacant(place) = self.seen.entry(key) {
                place.insert(seen);
                self.order.push_front((seen.ts, key));
            }
        }
    }

    /// Takes back the newest id: its message was not kept after all.
    pub fn take_back(&mut self, key: IdKey) {
        if self.seen.remove(&key).is_some()
            && let Some(at) = self.order.iter().rposition(|(_, known)| *known == key)
        {
            self.order.remove(at);
        }
    }

    /// When the oldest remembered id was accepted, Unix milliseconds.
    pub fn oldest_ts(&self) -> Option<u64> {
        self.order.front().map(|(ts, _)| *ts)
    }

    /// Forgets what was accepted before `ts` (Unix milliseconds).
    pub fn forget_before(&mut self, ts: u64) {
        while self.order.front().is_some_and(|(at, _)| *at < ts) {
            self.forget_oldest();
        }
        if self.seen.is_empty() {
            self.seen.shrink_to_fit();
            self.order.shrink_to_fit();
        }
    }

    /// Forgets the oldest half, at least one id; returns how many. What a room gives up when memory is short.
    pub fn forget_half(&mut self) -> usize {
        let n = self.order.len().div_ceil(2);
        for _ in 0..n {
            self.forget_oldest();
        }
        n
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no id is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_different_users_do_not_collide() {
        let keys = IdKeys::default();
        let id = MessageId::new("k7-41").unwrap();
        let (ann, bob) = (UserName::new("ann").unwrap(), UserName::new("bob").unwrap());
        assert_eq!(keys.key(Some(&ann), &id), keys.key(Some(&ann), &id));
        assert_ne!(keys.key(Some(&ann), &id), keys.key(Some(&bob), &id));
        assert_ne!(keys.key(Some(&ann), &id), keys.key(None, &id));
        let (a, b) = (MessageId::new("nb").unwrap(), MessageId::new("b").unwrap());
        let (an, ann2) = (UserName::new("an").unwrap(), UserName::new("a").unwrap());
        assert_ne!(
            keys.key(Some(&an), &b),
            keys.key(Some(&ann2), &a),
            "no shifting of letters between the two"
        );
    }

    #[test]
    fn remembers_for_the_window_and_no_longer() {
        let keys = IdKeys::default();
        let mut dedup = Dedup::default();
        let key = |n: u64| keys.key(None, &MessageId::new(&n.to_string()).unwrap());
        for n in 1..=4 {
            dedup.remember(key(n), Seen { offset: n, ts: n * 100 });
        }
        dedup.forget_before(200);
        assert_eq!(dedup.find(key(1)), None);
        assert_eq!(dedup.find(key(2)), Some(Seen { offset: 2, ts: 200 }));
        assert_eq!(dedup.forget_half(), 2);
        assert_eq!((dedup.find(key(3)), dedup.len()), (None, 1));
    }

    #[test]
    fn what_a_store_knows_is_older_and_what_was_not_kept_is_forgotten() {
        let keys = IdKeys::default();
        let mut dedup = Dedup::default();
        let key = |n: u64| keys.key(None, &MessageId::new(&n.to_string()).unwrap());
        dedup.remember(key(9), Seen { offset: 9, ts: 900 });
        dedup.restore([8, 9, 7].map(|n| (key(n), Seen { offset: n, ts: n * 100 })));
        assert_eq!((dedup.len(), dedup.oldest_ts()), (3, Some(700)));
        dedup.take_back(key(9));
        assert_eq!((dedup.find(key(9)), dedup.len()), (None, 2));
        dedup.forget_before(800);
        assert_eq!((dedup.find(key(7)), dedup.find(key(8)).is_some()), (None, true));
    }
}
