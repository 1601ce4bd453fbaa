//! The thread that writes to the archive, because that may block; also forgets what rooms need not keep. Asked by
//! the tasks that read the feeds, each with at most one call under way.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::chat::entry::Entry;
use crate::clock;
use crate::store::archive::{ArchiveError, Keep, Position, SharedArchive};
use crate::store::record::Record;

/// Pause between two looks at what is too old.
const PAUSE: Duration = Duration::from_secs(1);
/// Time that is spent on what is too old after each such pause.
const TIDY_TIME: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, ArchiveError>>;

enum Call {
    Position(u16, Reply<Position>),
    Append { partition: u16, after: Position, upto: Position, entries: Vec<Entry>, reply: Reply<bool> },
    Note(Vec<Record>, Reply<()>),
}

/// The thread; ends when this and all its clones are dropped.
#[derive(Clone)]
pub struct Writer(Sender<Call>);

impl Writer {
    /// Starts it.
    pub fn start(
        archive: Box<dyn SharedArchive>,
        keep: Box<dyn Fn(&str) -> Keep + Send>,
    ) -> Result<Writer, String> {
        let (calls, inbox) = channel();
        let work = move || run(archive, keep.as_ref(), &inbox);
        let thread = thread::Builder::new().name("archive".into()).spawn(work);
        thread.map_err(|error| format!("cannot start the thread archive: {error}"))?;
        Ok(Writer(calls))
    }

    /// Where a partition stands.
    pub async fn position(&self, partition: u16) -> Result<Position, ArchiveError> {
        self.call(|reply| Call::Position(partition, reply)).await
    }

    /// See [`SharedArchive::append_shared`].
    pub async fn append(
        &self,
        partition: u16,
        after: Position,
        upto: Position,
        entries: Vec<Entry>,
    ) -> Result<bool, ArchiveError> {
        self.call(|reply| Call::Append { partition, after, upto, entries, reply }).await
    }

    /// See [`SharedArchive::note`].
    pub async fn note(&self, records: Vec<Record>) -> Result<(), ArchiveError> {
        self.call(|reply| Call::Note(records, reply)).await
    }

    async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, ArchiveError> {
        let gone = || ArchiveError("the thread of the archive is gone; start the server again".into());
        let (reply, answer) = oneshot::channel();
        self.0.send(call(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn run(mut archive: Box<dyn SharedArchive>, keep: &dyn Fn(&str) -> Keep, inbox: &Receiver<Call>) {
    let mut tidied = Instant::now();
    loop {
        match inbox.recv_timeout(PAUSE) {
            // Whoever asked may be gone.
            Ok(Call::Position(partition, reply)) => {
                reply.send(position_of(archive.as_mut(), partition)).unwrap_or_default();
            }
            Ok(Call::Append { partition, after, upto, entries, reply }) => {
                let done = archive.append_shared(partition, after, upto, &entries);
                reply.send(done).unwrap_or_default();
            }
            Ok(Call::Note(records, reply)) => reply.send(archive.note(&records)).unwrap_or_default(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if tidied.elapsed() >= PAUSE {
            tidy(archive.as_mut(), keep);
            tidied = Instant::now();
        }
    }
}

fn position_of(archive: &mut dyn SharedArchive, partition: u16) -> Result<Position, ArchiveError> {
    let positions = archive.positions()?;
    let own = positions.into_iter().find(|(number, _)| *number == partition);
    Ok(own.map_or(Position::default(), |(_, position)| position))
}

/// Several nodes may be at it; the archive lets one do it.
fn tidy(archive: &mut dyn SharedArchive, keep: &dyn Fn(&str) -> Keep) {
    let began = Instant::now();
    loop {
        match archive.forget(keep, clock::cautious_ms()) {
            Ok(forgotten) if forgotten.more && began.elapsed() < TIDY_TIME => {}
            Ok(_) => return,
            Err(error) => return log::debug!("archive: nothing old is forgotten now: {error}"),
        }
    }
}
