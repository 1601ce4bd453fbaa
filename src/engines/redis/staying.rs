//! A partition at its server: how it settles in there, and what is due while it stays. Called by the partition only.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use redis::{RedisResult, Value};

use crate::engines::redis::letters::{Asked, Called};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{self, Fence};
use crate::engines::redis::session::{Session, who};
use crate::engines::redis::world::EPOCH_LASTS_MS;
use crate::engines::redis::{checks, frame, scripts};
use crate::engines::shared::Says;

/// Between two signs of life.
const TICK: Duration = Duration::from_secs(1);
/// Without its own sign of life for so long, a node does not trust its inbox any more: one second to the next sign, and
/// two for it to come back.
const SIGN_MAX: Duration = Duration::from_secs(3);
/// How long a question waits for Redis.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long a server that refuses to write is asked again before the primary is looked for anew.
const REFUSING_MAX: Duration = Duration::from_secs(2);
/// How long a replica is waited for that was connected and is not any more.
const REPLICA_MISSED: Duration = Duration::from_secs(5);

impl Partition {
    pub(super) async fn settle_in(&mut self) -> Result<Live, String> {
        let more = self.world.hosts.borrow().clone();
        let opened = Session::open(&self.world.link, &self.keys.fence(), &more).await;
        let (mut session, others) = opened.map_err(|error| error.to_string())?;
        if !others.is_empty() {
            *self.world.hosts.borrow_mut() = others;
        }
        let lease = self.take_part(&mut session).await?;
        let subscribed = session.subscribe(&self.keys, lease.slot, self.world.link.is_cluster()).await;
        subscribed.map_err(|error| error.to_string())?;
        let fence = self.enter(&mut session, lease.slot).await?;
        // After the inbox is open: what changes later comes through it. And at the server that counts.
        self.read_rules(&mut session).await?;
        log::info!(
            "redis: partition {} is at {}:{}, epoch {}, {} replicas",
            self.number,
            session.host.0,
            session.host.1,
            fence.epoch,
            session.replicas
        );
        if session.replicas > 0 {
            self.replicas_seen = Some(Instant::now());
        }
        if self.number == 0 && !self.checked {
            self.checked = true;
            let replicas = session.replicas > 0 || self.world.link.has_replicas();
            let warnings = checks::warnings(&mut session.control, replicas).await;
            warnings.iter().for_each(|warning| log::warn!("{}", warning.escape_debug()));
        }
        self.epoch = fence.epoch;
        self.away = None;
        self.archived = (0, 0);
        self.warned = None;
        if self.refusing.is_none() {
            self.world.feel(self.number, None);
        }
        self.rejoin_all();
        Ok(Live {
            session,
            fence,
            lease,
            calls: FuturesUnordered::new(),
            publishing: false,
            joining: false,
            positioning: false,
            sign: (0, Instant::now()),
            ticked: None,
            since: Instant::now(),
            paused: None,
            join_paused: None,
        })
    }

    /// What is due; returns when to look again.
    pub(super) fn do_chores(&mut self, live: &mut Live) -> Result<Duration, String> {
        let now = Instant::now();
        if now.duration_since(live.sign.1) > SIGN_MAX && now.duration_since(live.since) > SIGN_MAX {
            return Err("nothing comes back through the inbox".into());
        }
        if live.ticked.is_none_or(|ticked| now.duration_since(ticked) >= TICK) {
            live.ticked = Some(now);
            live.sign.0 += 1;
            self.tick(live);
            self.renew_rooms(now);
        }
        self.memory.tidy(now);
        self.expire(now);
        self.look_at_holes(now);
        self.look_after_others(live, now)?;
        live.join_paused = live.join_paused.filter(|until| now < *until);
        if live.paused.is_some_and(|until| now >= until) {
            live.paused = None;
            let since = self.refusing.map(|since| since.max(live.since));
            if since.is_some_and(|since| now.duration_since(since) > REFUSING_MAX) {
                return Err("the server refuses to write".into());
            }
        }
        if self.outbox.awaits_archive() && !live.positioning {
            live.positioning = true;
            let (mut connection, key) = (live.session.control.clone(), self.keys.feed_position());
            live.calls.push(Box::pin(async move {
                Called::Position(redis::cmd("GET").arg(key).query_async(&mut connection).await)
            }));
        }
        let busy = self.outbox.awaits_archive() || self.rooms.values().any(|log| log.hole.is_some());
        Ok(Duration::from_millis(if busy || live.paused.is_some() { 10 } else { 50 }))
    }

    /// A sign of life of this node has come back. One that comes late shows that the inbox is slow, not that it is cut.
    pub(super) fn on_sign(&mut self, live: &mut Live, number: u64) {
        if number <= live.sign.0 {
            live.sign.1 = Instant::now();
        }
    }

    fn tick(&mut self, live: &mut Live) {
        let mut call = scripts::TICK.call(4);
        call.arg(self.keys.fence()).arg(self.keys.signs()).arg(self.keys.young()).arg(self.keys.feed_count());
        call.arg(live.fence.text()).arg(live.lease.slot).arg(self.keys.inbox(live.lease.slot));
        call.arg(frame::sign(live.sign.0)).arg(self.publish_command()).arg(EPOCH_LASTS_MS);
        let mut connection = live.session.control.clone();
        live.calls.push(Box::pin(async move {
            let ticked = async {
                let answer = scripts::TICK.run(&mut connection, &call).await?;
                Ok((answer, who(&mut connection).await?.0))
            };
            Called::Ticked(ticked.await)
        }));
    }

    pub(super) fn on_ticked(
        &mut self,
        live: &mut Live,
        answer: RedisResult<(Value, usize)>,
    ) -> Result<(), String> {
        let (answer, replicas) = answer.map_err(|error| error.to_string())?;
        live.session.replicas = replicas;
        if replicas > 0 {
            self.replicas_seen = Some(Instant::now());
        }
        let (_, rest) = replies::word(answer).map_err(|error| error.to_string())?;
        self.heed_fence(live, rest.into_iter().next())
    }

    /// Whose turn it is now, by an answer. An epoch that another node has begun here is taken over.
    pub(super) fn heed_fence(&mut self, live: &mut Live, fence: Option<Value>) -> Result<(), String> {
        let text = fence.and_then(|fence| replies::text(fence).ok());
        match text.as_deref().and_then(Fence::parse) {
            Some(fence) if fence.run_id == live.session.run_id && fence.epoch >= live.fence.epoch => {
                self.epoch = fence.epoch;
                live.fence = fence;
                Ok(())
            }
            _ => Err("the nodes have gone on at another server".into()),
        }
    }

    /// Whether a proposal that is to have a copy has to wait for one. A replica that was there a moment ago is
    /// waited for: it may be back soon, and what it does not have may be lost with this server.
    pub(super) fn needs_replica(&self) -> bool {
        self.replicas_seen.is_some_and(|seen| seen.elapsed() < REPLICA_MISSED)
    }

    pub(super) fn publish_command(&self) -> &'static str {
        if self.world.link.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let settled = self.outbox.expire(now);
        if !settled.is_empty() {
            self.world.say(Says::Settled(settled));
        }
        while self.questions.front().is_some_and(|(since, _)| now.duration_since(*since) > READ_MAX) {
            let away = || "Redis cannot be reached; try again".to_owned();
            // Whoever asked may be gone.
            match self.questions.pop_front() {
                Some((_, Asked::Question(_, reply))) => reply.send(Err(away())).ok().unwrap_or_default(),
                Some((_, Asked::Tops(_, reply))) => reply.send(Err(away())).ok().unwrap_or_default(),
                Some((_, Asked::Look(_, reply))) => reply.send(Err(away())).ok().unwrap_or_default(),
                None => {}
            }
        }
        self.expire_wishes(now);
        self.expire_rulings(now);
    }
}
