//! How far this node is in the log of each joined room: entries leave it in order and without a hole. Owned by a
//! partition. Knows no connection and no sink.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::chat::entry::Entry;
use crate::chat::message::Offset;

/// Most entries of a room that wait for those before them.
const WAITING_MAX: usize = 512;

/// The lives of a log, oldest first: epoch and first offset of each.
pub type Lives = Vec<(u64, Offset)>;

/// What a room waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Redis has not said yet where it is.
    Opening,
    /// Whoever asked for it has not been told yet.
    Told,
    /// The inbox was cut: Redis must say what this node has missed.
    Stale,
    /// Nothing.
    Live,
}

/// What an entry has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is known, or the next one, or waits.
    Fine,
    /// Entries before it are missing.
    Hole,
    /// It claims a place that another one has had on this node.
    Astray,
}

/// One room.
#[derive(Debug)]
pub struct Log {
    /// See [`Stage`].
    pub stage: Stage,
    /// Answers about it that have not been told yet.
    pub asks: u32,
    /// The newest offset that has left.
    pub top: Offset,
    /// The lives up to there.
    pub lives: Lives,
    /// When the oldest hole was seen.
    pub hole: Option<Instant>,
    /// When Redis was last told that this node wants to hear of it.
    pub joined: Instant,
    /// Whether the inbox was cut since Redis said where the room is.
    pub missed: bool,
    waiting: BTreeMap<Offset, Entry>,
    /// Some that should have waited did not fit.
    spilled: bool,
}

impl Log {
    /// A room that was asked for just now.
    pub fn new() -> Log {
        Log {
            stage: Stage::Opening,
            asks: 0,
            top: 0,
            lives: Lives::new(),
            hole: None,
            joined: Instant::now(),
            missed: false,
            waiting: BTreeMap::new(),
            spilled: false,
        }
    }

    /// Takes an entry; those whose turn it is go to `out`.
    pub fn hear(&mut self, entry: Entry, out: &mut Vec<Entry>) -> Heard {
        if self.stage != Stage::Live {
            self.wait(entry);
            return Heard::Fine;
        }
        let epoch = entry.epoch.0;
        if entry.offset <= self.top {
            let astray = epoch > epoch_at(&self.lives, entry.offset);
            return if astray { Heard::Astray } else { Heard::Fine };
        }
        if entry.offset > self.top + 1 {
            self.wait(entry);
            return Heard::Hole;
        }
        if epoch < self.lives.last().map_or(0, |(epoch, _)| *epoch) {
            return Heard::Fine;
        }
        self.pass(entry, out);
        self.catch_up(out)
    }

    /// Lets those go whose turn it is.
    pub fn catch_up(&mut self, out: &mut Vec<Entry>) -> Heard {
        while let Some((offset, entry)) = self.waiting.pop_first() {
            if offset <= self.top {
                continue;
            }
            let stale = entry.epoch.0 < self.lives.last().map_or(0, |(epoch, _)| *epoch);
            if stale {
                continue;
            }
            if offset > self.top + 1 {
                self.waiting.insert(offset, entry);
                return Heard::Hole;
            }
            self.pass(entry, out);
        }
        self.hole = None;
        if std::mem::take(&mut self.spilled) { Heard::Hole } else { Heard::Fine }
    }

    /// The next entry.
    pub fn pass(&mut self, entry: Entry, out: &mut Vec<Entry>) {
        self.top = entry.offset;
        if self.lives.last().is_none_or(|(epoch, _)| *epoch < entry.epoch.0) {
            self.lives.push((entry.epoch.0, entry.offset));
        }
        out.push(entry);
    }

    fn wait(&mut self, entry: Entry) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(entry.offset, entry);
        } else {
            self.spilled = true;
        }
    }

    /// Nothing that has come so far counts: it came through an inbox that was cut.
    pub fn cut(&mut self) {
        self.waiting.clear();
        self.spilled = false;
        self.hole = None;
    }
}

/// The epoch that a place belongs to; 0 for a place before all lives.
pub fn epoch_at(lives: &[(u64, Offset)], offset: Offset) -> u64 {
    lives.iter().rev().find(|(_, first)| *first <= offset).map_or(0, |(epoch, _)| *epoch)
}

/// Whether a log goes on where this node is; if not, up to where both are the same. Two logs have the same entry
/// at a place when they have the same epoch there.
pub fn parting(own: &[(u64, Offset)], own_top: Offset, log: &[(u64, Offset)], top: Offset) -> Option<Offset> {
    if own_top == 0 {
        return None;
    }
    if own_top <= top && epoch_at(own, own_top) == epoch_at(log, own_top) {
        return None;
    }
    let last_of = |lives: &[(u64, Offset)], at: usize, top: Offset| {
        lives.get(at + 1).map_or(top, |(_, first)| first - 1)
    };
    for (at, (epoch, first)) in own.iter().enumerate().rev() {
        let Some(there) = log.iter().position(|(other, _)| other == epoch) else { continue };
        let common = last_of(own, at, own_top).min(last_of(log, there, top));
        if common >= (*first).max(log[there].1) {
            return Some(common);
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::entry::Kind;
    use crate::chat::message::Epoch;
    use crate::chat::names::RoomName;

    fn entry(epoch: u64, offset: Offset) -> Entry {
        Entry {
            room: RoomName::new("a").unwrap(),
            epoch: Epoch(epoch),
            offset,
            ts: 0,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::new(),
        }
    }

    fn live(top: Offset, lives: &[(u64, Offset)]) -> Log {
        Log { stage: Stage::Live, top, lives: lives.to_vec(), ..Log::new() }
    }

    fn offsets(out: &[Entry]) -> Vec<Offset> {
        out.iter().map(|entry| entry.offset).collect()
    }

    #[test]
    fn entries_leave_in_order_and_once() {
        let (mut log, mut out) = (live(3, &[(5, 1)]), Vec::new());
        assert_eq!(log.hear(entry(5, 4), &mut out), Heard::Fine);
        assert_eq!(log.hear(entry(5, 4), &mut out), Heard::Fine);
        assert_eq!(log.hear(entry(6, 7), &mut out), Heard::Hole);
        assert_eq!(log.hear(entry(5, 6), &mut out), Heard::Hole);
        assert_eq!(offsets(&out), [4]);
        assert_eq!(log.hear(entry(5, 5), &mut out), Heard::Fine);
        assert_eq!(offsets(&out), [4, 5, 6, 7]);
        assert_eq!(log.lives, [(5, 1), (6, 7)]);
        assert_eq!(log.hear(entry(5, 8), &mut out), Heard::Fine, "of a life that is over");
        assert_eq!((out.len(), log.top), (4, 7));
        assert_eq!(log.hear(entry(7, 6), &mut out), Heard::Astray);
    }

    #[test]
    fn what_comes_before_the_room_is_open_waits() {
        let (mut log, mut out) = (Log::new(), Vec::new());
        for offset in [3, 4, 5] {
            assert_eq!(log.hear(entry(5, offset), &mut out), Heard::Fine);
        }
        (log.top, log.lives, log.stage) = (4, vec![(5, 1)], Stage::Live);
        assert_eq!(log.catch_up(&mut out), Heard::Fine);
        assert_eq!(offsets(&out), [5]);
    }

    #[test]
    fn too_much_that_waits_is_asked_for_again() {
        let (mut log, mut out) = (live(0, &[]), Vec::new());
        for offset in 2..=600 {
            assert_eq!(log.hear(entry(5, offset), &mut out), Heard::Hole);
        }
        assert_eq!(log.hear(entry(5, 1), &mut out), Heard::Hole, "513 of them are known, the rest is not");
        assert_eq!(out.len(), 513);
    }

    #[test]
    fn where_two_logs_part() {
        let log = &[(1, 1), (2, 5), (3, 9)][..];
        assert_eq!(parting(&[(1, 1), (2, 5)], 7, log, 12), None, "this node is just behind");
        assert_eq!(parting(&[(1, 1)], 4, log, 12), None);
        assert_eq!(parting(&[(1, 1)], 6, log, 12), Some(4), "5 and 6 were said on the old primary only");
        assert_eq!(parting(&[(1, 1), (2, 5)], 11, log, 12), Some(8));
        assert_eq!(parting(&[(1, 1), (2, 5)], 7, &[(1, 1), (2, 5)], 6), Some(6), "the log is shorter");
        assert_eq!(parting(&[(1, 1), (4, 5)], 7, log, 12), Some(4), "a life that nobody else knows");
        assert_eq!(parting(&[(7, 1)], 7, log, 12), Some(0));
        assert_eq!(parting(&[], 0, log, 12), None);
    }
}
