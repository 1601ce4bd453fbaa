//! What all diaries say about one room, and where they contradict each other.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::report::{Fault, Report};
use crate::frame::Frame;

/// Who said it, and under which id. What backends say has the user "".
pub(super) type Key = (String, String);

/// What was sent under an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// What it is about, and whether it changes that: an edit or a delete.
    pub(super) changes: Option<u64>,
    /// The bytes of its data.
    pub(super) data: u64,
    /// The newest place of an own message that was acknowledged before this one was first sent.
    pub(super) after: u64,
}

/// An entry as readers saw it. Lines are kept as their hashes.
#[derive(Debug)]
struct Place {
    key: Key,
    /// The whole line; none where its words were changed since.
    line: Option<u64>,
    /// What never changes of a line.
    bare: u64,
    /// Its data; none where its words were changed since.
    data: Option<u64>,
    is_message: bool,
}

/// A reader's question for a room.
#[derive(Debug)]
struct Head {
    asked: u64,
    s: u64,
    reader: String,
}

/// All that is known of one room.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: HashMap<Key, Sent>,
    acked: HashMap<Key, u64>,
    places: HashMap<u64, Place>,
    ids: HashMap<Key, u64>,
    skipped: BTreeSet<u64>,
    missing: Vec<(u64, u64)>,
    holes: Vec<(u64, u64, String)>,
    /// When which place was first known to somebody, by his eyes or by an acknowledgement.
    known: Vec<(u64, u64)>,
    heads: Vec<Head>,
    /// What the last reader was shown or told to skip.
    last: HashSet<u64>,
}

pub(super) fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The data of a frame as it is compared: its bytes.
pub(super) fn data_of(frame: &Frame) -> u64 {
    hash(frame.d.map(|raw| raw.get()))
}

impl Ledger {
    pub(super) fn was_sent(&mut self, key: Key, sent: Sent) {
        self.sent.insert(key, sent);
    }

    pub(super) fn was_acked(&mut self, key: Key, s: u64, ms: u64, report: &mut Report) {
        self.known.push((ms, s));
        match self.acked.entry(key) {
            Slot::Vacant(free) => {
                report.acked += 1;
                free.insert(s);
            }
            Slot::Occupied(known) if *known.get() != s => {
                let text = format!("{:?} was acknowledged at {} and at {s}", known.key(), known.get());
                report.add(Fault::Doubled, text);
            }
            Slot::Occupied(_) => {}
        }
    }

    pub(super) fn announced(&mut self, reader: &str, asked: u64, s: u64) {
        self.heads.push(Head { asked, s, reader: reader.to_owned() });
    }

    pub(super) fn has_hole(&mut self, from: u64, to: u64, reader: &str) {
        self.holes.push((from, to, reader.to_owned()));
    }

    pub(super) fn is_missing(&mut self, from: u64, to: u64) {
        self.missing.push((from, to));
    }

    pub(super) fn is_skipped(&mut self, from: u64, to: u64) {
        self.skipped.extend(from..=to);
    }

    pub(super) fn last_reader_has(&mut self, from: u64, to: u64) {
        self.last.extend(from..=to);
    }

    /// A reader saw an entry. `line` is all of it, where it came as a line of its own.
    pub(super) fn was_seen(&mut self, frame: &Frame, line: Option<&str>, reader: &str, report: &mut Report) {
        let s = frame.s.unwrap_or(0);
        let key = (frame.u.clone().unwrap_or_default(), frame.id.clone().unwrap_or_default());
        let changed = frame.edited.is_some() || frame.gone == Some(true);
        let place = Place {
            line: line.filter(|_| !changed).map(hash),
            bare: hash((&frame.t, &frame.id, &frame.u, frame.ts, frame.of)),
            data: (!changed).then(|| data_of(frame)),
            is_message: frame.t == "msg",
            key,
        };
        if !place.key.1.is_empty() {
            match self.ids.entry(place.key.clone()) {
                Slot::Vacant(free) => {
                    free.insert(s);
                }
                Slot::Occupied(known) if *known.get() != s => {
                    let text =
                        format!("{:?} stands at {} and at {s}, seen by {reader}", place.key, known.get());
                    report.add(Fault::Doubled, text);
                }
                Slot::Occupied(_) => {}
            }
        }
        match self.places.entry(s) {
            Slot::Vacant(free) => {
                free.insert(place);
            }
            Slot::Occupied(mut known) => {
                let known = known.get_mut();
                if known.differs_from(&place) {
                    let text = format!(
                        "{s} is {:?} for some and {:?} for {reader}, or their lines differ",
                        known.key, place.key
                    );
                    report.add(Fault::Different, text);
                }
                known.line = known.line.or(place.line);
                known.data = known.data.or(place.data);
            }
        }
    }

    /// A client first knew of a place at this time.
    pub(super) fn was_known(&mut self, ms: u64, s: u64) {
        self.known.push((ms, s));
    }

    /// Says what is wrong in this room.
    pub(super) fn judge(mut self, room: &str, forgetting: bool, has_last_reader: bool, report: &mut Report) {
        report.sent += self.sent.len() as u64;
        report.places += self.places.len() as u64;
        self.judge_acks(room, forgetting, has_last_reader, report);
        self.judge_places(room, has_last_reader, report);
        self.judge_writers(room, report);
        self.judge_heads(room, report);
    }

    fn judge_acks(&self, room: &str, forgetting: bool, has_last_reader: bool, report: &mut Report) {
        for (key, s) in &self.acked {
            if !self.sent.contains_key(key) {
                report.add(Fault::Phantom, format!("{room} {s}: {key:?} was acknowledged and never sent"));
            }
            let missing = self.missing.iter().any(|(from, to)| (from..=to).contains(&s));
            report.forgotten += u64::from(missing);
            if let Some(place) = self.places.get(s).filter(|place| place.key != *key) {
                let text = format!("{room} {s}: {key:?} was acknowledged; {:?} stands there", place.key);
                report.add(Fault::Lost, text);
                continue;
            }
            if missing && !forgetting {
                let text = format!("{room} {s}: {key:?} was acknowledged; a reader is told it is missing");
                report.add(Fault::Lost, text);
            }
            for (_, _, reader) in self.holes.iter().filter(|(from, to, _)| (from..=to).contains(&s)) {
                let text = format!("{room} {s}: {key:?} was acknowledged; {reader} did not get it");
                report.add(Fault::Lost, text);
            }
            let there = self.places.contains_key(s) || (self.skipped.contains(s) && self.is_replaced(key));
            if !there && !missing {
                report.add(Fault::Lost, format!("{room} {s}: {key:?} was acknowledged; nobody was shown it"));
            } else if has_last_reader && !missing && !self.last.contains(s) {
                let text = format!("{room} {s}: {key:?} was acknowledged; at the end it is not there");
                report.add(Fault::Lost, text);
            }
        }
    }

    /// Whether this is an edit of a message that somebody edited again or deleted: then its place is skipped.
    fn is_replaced(&self, key: &Key) -> bool {
        let Some(of) = self.sent.get(key).and_then(|sent| sent.changes) else { return false };
        self.sent.iter().any(|(other, sent)| other != key && sent.changes == Some(of))
    }

    fn judge_places(&self, room: &str, has_last_reader: bool, report: &mut Report) {
        for (s, place) in &self.places {
            let key = &place.key;
            match self.sent.get(key) {
                None => report.add(Fault::Phantom, format!("{room} {s}: nobody sent {key:?}")),
                Some(sent) if place.data.is_some_and(|data| data != sent.data) => {
                    report.add(Fault::Phantom, format!("{room} {s}: {key:?} was sent with other words"));
                }
                Some(_) => {}
            }
            if place.is_message && self.skipped.contains(s) {
                let text = format!("{room} {s}: {key:?} was shown to one reader and skipped for another");
                report.add(Fault::Vanished, text);
            }
            let forgotten = self.missing.iter().any(|(from, to)| (from..=to).contains(&s));
            if has_last_reader && !forgotten && !self.last.contains(s) {
                report.add(
                    Fault::Vanished,
                    format!("{room} {s}: {key:?} was seen; at the end it is not there"),
                );
            }
        }
    }

    /// A writer who had waited for an acknowledgement finds his next message after it.
    fn judge_writers(&self, room: &str, report: &mut Report) {
        for (key, sent) in &self.sent {
            let place = self.acked.get(key).or_else(|| self.ids.get(key));
            if let Some(s) = place.filter(|s| **s <= sent.after) {
                let text =
                    format!("{room}: {key:?} stands at {s}; before it was sent, {} was taken", sent.after);
                report.add(Fault::Reordered, text);
            }
        }
    }

    /// Who asks after somebody has seen a place is not told of a log that ends before it.
    fn judge_heads(&mut self, room: &str, report: &mut Report) {
        self.known.sort_unstable();
        self.heads.sort_unstable_by_key(|head| head.asked);
        let (mut known, mut top) = (self.known.iter().peekable(), 0);
        for head in &self.heads {
            while let Some((_, s)) = known.next_if(|(ms, _)| *ms < head.asked) {
                top = top.max(*s);
            }
            if head.s < top {
                let text = format!(
                    "{room}: {} is told that the log ends at {}; {top} was known before he asked",
                    head.reader, head.s
                );
                report.add(Fault::Vanished, text);
            }
        }
    }
}

impl Place {
    fn differs_from(&self, other: &Place) -> bool {
        let both = |one: Option<u64>, two: Option<u64>| one.is_some() && two.is_some() && one != two;
        self.bare != other.bare || both(self.line, other.line) || both(self.data, other.data)
    }
}
