//! The rules of rooms in Redis: what the archive lacks of them, how they come back from it, and how from nodes.

use std::collections::BTreeMap;

use roomcast::chat::moderation::{Change, Rules};
use roomcast::engines::redis::life::due;
use roomcast::engines::redis::life::keys::Keys;
use roomcast::engines::redis::life::rule_repair::{self, Repair};
use roomcast::engines::redis::life::rules::{self, All};
use roomcast::engines::shared::RuleRefused;
use roomcast::redis_link::RedisConnection;
use roomcast::store::record::{Record, RoomRules};

use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, room};

const REPAIR: Repair<'static> = Repair { key: "rc:{p0}r", run_id: "here" };

/// Makes a room slow; the number of the change.
async fn slow(redis: &mut RedisConnection, keys: &Keys, name: &str, seconds: u32) -> u64 {
    let changed = rules::change(redis, keys, true, &room(name), &Change::Slow(seconds), 1).await.unwrap();
    changed.unwrap().expect("it is news").number
}

async fn all(redis: &mut RedisConnection, keys: &Keys) -> All {
    rules::all(redis, keys, None).await.unwrap()
}

/// How slow each room is.
fn paces(all: &All) -> BTreeMap<String, u32> {
    let list = all.list.iter().flatten().filter_map(rules::read);
    list.map(|(room, rules)| (room.as_str().to_owned(), rules.slow())).collect()
}

fn paced(list: &[(&str, u32)]) -> BTreeMap<String, u32> {
    list.iter().map(|(room, seconds)| ((*room).to_owned(), *seconds)).collect()
}

fn text(seconds: u32) -> String {
    Rules::default().with(&Change::Slow(seconds), 1).unwrap().to_json()
}

fn archived(name: &str, seconds: u32, version: u64) -> RoomRules {
    RoomRules { room: room(name), text: text(seconds).into(), version }
}

/// What the archive is to get: room, version, how slow it is.
async fn due(redis: &mut RedisConnection, keys: &Keys) -> Vec<(String, u64, u32)> {
    let taken = due::take(redis, keys, 99).await.unwrap();
    let rule = |lacking: &due::Lacking| match &lacking.record {
        Some(Record::Rules(RoomRules { room, text, version })) => {
            let rules =
                if text.is_empty() { Ok(Rules::default()) } else { Rules::from_json(text.as_bytes()) };
            (room.as_str().to_owned(), *version, rules.unwrap().slow())
        }
        other => panic!("no rules but {other:?}"),
    };
    let list = taken.list.iter().map(rule).collect();
    due::done(redis, keys, &taken.list).await.unwrap();
    list
}

#[actix_rt::test]
async fn nothing_changes_before_the_archive_was_asked_and_then_all_changes_go_there() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let refused = rules::change(redis, keys, true, &room("a"), &Change::Slow(1), 1).await.unwrap();
    assert!(matches!(refused, Err(RuleRefused::Away(_))), "{refused:?}");
    assert!(!all(redis, keys).await.whole);
    rules::restore(redis, keys, &[]).await.unwrap();
    let begun = all(redis, keys).await;
    assert_eq!((begun.whole, paces(&begun)), (true, paced(&[])));
    let first = slow(redis, keys, "a", 1).await;
    assert_eq!(first, begun.number + 1);
    let same = rules::change(redis, keys, true, &room("a"), &Change::Slow(1), 1).await.unwrap();
    assert_eq!(same, Ok(None), "it is so already");
    slow(redis, keys, "b", 2).await;
    slow(redis, keys, "a", 0).await;
    let wanted = vec![("b".to_owned(), first + 1, 2), ("a".to_owned(), first + 2, 0)];
    assert_eq!(due(redis, keys).await, wanted, "each room once, as it stands now");
    assert_eq!(due(redis, keys).await, []);
}

#[actix_rt::test]
async fn an_empty_redis_gets_back_what_the_archive_has_and_numbers_never_come_again() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let far = 1 << 52;
    let ended = RoomRules { text: "".into(), ..archived("c", 1, far) };
    let mut list = vec![archived("a", 1, 7), archived("b", 2, 8), ended];
    list.extend((0..300).map(|n| archived(&format!("r{n}"), 3, n)));
    rules::restore(redis, keys, &list).await.unwrap();
    let back = all(redis, keys).await;
    assert!(back.whole && back.number > far, "{}", back.number);
    let paces = paces(&back);
    assert_eq!((paces.len(), paces["a"], paces["b"], paces["r0"]), (302, 1, 2, 3));
    // Another node that was slower with the same changes nothing any more.
    slow(redis, keys, "a", 5).await;
    rules::restore(redis, keys, &list).await.unwrap();
    assert_eq!(self::paces(&all(redis, keys).await)["a"], 5);
}

#[actix_rt::test]
async fn rules_that_stood_in_redis_before_there_was_an_archive_count_and_go_there() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    for (name, seconds) in [("a", 1), ("b", 2), ("b", 0)] {
        rules::change(redis, keys, false, &room(name), &Change::Slow(seconds), 1).await.unwrap().unwrap();
    }
    assert_eq!(due(redis, keys).await, []);
    // What the archive has is of an earlier time with one, or of a node that was alone with it.
    rules::restore(redis, keys, &[archived("a", 7, 1), archived("b", 7, 1), archived("d", 7, 0)])
        .await
        .unwrap();
    let back = all(redis, keys).await;
    assert_eq!(paces(&back), paced(&[("a", 1)]));
    let due: BTreeMap<String, u32> =
        due(redis, keys).await.into_iter().map(|(room, _, pace)| (room, pace)).collect();
    assert_eq!(due, paced(&[("a", 1), ("b", 0), ("d", 0)]), "also that they have ended");
}

#[actix_rt::test]
async fn a_node_that_was_alone_hands_its_rules_on() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    rules::restore(redis, keys, &[archived("a", 7, 0)]).await.unwrap();
    assert_eq!(paces(&all(redis, keys).await), paced(&[("a", 7)]));
}

#[actix_rt::test]
async fn what_nodes_remember_is_newer_than_a_server_that_took_over_and_than_the_archive() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let (redis, keys) = (&mut a.redis, &a.keys);
    let begin = async |redis: &mut RedisConnection| {
        redis::cmd("HSET").arg(REPAIR.key).arg("server").arg("here").query_async::<()>(redis).await.unwrap();
    };
    let kept = |list: &[(&str, u32)]| -> Vec<rules::Kept> {
        list.iter().map(|(room, seconds)| (room.as_bytes().to_vec(), text(*seconds).into_bytes())).collect()
    };
    begin(redis).await;
    // One node has heard of 20 changes, another of 21: room b has no rules any more, and c has some.
    rule_repair::stage(redis, keys, REPAIR, 1, 20, &kept(&[("a", 1), ("b", 2)])).await.unwrap();
    rule_repair::stage(redis, keys, REPAIR, 2, 21, &kept(&[("a", 1), ("c", 3)])).await.unwrap();
    rule_repair::stage(redis, keys, REPAIR, 3, 20, &kept(&[("a", 1), ("b", 2)])).await.unwrap();
    let elsewhere = Repair { run_id: "elsewhere", ..REPAIR };
    rule_repair::stage(redis, keys, elsewhere, 4, 99, &kept(&[])).await.unwrap();
    rule_repair::apply(redis, keys, elsewhere, true).await.unwrap();
    assert_eq!(paces(&all(redis, keys).await), paced(&[]), "it is not over");
    rule_repair::apply(redis, keys, REPAIR, true).await.unwrap();
    let back = all(redis, keys).await;
    assert_eq!((back.whole, paces(&back)), (false, paced(&[("a", 1), ("c", 3)])));
    assert_eq!(due(redis, keys).await, [], "nothing goes to the archive before it was asked");

    // The archive lacks the last changes of b and c, and knows one of d that only a dead node had heard of.
    rules::restore(redis, keys, &[archived("b", 2, 15), archived("c", 2, 16), archived("d", 4, 22)])
        .await
        .unwrap();
    let whole = all(redis, keys).await;
    assert_eq!((whole.whole, paces(&whole)), (true, paced(&[("a", 1), ("c", 3), ("d", 4)])));
    let due: BTreeMap<String, u32> =
        due(redis, keys).await.into_iter().map(|(room, _, pace)| (room, pace)).collect();
    assert_eq!(due, paced(&[("a", 1), ("b", 0), ("c", 3), ("d", 4)]));

    // A replica that lacks the newest change takes over; a node that knows less has nothing to say.
    begin(redis).await;
    rule_repair::stage(redis, keys, REPAIR, 1, whole.number - 1, &kept(&[])).await.unwrap();
    rule_repair::apply(redis, keys, REPAIR, true).await.unwrap();
    assert_eq!(all(redis, keys).await, All { whole: false, ..whole.clone() });
    let refused = rules::change(redis, keys, true, &room("a"), &Change::Slow(9), 1).await.unwrap();
    assert!(matches!(refused, Err(RuleRefused::Away(_))), "the archive may know more");
    // It does: a node that died had made a change that neither the replica nor a living node knows.
    rules::restore(redis, keys, &[archived("a", 7, whole.number + 1), archived("c", 2, 16)]).await.unwrap();
    let newest = all(redis, keys).await;
    assert_eq!((newest.whole, paces(&newest)), (true, paced(&[("a", 7), ("c", 3), ("d", 4)])));
    let whole = newest;
    begin(redis).await;
    // Rules of many rooms take several calls.
    let names: Vec<String> = (0..30_000).map(|n| format!("{:0>64}", n)).collect();
    let many: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 9)).collect();
    rule_repair::stage(redis, keys, REPAIR, 1, whole.number + 1, &kept(&many)).await.unwrap();
    rule_repair::apply(redis, keys, REPAIR, true).await.unwrap();
    let back = all(redis, keys).await;
    assert!(!back.whole && back.number > whole.number + 1);
    assert_eq!((paces(&back).len(), back.list.unwrap().len()), (30_000, 30_000));
}
