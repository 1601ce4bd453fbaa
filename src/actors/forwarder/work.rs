//! The life of a forwarder: feed and target are opened, entries sent batch after batch, and all is opened anew after
//! any trouble. Part of the actor of forwarders.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::actors::forwarder::ForwarderParts;
use crate::actors::letters::Bury;
use crate::clock;
use crate::forwards::counters::Share;
use crate::forwards::feed::{Feed, FeedError, Next};
use crate::forwards::target::{Outgoing, Target, TargetError};
use crate::redis_link::backoff::Backoff;
use crate::sources::dead_letters::{DeadLetter, preview};
use crate::sources::poison::{Poison, Reason};
use crate::store::record::Letter;
use crate::traces::Span;

/// How often it is looked how many entries wait.
const MEASURE: Duration = Duration::from_secs(5);
/// Wait before dead letters are offered again to a store that does not take them now.
const GRAVES_WAIT: Duration = Duration::from_millis(500);
/// While a target is away the log says so again after this time.
const OUTAGE_LOG: Duration = Duration::from_secs(60);

/// Why a session ended.
enum Trouble {
    /// The feed cannot go on.
    Feed(FeedError),
    /// The target takes nothing.
    Target(String),
    /// Whoever keeps dead letters is gone: the server ends.
    GravesGone,
}

impl From<FeedError> for Trouble {
    fn from(error: FeedError) -> Trouble {
        Trouble::Feed(error)
    }
}

/// What lives as long as the actor.
pub struct Work<F, T> {
    feed: F,
    target: T,
    parts: ForwarderParts,
    stop: watch::Receiver<bool>,
    share: Share,
    is_open: bool,
    outage: Option<Outage>,
    was_up: bool,
    measured: Option<Instant>,
    /// Entries lost since the log was told, and when it was.
    lost: (u64, Option<Instant>),
}

struct Outage {
    began: Instant,
    told: Instant,
}

impl<F: Feed, T: Target> Work<F, T> {
    /// That waits for [`Work::run`].
    pub fn new(feed: F, target: T, parts: ForwarderParts, stop: watch::Receiver<bool>) -> Work<F, T> {
        Work {
            share: Share::new(parts.counters.clone()),
            feed,
            target,
            parts,
            stop,
            is_open: false,
            outage: None,
            was_up: false,
            measured: None,
            lost: (0, None),
        }
    }

    /// Works until the server stops.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        while !self.is_stopping() {
            let Err(trouble) = self.session().await else { break };
            if self.outage.is_none() {
                backoff.reset();
            }
            self.note_trouble(&trouble);
            self.is_open = false;
            // Another node may reach the target. A feed that is away itself need not hear that nobody reads on.
            if timeout(self.parts.finish, self.feed.close()).await.is_err() {
                log::debug!("forward {}: the feed did not let go in time", self.parts.name);
            }
            self.share.set_serves(false);
            let mut stop = self.stop.clone();
            tokio::select! { () = sleep(backoff.next_wait()) => {}, _ = stop.wait_for(|stop| *stop) => {} }
        }
        self.leave().await;
    }

    async fn session(&mut self) -> Result<(), Trouble> {
        self.feed.open().await?;
        self.measured = None;
        while !self.is_stopping() {
            let mut stop = self.stop.clone();
            let next = tokio::select! {
                next = self.feed.next(self.target.batch()) => next?,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            self.take(next).await?;
            self.measure().await?;
        }
        Ok(())
    }

    async fn take(&mut self, next: Next<F::Mark>) -> Result<(), Trouble> {
        self.share.set_serves(!matches!(next, Next::StandBy));
        match next {
            Next::StandBy => {
                self.is_open = false;
                self.note_well("standing by, another node forwards");
            }
            Next::Nothing => {
                self.share.set_behind_ms(0);
                self.open_target().await?;
            }
            Next::Lost { entries, upto } => {
                self.note_lost(entries);
                self.feed.note(upto).await?;
            }
            Next::Entries { list, upto } if list.is_empty() => self.feed.note(upto).await?,
            Next::Entries { list, upto } => {
                let oldest = list.first().map_or(0, |(_, entry)| entry.ts_ms);
                self.share.set_behind_ms(clock::wall_ms().saturating_sub(oldest));
                self.open_target().await?;
                self.deliver(list).await?;
                self.feed.note(upto).await?;
            }
        }
        Ok(())
    }

    async fn open_target(&mut self) -> Result<(), Trouble> {
        if self.is_open {
            return Ok(());
        }
        let opened = working(&mut self.feed, self.target.open()).await?;
        opened.map_err(|error| Trouble::Target(error.to_string()))?;
        self.is_open = true;
        self.note_well("forwarding");
        Ok(())
    }

    /// Sends entries until the target has each, or it is among the dead letters; notes each step.
    async fn deliver(&mut self, list: Vec<(F::Mark, Outgoing)>) -> Result<(), Trouble> {
        let (marks, entries): (Vec<F::Mark>, Vec<Outgoing>) = list.into_iter().unzip();
        let mut done = 0;
        while done < entries.len() {
            let left = &entries[done..];
            let span = self.parts.tracer.of_entries("forward", left.iter().map(Outgoing::id));
            let sending = span.over(self.target.send(left));
            let (taken, error) = working(&mut self.feed, sending).await?;
            let taken = taken.min(left.len());
            self.note_sent(&span, taken, error.is_some());
            done += taken;
            self.parts.counters.count_forwarded(taken as u64);
            let refused = match error {
                None if taken == 0 => {
                    return Err(Trouble::Target("it took nothing and did not say why".into()));
                }
                None => None,
                Some(TargetError::Refused { why, .. }) if done < entries.len() => Some(why),
                Some(error) => {
                    self.note_done(&marks, done).await?;
                    return Err(Trouble::Target(error.to_string()));
                }
            };
            if let Some(why) = refused {
                // What is before it is noted first: burying may take a while.
                self.note_done(&marks, done).await?;
                self.bury(&entries[done], &why).await?;
                done += 1;
            }
            self.note_done(&marks, done).await?;
        }
        Ok(())
    }

    fn note_sent(&self, span: &Span, taken: usize, is_trouble: bool) {
        if !span.is_on() {
            return;
        }
        span.text("roomcast.target", &*self.parts.name);
        span.number("roomcast.entries", i64::try_from(taken).unwrap_or(i64::MAX));
        if is_trouble {
            span.fail("not taken");
        }
    }

    async fn note_done(&mut self, marks: &[F::Mark], done: usize) -> Result<(), FeedError> {
        match done.checked_sub(1) {
            Some(last) => self.feed.note(marks[last].clone()).await,
            None => Ok(()),
        }
    }

    /// Keeps a dead letter. Returns when it is kept.
    async fn bury(&mut self, entry: &Outgoing, why: &str) -> Result<(), Trouble> {
        let source = format!("forward:{}", self.parts.name);
        let id = format!("{source}:{}", entry.id());
        match self.parts.graves.clone() {
            None => {
                let poison = Poison::new(Reason::Refused, why.to_owned());
                // An older one that goes for it was told in the log when it came.
                self.parts.dead.keep(DeadLetter::new(&source, &id, &poison, &entry.line));
            }
            Some(graves) => {
                let letter = Letter {
                    id: id.as_str().into(),
                    ts: clock::wall_ms(),
                    source: source.as_str().into(),
                    reason: why.into(),
                    item: entry.line.clone(),
                };
                while !graves.send(Bury(vec![letter.clone()])).await.map_err(|_| Trouble::GravesGone)? {
                    sleep(GRAVES_WAIT).await;
                    self.feed.stay().await?;
                }
            }
        }
        self.parts.counters.count_dead(1);
        let item = preview(&entry.line);
        log::warn!("forward {}: dead letter {}: {item}: {}", self.parts.name, entry.id(), why.escape_debug());
        Ok(())
    }

    async fn measure(&mut self) -> Result<(), FeedError> {
        if self.measured.is_some_and(|last| last.elapsed() < MEASURE) {
            return Ok(());
        }
        self.measured = Some(Instant::now());
        let waiting = self.feed.waiting().await?;
        self.share.set_waiting(waiting);
        Ok(())
    }

    /// Entries were forgotten before the target had them: counted at once, told now and then.
    fn note_lost(&mut self, entries: u64) {
        self.parts.counters.count_lost(entries);
        let (lost, told) = &mut self.lost;
        *lost += entries;
        if told.is_none_or(|last| last.elapsed() >= OUTAGE_LOG) {
            log::error!(
                "forward {}: {lost} entries were forgotten before {} had them; see rooms.keep and forward.buffer",
                self.parts.name,
                self.target.address()
            );
            (*lost, *told) = (0, Some(Instant::now()));
        }
    }

    fn note_well(&mut self, doing: &str) {
        self.share.set_well(true);
        let (name, address) = (&self.parts.name, self.target.address());
        match self.outage.take() {
            Some(outage) => {
                let seconds = outage.began.elapsed().as_secs_f32();
                log::info!("forward {name}: all is well again after {seconds:.1} s, {doing}");
            }
            None if !self.was_up => log::info!("forward {name}: {doing}, to {address}"),
            None => {}
        }
        self.was_up = true;
    }

    fn note_trouble(&mut self, trouble: &Trouble) {
        self.share.set_well(false);
        self.parts.counters.count_retries(1);
        let why = match trouble {
            Trouble::Feed(error) => format!("{} cannot be read: {error}", self.feed.address()),
            Trouble::Target(why) => format!("{} takes nothing: {why}", self.target.address()),
            Trouble::GravesGone => "dead letters cannot be kept, the server ends".to_owned(),
        };
        let name = &self.parts.name;
        // What a server answers may quote what others wrote into it.
        let why = why.escape_debug();
        let now = Instant::now();
        match &mut self.outage {
            None => {
                log::warn!("forward {name}: {why}; entries wait, retrying");
                self.outage = Some(Outage { began: now, told: now });
            }
            Some(outage) if outage.told.elapsed() >= OUTAGE_LOG => {
                let seconds = outage.began.elapsed().as_secs();
                log::warn!("forward {name}: {why}; entries have waited for {seconds} s, retrying");
                outage.told = now;
            }
            Some(_) => {}
        }
    }

    /// The end: what waits is sent as far as that is quick; then it is noted what the target has.
    async fn leave(&mut self) {
        let name = self.parts.name.clone();
        let finish = self.parts.finish;
        if self.outage.is_none() && timeout(finish, self.send_rest()).await.is_err() {
            log::warn!("forward {name}: what still waits at the end goes out after the next start");
        }
        match timeout(finish, self.feed.close()).await {
            Ok(Ok(())) => log::info!("forward {name}: stopped"),
            Ok(Err(error)) => log::warn!("forward {name}: stopped, the feed did not hear so: {error}"),
            Err(_) => log::warn!("forward {name}: stopped, the feed did not hear so in time"),
        }
    }

    async fn send_rest(&mut self) {
        while self.feed.waiting().await.is_ok_and(|waiting| waiting > 0) {
            let Ok(next) = self.feed.next(self.target.batch()).await else { return };
            if matches!(next, Next::Nothing | Next::StandBy) || self.take(next).await.is_err() {
                return;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Waits for a target; meanwhile the feed stays this node's.
async fn working<R>(feed: &mut impl Feed, work: impl Future<Output = R>) -> Result<R, FeedError> {
    let mut work = pin!(work);
    loop {
        match timeout(feed.patience(), &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => feed.stay().await?,
        }
    }
}
