//! An archive behind Redis: rooms that Redis has forgotten, holes that its history does not reach, and outcomes that
//! wait for the archive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roomcast::chat::entry::Entry;
use roomcast::chat::history::PageFrom;
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::overview::{Look, View};
use roomcast::engines::redis::feed::Feed;
use roomcast::engines::redis::{ArchiveSettings, RoomKeep};
use roomcast::engines::shared::Safety;
use roomcast::redis_link::RedisLink;
use roomcast::store::archive::{Answer, ArchiveError, ArchiveReader, Question, StoredEntry, StoredRoom};

use super::stage::{Node, message, room};
use crate::fixtures::servers::Server;

pub type Rooms = BTreeMap<String, BTreeMap<Offset, Entry>>;

/// An archive in memory.
#[derive(Clone, Default)]
pub struct Shelf(pub Arc<Mutex<Rooms>>);

fn stored(entry: &Entry) -> StoredEntry {
    StoredEntry {
        offset: entry.offset,
        ts: entry.ts,
        kind: entry.kind,
        user: entry.user.clone(),
        of: entry.of,
        line: Some(entry.line.clone()),
    }
}

impl ArchiveReader for Shelf {
    fn answer(&mut self, question: &Question) -> Result<Answer, ArchiveError> {
        let rooms = self.0.lock().unwrap();
        let of =
            |room: &roomcast::chat::names::RoomName| rooms.get(room.as_str()).cloned().unwrap_or_default();
        Ok(match question {
            Question::Room { room, .. } => {
                let log = of(room);
                Answer::Room(log.last_key_value().map(|(top, _)| {
                    let mut lineage: Vec<(Epoch, Offset)> = Vec::new();
                    for (offset, entry) in &log {
                        if lineage.last().is_none_or(|(epoch, _)| *epoch != entry.epoch) {
                            lineage.push((entry.epoch, *offset));
                        }
                    }
                    StoredRoom {
                        lineage,
                        top: *top,
                        first: *log.first_key_value().unwrap().0,
                        tail: Vec::new(),
                    }
                }))
            }
            Question::Range { room, from, to, .. } => Answer::Entries {
                list: of(room).range(from..=to).map(|(_, entry)| stored(entry)).collect(),
                more: false,
            },
            Question::Page { room, from: PageFrom::Before(end), n, .. } => {
                let log = of(room);
                let mut list: Vec<_> =
                    log.range(..end).rev().take(*n).map(|(_, entry)| stored(entry)).collect();
                list.reverse();
                let more = list.first().is_some_and(|first| log.range(..first.offset).next().is_some());
                Answer::Entries { list, more }
            }
            Question::Rules => Answer::Rules(Vec::new()),
            Question::ReadMarks { .. } => Answer::ReadMarks(Vec::new()),
            other => return Err(ArchiveError(format!("{other:?} is not asked here"))),
        })
    }
}

fn start(url: &str, name: u32, shelf: &Shelf) -> Node {
    Node::start_with(url, name, |settings| {
        settings.keep = Box::new(|_| RoomKeep { history: 10, keep_ms: u64::MAX, dedup_ms: 60_000 });
        settings.archive =
            Some(ArchiveSettings { reader: Box::new(shelf.clone()), feed_max: 1_000, notes_max: 1_000 });
    })
}

/// Takes everything from the feed to the shelf, and says so.
async fn fill(server: &Server, shelf: &Shelf) -> usize {
    let mut redis = server.connect().await;
    let feeds = Feed::all(&RedisLink::parse(&server.url()).unwrap(), "chat");
    let items = feeds[0].read(&mut redis, (0, 0), 10_000).await.unwrap();
    let (mut last, count) = (None, items.len());
    for (place, entry) in items {
        let entry = entry.unwrap();
        shelf.0.lock().unwrap().entry(entry.room.as_str().into()).or_default().insert(entry.offset, entry);
        last = Some(place);
    }
    if let Some(last) = last {
        feeds[0].reached(&mut redis, last).await.unwrap();
    }
    count
}

#[actix_rt::test]
async fn an_outcome_waits_for_the_archive() {
    let (server, shelf) = (Server::start(&[]).await, Shelf::default());
    let node = start(&server.url(), 1, &shelf);
    node.join("a").await;
    let archived = node.propose(message("a", "x"), "x", true, Safety::Archived);
    node.reaches("a", 1).await;
    // Everybody sees it; only the sender is not told. A tick of the engine passes meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.outcome(archived), None);
    assert_eq!(fill(&server, &shelf).await, 1);
    assert_eq!(node.place(archived).await, (1, false));
    let repeat = node.propose(message("a", "x"), "x", true, Safety::Archived);
    assert_eq!(node.place(repeat).await, (1, true), "it is archived already");
}

#[actix_rt::test]
async fn redis_forgets_and_the_archive_knows() {
    let (mut server, shelf) = (Server::start(&[]).await, Shelf::default());
    let first = start(&server.url(), 1, &shelf);
    for n in 1..=300 {
        first.propose(message("a", &format!("m{n}")), &format!("m{n}"), true, Safety::Sequenced);
    }
    let last = first.propose(message("a", "last"), "last", true, Safety::Sequenced);
    assert_eq!(first.place(last).await, (301, false));
    assert_eq!(fill(&server, &shelf).await, 301);
    first.close().await;
    // Nobody who remembers is left.
    server.kill();
    server.restart().await;
    let node = start(&server.url(), 2, &shelf);
    node.is_well().await;
    let Ok(View::Room(Some(state))) = node.look(Look::Room(room("a"))).await else { panic!("it is known") };
    assert_eq!((state.top, state.first, state.sessions), (301, 1, 0));
    let newest = Look::Log { room: room("a"), from: PageFrom::Before(Offset::MAX), n: 2, bytes: 1 << 20 };
    let Ok(View::Log(Some(page))) = node.look(newest).await else { panic!("there is a log") };
    assert_eq!(page.list.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [300, 301]);
    assert!(page.more && page.epoch == state.epoch);
    let joined = node.join("a").await;
    assert_eq!((joined.top, joined.first, joined.tail.len()), (301, 1, 100));
    assert_eq!(joined.tail[99].offset, 301);
    assert_eq!(node.place(node.say("a", "next")).await, (302, false));
    assert_eq!(node.reaches("a", 302).await.log.len(), 1);
    // Not joined by anybody: the proposal loads it.
    shelf.0.lock().unwrap().insert("b".into(), [(7, Entry { offset: 7, ..message("b", "old") })].into());
    assert_eq!(node.place(node.say("b", "new")).await, (8, false));
    let page = Question::Page { room: room("a"), from: PageFrom::Before(302), n: 250, bytes: 1 << 20 };
    let Ok(Answer::Entries { list, more }) = node.ask(page).await else { panic!("no page") };
    assert_eq!((list.len(), list[0].offset, more), (250, 52, true));
}

#[actix_rt::test]
async fn what_the_history_does_not_reach_comes_from_the_archive() {
    let (server, shelf) = (Server::start(&[]).await, Shelf::default());
    let switch = super::switch::Switch::start(server.port).await;
    let (one, two) = (start(&server.url(), 1, &shelf), start(&switch.url(), 2, &shelf));
    one.join("a").await;
    two.join("a").await;
    one.place(one.say("a", "first")).await;
    two.reaches("a", 1).await;
    // Nobody answers there: the node is cut off.
    switch.turn_to(1);
    let mut last = 0;
    for n in 0..400 {
        last = one.propose(message("a", &format!("m{n}")), &format!("m{n}"), true, Safety::Sequenced);
    }
    one.place(last).await;
    fill(&server, &shelf).await;
    switch.turn_to(server.port);
    let seen = two.reaches("a", 401).await;
    assert_eq!((seen.log.len(), seen.skips.len()), (401, 0));
    assert_eq!(two.faults(), Vec::<String>::new());
}

#[actix_rt::test]
async fn without_an_archive_it_is_skipped() {
    let server = Server::start(&[]).await;
    let switch = super::switch::Switch::start(server.port).await;
    let short = |settings: &mut roomcast::engines::redis::Settings| {
        settings.keep = Box::new(|_| RoomKeep { history: 10, keep_ms: u64::MAX, dedup_ms: 60_000 });
    };
    let one = Node::start_with(&server.url(), 1, short);
    let two = Node::start_with(&switch.url(), 2, short);
    one.join("a").await;
    two.join("a").await;
    one.place(one.say("a", "first")).await;
    two.reaches("a", 1).await;
    switch.turn_to(1);
    let mut last = 0;
    for n in 0..400 {
        last = one.propose(message("a", &format!("m{n}")), &format!("m{n}"), true, Safety::Sequenced);
    }
    one.place(last).await;
    switch.turn_to(server.port);
    let seen = two.reaches("a", 401).await;
    assert_eq!(seen.skips.len(), 1, "{:?}", seen.skips);
    assert_eq!(seen.log.len() as u64, 401 - (seen.skips[0] - 1));
    assert_eq!(two.faults(), Vec::<String>::new());
}

#[actix_rt::test]
async fn a_full_feed_refuses_until_the_archive_goes_on() {
    let (server, shelf) = (Server::start(&[]).await, Shelf::default());
    let node = Node::start_with(&server.url(), 1, |settings| {
        settings.archive =
            Some(ArchiveSettings { reader: Box::new(shelf.clone()), feed_max: 3, notes_max: 1_000 });
    });
    for n in 1..=3 {
        node.place(node.say("a", &format!("m{n}"))).await;
    }
    let refused = node.settled(node.say("a", "m4")).await;
    assert!(matches!(refused, roomcast::engines::shared::Outcome::Refused(_)), "{refused:?}");
    let mut redis = server.connect().await;
    let waits = node.say("a", "m5");
    let () = crate::fixtures::backend::command(&mut redis, &["DEL", "chat:{p0}a"]).await;
    assert_eq!(node.place(waits).await, (4, false), "the refused one has no place");
}
