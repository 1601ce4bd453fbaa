//! SQLite alone, as one would use it without a journal before it: a log with one index, a transaction for each group,
//! synced at every commit (`synchronous = FULL`). A group is as large as the messages under way.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{Achieved, LINE_BYTES, ROOMS};
use crate::failure::Failure;
use crate::histogram::Histogram;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Run(format!("sqlite: {error}"))
    }
}

pub fn measure(folder: &Path, group: usize, time: Duration) -> Result<Achieved, Failure> {
    let mut db = Connection::open(folder.join("alone.db"))?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    db.execute_batch(
        "PRAGMA synchronous = FULL;
         CREATE TABLE log (n INTEGER PRIMARY KEY, room TEXT, s INTEGER, id TEXT, line BLOB);
         CREATE INDEX log_place ON log (room, s);",
    )?;
    let line = vec![b'x'; LINE_BYTES];
    let (start, mut waits, mut n) = (Instant::now(), Histogram::default(), 0u64);
    while start.elapsed() < time {
        let before = Instant::now();
        let transaction = db.transaction()?;
        let mut insert =
            transaction.prepare("INSERT INTO log (room, s, id, line) VALUES (?1, ?2, ?3, ?4)")?;
        for _ in 0..group {
            let (room, s, id) = (format!("room-{}", n % ROOMS), (n / ROOMS + 1) as i64, format!("k-{n}"));
            insert.execute((room, s, id, &line))?;
            n += 1;
        }
        drop(insert);
        transaction.commit()?;
        let wait = before.elapsed().as_nanos() as u64;
        (0..group).for_each(|_| waits.add(wait));
    }
    Ok(Achieved::of(&waits, start.elapsed().as_secs_f64()))
}
