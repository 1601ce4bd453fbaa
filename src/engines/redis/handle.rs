//! The engine as the chat server holds it: every call becomes a letter to the engine's thread. The thread is started
//! here; it runs one task per partition and one per question.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::chat::moderation::Change;
use crate::chat::names::RoomName;
use crate::chat::overview::Look;
use crate::chat::trace::Asked;
use crate::engines::engine::Ask;
use crate::engines::redis::asking;
use crate::engines::redis::keys::{PARTITIONS, partition_of};
use crate::engines::redis::letters::Letter;
use crate::engines::redis::looking;
use crate::engines::redis::noting::Note;
use crate::engines::redis::outbox::{Outbox, Queued};
use crate::engines::redis::partition::Partition;
use crate::engines::redis::ruling::Ruling;
use crate::engines::redis::world::World;
use crate::engines::redis::{Settings, frame, tracing};
use crate::engines::shared::{Command, News, OthersTrace, Proposal, Shared, Sink};
use crate::store::record::Record;

/// Longest that the engine takes to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A call on its way to the thread.
enum Call {
    Propose(Vec<(RoomName, Queued)>),
    Ask(Ask),
    Leave(Vec<RoomName>),
    Tell(Vec<(RoomName, News)>),
    Note(Vec<Note>),
    Count(Vec<(RoomName, u32)>),
    Look(u64, Look),
    Trace(Asked, oneshot::Sender<Result<OthersTrace, String>>),
    Command(Command),
    Rule(Ruling),
    Close(Box<dyn FnOnce() + Send>),
}

/// See above.
struct Engine {
    calls: UnboundedSender<Call>,
    waiting: Arc<AtomicU64>,
}

/// Starts the thread.
pub fn start(settings: Settings, sink: Sink) -> Result<Box<dyn Shared>, String> {
    let (calls, inbox) = unbounded_channel();
    let waiting = Arc::new(AtomicU64::new(0));
    let counted = waiting.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the engine's runtime: {error}"))?;
    let work = move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, run(settings, sink, counted, inbox));
    };
    let thread = std::thread::Builder::new().name("redis-engine".into()).spawn(work);
    thread.map_err(|error| format!("cannot start the thread redis-engine: {error}"))?;
    Ok(Box::new(Engine { calls, waiting }))
}

impl Engine {
    fn call(&self, call: Call) {
        if self.calls.send(call).is_err() {
            // It ends after `close`, or by a panic, and the process with it.
            log::warn!("redis: the engine has ended; a call is not carried out");
        }
    }
}

impl Shared for Engine {
    fn propose(&mut self, proposals: Vec<Proposal>) {
        let since = Instant::now();
        let queued = proposals.into_iter().map(|proposal| {
            let body = frame::body(&proposal.entry, &proposal.key, proposal.logged);
            self.waiting.fetch_add(Outbox::weight(&body), Relaxed);
            let room = proposal.entry.room;
            let queued = Queued {
                ticket: Some(proposal.ticket),
                room: room.clone(),
                body,
                safety: proposal.safety,
                since,
                tried: false,
            };
            (room, queued)
        });
        self.call(Call::Propose(queued.collect()));
    }

    fn ask(&mut self, ask: Ask) {
        self.call(Call::Ask(ask));
    }

    fn leave(&mut self, rooms: Vec<RoomName>) {
        self.call(Call::Leave(rooms));
    }

    fn tell(&mut self, news: Vec<(RoomName, News)>) {
        self.call(Call::Tell(news));
    }

    fn note(&mut self, records: Vec<Record>) {
        let mut notes = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Record::Read(mark) => notes.extend([Note::Read(mark.clone()), Note::ReadBy(mark)]),
                Record::Session(note) => notes.push(Note::Session(note)),
                // Entries are proposed, and dead letters stay with their sources.
                Record::Entry(_)
                | Record::Seen(_)
                | Record::Dead(_)
                | Record::DeadGone(_)
                | Record::Event(_)
                | Record::Rules(_) => {
                    log::error!("redis: a record of another kind was to be noted");
                }
            }
        }
        self.call(Call::Note(notes));
    }

    fn count(&mut self, sessions: Vec<(RoomName, u32)>) {
        self.call(Call::Count(sessions));
    }

    fn look(&mut self, ticket: u64, look: Look) {
        self.call(Call::Look(ticket, look));
    }

    fn trace(&mut self, asked: Asked, reply: oneshot::Sender<Result<OthersTrace, String>>) {
        self.call(Call::Trace(asked, reply));
    }

    fn command(&mut self, command: Command) {
        self.call(Call::Command(command));
    }

    fn rule(&mut self, ticket: u64, room: RoomName, change: Change) {
        self.call(Call::Rule(Ruling { ticket, room, change, since: Instant::now() }));
    }

    fn close(&mut self, done: Box<dyn FnOnce() + Send>) {
        self.call(Call::Close(done));
    }

    fn waiting_bytes(&self) -> u64 {
        self.waiting.load(Relaxed)
    }
}

async fn run(settings: Settings, sink: Sink, waiting: Arc<AtomicU64>, mut calls: UnboundedReceiver<Call>) {
    let partitions = if settings.link.is_cluster() { PARTITIONS as usize } else { 1 };
    let world = Rc::new(World::new(settings, partitions, sink, waiting));
    let (boxes, letters): (Vec<_>, Vec<_>) = (0..partitions).map(|_| unbounded_channel()).unzip();
    world.deliver_to(boxes);
    for (number, letters) in letters.into_iter().enumerate() {
        tokio::task::spawn_local(Partition::new(world.clone(), number, partitions, letters).run());
    }
    while let Some(call) = calls.recv().await {
        match call {
            Call::Propose(proposals) => {
                for (at, queued) in by_partition(proposals, partitions) {
                    world.post_at(at, Letter::Propose(queued));
                }
            }
            Call::Ask(ask) => {
                tokio::task::spawn_local(asking::ask(world.clone(), ask));
            }
            Call::Leave(rooms) => {
                let rooms = rooms.into_iter().map(|room| (room.clone(), room)).collect();
                for (at, rooms) in by_partition(rooms, partitions) {
                    world.post_at(at, Letter::Leave(rooms));
                }
            }
            Call::Tell(news) => {
                let news = news.into_iter().map(|(room, news)| (room.clone(), (room, news))).collect();
                for (at, news) in by_partition(news, partitions) {
                    world.post_at(at, Letter::Tell(news));
                }
            }
            Call::Note(notes) => world.note(notes),
            Call::Count(sessions) => {
                let sessions = sessions.into_iter().map(|(room, n)| (room.clone(), (room, n))).collect();
                for (at, sessions) in by_partition(sessions, partitions) {
                    world.post_at(at, Letter::Count(sessions));
                }
            }
            Call::Look(ticket, look) => {
                tokio::task::spawn_local(looking::look(world.clone(), ticket, look));
            }
            Call::Trace(asked, reply) => {
                let world = world.clone();
                tokio::task::spawn_local(async move {
                    // Whoever asked may be gone.
                    reply.send(tracing::ask(&world, &asked).await).ok();
                });
            }
            Call::Command(command) => world.post_at(0, Letter::Command(command)),
            Call::Rule(ruling) => world.post_at(0, Letter::Rule(ruling)),
            Call::Close(done) => {
                if tokio::time::timeout(CLOSE_MAX, close(&world)).await.is_err() {
                    log::warn!("redis: the engine ends without an answer from all partitions");
                }
                done();
                return;
            }
        }
    }
}

fn by_partition<T>(items: Vec<(RoomName, T)>, partitions: usize) -> AHashMap<usize, Vec<T>> {
    let mut sorted: AHashMap<usize, Vec<T>> = AHashMap::new();
    for (room, item) in items {
        sorted.entry(partition_of(room.as_str(), partitions as u32)).or_default().push(item);
    }
    sorted
}

/// Gives this node's number back, so that all others know at once; then takes its people out of all partitions, and
/// last of all lets the number be taken again.
async fn close(world: &World) {
    let end = |at: usize, letter: fn(oneshot::Sender<()>) -> Letter| {
        let (done, end) = oneshot::channel();
        world.post_at(at, letter(done));
        end
    };
    // An error: Redis is away, and the others notice by themselves.
    end(0, Letter::GiveBack).await.ok();
    let others = (1..world.partitions()).map(|at| end(at, Letter::Close));
    futures_util::future::join_all(others.collect::<Vec<_>>()).await;
    end(0, Letter::Close).await.ok();
}
