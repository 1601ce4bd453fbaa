//! The hot tail of one room: its last entries as encoded frames, at dense offsets. Behind a store it is what
//! need not be read from there; without one it is all there is.
//! Called by the room. Frames are shared with whoever is sending them, so keeping costs no copy.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::chat::message::Offset;

/// What an entry costs beside its frame, in bytes; part of every budget.
const ENTRY_OVERHEAD: usize = 64;

#[derive(Debug, Clone)]
struct Entry {
    ts: u64,
    /// Number of its record in the store; 0 without a store.
    lsn: u64,
    frame: Bytes,
}

/// An entry on its way into a history.
#[derive(Debug, Clone)]
pub struct Hot {
    /// Server time, Unix milliseconds.
    pub ts: u64,
    /// Number of its record in the store; 0 without a store.
    pub lsn: u64,
    /// A whole frame, the same for every reader.
    pub frame: Bytes,
}

/// Which part of a log a reader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing old: only what comes from now on.
    Nothing,
    /// All after this offset.
    After(Offset),
    /// The newest so many.
    Last(usize),
    /// All from this server time on, Unix milliseconds.
    From(u64),
    /// All that is kept.
    All,
}

/// The last entries of a room, oldest first. Offsets run from `first` to `top` without a hole.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    top: Offset,
    bytes: usize,
}

impl History {
    /// Offset of the newest entry ever appended; 0 before the first.
    pub fn top(&self) -> Offset {
        self.top
    }

    /// Offset of the oldest entry still kept; `top + 1` when none is.
    pub fn first(&self) -> Offset {
        self.top + 1 - self.entries.len() as Offset
    }

    /// How many entries are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the kept entries cost in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins after `top` with the newest entries of a store, oldest first.
    pub fn restore(&mut self, top: Offset, tail: impl IntoIterator<Item = Hot>) {
        debug_assert!(self.is_empty(), "a history is restored before anything is appended");
        self.top = top;
        for Hot { ts, lsn, frame } in tail {
            self.bytes += frame.len() + ENTRY_OVERHEAD;
            self.entries.push_back(Entry { ts, lsn, frame });
        }
    }

    /// Keeps an entry at `top + 1`, then forgets the oldest above `entries_max`, as far as a store has them:
    /// those with record numbers up to `archived`.
    pub fn append(&mut self, hot: Hot, entries_max: usize, archived: u64) {
        let Hot { ts, lsn, frame } = hot;
        self.top += 1;
        self.bytes += frame.len() + ENTRY_OVERHEAD;
        self.entries.push_back(Entry { ts, lsn, frame });
        while self.entries.len() > entries_max && self.forget_oldest(archived) {}
    }

    /// The log goes on after `top`; nothing of it is hot.
    pub fn restart(&mut self, top: Offset) {
        self.entries.clear();
        (self.top, self.bytes) = (top, 0);
    }

    /// The frame at an offset, if it is hot.
    pub fn get(&self, offset: Offset) -> Option<&Bytes> {
        let at = usize::try_from(offset.checked_sub(self.first())?).ok()?;
        self.entries.get(at).map(|entry| &entry.frame)
    }

    /// Puts another frame in the place of one that is hot.
    pub fn replace(&mut self, offset: Offset, frame: Bytes) {
        let Some(at) = offset.checked_sub(self.first()).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(at) {
            self.bytes = self.bytes + frame.len() - entry.frame.len();
            entry.frame = frame;
        }
    }

    /// Forgets the oldest half, at least one entry: what a room gives up when memory is short. What the store
    /// does not have yet stays.
    pub fn forget_half(&mut self, archived: u64) {
        for _ in 0..self.entries.len().div_ceil(2) {
            if !self.forget_oldest(archived) {
                break;
            }
        }
    }

    /// Forgets the oldest above `entries_max` that the store has by now.
    pub fn forget_surplus(&mut self, entries_max: usize, archived: u64) {
        while self.entries.len() > entries_max && self.forget_oldest(archived) {}
    }

    /// Forgets what is older than `ts` (server time, Unix milliseconds).
    pub fn forget_before(&mut self, ts: u64) {
        while self.entries.front().is_some_and(|entry| entry.ts < ts) {
            self.forget_oldest(u64::MAX);
        }
    }

    /// Forgets what stands before an offset.
    pub fn forget_to(&mut self, offset: Offset) {
        while !self.entries.is_empty() && self.first() < offset {
            self.forget_oldest(u64::MAX);
        }
    }

    fn forget_oldest(&mut self, archived: u64) -> bool {
        if self.entries.front().is_none_or(|entry| entry.lsn > archived) {
            return false;
        }
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.frame.len() + ENTRY_OVERHEAD;
        }
        true
    }

    /// Server time of the oldest hot entry, Unix milliseconds.
    pub fn oldest_ts(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.ts)
    }

    /// Offset of the first entry that answers `wanted`; `top + 1` for none. What is not kept any more is
    /// not in it: compare with [`History::first`].
    pub fn start_of(&self, wanted: Wanted) -> Offset {
        let (first, end) = (self.first(), self.top + 1);
        match wanted {
            Wanted::Nothing => end,
            Wanted::After(offset) => offset.saturating_add(1).clamp(first, end),
            Wanted::Last(n) => end.saturating_sub(n as Offset).max(first),
            Wanted::From(ts) => {
                let older = self.entries.iter().take_while(|entry| entry.ts < ts).count();
                first + older as Offset
            }
            Wanted::All => first,
        }
    }

    /// The frames from `start` to `top`, oldest first.
    pub fn frames_from(&self, start: Offset) -> impl Iterator<Item = &Bytes> {
        let skip = start.saturating_sub(self.first()) as usize;
        self.entries.iter().skip(skip).map(|entry| &entry.frame)
    }

    /// At most `n` frames and about `bytes_max` bytes (one frame at the least) with offsets in `after + 1 ..`
    /// (the oldest of them) or `.. before` (the newest of them), oldest first.
    pub fn page(&self, from: PageFrom, n: usize, bytes_max: usize) -> Page<'_> {
        let (first, end) = (self.first(), self.top + 1);
        let from = match from {
            PageFrom::Since(ts) => PageFrom::After(self.start_of(Wanted::From(ts)) - 1),
            PageFrom::Until(ts) => PageFrom::Before(self.start_of(Wanted::From(ts))),
            offset => offset,
        };
        let mut bytes = 0;
        let mut fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.frame.len();
            is_first || bytes <= bytes_max
        };
        match from {
            PageFrom::After(after) => {
                let skip = (after.saturating_add(1).clamp(first, end) - first) as usize;
                let page: Vec<_> = self
                    .entries
                    .iter()
                    .skip(skip)
                    .take(n)
                    .take_while(&mut fits)
                    .map(|entry| &entry.frame)
                    .collect();
                let more = skip + page.len() < self.entries.len();
                Page { first: first + skip as Offset, frames: page, more }
            }
            PageFrom::Before(before) => {
                let stop = (before.clamp(first, end) - first) as usize;
                let newest_first = self.entries.range(..stop).rev();
                let mut page: Vec<_> =
                    newest_first.take(n).take_while(&mut fits).map(|entry| &entry.frame).collect();
                page.reverse();
                let start = stop - page.len();
                Page { first: first + start as Offset, frames: page, more: start > 0 }
            }
            PageFrom::Since(_) | PageFrom::Until(_) => unreachable!("times are offsets by now"),
        }
    }
}

/// A part of the hot tail.
#[derive(Debug)]
pub struct Page<'a> {
    /// Offset of the first frame.
    pub first: Offset,
    /// The frames, oldest first.
    pub frames: Vec<&'a Bytes>,
    /// Whether more are hot in the direction that was asked for.
    pub more: bool,
}

/// Where a page of the log begins, and in which direction it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFrom {
    /// Newer than this offset.
    After(Offset),
    /// Older than this offset.
    Before(Offset),
    /// From this server time on, Unix milliseconds.
    Since(u64),
    /// Older than this server time, Unix milliseconds.
    Until(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot(ts: u64, lsn: u64, text: &str) -> Hot {
        Hot { ts, lsn, frame: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn of(n: u64, entries_max: usize) -> History {
        let mut history = History::default();
        for i in 1..=n {
            history.append(hot(i * 10, 0, &i.to_string()), entries_max, 0);
        }
        history
    }

    fn text(frames: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<String> {
        frames.into_iter().map(|f| String::from_utf8(f.as_ref().to_vec()).unwrap()).collect()
    }

    #[test]
    fn keeps_the_newest_at_dense_offsets() {
        let history = of(10, 4);
        assert_eq!((history.first(), history.top(), history.len()), (7, 10, 4));
        assert_eq!(text(history.frames_from(9)), ["9", "10"]);
        assert_eq!(text(history.frames_from(3)), ["7", "8", "9", "10"]);
        assert_eq!(text(history.frames_from(11)), Vec::<String>::new());
    }

    #[test]
    fn finds_the_start_of_what_is_wanted() {
        let history = of(10, 4);
        for (wanted, start) in [
            (Wanted::Nothing, 11),
            (Wanted::After(8), 9),
            (Wanted::After(2), 7),
            (Wanted::After(99), 11),
            (Wanted::Last(2), 9),
            (Wanted::Last(100), 7),
            (Wanted::Last(0), 11),
            (Wanted::From(85), 9),
            (Wanted::From(u64::MAX), 11),
            (Wanted::All, 7),
        ] {
            assert_eq!(history.start_of(wanted), start, "{wanted:?}");
        }
    }

    #[test]
    fn pages_both_ways() {
        let history = of(10, 6);
        let page = |from, n| {
            let page = history.page(from, n, 1_000);
            let names = text(page.frames).join(",");
            assert!(names.is_empty() || names.starts_with(&page.first.to_string()));
            (names, page.more)
        };
        assert_eq!(page(PageFrom::Before(11), 3), ("8,9,10".into(), true));
        assert_eq!(page(PageFrom::Before(8), 3), ("5,6,7".into(), false));
        assert_eq!(page(PageFrom::Before(1), 3), ("".into(), false));
        assert_eq!(page(PageFrom::After(5), 2), ("6,7".into(), true));
        assert_eq!(page(PageFrom::After(8), 9), ("9,10".into(), false));
        assert_eq!(page(PageFrom::After(u64::MAX), 9), ("".into(), false));
        let short = |from, bytes_max| text(history.page(from, 9, bytes_max).frames).join(",");
        assert_eq!(short(PageFrom::Before(11), 3), "9,10", "two bytes and one byte");
        assert_eq!(short(PageFrom::After(4), 0), "5", "one entry at the least, or nobody could read on");
        assert!(history.page(PageFrom::Before(11), 9, 3).more);
    }

    #[test]
    fn forgetting_gives_the_memory_back_and_keeps_the_offsets() {
        let mut history = of(9, 100);
        history.forget_half(0);
        assert_eq!((history.first(), history.top()), (6, 9));
        history.forget_before(85);
        assert_eq!(history.first(), 9);
        history.forget_half(0);
        assert_eq!((history.first(), history.top(), history.bytes()), (10, 9, 0));
    }

    #[test]
    fn what_the_store_does_not_have_stays_hot() {
        let mut history = History::default();
        history.restore(4, [hot(1, 1, "four")]);
        for lsn in 2..=9 {
            history.append(hot(lsn, lsn, "x"), 3, 5);
        }
        assert_eq!((history.first(), history.top()), (9, 12), "records 6 to 9 are not in the store");
        history.forget_half(6);
        assert_eq!(history.first(), 10);
        history.forget_surplus(3, 9);
        assert_eq!((history.first(), history.len()), (10, 3));
    }

    #[test]
    fn an_entry_may_get_another_frame() {
        let mut history = of(10, 4);
        history.replace(8, Bytes::from_static(b"eight"));
        history.replace(3, Bytes::from_static(b"long gone"));
        assert_eq!(text(history.frames_from(7)), ["7", "eight", "9", "10"]);
        assert_eq!((history.get(8).map(Bytes::len), history.get(6), history.get(11)), (Some(5), None, None));
        let bytes = history.bytes();
        history.replace(8, Bytes::from_static(b"8"));
        assert_eq!(history.bytes(), bytes - 4);
    }
}
