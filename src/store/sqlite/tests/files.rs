use super::*;

#[test]
fn what_was_applied_is_there_after_a_reopen() {
    let mut store = Store::new();
    store.put([said("a", 1, "one"), said("a", 2, "two")].map(Record::Entry));
    store.archive = SqliteArchive::open(&store.path()).unwrap();
    assert_eq!(store.archive.applied(), 2);
    assert_eq!(offsets(store.ask(&all_of("a"))), [1, 2]);
    assert_eq!(offsets(store.ask(&find("a", "tw"))), [2]);
}
