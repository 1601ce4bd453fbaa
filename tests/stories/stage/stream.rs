//! The stream of a room at speed: what every reader has to see, checked line by line as it comes.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::time::Instant;

use super::PATIENCE;
use super::guest::Line;
use super::wire::{Seen, Wire};

/// What was seen of a room by anybody. All readers have to see the same bytes at the same place.
#[derive(Debug, Clone, Default)]
pub struct Transcript(Rc<RefCell<Vec<Option<Box<str>>>>>);

impl Transcript {
    /// Somebody sees an entry.
    pub fn sees(&self, offset: u64, raw: &str) {
        let mut entries = self.0.borrow_mut();
        let at = offset as usize;
        if entries.len() <= at {
            entries.resize(at + 1, None);
        }
        match &entries[at] {
            Some(before) => assert_eq!(&**before, raw, "two readers see different bytes at {offset}"),
            None => entries[at] = Some(raw.into()),
        }
    }

    /// The entries from 1 on; fails when nobody has seen one of them.
    pub fn entries(&self) -> Vec<Line> {
        let entries = self.0.borrow();
        let seen = entries.iter().enumerate().skip(1);
        seen.map(|(at, raw)| Line::of(raw.as_deref().unwrap_or_else(|| panic!("nobody saw {at}")).into()))
            .collect()
    }
}

/// A reader of one room who holds the server to the rules of the stream.
pub struct Follower {
    pub wire: Wire,
    pub room: String,
    pub transcript: Transcript,
    /// The last offset that was seen.
    pub last: u64,
    /// The epoch of the log.
    pub epoch: String,
}

/// Lines that may come between entries.
const STATE: [&str; 5] = ["pres", "typing", "read", "got", "welcome"];

/// The offset of an entry of a room; none for any other line.
pub fn offset_of(room: &str, raw: &str) -> Option<u64> {
    let rest = raw.strip_prefix(r#"{"t":"msg","r":""#)?.strip_prefix(room)?.strip_prefix(r#"","s":"#)?;
    rest.split(',').next()?.parse().ok()
}

impl Follower {
    /// Joins with more keys of JSON (`,"since":4`) and checks the join cut: `joined`, all that it announces,
    /// `live`. The line with `joined`.
    pub async fn join(wire: Wire, room: &str, transcript: &Transcript, more: &str) -> (Follower, Line) {
        let (room, transcript) = (room.to_owned(), transcript.clone());
        let mut follower = Follower { wire, room, transcript, last: 0, epoch: String::new() };
        let joined = follower.joins(more).await;
        (follower, joined)
    }

    async fn joins(&mut self, more: &str) -> Line {
        self.wire.writer.text(&format!(r#"{{"t":"join","r":"{}"{more}}}"#, self.room)).await;
        let joined = Line::of(self.line(&["joined"]).await);
        let (top, n) = (joined.s(), joined.number("n"));
        assert!(n <= top, "{}", joined.raw);
        self.epoch = joined.text("e").into();
        self.last = top - n;
        for _ in 0..n {
            self.entry().await;
        }
        let live = Line::of(self.line(&["live"]).await);
        assert_eq!((live.s(), self.last), (top, top), "{}", live.raw);
        joined
    }

    /// Reads the next entry, which has to stand right behind the last.
    pub async fn entry(&mut self) -> String {
        let raw = self.line(&["msg"]).await;
        self.takes(&raw);
        raw
    }

    fn takes(&mut self, raw: &str) {
        let offset = offset_of(&self.room, raw).unwrap_or_else(|| panic!("not of this room: {raw}"));
        assert_eq!(offset, self.last + 1, "a hole or an overlap: {raw}");
        self.last = offset;
        self.transcript.sees(offset, raw);
    }

    /// Reads entries until the server is gone.
    pub async fn until_the_end(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.wire.next_before(end).await.expect("the server goes in time") {
                Seen::End => return,
                Seen::Text(raw) if is_of(&raw, "msg") => self.takes(&raw),
                Seen::Text(raw) if STATE.iter().any(|t| is_of(&raw, t)) => {}
                other => panic!("after {}: {other:?}", self.last),
            }
        }
    }

    /// Reads up to an offset.
    pub async fn up_to(&mut self, offset: u64) {
        while self.last < offset {
            self.entry().await;
        }
    }

    /// The next line of one of these types. State may come between, everything else may not.
    async fn line(&mut self, types: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let Some(seen) = self.wire.next_before(end).await else {
                panic!("waited in vain for {types:?} after {}", self.last)
            };
            match seen {
                Seen::Text(raw) if types.iter().any(|t| is_of(&raw, t)) => return raw,
                Seen::Text(raw) if STATE.iter().any(|t| is_of(&raw, t)) => {}
                other => panic!("waits for {types:?} after {} and sees {other:?}", self.last),
            }
        }
    }
}

fn is_of(raw: &str, t: &str) -> bool {
    raw.strip_prefix(r#"{"t":""#)
        .and_then(|rest| rest.strip_prefix(t))
        .is_some_and(|rest| rest.starts_with('"'))
}
