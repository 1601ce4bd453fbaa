//! Rooms too large for names, and rooms of thousands.

use roomcast::engines::redis::life::lease::State;
use roomcast::engines::redis::life::roster::{self, Limits};
use roomcast::engines::shared::News;

use crate::fixtures::eventually;
use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, room, user};

use super::traces;

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
