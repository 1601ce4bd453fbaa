//! Figures of an archive with a million entries. Not a test of anything: run it alone, on a machine that does
//! nothing else.
//!
//!     cargo test --test postgres figures -- --ignored --nocapture
//!
//! `ENTRIES=100000` makes it short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::history::PageFrom;
use roomcast::chat::message::Epoch;
use roomcast::store::archive::{Answer, Archive, ArchiveReader, Question};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::record::{Item, Record};

use crate::common::{room, user};
use crate::server::{Database, Server};

const BATCH: u64 = 1_000;
/// Every second entry goes to one large room, the others to so many small ones.
const SMALL_ROOMS: u64 = 500;
const VOCABULARY: u32 = 20_000;
const ASKED: usize = 1_000;

/// Where the n-th entry goes, and its offset there.
fn place(n: u64) -> (String, u64) {
    if n.is_multiple_of(2) {
        return ("large".into(), n / 2 + 1);
    }
    let nth = n / 2;
    (format!("small-{}", nth % SMALL_ROOMS), nth / SMALL_ROOMS + 1)
}

/// Words as people use them: some often, most of them rarely.
fn words(random: &mut StdRng) -> String {
    let word = |random: &mut StdRng| {
        let rank = f64::from(VOCABULARY).powf(random.random::<f64>()) as u32;
        format!("word{rank:x}")
    };
    (0..20).map(|_| word(random)).collect::<Vec<_>>().join(" ")
}

fn entry(n: u64, random: &mut StdRng) -> Entry {
    let (name, offset) = place(n);
    let (ts, data) = (1_700_000_000_000 + n, words(random));
    let line =
        format!(r#"{{"t":"msg","r":"{name}","s":{offset},"id":"id-{n}","u":"ann","ts":{ts},"d":"{data}"}}"#);
    Entry {
        room: room(&name),
        epoch: Epoch(7),
        offset,
        ts,
        kind: Kind::Message,
        user: Some(user("ann")),
        id: None,
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(line),
    }
}

/// Asks again and again; prints p50 and p99.
fn ask(what: &str, reader: &mut dyn ArchiveReader, mut question: impl FnMut() -> Question) {
    let (mut times, mut found) = (Vec::with_capacity(ASKED), 0);
    for _ in 0..ASKED {
        let question = question();
        let began = Instant::now();
        let answer = reader.answer(&question).unwrap();
        times.push(began.elapsed());
        if let Answer::Entries { list, .. } = answer {
            found += list.len();
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{what:<44} p50 {:>9.2?}  p99 {:>9.2?}  found {:>5.1}",
        at(50),
        at(99),
        found as f64 / ASKED as f64
    );
}

#[test]
#[ignore = "takes minutes and judges nothing"]
fn figures() {
    let entries: u64 = std::env::var("ENTRIES").map_or(1_000_000, |text| text.parse().unwrap());
    let server = Arc::new(Server::start(&["-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"]));
    let database = Database::on(server);
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let (mut in_store, mut pieces) = (Duration::ZERO, Vec::new());
    for batch in 0..entries / BATCH {
        let items: Vec<Item> = (batch * BATCH..(batch + 1) * BATCH)
            .map(|n| Item { lsn: n + 1, record: Record::Entry(entry(n, &mut random)), with_next: false })
            .collect();
        let began = Instant::now();
        archive.append(&items).unwrap();
        in_store += began.elapsed();
        pieces.push(began.elapsed());
    }
    let rate = |pieces: &[Duration]| {
        let seconds = pieces.iter().sum::<Duration>().as_secs_f64();
        (pieces.len() as u64 * BATCH) as f64 / seconds
    };
    let tenth = (pieces.len() / 10).max(1);
    println!(
        "{entries} entries in {in_store:.1?}: {:.0}/s; first tenth {:.0}/s, last tenth {:.0}/s",
        rate(&pieces),
        rate(&pieces[..tenth]),
        rate(&pieces[pieces.len() - tenth..])
    );
    println!("size {}", database.sql("SELECT pg_size_pretty(pg_database_size(current_database()))"));
    for table in ["entries", "entries_pkey", "entries_words"] {
        let sql = format!("SELECT pg_size_pretty(pg_relation_size('roomcast.{table}'))");
        println!("  {table} {}", database.sql(&sql));
    }

    let mut reader = archive.reader().unwrap();
    let reader = reader.as_mut();
    let (top, small_top) = (entries / 2, entries / 2 / SMALL_ROOMS);
    let page = |name: &str, before| Question::Page {
        room: room(name),
        from: PageFrom::Before(before),
        n: 50,
        bytes: 1 << 20,
    };
    let find = |name: &str, words: String| Question::Find {
        room: room(name),
        words,
        before: u64::MAX,
        n: 20,
        bytes: 1 << 20,
    };
    ask("page of 50, large room, anywhere", reader, || page("large", random.random_range(60..top)));
    ask("page of 50, small rooms, anywhere", reader, || {
        let name = format!("small-{}", random.random_range(0..SMALL_ROOMS));
        page(&name, random.random_range(60..small_top.max(61)))
    });
    ask("since a time, large room", reader, || Question::Since {
        room: room("large"),
        ts: 1_700_000_000_000 + random.random_range(0..entries),
    });
    ask("find a usual word, large room", reader, || {
        find("large", format!("word{:x} ", random.random_range(1..50)))
    });
    ask("find a rare word, large room", reader, || {
        find("large", format!("word{:x} ", random.random_range(5_000..VOCABULARY)))
    });
    ask("find two middling words, large room", reader, || {
        let (a, b) = (random.random_range(50..500), random.random_range(50..500));
        find("large", format!("word{a:x} word{b:x} "))
    });
    ask("find the start of a word, large room", reader, || {
        find("large", format!("word{:x}", random.random_range(16..256)))
    });
    ask("find a word that is nowhere", reader, || find("large", "nosuchword ".into()));
    ask("find a word, small rooms", reader, || {
        let name = format!("small-{}", random.random_range(0..SMALL_ROOMS));
        find(&name, format!("word{:x} ", random.random_range(1..2_000)))
    });
}
