//! A partition between two servers, and at its end. Called by the partition only.

use std::time::{Duration, Instant};

use redis::RedisResult;

use crate::chat::names::RoomName;
use crate::engines::redis::logs::Stage;
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::scripts;

/// How long a partition may be away before its node says so.
const AWAY_MAX: Duration = Duration::from_secs(1);
/// Longest wait for the rest of an inbox whose server is gone.
const DRAIN_MAX: Duration = Duration::from_millis(100);

impl Partition {
    /// Hears the rest of an inbox, so that repair knows all that came, and forgets what was under way.
    pub(super) async fn depart(&mut self, mut live: Live) {
        let until = tokio::time::Instant::now() + DRAIN_MAX;
        while let Ok(push) = tokio::time::timeout_at(until, live.session.pushes.recv()).await {
            if self.on_push(&mut live, push).is_err() {
                break;
            }
        }
        drop(live);
        self.recover_wishes();
        self.filling.clear();
        self.renewed.clear();
        self.outbox.start_over();
        self.living.start_over();
        self.ruling.start_over();
        for log in self.rooms.values_mut() {
            if log.stage == Stage::Live {
                log.stage = Stage::Stale;
            }
            log.missed = true;
            log.cut();
        }
        self.away = Some(Instant::now());
    }

    /// Waits before the next try; letters are taken all the while. Whether the node ends.
    pub(super) async fn wait_away(&mut self, wait: Duration, why: &str) -> bool {
        let until = tokio::time::Instant::now() + wait;
        while let Ok(letter) = tokio::time::timeout_at(until, self.letters.recv()).await {
            self.on_letter(letter);
            if self.closing.is_some() {
                return true;
            }
        }
        // It cannot be given back while Redis is away; whoever waits for that hears so.
        drop(self.giving_back.take());
        let now = Instant::now();
        let away = *self.away.get_or_insert(now);
        if now.duration_since(away) > AWAY_MAX {
            self.world.feel(self.number, Some(format!("Redis: {why}")));
        }
        self.memory.tidy(now);
        self.expire(now);
        self.closing.is_some()
    }

    /// Tells Redis that this node hears of nothing any more.
    pub(super) async fn take_leave(&mut self, live: &mut Live) {
        if let Err(error) = self.write_notes(live).await {
            let number = self.number;
            log::warn!("redis: partition {number}: some read marks and places of sessions are lost: {error}");
        }
        let rooms: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for some in rooms.chunks(100) {
            let call = self.leaving(some, live.lease.slot);
            let run = scripts::LEAVE.run(&mut live.session.control, &call);
            if let Err(error) = run.await {
                log::warn!("redis: partition {}: cannot leave its rooms: {error}", self.number);
                break;
            }
        }
        let signs = redis::cmd("HDEL").arg(self.keys.signs()).arg(live.lease.slot).to_owned();
        let gone: RedisResult<()> = signs.query_async(&mut live.session.control).await;
        if let Err(error) = gone {
            log::warn!("redis: partition {}: cannot say that this node ends: {error}", self.number);
        }
        let removed = async {
            self.remove_own(live).await?;
            // Partition 0 ends last.
            if self.number == 0 { self.free_lease(live).await } else { Ok(()) }
        };
        if let Err(error) = removed.await {
            log::warn!("redis: partition {}: others remove what this node leaves: {error}", self.number);
        }
    }
}
