//! The hub of one worker thread: who of this thread is in which room, and the only one who writes to
//! their sockets. A message for a room comes as one letter and is written to every local member as the
//! same bytes; what comes within one turn of the loop leaves as one write per socket.
//! The chat server sends it letters; sessions of the same thread call [`Core`] directly. It knows frames
//! only as bytes.
//!
//! Invariant: a member gets the frames of a room in the order of the letters, none twice and none left
//! out, from the letter that made it a member to the one that ended it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix::fut::ActorFuture;
use actix::prelude::*;
use actix_rt::net::TcpStream;
use bytes::{Bytes, BytesMut};

use crate::actors::connection::{Connection, Ending, Life};
use crate::actors::letters::{ConnectionId, ToHub, Turn};
use crate::actors::outbox::Sent;
use crate::actors::wheel::{TICK_MS, Wheel};
use crate::chat::rooms::RoomKey;
use crate::metrics::WorkerCounters;
use crate::protocols::codes::Goodbye;
use crate::protocols::native_frames;
use crate::protocols::websocket::frame::{
    Opcode, encode_close, encode_close_without_code, encode_frame, encode_ping,
};

/// Largest batch of one room, in bytes; above it the room is flushed within the turn.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Members written to before others get their turn.
const SLICE_MEMBERS: usize = 512;
/// Largest replay that is copied into the outbox; a larger one is shared with the room's history.
const REPLAY_COPY_MAX: usize = 16 << 10;
/// How long a closing connection may take, in milliseconds.
const CLOSE_MS: u64 = 5_000;

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
}

impl Hub {
    /// A hub around the core of this thread. `queued` counts the bytes of letters under way to it.
    pub fn new(core: Rc<RefCell<Core>>, queued: Arc<AtomicUsize>) -> Hub {
        Hub { core, queued }
    }
}

impl Actor for Hub {
    type Context = actix::Context<Hub>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Flusher(self.core.clone()));
        ctx.run_interval(Duration::from_millis(TICK_MS), |hub, _| hub.core.borrow_mut().tick());
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
        _: &mut Hub,
        _: &mut actix::Context<Hub>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut core = self.0.borrow_mut();
        core.remember_flusher(cx.waker());
        if core.flush() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<SharedConnection>,
}

#[derive(Debug)]
struct Member {
    slot: u32,
    /// Bytes and frames at the front of the batch that are not for this member.
    skip: u32,
    skip_frames: u32,
}

/// The local side of a room: its members on this thread and what this turn has for them.
#[derive(Debug, Default)]
struct LocalRoom {
    members: Vec<Member>,
    batch: Vec<u8>,
    frames: u32,
    dirty: bool,
    under_way: Option<UnderWay>,
}

/// A batch that is being written to a large room slice by slice.
#[derive(Debug)]
struct UnderWay {
    batch: Vec<u8>,
    frames: u32,
    next: usize,
    end: usize,
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
    wheel: Wheel<(u32, u32)>,
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

    /// Gives a socket its place.
    pub fn attach(&mut self, socket: TcpStream, raw: bool) -> SharedConnection {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        let id = ConnectionId { worker: self.worker, slot, generation: place.generation };
        let now = self.began.elapsed().as_millis() as u64;
        let mut connection = Connection::new(id, socket, raw, now);
        if !raw {
            connection.ping_at_ms = now + self.limits.ping_ms;
            self.wheel.schedule(connection.ping_at_ms, (slot, id.generation));
        }
        let connection = Rc::new(RefCell::new(connection));
        place.connection = Some(connection.clone());
        self.counters.connections_opened.inc();
        self.counters.sessions.add(1);
        connection
    }

    /// Takes a place back. What was still on its way is dropped and counted.
    pub fn detach(&mut self, connection: &SharedConnection) {
        self.leave_all(connection);
        let mut gone = connection.borrow_mut();
        gone.life = Life::Dead;
        let cut = track(&mut self.tally, &mut gone, |gone| gone.outbox.cut());
        let left = gone.outbox.frames();
        self.tally.waiting -= left;
        self.tally.delivered += cut.sent;
        self.tally.dropped_closed += cut.dropped + left;
        self.tally.outbox_bytes -= gone.outbox.own_bytes() as u64;
        let place = &mut self.slots[gone.id.slot as usize];
        place.connection = None;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(gone.id.slot);
        self.counters.connections_closed.inc();
        self.counters.sessions.sub(1);
        self.wake_flusher();
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

    fn room(&mut self, key: RoomKey) -> &mut LocalRoom {
        let index = key.0 as usize;
        if self.rooms.len() <= index {
            self.rooms.resize_with(index + 1, LocalRoom::default);
        }
        &mut self.rooms[index]
    }

    fn carry_out(&mut self, item: ToHub) {
        match item {
            ToHub::Deliver { room, frames, count, except } => self.deliver(room, &frames, count, except),
            ToHub::Joined { connection, room, frames } => self.join(connection, room, &frames),
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
                    let ending = connection.borrow_mut().letter_done();
                    if let Some(ending) = ending {
                        self.end(&connection, ending);
                    }
                }
            }
            ToHub::Close { connection, goodbye } => {
                if let Some(connection) = self.find(connection) {
                    self.close(&connection, goodbye);
                }
            }
            ToHub::Forget(room) => {
                let room = self.room(room);
                debug_assert!(room.members.is_empty(), "a room with members is not forgotten");
                *room = LocalRoom { dirty: room.dirty, ..LocalRoom::default() };
            }
        }
    }

    fn deliver(&mut self, key: RoomKey, frames: &[u8], count: u32, except: Option<ConnectionId>) {
        if self.room(key).members.is_empty() {
            return;
        }
        if let Some(index) = except.and_then(|id| self.index_in(id, key)) {
            self.settle(key, index);
            let room = self.room(key);
            room.members[index].skip += frames.len() as u32;
            room.members[index].skip_frames += count;
        }
        let spare = if self.room(key).batch.capacity() == 0 { self.spare.pop() } else { None };
        let room = self.room(key);
        if let Some(buffer) = spare {
            room.batch = buffer;
        }
        room.batch.extend_from_slice(frames);
        room.frames += count;
        let full = room.batch.len() > BATCH_BYTES_MAX;
        if !room.dirty {
            room.dirty = true;
            self.dirty.push(key);
        }
        if full {
            self.write_room(key, usize::MAX);
            self.write_listed();
        }
    }

    /// The index of a connection of this thread among the members of a room.
    fn index_in(&self, id: ConnectionId, key: RoomKey) -> Option<usize> {
        if id.worker != self.worker {
            return None;
        }
        let connection = self.find(id)?;
        let connection = connection.borrow();
        connection.rooms.iter().find(|(room, _)| *room == key).map(|(_, index)| *index as usize)
    }

    fn join(&mut self, id: ConnectionId, key: RoomKey, frames: &[Bytes]) {
        let Some(connection) = self.find(id) else {
            self.tally.accepted += frames.len() as u64;
            self.tally.dropped_closed += frames.len() as u64;
            return;
        };
        match self.index_in(id, key) {
            // Again in the same room: first what it still has to hear as a member.
            Some(index) => self.settle(key, index),
            None if connection.borrow().is_open() => {
                let room = self.room(key);
                let index = room.members.len() as u32;
                let (skip, skip_frames) = (room.batch.len() as u32, room.frames);
                room.members.push(Member { slot: id.slot, skip, skip_frames });
                connection.borrow_mut().rooms.push((key, index));
            }
            None => {}
        }
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if bytes <= REPLAY_COPY_MAX {
            for frame in frames {
                self.stage(&connection, frame, 1);
            }
            return;
        }
        let now = self.now_ms();
        let mut open = connection.borrow_mut();
        self.tally.accepted += frames.len() as u64;
        if !open.is_open() {
            self.tally.dropped_closed += frames.len() as u64;
            return;
        }
        track(&mut self.tally, &mut open, |open| open.outbox.stage_replay(frames.iter().cloned(), now));
        self.list(&mut open);
    }

    /// Gives one member what the batch holds for it so far, so that it gets what follows only. A batch that is
    /// under way is finished first.
    fn settle(&mut self, key: RoomKey, index: usize) {
        self.finish_under_way(key);
        let room = &mut self.rooms[key.0 as usize];
        let member = &mut room.members[index];
        let (from, frames) = (member.skip as usize, room.frames - member.skip_frames);
        member.skip = room.batch.len() as u32;
        member.skip_frames = room.frames;
        let slot = member.slot;
        if frames == 0 {
            return;
        }
        let connection = self.slots[slot as usize].connection.clone().expect("a member is connected");
        let mut connection = connection.borrow_mut();
        self.tally.accepted += u64::from(frames);
        if !connection.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return;
        }
        let Core { rooms, spare, tally, .. } = self;
        let part = &rooms[key.0 as usize].batch[from..];
        track(tally, &mut connection, |open| {
            open.outbox.stage(part, frames, || spare.pop().unwrap_or_default())
        });
        self.list(&mut connection);
    }

    fn leave(&mut self, connection: &SharedConnection, key: RoomKey) {
        let (id, at) = {
            let open = connection.borrow();
            (open.id, open.rooms.iter().position(|(room, _)| *room == key))
        };
        let Some(at) = at else { return };
        let index = self.index_in(id, key).expect("its list of rooms has it");
        self.settle(key, index);
        connection.borrow_mut().rooms.swap_remove(at);
        let room = &mut self.rooms[key.0 as usize];
        room.members.swap_remove(index);
        let Some(moved) = room.members.get(index) else {
            return;
        };
        let moved = self.slots[moved.slot as usize].connection.clone().expect("a member is connected");
        for (room, place) in &mut moved.borrow_mut().rooms {
            if *room == key {
                *place = index as u32;
            }
        }
    }

    fn leave_all(&mut self, connection: &SharedConnection) {
        loop {
            let Some((key, _)) = connection.borrow().rooms.last().copied() else {
                return;
            };
            self.leave(connection, key);
        }
    }

    /// Adds a frame for one connection; it leaves at the end of this turn.
    pub fn send(&mut self, connection: &SharedConnection, frame: &[u8]) {
        self.stage(connection, frame, 1);
        self.wake_flusher();
    }

    fn stage(&mut self, connection: &SharedConnection, frames: &[u8], count: u32) {
        let mut open = connection.borrow_mut();
        self.tally.accepted += u64::from(count);
        if !open.is_open() {
            self.tally.dropped_closed += u64::from(count);
            return;
        }
        let Core { spare, tally, .. } = self;
        track(tally, &mut open, |open| open.outbox.stage(frames, count, || spare.pop().unwrap_or_default()));
        self.list(&mut open);
    }

    /// Lists a connection for the next flush; one that holds much already is written to now, one that is over
    /// its limit is closed.
    fn list(&mut self, connection: &mut Connection) {
        if !connection.listed {
            connection.listed = true;
            self.listed.push(connection.id.slot);
        }
        if connection.outbox.is_blocked() {
            let held = connection.outbox.behind_bytes() + connection.outbox.staged_bytes();
            if held > self.limits.outbox_bytes {
                self.close_slow(connection);
            }
        } else if connection.outbox.staged_bytes() > BATCH_BYTES_MAX {
            self.write_connection(connection);
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
        self.publish_tally();
        !self.dirty.is_empty() || !self.listed.is_empty()
    }

    /// Writes a room's batch to at most so many members. Returns whether nothing is left.
    fn write_room(&mut self, key: RoomKey, members_max: usize) -> bool {
        let room = &mut self.rooms[key.0 as usize];
        if room.under_way.is_none() {
            let spare = self.spare.pop().unwrap_or_default();
            let batch = std::mem::replace(&mut room.batch, spare);
            let frames = std::mem::take(&mut room.frames);
            room.under_way = Some(UnderWay { batch, frames, next: 0, end: room.members.len() });
        }
        let Some(mut job) = room.under_way.take() else {
            return true;
        };
        let stop = job.end.min(job.next.saturating_add(members_max));
        let mut shared: Option<Bytes> = None;
        for index in job.next..stop {
            self.write_member(key, index, &job, &mut shared);
        }
        job.next = stop;
        let room = &mut self.rooms[key.0 as usize];
        if job.next < job.end {
            room.under_way = Some(job);
            return false;
        }
        job.batch.clear();
        if job.batch.capacity() <= BATCH_BYTES_MAX {
            self.spare.push(job.batch);
        }
        let room = &mut self.rooms[key.0 as usize];
        if room.batch.is_empty() {
            let buffer = std::mem::take(&mut room.batch);
            room.dirty = false;
            if buffer.capacity() > 0 && buffer.capacity() <= BATCH_BYTES_MAX {
                self.spare.push(buffer);
            }
            self.spare.truncate(64);
            return true;
        }
        false
    }

    fn finish_under_way(&mut self, key: RoomKey) {
        if self.rooms[key.0 as usize].under_way.is_some() {
            // What remains dirty is found again by the next flush, as the room is still in the list.
            self.write_room(key, usize::MAX);
        }
    }

    /// Gives one member its part of a batch: straight to the socket where nothing else waits for it.
    fn write_member(&mut self, key: RoomKey, index: usize, job: &UnderWay, shared: &mut Option<Bytes>) {
        let member = &mut self.rooms[key.0 as usize].members[index];
        let (skip, skip_frames) = (member.skip as usize, member.skip_frames);
        (member.skip, member.skip_frames) = (0, 0);
        let slot = member.slot;
        let frames = job.frames - skip_frames;
        if frames == 0 {
            return;
        }
        let part = &job.batch[skip..];
        let Some(connection) = self.slots[slot as usize].connection.clone() else {
            return;
        };
        let mut open = connection.borrow_mut();
        self.tally.accepted += u64::from(frames);
        if !open.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return;
        }
        if open.rooms.len() == 1 && open.outbox.is_empty() {
            let now = self.turn_ms;
            let all = &job.batch;
            let kept = || shared.get_or_insert_with(|| Bytes::copy_from_slice(all)).slice(skip..);
            let (socket, outbox) = open.parts();
            match outbox.write_through(socket, part, frames, now, kept) {
                Ok(Some(sent)) => self.count_write_through(&mut open, &sent),
                Ok(None) => unreachable!("the outbox is empty"),
                Err(_) => {
                    self.tally.dropped_closed += u64::from(frames);
                    self.give_up(&mut open);
                }
            }
            return;
        }
        let Core { spare, tally, .. } = self;
        track(tally, &mut open, |open| open.outbox.stage(part, frames, || spare.pop().unwrap_or_default()));
        self.list(&mut open);
    }

    fn count_write_through(&mut self, connection: &mut Connection, sent: &Sent) {
        self.count(sent);
        if connection.outbox.is_blocked() {
            self.tally.waiting += connection.outbox.frames();
            self.tally.outbox_bytes += connection.outbox.own_bytes() as u64;
            self.wait_for_socket(connection);
        }
    }

    fn count(&mut self, sent: &Sent) {
        self.tally.delivered += sent.frames;
        self.tally.bytes_out += sent.bytes;
        self.tally.writes += sent.writes;
    }

    /// The kernel takes no more: the reader's task waits for it, the wheel for the end of patience.
    fn wait_for_socket(&mut self, connection: &mut Connection) {
        connection.wake();
        let due = connection.outbox.stuck_since_ms().unwrap_or(0) + self.limits.outbox_age_ms;
        self.wheel.schedule(due, (connection.id.slot, connection.id.generation));
    }

    fn write_listed(&mut self) {
        for slot in std::mem::take(&mut self.listed) {
            let Some(connection) = self.slots[slot as usize].connection.clone() else {
                continue;
            };
            let mut connection = connection.borrow_mut();
            connection.listed = false;
            self.write_connection(&mut connection);
        }
    }

    fn write_connection(&mut self, connection: &mut Connection) {
        if connection.life == Life::Dead {
            return;
        }
        let now = self.now_ms();
        let was_blocked = connection.outbox.is_blocked();
        let Core { tally, spare, .. } = self;
        let result = track(tally, connection, |connection| {
            let (socket, outbox) = connection.parts();
            outbox.flush(socket, now, spare)
        });
        match result {
            Ok(sent) => self.count(&sent),
            Err(_) => return self.give_up(connection),
        }
        if connection.outbox.is_blocked() && !was_blocked {
            self.wait_for_socket(connection);
        }
        self.shut_when_done(connection);
    }

    /// The reader's task says that the kernel takes bytes again.
    pub fn writable(&mut self, connection: &SharedConnection) {
        let mut connection = connection.borrow_mut();
        connection.outbox.unblock();
        self.write_connection(&mut connection);
        self.publish_tally();
    }

    /// Closes a connection politely: what is on its way, `bye`, a close frame.
    pub fn close(&mut self, connection: &SharedConnection, goodbye: Goodbye) {
        let mut open = connection.borrow_mut();
        if open.is_open() {
            self.say_goodbye(&mut open, goodbye, POLITE);
        }
        drop(open);
        self.wake_flusher();
    }

    /// Ends a connection from the client's side once its letters are dealt with, so that what it said before
    /// is still answered.
    pub fn end_after_letters(&mut self, connection: &SharedConnection, ending: Ending) {
        let ending = connection.borrow_mut().end_after_letters(ending);
        if let Some(ending) = ending {
            self.end(connection, ending);
        }
    }

    /// Answers the client's close frame, or ends a connection that broke the rules of WebSocket: nothing more
    /// is expected of the client.
    fn end(&mut self, connection: &SharedConnection, ending: Ending) {
        let mut open = connection.borrow_mut();
        if let Life::Closing { peer_done, .. } = &mut open.life {
            *peer_done = true;
            self.shut_when_done(&mut open);
        } else if open.is_open() {
            let (code, why) = match ending {
                Ending::ByClient(code) => (code.unwrap_or(NO_CODE), ""),
                Ending::ByFault(code, why) => (code, why),
            };
            let goodbye = Goodbye { code, why: why.into(), wait_ms: None };
            let last_word = matches!(ending, Ending::ByFault(..));
            self.say_goodbye(&mut open, goodbye, Farewell { last_word, peer_done: true });
        }
        drop(open);
        self.wake_flusher();
    }

    /// The link is gone: nothing can be sent any more.
    pub fn give_up(&mut self, connection: &mut Connection) {
        connection.life = Life::Dead;
        self.leaving.push(connection.id.slot);
        connection.wake();
    }

    fn close_slow(&mut self, connection: &mut Connection) {
        let cut = track(&mut self.tally, connection, |connection| connection.outbox.cut());
        self.tally.delivered += cut.sent;
        self.tally.dropped_slow += cut.dropped;
        self.say_goodbye(connection, Goodbye::SLOW, POLITE);
    }

    fn say_goodbye(&mut self, connection: &mut Connection, goodbye: Goodbye, farewell: Farewell) {
        let mut last = BytesMut::with_capacity(256);
        let mut frames = 1;
        if !connection.raw && farewell.last_word {
            let mut line = Vec::with_capacity(96);
            native_frames::bye(&mut line, &goodbye);
            encode_frame(&mut last, Opcode::Text, &line);
            frames += 1;
        }
        match goodbye.code {
            NO_CODE => encode_close_without_code(&mut last),
            code => encode_close(&mut last, code, &goodbye.why),
        }
        self.tally.accepted += frames;
        let Core { tally, spare, .. } = self;
        track(tally, connection, |open| {
            open.outbox.stage(&last, frames as u32, || spare.pop().unwrap_or_default());
        });
        if !connection.listed {
            connection.listed = true;
            self.listed.push(connection.id.slot);
        }
        connection.life =
            Life::Closing { goodbye: Box::new(goodbye), peer_done: farewell.peer_done, shut: false };
        connection.give_up_at_ms = self.now_ms() + CLOSE_MS;
        self.wheel.schedule(connection.give_up_at_ms, (connection.id.slot, connection.id.generation));
        self.leaving.push(connection.id.slot);
        connection.nudges.closed = true;
        connection.wake();
    }

    fn shut_when_done(&mut self, connection: &mut Connection) {
        if !connection.outbox.is_empty() {
            return;
        }
        let Life::Closing { peer_done: true, shut: false, goodbye } = connection.life.clone() else {
            return;
        };
        connection.life = Life::Closing { peer_done: true, shut: true, goodbye };
        if connection.shut().is_err() {
            self.give_up(connection);
        }
    }

    /// Sets when the session is nudged next.
    pub fn set_alarm(&mut self, connection: &SharedConnection, at_ms: u64) {
        let mut connection = connection.borrow_mut();
        connection.alarm_at_ms = at_ms;
        self.wheel.schedule(at_ms, (connection.id.slot, connection.id.generation));
    }

    /// Looks at everybody who has come up on the wheel.
    fn tick(&mut self) {
        let now = self.now_ms();
        for (slot, generation) in self.wheel.take_due(now) {
            let Some(place) = self.slots.get(slot as usize) else {
                continue;
            };
            if place.generation != generation {
                continue;
            }
            let Some(connection) = place.connection.clone() else {
                continue;
            };
            let next = self.look_at(&mut connection.borrow_mut(), now);
            if let Some(next) = next {
                self.wheel.schedule(next, (slot, generation));
            }
        }
        self.wake_flusher();
    }

    /// Does what is due for a connection; returns when to look again.
    fn look_at(&mut self, connection: &mut Connection, now: u64) -> Option<u64> {
        if connection.life == Life::Dead {
            return None;
        }
        if connection.give_up_at_ms > 0 {
            if now >= connection.give_up_at_ms {
                self.give_up(connection);
                return None;
            }
            return Some(connection.give_up_at_ms);
        }
        if connection.alarm_at_ms > 0 && now >= connection.alarm_at_ms {
            connection.alarm_at_ms = 0;
            connection.nudges.alarm = true;
            connection.wake();
        }
        let age_max = self.limits.outbox_age_ms;
        if let Some(since) = connection.outbox.stuck_since_ms() {
            if now >= since.saturating_add(age_max) {
                self.close_slow(connection);
                return None;
            }
        } else if connection.ping_at_ms > 0 && now >= connection.ping_at_ms {
            self.ping(connection, now);
        }
        let stuck = connection.outbox.stuck_since_ms().map(|since| since.saturating_add(age_max));
        let ping = (connection.ping_at_ms > 0).then(|| connection.ping_at_ms.max(now + TICK_MS));
        let alarm = (connection.alarm_at_ms > 0).then_some(connection.alarm_at_ms);
        [stuck, ping, alarm].into_iter().flatten().min()
    }

    fn ping(&mut self, connection: &mut Connection, now: u64) {
        let ping_ms = self.limits.ping_ms;
        if now.saturating_sub(connection.heard_ms) >= ping_ms.saturating_mul(2) {
            return self.say_goodbye(connection, Goodbye::NO_PONG, POLITE);
        }
        let mut frame = BytesMut::with_capacity(2);
        encode_ping(&mut frame, &[]);
        self.tally.accepted += 1;
        self.tally.pings += 1;
        let Core { spare, tally, .. } = self;
        track(tally, connection, |open| open.outbox.stage(&frame, 1, || spare.pop().unwrap_or_default()));
        self.list(connection);
        connection.ping_at_ms = now + ping_ms;
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
