//! The sockets of a thread: their places, their outboxes, and the one write of a turn.

use std::cell::RefCell;
use std::rc::Rc;

use super::{BATCH_BYTES_MAX, Core, SharedConnection, Slot, track};
use crate::actors::connection::{Connection, Life, Link};
use crate::actors::letters::{ConnectionId, Report};
use crate::actors::outbox::Sent;

impl Core {
    /// Gives a link its place.
    pub fn attach(&mut self, link: impl Into<Link>, raw: bool) -> SharedConnection {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let generation = self.slots[slot as usize].generation;
        let id = ConnectionId { worker: self.worker, slot, generation };
        let now = self.began.elapsed().as_millis() as u64;
        let mut connection = Connection::new(id, link.into(), raw, now);
        if !raw {
            connection.ping_at_ms = now + self.limits.ping_ms;
            self.look_by(&mut connection, now + self.limits.ping_ms);
        }
        let connection = Rc::new(RefCell::new(connection));
        self.slots[slot as usize].connection = Some(connection.clone());
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

    /// Adds a frame for one connection; it leaves at the end of this turn.
    pub fn send(&mut self, connection: &SharedConnection, frame: &[u8]) {
        self.stage(connection, frame, 1);
        self.wake_flusher();
    }

    pub(super) fn stage(&mut self, connection: &SharedConnection, frames: &[u8], count: u32) {
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
    pub(super) fn list(&mut self, connection: &mut Connection) {
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

    pub(super) fn count_write_through(&mut self, connection: &mut Connection, sent: &Sent) {
        self.count(sent);
        if connection.outbox.is_blocked() {
            self.tally.waiting += connection.outbox.frames();
            self.tally.outbox_bytes += connection.outbox.own_bytes() as u64;
            self.wait_for_socket(connection);
        }
    }

    pub(super) fn count(&mut self, sent: &Sent) {
        self.tally.delivered += sent.frames;
        self.tally.bytes_out += sent.bytes;
        self.tally.writes += sent.writes;
    }

    /// The kernel takes no more: the reader's task waits for it, the wheel for the end of patience.
    pub(super) fn wait_for_socket(&mut self, connection: &mut Connection) {
        connection.wake();
        let due = connection.stuck_since_ms().unwrap_or(0) + self.limits.outbox_age_ms;
        self.look_by(connection, due);
    }

    pub(super) fn write_listed(&mut self) {
        for slot in std::mem::take(&mut self.listed) {
            let Some(connection) = self.slots[slot as usize].connection.clone() else {
                continue;
            };
            let mut connection = connection.borrow_mut();
            connection.listed = false;
            self.write_connection(&mut connection);
        }
    }

    pub(super) fn write_connection(&mut self, connection: &mut Connection) {
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
            Ok(sent) => {
                self.count(&sent);
                if connection.is_open() {
                    let drained = Report::Drained { connection: connection.id };
                    self.reports.extend((0..sent.marks).map(|_| drained));
                }
            }
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
        if !self.reports.is_empty() {
            self.wake_flusher();
        }
    }
}
