//! What the scripts decide: repeats, fences, what is gone, and joins between two messages.

use roomcast::chat::entry::{Entry, Kind};
use roomcast::engines::shared::{Outcome, Safety};
use roomcast::store::archive::{Answer, Question};

use super::stage::{Node, message, room};
use crate::fixtures::backend::command;
use crate::fixtures::eventually;
use crate::fixtures::servers::Server;

fn about(kind: Kind, of: u64, id: &str) -> Entry {
    let line = format!(
        "{{\"t\":\"{}\",\"r\":\"a\",\"s\":0,\"id\":\"{id}\",\"u\":\"ann\",\"of\":{of},\"d\":\"{id}\"}}",
        kind.word()
    );
    Entry { kind, of, line: line.into(), ..message("a", id) }
}

#[actix_rt::test]
async fn a_repeat_gets_the_first_place() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    let first = one.say("a", "x");
    let Outcome::Placed(accepted) = one.settled(first).await else { panic!("no place") };
    assert_eq!((accepted.offset, accepted.duplicate), (1, false));
    one.place(one.say("a", "y")).await;
    let mut again = message("a", "x");
    again.ts += 5_000;
    let again = two.propose(again, "x", true, Safety::Replicated);
    let Outcome::Placed(repeat) = two.settled(again).await else { panic!("no place") };
    assert!(repeat.duplicate);
    assert_eq!((repeat.offset, repeat.epoch, repeat.ts), (1, accepted.epoch, accepted.ts));
    assert_eq!(two.place(two.say("b", "x")).await, (1, false), "another room has ids of its own");
}

#[actix_rt::test]
async fn ids_are_known_for_the_window_and_not_for_ever() {
    let server = Server::start(&[]).await;
    let node = Node::start_with(&server.url(), 1, |settings| {
        settings.keep = Box::new(|_| roomcast::engines::redis::RoomKeep {
            history: 10,
            keep_ms: 3_600_000,
            dedup_ms: 1_000,
        });
    });
    assert_eq!(node.place(node.say("a", "x")).await, (1, false));
    let mut redis = server.connect().await;
    // The buckets turn by Redis' clock: as if the window had passed once, and then once more.
    let turn = async |redis: &mut _| {
        let bucket: String = command(redis, &["HGET", "chat:{p0}t:a", "d"]).await;
        let (which, _) = bucket.split_once(':').unwrap();
        let _: i64 = command(redis, &["HSET", "chat:{p0}t:a", "d", &format!("{which}:1")]).await;
    };
    turn(&mut redis).await;
    node.place(node.say("a", "y")).await;
    assert!(command::<i64>(&mut redis, &["EXISTS", "chat:{p0}d0:a", "chat:{p0}d1:a"]).await == 2);
    turn(&mut redis).await;
    node.place(node.say("a", "z")).await;
    let repeat = node.propose(message("a", "x"), "x", true, Safety::Sequenced);
    assert_eq!(node.place(repeat).await, (4, false), "two windows later it is a new one");
}

#[actix_rt::test]
async fn nothing_is_written_behind_another_fence() {
    let server = Server::start(&[]).await;
    let node = Node::start(&server.url(), 1);
    node.join("a").await;
    node.place(node.say("a", "x")).await;
    let mut redis = server.connect().await;
    let fence: String = command(&mut redis, &["GET", "chat:{p0}f"]).await;
    let (epoch, run) = fence.split_once(':').unwrap();
    let later = epoch.parse::<u64>().unwrap() + 5;
    // Another epoch of the same server is taken over.
    let () = command(&mut redis, &["SET", "chat:{p0}f", &format!("{later}:{run}")]).await;
    let Outcome::Placed(accepted) = node.settled(node.say("a", "y")).await else { panic!("no place") };
    assert_eq!((accepted.offset, accepted.epoch.0), (2, later));
    // Another server's fence is not: the server is repaired first, and that begins an epoch of its own.
    let () = command(&mut redis, &["SET", "chat:{p0}f", &format!("{later}:another")]).await;
    let Outcome::Placed(accepted) = node.settled(node.say("a", "z")).await else { panic!("no place") };
    assert_eq!((accepted.offset, accepted.epoch.0), (3, later + 1));
    let seen = node.reaches("a", 3).await;
    let epoch = epoch.parse().unwrap();
    let wanted = [(epoch, "x"), (later, "y"), (later + 1, "z")];
    assert!(seen.log.values().map(|(epoch, id)| (*epoch, id.as_str())).eq(wanted), "{:?}", seen.log);
}

#[actix_rt::test]
async fn what_is_deleted_cannot_be_changed() {
    let server = Server::start(&[]).await;
    let node = Node::start(&server.url(), 1);
    node.join("a").await;
    let settle =
        async |entry: Entry, key: &str| node.settled(node.propose(entry, key, true, Safety::Sequenced)).await;
    for id in ["one", "two", "three"] {
        node.place(node.say("a", id)).await;
    }
    settle(about(Kind::Edit, 1, "e1"), "e1").await;
    settle(about(Kind::Edit, 1, "e2"), "e2").await;
    settle(about(Kind::React, 2, "r1"), "r1").await;
    let deleted = settle(about(Kind::Delete, 2, "d1"), "d1").await;
    let Outcome::Placed(deletion) = deleted else { panic!("no place") };
    assert_eq!(deletion.offset, 7);
    for (kind, id) in [(Kind::Edit, "e3"), (Kind::React, "r2"), (Kind::Delete, "d2")] {
        assert_eq!(settle(about(kind, 2, id), id).await, Outcome::Gone, "{kind:?}");
    }
    let Outcome::Placed(again) = settle(about(Kind::Delete, 2, "d1"), "d1").await else { panic!("no place") };
    assert_eq!((again.offset, again.duplicate), (7, true), "a repeat of the deletion itself is one");
    let other = Node::start(&server.url(), 2);
    let joined = other.join("a").await;
    let lines: Vec<Option<String>> = joined
        .tail
        .iter()
        .map(|entry| entry.line.as_ref().map(|line| String::from_utf8_lossy(line).into_owned()))
        .collect();
    assert!(lines[0].as_ref().unwrap().ends_with(r#""d":"e2","edited":5}"#), "{lines:?}");
    assert!(lines[1].as_ref().unwrap().ends_with(r#""d":null,"gone":true}"#), "{lines:?}");
    assert!(lines[3].is_none() && lines[4].is_some(), "the first edit was replaced: {lines:?}");
    let state = |offset| Question::Entry {
        room: room("a"),
        offset,
        user: Some("ann".to_owned()).map(|n| roomcast::chat::names::UserName::new(&n).unwrap()),
    };
    let Ok(Answer::Entry(Some(first))) = other.ask(state(1)).await else { panic!("no entry") };
    assert_eq!((first.edited, first.deleted), (5, false));
    let Ok(Answer::Entry(Some(second))) = other.ask(state(2)).await else { panic!("no entry") };
    assert!(second.deleted && second.reactions.len() == 1);
    assert_eq!(other.ask(state(99)).await, Ok(Answer::Entry(None)));
}

#[actix_rt::test]
async fn no_entry_falls_between_a_join_and_what_follows() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.is_well().await;
    two.is_well().await;
    for round in 0..30 {
        let name = format!("r{round}");
        let tickets: Vec<u64> = (0..40).map(|n| one.say(&name, &format!("m{n}"))).collect();
        let joined = two.join(&name).await;
        for ticket in tickets {
            one.place(ticket).await;
        }
        let seen = two.reaches(&name, 40).await;
        let first = seen.log.keys().next().copied().unwrap_or(41);
        assert_eq!(first, joined.top + 1, "{name}: the first entry after the join");
        assert_eq!(seen.log.len() as u64, 40 - joined.top);
    }
    assert_eq!(two.faults(), Vec::<String>::new());
}

#[actix_rt::test]
async fn a_redis_that_refuses_to_write_is_told_and_waited_for() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let node = Node::start(&server.url(), 1);
    node.place(node.say("a", "x")).await;
    let mut redis = server.connect().await;
    let () = command(&mut redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = node.settled(node.say("a", "y")).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    let told = node.health().last().cloned().flatten();
    assert!(told.as_ref().is_some_and(|why| why.contains("OOM")), "{told:?}");
    let waits = node.say("a", "z");
    let () = command(&mut redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(node.place(waits).await, (2, false));
    node.is_well().await;
}

#[actix_rt::test]
async fn an_epoch_ends_in_time_and_nothing_stops() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    two.join("a").await;
    one.place(one.say("a", "x")).await;
    let mut redis = server.connect().await;
    let before: String = command(&mut redis, &["GET", "chat:{p0}f"]).await;
    // As if twelve hours had passed.
    let () = command(&mut redis, &["DEL", "chat:{p0}fy"]).await;
    eventually("the next epoch", async || {
        let fence: String = command(&mut redis, &["GET", "chat:{p0}f"]).await;
        (fence != before).then_some(())
    })
    .await;
    for (node, id) in [(&one, "y"), (&two, "z")] {
        assert!(!node.place(node.say("a", id)).await.1);
    }
    let epoch: u64 = before.split_once(':').unwrap().0.parse().unwrap();
    for node in [&one, &two] {
        let epochs: Vec<u64> = node.reaches("a", 3).await.log.values().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs, [epoch, epoch + 1, epoch + 1]);
        assert_eq!(node.health(), [None], "nothing was wrong");
    }
}

#[actix_rt::test]
async fn a_hole_is_filled_from_the_history() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    let mut redis = server.connect().await;
    let only_one: String = command(&mut redis, &["HGET", "chat:{p0}t:a", "i"]).await;
    two.join("a").await;
    let both: String = command(&mut redis, &["HGET", "chat:{p0}t:a", "i"]).await;
    one.place(one.say("a", "x")).await;
    // The second node does not hear of these.
    let _: i64 = command(&mut redis, &["HSET", "chat:{p0}t:a", "i", &only_one]).await;
    for id in ["p", "q", "r"] {
        one.place(one.say("a", id)).await;
    }
    assert_eq!(two.reaches("a", 1).await.top, 1);
    let _: i64 = command(&mut redis, &["HSET", "chat:{p0}t:a", "i", &both]).await;
    one.place(one.say("a", "y")).await;
    let seen = two.reaches("a", 5).await;
    assert!(seen.log.values().map(|(_, id)| id.as_str()).eq(["x", "p", "q", "r", "y"]), "{:?}", seen.log);
    assert!(two.faults().is_empty() && seen.skips.is_empty());
}
