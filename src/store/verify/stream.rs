//! One client's stay in its rooms, frame by frame: which offset has to come next, and what accounts for those
//! that do not come (docs/protocol.md, "The rules"). Knows frames as JSON; no file and no store.

use std::collections::HashMap;

use serde_json::Value;

use super::report::Kind;
use crate::chat::message::Offset;

/// What a frame breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd {
    pub(super) room: String,
    pub(super) kind: Kind,
    /// So many places.
    pub(super) count: u64,
    pub(super) what: String,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It went to the application.
    New {
        /// Where.
        room: String,
        /// The life of the log, as the client knows it.
        epoch: String,
        /// Its place.
        s: Offset,
    },
    /// The client had it already and dropped it.
    Dropped,
}

/// What a client asked for when it came into a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// To go on behind this place.
    Since(Offset),
    /// The newest ones, or from a time on.
    Fresh,
    /// To go on where the server knows it to be.
    Session,
}

/// One room.
#[derive(Debug, Default)]
struct Room {
    /// What has to come next, once the room was joined.
    next: Option<Offset>,
    /// Newest place that the application has.
    last: Offset,
    epoch: String,
    joined: bool,
    /// Places that nothing has accounted for.
    holes: Vec<(Offset, Offset)>,
    wish: Option<Wish>,
}

/// A client, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Session {
    user: Option<String>,
    rooms: HashMap<String, Room>,
    /// The session that the last hello named is to be gone on with.
    resumes: bool,
    seen: Option<Seen>,
    odd: Vec<Odd>,
}

impl Session {
    /// Who the server says it is.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The entry in the frame that was last received; told once.
    pub(super) fn seen(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// A frame that the client sent.
    pub(super) fn sent(&mut self, frame: &Value) {
        match frame["t"].as_str() {
            Some("hello") => {
                self.resumes = frame.get("session").is_some();
                for (room, wish) in frame["rooms"].as_object().into_iter().flatten() {
                    self.wishes(room, wish);
                }
            }
            Some("join") => {
                if let Some(room) = frame["r"].as_str() {
                    self.wishes(room, frame);
                }
            }
            _ => {}
        }
    }

    fn wishes(&mut self, room: &str, wish: &Value) {
        let wish = wish["since"].as_u64().map_or(Wish::Fresh, Wish::Since);
        self.rooms.entry(room.to_owned()).or_default().wish = Some(wish);
    }

    /// A frame that the client received; what it breaks. `dropped`: the client saw that it had it already.
    pub(super) fn received(&mut self, frame: &Value, dropped: bool) -> Vec<Odd> {
        let kind = frame["t"].as_str().unwrap_or_default();
        if kind == "welcome" {
            self.user = frame["u"].as_str().map(str::to_owned);
            // Another connection: every room is joined anew.
            self.rooms.values_mut().for_each(|room| room.joined = false);
        }
        let Some(name) = frame["r"].as_str() else { return Vec::new() };
        let resumes = self.resumes;
        let mut room = self.rooms.remove(name).unwrap_or_default();
        let s = frame["s"].as_u64();
        let mut step = Step { name, room: &mut room, odd: &mut self.odd, seen: None };
        match (kind, s) {
            ("joined", Some(s)) => step.joined(frame, s, resumes),
            ("live", Some(s)) => step.live(frame, s),
            ("msg" | "edit" | "del" | "react", Some(s)) => step.entry(s, dropped),
            ("skip", Some(s)) => step.skip(s, frame["n"].as_u64().unwrap_or(1)),
            ("rewind", Some(s)) => step.rewind(frame, s),
            ("gap", _) => step.gap(frame),
            _ => {}
        }
        let seen = step.seen;
        self.rooms.insert(name.to_owned(), room);
        self.seen = seen;
        std::mem::take(&mut self.odd)
    }
}

/// A frame of one room.
struct Step<'a> {
    name: &'a str,
    room: &'a mut Room,
    odd: &'a mut Vec<Odd>,
    seen: Option<Seen>,
}

impl Step<'_> {
    fn breaks(&mut self, kind: Kind, count: u64, what: String) {
        self.odd.push(Odd { room: self.name.to_owned(), kind, count, what });
    }

    /// All places from `next` to before `s` are accounted for by nothing.
    fn expect(&mut self, s: Offset, before: &str) {
        if let Some(next) = self.room.next
            && next < s
        {
            let what = format!("{before} {s} came, and nothing accounts for {next} to {}", s - 1);
            self.breaks(Kind::Hole, s - next, what);
            self.room.holes.push((next, s - 1));
        }
    }

    fn joined(&mut self, frame: &Value, top: Offset, resumes: bool) {
        let start = (top + 1).saturating_sub(frame["n"].as_u64().unwrap_or(0));
        let wish = self.room.wish.take().or(resumes.then_some(Wish::Session)).unwrap_or(Wish::Fresh);
        let missing = &frame["missing"];
        let range =
            missing.as_array().and_then(|pair| Some((pair.first()?.as_u64()?, pair.get(1)?.as_u64()?)));
        let from = match wish {
            Wish::Since(since) => {
                if since > self.room.last && self.room.last > 0 {
                    let last = self.room.last;
                    self.breaks(
                        Kind::Hole,
                        since - last,
                        format!("the client went on behind {since}, but had seen nothing behind {last}"),
                    );
                }
                self.room.last = self.room.last.max(since);
                Some(since + 1)
            }
            Wish::Session => Some(self.room.last + 1).filter(|next| *next > 1),
            Wish::Fresh => None,
        };
        self.room.next = Some(start);
        self.room.joined = true;
        self.room.epoch = frame["e"].as_str().unwrap_or_default().to_owned();
        let Some(from) = from else { return };
        match (missing.as_str(), range) {
            // Another log: nothing of what was seen belongs to it.
            (Some(_), _) => self.room.last = 0,
            (None, Some((first, last))) => {
                if first > from || last + 1 < start {
                    let what = format!(
                        "joined says that {first} to {last} are missing, but {from} was due and {start} comes"
                    );
                    self.breaks(
                        Kind::Hole,
                        first.saturating_sub(from) + start.saturating_sub(last + 1),
                        what,
                    );
                }
            }
            (None, None) if start > from => {
                let what =
                    format!("joined goes on with {start}, and nothing accounts for {from} to {}", start - 1);
                self.breaks(Kind::Hole, start - from, what);
            }
            (None, None) if top + 1 < from => {
                let what = format!("the log ends at {top}, but {} was seen", from - 1);
                self.breaks(Kind::Lost, from - 1 - top, what);
            }
            (None, None) => {}
        }
    }

    fn live(&mut self, frame: &Value, s: Offset) {
        if let Some(epoch) = frame["e"].as_str() {
            self.room.epoch = epoch.to_owned();
        }
        self.expect(s + 1, "live at");
        self.room.next = self.room.next.map(|next| next.max(s + 1));
    }

    fn entry(&mut self, s: Offset, dropped: bool) {
        if !self.room.joined {
            self.breaks(Kind::OutOfOrder, 1, format!("entry {s} came before the room was joined"));
        }
        if s <= self.room.last {
            let is_late = self.room.holes.iter().any(|(from, to)| (*from..=*to).contains(&s));
            let last = self.room.last;
            match (dropped, is_late) {
                (true, _) => self.seen = Some(Seen::Dropped),
                (false, true) => self.breaks(Kind::OutOfOrder, 1, format!("entry {s} came after {last}")),
                (false, false) => {
                    self.breaks(Kind::Doubled, 1, format!("entry {s} came again, {last} was seen before"));
                }
            }
            self.room.next = self.room.next.map(|next| next.max(s + 1));
            return;
        }
        if dropped {
            self.breaks(Kind::Lost, 1, format!("entry {s} was dropped, though it was new"));
        }
        self.expect(s, "entry");
        self.room.next = Some(s + 1);
        self.room.last = s;
        self.seen = Some(Seen::New { room: self.name.to_owned(), epoch: self.room.epoch.clone(), s });
    }

    fn skip(&mut self, s: Offset, n: u64) {
        self.expect(s, "skip at");
        self.pass(s + n);
    }

    fn gap(&mut self, frame: &Value) {
        let (Some(first), Some(last)) = (frame["missing"][0].as_u64(), frame["missing"][1].as_u64()) else {
            return;
        };
        self.expect(first, "a gap from");
        self.pass(last + 1);
    }

    /// All before this place is accounted for.
    fn pass(&mut self, next: Offset) {
        self.room.next = Some(self.room.next.unwrap_or(0).max(next));
        self.room.last = self.room.last.max(next - 1);
    }

    fn rewind(&mut self, frame: &Value, s: Offset) {
        self.room.epoch = frame["e"].as_str().unwrap_or_default().to_owned();
        self.room.next = Some(s + 1);
        self.room.last = self.room.last.min(s);
    }
}
