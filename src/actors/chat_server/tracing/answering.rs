//! Answers what became of an entry: where it came from, and what each session of this node has of it; with the answers of
//! the other nodes it is one. Looks at every member of the room and asks the hubs, so it is for looking now and then.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Gaps, Kept, Left, Remembered, SLOW, name_in};
use crate::actors::chat_server::keeping::Link;
use crate::actors::chat_server::{ChatServer, Seat};
use crate::actors::letters::{ConnectionId, Sight, Sighting, ToHub};
use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::chat::rooms::RoomKey;
use crate::chat::trace::{
    Asked, NodeTrace, Origin, SessionName, SessionTrace, State, Traced, Wire, together,
};
use crate::engines::shared::OthersTrace;
use crate::protocols::codes::Problem;
use crate::protocols::native_frames::PlaceFinder;

/// Longest that the hubs of this node may take.
const HUBS: Duration = Duration::from_millis(1_500);

/// One of the sessions that are asked about.
struct Meant {
    connection: ConnectionId,
    user: UserName,
    wire: Wire,
    since: Offset,
    ack: Offset,
    /// While it is behind: the next offset that it gets.
    next: Option<Offset>,
    missed: Option<(Offset, Offset)>,
    /// When and why it has left, and the room's top then.
    left: Option<(u64, Option<u16>, Cow<'static, str>, Offset)>,
}

impl Meant {
    /// What it has of an entry, and up to where entries are on their way to it.
    fn state(&self, of: Offset, sight: Option<Sight>) -> (State, Option<Offset>) {
        if let Some((_, code, _, top)) = &self.left {
            let was_slow = *code == Some(SLOW);
            let state = match () {
                () if self.since > of || *top < of => State::NotJoined,
                () if was_slow && self.ack < of => State::Slow,
                () => State::Gone,
            };
            // What a slow reader had not taken was thrown away.
            return (state, Some(*top).filter(|_| !was_slow));
        }
        let upto = sight.and_then(|sight| sight.upto).or(self.next.map(|next| next - 1));
        let state = match (sight, upto) {
            _ if self.since > of => State::NotJoined,
            _ if self.ack >= of => State::Acked,
            _ if self.missed.is_some() => State::Slow,
            (None, _) => State::Gone,
            (Some(_), None) => State::Slow,
            (Some(_), Some(upto)) if upto < of && self.next.is_some() => State::Slow,
            (Some(sight), Some(upto)) => match upto >= of && sight.unsent.is_none_or(|first| first > of) {
                true => State::Got,
                false => State::Sent,
            },
        };
        (state, upto)
    }

    fn told(self, session: String, node: &str, state: State, upto: Option<Offset>) -> SessionTrace {
        let (left, code, why) = match self.left {
            Some((left, code, why, _)) => (Some(left), code, Some(why.into_owned())),
            None => (None, None, None),
        };
        SessionTrace {
            session: Some(session),
            u: Some(self.user.as_str().to_owned()),
            node: Some(node.to_owned()),
            via: Some(self.wire),
            state,
            since: Some(self.since),
            upto,
            ack: Some(self.ack).filter(|ack| *ack > 0),
            missed: self.missed,
            left,
            code,
            why,
        }
    }
}

/// What this node knows before its hubs have answered.
struct Here {
    asked: Asked,
    node: String,
    run: String,
    origin: Option<Origin>,
    meant: Vec<Meant>,
    /// What the hubs say of the first of those, in the same order.
    sights: Vec<oneshot::Receiver<Vec<Option<Sight>>>>,
}

impl Here {
    /// Waits for the hubs; none if they do not answer in time.
    async fn answer(self) -> Option<NodeTrace> {
        let Here { asked, node, run, origin, meant, sights } = self;
        let all = async {
            let mut seen = Vec::new();
            for sights in sights {
                seen.extend(sights.await.ok()?);
            }
            Some(seen)
        };
        let mut seen = timeout(HUBS, all).await.ok()??;
        seen.resize(meant.len(), None);
        let mut all: Vec<(Meant, Option<Sight>)> = meant.into_iter().zip(seen).collect();
        all.sort_by_key(|(meant, _)| meant.connection);
        let after = asked.after.as_deref().and_then(SessionName::parse);
        let mut told = NodeTrace { origin, ..NodeTrace::default() };
        for (meant, sight) in all {
            let (state, upto) = meant.state(asked.offset, sight);
            told.counts.count(state);
            let name = name_in(&run, meant.connection);
            if after.as_ref().is_some_and(|after| name <= *after) {
                continue;
            }
            match told.list.len() < asked.n {
                true => told.list.push(meant.told(name.to_string(), &node, state, upto)),
                false => told.more = true,
            }
        }
        Some(told)
    }
}

impl ChatServer {
    /// What became of an entry, on all nodes.
    pub(in crate::actors::chat_server) fn trace(
        &mut self,
        asked: Asked,
    ) -> impl Future<Output = Result<Traced, Problem>> + use<> {
        let lasts = self.keeping.lasts();
        let (n, node) = (asked.n, self.settings.node.clone());
        let others = match &mut self.keeping.link {
            Link::Service(service) => {
                let (reply, others) = oneshot::channel();
                service.trace(asked.clone(), reply);
                Some(others)
            }
            Link::Nothing | Link::Store(_) => None,
        };
        let here = self.trace_here(asked);
        async move {
            let mut silent = Vec::new();
            let own = here.answer().await;
            if own.is_none() {
                silent.push(node);
            }
            let others = match others {
                None => OthersTrace::default(),
                Some(others) => others.await.map_err(|_| Problem::draining())?.map_err(|why| {
                    log::warn!("the other nodes cannot be asked: {}", why.escape_debug());
                    Problem::unreadable()
                })?,
            };
            silent.extend(others.silent);
            Ok(Traced { known: together(own.into_iter().chain(others.parts), n), silent, lasts })
        }
    }

    /// Another node asks what became of an entry. Where the hubs do not answer in time, nobody does.
    pub(in crate::actors::chat_server) fn trace_for_other(
        &mut self,
        asked: Asked,
        reply: oneshot::Sender<NodeTrace>,
    ) {
        let here = self.trace_here(asked);
        actix::spawn(async move {
            if let Some(answer) = here.answer().await {
                // Whoever asked may have given up.
                reply.send(answer).ok();
            }
        });
    }

    fn trace_here(&mut self, asked: Asked) -> Here {
        let origin = self.traces.entry(&asked).map(|entry| self.origin_of(entry));
        let key = RoomName::new(&asked.room).ok().and_then(|room| self.rooms.find(&room));
        let gaps = self.traces.gaps_of(&asked);
        let mut meant = key.map_or_else(Vec::new, |key| self.members_meant(key, &asked, &gaps));
        let sights = key.map_or_else(Vec::new, |key| self.ask_hubs(key, &meant));
        meant.extend(self.left_meant(&asked, &gaps));
        let (node, run) = (self.settings.node.clone(), self.traces.run.clone());
        Here { asked, node, run, origin, meant, sights }
    }

    fn origin_of(&self, entry: &Remembered) -> Origin {
        let Remembered { ts, door, session, kept, stored, .. } = entry;
        let is_kept = !matches!(kept, Kept::Journal(lsn) if *lsn > self.keeping.kept());
        Origin {
            door: door.kind.to_owned(),
            name: door.name.as_deref().map(str::to_owned),
            node: self.settings.node.clone(),
            session: session.map(|session| self.traces.name(session).to_string()),
            accepted: *ts,
            stored: Some(*stored).filter(|stored| *stored > 0),
            kept: kept.word().filter(|_| is_kept).map(str::to_owned),
        }
    }

    /// The members of this node, worker by worker.
    fn members_meant(&self, key: RoomKey, asked: &Asked, gaps: &Gaps) -> Vec<Meant> {
        let mut meant = Vec::new();
        for connection in self.members_of(key) {
            let Some(Seat::Session { identity, rooms, wire, .. }) = self.seat(connection) else { continue };
            let Some(member) = rooms.iter().find(|member| member.room == key) else { continue };
            let is_reader = *wire != Wire::Send;
            if is_reader && asked.means(identity.user.as_str(), &self.traces.name(connection)) {
                meant.push(Meant {
                    connection,
                    user: identity.user.clone(),
                    wire: *wire,
                    since: member.since,
                    ack: member.ack,
                    next: self.next_of_behind(connection, key),
                    missed: gaps.get(&connection).copied(),
                    left: None,
                });
            }
        }
        meant
    }

    /// Asks the hubs what these have.
    fn ask_hubs(&mut self, key: RoomKey, meant: &[Meant]) -> Vec<oneshot::Receiver<Vec<Option<Sight>>>> {
        let finder = PlaceFinder::new(&self.rooms.get(key).name);
        let mut answers = Vec::new();
        for members in meant.chunk_by(|one, next| one.connection.worker == next.connection.worker) {
            let (reply, answer) = oneshot::channel();
            let connections = members.iter().map(|meant| meant.connection).collect();
            let sighting = Sighting { room: key, finder: finder.clone(), connections, reply };
            self.mail(members[0].connection.worker.into(), ToHub::Sight(Box::new(sighting)));
            answers.push(answer);
        }
        answers
    }

    /// Those who have left: who were there when the entry came, and where it is about somebody, who were not.
    fn left_meant(&self, asked: &Asked, gaps: &Gaps) -> Vec<Meant> {
        let was_there = |left: &&Left| (left.since..=left.top).contains(&asked.offset);
        let in_room = self.traces.left.iter().filter(|left| left.room.as_str() == asked.room);
        let meant = in_room.filter(|left| asked.is_about_somebody() || was_there(left));
        let named = meant.filter(|left| asked.means(left.user.as_str(), &self.traces.name(left.connection)));
        let told = named.map(|left| Meant {
            connection: left.connection,
            user: left.user.clone(),
            wire: left.wire,
            since: left.since,
            ack: left.ack,
            next: None,
            missed: gaps.get(&left.connection).copied(),
            left: Some((left.ts, left.code, left.why.clone(), left.top)),
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::why_of;
    use super::*;

    const CONNECTION: ConnectionId = ConnectionId { worker: 0, slot: 7, generation: 1 };

    fn meant(since: Offset, ack: Offset) -> Meant {
        Meant {
            connection: CONNECTION,
            user: UserName::new("bob").unwrap(),
            wire: Wire::WebSocket,
            since,
            ack,
            next: None,
            missed: None,
            left: None,
        }
    }

    fn sight(upto: Option<Offset>, unsent: Option<Offset>) -> Option<Sight> {
        Some(Sight { upto, unsent })
    }

    #[test]
    fn what_a_session_has_is_read_from_where_it_stands() {
        let of = 10;
        for (meant, sight, state, upto) in [
            (meant(11, 0), sight(Some(12), None), State::NotJoined, Some(12)),
            (meant(1, 10), sight(Some(12), Some(10)), State::Acked, Some(12)),
            (meant(1, 9), sight(Some(12), None), State::Got, Some(12)),
            (meant(1, 0), sight(Some(12), Some(11)), State::Got, Some(12)),
            (meant(1, 0), sight(Some(12), Some(10)), State::Sent, Some(12)),
            (meant(1, 0), sight(Some(12), Some(3)), State::Sent, Some(12)),
            (meant(1, 0), sight(Some(9), None), State::Sent, Some(9)),
            (meant(1, 0), None, State::Gone, None),
            (meant(1, 0), sight(None, None), State::Slow, None),
            (Meant { next: Some(8), ..meant(1, 0) }, sight(None, Some(4)), State::Slow, Some(7)),
            (Meant { next: Some(11), ..meant(1, 0) }, sight(None, Some(11)), State::Got, Some(10)),
            (Meant { next: Some(11), ..meant(1, 0) }, sight(None, Some(4)), State::Sent, Some(10)),
            (Meant { missed: Some((9, 10)), ..meant(1, 0) }, sight(Some(12), None), State::Slow, Some(12)),
        ] {
            assert_eq!(meant.state(of, sight), (state, upto), "{} {} {sight:?}", meant.since, meant.ack);
        }
    }

    #[test]
    fn who_has_left_had_it_or_not() {
        let left = |since, ack, code: u16, top| {
            let left = Some((1, Some(code), why_of(code), top));
            Meant { left, ..meant(since, ack) }.state(10, None)
        };
        assert_eq!(left(1, 0, 1000, 12), (State::Gone, Some(12)));
        assert_eq!(left(1, 0, 1000, 9), (State::NotJoined, Some(9)));
        assert_eq!(left(11, 0, 1000, 12), (State::NotJoined, Some(12)));
        assert_eq!(left(1, 0, SLOW, 12), (State::Slow, None));
        assert_eq!(left(1, 10, SLOW, 12), (State::Gone, None), "it had said that it has it");
    }
}
