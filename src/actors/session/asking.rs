//! What the client asks for: lines to requests, and whether it may.

use std::sync::Arc;

use bytes::BytesMut;

use super::gate::First;
use super::identity::Claim;
use super::{Mind, PATIENCE_S, REQUESTS_PER_MESSAGE, Session};
use crate::actors::letters::{Ask, What};
use crate::chat::client::TooFast;
use crate::chat::message::{Alteration, Altering, Draft, Offset, Via};
use crate::chat::names::{MessageId, RoomName};
use crate::chat::permission::Identity;
use crate::log::user_hash;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native;
use crate::protocols::native::{Join, Publish, Reference, Request};
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::frame::{Opcode, encode_frame};
use crate::traces::Kind;

impl Session {
    pub(super) fn lines(&mut self, text: &str) {
        let mut any = false;
        for line in text.split('\n') {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            any = true;
            if !self.connection.borrow().is_open() {
                return;
            }
            self.line(line);
        }
        if !any {
            self.refuse(
                Reference::default(),
                Problem::bad_json("an empty frame says nothing; send one JSON object per line"),
            );
        }
    }

    pub(super) fn line(&mut self, line: &str) {
        let (reference, request) = native::read(line);
        self.take_request(reference, request);
    }

    /// Deals with a line that was read, if its client is not too fast.
    pub(super) fn take_request(&mut self, reference: Reference, request: Result<Request, Problem>) {
        if let Some(gate) = self.gate() {
            return gate.later.push_back((reference, request));
        }
        let now = self.house.core.borrow().now_ms();
        if let Err(fast) = self.may_ask(now) {
            let per_second = self.house.limits.messages_per_second;
            if fast.refused > per_second.saturating_mul(REQUESTS_PER_MESSAGE * PATIENCE_S) {
                self.post();
                return self.house.core.borrow_mut().close(&self.connection, Goodbye::RATE);
            }
            return self.refuse(reference, Problem::too_fast(fast.wait_ms));
        }
        if self.comes_with(&request) {
            self.come_as_guest();
            if let Some(gate) = self.gate() {
                return gate.later.push_back((reference, request));
            }
        }
        match request {
            Ok(request) => self.request(reference, request, now),
            Err(problem) => self.refuse(reference, problem),
        }
    }

    pub(super) fn may_ask(&mut self, now: u64) -> Result<(), TooFast> {
        let per_second = self.house.limits.messages_per_second.saturating_mul(REQUESTS_PER_MESSAGE);
        match &mut self.mind {
            Mind::Native(native) => native.requests.take(per_second, now),
            Mind::Raw { .. } => Ok(()),
        }
    }

    pub(super) fn request(&mut self, reference: Reference, request: Request, now: u64) {
        match request {
            Request::Hello { token, user, session, joins, refused } => {
                // A hello that fails enters nothing, also where the session was somebody before.
                if !self.hello(&reference, Claim { token, user, session }) {
                    return;
                }
                if let Some(gate) = self.gate() {
                    return gate.wait_with(joins, refused);
                }
                for join in joins {
                    let reference = Reference { room: Some(join.room.clone()), ..Reference::default() };
                    // A join is a request, also when many come in one line.
                    match self.may_ask(now) {
                        Ok(()) => self.ask(reference, |session| session.join(join)),
                        Err(fast) => self.refuse(reference, Problem::too_fast(fast.wait_ms)),
                    }
                }
                for problem in refused {
                    self.refuse(Reference::default(), problem);
                }
            }
            Request::Auth { token } => self.auth(reference, &token),
            Request::Ping if self.identity().is_none() => {
                let mut line = Vec::new();
                frames::pong(&mut line, reference.i);
                self.send_line(&line);
            }
            Request::Bye if self.identity().is_none() => {
                self.house.core.borrow_mut().close(&self.connection, Goodbye::DONE);
            }
            Request::Ping => self.ask(reference, |_| Ok(What::Ping)),
            Request::Bye => self.ask(reference, |_| Ok(What::Bye(Goodbye::DONE))),
            Request::Join(join) => self.ask(reference, |session| session.join(join)),
            Request::Leave { room } => self.ask(reference, |_| Ok(What::Leave(room))),
            Request::Publish(publish) => self.ask(reference, |session| session.publish(publish, now)),
            Request::Typing { room, on } => self.ask(reference, |session| {
                let identity = session.identified()?;
                identity.may_publish(&room, &session.house.rooms.of(&room))?;
                Ok(What::Typing { room, on })
            }),
            Request::Who { room, after, n } => self.ask(reference, |session| {
                let granted = session.identified()?.lists(&room);
                Ok(What::Who { room, after, n, granted })
            }),
            Request::Log { room, from, n } => self.ask(reference, |session| {
                let granted = session.identified()?.lists(&room);
                Ok(What::Log { room, from, n, granted })
            }),
            Request::Edit { room, of, data, id } => {
                let what = Altering::Edit(data);
                self.ask(reference, |session| session.alter(room, of, id, what, now));
            }
            Request::Delete { room, of, id } => {
                self.ask(reference, |session| session.alter(room, of, id, Altering::Delete, now));
            }
            Request::React { room, of, mark, off, id } => {
                let what = Altering::React { mark, off };
                self.ask(reference, |session| session.alter(room, of, id, what, now));
            }
            Request::Read { room, offset } => self.ask(reference, |_| Ok(What::Read { room, offset })),
            Request::Got { room, offset } => self.ask(reference, |_| Ok(What::Got { room, offset })),
            Request::Find { room, words, before, n } => self.ask(reference, |session| {
                let granted = session.identified()?.lists(&room);
                Ok(What::Find { room, words, before, n, granted })
            }),
            Request::Rooms => self.ask(reference, |_| Ok(What::Rooms)),
        }
    }

    /// Makes a request part of this turn's letter, or refuses it.
    pub(super) fn ask(
        &mut self,
        reference: Reference,
        make: impl FnOnce(&mut Session) -> Result<What, Problem>,
    ) {
        if self.identity().is_none() {
            self.come_as_guest();
        }
        match make(self) {
            Ok(what) if self.identity().is_some() => self.push(reference, what),
            Ok(_) => self.refuse(reference, Problem::who_are_you()),
            Err(problem) => self.refuse(reference, problem),
        }
    }

    /// Makes what is allowed part of this turn's letter; when a backend has been asked, if it is to be.
    pub(super) fn push(&mut self, reference: Reference, what: What) {
        let Mind::Native(native) = &mut self.mind else { return };
        if let Some(gate) = &mut native.gate {
            return gate.whats.push_back((reference, what));
        }
        if self.house.questions.is_some()
            && let Some(user) = self.identity().map(|identity| identity.user.clone())
            && let Some(question) = self.question_about(&user, &what)
        {
            return self.hold(First::What(Box::new((reference, what))), question);
        }
        self.put(reference, what);
    }

    /// Makes a part of this turn's letter of it.
    pub(super) fn put(&mut self, reference: Reference, what: What) {
        if let Mind::Native(native) = &mut self.mind {
            native.asks.push(Ask { reference, what });
        }
    }

    /// Tells the client why not, in order with the answers to its other requests.
    pub(super) fn refuse(&mut self, reference: Reference, problem: Problem) {
        if self.identity().is_some() {
            return self.push(reference, What::Refuse(problem));
        }
        self.house.metrics.errors.count(problem.why);
        let mut line = Vec::new();
        frames::err(&mut line, &reference, &problem);
        self.send_line(&line);
    }

    pub(super) fn send_line(&mut self, line: &[u8]) {
        let mut frame = BytesMut::with_capacity(line.len() + 10);
        encode_frame(&mut frame, Opcode::Text, line);
        self.house.core.borrow_mut().send(&self.connection, &frame);
    }

    pub(super) fn join(&mut self, join: Join) -> Result<What, Problem> {
        let mut identity = self.identified()?;
        if let Some(grant) = &join.grant {
            let grant = self.verify(grant)?;
            if grant.user != identity.user {
                return Err(Problem::new(
                    403,
                    "not-allowed",
                    "the room's token is for another user; ask for your own",
                ));
            }
            identity = Arc::new(identity.with_grant(grant));
            if let Mind::Native(native) = &mut self.mind {
                native.identity = Some(identity.clone());
            }
        }
        identity.may_join(&join.room, &self.house.rooms.of(&join.room))?;
        Ok(What::Join(join))
    }

    /// An edit, a delete or a reaction: said in the room as a message is.
    fn alter(
        &mut self,
        room: RoomName,
        of: Offset,
        id: Option<MessageId>,
        what: Altering,
        now: u64,
    ) -> Result<What, Problem> {
        let identity = self.identified()?;
        self.may_say(&identity, &room, now)?;
        let (granted, user) = (identity.lists(&room), identity.user.clone());
        Ok(What::Alter { alteration: Alteration { room, user: Some(user), id, of, what }, granted })
    }

    fn may_say(&mut self, identity: &Identity, room: &RoomName, now: u64) -> Result<(), Problem> {
        identity.may_publish(room, &self.house.rooms.of(room))?;
        let per_second = self.house.limits.messages_per_second;
        match &mut self.mind {
            Mind::Native(native) => {
                native.messages.take(per_second, now).map_err(|fast| Problem::too_fast(fast.wait_ms))
            }
            Mind::Raw { .. } => Ok(()),
        }
    }

    pub(super) fn publish(&mut self, publish: Publish, now: u64) -> Result<What, Problem> {
        let identity = self.identified()?;
        let Publish { room, id, data, reply_to, keep } = publish;
        self.may_say(&identity, &room, now)?;
        let granted = identity.lists(&room);
        let user = Some(identity.user.clone());
        let span = self.house.tracer.begin("publish", Kind::Server);
        if span.is_on() {
            span.text("roomcast.user_hash", user_hash(identity.user.as_str()));
        }
        let draft = Draft { room, user, id, data, kind: None, reply_to, keep, via: Via::Session, span };
        Ok(What::Publish { draft, granted })
    }
}
