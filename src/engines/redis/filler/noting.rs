//! What stands beside the logs on its way to the archive: read marks, where sessions stand, rules of rooms. A part of a
//! node's turn in one partition; between two batches of entries, a few times a second at the most.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::Instant;

use super::serving::{End, Server, Stay, Turn};
use crate::engines::redis::life::due::{self, Taken};
use crate::store::record::Record;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Most notes in one transaction of the archive.
const BATCH: usize = 1_000;
/// How long entries wait for notes; and at the end of a node, how long it brings those that are left.
const TIME_MAX: Duration = Duration::from_secs(2);

impl Server {
    /// Brings what the archive lacks, if it is time to look. Returns how the turn has ended, if it has.
    pub(super) async fn bring_notes(&self, stay: &mut Stay, turn: &mut Turn) -> RedisResult<Option<End>> {
        if turn.noted.is_some_and(|noted| noted.elapsed() < PAUSE) {
            return Ok(None);
        }
        let began = Instant::now();
        loop {
            turn.noted = Some(Instant::now());
            let taken = due::take(&mut stay.control, &self.keys, BATCH).await?;
            self.count_notes(&taken, turn);
            if taken.list.is_empty() {
                return Ok(None);
            }
            let records: Vec<Record> = taken.list.iter().filter_map(|due| due.record.clone()).collect();
            let count = records.len() as u64;
            let noting = self.writer.note(records);
            match self.keep_turn(stay, turn, noting).await? {
                None => return Ok(Some(End::Lost)),
                Some(Err(why)) => return Ok(Some(self.archive_fails(why))),
                Some(Ok(())) => {}
            }
            due::done(&mut stay.control, &self.keys, &taken.list).await?;
            self.shared.figures.notes.fetch_add(count, Relaxed);
            let is_last = taken.left <= taken.list.len() as u64;
            self.count_waiting(taken.left - taken.list.len() as u64, turn);
            if is_last || began.elapsed() > TIME_MAX {
                return Ok(None);
            }
        }
    }

    fn count_notes(&self, taken: &Taken, turn: &mut Turn) {
        self.count_waiting(taken.left, turn);
        if taken.dropped > 0 {
            self.shared.figures.notes_dropped.fetch_add(taken.dropped, Relaxed);
            log::error!(
                "archive: {} read marks and places of sessions of partition {} had no place among those that wait for \
                 the archive; it lacks them until they change again",
                taken.dropped,
                self.partition
            );
        }
    }

    fn count_waiting(&self, left: u64, turn: &mut Turn) {
        let figure = &self.shared.figures.notes_waiting;
        figure.fetch_add(left, Relaxed);
        figure.fetch_sub(turn.notes_waiting, Relaxed);
        turn.notes_waiting = left;
    }
}
