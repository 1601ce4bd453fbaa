//! Who is there, as everybody sees it while people come and go.

use roomcast::engines::redis::life::lease::State;
use roomcast::engines::shared::{Command, News};

use crate::fixtures::eventually;
use crate::fixtures::servers::{Cluster, Server};
use crate::fixtures::sharer::{Sharer, room, user};

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
