//! Notes that an archive lacks, and what comes back from it.

use roomcast::chat::message::Epoch;
use roomcast::chat::names::UserName;
use roomcast::engines::redis::life::due::{self, Taken};
use roomcast::engines::redis::life::keys::Keys;
use roomcast::engines::redis::life::notes;
use roomcast::engines::redis::life::recalls::{self, Known};
use roomcast::redis_link::RedisConnection;
use roomcast::store::archive::UserRoom;
use roomcast::store::record::{Cursor, ReadMark, Record, SessionNote};

use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, room, user};

const ENOUGH: u64 = 100;

fn mark(room_name: &str, user_name: &str, offset: u64, ts: u64) -> ReadMark {
    ReadMark { room: room(room_name), user: user(user_name), offset, ts }
}

fn session(name: &str, ts: u64, offset: u64) -> SessionNote {
    let cursor = Cursor { room: room("a:b"), epoch: Epoch(1 << 60), offset, quiet: true };
    SessionNote { session: name.into(), user: user("ann"), ts, rooms: vec![cursor] }
}

async fn take(redis: &mut RedisConnection, keys: &Keys, n: usize) -> Taken {
    due::take(redis, keys, n).await.unwrap()
}

fn records(taken: &Taken) -> Vec<Record> {
    taken.list.iter().filter_map(|due| due.record.clone()).collect()
}

#[actix_rt::test]
async fn what_is_noted_is_due_until_the_archive_has_just_that() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let marks = [mark("a:b", "größe", u64::MAX, 1_000), mark("3:x", "ann", 7, 2_000)];
    notes::read(redis, keys, &marks, ENOUGH).await.unwrap();
    notes::note_sessions(redis, keys, &[session("s1", 5_000, 5)], ENOUGH).await.unwrap();
    // A mark that is no news is not due once more, nor is a note that came too late.
    notes::read(redis, keys, &[mark("3:x", "ann", 6, 9_000)], ENOUGH).await.unwrap();
    notes::note_sessions(redis, keys, &[session("s1", 4_000, 4)], ENOUGH).await.unwrap();
    let first = take(redis, keys, 2).await;
    assert_eq!((first.left, first.dropped), (3, 0));
    assert_eq!(records(&first), marks.clone().map(Record::Read), "the oldest first");

    // While the archive takes them one changes again: it stays, behind the others.
    let further = mark("a:b", "ann", 1, 3_000);
    notes::read(redis, keys, &[mark("3:x", "ann", 8, 3_000), further.clone()], ENOUGH).await.unwrap();
    due::done(redis, keys, &first.list).await.unwrap();
    let rest = take(redis, keys, 9).await;
    let wanted = [
        Record::Session(session("s1", 5_000, 5)),
        Record::Read(mark("3:x", "ann", 8, 3_000)),
        Record::Read(further),
    ];
    assert_eq!(records(&rest), wanted);
    // Somebody else has it done already; once more does no harm.
    due::done(redis, keys, &rest.list).await.unwrap();
    due::done(redis, keys, &rest.list).await.unwrap();
    assert_eq!(take(redis, keys, 9).await, Taken { list: Vec::new(), left: 0, dropped: 0 });
}

#[actix_rt::test]
async fn what_has_expired_is_not_due_for_ever() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    notes::note_sessions(redis, keys, &[session("s1", 5_000, 5)], ENOUGH).await.unwrap();
    redis::cmd("DEL").arg(keys.session("s1")).query_async::<()>(redis).await.unwrap();
    let taken = take(redis, keys, 9).await;
    assert_eq!((taken.list.len(), records(&taken)), (1, Vec::new()));
    due::done(redis, keys, &taken.list).await.unwrap();
    assert_eq!(take(redis, keys, 9).await.left, 0);
}

#[actix_rt::test]
async fn of_too_many_the_later_ones_are_counted() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let marks: Vec<ReadMark> = (0..5).map(|n| mark("lobby", &format!("u{n}"), 1, 1_000 + n)).collect();
    notes::read(redis, keys, &marks, 3).await.unwrap();
    // Who has a place keeps it.
    notes::read(redis, keys, &[mark("lobby", "u0", 2, 2_000)], 3).await.unwrap();
    let taken = take(redis, keys, 9).await;
    assert_eq!((taken.left, taken.dropped), (3, 2));
    assert!(records(&taken).contains(&Record::Read(mark("lobby", "u0", 2, 2_000))));
    assert_eq!(take(redis, keys, 9).await.dropped, 0, "each is counted once");
    let kept = recalls::read_marks(redis, keys, &room("lobby"), 9).await.unwrap().0;
    assert_eq!(kept.len(), 5, "Redis has all of them");
    // Without an archive nothing is due.
    notes::read(redis, keys, &[mark("hall", "ann", 2, 2_000)], 0).await.unwrap();
    assert_eq!(take(redis, keys, 9).await.left, 3);
}

#[actix_rt::test]
async fn read_marks_come_back_behind_those_that_are_there() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let lobby = room("lobby");
    notes::read(redis, keys, &[mark("lobby", "ann", 3, 1_000), mark("lobby", "bob", 9, 2_000)], ENOUGH)
        .await
        .unwrap();
    assert_eq!(recalls::read_marks(redis, keys, &lobby, 9).await.unwrap().1, Known::Some);
    // More than fit into one call.
    let mut old: Vec<(UserName, u64)> = vec![(user("ann"), 5), (user("bob"), 4)];
    old.extend((0..700).map(|n| (user(&format!("u{n}")), n + 1)));
    recalls::put_marks(redis, keys, &lobby, &old, Known::All).await.unwrap();
    let (marks, known) = recalls::read_marks(redis, keys, &lobby, 1_000).await.unwrap();
    let mut wanted = vec![(user("bob"), 9), (user("ann"), 5)];
    wanted.extend(old[2..].to_vec());
    assert_eq!((marks, known), (wanted, Known::All));
    assert_eq!(take(redis, keys, 9).await.left, 2, "what comes from the archive is not due there");
    let left: u64 = redis::cmd("TTL").arg(keys.reads(&lobby)).query_async(redis).await.unwrap();
    assert!(left > 80 * 86_400, "{left}");

    // That there is nothing is known for a day, and longer as soon as there is something.
    let hall = room("hall");
    recalls::put_marks(redis, keys, &hall, &[], Known::All).await.unwrap();
    assert_eq!(recalls::read_marks(redis, keys, &hall, 9).await.unwrap(), (Vec::new(), Known::All));
    assert_eq!(recalls::read_mark(redis, keys, &hall, &user("ann")).await.unwrap(), (None, Known::All));
    let left: u64 = redis::cmd("TTL").arg(keys.reads(&hall)).query_async(redis).await.unwrap();
    assert!((86_000..=86_400).contains(&left), "{left}");
    notes::read(redis, keys, &[mark("hall", "ann", 3, 1_000)], ENOUGH).await.unwrap();
    let marks = recalls::read_marks(redis, keys, &hall, 9).await.unwrap();
    assert_eq!(marks, (vec![(user("ann"), 3)], Known::All));

    // Of very many, only the newest; others one by one.
    let crowd = room("crowd");
    recalls::put_marks(redis, keys, &crowd, &[(user("ann"), 3)], Known::Newest).await.unwrap();
    recalls::put_marks(redis, keys, &crowd, &[(user("bob"), 0)], Known::Some).await.unwrap();
    let of =
        async |redis: &mut _, name: &str| recalls::read_mark(redis, keys, &crowd, &user(name)).await.unwrap();
    assert_eq!(of(redis, "ann").await, (Some(3), Known::Newest));
    assert_eq!(of(redis, "bob").await, (Some(0), Known::Newest), "it is known that he has read nothing");
    assert_eq!(of(redis, "eve").await, (None, Known::Newest));
    assert_eq!(recalls::read_marks(redis, keys, &crowd, 9).await.unwrap().0, [(user("ann"), 3)]);
}

#[actix_rt::test]
async fn the_rooms_of_a_user_come_back_behind_those_that_are_there() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let of = |name: &str, read| UserRoom { room: room(name), top: 0, read };
    notes::read_by(redis, keys, &[mark("hall", "ann", 2, 1_000_000)]).await.unwrap();
    let (list, known) = recalls::rooms_of(redis, keys, &user("ann"), 9).await.unwrap();
    assert_eq!((list, known), (vec![of("hall", 2)], Known::Some));
    let old = [of("tea", 7), of("hall", 9), of("@ann+bob", 0)];
    recalls::put_rooms(redis, keys, &user("ann"), &old).await.unwrap();
    let (list, known) = recalls::rooms_of(redis, keys, &user("ann"), 9).await.unwrap();
    assert_eq!((list, known), (vec![of("hall", 9), of("tea", 7), of("@ann+bob", 0)], Known::All));
    let many: Vec<UserRoom> = (0..1_000).map(|n| of(&format!("r{n}"), 1)).collect();
    recalls::put_rooms(redis, keys, &user("ann"), &many).await.unwrap();
    let list = recalls::rooms_of(redis, keys, &user("ann"), 5_000).await.unwrap().0;
    assert_eq!((list.len(), &list[0], &list[1]), (1_000, &of("hall", 9), &of("r0", 1)));
    recalls::put_rooms(redis, keys, &user("bob"), &[]).await.unwrap();
    let none = recalls::rooms_of(redis, keys, &user("bob"), 9).await.unwrap();
    assert_eq!(none, (Vec::new(), Known::All));
}
