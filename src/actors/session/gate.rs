//! The gate: a session that waits for a backend's answer. What it asks meanwhile stands behind the question in its
//! order; its socket is not read, and nobody else waits. Nothing of this runs where no backend is asked.

use std::collections::VecDeque;

use actix::prelude::*;

use super::errands::{Back, Entrance};
use super::{Mind, Session};
use crate::actors::letters::{Ask, Return, What};
use crate::chat::message::Altering;
use crate::chat::names::UserName;
use crate::chat::permission::Identity;
use crate::hooks::question::{Changes, Question, Verdict};
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Join, Reference, Request, RequestNumber};
use crate::traces::{Kind, Span};

/// When to try again what got no answer, in milliseconds.
const NO_ANSWER_WAIT_MS: u64 = 1_000;

/// What waits for an answer, and what waits behind it.
#[derive(Debug)]
pub(super) struct Gate {
    first: First,
    /// Not asked yet; none while the answer is on its way.
    question: Option<Question>,
    /// Checked already, and only to be passed on.
    pub(super) whats: VecDeque<(Reference, What)>,
    /// Not looked at yet. Bounded: the socket is not read, and a request over HTTP has an end.
    pub(super) later: VecDeque<(Reference, Result<Request, Problem>)>,
}

/// What happens when the answer is yes.
#[derive(Debug)]
pub(super) enum First {
    /// Somebody is who he says he is.
    Hello {
        /// The request number of his hello.
        i: RequestNumber,
        /// Who he is.
        identity: Box<Identity>,
        /// The session that he goes on with.
        back: Option<Box<Return>>,
    },
    /// The same over HTTP.
    Entrance(Box<Entrance>),
    /// A session over HTTP goes on with another one, and enters rooms beside; these are still to be looked at.
    Back(Box<Back>, VecDeque<Ask>),
    /// Something is passed on to the rooms.
    What(Box<(Reference, What)>),
}

impl Gate {
    /// What a hello asks for beside stands behind it.
    pub(super) fn wait_with(&mut self, joins: Vec<Join>, refused: Vec<Problem>) {
        for join in joins {
            let reference = Reference { room: Some(join.room.clone()), ..Reference::default() };
            self.later.push_back((reference, Ok(Request::Join(join))));
        }
        self.later.extend(refused.into_iter().map(|problem| (Reference::default(), Err(problem))));
    }
}

impl Session {
    pub(super) fn gate(&mut self) -> Option<&mut Gate> {
        match &mut self.mind {
            Mind::Native(native) => native.gate.as_deref_mut(),
            Mind::Raw { .. } => None,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(&self.mind, Mind::Native(native) if native.gate.is_some())
    }

    /// What is to be asked before somebody comes in; none: he just comes.
    pub(super) fn question_of_newcomer(&mut self, identity: &Identity) -> Option<Question> {
        let questions = self.house.questions.as_ref()?;
        let Mind::Native(native) = &mut self.mind else { return None };
        // Who shows another token is in already.
        if native.identity.is_some() || !questions.asks_connect() {
            return None;
        }
        let info = identity.info.as_ref().map(|info| info.as_ref().clone());
        Some(Question::Connect { user: identity.user.clone(), info, visitor: native.visitor.take() })
    }

    pub(super) fn question_of_entrance(&mut self, entrance: &mut Entrance) -> Option<Question> {
        if let Mind::Native(native) = &mut self.mind {
            native.visitor = entrance.visitor.take();
        }
        self.question_of_newcomer(&entrance.identity)
    }

    /// What is to be asked before something that a user may do.
    pub(super) fn question_about(&self, user: &UserName, what: &What) -> Option<Question> {
        let questions = self.house.questions.as_ref()?;
        let user = user.clone();
        match what {
            What::Join(Join { room, .. }) if questions.asks_join(room) => {
                Some(Question::Join { user, room: room.clone() })
            }
            What::Publish { draft, .. } if questions.asks_publish(&draft.room) => {
                let (room, data, id) = (draft.room.clone(), draft.data.clone(), draft.id.clone());
                Some(Question::Publish { user, room, data, id, of: None })
            }
            What::Alter { alteration, .. } if questions.asks_publish(&alteration.room) => {
                let Altering::Edit(data) = &alteration.what else { return None };
                let (room, data, id) = (alteration.room.clone(), data.clone(), alteration.id.clone());
                Some(Question::Publish { user, room, data, id, of: Some(alteration.of) })
            }
            _ => None,
        }
    }

    /// Whether a guest comes with this request, and a backend is asked first.
    pub(super) fn comes_with(&self, request: &Result<Request, Problem>) -> bool {
        let says_itself = matches!(
            request,
            Ok(Request::Hello { .. } | Request::Auth { .. } | Request::Ping | Request::Bye) | Err(_)
        );
        !says_itself
            && self.house.questions.as_ref().is_some_and(|questions| questions.asks_connect())
            && self.identity().is_none()
            && self.may_be_guest()
    }

    /// Stops until a question is answered.
    pub(super) fn hold(&mut self, first: First, question: Question) {
        let Mind::Native(native) = &mut self.mind else { return };
        debug_assert!(native.gate.is_none(), "one question at a time");
        let question = Some(question);
        native.gate =
            Some(Box::new(Gate { first, question, whats: VecDeque::new(), later: VecDeque::new() }));
        self.connection.borrow_mut().hold();
    }

    /// Asks what is to be asked, if anything is.
    pub(super) fn ask_backend(&mut self, ctx: &mut Context<Session>) {
        let Some(questions) = self.house.questions.clone() else { return };
        let Some(question) = self.gate().and_then(|gate| gate.question.take()) else { return };
        let span = self.span_of_question();
        // Dropped with the session: what is asked for somebody who has gone needs no answer.
        let asking = async move { span.over(questions.ask(question, &span)).await };
        ctx.spawn(asking.into_actor(self).map(|verdict, session, ctx| {
            session.guarded(|session| session.answered(verdict));
            session.ask_backend(ctx);
        }));
    }

    /// A step in the way of what is to be said; a trace of its own for who comes in.
    fn span_of_question(&mut self) -> Span {
        const NAME: &str = "ask the application";
        match self.gate().map(|gate| &gate.first) {
            Some(First::What(asked)) => match &asked.1 {
                What::Publish { draft, .. } => draft.span.child(NAME, Kind::Client),
                _ => self.house.tracer.begin(NAME, Kind::Client),
            },
            _ => self.house.tracer.begin(NAME, Kind::Client),
        }
    }

    /// The answer is there: what has waited goes on, as far as nothing else has to be asked.
    fn answered(&mut self, verdict: Verdict) {
        let Mind::Native(native) = &mut self.mind else { return };
        let Some(gate) = native.gate.take() else { return };
        self.connection.borrow_mut().let_go();
        if self.connection.borrow().is_open() {
            let Gate { first, whats, later, .. } = *gate;
            self.settle(first, verdict);
            self.go_through(whats, later);
            self.post();
        }
        let core = self.house.core.clone();
        core.borrow_mut().letter_done(&self.connection);
    }

    fn go_through(
        &mut self,
        mut whats: VecDeque<(Reference, What)>,
        mut later: VecDeque<(Reference, Result<Request, Problem>)>,
    ) {
        while !self.is_held()
            && let Some((reference, what)) = whats.pop_front()
        {
            self.push(reference, what);
        }
        while !self.is_held()
            && self.connection.borrow().is_open()
            && let Some((reference, request)) = later.pop_front()
        {
            self.take_request(reference, request);
        }
        if let Some(gate) = self.gate() {
            gate.whats.append(&mut whats);
            gate.later.append(&mut later);
        }
    }

    fn settle(&mut self, first: First, verdict: Verdict) {
        match first {
            First::Hello { i, mut identity, back } => {
                if self.lets_in(&mut identity, i, verdict) {
                    self.take_identity(i, *identity, false, back);
                }
            }
            First::Entrance(mut entrance) => {
                if self.lets_in(&mut entrance.identity, None, verdict) {
                    self.come_in(*entrance);
                }
            }
            First::Back(mut back, asks) => {
                if let Some(last) = back.checked.pop() {
                    let what = changed(last.what, verdict);
                    back.checked.push(Ask { reference: last.reference, what });
                }
                self.go_back(back, asks);
            }
            First::What(asked) => {
                let (reference, what) = *asked;
                self.put(reference, changed(what, verdict));
            }
        }
    }

    /// Whether somebody may come in; if not, he is told why and closed.
    fn lets_in(&mut self, identity: &mut Identity, i: RequestNumber, verdict: Verdict) -> bool {
        let (problem, goodbye) = match verdict {
            Verdict::Yes(Changes { info, rooms, .. }) => {
                if let Some(info) = info {
                    identity.info = Some(info.into());
                }
                if let Some(rooms) = rooms {
                    identity.rooms = Some(rooms);
                }
                return true;
            }
            Verdict::No(words) => {
                let goodbye = Goodbye { code: 4003, why: words.clone().into(), wait_ms: None };
                (Problem::new(403, "not-allowed", words), goodbye)
            }
            Verdict::NotNow(words) => {
                let wait_ms = Some(NO_ANSWER_WAIT_MS);
                let goodbye = Goodbye { code: 4100, why: "application".into(), wait_ms };
                (Problem::new(503, "busy", words).wait(NO_ANSWER_WAIT_MS), goodbye)
            }
        };
        self.refuse(Reference { i, ..Reference::default() }, problem);
        self.house.core.borrow_mut().close(&self.connection, goodbye);
        false
    }
}

/// What is passed on after an answer.
fn changed(mut what: What, verdict: Verdict) -> What {
    if let (What::Publish { draft, .. }, Verdict::No(_) | Verdict::NotNow(_)) = (&what, &verdict) {
        draft.span.fail("refused by the application");
    }
    match verdict {
        Verdict::Yes(Changes { data, .. }) => {
            match (&mut what, data) {
                (What::Publish { draft, .. }, Some(data)) => draft.data = data,
                (What::Alter { alteration, .. }, Some(data)) => alteration.what = Altering::Edit(data),
                _ => {}
            }
            what
        }
        Verdict::No(words) => What::Refuse(Problem::new(403, "not-allowed", words)),
        Verdict::NotNow(words) => What::Refuse(Problem::new(503, "busy", words).wait(NO_ANSWER_WAIT_MS)),
    }
}
