use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::chat::history::PageFrom;
use crate::chat::line;
use crate::store::archive::{StoredEntry, StoredPlace, StoredRoom, StoredState, UserRoom};
use crate::store::record::{Cursor, Letter, ReadMark, Seen, SessionNote};

/// What a store should know, written as plainly as can be.
#[derive(Default)]
struct Model {
    rooms: BTreeMap<String, RoomModel>,
    /// Room, user -> offset, time.
    reads: BTreeMap<(String, String), (Offset, u64)>,
    /// Room, entry, user, mark -> on, place.
    reactions: BTreeMap<(String, Offset, String, String), (bool, Offset)>,
    sessions: BTreeMap<String, SessionNote>,
    seen: Vec<Seen>,
    dead: Vec<Letter>,
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
    fn apply(&mut self, record: &Record) {
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

    fn answer(&self, question: &Question) -> Answer {
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

const ROOMS: [&str; 5] = ["lobby", "team-red", "@ann", "@ann+bob", "日本"];
const USERS: [&str; 4] = ["ann", "bob", "zoë", "eve"];
const WORDS: [&str; 10] =
    ["alpha", "alphabet", "beta", "Gamma", "delta!", "\"quoted\"", "x-y", "NOT", "0815", "größe"];

/// Makes records as a server would.
struct Chance {
    random: StdRng,
    now: u64,
    epoch: u64,
    tops: BTreeMap<&'static str, Offset>,
    dead: u64,
}

impl Chance {
    fn user(&mut self) -> Option<UserName> {
        (!self.random.random_bool(0.1)).then(|| user(USERS.choose(&mut self.random).unwrap()))
    }

    fn text(&mut self) -> String {
        let n = self.random.random_range(0..5);
        let words: Vec<&str> = (0..n).map(|_| *WORDS.choose(&mut self.random).unwrap()).collect();
        words.join(" ")
    }

    fn id(&mut self) -> MessageId {
        MessageId::new(&format!("id-{}", self.random.random_range(0..400))).unwrap()
    }

    fn record(&mut self) -> Record {
        self.now += self.random.random_range(1..50);
        let room_name = *ROOMS.choose(&mut self.random).unwrap();
        match self.random.random_range(0..100) {
            0..80 => Record::Entry(self.entry(room_name)),
            80..84 => {
                let (user, id) = (self.user(), self.id());
                Record::Seen(Seen { room: room(room_name), user, id, ts: self.now })
            }
            84..92 => {
                let user = user(USERS.choose(&mut self.random).unwrap());
                let offset = self.random.random_range(0..50);
                Record::Read(ReadMark { room: room(room_name), user, offset, ts: self.now })
            }
            92..96 => Record::Session(SessionNote {
                session: format!("s{}", self.random.random_range(0..4)).into(),
                user: user("ann"),
                ts: self.now,
                rooms: vec![Cursor {
                    room: room(room_name),
                    epoch: Epoch(self.epoch),
                    offset: self.random.random_range(0..50),
                    quiet: self.random.random(),
                }],
            }),
            96..98 => {
                self.dead += 1;
                let item = Bytes::from(vec![0, 255, self.dead as u8]);
                let id = format!("d{}", self.dead).into();
                Record::Dead(Letter {
                    id,
                    ts: self.now,
                    source: "jobs".into(),
                    reason: "not\njson".into(),
                    item,
                })
            }
            _ => Record::DeadGone(format!("d{}", self.random.random_range(0..=self.dead)).into()),
        }
    }

    fn entry(&mut self, room_name: &'static str) -> Entry {
        if self.random.random_bool(0.002) {
            self.epoch += 1;
        }
        let top = self.tops.entry(room_name).or_default();
        *top += 1;
        let (offset, of) = (*top, if *top > 1 { self.random.random_range(1..*top) } else { 0 });
        let kind = match self.random.random_range(0..10) {
            _ if of == 0 => Kind::Message,
            0..6 => Kind::Message,
            6..8 => Kind::Edit,
            8 => Kind::Delete,
            _ => Kind::React,
        };
        let of = if kind == Kind::Message { 0 } else { of };
        let text = self.text();
        let mut entry = super::entry(room_name, offset, kind, of, &text);
        entry.ts = self.now;
        entry.epoch = Epoch(self.epoch);
        entry.user = self.user();
        entry.id = self.random.random_bool(0.5).then(|| self.id());
        if kind == Kind::React {
            entry.mark = Some(["+1", "heart"].choose(&mut self.random).copied().unwrap().into());
            entry.off = self.random.random_bool(0.3);
        }
        entry
    }

    fn question(&mut self) -> Question {
        let room = room(if self.random.random_bool(0.02) {
            "nobody was here"
        } else {
            ROOMS.choose(&mut self.random).unwrap()
        });
        let offset = self.random.random_range(0..300);
        let n = self.random.random_range(0..20);
        let bytes = self.random.random_range(0..2_000);
        let ts = self.random.random_range(0..self.now + 100);
        match self.random.random_range(0..13) {
            0 => Question::Room { room, tail: n, tail_bytes: bytes },
            1 => Question::Range { room, from: offset, to: offset + 30, bytes },
            2 => Question::Page { room, from: PageFrom::After(offset), n, bytes },
            3 => Question::Page { room, from: PageFrom::Before(offset), n, bytes },
            4 => Question::Page {
                room,
                from: if offset % 2 == 0 { PageFrom::Since(ts) } else { PageFrom::Until(ts) },
                n,
                bytes,
            },
            5 => Question::Since { room, ts },
            6 => Question::Entry { room, offset, user: self.user() },
            7 => Question::Id { room, user: self.user(), id: self.id() },
            8 => Question::Ids { room, since: ts, n },
            9 => {
                let mut words = self.text();
                let n = self.random.random_range(0..12);
                words = words.chars().take(n).collect();
                Question::Find { room, words, before: offset, n, bytes }
            }
            10 => Question::RoomsOf { user: user(USERS.choose(&mut self.random).unwrap()), n },
            11 => Question::ReadMarks { room, n },
            _ => [
                Question::ReadMark { room, user: user("ann") },
                Question::Session(format!("s{}", offset % 5).into()),
                Question::Dead { n },
            ]
            .choose(&mut self.random)
            .unwrap()
            .clone(),
        }
    }
}

#[test]
fn every_answer_is_that_of_a_plain_model() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut chance =
        Chance { random: StdRng::seed_from_u64(seed), now: 1000, epoch: 40, tops: BTreeMap::new(), dead: 0 };
    let (mut store, mut model) = (Store::new(), Model::default());
    let mut applied: Vec<Item> = Vec::new();
    for round in 0..60 {
        let n = chance.random.random_range(1..80);
        let records: Vec<Record> = (0..n).map(|_| chance.record()).collect();
        records.iter().for_each(|record| model.apply(record));
        // Some records come again, as after a crash.
        let again = applied.len().saturating_sub(chance.random.random_range(0..20));
        let mut batch = applied.split_off(again);
        batch.extend(store.items(records));
        store.archive.append(&batch).unwrap();
        applied = batch;
        if round % 7 == 6 {
            assert_eq!(store.archive.checkpoint().unwrap(), store.lsn);
        }
        if round % 20 == 19 {
            let path = store.path();
            store.archive = SqliteArchive::open(&path).unwrap();
            assert_eq!(store.archive.applied(), store.lsn);
        }
        let mut reader = store.reader();
        for _ in 0..60 {
            let question = chance.question();
            assert_eq!(reader.answer(&question).unwrap(), model.answer(&question), "{question:?}");
        }
    }
    for name in ROOMS {
        let all = entries(oldest(model.log(&room(name)).iter(), usize::MAX, usize::MAX));
        assert_eq!(store.ask(&all_of(name)), all, "{name}");
    }
}
