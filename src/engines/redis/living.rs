//! A partition's part in what nodes share beside the logs: telling who is here and hearing who is elsewhere, notes,
//! commands, and removing dead nodes. Partition 0 looks after the lease too. Called by the partition only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult};

use crate::chat::names::RoomName;
use crate::engines::redis::letters::Called;
use crate::engines::redis::life::counts::{self, Counts, Writing};
use crate::engines::redis::life::lease::{self, Lease, Tick};
use crate::engines::redis::life::roster::{self, Limits, RoomNews, Size};
use crate::engines::redis::life::telling::Telling;
use crate::engines::redis::life::{commands, keys::Keys, reaping};
use crate::engines::redis::noting::{self, Note, Noting};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{Remedy, remedy};
use crate::engines::redis::session::Session;
use crate::engines::redis::tracing::Post;
use crate::engines::shared::{Command, News, Says};

/// How long after a cut rosters are asked for: the others are just telling who is there with them.
const ROSTER_PAUSE: Duration = Duration::from_millis(1_500);
/// Rosters in one call.
const ROSTERS_MAX: usize = 100;
/// Longest that a partition waits for this node's number.
const LEASE_MAX: Duration = Duration::from_secs(2);

/// What waits here.
pub struct Living {
    pub(super) keys: Keys,
    telling: Telling,
    counts: Counts,
    noting: Noting,
    commands: VecDeque<Command>,
    /// What is to go to other nodes, oldest first.
    posts: VecDeque<Post>,
    /// Rooms whose roster is to be asked for, and when.
    rosters: VecDeque<(Instant, RoomName)>,
    /// What is being told, and written.
    told: Option<Vec<RoomNews>>,
    noted: Option<noting::Call>,
    counted: Option<Writing>,
    /// When the leases were looked after; none: at once.
    pub(super) looked: Option<Instant>,
    reaping: bool,
}

/// What has come back.
pub enum Lived {
    /// News were told.
    Told(RedisResult<Vec<Size>>),
    /// Notes were written.
    Noted(RedisResult<()>),
    /// Counts were written.
    Counted(RedisResult<()>),
    /// A command was sent; if not, here it is again.
    Sent(Command, RedisResult<u64>),
    /// The leases were looked after.
    Looked(RedisResult<Tick>),
    /// Commands that this node has missed, up to a number.
    Missed(u64, RedisResult<Vec<(u64, Command)>>),
    /// A step of removing a dead node.
    Stepped(Lease, RedisResult<bool>),
}

impl Living {
    /// Of a partition.
    pub fn new(keys: Keys) -> Living {
        Living {
            keys,
            telling: Telling::default(),
            counts: Counts::default(),
            noting: Noting::default(),
            commands: VecDeque::new(),
            posts: VecDeque::new(),
            rosters: VecDeque::new(),
            told: None,
            noted: None,
            counted: None,
            looked: None,
            reaping: false,
        }
    }

    /// Something is to be told.
    pub fn tell(&mut self, news: Vec<(RoomName, News)>) {
        news.into_iter().for_each(|(room, news)| self.telling.push(&room, news));
    }

    /// So many sessions are in rooms on this node.
    pub fn count(&mut self, sessions: &[(RoomName, u32)]) {
        sessions.iter().for_each(|(room, sessions)| self.counts.set(room, *sessions));
    }

    /// Something is to be kept.
    pub fn note(&mut self, notes: Vec<Note>) {
        notes.into_iter().for_each(|note| self.noting.push(note));
    }

    /// A command is to be sent.
    pub fn command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// Something is to go to other nodes. What waits for too long nobody waits for any more.
    pub fn post(&mut self, post: Post) {
        while self.posts.front().is_some_and(Post::is_late) {
            self.posts.pop_front();
        }
        self.posts.push_back(post);
    }

    /// A stay has ended: everything is told and written again at the next one.
    pub fn start_over(&mut self) {
        if let Some(call) = self.told.take() {
            self.telling.failed(&call);
        }
        if let Some(call) = self.noted.take() {
            self.noting.failed(call);
        }
        if let Some(call) = self.counted.take() {
            self.counts.failed(call);
        }
        self.counts.all_again();
        self.rosters.clear();
        self.reaping = false;
        for room in self.telling.rooms() {
            self.telling.all_again(&room);
        }
    }

    /// The roster of a joined room is wanted.
    pub fn ask_roster(&mut self, room: RoomName, after_a_cut: bool) {
        let due = Instant::now() + if after_a_cut { ROSTER_PAUSE } else { Duration::ZERO };
        self.rosters.push_back((due, room));
    }
}

impl Partition {
    /// Makes sure that this node has a number, and that it may write under it here.
    pub(super) async fn take_part(&mut self, session: &mut Session) -> Result<Lease, String> {
        let peers = &self.world.peers;
        let lease = if self.number == 0 {
            self.own_lease(session).await.map_err(|error| error.to_string())?
        } else {
            let leased = tokio::time::timeout(LEASE_MAX, peers.leased()).await;
            leased.map_err(|_| "this node has no number yet; partition 0 is away")?
        };
        let entered = reaping::enter(&mut session.control, &self.living.keys, lease).await;
        entered.map_err(|error| self.lost_or(&error))?;
        Ok(lease)
    }

    async fn own_lease(&self, session: &mut Session) -> RedisResult<Lease> {
        let (peers, keys) = (&self.world.peers, &self.living.keys);
        if let Some(own) = peers.lease() {
            let tick = lease::tick(&mut session.control, keys, own, peers.terms).await?;
            if tick.held {
                self.show_name(session, own).await?;
                return Ok(own);
            }
            log::warn!("redis: the number {} of this node is another's now", own.slot);
            peers.lose();
        }
        let lease = lease::take(&mut session.control, keys, None, peers.terms).await?;
        log::info!("redis: this node has the number {}", lease.slot);
        self.show_name(session, lease).await?;
        peers.hold(lease);
        // Before the first roster: whoever is gone, but not removed yet, must not seem to be there.
        let tick = lease::tick(&mut session.control, keys, lease, peers.terms).await?;
        for slot in peers.seen(&tick.peers) {
            self.world.say(Says::NodeGone(slot));
        }
        Ok(lease)
    }

    /// Other nodes learn the name of this one, so that they can say who does not answer.
    async fn show_name(&self, session: &mut Session, own: Lease) -> RedisResult<()> {
        let mut call = redis::cmd("HSET");
        call.arg(self.living.keys.names()).arg(own.slot).arg(&self.world.node);
        call.query_async(&mut session.control).await
    }

    /// What an error says; a lost lease is remembered.
    fn lost_or(&self, error: &RedisError) -> String {
        if crate::engines::redis::life::is_lost(error) && self.number != 0 {
            return "this node's number does not hold here".into();
        }
        error.to_string()
    }

    /// Does what waits, one call of each kind at a time.
    pub(super) fn live_on(&mut self, live: &mut Live) {
        let now = Instant::now();
        if self.living.told.is_none() {
            let call = self.living.telling.take(now);
            if !call.is_empty() {
                self.living.told = Some(call.clone());
                let (mut connection, keys, own) = self.at(live);
                live.calls.push(Box::pin(async move {
                    let told = roster::tell(&mut connection, &keys, own, Limits::default(), &call).await;
                    Called::Lived(Lived::Told(told))
                }));
            }
        }
        if self.living.noted.is_none() && !self.living.noting.is_empty() {
            let call = self.living.noting.take();
            self.living.noted = Some(call.clone());
            let (mut connection, keys, _) = self.at(live);
            let due_max = self.world.notes_max;
            live.calls.push(Box::pin(async move {
                Called::Lived(Lived::Noted(call.write(&mut connection, &keys, due_max).await))
            }));
        }
        self.write_counts(live, now);
        while let Some(post) = self.living.posts.pop_front() {
            let (mut connection, keys, _) = self.at(live);
            live.calls.push(Box::pin(async move {
                post.go(&mut connection, &keys).await;
                Called::Done(Ok(()))
            }));
        }
        while let Some(command) = self.living.commands.pop_front() {
            let (mut connection, keys, _) = self.at(live);
            live.calls.push(Box::pin(async move {
                let sent = commands::send(&mut connection, &keys, &command).await;
                Called::Lived(Lived::Sent(command, sent))
            }));
        }
    }

    fn write_counts(&mut self, live: &mut Live, now: Instant) {
        // Who has given its number back writes nothing under it; the others know that nobody is here any more.
        if self.living.counted.is_some() || self.gave_back {
            return;
        }
        let call = self.living.counts.take(now);
        if call.is_empty() {
            return;
        }
        self.living.counted = Some(call.clone());
        let (mut connection, keys, own) = self.at(live);
        live.calls.push(Box::pin(async move {
            Called::Lived(Lived::Counted(counts::write(&mut connection, &keys, own, &call).await))
        }));
    }

    pub(super) fn at(&self, live: &Live) -> (redis::aio::MultiplexedConnection, Keys, Lease) {
        (live.session.control.clone(), self.living.keys.clone(), live.lease)
    }

    /// What is due about other nodes.
    pub(super) fn look_after_others(&mut self, live: &mut Live, now: Instant) -> Result<(), String> {
        if self.gave_back {
            return Ok(());
        }
        if self.world.peers.lease() != Some(live.lease) {
            return Err("this node has another number now".into());
        }
        if self.number == 0
            && self.living.looked.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1))
        {
            self.living.looked = Some(now);
            self.ask_rules(live);
            let (mut connection, keys, own) = self.at(live);
            let terms = self.world.peers.terms;
            live.calls.push(Box::pin(async move {
                Called::Lived(Lived::Looked(lease::tick(&mut connection, &keys, own, terms).await))
            }));
        }
        self.ask_rosters(live, now);
        let gone = self.world.peers.reap(|reaping| reaping.next(self.number as u32, now));
        if let Some(gone) = gone
            && !self.living.reaping
        {
            self.living.reaping = true;
            let (mut connection, keys, own) = self.at(live);
            live.calls.push(Box::pin(async move {
                Called::Lived(Lived::Stepped(gone, reaping::step(&mut connection, &keys, own, gone).await))
            }));
        }
        Ok(())
    }

    fn ask_rosters(&mut self, live: &mut Live, now: Instant) {
        let mut rooms = Vec::new();
        while rooms.len() < ROSTERS_MAX && self.living.rosters.front().is_some_and(|(due, _)| *due <= now) {
            let room = self.living.rosters.pop_front().map(|(_, room)| room);
            rooms.extend(room.filter(|room| self.rooms.contains_key(room) && !rooms.contains(room)));
        }
        if rooms.is_empty() {
            return;
        }
        let (mut connection, keys, own) = self.at(live);
        live.calls.push(Box::pin(async move {
            Called::Done(roster::ask(&mut connection, &keys, own, &rooms).await)
        }));
    }

    pub(super) fn on_lived(&mut self, live: &mut Live, lived: Lived) -> Result<(), String> {
        match lived {
            Lived::Told(told) => {
                let call = self.living.told.take().unwrap_or_default();
                match told {
                    Ok(sizes) => self.living.telling.told(&call, &sizes, Instant::now()),
                    Err(error) => {
                        self.living.telling.failed(&call);
                        return self.forgive(&error);
                    }
                }
            }
            Lived::Noted(noted) => {
                let call = self.living.noted.take().unwrap_or_default();
                if let Err(error) = noted {
                    self.living.noting.failed(call);
                    return self.forgive(&error);
                }
            }
            Lived::Counted(counted) => {
                let call = self.living.counted.take().unwrap_or_default();
                if let Err(error) = counted
                    && !self.gave_back
                {
                    self.living.counts.failed(call);
                    return self.forgive(&error);
                }
            }
            Lived::Sent(command, Err(error)) => {
                self.living.commands.push_back(command);
                return Err(error.to_string());
            }
            Lived::Sent(_, Ok(_)) => {}
            Lived::Looked(Ok(tick)) => return self.on_looked(live, tick),
            Lived::Looked(Err(error)) => return self.forgive(&error),
            Lived::Missed(upto, missed) => {
                for (number, command) in missed.map_err(|error| error.to_string())? {
                    if self.world.peers.done(|done| done.make_up(number)) {
                        self.world.say(Says::Command(command));
                    }
                }
                self.world.peers.done(|done| done.made_up(upto));
            }
            Lived::Stepped(gone, step) => {
                self.living.reaping = false;
                let (number, done) = (self.number as u32, *step.as_ref().unwrap_or(&false));
                self.world.peers.reap(|reaping| reaping.stepped(number, gone, done, Instant::now()));
                step.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Whether a failed call may be repeated here.
    fn forgive(&self, error: &RedisError) -> Result<(), String> {
        if remedy(error) == Remedy::Wait { Ok(()) } else { Err(self.lost_or(error)) }
    }

    fn on_looked(&mut self, live: &mut Live, tick: Tick) -> Result<(), String> {
        if !tick.held {
            self.world.peers.lose();
            return Err("this node was missed for so long that its number is another's now".into());
        }
        for slot in self.world.peers.seen(&tick.peers) {
            self.world.say(Says::NodeGone(slot));
        }
        if let Some(after) = self.world.peers.done(|done| done.ticked(tick.commands)) {
            let (mut connection, keys, _) = self.at(live);
            let upto = tick.commands;
            live.calls.push(Box::pin(async move {
                let missed = commands::missed(&mut connection, &keys, after).await;
                Called::Lived(Lived::Missed(upto, missed))
            }));
        }
        let removed: Vec<Lease> = self.world.peers.reap(|reaping| reaping.removed().collect());
        for gone in removed {
            let (mut connection, keys, _) = self.at(live);
            live.calls.push(Box::pin(async move {
                Called::Done(lease::free(&mut connection, &keys, gone).await.map(drop))
            }));
        }
        Ok(())
    }

    /// Writes all notes that wait, those that are under way once more.
    pub(super) async fn write_notes(&mut self, live: &mut Live) -> RedisResult<()> {
        if let Some(call) = self.living.noted.take() {
            self.living.noting.failed(call);
        }
        while !self.living.noting.is_empty() {
            let call = self.living.noting.take();
            call.write(&mut live.session.control, &self.living.keys, self.world.notes_max).await?;
        }
        Ok(())
    }

    /// Takes this node's people out of this partition.
    pub(super) async fn remove_own(&mut self, live: &mut Live) -> RedisResult<()> {
        let own = live.lease;
        while !reaping::step(&mut live.session.control, &self.living.keys, own, own).await? {}
        Ok(())
    }

    /// Gives this node's number back: all others know at once that it is gone.
    pub(super) async fn give_lease_back(&mut self, live: &mut Live) -> RedisResult<()> {
        lease::give_back(&mut live.session.control, &self.living.keys, live.lease).await
    }

    /// Lets this node's number be taken again.
    pub(super) async fn free_lease(&mut self, live: &mut Live) -> RedisResult<()> {
        lease::free(&mut live.session.control, &self.living.keys, live.lease).await.map(drop)
    }
}
