//! What goes on beside the work: the lease is renewed, dead nodes are looked for, the list is measured.
//! Part of the queue actor.

use std::time::Instant;

use redis::RedisError;
use tokio::time::sleep;

use crate::actors::redis_queue::taking::{Queue, Session, Trouble};
use crate::redis_link::RedisConnection;

impl Queue {
    /// Refuses to go on when the lease may have run out, as it does when the process was stopped: what it
    /// has in hand may have been adopted and said by another node.
    pub(super) fn check_lease(&self, session: &Session) -> Result<(), Trouble> {
        let safe = self.parts.timing.lease.mul_f32(0.8);
        if session.renewed.get().elapsed() < safe { Ok(()) } else { Err(Trouble::LeaseLost) }
    }

    /// Renews the lease, looks for nodes that are gone, and measures the list; beside [`work`](Queue::work).
    pub(super) async fn keep(&self, session: &Session) -> std::convert::Infallible {
        let mut redis = session.redis.clone();
        loop {
            sleep(self.parts.timing.renew).await;
            let sent = Instant::now();
            // An error is not told from here: the lease is then not renewed, and the work finds that out.
            let Ok(()) = self.list.renew(&mut redis).await else {
                return std::future::pending().await;
            };
            session.renewed.set(sent);
            if let Err(error) = self.look_around(session, &mut redis).await {
                log::debug!("queue {}: looking for dead nodes: {error}", self.list.keys().list());
            }
        }
    }

    /// Whether those that live have had the time to take their leases back.
    pub(super) fn may_follow(&self, session: &Session) -> bool {
        session.began.elapsed() >= self.parts.timing.adopt_after
    }

    async fn look_around(&self, session: &Session, redis: &mut RedisConnection) -> Result<(), RedisError> {
        self.parts.counters.set_backlog(self.list.backlog(redis).await?);
        if !session.takes.get() || !self.may_follow(session) {
            return Ok(());
        }
        for node in self.list.gone(redis).await? {
            let ids = self.list.adopt(redis, &node).await?;
            if ids.is_empty() {
                continue;
            }
            log::warn!(
                "queue {}: node {node} is gone, taking over {} items",
                self.list.keys().list(),
                ids.len()
            );
            self.parts.counters.count_adopted(ids.len() as u64);
            session.adopted.borrow_mut().extend(ids);
        }
        Ok(())
    }
}
