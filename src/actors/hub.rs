//! The hub of one worker thread: who of this thread is in which room, and the only one who writes to
//! their sockets. A message for a room comes as one letter and is written to every local member as the
//! same bytes; what comes within one turn of the loop leaves as one write per socket.
//! The chat server sends it letters; sessions of the same thread call [`Core`] directly. It knows frames
//! only as bytes.
//!
//! A member of a room is live or behind. Who reads too slowly for a room that does not close slow readers is
//! behind: its lane is cut, nothing of the room is put on its way any more, and the chat server, which is
//! told so, leads it on at its own pace and makes it live again.
//!
//! Invariant: a live member gets the frames of a room in the order of the letters, none twice and none left
//! out, from the letter that made it live to the one that ended it or to the report that it is behind.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::Bytes;

use crate::actors::connection::Connection;
use crate::actors::letters::{ConnectionId, FromHub, Report, Sighting, ToHub, Turn};
use crate::actors::wheel::{TICK_MS, Wheel};
use crate::chat::message::Offset;
use crate::chat::rooms::RoomKey;
use crate::chat::settings::SlowReader;
use crate::metrics::WorkerCounters;
use crate::traces::Span;

use lateness::Lateness;

mod clock;
mod endings;
mod lanes;
mod lateness;
mod rooms;
mod sights;
mod sockets;
#[cfg(test)]
mod tests;

/// Largest batch of one room, in bytes; above it the room is flushed within the turn.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Steps of giving out that are noted at the same time.
const SPANS_MAX: usize = 1_024;
/// Members written to before others get their turn.
const SLICE_MEMBERS: usize = 512;
/// Largest replay that is copied into the outbox; a larger one is shared with the room's history.
const REPLAY_COPY_MAX: usize = 16 << 10;
/// How long a closing connection may take, in milliseconds.
const CLOSE_MS: u64 = 5_000;
/// How long a client may leave its side open after both close frames, in milliseconds.
const SHUT_MS: u64 = 1_000;

/// Stands for a close frame without a code (RFC 6455, section 7.1.5).
const NO_CODE: u16 = 1005;

/// How a connection is told that it ends.
#[derive(Debug, Clone, Copy)]
struct Farewell {
    /// Whether `bye` goes before the close frame.
    last_word: bool,
    /// Whether nothing more is expected of the client.
    peer_done: bool,
}

const POLITE: Farewell = Farewell { last_word: true, peer_done: false };

/// A connection as the hub and the session share it.
pub type SharedConnection = Rc<RefCell<Connection>>;

/// What the hub holds its connections to.
#[derive(Debug, Clone, Copy)]
pub struct HubLimits {
    /// Most bytes waiting for one socket.
    pub outbox_bytes: usize,
    /// Longest that a frame may wait for its socket, in milliseconds.
    pub outbox_age_ms: u64,
    /// Pause between two pings, in milliseconds.
    pub ping_ms: u64,
}

/// The actor: takes the letters, hands them to the core.
pub struct Hub {
    core: Rc<RefCell<Core>>,
    queued: Arc<AtomicUsize>,
    chat: Recipient<FromHub>,
    lateness: Lateness,
}

impl Hub {
    /// A hub around the core of this thread. `queued` counts the bytes of letters under way to it; to `chat`
    /// it reports.
    pub fn new(core: Rc<RefCell<Core>>, queued: Arc<AtomicUsize>, chat: Recipient<FromHub>) -> Hub {
        Hub { core, queued, chat, lateness: Lateness::default() }
    }
}

impl Actor for Hub {
    type Context = actix::Context<Hub>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Flusher(self.core.clone()));
        const TICK: Duration = Duration::from_millis(TICK_MS);
        ctx.run_interval(TICK, |hub, _| {
            let late_us = hub.lateness.beat(Instant::now(), TICK);
            let mut core = hub.core.borrow_mut();
            core.counters.loop_late_us.set(late_us);
            core.tick();
        });
    }
}

impl Handler<Turn> for Hub {
    type Result = ();

    fn handle(&mut self, turn: Turn, _: &mut Self::Context) {
        let mut core = self.core.borrow_mut();
        let mut bytes = 0;
        for item in turn.0 {
            bytes += item.bytes();
            core.carry_out(item);
        }
        self.queued.fetch_sub(bytes, Relaxed);
    }
}

impl ToHub {
    /// What the letter costs while it is under way, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            ToHub::Deliver { frames, .. } => frames.len(),
            ToHub::Direct { frame, .. } => frame.len(),
            ToHub::Feed { frames, .. } => frames.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }
}

/// A future that is never done: whenever the hub's task runs, it is polled after the mailbox is empty. An
/// idle hub so writes at once, and a busy one writes what came during its last turn in one go.
struct Flusher(Rc<RefCell<Core>>);

impl ActorFuture<Hub> for Flusher {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        hub: &mut Hub,
        _: &mut actix::Context<Hub>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut core = self.0.borrow_mut();
        core.remember_flusher(cx.waker());
        if core.flush() {
            cx.waker().wake_by_ref();
        }
        let reports = core.take_reports();
        if !reports.is_empty() {
            // The chat server ends only with the process.
            hub.chat.do_send(FromHub(reports));
        }
        Poll::Pending
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<SharedConnection>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    slot: u32,
    /// Bytes and frames at the front of the batch that are not for this member, and the offsets that lie
    /// between the one before the batch and the last that it has.
    skip: u32,
    skip_frames: u32,
    skip_offsets: u32,
}

/// The local side of a room: its live members on this thread and what this turn has for them.
#[derive(Debug, Default)]
struct LocalRoom {
    members: Vec<Member>,
    batch: Vec<u8>,
    frames: u32,
    dirty: bool,
    /// Whether slow readers fall behind instead of being closed.
    cuts: bool,
    /// Offset of the last logged entry that was delivered, up to the end of the batch.
    last: Offset,
    /// The same, up to the beginning of the batch.
    before: Offset,
    /// Boxed, because only large rooms ever have one.
    under_way: Option<Box<UnderWay>>,
}

/// A batch that is being written to a large room slice by slice.
#[derive(Debug)]
struct UnderWay {
    batch: Vec<u8>,
    frames: u32,
    before: Offset,
    next: usize,
    end: usize,
}

/// Frames that go to a room together.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    frames: &'a [u8],
    count: u32,
    /// Offset of the last logged entry among them; 0 for none.
    last: Offset,
}

/// How a connection becomes a live member of a room.
#[derive(Debug, Clone, Copy)]
struct Entrance {
    room: RoomKey,
    stay: u32,
    after: Offset,
    slow: SlowReader,
}

/// A look at a connection that was put on the wheel. It counts only while it is the last one that was put
/// there for that connection.
#[derive(Debug, Clone, Copy)]
struct Due {
    slot: u32,
    generation: u32,
    at_ms: u64,
}

/// What is counted in a turn; published to the metrics at its end.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    delivered: u64,
    waiting: u64,
    dropped_slow: u64,
    dropped_closed: u64,
    writes: u64,
    bytes_out: u64,
    outbox_bytes: u64,
    pings: u64,
    lanes_cut: u64,
}

/// The state of a hub, shared with the sessions of its thread.
pub struct Core {
    worker: u16,
    slots: Vec<Slot>,
    free: Vec<u32>,
    rooms: Vec<LocalRoom>,
    dirty: Vec<RoomKey>,
    listed: Vec<u32>,
    leaving: Vec<u32>,
    spare: Vec<Vec<u8>>,
    /// Steps of giving out that are noted: they end when everything is written.
    spans: Vec<Span>,
    /// What the chat server hears at the end of the turn.
    reports: Vec<Report>,
    /// What is asked about connections, until what this turn has for them is written.
    sightings: Vec<Sighting>,
    wheel: Wheel<Due>,
    limits: HubLimits,
    tally: Tally,
    counters: Arc<WorkerCounters>,
    began: Instant,
    /// The time at the last flush: near enough for how long frames wait, and not asked for each member.
    turn_ms: u64,
    flusher: Option<Waker>,
}

impl Core {
    /// The core of worker number `worker`.
    pub fn new(worker: u16, limits: HubLimits, counters: Arc<WorkerCounters>) -> Core {
        Core {
            worker,
            slots: Vec::new(),
            free: Vec::new(),
            rooms: Vec::new(),
            dirty: Vec::new(),
            listed: Vec::new(),
            leaving: Vec::new(),
            spare: Vec::new(),
            spans: Vec::new(),
            reports: Vec::new(),
            sightings: Vec::new(),
            wheel: Wheel::new(0),
            limits,
            tally: Tally::default(),
            counters,
            began: Instant::now(),
            turn_ms: 0,
            flusher: None,
        }
    }

    /// Milliseconds since the hub began.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// What connections are held to.
    pub fn limits(&self) -> HubLimits {
        self.limits
    }

    /// The counters of this worker.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn remember_flusher(&mut self, waker: &Waker) {
        if !self.flusher.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.flusher = Some(waker.clone());
        }
    }

    fn wake_flusher(&self) {
        if let Some(waker) = &self.flusher {
            waker.wake_by_ref();
        }
    }

    fn find(&self, id: ConnectionId) -> Option<SharedConnection> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.connection.clone()
    }

    fn carry_out(&mut self, item: ToHub) {
        match item {
            ToHub::Deliver { room, frames, count, last, except, span } => {
                self.deliver(room, Run { frames: &frames, count, last }, except);
                if span.is_on() {
                    self.spans.push(span);
                }
            }
            ToHub::Joined { connection, room, stay, frames, after, slow } => {
                self.join(connection, Entrance { room, stay, after, slow }, &frames);
            }
            ToHub::Feed { connection, frames } => self.feed(connection, frames),
            ToHub::Watch { connection } => self.feed(connection, Vec::new()),
            ToHub::Left { connection, room } => {
                if let Some(connection) = self.find(connection) {
                    self.leave(&connection, room);
                }
            }
            ToHub::Direct { connection, frame } => match self.find(connection) {
                Some(connection) => self.stage(&connection, &frame, 1),
                None => {
                    self.tally.accepted += 1;
                    self.tally.dropped_closed += 1;
                }
            },
            ToHub::Done(connection) => {
                if let Some(connection) = self.find(connection) {
                    self.letter_done(&connection);
                }
            }
            ToHub::Close { connection, goodbye } => {
                if let Some(connection) = self.find(connection) {
                    self.close(&connection, goodbye);
                }
            }
            ToHub::CloseAll => self.close_all(),
            ToHub::Forget(room) => {
                debug_assert!(self.room(room).members.is_empty(), "the chat server says first who has left");
                self.empty(room);
            }
            ToHub::Sight(sighting) => self.sightings.push(*sighting),
        }
    }

    /// Writes out what this turn has gathered. Returns whether more is left for the next turn.
    fn flush(&mut self) -> bool {
        let dirty = std::mem::take(&mut self.dirty);
        let mut left = Vec::new();
        self.turn_ms = self.now_ms();
        for key in dirty {
            // A room whose batch was full has been written within the turn and may be listed twice.
            if self.rooms[key.0 as usize].dirty && !self.write_room(key, SLICE_MEMBERS) {
                left.push(key);
            }
        }
        left.append(&mut self.dirty);
        self.dirty = left;
        self.write_listed();
        for slot in std::mem::take(&mut self.leaving) {
            if let Some(connection) = self.slots[slot as usize].connection.clone()
                && !connection.borrow().is_open()
            {
                self.leave_all(&connection);
            }
        }
        self.answer_sightings();
        self.publish_tally();
        let is_more = !self.dirty.is_empty() || !self.listed.is_empty();
        // Under a load that never ends the steps that are noted end all the same.
        if !is_more || self.spans.len() > SPANS_MAX {
            self.spans.clear();
        }
        is_more
    }

    /// What the turn has to report.
    fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    fn publish_tally(&mut self) {
        let counters = &self.counters;
        let tally = std::mem::take(&mut self.tally);
        counters.deliveries_accepted.add(tally.accepted);
        counters.deliveries_delivered.add(tally.delivered);
        counters.deliveries_waiting.set(tally.waiting);
        counters.deliveries_dropped_slow.add(tally.dropped_slow);
        counters.deliveries_dropped_closed.add(tally.dropped_closed);
        counters.socket_writes.add(tally.writes);
        counters.socket_bytes_out.add(tally.bytes_out);
        counters.outbox_bytes.set(tally.outbox_bytes);
        counters.pings_sent.add(tally.pings);
        counters.lanes_cut.add(tally.lanes_cut);
        self.tally = Tally { waiting: tally.waiting, outbox_bytes: tally.outbox_bytes, ..Tally::default() };
    }
}

/// Does something to an outbox and carries the difference of what waits there into the tally.
fn track<T>(tally: &mut Tally, connection: &mut Connection, change: impl FnOnce(&mut Connection) -> T) -> T {
    let (frames, bytes) = (connection.outbox.frames(), connection.outbox.own_bytes() as u64);
    let result = change(connection);
    tally.waiting = tally.waiting + connection.outbox.frames() - frames;
    tally.outbox_bytes = tally.outbox_bytes + connection.outbox.own_bytes() as u64 - bytes;
    result
}
