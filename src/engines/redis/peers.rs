//! What this node knows of the others, and which number it has among them: one for all partitions of an engine. The
//! task of partition 0 looks after it; all others read it. Knows no connection.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::Notify;

use crate::engines::redis::life::commands::Done;
use crate::engines::redis::life::lease::{Lease, Peer, Terms};
use crate::engines::redis::life::nodes::{Heard, Nodes};
use crate::engines::redis::life::reaping::Reaping;
use crate::engines::shared::NodeSlot;

/// Between two steps of removing a dead node in a partition.
const REAP_PAUSE: Duration = Duration::from_millis(50);

/// See above.
pub struct Peers {
    /// How long a node counts as there without a sign of life.
    pub terms: Terms,
    state: RefCell<State>,
    leased: Notify,
}

struct State {
    lease: Option<Lease>,
    nodes: Option<Nodes>,
    reaping: Reaping,
    done: Done,
}

impl Peers {
    /// Nobody is known yet.
    pub fn new(partitions: usize) -> Peers {
        let reaping = Reaping::new(partitions as u32, REAP_PAUSE);
        let state = State { lease: None, nodes: None, reaping, done: Done::default() };
        Peers { terms: Terms::default(), state: RefCell::new(state), leased: Notify::new() }
    }

    /// This node's number, while it has one.
    pub fn lease(&self) -> Option<Lease> {
        self.state.borrow().lease
    }

    /// Waits until this node has a number.
    pub async fn leased(&self) -> Lease {
        loop {
            let next = self.leased.notified();
            if let Some(lease) = self.lease() {
                return lease;
            }
            next.await;
        }
    }

    /// This node has a number.
    pub fn hold(&self, lease: Lease) {
        let mut state = self.state.borrow_mut();
        state.lease = Some(lease);
        match &mut state.nodes {
            Some(nodes) => nodes.moved(lease),
            nodes => *nodes = Some(Nodes::new(lease)),
        }
        self.leased.notify_waiters();
    }

    /// This node's number is another's now.
    pub fn lose(&self) {
        self.state.borrow_mut().lease = None;
    }

    /// A tick has told who is there. Returns who is gone.
    pub fn seen(&self, peers: &[Peer]) -> Vec<NodeSlot> {
        let state = &mut *self.state.borrow_mut();
        let Some(nodes) = &mut state.nodes else { return Vec::new() };
        let gone = nodes.seen(peers);
        state.reaping.duty(&nodes.duty(peers));
        gone
    }

    /// The numbers of all nodes that are there, this one included; none before this node has a number.
    pub fn live(&self) -> Option<Vec<NodeSlot>> {
        let state = self.state.borrow();
        state.lease.and(state.nodes.as_ref()).map(Nodes::live)
    }

    /// Whether a node is to be believed; none: before this node has a number.
    pub fn heard(&self, slot: NodeSlot, stamp: u64) -> Option<Heard> {
        self.state.borrow_mut().nodes.as_mut().map(|nodes| nodes.heard(slot, stamp))
    }

    /// A node says that it leaves. Returns whether that is to be told.
    pub fn left(&self, slot: NodeSlot, stamp: u64) -> bool {
        self.state.borrow_mut().nodes.as_mut().is_some_and(|nodes| nodes.left(slot, stamp))
    }

    /// See [`Nodes::believed`].
    pub fn believed(&self, holders: &[Lease]) -> (Vec<NodeSlot>, Vec<NodeSlot>) {
        let mut state = self.state.borrow_mut();
        state.nodes.as_mut().map(|nodes| nodes.believed(holders)).unwrap_or_default()
    }

    /// What is to be done about dead nodes; see [`Reaping`].
    pub fn reap<T>(&self, work: impl FnOnce(&mut Reaping) -> T) -> T {
        work(&mut self.state.borrow_mut().reaping)
    }

    /// Which commands were carried out; see [`Done`].
    pub fn done<T>(&self, work: impl FnOnce(&mut Done) -> T) -> T {
        work(&mut self.state.borrow_mut().done)
    }
}
