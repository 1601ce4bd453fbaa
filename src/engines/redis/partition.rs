//! One partition: finds its primary, stays there until the first trouble, and begins again. The task that runs
//! this owns all of the partition's state; what takes time runs beside it and comes back as [`Called`]. Started
//! by the engine's thread.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{RedisResult, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::chat::names::RoomName;
use crate::engines::redis::checks;
use crate::engines::redis::frame;
use crate::engines::redis::joining::Wish;
use crate::engines::redis::keys::Keys;
use crate::engines::redis::logs::{Log, Stage};
use crate::engines::redis::memory::Memory;
use crate::engines::redis::outbox::{self, Fed, Outbox, Queued};
use crate::engines::redis::reading::Reading;
use crate::engines::redis::rejoining::Filling;
use crate::engines::redis::replies::{self, Fence};
use crate::engines::redis::scripts;
use crate::engines::redis::session::{Opening, Session, who};
use crate::engines::redis::world::{EPOCH_LASTS_MS, World};
use crate::engines::shared::Says;
use crate::redis_link::backoff::Backoff;
use crate::store::archive::{Answer, Question, StoredRoom};

/// Between two signs of life.
const TICK: Duration = Duration::from_secs(1);
/// Without its own sign of life for so long, a node does not trust its inbox any more.
const SIGN_MAX: Duration = Duration::from_secs(2);
/// How long a partition may be away before its node says so.
const AWAY_MAX: Duration = Duration::from_secs(1);
/// How long a question waits for Redis.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long a server that refuses to write is asked again before the primary is looked for anew.
const REFUSING_MAX: Duration = Duration::from_secs(2);
/// How long a replica is waited for that was connected and is not any more.
const REPLICA_MISSED: Duration = Duration::from_secs(5);
/// Memory of what was heard in the last minute, in bytes, over all partitions.
const MEMORY_BYTES: usize = 64 << 20;
/// Longest wait for the rest of an inbox whose server is gone.
const DRAIN_MAX: Duration = Duration::from_millis(100);

/// What a partition is told.
pub enum Letter {
    /// Proposals; their weight is counted already.
    Propose(Vec<Queued>),
    /// A room is to be joined.
    Join {
        /// Which.
        room: RoomName,
        /// Most entries of its tail.
        tail: usize,
        /// Most bytes of them.
        tail_bytes: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<StoredRoom, String>>,
    },
    /// The answers about these rooms have been told.
    Told(Vec<RoomName>),
    /// Rooms are not wanted any more.
    Leave(Vec<RoomName>),
    /// A question about a room.
    Read {
        /// The question.
        question: Question,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Answer, String>>,
    },
    /// The node ends.
    Close(oneshot::Sender<()>),
}

/// A question that waits for Redis, since when, and where the answer goes.
type Waiting = (Instant, Question, oneshot::Sender<Result<Answer, String>>);

/// What has come back.
pub enum Called {
    /// The answers to a batch and to the wait for replicas.
    Published {
        /// Of the script and of the wait; one of them may be missing.
        answers: RedisResult<Vec<Value>>,
        /// Whether there was a batch.
        batch: bool,
        /// Whether a replica was waited for.
        waited: bool,
    },
    /// The answer to a joining script.
    Joined(RedisResult<Value>),
    /// Redis knows what the archive knows of a room.
    Seeded(RoomName, Result<(), String>),
    /// A hole that the archive may have filled.
    Filled(RoomName, Filling),
    /// The answer to a sign of life, and replicas that are connected.
    Ticked(RedisResult<(Value, usize)>),
    /// How far the archive is.
    Position(RedisResult<Option<String>>),
    /// Something without an answer that matters.
    Done(RedisResult<()>),
}

/// Why a stay has ended.
pub enum Ended {
    /// The node ends.
    Closed,
    /// Something is wrong.
    Trouble(String),
}

/// What belongs to a stay at one server.
pub struct Live {
    /// The connections.
    pub session: Session,
    /// Whose turn it is there.
    pub fence: Fence,
    /// What is under way.
    pub calls: FuturesUnordered<LocalBoxFuture<'static, Called>>,
    /// Whether a batch or a wait for replicas is under way.
    pub publishing: bool,
    /// Whether a joining call is under way.
    pub joining: bool,
    /// Whether the archive's position is being asked for.
    pub positioning: bool,
    /// Number of the last sign of life, and when an own one was heard.
    sign: (u64, Instant),
    ticked: Option<Instant>,
    since: Instant,
    /// Until when nothing is published, and since when the server has refused to write.
    pub paused: Option<(Instant, Instant)>,
}

/// See above.
pub struct Partition {
    pub(super) world: Rc<World>,
    pub(super) number: usize,
    pub(super) keys: Keys,
    letters: UnboundedReceiver<Letter>,
    pub(super) outbox: Outbox,
    pub(super) memory: Memory,
    pub(super) rooms: AHashMap<RoomName, Log>,
    pub(super) wishes: VecDeque<Wish>,
    /// Those that Redis is being asked about.
    pub(super) asked: Vec<Wish>,
    /// Rooms that are being loaded from the archive, with what waits for that.
    pub(super) seeding: AHashMap<RoomName, Vec<Wish>>,
    /// Rooms whose hole the archive is asked about.
    pub(super) filling: AHashSet<RoomName>,
    /// When this node last renewed the life of a room's keys.
    pub(super) renewed: AHashMap<RoomName, Instant>,
    questions: VecDeque<Waiting>,
    /// The youngest epoch that this node has seen; 0 for none.
    pub(super) epoch: u64,
    /// Since when only servers are found that others have left behind.
    pub(super) left_behind: Option<Instant>,
    /// Since when the server has refused to write.
    pub(super) refusing: Option<Instant>,
    /// When a replica was last connected.
    replicas_seen: Option<Instant>,
    pub(super) archived: Fed,
    away: Option<Instant>,
    closing: Option<oneshot::Sender<()>>,
    /// Whether the settings of Redis were looked at.
    checked: bool,
}

impl Partition {
    /// One of `partitions`.
    pub fn new(
        world: Rc<World>,
        number: usize,
        partitions: usize,
        letters: UnboundedReceiver<Letter>,
    ) -> Partition {
        Partition {
            keys: world.keys(number),
            outbox: Outbox::new(world.waiting.clone()),
            world,
            number,
            letters,
            memory: Memory::new((MEMORY_BYTES / partitions).max(8 << 20)),
            rooms: AHashMap::new(),
            wishes: Default::default(),
            asked: Vec::new(),
            seeding: AHashMap::new(),
            filling: AHashSet::new(),
            renewed: AHashMap::new(),
            questions: Default::default(),
            epoch: 0,
            left_behind: None,
            refusing: None,
            replicas_seen: None,
            archived: (0, 0),
            away: Some(Instant::now()),
            closing: None,
            checked: false,
        }
    }

    /// Works until the node ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let began = Instant::now();
            let why = match self.settle_in().await {
                Ok(mut live) => match self.stay(&mut live).await {
                    Ended::Closed => break self.take_leave(&mut live).await,
                    Ended::Trouble(why) => {
                        self.depart(live).await;
                        why
                    }
                },
                Err(why) => why,
            };
            if began.elapsed() > TICK {
                backoff.reset();
            }
            log::warn!(
                "redis: partition {}: {}; looking for the primary again",
                self.number,
                why.escape_debug()
            );
            if self.wait_away(backoff.next_wait(), &why).await {
                break;
            }
        }
        if let Some(done) = self.closing.take() {
            // Whoever closes may have stopped waiting.
            done.send(()).ok();
        }
    }

    async fn settle_in(&mut self) -> Result<Live, String> {
        let more = self.world.hosts.borrow().clone();
        let opening =
            Opening { link: &self.world.link, keys: &self.keys, node: self.world.node, more: &more };
        let (mut session, others) = opening.open().await.map_err(|error| error.to_string())?;
        if !others.is_empty() {
            *self.world.hosts.borrow_mut() = others;
        }
        let fence = self.enter(&mut session).await?;
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
        self.world.feel(self.number, None);
        self.rejoin_all();
        Ok(Live {
            session,
            fence,
            calls: FuturesUnordered::new(),
            publishing: false,
            joining: false,
            positioning: false,
            sign: (0, Instant::now()),
            ticked: None,
            since: Instant::now(),
            paused: None,
        })
    }

    /// Stays until something is wrong.
    async fn stay(&mut self, live: &mut Live) -> Ended {
        let mut chores = Instant::now();
        loop {
            let step = tokio::select! {
                push = live.session.pushes.recv() => self.on_push(live, push),
                Some(called) = live.calls.next(), if !live.calls.is_empty() => self.on_called(live, called),
                letter = self.letters.recv() => {
                    self.on_letter(letter);
                    while let Ok(letter) = self.letters.try_recv() {
                        self.on_letter(Some(letter));
                    }
                    self.read_on(live);
                    Ok(())
                }
                () = tokio::time::sleep_until(chores.into()) => {
                    let pause = self.do_chores(live);
                    pause.map(|pause| chores = Instant::now() + pause)
                }
            };
            if let Err(why) = step {
                return Ended::Trouble(why);
            }
            self.publish_on(live);
            self.join_on(live);
            if self.closing.is_some() && (self.outbox.is_empty() || live.paused.is_some()) {
                return Ended::Closed;
            }
        }
    }

    fn on_called(&mut self, live: &mut Live, called: Called) -> Result<(), String> {
        match called {
            Called::Published { answers, batch, waited } => self.on_published(live, answers, batch, waited),
            Called::Joined(answer) => self.on_joined(live, answer),
            Called::Seeded(room, result) => {
                self.on_seeded(&room, result);
                Ok(())
            }
            Called::Filled(room, filling) => {
                self.on_filled(&room, filling);
                Ok(())
            }
            Called::Ticked(answer) => self.on_ticked(live, answer),
            Called::Position(position) => {
                live.positioning = false;
                let position = position.map_err(|error| error.to_string())?;
                self.archived = position.as_deref().and_then(outbox::fed_of).unwrap_or((0, 0));
                self.settle();
                Ok(())
            }
            Called::Done(result) => result.map_err(|error| error.to_string()),
        }
    }

    /// What is due; returns when to look again.
    fn do_chores(&mut self, live: &mut Live) -> Result<Duration, String> {
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
        if live.paused.is_some_and(|(until, _)| now >= until) {
            let (_, since) = live.paused.take().unwrap_or((now, now));
            if now.duration_since(since) > REFUSING_MAX {
                return Err("the server refuses to write".into());
            }
            live.paused = None;
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

    /// This node's sign of life has come back.
    pub(super) fn on_sign(&mut self, live: &mut Live, number: u64) {
        if number == live.sign.0 {
            live.sign.1 = Instant::now();
        }
    }

    fn tick(&mut self, live: &mut Live) {
        let mut call = scripts::TICK.call(4);
        call.arg(self.keys.fence()).arg(self.keys.signs()).arg(self.keys.young()).arg(self.keys.feed_count());
        call.arg(live.fence.text()).arg(self.world.node).arg(self.keys.inbox(self.world.node));
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

    fn on_ticked(&mut self, live: &mut Live, answer: RedisResult<(Value, usize)>) -> Result<(), String> {
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

    fn on_letter(&mut self, letter: Option<Letter>) {
        match letter {
            None => self.closing = Some(oneshot::channel().0),
            Some(Letter::Propose(proposals)) => {
                proposals.into_iter().for_each(|queued| self.outbox.push(queued));
            }
            Some(Letter::Join { room, tail, tail_bytes, reply }) => {
                self.rooms.entry(room.clone()).or_insert_with(Log::new).stage = Stage::Opening;
                let since = Instant::now();
                self.wishes.push_back(Wish::Open { room, tail, tail_bytes, reply, since });
            }
            Some(Letter::Told(rooms)) => self.on_told(rooms),
            Some(Letter::Leave(rooms)) => {
                rooms.iter().for_each(|room| drop(self.rooms.remove(room)));
                self.wishes.push_back(Wish::Leave(rooms));
            }
            Some(Letter::Read { question, reply }) => {
                self.questions.push_back((Instant::now(), question, reply));
            }
            Some(Letter::Close(done)) => self.closing = Some(done),
        }
    }

    /// Answers questions, each in a task of its own.
    fn read_on(&mut self, live: &Live) {
        while let Some((_, question, reply)) = self.questions.pop_front() {
            let reading = Reading {
                connection: live.session.control.clone(),
                keys: self.keys.clone(),
                world: self.world.clone(),
            };
            tokio::task::spawn_local(async move {
                // Whoever asked may be gone.
                reply.send(reading.answer(question).await).ok();
            });
        }
    }

    fn expire(&mut self, now: Instant) {
        let settled = self.outbox.expire(now);
        if !settled.is_empty() {
            self.world.say(Says::Settled(settled));
        }
        while self.questions.front().is_some_and(|(since, ..)| now.duration_since(*since) > READ_MAX) {
            if let Some((_, _, reply)) = self.questions.pop_front() {
                reply.send(Err("Redis cannot be reached; try again".into())).ok();
            }
        }
        self.expire_wishes(now);
    }

    /// Hears the rest of an inbox, so that repair knows all that came, and forgets what was under way.
    async fn depart(&mut self, mut live: Live) {
        let until = tokio::time::Instant::now() + DRAIN_MAX;
        while let Ok(push) = tokio::time::timeout_at(until, live.session.pushes.recv()).await {
            if self.on_push(&mut live, push).is_err() {
                break;
            }
        }
        drop(live);
        self.recover_wishes();
        self.filling.clear();
        self.refusing = None;
        self.renewed.clear();
        self.outbox.start_over();
        for log in self.rooms.values_mut().filter(|log| log.stage == Stage::Live) {
            log.stage = Stage::Stale;
            log.cut();
        }
        self.away = Some(Instant::now());
    }

    /// Waits before the next try; letters are taken all the while. Whether the node ends.
    async fn wait_away(&mut self, wait: Duration, why: &str) -> bool {
        let until = tokio::time::Instant::now() + wait;
        while let Ok(letter) = tokio::time::timeout_at(until, self.letters.recv()).await {
            self.on_letter(letter);
            if self.closing.is_some() {
                return true;
            }
        }
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
    async fn take_leave(&mut self, live: &mut Live) {
        let rooms: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for some in rooms.chunks(100) {
            let call = self.leaving(some);
            let run = scripts::LEAVE.run(&mut live.session.control, &call);
            if let Err(error) = run.await {
                log::warn!("redis: partition {}: cannot leave its rooms: {error}", self.number);
                break;
            }
        }
        let signs = redis::cmd("HDEL").arg(self.keys.signs()).arg(self.world.node).to_owned();
        let gone: RedisResult<()> = signs.query_async(&mut live.session.control).await;
        if let Err(error) = gone {
            log::warn!("redis: partition {}: cannot say that this node ends: {error}", self.number);
        }
    }
}
