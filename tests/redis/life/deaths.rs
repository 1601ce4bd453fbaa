//! Nodes die, hang and leave, and so do their people.

use std::time::{Duration, Instant};

use roomcast::engines::redis::life::lease::{self, Lease, State, Terms};
use roomcast::engines::redis::life::{is_lost, reaping};
use roomcast::engines::shared::News;

use crate::fixtures::eventually;
use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, TERMS, room, user};

use super::traces;

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
