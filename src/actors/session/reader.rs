//! The reading side of a connection as a stream for its session: waits for bytes, for the kernel to take
//! more, and for what the hub has to tell.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use super::READ_BUFFER;
use crate::actors::connection::Life;
use crate::actors::hub::{Core, SharedConnection};

/// Most bytes of a replay that may wait while the client is listened to. Its requests can so come while it
/// catches up, each between two pieces.
const REPLAY_WAITING_MAX: usize = 64 << 10;

/// What the reader hands to the session.
#[derive(Debug)]
pub enum Heard {
    /// So many bytes in the thread's read buffer.
    Bytes(usize),
    /// The link broke.
    Broken(std::io::Error),
    /// The session's alarm has rung.
    Alarm,
    /// The hub has closed the connection.
    Closed,
}

/// Reads one connection.
pub(super) struct Reader {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) connection: SharedConnection,
}

impl Reader {
    /// Writes on where the kernel had refused bytes, as far as it takes them now.
    fn write_on(&self, cx: &mut Context<'_>) {
        loop {
            {
                let mut connection = self.connection.borrow_mut();
                if connection.life == Life::Dead || !connection.outbox.is_blocked() {
                    return;
                }
                match connection.poll_write_ready(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        connection.life = Life::Dead;
                        return;
                    }
                }
            }
            self.core.borrow_mut().writable(&self.connection);
        }
    }

    /// A client that does not read its answers is not listened to, nor one whose letters are not dealt with.
    ///
    /// This bounds what a client can make us hold: while it is listened to, at most half an outbox of answers
    /// and [`REPLAY_WAITING_MAX`] of a replay wait for it; on top come the answers to the two letters that
    /// it may have under way, which the outbox's limit and the size of a room's history bound.
    fn must_wait(&self) -> bool {
        let connection = self.connection.borrow();
        if !connection.is_open() {
            return false;
        }
        let outbox_full = match connection.raw {
            true => connection.outbox.own_bytes() > 0,
            false => {
                let half = self.core.borrow().limits().outbox_bytes / 2;
                connection.outbox.replay_bytes() > REPLAY_WAITING_MAX
                    || connection.outbox.behind_bytes() > half
            }
        };
        outbox_full || connection.is_ending() || !connection.may_send_letter()
    }
}

impl Stream for Reader {
    type Item = Heard;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        self.connection.borrow_mut().set_reader(cx.waker());
        self.write_on(cx);
        {
            let mut connection = self.connection.borrow_mut();
            if std::mem::take(&mut connection.nudges.closed) {
                return Poll::Ready(Some(Heard::Closed));
            }
            if connection.life == Life::Dead {
                return Poll::Ready(None);
            }
            if std::mem::take(&mut connection.nudges.alarm) {
                return Poll::Ready(Some(Heard::Alarm));
            }
        }
        if self.must_wait() {
            return Poll::Pending;
        }
        let read = READ_BUFFER.with_borrow_mut(|buffer| self.connection.borrow_mut().poll_read(cx, buffer));
        match ready!(read) {
            Ok(0) => Poll::Ready(None),
            Ok(n) => Poll::Ready(Some(Heard::Bytes(n))),
            Err(error) => {
                self.connection.borrow_mut().life = Life::Dead;
                Poll::Ready(Some(Heard::Broken(error)))
            }
        }
    }
}
