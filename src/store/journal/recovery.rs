//! What an opening finds in a folder of segments: the records that count, where the writing can go on, what is
//! torn, what is damaged. Reads only, so that a look from outside (`roomcast verify`) can use it too.
//!
//! A group is acknowledged after its sync, and the next one is written after that. So what is unreadable in
//! the last group was never acknowledged (torn: cut), and what is unreadable before a good record of a later
//! group, or before a later segment, was (damage: said aloud).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::codec::{self, Undecodable};
use super::frame::{self, Frame};
use super::header::{self, FirstPage, Header, PAGE};
use super::{Found, JournalError};
use crate::store::record::{Item, Lsn};

/// Ending of a segment's name.
pub(super) const ENDING: &str = "seg";

/// A segment as it was found.
pub(super) struct OldSegment {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Number of its last record that counts; `start - 1` for none.
    pub(super) last: Lsn,
    /// Behind its last record that counts.
    pub(super) end: u64,
    pub(super) len: u64,
    /// Only zeros from `end` to `len`.
    pub(super) clean: bool,
}

/// All that was found.
pub(super) struct Recovered {
    pub(super) found: Found,
    /// In the order of their numbers.
    pub(super) segments: Vec<OldSegment>,
    /// Files that no segment was ever finished in: nothing is in them.
    pub(super) blank: Vec<PathBuf>,
    /// Files that cannot be read at all, though something is in them.
    pub(super) unreadable: Vec<PathBuf>,
    /// Number of the next record.
    pub(super) next: Lsn,
}

/// Reads a folder. Records up to `after` are left out.
pub(super) fn read(dir: &Path, after: Lsn) -> Result<Recovered, JournalError> {
    let mut all = Recovered {
        found: Found::default(),
        segments: Vec::new(),
        blank: Vec::new(),
        unreadable: Vec::new(),
        next: after + 1,
    };
    let headers = headers(dir, &mut all)?;
    // The last record that is known to be in the result, or not asked for.
    let mut known = after;
    for (at, (path, header)) in headers.iter().enumerate() {
        let limit = headers[at + 1..].iter().map(|(_, later)| later.start).min();
        let bytes = fs::read(path).map_err(|error| JournalError::io("read", path, &error))?;
        let mut scan = Scan::new(&bytes, *header, limit);
        scan.run();
        let name = name_of(path);
        let (mut last, mut end) = (header.start - 1, PAGE);
        for frame in &scan.frames {
            (last, end) = (frame.lsn, frame.end());
            let record = match codec::decode(frame.body) {
                Ok(record) => record,
                Err(error @ Undecodable::Version(_)) => {
                    return Err(JournalError::Io(format!(
                        "record {} in {}: {error}; start the program that wrote it",
                        frame.lsn,
                        path.display()
                    )));
                }
                Err(error) => {
                    let (lsn, at) = (frame.lsn, frame.at);
                    all.found.notes.push(format!("{name}, byte {at}: record {lsn} is lost, {error}"));
                    continue;
                }
            };
            if frame.lsn <= after {
                continue;
            }
            all.found.missing(known + 1, frame.lsn, &name, scan.stopped_at);
            known = frame.lsn;
            all.found.items.push(Item { lsn: frame.lsn, record, with_next: frame.with_next });
        }
        // What should be here up to its end: the records that could not be decoded, and those of an earlier
        // segment that a later one follows.
        let before = limit.unwrap_or(0).max(last + 1);
        all.found.missing(known + 1, before, &name, scan.stopped_at);
        known = known.max(before - 1);
        if let Some(torn) = scan.torn {
            all.found.notes.push(format!(
                "{name}: cut at byte {}, where a group of records was not finished (first of them: {}, readable of \
                 them: {}); nothing of it was acknowledged",
                scan.stopped_at, torn.expected, torn.readable
            ));
        }
        let clean = scan.clean;
        let len = bytes.len() as u64;
        all.segments.push(OldSegment {
            path: path.clone(),
            header: *header,
            last,
            end: end as u64,
            len,
            clean,
        });
    }
    all.next = known.max(headers.last().map_or(0, |(_, header)| header.start - 1)) + 1;
    all.cut_halves();
    Ok(all)
}

/// Number of the first record of the oldest segment.
pub(super) fn first(dir: &Path) -> Result<Option<Lsn>, JournalError> {
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut all = Recovered {
        found: Found::default(),
        segments: Vec::new(),
        blank: Vec::new(),
        unreadable: Vec::new(),
        next: 1,
    };
    Ok(headers(dir, &mut all)?.iter().map(|(_, header)| header.start).min())
}

/// The readable headers in the order of their numbers; the other files go where they belong.
fn headers(dir: &Path, all: &mut Recovered) -> Result<Vec<(PathBuf, Header)>, JournalError> {
    let failed = |error: &io::Error| JournalError::io("read", dir, error);
    let mut headers: Vec<(PathBuf, Header)> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        if path.extension() != Some(OsStr::new(ENDING)) {
            continue;
        }
        match header::read(&first_page(&path)?) {
            FirstPage::Header(header) if header.start > 0 => headers.push((path, header)),
            FirstPage::Newer(version) => {
                return Err(JournalError::Io(format!(
                    "{} has format {version}, newer than this program knows; start the program that wrote it",
                    path.display()
                )));
            }
            _ => all.set_aside(path)?,
        }
    }
    headers.sort_by_key(|(_, header)| header.number);
    if let Some(pair) = headers.windows(2).find(|pair| pair[0].1.number == pair[1].1.number) {
        return Err(JournalError::Io(format!(
            "{} and {} say that they are the same segment; one is a copy, move it out of the folder",
            pair[0].0.display(),
            pair[1].0.display()
        )));
    }
    Ok(headers)
}

fn first_page(path: &Path) -> Result<Vec<u8>, JournalError> {
    use std::io::Read;
    let mut page = Vec::with_capacity(PAGE);
    let read = fs::File::open(path).and_then(|file| file.take(PAGE as u64).read_to_end(&mut page));
    read.map_err(|error| JournalError::io("read", path, &error))?;
    Ok(page)
}

fn name_of(path: &Path) -> String {
    format!("journal segment {}", path.file_name().unwrap_or_default().to_string_lossy())
}

impl Recovered {
    /// A file without a header: begun and never finished if nothing stands behind the first page.
    fn set_aside(&mut self, path: PathBuf) -> Result<(), JournalError> {
        let bytes = fs::read(&path).map_err(|error| JournalError::io("read", &path, &error))?;
        if is_zero(bytes.get(PAGE..).unwrap_or_default()) {
            self.blank.push(path);
            return Ok(());
        }
        self.found.notes.push(format!(
            "{}: its first page is damaged, so that none of its {} bytes can be read",
            name_of(&path),
            bytes.len()
        ));
        self.unreadable.push(path);
        Ok(())
    }

    /// Records that are kept with the next one or not at all, and whose next one did not come.
    fn cut_halves(&mut self) {
        while self.found.items.last().is_some_and(|item| item.with_next && item.lsn + 1 == self.next) {
            let half = self.found.items.pop().expect("it was just seen");
            self.next = half.lsn;
            self.found
                .notes
                .push(format!("record {} is cut: the one that belongs to it did not come", half.lsn));
            if let Some(segment) = self.segments.last_mut() {
                segment.clean = false;
            }
        }
    }
}

impl Found {
    /// Notes that the records from one number to before another are gone.
    fn missing(&mut self, from: Lsn, before: Lsn, name: &str, at: usize) {
        if from >= before {
            return;
        }
        let (to, count) = (before - 1, before - from);
        self.lost.push((from, to));
        self.notes.push(format!(
            "{name}, byte {at}: {count} acknowledged records are lost, {from} to {to}: they are neither in the \
             archive nor readable here"
        ));
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A group that was not finished.
struct Torn {
    expected: Lsn,
    readable: usize,
}

/// One segment on its way through.
struct Scan<'a> {
    bytes: &'a [u8],
    seed: u32,
    start: Lsn,
    /// Where the later segments begin; none for the last segment.
    limit: Option<Lsn>,
    /// The records that count, ascending.
    frames: Vec<Frame<'a>>,
    /// Where the first unbroken run of records ends.
    stopped_at: usize,
    clean: bool,
    torn: Option<Torn>,
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8], header: Header, limit: Option<Lsn>) -> Scan<'a> {
        let seed = frame::seed(header.salt);
        let (start, stopped_at) = (header.start, PAGE);
        Scan { bytes, seed, start, limit, frames: Vec::new(), stopped_at, clean: false, torn: None }
    }

    fn run(&mut self) {
        let mut expected = self.start;
        while let Some(frame) = self.at(self.stopped_at, expected).filter(|frame| frame.lsn == expected) {
            self.frames.push(frame);
            self.stopped_at = frame.end();
            expected += 1;
        }
        if self.limit.is_some_and(|limit| expected >= limit) {
            return;
        }
        if is_zero(self.bytes.get(self.stopped_at..).unwrap_or_default()) {
            self.clean = true;
            return;
        }
        let mut rest = self.search(expected);
        let proven = self.limit.is_some() || rest.last().is_some_and(|frame| frame.first > expected);
        if !proven {
            self.torn = Some(Torn { expected, readable: rest.len() });
            return;
        }
        if self.limit.is_none() {
            cut_last_group(&mut rest);
        }
        self.frames.append(&mut rest);
    }

    /// The frame at this byte, if its number is one that can stand there and counts.
    fn at(&self, at: usize, lowest: Lsn) -> Option<Frame<'a>> {
        let frame = frame::read(self.bytes, at, self.seed, lowest)?;
        let counts = frame.first >= self.start && self.limit.is_none_or(|limit| frame.lsn < limit);
        counts.then_some(frame)
    }

    /// All good frames behind the first bad place, ascending.
    fn search(&self, mut lowest: Lsn) -> Vec<Frame<'a>> {
        let mut good = Vec::new();
        let mut at = self.stopped_at;
        while at + frame::HEAD <= self.bytes.len() {
            let Some(frame) = self.at(at, lowest) else {
                at += 8;
                continue;
            };
            lowest = frame.lsn + 1;
            at = frame.end();
            good.push(frame);
        }
        good
    }
}

/// The last group may be torn though an earlier one is damaged: of it only the unbroken beginning counts.
fn cut_last_group(rest: &mut Vec<Frame<'_>>) {
    let Some(first) = rest.last().map(|frame| frame.first) else { return };
    let begin = rest.iter().position(|frame| frame.first == first).unwrap_or(rest.len());
    let run = rest[begin..].iter().zip(first..).take_while(|(frame, lsn)| frame.lsn == *lsn).count();
    rest.truncate(begin + run);
}
