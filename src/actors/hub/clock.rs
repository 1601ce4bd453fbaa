//! What is due by the clock: pings, silence, frames that have waited too long, alarms of sessions.

use bytes::BytesMut;

use super::{Core, Due, POLITE, SharedConnection, track};
use crate::actors::connection::{Connection, Life};
use crate::actors::wheel::TICK_MS;
use crate::protocols::codes::Goodbye;
use crate::protocols::websocket::frame::encode_ping;

impl Core {
    /// Sets when the session is nudged next.
    pub fn set_alarm(&mut self, connection: &SharedConnection, at_ms: u64) {
        let mut connection = connection.borrow_mut();
        connection.alarm_at_ms = at_ms;
        self.look_by(&mut connection, at_ms);
    }

    /// Sees to it that a connection is looked at by then. There is one valid entry on the wheel for each.
    pub(super) fn look_by(&mut self, connection: &mut Connection, at_ms: u64) {
        if connection.due_ms == 0 || at_ms < connection.due_ms {
            connection.due_ms = at_ms;
            let (slot, generation) = (connection.id.slot, connection.id.generation);
            self.wheel.schedule(at_ms, Due { slot, generation, at_ms });
        }
    }

    /// Looks at everybody who has come up on the wheel.
    pub(super) fn tick(&mut self) {
        let now = self.now_ms();
        for Due { slot, generation, at_ms } in self.wheel.take_due(now) {
            let Some(place) = self.slots.get(slot as usize) else { continue };
            let Some(connection) = place.connection.clone().filter(|_| place.generation == generation) else {
                continue;
            };
            let mut connection = connection.borrow_mut();
            if connection.due_ms != at_ms {
                continue;
            }
            connection.due_ms = 0;
            if let Some(next) = self.look_at(&mut connection, now) {
                self.look_by(&mut connection, next);
            }
        }
        self.wake_flusher();
    }

    /// Does what is due for a connection; returns when to look again.
    pub(super) fn look_at(&mut self, connection: &mut Connection, now: u64) -> Option<u64> {
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
        if let Some(since) = connection.stuck_since_ms() {
            if now >= since.saturating_add(age_max) {
                self.close_slow(connection);
                return None;
            }
        } else if connection.ping_at_ms > 0 && now >= connection.ping_at_ms {
            self.ping(connection, now);
        }
        let stuck = connection.stuck_since_ms().map(|since| since.saturating_add(age_max));
        let ping = (connection.ping_at_ms > 0).then(|| connection.ping_at_ms.max(now + TICK_MS));
        let alarm = (connection.alarm_at_ms > 0).then_some(connection.alarm_at_ms);
        [stuck, ping, alarm].into_iter().flatten().min()
    }

    pub(super) fn ping(&mut self, connection: &mut Connection, now: u64) {
        let ping_ms = self.limits.ping_ms;
        // Who took bytes is there; while some wait, none is pinged and so none answers.
        let alive_ms = connection.heard_ms.max(connection.outbox.progress_ms());
        let is_silent = now.saturating_sub(alive_ms) >= ping_ms.saturating_mul(2);
        if is_silent && connection.answers_pings() {
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
}
