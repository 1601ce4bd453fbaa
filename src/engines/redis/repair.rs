//! What happens before anything is written to a server that was not written to by this node before: it gets back what
//! it lacks from the memory of all nodes, and then a new epoch. And what this node had said to a server that the others
//! have left, it says again. Called by the partition between two stays.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::clock;
use crate::engines::redis::logs::{Stage, epoch_at};
use crate::engines::redis::partition::Partition;
use crate::engines::redis::replies::{self, Fence, Meta};
use crate::engines::redis::scripts;
use crate::engines::redis::session::Session;
use crate::engines::redis::world::EPOCH_LASTS_MS;
use crate::engines::shared::NodeSlot;

/// How long the nodes have to come together at a new server, in milliseconds.
const WINDOW_MS: u64 = 1_500;
/// Between two looks at whether all have come.
const LOOK: Duration = Duration::from_millis(20);
/// Longest that a step of a repair may take: it moves a minute of messages.
const STEP_MAX: Duration = Duration::from_secs(10);
/// Rooms in one call.
const ROOMS_MAX: usize = 100;
/// Bytes of entries in one call, one entry more.
const PUSH_BYTES: usize = 512 << 10;
/// How long only servers are found that others have left behind, before one of them is taken all the same.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(10);
/// Entries about which nobody is told anything new: the top of a log whose entry is not remembered.
const CLAIM: u8 = b'C';

impl Partition {
    /// Makes sure that the server has all that was accepted; tells whose turn it is there.
    pub(super) async fn enter(&mut self, session: &mut Session, node: NodeSlot) -> Result<Fence, String> {
        let mut connection = session.control.clone();
        connection.set_response_timeout(STEP_MAX);
        let work = self.enter_with(&mut connection, &session.run_id, node);
        work.await.map_err(|error| error.to_string())?.ok_or_else(|| {
            format!("the server at {}:{} was left behind by the other nodes", session.host.0, session.host.1)
        })
    }

    async fn enter_with(
        &mut self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
        node: NodeSlot,
    ) -> RedisResult<Option<Fence>> {
        let known = self.epoch;
        let began = Instant::now();
        let fence = loop {
            let (word, rest) = self.begin(connection, run_id, node).await?;
            match word.as_str() {
                "OPEN" => break fence_of(rest)?,
                "STALE" => {
                    self.left_behind.get_or_insert_with(Instant::now);
                    return Ok(None);
                }
                _ => {}
            }
            let staged = self.stage(connection, run_id).await?;
            self.stage_rules(connection, run_id, node).await?;
            if let Some(fence) = self.finish(connection, run_id, node).await? {
                log::warn!(
                    "redis: partition {}: {staged} entries of this node were missing at the new server; it was \
                     repaired in {:?}",
                    self.number,
                    began.elapsed()
                );
                break fence;
            }
        };
        self.left_behind = None;
        if fence.epoch != known {
            self.say_again(connection).await?;
        }
        Ok(Some(fence))
    }

    async fn begin(
        &mut self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
        node: NodeSlot,
    ) -> RedisResult<(String, Vec<Value>)> {
        let force = self.left_behind.is_some_and(|since| since.elapsed() > LEFT_BEHIND_MAX);
        let mut call = scripts::REPAIR_BEGIN.call(5);
        call.arg(self.keys.fence()).arg(self.keys.repair()).arg(self.keys.staged_rooms());
        call.arg(self.keys.signs()).arg(self.keys.young());
        call.arg(run_id).arg(node).arg(self.epoch).arg(WINDOW_MS).arg(clock::wall_ms());
        call.arg(self.keys.staged("")).arg(u8::from(force));
        replies::word(scripts::REPAIR_BEGIN.run(connection, &call).await?)
    }

    /// Stages what this node remembers and the server lacks. Returns how many entries.
    async fn stage(&self, connection: &mut MultiplexedConnection, run_id: &str) -> RedisResult<u64> {
        let joined = self.rooms.iter().filter(|(_, log)| log.stage != Stage::Opening && log.top > 0);
        let mut rooms: Vec<&RoomName> = self.memory.rooms().map(|(room, _)| room).collect();
        rooms.extend(joined.map(|(room, _)| room).filter(|room| self.memory.of(room).is_none()));
        let mut staged = 0;
        for some in rooms.chunks(ROOMS_MAX) {
            let metas = self.metas(connection, some).await?;
            for (room, meta) in some.iter().zip(metas) {
                let lacking = self.lacking(room, meta.top.unwrap_or(0));
                staged += self.push(connection, run_id, room, lacking).await?;
            }
        }
        Ok(staged)
    }

    /// What this node knows above a top, as rows.
    fn lacking(&self, room: &RoomName, top: Offset) -> Vec<(Offset, Vec<u8>)> {
        let mut rows = Vec::new();
        if let Some(log) = self.rooms.get(room).filter(|log| log.stage != Stage::Opening && log.top > top) {
            let mut row = epoch_at(&log.lives, log.top).to_be_bytes().to_vec();
            row.push(CLAIM);
            for (epoch, first) in &log.lives {
                row.extend_from_slice(&epoch.to_be_bytes());
                row.extend_from_slice(&first.to_be_bytes());
            }
            rows.push((log.top, row));
        }
        let above = self.memory.of(room).into_iter().flat_map(|entries| entries.range(top + 1..));
        rows.extend(
            above.map(|(offset, kept)| (*offset, [&kept.epoch.to_be_bytes()[..], &kept.body].concat())),
        );
        rows
    }

    async fn push(
        &self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
        room: &RoomName,
        rows: Vec<(Offset, Vec<u8>)>,
    ) -> RedisResult<u64> {
        let begin = || {
            let mut call = scripts::REPAIR_PUSH.call(5);
            call.arg(self.keys.fence()).arg(self.keys.repair()).arg(self.keys.staged_rooms());
            call.arg(self.keys.meta(room.as_str())).arg(self.keys.staged(room.as_str()));
            call.arg(run_id).arg(room.as_str());
            (call, 0)
        };
        let (mut call, mut bytes) = begin();
        let mut staged = 0;
        for (offset, row) in rows {
            bytes += row.len();
            call.arg(offset).arg(row);
            if bytes > PUSH_BYTES {
                staged += counted(scripts::REPAIR_PUSH.run(connection, &call).await?);
                (call, bytes) = begin();
            }
        }
        if bytes > 0 {
            staged += counted(scripts::REPAIR_PUSH.run(connection, &call).await?);
        }
        Ok(staged)
    }

    /// Waits for the others, then writes what was staged. None: begin again.
    async fn finish(
        &self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
        node: NodeSlot,
    ) -> RedisResult<Option<Fence>> {
        loop {
            let mut call = scripts::REPAIR_DONE.call(3);
            call.arg(self.keys.fence()).arg(self.keys.repair()).arg(self.keys.signs());
            call.arg(run_id).arg(node);
            let (word, rest) = replies::word(scripts::REPAIR_DONE.run(connection, &call).await?)?;
            match word.as_str() {
                "OPEN" => return Ok(fence_of(rest).ok().filter(|fence| fence.run_id == run_id)),
                "GO" => {}
                _ => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
            if self.write(connection, run_id).await? {
                let mut call = scripts::REPAIR_FINISH.call(5);
                call.arg(self.keys.fence()).arg(self.keys.repair()).arg(self.keys.staged_rooms());
                call.arg(self.keys.feed_count()).arg(self.keys.young());
                call.arg(run_id).arg(EPOCH_LASTS_MS).arg(u8::from(self.world.feed_max > 0));
                let (word, rest) = replies::word(scripts::REPAIR_FINISH.run(connection, &call).await?)?;
                if word == "OPEN" {
                    return Ok(fence_of(rest).ok().filter(|fence| fence.run_id == run_id));
                }
            }
        }
    }

    /// Appends all that is staged. False: the repair is over.
    async fn write(&self, connection: &mut MultiplexedConnection, run_id: &str) -> RedisResult<bool> {
        let rooms: Vec<String> =
            redis::cmd("SMEMBERS").arg(self.keys.staged_rooms()).query_async(connection).await?;
        for name in rooms {
            let Ok(room) = RoomName::new(&name) else { continue };
            let lives = self.world.lives(&room);
            let mut call = scripts::REPAIR_APPLY.call(12);
            call.arg(self.keys.repair()).arg(self.keys.staged_rooms());
            call.arg(self.keys.feed()).arg(self.keys.feed_count());
            call.arg(self.keys.staged(&name)).arg(self.keys.meta(&name)).arg(self.keys.history(&name));
            call.arg(self.keys.dedup(0, &name)).arg(self.keys.dedup(1, &name)).arg(self.keys.changes(&name));
            call.arg(self.keys.leaving()).arg(self.keys.leaving_count());
            call.arg(run_id).arg(&name).arg(lives.history).arg(lives.window_ms);
            call.arg(lives.meta_ms).arg(lives.history_ms).arg(u8::from(self.world.feed_max > 0));
            call.arg(if self.world.leaves(&room) { self.world.leaving_max() } else { 0 });
            let answer = scripts::REPAIR_APPLY.run(connection, &call).await?;
            if matches!(answer, Value::BulkString(_)) {
                return Ok(false);
            }
        }
        self.write_rules(connection, run_id).await?;
        Ok(true)
    }

    /// Offers again what the log of the server does not have: it was said to a server that the others had left.
    async fn say_again(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let rooms: Vec<RoomName> = self.memory.rooms().map(|(room, _)| room.clone()).collect();
        let mut count = 0;
        for some in rooms.chunks(ROOMS_MAX) {
            let metas = self.metas(connection, &some.iter().collect::<Vec<_>>()).await?;
            for (room, meta) in some.iter().zip(metas) {
                let top = meta.top.unwrap_or(0);
                let Some(entries) = self.memory.of(room) else { continue };
                let astray: Vec<Offset> = entries
                    .iter()
                    .filter(|(offset, kept)| **offset > top || epoch_at(&meta.lives, **offset) != kept.epoch)
                    .map(|(offset, _)| *offset)
                    .collect();
                for offset in astray {
                    if let Some(kept) = self.memory.take(room, offset) {
                        self.outbox.push_own(room.clone(), kept.body);
                        count += 1;
                    }
                }
            }
        }
        if count > 0 {
            log::warn!("redis: partition {}: {count} entries are said again", self.number);
        }
        Ok(())
    }

    async fn metas(
        &self,
        connection: &mut MultiplexedConnection,
        rooms: &[&RoomName],
    ) -> RedisResult<Vec<Meta>> {
        let mut pipeline = redis::pipe();
        for room in rooms {
            pipeline.add_command(Cmd::hgetall(self.keys.meta(room.as_str())));
        }
        let answers: Vec<Value> = pipeline.query_async(connection).await?;
        answers.into_iter().map(replies::meta).collect()
    }
}

fn fence_of(rest: Vec<Value>) -> RedisResult<Fence> {
    let text = rest.into_iter().next().map(replies::text).transpose()?.unwrap_or_default();
    Fence::parse(&text).ok_or_else(|| {
        (redis::ErrorKind::Parse, "the fence in Redis cannot be read; was its key changed by hand?").into()
    })
}

/// What a push answers: a number, or that the repair is over.
fn counted(answer: Value) -> u64 {
    match answer {
        Value::Int(count) => u64::try_from(count).unwrap_or(0),
        _ => 0,
    }
}
