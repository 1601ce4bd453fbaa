//! Changes to what was said: edits, deletes and reactions. Each becomes an entry of its own, so that everybody
//! sees them in the same order as everything else.

use tokio::sync::oneshot;

use super::keeping::{Change, Shown, Then};
use super::looking::reply_to;
use super::work::{AckTo, Job};
use super::{ChatServer, Place};
use crate::actors::letters::{ConnectionId, Erase};
use crate::chat::changes::State;
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::{Accepted, Alteration, Altering, Draft, Epoch, Offset, Via};
use crate::chat::names::UserName;
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::protocols::codes::Problem;
use crate::protocols::native_frames as frames;
use crate::store::record::Record;
use crate::traces::Span;

/// An entry that an operator wants to be blanked, and who waits for that.
#[derive(Debug)]
pub(super) struct Erasing {
    pub(super) what: Erase,
    pub(super) reply: oneshot::Sender<Result<Accepted, Problem>>,
}

impl Erasing {
    fn alteration(&self) -> Alteration {
        let Erase { room, of, user } = &self.what;
        Alteration { room: room.clone(), user: user.clone(), id: None, of: *of, what: Altering::Delete }
    }
}

impl ChatServer {
    /// Carries out what a session asks for. The answer comes when it is kept.
    pub(super) fn alter(
        &mut self,
        connection: ConnectionId,
        mut alteration: Alteration,
        granted: bool,
        to: AckTo,
    ) -> Result<(), Problem> {
        let key = self.room_to_read(connection, &alteration.room, granted)?;
        let Some(key) = key else { return Err(Problem::no_entry()) };
        self.check_draining(Via::Session)?;
        let id = alteration.id.as_ref().map(|id| self.keys.key(alteration.user.as_ref(), id));
        if let Some(before) = id.and_then(|id| self.rooms.repeat_of(key, id, clock::cautious_ms())) {
            self.repeat(before, key, Via::Session, to);
            return Ok(());
        }
        if !matches!(alteration.what, Altering::Delete) {
            // Who may not write may take back what he has written.
            self.session_may_write(connection, &alteration.room)?;
        }
        self.learn_from_history(key, alteration.of);
        let done = self.check_alteration(key, &alteration)?;
        if let Some(before) = done {
            self.repeat(before, key, Via::Session, to);
            return Ok(());
        }
        if let Altering::Edit(data) = &mut alteration.what {
            let draft = Draft {
                room: alteration.room.clone(),
                user: alteration.user.clone(),
                id: alteration.id.clone(),
                data: data.clone(),
                kind: None,
                reply_to: None,
                keep: true,
                via: Via::Session,
                span: Span::default(),
            };
            // An edit must not say what a message may not.
            *data = self.ask_handler(Some(connection), draft)?.data;
        }
        self.keeping.may_keep()?;
        self.append_alteration(key, alteration, id, Via::Session, to);
        Ok(())
    }

    /// Blanks an entry for an operator, whoever has said it.
    pub(super) fn erase(&mut self, erasing: Erasing) {
        let mut needs = Vec::new();
        if self.keeping.lasts() {
            self.needs_of_alteration(&erasing.alteration(), &mut needs);
        }
        if !needs.is_empty() {
            return self.fetch(needs, Job::Erase(Box::new(erasing)));
        }
        let alteration = erasing.alteration();
        match self.entry_to_erase(&alteration) {
            Ok(key) => {
                let to = AckTo::Alone(erasing.reply);
                self.append_alteration(key, alteration, None, Via::Api, to);
            }
            Err(problem) => reply_to(erasing.reply, Err(problem)),
        }
    }

    fn entry_to_erase(&mut self, alteration: &Alteration) -> Result<RoomKey, Problem> {
        self.check_draining(Via::Api)?;
        let key = self.rooms.find(&alteration.room).ok_or_else(Problem::no_room)?;
        self.learn_from_history(key, alteration.of);
        self.message_at(key, alteration.of)?;
        self.keeping.may_keep()?;
        Ok(key)
    }

    /// The state of a message that can be changed.
    fn message_at(&self, key: RoomKey, of: Offset) -> Result<&State, Problem> {
        let room = self.rooms.get(key);
        let state = if room.is_shown(of) { room.changes.get(of) } else { None };
        state.filter(|state| state.kind == Kind::Message && !state.deleted).ok_or_else(Problem::no_entry)
    }

    /// Whether somebody may change an entry like this. Returns the place of a reaction that stands already.
    fn check_alteration(&self, key: RoomKey, alteration: &Alteration) -> Result<Option<Accepted>, Problem> {
        let room = self.rooms.get(key);
        let state = self.message_at(key, alteration.of)?;
        let Some(user) = &alteration.user else { return Err(Problem::not_yours()) };
        let Altering::React { mark, off } = &alteration.what else {
            let moderates =
                matches!(alteration.what, Altering::Delete) && self.is_moderator(&alteration.room, user);
            return match state.user.as_ref() == Some(user) || moderates {
                true => Ok(None),
                false => Err(Problem::not_yours()),
            };
        };
        let standing =
            |offset: Offset| Accepted { offset, epoch: room.epoch, ts: clock::wall_ms(), duplicate: true };
        match state.reaction(user, mark.as_str()) {
            Some((on, offset)) if on != *off => Ok(Some(standing(offset))),
            None if *off => Err(Problem::no_entry()),
            _ => Ok(None),
        }
    }

    fn append_alteration(
        &mut self,
        key: RoomKey,
        alteration: Alteration,
        id: Option<crate::chat::dedup::IdKey>,
        via: Via,
        to: AckTo,
    ) {
        let Alteration { room, user, id: name, of, what } = alteration;
        let Place { accepted: mut place, lsn } = self.next_place(key);
        if self.keeping.is_shared() {
            // The service gives it its place and writes that into the line.
            (place.offset, place.epoch) = (0, Epoch(0));
        }
        let (kind, mark, off) = match &what {
            Altering::Edit(_) => (Kind::Edit, None, false),
            Altering::Delete => (Kind::Delete, None, false),
            Altering::React { mark, off } => (Kind::React, Some(mark.as_str().into()), *off),
        };
        let mut entry = Entry {
            room,
            epoch: place.epoch,
            offset: place.offset,
            ts: place.ts,
            kind,
            user: user.clone(),
            id: name,
            of,
            mark,
            off,
            line: Default::default(),
        };
        let frame = self.frame(|out| match &what {
            Altering::Edit(data) => frames::change(out, &entry, Some(data)),
            Altering::Delete | Altering::React { .. } => frames::change(out, &entry, None),
        });
        entry.line = super::line_of(&frame);
        if self.keeping.is_shared() {
            return self.propose_change(entry, via, to);
        }
        let replaces = self.remember_alteration(key, user.as_ref(), of, &what, place.offset, lsn);
        let change = match what {
            Altering::Edit(data) => Some(Change { of, data: Some(data), replaces }),
            Altering::Delete => Some(Change { of, data: None, replaces }),
            Altering::React { .. } => None,
        };
        let (span, keep) = (Span::default(), Span::default());
        let shown = Shown { key, place, frame, id, change, user: None, via, to, span, keep };
        self.keep_entry(key, Record::Entry(entry), shown);
    }

    /// Notes in memory what becomes of an entry. Returns the edit that is replaced; 0 for none.
    fn remember_alteration(
        &mut self,
        key: RoomKey,
        user: Option<&UserName>,
        of: Offset,
        what: &Altering,
        offset: Offset,
        lsn: u64,
    ) -> Offset {
        let Some(state) = self.rooms.get_mut(key).changes.get_mut(of) else { return 0 };
        state.lsn = lsn;
        match what {
            Altering::Edit(_) => std::mem::replace(&mut state.edited, offset),
            Altering::Delete => {
                state.deleted = true;
                std::mem::take(&mut state.edited)
            }
            Altering::React { mark, off } => {
                if let Some(user) = user {
                    state.react(user, mark.as_str(), !*off, offset);
                }
                0
            }
        }
    }

    /// What was said before under the same id, or stands already: told when that is kept.
    pub(super) fn repeat(&mut self, before: Accepted, key: RoomKey, via: Via, to: AckTo) {
        self.metrics.chat.messages_duplicate.inc();
        // It must not come before the answers to what the same session said earlier.
        let has_pending = matches!(to, AckTo::Session(connection, ..) if self.has_pending(connection));
        // What is shown is kept, but for rooms that show first; and what comes from a queue must be.
        let is_kept = via != Via::Queue
            && (before.offset == 0 && self.keeping.is_idle() || self.rooms.get(key).is_shown(before.offset));
        self.expect_ack(&to);
        match is_kept && !has_pending {
            true => self.tell(to, Ok(before)),
            false => self.when_kept(Then::Answer(to, Ok(before))),
        }
    }
}
