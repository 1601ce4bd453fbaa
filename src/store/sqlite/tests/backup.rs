//! Copies of a store that is written to, and what becomes of them.

use super::*;
use crate::store::journal::Journal;
use crate::store::sqlite::backup::copy;

impl Store {
    fn journal_dir(&self) -> PathBuf {
        self.path().with_extension("journal")
    }

    fn copy_to(&self, name: &str) -> (PathBuf, super::super::backup::Copied) {
        let to = self.folder.path().join(name);
        let copied = copy(&self.path(), &self.journal_dir(), &to).unwrap();
        (to, copied)
    }
}

#[test]
fn a_copy_has_what_the_archive_and_the_journal_have() {
    let mut store = Store::new();
    let (mut journal, _) = Journal::open(&store.journal_dir(), 0).unwrap();
    let items = store.items((1..=5_000).map(|n| Record::Entry(said("a", n, "word"))));
    journal.append(&items).unwrap();
    // The archive is behind, as it always may be.
    store.archive.append(&items[..1_000]).unwrap();
    let (to, copied) = store.copy_to("copy.db");
    assert_eq!((copied.upto, copied.from_journal, copied.lost.len()), (5_000, 4_000, 0));
    assert_eq!(copied.bytes, std::fs::metadata(&to).unwrap().len());
    let left = std::fs::read_dir(store.folder.path()).unwrap().count();
    assert_eq!(left, 2, "the folder of the store and one file");

    let restored = SqliteArchive::open(&to).unwrap();
    assert_eq!(restored.applied(), 5_000);
    let mut reader = restored.reader().unwrap();
    assert_eq!(offsets(reader.answer(&all_of("a")).unwrap()), (1..=5_000).collect::<Vec<_>>());
    assert_eq!(offsets(reader.answer(&find("a", "word")).unwrap()), (4_901..=5_000).collect::<Vec<_>>());
    assert_eq!(store.archive.applied(), 1_000, "the store itself is as it was");
}

#[test]
fn copies_made_while_the_server_writes_have_all_that_was_acknowledged_before() {
    let mut store = Store::new();
    let (mut journal, _) = Journal::open(&store.journal_dir(), 0).unwrap();
    let acknowledged = std::sync::atomic::AtomicU64::new(0);
    let (path, journal_dir) = (store.path(), store.journal_dir());
    let folder = store.folder.path().to_owned();
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            for n in 0..5 {
                let before = acknowledged.load(std::sync::atomic::Ordering::Acquire);
                let to = folder.join(format!("copy-{n}.db"));
                let copied = copy(&path, &journal_dir, &to).unwrap();
                assert!(copied.upto >= before, "{} is less than {before}", copied.upto);
                let restored = SqliteArchive::open(&to).unwrap();
                let list = offsets(restored.reader().unwrap().answer(&all_of("a")).unwrap());
                assert_eq!(list, (1..=copied.upto).collect::<Vec<_>>());
            }
        });
        let mut next = 1;
        while !copier.is_finished() {
            let items = store.items((next..next + 50).map(|n| Record::Entry(said("a", n, "word"))));
            next += 50;
            journal.append(&items).unwrap();
            acknowledged.store(next - 1, std::sync::atomic::Ordering::Release);
            store.archive.append(&items).unwrap();
            if next % 1_000 == 1 {
                journal.free(store.archive.checkpoint().unwrap());
            }
        }
        copier.join().unwrap();
    });
}

#[test]
fn a_copy_that_takes_the_place_of_its_store_begins_a_new_life_once() {
    let mut store = Store::new();
    store.put((1..=3).map(|n| Record::Entry(said("a", n, "word"))));
    let lives = |archive: &SqliteArchive| {
        let question = Question::Room { room: room("a"), tail: 0, tail_bytes: 0 };
        let Answer::Room(Some(room)) = archive.reader().unwrap().answer(&question).unwrap() else {
            panic!("the room is not there")
        };
        (room.lineage, room.top)
    };
    let (to, _) = store.copy_to("copy.db");
    let (again, _) = store.copy_to("again.db");
    assert_eq!(lives(&store.archive), (vec![(Epoch(7), 1)], 3), "the store itself goes on in its life");

    let mut restored = SqliteArchive::open(&to).unwrap();
    let (lineage, top) = lives(&restored);
    let epoch = lineage[1].0;
    assert_eq!((lineage, top), (vec![(Epoch(7), 1), (epoch, 4)], 3));
    assert!(epoch > Epoch(7));
    let mut next = said("a", 4, "after the restore");
    next.epoch = epoch;
    restored.append(&store.items([Record::Entry(next)])).unwrap();
    drop(restored);
    let restored = SqliteArchive::open(&to).unwrap();
    assert_eq!(lives(&restored), (vec![(Epoch(7), 1), (epoch, 4)], 4), "only the first start does it");
    assert_ne!(
        lives(&SqliteArchive::open(&again).unwrap()).0[1].0,
        epoch,
        "each restore has a life of its own"
    );
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_nothing_half_made() {
    let store = Store::new();
    let (to, _) = store.copy_to("copy.db");
    let again = copy(&store.path(), &store.journal_dir(), &to).unwrap_err();
    assert!(again.0.contains("is there already"), "{again}");
    let other = store.folder.path().join("other.db");
    std::fs::write(store.folder.path().join("other.db.tmp"), "somebody's").unwrap();
    let busy = copy(&store.path(), &store.journal_dir(), &other).unwrap_err();
    assert!(busy.0.contains("another backup is being made"), "{busy}");
    assert_eq!(std::fs::read_to_string(store.folder.path().join("other.db.tmp")).unwrap(), "somebody's");
    let broken = store.folder.path().join("data/broken.db");
    std::fs::write(
        &broken,
        "this is not a store but some text that is longer than a header, and then some more",
    )
    .unwrap();
    let third = store.folder.path().join("third.db");
    assert!(copy(&broken, &store.journal_dir(), &third).is_err());
    assert!(!third.exists() && !store.folder.path().join("third.db.tmp").exists());
}
