//! How connections end: politely, by the client, too slow, or broken.

use bytes::BytesMut;

use super::{CLOSE_MS, Core, Farewell, NO_CODE, POLITE, SHUT_MS, SharedConnection, track};
use crate::actors::connection::{Connection, Ending, Life};
use crate::protocols::codes::Goodbye;
use crate::protocols::native_frames;
use crate::protocols::websocket::frame::{Opcode, encode_close, encode_close_without_code, encode_frame};

/// When clients come back that had not said who they are, in milliseconds.
const CLOSE_ALL_WAIT_MS: u64 = 1_000;

impl Core {
    /// Closes a connection politely: what is on its way, `bye`, a close frame.
    pub fn close(&mut self, connection: &SharedConnection, goodbye: Goodbye) {
        let mut open = connection.borrow_mut();
        if open.is_open() {
            self.say_goodbye(&mut open, goodbye, POLITE);
        }
        drop(open);
        self.wake_flusher();
    }

    /// Closes whoever is still open: the server stops.
    pub(super) fn close_all(&mut self) {
        let all: Vec<_> = self.slots.iter().filter_map(|slot| slot.connection.clone()).collect();
        for connection in all {
            let raw = connection.borrow().raw;
            let restart = Goodbye::restart(CLOSE_ALL_WAIT_MS);
            self.close(
                &connection,
                if raw { Goodbye { code: 1001, wait_ms: None, ..restart } } else { restart },
            );
        }
    }

    /// Ends a connection from the client's side once its letters are dealt with, so that what it said before
    /// is still answered.
    pub fn end_after_letters(&mut self, connection: &SharedConnection, ending: Ending) {
        let ending = connection.borrow_mut().end_after_letters(ending);
        if let Some(ending) = ending {
            self.end(connection, ending);
        }
    }

    /// A letter of a session is dealt with: it may read on, and what has waited for its last letter is carried out.
    pub fn letter_done(&mut self, connection: &SharedConnection) {
        let ending = connection.borrow_mut().letter_done();
        if let Some(ending) = ending {
            self.end(connection, ending);
        }
    }

    /// Answers the client's close frame, or ends a connection that broke the rules of WebSocket: nothing more
    /// is expected of the client.
    pub(super) fn end(&mut self, connection: &SharedConnection, ending: Ending) {
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

    pub(super) fn close_slow(&mut self, connection: &mut Connection) {
        let cut = track(&mut self.tally, connection, |connection| connection.outbox.cut());
        self.tally.delivered += cut.sent;
        self.tally.dropped_slow += cut.dropped;
        self.say_goodbye(connection, Goodbye::SLOW, POLITE);
    }

    pub(super) fn say_goodbye(&mut self, connection: &mut Connection, goodbye: Goodbye, farewell: Farewell) {
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
        self.look_by(connection, connection.give_up_at_ms);
        self.leaving.push(connection.id.slot);
        connection.nudges.closed = true;
        connection.wake();
    }

    pub(super) fn shut_when_done(&mut self, connection: &mut Connection) {
        if !connection.outbox.is_empty() {
            return;
        }
        let Life::Closing { peer_done: true, shut: false, goodbye } = connection.life.clone() else {
            return;
        };
        connection.life = Life::Closing { peer_done: true, shut: true, goodbye };
        if connection.shut().is_err() {
            return self.give_up(connection);
        }
        // RFC 6455, 7.1.1: the server may close first. A moment is left for the client to read what was sent.
        connection.give_up_at_ms = connection.give_up_at_ms.min(self.now_ms() + SHUT_MS);
        self.look_by(connection, connection.give_up_at_ms);
    }
}
