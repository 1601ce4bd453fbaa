//! The four events, in the shape that Ratchet's `MessageComponentInterface` made known: a program of its
//! own implements [`Handler`] and passes it to the builder ([`crate::wiring::Roomcast`]).
//! The chat server calls it; what a handler wants done it leaves in [`Effects`], so it never waits and
//! never sees a socket.

use bytes::Bytes;

use crate::actors::letters::{ConnectionId, RawMessage};
use crate::chat::message::Draft;
use crate::chat::names::UserName;

/// What may happen to somebody who is connected. All four are called one after another, never at the same
/// time; per room in the order in which everybody sees things.
///
/// Registered for rooms, a handler watches every session and every message, and may refuse or change
/// them. Registered for a raw path, it owns that path: text and binary as they come, no protocol on top.
///
/// A panic in a handler closes the session it was called for with 1011 and nothing else.
pub trait Handler: Send + 'static {
    /// Somebody has come (and, in rooms, has said who he is).
    fn on_open(&mut self, _who: &Peer, _effects: &mut Effects) -> Verdict {
        Verdict::Accept
    }

    /// Somebody says something. In rooms a refusal reaches the sender as `err 403 not-allowed` with its
    /// words; on a raw path it closes the connection with 1008.
    fn on_message(&mut self, _who: &Peer, _message: Incoming<'_>, _effects: &mut Effects) -> Verdict {
        Verdict::Accept
    }

    /// Somebody has gone. `code` is the WebSocket close code, 1006 when the link was cut.
    fn on_close(&mut self, _who: &Peer, _code: u16, _effects: &mut Effects) {}

    /// Somebody's connection broke a rule or failed; `on_close` follows.
    fn on_error(&mut self, _who: &Peer, _error: &str, _effects: &mut Effects) {}
}

/// Who an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The connection; none for what a backend pushes.
    pub connection: Option<ConnectionId>,
    /// The user; none on raw paths and for pushes that name nobody.
    pub user: Option<UserName>,
    /// Path and query of the request on a raw path, else empty.
    pub uri: Box<str>,
}

/// What somebody says.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// Text on a raw path: valid UTF-8.
    Text(Bytes),
    /// Binary on a raw path.
    Binary(Bytes),
    /// A message for a room, which may be changed before it gets its place.
    Draft(&'a mut Draft),
}

/// Whether something may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Accept,
    /// It may not; the words are shown to who asked.
    Refuse(String),
}

/// One thing that a handler wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send to one connection.
    Send(ConnectionId, RawMessage),
    /// Say something in a room. It does not come back to the handler as a message.
    Say(Draft),
    /// Close a connection with a code and a reason.
    Close(ConnectionId, u16, String),
}

/// What a handler wants done, in order; carried out when it returns.
#[derive(Debug, Default)]
pub struct Effects(Vec<Effect>);

impl Effects {
    /// Sends text to one connection. A native session takes it as one line of its protocol.
    pub fn send_text(&mut self, to: ConnectionId, text: impl Into<Bytes>) {
        self.0.push(Effect::Send(to, RawMessage::Text(text.into())));
    }

    /// Sends bytes to one connection of a raw path.
    pub fn send_binary(&mut self, to: ConnectionId, bytes: impl Into<Bytes>) {
        self.0.push(Effect::Send(to, RawMessage::Binary(bytes.into())));
    }

    /// Says something in a room.
    pub fn say(&mut self, draft: Draft) {
        self.0.push(Effect::Say(draft));
    }

    /// Closes a connection. Codes 3000-4999 are free for applications.
    pub fn close(&mut self, connection: ConnectionId, code: u16, why: impl Into<String>) {
        self.0.push(Effect::Close(connection, code, why.into()));
    }

    /// Takes what is to be done.
    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.0)
    }
}
