//! What all diaries say about one room, and where they contradict each other.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Verdict;
use super::held::{Key, Place};
use super::report::{Fault, Report};

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
    /// Mostly one place; more where a repeat was answered with another.
    acked: HashMap<Key, Vec<u64>>,
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
    /// What clients had seen who then came in without saying where they stood.
    before: Vec<(String, BTreeMap<u64, Place>)>,
    /// The lowest place that anybody was told to go back to.
    rewound_to: Option<u64>,
}

impl Ledger {
    pub(super) fn was_sent(&mut self, key: Key, sent: Sent) {
        self.sent.insert(key, sent);
    }

    pub(super) fn was_acked(&mut self, key: Key, s: u64, ms: u64, report: &mut Report) {
        self.known.push((ms, s));
        let places = self.acked.entry(key).or_default();
        report.acked += u64::from(places.is_empty());
        if !places.contains(&s) {
            places.push(s);
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

    /// Somebody was told that all above a place is taken back.
    pub(super) fn was_rewound(&mut self, to: u64) {
        self.rewound_to = Some(self.rewound_to.map_or(to, |known| known.min(to)));
    }

    /// A client had seen this before it came in without saying where it stood.
    pub(super) fn was_seen_before(&mut self, reader: &str, seen: BTreeMap<u64, Place>) {
        self.before.push((reader.to_owned(), seen));
    }

    /// Whether what stood at a place may stand elsewhere now.
    fn may_have_moved(&self, s: u64) -> bool {
        self.rewound_to.is_some_and(|to| s > to)
    }

    /// A reader holds an entry.
    pub(super) fn was_seen(&mut self, s: u64, place: Place, reader: &str, report: &mut Report) {
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
                if let Err(text) = known.get_mut().agrees(place) {
                    report.add(Fault::Different, format!("{s} {text}, for {reader}"));
                }
            }
        }
    }

    /// A client first knew of a place at this time.
    pub(super) fn was_known(&mut self, ms: u64, s: u64) {
        self.known.push((ms, s));
    }

    /// Says what is wrong in this room.
    pub(super) fn judge(mut self, room: &str, by: Verdict, report: &mut Report) {
        for (reader, seen) in std::mem::take(&mut self.before) {
            // What may have been taken back since is nobody's any more.
            for (s, place) in seen.into_iter().filter(|(s, _)| !self.may_have_moved(*s)).collect::<Vec<_>>() {
                self.was_seen(s, place, &reader, report);
            }
        }
        report.sent += self.sent.len() as u64;
        report.places += self.places.len() as u64;
        for (key, places) in &self.acked {
            self.judge_ack(room, key, places, by, report);
        }
        self.judge_places(room, by, report);
        self.judge_writers(room, report);
        if !by.several_nodes {
            // A node may know a moment later than another what the newest place is.
            self.judge_heads(room, report);
        }
    }

    fn judge_ack(&self, room: &str, key: &Key, places: &[u64], by: Verdict, report: &mut Report) {
        if !self.sent.contains_key(key) {
            let text = format!("{room} {places:?}: {key:?} was acknowledged and never sent");
            report.add(Fault::Phantom, text);
        }
        let Some(s) = self.place_of_ack(room, key, places, report) else { return };
        let missing = self.missing.iter().any(|(from, to)| (*from..=*to).contains(&s));
        report.forgotten += u64::from(missing);
        if let Some(place) = self.places.get(&s).filter(|place| place.key != *key) {
            let text = format!("{room} {s}: {key:?} was acknowledged; {:?} stands there", place.key);
            report.add(Fault::Lost, text);
            return;
        }
        if missing && !by.forgetting {
            let text = format!("{room} {s}: {key:?} was acknowledged; a reader is told it is missing");
            report.add(Fault::Lost, text);
        }
        for (_, _, reader) in self.holes.iter().filter(|(from, to, _)| (*from..=*to).contains(&s)) {
            let text = format!("{room} {s}: {key:?} was acknowledged; {reader} did not get it");
            report.add(Fault::Lost, text);
        }
        let there = self.places.contains_key(&s)
            || (self.skipped.contains(&s) && (by.forgetting || self.is_replaced(key)));
        if !there && !missing {
            report.add(Fault::Lost, format!("{room} {s}: {key:?} was acknowledged; nobody was shown it"));
        } else if by.has_last_reader && !missing && !self.last.contains(&s) {
            report.add(
                Fault::Lost,
                format!("{room} {s}: {key:?} was acknowledged; at the end it is not there"),
            );
        }
    }

    /// Where an acknowledged message has to be. Only what stood above a place that was gone back to may have
    /// been given another.
    fn place_of_ack(&self, room: &str, key: &Key, places: &[u64], report: &mut Report) -> Option<u64> {
        let (now, first) = (self.ids.get(key).copied(), *places.first()?);
        let moved = |s: &u64| self.may_have_moved(*s) && now.is_some_and(|now| now != *s);
        report.moved += u64::from(places.iter().any(moved));
        let mut binding = places.iter().copied().filter(|s| !moved(s));
        let s = binding.next().or(now).unwrap_or(first);
        if let Some(other) = binding.next() {
            let text = format!("{room}: {key:?} was acknowledged at {s} and at {other}");
            report.add(Fault::Doubled, text);
        }
        Some(s)
    }

    /// Whether this is an edit of a message that somebody edited again or deleted: then its place is skipped.
    fn is_replaced(&self, key: &Key) -> bool {
        let Some(of) = self.sent.get(key).and_then(|sent| sent.changes) else { return false };
        self.sent.iter().any(|(other, sent)| other != key && sent.changes == Some(of))
    }

    fn judge_places(&self, room: &str, by: Verdict, report: &mut Report) {
        for (s, place) in &self.places {
            let key = &place.key;
            match self.sent.get(key) {
                None => report.add(Fault::Phantom, format!("{room} {s}: nobody sent {key:?}")),
                Some(sent) if place.data.is_some_and(|data| data != sent.data) => {
                    report.add(Fault::Phantom, format!("{room} {s}: {key:?} was sent with other words"));
                }
                Some(_) => {}
            }
            // What grew too old between a reader's `joined` and its turn is skipped.
            if place.is_message && !by.forgetting && self.skipped.contains(s) {
                let text = format!("{room} {s}: {key:?} was shown to one reader and skipped for another");
                report.add(Fault::Vanished, text);
            }
            let forgotten = self.missing.iter().any(|(from, to)| (from..=to).contains(&s));
            if by.has_last_reader && !forgotten && !self.last.contains(s) {
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
            let acked = self.acked.get(key).and_then(|places| places.first());
            let place = acked.or_else(|| self.ids.get(key)).filter(|_| !self.may_have_moved(sent.after));
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
