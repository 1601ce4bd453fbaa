//! Where nodes share the rooms, one of them at a time empties a list: here the others wait until it is their
//! turn. Part of the queue actor.
//!
//! The key of the turn names a node and lasts as long as that node's lease. Whoever follows takes over, in the
//! same step, what the one before has left, and says it before anything new. A node that stood still and goes
//! on finds its lease changed: whatever it still sends to Redis does nothing, and what it says once more is
//! known to the rooms by its ids.

use std::time::Instant;

use tokio::time::sleep;

use crate::actors::redis_queue::taking::{Queue, Session, Trouble};
use crate::actors::waits::Outage;
use crate::sources::redis_list::Turn;

impl Queue {
    /// Waits until it is this node's turn.
    pub(super) async fn come_to_turn(&self, session: &Session, outage: &mut Outage) -> Result<(), Trouble> {
        let mut holder = String::new();
        let mut has_looked = false;
        while !self.is_stopping() {
            let sent = Instant::now();
            let came = self.list.come(&mut session.redis.clone(), &holder, self.may_follow(session)).await?;
            session.renewed.set(sent);
            match came {
                Turn::Ours(entries) => {
                    self.note_turn(&holder, entries);
                    session.takes.set(true);
                    return Ok(());
                }
                // Only one that is named in the question can be followed.
                Turn::Theirs(other) if other != holder => holder = other,
                Turn::Theirs(_) => {
                    self.note_standing_by(&holder, outage);
                    if !std::mem::replace(&mut has_looked, true) {
                        self.say_what_is_left(session).await?;
                    }
                    tokio::select! { () = sleep(self.parts.timing.look) => {}, () = self.stopped() => {} }
                }
            }
        }
        Err(Trouble::Stopping)
    }

    /// What this node took when nodes did not take turns yet: nobody else has it, and it has no order any more.
    async fn say_what_is_left(&self, session: &Session) -> Result<(), Trouble> {
        let left = self.list.working(&mut session.redis.clone()).await?;
        self.replay(session, left).await
    }

    fn note_turn(&self, before: &str, entries: u64) {
        let list = self.list.keys().list();
        self.parts.counters.count_adopted(entries);
        if !before.is_empty() {
            log::info!("queue {list}: it is this node's turn, after {before}, with {entries} of its items");
        }
    }

    fn note_standing_by(&self, holder: &str, outage: &mut Outage) {
        outage.end(&format!("standing by as node {}, it is the turn of {holder}", self.list.node()));
        self.parts.counters.set_connected(true);
    }
}
