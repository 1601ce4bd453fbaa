//! Who carries out a user's errands: a session of the user's own, one per thread, that is shown to nobody, is quietly in
//! the rooms that its requests need, and goes when nothing has been asked of it for a while. Used by the errands alone.
//! Each request has a number of its own on the way, by which its answer is found again.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use actix::Addr;
use actix_web::HttpRequest;
use ahash::RandomState;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::actors::pipe::{Outlet, Shape, pipe};
use crate::actors::session::{Arrival, Entrance, Errand, Session};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Identity;
use crate::chat::room::Resume;
use crate::chat::trace::Wire;
use crate::protocols::codes::Problem;
use crate::protocols::native::{Join, Reference, Request};
use crate::protocols::native_frames as frames;
use crate::transports::entrance::{Asker, Entry};

/// How long the session stays after its last request.
const STAY: Duration = Duration::from_secs(10);
/// Rooms that it is in for the sake of requests; it leaves the oldest one for the next.
const ROOMS_MAX: usize = 20;

/// Answers on their way to who asked.
struct Answers {
    waiting: HashMap<u64, oneshot::Sender<Bytes>, RandomState>,
    /// The last word, if the session has ended with one.
    bye: Option<Bye>,
}

#[derive(Deserialize)]
struct Bye {
    code: u16,
    wait: Option<u64>,
}

/// The key of a line that says whom it answers.
#[derive(Deserialize)]
struct Numbered {
    i: Option<u64>,
}

impl Shape for Answers {
    fn line(&mut self, line: &[u8]) {
        let is = |t: &str| line.strip_prefix(b"{\"t\":\"").is_some_and(|rest| rest.starts_with(t.as_bytes()));
        if is("bye\"") {
            self.bye = serde_json::from_slice(line).ok();
        }
        if !["ack\"", "err\"", "ok\"", "pong\"", "page\"", "who\"", "rooms\""].iter().any(|t| is(t)) {
            return;
        }
        let number = serde_json::from_slice::<Numbered>(line).ok().and_then(|line| line.i);
        if let Some(waiting) = number.and_then(|number| self.waiting.remove(&number)) {
            // Who asked may have gone meanwhile; what was done is done.
            waiting.send(Bytes::copy_from_slice(line)).unwrap_or_default();
        }
    }

    fn end(&mut self) {
        // Whoever waits hears that nothing will come.
        self.waiting.clear();
    }

    fn held(&self) -> usize {
        0
    }

    fn held_max(&self) -> usize {
        1
    }

    fn ends_with_last_frame(&self) -> bool {
        true
    }
}

/// A user's session for errands.
pub(super) struct Caller {
    session: Addr<Session>,
    outlet: Outlet<Answers>,
    /// One request at a time, so that a user's lines keep their order.
    pub(super) turn: Mutex<()>,
    next: Cell<u64>,
    rooms: RefCell<VecDeque<RoomName>>,
    used: Cell<Instant>,
}

/// A user, and his token.
type Key = (UserName, Option<String>);

/// The sessions for errands of a thread.
#[derive(Default)]
pub struct Callers(RefCell<HashMap<Key, Rc<Caller>, RandomState>>);

/// A line that is under way.
pub(super) struct Sent {
    reference: Reference,
    answer: oneshot::Receiver<Bytes>,
    /// For a request that has no answer when all is well: comes behind it.
    done: Option<oneshot::Receiver<Bytes>>,
    number: u64,
}

/// The room of a request in which the session has to be, if any. Where the token lists a room, some need no entrance.
fn room_to_enter<'a>(request: &'a Request, identity: &Identity) -> Option<&'a RoomName> {
    let (room, by_grant) = match request {
        Request::Publish(publish) => (&publish.room, true),
        Request::Edit { room, .. } | Request::Delete { room, .. } | Request::React { room, .. } => {
            (room, true)
        }
        Request::Who { room, .. } | Request::Log { room, .. } | Request::Find { room, .. } => (room, true),
        Request::Typing { room, .. } | Request::Read { room, .. } | Request::Got { room, .. } => {
            (room, false)
        }
        _ => return None,
    };
    (!by_grant || !identity.lists(room)).then_some(room)
}

impl Entry {
    /// The session that does a user's errands; begun if there is none.
    pub(super) fn caller(
        self: &Rc<Entry>,
        request: &HttpRequest,
        asker: Asker,
    ) -> Result<Rc<Caller>, Problem> {
        let key = (asker.identity.user.clone(), asker.token);
        let known = self.callers.0.borrow().get(&key).filter(|caller| !caller.outlet.has_ended()).cloned();
        if let Some(caller) = known {
            caller.used.set(Instant::now());
            return Ok(caller);
        }
        let place = self.place(request)?;
        let (link, outlet) = pipe(Answers { waiting: HashMap::default(), bye: None });
        let entrance = Entrance {
            wire: Wire::Send,
            identity: asker.identity,
            back: None,
            joins: Vec::new(),
            pong: false,
            visitor: self.visitor(request),
        };
        let house = self.house().clone();
        let connection = house.core.borrow_mut().attach(link, false);
        let arrival = Arrival::Http(Box::new(entrance));
        let session = Session::begin(house, connection, arrival, BytesMut::new(), place);
        let caller = Rc::new(Caller {
            session,
            outlet,
            turn: Mutex::default(),
            next: Cell::new(1),
            rooms: RefCell::default(),
            used: Cell::new(Instant::now()),
        });
        self.callers.0.borrow_mut().insert(key.clone(), caller.clone());
        actix_rt::spawn(Entry::let_go(Rc::downgrade(self), key, Rc::downgrade(&caller)));
        Ok(caller)
    }

    /// Lets a session go that has not been used for a while.
    async fn let_go(entry: std::rc::Weak<Entry>, key: Key, caller: std::rc::Weak<Caller>) {
        loop {
            let Some(used) = caller.upgrade().map(|caller| caller.used.get()) else { return };
            let rest = STAY.saturating_sub(used.elapsed());
            let (Some(entry), Some(caller)) = (entry.upgrade(), caller.upgrade()) else { return };
            let is_ours = |known: &Rc<Caller>| Rc::ptr_eq(known, &caller);
            if rest.is_zero() || caller.outlet.has_ended() {
                let mut all = entry.callers.0.borrow_mut();
                if all.get(&key).is_some_and(is_ours) {
                    all.remove(&key);
                }
                return;
            }
            drop((entry, caller));
            sleep(rest).await;
        }
    }
}

impl Caller {
    /// Hands requests to the session, each under a number of its own.
    pub(super) fn sends(
        &self,
        identity: &Identity,
        requests: Vec<(Reference, Result<Request, Problem>)>,
    ) -> Vec<Sent> {
        let mut errand = Vec::with_capacity(requests.len());
        let mut all = Vec::with_capacity(requests.len());
        for (reference, request) in requests {
            if let Ok(request) = &request
                && let Some(room) = room_to_enter(request, identity)
            {
                self.enters(room, &mut errand);
            }
            let has_answer =
                !matches!(request, Ok(Request::Typing { .. } | Request::Read { .. } | Request::Got { .. }));
            // What cannot be read is refused by the session, so that it counts as a request.
            let (number, answer) = self.asks(&reference, request, &mut errand);
            let done =
                (!has_answer).then(|| self.asks(&Reference::default(), Ok(Request::Ping), &mut errand).1);
            all.push(Sent { reference, answer, done, number });
        }
        // Where it has ended meanwhile, nobody would answer.
        if self.outlet.has_ended() || self.session.try_send(Errand(errand)).is_err() {
            self.outlet.shape().end();
        }
        all
    }

    fn asks(
        &self,
        reference: &Reference,
        request: Result<Request, Problem>,
        errand: &mut Vec<(Reference, Result<Request, Problem>)>,
    ) -> (u64, oneshot::Receiver<Bytes>) {
        let number = self.next.replace(self.next.get() + 1);
        let (tell, answer) = oneshot::channel();
        self.outlet.shape().waiting.insert(number, tell);
        errand.push((Reference { i: Some(number), ..reference.clone() }, request));
        (number, answer)
    }

    /// Puts the session quietly into a room.
    fn enters(&self, room: &RoomName, errand: &mut Vec<(Reference, Result<Request, Problem>)>) {
        let mut rooms = self.rooms.borrow_mut();
        if rooms.contains(room) {
            return;
        }
        if rooms.len() >= ROOMS_MAX
            && let Some(oldest) = rooms.pop_front()
        {
            errand.push((Reference::default(), Ok(Request::Leave { room: oldest })));
        }
        rooms.push_back(room.clone());
        let join = Join { room: room.clone(), resume: Resume::FromNow, quiet: true, grant: None };
        errand.push((Reference::default(), Ok(Request::Join(join))));
    }

    /// Writes the answer to a line, under the number that its client gave it.
    pub(super) async fn answer(&self, sent: Sent, end: Instant, out: &mut Vec<u8>) {
        let Sent { reference, answer, done, number } = sent;
        let told = match done {
            None => self.hears(answer, end).await.map(Some),
            // A refusal comes before what stands behind it.
            Some(done) => self.hears(done, end).await.map(|_| self.heard(answer, number)),
        };
        match told {
            Ok(Some(line)) => {
                if is_not_joined(&line) {
                    // It was taken out of the room, or did not get in: the next request is to enter again.
                    self.rooms.borrow_mut().retain(|room| reference.room.as_ref() != Some(room));
                }
                write_renumbered(out, &line, number, reference.i);
            }
            Ok(None) => frames::ok(out, &reference),
            Err(problem) => frames::err(out, &reference, &problem),
        }
    }

    /// An answer that has come already, if there is one.
    fn heard(&self, mut answer: oneshot::Receiver<Bytes>, number: u64) -> Option<Bytes> {
        self.outlet.shape().waiting.remove(&number);
        answer.try_recv().ok()
    }

    async fn hears(&self, answer: oneshot::Receiver<Bytes>, end: Instant) -> Result<Bytes, Problem> {
        match timeout_at(end, answer).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(_)) => Err(gone(self.outlet.shape().bye.as_ref())),
            Err(_) => {
                Err(Problem::new(503, "busy", "no answer came in time; send it again with the same id")
                    .wait(1_000))
            }
        }
    }
}

fn is_not_joined(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Why<'a> {
        why: Option<&'a str>,
    }
    line.starts_with(b"{\"t\":\"err\"")
        && serde_json::from_slice::<Why<'_>>(line).is_ok_and(|line| line.why == Some("not-joined"))
}

/// Why a session has no answer any more.
fn gone(bye: Option<&Bye>) -> Problem {
    match bye {
        Some(Bye { code: 4101, .. }) => Problem::too_fast(1_000),
        Some(Bye { code: 4100, wait }) => {
            Problem::new(503, "busy", "you cannot be let in just now; send it again")
                .wait(wait.unwrap_or(1_000))
        }
        Some(Bye { code: 4000..=4099, .. }) => {
            Problem::new(403, "not-allowed", "you were sent away; ask the operator")
        }
        other => {
            let wait = other.and_then(|bye| bye.wait).unwrap_or(1_000);
            Problem::new(503, "draining", "this node is stopping; send it again with the same id").wait(wait)
        }
    }
}

/// Writes a line with another request number, or without one. The number stands before anything that a client wrote,
/// save the room's name, in which a quote is escaped.
fn write_renumbered(out: &mut Vec<u8>, line: &[u8], number: u64, i: Option<u64>) {
    let key = format!(",\"i\":{number}");
    let at = line.windows(key.len()).position(|part| part == key.as_bytes());
    let Some(at) = at else { return out.extend_from_slice(line) };
    out.extend_from_slice(&line[..at]);
    if let Some(i) = i {
        out.extend_from_slice(format!(",\"i\":{i}").as_bytes());
    }
    out.extend_from_slice(&line[at + key.len()..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_clients_own_number_or_none() {
        let renumbered = |line: &str, i| {
            let mut out = Vec::new();
            write_renumbered(&mut out, line.as_bytes(), 7, i);
            String::from_utf8(out).unwrap()
        };
        let ack = r#"{"t":"ack","r":"a\",\"i\":7","s":3,"i":7,"id":"x","ts":1}"#;
        assert_eq!(
            renumbered(ack, Some(12)),
            r#"{"t":"ack","r":"a\",\"i\":7","s":3,"i":12,"id":"x","ts":1}"#
        );
        assert_eq!(renumbered(ack, None), r#"{"t":"ack","r":"a\",\"i\":7","s":3,"id":"x","ts":1}"#);
        assert_eq!(renumbered(r#"{"t":"pong"}"#, Some(1)), r#"{"t":"pong"}"#);
    }
}
