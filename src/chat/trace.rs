//! What became of one entry: through which door it came, and what each session has of it. The questions that operators
//! ask and the answers that nodes give, as plain values; each node answers for its own sessions, and the answers of all
//! are put together here. Knows no socket, no store and no other node.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chat::message::Offset;

/// By which wire a session hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// A WebSocket.
    WebSocket,
    /// An event stream.
    Stream,
    /// Polls.
    Poll,
    /// Posted lines: it speaks, and nobody reads what it hears.
    Send,
}

impl Wire {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Wire::WebSocket => "websocket",
            Wire::Stream => "stream",
            Wire::Poll => "poll",
            Wire::Send => "send",
        }
    }
}

/// The door that something came through: a kind, and which one where there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// `websocket`, `api`, `list`, `door`, `sqs` …
    pub kind: &'static str,
    /// Of a queue its name, of the server API the name of the key. Never a secret.
    pub name: Option<Arc<str>>,
}

impl Door {
    /// The built-in door of pushes.
    pub const RESP: Door = Door::of("door");
    /// The server API, whichever key.
    pub const API: Door = Door::of("api");
    /// The server itself: a handler of a program, or a pointer to a message in somebody's inbox.
    pub const SERVER: Door = Door::of("server");
    /// A session that is gone.
    pub const SESSION: Door = Door::of("session");

    /// A kind of which there is one.
    pub const fn of(kind: &'static str) -> Door {
        Door { kind, name: None }
    }

    /// One of several.
    pub fn named(kind: &'static str, name: &str) -> Door {
        Door { kind, name: Some(name.into()) }
    }
}

impl From<Wire> for Door {
    fn from(wire: Wire) -> Door {
        Door::of(wire.word())
    }
}

/// What an operator asks about an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// In whose log it stands.
    pub room: String,
    /// Where.
    pub offset: Offset,
    /// Its server time, Unix milliseconds, where it is known: tells it from another that stood there before.
    pub ts: Option<u64>,
    /// Only sessions of this user.
    pub user: Option<String>,
    /// Only this session.
    pub session: Option<String>,
    /// Only sessions after this one, in the order of their names.
    pub after: Option<String>,
    /// At most so many sessions.
    pub n: usize,
}

impl Asked {
    /// Whether a session is meant.
    pub fn means(&self, user: &str, session: &SessionName) -> bool {
        self.user.as_deref().is_none_or(|wanted| wanted == user)
            && self.session.as_deref().is_none_or(|wanted| wanted == session.to_string())
    }

    /// Whether it is about somebody, and not about all.
    pub fn is_about_somebody(&self) -> bool {
        self.user.is_some() || self.session.is_some()
    }
}

/// The public name of a session: the life of its process and its place there. The same that a backend is told by hooks.
/// The order of names is that of the nodes, then of the places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionName<'a> {
    /// Names the process.
    pub run: Cow<'a, str>,
    /// Worker, slot, generation.
    pub place: (u64, u64, u64),
}

impl SessionName<'_> {
    /// Reads what `Display` writes; none for what is no such name.
    pub fn parse(text: &str) -> Option<SessionName<'_>> {
        let mut parts = text.split('-');
        let run = parts.next().filter(|run| (1..=13).contains(&run.len()))?;
        let is_run = run.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        let place = (number(parts.next()?, 5)?, number(parts.next()?, 10)?, number(parts.next()?, 10)?);
        (is_run && parts.next().is_none()).then_some(SessionName { run: run.into(), place })
    }
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

impl std::fmt::Display for SessionName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (worker, slot, generation) = self.place;
        write!(f, "{}-{worker}-{slot}-{generation}", self.run)
    }
}

/// What a session has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its application has said that it has everything up to there or further.
    #[serde(rename = "acked")]
    Acked,
    /// Its bytes have left: the operating system has them, or the answer to a poll was written.
    #[serde(rename = "got")]
    Got,
    /// It is on its way, and has not left.
    #[serde(rename = "sent")]
    Sent,
    /// Left out because the session reads too slowly, or not yet given to one that is led on from the store.
    #[serde(rename = "slow")]
    Slow,
    /// The session was there when the entry came, and is not any more.
    #[serde(rename = "gone")]
    Gone,
    /// The session was not in the room when the entry came.
    #[serde(rename = "not joined")]
    NotJoined,
}

/// How many sessions have what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// [`State::Acked`].
    pub acked: u64,
    /// [`State::Got`].
    pub got: u64,
    /// [`State::Sent`].
    pub sent: u64,
    /// [`State::Slow`].
    pub slow: u64,
    /// [`State::Gone`].
    pub gone: u64,
    /// [`State::NotJoined`].
    #[serde(rename = "not joined")]
    pub not_joined: u64,
}

impl Counts {
    /// One more.
    pub fn count(&mut self, state: State) {
        self.add(state, 1);
    }

    fn add(&mut self, state: State, n: u64) {
        let place = match state {
            State::Acked => &mut self.acked,
            State::Got => &mut self.got,
            State::Sent => &mut self.sent,
            State::Slow => &mut self.slow,
            State::Gone => &mut self.gone,
            State::NotJoined => &mut self.not_joined,
        };
        *place += n;
    }

    fn add_all(&mut self, other: &Counts) {
        let Counts { acked, got, sent, slow, gone, not_joined } = *other;
        for (state, n) in [
            (State::Acked, acked),
            (State::Got, got),
            (State::Sent, sent),
            (State::Slow, slow),
            (State::Gone, gone),
            (State::NotJoined, not_joined),
        ] {
            self.add(state, n);
        }
    }

    /// How many sessions that is.
    pub fn all(&self) -> u64 {
        self.acked + self.got + self.sent + self.slow + self.gone + self.not_joined
    }
}

/// One session and the entry. What is not known is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTrace {
    /// Its public name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub u: Option<String>,
    /// The node that it is, or was, on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// By which wire it hears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Wire>,
    /// What it has of the entry.
    pub state: State,
    /// The first offset that it was to get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Offset>,
    /// The newest offset that was put on its way to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upto: Option<Offset>,
    /// How far its application has said that it has everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<Offset>,
    /// What it was left out of together with the entry: from, to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<(Offset, Offset)>,
    /// When it left the room, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// With which close code, if its connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl SessionTrace {
    /// Somebody who was asked about and was never there.
    pub fn not_joined(user: Option<String>, session: Option<String>) -> SessionTrace {
        SessionTrace {
            session,
            u: user,
            node: None,
            via: None,
            state: State::NotJoined,
            since: None,
            upto: None,
            ack: None,
            missed: None,
            left: None,
            code: None,
            why: None,
        }
    }
}

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Through which door.
    pub door: String,
    /// Which one, where there are several.
    pub name: Option<String>,
    /// To which node.
    pub node: String,
    /// From which session.
    pub session: Option<String>,
    /// When it was accepted, Unix milliseconds.
    pub accepted: u64,
    /// When it was kept, Unix milliseconds; none: not yet, or nothing but memory keeps it.
    pub stored: Option<u64>,
    /// Where it was kept by then: `journal`, `redis`, `archive`; none: in memory.
    pub kept: Option<String>,
}

/// What one node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTrace {
    /// Where the entry came from, if it came to this node and that is remembered.
    pub origin: Option<Origin>,
    /// All sessions that are meant, by what they have.
    pub counts: Counts,
    /// Some of them, in the order of their names.
    pub list: Vec<SessionTrace>,
    /// Whether there are more after them.
    pub more: bool,
}

/// What all nodes know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traced {
    /// Together.
    pub known: NodeTrace,
    /// Nodes that have not answered in time.
    pub silent: Vec<String>,
    /// Whether more than memory keeps the room.
    pub lasts: bool,
}

/// Puts the answers of all nodes together; at most `n` sessions.
pub fn together(parts: impl IntoIterator<Item = NodeTrace>, n: usize) -> NodeTrace {
    let mut all = NodeTrace::default();
    for part in parts {
        all.origin = all.origin.or(part.origin);
        all.counts.add_all(&part.counts);
        all.more |= part.more;
        all.list.extend(part.list);
    }
    // A name that cannot be read is another version's; it comes first, and is shown.
    all.list.sort_by(|one, other| name_of(one).cmp(&name_of(other)));
    all.more |= all.list.len() > n;
    all.list.truncate(n);
    all
}

fn name_of(trace: &SessionTrace) -> Option<SessionName<'_>> {
    trace.session.as_deref().and_then(SessionName::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(session: &str, state: State) -> SessionTrace {
        SessionTrace { state, ..SessionTrace::not_joined(None, Some(session.into())) }
    }

    fn part(list: &[(&str, State)], more: bool) -> NodeTrace {
        let mut part = NodeTrace { more, ..NodeTrace::default() };
        for (session, state) in list {
            part.counts.count(*state);
            part.list.push(named(session, *state));
        }
        part
    }

    #[test]
    fn names_are_read_as_they_are_written_and_sorted_by_node_and_place() {
        let name = SessionName::parse("3v8k-1-20-3").unwrap();
        assert_eq!((name.run.as_ref(), name.place), ("3v8k", (1, 20, 3)));
        assert_eq!(name.to_string(), "3v8k-1-20-3");
        for wrong in [
            "",
            "3v8k",
            "3v8k-1-2",
            "3v8k-1-2-3-4",
            "-1-2-3",
            "3v8k-1-+2-3",
            "3v8k-700000-1-1",
            "a-b-c-d",
            "A-1-2-3",
        ] {
            assert_eq!(SessionName::parse(wrong), None, "{wrong}");
        }
        let sorted = ["3v8k-0-2-0", "3v8k-0-10-0", "3v8k-1-0-0", "4a-0-0-0"].map(SessionName::parse);
        assert!(sorted.is_sorted());
    }

    #[test]
    fn the_answers_of_nodes_are_one_page() {
        let one = part(&[("b-0-1-0", State::Acked), ("b-0-10-0", State::Slow)], false);
        let other = part(&[("a-0-7-0", State::Gone), ("a-0-9-0", State::Got)], false);
        let all = together([one.clone(), other.clone()], 3);
        let names: Vec<_> = all.list.iter().filter_map(|trace| trace.session.as_deref()).collect();
        assert_eq!(names, ["a-0-7-0", "a-0-9-0", "b-0-1-0"]);
        assert!(all.more, "one is left");
        assert_eq!(all.counts, Counts { acked: 1, got: 1, slow: 1, gone: 1, ..Counts::default() });
        assert_eq!(all.counts.all(), 4);
        assert!(!together([one.clone(), other], 4).more);
        assert!(together([NodeTrace { more: true, ..one }], 9).more);
    }

    #[test]
    fn what_nodes_tell_each_other_survives_the_wire() {
        let origin = Origin {
            door: "api".into(),
            name: Some("shop".into()),
            node: "chat-1".into(),
            session: None,
            accepted: 1,
            stored: Some(2),
            kept: Some("redis".into()),
        };
        let list = vec![SessionTrace {
            u: Some("bob".into()),
            node: Some("chat-1".into()),
            via: Some(Wire::WebSocket),
            missed: Some((3, 9)),
            ..named("a-0-1-0", State::Slow)
        }];
        let sent = NodeTrace { origin: Some(origin), list, ..part(&[("x-0-0-0", State::NotJoined)], true) };
        let json = serde_json::to_string(&sent).unwrap();
        assert!(json.contains(r#""state":"slow""#) && json.contains(r#""not joined":1"#), "{json}");
        assert_eq!(serde_json::from_str::<NodeTrace>(&json).unwrap(), sent);
    }
}
