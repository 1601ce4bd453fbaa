//! What two engines share beside the logs: who is here, who is gone, read marks, sessions, commands.

use std::time::{Duration, Instant};

use roomcast::chat::message::Epoch;
use roomcast::chat::names::UserName;
use roomcast::chat::overview::{Look, RoomCount, RoomState, Shown, View};
use roomcast::engines::shared::{Command, News};
use roomcast::store::archive::{Answer, Question, UserRoom};
use roomcast::store::record::{Cursor, ReadMark, Record, SessionNote};

use super::stage::{Node, room};
use crate::fixtures::eventually;
use crate::fixtures::servers::{Cluster, Server};

fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

#[actix_rt::test]
async fn who_comes_and_goes_is_told_to_other_nodes() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    one.hears("a: roster []").await;
    one.tell("a", News::Came(user("ann"), None));
    two.join("a").await;
    two.hears("a: roster [\"ann\"]").await;
    two.tell("a", News::Came(user("bob"), None));
    one.hears("a: Came(UserName(\"bob\"), None)").await;
    two.tell("a", News::Typing(user("bob"), true));
    one.hears("a: Typing(UserName(\"bob\"), true)").await;
    one.tell("a", News::Got(7, 1, 2));
    two.hears("a: Got(7, 1, 2)").await;
    two.tell("a", News::Went(user("bob")));
    one.hears("a: Went(UserName(\"bob\"))").await;
    assert!(one.life().is_empty(), "{:?}", one.life());
}

#[actix_rt::test]
async fn a_dead_node_is_gone_within_six_seconds_and_one_that_ends_at_once() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let (one, two, three) = (Node::start(&url, 1), Node::start(&url, 2), Node::start(&url, 3));
    for node in [&one, &two, &three] {
        node.join("a").await;
        node.tell("a", News::Came(user(&format!("u{}", node.name())), None));
    }
    one.hears("a: Came(UserName(\"u3\"), None)").await;
    let death = Instant::now();
    drop(two);
    one.hears("a node is gone").await;
    let waited = death.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_millis(6_500)).contains(&waited), "{waited:?}");
    three.hears("a node is gone").await;
    let end = Instant::now();
    three.close().await;
    one.hears("a node is gone").await;
    assert!(end.elapsed() < Duration::from_secs(1), "{:?}", end.elapsed());
    let late = Node::start(&url, 4);
    late.join("a").await;
    // What a dead node left may be removed a moment later.
    late.sees("a", &["u1"]).await;
    one.sees("a", &[]).await;
}

/// What all nodes together say of a room: its top, its oldest entry, sessions, users.
async fn stands(node: &Node, name: &str) -> Option<(u64, u64, u64, u64)> {
    match node.look(Look::Room(room(name))).await {
        Ok(View::Room(state)) => {
            state.map(|RoomState { top, first, sessions, users, .. }| (top, first, sessions, users))
        }
        other => panic!("{other:?}"),
    }
}

/// The rooms that somebody is in, and whether there are more; nothing while Redis cannot be read.
async fn in_use(node: &Node, prefix: &str, after: Option<&str>, n: usize) -> (Vec<(String, u64)>, bool) {
    let look = Look::Rooms { prefix: prefix.into(), only: None, after: after.map(str::to_owned), n };
    let Ok(View::Rooms(list, more)) = node.look(look).await else { return (Vec::new(), false) };
    let named = |RoomCount { room, sessions }: RoomCount| (room.as_str().to_owned(), sessions);
    (list.into_iter().map(named).collect(), more)
}

#[actix_rt::test]
async fn every_node_sees_all_rooms_without_joining_them() {
    let server = Server::start(&[]).await;
    sees_all_rooms(&server.url(), async || {
        let mut server = server;
        server.kill();
        server.restart().await;
        server
    })
    .await;
}

#[actix_rt::test]
async fn rooms_of_all_partitions_are_seen_together() {
    let cluster = Cluster::start().await;
    sees_all_rooms(&cluster.url(), async || cluster).await;
}

/// `goes` makes Redis forget, or not.
async fn sees_all_rooms<T>(url: &str, goes: impl AsyncFnOnce() -> T) {
    let (one, two) = (Node::start(url, 1), Node::start(url, 2));
    let late = Node::start(url, 3);
    for node in [&one, &two, &late] {
        node.is_well().await;
    }
    assert_eq!(stands(&late, "a").await, None, "nobody has heard of it");
    one.join("a").await;
    two.join("a").await;
    one.tell("a", News::Came(user("ann"), None));
    one.tell("a", News::Came(user("bob"), None));
    two.tell("a", News::Came(user("bob"), None));
    one.count("a", 3);
    two.count("a", 2);
    for name in ["b", "c", "team-1", "team-2"] {
        two.count(name, 1);
    }
    let id = one.say("a", "m1");
    one.place(id).await;
    one.say("silent", "m2");
    let all: Vec<(String, u64)> =
        [("a", 5), ("b", 1), ("c", 1), ("team-1", 1), ("team-2", 1)].map(|(name, n)| (name.into(), n)).into();
    for node in [&one, &two, &late] {
        let complete = async || (in_use(node, "", None, 9).await == (all.clone(), false)).then_some(());
        eventually("all rooms", complete).await;
        eventually("all users", async || (stands(node, "a").await == Some((1, 1, 5, 2))).then_some(())).await;
        eventually("what was said", async || stands(node, "silent").await.filter(|at| *at == (1, 1, 0, 0)))
            .await;
        assert_eq!(in_use(node, "", None, 2).await, (all[..2].to_vec(), true));
        assert_eq!(in_use(node, "", Some("b"), 2).await, (all[2..4].to_vec(), true));
        assert_eq!(in_use(node, "team-", Some("team-1"), 2).await, (all[4..].to_vec(), false));
        let who = |after: Option<&str>, n| Look::Who { room: room("a"), after: after.map(str::to_owned), n };
        let shown = |name: &str| Shown { user: user(name), info: None };
        assert_eq!(node.look(who(None, 1)).await, Ok(View::Who(vec![shown("ann")], true)));
        assert_eq!(node.look(who(Some("ann"), 9)).await, Ok(View::Who(vec![shown("bob")], false)));
    }
    assert!(late.life().is_empty() && late.seen("a").top == 0, "who looks does not join");
    two.count("b", 0);
    let _redis = goes().await;
    let left: Vec<(String, u64)> = all.iter().filter(|(name, _)| name != "b").cloned().collect();
    eventually("what is left", async || (in_use(&late, "", None, 9).await.0 == left).then_some(())).await;
    drop(two);
    let living = async || (in_use(&late, "", None, 9).await.0 == [("a".to_owned(), 3)]).then_some(());
    eventually("those who live", living).await;
}

#[actix_rt::test]
async fn people_are_told_again_after_an_empty_return() {
    let mut server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    two.join("a").await;
    one.tell("a", News::Came(user("ann"), None));
    two.hears("a: Came(UserName(\"ann\"), None)").await;
    server.kill();
    server.restart().await;
    two.hears("a: roster [\"ann\"]").await;
    let late = Node::start(&server.url(), 3);
    late.join("a").await;
    late.hears("a: roster [\"ann\"]").await;
    let gone = [one.life(), two.life()].concat();
    assert!(!gone.contains(&"a node is gone".into()), "{gone:?}");
}

async fn notes_are_kept(url: &str) {
    let (one, two) = (Node::start(url, 1), Node::start(url, 2));
    let session = SessionNote {
        session: "s-1".into(),
        user: user("ann"),
        ts: roomcast::clock::wall_ms(),
        rooms: vec![Cursor { room: room("a"), epoch: Epoch(7), offset: 3, quiet: false }],
    };
    one.place(one.say("a", "x")).await;
    one.place(one.say("@ann+bob", "y")).await;
    let mark = ReadMark { room: room("a"), user: user("ann"), offset: 1, ts: roomcast::clock::wall_ms() };
    one.note(vec![Record::Session(session.clone()), Record::Read(mark)]);
    let sure = async |question: fn() -> Question, wanted: Answer| {
        eventually(&format!("{wanted:?}"), async || {
            (two.ask(question()).await == Ok(wanted.clone())).then_some(())
        })
        .await;
    };
    sure(|| Question::Session("s-1".into()), Answer::Session(Some(session))).await;
    sure(|| Question::ReadMarks { room: room("a"), n: 9 }, Answer::ReadMarks(vec![(user("ann"), 1)])).await;
    sure(|| Question::ReadMark { room: room("a"), user: user("ann") }, Answer::ReadMark(1)).await;
    sure(|| Question::ReadMark { room: room("a"), user: user("eve") }, Answer::ReadMark(0)).await;
    let direct = UserRoom { room: room("@ann+bob"), top: 1, read: 0 };
    sure(|| Question::RoomsOf { user: user("bob"), n: 9 }, Answer::RoomsOf(vec![direct])).await;
    let rooms = two.ask(Question::RoomsOf { user: user("ann"), n: 9 }).await;
    let Ok(Answer::RoomsOf(rooms)) = rooms else { panic!("{rooms:?}") };
    let mut rooms: Vec<_> = rooms.iter().map(|of| (of.room.as_str(), of.top, of.read)).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, [("@ann+bob", 1, 0), ("a", 1, 1)]);
}

#[actix_rt::test]
async fn read_marks_sessions_and_rooms_are_kept() {
    let server = Server::start(&[]).await;
    notes_are_kept(&server.url()).await;
}

#[actix_rt::test]
async fn read_marks_sessions_and_rooms_are_kept_in_a_cluster() {
    let cluster = Cluster::start().await;
    notes_are_kept(&cluster.url()).await;
}

#[actix_rt::test]
async fn a_command_reaches_all_nodes() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    two.join("a").await;
    let kick = Command::Kick { user: user("ann"), room: room("a") };
    one.command(kick.clone());
    for node in [&one, &two] {
        node.hears(&format!("{kick:?}")).await;
    }
}
