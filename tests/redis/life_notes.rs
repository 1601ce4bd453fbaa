//! What nodes keep beside the logs: read marks, sessions, a user's rooms, and how many are in which room.

use roomcast::chat::message::Epoch;
use roomcast::chat::overview::{RoomCount, Shown};
use roomcast::engines::redis::life::counts::Writing;
use roomcast::engines::redis::life::lease::State;
use roomcast::engines::redis::life::{counts, is_lost, notes, recalls};
use roomcast::store::archive::UserRoom;
use roomcast::store::record::{Cursor, ReadMark, SessionNote};

use crate::fixtures::eventually;
use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, room, user};

fn mark(room_name: &str, user_name: &str, offset: u64, ts: u64) -> ReadMark {
    ReadMark { room: room(room_name), user: user(user_name), offset, ts }
}

#[actix_rt::test]
async fn read_marks_only_grow() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    // One after the other, and some twice in a call; beyond what a double holds exactly.
    let marks = [
        mark("lobby", "ann", 9, 1_000),
        mark("lobby", "ann", 10, 2_000),
        mark("lobby", "ann", 9, 3_000),
        mark("lobby", "a:b", u64::MAX - 1, 4_000),
        mark("lobby", "a:b", u64::MAX, 4_001),
        mark("lobby", "a:b", u64::MAX - 2, 4_002),
        mark("hall", "ann", 1, 5_000),
    ];
    notes::read(redis, keys, &marks, 0).await.unwrap();
    notes::read_by(redis, keys, &marks).await.unwrap();
    notes::read(redis, keys, &[mark("lobby", "ann", 2, 9_000)], 0).await.unwrap();
    let read = async |redis: &mut _, room_name, user_name| {
        recalls::read_mark(redis, keys, &room(room_name), &user(user_name)).await.unwrap().0.unwrap_or(0)
    };
    assert_eq!(read(redis, "lobby", "ann").await, 10);
    assert_eq!(read(redis, "lobby", "a:b").await, u64::MAX);
    assert_eq!(read(redis, "lobby", "nobody").await, 0);
    let newest = async |redis: &mut _, n| {
        let list = recalls::read_marks(redis, keys, &room("lobby"), n).await.unwrap().0;
        list.into_iter().map(|(user, offset)| (user.as_str().to_owned(), offset)).collect::<Vec<_>>()
    };
    assert_eq!(newest(redis, 9).await, [("a:b".to_owned(), u64::MAX), ("ann".to_owned(), 10)]);
    assert_eq!(newest(redis, 1).await, [("a:b".to_owned(), u64::MAX)]);
    assert_eq!(newest(redis, 0).await, []);
}

#[actix_rt::test]
async fn a_user_finds_her_rooms_the_newest_first() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    notes::read_by(redis, keys, &[mark("lobby", "bob", 3, 1_000), mark("hall", "bob", 4, 2_000)])
        .await
        .unwrap();
    notes::used(redis, keys, &[(user("bob"), room("@ann+bob"), 3_000)]).await.unwrap();
    let list = async |redis: &mut _, n| recalls::rooms_of(redis, keys, &user("bob"), n).await.unwrap().0;
    let of = |name: &str, read| UserRoom { room: room(name), top: 0, read };
    assert_eq!(list(redis, 9).await, [of("@ann+bob", 0), of("hall", 4), of("lobby", 3)]);
    notes::read_by(redis, keys, &[mark("lobby", "bob", 5, 4_000)]).await.unwrap();
    notes::used(redis, keys, &[(user("bob"), room("@ann+bob"), 2_999)]).await.unwrap();
    assert_eq!(list(redis, 2).await, [of("lobby", 5), of("@ann+bob", 0)]);
    let many: Vec<_> = (0..1_100).map(|n| (user("bob"), room(&format!("r{n}")), 10_000 + n)).collect();
    for some in many.chunks(300) {
        notes::used(redis, keys, some).await.unwrap();
    }
    let all = list(redis, 5_000).await;
    assert_eq!((all.len(), all[0].room.as_str()), (1_000, "r1099"));
}

#[actix_rt::test]
async fn a_session_is_gone_on_with_from_where_it_was_last() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let now: (u64, u64) = redis::cmd("TIME").query_async(redis).await.unwrap();
    let now = now.0 * 1_000;
    let note = |session: &str, ts, offset| {
        let cursor = Cursor { room: room("a:b"), epoch: Epoch(1 << 60), offset, quiet: true };
        SessionNote { session: session.into(), user: user("ann"), ts, rooms: vec![cursor] }
    };
    notes::note_sessions(redis, keys, &[note("s1", now, 5), note("s2", now, 6)], 0).await.unwrap();
    assert_eq!(notes::session(redis, keys, "s1").await.unwrap(), Some(note("s1", now, 5)));
    assert_eq!(notes::session(redis, keys, "s3").await.unwrap(), None);
    // A node that learns late of the end, after the session has gone on elsewhere.
    notes::note_sessions(redis, keys, &[note("s1", now + 1, 9)], 0).await.unwrap();
    notes::note_sessions(redis, keys, &[note("s1", now - 60_000, 7)], 0).await.unwrap();
    assert_eq!(notes::session(redis, keys, "s1").await.unwrap(), Some(note("s1", now + 1, 9)));
    // A node whose clock is an hour ahead does not hold the others off.
    notes::note_sessions(redis, keys, &[note("s2", now + 3_600_000, 7)], 0).await.unwrap();
    notes::note_sessions(redis, keys, &[note("s2", now + 2, 8)], 0).await.unwrap();
    assert_eq!(notes::session(redis, keys, "s2").await.unwrap(), Some(note("s2", now + 2, 8)));
    let left: u64 = redis::cmd("TTL").arg(keys.session("s2")).query_async(redis).await.unwrap();
    assert!((86_000..=86_400).contains(&left), "{left}");
    redis::cmd("SET").arg(keys.session("s2")).arg("xxx").query_async::<()>(redis).await.unwrap();
    assert_eq!(notes::session(redis, keys, "s2").await.unwrap(), None, "what cannot be read is no session");
}

#[actix_rt::test]
async fn rooms_and_their_counts_are_known_everywhere() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let of = |list: &[(&str, u32)]| Writing {
        anew: false,
        rooms: list.iter().map(|(name, n)| (room(name), *n)).collect(),
    };
    let team = of(&[("team?1", 2), ("team?2", 1), ("team-3", 9), ("lobby", 4)]);
    counts::write(&mut a.redis, &a.keys, a.lease, &team).await.unwrap();
    counts::write(&mut b.redis, &b.keys, b.lease, &of(&[("team?1", 40), ("team?0", 1)])).await.unwrap();
    counts::write(&mut a.redis, &a.keys, a.lease, &of(&[("team?2", 0)])).await.unwrap();
    a.tick().await;
    let live = a.nodes.live();
    let (redis, keys) = (&mut a.redis, &a.keys);
    let list = async |redis: &mut _, live: &[u32], prefix, n| {
        let list = counts::rooms(redis, keys, live, prefix, |_| true, n).await.unwrap();
        list.into_iter().map(|count| (count.room.as_str().to_owned(), count.sessions)).collect::<Vec<_>>()
    };
    assert_eq!(list(redis, &live, "team?", 9).await, [("team?0".into(), 1), ("team?1".into(), 42)]);
    assert_eq!(list(redis, &live, "", 2).await, [("lobby".into(), 4), ("team-3".into(), 9)]);
    assert_eq!(list(redis, &[1], "team?", 9).await, [("team?1".into(), 2)], "only the living count");
    let after = counts::rooms(redis, keys, &live, "", |name| name > "team-3", 1).await.unwrap();
    assert_eq!(after, [RoomCount { room: room("team?0"), sessions: 1 }]);
    let anew = Writing { anew: true, rooms: vec![(room("lobby"), 4)] };
    counts::write(redis, keys, a.lease, &anew).await.unwrap();
    assert_eq!(list(redis, &[1], "", 9).await, [("lobby".into(), 4)], "what stood there before is gone");

    a.join("lobby").await;
    b.join("lobby").await;
    for who in ["ann", "bob"] {
        a.came("lobby", who).await;
    }
    b.came("lobby", "bob").await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    assert_eq!(counts::room(redis, keys, &live, &room("lobby")).await.unwrap(), (4, 2), "bob counts once");
    assert_eq!(counts::room(redis, keys, &[2], &room("lobby")).await.unwrap(), (0, 1));
    let shown = |who: &str| Shown { user: user(who), info: None };
    let users = counts::users(redis, keys, &live, &room("lobby"), None, 9).await.unwrap();
    assert_eq!(users, [shown("ann"), shown("bob")]);
    let users = counts::users(redis, keys, &live, &room("lobby"), Some("ann"), 9).await.unwrap();
    assert_eq!(users, [shown("bob")]);

    let dead = b.lease;
    drop(b);
    eventually("the dead to be removed", async || {
        a.beat().await;
        (a.state(dead.slot) == Some(State::Free)).then_some(())
    })
    .await;
    let left: bool =
        redis::cmd("EXISTS").arg(a.keys.counts(dead.slot)).query_async(&mut a.redis).await.unwrap();
    assert!(!left);
    let refused = counts::write(&mut a.redis, &a.keys, dead, &of(&[("lobby", 1)])).await.unwrap_err();
    assert!(is_lost(&refused), "{refused}");
}
