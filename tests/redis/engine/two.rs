//! Two nodes on one Redis: the same order on both, without a hole.

use roomcast::engines::shared::Safety;
use roomcast::store::archive::{Answer, Question};

use super::stage::{Node, judge, message};
use crate::fixtures::eventually;
use crate::fixtures::servers::Server;

#[actix_rt::test]
async fn both_nodes_see_the_same_order() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    for node in [&one, &two] {
        assert_eq!(node.join("lobby").await.top, 0);
    }
    let mut tickets = Vec::new();
    for n in 0..500 {
        let (a, b) = (format!("a{n}"), format!("b{n}"));
        tickets.push((&one, one.say("lobby", &a), a));
        tickets.push((&two, two.say("lobby", &b), b));
    }
    let mut acked = Vec::new();
    for (node, ticket, id) in tickets {
        acked.push((id, node.place(ticket).await.0));
    }
    for node in [&one, &two] {
        let seen = node.reaches("lobby", 1_000).await;
        assert_eq!(seen.log.len(), 1_000);
        for (id, offset) in &acked {
            assert_eq!(&seen.log[offset].1, id);
        }
    }
    judge(&[&one, &two], "lobby", &acked);
    assert_eq!((one.waiting_bytes(), two.waiting_bytes()), (0, 0));
    let order = one.settled_order();
    assert!(order.is_sorted(), "outcomes come in the order of the proposals");
}

#[actix_rt::test]
async fn a_node_that_comes_later_gets_the_tail_and_then_what_follows() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    for n in 1..=150 {
        one.place(one.say("a", &format!("m{n}"))).await;
    }
    let late = two.join("a").await;
    assert_eq!((late.top, late.first, late.tail.len()), (150, 1, 100));
    assert_eq!(late.tail[0].offset, 51);
    assert!(String::from_utf8_lossy(late.tail[99].line.as_ref().unwrap()).contains("m150"));
    one.place(one.say("a", "next")).await;
    assert_eq!(two.reaches("a", 151).await.log.keys().copied().collect::<Vec<_>>(), [151]);
    // A room that is left is not heard of any more; its inbox interest goes too.
    two.leave("a");
    let mut redis = server.connect().await;
    eventually("the interest to go", async || {
        let who: String = crate::fixtures::backend::command(&mut redis, &["HGET", "chat:{p0}t:a", "i"]).await;
        (!who.contains(',')).then_some(())
    })
    .await;
    one.place(one.say("a", "last")).await;
    assert_eq!(two.join("a").await.top, 152);
    assert_eq!(two.seen("a").log.len(), 1, "151 only");
}

#[actix_rt::test]
async fn what_takes_no_place_is_heard_once_by_who_is_there() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    two.join("a").await;
    let line = "{\"t\":\"msg\",\"r\":\"a\",\"d\":1}";
    let entry = || {
        let mut entry = message("a", "x");
        entry.line = line.into();
        entry
    };
    let first = one.propose(entry(), "x", false, Safety::Sequenced);
    assert_eq!(one.place(first).await, (0, false));
    let again = two.propose(entry(), "x", false, Safety::Sequenced);
    assert_eq!(two.place(again).await, (0, true));
    let next = two.say("a", "y");
    assert_eq!(two.place(next).await, (1, false));
    for node in [&one, &two] {
        assert_eq!(node.reaches("a", 1).await.passed, [line]);
    }
}

#[actix_rt::test]
async fn the_log_is_read_in_pages() {
    use roomcast::chat::history::PageFrom;
    let server = Server::start(&[]).await;
    let node = Node::start(&server.url(), 1);
    for n in 1..=20 {
        node.place(node.say("a", &format!("m{n}"))).await;
    }
    let page = async |from| {
        let room = super::stage::room("a");
        match node.ask(Question::Page { room, from, n: 5, bytes: 1 << 20 }).await.unwrap() {
            Answer::Entries { list, more } => {
                (list.first().map(|e| e.offset), list.last().map(|e| e.offset), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(PageFrom::After(3)).await, (Some(4), Some(8), true));
    assert_eq!(page(PageFrom::After(17)).await, (Some(18), Some(20), false));
    assert_eq!(page(PageFrom::Before(4)).await, (Some(1), Some(3), false));
    assert_eq!(page(PageFrom::Before(99)).await, (Some(16), Some(20), true));
    assert_eq!(page(PageFrom::Since(0)).await, (Some(1), Some(5), true));
    assert_eq!(page(PageFrom::Until(u64::MAX)).await, (Some(16), Some(20), true));
    let words =
        Question::Find { room: super::stage::room("a"), words: "m1".into(), before: 99, n: 1, bytes: 1 };
    assert!(node.ask(words).await.unwrap_err().contains("postgres://"));
}

#[actix_rt::test]
async fn an_engine_that_ends_gives_its_interest_back() {
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("a").await;
    two.join("a").await;
    two.close().await;
    let mut redis = server.connect().await;
    let who: String = crate::fixtures::backend::command(&mut redis, &["HGET", "chat:{p0}t:a", "i"]).await;
    assert!(!who.contains(','), "{who}");
    one.place(one.say("a", "x")).await;
}

#[actix_rt::test]
async fn a_question_that_fails_takes_no_open_room_away() {
    let server = Server::start(&[]).await;
    let node = Node::start(&server.url(), 1);
    let room = || Question::Room { room: super::stage::room("a"), tail: 0, tail_bytes: 0 };
    let failing = || Question::Ids { room: super::stage::room("a"), since: 0, n: 1 };
    let fails = async |questions| {
        let ticket = node.ask_for(questions);
        eventually("an error", async || node.failed(ticket).then_some(())).await;
    };
    fails(vec![room(), failing()]).await;
    node.place(node.say("a", "nobody hears")).await;
    assert_eq!(node.join("a").await.top, 1);
    fails(vec![room(), failing()]).await;
    node.place(node.say("a", "heard")).await;
    assert_eq!(node.reaches("a", 2).await.log.len(), 1);
}
