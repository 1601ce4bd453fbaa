//! What this node still has to tell of its rooms: collected, the newest of each kind only, and held back a little
//! for large rooms. Also knows who is here, so that everything can be told again after a cut. One per partition;
//! knows no connection, time comes in as a value. Its memory is bounded by who is here: of each user and room
//! there is at most one thing of each kind to tell.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::roster::{Op, RoomNews, Size};
use crate::chat::data::Data;
use crate::chat::names::{RoomName, UserName};
use crate::engines::shared::News;

/// A large room is told of so often at the most.
const LARGE_PAUSE: Duration = Duration::from_millis(250);
/// Most things of one call.
const OPS_PER_CALL: usize = 500;
/// Most things of one room in a call; large ones wait for each other.
const OPS_PER_ROOM: usize = 250;

/// What waits to be told.
#[derive(Debug, Default)]
pub struct Telling {
    here: HashMap<RoomName, BTreeMap<UserName, Option<Arc<Data>>>>,
    waiting: HashMap<RoomName, Waiting>,
    /// Rooms with something to tell at once, in turn.
    ready: VecDeque<RoomName>,
    /// When a large room may be told of next.
    large: HashMap<RoomName, Instant>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Everybody is to be told before anything else.
    all: bool,
    list: VecDeque<News>,
    /// Which kinds are in the list.
    kinds: HashSet<Kind>,
    queued: bool,
}

/// Of each kind only the newest is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Presence(UserName),
    Typing(UserName),
    Read(UserName),
    Got,
}

fn kind(news: &News) -> Kind {
    match news {
        News::Came(user, _) | News::Went(user) => Kind::Presence(user.clone()),
        News::Typing(user, _) => Kind::Typing(user.clone()),
        News::Read(user, _) => Kind::Read(user.clone()),
        News::Got(..) => Kind::Got,
    }
}

impl Telling {
    /// Something is to be told.
    pub fn push(&mut self, room: &RoomName, news: News) {
        match &news {
            News::Came(user, info) => {
                self.here.entry(room.clone()).or_default().insert(user.clone(), info.clone());
            }
            News::Went(user) => self.forget(room, user),
            _ => {}
        }
        let waiting = self.waiting.entry(room.clone()).or_default();
        let kind = kind(&news);
        if waiting.all && matches!(kind, Kind::Presence(_)) {
            return;
        }
        if !waiting.kinds.insert(kind.clone()) {
            waiting.list.retain(|other| self::kind(other) != kind);
        }
        waiting.list.push_back(news);
        self.queue(room);
    }

    /// The room was joined under a new lease or on a new connection, or somebody may have missed something:
    /// everybody who is here is told again.
    pub fn all_again(&mut self, room: &RoomName) {
        let waiting = self.waiting.entry(room.clone()).or_default();
        waiting.all = true;
        waiting.list.retain(|news| !matches!(kind(news), Kind::Presence(_)));
        waiting.kinds.retain(|kind| !matches!(kind, Kind::Presence(_)));
        self.queue(room);
    }

    /// The rooms in which somebody is here, and those of which nobody has been told yet that all have gone.
    pub fn rooms(&self) -> Vec<RoomName> {
        let silent = self.waiting.keys().filter(|room| !self.here.contains_key(room.as_str()));
        self.here.keys().chain(silent).cloned().collect()
    }

    /// What is to be told in the next call; empty for nothing. [`Telling::told`] or [`Telling::failed`] must
    /// follow before more is taken.
    pub fn take(&mut self, now: Instant) -> Vec<RoomNews> {
        let (mut call, mut ops) = (Vec::new(), 0);
        for _ in 0..self.ready.len() {
            if ops >= OPS_PER_CALL {
                break;
            }
            let Some(room) = self.ready.pop_front() else { break };
            if self.large.get(&room).is_some_and(|at| now < *at) {
                self.ready.push_back(room);
                continue;
            }
            let news = self.take_room(&room);
            ops += news.ops.iter().map(weight).sum::<usize>();
            call.push(news);
        }
        call
    }

    fn take_room(&mut self, room: &RoomName) -> RoomNews {
        let mut waiting = self.waiting.remove(room).unwrap_or_default();
        let mut ops = Vec::new();
        if waiting.all {
            let users = self.here.get(room).into_iter().flatten();
            ops.push(Op::All(users.map(|(user, info)| (user.clone(), info.clone())).collect()));
            waiting.all = false;
        }
        let n = waiting.list.len().min(OPS_PER_ROOM);
        for news in waiting.list.drain(..n) {
            waiting.kinds.remove(&kind(&news));
            ops.push(Op::News(news));
        }
        let empty = waiting.list.is_empty() && !self.here.contains_key(room);
        if !waiting.list.is_empty() {
            self.ready.push_back(room.clone());
            self.waiting.insert(room.clone(), waiting);
        }
        RoomNews { room: room.clone(), ops, empty }
    }

    /// A call was answered.
    pub fn told(&mut self, call: &[RoomNews], sizes: &[Size], now: Instant) {
        for (news, size) in call.iter().zip(sizes) {
            match size {
                Size::Large => {
                    self.large.insert(news.room.clone(), now + LARGE_PAUSE);
                }
                Size::Named => {
                    self.large.remove(&news.room);
                }
            }
        }
    }

    /// A call has failed, and what it told may be done or not. Everybody of its rooms is told again; who typed
    /// then is not.
    pub fn failed(&mut self, call: &[RoomNews]) {
        for news in call {
            self.all_again(&news.room);
        }
    }

    /// When a room that is held back may be told of; none if nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        self.ready.iter().filter_map(|room| self.large.get(room)).min().copied()
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    fn queue(&mut self, room: &RoomName) {
        if let Some(waiting) = self.waiting.get_mut(room)
            && !std::mem::replace(&mut waiting.queued, true)
        {
            self.ready.push_back(room.clone());
        }
    }

    fn forget(&mut self, room: &RoomName, user: &UserName) {
        let Some(users) = self.here.get_mut(room) else { return };
        users.remove(user);
        if users.is_empty() {
            self.here.remove(room);
            self.large.remove(room);
        }
    }
}

fn weight(op: &Op) -> usize {
    match op {
        Op::News(_) => 1,
        Op::All(users) => users.len() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn came(name: &str) -> News {
        News::Came(user(name), None)
    }

    fn went(name: &str) -> News {
        News::Went(user(name))
    }

    #[test]
    fn only_the_newest_of_each_kind_is_told() {
        let (mut telling, lobby, now) = (Telling::default(), room("lobby"), Instant::now());
        for news in [
            came("ann"),
            News::Typing(user("ann"), true),
            News::Read(user("ann"), 1),
            News::Read(user("ann"), 2),
            News::Typing(user("ann"), false),
            went("ann"),
            came("bob"),
            News::Got(1, 1, 2),
            News::Got(2, 2, 2),
        ] {
            telling.push(&lobby, news);
        }
        let call = telling.take(now);
        let ops = [
            News::Read(user("ann"), 2),
            News::Typing(user("ann"), false),
            went("ann"),
            came("bob"),
            News::Got(2, 2, 2),
        ]
        .map(Op::News);
        assert_eq!(call, [RoomNews { room: lobby, ops: ops.into(), empty: false }]);
        assert!(telling.take(now).is_empty() && telling.is_empty());
    }

    #[test]
    fn a_large_room_waits_while_others_go_on() {
        let (mut telling, hall, lobby, now) =
            (Telling::default(), room("hall"), room("lobby"), Instant::now());
        telling.push(&hall, came("ann"));
        let call = telling.take(now);
        telling.told(&call, &[Size::Large], now);
        telling.push(&hall, came("bob"));
        telling.push(&hall, went("bob"));
        telling.push(&lobby, came("eve"));
        let call = telling.take(now);
        assert_eq!(call.iter().map(|news| news.room.as_str()).collect::<Vec<_>>(), ["lobby"]);
        telling.told(&call, &[Size::Named], now);
        assert_eq!(telling.due(), Some(now + LARGE_PAUSE));
        let call = telling.take(now + LARGE_PAUSE);
        assert_eq!(call, [RoomNews { room: hall, ops: vec![Op::News(went("bob"))], empty: false }]);
        telling.told(&call, &[Size::Named], now);
        assert_eq!(telling.due(), None);
    }

    #[test]
    fn after_a_failure_everybody_is_told_again() {
        let (mut telling, lobby, now) = (Telling::default(), room("lobby"), Instant::now());
        telling.push(&lobby, came("ann"));
        telling.push(&lobby, came("bob"));
        let call = telling.take(now);
        telling.push(&lobby, went("bob"));
        telling.push(&lobby, News::Typing(user("ann"), true));
        telling.failed(&call);
        telling.push(&lobby, came("eve"));
        let everybody = Op::All(vec![(user("ann"), None), (user("eve"), None)]);
        let ops = vec![everybody, Op::News(News::Typing(user("ann"), true))];
        assert_eq!(telling.take(now), [RoomNews { room: lobby.clone(), ops, empty: false }]);
        telling.push(&lobby, went("ann"));
        telling.push(&lobby, went("eve"));
        assert_eq!(telling.rooms(), std::slice::from_ref(&lobby), "the others do not know yet");
        telling.all_again(&lobby);
        assert_eq!(telling.take(now), [RoomNews { room: lobby, ops: vec![Op::All(vec![])], empty: true }]);
        assert!(telling.rooms().is_empty());
    }

    #[test]
    fn a_call_has_a_bound() {
        let (mut telling, lobby, now) = (Telling::default(), room("lobby"), Instant::now());
        for n in 0..OPS_PER_ROOM + 1 {
            telling.push(&lobby, came(&n.to_string()));
        }
        assert_eq!(telling.take(now)[0].ops.len(), OPS_PER_ROOM);
        assert_eq!(telling.take(now)[0].ops, [Op::News(came(&OPS_PER_ROOM.to_string()))]);
        assert!(telling.is_empty());
    }
}
