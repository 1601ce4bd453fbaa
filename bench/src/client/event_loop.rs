//! The loop of one client thread: opens its connections, moves bytes, and lets `hearing` and `speaking` do the rest.
//! Level-triggered epoll, one read per wake, one buffer for all. Started and ended by `shared::Client`.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::connection::{Connection, Role, State};
use super::hearing::{Ear, show};
use super::joining::{Joining, hear_joining};
use super::plan::Speakers;
use super::shared::{Counters, Outcome, Phase, Shared, count};
use super::speaking::Schedule;
use crate::sys::{self, Event, Poller};
use crate::wire::{self, Masks};

/// Room for what several hundred messages left in one socket.
const READ_BYTES: usize = 512 * 1024;
/// Wakes taken at once; the schedule is looked at between two batches of them.
const EVENTS_MAX: usize = 1024;

/// One client thread.
pub(super) struct EventLoop<'a> {
    pub(super) shared: &'a Shared,
    pub(super) thread: usize,
    pub(super) poller: Poller,
    pub(super) connections: Vec<Connection>,
    pub(super) opened: usize,
    pub(super) on_their_way: usize,
    schedule: Schedule,
    pub(super) masks: Masks,
    outcome: Outcome,
    buffer: Vec<u8>,
    /// For building what is sent.
    pub(super) frame: Vec<u8>,
}

impl<'a> EventLoop<'a> {
    pub fn new(shared: &'a Shared, thread: usize) -> io::Result<Self> {
        let mut new = Self {
            shared,
            thread,
            poller: Poller::new(EVENTS_MAX)?,
            connections: vec![],
            opened: 0,
            on_their_way: 0,
            schedule: Schedule::new(),
            masks: Masks::new(sys::monotonic_ns() ^ ((thread as u64) << 56)),
            outcome: Outcome::default(),
            buffer: vec![0; READ_BYTES],
            frame: vec![],
        };
        new.deal();
        Ok(new)
    }

    /// Takes this thread's share of the plan: listeners of every room, and the speakers of whole rooms, so that a
    /// room's window is kept by one thread.
    fn deal(&mut self) {
        let (plan, threads) = (&self.shared.plan, self.shared.plan.threads);
        let pusher = match plan.speakers {
            Speakers::Queue(_) if self.thread == 0 => {
                self.connections.push(Connection::new(Role::Pusher, plan.joining(), 0, 0));
                true
            }
            _ => false,
        };
        for room in 0..plan.rooms {
            let host = room % threads;
            let mut speaking = vec![];
            for member in 0..plan.members() {
                let number = room * plan.members() + member;
                let speaks = match plan.speakers {
                    Speakers::Members => true,
                    Speakers::OneApart => member == plan.listeners,
                    Speakers::Nobody | Speakers::Queue(_) => false,
                };
                let owner = if speaks { host } else { number % threads };
                if owner != self.thread {
                    continue;
                }
                if speaks {
                    speaking.push(self.connections.len());
                }
                let mut connection = Connection::new(Role::Member, number, room, plan.publishers_per_room());
                connection.stalls = member < plan.stalled_in(room);
                self.connections.push(connection);
            }
            if pusher {
                speaking.push(0);
            }
            if !speaking.is_empty() {
                self.schedule.add_room(plan, room, speaking.into_iter());
            }
        }
    }

    /// Runs until the phase is `Stop`.
    pub fn run(mut self) -> io::Result<Outcome> {
        sys::sharpen_timers();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut phase = Phase::Connect;
        loop {
            let entered = self.shared.phase();
            if entered != phase {
                phase = entered;
                self.enter(phase)?;
            }
            if phase == Phase::Stop {
                return Ok(self.sum_up());
            }
            self.open_more()?;
            let sleep_ns = if phase == Phase::Speak { self.speak() } else { 2_000_000 };
            self.poller.wait(&mut events, sleep_ns)?;
            for event in &events {
                self.on_event(*event)?;
            }
        }
    }

    fn enter(&mut self, phase: Phase) -> io::Result<()> {
        match phase {
            Phase::Speak => {
                self.schedule.start(&self.shared.plan, self.thread, sys::monotonic_ns());
                self.pause_stalled(true)
            }
            Phase::Resume => self.pause_stalled(false),
            _ => Ok(()),
        }
    }

    fn pause_stalled(&mut self, pause: bool) -> io::Result<()> {
        for (token, connection) in self.connections.iter_mut().enumerate() {
            let Some(stream) = connection.stream.as_ref().filter(|_| connection.stalls) else {
                continue;
            };
            connection.paused = pause;
            match pause {
                true => self.poller.remove(stream)?,
                false => self.poller.add(stream, token, sys::READ)?,
            }
        }
        Ok(())
    }

    pub(super) fn counters(&self) -> &'a Counters {
        &self.shared.counters[self.thread]
    }

    fn speak(&mut self) -> u64 {
        let Self { schedule, connections, masks, frame, poller, shared, thread, .. } = self;
        let unanswered_max = match &shared.plan.speakers {
            Speakers::Queue(door) => door.unanswered_max,
            _ => u32::MAX,
        };
        let mut pushed = false;
        let sleep_ns = schedule.speak(shared, *thread, sys::monotonic_ns(), |utterance| {
            let connection = &mut connections[utterance.connection];
            if connection.state != State::Ready || connection.unanswered >= unanswered_max {
                return false;
            }
            if connection.role == Role::Pusher {
                // A pipeline leaves in one write at the end of the turn.
                connection.outbox.extend_from_slice(utterance.text);
                connection.unanswered += 1;
                pushed = true;
                return true;
            }
            frame.clear();
            wire::client_frame(frame, wire::TEXT, utterance.text, masks.draw());
            connection.write(frame);
            arm(poller, connection, utterance.connection);
            true
        });
        if pushed {
            connections[0].flush();
            arm(poller, &mut connections[0], 0);
        }
        sleep_ns
    }

    fn on_event(&mut self, event: Event) -> io::Result<()> {
        let token = event.token;
        if event.writable() {
            self.on_space(token)?;
        }
        let connection = &self.connections[token];
        if !event.readable() || connection.paused || connection.stream.is_none() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.connections[token].read(&mut buffer) {
            Ok(None) => {}
            Ok(Some(0)) => self.on_gone(token, "the server closed the connection"),
            Ok(Some(length)) => self.on_bytes(token, &buffer[..length]),
            Err(error) => self.on_gone(token, &error.to_string()),
        }
        self.buffer = buffer;
        Ok(())
    }

    /// A connection has ended. Before `Ready` that is a failure, after it a fault unless the listener had stalled.
    pub(super) fn on_gone(&mut self, token: usize, why: &str) {
        let connection = &mut self.connections[token];
        let counters = &self.shared.counters[self.thread];
        match connection.state {
            State::Gone => return,
            State::Ready if connection.stalls => self.outcome.stalled_closed += 1,
            State::Ready => {
                self.outcome.faults.closed += 1;
                self.shared.complain(|| format!("connection {}: {why}", connection.number));
            }
            state => {
                count(&counters.failed, 1);
                let unread = show(&connection.inbox);
                self.shared.complain(|| format!("while {state:?}: {why}; unread: {unread}"));
            }
        }
        if connection.on_its_way() {
            self.on_their_way -= 1;
        }
        // Dropping the stream closes it, which also takes it out of the epoll set.
        connection.stream = None;
        connection.state = State::Gone;
    }

    fn on_bytes(&mut self, token: usize, bytes: &[u8]) {
        count(&self.counters().reads, 1);
        count(&self.counters().bytes, bytes.len() as u64);
        if self.connections[token].inbox.is_empty() {
            let used = self.take(token, bytes);
            self.connections[token].inbox.extend_from_slice(&bytes[used..]);
            return;
        }
        let mut inbox = std::mem::take(&mut self.connections[token].inbox);
        inbox.extend_from_slice(bytes);
        let used = self.take(token, &inbox);
        inbox.drain(..used);
        self.connections[token].inbox = inbox;
    }

    /// Takes whole frames (or answers) from `bytes`; returns how many bytes it used.
    fn take(&mut self, token: usize, bytes: &[u8]) -> usize {
        if self.connections[token].role == Role::Pusher {
            return self.take_answers(token, bytes);
        }
        let mut used = 0;
        if self.connections[token].state == State::Upgrading {
            match wire::upgrade_answer(bytes) {
                Ok(None) => return 0,
                Ok(Some(length)) => used = length,
                Err(why) => {
                    self.on_gone(token, &why);
                    return bytes.len();
                }
            }
            self.join(token);
        }
        let mut ear = Ear {
            shared: self.shared,
            outcome: &mut self.outcome,
            now_ns: sys::monotonic_ns(),
            delivered: 0,
        };
        let connection = &mut self.connections[token];
        let mut ready = false;
        let mut ended = None;
        while let Some(frame) = wire::next_frame(&bytes[used..]) {
            let body = &bytes[used + frame.body_start..used + frame.end];
            used += frame.end;
            match frame.opcode {
                wire::CLOSE => {
                    ended = Some(close_reason(body));
                    break;
                }
                wire::PING => {
                    self.frame.clear();
                    wire::client_frame(&mut self.frame, wire::PONG, body, self.masks.draw());
                    connection.write(&self.frame);
                    arm(&self.poller, connection, token);
                }
                wire::PONG => {}
                _ if connection.state == State::Ready || ready => ear.hear(connection, body),
                _ => match hear_joining(body) {
                    Joining::Wait => {}
                    Joining::Live => ready = true,
                    Joining::Refused(why) => ended = Some(why),
                },
            }
        }
        if ear.delivered > 0 {
            // What a stalled listener reads after the speaking belongs to no window.
            if !connection.stalls {
                self.shared.rooms[connection.room].delivered.fetch_add(ear.delivered, Relaxed);
                count(&self.shared.counters[self.thread].delivered, ear.delivered);
            }
        }
        if ready {
            self.on_ready(token);
        }
        if let Some(why) = ended {
            self.on_gone(token, &why);
            return bytes.len();
        }
        used
    }

    /// RESP answers: `:7` for a push that was taken, `-ERR …` for one that was not.
    fn take_answers(&mut self, token: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(length) = memchr::memmem::find(&bytes[used..], b"\r\n") {
            let answer = &bytes[used..used + length];
            used += length + 2;
            self.connections[token].unanswered = self.connections[token].unanswered.saturating_sub(1);
            match answer.first() {
                Some(b':') => self.outcome.acknowledged += 1,
                _ => {
                    self.outcome.faults.refused += 1;
                    self.shared.complain(|| show(answer));
                }
            }
        }
        used
    }

    /// Closes the books: what each listener should have heard and did not.
    fn sum_up(mut self) -> Outcome {
        let plan = &self.shared.plan;
        for connection in self.connections.iter().filter(|connection| connection.role == Role::Member) {
            let first = connection.room * plan.publishers_per_room();
            for (place, track) in connection.tracks.iter().enumerate() {
                // One that was closed for being slow has to have a whole beginning; the others need all.
                let cut_off = connection.stalls && connection.state == State::Gone;
                self.outcome.faults.lost += match cut_off {
                    true => track.missing_inside(),
                    false => track.missing(self.shared.sent[first + place].load(Relaxed)),
                };
            }
        }
        self.outcome.lag_max_ns = self.schedule.lag_max_ns;
        self.outcome
    }
}

fn close_reason(body: &[u8]) -> String {
    match body {
        [high, low, text @ ..] => format!("closed with {} {}", u16::from_be_bytes([*high, *low]), show(text)),
        _ => "closed without a code".to_owned(),
    }
}

/// Lets epoll wake for space exactly while something waits to be sent.
pub(super) fn arm(poller: &Poller, connection: &mut Connection, token: usize) {
    let wanted = !connection.outbox.is_empty();
    let Some(stream) = connection.stream.as_ref().filter(|_| connection.wants_space != wanted) else {
        return;
    };
    let bits = if wanted { sys::READ | sys::WRITE } else { sys::READ };
    // A connection taken out of the set (a stalled one) is armed again when it comes back.
    if poller.change(stream, token, bits).is_ok() {
        connection.wants_space = wanted;
    }
}
