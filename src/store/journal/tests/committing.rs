//! The commit thread on disks that work and disks that fail.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::Journal;
use super::disks::FaultyDisk;
use super::{item, items, lsns, stands};
use crate::store::committer::{Committer, FromJournal};
use crate::store::record::{Item, Lsn};

/// Longer than anything here takes; a test that waits so long has failed.
const FOREVER: Duration = Duration::from_secs(60);

/// What came out of the thread, in its order.
#[derive(Debug, PartialEq)]
enum Out {
    Said(FromJournal),
    Archived(Vec<Lsn>),
}

struct Desk {
    folder: tempfile::TempDir,
    disk: FaultyDisk,
    committer: Committer,
    out: Receiver<Out>,
    /// The archive takes a group for each of these.
    tickets: Sender<()>,
}

impl Desk {
    /// With `tickets`, so many groups go to the archive before it blocks.
    fn open(tickets: usize) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let (journal, _) =
            Journal::open_on(Box::new(disk.clone()), &folder.path().join("journal"), 0, 1 << 20).unwrap();
        let (tell, out) = channel();
        let (give, take) = channel();
        (0..tickets).for_each(|_| give.send(()).unwrap());
        let (events, tell) = (tell.clone(), Arc::new(Mutex::new(tell)));
        let committer = Committer::start(
            journal,
            Box::new(move |event| events.send(Out::Said(event)).unwrap()),
            Box::new(move |group: Arc<Vec<Item>>| {
                let lsns = group.iter().map(|item| item.lsn).collect();
                tell.lock().unwrap().send(Out::Archived(lsns)).unwrap();
                // Without tickets for a while, as an archive that is far behind.
                take.recv_timeout(FOREVER).expect("a ticket comes");
            }),
        );
        Desk { folder, disk, committer, out, tickets: give }
    }

    fn next(&self) -> Out {
        self.out.recv_timeout(FOREVER).expect("something is said")
    }

    fn hears(&self, event: FromJournal) {
        assert_eq!(self.next(), Out::Said(event));
    }

    fn journal_has(self) -> Vec<Item> {
        (0..100).for_each(|_| self.tickets.send(()).unwrap());
        self.committer.stop();
        let found = super::super::look(&self.folder.path().join("journal"), 0).unwrap();
        assert_eq!((&found.lost[..], &found.notes[..]), (&[][..], &[][..]));
        found.items
    }
}

fn kept(upto: Lsn) -> FromJournal {
    FromJournal::Kept { upto }
}

#[test]
fn what_queues_during_a_commit_is_one_group() {
    let desk = Desk::open(0);
    desk.committer.append(items(1..=1));
    desk.hears(kept(1));
    assert_eq!(desk.next(), Out::Archived(vec![1]));
    for lsn in 2..=300 {
        desk.committer.append(items(lsn..=lsn));
    }
    assert!(desk.committer.backlog_bytes() > 0);
    desk.tickets.send(()).unwrap();
    desk.hears(kept(300));
    assert_eq!(desk.next(), Out::Archived((2..=300).collect()));
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let counters = desk.committer.counters();
    assert_eq!((counted(&counters.groups), counted(&counters.records)), (2, 300));
    assert_eq!((counted(&counters.syncs), counted(&counters.failures)), (2, 0));
    assert_eq!(counted(&counters.bytes), desk.committer.backlog_bytes());
    assert_eq!(desk.journal_has(), items(1..=300));
}

#[test]
fn a_group_has_a_bound_but_splits_no_pair() {
    let desk = Desk::open(100);
    let mut all = items(1..=4500);
    all[1999].with_next = true;
    desk.committer.append(all.clone());
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 4500 {
        if let Out::Archived(lsns) = desk.next() {
            sizes.push(lsns.len());
        }
    }
    assert_eq!(sizes, [2001, 2000, 499]);
    let large: Vec<Item> = (4501..=4520).map(|lsn| item(lsn, &"x".repeat(1 << 20))).collect();
    desk.committer.append(large.clone());
    desk.hears(kept(4504));
    assert_eq!(desk.next(), Out::Archived(vec![4501, 4502, 4503, 4504]));
    all.extend(large);
    assert_eq!(desk.journal_has(), all);
}

#[test]
fn a_failure_is_said_once_and_all_goes_on_with_the_number_it_named() {
    for n in 1.. {
        let desk = Desk::open(1000);
        let base = desk.disk.0.lock().unwrap().syncs;
        desk.disk.0.lock().unwrap().fail_sync = Some(base + n);
        let mut failures = 0;
        let mut next = 1;
        while next <= 5 {
            desk.committer.append(vec![item(next, &format!("attempt {failures}"))]);
            match desk.next() {
                Out::Said(FromJournal::Kept { upto }) => {
                    assert_eq!((upto, desk.next()), (next, Out::Archived(vec![next])));
                    next += 1;
                }
                Out::Said(FromJournal::Failed { from, full, why }) => {
                    assert_eq!((from, full), (next, false));
                    assert!(why.contains("a sync failed"), "{why}");
                    failures += 1;
                    // What is under way when the sender learns of it is thrown away.
                    desk.committer.append(items(next + 1..=next + 3));
                    desk.hears(FromJournal::Healed);
                    desk.committer.append(items(next + 4..=next + 4));
                    desk.committer.resume(from);
                }
                other => panic!("{other:?}"),
            }
        }
        let untouched = desk.disk.0.lock().unwrap().syncs < base + n;
        assert_eq!(failures, u64::from(!untouched), "sync {n}");
        let found = desk.journal_has();
        assert_eq!(found.iter().map(|item| item.lsn).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "sync {n}");
        assert!(found[4] == item(5, &format!("attempt {failures}")));
        if untouched {
            assert!(n > 5);
            return;
        }
    }
}

#[test]
fn a_full_disk_heals_when_there_is_room_and_not_before() {
    let desk = Desk::open(1000);
    desk.committer.append(items(1..=1));
    desk.hears(kept(1));
    assert_eq!(desk.next(), Out::Archived(vec![1]));
    desk.disk.0.lock().unwrap().room = Some(10);
    desk.committer.append(items(2..=3));
    let Out::Said(FromJournal::Failed { from: 2, full: true, why }) = desk.next() else {
        panic!("it is not said that the disk is full");
    };
    assert!(why.contains("make room on the disk"), "{why}");
    let failures = || desk.committer.counters().failures.load(std::sync::atomic::Ordering::Relaxed);
    let start = std::time::Instant::now();
    while failures() < 2 {
        assert!(start.elapsed() < FOREVER, "nobody tries to heal");
        std::thread::yield_now();
    }
    assert!(desk.out.try_recv().is_err(), "the failure is said once");
    desk.disk.0.lock().unwrap().room = None;
    desk.hears(FromJournal::Healed);
    desk.committer.resume(7);
    desk.committer.append(items(7..=7));
    desk.committer.resume(2);
    desk.committer.append(items(2..=2));
    desk.hears(kept(2));
    assert_eq!(desk.journal_has(), items(1..=2), "a wrong number does not resume it");
}

#[test]
fn words_that_were_pending_with_their_scrub_go_too() {
    let desk = Desk::open(0);
    desk.committer.append(items(1..=1));
    desk.hears(kept(1));
    // The thread is busy with the archive: all of this is found in the queue together.
    desk.committer.append(vec![item(2, "the words that have to go"), item(3, "delete 2")]);
    desk.committer.scrub();
    (0..9).for_each(|_| desk.tickets.send(()).unwrap());
    assert_eq!(desk.next(), Out::Archived(vec![1]));
    desk.hears(kept(3));
    assert_eq!(desk.next(), Out::Archived(vec![2, 3]));
    desk.committer.free(3);
    desk.committer.append(items(4..=4));
    desk.hears(kept(4));
    assert!(!stands(&desk.folder.path().join("journal"), "the words that have to go"));
}

#[test]
fn stop_commits_what_came_before_and_closes_the_journal() {
    let desk = Desk::open(1000);
    for lsn in 1..=50 {
        desk.committer.append(items(lsn..=lsn));
    }
    let other = desk.committer.clone();
    desk.committer.stop();
    other.append(items(51..=51));
    other.stop();
    let (_journal, found) = Journal::open(&desk.folder.path().join("journal"), 0).unwrap();
    assert_eq!(lsns(&found), (1..=50).collect::<Vec<_>>());
}
