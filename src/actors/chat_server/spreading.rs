//! What traces are told of a message in its room: when it is kept, and to how many it is given. Part of the chat server;
//! does nothing for what is not sampled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ChatServer;
use super::keeping::Link;
use crate::actors::letters::ToHub;
use crate::chat::entry::Entry;
use crate::chat::message::{Accepted, Offset};
use crate::chat::names::{MessageId, RoomName};
use crate::chat::rooms::RoomKey;
use crate::log::user_hash;
use crate::traces::{Kind, Span, SpanRef};

/// Most sampled messages whose entries have not come back from the service.
const AWAITED_MAX: usize = 1_024;

/// How long they are looked for. What was refused there, or had been said before, never comes back.
const AWAITED_TIME: Duration = Duration::from_secs(10);

/// Sampled messages that a service gives their places: this node's readers get them when they arrive from there.
#[derive(Debug, Default)]
pub(super) struct Awaited(VecDeque<Expected>);

#[derive(Debug)]
struct Expected {
    room: RoomName,
    id: MessageId,
    origin: SpanRef,
    since: Instant,
}

impl Awaited {
    fn expect(&mut self, room: RoomName, id: MessageId, origin: SpanRef, since: Instant) {
        if self.0.len() >= AWAITED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Expected { room, id, origin, since });
    }

    fn take(&mut self, room: &RoomName, id: Option<&MessageId>, now: Instant) -> SpanRef {
        while self.0.front().is_some_and(|first| now.duration_since(first.since) > AWAITED_TIME) {
            self.0.pop_front();
        }
        let found = self.0.iter().position(|one| one.room == *room && Some(&one.id) == id);
        found.and_then(|at| self.0.remove(at)).map_or_else(SpanRef::default, |one| one.origin)
    }
}

/// How traces name a room. The rooms of one or two users have their names in theirs.
fn shown(room: &RoomName) -> String {
    match room.owners() {
        Some(_) => format!("@{}", user_hash(room.as_str())),
        None => room.as_str().to_owned(),
    }
}

impl ChatServer {
    /// Gives an entry to everybody who is in its room, and notes to how many. `last`: see [`ChatServer::broadcast`].
    pub(super) fn spread(&mut self, room: RoomKey, frame: &Bytes, last: Offset, origin: &SpanRef) {
        if !origin.is_on() {
            return self.broadcast(room, frame, last, None);
        }
        let span = origin.child("fan out", Kind::Producer);
        let its_room = self.rooms.get(room);
        span.text("roomcast.room", shown(&its_room.name));
        span.number("roomcast.offset", number(last));
        span.number("roomcast.receivers", its_room.sessions().into());
        for worker in its_room.workers() {
            // It ends when the last of them has written it to its sockets.
            let deliver = ToHub::Deliver {
                room,
                frames: frame.clone(),
                count: 1,
                last,
                except: None,
                span: span.clone(),
            };
            self.mail(worker, deliver);
        }
    }

    /// Begins the step of keeping an entry.
    pub(super) fn begin_keeping(&self, span: &Span, room: &RoomName) -> Span {
        if !span.is_on() || !self.keeping.lasts() {
            return Span::default();
        }
        let keep = span.child("keep", Kind::Internal);
        keep.text("roomcast.room", shown(room));
        let by = match self.keeping.link {
            Link::Nothing => "memory",
            Link::Store(_) => "journal",
            Link::Service(_) => "redis",
        };
        keep.text("roomcast.kept_by", by);
        keep
    }

    /// What is posted or forwarded later finds its way back to this message.
    pub(super) fn remember_way(&self, span: &Span, room: &RoomName, place: &Accepted) {
        span.remember(|| format!("{}@{}-{}", room.as_str(), place.epoch.to_text(), place.offset));
    }

    /// This node has a reader of a room in which a sampled message gets its place elsewhere.
    pub(super) fn await_entry(&mut self, entry: &Entry, span: &Span) {
        if let Some(id) = entry.id.as_ref().filter(|_| span.is_on() && self.rooms.find(&entry.room).is_some())
        {
            self.keeping.proposals.awaited.expect(
                entry.room.clone(),
                id.clone(),
                span.to_ref(),
                Instant::now(),
            );
        }
    }

    /// Where the trace of an entry that arrives stands.
    pub(super) fn span_of(&mut self, entry: &Entry) -> SpanRef {
        let awaited = &mut self.keeping.proposals.awaited;
        match awaited.0.is_empty() {
            true => SpanRef::default(),
            false => awaited.take(&entry.room, entry.id.as_ref(), Instant::now()),
        }
    }
}

/// Traces have signed numbers.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_never_comes_back_is_forgotten() {
        let (lobby, begun) = (RoomName::new("lobby").unwrap(), Instant::now());
        let id = |text: &str| MessageId::new(text).unwrap();
        let mut awaited = Awaited::default();
        for name in ["a", "b", "c"] {
            awaited.expect(lobby.clone(), id(name), SpanRef::default(), begun);
        }
        awaited.take(&lobby, Some(&id("b")), begun + AWAITED_TIME);
        assert_eq!(awaited.0.len(), 2, "who comes back is awaited no more");
        awaited.take(&lobby, None, begun + AWAITED_TIME * 2);
        assert!(awaited.0.is_empty(), "{awaited:?}");
        for n in 0..=AWAITED_MAX {
            awaited.expect(lobby.clone(), id(&n.to_string()), SpanRef::default(), begun);
        }
        assert_eq!((awaited.0.len(), awaited.0[0].id.as_str()), (AWAITED_MAX, "1"), "the newest are");
    }

    #[test]
    fn the_name_of_a_user_is_in_no_room_as_traces_name_it() {
        let shown = |name: &str| shown(&RoomName::new(name).unwrap());
        assert_eq!(shown("lobby"), "lobby");
        for room in ["@ann", "@ann+bob"] {
            assert!(shown(room).starts_with('@') && !shown(room).contains("ann"), "{}", shown(room));
        }
        assert_eq!(shown("@ann"), shown("@ann"), "the same room has the same name");
    }
}
