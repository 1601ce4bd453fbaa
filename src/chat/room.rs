//! One room: its log, who is in it, what is remembered of it.
//! Called by the chat server, which alone owns rooms; so everything of a room happens in one place and
//! the order needs no lock. Knows no frames' contents and no sockets.

use std::collections::HashMap;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::chat::changes::Changes;
use crate::chat::dedup::{Dedup, IdKey, Seen};
use crate::chat::history::{History, Hot, Wanted};
use crate::chat::message::{Accepted, Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::presence::Roster;
use crate::chat::receipt::Receipt;
use crate::chat::settings::RoomSettings;
use crate::chat::typing::Typing;

/// A room of this node.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: RoomName,
    /// The life of its log.
    pub epoch: Epoch,
    /// What it keeps and who may do what.
    pub settings: RoomSettings,
    /// The hot tail of its log: what readers may see.
    pub history: History,
    /// Who is here.
    pub roster: Roster,
    /// Who is typing.
    pub typing: Typing,
    /// How far its users have read, as far as it is in memory.
    pub reads: Reads,
    /// What is known of entries that somebody has changed or reacted to.
    pub changes: Changes,
    /// How far the application of some member has got, for the receipts.
    pub receipt: Receipt,
    /// The lives of the log before the present one, each with its first offset.
    earlier: Vec<(Epoch, Offset)>,
    /// The first offset of the present life.
    begins: Offset,
    /// The newest offset that was given out; above the history's top while it is not kept yet.
    promised: Offset,
    /// The oldest offset that the store keeps; none without a store.
    stored_first: Option<Offset>,
    /// Number of the newest record about this room.
    last_lsn: u64,
    dedup: Dedup,
    /// All ids said since then are in memory, Unix milliseconds; `u64::MAX` while none have been looked up.
    ids_since: u64,
    members: SmallVec<[u32; 4]>,
    /// When it was first found to hold nothing, in milliseconds of the steady clock; 0 while it holds something.
    empty_since: u64,
}

/// Read marks of a room's users.
#[derive(Debug, Default)]
pub struct Reads {
    /// By user, the place up to which she has read.
    pub marks: HashMap<UserName, Offset, RandomState>,
    /// Whether a user who is not among them has none.
    pub complete: bool,
}

/// What a store knows of a room when it opens.
#[derive(Debug, Clone)]
pub struct Past {
    /// The lives of its log, oldest first, each with its first offset; at least one.
    pub lives: Vec<(Epoch, Offset)>,
    /// Offset of the newest entry ever.
    pub top: Offset,
    /// Offset of the oldest entry that is kept; `top + 1` for none.
    pub first: Offset,
    /// The newest entries, oldest first.
    pub tail: Vec<Hot>,
}

/// How long a room that holds nothing stays open, in milliseconds: who comes back within it finds the same
/// epoch, and need not be told that something may be missing.
const EMPTY_MS: u64 = 60_000;

/// What a reader who joins has seen already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Nothing, and wants nothing old.
    FromNow,
    /// All up to an offset of an epoch (on the wire's form; none means the present one).
    Since(Offset, Option<Box<str>>),
    /// Nothing; wants the newest so many.
    Last(usize),
    /// Nothing; wants what was said since a server time (Unix milliseconds).
    From(u64),
}

/// What a reader who joins is going to get.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// Offset of the first entry to replay; `top + 1` for none.
    pub start: Offset,
    /// Offset up to which is replayed; what comes later comes live.
    pub top: Offset,
    /// What was asked for and cannot be had any more.
    pub missing: Option<Missing>,
    /// What the reader saw after this offset was taken back: it was never kept.
    pub rewind: Option<Offset>,
}

/// Part of the log that a reader asked for and that is gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// These offsets, both included.
    Range(Offset, Offset),
    /// The whole log that the reader knew: it had another life.
    All {
        /// The epoch that the reader named.
        was: Box<str>,
    },
}

impl Room {
    /// An empty room whose first entry will be at offset 1 of `epoch`. `stored`: there is a store, and it does
    /// not know the room.
    pub fn new(name: RoomName, settings: RoomSettings, epoch: Epoch, stored: bool) -> Room {
        Room {
            name,
            epoch,
            settings,
            history: History::default(),
            roster: Roster::default(),
            typing: Typing::default(),
            reads: Reads { complete: true, ..Reads::default() },
            changes: Changes::default(),
            receipt: Receipt::default(),
            earlier: Vec::new(),
            begins: 1,
            promised: 0,
            stored_first: stored.then_some(1),
            last_lsn: 0,
            dedup: Dedup::default(),
            ids_since: 0,
            members: SmallVec::new(),
            empty_since: 0,
        }
    }

    /// A room that a store knows. `rewound`: what was shown last time may not have been kept, so that a new
    /// life of the log begins, under this epoch.
    pub fn with_past(name: RoomName, settings: RoomSettings, past: Past, rewound: Option<Epoch>) -> Room {
        let Past { mut lives, top, first, tail } = past;
        if let Some(epoch) = rewound {
            let newest = lives.last().map_or(Epoch(0), |(epoch, _)| *epoch);
            lives.push((Epoch(epoch.0.max(newest.0 + 1)), top + 1));
        }
        let (epoch, begins) = lives.pop().expect("a room that is known has a life");
        let mut room = Room::new(name, settings, epoch, true);
        (room.earlier, room.begins, room.promised) = (lives, begins, top);
        (room.stored_first, room.ids_since, room.reads.complete) = (Some(first), u64::MAX, false);
        room.history.restore(top, tail);
        room
    }

    /// From this offset on the log has another life, if the epoch is another one.
    pub fn begin_life(&mut self, epoch: Epoch, begins: Offset) {
        if epoch != self.epoch {
            self.earlier.push((self.epoch, self.begins));
            (self.epoch, self.begins) = (epoch, begins);
        }
    }

    /// How far the sessions of another node have got.
    pub fn receipt_elsewhere(&mut self, node: u32, offset: Offset, n: u32, of: u32) {
        self.receipt.note_elsewhere(node, (offset, n, of));
    }

    /// Another node is gone, and its sessions with it.
    pub fn forget_receipt_of(&mut self, node: u32) {
        self.receipt.lose_node(node);
    }

    /// The log goes on after `top` under `epoch`, whatever stood above it. Nothing of it is hot then.
    pub fn go_on_after(&mut self, top: Offset, epoch: Epoch) {
        self.history.restart(top);
        self.promised = top;
        self.changes.forget_all();
        self.begin_life(epoch, top + 1);
    }

    /// The first offset of the present life of the log.
    pub fn begins(&self) -> Offset {
        self.begins
    }

    /// The oldest offset that a reader can get; `top + 1` for none.
    pub fn first_kept(&self) -> Offset {
        match self.stored_first {
            Some(first) => first.min(self.history.first()),
            None => self.history.first(),
        }
    }

    /// Where a reader's replay begins. The join cut: all up to `top` is replayed, all after it comes live,
    /// and both are decided in the same moment. `since` is the first offset of a time that the reader asked
    /// for, where a store was asked for it.
    pub fn cut(&self, resume: &Resume, since: Option<Offset>) -> Cut {
        let top = self.history.top();
        let cut = |start: Offset| Cut { start, top, missing: None, rewind: None };
        let newest = |n: usize| (top + 1).saturating_sub(n as Offset).max(self.first_kept());
        match resume {
            Resume::FromNow => cut(top + 1),
            Resume::Last(n) => cut(newest(*n)),
            Resume::From(ts) => {
                let start = since.unwrap_or_else(|| self.history.start_of(Wanted::From(*ts)));
                cut(start.clamp(self.first_kept(), top + 1))
            }
            Resume::Since(offset, epoch) => match self.follow(*offset, epoch.as_deref()) {
                Followed::Here => {
                    let first = self.first_kept();
                    let missing = (offset + 1 < first).then(|| Missing::Range(offset + 1, first - 1));
                    Cut { missing, ..cut((offset + 1).max(first)) }
                }
                Followed::TakenBack(kept) => {
                    let first = self.first_kept();
                    let missing = (kept + 1 < first).then(|| Missing::Range(kept + 1, first - 1));
                    Cut { missing, rewind: Some(kept), ..cut((kept + 1).max(first)) }
                }
                Followed::Lost => {
                    let was = epoch.clone().unwrap_or_else(|| self.epoch.to_text().into());
                    Cut { missing: Some(Missing::All { was }), ..cut(newest(self.settings.history)) }
                }
            },
        }
    }

    /// Whether a reader has seen more of the log than there is here: a later place of the present life, or a place of a
    /// later life.
    pub fn is_behind(&self, resume: &Resume) -> bool {
        let Resume::Since(offset, epoch) = resume else { return false };
        let is_later = *offset > self.history.top();
        let Some(text) = epoch.as_deref().filter(|_| *offset > 0) else { return is_later };
        if self.epoch.to_text() == text {
            return is_later;
        }
        let is_earlier = self.earlier.iter().any(|(epoch, _)| epoch.to_text() == text);
        !is_earlier && u64::from_str_radix(text, 36).is_ok_and(|epoch| epoch > self.epoch.0)
    }

    /// Whether a reader's position belongs to this log.
    fn follow(&self, offset: Offset, epoch: Option<&str>) -> Followed {
        if offset == 0 {
            // Who has seen nothing goes on from the beginning of whatever life.
            return Followed::Here;
        }
        let top = self.history.top();
        let lives = self.earlier.iter().copied().chain([(self.epoch, self.begins)]);
        let mut ends = lives.clone().skip(1).map(|(_, begins)| Some(begins - 1)).chain([None]);
        let found = match epoch {
            None => Some(None),
            Some(known) => {
                lives.zip(&mut ends).find(|((epoch, _), _)| epoch.to_text() == known).map(|(_, end)| end)
            }
        };
        match found {
            Some(Some(end)) if offset > end => Followed::TakenBack(end),
            Some(None) if offset > top => Followed::Lost,
            Some(_) => Followed::Here,
            None => Followed::Lost,
        }
    }

    /// Whether the start of a time that a reader asks for has to be looked up in the store.
    pub fn must_look_up(&self, ts: u64) -> bool {
        self.first_kept() < self.history.first() && self.history.oldest_ts().is_none_or(|oldest| oldest >= ts)
    }

    /// The place of an offset: whether a reader may see what stands there.
    pub fn is_shown(&self, offset: Offset) -> bool {
        (1..=self.history.top()).contains(&offset)
    }

    /// The place of an id that was said here within the window.
    pub fn repeat_of(&mut self, key: IdKey, now: u64) -> Option<Accepted> {
        self.dedup.forget_before(now.saturating_sub(self.settings.dedup_window_ms));
        let Seen { offset, ts } = self.dedup.find(key)?;
        Some(Accepted { offset, epoch: self.epoch, ts, duplicate: true })
    }

    /// How ids that are not in memory have to be looked up, for a message at `now` (Unix milliseconds).
    pub fn ids_to_ask(&self, now: u64) -> IdsToAsk {
        match self.ids_since {
            u64::MAX => IdsToAsk::All,
            since if since > now.saturating_sub(self.settings.dedup_window_ms) => IdsToAsk::One,
            _ => IdsToAsk::None,
        }
    }

    /// Whether an id is in memory.
    pub fn knows_id(&self, key: IdKey) -> bool {
        self.dedup.find(key).is_some()
    }

    /// Adds one id that the store knows.
    pub fn add_id(&mut self, key: IdKey, seen: Seen) {
        self.dedup.restore([(key, seen)]);
    }

    /// Adds ids that the store knows, newest first. `complete`: there are no older ones in the window.
    pub fn restore_ids(&mut self, ids: Vec<(IdKey, Seen)>, complete: bool) {
        let oldest = ids.last().map_or(u64::MAX - 1, |(_, seen)| seen.ts);
        self.dedup.restore(ids);
        self.ids_since = if complete { 0 } else { oldest + 1 };
    }

    /// The offset that the next kept message gets.
    pub fn next_offset(&self) -> Offset {
        self.promised + 1
    }

    /// Gives out the next offset to a message that is going to be kept as record `lsn`, and remembers its id.
    pub fn promise(&mut self, ts: u64, lsn: u64, key: Option<IdKey>) -> Accepted {
        self.promised += 1;
        self.last_lsn = self.last_lsn.max(lsn);
        self.remember(self.promised, ts, key)
    }

    /// Shows the oldest message that was promised and not shown: from now on it is part of the log.
    pub fn show(&mut self, hot: Hot, archived: u64) -> Offset {
        debug_assert!(self.history.top() < self.promised, "a place is given out before it is shown");
        self.history.append(hot, self.settings.history, archived);
        self.history.top()
    }

    /// Takes back the newest promise: the message could not be kept, and nobody has seen it.
    pub fn take_back(&mut self, key: Option<IdKey>) {
        debug_assert!(self.history.top() < self.promised, "what was shown stays");
        self.promised -= 1;
        self.take_back_id(key);
    }

    /// Forgets the id of a message that could not be kept.
    pub fn take_back_id(&mut self, key: Option<IdKey>) {
        if let Some(key) = key {
            self.dedup.take_back(key);
        }
    }

    /// Remembers the id of a message that is not kept.
    pub fn pass_on(&mut self, ts: u64, key: Option<IdKey>) -> Accepted {
        self.remember(0, ts, key)
    }

    fn remember(&mut self, offset: Offset, ts: u64, key: Option<IdKey>) -> Accepted {
        if let Some(key) = key {
            self.dedup.remember(key, Seen { offset, ts });
        }
        Accepted { offset, epoch: self.epoch, ts, duplicate: false }
    }

    /// Something about this room is going to be kept as record `lsn`.
    pub fn note_record(&mut self, lsn: u64) {
        self.last_lsn = self.last_lsn.max(lsn);
    }

    /// The store has forgotten what stands before `first`.
    pub fn forget_to(&mut self, first: Offset) {
        if let Some(stored_first) = &mut self.stored_first {
            *stored_first = first.max(*stored_first);
            self.history.forget_to(first);
        }
    }

    /// A session on this worker comes in.
    pub fn add_member(&mut self, worker: usize) {
        if self.members.len() <= worker {
            self.members.resize(worker + 1, 0);
        }
        self.members[worker] += 1;
        self.empty_since = 0;
    }

    /// A session on this worker goes out.
    pub fn remove_member(&mut self, worker: usize) {
        debug_assert!(self.members[worker] > 0, "who leaves has entered");
        self.members[worker] -= 1;
    }

    /// The workers that have members here.
    pub fn workers(&self) -> impl Iterator<Item = usize> + use<> {
        let here: SmallVec<[usize; 8]> =
            self.members.iter().enumerate().filter(|(_, n)| **n > 0).map(|(worker, _)| worker).collect();
        here.into_iter()
    }

    /// How many sessions are in the room.
    pub fn sessions(&self) -> u32 {
        self.members.iter().sum()
    }

    /// Forgets what is too old, and what is hot beyond need. `now` is Unix milliseconds, `steady` those of the
    /// steady clock; the store has all records up to `archived`. Returns whether the room may be closed: for some
    /// time nobody has been in it and nothing is remembered of it that is not in the store.
    pub fn tidy(&mut self, now: u64, steady: u64, archived: u64) -> bool {
        self.dedup.forget_before(now.saturating_sub(self.settings.dedup_window_ms));
        let needed = match self.stored_first {
            Some(_) => {
                self.history.forget_surplus(self.settings.history, archived);
                self.changes.forget_surplus(archived);
                self.last_lsn > archived || self.promised > self.history.top()
            }
            None => {
                self.history.forget_before(now.saturating_sub(self.settings.keep_ms));
                !self.history.is_empty() || !self.dedup.is_empty()
            }
        };
        let holds_something = self.sessions() > 0 || needed;
        self.empty_since = match (holds_something, self.empty_since) {
            (true, _) => 0,
            (false, 0) => steady,
            (false, since) => since,
        };
        !holds_something && steady >= self.empty_since + EMPTY_MS
    }

    /// Whether the room can be closed at once, because nobody is in it and, with a store, all of it is there.
    pub fn can_give_way(&self, archived: u64) -> bool {
        let is_safe = self.last_lsn <= archived && self.promised == self.history.top();
        self.sessions() == 0 && (self.stored_first.is_none() || is_safe)
    }

    /// How many ids are remembered.
    pub fn ids(&self) -> usize {
        self.dedup.len()
    }

    /// Gives up the older half of the remembered ids; with a store they are looked up there from then on.
    pub fn forget_half_of_ids(&mut self) {
        self.dedup.forget_half();
        if self.stored_first.is_some() && self.ids_since != u64::MAX {
            self.ids_since = self.dedup.oldest_ts().unwrap_or(u64::MAX - 1).max(self.ids_since);
        }
    }
}

enum Followed {
    Here,
    /// What comes after this offset was never kept.
    TakenBack(Offset),
    Lost,
}

/// Which ids have to be looked up in the store before a message with an id can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdsToAsk {
    /// None: memory has them all.
    None,
    /// Those of the window; none has been looked up yet.
    All,
    /// That of the message.
    One,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::dedup::IdKeys;
    use crate::chat::names::MessageId;
    use crate::chat::settings::RoomsSettings;

    fn room(history: usize) -> Room {
        let name = RoomName::new("lobby").unwrap();
        let settings = RoomsSettings { history, ..RoomsSettings::default() }.of(&name);
        Room::new(name, settings, Epoch(1_000), false)
    }

    fn append(room: &mut Room, ts: u64, key: Option<IdKey>) -> Accepted {
        let accepted = room.promise(ts, 0, key);
        let frame = Bytes::from(accepted.offset.to_string());
        assert_eq!(room.show(Hot { ts, lsn: 0, frame }, 0), accepted.offset);
        accepted
    }

    fn with(n: u64, history: usize) -> Room {
        let mut room = room(history);
        for i in 1..=n {
            assert_eq!(append(&mut room, i, None).offset, i);
        }
        room
    }

    #[test]
    fn a_reader_may_have_seen_more_than_there_is_here() {
        let mut room = with(130, 512);
        let first = room.epoch;
        let is_behind = |room: &Room, offset, epoch: Option<Epoch>| {
            room.is_behind(&Resume::Since(offset, epoch.map(|epoch| epoch.to_text().into())))
        };
        assert!(!is_behind(&room, 130, Some(first)) && !is_behind(&room, 130, None));
        assert!(is_behind(&room, 131, Some(first)) && is_behind(&room, 131, None));
        let later = Epoch(first.0 + 1);
        assert!(is_behind(&room, 7, Some(later)), "a life that begins elsewhere first");
        assert!(!is_behind(&room, 0, Some(later)), "who has seen nothing waits for nothing");
        room.begin_life(later, 131);
        assert!(
            !is_behind(&room, 130, Some(first)) && !is_behind(&room, 900, Some(first)),
            "an ended life grows no more"
        );
        assert!(!is_behind(&room, 5, Some(Epoch(first.0 - 1))), "one that is not known is not waited for");
        assert!(!room.is_behind(&Resume::Last(9)) && !room.is_behind(&Resume::FromNow));
    }

    #[test]
    fn a_reader_gets_what_came_after_what_he_saw() {
        let room = with(131, 512);
        let e = Some(room.epoch.to_text().into());
        assert_eq!(
            room.cut(&Resume::Since(128, e.clone()), None),
            Cut { start: 129, top: 131, missing: None, rewind: None }
        );
        assert_eq!(
            room.cut(&Resume::Since(131, e), None),
            Cut { start: 132, top: 131, missing: None, rewind: None }
        );
        assert_eq!(
            room.cut(&Resume::FromNow, None),
            Cut { start: 132, top: 131, missing: None, rewind: None }
        );
        assert_eq!(
            room.cut(&Resume::Last(2), None),
            Cut { start: 130, top: 131, missing: None, rewind: None }
        );
    }

    #[test]
    fn what_is_gone_is_named_exactly() {
        let room = with(900, 780);
        let cut = room.cut(&Resume::Since(42, None), None);
        assert_eq!(cut, Cut { start: 121, top: 900, missing: Some(Missing::Range(43, 120)), rewind: None });
        assert_eq!(room.cut(&Resume::Since(120, None), None).missing, None);
    }

    #[test]
    fn another_life_of_the_log_begins_again() {
        let room = with(4, 512);
        let cut = room.cut(&Resume::Since(42, Some("z81c".into())), None);
        assert_eq!(
            cut,
            Cut { start: 1, top: 4, missing: Some(Missing::All { was: "z81c".into() }), rewind: None }
        );
        let ahead = room.cut(&Resume::Since(5, Some(room.epoch.to_text().into())), None);
        assert!(matches!(ahead.missing, Some(Missing::All { .. })), "nobody has seen what was never said");
    }

    #[test]
    fn an_id_is_a_repeat_within_the_window_only() {
        let mut room = room(512);
        let key = IdKeys::default().key(None, &MessageId::new("o-17").unwrap());
        assert_eq!(room.repeat_of(key, 1_000), None);
        let first = append(&mut room, 1_000, Some(key));
        let again = room.repeat_of(key, 2_000).unwrap();
        assert_eq!((again.offset, again.ts, again.duplicate), (first.offset, 1_000, true));
        let later = 1_001 + room.settings.dedup_window_ms;
        assert_eq!(room.repeat_of(key, later), None);
    }

    #[test]
    fn a_room_closes_when_nobody_is_there_and_nothing_is_remembered() {
        let mut room = with(3, 512);
        room.add_member(1);
        assert_eq!(room.workers().collect::<Vec<_>>(), [1]);
        let later = 10 + room.settings.keep_ms;
        assert!(!room.tidy(later, later, 0), "somebody is there");
        room.remove_member(1);
        assert!(!room.tidy(later, later, 0), "somebody may come back soon");
        assert!(!room.tidy(later + EMPTY_MS - 1, later + EMPTY_MS - 1, 0));
        assert!(room.tidy(later + EMPTY_MS, later + EMPTY_MS, 0));
        assert_eq!(room.next_offset(), 4, "offsets are never given out twice");
    }

    fn known(top: Offset, first: Offset) -> Past {
        let tail = (first.max(top.saturating_sub(1))..=top)
            .map(|n| Hot { ts: n, lsn: 0, frame: Bytes::from(n.to_string()) })
            .collect();
        Past { lives: vec![(Epoch(5), 1), (Epoch(7), 40)], top, first, tail }
    }

    fn reopened(past: Past, rewound: Option<Epoch>) -> Room {
        let name = RoomName::new("lobby").unwrap();
        let settings = RoomsSettings::default().of(&name);
        Room::with_past(name, settings, past, rewound)
    }

    #[test]
    fn a_reader_of_an_earlier_life_goes_on_where_it_agrees() {
        let room = reopened(known(50, 10), None);
        let since =
            |offset, epoch: u64| room.cut(&Resume::Since(offset, Some(Epoch(epoch).to_text().into())), None);
        assert_eq!(since(39, 5), Cut { start: 40, top: 50, missing: None, rewind: None });
        assert_eq!(since(42, 5), Cut { start: 40, top: 50, missing: None, rewind: Some(39) });
        assert_eq!(since(45, 7), Cut { start: 46, top: 50, missing: None, rewind: None });
        assert_eq!(since(4, 5).missing, Some(Missing::Range(5, 9)));
        assert!(matches!(since(4, 6).missing, Some(Missing::All { .. })));
        assert_eq!(since(0, 6).missing, Some(Missing::Range(1, 9)), "who has seen nothing has lost no life");
        assert_eq!(room.next_offset(), 51);
    }

    #[test]
    fn a_life_that_was_cut_short_is_followed_by_another() {
        let room = reopened(known(50, 1), Some(Epoch(6)));
        assert_eq!(room.epoch, Epoch(8), "epochs grow");
        let ahead = room.cut(&Resume::Since(53, Some(Epoch(7).to_text().into())), None);
        assert_eq!((ahead.start, ahead.rewind), (51, Some(50)));
    }

    #[test]
    fn what_could_not_be_kept_leaves_no_trace() {
        let mut room = reopened(known(50, 1), None);
        room.restore_ids(Vec::new(), true);
        let key = IdKeys::default().key(None, &MessageId::new("o-17").unwrap());
        let (a, b) = (room.promise(1, 8, None), room.promise(2, 9, Some(key)));
        assert_eq!((a.offset, b.offset, room.history.top()), (51, 52, 50));
        room.take_back(Some(key));
        room.take_back(None);
        assert_eq!((room.next_offset(), room.repeat_of(key, 3)), (51, None));
    }

    #[test]
    fn ids_that_are_not_in_memory_are_asked_for() {
        let mut room = reopened(known(50, 1), None);
        let now = 10 * room.settings.dedup_window_ms;
        assert_eq!(room.ids_to_ask(now), IdsToAsk::All);
        let keys = IdKeys::default();
        let key = |n: u64| keys.key(None, &MessageId::new(&n.to_string()).unwrap());
        let ids = |n: u64| (0..n).map(|i| (key(i), Seen { offset: n - i, ts: now - i })).collect::<Vec<_>>();
        room.restore_ids(ids(10), false);
        assert_eq!(room.ids_to_ask(now), IdsToAsk::One);
        room.restore_ids(ids(20), true);
        assert_eq!(room.ids_to_ask(now), IdsToAsk::None);
        room.forget_half_of_ids();
        assert_eq!(room.ids_to_ask(now), IdsToAsk::One);
        assert!(room.repeat_of(key(0), now).is_some() && room.repeat_of(key(19), now).is_none());
    }

    #[test]
    fn a_room_of_a_store_closes_when_the_store_has_all_of_it() {
        let mut room = reopened(known(50, 1), None);
        let accepted = room.promise(1, 7, None);
        assert!(!room.can_give_way(7), "not shown yet");
        room.show(Hot { ts: 1, lsn: 7, frame: Bytes::from_static(b"51") }, 0);
        assert_eq!(accepted.offset, 51);
        assert!(!room.can_give_way(6) && room.can_give_way(7));
        assert!(!room.tidy(2, 100, 7) && room.tidy(2, 100 + EMPTY_MS, 7));
        assert!(!room.tidy(2, 100 + EMPTY_MS, 6));
    }
}
