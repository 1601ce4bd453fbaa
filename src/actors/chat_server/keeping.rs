//! From a place that was given out to an entry that everybody sees: what is said goes to the engine, and a
//! step waits here until it is kept. Steps are taken in the order in which they were made, so that nobody
//! sees or hears of anything earlier than of what came before it. Without an engine a step is taken at once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::ChatServer;
use super::moderating::Ruling;
use super::proposing::Proposals;
use super::tracing::Kept;
use super::work::AckTo;
use crate::actors::letters::ConnectionId;
use crate::chat::data::Data;
use crate::chat::dedup::IdKey;
use crate::chat::history::Hot;
use crate::chat::line;
use crate::chat::message::{Accepted, Offset, Refused, Via};
use crate::chat::names::{RoomName, UserName};
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::engines::engine::{Ask, Engine};
use crate::engines::shared::Shared;
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::frame::payload_of;
use crate::store::record::{Item, Lsn, Record};
use crate::traces::Span;

/// How long a sender should wait while the store keeps nothing, in milliseconds.
const NOT_STORED_WAIT_MS: u64 = 1_000;
/// Bytes that may wait in the journal for the archive; above it senders are asked to wait.
const BACKLOG_BYTES_MAX: u64 = 256 << 20;
/// Bytes of frames that may wait to be kept.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Whether things can be kept. Written by the chat server, read by the readiness page.
#[derive(Debug, Default)]
pub struct StoreHealth(Mutex<Option<String>>);

impl StoreHealth {
    /// Why nothing can be kept; none while all is well.
    pub fn complaint(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, complaint: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = complaint;
    }
}

/// What is to happen when the record with this number is kept.
pub(super) struct Step {
    lsn: Lsn,
    what: Then,
}

pub(super) enum Then {
    /// An entry becomes visible.
    Show(Box<Shown>),
    /// An entry is visible already; should it not be kept, it has to be tried again.
    Keep(Box<Record>, Span),
    /// A message without a place goes out.
    Pass(Box<Passing>),
    /// An answer that must not come before others.
    Answer(AckTo, Result<Accepted, Refused>),
    /// A frame that must not come before other answers.
    Frame(ConnectionId, Bytes),
    /// Where a session stands is kept.
    Session(ConnectionId),
    /// How far a user has read is kept.
    Read(RoomName, UserName, Offset),
    /// An operator's order about a room is kept.
    Ruled(Box<Ruling>),
    /// Everything before is kept; somebody waits to hear whether.
    Finish(tokio::sync::oneshot::Sender<bool>),
}

/// An entry on its way.
pub(super) struct Shown {
    pub(super) key: RoomKey,
    pub(super) place: Accepted,
    pub(super) frame: Bytes,
    pub(super) id: Option<IdKey>,
    pub(super) change: Option<Change>,
    /// Who stops typing with it.
    pub(super) user: Option<UserName>,
    pub(super) via: Via,
    pub(super) to: AckTo,
    /// The way of the message, and the step of keeping it.
    pub(super) span: Span,
    pub(super) keep: Span,
}

/// A message without a place on its way.
pub(super) struct Passing {
    pub(super) key: RoomKey,
    pub(super) place: Accepted,
    pub(super) frame: Bytes,
    pub(super) id: Option<IdKey>,
    pub(super) via: Via,
    pub(super) to: AckTo,
    pub(super) span: Span,
}

/// What an entry does to an earlier one.
pub(super) struct Change {
    pub(super) of: Offset,
    /// New words, or none any more.
    pub(super) data: Option<Data>,
    /// The edit that is replaced; 0 for none.
    pub(super) replaces: Offset,
}

/// What keeps the rooms.
pub(super) enum Link {
    /// Memory alone.
    Nothing,
    /// A store of this node's own: it keeps the places that the rooms give out.
    Store(Box<dyn Engine>),
    /// A service that gives out the places for several nodes.
    Service(Box<dyn Shared>),
}

/// What stands between the rooms and the engine.
pub(super) struct Keeping {
    pub(super) link: Link,
    /// Proposals under way, with a service.
    pub(super) proposals: Proposals,
    /// Number of the next record.
    next: Lsn,
    /// Records of this turn.
    items: Vec<Item>,
    steps: std::collections::VecDeque<Step>,
    waiting_bytes: usize,
    kept: Lsn,
    /// Number of the newest record of the process before.
    replayed: Lsn,
    /// Set while nothing can be kept.
    failed: bool,
    /// Why the archive takes nothing.
    archive_fails: Option<String>,
    /// Entries that everybody has seen and that are not kept yet, after a failure.
    unsaved: Vec<Record>,
    health: Arc<StoreHealth>,
}

impl Keeping {
    /// Nothing under way; the next record has this number.
    pub(super) fn new(next: Lsn, health: Arc<StoreHealth>) -> Keeping {
        Keeping {
            link: Link::Nothing,
            proposals: Proposals::default(),
            next,
            items: Vec::new(),
            steps: std::collections::VecDeque::new(),
            waiting_bytes: 0,
            kept: next - 1,
            replayed: next - 1,
            failed: false,
            archive_fails: None,
            unsaved: Vec::new(),
            health,
        }
    }

    /// The archive takes nothing more, or does again.
    pub(super) fn note_archive(&mut self, why: Option<String>) {
        self.archive_fails = why.map(|why| format!("the archive takes nothing: {why}"));
        if !self.failed {
            self.health.set(self.archive_fails.clone());
        }
    }

    /// Number of the newest record that is kept.
    pub(super) fn kept(&self) -> Lsn {
        self.kept
    }

    /// Number of the newest record that was there at the start.
    pub(super) fn replayed(&self) -> Lsn {
        self.replayed
    }

    /// Number of the newest record.
    pub(super) fn newest(&self) -> Lsn {
        self.next - 1
    }

    /// Whether nothing waits to be kept.
    pub(super) fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.steps.len()
    }

    /// Whether more than this process keeps the rooms.
    pub(super) fn lasts(&self) -> bool {
        !matches!(self.link, Link::Nothing)
    }

    /// Whether a service gives out the places.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.link, Link::Service(_))
    }

    /// Asks what keeps the rooms.
    pub(super) fn ask(&mut self, ask: Ask) {
        match &mut self.link {
            Link::Nothing => {}
            Link::Store(engine) => engine.ask(ask),
            Link::Service(service) => service.ask(ask),
        }
    }

    /// Whether something can be kept now.
    pub(super) fn may_keep(&self) -> Result<(), Refused> {
        let backlog = match &self.link {
            Link::Nothing => return Ok(()),
            Link::Store(engine) => engine.backlog_bytes(),
            Link::Service(service) => service.waiting_bytes(),
        };
        if self.failed {
            return Err(Refused::NotStored { wait_ms: NOT_STORED_WAIT_MS });
        }
        if backlog > BACKLOG_BYTES_MAX || self.waiting_bytes > WAITING_BYTES_MAX {
            return Err(Refused::Busy { wait_ms: super::BUSY_WAIT_MS });
        }
        Ok(())
    }

    /// Whether nothing can be kept just now.
    pub(super) fn ails(&self) -> bool {
        self.health.complaint().is_some()
    }

    /// Notes why nothing can be kept in the service, or that it can.
    pub(super) fn note_service(&mut self, complaint: Option<String>) {
        self.health.set(complaint);
    }

    /// All proposals up to this ticket are settled.
    pub(super) fn newest_settled(&self) -> Lsn {
        self.proposals.first_open().map_or(self.newest(), |first| first - 1)
    }

    /// The number of the next proposal.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Gives a record its number. `with_last`: kept together with the record before, or not at all.
    pub(super) fn record(&mut self, record: Record, with_last: bool) -> Lsn {
        if self.is_shared() {
            // Its place is not among the proposals.
            self.items.push(Item { lsn: 0, record, with_next: false });
            return self.newest();
        }
        let lsn = self.next;
        self.next += 1;
        if with_last && let Some(last) = self.items.last_mut() {
            last.with_next = true;
        }
        self.items.push(Item { lsn, record, with_next: false });
        lsn
    }

    /// Hands this turn's records to the engine.
    pub(super) fn end_turn(&mut self) {
        let items = std::mem::take(&mut self.items);
        match &mut self.link {
            Link::Nothing => {}
            Link::Store(engine) if !items.is_empty() => engine.keep(items),
            Link::Service(service) => {
                let proposals = self.proposals.take_new();
                if !proposals.is_empty() {
                    service.propose(proposals);
                }
                if !items.is_empty() {
                    service.note(items.into_iter().map(|item| item.record).collect());
                }
            }
            Link::Store(_) => {}
        }
    }
}

/// Whoever waited may have gone, and needs no answer then.
fn tell_if_there(done: tokio::sync::oneshot::Sender<bool>, kept: bool) {
    done.send(kept).unwrap_or_default();
}

impl Then {
    fn bytes(&self) -> usize {
        match self {
            Then::Show(shown) => shown.frame.len(),
            Then::Pass(passing) => passing.frame.len(),
            Then::Frame(_, frame) => frame.len(),
            _ => 0,
        }
    }
}

impl ChatServer {
    /// Takes a step when everything so far is kept: at once, if it is.
    pub(super) fn when_kept(&mut self, what: Then) {
        self.when(self.keeping.newest(), what);
    }

    /// Takes a step when a record is kept.
    pub(super) fn when(&mut self, lsn: Lsn, what: Then) {
        if !self.keeping.lasts() || lsn <= self.keeping.kept && self.keeping.is_idle() {
            return self.take_step(lsn, what);
        }
        self.keeping.waiting_bytes += what.bytes();
        self.keeping.steps.push_back(Step { lsn, what });
    }

    /// Everything up to a record is kept.
    pub(super) fn kept(&mut self, upto: Lsn) {
        self.keeping.kept = self.keeping.kept.max(upto);
        self.traces.kept_at(clock::wall_ms());
        while self.keeping.steps.front().is_some_and(|step| step.lsn <= upto) {
            if let Some(step) = self.keeping.steps.pop_front() {
                self.keeping.waiting_bytes -= step.what.bytes();
                self.take_step(step.lsn, step.what);
            }
        }
    }

    fn take_step(&mut self, lsn: Lsn, what: Then) {
        match what {
            Then::Show(shown) => self.show(lsn, *shown),
            Then::Pass(passing) => {
                let Passing { key, place, frame, via, to, span, .. } = *passing;
                self.spread(key, &frame, 0, &span.to_ref());
                self.count_accepted(via);
                self.tell(to, Ok(place));
            }
            Then::Answer(to, answer) => self.tell(to, answer),
            Then::Frame(connection, frame) => self.send_at_last(connection, frame),
            Then::Finish(done) => tell_if_there(done, true),
            Then::Ruled(ruling) => self.ruling_kept(*ruling),
            Then::Keep(..) | Then::Session(_) | Then::Read(..) => {}
        }
    }

    /// An entry becomes part of what readers see.
    pub(super) fn show(&mut self, lsn: Lsn, shown: Shown) {
        let Shown { key, place, frame, change, user, via, to, span, keep, .. } = shown;
        keep.end();
        if change.is_none() {
            self.end_typing(key, user.as_ref());
        }
        let lsn = if self.keeping.lasts() { lsn } else { 0 };
        let (name, kept) = (self.rooms.get(key).name.clone(), Kept::of_record(lsn));
        self.remember_origin(name, &place, &to, kept, self.traces.kept_last());
        let offset = self.rooms.show(key, Hot { ts: place.ts, lsn, frame: frame.clone() });
        debug_assert_eq!(offset, place.offset, "entries are shown in the order of their places");
        if let Some(change) = change {
            self.change_hot(key, offset, &change);
        }
        self.spread(key, &frame, offset, &span.to_ref());
        self.count_accepted(via);
        match via == Via::Queue && lsn > self.keeping.kept {
            // Its room shows first; but the answer removes it from its queue, so it has to be kept by then.
            true => self.when(lsn, Then::Answer(to, Ok(place))),
            false => self.tell(to, Ok(place)),
        }
    }

    /// Puts a change into the hot entries that it is about.
    pub(super) fn change_hot(&mut self, key: RoomKey, offset: Offset, change: &Change) {
        let room = self.rooms.get(key);
        let name = room.name.clone();
        if let Some(frame) = room.history.get(change.of) {
            let line = match &change.data {
                Some(data) => line::amended(payload_of(frame), data.as_bytes(), offset),
                None => line::blanked(payload_of(frame)),
            };
            let frame = super::text_frame(&line);
            self.rooms.replace(key, change.of, frame);
        }
        if change.replaces > 0 {
            let skip = self.frame(|out| frames::skip(out, &name, change.replaces, 1));
            self.rooms.replace(key, change.replaces, skip);
        }
    }

    /// Nothing from a record on is kept. What nobody has seen is taken back; what everybody has seen is tried
    /// again later.
    pub(super) fn not_kept(&mut self, from: Lsn, why: &str) {
        log::error!("store: nothing can be kept, messages are refused as not-stored: {}", why.escape_debug());
        self.keeping.failed = true;
        self.keeping.health.set(Some(format!("the store keeps nothing: {why}")));
        self.keeping.items.clear();
        self.keeping.waiting_bytes = 0;
        let kept = self.keeping.steps.partition_point(|step| step.lsn < from);
        let mut lost = self.keeping.steps.split_off(kept);
        self.keeping.next = from;
        for step in lost.iter_mut().rev() {
            match &mut step.what {
                Then::Show(shown) => {
                    self.rooms.take_back(shown.key, shown.id);
                    self.rooms.get_mut(shown.key).changes.forget_all();
                }
                Then::Pass(passing) => self.rooms.take_back_id(passing.key, passing.id),
                Then::Ruled(ruling) => self.take_ruling_back(ruling),
                _ => {}
            }
        }
        let refused = Refused::NotStored { wait_ms: NOT_STORED_WAIT_MS };
        for step in lost {
            match step.what {
                Then::Show(shown) => {
                    shown.keep.fail("not stored");
                    shown.span.fail("not stored");
                    self.tell(shown.to, Err(refused.clone()));
                }
                Then::Pass(passing) => {
                    passing.span.fail("not stored");
                    self.tell(passing.to, Err(refused.clone()));
                }
                Then::Answer(to, Ok(_)) => self.tell(to, Err(refused.clone())),
                Then::Keep(record, keep) => {
                    keep.fail("not stored");
                    self.keeping.unsaved.push(*record);
                }
                Then::Session(connection) => self.note_session(connection),
                Then::Read(room, user, offset) => {
                    self.unkept_reads.entry((room, user)).or_insert(offset);
                }
                Then::Finish(done) => tell_if_there(done, false),
                Then::Ruled(ruling) => ruling.end(Err(refused.clone().into())),
                other => self.take_step(from, other),
            }
        }
    }

    /// Things can be kept again.
    pub(super) fn healed(&mut self) {
        log::info!("store: things can be kept again");
        self.keeping.failed = false;
        self.keeping.health.set(self.keeping.archive_fails.clone());
        let next = self.keeping.next;
        if let Link::Store(engine) = &mut self.keeping.link {
            engine.go_on(next);
        }
        for record in std::mem::take(&mut self.keeping.unsaved) {
            let lsn = self.keeping.record(record.clone(), false);
            self.when(lsn, Then::Keep(Box::new(record), Span::default()));
        }
    }
}
