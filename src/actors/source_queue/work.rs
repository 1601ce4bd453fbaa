//! The life of a source: it is opened, taken from batch after batch, and opened anew after any trouble. Part of
//! the actor of sources.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::actors::letters::{Bury, PublishBatch};
use crate::actors::source_queue::SourceQueueParts;
use crate::actors::waits::{Outage, Patience};
use crate::chat::message::{Draft, Refused};
use crate::chat::names::MessageId;
use crate::clock;
use crate::redis_link::backoff::Backoff;
use crate::sources::dead_letters::{DeadLetter, preview};
use crate::sources::payload::decode;
use crate::sources::poison::{Poison, Reason};
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::store::record::Letter;
use crate::traces::Kind;

/// How often the queue is measured.
const MEASURE: Duration = Duration::from_secs(5);
/// Wait before dead letters are offered again to a store that does not take them now.
const GRAVES_WAIT: Duration = Duration::from_millis(500);

/// Why a session with the queue's server ended.
enum Trouble {
    /// It did not do what was asked.
    Source(SourceError),
    /// The chat server is gone.
    ChatGone,
    /// The server stops.
    Stopping,
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Trouble {
        Trouble::Source(error)
    }
}

/// What lives as long as the actor.
pub struct Work<S: Source> {
    source: S,
    parts: SourceQueueParts,
    stop: watch::Receiver<bool>,
    /// What is in hand: taken, and neither acknowledged nor given back.
    held: Vec<Taken<S::Receipt>>,
    outage: Outage,
    measured: Option<Instant>,
}

/// What came of asking the rooms once.
struct Round<R> {
    done: Vec<Taken<R>>,
    again: Vec<Taken<R>>,
    dead: Vec<(Taken<R>, Poison)>,
    refused: Option<Refused>,
}

impl<S: Source> Work<S> {
    /// That waits for [`Work::run`].
    pub fn new(source: S, parts: SourceQueueParts, stop: watch::Receiver<bool>) -> Work<S> {
        let outage = Outage::new(&parts.name, &source.address());
        Work { source, parts, stop, held: Vec::new(), outage, measured: None }
    }

    /// Works until the server stops.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        while !self.is_stopping() {
            let Err(trouble) = self.session().await else { break };
            self.show(false, false);
            if self.outage.is_over() {
                backoff.reset();
            }
            self.give_back().await;
            match trouble {
                Trouble::Stopping => break,
                Trouble::Source(error) => self.outage.note(&error.0),
                Trouble::ChatGone => self.outage.note("the chat server is gone"),
            }
            let mut stop = self.stop.clone();
            tokio::select! { () = sleep(backoff.next_wait()) => {}, _ = stop.wait_for(|stop| *stop) => {} }
        }
        self.show(false, false);
        self.leave().await;
    }

    async fn session(&mut self) -> Result<(), Trouble> {
        let mut stop = self.stop.clone();
        tokio::select! {
            opened = self.source.open() => opened?,
            _ = stop.wait_for(|stop| *stop) => return Err(Trouble::Stopping),
        }
        self.parts.counters.count_connects(1);
        self.measured = None;
        while !self.is_stopping() {
            let batch = self.source.take().await;
            self.parts.counters.count_lost(self.source.dropped());
            match batch? {
                Batch::Items(items) => {
                    self.note("taking items", true);
                    self.note_taken(&items);
                    self.held = items;
                    self.settle().await?;
                }
                Batch::Nothing => self.note("taking items", true),
                Batch::StandBy => self.note("standing by, another node takes the items", false),
            }
            self.measure().await?;
        }
        Ok(())
    }

    fn note(&mut self, doing: &str, takes: bool) {
        self.outage.end(doing);
        self.show(true, takes);
    }

    fn show(&self, connected: bool, takes: bool) {
        self.parts.counters.set_connected(connected);
        self.parts.counters.set_taking(takes);
    }

    fn note_taken(&self, items: &[Taken<S::Receipt>]) {
        self.parts.counters.count_taken(items.len() as u64);
        if let Some(pushed) = items.last().and_then(|item| item.pushed_ms) {
            self.parts.counters.set_age_ms(clock::wall_ms().saturating_sub(pushed));
        }
    }

    async fn measure(&mut self) -> Result<(), SourceError> {
        if self.measured.is_some_and(|last| last.elapsed() < MEASURE) {
            return Ok(());
        }
        self.measured = Some(Instant::now());
        if let Some(waiting) = self.source.waiting().await? {
            self.parts.counters.set_backlog(waiting);
            if waiting == 0 {
                self.parts.counters.set_age_ms(0);
            }
        }
        Ok(())
    }

    /// Says what is in hand, in order, until each item is said or buried, and acknowledges it.
    async fn settle(&mut self) -> Result<(), Trouble> {
        let mut patience = Patience::default();
        while !self.held.is_empty() {
            let Round { done, again, dead, refused } = self.say().await?;
            self.held = again;
            let mut receipts: Vec<S::Receipt> = done.into_iter().map(|taken| taken.receipt).collect();
            if let Err(trouble) = self.bury(&dead).await {
                self.held.extend(dead.into_iter().map(|(taken, _)| taken));
                self.source.ack(receipts).await?;
                return Err(trouble);
            }
            receipts.extend(dead.into_iter().map(|(taken, _)| taken.receipt));
            if !receipts.is_empty() {
                self.source.ack(receipts).await?;
            }
            if let Some(refused) = refused {
                self.wait_for_rooms(&refused, &mut patience).await?;
            }
        }
        Ok(())
    }

    /// Asks the rooms once. While they think the items are extended.
    async fn say(&mut self) -> Result<Round<S::Receipt>, Trouble> {
        let drafts: Vec<Result<Draft, Poison>> = self.held.iter().map(|taken| self.draft(taken)).collect();
        let asked: Vec<Draft> = drafts.iter().filter_map(|draft| draft.as_ref().ok().cloned()).collect();
        let mut answers = match asked.is_empty() {
            true => Vec::new().into_iter(),
            false => self.ask(asked).await?.into_iter(),
        };
        let mut round = Round { done: Vec::new(), again: Vec::new(), dead: Vec::new(), refused: None };
        for (taken, draft) in std::mem::take(&mut self.held).into_iter().zip(drafts) {
            let answer = match draft {
                Ok(_) => answers.next().unwrap_or(Err(Refused::Draining)),
                Err(poison) => {
                    round.dead.push((taken, poison));
                    continue;
                }
            };
            match answer {
                Ok(accepted) => {
                    self.parts.counters.count_accepted(1);
                    self.parts.counters.count_repeated(accepted.duplicate.into());
                    round.done.push(taken);
                }
                Err(refused) if refused.is_for_now() => {
                    round.refused.get_or_insert(refused);
                    round.again.push(taken);
                }
                Err(refused) => round.dead.push((taken, Poison::new(Reason::Refused, refused.to_string()))),
            }
        }
        Ok(round)
    }

    async fn ask(
        &mut self,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Result<crate::chat::message::Accepted, Refused>>, Trouble> {
        let mut asking = pin!(self.parts.chat.send(PublishBatch(drafts, self.parts.door.clone())));
        loop {
            match timeout(self.source.patience(), &mut asking).await {
                Ok(answers) => return answers.map_err(|_| Trouble::ChatGone),
                Err(_) => extend(&mut self.source, &self.held).await?,
            }
        }
    }

    fn draft(&self, taken: &Taken<S::Receipt>) -> Result<Draft, Poison> {
        let room = taken.room.clone()?;
        let mut draft = decode(&taken.item, room.as_ref().unwrap_or(&self.parts.room), self.parts.limits)?;
        if let (None, Some(id)) = (&draft.id, &taken.id) {
            // By this the rooms know it when it comes again. It fits: a queue's name has 20 bytes at most, ids have 41.
            draft.id = MessageId::new(&format!("{}:{id}", self.parts.name)).ok();
        }
        draft.span = self.parts.tracer.go_on(&taken.parent, "take from a queue", Kind::Consumer);
        draft.span.text("roomcast.queue", &*self.parts.name);
        Ok(draft)
    }

    /// Waits before the rooms are asked again; meanwhile the items stay this node's.
    async fn wait_for_rooms(&mut self, refused: &Refused, patience: &mut Patience) -> Result<(), Trouble> {
        let stopping = self.is_stopping();
        if stopping && (*refused == Refused::Draining || patience.is_over(self.parts.finish)) {
            return Err(Trouble::Stopping);
        }
        self.parts.counters.count_waits(1);
        self.parts.counters.set_waiting(true);
        let mut stop = self.stop.clone();
        let wait = sleep(patience.next_wait(refused));
        tokio::select! { () = wait => {}, _ = stop.wait_for(|stop| *stop), if !stopping => {} }
        self.parts.counters.set_waiting(false);
        Ok(extend(&mut self.source, &self.held).await?)
    }

    /// Keeps dead letters; an item that is not kept is not acknowledged.
    async fn bury(&mut self, dead: &[(Taken<S::Receipt>, Poison)]) -> Result<(), Trouble> {
        if dead.is_empty() {
            return Ok(());
        }
        let name = &self.parts.name;
        let id_of = |place: usize, taken: &Taken<S::Receipt>| match &taken.id {
            Some(id) => format!("{name}:{id}"),
            None => format!("{name}:{:x}-{place}", rand::random::<u64>()),
        };
        let ids: Vec<String> =
            dead.iter().enumerate().map(|(place, (taken, _))| id_of(place, taken)).collect();
        let dropped = match self.parts.graves.clone() {
            None => {
                let letter = |(id, (taken, poison)): (&String, &(Taken<S::Receipt>, Poison))| {
                    self.parts.dead.keep(DeadLetter::new(name, id, poison, &taken.item))
                };
                ids.iter().zip(dead).map(letter).sum()
            }
            Some(graves) => {
                let letter = |(id, (taken, poison)): (&String, &(Taken<S::Receipt>, Poison))| Letter {
                    id: id.as_str().into(),
                    ts: clock::wall_ms(),
                    source: name.as_str().into(),
                    reason: poison.to_string().into(),
                    item: taken.item.clone(),
                };
                let letters: Vec<Letter> = ids.iter().zip(dead).map(letter).collect();
                while !graves.send(Bury(letters.clone())).await.map_err(|_| Trouble::ChatGone)? {
                    if self.is_stopping() {
                        return Err(Trouble::Stopping);
                    }
                    sleep(GRAVES_WAIT).await;
                    extend(&mut self.source, &self.held).await?;
                }
                0
            }
        };
        self.parts.counters.count_dead_forgotten(dropped);
        for (id, (taken, poison)) in ids.iter().zip(dead) {
            self.parts.counters.count_dead(poison.reason);
            let (item, why) = (preview(&taken.item), poison.to_string());
            log::warn!("queue {}: dead letter {id}: {item}: {}", self.parts.name, why.escape_debug());
        }
        Ok(())
    }

    /// What is in hand may be another's now. When the server is away it finds out by itself.
    async fn give_back(&mut self) {
        let receipts: Vec<S::Receipt> =
            std::mem::take(&mut self.held).into_iter().map(|taken| taken.receipt).collect();
        if receipts.is_empty() {
            return;
        }
        if let Err(error) = self.source.give_back(receipts).await {
            log::debug!("queue {}: giving items back: {error}", self.parts.name);
        }
        self.parts.counters.count_lost(self.source.dropped());
    }

    async fn leave(&mut self) {
        self.give_back().await;
        let name = &self.parts.name;
        match timeout(self.parts.finish, self.source.close()).await {
            Ok(Ok(())) => log::info!("queue {name}: stopped"),
            Ok(Err(error)) => log::warn!("queue {name}: stopped, its server did not hear so: {error}"),
            Err(_) => log::warn!("queue {name}: stopped, its server did not hear so in time"),
        }
        self.parts.counters.count_lost(self.source.dropped());
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

async fn extend<S: Source>(source: &mut S, held: &[Taken<S::Receipt>]) -> Result<(), SourceError> {
    let receipts: Vec<&S::Receipt> = held.iter().map(|taken| &taken.receipt).collect();
    source.extend(&receipts).await
}
