//! What an archive should know, written as plainly as can be; every answer of a real one is compared with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::history::PageFrom;
use roomcast::chat::line;
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::{MessageId, RoomName, UserName};
use roomcast::store::archive::{
    Answer, Question, StoredEntry, StoredPlace, StoredRoom, StoredState, UserRoom,
};
use roomcast::store::record::{Letter, Record, RoomRules, Seen, SessionNote};

/// The model.
#[derive(Default)]
pub struct Model {
    rooms: BTreeMap<String, RoomModel>,
    /// Room, user -> offset, time.
    reads: BTreeMap<(String, String), (Offset, u64)>,
    /// Room, entry, user, mark -> on, place.
    reactions: BTreeMap<(String, Offset, String, String), (bool, Offset)>,
    sessions: BTreeMap<String, SessionNote>,
    seen: Vec<Seen>,
    dead: Vec<Letter>,
    rules: Vec<RoomRules>,
}

#[derive(Default)]
struct RoomModel {
    /// The entry at offset n stands at n - 1.
    log: Vec<EntryModel>,
    lineage: Vec<(Epoch, Offset)>,
}

#[derive(Clone)]
struct EntryModel {
    said: Entry,
    line: Option<Bytes>,
    edited: Offset,
    deleted: bool,
}

impl Model {
    /// Takes a record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => self.entry(entry),
            Record::Seen(seen) => self.seen.push(seen.clone()),
            Record::Read(mark) => {
                let key = (mark.room.as_str().to_owned(), mark.user.as_str().to_owned());
                self.reads.insert(key, (mark.offset, mark.ts));
            }
            Record::Session(note) => {
                self.sessions.insert(note.session.to_string(), note.clone());
            }
            Record::Dead(letter) => self.dead.push(letter.clone()),
            Record::DeadGone(id) => self.dead.retain(|letter| letter.id != *id),
            // No archive keeps it.
            Record::Event(_) => {}
            Record::Rules(rules) => {
                self.rules.retain(|known| known.room != rules.room);
                if !rules.text.is_empty() {
                    self.rules.push(rules.clone());
                }
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let room = self.rooms.entry(entry.room.as_str().to_owned()).or_default();
        if room.lineage.last().is_none_or(|(epoch, _)| *epoch != entry.epoch) {
            room.lineage.push((entry.epoch, entry.offset));
        }
        room.log.push(EntryModel {
            said: entry.clone(),
            line: Some(entry.line.clone()),
            edited: 0,
            deleted: false,
        });
        let Some(target) = entry.of.checked_sub(1).map(|n| n as usize).filter(|n| *n < room.log.len()) else {
            return;
        };
        let is_message = room.log[target].said.kind == Kind::Message;
        match entry.kind {
            Kind::Edit if is_message && room.log[target].deleted => room.log.last_mut().unwrap().line = None,
            Kind::Edit if is_message => {
                room.drop_edits(entry.of, entry.offset);
                let old = room.log[target].line.clone().unwrap();
                let data = line::data_of(&entry.line).unwrap();
                room.log[target].line = Some(line::amended(&old, data, entry.offset).into());
                room.log[target].edited = entry.offset;
            }
            Kind::Delete if is_message => {
                room.drop_edits(entry.of, entry.offset);
                let old = room.log[target].line.clone().unwrap();
                if !room.log[target].deleted {
                    room.log[target].line = Some(line::blanked(&old).into());
                }
                room.log[target].deleted = true;
            }
            Kind::React => {
                let who = entry.user.as_ref().map_or("", UserName::as_str).to_owned();
                let mark = entry.mark.as_ref().unwrap().to_string();
                let key = (entry.room.as_str().to_owned(), entry.of, who, mark);
                self.reactions.insert(key, (!entry.off, entry.offset));
            }
            Kind::Message | Kind::Edit | Kind::Delete => {}
        }
    }

    fn log(&self, room: &RoomName) -> &[EntryModel] {
        self.rooms.get(room.as_str()).map_or(&[], |room| &room.log)
    }

    /// The right answer.
    pub fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Room { room, tail, tail_bytes } => {
                let found = self.rooms.get(room.as_str()).filter(|room| !room.log.is_empty());
                Answer::Room(found.map(|room| StoredRoom {
                    lineage: room.lineage.clone(),
                    top: room.log.len() as u64,
                    first: 1,
                    tail: newest(room.log.iter(), *tail, *tail_bytes).0,
                }))
            }
            Question::Range { room, from, to, bytes } => {
                let within = self.log(room).iter().filter(|e| (*from..=*to).contains(&e.said.offset));
                entries(oldest(within, usize::MAX, *bytes))
            }
            Question::Page { room, from, n, bytes } => {
                let log = self.log(room).iter();
                entries(match *from {
                    PageFrom::After(after) => oldest(log.filter(|e| e.said.offset > after), *n, *bytes),
                    PageFrom::Since(ts) => oldest(log.filter(|e| e.said.ts >= ts), *n, *bytes),
                    PageFrom::Before(before) => newest(log.filter(|e| e.said.offset < before), *n, *bytes),
                    PageFrom::Until(ts) => newest(log.filter(|e| e.said.ts < ts), *n, *bytes),
                })
            }
            Question::Since { room, ts } => {
                Answer::Offset(1 + self.log(room).iter().filter(|e| e.said.ts < *ts).count() as u64)
            }
            Question::Entry { room, offset, user } => Answer::Entry(self.state(room, *offset, user.as_ref())),
            Question::Id { room, user, id } => {
                Answer::Place(self.ids(room).into_iter().find(|(u, i, _)| u == user && i == id).map(|i| i.2))
            }
            Question::Ids { room, since, n } => {
                let mut all = self.ids(room);
                all.retain(|(_, _, place)| place.ts >= *since);
                let more = all.len() > *n;
                all.truncate(*n);
                Answer::Ids(all, more)
            }
            Question::Find { room, words, before, n, bytes } => {
                let fits = |e: &&EntryModel| e.said.offset < *before && is_found(e, words);
                entries(newest(self.log(room).iter().filter(fits), *n, *bytes))
            }
            Question::Session(session) => Answer::Session(self.sessions.get(&**session).cloned()),
            Question::RoomsOf { user, n } => Answer::RoomsOf(self.rooms_of(user, *n)),
            Question::ReadMarks { room, n } => {
                let of_room = self.reads.iter().filter(|((name, _), _)| name == room.as_str());
                let mut marks: Vec<_> =
                    of_room.map(|((_, who), (s, ts))| (*ts, UserName::new(who).unwrap(), *s)).collect();
                marks.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
                Answer::ReadMarks(marks.into_iter().take(*n).map(|(_, who, s)| (who, s)).collect())
            }
            Question::ReadMark { room, user } => {
                let key = (room.as_str().to_owned(), user.as_str().to_owned());
                Answer::ReadMark(self.reads.get(&key).map_or(0, |(offset, _)| *offset))
            }
            Question::Dead { n } => Answer::Dead(self.dead.iter().rev().take(*n).cloned().collect()),
            Question::Rules => {
                let mut rules = self.rules.clone();
                rules.sort_by(|one, other| one.room.cmp(&other.room));
                Answer::Rules(rules)
            }
        }
    }

    fn state(&self, room: &RoomName, offset: Offset, user: Option<&UserName>) -> Option<StoredState> {
        let found = self.log(room).get((offset as usize).wrapping_sub(1))?;
        let who = user.map_or("", UserName::as_str);
        let of_entry = |key: &(String, Offset, String, String)| {
            key.0 == room.as_str() && key.1 == offset && key.2 == who
        };
        let mut reactions: Vec<(Box<str>, bool, Offset)> = self
            .reactions
            .iter()
            .filter(|(key, _)| of_entry(key))
            .map(|(key, (on, place))| (key.3.as_str().into(), *on, *place))
            .collect();
        reactions.sort_by_key(|(_, _, place)| *place);
        Some(StoredState {
            kind: found.said.kind,
            user: found.said.user.clone(),
            deleted: found.deleted,
            edited: found.edited,
            reactions,
        })
    }

    /// Newest first.
    fn ids(&self, room: &RoomName) -> Vec<(Option<UserName>, MessageId, StoredPlace)> {
        let epoch = self
            .rooms
            .get(room.as_str())
            .and_then(|room| room.lineage.last())
            .map_or(Epoch(0), |(epoch, _)| *epoch);
        let of_log = self.log(room).iter().rev().filter_map(|e| {
            let place = StoredPlace { epoch: e.said.epoch, offset: e.said.offset, ts: e.said.ts };
            Some((e.said.user.clone(), e.said.id.clone()?, place))
        });
        let of_seen =
            self.seen.iter().rev().filter(|seen| seen.room == *room).map(|seen| {
                (seen.user.clone(), seen.id.clone(), StoredPlace { epoch, offset: 0, ts: seen.ts })
            });
        let mut all: Vec<_> = of_log.chain(of_seen).collect();
        all.sort_by_key(|(_, _, place)| std::cmp::Reverse(place.ts));
        all
    }

    fn rooms_of(&self, user: &UserName, n: usize) -> Vec<UserRoom> {
        let names = self.rooms.keys().chain(self.reads.keys().map(|(room, _)| room));
        let names: std::collections::BTreeSet<&String> = names.collect();
        let mut hers: Vec<(u64, UserRoom)> = Vec::new();
        for name in names {
            let room = RoomName::new(name).unwrap();
            let mark = self.reads.get(&(name.clone(), user.as_str().to_owned()));
            if mark.is_none() && !room.owners().is_some_and(|owners| owners.include(user)) {
                continue;
            }
            let log = self.log(&room);
            let said = log.iter().map(|e| e.said.ts).max().unwrap_or(0);
            let used = said.max(mark.map_or(0, |(_, ts)| *ts));
            let top = log.len() as u64;
            hers.push((used, UserRoom { room, top, read: mark.map_or(0, |(offset, _)| *offset) }));
        }
        hers.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.room.cmp(&b.1.room)));
        hers.into_iter().take(n).map(|(_, room)| room).collect()
    }
}

impl RoomModel {
    fn drop_edits(&mut self, of: Offset, before: Offset) {
        for edit in &mut self.log {
            if edit.said.kind == Kind::Edit && edit.said.of == of && edit.said.offset < before {
                edit.line = None;
            }
        }
    }
}

impl EntryModel {
    fn stored(&self) -> StoredEntry {
        StoredEntry {
            offset: self.said.offset,
            ts: self.said.ts,
            kind: self.said.kind,
            user: self.said.user.clone(),
            of: self.said.of,
            line: self.line.clone(),
        }
    }
}

fn entries((list, more): (Vec<StoredEntry>, bool)) -> Answer {
    Answer::Entries { list, more }
}

fn oldest<'a>(
    all: impl Iterator<Item = &'a EntryModel>,
    n: usize,
    bytes_max: usize,
) -> (Vec<StoredEntry>, bool) {
    let (mut list, mut bytes) = (Vec::new(), 0);
    for e in all {
        bytes += e.line.as_ref().map_or(0, Bytes::len);
        if list.len() == n || (!list.is_empty() && bytes > bytes_max) {
            return (list, true);
        }
        list.push(e.stored());
    }
    (list, false)
}

fn newest<'a>(
    all: impl DoubleEndedIterator<Item = &'a EntryModel>,
    n: usize,
    bytes_max: usize,
) -> (Vec<StoredEntry>, bool) {
    let (mut list, more) = oldest(all.rev(), n, bytes_max);
    list.reverse();
    (list, more)
}

fn is_found(entry: &EntryModel, words: &str) -> bool {
    if entry.said.kind != Kind::Message || entry.deleted {
        return false;
    }
    let text = line::words_of(line::data_of(entry.line.as_ref().unwrap()).unwrap()).to_lowercase();
    let has: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    let words = words.to_lowercase();
    let mut wanted: Vec<&str> = words.split(|c: char| !c.is_alphanumeric()).collect();
    let start = wanted.pop().unwrap();
    wanted.retain(|word| !word.is_empty());
    let begins = |word: &&str| word.starts_with(start) && (start.chars().count() >= 3 || *word == start);
    let starts = start.is_empty() || has.iter().any(begins);
    (!wanted.is_empty() || !start.is_empty()) && starts && wanted.iter().all(|word| has.contains(word))
}
