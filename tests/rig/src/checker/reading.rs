//! Follows one client's diary: where it stands in each room, and whether what it got is what comes next.

mod joining;

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use super::held::{Held, Place, data_of};
use super::ledger::{Ledger, Sent};
use super::report::{Fault, Report};
use super::{Nodes, Role};
use crate::frame::Frame;
use joining::Joined;

/// What the client asked for in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// All after a place.
    Since(u64),
    /// A number of messages, or from a time on, or only what comes.
    Anything,
    /// To go on where the server knows that it stands.
    Cursor,
}

/// What comes over one connection from one `joined` on.
#[derive(Debug)]
struct Stream {
    /// All up to here is accounted for.
    upto: u64,
    /// The place that the client asked to go on from.
    since: Option<u64>,
    /// The head at the join; entries beyond it come after `live`.
    head: u64,
    live: bool,
}

pub(super) struct Reading<'a> {
    name: String,
    role: Role,
    nodes: Nodes,
    rooms: &'a mut BTreeMap<String, Ledger>,
    report: &'a mut Report,
    user: String,
    /// Requests of this connection, with their times.
    asked: HashMap<String, (Asked, u64)>,
    /// When `hello` named a session, on this connection.
    came_back: Option<u64>,
    streams: HashMap<String, Stream>,
    joined: HashMap<String, Joined>,
    held: HashMap<String, Held>,
    sent: HashMap<(String, String), Sent>,
    acked: Vec<(String, String, u64, u64)>,
    acked_upto: HashMap<String, u64>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        name: &str,
        role: Role,
        nodes: Nodes,
        rooms: &'a mut BTreeMap<String, Ledger>,
        report: &'a mut Report,
    ) -> Reading<'a> {
        report.clients += 1;
        Reading {
            name: name.to_owned(),
            role,
            nodes,
            rooms,
            report,
            user: String::new(),
            asked: HashMap::new(),
            came_back: None,
            streams: HashMap::new(),
            joined: HashMap::new(),
            held: HashMap::new(),
            sent: HashMap::new(),
            acked: Vec::new(),
            acked_upto: HashMap::new(),
        }
    }

    /// The client sent a frame.
    pub(super) fn said(&mut self, frame: &Frame, ms: u64) {
        match &*frame.t {
            "hello" => self.said_hello(frame, ms),
            "join" => {
                let what = asked(frame.since);
                self.asked.insert(frame.r.clone().unwrap_or_default(), (what, ms));
            }
            "pub" | "edit" | "del" | "react" => self.said_something(frame),
            _ => {}
        }
    }

    /// With `hello` a connection begins.
    fn said_hello(&mut self, frame: &Frame, ms: u64) {
        self.settle_all();
        self.streams.clear();
        self.asked.clear();
        self.user = frame.u.clone().unwrap_or_else(|| self.user.clone());
        self.came_back = frame.session.as_ref().map(|_| ms);
        for (room, place) in frame.rooms.iter().flatten() {
            let what = asked(place.since);
            self.asked.insert(room.clone(), (what, ms));
        }
    }

    fn said_something(&mut self, frame: &Frame) {
        let (Some(room), Some(id)) = (&frame.r, &frame.id) else { return };
        let changes = frame.of.filter(|_| matches!(&*frame.t, "edit" | "del"));
        let after = self.acked_upto.get(room).copied().unwrap_or(0);
        let sent = Sent { changes, data: data_of(frame), after };
        // Only the first time counts: a repeat is the same message.
        self.sent.entry((room.clone(), id.clone())).or_insert(sent);
    }

    /// The client received a frame.
    pub(super) fn heard(&mut self, frame: &Frame, line: &str, ms: u64, dropped: bool) {
        let room = frame.r.clone().unwrap_or_default();
        let of_the_stream = frame.is_entry() || matches!(&*frame.t, "joined" | "live" | "skip" | "gap");
        if of_the_stream {
            self.settles(&room, None);
        }
        match &*frame.t {
            "welcome" => self.user = frame.u.clone().unwrap_or_default(),
            "joined" => self.joined(&room, frame, ms),
            "live" => self.is_live(&room, frame.s.unwrap_or(0)),
            "skip" => self.passes(&room, frame.skipped_range(), "skip"),
            "gap" => self.passes(&room, frame.missing_range(), "gap"),
            "rewind" => self.rewinds(&room, frame.s.unwrap_or(0), line),
            "page" => self.page(&room, frame),
            "ack" => self.ack(&room, frame, ms),
            _ if frame.is_entry() => self.entry(&room, frame, line, ms, dropped),
            _ => {}
        }
    }

    fn held(&mut self, room: &str) -> &mut Held {
        self.held.entry(room.to_owned()).or_default()
    }

    fn stream(&mut self, room: &str) -> &mut Stream {
        self.streams.entry(room.to_owned()).or_insert(Stream { upto: 0, since: None, head: 0, live: true })
    }

    fn is_live(&mut self, room: &str, s: u64) {
        let stream = self.stream(room);
        let upto = stream.upto;
        (stream.live, stream.upto) = (true, upto.max(s));
        if s > upto {
            self.hole(room, upto + 1, s, "live came too early");
        }
    }

    /// Places that are told in another way than by their entries.
    fn passes(&mut self, room: &str, range: Option<(u64, u64)>, word: &str) {
        let Some((from, to)) = range.filter(|(from, to)| from <= to) else {
            self.report.add(Fault::Unaccounted, format!("{} in {room}: a {word} of nothing", self.name));
            return;
        };
        let upto = self.stream(room).upto;
        if from > upto + 1 {
            self.hole(room, upto + 1, from - 1, word);
        } else if from <= upto {
            let text = format!("{} in {room}: {word} {from}-{to}, and all up to {upto} had come", self.name);
            self.report.add(Fault::Reordered, text);
        }
        self.stream(room).upto = upto.max(to);
        let held = self.held(room);
        held.shows(to);
        match word {
            "skip" => held.skipped.push((from, to)),
            _ => held.missing.push((from, to)),
        }
    }

    fn entry(&mut self, room: &str, frame: &Frame, line: &str, ms: u64, dropped: bool) {
        let s = frame.s.unwrap_or(0);
        self.report.seen += 1;
        self.report.dropped += u64::from(dropped);
        let had = self.held(room).shown;
        self.comes_next(room, s, dropped, had);
        if !dropped {
            self.held(room).shows(s);
        }
        if s > had {
            self.rooms.entry(room.to_owned()).or_default().was_known(ms, s);
        }
        self.holds(room, frame, Some(line));
    }

    fn holds(&mut self, room: &str, frame: &Frame, line: Option<&str>) {
        let s = frame.s.unwrap_or(0);
        if let Err(text) = self.held(room).holds(s, Place::of(frame, line)) {
            self.report.add(Fault::Different, format!("{} in {room}: {s} {text}", self.name));
        }
    }

    /// Whether an entry is the next one of its stream, and new to the client unless it dropped it.
    fn comes_next(&mut self, room: &str, s: u64, dropped: bool, had: u64) {
        let name = self.name.clone();
        let Some(stream) = self.streams.get_mut(room) else {
            self.report.add(Fault::Unaccounted, format!("{name} in {room}: {s} came without a joined"));
            return;
        };
        let (upto, early) = (stream.upto, !stream.live && s > stream.head);
        stream.upto = upto.max(s);
        let asked_beyond = stream.since.is_some_and(|since| s <= since);
        if early {
            self.report.add(Fault::Reordered, format!("{name} in {room}: {s} came before live"));
        }
        if s == upto || asked_beyond {
            self.report.add(Fault::Doubled, format!("{name} in {room}: {s} came again after {upto}"));
        } else if s < upto {
            self.report.add(Fault::Reordered, format!("{name} in {room}: {s} came after {upto}"));
        } else if s > upto + 1 {
            self.hole(room, upto + 1, s - 1, "nothing names them");
        } else if !dropped && s <= had {
            self.report.add(Fault::Doubled, format!("{name} in {room}: {s} was shown twice"));
        } else if dropped && s > had {
            let text = format!("{name} in {room}: dropped {s}, having seen only up to {had}");
            self.report.add(Fault::Unaccounted, text);
        }
    }

    fn hole(&mut self, room: &str, from: u64, to: u64, why: &str) {
        let text = format!("{} in {room}: {from}-{to} did not come; {why}", self.name);
        self.report.add(Fault::Unaccounted, text);
        let name = self.name.clone();
        self.rooms.entry(room.to_owned()).or_default().has_hole(from, to, &name);
    }

    /// A page of the log: the entries that everybody sees, or a skip, without a hole.
    fn page(&mut self, room: &str, frame: &Frame) {
        let list: Vec<&RawValue> =
            frame.list.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let mut before = None;
        for raw in list {
            let Ok(entry) = Frame::read(raw.get()) else {
                self.report.add(Fault::Different, format!("{} in {room}: a page with {raw}", self.name));
                continue;
            };
            let is_skip = entry.t == "skip";
            let range = if is_skip { entry.skipped_range() } else { entry.s.map(|s| (s, s)) };
            let Some((first, last)) = range else { continue };
            match before {
                Some(before) if first <= before => {
                    let text = format!("{} in {room}: {first} stands after {before} in a page", self.name);
                    self.report.add(Fault::Reordered, text);
                }
                Some(before) if first > before + 1 => self.hole(room, before + 1, first - 1, "in a page"),
                _ => {}
            }
            before = Some(last);
            if entry.is_entry() {
                self.holds(room, &entry, None);
            }
        }
    }

    fn ack(&mut self, room: &str, frame: &Frame, ms: u64) {
        // A message that is not kept has no place.
        let (Some(s), Some(id)) = (frame.s, &frame.id) else { return };
        let upto = self.acked_upto.entry(room.to_owned()).or_default();
        *upto = s.max(*upto);
        self.acked.push((room.to_owned(), id.clone(), s, ms));
    }

    /// The diary is over; now it is known whose it was.
    pub(super) fn ends(mut self) {
        self.settle_all();
        let is_last = self.role == Role::LastReader;
        for (room, held) in self.held {
            let ledger = self.rooms.entry(room).or_default();
            for (from, to) in held.skipped {
                ledger.is_skipped(from, to);
                if is_last {
                    ledger.last_reader_has(from, to);
                }
            }
            held.missing.into_iter().for_each(|(from, to)| ledger.is_missing(from, to));
            for (s, place) in held.places {
                ledger.was_seen(s, place, &self.name, self.report);
                if is_last {
                    ledger.last_reader_has(s, s);
                }
            }
        }
        for ((room, id), sent) in self.sent {
            let ledger = self.rooms.entry(room).or_default();
            ledger.was_sent((self.user.clone(), id), sent);
        }
        for (room, id, s, ms) in self.acked {
            let ledger = self.rooms.entry(room).or_default();
            ledger.was_acked((self.user.clone(), id), s, ms, self.report);
        }
    }
}

fn asked(since: Option<u64>) -> Asked {
    since.map_or(Asked::Anything, Asked::Since)
}
