//! What a `joined` says, and what is taken back at it. Its figures are looked at when the next frame of the room
//! comes: a `rewind` right after it tells from where they count.

use super::{Asked, Reading, Stream};
use crate::checker::Nodes;
use crate::checker::report::Fault;
use crate::frame::Frame;

/// A `joined` whose figures are not looked at yet.
#[derive(Debug)]
pub(super) struct Joined {
    asked: Asked,
    head: u64,
    n: u64,
    missing: Option<(u64, u64)>,
    misses_all: bool,
}

impl Reading<'_> {
    pub(super) fn joined(&mut self, room: &str, frame: &Frame, ms: u64) {
        let by_cursor = self.came_back.map(|at| (Asked::Cursor, at));
        let known = self.asked.get(room).copied().or(by_cursor);
        let (asked, at) = known.unwrap_or((Asked::Anything, ms));
        let (head, n) = (frame.s.unwrap_or(0), frame.n.unwrap_or(0));
        self.rooms.entry(room.to_owned()).or_default().announced(&self.name, at, head);
        let (missing, misses_all) = (frame.missing_range(), frame.misses_all());
        self.joined.insert(room.to_owned(), Joined { asked, head, n, missing, misses_all });
    }

    pub(super) fn settle_all(&mut self) {
        let rooms: Vec<String> = self.joined.keys().cloned().collect();
        rooms.iter().for_each(|room| self.settles(room, None));
    }

    /// Looks at what the last `joined` of a room said, now that it is known whether a `rewind` belongs to it.
    pub(super) fn settles(&mut self, room: &str, rewound: Option<u64>) {
        let Some(joined) = self.joined.remove(room) else { return };
        let Joined { asked, head, n, missing, misses_all } = joined;
        if self.nodes == Nodes::Several && asked == Asked::Anything {
            let seen = self.held(room).begins_anew();
            self.rooms.entry(room.to_owned()).or_default().was_seen_before(&self.name, seen);
        }
        let told = || missing.map_or(head.saturating_sub(n), |(first, _)| first - 1);
        let start = match asked {
            Asked::Since(since) => since.min(rewound.unwrap_or(since)),
            Asked::Anything => told(),
            Asked::Cursor => {
                let (start, shown) = (told(), self.held(room).shown);
                if start > shown {
                    self.hole(room, shown + 1, start, "the cursor is ahead of what was shown");
                }
                start
            }
        };
        if start > head {
            let text =
                format!("{} in {room}: asked to go on from {start}; the log ends at {head}", self.name);
            self.report.add(Fault::Vanished, text);
        }
        let since = matches!(asked, Asked::Since(_)).then_some(start);
        self.streams.insert(room.to_owned(), Stream { upto: start, since, head, live: false });
        // Who has seen nothing cannot lose it; a room that nobody has spoken in has no life to go on with.
        if misses_all && start > 0 {
            let text = format!("{} in {room}: the log has begun anew, with its head at {head}", self.name);
            self.report.add(Fault::Lost, text);
            self.stream(room).upto = head.saturating_sub(n);
        }
        if missing.is_some() {
            self.passes(room, missing, "missing");
        }
        let upto = self.stream(room).upto;
        if upto + n != head {
            let text =
                format!("{} in {room}: {n} places are announced after {upto}, up to {head}", self.name);
            self.report.add(Fault::Unaccounted, text);
        }
    }

    /// What came after a place is taken back. One node alone has no reason to.
    pub(super) fn rewinds(&mut self, room: &str, to: u64, line: &str) {
        if self.nodes == Nodes::One {
            self.report.add(Fault::Vanished, format!("{} in {room}: {line}", self.name));
        }
        let taken_back = self.held(room).rewinds(to);
        self.settles(room, Some(to));
        let stream = self.stream(room);
        stream.upto = stream.upto.min(to);
        stream.since = stream.since.map(|since| since.min(to));
        self.report.rewinds += 1;
        self.report.taken_back += taken_back as u64;
        self.rooms.entry(room.to_owned()).or_default().was_rewound(to);
    }
}
