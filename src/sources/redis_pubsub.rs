//! Redis pub/sub as a source: what is published to channels is said in the rooms of their names. Called by the
//! actor of sources. Redis keeps nothing here and waits for nobody: what is published while no node listens, or
//! faster than the rooms take it, is gone, and is counted where that can be seen. There is nothing to acknowledge
//! and no id, so an item is known again only by an id of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};

use crate::chat::names::RoomName;
use crate::redis_link::{RedisConnection, RedisLink};
use crate::sources::door_commands::room_of_channel;
use crate::sources::poison::{Poison, Reason};
use crate::sources::redis_turn::{LOOK, RENEW, RedisTurn};
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::traces::Parent;

/// Most messages that wait for the rooms; further ones are dropped and counted.
const WAITING_MAX: usize = 4_096;
/// Most messages taken in one step.
const TAKE_ITEMS_MAX: usize = 128;
/// Longest wait for a message.
const WAIT: Duration = Duration::from_secs(1);
/// Longest that a command may take.
const RESPONSE_MAX: Duration = Duration::from_millis(2_500);

/// What came from the server.
enum Heard {
    Message { channel: Bytes, item: Bytes },
    Gone,
}

/// See above.
pub struct RedisPubSub {
    link: RedisLink,
    /// Those with a `*`, `?` or `[` are patterns.
    channels: Vec<String>,
    /// What is cut off the front of a channel's name.
    prefix: String,
    /// Where nodes share rooms one of them listens; else each does.
    turn: Option<RedisTurn>,
    dropped: Arc<AtomicU64>,
    live: Option<Live>,
}

struct Live {
    redis: RedisConnection,
    listening: Option<Listening>,
    renewed: Instant,
}

struct Listening {
    connection: MultiplexedConnection,
    heard: Receiver<Heard>,
}

impl RedisPubSub {
    /// `turn` is that of several nodes that share their rooms; none: they do not.
    pub fn new(
        link: RedisLink,
        channels: Vec<String>,
        prefix: String,
        turn: Option<RedisTurn>,
    ) -> RedisPubSub {
        RedisPubSub { link, channels, prefix, turn, dropped: Arc::default(), live: None }
    }

    fn live(&mut self) -> Result<&mut Live, SourceError> {
        self.live.as_mut().ok_or_else(|| SourceError::new("not connected"))
    }

    /// Whether this node is the one that listens.
    async fn is_ours(&mut self) -> Result<bool, SourceError> {
        let Some(turn) = &self.turn else { return Ok(true) };
        let Some(live) = &mut self.live else { return Err(SourceError::new("not connected")) };
        let listens = live.listening.is_some();
        if listens && live.renewed.elapsed() < RENEW {
            return Ok(true);
        }
        let sent = Instant::now();
        let ours = match listens {
            true => turn.renew(&mut live.redis).await?,
            false => turn.hold(&mut live.redis).await?,
        };
        live.renewed = sent;
        if listens && !ours {
            return Err(SourceError::new("the turn ran out while this node stood still"));
        }
        Ok(ours)
    }

    async fn listen(&self) -> Result<Listening, SourceError> {
        let (sender, heard) = mpsc::channel(WAITING_MAX);
        let dropped = self.dropped.clone();
        let host = self.link.primary_of(&self.channels[0], &[]).await?.host;
        let pushes = move |push: PushInfo| pass_on(push, &sender, &dropped);
        let mut connection = self.link.connect_listening(&host, RESPONSE_MAX, pushes).await?;
        let is_pattern = |name: &&String| name.contains(['*', '?', '[']);
        let (patterns, names): (Vec<_>, Vec<_>) = self.channels.iter().partition(is_pattern);
        for (command, names) in [("PSUBSCRIBE", patterns), ("SUBSCRIBE", names)] {
            if !names.is_empty() {
                redis::cmd(command).arg(names).query_async::<()>(&mut connection).await?;
            }
        }
        Ok(Listening { connection, heard })
    }

    fn taken(&self, channel: &[u8], item: Bytes) -> Taken<()> {
        let (room, parent) = (self.room_of(channel).map(Some), Parent::default());
        Taken { id: None, item, room, pushed_ms: None, parent, receipt: () }
    }

    fn room_of(&self, channel: &[u8]) -> Result<RoomName, Poison> {
        let bad =
            |why: &str| Poison::new(Reason::BadRoom, format!("channel {}: {why}", channel.escape_ascii()));
        let name = std::str::from_utf8(channel).map_err(|_| bad("a name is UTF-8"))?;
        RoomName::named_by_client(room_of_channel(name, &self.prefix)).map_err(|error| bad(error.0))
    }
}

/// Called by the connection, which must not wait.
fn pass_on(push: PushInfo, to: &Sender<Heard>, dropped: &AtomicU64) -> Result<(), ()> {
    let mut data = push.data.into_iter();
    let heard = match push.kind {
        PushKind::Disconnection => Heard::Gone,
        PushKind::PMessage => match (data.next(), data.next(), data.next()) {
            (_, Some(Value::BulkString(channel)), Some(Value::BulkString(item))) => {
                Heard::Message { channel: channel.into(), item: item.into() }
            }
            _ => return Ok(()),
        },
        PushKind::Message => match (data.next(), data.next()) {
            (Some(Value::BulkString(channel)), Some(Value::BulkString(item))) => {
                Heard::Message { channel: channel.into(), item: item.into() }
            }
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    let is_message = matches!(heard, Heard::Message { .. });
    if to.try_send(heard).is_err() && is_message {
        dropped.fetch_add(1, Relaxed);
    }
    Ok(())
}

impl Source for RedisPubSub {
    type Receipt = ();

    fn address(&self) -> String {
        self.link.to_string()
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        self.live = None;
        if let Some(turn) = &mut self.turn {
            turn.begin();
        }
        let redis = self.link.connect().await?;
        self.live = Some(Live { redis, listening: None, renewed: Instant::now() });
        Ok(())
    }

    async fn take(&mut self) -> Result<Batch<()>, SourceError> {
        if !self.is_ours().await? {
            sleep(LOOK).await;
            return Ok(Batch::StandBy);
        }
        if self.live()?.listening.is_none() {
            let listening = self.listen().await?;
            self.live()?.listening = Some(listening);
        }
        let Some(listening) = &mut self.live()?.listening else { return Ok(Batch::Nothing) };
        let mut heard = Vec::new();
        if timeout(WAIT, listening.heard.recv_many(&mut heard, TAKE_ITEMS_MAX)).await.is_err() {
            // A server that hangs closes nothing and says nothing.
            redis::cmd("PING").query_async::<()>(&mut listening.connection).await?;
            return Ok(Batch::Nothing);
        }
        let mut items = Vec::with_capacity(heard.len());
        let was_cut = heard.is_empty() || heard.iter().any(|heard| matches!(heard, Heard::Gone));
        for heard in heard {
            if let Heard::Message { channel, item } = heard {
                items.push(self.taken(&channel, item));
            }
        }
        if was_cut {
            // What has come is said; the next turn finds nobody listening and begins anew.
            self.live()?.listening = None;
            if items.is_empty() {
                return Err(SourceError::new("the connection ended"));
            }
        }
        Ok(Batch::Items(items))
    }

    async fn ack(&mut self, _: Vec<()>) -> Result<(), SourceError> {
        Ok(())
    }

    /// There is nobody to give them back to.
    async fn give_back(&mut self, items: Vec<()>) -> Result<(), SourceError> {
        self.dropped.fetch_add(items.len() as u64, Relaxed);
        Ok(())
    }

    async fn extend(&mut self, _: &[&()]) -> Result<(), SourceError> {
        match self.is_ours().await? {
            true => Ok(()),
            false => Err(SourceError::new("the turn ran out while this node stood still")),
        }
    }

    fn patience(&self) -> Duration {
        RENEW
    }

    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        Ok(self.live()?.listening.as_ref().map(|listening| listening.heard.len() as u64))
    }

    fn dropped(&mut self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        let unheard = live.listening.map_or(0, |listening| listening.heard.len());
        self.dropped.fetch_add(unheard as u64, Relaxed);
        if let Some(turn) = &self.turn {
            turn.let_go(&mut live.redis).await?;
        }
        Ok(())
    }
}
