//! Records as a server would make them, and questions about them, by chance.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::history::PageFrom;
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::{MessageId, UserName};
use roomcast::store::archive::Question;
use roomcast::store::record::{Cursor, Letter, ReadMark, Record, RoomRules, Seen, SessionNote};

use super::{room, user};

/// Where something is said.
pub const ROOMS: [&str; 5] = ["lobby", "team-red", "@ann", "@ann+bob", "日本"];
const USERS: [&str; 4] = ["ann", "bob", "zoë", "eve"];
const WORDS: [&str; 10] =
    ["alpha", "alphabet", "beta", "Gamma", "delta!", "\"quoted\"", "x-y", "NOT", "0815", "größe"];

/// The dice and what was thrown before.
pub struct Chance {
    pub random: StdRng,
    now: u64,
    epoch: u64,
    tops: BTreeMap<&'static str, Offset>,
    dead: u64,
}

impl Chance {
    /// Chance that can be had again: prints its seed, and takes `SEED` instead where that is set.
    pub fn new() -> Chance {
        let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
        println!("SEED={seed}");
        let random = StdRng::seed_from_u64(seed);
        Chance { random, now: 1000, epoch: 40, tops: BTreeMap::new(), dead: 0 }
    }

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

    pub fn record(&mut self) -> Record {
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
            96 => Record::Rules(RoomRules {
                room: room(room_name),
                text: ["", r#"{"slow":1}"#, r#"{"muted":{"zoë":null}}"#]
                    .choose(&mut self.random)
                    .map_or("", |text| *text)
                    .into(),
                version: 0,
            }),
            97 => {
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

    pub fn question(&mut self) -> Question {
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
                Question::Rules,
            ]
            .choose(&mut self.random)
            .unwrap()
            .clone(),
        }
    }
}
