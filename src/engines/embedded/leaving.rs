//! What leads from the store of one node to those who get copies of its entries: a thread reads the list of what
//! leaves, as soon as the archive has more; how far each listener is, the archiver notes. Handed out when the engine
//! is opened.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::archiver::ToArchiver;
use crate::forwards::feed::{Feed, FeedError, Next, Wanted};
use crate::forwards::target::Outgoing;
use crate::store::archive::ArchiveError;
use crate::store::outgoing::{Leaves, Listed, Listener, Number, OutgoingReader};
use crate::store::record::Lsn;

/// How long a feed waits for something to come.
const WAIT: Duration = Duration::from_secs(1);
/// Least number of places that are read at once: those of rooms that one listener does not want are passed over.
const PLACES_MIN: usize = 128;
/// About so many bytes of lines are read at once.
const BYTES: usize = 2 << 20;
/// Nobody else serves a store of this node's own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which entries somebody else is to get, and who. By default nobody gets any.
#[derive(Debug)]
pub struct Leaving {
    /// Entries of which rooms.
    pub leaves: Leaves,
    /// Who.
    pub listeners: Vec<Listener>,
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving { leaves: Leaves::new(|_| false), listeners: Vec::new() }
    }
}

/// A question to the thread that reads.
enum Ask {
    After { place: Number, n: usize, reply: oneshot::Sender<Result<Vec<Listed>, ArchiveError>> },
    Waiting { place: Number, reply: oneshot::Sender<Result<u64, ArchiveError>> },
}

/// Where feeds of a store come from.
#[derive(Clone)]
pub struct Departures {
    asks: Sender<Ask>,
    archiver: Sender<ToArchiver>,
    moved: watch::Receiver<Lsn>,
    /// Where each listener stands.
    places: Arc<Mutex<BTreeMap<String, Number>>>,
}

impl Departures {
    /// Starts the thread that reads. `places`: where each listener stands.
    pub(super) fn start(
        reader: Box<dyn OutgoingReader>,
        archiver: Sender<ToArchiver>,
        moved: watch::Receiver<Lsn>,
        places: BTreeMap<String, Number>,
    ) -> Result<Departures, String> {
        let (asks, inbox) = channel();
        super::spawn("leaving", move || answer(reader, &inbox))?;
        Ok(Departures { asks, archiver, moved, places: Arc::new(Mutex::new(places)) })
    }

    /// What leads to one of the listeners that the store was opened with: entries of the rooms that it wants, which
    /// are listed. One feed each.
    pub fn feed(&self, listener: &str, wanted: Wanted) -> StoreFeed {
        StoreFeed { departures: self.clone(), listener: listener.to_owned(), wanted }
    }

    fn place(&self, listener: &str) -> Option<Number> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(listener).copied()
    }
}

fn answer(mut reader: Box<dyn OutgoingReader>, inbox: &Receiver<Ask>) {
    for ask in inbox {
        // Whoever asked may have gone; then nobody needs the answer.
        match ask {
            Ask::After { place, n, reply } => {
                reply.send(reader.after(place, n, BYTES)).unwrap_or_default();
            }
            Ask::Waiting { place, reply } => reply.send(reader.waiting(place)).unwrap_or_default(),
        }
    }
}

/// See [`Departures::feed`].
pub struct StoreFeed {
    departures: Departures,
    listener: String,
    wanted: Wanted,
}

impl StoreFeed {
    fn place(&self) -> Result<Number, FeedError> {
        let unknown = || FeedError::new(format!("the store was not opened for {}", self.listener));
        self.departures.place(&self.listener).ok_or_else(unknown)
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, ArchiveError>>) -> Ask,
    ) -> Result<T, FeedError> {
        let gone = || FeedError::new("the thread that reads what leaves the store is gone");
        let (reply, answer) = oneshot::channel();
        self.departures.asks.send(ask(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(FeedError::new)
    }
}

impl Feed for StoreFeed {
    type Mark = Number;

    fn address(&self) -> String {
        "the store".into()
    }

    async fn open(&mut self) -> Result<(), FeedError> {
        self.place().map(drop)
    }

    async fn next(&mut self, n: usize) -> Result<Next<Number>, FeedError> {
        let until = Instant::now() + WAIT;
        loop {
            self.departures.moved.borrow_and_update();
            let (place, most) = (self.place()?, n.max(PLACES_MIN));
            let listed = self.ask(|reply| Ask::After { place, n: most, reply }).await?;
            if let Some(next) = folded(listed, n, &self.wanted) {
                return Ok(next);
            }
            match timeout_at(until, self.departures.moved.changed()).await {
                Err(_) => return Ok(Next::Nothing),
                Ok(Err(_)) => return Err(FeedError::new("the store has ended")),
                Ok(Ok(())) => {}
            }
        }
    }

    async fn note(&mut self, upto: Number) -> Result<(), FeedError> {
        let mut places = self.departures.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(self.listener.clone(), upto);
        drop(places);
        let left = ToArchiver::Left { listener: self.listener.clone(), upto };
        self.departures.archiver.send(left).map_err(|_| FeedError::new("the archive has ended"))
    }

    async fn stay(&mut self) -> Result<(), FeedError> {
        Ok(())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn waiting(&mut self) -> Result<u64, FeedError> {
        let place = self.place()?;
        self.ask(|reply| Ask::Waiting { place, reply }).await
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        let (done, settled) = oneshot::channel();
        let ended = || FeedError::new("the archive has ended");
        self.departures.archiver.send(ToArchiver::Settle(done)).map_err(|_| ended())?;
        settled.await.map_err(|_| ended())
    }
}

/// What was read, up to the first change between entries that are there and entries that are lost. None: nothing.
fn folded(listed: Vec<Listed>, n: usize, wanted: &Wanted) -> Option<Next<Number>> {
    let (mut list, mut lost, mut upto) = (Vec::new(), 0, None);
    for Listed { number, room, offset, entry } in listed {
        match entry {
            _ if !wanted(&room) => {}
            None if list.is_empty() => lost += 1,
            None => break,
            Some(_) if lost > 0 || list.len() == n => break,
            Some(standing) => {
                // An edit that a later change has replaced says nothing any more; the later one follows.
                if let Some(line) = &standing.line {
                    let (epoch, ts) = (standing.epoch, standing.ts);
                    list.push((number, Outgoing::new(room, epoch, offset, ts, standing.user, line)));
                }
            }
        }
        upto = Some(number);
    }
    let upto = upto?;
    Some(if lost > 0 { Next::Lost { entries: lost, upto } } else { Next::Entries { list, upto } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::Epoch;
    use crate::chat::names::RoomName;
    use crate::store::outgoing::Standing;
    use bytes::Bytes;

    /// A place in the list: with its line, without one, or lost.
    fn listed(number: Number, room: &str, entry: Option<Option<&'static str>>) -> Listed {
        let standing = |line: Option<&'static str>| Standing {
            epoch: Epoch(1),
            ts: 5,
            user: None,
            line: line.map(|line| Bytes::from_static(line.as_bytes())),
        };
        let room = RoomName::new(room).unwrap();
        Listed { number, room, offset: number as u64, entry: entry.map(standing) }
    }

    fn told(listed: Vec<Listed>, n: usize) -> Option<(Vec<Number>, u64, Number)> {
        let wanted: Wanted = Arc::new(|room: &RoomName| room.as_str() == "lobby");
        folded(listed, n, &wanted).map(|next| match next {
            Next::Entries { list, upto } => (list.into_iter().map(|(mark, _)| mark).collect(), 0, upto),
            Next::Lost { entries, upto } => (Vec::new(), entries, upto),
            Next::Nothing | Next::StandBy => unreachable!("a store has one node"),
        })
    }

    #[test]
    fn what_is_there_and_what_is_lost_come_one_after_the_other() {
        let (here, gone) = (Some(Some("{}")), None);
        let list = || {
            vec![
                listed(1, "lobby", gone),
                listed(2, "other", here),
                listed(3, "lobby", gone),
                listed(4, "lobby", here),
                listed(5, "lobby", Some(None)),
                listed(6, "lobby", here),
                listed(7, "other", gone),
                listed(8, "lobby", gone),
            ]
        };
        assert_eq!(told(list(), 9), Some((vec![], 2, 3)));
        assert_eq!(told(list().split_off(3), 9), Some((vec![4, 6], 0, 7)));
        assert_eq!(told(list().split_off(3), 1), Some((vec![4], 0, 4)), "no more than was asked for");
        assert_eq!(told(list().split_off(4), 1), Some((vec![6], 0, 7)));
        assert_eq!(told(list().split_off(7), 9), Some((vec![], 1, 8)));
        assert_eq!(told(vec![listed(2, "other", here)], 9), Some((vec![], 0, 2)));
        assert_eq!(told(vec![], 9), None);
    }
}
