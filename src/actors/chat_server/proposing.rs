//! Saying something in a room that several nodes share: a service gives out the place, and what becomes of a
//! proposal is told to whoever waits for it. Readers hear of the entry when it arrives, not from here.

use std::collections::{BTreeMap, HashMap};

use ahash::RandomState;

use super::ChatServer;
use super::keeping::Link;
use super::spreading::Awaited;
use super::tracing::Kept;
use super::work::AckTo;
use crate::chat::entry::Entry;
use crate::chat::line;
use crate::chat::message::{Accepted, Draft, Epoch, Refused, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::chat::settings::AckLevel;
use crate::clock;
use crate::engines::shared::{Command, News, Outcome, Proposal, Safety};
use crate::traces::Span;

/// Proposals under way.
#[derive(Default)]
pub(super) struct Proposals {
    /// Those of this turn.
    new: Vec<Proposal>,
    /// Those without an outcome, by ticket.
    open: BTreeMap<u64, Open>,
    /// Messages that have their place, and whose pointers into inboxes have not.
    calling: HashMap<u64, Calling, RandomState>,
    /// Sampled messages that have not arrived yet.
    pub(super) awaited: Awaited,
}

/// A proposal without an outcome.
struct Open {
    room: RoomName,
    safety: Safety,
    to: AckTo,
    via: Via,
    /// A message that calls somebody by name.
    calls: Option<Box<Calls>>,
    /// The ticket of the message to which this pointer belongs.
    part_of: Option<u64>,
    /// The way of a sampled message, and the step of keeping it.
    way: Option<Box<Way>>,
}

/// See above.
struct Way {
    span: Span,
    keep: Span,
}

/// Whom a message calls by name.
struct Calls {
    room: RoomName,
    by: Option<UserName>,
    inboxes: Vec<RoomName>,
    safety: Safety,
}

/// A message whose sender hears of it when its pointers are kept as well.
struct Calling {
    to: AckTo,
    place: Accepted,
    left: usize,
}

impl Proposals {
    /// The oldest ticket without an outcome.
    pub(super) fn first_open(&self) -> Option<u64> {
        self.open.keys().next().copied()
    }

    /// What is to be proposed at the end of this turn.
    pub(super) fn take_new(&mut self) -> Vec<Proposal> {
        std::mem::take(&mut self.new)
    }
}

/// Where an entry stands that has no place yet.
pub(super) const NOWHERE: Accepted = Accepted { offset: 0, epoch: Epoch(0), ts: 0, duplicate: false };

/// By what a repeat is known in a room: users' ids do not collide, for neither part has a control character.
fn key_of(user: Option<&UserName>, id: &MessageId) -> Box<[u8]> {
    let user = user.map_or("", UserName::as_str);
    [user.as_bytes(), b"\0", id.as_str().as_bytes()].concat().into()
}

/// By what a pointer to a message is known in an inbox.
fn key_of_pointer(room: &RoomName, place: &Accepted) -> Box<[u8]> {
    format!("\x01{}\0{}\0{}", room.as_str(), place.epoch.to_text(), place.offset).into_bytes().into()
}

impl ChatServer {
    /// Proposes a message; `to` is told what becomes of it.
    pub(super) fn propose_draft(&mut self, mut draft: Draft, to: AckTo) {
        let id = draft.id.get_or_insert_with(made_id);
        let key = key_of(draft.user.as_ref(), id);
        let place = Accepted { ts: clock::wall_ms(), ..NOWHERE };
        let safety = match (draft.via, self.safety_of(&draft.room)) {
            // The answer removes it from its queue.
            (Via::Queue, Safety::Sequenced) => Safety::Replicated,
            (_, safety) => safety,
        };
        let calls = draft.keep.then(|| self.calls_of(&draft, safety)).flatten();
        let (entry, _) = self.entry_of(&draft, &place);
        self.await_entry(&entry, &draft.span);
        let (room, way) = (draft.room.clone(), self.way_of(&draft));
        let open = Open { room, safety, to, via: draft.via, calls, part_of: None, way };
        self.propose(entry, key, draft.keep, open);
    }

    /// Proposes a change of an entry.
    pub(super) fn propose_change(&mut self, mut entry: Entry, via: Via, to: AckTo) {
        let id = entry.id.clone().unwrap_or_else(made_id);
        let key = key_of(entry.user.as_ref(), &id);
        entry.id.get_or_insert(id);
        let safety = self.safety_of(&entry.room);
        let room = entry.room.clone();
        let open = Open { room, safety, to, via, calls: None, part_of: None, way: None };
        self.propose(entry, key, true, open);
    }

    fn propose(&mut self, entry: Entry, key: Box<[u8]>, logged: bool, open: Open) {
        self.expect_ack(&open.to);
        let safety = open.safety;
        let ticket = self.keeping.next_ticket();
        self.keeping.proposals.open.insert(ticket, open);
        self.keeping.proposals.new.push(Proposal { ticket, entry, key, logged, safety });
    }

    fn safety_of(&self, room: &RoomName) -> Safety {
        match self.settings.rooms.of(room).ack {
            AckLevel::Sequenced => Safety::Sequenced,
            AckLevel::Auto | AckLevel::Replicated => Safety::Replicated,
            AckLevel::Archived => Safety::Archived,
        }
    }

    fn calls_of(&self, draft: &Draft, safety: Safety) -> Option<Box<Calls>> {
        let called = line::mentions_in(draft.data.as_bytes());
        let key = self.rooms.find(&draft.room).filter(|_| !called.is_empty())?;
        let by = draft.user.clone();
        let inboxes: Vec<_> =
            called.iter().filter_map(|called| self.inbox_to_tell(key, called, by.as_ref())).collect();
        let calls = Calls { room: draft.room.clone(), by, inboxes, safety };
        (!calls.inboxes.is_empty()).then(|| Box::new(calls))
    }

    /// The service has decided.
    pub(super) fn settled(&mut self, outcomes: Vec<(u64, Outcome)>) {
        let now = clock::wall_ms();
        for (ticket, outcome) in outcomes {
            let Some(open) = self.keeping.proposals.open.remove(&ticket) else {
                log::error!("a proposal was settled that nobody has made, or twice");
                continue;
            };
            if let Outcome::Placed(place) = &outcome
                && place.offset > 0
                && !place.duplicate
            {
                let kept = Kept::Shared(open.safety);
                self.remember_origin(open.room.clone(), place, &open.to, kept, now);
            }
            match open.part_of {
                Some(message) => self.pointer_settled(message, &outcome),
                None => self.message_settled(ticket, open, outcome),
            }
        }
        self.kept(self.keeping.newest_settled());
    }

    fn message_settled(&mut self, ticket: u64, open: Open, outcome: Outcome) {
        let Open { room, to, via, calls, way, .. } = open;
        self.way_settled(way, &room, &outcome);
        let place = match outcome {
            Outcome::Placed(place) => place,
            Outcome::Gone => return self.tell(to, Err(Refused::NoEntry)),
            Outcome::Refused(refused) => return self.tell(to, Err(refused)),
        };
        match place.duplicate {
            true => self.metrics.chat.messages_duplicate.inc(),
            false => self.count_accepted(via),
        }
        let Some(calls) = calls else { return self.tell(to, Ok(place)) };
        // Who repeats a message because he heard nothing gets its pointers made up for.
        let Calls { room, by, inboxes, safety } = *calls;
        self.keeping.proposals.calling.insert(ticket, Calling { to, place, left: inboxes.len() });
        for inbox in inboxes {
            let mut draft = super::saying::pointer(inbox, &room, place.offset, by.as_ref());
            draft.id = Some(made_id());
            let (entry, _) = self.entry_of(&draft, &Accepted { ts: clock::wall_ms(), ..NOWHERE });
            let (to, via, part_of) = (AckTo::Nobody, Via::Session, Some(ticket));
            let open = Open { room: entry.room.clone(), safety, to, via, calls: None, part_of, way: None };
            self.propose(entry, key_of_pointer(&room, &place), true, open);
        }
    }

    fn way_of(&self, draft: &Draft) -> Option<Box<Way>> {
        let (room, span) = (&draft.room, &draft.span);
        let way = || Way { span: span.clone(), keep: self.begin_keeping(span, room) };
        span.is_on().then(|| Box::new(way()))
    }

    fn way_settled(&self, way: Option<Box<Way>>, room: &RoomName, outcome: &Outcome) {
        let Some(way) = way else { return };
        match outcome {
            Outcome::Placed(place) => self.remember_way(&way.span, room, place),
            Outcome::Gone | Outcome::Refused(_) => {
                way.keep.fail("refused");
                way.span.fail("refused");
            }
        }
    }

    fn pointer_settled(&mut self, message: u64, outcome: &Outcome) {
        let Some(calling) = self.keeping.proposals.calling.get_mut(&message) else { return };
        calling.left -= 1;
        let refused = match outcome {
            Outcome::Placed(_) | Outcome::Gone => None,
            Outcome::Refused(refused) => Some(refused.clone()),
        };
        if calling.left > 0 && refused.is_none() {
            return;
        }
        if let Some(Calling { to, place, .. }) = self.keeping.proposals.calling.remove(&message) {
            // It has its place, but whoever says it again gets the same one, and the pointers with it.
            self.tell(to, refused.map_or(Ok(place), Err));
        }
    }

    /// The other nodes hear that this one ends; `done` is told.
    pub(super) fn depart(&mut self, done: tokio::sync::oneshot::Sender<()>) {
        self.end_turn();
        match &mut self.keeping.link {
            // Whoever waits may have given up.
            Link::Service(service) => service.close(Box::new(move || done.send(()).unwrap_or_default())),
            Link::Nothing | Link::Store(_) => done.send(()).unwrap_or_default(),
        }
    }

    /// Tells the other nodes.
    pub(super) fn tell_nodes(&mut self, room: RoomName, news: News) {
        if let Link::Service(service) = &mut self.keeping.link {
            service.tell(vec![(room, news)]);
        }
    }

    /// Has all nodes carry out a command; without a service this one does.
    pub(super) fn command(&mut self, command: Command) {
        match &mut self.keeping.link {
            Link::Service(service) => service.command(command),
            Link::Nothing | Link::Store(_) => self.carry_out_command(command),
        }
    }
}

/// An id for a message whose sender gave none.
fn made_id() -> MessageId {
    MessageId::new(&Epoch(rand::random()).to_text()).expect("up to 13 letters and digits are an id")
}
