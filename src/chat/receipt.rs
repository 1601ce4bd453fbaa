//! Delivery receipts of one room: with how many sessions the application has got everything up to a place, on
//! this node and on the others. Owned by the room.

use std::collections::HashMap;

use ahash::RandomState;

use crate::chat::message::Offset;

/// So many sessions of so many have got everything up to a place.
pub type Count = (Offset, u32, u32);

/// Counts of other nodes, by node. Most rooms have none, so it costs a pointer there.
type Elsewhere = Option<Box<Nodes>>;
type Nodes = HashMap<u32, Count, RandomState>;

/// What is known of a room's receipts.
#[derive(Debug, Default)]
pub struct Receipt {
    /// When the room may hear of it again, in milliseconds of the steady clock.
    pub told_at: u64,
    offset: Offset,
    sessions: u32,
    news: bool,
    /// What other nodes have told; none while there is none.
    elsewhere: Elsewhere,
}

impl Receipt {
    /// A session of this node has got everything up to a place. Returns whether that is worth telling.
    pub fn count(&mut self, offset: Offset) -> bool {
        match offset.cmp(&self.offset) {
            std::cmp::Ordering::Less => return false,
            std::cmp::Ordering::Equal => self.sessions += 1,
            std::cmp::Ordering::Greater => (self.offset, self.sessions) = (offset, 1),
        }
        self.news = true;
        true
    }

    /// Whether the sessions of this node have got further since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The sessions of this node, of which there are so many.
    pub fn own(&self, sessions: u32) -> Count {
        (self.offset, self.sessions.min(sessions), sessions)
    }

    /// Another node tells.
    pub fn note_elsewhere(&mut self, node: u32, count: Count) {
        self.elsewhere.get_or_insert_default().insert(node, count);
    }

    /// Another node is gone.
    pub fn lose_node(&mut self, node: u32) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.remove(&node);
        }
    }

    /// The sessions of all nodes together: the furthest place, with those who have got there.
    pub fn of_all(&self, sessions: u32) -> Count {
        let all =
            || self.elsewhere.iter().flat_map(|nodes| nodes.values().copied()).chain([self.own(sessions)]);
        let furthest = all().map(|(offset, ..)| offset).max().unwrap_or(0);
        let there = all().filter(|(offset, ..)| *offset == furthest).map(|(_, n, _)| n).sum();
        (furthest, there, all().map(|(.., of)| of).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_got_the_furthest_is_counted_on_all_nodes() {
        let mut receipt = Receipt::default();
        assert!(receipt.count(5) && receipt.count(7) && receipt.count(7) && !receipt.count(6));
        assert_eq!(receipt.of_all(3), (7, 2, 3));
        receipt.note_elsewhere(1, (7, 4, 10));
        receipt.note_elsewhere(2, (6, 1, 1));
        assert_eq!(receipt.of_all(3), (7, 6, 14));
        receipt.lose_node(1);
        assert_eq!(receipt.of_all(3), (7, 2, 4));
        assert!(receipt.take_news() && !receipt.take_news());
    }
}
