//! A forwarder with a target that does what a script says: takes, takes a part, refuses, is away, hangs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use bytes::Bytes;
use tokio::sync::watch;

use super::{Forwarder, ForwarderParts};
use crate::actors::letters::Drain;
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::forwards::counters::ForwardCounters;
use crate::forwards::memory::{MemoryExit, MemoryFeed};
use crate::forwards::target::{Outgoing, Target, TargetError};
use crate::sources::dead_letters::MemoryDeadLetters;
use crate::traces::Tracer;

/// What the target does at a call; without a word it takes all.
enum Does {
    /// Has so many, then is away.
    Breaks(usize),
    /// Has so many and refuses the next for ever.
    Refuses(usize),
    /// Takes so many without a word about the rest.
    Takes(usize),
}

#[derive(Default)]
struct Shelf {
    taken: Vec<u64>,
    script: VecDeque<Does>,
    opened: usize,
}

struct Scripted {
    shelf: Rc<RefCell<Shelf>>,
    told: watch::Sender<usize>,
}

impl Target for Scripted {
    fn address(&self) -> String {
        "a script".into()
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.shelf.borrow_mut().opened += 1;
        Ok(())
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        let mut shelf = self.shelf.borrow_mut();
        let (n, error) = match shelf.script.pop_front() {
            None => (entries.len(), None),
            Some(Does::Takes(n)) => (n, None),
            Some(Does::Breaks(n)) => (n, Some(TargetError::away("the script says so"))),
            Some(Does::Refuses(n)) => (n, Some(TargetError::Refused { index: n, why: "too large".into() })),
        };
        shelf.taken.extend(entries[..n].iter().map(|entry| entry.offset));
        let taken = shelf.taken.len();
        drop(shelf);
        self.told.send_replace(taken);
        (n, error)
    }

    fn batch(&self) -> usize {
        10
    }
}

/// A forwarder at work.
struct Story {
    exit: MemoryExit,
    shelf: Rc<RefCell<Shelf>>,
    taken: watch::Receiver<usize>,
    counters: Arc<ForwardCounters>,
    dead: Arc<MemoryDeadLetters>,
    forwarder: Addr<Forwarder<MemoryFeed, Scripted>>,
}

impl Story {
    /// With `n` entries that wait, and a target with a script.
    fn begin(n: u64, script: impl IntoIterator<Item = Does>) -> Story {
        Story::begin_with(n, script, Tracer::default())
    }

    fn begin_with(n: u64, script: impl IntoIterator<Item = Does>, tracer: Tracer) -> Story {
        let exit = MemoryExit::new(1_000, ["one".to_owned()], Arc::new(|_| true));
        (1..=n).for_each(|offset| exit.push(&entry(offset)));
        let shelf = Rc::new(RefCell::new(Shelf { script: script.into_iter().collect(), ..Shelf::default() }));
        let (told, taken) = watch::channel(0);
        let counters: Arc<ForwardCounters> = Arc::default();
        let dead: Arc<MemoryDeadLetters> = Arc::default();
        let parts = ForwarderParts {
            name: "one".into(),
            finish: Duration::from_secs(2),
            graves: None,
            dead: dead.clone(),
            counters: counters.clone(),
            tracer,
        };
        let feed = exit.feed("one", Arc::new(|_| true));
        let target = Scripted { shelf: shelf.clone(), told };
        let forwarder = Forwarder::new(feed, target, parts).start();
        Story { exit, shelf, taken, counters, dead, forwarder }
    }

    /// Waits until so many are taken, and ends the forwarder; what the target has.
    async fn ends_with(mut self, n: usize) -> Vec<u64> {
        let wait = self.taken.wait_for(|taken| *taken >= n);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it goes on").unwrap();
        self.forwarder.send(Drain).await.unwrap();
        self.shelf.borrow().taken.clone()
    }
}

fn entry(offset: u64) -> Entry {
    Entry {
        room: RoomName::new("lobby").unwrap(),
        epoch: Epoch(1),
        offset,
        ts: 1,
        kind: Kind::Message,
        user: None,
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(format!("{{\"t\":\"msg\",\"r\":\"lobby\",\"s\":{offset}}}")),
    }
}

#[actix_rt::test]
async fn what_a_target_has_is_not_sent_again_when_it_was_away() {
    let story = Story::begin(8, [Does::Breaks(3), Does::Breaks(0), Does::Takes(2)]);
    let (counters, shelf) = (story.counters.clone(), story.shelf.clone());
    assert_eq!(story.ends_with(8).await, (1..=8).collect::<Vec<_>>());
    assert_eq!((counters.forwarded(), counters.retries(), counters.dead()), (8, 2, 0));
    assert_eq!(shelf.borrow().opened, 3, "after each trouble anew");
}

#[actix_rt::test]
async fn what_can_never_be_taken_is_buried_and_the_next_follows() {
    let story = Story::begin(4, [Does::Refuses(1), Does::Refuses(0)]);
    let (counters, dead) = (story.counters.clone(), story.dead.clone());
    assert_eq!(story.ends_with(2).await, [1, 4]);
    assert_eq!((counters.forwarded(), counters.retries(), counters.dead()), (2, 0, 2));
    let letters = dead.list(9);
    let told: Vec<_> = letters.iter().map(|letter| (letter.id.as_str(), letter.source.as_str())).collect();
    assert_eq!(
        told,
        [("forward:one:lobby@1-3", "forward:one"), ("forward:one:lobby@1-2", "forward:one")],
        "newest first"
    );
    assert!(letters[0].reason.contains("too large") && letters[0].item.contains("\"s\":3"));
}

#[actix_rt::test]
async fn what_waits_at_the_end_is_sent() {
    let story = Story::begin(1, []);
    let (exit, mut taken) = (story.exit.clone(), story.taken.clone());
    taken.wait_for(|taken| *taken == 1).await.unwrap();
    (2..=35).for_each(|offset| exit.push(&entry(offset)));
    assert_eq!(story.ends_with(1).await, (1..=35).collect::<Vec<_>>());
}

#[actix_rt::test]
async fn a_target_that_takes_nothing_without_a_word_counts_as_away() {
    let story = Story::begin(2, [Does::Takes(0)]);
    let counters = story.counters.clone();
    assert_eq!(story.ends_with(2).await, [1, 2]);
    assert_eq!(counters.retries(), 1);
    assert!(counters.is_connected(), "what has ended troubles nobody");
}

#[cfg(feature = "otel")]
#[actix_rt::test]
async fn what_is_sent_is_a_step_in_the_trace_of_its_message() {
    use crate::traces::{Kind, Recording};

    let recording = Recording { sample: 1.0, queue: 100, resource: Vec::new(), remembers: true };
    let (tracer, mut recorded) = Tracer::new(recording);
    let said: Vec<_> = (1..=2).map(|_| tracer.begin("publish", Kind::Server)).collect();
    for (span, id) in said.iter().zip(["lobby@1-2", "lobby@1-3"]) {
        span.remember(|| id.to_owned());
    }
    let story = Story::begin_with(3, [Does::Refuses(1)], tracer);
    assert_eq!(story.ends_with(2).await, [1, 3]);
    let spans: Vec<_> = std::iter::from_fn(|| recorded.spans.try_recv().ok()).collect();
    let told: Vec<_> =
        spans.iter().map(|span| (&*span.name, span.span_context.trace_id().to_string())).collect();
    let traces: Vec<String> = said.iter().map(|span| span.trace_id().unwrap().to_string()).collect();
    assert_eq!(told, [("forward", traces[0].clone()), ("forward", traces[1].clone())]);
    let linked = spans[0].links.iter().map(|link| link.span_context.trace_id().to_string());
    assert_eq!(linked.collect::<Vec<_>>(), [traces[1].clone()]);
    assert_eq!(spans[0].status, opentelemetry::trace::Status::error("not taken"));
    assert_eq!(spans[1].status, opentelemetry::trace::Status::Unset);
}
