//! The rules of rooms at work: operators set them, they are kept, and everything that members ask for is held against
//! them. Where several nodes share rooms, the service keeps them and tells all nodes; here they are only looked at.

use actix::prelude::*;
use tokio::sync::oneshot;

use super::ChatServer;
use super::fetching::Fetching;
use super::keeping::{Link, Then};
use super::looking::reply_to;
use crate::actors::letters::{ConnectionId, Rule, RulesOf};
use crate::chat::message::Draft;
use crate::chat::moderation::{Barred, Change, Rules};
use crate::chat::names::{RoomName, UserName};
use crate::clock;
use crate::engines::shared::RuleRefused;
use crate::protocols::codes::Problem;
use crate::protocols::native::Reference;
use crate::store::record::{Record, RoomRules};

/// Pause between two looks for rules that are over, in milliseconds.
const SWEEP_PAUSE_MS: u64 = 60_000;
/// Most rooms whose rules are ended in one go.
const SWEEP_ROOMS: usize = 100;

/// An order that waits to be kept.
pub(super) struct Ruling {
    pub(super) room: RoomName,
    /// What the room had before, for the case that it is not kept.
    before: Rules,
    reply: oneshot::Sender<Result<(), Problem>>,
}

impl Ruling {
    /// It is kept, or cannot be.
    pub(super) fn end(self, answer: Result<(), Problem>) {
        reply_to(self.reply, answer);
    }
}

impl ChatServer {
    /// Carries out an operator's order. Answered when it is kept.
    fn rule(&mut self, room: RoomName, change: Change, reply: oneshot::Sender<Result<(), Problem>>) {
        if let Link::Service(service) = &mut self.keeping.link {
            let ticket = self.work.next_ticket;
            self.work.next_ticket += 1;
            self.work.tickets.insert(ticket, Fetching::Rule(reply));
            return service.rule(ticket, room, change);
        }
        match self.ruled(&room, &change) {
            Err(problem) => reply_to(reply, Err(problem)),
            Ok(None) => self.when_kept(Then::Ruled(Box::new(Ruling {
                before: self.rulebook.of(&room).cloned().unwrap_or_default(),
                room,
                reply,
            }))),
            Ok(Some(rules)) => {
                let text = rules.to_json().into();
                let before = self.rulebook.set(&room, rules);
                if self.keeping.lasts() {
                    self.keeping
                        .record(Record::Rules(RoomRules { room: room.clone(), text, version: 0 }), false);
                }
                self.when_kept(Then::Ruled(Box::new(Ruling { room, before, reply })));
            }
        }
    }

    /// The rules of a room after an order; none: as they were.
    fn ruled(&self, room: &RoomName, change: &Change) -> Result<Option<Rules>, Problem> {
        self.rulebook.has_place_for(room)?;
        let none = Rules::default();
        let before = self.rulebook.of(room).unwrap_or(&none);
        let rules = before.with(change, clock::wall_ms())?;
        if rules == *before {
            return Ok(None);
        }
        self.keeping.may_keep()?;
        Ok(Some(rules))
    }

    /// An order is kept: who may not be in the room any more goes.
    pub(super) fn ruling_kept(&mut self, ruling: Ruling) {
        self.take_out_banned(&ruling.room);
        ruling.end(Ok(()));
    }

    /// An order is not kept, nor are those after it.
    pub(super) fn take_ruling_back(&mut self, ruling: &mut Ruling) {
        self.rulebook.set(&ruling.room, std::mem::take(&mut ruling.before));
    }

    /// The service has decided about an order of this node.
    pub(super) fn rule_settled(&mut self, ticket: u64, settled: Result<(), RuleRefused>) {
        let Some(Fetching::Rule(reply)) = self.work.tickets.remove(&ticket) else { return };
        let settled = settled.map_err(|refused| match refused {
            RuleRefused::Full(full) => Problem::from(full),
            RuleRefused::Away(why) => {
                log::warn!("the rules of a room cannot be changed: {}", why.escape_debug());
                Problem::not_stored(1_000)
            }
        });
        reply_to(reply, settled);
    }

    /// The service tells the rules of rooms. `all`: no other room has any.
    pub(super) fn rules_told(&mut self, list: Vec<(RoomName, Rules)>, all: bool) {
        if all {
            let told: std::collections::HashSet<&RoomName> = list.iter().map(|(room, _)| room).collect();
            let ended: Vec<RoomName> = self
                .rulebook
                .rooms()
                .map(|(room, _)| room)
                .filter(|room| !told.contains(room))
                .cloned()
                .collect();
            ended.iter().for_each(|room| drop(self.rulebook.set(room, Rules::default())));
        }
        for (room, rules) in list {
            self.rulebook.set(&room, rules);
            self.take_out_banned(&room);
        }
    }

    /// Rules as they were kept when the process before ended.
    pub(super) fn restore_rules(&mut self, RoomRules { room, text, .. }: RoomRules) {
        let rules = if text.is_empty() { Ok(Rules::default()) } else { Rules::from_json(text.as_bytes()) };
        match rules {
            Ok(rules) => drop(self.rulebook.set(&room, rules)),
            Err(error) => log::error!(
                "store: the rules of room {} cannot be read ({error}) and do not hold; set them anew",
                room.as_str().escape_debug()
            ),
        }
    }

    fn take_out_banned(&mut self, room: &RoomName) {
        let (Some(rules), Some(key)) = (self.rulebook.of(room), self.rooms.find(room)) else { return };
        let now = clock::wall_ms();
        if rules.banned(now).next().is_none() {
            return;
        }
        for connection in self.members_of(key) {
            let Some(user) = self.session(connection).map(|(identity, _)| identity.user.clone()) else {
                continue;
            };
            let barred = self.rulebook.of(room).map_or(Ok(()), |rules| rules.may_enter(user.as_str(), now));
            if let (Err(barred), Some(membership)) = (barred, self.membership(connection, key)) {
                self.leave(connection, membership, "banned");
                let reference = Reference { room: Some(room.clone()), ..Reference::default() };
                self.send_problem(connection, &reference, &barred.into());
            }
        }
    }

    /// Whether a user may come into a room and read it.
    pub(super) fn may_enter(&self, room: &RoomName, user: &UserName) -> Result<(), Barred> {
        let Some(rules) = self.rulebook.of(room) else { return Ok(()) };
        rules.may_enter(user.as_str(), clock::wall_ms())
    }

    /// The same for the user of a session.
    pub(super) fn session_may_enter(&self, connection: ConnectionId, room: &RoomName) -> Result<(), Barred> {
        let Some(rules) = self.rulebook.of(room) else { return Ok(()) };
        let Some((identity, _)) = self.session(connection) else { return Ok(()) };
        rules.may_enter(identity.user.as_str(), clock::wall_ms())
    }

    /// Whether the user of a session may write in a room.
    pub(super) fn session_may_write(&self, connection: ConnectionId, room: &RoomName) -> Result<(), Barred> {
        let Some(rules) = self.rulebook.of(room) else { return Ok(()) };
        let Some((identity, _)) = self.session(connection) else { return Ok(()) };
        rules.may_write(identity.user.as_str(), clock::wall_ms())
    }

    /// Whether somebody may say this now. What was said before under the same id may be said again: nothing comes of
    /// it but the answer that got lost.
    pub(super) fn may_say(&mut self, connection: ConnectionId, draft: &Draft) -> Result<(), Barred> {
        if self.rulebook.of(&draft.room).is_none() {
            return Ok(());
        }
        let may_write = self.session_may_write(connection, &draft.room);
        let may_say = may_write.and_then(|()| self.rulebook.may_say_now(draft, clock::steady_ms()));
        match may_say {
            Err(Barred::Banned(_)) => may_say,
            Err(_) if self.was_said(draft) => Ok(()),
            _ => may_say,
        }
    }

    /// Whether this node remembers that this was said.
    fn was_said(&mut self, draft: &Draft) -> bool {
        let (Some(key), Some(id)) = (self.rooms.find(&draft.room), &draft.id) else { return false };
        let id = self.keys.key(draft.user.as_ref(), id);
        !self.keeping.is_shared() && self.rooms.repeat_of(key, id, clock::cautious_ms()).is_some()
    }

    /// Whether a user may delete what others have said.
    pub(super) fn is_moderator(&self, room: &RoomName, user: &UserName) -> bool {
        self.rulebook.of(room).is_some_and(|rules| rules.is_moderator(user.as_str()))
    }

    /// Forgets rules of which nothing holds any more.
    pub(super) fn sweep_rules(&mut self) {
        let now = clock::steady_ms();
        if now < self.rules_swept + SWEEP_PAUSE_MS {
            return;
        }
        self.rules_swept = now;
        let wall = clock::wall_ms();
        let over =
            self.rulebook.rooms().filter(|(_, rules)| rules.are_over(wall)).map(|(room, _)| room.clone());
        let over: Vec<RoomName> = over.take(SWEEP_ROOMS).collect();
        for room in over {
            // Nobody waits; what fails is tried again.
            self.rule(room, Change::Sweep, oneshot::channel().0);
        }
    }
}

impl Handler<Rule> for ChatServer {
    type Result = ResponseFuture<Result<(), Problem>>;

    fn handle(&mut self, Rule { room, change }: Rule, _: &mut Self::Context) -> Self::Result {
        let (reply, kept) = oneshot::channel();
        self.rule(room, change, reply);
        Box::pin(async move { kept.await.unwrap_or_else(|_| Err(Problem::draining())) })
    }
}

impl Handler<RulesOf> for ChatServer {
    type Result = MessageResult<RulesOf>;

    fn handle(&mut self, RulesOf(room): RulesOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.rulebook.of(&room).cloned().unwrap_or_default())
    }
}
