//! Saying something: from a draft to a place in the room, and the answers to what else a session asks.

use super::{BUSY_WAIT_MS, ChatServer, HUB_QUEUED_MAX, now_ms, text_frame};
use crate::actors::events::{Incoming, Peer, Verdict};
use crate::actors::letters::{Ask, ConnectionId, ToHub, What};
use crate::chat::history::PageFrom;
use crate::chat::message::{Accepted, Draft, Refused, Via};
use crate::chat::names::RoomName;
use crate::chat::permission::Denied;
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Problem;
use crate::protocols::native::{Reference, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::frame::payload_of;

/// Rooms that are asked to give something up when memory is short.
const SHORT_ROOMS: usize = 64;

impl ChatServer {
    /// Gives a draft its place and tells the room. The handler has been asked already.
    pub(super) fn publish(&mut self, draft: Draft) -> Result<Accepted, Refused> {
        if self.draining.is_some() && draft.via != Via::Session {
            return Err(Refused::Draining);
        }
        if self.hub_queued() > HUB_QUEUED_MAX {
            return Err(Refused::Busy { wait_ms: BUSY_WAIT_MS });
        }
        let key = self.find_or_open(&draft.room)?;
        let now = now_ms();
        let id = draft.id.as_ref().map(|id| self.keys.key(draft.user.as_ref(), id));
        if let Some(before) = id.and_then(|id| self.rooms.repeat_of(key, id, now)) {
            self.metrics.chat.messages_duplicate.inc();
            return Ok(before);
        }
        self.end_typing(key, draft.user.as_ref());
        let room = self.rooms.get(key);
        let offset = if draft.keep { room.next_offset() } else { 0 };
        let place = Accepted { offset, epoch: room.epoch, ts: now, duplicate: false };
        let frame = self.frame(|out| frames::message(out, &draft, &place));
        self.broadcast(key, &frame, None);
        let accepted = match draft.keep {
            true => self.rooms.append(key, now, frame, id),
            false => self.rooms.pass_on(key, now, id),
        };
        debug_assert_eq!(accepted, place);
        self.count_accepted(draft.via);
        // Bounded, and enough: a message adds less than the older half of a few rooms.
        if self.rooms.is_short() {
            self.tidy(SHORT_ROOMS);
        }
        Ok(accepted)
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
            Refused::ByHandler(_) => &self.metrics.chat.messages_refused_handler,
        };
        counter.inc();
    }

    /// Asks the handler, then publishes.
    pub(super) fn moderate(
        &mut self,
        from: Option<ConnectionId>,
        mut draft: Draft,
    ) -> Result<Accepted, Refused> {
        if self.handlers.rooms.is_some() {
            let peer = Peer { connection: from, user: draft.user.clone(), uri: "".into() };
            let room = draft.room.clone();
            let verdict = self.call(&peer, None, |handler, effects| {
                handler.on_message(&peer, Incoming::Draft(&mut draft), effects)
            });
            match verdict {
                Some(Verdict::Accept) => {}
                Some(Verdict::Refuse(why)) => return Err(Refused::ByHandler(why)),
                None => {
                    return Err(Refused::ByHandler("the application failed on this message".into()));
                }
            }
            // Who may speak was checked for the room that was named.
            draft.room = room;
        }
        self.publish(draft)
    }

    pub(super) fn say(
        &mut self,
        connection: ConnectionId,
        draft: Draft,
        granted: bool,
    ) -> Result<Accepted, Problem> {
        let joined =
            self.rooms.find(&draft.room).is_some_and(|key| self.membership(connection, key).is_some());
        if !joined && !granted {
            return Err(Denied::NotJoined.into());
        }
        self.moderate(Some(connection), draft).map_err(|refused| {
            self.count_refused(&refused);
            refused.into()
        })
    }

    /// The room of a question: one that the session is in, or that its token lists.
    pub(super) fn room_to_read(
        &self,
        connection: ConnectionId,
        name: &RoomName,
        granted: bool,
    ) -> Result<Option<RoomKey>, Problem> {
        let key = self.rooms.find(name);
        match key.is_some_and(|key| self.membership(connection, key).is_some()) || granted {
            true => Ok(key),
            false => Err(Denied::NotJoined.into()),
        }
    }

    pub(super) fn who(
        &mut self,
        connection: ConnectionId,
        i: RequestNumber,
        key: RoomKey,
        after: Option<&str>,
        n: usize,
    ) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let mut page = Vec::new();
        let (mut bytes, mut more) = (0, false);
        for (user, present) in room.roster.after(after) {
            bytes += user.as_str().len() + present.info.as_ref().map_or(0, |info| info.as_bytes().len());
            if page.len() == n || !page.is_empty() && bytes > self.settings.message_bytes {
                more = true;
                break;
            }
            page.push((user, present));
        }
        frames::who(&mut line, &room.name, room.history.top(), i, page.into_iter(), more);
        let frame = text_frame(&line);
        self.line = line;
        self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    pub(super) fn log(
        &mut self,
        connection: ConnectionId,
        i: RequestNumber,
        key: RoomKey,
        from: PageFrom,
        n: usize,
    ) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let (entries, more) = room.history.page(from, n, self.settings.message_bytes);
        // Pages name the places of what has no line; in memory every place has one.
        let lines = entries.iter().map(|frame| (0, Some(payload_of(frame))));
        frames::page(&mut line, &room.name, &room.epoch.to_text(), i, lines, more);
        let frame = text_frame(&line);
        self.line = line;
        self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    pub(super) fn answer(&mut self, connection: ConnectionId, ask: Ask) {
        let Ask { reference, what } = ask;
        if let Err(problem) = self.try_answer(connection, &reference, what) {
            self.metrics.errors.count(problem.why);
            self.send(connection, |out| frames::err(out, &reference, &problem));
        }
    }

    pub(super) fn try_answer(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        what: What,
    ) -> Result<(), Problem> {
        match what {
            What::Publish { draft, granted } => {
                let place = self.say(connection, draft, granted)?;
                self.send(connection, |out| frames::ack(out, reference, &place));
            }
            What::Join(join) => self.join(connection, reference, &join)?,
            What::Leave(room) => {
                let key = self.rooms.find(&room);
                match key.and_then(|key| self.membership(connection, key)) {
                    Some(membership) => self.leave(connection, membership),
                    None => return Err(Denied::NotJoined.into()),
                }
                if reference.i.is_some() {
                    self.send(connection, |out| frames::ok(out, reference));
                }
            }
            What::Typing { room, on } => self.type_on(connection, &room, on)?,
            What::Who { room, after, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.who(connection, reference.i, key, after.as_deref(), n),
                None => self.send(connection, |out| {
                    frames::who(out, &room, 0, reference.i, std::iter::empty(), false)
                }),
            },
            What::Log { room, from, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.log(connection, reference.i, key, from, n),
                None => {
                    return Err(Problem::no_room());
                }
            },
            What::Ping => self.send(connection, |out| frames::pong(out, reference.i)),
            What::Done => self.send(connection, |out| frames::ok(out, reference)),
            What::Refuse(problem) => return Err(problem),
            What::Bye(goodbye) => self.close(connection, goodbye),
        }
        Ok(())
    }
}
