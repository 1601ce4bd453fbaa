//! What operators ask: which rooms are in use, how one stands, who is there. Rooms of this node alone are answered
//! from memory and the store, shared ones by the service, so that every node says the same.

use tokio::sync::oneshot;

use super::ChatServer;
use super::fetching::Fetching;
use super::keeping::Link;
use crate::chat::names::RoomName;
use crate::chat::overview::{Look, RoomCount, RoomState, Shown, View};
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Problem;
use crate::store::archive::{Answer, Question, StoredRoom};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<View, Problem>>;

/// Whoever asked may have gone, and needs no answer then.
pub(super) fn reply_to<T>(reply: oneshot::Sender<Result<T, Problem>>, answer: Result<T, Problem>) {
    reply.send(answer).ok();
}

impl ChatServer {
    /// Answers an operator.
    pub(super) fn look(&mut self, look: Look, reply: Reply) {
        if let Link::Service(service) = &mut self.keeping.link {
            let ticket = self.work.next_ticket;
            self.work.next_ticket += 1;
            self.work.tickets.insert(ticket, Fetching::Look(reply));
            return service.look(ticket, look);
        }
        match look {
            Look::Rooms { prefix, after, n } => {
                reply_to(reply, Ok(self.rooms_in_use(&prefix, after.as_deref(), n)));
            }
            Look::Who { room, after, n } => {
                reply_to(reply, Ok(self.who_is_shown(&room, after.as_deref(), n)));
            }
            Look::Room(name) => match self.rooms.find(&name) {
                Some(key) => reply_to(reply, Ok(View::Room(self.state_of(key)))),
                None if self.keeping.lasts() => {
                    let question = Question::Room { room: name, tail: 0, tail_bytes: 0 };
                    self.question(vec![question], Fetching::Look(reply));
                }
                None => reply_to(reply, Ok(View::Room(None))),
            },
        }
    }

    fn rooms_in_use(&self, prefix: &str, after: Option<&str>, n: usize) -> View {
        let is_meant = |name: &RoomName| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
        };
        let in_use = self.rooms.iter().filter(|room| room.sessions() > 0 && is_meant(&room.name));
        let mut list: Vec<RoomCount> = in_use
            .map(|room| RoomCount { room: room.name.clone(), sessions: room.sessions().into() })
            .collect();
        list.sort_unstable_by(|one, other| one.room.cmp(&other.room));
        let more = list.len() > n;
        list.truncate(n);
        View::Rooms(list, more)
    }

    fn who_is_shown(&self, name: &RoomName, after: Option<&str>, n: usize) -> View {
        let Some(key) = self.rooms.find(name) else { return View::Who(Vec::new(), false) };
        let mut users = self.rooms.get(key).roster.after(after);
        let list = users.by_ref().take(n);
        let list = list.map(|(user, here)| Shown { user: user.clone(), info: here.info.clone() }).collect();
        View::Who(list, users.next().is_some())
    }

    fn state_of(&self, key: RoomKey) -> Option<RoomState> {
        let room = self.rooms.get(key);
        let (top, sessions) = (room.history.top(), u64::from(room.sessions()));
        (top > 0 || sessions > 0).then(|| RoomState {
            epoch: room.epoch,
            top,
            first: room.first_kept(),
            sessions,
            users: room.roster.len() as u64,
        })
    }

    /// The store has said what it knows of a room that is not open.
    pub(super) fn looked(&self, reply: Reply, answers: Result<Vec<Answer>, String>) {
        let known = match answers.map(|answers| answers.into_iter().next()) {
            Ok(Some(Answer::Room(known))) => known,
            _ => return reply_to(reply, Err(Problem::unreadable())),
        };
        let state =
            known.filter(|known| known.top > 0).and_then(|StoredRoom { lineage, top, first, .. }| {
                let epoch = lineage.last()?.0;
                Some(RoomState { epoch, top, first, sessions: 0, users: 0 })
            });
        reply_to(reply, Ok(View::Room(state)));
    }

    /// The service has answered.
    pub(super) fn seen(&mut self, ticket: u64, view: Result<View, String>) {
        let Some(Fetching::Look(reply)) = self.work.tickets.remove(&ticket) else { return };
        let view = view.map_err(|why| {
            log::warn!("rooms cannot be looked at: {}", why.escape_debug());
            Problem::unreadable()
        });
        reply_to(reply, view);
    }

    /// A room has another number of sessions now.
    pub(super) fn count_members(&mut self, key: RoomKey) {
        if self.keeping.is_shared() {
            let room = self.rooms.get(key);
            self.uncounted.insert(room.name.clone(), room.sessions());
        }
    }

    /// Tells the service how many sessions there are here.
    pub(super) fn tell_counts(&mut self) {
        if let Link::Service(service) = &mut self.keeping.link
            && !self.uncounted.is_empty()
        {
            service.count(self.uncounted.drain().collect());
        }
    }
}
