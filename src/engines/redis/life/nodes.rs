//! Whom this node knows: told by the ticks and by the frames that arrive, it says who is gone and whom to believe.
//! Called by whoever reads the inboxes and the answers of ticks. Knows no connection and no clock.

use std::collections::BTreeMap;

use super::lease::{Lease, Peer, State};
use crate::engines::shared::NodeSlot;

/// Ticks that may contradict a frame: their answers may have been under way when it came.
const DOUBTS: u8 = 2;
/// Ticks that may not know a node, because Redis has forgotten it: as many as its lease and the grace last.
const FORGIVEN: u8 = 5;

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
    forgotten: u8,
}

impl Known {
    fn new(stamp: u64, gone: bool) -> Known {
        Known { stamp, gone, doubts: 0, forgotten: 0 }
    }

    /// Compares with what a tick tells of the slot, unless that is about a later lease.
    fn look(&mut self, peer: Option<&Peer>) {
        let Some(peer) = peer else {
            self.forgotten = self.forgotten.saturating_add(1);
            self.gone |= self.forgotten > FORGIVEN;
            return;
        };
        self.forgotten = 0;
        let agrees = peer.lease.stamp == self.stamp && self.gone == (peer.state != State::Held);
        if agrees || peer.lease.stamp > self.stamp {
            self.doubts = 0;
        } else if peer.lease.stamp == self.stamp && peer.state != State::Held {
            *self = Known::new(self.stamp, true);
        } else if self.doubts > 0 {
            self.doubts -= 1;
        } else {
            // Held after all; or a lease that Redis has never heard of, and its holder is just learning that.
            self.gone = peer.lease.stamp < self.stamp;
        }
    }
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
        self.known.insert(before.slot, Known::new(before.stamp, true));
    }

    /// A tick has told who is there. Returns who is gone since the last time.
    pub fn seen(&mut self, peers: &[Peer]) -> Vec<NodeSlot> {
        let listed: BTreeMap<NodeSlot, Peer> = peers
            .iter()
            .filter(|peer| peer.lease.slot != self.own.slot)
            .map(|peer| (peer.lease.slot, *peer))
            .collect();
        let mut gone = Vec::new();
        for (slot, known) in &mut self.known {
            let was_there = !known.gone;
            known.look(listed.get(slot));
            if was_there && known.gone {
                gone.push(*slot);
            }
        }
        for (slot, peer) in listed {
            let before = self.known.get(&slot).copied();
            if before.is_some_and(|known| known.stamp >= peer.lease.stamp) {
                continue;
            }
            // A node that was never heard of may have left something in a roster that was.
            if before.is_some_and(|known| !known.gone) || peer.state == State::Gone {
                gone.push(slot);
            }
            self.known.insert(slot, Known::new(peer.lease.stamp, peer.state != State::Held));
        }
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
                self.known.insert(slot, Known { doubts: DOUBTS, ..Known::new(stamp, false) });
                if before.is_some_and(|known| !known.gone) { Heard::Replaced } else { Heard::Fine }
            }
        }
    }

    /// A node has said that it is leaving. Returns whether that is to be told.
    pub fn left(&mut self, slot: NodeSlot, stamp: u64) -> bool {
        if slot == self.own.slot || self.heard(slot, stamp) == Heard::Ghost {
            return false;
        }
        self.known.insert(slot, Known { doubts: DOUBTS, ..Known::new(stamp, true) });
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
        let lowest = peers.iter().filter(|peer| peer.state == State::Held).map(|peer| peer.lease.slot).min();
        if lowest != Some(self.own.slot) {
            return Vec::new();
        }
        peers.iter().filter(|peer| peer.state == State::Gone).map(|peer| peer.lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(slot: NodeSlot, stamp: u64) -> Lease {
        Lease { slot, stamp }
    }

    fn live(slot: NodeSlot, stamp: u64) -> Peer {
        Peer { lease: lease(slot, stamp), state: State::Held }
    }

    fn gone(slot: NodeSlot, stamp: u64) -> Peer {
        Peer { lease: lease(slot, stamp), state: State::Gone }
    }

    fn free(slot: NodeSlot, stamp: u64) -> Peer {
        Peer { lease: lease(slot, stamp), state: State::Free }
    }

    #[test]
    fn a_node_is_gone_once() {
        let mut nodes = Nodes::new(lease(1, 10));
        assert!(nodes.seen(&[live(1, 10), live(2, 20)]).is_empty());
        assert_eq!(nodes.live(), [1, 2]);
        assert_eq!(nodes.seen(&[live(1, 10), gone(2, 20)]), [2]);
        assert!(nodes.seen(&[live(1, 10), gone(2, 20)]).is_empty());
        assert!(nodes.seen(&[live(1, 10), free(2, 20)]).is_empty(), "freed");
        assert_eq!(nodes.live(), [1]);
        assert!(nodes.is_gone(2));
        assert!(nodes.seen(&[live(1, 10), live(2, 21)]).is_empty(), "taken by another one");
        assert!(!nodes.is_gone(2));
    }

    #[test]
    fn a_slot_that_changes_hands_between_two_ticks_is_noticed() {
        let mut nodes = Nodes::new(lease(1, 10));
        nodes.seen(&[live(1, 10), live(2, 20), live(3, 30)]);
        let gone = nodes.seen(&[live(1, 10), live(2, 21), free(3, 30)]);
        assert_eq!(gone, [3, 2], "reaped and freed meanwhile, or taken by another one");
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
        assert_eq!(nodes.heard(2, 25), Heard::Replaced);
        let old = [live(1, 10), live(2, 20)];
        assert!(nodes.seen(&old).is_empty() && nodes.seen(&old).is_empty(), "told before the frame");
        assert_eq!(nodes.seen(&old), [2], "a lease that was lost in a failover");
        assert_eq!(nodes.heard(2, 25), Heard::Ghost);
        assert!(nodes.seen(&[live(1, 10), live(2, 25)]).is_empty(), "and was not");
        assert_eq!(nodes.heard(2, 25), Heard::Fine);
        assert_eq!(nodes.seen(&[live(1, 10), gone(2, 25)]), [2]);
    }

    #[test]
    fn whom_redis_has_forgotten_is_given_time_to_come_back() {
        let mut nodes = Nodes::new(lease(1, 10));
        nodes.seen(&[live(1, 10), live(2, 20), live(3, 30)]);
        let mut gone = Vec::new();
        for _ in 0..FORGIVEN {
            gone.extend(nodes.seen(&[live(1, 10)]));
        }
        assert!(gone.is_empty(), "{gone:?}");
        assert_eq!(nodes.seen(&[live(1, 10), live(2, 20)]), [3], "it has had its time");
        assert_eq!(nodes.live(), [1, 2]);
        assert!(nodes.seen(&[live(1, 10), live(2, 20), live(3, 30)]).is_empty());
        assert_eq!(nodes.live(), [1, 2, 3], "better late");
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
