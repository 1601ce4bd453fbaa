//! What sessions, queues and handlers ask, done in the order in which each of them asked. Where something is
//! not in memory, the work of that one stands still until the store has answered; everybody else goes on.

use std::collections::{HashMap, HashSet, VecDeque};

use ahash::RandomState;
use slab::Slab;
use tokio::sync::oneshot;

use super::altering::Erasing;
use super::fetching::Fetching;
use super::looking::reply_to;
use super::{ChatServer, Seat};
use crate::actors::letters::{Ask, ConnectionId, ToHub, What};
use crate::chat::dedup::IdKey;
use crate::chat::message::{Accepted, Draft, Offset, Refused};
use crate::chat::names::RoomName;
use crate::chat::trace::Door;
use crate::protocols::codes::Problem;
use crate::protocols::native::Reference;
use crate::protocols::native_frames as frames;

/// Asks of one session whose needs are fetched together.
const AHEAD: usize = 64;

/// Who hears what became of something that was said.
#[derive(Debug)]
pub(super) enum AckTo {
    /// A session: what its request is known by, and whether it changed an entry instead of saying something.
    Session(ConnectionId, Box<Reference>, bool),
    /// A batch, at this place in it.
    Batch(usize, usize),
    /// Somebody who has said nothing else.
    Alone(oneshot::Sender<Result<Accepted, Problem>>),
    /// Nobody.
    Nobody,
}

/// What lies on a session's desk while its letters are dealt with.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// What it has asked and not got.
    asks: VecDeque<Ask>,
    /// Letters that are answered when the desk is empty.
    letters: u32,
    /// Things said that are not kept yet.
    pending: u32,
    /// The store is asked for something that is needed first.
    waiting: bool,
    /// Its asks are being dealt with further up the stack.
    working: bool,
}

impl Desk {
    /// What is dealt with next.
    pub(super) fn next(&self) -> Option<&What> {
        self.asks.front().map(|ask| &ask.what)
    }
}

/// Messages of a backend, said one after the other.
pub(super) struct Batch {
    drafts: VecDeque<Draft>,
    /// Through which door it has come.
    pub(super) door: Door,
    answers: Vec<Option<Result<Accepted, Refused>>>,
    open: usize,
    next: usize,
    /// Why those that follow have to wait as well.
    busy: Option<Refused>,
    waiting: bool,
    reply: oneshot::Sender<Vec<Result<Accepted, Refused>>>,
}

/// Whose work goes on when the store has answered.
#[derive(Debug)]
pub(super) enum Job {
    /// A session's.
    Session(ConnectionId),
    /// A batch.
    Batch(usize),
    /// A handler's message.
    Say(Box<Draft>),
    /// An operator's.
    Erase(Box<Erasing>),
}

/// What the store has told for the work that stands still, beside what went into the rooms.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Rooms that are not opened: nothing is known of them, or there is no place for more.
    pub(super) no_rooms: HashSet<RoomName, RandomState>,
    /// Ids that were not said before.
    pub(super) new_ids: HashSet<(RoomName, IdKey), RandomState>,
    /// Places where nothing stands.
    pub(super) no_entries: HashSet<(RoomName, Offset), RandomState>,
    /// The first offsets of times.
    pub(super) starts: HashMap<(RoomName, u64), Offset, RandomState>,
}

/// All work that is under way.
#[derive(Default)]
pub(super) struct Work {
    pub(super) batches: Slab<Batch>,
    pub(super) told: Told,
    pub(super) tickets: HashMap<u64, Fetching, RandomState>,
    pub(super) next_ticket: u64,
    /// Rooms that are asked for, with those who want them too: when everybody comes at once, a room is asked for once.
    pub(super) opening: HashMap<(RoomName, bool), Vec<Job>, RandomState>,
}

impl ChatServer {
    /// A letter of a session: puts what it asks on its desk and deals with it as far as possible.
    pub(super) fn take_letter(&mut self, connection: ConnectionId, asks: Vec<Ask>) {
        let Some(desk) = self.desk(connection) else {
            // A session that is closed asks nothing more; its hub counts the letter all the same.
            return self.mail(connection.worker.into(), ToHub::Done(connection));
        };
        desk.letters += 1;
        match desk.asks.is_empty() {
            true => desk.asks = asks.into(),
            false => desk.asks.extend(asks),
        }
        self.work_on(connection);
    }

    /// Puts something on a session's desk that it has not asked for itself.
    pub(super) fn ask_also(&mut self, connection: ConnectionId, ask: Ask) {
        if let Some(desk) = self.desk(connection) {
            desk.asks.push_back(ask);
            self.work_on(connection);
        }
    }

    /// The desk of a session; made if it has none.
    fn desk(&mut self, connection: ConnectionId) -> Option<&mut Desk> {
        match self.seat_mut(connection)? {
            Seat::Session { desk, .. } => Some(desk.get_or_insert_default()),
            Seat::Raw { .. } => None,
        }
    }

    /// Deals with a session's asks until one has to wait or none is left.
    pub(super) fn work_on(&mut self, connection: ConnectionId) {
        match self.desk(connection) {
            Some(desk) if !desk.working => desk.working = true,
            _ => return,
        }
        self.work_through(connection);
        let Some(desk) = self.desk(connection) else { return };
        desk.working = false;
        if desk.asks.is_empty() && !desk.waiting && desk.pending == 0 {
            self.clear_desk(connection);
        }
    }

    fn work_through(&mut self, connection: ConnectionId) {
        loop {
            let Some(desk) = self.desk(connection) else { return };
            if desk.waiting {
                return;
            }
            let Some(ask) = desk.asks.front() else { return };
            // Answers keep their order: only what is said itself may follow what is not kept yet.
            if desk.pending > 0 && !ask.what.is_said() {
                return;
            }
            let needs = self.needs_of_session(connection);
            if !needs.is_empty() {
                return self.fetch(needs, Job::Session(connection));
            }
            if self.waits_for_room(connection) {
                return;
            }
            let Some(ask) = self.desk(connection).and_then(|desk| desk.asks.pop_front()) else { return };
            self.answer(connection, ask);
        }
    }

    /// What has to be fetched before the first ask on a desk; with it what the next ones will need.
    fn needs_of_session(&mut self, connection: ConnectionId) -> Vec<super::fetching::Need> {
        let mut needs = Vec::new();
        let Some(Seat::Session { identity, desk: Some(desk), .. }) = self.seat(connection) else {
            return needs;
        };
        if !self.keeping.lasts() {
            return needs;
        }
        for ask in desk.asks.iter().take(AHEAD) {
            let before = needs.len();
            self.needs_of_ask(&identity.user, &ask.what, &mut needs);
            if before == 0 && needs.is_empty() {
                break;
            }
        }
        needs
    }

    /// Everything on a desk is done: the session may send more letters.
    fn clear_desk(&mut self, connection: ConnectionId) {
        let Some(Seat::Session { desk: place, .. }) = self.seat_mut(connection) else { return };
        let letters = place.take().map_or(0, |desk| desk.letters);
        for _ in 0..letters {
            self.mail(connection.worker.into(), ToHub::Done(connection));
        }
    }

    /// A session waits for the store.
    pub(super) fn stand_still(&mut self, connection: ConnectionId) {
        if let Some(desk) = self.desk(connection) {
            desk.waiting = true;
        }
    }

    /// The store has answered: a session's work goes on.
    pub(super) fn go_on(&mut self, connection: ConnectionId) {
        if let Some(desk) = self.desk(connection) {
            desk.waiting = false;
        }
        self.work_on(connection);
    }

    /// Puts asks before all others on a desk.
    pub(super) fn ask_first(&mut self, connection: ConnectionId, asks: Vec<Ask>) {
        if let Some(desk) = self.desk(connection) {
            for ask in asks.into_iter().rev() {
                desk.asks.push_front(ask);
            }
        }
    }

    /// Something that a session said is on its way to be kept.
    pub(super) fn expect_ack(&mut self, to: &AckTo) {
        if let AckTo::Session(connection, ..) = to
            && let Some(desk) = self.desk(*connection)
        {
            desk.pending += 1;
        }
    }

    /// Tells what became of something that was said with [`ChatServer::expect_ack`].
    pub(super) fn tell(&mut self, to: AckTo, answer: Result<Accepted, Refused>) {
        match to {
            AckTo::Nobody => {
                if let Err(refused) = answer {
                    log::warn!("a handler's message was not said: {refused}");
                }
            }
            AckTo::Batch(batch, at) => self.settle(batch, at, answer),
            AckTo::Alone(reply) => {
                if let Err(refused) = &answer {
                    self.count_refused(refused);
                }
                reply_to(reply, answer.map_err(Problem::from));
            }
            AckTo::Session(connection, reference, change) => {
                if self.seat(connection).is_none() {
                    return;
                }
                match answer {
                    Ok(place) if change => {
                        self.send(connection, |out| frames::ack_change(out, &reference, &place));
                    }
                    Ok(place) => self.send(connection, |out| frames::ack(out, &reference, &place)),
                    Err(refused) => {
                        self.count_refused(&refused);
                        self.send_problem(connection, &reference, &refused.into());
                    }
                }
                self.one_less_pending(connection);
            }
        }
    }

    /// A frame that had to wait for what the session said before.
    pub(super) fn send_at_last(&mut self, connection: ConnectionId, frame: bytes::Bytes) {
        if self.seat(connection).is_some() {
            self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
            self.one_less_pending(connection);
        }
    }

    fn one_less_pending(&mut self, connection: ConnectionId) {
        let Some(desk) = self.desk(connection) else { return };
        desk.pending -= 1;
        if desk.pending == 0 {
            self.work_on(connection);
        }
    }

    /// Whether something that a session said is not kept yet.
    pub(super) fn has_pending(&self, connection: ConnectionId) -> bool {
        matches!(self.seat(connection), Some(Seat::Session { desk: Some(desk), .. }) if desk.pending > 0)
    }

    /// Refuses in order with the answers to what the session said before.
    pub(super) fn refuse(&mut self, connection: ConnectionId, reference: &Reference, problem: &Problem) {
        if self.has_pending(connection) {
            self.metrics.errors.count(problem.why);
            let frame = self.frame(|out| frames::err(out, reference, problem));
            if let Some(desk) = self.desk(connection) {
                desk.pending += 1;
            }
            return self.when_kept(super::keeping::Then::Frame(connection, frame));
        }
        self.send_problem(connection, reference, problem);
    }

    pub(super) fn send_problem(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        problem: &Problem,
    ) {
        self.metrics.errors.count(problem.why);
        self.send(connection, |out| frames::err(out, reference, problem));
    }

    /// Messages of a backend: says them in order, answers when all are kept or refused.
    pub(super) fn take_batch(
        &mut self,
        drafts: Vec<Draft>,
        door: Door,
        reply: oneshot::Sender<Vec<Result<Accepted, Refused>>>,
    ) {
        let (n, drafts) = (drafts.len(), VecDeque::from(drafts));
        let answers = (0..n).map(|_| None).collect();
        let batch = Batch { drafts, door, answers, open: n, next: 0, busy: None, waiting: false, reply };
        let at = self.work.batches.insert(batch);
        if n == 0 {
            return self.end_batch(at);
        }
        self.work_on_batch(at);
    }

    pub(super) fn work_on_batch(&mut self, at: usize) {
        loop {
            let Some(batch) = self.work.batches.get_mut(at) else { return };
            let Some(draft) = batch.drafts.front() else { return };
            batch.waiting = false;
            // Behind one that has to wait all wait, so that their order is kept.
            if let Some(refused) = batch.busy.clone() {
                let place = self.next_of_batch(at).1;
                self.settle(at, place, Err(refused));
                continue;
            }
            let draft = draft.clone();
            let mut needs = Vec::new();
            if self.keeping.lasts() {
                self.needs_of_draft(&draft, &mut needs);
            }
            if !needs.is_empty() {
                if let Some(batch) = self.work.batches.get_mut(at) {
                    batch.waiting = true;
                }
                return self.fetch(needs, Job::Batch(at));
            }
            let (draft, place) = self.next_of_batch(at);
            let Some(draft) = draft else { return };
            if let Err(refused) = self.moderate(None, draft, AckTo::Batch(at, place)) {
                self.settle(at, place, Err(refused));
            }
        }
    }

    fn next_of_batch(&mut self, at: usize) -> (Option<Draft>, usize) {
        let batch = &mut self.work.batches[at];
        let place = batch.next;
        batch.next += 1;
        (batch.drafts.pop_front(), place)
    }

    fn settle(&mut self, at: usize, place: usize, answer: Result<Accepted, Refused>) {
        if let Err(refused) = &answer {
            self.count_refused(refused);
        }
        let Some(batch) = self.work.batches.get_mut(at) else { return };
        if let Err(refused) = &answer
            && refused.is_for_now()
            && batch.busy.is_none()
        {
            batch.busy = Some(refused.clone());
        }
        debug_assert!(batch.answers[place].is_none(), "one answer for each draft");
        batch.answers[place] = Some(answer);
        batch.open -= 1;
        if batch.open == 0 {
            self.end_batch(at);
        }
    }

    fn end_batch(&mut self, at: usize) {
        let batch = self.work.batches.remove(at);
        // A source that has ended waits for no answer; what it pushed is kept or comes again.
        batch.reply.send(batch.answers.into_iter().flatten().collect()).unwrap_or_default();
    }

    /// The store could not be read for something that this work needs.
    pub(super) fn fail_job(&mut self, job: Job) {
        let refused = Refused::NotStored { wait_ms: super::BUSY_WAIT_MS };
        match job {
            Job::Session(connection) => {
                let ask = self.desk(connection).and_then(|desk| desk.asks.pop_front());
                if let Some(ask) = ask {
                    self.refuse(connection, &ask.reference, &refused.into());
                }
                self.go_on(connection);
            }
            Job::Batch(at) => {
                if let Some(batch) = self.work.batches.get_mut(at) {
                    batch.busy.get_or_insert(refused);
                }
                self.work_on_batch(at);
            }
            Job::Say(_) => log::warn!("a handler's message was not said: {refused}"),
            Job::Erase(erasing) => reply_to(erasing.reply, Err(refused.into())),
        }
    }
}

impl What {
    /// Whether it goes into a room's log, or is answered in order with what does.
    fn is_said(&self) -> bool {
        matches!(self, What::Publish { .. } | What::Alter { .. } | What::Refuse(_))
    }
}
