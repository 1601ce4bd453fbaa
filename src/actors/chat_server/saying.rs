//! Saying something: from a draft to a place in the room and a record of it.

use bytes::Bytes;

use super::keeping::{Passing, Shown, Then};
use super::work::{AckTo, Job};
use super::{ChatServer, HUB_QUEUED_MAX, Place, inbox_of, line_of};
use crate::actors::events::{Incoming, Peer, Verdict};
use crate::actors::letters::{Ask, ConnectionId, What};
use crate::chat::data::Data;
use crate::chat::dedup::IdKey;
use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::{Accepted, Draft, Offset, Refused, Via};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Denied;
use crate::chat::rooms::RoomKey;
use crate::chat::settings::Who;
use crate::clock;
use crate::protocols::codes::Problem;
use crate::protocols::native::Reference;
use crate::protocols::native_frames as frames;
use crate::store::record::{Record, Seen};
use crate::traces::Span;

/// Rooms that are asked to give something up when memory is short.
const SHORT_ROOMS: usize = 64;

/// A pointer to a message, for the inbox of somebody whom it calls by name.
pub(super) fn pointer(inbox: RoomName, room: &RoomName, offset: Offset, by: Option<&UserName>) -> Draft {
    let pointer = serde_json::json!({ "r": room.as_str(), "s": offset }).to_string();
    let data = serde_json::from_str(&pointer).ok().and_then(|raw| Data::new(raw).ok());
    Draft {
        room: inbox,
        user: by.cloned(),
        id: None,
        data: data.expect("an object of two values is data"),
        kind: Some("mention".into()),
        reply_to: None,
        keep: true,
        via: Via::Session,
        span: Span::default(),
    }
}

impl ChatServer {
    /// Gives a draft its place; the room hears of it and `to` is told when it is kept. The handler has been
    /// asked already.
    pub(super) fn publish(&mut self, draft: Draft, to: AckTo) -> Result<(), Refused> {
        self.check_draining(draft.via)?;
        if self.hub_queued() > HUB_QUEUED_MAX {
            return Err(Refused::Busy { wait_ms: super::BUSY_WAIT_MS });
        }
        if self.keeping.is_shared() {
            self.keeping.may_keep()?;
            self.propose_draft(draft, to);
            return Ok(());
        }
        let key = self.find_or_open(&draft.room)?;
        let id = draft.id.as_ref().map(|id| self.keys.key(draft.user.as_ref(), id));
        if let Some(before) = id.and_then(|id| self.rooms.repeat_of(key, id, clock::cautious_ms())) {
            draft.span.number("roomcast.duplicate", 1);
            if draft.via == Via::Queue {
                // While nothing can be kept, that may be so for what was shown already.
                self.keeping.may_keep()?;
            }
            self.repeat(before, key, draft.via, to);
            return Ok(());
        }
        match draft.keep {
            true => {
                self.keeping.may_keep()?;
                self.append(key, draft, id, to);
            }
            false => self.pass_on(key, draft, id, to)?,
        }
        // Bounded, and enough: a message adds less than the older half of a few rooms.
        if self.rooms.is_short() {
            self.tidy(SHORT_ROOMS);
        }
        Ok(())
    }

    pub(super) fn check_draining(&self, via: Via) -> Result<(), Refused> {
        match self.draining.is_some() && via != Via::Session {
            true => Err(Refused::Draining),
            false => Ok(()),
        }
    }

    /// The place that the next entry of a room gets, and the number that its record will have.
    pub(super) fn next_place(&self, key: RoomKey) -> Place {
        let room = self.rooms.get(key);
        let accepted = Accepted {
            offset: room.next_offset(),
            epoch: room.epoch,
            ts: clock::wall_ms(),
            duplicate: false,
        };
        Place { accepted, lsn: self.keeping.newest() + 1 }
    }

    /// The entry of a message at its place, and its frame.
    pub(super) fn entry_of(&mut self, draft: &Draft, place: &Accepted) -> (Entry, Bytes) {
        let frame = self.frame(|out| frames::message(out, draft, place));
        let entry = Entry {
            room: draft.room.clone(),
            epoch: place.epoch,
            offset: place.offset,
            ts: place.ts,
            kind: Kind::Message,
            user: draft.user.clone(),
            id: draft.id.clone(),
            of: draft.reply_to.unwrap_or(0),
            mark: None,
            off: false,
            line: line_of(&frame),
        };
        (entry, frame)
    }

    fn append(&mut self, key: RoomKey, draft: Draft, id: Option<IdKey>, to: AckTo) {
        let Place { accepted: place, .. } = self.next_place(key);
        let (entry, frame) = self.entry_of(&draft, &place);
        let called = line::mentions_in(draft.data.as_bytes());
        let Draft { room, user, via, span, .. } = draft;
        self.remember_way(&span, &room, &place);
        let keep = self.begin_keeping(&span, &room);
        let shown = Shown { key, place, frame, id, change: None, user: user.clone(), via, to, span, keep };
        self.keep_entry(key, Record::Entry(entry), shown);
        for called in called {
            self.tell_inbox(key, &called, user.as_ref(), &place);
        }
    }

    /// Gives an entry its place for good, and shows it when its record is kept; in a room that shows first, at
    /// once.
    pub(super) fn keep_entry(&mut self, key: RoomKey, record: Record, shown: Shown) {
        self.keep_entry_with(key, record, shown, false);
    }

    fn keep_entry_with(&mut self, key: RoomKey, record: Record, mut shown: Shown, with_last: bool) {
        let (ts, id) = (shown.place.ts, shown.id);
        self.expect_ack(&shown.to);
        if !self.keeping.lasts() {
            self.tap(&record);
            if let (Some(exit), Record::Entry(entry)) = (&self.settings.exit, &record) {
                exit.push(entry);
            }
            self.rooms.promise(key, ts, 0, id);
            return self.show(0, shown);
        }
        let again = self.rooms.get(key).settings.sequenced().then(|| record.clone());
        let lsn = self.keeping.record(record, with_last);
        let place = self.rooms.promise(key, ts, lsn, id);
        debug_assert_eq!(place, shown.place);
        match again {
            Some(record) => {
                let keep = std::mem::take(&mut shown.keep);
                self.show(lsn, shown);
                self.when(lsn, Then::Keep(Box::new(record), keep));
            }
            None => self.when(lsn, Then::Show(Box::new(shown))),
        }
    }

    /// The inbox of a user whom a message calls by name, if she may read it.
    pub(super) fn inbox_to_tell(
        &self,
        key: RoomKey,
        called: &UserName,
        by: Option<&UserName>,
    ) -> Option<RoomName> {
        let room = self.rooms.get(key);
        let is_known = room.roster.get(called).is_some() || room.reads.marks.contains_key(called);
        let may_read = self.may_enter(&room.name, called).is_ok()
            && match room.name.owners() {
                Some(owners) => owners.include(called),
                None => room.settings.join == Who::Anyone || is_known,
            };
        inbox_of(called).filter(|inbox| may_read && by != Some(called) && *inbox != room.name)
    }

    /// Puts a pointer to a message into the inbox of a user whom it calls by name, if she may read it. Both are
    /// kept together or not at all.
    fn tell_inbox(&mut self, key: RoomKey, called: &UserName, by: Option<&UserName>, place: &Accepted) {
        let Some(inbox) = self.inbox_to_tell(key, called, by) else { return };
        let name = self.rooms.get(key).name.clone();
        let Ok(key) = self.find_or_open(&inbox) else {
            log::warn!("an inbox cannot be opened, a mention is not told; raise limits.rooms");
            return;
        };
        let draft = pointer(inbox, &name, place.offset, by);
        let Place { accepted: place, .. } = self.next_place(key);
        let (entry, frame) = self.entry_of(&draft, &place);
        let (via, to, span, keep) = (Via::Session, AckTo::Nobody, Span::default(), Span::default());
        let shown = Shown { key, place, frame, id: None, change: None, user: None, via, to, span, keep };
        self.keep_entry_with(key, Record::Entry(entry), shown, true);
    }

    /// Says a message that takes no place, behind all that was said before. Its id is kept, if it has one.
    fn pass_on(&mut self, key: RoomKey, draft: Draft, id: Option<IdKey>, to: AckTo) -> Result<(), Refused> {
        let ts = clock::wall_ms();
        let lsn = match &draft.id {
            Some(name) if self.keeping.lasts() => {
                self.keeping.may_keep()?;
                let (room, user) = (draft.room.clone(), draft.user.clone());
                let lsn = self.keeping.record(Record::Seen(Seen { room, user, id: name.clone(), ts }), false);
                self.rooms.get_mut(key).note_record(lsn);
                lsn
            }
            _ => self.keeping.newest(),
        };
        let place = self.rooms.pass_on(key, ts, id);
        self.end_typing(key, draft.user.as_ref());
        let frame = self.frame(|out| frames::message(out, &draft, &place));
        self.expect_ack(&to);
        self.rooms.get_mut(key).note_record(lsn);
        let Draft { via, span, .. } = draft;
        self.when(lsn, Then::Pass(Box::new(Passing { key, place, frame, id, via, to, span })));
        Ok(())
    }

    pub(super) fn count_accepted(&self, via: Via) {
        let counter = match via {
            Via::Session => &self.metrics.chat.messages_accepted_session,
            Via::Queue => &self.metrics.chat.messages_accepted_queue,
            Via::Api => &self.metrics.chat.messages_accepted_api,
        };
        counter.inc();
    }

    pub(super) fn count_refused(&self, refused: &Refused) {
        let counter = match refused {
            Refused::Busy { .. } => &self.metrics.chat.messages_refused_busy,
            Refused::Draining => &self.metrics.chat.messages_refused_draining,
            Refused::TooManyRooms => &self.metrics.chat.messages_refused_rooms,
            Refused::ByHandler(_) | Refused::NoEntry => &self.metrics.chat.messages_refused_handler,
            Refused::NotStored { .. } => &self.metrics.chat.messages_refused_not_stored,
        };
        counter.inc();
    }

    /// Lets the handler look at a draft, and change or refuse it.
    pub(super) fn ask_handler(
        &mut self,
        from: Option<ConnectionId>,
        mut draft: Draft,
    ) -> Result<Draft, Refused> {
        if self.handlers.rooms.is_none() {
            return Ok(draft);
        }
        let peer = Peer { connection: from, user: draft.user.clone(), uri: "".into() };
        let room = draft.room.clone();
        let verdict = self.call(&peer, None, |handler, effects| {
            handler.on_message(&peer, Incoming::Draft(&mut draft), effects)
        });
        match verdict {
            Some(Verdict::Accept) => {}
            Some(Verdict::Refuse(why)) => return Err(Refused::ByHandler(why)),
            None => return Err(Refused::ByHandler("the application failed on this message".into())),
        }
        // Who may speak was checked for the room that was named.
        draft.room = room;
        Ok(draft)
    }

    /// Asks the handler, then publishes.
    pub(super) fn moderate(
        &mut self,
        from: Option<ConnectionId>,
        draft: Draft,
        to: AckTo,
    ) -> Result<(), Refused> {
        let span = draft.span.clone();
        let said = self.ask_handler(from, draft).and_then(|draft| self.publish(draft, to));
        if said.is_err() {
            span.fail("refused");
        }
        said
    }

    /// What a handler says. It does not come back to it.
    pub(super) fn say_for_handler(&mut self, draft: Draft) {
        let mut needs = Vec::new();
        if self.keeping.lasts() {
            self.needs_of_draft(&draft, &mut needs);
        }
        if !needs.is_empty() {
            return self.fetch(needs, Job::Say(Box::new(draft)));
        }
        if let Err(refused) = self.publish(draft, AckTo::Nobody) {
            log::warn!("a handler's message was not said: {refused}");
        }
    }

    fn say(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        draft: Draft,
        granted: bool,
    ) -> Result<(), Problem> {
        let joined =
            self.rooms.find(&draft.room).is_some_and(|key| self.membership(connection, key).is_some());
        if !joined && !granted {
            self.session_may_enter(connection, &draft.room)?;
            return Err(Denied::NotJoined.into());
        }
        self.may_say(connection, &draft)?;
        let to = AckTo::Session(connection, Box::new(reference.clone()), false);
        let has_rules = self.rulebook.of(&draft.room).is_some();
        let said = has_rules.then(|| (draft.room.clone(), draft.user.clone(), draft.id.clone()));
        self.moderate(Some(connection), draft, to).map_err(|refused| {
            self.count_refused(&refused);
            Problem::from(refused)
        })?;
        if let Some((room, Some(user), id)) = said {
            self.rulebook.has_said(&room, &user, id, clock::steady_ms());
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, connection: ConnectionId, ask: Ask) {
        let Ask { reference, what } = ask;
        // Entered or refused: a session that goes on with a room is not on its way there any more.
        let entering = match &what {
            What::Join(join) => Some(join.room.clone()),
            What::Leave(room) => Some(room.clone()),
            What::Refuse(_) => reference.room.clone(),
            _ => None,
        };
        if let Err(problem) = self.try_answer(connection, &reference, what) {
            self.refuse(connection, &reference, &problem);
        }
        if let Some(room) = entering {
            self.has_returned(connection, &room);
        }
    }

    fn try_answer(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        what: What,
    ) -> Result<(), Problem> {
        match what {
            What::Publish { draft, granted } => self.say(connection, reference, draft, granted)?,
            What::Alter { alteration, granted } => {
                let to = AckTo::Session(connection, Box::new(reference.clone()), true);
                self.alter(connection, alteration, granted, to)?;
            }
            What::Join(join) => self.join(connection, reference, &join)?,
            What::Leave(room) => {
                let key = self.rooms.find(&room);
                match key.and_then(|key| self.membership(connection, key)) {
                    Some(membership) => self.leave(connection, membership, "left"),
                    None => return Err(Denied::NotJoined.into()),
                }
                if reference.i.is_some() {
                    self.send(connection, |out| frames::ok(out, reference));
                }
            }
            What::Read { room, offset } => self.read_to(connection, &room, offset)?,
            What::Got { room, offset } => self.got_to(connection, &room, offset)?,
            What::Typing { room, on } => self.type_on(connection, &room, on)?,
            What::Who { room, after, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.who(connection, reference.i, key, after.as_deref(), n),
                None => self.send(connection, |out| {
                    frames::who(out, &room, 0, reference.i, std::iter::empty(), false)
                }),
            },
            What::Log { room, from, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.log(connection, reference, key, from, n),
                None => return Err(Problem::no_room()),
            },
            What::Find { room, words, before, n, granted } => {
                self.check_search()?;
                match self.room_to_read(connection, &room, granted)? {
                    Some(_) => self.find(connection, reference, room, words, before, n),
                    None => return Err(Problem::no_room()),
                }
            }
            What::Rooms => {
                self.check_store("a list of rooms")?;
                self.list_rooms(connection, reference);
            }
            What::Ping => self.send(connection, |out| frames::pong(out, reference.i)),
            What::Done => self.send(connection, |out| frames::ok(out, reference)),
            What::Refuse(problem) => return Err(problem),
            What::Bye(goodbye) => self.close(connection, goodbye),
        }
        Ok(())
    }

    fn check_store(&self, what: &str) -> Result<(), Problem> {
        match self.keeping.lasts() {
            true => Ok(()),
            false => Err(Problem::new(
                400,
                "unknown-type",
                format!(
                    "this server keeps rooms in memory and has no {what}; its operator can set store.url"
                ),
            )),
        }
    }

    fn check_search(&self) -> Result<(), Problem> {
        self.check_store("search")?;
        match self.settings.searchable {
            true => Ok(()),
            false => Err(Problem::new(
                400,
                "unknown-type",
                "this server keeps rooms in Redis alone and has no search; its operator can set store.url = \"postgres://…\"",
            )),
        }
    }

    /// The room of a name, opened if need be. With a store, what it knows of the room has been asked for.
    pub(super) fn find_or_open(&mut self, name: &RoomName) -> Result<RoomKey, Refused> {
        if let Some(key) = self.rooms.find(name) {
            return Ok(key);
        }
        match self.keeping.lasts() {
            // It was asked for, and there was no place for it.
            true => Err(Refused::TooManyRooms),
            false => self.open_room(name, None),
        }
    }
}
