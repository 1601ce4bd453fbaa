//! Every letter that one actor puts into another's mailbox.
//!
//! Three rules keep mailboxes bounded. A session has at most two letters under way to the chat server and
//! stops reading its socket until [`ToHub::Done`] comes back. Whoever pushes from outside waits for the
//! answer of [`PublishBatch`] before it takes more. A hub reports only what it was asked for: see
//! [`FromHub`].

use std::sync::Arc;

use actix::{Message, Recipient};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::chat::history::PageFrom;
use crate::chat::message::{Accepted, Alteration, Draft, Offset, Refused};
use crate::chat::moderation::{Change, Rules};
use crate::chat::names::{RoomName, UserName};
use crate::chat::overview::{Look, View};
use crate::chat::permission::Identity;
use crate::chat::rooms::RoomKey;
use crate::chat::settings::SlowReader;
use crate::chat::trace::{Asked, Door, Traced, Wire};
use crate::engines::engine::EngineSays;
use crate::engines::shared::{Command, Says};
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::cursor::Moved;
use crate::protocols::native::{Join, Reference, RequestNumber};
use crate::protocols::native_frames::PlaceFinder;
use crate::store::record::Letter;
use crate::traces::Span;

/// A connection of this process: the worker thread it lives on, its place there, and a number that tells
/// it from those that had the place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Index of the worker thread.
    pub worker: u16,
    /// Index in the worker's table.
    pub slot: u32,
    /// How often the place was taken before.
    pub generation: u32,
}

/// Session → chat server: a client has said who it is (onOpen).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Open {
    /// Which connection.
    pub connection: ConnectionId,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The request number of its hello.
    pub i: RequestNumber,
    /// Whether the session was open already and shows another token.
    pub again: bool,
    /// Whether it gets no `welcome` for that.
    pub silent: bool,
    /// The session that it goes on with.
    pub session: Option<Box<Return>>,
    /// By which wire it hears.
    pub wire: Wire,
}

/// How somebody goes on with a session that another connection has left.
#[derive(Debug)]
pub struct Return {
    /// The session's name.
    pub session: Box<str>,
    /// What it has got in rooms beyond what was kept of the session.
    pub moved: Vec<Moved>,
    /// What it asks about rooms that the session was not in.
    pub rest: Vec<Ask>,
}

/// Session → chat server: a connection on a raw path is there (onOpen).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OpenRaw {
    /// Which connection.
    pub connection: ConnectionId,
    /// Which of the raw handlers owns its path.
    pub handler: usize,
    /// The request's path with its query.
    pub uri: Box<str>,
}

/// Session → chat server: what a client asked for in one turn, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Said {
    /// Which connection.
    pub connection: ConnectionId,
    /// What it asked for.
    pub asks: Vec<Ask>,
}

/// One allowed request.
#[derive(Debug)]
pub struct Ask {
    /// What the answer echoes.
    pub reference: Reference,
    /// What is asked.
    pub what: What,
}

/// What a session may ask of the chat server.
#[derive(Debug)]
pub enum What {
    /// Enter a room (checked: the user may).
    Join(Join),
    /// Go out of a room.
    Leave(RoomName),
    /// Say something.
    Publish {
        /// What and where.
        draft: Draft,
        /// The token lists the room, so that one need not have joined.
        granted: bool,
    },
    /// Change or react to an entry.
    Alter {
        /// What and where.
        alteration: Alteration,
        /// The token lists the room, so that one need not have joined.
        granted: bool,
    },
    /// The user has read up to a place.
    Read {
        /// Where.
        room: RoomName,
        /// All up to here.
        offset: Offset,
    },
    /// The application has got everything up to a place.
    Got {
        /// Where.
        room: RoomName,
        /// All up to here.
        offset: Offset,
    },
    /// Begin or stop typing.
    Typing {
        /// Where.
        room: RoomName,
        /// Whether it begins.
        on: bool,
    },
    /// Who is here.
    Who {
        /// Where.
        room: RoomName,
        /// Only users whose names come after this one.
        after: Option<String>,
        /// At most so many.
        n: usize,
        /// The token lists the room.
        granted: bool,
    },
    /// A page of the log.
    Log {
        /// Where.
        room: RoomName,
        /// From which place, in which direction.
        from: PageFrom,
        /// At most so many.
        n: usize,
        /// The token lists the room.
        granted: bool,
    },
    /// Messages with some words.
    Find {
        /// Where.
        room: RoomName,
        /// What the user typed.
        words: String,
        /// Only messages older than this offset.
        before: Option<Offset>,
        /// At most so many.
        n: usize,
        /// The token lists the room.
        granted: bool,
    },
    /// The user's rooms.
    Rooms,
    /// A sign of life, in order with the rest.
    Ping,
    /// Already done; say ok.
    Done,
    /// A refusal, told in order with the rest.
    Refuse(Problem),
    /// Nothing more will come; close when the rest is done.
    Bye(Goodbye),
}

/// Session → chat server: what came on a raw path in one turn (onMessage).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SaidRaw {
    /// Which connection.
    pub connection: ConnectionId,
    /// The messages, in order.
    pub messages: Vec<RawMessage>,
}

/// A message as it came over a WebSocket, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawMessage {
    /// Valid UTF-8.
    Text(Bytes),
    /// Any bytes.
    Binary(Bytes),
}

/// Session → chat server: a connection broke a rule or its link failed (onError). [`Closed`] follows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Failed {
    /// Which connection.
    pub connection: ConnectionId,
    /// What went wrong, for people.
    pub error: String,
}

/// Session → chat server: a connection is gone (onClose).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Closed {
    /// Which connection.
    pub connection: ConnectionId,
    /// The WebSocket close code; 1006 when the link was cut.
    pub code: u16,
}

/// Queue, door or API → chat server: messages of backends, said in this order. The answer has one entry
/// for each; what is refused as busy may be sent again. With them the door that they have come through.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Result<Accepted, Refused>>")]
pub struct PublishBatch(pub Vec<Draft>, pub Door);

/// Engine → chat server: what has been kept, found or forgotten.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromEngine(pub EngineSays);

/// Service that shares rooms among nodes → chat server: what has been said, found or settled.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromService(pub Says);

/// Door → chat server: items that can never be said. Answered with whether the store has them.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct Bury(pub Vec<Letter>);

/// Wiring → chat server: the last sessions are gone; keep what is only in memory. Answered when it is kept.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Finish;

/// Wiring → chat server: the server ends. Answered when the other nodes know, or need not.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Depart;

/// Server API → chat server: what operators have all nodes do. Answered when the order has gone out.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Order(pub Vec<Command>);

/// Server API → chat server: an entry is to be blanked, whoever has said it. Answered when that is kept.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Problem>")]
pub struct Erase {
    /// In whose log.
    pub room: RoomName,
    /// Which.
    pub of: Offset,
    /// Who is shown to have done it.
    pub user: Option<UserName>,
}

/// Server API → chat server: how rooms stand on all nodes.
#[derive(Debug, Message)]
#[rtype(result = "Result<View, Problem>")]
pub struct LookAt(pub Look);

/// Server API → chat server: a room is to have another rule. Answered when that is kept.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Problem>")]
pub struct Rule {
    /// Which room.
    pub room: RoomName,
    /// What changes.
    pub change: Change,
}

/// Server API → chat server: which rules a room has.
#[derive(Debug, Message)]
#[rtype(result = "Rules")]
pub struct RulesOf(pub RoomName);

/// Server API → chat server: what became of an entry, on all nodes. A node that does not answer in time is named.
#[derive(Debug, Message)]
#[rtype(result = "Result<Traced, Problem>")]
pub struct TraceEntry(pub Asked);

/// A hub → chat server: a worker thread is there. Sent once, when the thread starts.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Hello {
    /// Index of the worker.
    pub worker: usize,
    /// Its hub.
    pub hub: Recipient<Turn>,
    /// Bytes under way to this hub, counted up by the sender and down by the hub.
    pub queued: Arc<std::sync::atomic::AtomicUsize>,
}

/// Wiring → chat server: the server stops; take nothing new.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Chat server → hub: all that one turn of the chat server has for this worker, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Turn(pub Vec<ToHub>);

/// One thing for a hub to do.
#[derive(Debug)]
pub enum ToHub {
    /// Frames for the members of a room.
    Deliver {
        /// Which room.
        room: RoomKey,
        /// Whole WebSocket frames.
        frames: Bytes,
        /// How many frames.
        count: u32,
        /// Offset of the last logged entry among them; 0 when there is none (presence, typing).
        last: Offset,
        /// A member who does not get them.
        except: Option<ConnectionId>,
        /// The step of giving them out, if it is noted; let go when they are written.
        span: Span,
    },
    /// A connection becomes a live member, after these frames (joined, replay, live) and before all later
    /// ones: the first time, again, or after it was behind.
    Joined {
        /// Which connection.
        connection: ConnectionId,
        /// Which room.
        room: RoomKey,
        /// Which letter of this kind it is for this connection and room: any number that differs from that
        /// of the letter before. [`Report::Behind`] brings it back, as reports and letters may cross.
        stay: u32,
        /// Frames before the live stream; the replayed ones are shared with the room's history.
        frames: Vec<Bytes>,
        /// The newest offset of the room that the member has, or has been told about, with these frames.
        after: Offset,
        /// What happens to it when it reads too slowly. The same for all members of a room.
        slow: SlowReader,
    },
    /// Frames for a connection that is behind in a room. They are shared with a history and do not count
    /// against its outbox's limit, so the chat server has one of these under way for a connection, or a few.
    /// Answered by one [`Report::Drained`] when the kernel has taken their last byte. While more than 64 KiB
    /// of them wait, the client is not listened to.
    Feed {
        /// Which connection.
        connection: ConnectionId,
        /// Whole WebSocket frames, one each.
        frames: Vec<Bytes>,
    },
    /// Answered by one [`Report::Drained`] when the kernel has taken all that waits now for this connection;
    /// in the same turn when nothing does.
    Watch {
        /// Which connection.
        connection: ConnectionId,
    },
    /// A connection is a member no more, live or behind.
    Left {
        /// Which connection.
        connection: ConnectionId,
        /// Which room.
        room: RoomKey,
    },
    /// One frame for one connection.
    Direct {
        /// Which connection.
        connection: ConnectionId,
        /// A whole WebSocket frame.
        frame: Bytes,
    },
    /// A letter of this session is dealt with; it may read on.
    Done(ConnectionId),
    /// Close a connection after what is under way to it.
    Close {
        /// Which connection.
        connection: ConnectionId,
        /// Code and reason.
        goodbye: Goodbye,
    },
    /// Close all connections that are still open; the server stops.
    CloseAll,
    /// A room is closed; its number will be given to another.
    Forget(RoomKey),
    /// An operator asks what some connections have of a room's log.
    Sight(Box<Sighting>),
}

/// What some connections of a worker have of a room's log. Answered when the hub has written what this turn has for
/// them; should it end before, nobody answers.
#[derive(Debug)]
pub struct Sighting {
    /// Which room.
    pub room: RoomKey,
    /// Knows its entries.
    pub finder: PlaceFinder,
    /// Which connections.
    pub connections: Vec<ConnectionId>,
    /// One for each of them, in this order; none for one that is closed, or is no member.
    pub reply: oneshot::Sender<Vec<Option<Sight>>>,
}

/// What a connection has of a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Everything up to this offset was put on its way; none while it is behind, and the chat server knows better.
    pub upto: Option<Offset>,
    /// The first offset that has not left; none: all has left.
    pub unsent: Option<Offset>,
}

/// Hub → chat server: what one turn of the hub has to report, in order. Bounded by what the chat server asks
/// for: at most one [`Report::Behind`] for each [`ToHub::Joined`], and one [`Report::Drained`] for each
/// [`ToHub::Feed`] and [`ToHub::Watch`]. A connection that ends reports nothing more, also if it was asked; its
/// session says [`Closed`], which earlier reports may cross.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromHub(pub Vec<Report>);

/// One thing that a hub reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A member reads too slowly for its room and is a live member no more. It gets nothing of the room until
    /// the next [`ToHub::Joined`].
    Behind {
        /// Which connection.
        connection: ConnectionId,
        /// Which room.
        room: RoomKey,
        /// The number of the [`ToHub::Joined`] that this ends. If the chat server has sent another one or
        /// [`ToHub::Left`] since, the report is out of date and means nothing.
        stay: u32,
        /// Everything up to this offset was put on its way, nothing logged behind it was.
        after: Offset,
    },
    /// The answer to a [`ToHub::Feed`] or a [`ToHub::Watch`].
    Drained {
        /// Which connection.
        connection: ConnectionId,
    },
}
