//! What the outbox settles, in which order, and what it says again.

use super::*;
use crate::chat::entry::{Entry, Kind};

fn queued(ticket: u64, room: &str, safety: Safety) -> Queued {
    let room = RoomName::new(room).unwrap();
    let entry = Entry {
        room: room.clone(),
        epoch: Epoch(0),
        offset: 0,
        ts: 100 + ticket,
        kind: Kind::Message,
        user: None,
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from_static(b"{}"),
    };
    let body = frame::body(&entry, b"key", true);
    Queued { ticket: Some(ticket), room, body, safety, since: Instant::now(), tried: false }
}

fn filled(list: &[(u64, &str, Safety)]) -> Outbox {
    let mut outbox = Outbox::new(Arc::default());
    for (ticket, room, safety) in list {
        let queued = queued(*ticket, room, *safety);
        outbox.bytes.fetch_add(queued.weight(), Relaxed);
        outbox.push(queued);
    }
    outbox
}

fn placed(offset: Offset, ts: u64, known: bool, fed: Option<Fed>) -> Said {
    Said::Placed { offset, epoch: 7, ts, known, fed }
}

fn tickets(settled: &Settled) -> Vec<u64> {
    settled.iter().map(|(ticket, _)| *ticket).collect()
}

#[test]
fn what_the_script_says_is_read() {
    assert_eq!(Said::parse(b"+5:7:99"), Some(placed(5, 99, false, None)));
    assert_eq!(Said::parse(b"=0:7:99:8-12"), Some(placed(0, 99, true, Some((8, 12)))));
    assert_eq!((Said::parse(b"g"), Said::parse(b"u")), (Some(Said::Gone), Some(Said::Unloaded)));
    for odd in [&b""[..], b"x", b"+", b"+1:2", b"+1:2:3:4", b"+a:b:c"] {
        assert_eq!(Said::parse(odd), None, "{odd:?}");
    }
}

#[test]
fn outcomes_leave_in_order_when_they_are_safe() {
    let mut outbox =
        filled(&[(1, "a", Safety::Archived), (2, "a", Safety::Replicated), (3, "b", Safety::Sequenced)]);
    assert_eq!(outbox.take(|_| false).len(), 3);
    let said = vec![placed(1, 101, false, Some((7, 1))), placed(2, 102, false, Some((7, 2))), Said::Gone];
    let mut own = Vec::new();
    outbox.answered(said, |queued, offset, epoch| own.push((queued.ticket, offset, epoch)));
    assert_eq!(own, [(Some(1), 1, 7), (Some(2), 2, 7)]);
    assert!(outbox.awaits_replica() && outbox.awaits_archive());
    assert!(outbox.settle(true, (7, 0)).is_empty());
    assert_eq!(tickets(&outbox.settle(true, (7, 1))), [1], "the second has no copy yet");
    outbox.replicated();
    assert_eq!(tickets(&outbox.settle(true, (7, 1))), [2, 3]);
    assert!(outbox.is_empty());
    assert_eq!(outbox.bytes.load(Relaxed), 0);
}

#[test]
fn rooms_that_are_being_loaded_wait_in_their_order() {
    let mut outbox =
        filled(&[(1, "a", Safety::Sequenced), (2, "b", Safety::Sequenced), (3, "a", Safety::Sequenced)]);
    outbox.take(|_| false);
    let unloaded =
        outbox.answered(vec![Said::Unloaded, placed(1, 102, false, None), Said::Unloaded], |_, _, _| {});
    assert_eq!(unloaded.len(), 2);
    assert_eq!(tickets(&outbox.settle(false, (0, 0))), [2]);
    assert!(outbox.take(|room| room.as_str() == "a").is_empty());
    let next: Vec<_> = outbox.take(|_| false).iter().map(|queued| queued.ticket).collect();
    assert_eq!(next, [Some(1), Some(3)]);
}

#[test]
fn an_own_try_whose_answer_was_lost_is_no_repeat() {
    let mut outbox = filled(&[(1, "a", Safety::Sequenced), (2, "a", Safety::Sequenced)]);
    outbox.take(|_| false);
    outbox.failed(false);
    outbox.take(|_| false);
    outbox.answered(vec![placed(1, 101, true, None), placed(2, 55, true, None)], |_, _, _| {});
    let duplicates: Vec<bool> = outbox
        .settle(false, (0, 0))
        .into_iter()
        .map(|(_, outcome)| matches!(outcome, Outcome::Placed(accepted) if accepted.duplicate))
        .collect();
    assert_eq!(duplicates, [false, true], "the second was first said by somebody else");
}

#[test]
fn after_a_stay_everything_without_an_outcome_is_asked_again() {
    let mut outbox = filled(&[(1, "a", Safety::Replicated), (2, "a", Safety::Replicated)]);
    outbox.take(|_| false);
    outbox.answered(vec![placed(1, 101, false, None), placed(2, 102, false, None)], |_, _, _| {});
    outbox.push(queued(3, "a", Safety::Replicated));
    outbox.start_over();
    let next: Vec<_> = outbox.take(|_| false).iter().map(|queued| (queued.ticket, queued.tried)).collect();
    assert_eq!(next, [(Some(1), true), (Some(2), true), (Some(3), false)]);
}

#[test]
fn what_stands_behind_a_refused_one_of_its_room_is_refused_with_it() {
    let mut outbox = filled(&[(1, "a", Safety::Sequenced)]);
    let late = Instant::now() + WAIT_MAX;
    for (ticket, room) in [(2, "b"), (3, "a")] {
        let young = Queued { since: late, ..queued(ticket, room, Safety::Sequenced) };
        outbox.bytes.fetch_add(young.weight(), Relaxed);
        outbox.push(young);
    }
    assert_eq!(tickets(&outbox.expire(late + Duration::from_secs(1))), [1, 3]);
    assert_eq!(outbox.take(|_| false).len(), 1, "another room has nothing to do with it");
}

#[test]
fn who_waits_too_long_is_refused_but_never_what_was_acknowledged() {
    let mut outbox = filled(&[(1, "a", Safety::Sequenced), (2, "a", Safety::Sequenced)]);
    outbox.push_own(RoomName::new("a").unwrap(), Bytes::from_static(b"again"));
    outbox.take(|_| false);
    outbox.failed(false);
    outbox.push(queued(3, "a", Safety::Sequenced));
    outbox.bytes.fetch_add(queued(3, "a", Safety::Sequenced).weight(), Relaxed);
    let now = Instant::now();
    assert!(outbox.expire(now + WAIT_MAX / 2).is_empty());
    assert_eq!(tickets(&outbox.expire(now + WAIT_MAX * 2)), [3], "the others may have a place");
    assert_eq!(tickets(&outbox.expire(now + DOUBT_MAX * 2)), [1, 2]);
    assert_eq!(outbox.take(|_| false).len(), 1, "what this node says again");
}
