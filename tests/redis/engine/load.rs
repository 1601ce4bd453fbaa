//! Writers that say numbered messages on a node until they are told to stop, and say a refused one again.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use roomcast::engines::shared::{Outcome, Safety};

use super::stage::{Node, judge, message};
use crate::fixtures::eventually;

/// Messages of one writer that wait for their outcomes.
const OPEN_MAX: usize = 20;

/// Writers on some nodes in one room.
pub struct Load {
    nodes: Vec<Rc<Node>>,
    room: String,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Written>>,
}

#[derive(Default)]
struct Written {
    acked: Vec<(String, u64)>,
    /// The longest time between two outcomes.
    pause: Duration,
}

impl Load {
    pub fn start(nodes: &[Rc<Node>], room: &str, safety: Safety) -> Load {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |(at, node): (usize, &Rc<Node>)| {
            let work =
                write(node.clone(), room.to_owned(), format!("w{at}"), safety, stop.clone(), acks.clone());
            actix_rt::spawn(work)
        };
        let tasks = nodes.iter().enumerate().map(start).collect();
        Load { nodes: nodes.to_vec(), room: room.to_owned(), stop, acks, tasks }
    }

    /// Waits for so many more outcomes.
    pub async fn goes_on(&self, more: u64) {
        let wanted = self.acks.load(SeqCst) + more;
        eventually("the writers to go on", async || (self.acks.load(SeqCst) >= wanted).then_some(())).await;
    }

    /// Ends the writers, waits until every node has everything, and judges.
    pub async fn ends_well(self, what: &str) {
        self.stop.store(true, SeqCst);
        let (mut acked, mut pause) = (Vec::new(), Duration::ZERO);
        for task in self.tasks {
            let written = task.await.unwrap();
            acked.extend(written.acked);
            pause = pause.max(written.pause);
        }
        let nodes: Vec<&Node> = self.nodes.iter().map(Rc::as_ref).filter(|node| !node.is_dead()).collect();
        for node in &nodes {
            let has_all = || {
                let seen = node.seen(&self.room);
                let ids: std::collections::HashSet<&str> =
                    seen.log.values().map(|(_, id)| id.as_str()).collect();
                acked.iter().filter(|(id, _)| !ids.contains(id.as_str())).count() == 0
            };
            let until = Instant::now() + Duration::from_secs(10);
            // Then the judge says what is missing.
            while !has_all() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        judge(&nodes, &self.room, &acked);
        let tops: Vec<u64> = nodes.iter().map(|node| node.seen(&self.room).top).collect();
        let rewinds: Vec<_> = nodes.iter().map(|node| node.seen(&self.room).rewinds).collect();
        let skips: Vec<_> = nodes.iter().map(|node| node.seen(&self.room).skips).collect();
        eprintln!(
            "{what}: {} acked, pause {pause:?}, tops {tops:?}, rewinds {rewinds:?}, skips {skips:?}",
            acked.len()
        );
    }
}

async fn write(
    node: Rc<Node>,
    room: String,
    name: String,
    safety: Safety,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
) -> Written {
    let (mut written, mut open, mut number) = (Written::default(), VecDeque::new(), 0);
    let mut last = Instant::now();
    let say = |id: &str| node.propose(message(&room, id), id, true, safety);
    while (!stop.load(SeqCst) || !open.is_empty()) && !node.is_dead() {
        while open.len() < OPEN_MAX && !stop.load(SeqCst) {
            number += 1;
            let id = format!("{name}-{number}");
            open.push_back((say(&id), id));
        }
        let Some((ticket, id)) = open.pop_front() else { break };
        match node.outcome(ticket) {
            Some(Outcome::Placed(accepted)) => {
                written.acked.push((id, accepted.offset));
                written.pause = written.pause.max(last.elapsed());
                last = Instant::now();
                acks.fetch_add(1, SeqCst);
            }
            Some(Outcome::Refused(_)) => open.push_back((say(&id), id)),
            Some(Outcome::Gone) => panic!("nothing was deleted"),
            None => {
                open.push_front((ticket, id));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    written
}
