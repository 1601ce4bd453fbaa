//! Who is there: nodes that come, die, hang and leave, and what the others see of their people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use roomcast::engines::redis::life::lease::{self, Lease, State, Terms};
use roomcast::engines::redis::life::roster::{self, Limits};
use roomcast::engines::redis::life::{is_lost, reaping};
use roomcast::engines::shared::{Command, News};

use crate::fixtures::eventually;
use crate::fixtures::servers::{Cluster, Server};
use crate::fixtures::sharer::{Sharer, TERMS, room, user};

/// Everything in Redis that has to do with a slot, by the names of the keys and the fields of the rosters.
async fn traces(server: &Server, slot: u32) -> Vec<String> {
    let mut redis = server.connect().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("rc:*").query_async(&mut redis).await.unwrap();
    let mut found = Vec::new();
    for key in keys {
        if key.ends_with(&format!("}}N:{slot}")) || key.ends_with(&format!("}}c:{slot}")) {
            found.push(key.clone());
        }
        if key.contains("}m:") || key.contains("}k:") {
            let fields: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut redis).await.unwrap();
            let own = |field: &&String| field.split(':').next() == Some(&slot.to_string());
            found.extend(fields.iter().filter(own).map(|field| format!("{key} {field}")));
        }
        if key.contains("}t:") {
            let who: Option<String> =
                redis::cmd("HGET").arg(&key).arg("i").query_async(&mut redis).await.unwrap();
            let who = who.unwrap_or_default();
            if who.split(',').any(|n| n == slot.to_string()) {
                found.push(format!("{key} {who}"));
            }
        }
    }
    found
}

#[actix_rt::test]
async fn a_roster_is_whole_from_the_first_moment_and_follows() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    assert_eq!((a.lease.slot, b.lease.slot), (1, 2), "the smallest free ones");
    a.join("{x}:y").await;
    a.came_with("{x}:y", "ann:1", r#"{"name":"Änn"}"#).await;
    b.join("{x}:y").await;
    b.came("{x}:y", "7:bob").await;
    b.came("{x}:y", "größe").await;
    b.went("{x}:y", "7:bob").await;
    a.says("{x}:y", News::Typing(user("ann:1"), true)).await;
    a.says("{x}:y", News::Got(7, 1, 2)).await;
    eventually("everybody to be seen", async || {
        a.beat().await;
        b.beat().await;
        (a.sees("{x}:y") == ["größe"] && b.news.len() == 2).then_some(())
    })
    .await;
    assert_eq!(b.sees("{x}:y"), ["ann:1"]);
    assert_eq!(a.noise, ["{x}:y +7:bob", "{x}:y +größe", "{x}:y -7:bob"]);
    assert_eq!(b.noise, ["{x}:y +ann:1"]);
    assert_eq!(b.news, [News::Typing(user("ann:1"), true), News::Got(7, 1, 2)]);
    a.came_with("{x}:y", "eve", r#"{"name":"Änn"}"#).await;
    eventually("eve", async || {
        b.hear().await;
        (b.sees("{x}:y").len() == 2).then_some(())
    })
    .await;
    assert_eq!(b.infos, [Some(r#"{"name":"Änn"}"#.as_bytes().to_vec())]);
}

#[actix_rt::test]
async fn a_dead_nodes_people_are_gone_when_their_time_is_over_and_nothing_is_left_of_it() {
    let server = Server::start(&[]).await;
    let (mut a, mut c) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let mut b = Sharer::start(&server).await;
    for n in 0..250 {
        let name = format!("room {n}");
        b.join(&name).await;
        b.came(&name, "bob").await;
    }
    for sharer in [&mut a, &mut c] {
        sharer.join("room 7").await;
    }
    a.came("room 7", "ann").await;
    eventually("bob to be seen", async || {
        a.beat().await;
        c.beat().await;
        b.beat().await;
        (a.sees("room 7") == ["bob"] && c.sees("room 7") == ["ann", "bob"]).then_some(())
    })
    .await;
    let (died, slot) = (Instant::now(), b.lease.slot);
    assert!(b.tick().await);
    drop(b);
    eventually("bob to be gone", async || {
        a.beat().await;
        c.beat().await;
        (a.sees("room 7").is_empty() && c.sees("room 7") == ["ann"]).then_some(())
    })
    .await;
    let took = died.elapsed();
    let term = Duration::from_millis(TERMS.span_ms + TERMS.grace_ms);
    assert!(took + Duration::from_millis(10) >= term, "not before {term:?}: {took:?}");
    eventually("the slot to be free", async || {
        a.beat().await;
        (a.state(slot) == Some(State::Free)).then_some(())
    })
    .await;
    assert_eq!(traces(&server, slot).await, Vec::<String>::new());
    assert_eq!(a.noise, ["room 7 +bob", "room 7 -bob"], "once each");
    assert_eq!(Sharer::start(&server).await.lease.slot, slot, "it is taken again");
}

#[actix_rt::test]
async fn who_comes_back_elsewhere_in_time_makes_no_noise() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let mut c = Sharer::start(&server).await;
    for sharer in [&mut a, &mut b, &mut c] {
        sharer.join("lobby").await;
    }
    b.came("lobby", "bob").await;
    b.came("lobby", "eve").await;
    eventually("both", async || {
        for sharer in [&mut a, &mut b, &mut c] {
            sharer.beat().await;
        }
        (a.sees("lobby").len() == 2).then_some(())
    })
    .await;
    let slot = b.lease.slot;
    drop(b);
    eventually("the lease to be over", async || {
        a.beat().await;
        c.beat().await;
        // Close enough to the end that only the grace is left.
        let mut redis = server.connect().await;
        let now: (u64, u64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
        let held: String =
            redis::cmd("HGET").arg("rc:{p0}L").arg(slot).query_async(&mut redis).await.unwrap();
        let till: u64 = held.split(' ').nth(2).expect("not gone yet").parse().unwrap();
        (now.0 * 1_000 + now.1 / 1_000 > till).then_some(())
    })
    .await;
    c.came("lobby", "bob").await;
    eventually("eve to be gone", async || {
        a.beat().await;
        c.beat().await;
        (a.sees("lobby") == ["bob"]).then_some(())
    })
    .await;
    assert_eq!(a.noise, ["lobby +bob", "lobby +eve", "lobby -eve"]);
}

#[actix_rt::test]
async fn a_node_that_hung_for_too_long_is_refused_and_begins_anew() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    a.join("lobby").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    let before = b.lease;
    eventually("the others to do without it", async || {
        a.beat().await;
        (a.state(before.slot) == Some(State::Free)).then_some(())
    })
    .await;
    assert_eq!(a.noise, ["lobby +bob", "lobby -bob"]);
    b.telling.push(&room("lobby"), News::Came(user("eve"), None));
    let error = b.try_tell().await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(!b.tick().await, "the lease is lost");
    let error = reaping::enter(&mut b.redis, &b.keys, before).await.unwrap_err();
    assert!(is_lost(&error), "nobody has the slot, but it is not its own any more: {error}");
    b.begin_again().await;
    assert_ne!(b.lease, before);
    eventually("both to be back", async || {
        a.beat().await;
        b.beat().await;
        (a.sees("lobby") == ["bob", "eve"]).then_some(())
    })
    .await;
}

#[actix_rt::test]
async fn a_slot_is_not_given_out_before_it_is_clean_and_a_late_reaper_does_no_harm() {
    let server = Server::start(&[]).await;
    let mut a = Sharer::start(&server).await;
    let mut b = Sharer::start(&server).await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    let dead = b.lease;
    drop(b);
    eventually("it to be gone", async || {
        assert!(a.tick().await);
        (a.state(2) == Some(State::Gone)).then_some(())
    })
    .await;
    let mut c = Sharer::start(&server).await;
    assert_eq!(c.lease.slot, 3, "slot 2 is not clean yet");
    assert!(!lease::free(&mut a.redis, &a.keys, Lease { stamp: dead.stamp - 1, ..dead }).await.unwrap());
    while !reaping::step(&mut a.redis, &a.keys, a.lease, dead).await.unwrap() {}
    assert!(lease::free(&mut a.redis, &a.keys, dead).await.unwrap());
    assert!(!lease::free(&mut a.redis, &a.keys, dead).await.unwrap(), "once");
    let mut d = Sharer::start(&server).await;
    assert_eq!(d.lease.slot, 2);
    assert!(d.lease.stamp > dead.stamp);
    d.join("lobby").await;
    d.came("lobby", "dora").await;
    // Another reaper that hung meanwhile goes on with what it believes.
    assert!(reaping::step(&mut c.redis, &c.keys, c.lease, dead).await.unwrap(), "nothing to do");
    c.join("lobby").await;
    eventually("dora", async || {
        c.hear().await;
        (c.sees("lobby") == ["dora"]).then_some(())
    })
    .await;
}

#[actix_rt::test]
async fn with_the_usual_terms_a_dead_nodes_people_are_gone_after_four_to_six_seconds() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let mut c = Sharer::start(&server).await;
    for sharer in [&mut a, &mut b, &mut c] {
        sharer.terms = Terms::default();
        sharer.join("lobby").await;
        sharer.beat().await;
    }
    b.came("lobby", "bob").await;
    let (last_sign, every) = (Instant::now(), Duration::from_secs(1));
    assert!(b.tick().await);
    let mut ticks = tokio::time::interval(every / 2);
    for n in 0.. {
        ticks.tick().await;
        let sharer = if n % 2 == 0 { &mut a } else { &mut c };
        sharer.beat().await;
        if [&a, &c].iter().all(|sharer| sharer.noise == ["lobby +bob", "lobby -bob"]) {
            break;
        }
        assert!(last_sign.elapsed() < Duration::from_secs(20), "{:?} {:?}", a.noise, c.noise);
    }
    let took = last_sign.elapsed();
    println!("gone for both others {:.1} s after the last sign of life", took.as_secs_f32());
    // A machine that is busy with other stories may be late; what must not happen is that it is early.
    assert!(
        took > Duration::from_secs(5) - Duration::from_millis(10) && took < Duration::from_secs(9),
        "{took:?}"
    );
}

#[actix_rt::test]
async fn a_node_may_have_its_own_slot_again_when_it_is_clean() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    b.went("lobby", "bob").await;
    assert_eq!(traces(&server, 2).await, ["rc:{p0}t:lobby 2"], "nobody is there, but it listens");
    let before = b.lease;
    eventually("its slot to be free", async || {
        a.beat().await;
        (a.state(2) == Some(State::Free)).then_some(())
    })
    .await;
    assert!(!b.tick().await);
    let again = lease::take(&mut b.redis, &b.keys, Some(2), TERMS).await.unwrap();
    assert!(again.slot == 2 && again.stamp > before.stamp);
    let other = lease::take(&mut b.redis, &b.keys, Some(2), TERMS).await.unwrap();
    assert_eq!(other.slot, 3, "the smallest free one, when the wish cannot be granted");
}

#[actix_rt::test]
async fn a_node_that_leaves_is_gone_for_all_at_once() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    a.join("lobby").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    eventually("bob", async || {
        a.hear().await;
        (a.sees("lobby") == ["bob"]).then_some(())
    })
    .await;
    lease::give_back(&mut b.redis, &b.keys, b.lease).await.unwrap();
    eventually("bob to be gone without any tick", async || {
        a.hear().await;
        a.sees("lobby").is_empty().then_some(())
    })
    .await;
    assert!(!b.tick().await, "it has no lease any more");
    while !reaping::step(&mut b.redis, &b.keys, b.lease, b.lease).await.unwrap() {}
    assert!(lease::free(&mut b.redis, &b.keys, b.lease).await.unwrap());
    assert_eq!(traces(&server, b.lease.slot).await, Vec::<String>::new());
    a.beat().await;
    assert_eq!(a.noise, ["lobby +bob", "lobby -bob"]);
}

#[actix_rt::test]
async fn nobody_is_gone_when_redis_was_away() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    a.join("lobby").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    a.beat().await;
    server.freeze();
    // The leases are over meanwhile: this is what the story is about, not a wait for something.
    tokio::time::sleep(Duration::from_millis((TERMS.span_ms + TERMS.grace_ms) * 3 / 2)).await;
    server.thaw();
    eventually("a tick", async || {
        a.beat().await;
        (a.sees("lobby") == ["bob"]).then_some(())
    })
    .await;
    assert!(b.tick().await, "it comes second and is forgiven");
    a.beat().await;
    assert_eq!(a.noise, ["lobby +bob"]);
}

#[actix_rt::test]
async fn an_empty_redis_hears_everything_again() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    a.join("lobby").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    a.beat().await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut a.redis).await.unwrap();
    b.telling.push(&room("lobby"), News::Came(user("eve"), None));
    assert!(is_lost(&b.try_tell().await.unwrap_err()), "the partition does not know it");
    assert!(a.tick().await && b.tick().await && a.tick().await, "both take their own slots again");
    a.peers.sort_by_key(|peer| peer.lease.slot);
    assert_eq!(a.peers.iter().map(|peer| peer.lease).collect::<Vec<_>>(), [a.lease, b.lease]);
    for sharer in [&mut a, &mut b] {
        reaping::enter(&mut sharer.redis, &sharer.keys, sharer.lease).await.unwrap();
        sharer.telling.all_again(&room("lobby"));
        sharer.enlist("lobby").await;
    }
    roster::ask(&mut a.redis, &a.keys, a.lease, &[room("lobby")]).await.unwrap();
    eventually("both", async || {
        a.beat().await;
        (a.sees("lobby") == ["bob", "eve"]).then_some(())
    })
    .await;
    assert_eq!(a.noise, ["lobby +bob", "lobby +eve"], "bob was there all the time");
}

#[actix_rt::test]
async fn what_a_failover_has_lost_of_a_roster_is_put_right() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    b.join("lobby").await;
    for who in ["bob", "eve"] {
        b.came("lobby", who).await;
    }
    a.join("lobby").await;
    // As if the new primary had missed that eve came, and that dora went.
    let roster = b.keys.roster(&room("lobby"));
    redis::cmd("HDEL").arg(&roster).arg("2:eve").query_async::<()>(&mut b.redis).await.unwrap();
    redis::cmd("HSET").arg(&roster).arg("2:dora").arg("").query_async::<()>(&mut b.redis).await.unwrap();
    a.join("lobby").await;
    b.telling.all_again(&room("lobby"));
    b.tell().await;
    eventually("the truth", async || {
        a.hear().await;
        (a.noise.len() == 6).then_some(())
    })
    .await;
    assert_eq!(a.sees("lobby"), ["bob", "eve"]);
    assert_eq!(a.noise[2..4], ["lobby +dora", "lobby -eve"]);
}

#[actix_rt::test]
async fn a_large_room_is_told_by_numbers_until_it_has_shrunk() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let mut c = Sharer::start(&server).await;
    let limits = Limits { named: 4, again: 2 };
    for sharer in [&mut a, &mut b, &mut c] {
        sharer.limits = limits;
    }
    a.join("hall").await;
    b.join("hall").await;
    a.came("hall", "ann").await;
    for n in 0..3 {
        b.came("hall", &format!("b{n}")).await;
    }
    eventually("all by name", async || {
        a.beat().await;
        (a.sees("hall").len() == 3).then_some(())
    })
    .await;
    b.came("hall", "b3").await;
    eventually("the first number", async || {
        a.beat().await;
        b.beat().await;
        (a.numbers.get("hall").is_some_and(|numbers| numbers[&2] == 4)).then_some(())
    })
    .await;
    assert_eq!(a.sees("hall").len(), 3, "nobody is named any more");
    assert_eq!(b.numbers["hall"][&1], 1, "who made it large is told too");
    b.came("hall", "b4").await;
    b.came("hall", "b5").await;
    assert!(!b.telling.is_empty(), "it waits a moment");
    eventually("the number to follow", async || {
        a.beat().await;
        b.beat().await;
        (a.numbers["hall"][&2] == 6).then_some(())
    })
    .await;
    c.join("hall").await;
    eventually("who comes later to be told the numbers", async || {
        c.hear().await;
        c.numbers.contains_key("hall").then_some(())
    })
    .await;
    assert_eq!(c.numbers["hall"], [(1, 1), (2, 6)].into());
    for n in 0..5 {
        b.went("hall", &format!("b{n}")).await;
    }
    eventually("names again", async || {
        for sharer in [&mut a, &mut b, &mut c] {
            sharer.beat().await;
        }
        (a.sees("hall") == ["b5"] && c.sees("hall") == ["ann", "b5"] && b.sees("hall") == ["ann"])
            .then_some(())
    })
    .await;
    assert!(a.numbers.is_empty() && c.numbers.is_empty());
}

#[actix_rt::test]
async fn a_large_rooms_dead_node_is_removed_by_pages() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    a.join("hall").await;
    a.came("hall", "ann").await;
    b.join("hall").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    for n in 0..2_500 {
        b.telling.push(&room("hall"), News::Came(user(&format!("b{n}")), None));
    }
    eventually("all to be told", async || {
        a.beat().await;
        b.beat().await;
        b.telling.is_empty().then_some(())
    })
    .await;
    eventually("the number", async || {
        a.beat().await;
        a.numbers.get("hall").and_then(|numbers| numbers.get(&2)).is_some_and(|n| *n == 2_500).then_some(())
    })
    .await;
    let slot = b.lease.slot;
    drop(b);
    eventually("the slot to be free", async || {
        a.beat().await;
        (a.state(slot) == Some(State::Free)).then_some(())
    })
    .await;
    assert_eq!(traces(&server, slot).await, Vec::<String>::new());
    a.came("hall", "eve").await;
    assert!(a.numbers.get("hall").is_none_or(|numbers| numbers.is_empty()), "{:?}", a.numbers);
}

#[actix_rt::test]
async fn commands_reach_every_node_and_are_made_up_for() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let kick = Command::Kick { user: user("bob"), room: room("lobby") };
    let disconnect = Command::Disconnect { user: user("a:b"), code: 4_003, why: "no\nmore".into() };
    let send = roomcast::engines::redis::life::commands::send;
    assert_eq!(send(&mut a.redis, &a.keys, &kick).await.unwrap(), 2);
    eventually("both to hear it", async || {
        a.hear().await;
        b.hear().await;
        (a.commands.len() == 1 && b.commands.len() == 1).then_some(())
    })
    .await;
    b.stop_listening().await;
    assert_eq!(send(&mut a.redis, &a.keys, &disconnect).await.unwrap(), 1);
    b.listen().await;
    assert_eq!(send(&mut a.redis, &a.keys, &kick).await.unwrap(), 2);
    eventually("the missing one to be made up for", async || {
        a.beat().await;
        b.beat().await;
        (b.commands.len() == 3).then_some(())
    })
    .await;
    let all = [kick.clone(), disconnect, kick];
    assert_eq!(b.commands, all);
    assert_eq!(a.commands, all);
    let mut c = Sharer::start(&server).await;
    c.beat().await;
    assert!(c.commands.is_empty(), "what was before is not its business");
}

#[actix_rt::test]
async fn all_of_it_works_in_a_cluster() {
    let mut cluster = Cluster::start().await;
    let keys = roomcast::engines::redis::life::keys::Keys::new("rc", 0, true).unwrap();
    let listen = cluster.primary_of(&keys.slots()).await.url();
    let mut a = Sharer::start_at(&cluster.url(), &listen, keys.clone()).await;
    let mut b = Sharer::start_at(&cluster.url(), &listen, keys).await;
    a.join("lobby").await;
    b.join("lobby").await;
    b.came("lobby", "bob").await;
    let kick = Command::Kick { user: user("bob"), room: room("lobby") };
    roomcast::engines::redis::life::commands::send(&mut b.redis, &b.keys, &kick).await.unwrap();
    eventually("bob and the command", async || {
        a.beat().await;
        b.beat().await;
        (a.sees("lobby") == ["bob"] && a.commands.len() == 1).then_some(())
    })
    .await;
    let slot = b.lease.slot;
    drop(b);
    eventually("the slot to be free", async || {
        a.beat().await;
        (a.state(slot) == Some(State::Free)).then_some(())
    })
    .await;
    assert_eq!(a.noise, ["lobby +bob", "lobby -bob"]);
}

#[actix_rt::test]
async fn thousands_of_users_are_told_again_in_steps() {
    let server = Server::start(&[]).await;
    let (mut a, mut b) = (Sharer::start(&server).await, Sharer::start(&server).await);
    let all = Limits { named: usize::MAX, again: 0 };
    (a.limits, b.limits) = (all, all);
    for name in ["hall", "lobby", "yard"] {
        b.join(name).await;
    }
    b.came("lobby", "bob").await;
    b.came("yard", "bob").await;
    for n in 0..5_000 {
        b.telling.push(&room("hall"), News::Came(user(&format!("b{n}")), None));
    }
    b.tell().await;
    // As if the new primary had missed the last moments: some are not there, some still are.
    let roster = b.keys.roster(&room("hall"));
    for n in 0..1_500 {
        let mut forget = redis::cmd("HDEL");
        forget.arg(&roster).arg(format!("2:b{n}")).query_async::<()>(&mut b.redis).await.unwrap();
        let mut remember = redis::cmd("HSET");
        remember
            .arg(&roster)
            .arg(format!("2:ghost{n}"))
            .arg("")
            .query_async::<()>(&mut b.redis)
            .await
            .unwrap();
    }
    b.telling.all_again(&room("hall"));
    b.telling.push(&room("hall"), News::Typing(user("b1"), true));
    b.tell().await;
    for name in ["hall", "lobby", "yard"] {
        a.enlist(name).await;
    }
    // The large one ends the first answer; the others come in a second one.
    let rooms = ["lobby", "hall", "yard"].map(room);
    roster::ask(&mut a.redis, &a.keys, a.lease, &rooms).await.unwrap();
    eventually("all rosters", async || {
        a.hear().await;
        (a.sees("yard") == ["bob"]).then_some(())
    })
    .await;
    assert_eq!(a.sees("lobby"), ["bob"]);
    let seen = a.sees("hall");
    assert_eq!(seen.len(), 5_000);
    assert!(seen.iter().all(|user| user.starts_with('b')), "no ghosts");
}

/// Who is where, as the story did it: for each node, the users in each room.
type Truth = [BTreeMap<&'static str, BTreeSet<String>>; 3];

const ROOMS: [&str; 3] = ["lobby", "hall", "a:{b}"];

/// Whether a node sees what is true of the others: names, or numbers where the room is large.
fn sees_truth(sharers: &[Sharer; 3], truth: &Truth, at: usize) -> bool {
    let others: Vec<usize> = (0..3).filter(|n| *n != at).collect();
    ROOMS.iter().all(|room| match sharers[at].numbers.get(*room) {
        Some(numbers) => {
            others.iter().all(|n| {
                let told = numbers.get(&sharers[*n].lease.slot).copied().unwrap_or(0);
                told as usize == truth[*n].get(room).map_or(0, BTreeSet::len)
            }) && numbers
                .iter()
                .all(|(slot, n)| *n == 0 || others.iter().any(|at| sharers[*at].lease.slot == *slot))
        }
        None => {
            let all: BTreeSet<&str> = others
                .iter()
                .flat_map(|n| truth[*n].get(room).into_iter().flatten().map(String::as_str))
                .collect();
            sharers[at].sees(room) == Vec::from_iter(all)
        }
    })
}

#[actix_rt::test]
async fn whatever_happens_in_whatever_order_all_see_the_truth_in_the_end() {
    let server = Server::start(&[]).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut truth = Truth::default();
    let mut sharers =
        [Sharer::start(&server).await, Sharer::start(&server).await, Sharer::start(&server).await];
    let limits = Limits { named: 9, again: 6 };
    for sharer in &mut sharers {
        sharer.limits = limits;
        for name in ROOMS {
            sharer.join(name).await;
        }
    }
    let mut was_large = 0;
    for _ in 0..6 {
        // Rooms fill and empty in turn, so that they become large and small again.
        let filling = random.random_bool(0.5);
        for _ in 0..100 {
            let at = random.random_range(0..3);
            let (name, who) =
                (ROOMS[random.random_range(0..3)], format!("user:{}", random.random_range(0..9)));
            let users = truth[at].entry(name).or_default();
            if random.random_bool(if filling { 0.8 } else { 0.2 }) {
                if users.insert(who.clone()) {
                    sharers[at].telling.push(&room(name), News::Came(user(&who), None));
                }
            } else if users.remove(&who) {
                sharers[at].telling.push(&room(name), News::Went(user(&who)));
            }
            match random.random_range(0..100) {
                0 => {
                    // It dies, with what it has not told yet, and another one begins.
                    let mut next = Sharer::start(&server).await;
                    next.limits = limits;
                    for name in ROOMS {
                        next.join(name).await;
                    }
                    sharers[at] = next;
                    truth[at].clear();
                }
                1 | 2 => {
                    // A cut: what it was about to tell may have been told or not.
                    let call = sharers[at].telling.take(Instant::now());
                    let (lease, limits) = (sharers[at].lease, sharers[at].limits);
                    if random.random_bool(0.5) && !call.is_empty() {
                        let Sharer { redis, keys, .. } = &mut sharers[at];
                        // It may have lost its lease on a slow machine; then nothing was told.
                        roster::tell(redis, keys, lease, limits, &call).await.ok();
                    }
                    sharers[at].telling.failed(&call);
                }
                _ => {}
            }
            for sharer in &mut sharers {
                sharer.live_on(&ROOMS).await;
            }
        }
        eventually("all to see the truth", async || {
            for sharer in &mut sharers {
                sharer.live_on(&ROOMS).await;
            }
            (0..3).all(|at| sees_truth(&sharers, &truth, at)).then_some(())
        })
        .await;
        was_large += sharers.iter().map(|sharer| sharer.numbers.len()).sum::<usize>();
    }
    println!("{was_large} large rooms seen");
}
