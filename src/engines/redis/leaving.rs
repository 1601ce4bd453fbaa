//! What leads from rooms in Redis to those who get copies of their entries: a stream for each partition, written by the
//! publish script in the order of acceptance, and by repairs. Each target has a turn in each partition, which one node
//! holds at a time; where it stands is noted only by the holder of the turn, and the stream forgets what all targets
//! have. A place in the stream is `epoch-n`, where `n` counts on for ever: a hole in it shows what was forgotten too
//! early. After a repair an entry may come again under a later place.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::chat::entry::Entry;
use crate::chat::names::RoomName;
use crate::engines::redis::feed::{self, Place, RETURN_TURN, TAKE_TURN};
use crate::engines::redis::keys::{Keys, PARTITIONS};
use crate::engines::redis::outbox::fed_of;
use crate::forwards::feed::{Feed, FeedError, Next, Start, Wanted};
use crate::forwards::target::Outgoing;
use crate::redis_link::{RedisLink, check_primary};

const BEGIN: &str = include_str!("lua/leaving_begin.lua");
const NOTE: &str = include_str!("lua/leaving_note.lua");

/// How long a turn lasts without being renewed, and how often it is renewed.
const TURN: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_secs(1);
/// Between two looks at a turn that another node has.
const PAUSE: Duration = Duration::from_millis(700);
/// How long Redis waits for new entries before it says that there are none.
const BLOCK: Duration = Duration::from_millis(500);
/// Longest that a command may take before the server counts as dead.
const RESPONSE_MAX: Duration = Duration::from_millis(1_500);
/// Least number of places that are read at once: those of rooms that one target does not want are passed over.
const PLACES_MIN: usize = 128;
/// How long the stream waits for a target that no node knows any more.
const FORGET: Duration = Duration::from_secs(3_600);

/// What the engine has to know of what leaves.
pub struct LeavingSettings {
    /// Entries of which rooms.
    pub leaves: Box<dyn Fn(&RoomName) -> bool + Send>,
    /// Most entries in the stream of a partition, about. Beyond it the oldest go.
    pub max: u64,
}

/// Who gets entries, and from where.
#[derive(Debug, Clone)]
pub struct Exits {
    link: RedisLink,
    prefix: String,
    targets: Arc<[String]>,
}

impl Exits {
    /// `prefix` as that of the engine; `targets`: the names of all of them.
    pub fn new(link: RedisLink, prefix: &str, targets: impl IntoIterator<Item = String>) -> Exits {
        Exits { link, prefix: prefix.to_owned(), targets: targets.into_iter().collect() }
    }

    /// What leads to one of the targets, from each partition: entries of the rooms that it wants.
    pub fn feeds(&self, target: &str, start: Start, wanted: &Wanted) -> Vec<RedisFeed> {
        let partitions = if self.link.is_cluster() { PARTITIONS as usize } else { 1 };
        let feed = |number| RedisFeed {
            exits: self.clone(),
            keys: Keys::new(&self.prefix, number),
            number,
            target: target.to_owned(),
            start,
            wanted: wanted.clone(),
            token: format!("{:032x}", rand::random::<u128>()),
            stay: None,
            known: None,
        };
        (0..partitions).map(feed).collect()
    }
}

/// One partition's entries on their way to one target.
pub struct RedisFeed {
    exits: Exits,
    keys: Keys,
    number: usize,
    target: String,
    start: Start,
    wanted: Wanted,
    /// Names this node's turn.
    token: String,
    stay: Option<Stay>,
    /// Where the target stood when this node served it last: should Redis have forgotten it, it goes on from there.
    known: Option<Place>,
}

/// The connections of a stay at a primary.
struct Stay {
    /// For what answers at once.
    control: MultiplexedConnection,
    /// Waits for entries.
    waiting: MultiplexedConnection,
    /// Where the target stands, while it is this node's turn.
    place: Option<Place>,
    renewed: Instant,
}

impl RedisFeed {
    fn stay(&mut self) -> Result<&mut Stay, FeedError> {
        self.stay.as_mut().ok_or_else(|| FeedError::new("not connected"))
    }

    fn turn(&self) -> String {
        self.keys.leaving_turn(&self.target)
    }

    /// Takes or keeps the turn. Whether it is this node's.
    async fn take_turn(&mut self) -> Result<bool, FeedError> {
        let mut call = redis::cmd("EVAL");
        call.arg(TAKE_TURN).arg(1).arg(self.turn()).arg(&self.token).arg(TURN.as_millis() as u64);
        let stay = self.stay()?;
        // A primary that has become a replica still answers reads.
        check_primary(&mut stay.control).await?;
        let is_ours: bool = call.query_async(&mut stay.control).await?;
        stay.renewed = Instant::now();
        Ok(is_ours)
    }

    /// Where the target stands.
    async fn begin(&mut self) -> Result<Place, FeedError> {
        let mut call = redis::cmd("EVAL");
        call.arg(BEGIN).arg(3).arg(self.turn()).arg(self.keys.leaving()).arg(self.keys.leaving_places());
        // Who was there before goes on where he was, also if Redis has lost that: a stream that was begun anew is in a
        // later epoch.
        let behind = self.start == Start::New && self.known.is_none();
        call.arg(&self.token).arg(&self.target).arg(u8::from(behind));
        let place: String = call.query_async(&mut self.stay()?.control).await?;
        let unreadable =
            || FeedError::new(format!("the place {:?} of {} cannot be read", place, self.target));
        match place.as_str() {
            "LOST" => Err(lost()),
            "0-0" => Ok(self.known.unwrap_or_default()),
            text => fed_of(text).ok_or_else(unreadable),
        }
    }

    /// Another node serves the target. Its place is looked up all the same: should Redis lose it, this node knows.
    async fn stand_by(&mut self) -> Result<(), FeedError> {
        let mut look = redis::cmd("HGET");
        look.arg(self.keys.leaving_places()).arg(&self.target);
        let stay = self.stay()?;
        stay.place = None;
        let place: Option<String> = look.query_async(&mut stay.control).await?;
        self.known = place.as_deref().and_then(fed_of).or(self.known);
        sleep(PAUSE).await;
        Ok(())
    }

    async fn read(&mut self, after: Place, n: usize) -> Result<Vec<(Place, Option<Entry>)>, FeedError> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(n.max(PLACES_MIN)).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(self.keys.leaving()).arg(format!("{}-{}", after.0, after.1));
        let answer: Value = read.query_async(&mut self.stay()?.waiting).await?;
        Ok(feed::items(answer)?)
    }
}

fn lost() -> FeedError {
    FeedError::new("the turn ran out while this node stood still")
}

impl Feed for RedisFeed {
    type Mark = Place;

    fn address(&self) -> String {
        format!("partition {} of {}", self.number, self.exits.link)
    }

    async fn open(&mut self) -> Result<(), FeedError> {
        self.stay = None;
        let link = &self.exits.link;
        let host = link.primary_of(&self.keys.leaving(), &[]).await?.host;
        self.stay = Some(Stay {
            control: link.connect_to(&host, RESPONSE_MAX, None).await?,
            waiting: link.connect_to(&host, RESPONSE_MAX, None).await?,
            place: None,
            renewed: Instant::now(),
        });
        Ok(())
    }

    async fn next(&mut self, n: usize) -> Result<Next<Place>, FeedError> {
        let place = self.stay()?.place;
        if place.is_none() || self.stay()?.renewed.elapsed() >= RENEW {
            if !self.take_turn().await? {
                self.stand_by().await?;
                return Ok(Next::StandBy);
            }
            if place.is_none() {
                let begun = self.begin().await?;
                self.stay()?.place = Some(begun);
            }
        }
        let place = self.stay()?.place.ok_or_else(lost)?;
        let read = self.read(place, n).await?;
        Ok(folded(place, read, n, &self.wanted))
    }

    async fn note(&mut self, upto: Place) -> Result<(), FeedError> {
        let mut call = redis::cmd("EVAL");
        call.arg(NOTE).arg(4).arg(self.turn()).arg(self.keys.leaving());
        call.arg(self.keys.leaving_places()).arg(self.keys.leaving_seen());
        call.arg(&self.token).arg(&self.target).arg(upto.0).arg(upto.1).arg(FORGET.as_millis() as u64);
        call.arg(&self.exits.targets[..]);
        let stay = self.stay()?;
        let noted: String = call.query_async(&mut stay.control).await?;
        if noted == "LOST" {
            return Err(lost());
        }
        stay.place = Some(upto);
        self.known = Some(upto);
        Ok(())
    }

    async fn stay(&mut self) -> Result<(), FeedError> {
        if self.take_turn().await? { Ok(()) } else { Err(lost()) }
    }

    fn patience(&self) -> Duration {
        RENEW
    }

    async fn waiting(&mut self) -> Result<u64, FeedError> {
        let key = self.keys.leaving_count();
        let stay = self.stay()?;
        let Some((_, noted)) = stay.place else { return Ok(0) };
        let newest: Option<u64> = redis::cmd("GET").arg(key).query_async(&mut stay.control).await?;
        Ok(newest.unwrap_or(0).saturating_sub(noted))
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        let mut call = redis::cmd("EVAL");
        call.arg(RETURN_TURN).arg(1).arg(self.turn()).arg(&self.token);
        match self.stay.take() {
            Some(mut stay) => Ok(call.query_async(&mut stay.control).await?),
            None => Ok(()),
        }
    }
}

/// What was read behind a place, up to the first hole; a hole right behind the place is told first.
fn folded(place: Place, read: Vec<(Place, Option<Entry>)>, n: usize, wanted: &Wanted) -> Next<Place> {
    let (mut list, mut last) = (Vec::new(), place);
    for (at, entry) in read {
        let missing = if last.1 == 0 { 0 } else { at.1.saturating_sub(last.1 + 1) };
        if missing > 0 && last == place {
            return Next::Lost { entries: missing, upto: (at.0, at.1 - 1) };
        }
        if missing > 0 || list.len() == n {
            break;
        }
        last = at;
        // What cannot be read was told in the log.
        if let Some(entry) = entry.filter(|entry| wanted(&entry.room)) {
            let Entry { room, epoch, offset, ts, user, line, .. } = entry;
            list.push((at, Outgoing::new(room, epoch, offset, ts, user, &line)));
        }
    }
    if last == place { Next::Nothing } else { Next::Entries { list, upto: last } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::entry::Kind;
    use crate::chat::message::Epoch;
    use bytes::Bytes;

    fn item(at: Place, room: &str) -> (Place, Option<Entry>) {
        let entry = Entry {
            room: RoomName::new(room).unwrap(),
            epoch: Epoch(at.0),
            offset: at.1,
            ts: 1,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::from_static(b"{}"),
        };
        (at, Some(entry))
    }

    fn told(place: Place, read: Vec<(Place, Option<Entry>)>, n: usize) -> (Vec<Place>, u64, Option<Place>) {
        let wanted: Wanted = Arc::new(|room: &RoomName| room.as_str() == "lobby");
        match folded(place, read, n, &wanted) {
            Next::Entries { list, upto } => (list.into_iter().map(|(at, _)| at).collect(), 0, Some(upto)),
            Next::Lost { entries, upto } => (vec![], entries, Some(upto)),
            Next::Nothing => (vec![], 0, None),
            Next::StandBy => unreachable!("a turn is taken before it is read"),
        }
    }

    #[test]
    fn holes_are_told_and_new_epochs_are_none() {
        let list = || {
            vec![item((7, 3), "lobby"), item((7, 4), "other"), item((8, 4), "lobby"), item((8, 6), "lobby")]
        };
        assert_eq!(told((7, 2), list(), 9), (vec![(7, 3), (8, 4)], 0, Some((8, 4))));
        assert_eq!(told((7, 2), list(), 1), (vec![(7, 3)], 0, Some((7, 3))), "others' are read again");
        assert_eq!(told((8, 4), list().split_off(3), 9), (vec![], 1, Some((8, 5))));
        assert_eq!(told((8, 5), list().split_off(3), 9), (vec![(8, 6)], 0, Some((8, 6))));
        assert_eq!(told((0, 0), list().split_off(3), 9).1, 0, "whoever is new lacks nothing");
        assert_eq!(told((7, 3), vec![((7, 4), None)], 9), (vec![], 0, Some((7, 4))), "passed over");
        assert_eq!(told((8, 6), vec![], 9), (vec![], 0, None));
    }
}
