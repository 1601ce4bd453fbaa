//! A partition's way out: batches of proposals to the script, one after the other, and the wait for replicas behind
//! each. Called by the partition only.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, RedisResult, Value};

use crate::chat::names::{Owners, RoomName, UserName};
use crate::engines::redis::letters::Called;
use crate::engines::redis::noting::Note;
use crate::engines::redis::outbox::{Queued, Said};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{self, Remedy, remedy};
use crate::engines::redis::{frame, scripts};
use crate::engines::shared::{Safety, Says};

/// How long a server is left alone that refuses to write.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a server may refuse to write before that is told.
const REFUSING_TOLD: Duration = Duration::from_secs(1);
/// How long a batch waits for a replica before the next one goes out.
const REPLICA_MS: u64 = 100;
/// How often it is noted that a room of users was written to.
const USED_PAUSE: Duration = Duration::from_secs(60);
/// Most rooms whose renewal is remembered.
const RENEWED_MAX: usize = 100_000;

impl Partition {
    /// Sends the next batch if none is under way; or waits for replicas again.
    pub(super) fn publish_on(&mut self, live: &mut Live) {
        if live.publishing || live.paused.is_some() {
            return;
        }
        let needs_replica = self.needs_replica();
        let batch = self.outbox.take(|room| self.seeding.contains_key(room)).to_vec();
        let wants_replica = batch.iter().any(|queued| queued.safety >= Safety::Replicated);
        let waited = needs_replica && (wants_replica || self.outbox.awaits_replica());
        if batch.is_empty() && !waited {
            return;
        }
        live.publishing = true;
        let call = (!batch.is_empty()).then(|| self.batch_call(live, &batch));
        let (connection, batch) = (live.session.publish.clone(), call.is_some());
        live.calls.push(Box::pin(async move {
            Called::Published { answers: publish(connection, call, waited).await, batch, waited }
        }));
    }

    fn batch_call(&mut self, live: &Live, batch: &[Queued]) -> Cmd {
        let mut rooms: Vec<&Queued> = Vec::new();
        let mut numbers = ahash::AHashMap::new();
        for queued in batch {
            numbers.entry(&queued.room).or_insert_with(|| {
                rooms.push(queued);
                rooms.len()
            });
        }
        let mut call = scripts::PUBLISH.call(5 + rooms.len() * 5);
        call.arg(self.keys.fence()).arg(self.keys.feed()).arg(self.keys.feed_count());
        call.arg(self.keys.leaving()).arg(self.keys.leaving_count());
        for queued in &rooms {
            let room = queued.room.as_str();
            call.arg(self.keys.meta(room)).arg(self.keys.history(room));
            call.arg(self.keys.dedup(0, room)).arg(self.keys.dedup(1, room)).arg(self.keys.changes(room));
        }
        let sharded = self.world.link.is_cluster();
        call.arg(live.fence.text()).arg(live.fence.epoch).arg(&live.session.channel).arg(self.keys.inboxes());
        call.arg(self.world.feed_max).arg(u8::from(self.world.archive.is_some())).arg(rooms.len());
        call.arg(self.publish_command()).arg(if sharded { "SHARDNUMSUB" } else { "NUMSUB" });
        call.arg(self.world.leaving_max());
        for queued in &rooms {
            let lives = self.world.lives(&queued.room);
            call.arg(frame::named(&queued.room)).arg(lives.history).arg(lives.window_ms);
            call.arg(lives.meta_ms).arg(lives.history_ms);
            let shortest = if lives.history_ms == 0 { lives.meta_ms } else { lives.history_ms };
            call.arg(u8::from(self.is_to_renew(queued, Duration::from_millis(shortest / 8))));
            call.arg(u8::from(self.world.leaves(&queued.room)));
        }
        for queued in batch {
            call.arg(numbers[&queued.room]).arg(&queued.body[..]);
        }
        call
    }

    /// Whether the keys of a room have to live on from now. Asking counts as doing it.
    fn is_to_renew(&mut self, queued: &Queued, pause: Duration) -> bool {
        let now = Instant::now();
        if let Some(last) = self.renewed.get(&queued.room)
            && now.duration_since(*last) < pause
        {
            return false;
        }
        if self.renewed.len() >= RENEWED_MAX {
            self.renewed.clear();
        }
        self.renewed.insert(queued.room.clone(), now);
        true
    }

    pub(super) fn on_published(
        &mut self,
        live: &mut Live,
        answers: RedisResult<Vec<Value>>,
        batch: bool,
        waited: bool,
    ) -> Result<(), String> {
        live.publishing = false;
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                self.outbox.failed(false);
                return Err(error.to_string());
            }
        };
        if batch {
            let answer = answers.next().unwrap_or_default();
            match answer.extract_error().and_then(replies::list) {
                Ok(said) => self.on_said(live, said)?,
                Err(error) => {
                    let remedy = remedy(&error);
                    self.outbox.failed(remedy != Remedy::Unknown);
                    if remedy != Remedy::Wait {
                        return Err(error.to_string());
                    }
                    self.pause(live, &error.to_string());
                    return Ok(());
                }
            }
        }
        if waited {
            let replicas = answers.next().unwrap_or_default().extract_error();
            match replicas {
                Ok(Value::Int(count)) if count > 0 => self.outbox.replicated(),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.settle();
        Ok(())
    }

    /// The right server takes nothing now.
    fn pause(&mut self, live: &mut Live, why: &str) {
        let now = Instant::now();
        live.paused = Some(now + PAUSE);
        let since = *self.refusing.get_or_insert(now);
        if now.duration_since(since) > REFUSING_TOLD {
            self.world.feel(self.number, Some(format!("Redis: {why}")));
        }
    }

    /// The archive is so far behind that nothing more may be accepted.
    fn full(&mut self, live: &mut Live) {
        live.paused = Some(Instant::now() + PAUSE);
        if !std::mem::replace(&mut self.feed_full, true) {
            let why = "the feed of the archive is full; is the archive away?";
            log::warn!("redis: {why}");
            self.world.feel(self.number, Some(format!("Redis: {why}")));
        }
    }

    fn on_said(&mut self, live: &mut Live, said: Vec<Value>) -> Result<(), String> {
        let texts = said.into_iter().map(replies::bytes).collect::<RedisResult<Vec<_>>>();
        let texts = texts.map_err(|error| error.to_string())?;
        match texts.first().map(Vec::as_slice) {
            Some(b"F") => {
                self.outbox.failed(true);
                let fence = texts.into_iter().nth(1).map(Value::BulkString);
                return self.heed_fence(live, fence);
            }
            Some(b"S") => {
                self.outbox.failed(true);
                return Err("the server does not know of this node's subscription".into());
            }
            Some(b"A") => {
                self.outbox.failed(true);
                self.full(live);
                return Ok(());
            }
            _ => {}
        }
        if self.refusing.take().is_some() || std::mem::take(&mut self.feed_full) {
            self.world.feel(self.number, None);
        }
        let said: Option<Vec<Said>> = texts.iter().map(|text| Said::parse(text)).collect();
        let Some(said) = said else {
            self.outbox.failed(false);
            return Err("an answer of the script cannot be read".into());
        };
        let (memory, mut owned) = (&mut self.memory, Vec::new());
        let unloaded = self.outbox.answered(said, |queued, offset, epoch| {
            memory.put(&queued.room, offset, epoch, queued.body.clone());
            if queued.room.owners().is_some() {
                owned.push((queued.room.clone(), frame::ts_of(&queued.body)));
            }
        });
        owned.into_iter().for_each(|(room, ts)| self.note_use(room, ts));
        for room in unloaded {
            self.seed(live, room, None);
        }
        Ok(())
    }

    /// A room that users own was written to: from now on it is among theirs.
    fn note_use(&mut self, room: RoomName, ts: u64) {
        let now = Instant::now();
        if self.used.get(&room).is_some_and(|last| now.duration_since(*last) < USED_PAUSE) {
            return;
        }
        if self.used.len() >= RENEWED_MAX {
            self.used.clear();
        }
        let names = match room.owners() {
            Some(Owners::One(user)) => vec![user],
            Some(Owners::Two(first, second)) => vec![first, second],
            None => Vec::new(),
        };
        let users = names.into_iter().filter_map(|name| UserName::new(name).ok());
        let notes = users.map(|user| Note::Used(user, room.clone(), ts)).collect();
        self.world.note(notes);
        self.used.insert(room, now);
    }

    /// Tells what is safe enough by now.
    pub(super) fn settle(&mut self) {
        let settled = self.outbox.settle(self.needs_replica(), self.archived);
        if !settled.is_empty() {
            self.world.say(Says::Settled(settled));
        }
    }
}

/// A batch and the wait for replicas, in one go.
async fn publish(
    mut connection: MultiplexedConnection,
    call: Option<Cmd>,
    waited: bool,
) -> RedisResult<Vec<Value>> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(1).arg(REPLICA_MS);
    let Some(call) = call else {
        return Ok(vec![connection.req_packed_command(&wait).await?]);
    };
    for last in [false, true] {
        let mut pipeline = redis::pipe();
        pipeline.add_command(call.clone());
        if waited {
            pipeline.add_command(wait.clone());
        }
        let answers = connection.req_packed_commands(&pipeline, 0, pipeline.len()).await?;
        let unknown =
            matches!(answers.first(), Some(Value::ServerError(error)) if error.code() == "NOSCRIPT");
        if last || !unknown {
            return Ok(answers);
        }
        scripts::PUBLISH.load(&mut connection).await?;
    }
    Ok(Vec::new())
}
