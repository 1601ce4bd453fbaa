//! The door: listens for Redis clients of backends, lets each connection's commands become messages, and
//! answers after the rooms have accepted them. Started and drained by the wiring. A connection is read
//! only when everything before is answered, so that a busy server slows its backends and holds nothing.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Recipient, ResponseFuture, WrapFuture};
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::actors::letters::{Bury, Drain, PublishBatch};
use crate::chat::message::{Accepted, Refused};
use crate::chat::names::RoomName;
use crate::chat::trace::Door;
use crate::clock;
use crate::sources::counters::QueueCounters;
use crate::sources::dead_letters::{DeadLetter, MemoryDeadLetters, preview};
use crate::sources::door_turn::{Push, Turn};
use crate::sources::node::{EntryIds, ProcessMark};
use crate::sources::payload::PayloadLimits;
use crate::sources::poison::Poison;
use crate::sources::resp::{Decoder, ProtocolError, RequestLimits};
use crate::sources::resp_door::{DoorRules, DoorSession};
use crate::sources::settings::{DoorSettings, ListSettings};
use crate::store::record::Letter;
use crate::traces::{Kind, Tracer};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a batch is offered to busy rooms before its sender is told to try again.
const BUSY_MAX: Duration = Duration::from_secs(30);
/// How long a client may leave its replies unread.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// Wait after an accept that failed, which mostly means that the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the door needs.
pub struct RespDoorParts {
    /// `[queue.door]`.
    pub settings: DoorSettings,
    /// `queue.list`: the lists that may be pushed to.
    pub lists: Vec<ListSettings>,
    /// Where items go that name no room: `rooms.default`.
    pub room: RoomName,
    /// What an item may be at most.
    pub limits: PayloadLimits,
    /// The chat server.
    pub chat: Recipient<PublishBatch>,
    /// Where items go that can never be said, when nothing else takes them.
    pub dead: Arc<MemoryDeadLetters>,
    /// Where they go first: to the store, or to Redis where nodes share the rooms.
    pub graves: Option<Recipient<Bury>>,
    /// Where it counts.
    pub counters: Arc<QueueCounters>,
    /// Begins the spans of items.
    pub tracer: Tracer,
}

/// The door. [`Drain`] closes it: what came before is answered, then the connections end.
pub struct RespDoor {
    listener: Option<TcpListener>,
    house: Arc<House>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

/// What all connections share.
struct House {
    rules: Arc<DoorRules>,
    connections_max: usize,
    limits: PayloadLimits,
    chat: Recipient<PublishBatch>,
    dead: Arc<MemoryDeadLetters>,
    graves: Option<Recipient<Bury>>,
    dead_ids: EntryIds,
    counters: Arc<QueueCounters>,
    tracer: Tracer,
    next_id: AtomicU64,
}

impl RespDoor {
    /// Listens at once, so that a taken port is told before anything starts; serves after `start()`.
    /// A default room of a list that is no room's name is an error as well.
    pub fn bind(parts: RespDoorParts) -> io::Result<RespDoor> {
        let lists = parts.lists.into_iter().map(|list| {
            let room = list.room.map_or(Ok(parts.room.clone()), |room| RoomName::new(&room));
            room.map(|room| (list.name, room)).map_err(io::Error::other)
        });
        let rules = DoorRules {
            lists: lists.collect::<io::Result<_>>()?,
            prefix: parts.settings.prefix,
            password: parts.settings.password,
            limits: RequestLimits::for_messages(parts.limits.message_bytes),
        };
        let listener = TcpListener::bind(&parts.settings.listen)?;
        listener.set_nonblocking(true)?;
        let house = House {
            rules: Arc::new(rules),
            connections_max: parts.settings.connections,
            limits: parts.limits,
            chat: parts.chat,
            dead: parts.dead,
            graves: parts.graves,
            dead_ids: EntryIds::new(ProcessMark::of_this_process().nonce()),
            counters: parts.counters,
            tracer: parts.tracer,
            next_id: AtomicU64::new(1),
        };
        let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(false));
        Ok(RespDoor { listener: Some(listener), house: Arc::new(house), stop, ended })
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or_else(|| io::Error::other("the door has been started"))?;
        listener.local_addr()
    }
}

impl Actor for RespDoor {
    type Context = Context<RespDoor>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let (house, stop, ended) = (self.house.clone(), self.stop.subscribe(), self.ended.clone());
        let work = async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => house.receive(listener, stop).await,
                Err(error) => log::error!("door: cannot listen: {error}"),
            }
            ended.send_replace(true);
        };
        ctx.spawn(work.into_actor(self));
    }
}

impl Handler<Drain> for RespDoor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.stop.send_replace(true);
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            // An error means that the actor is gone, and then its connections are as well.
            let _gone = ended.wait_for(|ended| *ended).await;
        })
    }
}

impl House {
    async fn receive(self: Arc<House>, listener: tokio::net::TcpListener, mut stop: watch::Receiver<bool>) {
        self.counters.set_connected(true);
        self.counters.set_taking(true);
        let mut guests = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = guests.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if guests.len() >= self.connections_max => turn_away(&stream),
                Ok((stream, peer)) => {
                    let (house, stop) = (self.clone(), stop.clone());
                    self.counters.count_connects(1);
                    guests.spawn_local(async move { house.serve(stream, peer, stop).await });
                }
                Err(error) => {
                    log::warn!("door: cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.counters.set_connected(false);
        self.counters.set_taking(false);
        drop(listener);
        while guests.join_next().await.is_some() {}
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<bool>) {
        match self.converse(stream, peer, stop).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                log::warn!("door: {peer}: {error}, connection closed")
            }
            Err(error) => log::debug!("door: {peer}: {error}"),
            Ok(()) => {}
        }
    }

    async fn converse(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut session = DoorSession::new(self.rules.clone(), id, stream.local_addr()?);
        let mut decoder = Decoder::new(session.limits());
        let mut buffer = BytesMut::new();
        log::debug!("door: {peer} is connection {id}");
        loop {
            let (mut turn, all_read) = gather(&mut session, &mut decoder, &mut buffer)?;
            let buried = RefCell::default();
            self.settle(&mut turn, &stop, &buried).await;
            self.keep(buried.take()).await;
            let replies = turn.into_replies(session.speaks_resp3());
            timeout(WRITE_MAX, stream.write_all(&replies)).await??;
            if session.is_closing() {
                return stream.shutdown().await;
            }
            if !all_read {
                continue;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return stream.shutdown().await,
                open = read(&stream, &mut buffer) => if !open? { return Ok(()) },
            }
        }
    }

    /// Offers the items of a turn to the rooms until each has an outcome.
    async fn settle(&self, turn: &mut Turn, stop: &watch::Receiver<bool>, buried: &RefCell<Vec<DeadLetter>>) {
        let since = Instant::now();
        let mut wait = Duration::from_millis(2);
        loop {
            let (places, mut drafts) = turn.open(self.limits, |push, poison| self.bury(push, poison, buried));
            if drafts.is_empty() {
                return;
            }
            self.counters.count_taken(drafts.len() as u64);
            if self.tracer.is_on() {
                drafts
                    .iter_mut()
                    .for_each(|draft| draft.span = self.tracer.begin("push at the door", Kind::Server));
            }
            let Ok(answers) = self.chat.send(PublishBatch(drafts, Door::RESP)).await else {
                return turn.give_up(&Refused::Draining);
            };
            self.count(&answers);
            let Some(refused) = turn.note(&places, answers, |push, poison| self.bury(push, poison, buried))
            else {
                continue;
            };
            let is_over = matches!(refused, Refused::Draining | Refused::NotStored { .. });
            if is_over || *stop.borrow() || since.elapsed() > BUSY_MAX {
                return turn.give_up(&refused);
            }
            self.counters.count_waits(1);
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }

    fn count(&self, answers: &[Result<Accepted, Refused>]) {
        let accepted = answers.iter().flatten();
        self.counters.count_repeated(accepted.clone().filter(|accepted| accepted.duplicate).count() as u64);
        self.counters.count_accepted(accepted.count() as u64);
    }

    /// Keeps dead letters in the store or in Redis; without either, in memory. The backend hears of them after that.
    async fn keep(&self, letters: Vec<DeadLetter>) {
        if letters.is_empty() {
            return;
        }
        let kept = match &self.graves {
            Some(graves) => {
                let records = letters.iter().map(record_of).collect();
                graves.send(Bury(records)).await.unwrap_or(false)
            }
            None => false,
        };
        if !kept {
            let forgotten: u64 = letters.into_iter().map(|letter| self.dead.keep(letter)).sum();
            self.counters.count_dead_forgotten(forgotten);
        }
    }

    /// Gives up an item that can never be said; tells its id.
    fn bury(&self, push: &Push, poison: &Poison, buried: &RefCell<Vec<DeadLetter>>) -> String {
        let id = format!("{}{:012x}", self.dead_ids.start(), self.dead_ids.reserve(1));
        let source = format!("door:{}", push.source);
        // The application's words may be in the reason, the backend's in the item.
        log::warn!(
            "{source}: dead letter {id}: {}: {}",
            preview(&push.item),
            poison.to_string().escape_debug()
        );
        self.counters.count_dead(poison.reason);
        buried.borrow_mut().push(DeadLetter::new(&source, &id, poison, &push.item));
        id
    }
}

fn record_of(letter: &DeadLetter) -> Letter {
    Letter {
        id: letter.id.as_str().into(),
        ts: clock::wall_ms(),
        source: letter.source.as_str().into(),
        reason: letter.reason.as_str().into(),
        // Coded by us a moment ago, so it can be read.
        item: letter.bytes().unwrap_or_default().into(),
    }
}

/// Lets the session deal with what has been read; `true`: with all of it.
fn gather(
    session: &mut DoorSession,
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
) -> io::Result<(Turn, bool)> {
    let mut turn = Turn::default();
    while !turn.is_full() && !session.is_closing() {
        decoder.limits = session.limits();
        match decoder.next(buffer) {
            Ok(Some(request)) => session.handle(request, &mut turn),
            Ok(None) => return Ok((turn, true)),
            Err(error @ ProtocolError::Http) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
            Err(error) => session.fail(&error, &mut turn),
        }
    }
    Ok((turn, false))
}

/// Reads what is there; `false`: nothing more will come. An idle connection holds no buffer.
async fn read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<bool> {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
    loop {
        stream.readable().await?;
        buffer.reserve(READ_BYTES);
        match stream.try_read_buf(buffer) {
            Ok(n) => return Ok(n > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn turn_away(stream: &TcpStream) {
    // A fresh socket has room for a line; if not, the close tells as much.
    if let Err(error) = stream.try_write(b"-ERR max number of clients reached\r\n") {
        log::debug!("door: {error} while turning a client away");
    }
}
