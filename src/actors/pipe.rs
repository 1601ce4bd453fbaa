//! The link of a session that has no socket of its own, because an HTTP answer carries what it is sent. The hub writes
//! frames to it as it writes them to a socket, and is told "not now" as by a socket; so outboxes, limits, pings and
//! endings are the same for all sessions. What becomes of a frame says its [`Shape`]: an event of a stream, a line of a
//! poll, an answer to a request. Made by the transports, which hold the other end. Knows no HTTP.
//!
//! Invariant: it takes whole frames only, so that what a shape has been given can always be sent.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::actors::outbox::Sink;
use crate::protocols::websocket::frame::{Opcode, frame_len, payload_of};

/// What becomes of the frames that are written to a pipe.
pub trait Shape {
    /// Takes a line of the protocol.
    fn line(&mut self, line: &[u8]);
    /// Takes a ping: something is to be sent, whatever it is.
    fn ping(&mut self) {}
    /// Nothing more will come.
    fn end(&mut self) {}
    /// Shows lines that the other end has not taken, oldest first, until `look` says that it has found one.
    fn find_held(&self, _look: &mut dyn FnMut(&[u8]) -> bool) {}
    /// Bytes that the other end has not taken. Once there are [`Shape::held_max`], nothing more is taken.
    fn held(&self) -> usize;
    /// The limit of [`Shape::held`], in bytes. One line more may be taken than fits.
    fn held_max(&self) -> usize;
    /// Whether the session is over as soon as its last frame is written; else when the other end is let go.
    fn ends_with_last_frame(&self) -> bool;
}

#[derive(Default)]
struct State {
    /// Nothing more will be written.
    ended: bool,
    /// Nothing more will be taken.
    gone: bool,
    /// The task of the other end.
    taker: Option<Waker>,
    /// The task of the session.
    session: Option<Waker>,
}

struct Shared<S: ?Sized> {
    state: RefCell<State>,
    shape: RefCell<S>,
}

/// The end that a connection writes to.
pub struct Pipe(Rc<Shared<dyn Shape>>);

/// The other end. When it is dropped, the session's link is broken.
pub struct Outlet<S: Shape>(Rc<Shared<S>>);

/// Both ends of a pipe.
pub fn pipe<S: Shape + 'static>(shape: S) -> (Pipe, Outlet<S>) {
    let shared = Rc::new(Shared { state: RefCell::default(), shape: RefCell::new(shape) });
    (Pipe(shared.clone()), Outlet(shared))
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

impl Pipe {
    /// Takes whole frames from the front as far as the shape has room; how many bytes they had.
    fn take(&self, frames: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.borrow_mut();
        if state.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut shape = self.0.shape.borrow_mut();
        let mut at = 0;
        while at < frames.len() && shape.held() < shape.held_max() {
            let frame = &frames[at..];
            let frame = &frame[..frame_len(frame).expect("an outbox holds whole frames of our own")];
            at += frame.len();
            match frame[0] & 0x0f {
                opcode if opcode == Opcode::Text as u8 => shape.line(payload_of(frame)),
                opcode if opcode == Opcode::Ping as u8 => shape.ping(),
                opcode if opcode == Opcode::Close as u8 => {
                    state.ended = true;
                    shape.end();
                }
                // Binary is for raw paths, and there a session has a socket.
                _ => {}
            }
        }
        let taker = state.taker.take();
        let session = if state.ended { state.session.take() } else { None };
        drop((state, shape));
        taker.into_iter().chain(session).for_each(Waker::wake);
        match at {
            0 if !frames.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            at => Ok(at),
        }
    }

    /// What `find` makes of the first line that it knows, among those that the other end has not taken.
    pub fn find_held<T>(&self, mut find: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let mut found = None;
        self.0.shape.borrow().find_held(&mut |line| {
            found = find(line);
            found.is_some()
        });
        found
    }

    /// Ready when it takes frames again, or never will.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state.borrow_mut();
        let shape = self.0.shape.borrow();
        if state.gone || shape.held() < shape.held_max() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut state.session, cx);
        Poll::Pending
    }

    /// Ready when the session is over.
    pub fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state.borrow_mut();
        if state.gone || state.ended && self.0.shape.borrow().ends_with_last_frame() {
            return Poll::Ready(());
        }
        remember(&mut state.session, cx);
        Poll::Pending
    }

    /// Nothing more will be written.
    pub fn end(&self) {
        let mut state = self.0.state.borrow_mut();
        state.ended = true;
        self.0.shape.borrow_mut().end();
        let taker = state.taker.take();
        drop(state);
        taker.into_iter().for_each(Waker::wake);
    }
}

impl Sink for Pipe {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for slice in slices {
            match self.take(slice) {
                Ok(n) if n < slice.len() => return Ok(written + n),
                Ok(n) => written += n,
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.borrow();
        f.debug_struct("Pipe").field("ended", &state.ended).field("gone", &state.gone).finish()
    }
}

impl<S: Shape> Outlet<S> {
    /// What the shape has been given.
    pub fn shape(&self) -> RefMut<'_, S> {
        self.0.shape.borrow_mut()
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.0.state.borrow().ended
    }

    /// Something was taken out of the shape: the session may go on.
    pub fn taken(&self) {
        let session = self.0.state.borrow_mut().session.take();
        session.into_iter().for_each(Waker::wake);
    }

    /// Wakes this task at the next frame, and at the end.
    pub fn wake_at_next(&self, cx: &Context<'_>) {
        remember(&mut self.0.state.borrow_mut().taker, cx);
    }
}

impl<S: Shape> Drop for Outlet<S> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.gone = true;
        let session = state.session.take();
        drop(state);
        session.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocols::websocket::frame::{encode_close, encode_frame, encode_ping};

    #[derive(Default)]
    struct Lines {
        list: Vec<String>,
        pings: usize,
    }

    impl Shape for Lines {
        fn line(&mut self, line: &[u8]) {
            self.list.push(String::from_utf8(line.to_vec()).unwrap());
        }

        fn ping(&mut self) {
            self.pings += 1;
        }

        fn held(&self) -> usize {
            self.list.iter().map(String::len).sum()
        }

        fn held_max(&self) -> usize {
            8
        }

        fn ends_with_last_frame(&self) -> bool {
            false
        }
    }

    fn frames(lines: &[&str]) -> BytesMut {
        let mut out = BytesMut::new();
        for line in lines {
            encode_frame(&mut out, Opcode::Text, line.as_bytes());
        }
        out
    }

    #[test]
    fn it_takes_whole_frames_until_it_is_full_and_goes_on_when_something_is_taken() {
        let (pipe, outlet) = pipe(Lines::default());
        let all = frames(&["one", "two", "three", "four"]);
        let n = pipe.try_write(&all).unwrap();
        assert_eq!(
            (&*outlet.shape().list, &all[n..]),
            (&["one", "two", "three"].map(str::to_owned)[..], &frames(&["four"])[..])
        );
        assert_eq!(pipe.try_write(&all[n..]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let cx = Context::from_waker(Waker::noop());
        assert!(pipe.poll_ready(&cx).is_pending());
        outlet.shape().list.clear();
        assert!(pipe.poll_ready(&cx).is_ready());
        let (one, two) = all.split_at(n);
        let slices = [IoSlice::new(two), IoSlice::new(one)];
        assert_eq!(
            pipe.try_write_vectored(&slices).unwrap(),
            two.len() + 10,
            "four, one and two, and then it is full"
        );
    }

    #[test]
    fn pings_and_the_end_come_through() {
        let (pipe, outlet) = pipe(Lines::default());
        let mut all = BytesMut::new();
        encode_ping(&mut all, &[]);
        encode_close(&mut all, 4200, "restart");
        assert_eq!(pipe.try_write(&all).unwrap(), all.len());
        assert!(outlet.has_ended());
        assert_eq!(outlet.shape().pings, 1);
        assert!(
            pipe.poll_end(&Context::from_waker(Waker::noop())).is_pending(),
            "the last word is not taken yet"
        );
        drop(outlet);
        assert!(pipe.poll_end(&Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(pipe.try_write(&all).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn who_drops_the_pipe_ends_the_stream() {
        let (pipe, outlet) = pipe(Lines::default());
        assert!(!outlet.has_ended());
        drop(pipe);
        assert!(outlet.has_ended());
    }
}
