//! The chat server: all rooms of this node, who is in them, and the four events. Everything said, by
//! whomever, comes here as a letter, gets its place in its room, is encoded once and goes to the hubs.
//! Sessions, queues and the API send it letters; it sends letters to hubs only, one per hub and turn.
//!
//! Invariant: it never waits and never touches a socket, so a room's order is the order of this mailbox.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ahash::RandomState;

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use tokio::sync::oneshot;

use crate::actors::events::{self, Incoming, Verdict};
use crate::actors::letters::{
    Bury, Closed, ConnectionId, Depart, Drain, Erase, Failed, Finish, FromEngine, FromHub, FromService,
    Hello, LookAt, Open, OpenRaw, Order, PublishBatch, RawMessage, Said, SaidRaw, ToHub, TraceEntry, Turn,
};
use crate::chat::dedup::IdKeys;
use crate::chat::message::{Accepted, Offset, Refused};
use crate::chat::names::{RoomName, UserName};
use crate::chat::overview::View;
use crate::chat::permission::Identity;
use crate::chat::rooms::{self as chat_rooms, RoomKey, Rooms};
use crate::chat::rulebook::Rulebook;
use crate::chat::settings::RoomsSettings;
use crate::chat::trace::{Traced, Wire};
use crate::clock;
use crate::engines::engine::{EngineSays, Opened};
use crate::engines::shared;
use crate::forwards::memory::MemoryExit;
use crate::metrics::Metrics;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::websocket::frame::{Opcode, encode_frame, payload_of};
use crate::store::record::{Cursor, Happened, Lsn, Record};
use crate::traces::Span;

use altering::Erasing;
use behind::{Behind, Fed};
use keeping::{Keeping, Then};
use tracing::Traces;
use work::{Desk, Work};

mod ahead;
mod altering;
mod arriving;
mod asking;
mod behind;
mod coming;
mod cursors;
mod fetching;
mod keeping;
mod looking;
mod moderating;
mod peers;
mod proposing;
mod restoring;
mod saying;
mod spreading;
mod state;
mod telling;
mod tracing;
mod work;

pub use keeping::StoreHealth;
pub use telling::{Tap, Telling};

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
    /// Whether what was said can be searched.
    pub searchable: bool,
    /// Where copies of entries leave, when nothing but this process keeps the rooms.
    pub exit: Option<MemoryExit>,
    /// This node's name.
    pub node: String,
}

/// What is to keep the rooms, not started yet.
pub enum Opening {
    /// A store of this node's own.
    Store(Opened),
    /// A service that several nodes share.
    Service(shared::Start),
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
    Session {
        identity: Arc<Identity>,
        rooms: SmallVec<[Membership; 1]>,
        /// Its name: what another connection goes on with.
        name: u64,
        /// Listed to have its cursors kept.
        noted: bool,
        /// What it has asked and not got; none while nothing is.
        desk: Option<Box<Desk>>,
        /// Rooms that it goes on with and is not in again yet.
        returning: Option<Returning>,
        /// By which wire it hears.
        wire: Wire,
    },
    /// A connection on a raw path.
    Raw { handler: usize, uri: Box<str> },
}

impl Seat {
    fn session(identity: Arc<Identity>, wire: Wire) -> Seat {
        Seat::Session {
            identity,
            rooms: SmallVec::new(),
            name: rand::random(),
            noted: false,
            desk: None,
            returning: None,
            wire,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    room: RoomKey,
    quiet: bool,
    /// The number of the letter that made it a live member at its hub.
    stay: u32,
    /// Its application has everything up to here.
    got: Offset,
    /// The first offset that it was to get; 1 if it came with all before.
    since: Offset,
    /// How far it has said itself that it has everything; 0 while it has not.
    ack: Offset,
}

/// Rooms that a session is on its way into. Most have none, so it costs a pointer.
type Returning = Box<[Cursor]>;

/// The place that an entry gets.
struct Place {
    accepted: Accepted,
    lsn: Lsn,
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
    /// What waits to be kept.
    keeping: Keeping,
    /// Starts the engine, once this actor has an address.
    opened: Option<Opening>,
    /// What waits for the store.
    work: Work,
    /// Members that are not live, and who of them is being fed, in order.
    behind: HashMap<(ConnectionId, RoomKey), Behind, RandomState>,
    feeding: HashMap<ConnectionId, VecDeque<Fed>, RandomState>,
    /// Where sessions are, by name; those that have been in a room.
    by_name: HashMap<u64, ConnectionId, RandomState>,
    unkept_sessions: VecDeque<ConnectionId>,
    unkept_reads: HashMap<(RoomName, UserName), Offset, RandomState>,
    /// Rooms with another number of sessions than the other nodes know of.
    uncounted: HashMap<RoomName, u32, RandomState>,
    /// Rooms that have not been told how far their members have got.
    receipts: BTreeSet<RoomKey>,
    /// Readers who have seen more than this node.
    ahead: Vec<ahead::Ahead>,
    /// What a backend is told; none when there is no backend to tell.
    telling: Option<Telling>,
    /// What operators have ordered about rooms, and when it was last looked for what is over.
    rulebook: Rulebook,
    rules_swept: u64,
    /// What is remembered of entries and of who has left.
    traces: Traces,
    line: Vec<u8>,
}

impl ChatServer {
    /// A chat server without rooms and hubs. With an engine, what it has not put into its archive yet is
    /// restored; without one, rooms live in memory.
    pub fn new(
        settings: ChatSettings,
        handlers: Handlers,
        metrics: Arc<Metrics>,
        opened: Option<Opening>,
        health: Arc<StoreHealth>,
    ) -> ChatServer {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let (next, behind) = match &opened {
            None => (1, chat_rooms::Behind::Nothing),
            Some(Opening::Store(opened)) => (opened.next, chat_rooms::Behind::Store),
            Some(Opening::Service(_)) => (1, chat_rooms::Behind::Service),
        };
        let mut chat = ChatServer {
            rooms: Rooms::new(settings.rooms.clone(), settings.rooms_max, epoch, behind),
            settings,
            handlers,
            keys: IdKeys::default(),
            names: RandomState::new(),
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
            keeping: Keeping::new(next, health),
            opened,
            work: Work::default(),
            behind: HashMap::default(),
            feeding: HashMap::default(),
            by_name: HashMap::default(),
            unkept_sessions: VecDeque::new(),
            unkept_reads: HashMap::default(),
            uncounted: HashMap::default(),
            receipts: BTreeSet::new(),
            ahead: Vec::new(),
            telling: None,
            rulebook: Rulebook::default(),
            rules_swept: clock::steady_ms(),
            traces: Traces::default(),
            line: Vec::new(),
        };
        chat.restore();
        chat
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
            let (frames, span) = (frame.clone(), Span::default());
            self.mail(worker, ToHub::Deliver { room, frames, count: 1, last, except, span });
        }
    }

    /// Sends each hub what this turn has for it.
    fn end_turn(&mut self) {
        self.tell_presence();
        self.tell_counts();
        self.keeping.end_turn();
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
        counters.unkept.set(self.keeping.waiting() as u64);
        counters.behind.set(self.behind.len() as u64);
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

/// The line in a frame, without a copy.
fn line_of(frame: &Bytes) -> Bytes {
    frame.slice_ref(payload_of(frame))
}

/// The inbox of a user; none if her name is too long for a room's.
fn inbox_of(user: &UserName) -> Option<RoomName> {
    RoomName::new(&format!("@{}", user.as_str())).ok()
}

impl Actor for ChatServer {
    type Context = actix::Context<ChatServer>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(TurnEnd);
        self.start_engine(&ctx.address());
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
        // Answered as the other letters are: when everything that was asked is done.
        self.take_letter(connection, Vec::new());
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
        self.take_letter(said.connection, said.asks);
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
        self.tell_backend(failed.connection, || Happened::Failed(failed.error.as_str().into()));
        self.call(&peer, raw, |handler, effects| handler.on_error(&peer, &failed.error, effects));
    }
}

impl Handler<Closed> for ChatServer {
    type Result = ();

    fn handle(&mut self, closed: Closed, _: &mut Self::Context) {
        self.gone(closed.connection, closed.code, tracing::why_of(closed.code));
    }
}

impl Handler<FromHub> for ChatServer {
    type Result = ();

    fn handle(&mut self, letter: FromHub, _: &mut Self::Context) {
        for report in letter.0 {
            self.reported(report);
        }
    }
}

impl Handler<FromEngine> for ChatServer {
    type Result = ();

    fn handle(&mut self, letter: FromEngine, _: &mut Self::Context) {
        match letter.0 {
            EngineSays::Kept { upto } => self.kept(upto),
            EngineSays::Failed { from, why } => self.not_kept(from, &why),
            EngineSays::Healed => self.healed(),
            EngineSays::Answered { ticket, answers } => self.answered(ticket, answers),
            EngineSays::ArchiveFails(why) => self.keeping.note_archive(why),
            EngineSays::Archived { upto } => self.rooms.note_archived(upto),
            EngineSays::Forgotten(rooms) => {
                for (name, first) in rooms {
                    if let Some(key) = self.rooms.find(&name) {
                        self.rooms.forget_to(key, first);
                    }
                }
            }
        }
    }
}

impl Handler<FromService> for ChatServer {
    type Result = ();

    fn handle(&mut self, letter: FromService, _: &mut Self::Context) {
        self.service_says(letter.0);
    }
}

impl Handler<PublishBatch> for ChatServer {
    type Result = ResponseFuture<Vec<Result<Accepted, Refused>>>;

    fn handle(&mut self, batch: PublishBatch, _: &mut Self::Context) -> Self::Result {
        let (reply, answers) = oneshot::channel();
        let n = batch.0.len();
        self.take_batch(batch.0, batch.1, reply);
        // Without an answer the chat server is gone, and the process with it.
        Box::pin(async move { answers.await.unwrap_or_else(|_| vec![Err(Refused::Draining); n]) })
    }
}

impl Handler<Bury> for ChatServer {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, bury: Bury, _: &mut Self::Context) -> Self::Result {
        if !self.keeping.lasts() || self.keeping.may_keep().is_err() {
            return Box::pin(std::future::ready(false));
        }
        if self.keeping.is_shared() {
            return Box::pin(std::future::ready(false));
        }
        for letter in bury.0 {
            self.keeping.record(Record::Dead(letter), false);
        }
        let (done, kept) = oneshot::channel();
        self.when_kept(Then::Finish(done));
        Box::pin(async move { kept.await.unwrap_or(false) })
    }
}

impl Handler<Finish> for ChatServer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Finish, _: &mut Self::Context) -> Self::Result {
        self.keep_cursors(true);
        let (done, kept) = oneshot::channel();
        self.when_kept(Then::Finish(done));
        Box::pin(async move {
            if !kept.await.unwrap_or(false) {
                log::warn!("store: read marks and cursors of the last moment could not be kept");
            }
        })
    }
}

impl Handler<Depart> for ChatServer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Depart, _: &mut Self::Context) -> Self::Result {
        let (done, gone) = oneshot::channel();
        self.depart(done);
        // An error: the engine has ended by itself.
        Box::pin(async move { gone.await.unwrap_or_default() })
    }
}

impl Handler<Order> for ChatServer {
    type Result = ();

    fn handle(&mut self, order: Order, _: &mut Self::Context) {
        for command in order.0 {
            self.command(command);
        }
    }
}

impl Handler<Erase> for ChatServer {
    type Result = ResponseFuture<Result<Accepted, Problem>>;

    fn handle(&mut self, what: Erase, _: &mut Self::Context) -> Self::Result {
        let (reply, place) = oneshot::channel();
        self.erase(Erasing { what, reply });
        Box::pin(async move { place.await.unwrap_or_else(|_| Err(Problem::draining())) })
    }
}

impl Handler<LookAt> for ChatServer {
    type Result = ResponseFuture<Result<View, Problem>>;

    fn handle(&mut self, LookAt(look): LookAt, _: &mut Self::Context) -> Self::Result {
        let (reply, view) = oneshot::channel();
        self.look(look, reply);
        Box::pin(async move { view.await.unwrap_or_else(|_| Err(Problem::draining())) })
    }
}

impl Handler<TraceEntry> for ChatServer {
    type Result = ResponseFuture<Result<Traced, Problem>>;

    fn handle(&mut self, TraceEntry(asked): TraceEntry, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.trace(asked))
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
