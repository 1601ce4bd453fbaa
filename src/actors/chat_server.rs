//! The chat server: all rooms of this node, who is in them, and the four events. Everything said, by
//! whomever, comes here as a letter, gets its place in its room, is encoded once and goes to the hubs.
//! Sessions, queues and the API send it letters; it sends letters to hubs only, one per hub and turn.
//!
//! Invariant: it never waits and never touches a socket, so a room's order is the order of this mailbox.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::actors::events::{self, Incoming, Verdict};
use crate::actors::letters::{
    Closed, ConnectionId, Drain, Failed, FromHub, Hello, Open, OpenRaw, PublishBatch, RawMessage, Report,
    Said, SaidRaw, ToHub, Turn,
};
use crate::chat::dedup::IdKeys;
use crate::chat::message::{Offset, Refused};
use crate::chat::permission::Identity;
use crate::chat::rooms::{RoomKey, Rooms};
use crate::chat::settings::RoomsSettings;
use crate::metrics::Metrics;
use crate::protocols::codes::Goodbye;
use crate::protocols::websocket::frame::{Opcode, encode_frame};

mod coming;
mod peers;
mod saying;
mod state;

/// Pause between two looks at what ends by itself.
const BEAT: Duration = Duration::from_millis(250);
/// Rooms looked at per beat for what is too old.
const TIDY_ROOMS: usize = 2_000;
/// Most bytes under way to one hub before pushes are asked to wait.
const HUB_QUEUED_MAX: usize = 64 << 20;
/// How long a refused push should wait, in milliseconds.
const BUSY_WAIT_MS: u64 = 50;
/// Sessions that a draining server closes per beat at the least.
const DRAIN_PER_BEAT_MIN: usize = 100;

/// What the chat server is told about the node.
#[derive(Debug, Clone)]
pub struct ChatSettings {
    /// The `[rooms]` table.
    pub rooms: RoomsSettings,
    /// Most rooms that may be open.
    pub rooms_max: usize,
    /// Most rooms that one session may be in.
    pub rooms_per_session: usize,
    /// Largest message, in bytes; told to clients.
    pub message_bytes: usize,
    /// Pause between pings, in milliseconds; told to clients.
    pub ping_ms: u64,
    /// Time for a polite end, in milliseconds.
    pub drain_ms: u64,
}

/// Handlers of a program's own.
#[derive(Default)]
pub struct Handlers {
    /// Watches all rooms.
    pub rooms: Option<Box<dyn events::Handler>>,
    /// Each owns a raw path.
    pub raw: Vec<Box<dyn events::Handler>>,
}

struct HubLink {
    hub: Recipient<Turn>,
    queued: Arc<AtomicUsize>,
    items: Vec<ToHub>,
}

/// What a connection is here.
enum Seat {
    /// A native session.
    Session { identity: Arc<Identity>, rooms: SmallVec<[Membership; 1]> },
    /// A connection on a raw path.
    Raw { handler: usize, uri: Box<str> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    room: RoomKey,
    quiet: bool,
    /// The number of the letter that made it a live member at its hub.
    stay: u32,
}

/// The connections of one worker, by slot.
type Seats = Vec<Option<(u32, Seat)>>;

/// The actor.
pub struct ChatServer {
    settings: ChatSettings,
    handlers: Handlers,
    rooms: Rooms,
    keys: IdKeys,
    names: ahash::RandomState,
    hubs: Vec<Option<HubLink>>,
    seats: Vec<Seats>,
    sessions: usize,
    /// Places of sessions in rooms.
    members: usize,
    /// Rooms that have not been told who came and went.
    untold: BTreeSet<RoomKey>,
    /// Rooms in which somebody is typing.
    typing: BTreeSet<RoomKey>,
    metrics: Arc<Metrics>,
    draining: Option<usize>,
    drain_hand: (usize, usize),
    /// Letters so far that made somebody a live member.
    stays: u32,
    line: Vec<u8>,
}

impl ChatServer {
    /// A chat server without rooms and hubs.
    pub fn new(settings: ChatSettings, handlers: Handlers, metrics: Arc<Metrics>) -> ChatServer {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        ChatServer {
            rooms: Rooms::new(settings.rooms.clone(), settings.rooms_max, epoch),
            settings,
            handlers,
            keys: IdKeys::default(),
            names: ahash::RandomState::new(),
            hubs: Vec::new(),
            seats: Vec::new(),
            sessions: 0,
            members: 0,
            untold: BTreeSet::new(),
            typing: BTreeSet::new(),
            metrics,
            draining: None,
            drain_hand: (0, 0),
            stays: 0,
            line: Vec::new(),
        }
    }

    fn mail(&mut self, worker: usize, item: ToHub) {
        match self.hubs.get_mut(worker) {
            Some(Some(link)) => link.items.push(item),
            _ => debug_assert!(false, "a worker says hello before its connections speak"),
        }
    }

    fn send(&mut self, to: ConnectionId, write: impl FnOnce(&mut Vec<u8>)) {
        let frame = self.frame(write);
        self.mail(to.worker.into(), ToHub::Direct { connection: to, frame });
    }

    /// Encodes one line as a WebSocket frame.
    fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.line.clear();
        write(&mut self.line);
        text_frame(&self.line)
    }

    /// `last`: the frame's offset; 0 when it has no place in the log.
    fn broadcast(&mut self, room: RoomKey, frame: &Bytes, last: Offset, except: Option<ConnectionId>) {
        for worker in self.rooms.get(room).workers() {
            self.mail(worker, ToHub::Deliver { room, frames: frame.clone(), count: 1, last, except });
        }
    }

    /// Sends each hub what this turn has for it.
    fn end_turn(&mut self) {
        self.tell_presence();
        for link in self.hubs.iter_mut().flatten() {
            if link.items.is_empty() {
                continue;
            }
            let items = std::mem::take(&mut link.items);
            link.queued.fetch_add(items.iter().map(ToHub::bytes).sum(), Relaxed);
            // The hub lives as long as its worker; when that is gone, so are the sockets of these frames.
            link.hub.do_send(Turn(items));
        }
        self.publish_counters();
    }

    fn publish_counters(&self) {
        let counters = &self.metrics.chat;
        counters.rooms.set(self.rooms.len() as u64);
        counters.sessions.set(self.sessions as u64);
        counters.members.set(self.members as u64);
        counters.history_bytes.set(self.rooms.history_bytes() as u64);
        counters.history_entries.set(self.rooms.history_entries() as u64);
        counters.dedup_ids.set(self.rooms.ids() as u64);
        counters.hub_queued_bytes.set(self.hub_queued() as u64);
    }

    fn hub_queued(&self) -> usize {
        self.hubs.iter().flatten().map(|link| link.queued.load(Relaxed)).max().unwrap_or(0)
    }
}

fn text_frame(line: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(line.len() + 10);
    encode_frame(&mut frame, Opcode::Text, line);
    frame.freeze()
}

fn frame_of(message: &RawMessage) -> Bytes {
    let (opcode, bytes) = match message {
        RawMessage::Text(bytes) => (Opcode::Text, bytes),
        RawMessage::Binary(bytes) => (Opcode::Binary, bytes),
    };
    let mut frame = BytesMut::with_capacity(bytes.len() + 10);
    encode_frame(&mut frame, opcode, bytes);
    frame.freeze()
}

/// Server time, Unix milliseconds.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Actor for ChatServer {
    type Context = actix::Context<ChatServer>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(TurnEnd);
        ctx.run_interval(BEAT, |chat, _| chat.beat());
    }
}

/// A future that is never done: polled after the mailbox is empty, it sends what the turn has produced.
struct TurnEnd;

impl ActorFuture<ChatServer> for TurnEnd {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        chat: &mut ChatServer,
        _: &mut actix::Context<ChatServer>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        chat.end_turn();
        Poll::Pending
    }
}

impl Handler<Hello> for ChatServer {
    type Result = ();

    fn handle(&mut self, hello: Hello, _: &mut Self::Context) {
        if self.hubs.len() <= hello.worker {
            self.hubs.resize_with(hello.worker + 1, || None);
        }
        self.hubs[hello.worker] = Some(HubLink { hub: hello.hub, queued: hello.queued, items: Vec::new() });
    }
}

impl Handler<Open> for ChatServer {
    type Result = ();

    fn handle(&mut self, open: Open, _: &mut Self::Context) {
        let connection = open.connection;
        self.open(open);
        self.mail(connection.worker.into(), ToHub::Done(connection));
    }
}

impl Handler<OpenRaw> for ChatServer {
    type Result = ();

    fn handle(&mut self, open: OpenRaw, _: &mut Self::Context) {
        let OpenRaw { connection, handler, uri } = open;
        self.take_seat(connection, Seat::Raw { handler, uri });
        let Some(peer) = self.peer(connection) else { return };
        let verdict = self.call(&peer, Some(handler), |handler, effects| handler.on_open(&peer, effects));
        if let Some(Verdict::Refuse(why)) = verdict {
            self.close(connection, Goodbye { code: 1008, why: why.into(), wait_ms: None });
        }
    }
}

impl Handler<Said> for ChatServer {
    type Result = ();

    fn handle(&mut self, said: Said, _: &mut Self::Context) {
        for ask in said.asks {
            // A session that was closed by one of its asks asks nothing more.
            if self.seat(said.connection).is_none() {
                break;
            }
            self.answer(said.connection, ask);
        }
        self.mail(said.connection.worker.into(), ToHub::Done(said.connection));
    }
}

impl Handler<SaidRaw> for ChatServer {
    type Result = ();

    fn handle(&mut self, said: SaidRaw, _: &mut Self::Context) {
        let connection = said.connection;
        for message in said.messages {
            let (Some(peer), Some(Seat::Raw { handler, .. })) =
                (self.peer(connection), self.seat(connection))
            else {
                break;
            };
            let incoming = match message {
                RawMessage::Text(bytes) => Incoming::Text(bytes),
                RawMessage::Binary(bytes) => Incoming::Binary(bytes),
            };
            let handler = *handler;
            let verdict = self
                .call(&peer, Some(handler), |handler, effects| handler.on_message(&peer, incoming, effects));
            if let Some(Verdict::Refuse(why)) = verdict {
                self.close(connection, Goodbye { code: 1008, why: why.into(), wait_ms: None });
            }
        }
        self.mail(connection.worker.into(), ToHub::Done(connection));
    }
}

impl Handler<Failed> for ChatServer {
    type Result = ();

    fn handle(&mut self, failed: Failed, _: &mut Self::Context) {
        let Some(peer) = self.peer(failed.connection) else {
            return;
        };
        let raw = match self.seat(failed.connection) {
            Some(Seat::Raw { handler, .. }) => Some(*handler),
            _ => None,
        };
        self.call(&peer, raw, |handler, effects| handler.on_error(&peer, &failed.error, effects));
    }
}

impl Handler<Closed> for ChatServer {
    type Result = ();

    fn handle(&mut self, closed: Closed, _: &mut Self::Context) {
        self.gone(closed.connection, closed.code);
    }
}

impl Handler<FromHub> for ChatServer {
    type Result = ();

    fn handle(&mut self, letter: FromHub, _: &mut Self::Context) {
        for report in letter.0 {
            // Nothing is fed yet, so whoever falls behind has to come back and resume.
            if let Report::Behind { connection, room, stay, .. } = report
                && self.membership(connection, room).is_some_and(|membership| membership.stay == stay)
            {
                self.close(connection, Goodbye::SLOW);
            }
        }
    }
}

impl Handler<PublishBatch> for ChatServer {
    type Result = MessageResult<PublishBatch>;

    fn handle(&mut self, batch: PublishBatch, _: &mut Self::Context) -> Self::Result {
        let mut busy = None;
        let answers = batch.0.into_iter().map(|draft| {
            // Behind one that has to wait all wait, so that their order is kept.
            if let Some(refused) = &busy {
                return Err(Refused::clone(refused));
            }
            let answer = self.moderate(None, draft);
            if let Err(refused) = &answer {
                self.count_refused(refused);
                if matches!(refused, Refused::Busy { .. } | Refused::Draining) {
                    busy = Some(refused.clone());
                }
            }
            answer
        });
        MessageResult(answers.collect())
    }
}

impl Handler<Drain> for ChatServer {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        let beats = (self.settings.drain_ms / 2 / BEAT.as_millis() as u64).max(1) as usize;
        self.draining = Some(self.sessions.div_ceil(beats).max(DRAIN_PER_BEAT_MIN));
        self.drain_some();
    }
}
