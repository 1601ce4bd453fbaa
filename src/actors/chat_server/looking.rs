//! What operators ask: which rooms are in use, how one stands, who is there. Rooms of this node alone are answered
//! from memory and the store, shared ones by the service, so that every node says the same.

use tokio::sync::oneshot;

use super::ChatServer;
use super::fetching::Fetching;
use super::keeping::Link;
use crate::chat::history::PageFrom;
use crate::chat::names::RoomName;
use crate::chat::overview::{LogPage, Look, RoomCount, RoomState, Shown, View, is_meant};
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Problem;
use crate::store::archive::{Answer, Question, StoredRoom};

/// Not all of what is wanted is in memory.
struct NotHot;

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
            Look::Rooms { prefix, only, after, n } => {
                let is_meant = |name: &str| is_meant(name, &prefix, only.as_deref(), after.as_deref());
                reply_to(reply, Ok(self.rooms_in_use(is_meant, n)));
            }
            Look::Log { room, from, n, bytes } => self.log_for_operator(room, from, n, bytes, reply),
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

    /// A page of a log: from memory where all of it is hot, else from the store.
    fn log_for_operator(&mut self, name: RoomName, from: PageFrom, n: usize, bytes: usize, reply: Reply) {
        let hot = self.rooms.find(&name).map(|key| self.hot_page(key, from, n, bytes));
        let page = match hot {
            Some(Ok(page)) => page,
            Some(Err(NotHot)) | None if self.keeping.lasts() => {
                let room = Question::Room { room: name.clone(), tail: 0, tail_bytes: 0 };
                let page = Question::Page { room: name, from, n, bytes };
                return self.question(vec![room, page], Fetching::Look(reply));
            }
            _ => None,
        };
        reply_to(reply, Ok(View::Log(page)));
    }

    fn hot_page(
        &self,
        key: RoomKey,
        from: PageFrom,
        n: usize,
        bytes: usize,
    ) -> Result<Option<LogPage>, NotHot> {
        let room = self.rooms.get(key);
        if room.history.top() == 0 {
            return Ok(None);
        }
        let Some((page, more)) = super::asking::hot_page(room, from, n, bytes) else { return Err(NotHot) };
        let list = (page.first..).zip(page.frames.iter().map(|frame| Some(super::line_of(frame))));
        Ok(Some(LogPage { epoch: room.epoch, list: list.collect(), more }))
    }

    fn rooms_in_use(&self, is_meant: impl Fn(&str) -> bool, n: usize) -> View {
        let in_use = self.rooms.iter().filter(|room| room.sessions() > 0 && is_meant(room.name.as_str()));
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

    /// The store has said what it knows of a room, and perhaps of its log.
    pub(super) fn looked(&self, reply: Reply, answers: Result<Vec<Answer>, String>) {
        let mut answers = answers.unwrap_or_default().into_iter();
        let known = match (answers.next(), answers.next()) {
            (Some(Answer::Room(known)), None) => known,
            (Some(Answer::Room(known)), Some(Answer::Entries { list, more })) => {
                let list = list.into_iter().map(|entry| (entry.offset, entry.line)).collect();
                let epoch = known.and_then(|known| Some(known.lineage.last()?.0));
                let page = epoch.map(|epoch| LogPage { epoch, list, more });
                return reply_to(reply, Ok(View::Log(page)));
            }
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
