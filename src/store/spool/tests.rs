//! A spool tells each event once, in order, over restarts; and keeps what can never be told for people to look at.

use super::letters::SpoolLetters;
use super::*;
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::letters::Letters;

fn wants() -> Wants {
    let rooms = vec![Pattern::new("*")];
    Wants { opens: true, messages: true, closes: true, errors: true, rooms, bytes_max: 1 << 20 }
}

fn said(room: &str, offset: u64) -> Record {
    Record::Entry(Entry {
        room: RoomName::new(room).unwrap(),
        epoch: Epoch(36),
        offset,
        ts: 1_000 + offset,
        kind: Kind::Message,
        user: None,
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: format!("{{\"t\":\"msg\",\"r\":\"{room}\",\"s\":{offset},\"d\":\"x\"}}").into(),
    })
}

fn event(session: &str, what: Happened) -> Record {
    let user = UserName::new("ann").unwrap();
    Record::Event(SessionEvent { session: session.into(), user, ts: 5, what })
}

fn items(first: Lsn, records: impl IntoIterator<Item = Record>) -> Vec<Item> {
    (first..).zip(records).map(|(lsn, record)| Item { lsn, record, with_next: false }).collect()
}

/// The keys of the events that wait, oldest first.
fn keys(spool: &Spool) -> Vec<String> {
    let all = spool.next(usize::MAX, usize::MAX).unwrap();
    let key = |event: &Waiting| {
        let event: serde_json::Value = serde_json::from_str(&event.body).expect("an event is JSON");
        event["key"].as_str().expect("it has a key").to_owned()
    };
    all.iter().map(key).collect()
}

#[test]
fn events_are_told_in_their_order_until_they_are_taken() {
    let spool = Spool::in_memory(wants()).unwrap();
    spool
        .take(&[
            event("s-1", Happened::Opened(Some("{\"name\": \"Ann\"}".into()))),
            said("lobby", 7),
            event("s-1", Happened::Failed("the link broke".into())),
            event("s-1", Happened::Closed(1001)),
        ])
        .unwrap();
    let all = spool.next(10, usize::MAX).unwrap();
    let bodies: Vec<&str> = all.iter().map(|event| event.body.as_str()).collect();
    assert_eq!(
        bodies,
        [
            r#"{"event":"on_open","key":"s-1-open","session":"s-1","u":"ann","ts":5,"info":{"name": "Ann"}}"#,
            r#"{"event":"on_message","key":"lobby@10-7","e":"10","t":"msg","r":"lobby","s":7,"d":"x"}"#,
            r#"{"event":"on_error","key":"s-1-error-5","session":"s-1","u":"ann","ts":5,"why":"the link broke"}"#,
            r#"{"event":"on_close","key":"s-1-close","session":"s-1","u":"ann","ts":5,"code":1001}"#,
        ]
    );
    spool.taken(all[1].n).unwrap();
    assert_eq!(keys(&spool), ["s-1-error-5", "s-1-close"]);
    let (levels, oldest) = spool.levels().unwrap();
    assert_eq!((levels.waiting, oldest), (2, 5));
}

#[test]
fn records_that_are_known_are_not_told_again_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/roomcast.hooks.db");
    let spool = Spool::open(&path, wants()).unwrap();
    assert_eq!(spool.applied(), None, "a new one begins where it is told to");
    spool.begin_behind(4).unwrap();
    spool.append(&items(3, [said("a", 1), said("a", 2), said("a", 3)])).unwrap();
    assert_eq!(keys(&spool), ["a@10-3"], "those up to the fourth are before its time");
    assert_eq!(spool.sync(), Ok(5));
    drop(spool);
    let spool = Spool::open(&path, wants()).unwrap();
    assert_eq!(spool.applied(), Some(5));
    spool.append(&items(5, [said("a", 3), said("a", 4)])).unwrap();
    let told = spool.next(10, usize::MAX).unwrap();
    assert_eq!(told.len(), 1, "the batch that was begun before");
    spool.taken(told[0].n).unwrap();
    assert_eq!(keys(&spool), ["a@10-4"]);
}

#[test]
fn a_batch_stays_the_same_until_it_is_dealt_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooks.db");
    let spool = Spool::open(&path, wants()).unwrap();
    spool.take(&[said("a", 1), said("a", 2)]).unwrap();
    let batch = spool.next(10, usize::MAX).unwrap();
    let id = spool.id();
    drop(spool);
    let spool = Spool::open(&path, wants()).unwrap();
    spool.take(&[said("a", 3)]).unwrap();
    assert_eq!((spool.next(10, usize::MAX).unwrap(), spool.id()), (batch.clone(), id), "under one id");
    assert_eq!(spool.next(1, usize::MAX).unwrap(), batch[..1], "fewer are another batch");
    assert_eq!(spool.next(10, usize::MAX).unwrap().len(), 1, "which stays too");
    spool.taken(batch[0].n).unwrap();
    assert_eq!(keys(&spool), ["a@10-2", "a@10-3"]);
    let one_byte = spool.next(10, 1).unwrap();
    assert_eq!(one_byte.len(), 1, "one event at the least, however large");
}

#[test]
fn only_wanted_events_of_wanted_rooms_are_kept() {
    let rooms = vec![Pattern::new("team-*")];
    let few = Wants { opens: false, errors: false, rooms, ..wants() };
    let spool = Spool::in_memory(few).unwrap();
    let opened = event("s-1", Happened::Opened(None));
    spool
        .take(&[opened, said("lobby", 1), said("team-red", 1), event("s-1", Happened::Closed(1000))])
        .unwrap();
    assert_eq!(keys(&spool), ["team-red@10-1", "s-1-close"]);
}

#[test]
fn sessions_that_were_open_end_with_their_process() {
    let spool = Spool::in_memory(wants()).unwrap();
    let opened = ["s-1", "s-2", "s-3"].map(|session| event(session, Happened::Opened(None)));
    spool.take(&opened).unwrap();
    spool.take(&[event("s-2", Happened::Closed(1000))]).unwrap();
    let told = spool.next(10, usize::MAX).unwrap();
    spool.taken(told.last().unwrap().n).unwrap();
    assert_eq!(spool.end_sessions(), Ok(2));
    assert_eq!(spool.end_sessions(), Ok(0), "once");
    assert_eq!(keys(&spool), ["s-1-close", "s-3-close"]);
    assert!(spool.next(10, usize::MAX).unwrap().iter().all(|event| event.body.contains("\"code\":1006")));
}

#[test]
fn what_failed_can_be_posted_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooks.db");
    let spool = Spool::open(&path, wants()).unwrap();
    spool.take(&[said("a", 1), said("a", 2), said("a", 3)]).unwrap();
    let all = spool.next(10, usize::MAX).unwrap();
    assert_eq!(spool.give_up(all[2].n, 1_003, "gone"), Ok(2), "those that happened before 1003");
    assert_eq!(keys(&spool), ["a@10-3"]);
    let mut letters = SpoolLetters::open(&path).unwrap().expect("it is there");
    let list = letters.list(10).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((&*list[0].source, &*list[0].reason, list[0].ts), ("hooks", "gone", 1_002));
    let ids = letters.ids().unwrap();
    assert_eq!(ids, [&*list[1].id, &*list[0].id], "oldest first");
    assert_eq!(letters.show(&ids[0]).unwrap().unwrap().item, all[0].body);
    assert_eq!(letters.post_again(&ids[0]), Ok(true));
    assert_eq!(letters.post_again(&ids[0]), Ok(false), "once");
    assert_eq!(letters.remove(&ids[1]), Ok(true));
    assert_eq!(letters.remove("other-1"), Ok(false));
    let (levels, _) = spool.levels().unwrap();
    assert_eq!((levels.waiting, levels.failed_bytes), (2, 0), "counted anew");
    spool.taken(all[2].n).unwrap();
    assert_eq!(keys(&spool), ["a@10-1"], "behind all that waited");
}

#[test]
fn too_much_drops_the_oldest_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooks.db");
    let body = lines::of_entry(match &said("a", 1) {
        Record::Entry(entry) => entry,
        _ => unreachable!("it is an entry"),
    });
    let few = Wants { bytes_max: body.len() as u64 * 3, ..wants() };
    let spool = Spool::open(&path, few).unwrap();
    spool.take(&[said("a", 1)]).unwrap();
    let first = spool.next(1, usize::MAX).unwrap();
    spool.give_up(first[0].n, u64::MAX, "gone").unwrap();
    spool.take(&[said("a", 2), said("a", 3), said("a", 4)]).unwrap();
    assert_eq!(keys(&spool), ["a@10-2", "a@10-3", "a@10-4"], "what has failed goes first");
    for n in 5..=6 {
        spool.take(&[said("a", n)]).unwrap();
    }
    let (levels, _) = spool.levels().unwrap();
    assert_eq!((levels.waiting, levels.dropped, levels.failed_bytes), (3, 2, 0));
    let mut letters = SpoolLetters::open(&path).unwrap().expect("it is there");
    let notes = letters.list(10).unwrap();
    assert_eq!(notes.len(), 1, "one note for all that follow one another");
    assert_eq!(notes[0].item, "{\"dropped\":2}");
    assert_eq!(letters.post_again(&notes[0].id), Ok(false), "what is gone cannot be posted");
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (n)").unwrap();
    let error = Spool::open(&path, wants()).err().expect("it is refused");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
}
