//! One partition: finds its primary, stays there until the first trouble, and begins again. The task that runs
//! this owns all of the partition's state; what takes time runs beside it and comes back as [`Called`]. Started
//! by the engine's thread.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::chat::names::RoomName;
use crate::engines::redis::joining::Wish;
use crate::engines::redis::keys::Keys;
use crate::engines::redis::letters::{Asked, Called, Ended, Letter};
use crate::engines::redis::life::lease::Lease;
use crate::engines::redis::living::Living;
use crate::engines::redis::logs::Log;
use crate::engines::redis::memory::Memory;
use crate::engines::redis::outbox::{self, Fed, Outbox};
use crate::engines::redis::reading::Reading;
use crate::engines::redis::replies::Fence;
use crate::engines::redis::ruling::RulingDesk;
use crate::engines::redis::session::Session;
use crate::engines::redis::world::World;
use crate::redis_link::backoff::Backoff;

/// A stay that was longer than this was not in vain.
const STAY_MIN: Duration = Duration::from_secs(1);
/// While Redis is away the log hears of it so often.
const WARN_PAUSE: Duration = Duration::from_secs(10);
/// Memory of what was heard in the last minute, in bytes, over all partitions.
const MEMORY_BYTES: usize = 64 << 20;

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
    pub sign: (u64, Instant),
    /// When the last one was given.
    pub ticked: Option<Instant>,
    /// When the stay began.
    pub since: Instant,
    /// This node's number.
    pub lease: Lease,
    /// Until when nothing is published.
    pub paused: Option<Instant>,
    /// Until when nothing is joined.
    pub join_paused: Option<Instant>,
}

/// See above.
pub struct Partition {
    pub(super) world: Rc<World>,
    pub(super) number: usize,
    pub(super) keys: Keys,
    pub(super) letters: UnboundedReceiver<Letter>,
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
    pub(super) questions: VecDeque<(Instant, Asked)>,
    /// What waits beside the logs.
    pub(super) living: Living,
    /// The rules of rooms; used by partition 0 alone.
    pub(super) ruling: RulingDesk,
    /// When the owners of a room were last told that it was written to.
    pub(super) used: AHashMap<RoomName, Instant>,
    /// The youngest epoch that this node has seen; 0 for none.
    pub(super) epoch: u64,
    /// Since when only servers are found that others have left behind.
    pub(super) left_behind: Option<Instant>,
    /// When the log was last told of trouble.
    pub(super) warned: Option<Instant>,
    /// Since when the server has refused to write.
    pub(super) refusing: Option<Instant>,
    /// Whether the archive is too far behind.
    pub(super) feed_full: bool,
    /// When a replica was last connected.
    pub(super) replicas_seen: Option<Instant>,
    pub(super) archived: Fed,
    pub(super) away: Option<Instant>,
    pub(super) closing: Option<oneshot::Sender<()>>,
    /// Who wants this node's number to be given back, and whether it was.
    pub(super) giving_back: Option<oneshot::Sender<()>>,
    pub(super) gave_back: bool,
    /// Whether the settings of Redis were looked at.
    pub(super) checked: bool,
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
            living: Living::new(world.life_keys(number)),
            ruling: RulingDesk::default(),
            used: AHashMap::new(),
            epoch: 0,
            left_behind: None,
            warned: None,
            refusing: None,
            feed_full: false,
            replicas_seen: None,
            archived: (0, 0),
            away: Some(Instant::now()),
            closing: None,
            world,
            giving_back: None,
            gave_back: false,
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
            if began.elapsed() > STAY_MIN {
                backoff.reset();
            }
            self.warn(&why);
            if self.wait_away(backoff.next_wait(), &why).await {
                break;
            }
        }
        if let Some(done) = self.closing.take() {
            // Whoever closes may have stopped waiting.
            done.send(()).ok();
        }
    }

    /// Tells the log, but not at every try.
    fn warn(&mut self, why: &str) {
        if self.warned.is_some_and(|last| last.elapsed() < WARN_PAUSE) {
            return;
        }
        self.warned = Some(Instant::now());
        let number = self.number;
        log::warn!("redis: partition {number}: {}; looking for the primary again", why.escape_debug());
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
            self.live_on(live);
            self.rule_on(live);
            if let Some(done) = self.giving_back.take() {
                self.gave_back = true;
                if let Err(error) = self.give_lease_back(live).await {
                    log::warn!("redis: this node's number is not given back: {error}");
                }
                // Whoever closes may have stopped waiting.
                done.send(()).ok();
            }
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
            Called::Lived(lived) => self.on_lived(live, lived),
            Called::Ruled(ruled) => self.on_ruled(ruled),
            Called::Rules(looked) => self.on_looked_at_rules(looked),
            Called::Done(result) => result.map_err(|error| error.to_string()),
        }
    }

    pub(super) fn on_letter(&mut self, letter: Option<Letter>) {
        match letter {
            None => self.closing = Some(oneshot::channel().0),
            Some(Letter::Propose(proposals)) => {
                proposals.into_iter().for_each(|queued| self.outbox.push(queued));
            }
            Some(Letter::Join { room, tail, tail_bytes, reply }) => {
                // One that is open stays so: its entries go on after what was told first.
                self.rooms.entry(room.clone()).or_insert_with(Log::new).asks += 1;
                let since = Instant::now();
                self.wishes.push_back(Wish::Open { room, tail, tail_bytes, reply, since });
            }
            Some(Letter::Told(rooms)) => self.on_told(rooms),
            Some(Letter::Untold(rooms)) => self.on_untold(rooms),
            Some(Letter::Leave(rooms)) => {
                rooms.iter().for_each(|room| drop(self.rooms.remove(room)));
                self.wishes.push_back(Wish::Leave(rooms));
            }
            Some(Letter::Read(asked)) => self.questions.push_back((Instant::now(), asked)),
            Some(Letter::Tell(news)) => self.living.tell(news),
            Some(Letter::Note(notes)) => self.living.note(notes),
            Some(Letter::Count(sessions)) => self.living.count(&sessions),
            Some(Letter::Command(command)) => self.living.command(command),
            Some(Letter::Post(post)) => self.living.post(post),
            Some(Letter::Rule(ruling)) => self.on_ruling(ruling),
            Some(Letter::GiveBack(done)) => self.giving_back = Some(done),
            Some(Letter::Close(done)) => self.closing = Some(done),
        }
    }

    /// Answers questions, each in a task of its own.
    fn read_on(&mut self, live: &Live) {
        while let Some((_, asked)) = self.questions.pop_front() {
            let reading = Reading {
                connection: live.session.control.clone(),
                keys: self.keys.clone(),
                life: self.world.life_keys(self.number),
                world: self.world.clone(),
            };
            tokio::task::spawn_local(async move {
                // Whoever asked may be gone.
                match asked {
                    Asked::Question(question, reply) => reply.send(reading.answer(question).await).ok(),
                    Asked::Tops(rooms, reply) => reply.send(reading.tops(&rooms).await).ok(),
                    Asked::Look(look, reply) => reply.send(reading.look(look).await).ok(),
                };
            });
        }
    }
}
