//! Sessions over HTTP: who they are is known when they begin, and what they ask comes from requests instead of a
//! socket. Their answers go to a pipe, as everything that the hub has for them.

use std::collections::VecDeque;

use actix::prelude::*;

use super::Session;
use super::gate::First;
use crate::actors::letters::{Ask, Return, What};
use crate::chat::permission::Identity;
use crate::chat::trace::Wire;
use crate::hooks::question::Visitor;
use crate::protocols::codes::Problem;
use crate::protocols::cursor::Moved;
use crate::protocols::native::{Join, Reference, Request};

/// How a session over HTTP begins.
#[derive(Debug)]
pub struct Entrance {
    /// By which wire it hears.
    pub wire: Wire,
    /// Who it is.
    pub identity: Identity,
    /// The session that it goes on with, and what it has got beyond what is kept of that.
    pub back: Option<(Box<str>, Vec<Moved>)>,
    /// Rooms to enter; of those that it goes on with, it enters those of them that the session was not in.
    pub joins: Vec<Join>,
    /// Whether it is to hear a `pong` when all these are dealt with.
    pub pong: bool,
    /// What a backend is told of it, if it is asked.
    pub visitor: Option<Box<Visitor>>,
}

/// A request's lines → session: what its client asks for, in order, each with what its answer is known by.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Errand(pub Vec<(Reference, Result<Request, Problem>)>);

/// A session over HTTP that goes on with another one, while a backend is asked about its rooms.
#[derive(Debug)]
pub(super) struct Back {
    session: Box<str>,
    moved: Vec<Moved>,
    identity: Identity,
    pong: bool,
    /// What was asked about already; of the last one the answer is still to come.
    pub(super) checked: Vec<Ask>,
}

impl Session {
    /// Enters as somebody who is known already.
    pub(super) fn enter(&mut self, mut entrance: Entrance) {
        if let Some(question) = self.question_of_entrance(&mut entrance) {
            return self.hold(First::Entrance(Box::new(entrance)), question);
        }
        self.come_in(entrance);
    }

    /// The same when a backend has been asked, or need not be.
    pub(super) fn come_in(&mut self, entrance: Entrance) {
        let Entrance { identity, back, joins, pong, .. } = entrance;
        let now = self.house.core.borrow().now_ms();
        let asks = self.asks_of(&identity, joins, now);
        match back {
            Some((session, moved)) => {
                let back = Box::new(Back { session, moved, identity, pong, checked: Vec::new() });
                self.go_back(back, asks.into());
            }
            None => {
                self.take_identity(None, identity, false, None);
                for Ask { reference, what } in asks {
                    self.push(reference, what);
                }
                if pong {
                    self.push(Reference::default(), What::Ping);
                }
            }
        }
    }

    /// Goes on with another session, when a backend has been asked about all rooms that are new to it.
    pub(super) fn go_back(&mut self, mut back: Box<Back>, mut asks: VecDeque<Ask>) {
        while let Some(ask) = asks.pop_front() {
            if let Some(question) = self.question_about(&back.identity.user, &ask.what) {
                back.checked.push(ask);
                return self.hold(First::Back(back, asks), question);
            }
            back.checked.push(ask);
        }
        let Back { session, moved, identity, pong, checked } = *back;
        let back = Return { session, moved, rest: checked };
        self.take_identity(None, identity, false, Some(Box::new(back)));
        if pong {
            self.push(Reference::default(), What::Ping);
        }
    }

    /// Joins as they are asked of the chat server. Each is a request, also when many come at once.
    fn asks_of(&mut self, identity: &Identity, joins: Vec<Join>, now: u64) -> Vec<Ask> {
        let mut asks = Vec::with_capacity(joins.len());
        for join in joins {
            let reference = Reference { room: Some(join.room.clone()), ..Reference::default() };
            let allowed = match self.may_ask(now) {
                Ok(()) => {
                    identity.may_join(&join.room, &self.house.rooms.of(&join.room)).map_err(Problem::from)
                }
                Err(fast) => Err(Problem::too_fast(fast.wait_ms)),
            };
            let what = allowed.map_or_else(What::Refuse, |()| What::Join(join));
            asks.push(Ask { reference, what });
        }
        asks
    }
}

impl Handler<Errand> for Session {
    type Result = ();

    fn handle(&mut self, errand: Errand, ctx: &mut Self::Context) {
        self.guarded(|session| {
            for (reference, request) in errand.0 {
                session.take_request(reference, request);
            }
            session.post();
        });
        self.ask_backend(ctx);
    }
}
