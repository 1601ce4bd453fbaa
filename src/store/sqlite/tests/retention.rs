//! The space of what is forgotten is used again.

use super::*;
use crate::store::archive::{Forgotten, Keep};

const FOR_EVER: Keep = Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX };

impl Store {
    /// Steps until a walk over all rooms has found no more; what was told.
    fn forget(&mut self, keep: &dyn Fn(&str) -> Keep, now: u64) -> Vec<(String, Offset)> {
        let mut told = Vec::new();
        loop {
            let Forgotten { rooms, more } = self.archive.forget(keep, now).unwrap();
            told.extend(rooms.into_iter().map(|(room, first)| (room.as_str().to_owned(), first)));
            if !more {
                return told;
            }
        }
    }
}

#[test]
fn space_is_used_again() {
    let mut store = Store::new();
    let text =
        "the quick brown fox jumps over the lazy dog while many others look on and wonder what it does";
    let mut next = 1;
    let mut write = |store: &mut Store| {
        for _ in 0..20 {
            store.put((0..500).map(|n| Record::Entry(said("a", next + n, &format!("{text} {}", next + n)))));
            next += 500;
        }
        store.archive.checkpoint().unwrap();
        store.size()
    };
    let first = write(&mut store);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        store.forget(&|_| Keep { age_ms: 0, ..FOR_EVER }, u64::MAX / 2);
        sizes.push(write(&mut store));
    }
    assert!(sizes.iter().all(|size| *size < first * 13 / 10), "{first} grew to {sizes:?}");
}
