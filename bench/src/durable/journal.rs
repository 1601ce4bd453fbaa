//! The journal alone, with its thread: as many records under way as asked for, a new one for each that is kept.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::Epoch;
use roomcast::chat::names::{MessageId, RoomName, UserName};
use roomcast::store::committer::{Committer, FromJournal};
use roomcast::store::journal::Journal;
use roomcast::store::record::{Item, Record};

use super::{Achieved, LINE_BYTES, ROOMS};
use crate::failure::Failure;
use crate::histogram::Histogram;

/// The archive is that many records behind.
const BEHIND: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure(folder: &Path, in_flight: usize, time: Duration) -> Result<Achieved, Failure> {
    let (journal, _) =
        Journal::open(&folder.join("journal"), 0).map_err(|error| Failure::Run(error.to_string()))?;
    let (tell, told) = channel();
    let on_event = move |event| tell.send(event).expect("the measurement outlives the thread");
    let committer = Committer::start(journal, Box::new(on_event), Box::new(drop));
    let waits = keep_under_way(&committer, &told, in_flight, time);
    committer.stop();
    waits
}

fn keep_under_way(
    committer: &Committer,
    told: &Receiver<FromJournal>,
    in_flight: usize,
    time: Duration,
) -> Result<Achieved, Failure> {
    let rooms: Vec<RoomName> =
        (0..ROOMS).map(|n| RoomName::new(&format!("room-{n}")).expect("a plain name")).collect();
    let (start, mut waits) = (Instant::now(), Histogram::default());
    let mut under_way: VecDeque<Instant> = VecDeque::with_capacity(in_flight);
    let (mut next, mut kept) = (1, 0);
    while start.elapsed() < time {
        while under_way.len() < in_flight {
            under_way.push_back(Instant::now());
            committer.append(vec![item(next, &rooms)]);
            next += 1;
        }
        match told.recv_timeout(PATIENCE) {
            Ok(FromJournal::Kept { upto }) => {
                let now = Instant::now();
                under_way
                    .drain(..(upto - kept) as usize)
                    .for_each(|said| waits.add((now - said).as_nanos() as u64));
                kept = upto;
                committer.free(kept.saturating_sub(BEHIND));
            }
            Ok(FromJournal::Failed { why, .. }) => return Err(Failure::Run(why)),
            Ok(FromJournal::Healed) => {}
            Err(_) => return Err(Failure::Run(format!("the journal kept nothing for {PATIENCE:?}"))),
        }
    }
    Ok(Achieved::of(&waits, start.elapsed().as_secs_f64()))
}

fn item(lsn: u64, rooms: &[RoomName]) -> Item {
    let entry = Entry {
        room: rooms[(lsn % ROOMS) as usize].clone(),
        epoch: Epoch(1),
        offset: lsn / ROOMS + 1,
        ts: lsn,
        kind: Kind::Message,
        user: UserName::new("ann").ok(),
        id: MessageId::new(&format!("k-{lsn}")).ok(),
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(vec![b'x'; LINE_BYTES]),
    };
    Item { lsn, record: Record::Entry(entry), with_next: false }
}
