//! What operators see of shared rooms, put together from the partitions, without asking another node and without
//! joining a room. Runs on the engine's thread, one task per question.

use std::rc::Rc;

use redis::Value;
use tokio::sync::oneshot;

use crate::chat::history::PageFrom;
use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::chat::overview::{LogPage, Look, RoomCount, RoomState, View, is_meant};
use crate::engines::redis::asking::gone;
use crate::engines::redis::folding::Tail;
use crate::engines::redis::joining::Facts;
use crate::engines::redis::keys::partition_of;
use crate::engines::redis::letters::{Asked, Letter};
use crate::engines::redis::life::counts;
use crate::engines::redis::reading::{self, Reading, unread};
use crate::engines::redis::replies::{self, Fence};
use crate::engines::redis::world::World;
use crate::engines::shared::{NodeSlot, Says};
use crate::store::archive::{Answer, Question, StoredRoom};

/// Answers a question of an operator.
pub async fn look(world: Rc<World>, ticket: u64, look: Look) {
    let view = match look {
        Look::Rooms { n, .. } => rooms(&world, &look, n).await,
        Look::Room(ref room) | Look::Log { ref room, .. } | Look::Who { ref room, .. } => {
            let at = partition_of(room.as_str(), world.partitions() as u32);
            ask(&world, at, look).await
        }
    };
    world.say(Says::Seen { ticket, view });
}

async fn ask(world: &World, partition: usize, look: Look) -> Result<View, String> {
    let (reply, answer) = oneshot::channel();
    world.post_at(partition, Letter::Read(Asked::Look(look, reply)));
    answer.await.map_err(gone)?
}

/// The first rooms of all partitions together.
async fn rooms(world: &World, look: &Look, n: usize) -> Result<View, String> {
    let partitions = (0..world.partitions()).map(|at| ask(world, at, look.clone()));
    let (mut all, mut more): (Vec<RoomCount>, bool) = (Vec::new(), false);
    for view in futures_util::future::join_all(partitions).await {
        if let View::Rooms(rooms, cut) = view? {
            all.extend(rooms);
            more |= cut;
        }
    }
    all.sort_unstable_by(|one, other| one.room.cmp(&other.room));
    more |= all.len() > n;
    all.truncate(n);
    Ok(View::Rooms(all, more))
}

impl Reading {
    /// What this partition knows of it.
    pub async fn look(mut self, look: Look) -> Result<View, String> {
        let live = self.world.peers.live().ok_or("this node has no number yet; try again")?;
        match look {
            Look::Rooms { prefix, only, after, n } => {
                let (redis, keys) = (&mut self.connection, &self.life);
                let is_meant = |name: &str| is_meant(name, &prefix, only.as_deref(), after.as_deref());
                // One more tells whether there are more.
                let rooms = counts::rooms(redis, keys, &live, &prefix, is_meant, n + 1).await;
                let (list, more) = cut(rooms.map_err(unread)?, n);
                Ok(View::Rooms(list, more))
            }
            Look::Who { room, after, n } => {
                let (redis, keys) = (&mut self.connection, &self.life);
                let users = counts::users(redis, keys, &live, &room, after.as_deref(), n + 1).await;
                let (list, more) = cut(users.map_err(unread)?, n);
                Ok(View::Who(list, more))
            }
            Look::Room(room) => self.room(&room, &live).await.map(View::Room),
            Look::Log { room, from, n, bytes } => self.page(room, from, n, bytes).await.map(View::Log),
        }
    }

    async fn room(&mut self, room: &RoomName, live: &[NodeSlot]) -> Result<Option<RoomState>, String> {
        let counted = counts::room(&mut self.connection, &self.life, live, room).await;
        let (sessions, users) = counted.map_err(unread)?;
        let known = self.known(room).await?;
        let StoredRoom { top, first, .. } = known.log;
        let is_anything = top > 0 || sessions > 0;
        Ok(is_anything.then(|| RoomState { epoch: known.epoch(), top, first, sessions, users }))
    }

    async fn page(
        mut self,
        room: RoomName,
        from: PageFrom,
        n: usize,
        bytes: usize,
    ) -> Result<Option<LogPage>, String> {
        let known = self.known(&room).await?;
        if known.log.top == 0 {
            return Ok(None);
        }
        let question = Question::Page { room, from, n, bytes };
        let archive = self.world.archive.clone().filter(|_| !known.in_redis);
        let (list, more) = match archive {
            Some(archive) => archive.entries(question).await?,
            None => match self.answer(question).await? {
                Answer::Entries { list, more } => (list, more),
                _ => return Err("a page was asked for and something else told; report it".into()),
            },
        };
        let list = list.into_iter().map(|entry| (entry.offset, entry.line)).collect();
        Ok(Some(LogPage { epoch: known.epoch(), list, more }))
    }

    /// What is known of a room's log, without its entries.
    async fn known(&mut self, room: &RoomName) -> Result<Known, String> {
        let name = room.as_str();
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(self.keys.meta(name));
        pipeline.cmd("XRANGE").arg(self.keys.history(name)).arg("-").arg("+").arg("COUNT").arg(1);
        pipeline.cmd("GET").arg(self.keys.fence());
        let (meta, oldest, fence): (Value, Value, Option<String>) =
            pipeline.query_async(&mut self.connection).await.map_err(unread)?;
        let meta = replies::meta(meta).map_err(unread)?;
        let oldest = replies::rows(oldest).map_err(unread)?.into_iter().next();
        let present = Epoch(fence.as_deref().and_then(Fence::parse).map_or(0, |fence| fence.epoch));
        let archive = self.world.archive.as_ref();
        let Some(top) = meta.top else {
            // Redis has forgotten it, or it was never written to.
            let stored = match archive {
                Some(archive) => archive.room(room).await?,
                None => None,
            };
            let never = StoredRoom { lineage: Vec::new(), top: 0, first: 1, tail: Vec::new() };
            return Ok(Known { log: stored.unwrap_or(never), present, in_redis: false });
        };
        let lineage = meta.lives.iter().map(|(epoch, first)| (Epoch(*epoch), *first)).collect();
        let age_ms = self.world.lives(room).age_ms;
        let facts = Facts { rows: oldest.clone().into_iter().collect(), oldest, ..Facts::default() };
        let stored = Tail { tail: 0, tail_bytes: 0, age_ms }.of(room, lineage, top, facts);
        let log = match archive {
            Some(archive) => reading::complete(archive, room, stored, 0, 0).await?,
            None => stored,
        };
        Ok(Known { log, present, in_redis: true })
    }
}

/// A room's log without its entries.
struct Known {
    log: StoredRoom,
    /// The epoch of what is written now.
    present: Epoch,
    /// If not, only the archive can tell its entries.
    in_redis: bool,
}

impl Known {
    /// The present life of the log.
    fn epoch(&self) -> Epoch {
        self.log.lineage.last().map_or(self.present, |(epoch, _)| *epoch)
    }
}

/// The first `n`, and whether there were more.
fn cut<T>(mut list: Vec<T>, n: usize) -> (Vec<T>, bool) {
    let more = list.len() > n;
    list.truncate(n);
    (list, more)
}
