//! How a partition gets to know where its rooms are: up to a hundred of them in one call, in which Redis also notes
//! that this node wants to hear of them. Called by the partition only.

use std::time::{Duration, Instant};

use redis::{Cmd, RedisResult, Value};
use tokio::sync::oneshot;

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::engines::redis::letters::Called;
use crate::engines::redis::logs::Stage;
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{self, Meta, Remedy, Row, remedy};
use crate::engines::redis::{folding, reading, scripts};
use crate::engines::shared::NodeSlot;
use crate::store::archive::StoredRoom;

/// How long a server is left alone that refuses to write.
const PAUSE: Duration = Duration::from_millis(100);
/// Rooms in one call.
const ROOMS_MAX: usize = 100;
/// How long a room that is to be opened waits for Redis.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// More than a history has.
pub(super) const ALL: usize = 1_000_000;
/// How often Redis is reminded that this node wants to hear of an idle room; what Redis knows of it lives longer.
const REMIND: Duration = Duration::from_secs(4 * 3_600);
/// Rooms that are reminded of in one second.
const REMINDERS: usize = 500;

/// What Redis is to be asked or told about rooms.
pub enum Wish {
    /// A room is to be opened.
    Open {
        /// Which.
        room: RoomName,
        /// Most entries of its tail.
        tail: usize,
        /// Most bytes of them.
        tail_bytes: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<StoredRoom, String>>,
        /// When it was asked for.
        since: Instant,
    },
    /// What has this node missed in a room?
    Again(RoomName),
    /// Rooms are not wanted any more.
    Leave(Vec<RoomName>),
}

impl Partition {
    /// All rooms may have missed something.
    pub(super) fn rejoin_all(&mut self) {
        self.wishes.retain(|wish| !matches!(wish, Wish::Again(_)));
        for (room, _) in self.rooms.iter().filter(|(_, log)| log.stage == Stage::Stale) {
            self.wishes.push_back(Wish::Again(room.clone()));
            self.living.ask_roster(room.clone(), true);
        }
    }

    /// Asks Redis about the rooms that wait for that, if it is not busy with some.
    pub(super) fn join_on(&mut self, live: &mut Live) {
        if live.joining || self.wishes.is_empty() || live.join_paused.is_some() {
            return;
        }
        let mut wishes: Vec<Wish> = Vec::new();
        while wishes.len() < ROOMS_MAX {
            match self.wishes.pop_front() {
                None => break,
                Some(Wish::Leave(rooms)) if wishes.is_empty() => return self.leave(live, rooms),
                Some(leave @ Wish::Leave(_)) => {
                    self.wishes.push_front(leave);
                    break;
                }
                Some(wish) if self.is_still_wanted(&wish) => wishes.push(wish),
                Some(_) => {}
            }
        }
        if wishes.is_empty() {
            return;
        }
        live.joining = true;
        let call = self.join_call(live, &wishes);
        self.asked = wishes;
        let mut connection = live.session.control.clone();
        live.calls
            .push(Box::pin(async move { Called::Joined(scripts::JOIN.run(&mut connection, &call).await) }));
    }

    fn is_still_wanted(&self, wish: &Wish) -> bool {
        match wish {
            Wish::Again(room) => self.rooms.contains_key(room),
            Wish::Open { .. } | Wish::Leave(_) => true,
        }
    }

    fn join_call(&self, live: &Live, wishes: &[Wish]) -> Cmd {
        let mut call = scripts::JOIN.call(1 + wishes.len() * 3);
        call.arg(self.keys.fence());
        let mut arguments = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let (room, after, count) = match wish {
                Wish::Open { room, tail, .. } => (room, String::new(), *tail),
                Wish::Again(room) => {
                    let top = self.rooms.get(room).map_or(0, |log| log.top);
                    (room, top.to_string(), ALL)
                }
                Wish::Leave(_) => continue,
            };
            let name = room.as_str();
            call.arg(self.keys.meta(name)).arg(self.keys.history(name)).arg(self.keys.changes(name));
            arguments.push((after, count, self.world.lives(room).meta_ms));
        }
        call.arg(live.fence.text()).arg(live.lease.slot);
        for (after, count, life) in arguments {
            call.arg(after).arg(count).arg(life);
        }
        call
    }

    pub(super) fn on_joined(&mut self, live: &mut Live, answer: RedisResult<Value>) -> Result<(), String> {
        live.joining = false;
        let wishes = std::mem::take(&mut self.asked);
        let rooms = match answer.and_then(replies::list) {
            Ok(rooms) => rooms,
            Err(error) => {
                self.wish_again(wishes);
                if remedy(&error) == Remedy::Wait {
                    live.join_paused = Some(Instant::now() + PAUSE);
                    return Ok(());
                }
                return Err(error.to_string());
            }
        };
        if let Some(Value::BulkString(_)) = rooms.first() {
            self.wish_again(wishes);
            return self.heed_fence(live, rooms.into_iter().nth(1));
        }
        for (wish, room) in wishes.into_iter().zip(rooms) {
            let facts = facts_of(room).map_err(|error| error.to_string())?;
            match wish {
                Wish::Again(room) => self.on_missed(live, room, facts),
                open => self.on_opened(live, open, facts),
            }
        }
        Ok(())
    }

    fn wish_again(&mut self, wishes: Vec<Wish>) {
        wishes.into_iter().rev().for_each(|wish| self.wishes.push_front(wish));
    }

    /// A stay has ended: what it had asked is asked again.
    pub(super) fn recover_wishes(&mut self) {
        let seeding = std::mem::take(&mut self.seeding);
        seeding.into_values().for_each(|wishes| self.wish_again(wishes));
        let asked = std::mem::take(&mut self.asked);
        self.wish_again(asked);
    }

    fn on_opened(&mut self, live: &mut Live, wish: Wish, facts: Facts) {
        let Wish::Open { room, tail, tail_bytes, reply, since } = wish else { return };
        let known = facts.meta.top.is_some();
        if !known && self.world.archive.is_some() {
            let wish = Wish::Open { room: room.clone(), tail, tail_bytes, reply, since };
            return self.seed(live, room, Some(wish));
        }
        let top = facts.meta.top.unwrap_or(0);
        let Some(log) = self.rooms.get_mut(&room) else {
            // Left again meanwhile.
            reply.send(Err("the room was left".into())).ok();
            return;
        };
        if log.stage == Stage::Opening {
            log.top = top;
            log.stage = Stage::Told;
            log.missed = false;
            log.joined = Instant::now();
            log.lives.clone_from(&facts.meta.lives);
        }
        let lineage = match facts.meta.lives.as_slice() {
            [] => vec![(Epoch(live.fence.epoch), 1)],
            lives => lives.iter().map(|(epoch, first)| (Epoch(*epoch), *first)).collect(),
        };
        let stored = folding::Tail { tail, tail_bytes, age_ms: self.world.lives(&room).age_ms }
            .of(&room, lineage, top, facts);
        let archive = self.world.archive.clone();
        tokio::task::spawn_local(async move {
            let stored = match archive {
                Some(archive) => reading::complete(&archive, &room, stored, tail, tail_bytes).await,
                None => Ok(stored),
            };
            // Whoever asked may be gone.
            reply.send(stored).ok();
        });
    }

    /// The answers about these rooms have been told: now their entries may follow.
    pub(super) fn on_told(&mut self, rooms: Vec<RoomName>) {
        for room in rooms {
            let Some(log) = self.rooms.get_mut(&room) else { continue };
            log.asks = log.asks.saturating_sub(1);
            if log.stage != Stage::Told {
                continue;
            }
            if log.missed {
                log.stage = Stage::Stale;
                self.wishes.push_back(Wish::Again(room.clone()));
                self.living.ask_roster(room, true);
                continue;
            }
            log.stage = Stage::Live;
            let mut out = Vec::new();
            let heard = log.catch_up(&mut out);
            self.after_hearing(&room, heard);
            self.living.ask_roster(room.clone(), false);
            self.say_arrived(room, out);
        }
    }

    /// There are no answers about these rooms. What nobody was told of, nobody wants to hear of.
    pub(super) fn on_untold(&mut self, rooms: Vec<RoomName>) {
        for room in rooms {
            let Some(log) = self.rooms.get_mut(&room) else { continue };
            log.asks = log.asks.saturating_sub(1);
            if log.asks == 0 && matches!(log.stage, Stage::Opening | Stage::Told) {
                self.rooms.remove(&room);
                self.wishes.push_back(Wish::Leave(vec![room]));
            }
        }
    }

    fn leave(&mut self, live: &mut Live, rooms: Vec<RoomName>) {
        let rooms: Vec<RoomName> = rooms.into_iter().filter(|room| !self.rooms.contains_key(room)).collect();
        if rooms.is_empty() {
            return;
        }
        let (call, mut connection) = (self.leaving(&rooms, live.lease.slot), live.session.control.clone());
        live.calls.push(Box::pin(async move {
            Called::Done(scripts::LEAVE.run(&mut connection, &call).await.map(drop))
        }));
    }

    pub(super) fn leaving(&self, rooms: &[RoomName], node: NodeSlot) -> Cmd {
        let mut call = scripts::LEAVE.call(rooms.len());
        rooms.iter().for_each(|room| {
            call.arg(self.keys.meta(room.as_str()));
        });
        call.arg(node);
        call
    }

    /// Loads a room from the archive into Redis; `wish` is asked again then.
    pub(super) fn seed(&mut self, live: &mut Live, room: RoomName, wish: Option<Wish>) {
        let Some(archive) = self.world.archive.clone() else { return };
        if let Some(waiting) = self.seeding.get_mut(&room) {
            return waiting.extend(wish);
        }
        self.seeding.insert(room.clone(), wish.into_iter().collect());
        let (mut connection, key) = (live.session.control.clone(), self.keys.meta(room.as_str()));
        let life = self.world.lives(&room).meta_ms;
        live.calls.push(Box::pin(async move {
            let result = async {
                let stored = archive.room(&room).await?;
                let mut call = scripts::SEED.call(1);
                call.arg(key).arg(stored.as_ref().map_or(0, |stored| stored.top)).arg(life);
                for (epoch, first) in stored.into_iter().flat_map(|stored| stored.lineage) {
                    call.arg(epoch.0).arg(first);
                }
                scripts::SEED.run(&mut connection, &call).await.map(drop).map_err(|error| error.to_string())
            };
            let result = result.await;
            Called::Seeded(room, result)
        }));
    }

    pub(super) fn on_seeded(&mut self, room: &RoomName, result: Result<(), String>) {
        let waiting = self.seeding.remove(room).unwrap_or_default();
        let Err(why) = result else { return self.wish_again(waiting) };
        log::warn!("redis: a room cannot be loaded from the archive: {}", why.escape_debug());
        for wish in waiting {
            match wish {
                // Whoever asked may be gone.
                Wish::Open { reply, .. } => reply.send(Err(why.clone())).ok().unwrap_or_default(),
                wish => self.wishes.push_back(wish),
            }
        }
    }

    pub(super) fn expire_wishes(&mut self, now: Instant) {
        let late =
            |wish: &Wish| matches!(wish, Wish::Open { since, .. } if now.duration_since(*since) > OPEN_MAX);
        if !self.wishes.iter().any(late) {
            return;
        }
        for wish in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Open { reply, since, .. } if now.duration_since(since) > OPEN_MAX => {
                    reply.send(Err("Redis cannot be reached; try again".into())).ok();
                }
                wish => self.wishes.push_back(wish),
            }
        }
    }

    /// Reminds Redis of rooms in which nothing has happened for long.
    pub(super) fn renew_rooms(&mut self, now: Instant) {
        let idle = |log: &&mut crate::engines::redis::logs::Log| {
            log.stage == Stage::Live && now.duration_since(log.joined) > REMIND
        };
        let rooms = self.rooms.iter_mut().filter(|(_, log)| idle(log)).take(REMINDERS);
        for (room, log) in rooms {
            log.joined = now;
            self.wishes.push_back(Wish::Again(room.clone()));
        }
    }
}

/// What Redis says of a room.
#[derive(Default)]
pub struct Facts {
    /// Where it is.
    pub meta: Meta,
    /// The oldest entry of its history.
    pub oldest: Option<Row>,
    /// Entries, oldest first.
    pub rows: Vec<Row>,
    /// See [`replies::changes`].
    pub changes: ahash::AHashMap<Offset, i64>,
}

fn facts_of(room: Value) -> RedisResult<Facts> {
    let mut parts = replies::list(room)?.into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let meta = replies::meta(next())?;
    let oldest = replies::rows(next())?.into_iter().next();
    let mut rows = replies::rows(next())?;
    rows.sort_by_key(|row| row.offset);
    Ok(Facts { meta, oldest, rows, changes: replies::changes(next())? })
}
