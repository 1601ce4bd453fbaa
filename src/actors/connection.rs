//! One connection, a taken-over socket or an HTTP answer that goes on: its outbox, the rooms it is a member of on this thread, and how its life is
//! going. Shared on one thread by the hub, which writes, and the session's reader, which reads.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use actix_rt::net::TcpStream;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, ReadBuf};

use crate::actors::letters::ConnectionId;
use crate::actors::outbox::{Outbox, Sink};
use crate::actors::pipe::Pipe;
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Goodbye;

/// Letters that a session may have under way to the chat server before it stops reading.
const LETTERS_MAX: u32 = 2;

impl Sink for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        TcpStream::try_write(self, bytes)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        TcpStream::try_write_vectored(self, slices)
    }
}

/// What carries a connection's frames.
#[derive(Debug)]
pub enum Link {
    /// A socket that was taken over.
    Socket(TcpStream),
    /// An HTTP answer, or several one after the other.
    Pipe(Pipe),
}

impl Sink for Link {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Socket(socket) => Sink::try_write(socket, bytes),
            Link::Pipe(pipe) => pipe.try_write(bytes),
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Link::Socket(socket) => Sink::try_write_vectored(socket, slices),
            Link::Pipe(pipe) => pipe.try_write_vectored(slices),
        }
    }
}

impl From<TcpStream> for Link {
    fn from(socket: TcpStream) -> Link {
        Link::Socket(socket)
    }
}

impl From<Pipe> for Link {
    fn from(pipe: Pipe) -> Link {
        Link::Pipe(pipe)
    }
}

/// How a connection's life is going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Frames go both ways.
    Open,
    /// Our close frame is on its way or sent; what comes is read only for the client's.
    Closing {
        /// Why. Boxed, because most connections are open and each should be small.
        goodbye: Box<Goodbye>,
        /// Nothing is expected of the client: after our last byte the sending side is shut.
        peer_done: bool,
        /// The sending side is shut.
        shut: bool,
    },
    /// Nothing can be sent or read any more.
    Dead,
}

/// Who ends a connection from the other side.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// The client, with a close frame.
    ByClient(Option<u16>),
    /// A breach of WebSocket's rules, with the close code and the reason.
    ByFault(u16, &'static str),
}

/// A room of this thread that a connection is a member of.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// Which room.
    pub room: RoomKey,
    /// Its index among the live members; [`Membership::BEHIND`] when it is none of them.
    pub index: u32,
    /// The number of the letter that made it a live member; see
    /// [`ToHub::Joined`](crate::actors::letters::ToHub::Joined).
    pub stay: u32,
}

impl Membership {
    /// Stands for the index of a member that is behind.
    pub const BEHIND: u32 = u32::MAX;

    /// Whether it gets what is said in the room.
    pub fn is_live(&self) -> bool {
        self.index != Membership::BEHIND
    }
}

/// What the session has to be told by way of its reader.
#[derive(Debug, Default)]
pub struct Nudges {
    /// Its alarm has rung.
    pub alarm: bool,
    /// The hub has closed it.
    pub closed: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its place.
    pub id: ConnectionId,
    /// No protocol on top: no `bye`, no pings of our own.
    pub raw: bool,
    /// Frames on their way.
    pub outbox: Outbox,
    /// Rooms of this thread that it is a member of.
    pub rooms: SmallVec<[Membership; 1]>,
    /// Listed for the next flush.
    pub listed: bool,
    /// How its life is going.
    pub life: Life,
    /// When something was last read.
    pub heard_ms: u64,
    /// When the next ping goes out.
    pub ping_at_ms: u64,
    /// When the session wants to be nudged; 0 for never.
    pub alarm_at_ms: u64,
    /// When it comes up on the hub's wheel; 0 when it does not.
    pub due_ms: u64,
    /// When a closing connection is given up; 0 while it is open.
    pub give_up_at_ms: u64,
    /// What the session has to be told.
    pub nudges: Nudges,
    letters: u32,
    /// An answer is waited for before anything more is read.
    held: bool,
    ending: Option<Ending>,
    link: Link,
    reader: Option<Waker>,
}

impl Connection {
    /// A connection that has just been taken over.
    pub fn new(id: ConnectionId, link: Link, raw: bool, now_ms: u64) -> Connection {
        Connection {
            id,
            raw,
            outbox: Outbox::default(),
            rooms: SmallVec::new(),
            listed: false,
            life: Life::Open,
            heard_ms: now_ms,
            ping_at_ms: 0,
            alarm_at_ms: 0,
            due_ms: 0,
            give_up_at_ms: 0,
            nudges: Nudges::default(),
            letters: 0,
            held: false,
            ending: None,
            link,
            reader: None,
        }
    }

    /// The outbox and what it is written to.
    pub fn parts(&mut self) -> (&Link, &mut Outbox) {
        (&self.link, &mut self.outbox)
    }

    /// Whether the client can answer pings: over HTTP it hears, and says nothing on the same link.
    pub fn answers_pings(&self) -> bool {
        matches!(self.link, Link::Socket(_))
    }

    /// Whether frames may still be added.
    pub fn is_open(&self) -> bool {
        self.life == Life::Open
    }

    /// Whether it is behind in a room.
    pub fn is_behind(&self) -> bool {
        self.rooms.iter().any(|membership| !membership.is_live())
    }

    /// Since when it reads too slowly; none when nothing waits for it. Who is behind in a room may take its
    /// time for each frame, as nothing more is piled up for it, but it has to take something.
    pub fn stuck_since_ms(&self) -> Option<u64> {
        let since = self.outbox.stuck_since_ms()?;
        if self.is_behind() { self.outbox.idle_since_ms() } else { Some(since) }
    }

    /// Wakes the session's reader.
    pub fn wake(&self) {
        if let Some(waker) = &self.reader {
            waker.wake_by_ref();
        }
    }

    /// Remembers the task to wake.
    pub fn set_reader(&mut self, waker: &Waker) {
        if !self.reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.reader = Some(waker.clone());
        }
    }

    /// Nothing more is read until an answer is there; it counts as a letter.
    pub fn hold(&mut self) {
        self.held = true;
        self.letter_sent();
    }

    /// The answer is there. [`Connection::letter_done`] follows.
    pub fn let_go(&mut self) {
        self.held = false;
        self.wake();
    }

    /// Counts a letter to the chat server.
    pub fn letter_sent(&mut self) {
        self.letters += 1;
    }

    /// A letter is dealt with. If reading had stopped for it, it goes on. Returns the ending that has waited
    /// for the last letter.
    pub fn letter_done(&mut self) -> Option<Ending> {
        let stopped = !self.may_send_letter();
        self.letters = self.letters.saturating_sub(1);
        if stopped {
            self.wake();
        }
        if self.letters == 0 { self.ending.take() } else { None }
    }

    /// Returns the ending when it may be carried out now; else keeps it for the last letter.
    pub fn end_after_letters(&mut self, ending: Ending) -> Option<Ending> {
        if self.letters == 0 {
            return Some(ending);
        }
        self.ending = Some(ending);
        None
    }

    /// Whether the client has ended what it has to say.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether another letter may be sent. A raw connection waits for each, so that its order and its memory
    /// are bounded by one message.
    pub fn may_send_letter(&self) -> bool {
        !self.held && self.letters < if self.raw { 1 } else { LETTERS_MAX }
    }

    /// Reads what has come; 0 is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let socket = match &mut self.link {
            Link::Socket(socket) => socket,
            Link::Pipe(pipe) => return pipe.poll_end(cx).map(|()| Ok(0)),
        };
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(socket).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// What `find` makes of the first line that it knows, among those that have not left. Looks at all of them.
    pub fn find_unsent<T>(&self, mut find: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let held = match &self.link {
            Link::Socket(_) => None,
            Link::Pipe(pipe) => pipe.find_held(&mut find),
        };
        held.or_else(|| self.outbox.find_unsent(&mut find))
    }

    /// Ready when the kernel takes bytes again.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.link {
            Link::Socket(socket) => socket.poll_write_ready(cx),
            Link::Pipe(pipe) => pipe.poll_ready(cx),
        }
    }

    /// Ends the sending side, so that the client reads our last frames and then the end.
    pub fn shut(&self) -> io::Result<()> {
        match &self.link {
            Link::Socket(socket) => socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write),
            Link::Pipe(pipe) => {
                pipe.end();
                Ok(())
            }
        }
    }
}
