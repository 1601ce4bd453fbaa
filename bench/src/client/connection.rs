//! One connection of the client side: its socket, its buffers and what it has heard so far. Owned by one event loop,
//! which moves it from state to state. Knows how to read and write without waiting; knows no schedule.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::tally::Track;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not opened yet.
    Waiting,
    Dialing,
    Upgrading,
    /// `join` is sent; `live` has not come.
    Joining,
    Ready,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Joins a room and hears it; may speak there as well.
    Member,
    /// Speaks RESP to a queue; joins nothing.
    Pusher,
}

pub struct Connection {
    pub stream: Option<TcpStream>,
    pub state: State,
    pub role: Role,
    /// Number over all threads; names the user and the source address.
    pub number: usize,
    pub room: usize,
    /// Will stop reading when the speaking begins.
    pub stalls: bool,
    /// Does not read at the moment.
    pub paused: bool,
    /// True while epoll also wakes for space to write.
    pub wants_space: bool,
    /// The start of a frame whose end has not come.
    pub inbox: Vec<u8>,
    /// What the kernel did not take yet.
    pub outbox: Vec<u8>,
    /// Newest offset heard, 0 before the first.
    pub offset: u64,
    /// One for each publisher of the room.
    pub tracks: Box<[Track]>,
    /// Pushes without an answer (role `Pusher`).
    pub unanswered: u32,
}

impl Connection {
    pub fn new(role: Role, number: usize, room: usize, publishers: usize) -> Self {
        Self {
            stream: None,
            state: State::Waiting,
            role,
            number,
            room,
            stalls: false,
            paused: false,
            wants_space: false,
            inbox: vec![],
            outbox: vec![],
            offset: 0,
            tracks: vec![Track::default(); publishers].into_boxed_slice(),
            unanswered: 0,
        }
    }

    /// True between the first packet and `Ready`.
    pub fn on_its_way(&self) -> bool {
        matches!(self.state, State::Dialing | State::Upgrading | State::Joining)
    }

    /// Reads what is there. `None`: nothing yet. `Some(0)`: the other side has closed.
    pub fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(mut stream) = self.stream.as_ref() else {
            return Ok(None);
        };
        match stream.read(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends `bytes` behind what already waits; what the kernel refuses stays in the outbox. The outbox is bounded by
    /// the window (or the rate), because a speaker whose messages do not get through has nothing more to send.
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.outbox.is_empty() {
            self.outbox.extend_from_slice(bytes);
            return;
        }
        let sent = self.write_now(bytes);
        self.outbox.extend_from_slice(&bytes[sent..]);
    }

    /// Sends what waits.
    pub fn flush(&mut self) {
        let sent = self.write_now(&self.outbox);
        self.outbox.drain(..sent);
    }

    /// Bytes that need no further care. A broken connection shows itself at the next read, where its end is noted, so
    /// bytes that can never be sent are let go here.
    fn write_now(&self, bytes: &[u8]) -> usize {
        let Some(mut stream) = self.stream.as_ref() else {
            return bytes.len();
        };
        match stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => bytes.len(),
        }
    }
}
