//! What is not in memory: which questions work needs answered, and what happens with the answers. The chat
//! server never waits for them; whoever needs them stands still alone.

use std::borrow::Cow;

use super::ChatServer;
use super::keeping::Link;
use super::work::Job;
use crate::actors::letters::{ConnectionId, What};
use crate::chat::changes::State;
use crate::chat::dedup::Seen;
use crate::chat::entry::Kind;
use crate::chat::history::Hot;
use crate::chat::line;
use crate::chat::message::{Alteration, Altering, Draft, Offset, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::chat::room::{IdsToAsk, Past, Resume};
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::engines::engine::Ask;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::frame::payload_of;
use crate::store::archive::{Answer, Question, StoredEntry, StoredRoom, StoredState};
use crate::store::record::Lsn;

/// Entries read when a room opens, and their most bytes: who joins or comes back soon finds them hot.
const TAIL: usize = 128;
const TAIL_BYTES: usize = 64 << 10;
/// Ids read when the first message with an id is said in a room that was opened again.
const IDS: usize = 20_000;
/// Read marks read when a room opens.
const READ_MARKS: usize = 200;

/// Something that must be in memory before an ask can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// A room; opened even if the store does not know it, or not.
    Room(RoomName, bool),
    /// The ids that were said in a room.
    Ids(RoomName),
    /// One id.
    Id(RoomName, Option<UserName>, MessageId),
    /// An entry, with somebody's reactions.
    Entry(RoomName, Offset, Option<UserName>),
    /// The first offset of a time.
    Start(RoomName, u64),
    /// How far somebody has read.
    Read(RoomName, UserName),
}

/// What the store is asked for, by a ticket.
#[derive(Debug)]
pub(super) enum Fetching {
    /// Needs of somebody's work.
    Needs(Vec<Need>, Job),
    /// The answer to an ask that only the store can give.
    Ask(ConnectionId, super::asking::Asked),
    /// Entries for a member that is behind.
    Feed(ConnectionId, RoomKey, u32),
    /// Where a session stood that somebody goes on with.
    Session(ConnectionId, super::cursors::Resuming),
    /// What an operator asks.
    Look(super::looking::Reply),
    /// What an operator orders about a room.
    Rule(tokio::sync::oneshot::Sender<Result<(), Problem>>),
}

impl ChatServer {
    /// Asks the store.
    pub(super) fn question(&mut self, questions: Vec<Question>, fetching: Fetching) {
        let ticket = self.work.next_ticket;
        self.work.next_ticket += 1;
        self.work.tickets.insert(ticket, fetching);
        // What was given out in this turn must reach the engine before a question about it.
        self.keeping.end_turn();
        let after = questions.iter().map(|question| self.must_know(question)).max().unwrap_or(0);
        self.keeping.ask(Ask { ticket, after, questions });
    }

    /// What an answer must know. What memory gives up is in the archive by then, so that most answers need not
    /// wait for what was said last.
    fn must_know(&self, question: &Question) -> Lsn {
        match question {
            // What a session or a user did last is not shown to anybody, so all of it counts.
            Question::Session(_) | Question::RoomsOf { .. } => self.keeping.newest(),
            Question::Page { .. } | Question::Find { .. } | Question::Entry { .. } => self.keeping.kept(),
            // Another room has to make place, and may when the archive has all of it.
            Question::Room { .. } if self.rooms.is_full() => self.keeping.kept(),
            // Small things of the process before are not all put back into memory.
            _ => self.keeping.replayed(),
        }
    }

    /// Fetches what somebody's work needs; it stands still until then.
    pub(super) fn fetch(&mut self, mut needs: Vec<Need>, job: Job) {
        if let Job::Session(connection) = job {
            self.stand_still(connection);
        }
        let mut at = 0;
        while at < needs.len() {
            let repeated = needs[..at].contains(&needs[at]);
            if repeated {
                needs.swap_remove(at);
            } else {
                at += 1;
            }
        }
        let opened = |need: &Need| match need {
            Need::Room(room, open) => Some((room.clone(), *open)),
            _ => None,
        };
        if let Some(room) = needs.iter().filter_map(opened).find(|room| self.work.opening.contains_key(room))
        {
            // What else it needs is asked for when the room is there.
            self.work.opening.entry(room).or_default().push(job);
            return;
        }
        self.work.opening.extend(needs.iter().filter_map(opened).map(|room| (room, Vec::new())));
        let questions = needs.iter().flat_map(|need| self.questions_of(need)).collect();
        self.question(questions, Fetching::Needs(needs, job));
    }

    /// Those who waited for the rooms that somebody else had asked for.
    fn also_waiting(&mut self, needs: &[Need]) -> Vec<Job> {
        let rooms = needs.iter().filter_map(|need| match need {
            Need::Room(room, open) => Some((room.clone(), *open)),
            _ => None,
        });
        rooms.filter_map(|room| self.work.opening.remove(&room)).flatten().collect()
    }

    fn questions_of(&self, need: &Need) -> Vec<Question> {
        match need.clone() {
            Need::Room(room, _) => vec![
                Question::Room { room: room.clone(), tail: TAIL, tail_bytes: TAIL_BYTES },
                Question::ReadMarks { room, n: READ_MARKS },
            ],
            Need::Ids(room) => {
                let window = self.settings.rooms.of(&room).dedup_window_ms;
                let since = clock::cautious_ms().saturating_sub(window);
                vec![Question::Ids { room, since, n: IDS }]
            }
            Need::Id(room, user, id) => vec![Question::Id { room, user, id }],
            Need::Entry(room, offset, user) => vec![Question::Entry { room, offset, user }],
            Need::Start(room, ts) => vec![Question::Since { room, ts }],
            Need::Read(room, user) => vec![Question::ReadMark { room, user }],
        }
    }

    /// The store has answered.
    pub(super) fn answered(&mut self, ticket: u64, answers: Result<Vec<Answer>, String>) {
        let Some(fetching) = self.work.tickets.remove(&ticket) else { return };
        if let Err(why) = &answers {
            log::error!("store: a question has no answer: {}", why.escape_debug());
        }
        match (fetching, answers) {
            (Fetching::Needs(needs, job), Ok(answers)) => {
                let others = self.also_waiting(&needs);
                let mut answers = answers.into_iter();
                for need in needs {
                    self.install(need, &mut answers);
                }
                std::iter::once(job).chain(others).for_each(|job| self.resume(job));
            }
            (Fetching::Needs(needs, job), Err(_)) => {
                let others = self.also_waiting(&needs);
                std::iter::once(job).chain(others).for_each(|job| self.fail_job(job));
            }
            (Fetching::Ask(connection, asked), answers) => self.answer_asked(connection, asked, answers),
            (Fetching::Feed(connection, key, stay), answers) => self.fed(connection, key, stay, answers),
            (Fetching::Look(reply), answers) => self.looked(reply, answers),
            // Settled apart.
            (Fetching::Rule(_), _) => {}
            (Fetching::Session(connection, resuming), answers) => {
                match answers.map(|answers| answers.into_iter().next()) {
                    Ok(Some(Answer::Session(note))) => self.resume_session(connection, resuming, note),
                    // Whether there is such a session cannot be known now; told that there is none, the client would
                    // begin anew.
                    _ => self.close(connection, Goodbye::LATER),
                }
            }
        }
        if self.work.tickets.is_empty() {
            self.work.told = Default::default();
        }
    }

    fn resume(&mut self, job: Job) {
        match job {
            Job::Session(connection) => self.go_on(connection),
            Job::Batch(at) => self.work_on_batch(at),
            Job::Say(draft) => self.say_for_handler(*draft),
            Job::Erase(erasing) => self.erase(*erasing),
        }
    }

    fn install(&mut self, need: Need, answers: &mut impl Iterator<Item = Answer>) {
        match (need, answers.next()) {
            (Need::Room(name, open), Some(Answer::Room(known))) => {
                let marks = match answers.next() {
                    Some(Answer::ReadMarks(marks)) => marks,
                    _ => Vec::new(),
                };
                self.install_room(&name, open, known, marks);
            }
            (Need::Ids(name), Some(Answer::Ids(ids, more))) => {
                let ids = ids.into_iter().map(|(user, id, place)| {
                    (self.keys.key(user.as_ref(), &id), Seen { offset: place.offset, ts: place.ts })
                });
                let ids = ids.collect();
                if let Some(key) = self.rooms.find(&name) {
                    self.rooms.restore_ids(key, ids, !more);
                }
            }
            (Need::Id(name, user, id), Some(Answer::Place(place))) => {
                let id = self.keys.key(user.as_ref(), &id);
                match (place, self.rooms.find(&name)) {
                    (Some(place), Some(key)) => {
                        let seen = Seen { offset: place.offset, ts: place.ts };
                        self.rooms.add_id(key, id, seen);
                    }
                    (Some(_), None) => {}
                    (None, _) => {
                        self.work.told.new_ids.insert((name, id));
                    }
                }
            }
            (Need::Entry(name, offset, user), Some(Answer::Entry(known))) => {
                self.install_entry(&name, offset, user, known);
            }
            (Need::Start(name, ts), Some(Answer::Offset(start))) => {
                self.work.told.starts.insert((name, ts), start);
            }
            (Need::Read(name, user), Some(Answer::ReadMark(offset))) => {
                if let Some(key) = self.rooms.find(&name) {
                    self.rooms.get_mut(key).reads.marks.entry(user).or_insert(offset);
                }
            }
            (need, answer) => log::error!("store: {need:?} was answered with {answer:?}"),
        }
    }

    fn install_room(
        &mut self,
        name: &RoomName,
        open: bool,
        known: Option<StoredRoom>,
        marks: Vec<(UserName, Offset)>,
    ) {
        if self.rooms.find(name).is_some() {
            return;
        }
        if known.is_none() && !open {
            self.work.told.no_rooms.insert(name.clone());
            return;
        }
        if self.keeping.is_shared() && !open && known.as_ref().is_some_and(|known| known.top == 0) {
            // The service hears that nobody here wants to know of it.
            self.work.told.no_rooms.insert(name.clone());
            return self.leave_unopened(name);
        }
        let past = known.map(|known| self.past_of(name, known));
        let Ok(key) = self.open_room(name, past) else {
            self.work.told.no_rooms.insert(name.clone());
            return self.leave_unopened(name);
        };
        let reads = &mut self.rooms.get_mut(key).reads;
        reads.complete = marks.len() < READ_MARKS;
        reads.marks.extend(marks);
    }

    fn leave_unopened(&mut self, name: &RoomName) {
        if let Link::Service(service) = &mut self.keeping.link {
            service.leave(vec![name.clone()]);
        }
    }

    /// What a room begins with when the store knows it.
    pub(super) fn past_of(&mut self, name: &RoomName, known: StoredRoom) -> Past {
        let StoredRoom { lineage, top, first, tail } = known;
        let hot = tail.into_iter().map(|entry| Hot {
            ts: entry.ts,
            lsn: 0,
            frame: self.frame_of_stored(name, &entry),
        });
        Past { tail: hot.collect(), lives: lineage, top, first }
    }

    /// The frame of an entry that was read; a place that is not shown any more becomes a skip.
    pub(super) fn frame_of_stored(&mut self, name: &RoomName, entry: &StoredEntry) -> bytes::Bytes {
        match &entry.line {
            Some(line) => super::text_frame(line),
            None => self.frame(|out| frames::skip(out, name, entry.offset, 1)),
        }
    }

    fn install_entry(
        &mut self,
        name: &RoomName,
        offset: Offset,
        user: Option<UserName>,
        known: Option<StoredState>,
    ) {
        let Some(known) = known else {
            self.work.told.no_entries.insert((name.clone(), offset));
            return;
        };
        let Some(key) = self.rooms.find(name) else { return };
        let StoredState { kind, user: author, deleted, edited, reactions } = known;
        let changes = &mut self.rooms.get_mut(key).changes;
        let mut state = State::new(kind, author, false);
        (state.deleted, state.edited) = (deleted, edited);
        changes.learn(offset, state);
        if let (Some(user), Some(state)) = (user, changes.get_mut(offset)) {
            state.learn(&user, reactions);
        }
    }

    /// What an ask of a session needs.
    pub(super) fn needs_of_ask(&self, user: &UserName, what: &What, needs: &mut Vec<Need>) {
        let open = |name: &RoomName, create: bool, needs: &mut Vec<Need>| {
            let found = self.rooms.find(name);
            if found.is_none() && !self.work.told.no_rooms.contains(name) {
                needs.push(Need::Room(name.clone(), create));
            }
            found
        };
        match what {
            What::Publish { draft, .. } => self.needs_of_draft(draft, needs),
            What::Join(join) => {
                let Some(key) = open(&join.room, true, needs) else { return };
                if let Resume::From(ts) = join.resume
                    && self.rooms.get(key).must_look_up(ts)
                    && !self.work.told.starts.contains_key(&(join.room.clone(), ts))
                {
                    needs.push(Need::Start(join.room.clone(), ts));
                }
                let reads = &self.rooms.get(key).reads;
                if !reads.complete && !reads.marks.contains_key(user) {
                    needs.push(Need::Read(join.room.clone(), user.clone()));
                }
            }
            What::Alter { alteration, .. } => self.needs_of_alteration(alteration, needs),
            What::Read { room, .. } => {
                let Some(key) = self.rooms.find(room) else { return };
                let reads = &self.rooms.get(key).reads;
                if !reads.complete && !reads.marks.contains_key(user) {
                    needs.push(Need::Read(room.clone(), user.clone()));
                }
            }
            What::Log { room, .. } | What::Find { room, .. } => {
                open(room, false, needs);
            }
            _ => {}
        }
    }

    /// What a change of an entry needs: its room, its id, the entry, and how the user has reacted to it.
    pub(super) fn needs_of_alteration(&self, alteration: &Alteration, needs: &mut Vec<Need>) {
        let Alteration { room: name, user, id, of, what } = alteration;
        let Some(key) = self.rooms.find(name) else {
            if !self.work.told.no_rooms.contains(name) {
                needs.push(Need::Room(name.clone(), false));
            }
            return;
        };
        self.needs_of_id(key, user.as_ref(), id.as_ref(), needs);
        let reacting = user.as_ref().filter(|_| matches!(what, Altering::React { .. }));
        let room = self.rooms.get(key);
        let is_known =
            room.changes.get(*of).is_some_and(|state| reacting.is_none_or(|user| state.knows(user)))
                || reacting.is_none() && room.history.get(*of).is_some();
        let is_nothing = self.work.told.no_entries.contains(&(name.clone(), *of));
        if !is_known && !is_nothing && room.is_shown(*of) {
            needs.push(Need::Entry(name.clone(), *of, reacting.cloned()));
        }
    }

    /// What a message needs: its room, its id, and the inboxes of those whom it calls by name.
    pub(super) fn needs_of_draft(&self, draft: &Draft, needs: &mut Vec<Need>) {
        let mut open = |name: &RoomName| {
            let found = self.rooms.find(name);
            if found.is_none() && !self.work.told.no_rooms.contains(name) {
                needs.push(Need::Room(name.clone(), true));
            }
            found
        };
        let called = if draft.keep { line::mentions_in(draft.data.as_bytes()) } else { Vec::new() };
        if self.keeping.is_shared() {
            // The service numbers what is said, and knows ids; only who may read it is asked here.
            if !called.is_empty() || draft.via == Via::Session {
                open(&draft.room);
            }
            return;
        }
        let found = open(&draft.room);
        for inbox in called.iter().filter_map(super::inbox_of) {
            open(&inbox);
        }
        if let Some(key) = found {
            self.needs_of_id(key, draft.user.as_ref(), draft.id.as_ref(), needs);
        }
    }

    fn needs_of_id(
        &self,
        key: RoomKey,
        user: Option<&UserName>,
        id: Option<&MessageId>,
        needs: &mut Vec<Need>,
    ) {
        let Some(id) = id.filter(|_| !self.keeping.is_shared()) else { return };
        match self.rooms.get(key).ids_to_ask(clock::cautious_ms()) {
            IdsToAsk::None => {}
            IdsToAsk::All => needs.push(Need::Ids(self.rooms.get(key).name.clone())),
            IdsToAsk::One => {
                let hash = self.keys.key(user, id);
                let room = self.rooms.get(key);
                let told = &self.work.told.new_ids;
                if !room.knows_id(hash) && !told.contains(&(room.name.clone(), hash)) {
                    needs.push(Need::Id(room.name.clone(), user.cloned(), id.clone()));
                }
            }
        }
    }

    /// What is known of an entry that is hot, without asking the store. Who has reacted to it is known only
    /// where there is none.
    pub(super) fn learn_from_history(&mut self, key: RoomKey, offset: Offset) {
        let room = self.rooms.get_mut(key);
        if room.changes.get(offset).is_some() {
            return;
        }
        let Some(frame) = room.history.get(offset) else { return };
        if let Some(state) = state_of(payload_of(frame), !self.keeping.lasts()) {
            room.changes.learn(offset, state);
        }
    }
}

/// The state of an entry, from its line.
pub(super) fn state_of(line: &[u8], all_reactions_known: bool) -> Option<State> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        t: &'a str,
        #[serde(borrow)]
        u: Option<Cow<'a, str>>,
        gone: Option<bool>,
        edited: Option<Offset>,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let user = line.u.and_then(|user| UserName::new(&user).ok());
    let mut state = State::new(Kind::of_word(line.t)?, user, all_reactions_known);
    (state.deleted, state.edited) = (line.gone.unwrap_or(false), line.edited.unwrap_or(0));
    Some(state)
}
