//! The database goes away while a server works, and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast::store::archive::{Answer, Archive, ArchiveError, OpenError};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::postgres::address::PostgresUrl;
use roomcast::store::record::{Item, Record};

use crate::common::{all_of, find, offsets, said};
use crate::server::{Database, Server, eventually};

fn items(from: u64, to: u64) -> Vec<Item> {
    let item = |n| Item { lsn: n, record: Record::Entry(said("a", n, "some words")), with_next: false };
    (from..=to).map(item).collect()
}

/// Gives items to an archive until it takes them, as the thread behind the journal does.
fn append_at_last(archive: &mut dyn Archive, items: &[Item]) -> Vec<ArchiveError> {
    let mut errors = Vec::new();
    eventually("the archive to take items again", || match archive.append(items) {
        Ok(()) => Some(()),
        Err(error) => {
            errors.push(error);
            None
        }
    });
    errors
}

#[test]
fn kills_and_restarts_during_appends_lose_nothing_and_double_nothing() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Arc::new(Server::start(&[]));
    let database = Database::on(server.clone());
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let writer = scope.spawn(move || {
            let (mut next, mut failures) = (1, 0);
            while !done.load(Ordering::Acquire) {
                failures += append_at_last(&mut archive, &items(next, next + 49)).len();
                next += 50;
            }
            (archive, next - 1, failures)
        });
        for _ in 0..5 {
            let before: u64 =
                database.sql("SELECT value FROM roomcast.meta WHERE key = 'applied'").parse().unwrap();
            let further = before + random.random_range(100..1_000);
            eventually("some appends", || {
                let applied = database.sql("SELECT value FROM roomcast.meta WHERE key = 'applied'");
                (applied.parse::<u64>().unwrap() >= further).then_some(())
            });
            server.kill();
            server.restart();
        }
        done.store(true, Ordering::Release);
        let (archive, last, failures) = writer.join().unwrap();
        assert!(failures > 0, "no append has met an outage");
        assert_eq!(archive.applied(), last);
        let list = offsets(archive.reader().unwrap().answer(&all_of("a")).unwrap());
        assert_eq!(list, (1..=last).collect::<Vec<_>>());
        let counted = database
            .sql("SELECT count(*), count(DISTINCT s), bool_and(words IS NOT NULL) FROM roomcast.entries");
        assert_eq!(counted, format!("{last}|{last}|t"));
    });
}

#[test]
fn a_reader_and_a_writer_work_again_after_an_outage_by_themselves() {
    let server = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(server.clone());
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    archive.append(&items(1, 10)).unwrap();
    let mut reader = archive.reader().unwrap();
    assert_eq!(offsets(reader.answer(&all_of("a")).unwrap()).len(), 10);

    server.kill();
    let address = format!("postgres://postgres@127.0.0.1:{}/{}", server.port, database.name);
    for error in [archive.append(&items(11, 20)).unwrap_err(), reader.answer(&all_of("a")).unwrap_err()] {
        assert!(error.0.contains(&address) && error.0.contains("start it"), "{error}");
    }
    let began = Instant::now();
    let OpenError::Away(error) = PostgresArchive::open(&database.url()).unwrap_err() else {
        panic!("a database that is away is away")
    };
    assert!(error.0.contains(&address) && began.elapsed() < Duration::from_secs(5), "{error}");

    server.restart();
    // Without an error in between: the dead connection is found out before anything is lost.
    eventually("the reader", || reader.answer(&all_of("a")).ok());
    append_at_last(&mut archive, &items(11, 20));
    assert_eq!(offsets(reader.answer(&all_of("a")).unwrap()).len(), 20);
    server.kill();
    server.restart();
    reader.answer(&all_of("a")).expect("a connection that died while nobody used it is no error");
    archive.append(&items(21, 30)).expect("the same");
}

#[test]
fn a_server_that_hangs_is_given_up_after_a_time_and_taken_up_again() {
    let server = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(server.clone());
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    archive.append(&items(1, 10)).unwrap();
    let mut reader = archive.reader().unwrap();
    reader.answer(&find("a", "words")).unwrap();
    server.freeze();
    let began = Instant::now();
    let error = reader.answer(&all_of("a")).unwrap_err();
    assert!(error.0.contains("no answer within 10 s"), "{error}");
    let error = reader.answer(&all_of("a")).unwrap_err();
    assert!(error.0.contains("says nothing"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    server.thaw();
    append_at_last(&mut archive, &items(11, 20));
    eventually("the reader", || reader.answer(&all_of("a")).ok());
    let Answer::Entries { list, .. } = reader.answer(&all_of("a")).unwrap() else { panic!("another answer") };
    assert_eq!(list.len(), 20);
}

#[test]
fn a_transaction_whose_outcome_nobody_heard_is_not_done_twice() {
    let database = Database::new();
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    archive.append(&items(1, 10)).unwrap();
    // As if the answer to a commit had been lost: the archive's memory is behind the database.
    let mut behind = PostgresArchive::open_shared(&database.url()).unwrap();
    archive.append(&items(11, 20)).unwrap();
    assert_eq!((behind.applied(), archive.applied()), (10, 20));
    Archive::append(&mut behind, &items(11, 25)).unwrap();
    let mut reader = Archive::reader(&behind).unwrap();
    assert_eq!(offsets(reader.answer(&all_of("a")).unwrap()), (1..=25).collect::<Vec<_>>());

    // A database that has gone back is told from one that has not.
    database.sql("UPDATE roomcast.meta SET value = 5 WHERE key = 'applied'");
    let error = Archive::append(&mut behind, &items(26, 30)).unwrap_err();
    assert!(error.0.contains("has gone back") && error.0.contains("start the server again"), "{error}");
}

#[test]
fn a_full_disk_a_wrong_name_and_a_wrong_password_say_what_to_do() {
    let database = Database::new();
    let port = database.server.port;
    let refused = |url: &str| match PostgresArchive::open(&PostgresUrl::parse(url).unwrap()).unwrap_err() {
        OpenError::Failed(error) => error.0,
        OpenError::Away(error) => panic!("{error}"),
    };
    let text = refused(&format!("postgres://postgres@127.0.0.1:{port}/nosuch"));
    assert!(text.contains("createdb nosuch"), "{text}");
    let text = refused(&format!("postgres://nobody:hunter2@127.0.0.1:{port}/{}", database.name));
    assert!(text.contains("look at user and password") && !text.contains("hunter2"), "{text}");

    database.sql("CREATE ROLE guest LOGIN");
    let text = refused(&format!("postgres://guest@127.0.0.1:{port}/{}", database.name));
    assert!(text.contains("GRANT CREATE ON DATABASE"), "{text}");
}
