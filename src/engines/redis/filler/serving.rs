//! One partition's feed on one node: waits for its turn, reads on where the archive stands, and gives its turn away
//! when the archive takes nothing from this node. One task each; thrown away with its connections at the first
//! trouble, and begun anew.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::writer::Writer;
use crate::chat::entry::Entry;
use crate::engines::redis::feed::{Feed, Place};
use crate::engines::redis::life::keys::Keys;
use crate::redis_link::{RedisLink, check_primary};
use crate::store::archive::{ArchiveError, Position};

/// How long a turn lasts without being renewed, and how often it is renewed.
const TURN: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_secs(1);
/// Between two looks at a turn that somebody else has, and after a trouble.
const PAUSE: Duration = Duration::from_millis(700);
/// Most entries in one transaction of the archive.
const BATCH: usize = 1_000;
/// How long Redis waits for new entries before it says that there are none.
const BLOCK: Duration = Duration::from_millis(500);
/// Longest that a command may take before the server counts as dead.
const RESPONSE_MAX: Duration = Duration::from_millis(1_500);

/// See above.
pub struct Server {
    link: RedisLink,
    feed: Feed,
    pub(super) keys: Keys,
    pub(super) partition: u16,
    pub(super) writer: Writer,
    pub(super) shared: Arc<Shared>,
    /// Names this node's turn.
    token: String,
    trouble_told: bool,
}

/// The connections of a stay at a primary.
pub(super) struct Stay {
    /// For what answers at once.
    pub(super) control: MultiplexedConnection,
    /// Waits for entries.
    feed: MultiplexedConnection,
}

/// What a turn knows.
pub(super) struct Turn {
    /// When it was last taken.
    renewed: Instant,
    /// Entries that it has counted as waiting.
    waiting: u64,
    /// The same of notes.
    pub(super) notes_waiting: u64,
    /// When notes were last looked for; none: not yet.
    pub(super) noted: Option<Instant>,
}

/// Why a turn has ended.
pub(super) enum End {
    /// Another node has taken it.
    Lost,
    /// The archive takes nothing now.
    Archive,
    /// The node stops.
    Stopped,
}

impl Server {
    /// One that waits for its turn.
    pub fn new(
        link: RedisLink,
        feed: Feed,
        keys: Keys,
        partition: u16,
        writer: Writer,
        shared: Arc<Shared>,
    ) -> Server {
        let token = format!("{:032x}", rand::random::<u128>());
        Server { link, feed, keys, partition, writer, shared, token, trouble_told: false }
    }

    /// Serves until it is told to stop.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        while !self.shared.stopping.load(Relaxed) {
            let stay = self.stay().await;
            if let Err(error) = &stay
                && !self.trouble_told
            {
                log::warn!("archive: the feed of partition {} cannot be read: {error}", self.partition);
            }
            self.trouble_told = stay.is_err();
            tokio::select! {
                () = sleep(PAUSE) => {}
                // An error: who could tell to stop is gone, and so is the need for all this.
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Connects, waits for a turn and uses it. An error of Redis ends the stay.
    async fn stay(&mut self) -> RedisResult<()> {
        let host = self.link.primary_of(&self.feed.key(), &[]).await?.host;
        let mut stay = Stay {
            control: self.link.connect_to(&host, RESPONSE_MAX, None).await?,
            feed: self.link.connect_to(&host, RESPONSE_MAX, None).await?,
        };
        check_primary(&mut stay.control).await?;
        while !self.shared.stopping.load(Relaxed) {
            if !self.take_turn(&mut stay.control).await? {
                self.shared.feel(self.partition, None);
                sleep(PAUSE).await;
                check_primary(&mut stay.control).await?;
                continue;
            }
            let figures = &self.shared.figures;
            figures.served.fetch_add(1, Relaxed);
            let mut turn = Turn { renewed: Instant::now(), waiting: 0, notes_waiting: 0, noted: None };
            let ended = self.read_on(&mut stay, &mut turn).await;
            figures.served.fetch_sub(1, Relaxed);
            figures.waiting.fetch_sub(turn.waiting, Relaxed);
            figures.notes_waiting.fetch_sub(turn.notes_waiting, Relaxed);
            match ended? {
                End::Lost => {}
                // Somebody else may reach it.
                End::Archive => {
                    self.return_turn(&mut stay.control).await?;
                    return Ok(());
                }
                End::Stopped => self.return_turn(&mut stay.control).await?,
            }
        }
        Ok(())
    }

    async fn take_turn(&self, control: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.feed.take_turn(control, &self.token, TURN).await
    }

    async fn return_turn(&self, control: &mut MultiplexedConnection) -> RedisResult<()> {
        self.feed.return_turn(control, &self.token).await
    }

    async fn read_on(&self, stay: &mut Stay, turn: &mut Turn) -> RedisResult<End> {
        let mut position = match self.writer.position(self.partition).await {
            Ok(position) => position,
            Err(error) => return Ok(self.archive_fails(error.to_string())),
        };
        self.shared.feel(self.partition, None);
        if position != Position::default() {
            self.tell_archived(stay, position, turn).await?;
        }
        while !self.shared.stopping.load(Relaxed) {
            if turn.renewed.elapsed() >= RENEW {
                // A primary that has become a replica still answers reads.
                check_primary(&mut stay.control).await?;
                if !self.take_turn(&mut stay.control).await? {
                    return Ok(End::Lost);
                }
                turn.renewed = Instant::now();
            }
            if let Some(end) = self.bring_notes(stay, turn).await? {
                return Ok(end);
            }
            let piece = self.read(stay, position).await?;
            let Some(upto) = piece.upto else { continue };
            self.count(&piece);
            let entries = piece.entries.len() as u64;
            let appending = self.writer.append(self.partition, position, upto, piece.entries);
            let Some(appended) = self.keep_turn(stay, turn, appending).await? else {
                return Ok(End::Lost);
            };
            match appended {
                Ok(true) => {}
                Ok(false) => return Ok(End::Lost),
                Err(why) => return Ok(self.archive_fails(why)),
            }
            position = upto;
            self.shared.figures.archived.fetch_add(entries, Relaxed);
            self.tell_archived(stay, position, turn).await?;
        }
        // What this node's sessions have left behind is among it.
        turn.noted = None;
        Ok(self.bring_notes(stay, turn).await?.unwrap_or(End::Stopped))
    }

    pub(super) fn archive_fails(&self, why: String) -> End {
        self.shared.figures.failures.fetch_add(1, Relaxed);
        self.shared.feel(self.partition, Some(why));
        End::Archive
    }

    async fn read(&self, stay: &mut Stay, after: Position) -> RedisResult<Piece> {
        let items = self.feed.wait(&mut stay.feed, (after.epoch, after.n), BATCH, BLOCK).await?;
        Ok(Piece::of(after, items))
    }

    fn count(&self, piece: &Piece) {
        let figures = &self.shared.figures;
        if piece.unreadable > 0 {
            figures.unreadable.fetch_add(piece.unreadable, Relaxed);
            log::error!(
                "archive: {} entries in the feed of partition {} are of another program's making and are left out",
                piece.unreadable,
                self.partition
            );
        }
        if piece.missed > 0 {
            figures.missed.fetch_add(piece.missed, Relaxed);
            log::error!(
                "archive: {} entries left the feed of partition {} before they were read; was a copy of the \
                 database read in?",
                piece.missed,
                self.partition
            );
        }
    }

    /// Waits for the archive, and keeps the turn meanwhile. None: the turn was lost; what the archive did then is found
    /// out by whoever comes next.
    pub(super) async fn keep_turn<T>(
        &self,
        stay: &mut Stay,
        turn: &mut Turn,
        work: impl Future<Output = Result<T, ArchiveError>>,
    ) -> RedisResult<Option<Result<T, String>>> {
        tokio::pin!(work);
        let mut renew = interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.tick().await;
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done.map_err(|error| error.to_string()))),
                _ = renew.tick() => {
                    if !self.take_turn(&mut stay.control).await? {
                        return Ok(None);
                    }
                    turn.renewed = Instant::now();
                }
            }
        }
    }

    /// Says to all nodes how far the archive is.
    async fn tell_archived(&self, stay: &mut Stay, upto: Position, turn: &mut Turn) -> RedisResult<()> {
        let left = self.feed.reached(&mut stay.control, (upto.epoch, upto.n)).await?;
        let figure = &self.shared.figures.waiting;
        figure.fetch_add(left, Relaxed);
        figure.fetch_sub(turn.waiting, Relaxed);
        turn.waiting = left;
        Ok(())
    }
}

/// Some entries of a feed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Piece {
    /// Those that can be read, in order.
    entries: Vec<Entry>,
    /// The place of the last one; none for an empty piece.
    upto: Option<Position>,
    /// Those that cannot be read.
    unreadable: u64,
    /// Places that were left out behind the one that it was read from, as far as that can be told.
    missed: u64,
}

impl Piece {
    fn of(after: Position, items: Vec<(Place, Option<Entry>)>) -> Piece {
        let (mut piece, mut last) = (Piece::default(), after);
        for ((epoch, n), entry) in items {
            // Within an epoch the numbers have no hole; how far an earlier one went is not known here.
            if epoch == last.epoch && n > last.n {
                piece.missed += n - last.n - 1;
            }
            last = Position { epoch, n };
            piece.upto = Some(last);
            match entry {
                Some(entry) => piece.entries.push(entry),
                None => piece.unreadable += 1,
            }
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_within_an_epoch_is_counted() {
        let at = |epoch, n| Position { epoch, n };
        let piece = Piece::of(at(6, 2), vec![((6, 3), None), ((6, 6), None), ((7, 5), None)]);
        assert_eq!((piece.upto, piece.missed, piece.unreadable), (Some(at(7, 5)), 2, 3));
        assert_eq!(Piece::of(at(6, 2), Vec::new()), Piece::default());
    }
}
