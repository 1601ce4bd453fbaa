//! The archive behind Redis, asked on a thread of its own, because it may block. Used by partitions for what
//! Redis does not keep any more.

use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::store::archive::{Answer, ArchiveReader, Question, StoredEntry, StoredRoom};

type Asked = (Question, oneshot::Sender<Result<Answer, String>>);

/// The thread; ends when this and all its clones are dropped.
#[derive(Clone)]
pub struct ArchiveThread(Sender<Asked>);

impl ArchiveThread {
    /// Starts it.
    pub fn start(mut reader: Box<dyn ArchiveReader>) -> ArchiveThread {
        let (asks, inbox) = channel::<Asked>();
        let work = move || {
            for (question, reply) in inbox {
                let answer = reader.answer(&question).map_err(|error| error.to_string());
                // Whoever asked may be gone.
                reply.send(answer).ok();
            }
        };
        let thread = std::thread::Builder::new().name("redis-archive".into()).spawn(work);
        if let Err(error) = thread {
            log::error!("cannot start the thread that reads the archive: {error}");
        }
        ArchiveThread(asks)
    }

    /// Asks one question.
    pub async fn ask(&self, question: Question) -> Result<Answer, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the thread that reads the archive is gone".to_owned();
        self.0.send((question, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What it knows of a room.
    pub async fn room(&self, room: &RoomName) -> Result<Option<StoredRoom>, String> {
        match self.ask(Question::Room { room: room.clone(), tail: 0, tail_bytes: 0 }).await? {
            Answer::Room(room) => Ok(room),
            _ => Err("the archive gave an answer of another kind than was asked for".into()),
        }
    }

    /// Some entries, and whether there are more.
    pub async fn entries(&self, question: Question) -> Result<(Vec<StoredEntry>, bool), String> {
        match self.ask(question).await? {
            Answer::Entries { list, more } => Ok((list, more)),
            _ => Err("the archive gave an answer of another kind than was asked for".into()),
        }
    }

    /// The entries from one offset to another, if it has all of them.
    pub async fn run(&self, room: &RoomName, from: Offset, to: Offset) -> Option<Vec<StoredEntry>> {
        let question = Question::Range { room: room.clone(), from, to, bytes: RUN_BYTES };
        let (list, _) = self.entries(question).await.ok()?;
        let dense = list.iter().map(|entry| entry.offset).eq(from..=to);
        dense.then_some(list)
    }
}

/// Most bytes that fill one hole.
const RUN_BYTES: usize = 4 << 20;
