//! Whom this node knows: told by the ticks and by the frames that arrive, it says who is gone and whom to believe.
//! Called by whoever reads the inboxes and the answers of ticks. Knows no connection and no clock.

use std::collections::BTreeMap;

use super::lease::{Lease, Peer};
use crate::engines::shared::NodeSlot;

/// Ticks that may contradict a frame: their answers may have been under way when it came.
const DOUBTS: u8 = 2;

/// The other nodes.
#[derive(Debug)]
pub struct Nodes {
    own: Lease,
    known: BTreeMap<NodeSlot, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: u64,
    gone: bool,
    doubts: u8,
}

/// Whether to believe a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Yes.
    Fine,
    /// Yes; but the slot had another holder, who is gone: say so first.
    Replaced,
    /// No: the sender is gone, and this node has said so. It only does not know it yet.
    Ghost,
}

impl Nodes {
    /// Those beside the holder of this lease; nobody yet.
    pub fn new(own: Lease) -> Nodes {
        Nodes { own, known: BTreeMap::new() }
    }

    /// This node has lost its lease and holds another one now.
    pub fn moved(&mut self, own: Lease) {
        let before = std::mem::replace(&mut self.own, own);
        self.known.remove(&own.slot);
        self.known.insert(before.slot, Known { stamp: before.stamp, gone: true, doubts: 0 });
    }

    /// A tick has told who is there. Returns who is gone since the last time.
    pub fn seen(&mut self, peers: &[Peer]) -> Vec<NodeSlot> {
        let listed: BTreeMap<NodeSlot, Peer> = peers
            .iter()
            .map(|peer| (peer.lease.slot, *peer))
            .filter(|(slot, _)| *slot != self.own.slot)
            .collect();
        let mut gone = Vec::new();
        for (slot, known) in &mut self.known {
            if known.gone
                || listed.get(slot).is_some_and(|peer| !peer.gone && peer.lease.stamp == known.stamp)
            {
                known.doubts = 0;
                continue;
            }
            let declared = listed.get(slot).is_some_and(|peer| peer.lease.stamp == known.stamp);
            if known.doubts > 0 && !declared {
                known.doubts -= 1;
                continue;
            }
            known.gone = true;
            gone.push(*slot);
        }
        for (slot, peer) in listed {
            let stamp = peer.lease.stamp;
            match self.known.get(&slot) {
                Some(known) if known.stamp >= stamp => {}
                known => {
                    // Never heard of, but what it left may have been read from a roster.
                    if peer.gone && known.is_none_or(|known| known.gone) {
                        gone.push(slot);
                    }
                    self.known.insert(slot, Known { stamp, gone: peer.gone, doubts: 0 });
                }
            }
        }
        gone.sort_unstable();
        gone.dedup();
        gone
    }

    /// A frame of a node has come, or it says that it has left.
    pub fn heard(&mut self, slot: NodeSlot, stamp: u64) -> Heard {
        if slot == self.own.slot {
            return if stamp == self.own.stamp { Heard::Fine } else { Heard::Ghost };
        }
        let before = self.known.get(&slot).copied();
        match before {
            Some(known) if stamp < known.stamp || stamp == known.stamp && known.gone => Heard::Ghost,
            Some(known) if stamp == known.stamp => Heard::Fine,
            _ => {
                self.known.insert(slot, Known { stamp, gone: false, doubts: DOUBTS });
                if before.is_some_and(|known| !known.gone) { Heard::Replaced } else { Heard::Fine }
            }
        }
    }

    /// A node has said that it is leaving. Returns whether that is to be told.
    pub fn left(&mut self, slot: NodeSlot, stamp: u64) -> bool {
        if slot == self.own.slot || self.heard(slot, stamp) == Heard::Ghost {
            return false;
        }
        self.known.insert(slot, Known { stamp, gone: true, doubts: 0 });
        true
    }

    /// A roster has come, written under these leases. Returns who of them is to be believed, and who else is gone
    /// by what it tells; say that first.
    pub fn believed(&mut self, holders: &[Lease]) -> (Vec<NodeSlot>, Vec<NodeSlot>) {
        let (mut believed, mut gone) = (Vec::new(), Vec::new());
        for holder in holders {
            match self.heard(holder.slot, holder.stamp) {
                Heard::Fine => {}
                Heard::Replaced => gone.push(holder.slot),
                Heard::Ghost => continue,
            }
            believed.push(holder.slot);
        }
        (believed, gone)
    }

    /// Whether the last that is known of a slot is that its holder is gone.
    pub fn is_gone(&self, slot: NodeSlot) -> bool {
        self.known.get(&slot).is_some_and(|known| known.gone)
    }

    /// The slots of those who are there, this node's own included, in order.
    pub fn live(&self) -> Vec<NodeSlot> {
        let mut live: Vec<NodeSlot> =
            self.known.iter().filter(|(_, known)| !known.gone).map(|(slot, _)| *slot).collect();
        live.push(self.own.slot);
        live.sort_unstable();
        live
    }

    /// Whose remains this node has to remove: of all that the last tick called gone, if no live slot is lower
    /// than its own.
    pub fn duty(&self, peers: &[Peer]) -> Vec<Lease> {
        let lowest = peers.iter().filter(|peer| !peer.gone).map(|peer| peer.lease.slot).min();
        if lowest != Some(self.own.slot) {
            return Vec::new();
        }
        peers.iter().filter(|peer| peer.gone).map(|peer| peer.lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(slot: NodeSlot, stamp: u64) -> Lease {
        Lease { slot, stamp }
    }

    fn live(slot: NodeSlot, stamp: u64) -> Peer {
        Peer { lease: lease(slot, stamp), gone: false }
    }

    fn gone(slot: NodeSlot, stamp: u64) -> Peer {
        Peer { lease: lease(slot, stamp), gone: true }
    }

    #[test]
    fn a_node_is_gone_once() {
        let mut nodes = Nodes::new(lease(1, 10));
        assert!(nodes.seen(&[live(1, 10), live(2, 20)]).is_empty());
        assert_eq!(nodes.live(), [1, 2]);
        assert_eq!(nodes.seen(&[live(1, 10), gone(2, 20)]), [2]);
        assert!(nodes.seen(&[live(1, 10), gone(2, 20)]).is_empty());
        assert!(nodes.seen(&[live(1, 10)]).is_empty(), "freed");
        assert_eq!(nodes.live(), [1]);
        assert!(nodes.is_gone(2));
        assert!(nodes.seen(&[live(1, 10), live(2, 21)]).is_empty(), "taken by another one");
        assert!(!nodes.is_gone(2));
    }

    #[test]
    fn a_slot_that_changes_hands_between_two_ticks_is_noticed() {
        let mut nodes = Nodes::new(lease(1, 10));
        nodes.seen(&[live(1, 10), live(2, 20), live(3, 30)]);
        assert_eq!(nodes.seen(&[live(1, 10), live(2, 21)]), [2, 3]);
        assert_eq!(nodes.live(), [1, 2]);
        assert_eq!(nodes.heard(2, 22), Heard::Replaced);
        assert_eq!(nodes.heard(2, 22), Heard::Fine);
        assert_eq!(nodes.heard(2, 21), Heard::Ghost);
        assert_eq!(nodes.heard(3, 30), Heard::Ghost, "it does not know yet that it is gone");
        assert_eq!(nodes.heard(3, 31), Heard::Fine);
        let holders = [lease(2, 21), lease(3, 32), lease(4, 40)];
        assert_eq!(nodes.believed(&holders), (vec![3, 4], vec![3]));
    }

    #[test]
    fn an_answer_that_was_under_way_does_not_end_who_was_heard() {
        let mut nodes = Nodes::new(lease(1, 10));
        assert_eq!(nodes.heard(2, 20), Heard::Fine);
        assert!(nodes.seen(&[live(1, 10)]).is_empty());
        assert!(nodes.seen(&[live(1, 10), live(2, 20)]).is_empty());
        assert_eq!(nodes.live(), [1, 2]);
        assert_eq!(nodes.heard(3, 30), Heard::Fine);
        let without = [live(1, 10), live(2, 20)];
        assert!(nodes.seen(&without).is_empty() && nodes.seen(&without).is_empty());
        assert_eq!(nodes.seen(&without), [3], "there never was such a lease");
        assert_eq!(nodes.heard(2, 25), Heard::Replaced);
        assert!(nodes.seen(&[live(1, 10), live(2, 20)]).is_empty(), "told before the frame");
        assert_eq!(nodes.heard(2, 25), Heard::Fine);
        assert_eq!(nodes.seen(&[live(1, 10), gone(2, 25)]), [2]);
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_is_not_told_again() {
        let mut nodes = Nodes::new(lease(1, 10));
        nodes.seen(&[live(1, 10), live(2, 20)]);
        assert!(nodes.left(2, 20));
        assert!(!nodes.left(2, 20));
        assert!(nodes.seen(&[live(1, 10), live(2, 20)]).is_empty(), "an old answer");
        assert!(nodes.seen(&[live(1, 10), gone(2, 20)]).is_empty());
        assert_eq!(nodes.live(), [1]);
    }

    #[test]
    fn the_lowest_live_node_has_the_duty() {
        let peers = [gone(1, 5), live(2, 20), live(3, 30), gone(4, 40)];
        assert_eq!(Nodes::new(lease(2, 20)).duty(&peers), [lease(1, 5), lease(4, 40)]);
        assert!(Nodes::new(lease(3, 30)).duty(&peers).is_empty());
    }

    #[test]
    fn a_node_that_moved_does_not_mourn_itself() {
        let mut nodes = Nodes::new(lease(2, 20));
        nodes.seen(&[live(1, 10), gone(2, 20)]);
        nodes.moved(lease(3, 30));
        assert!(nodes.seen(&[live(1, 10), gone(2, 20), live(3, 30)]).is_empty());
        assert_eq!(nodes.heard(2, 20), Heard::Ghost, "its own old frames");
        assert_eq!(nodes.live(), [1, 3]);
    }
}
