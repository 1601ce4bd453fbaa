//! Redis is away, comes back empty, or comes back with less.

use std::time::Duration;

use roomcast::engines::redis::life::roster::{self};
use roomcast::engines::redis::life::{is_lost, reaping};
use roomcast::engines::shared::News;

use crate::fixtures::eventually;
use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, TERMS, room, user};

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
