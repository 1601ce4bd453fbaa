//! A reader who always comes back: by what he remembers himself, or by the cursor that the server keeps for
//! his session. Drops what he has seen (rule 3 of the protocol) and says so in his diary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::diary::Diary;
use crate::frame::Frame;

/// How a reader finds his place again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// He names the rooms with what he has seen of each.
    Own,
    /// He names his session; the server knows the rest, from what he said he `got`.
    Server,
}

/// A session that has lived so long outlives the server.
pub const SETTLED: Duration = Duration::from_secs(5);

/// What a reader is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The reader's name, also that of his diary.
    pub name: String,
    /// What he reads, from the first message on.
    pub rooms: Vec<String>,
    /// How he comes back.
    pub memory: Memory,
    /// What his chances come from.
    pub seed: u64,
    /// After how long without a sign of life he gives a link up; none: never.
    pub silence: Option<Duration>,
}

/// Up to where the readers have to come before they may go; none yet while it is written.
pub type Goal = Option<Arc<BTreeMap<String, u64>>>;

/// What a reader has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries that he showed.
    pub shown: u64,
    /// Entries that came again and were dropped.
    pub dropped: u64,
    /// Times that the server did not know his session any more, though it had lived for [`SETTLED`].
    pub forgotten: u64,
    /// Times that it did not know a younger one: cursors are written down a moment later, and nothing was
    /// promised for them before.
    pub forgotten_young: u64,
    /// Times that he was told to go back.
    pub rewinds: u64,
    /// The place up to which he has everything, in each room.
    pub upto: BTreeMap<String, u64>,
}

/// Reads until the goal is reached. `progress` shows how far that is.
pub async fn read(
    plan: Plan,
    folder: &Path,
    goal: watch::Receiver<Goal>,
    progress: watch::Sender<Seen>,
) -> Seen {
    let diary = Diary::begin(folder.join(format!("{}.jsonl", plan.name)));
    let dice = StdRng::seed_from_u64(plan.seed);
    let (epochs, seen) = (BTreeMap::new(), Seen::default());
    let session_since = Instant::now();
    let refused = BTreeMap::new();
    let reader = Reader {
        plan,
        diary,
        dice,
        goal,
        progress,
        session: None,
        session_since,
        is_in: false,
        cut_off: session_since,
        epochs,
        refused,
        seen,
    };
    reader.run().await
}

struct Reader {
    plan: Plan,
    diary: Diary,
    dice: StdRng,
    goal: watch::Receiver<Goal>,
    progress: watch::Sender<Seen>,
    session: Option<String>,
    /// Since when he has it.
    session_since: Instant,
    /// Whether this link has had its welcome.
    is_in: bool,
    /// When the last link ended that had.
    cut_off: Instant,
    /// The life of each log that his place belongs to.
    epochs: BTreeMap<String, String>,
    /// Rooms that he could not join just now, and when he tries again.
    refused: BTreeMap<String, Instant>,
    seen: Seen,
}

impl Reader {
    async fn run(mut self) -> Seen {
        while !self.is_done() {
            match Client::connect(self.plan.address, self.plan.silence).await {
                Some(client) => {
                    self.is_in = false;
                    self.stay(client).await;
                    if self.is_in {
                        self.cut_off = Instant::now();
                    }
                }
                None => sleep(Duration::from_millis(self.dice.random_range(5..30))).await,
            }
        }
        self.diary.flush();
        self.seen
    }

    fn upto(&self, room: &str) -> u64 {
        self.seen.upto.get(room).copied().unwrap_or(0)
    }

    fn is_done(&self) -> bool {
        let goal = self.goal.borrow();
        let reached =
            |(room, head): (&String, &u64)| !self.plan.rooms.contains(room) || self.upto(room) >= *head;
        goal.as_ref().is_some_and(|heads| heads.iter().all(reached))
    }

    /// One connection, to its end.
    async fn stay(&mut self, mut client: Client) {
        let hello = self.hello();
        self.refused.clear();
        self.say(&mut client, &hello).await;
        let (mut goal, asked) = (self.goal.clone(), self.session.take());
        while !self.is_done() {
            let again = self.refused.values().min().copied();
            tokio::select! {
                line = client.hear() => {
                    let Some(line) = line else {
                        // The link may have gone before the welcome; the session has not.
                        self.session = self.session.take().or(asked);
                        return;
                    };
                    for answer in self.hear(&line, asked.as_deref()) {
                        self.say(&mut client, &answer).await;
                    }
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    for join in self.joins_again() {
                        self.say(&mut client, &join).await;
                    }
                }
                changed = goal.changed() => changed.expect("the story tells the readers how far to read"),
            }
        }
        client.say(r#"{"t":"bye"}"#).await;
    }

    async fn say(&mut self, client: &mut Client, line: &str) {
        self.diary.said(line);
        client.say(line).await;
    }

    fn hello(&self) -> String {
        let name = json!(self.plan.name);
        if let Some(session) = &self.session {
            return format!(r#"{{"t":"hello","v":1,"u":{name},"session":{}}}"#, json!(session));
        }
        let place = |room: &String| match self.epochs.get(room).filter(|_| self.plan.memory == Memory::Own) {
            Some(epoch) => json!({"since": self.upto(room), "e": epoch}),
            None => json!({"since": 0}),
        };
        let rooms: BTreeMap<&String, Value> =
            self.plan.rooms.iter().map(|room| (room, place(room))).collect();
        format!(r#"{{"t":"hello","v":1,"u":{name},"rooms":{}}}"#, json!(rooms))
    }

    /// Where he stands in a room, as `join` names it.
    fn place(&self, room: &str) -> Value {
        match self.epochs.get(room) {
            Some(epoch) => json!({"since": self.upto(room), "e": epoch}),
            None => json!({"since": 0}),
        }
    }

    /// Asks for the rooms again whose time has come.
    fn joins_again(&mut self) -> Vec<String> {
        let now = Instant::now();
        let due: Vec<String> =
            self.refused.iter().filter(|(_, at)| **at <= now).map(|(room, _)| room.clone()).collect();
        due.into_iter()
            .map(|room| {
                self.refused.remove(&room);
                let mut join = json!({"r": room});
                for (key, value) in self.place(&room).as_object().expect("a place is an object") {
                    join[key] = value.clone();
                }
                format!(r#"{{"t":"join",{}"#, &join.to_string()[1..])
            })
            .collect()
    }

    /// What came, and what he answers to it.
    fn hear(&mut self, line: &str, asked: Option<&str>) -> Vec<String> {
        let frame = Frame::read(line).unwrap_or_else(|error| panic!("{}: {error}", self.plan.name));
        let (room, mut answers) = (frame.r.as_deref().unwrap_or_default(), Vec::new());
        let mut dropped = false;
        match &*frame.t {
            "welcome" => answers = self.is_welcome(frame.session.clone(), asked),
            "joined" => {
                self.epochs.insert(room.to_owned(), frame.e.clone().unwrap_or_default());
                self.has_up_to(room, frame.missing_range().map_or(0, |(_, last)| last));
            }
            "live" => {
                if let Some(epoch) = &frame.e {
                    self.epochs.insert(room.to_owned(), epoch.clone());
                }
            }
            "skip" => self.has_up_to(room, frame.skipped_range().map_or(0, |(_, last)| last)),
            "gap" => self.has_up_to(room, frame.missing_range().map_or(0, |(_, last)| last)),
            "rewind" => self.goes_back(room, frame.s.unwrap_or(0), frame.e.clone()),
            // Told after the welcome, which names a new session.
            "err" if frame.why.as_deref() == Some("no-session") => {}
            "err" if matches!(frame.code, Some(503 | 429)) && !room.is_empty() => {
                let wait = Duration::from_millis(frame.wait.unwrap_or(30));
                self.refused.insert(room.to_owned(), Instant::now() + wait);
            }
            "err" => panic!("{} is refused: {line}", self.plan.name),
            _ if frame.is_entry() => {
                dropped = self.enters(room, frame.s.unwrap_or(0));
                answers.extend(self.consumes(room));
            }
            _ => {}
        }
        self.diary.heard(line, dropped);
        answers
    }

    /// An entry came; whether it was seen already.
    fn enters(&mut self, room: &str, s: u64) -> bool {
        if s <= self.upto(room) {
            self.seen.dropped += 1;
            return true;
        }
        self.seen.shown += 1;
        self.has_up_to(room, s);
        false
    }

    /// What stands above a place was taken back and may come again.
    fn goes_back(&mut self, room: &str, to: u64, epoch: Option<String>) {
        let upto = self.upto(room).min(to);
        self.seen.upto.insert(room.to_owned(), upto);
        self.epochs.insert(room.to_owned(), epoch.unwrap_or_default());
        self.seen.rewinds += 1;
        self.progress.send_replace(self.seen.clone());
    }

    fn has_up_to(&mut self, room: &str, s: u64) {
        let upto = self.seen.upto.entry(room.to_owned()).or_default();
        *upto = s.max(*upto);
        self.progress.send_replace(self.seen.clone());
    }

    /// Hands what he has to his application, now and then, and tells the server so.
    fn consumes(&mut self, room: &str) -> Option<String> {
        let now = self.plan.memory == Memory::Server && self.dice.random_ratio(1, 6);
        now.then(|| format!(r#"{{"t":"got","r":{},"s":{}}}"#, json!(room), self.upto(room)))
    }

    /// A session that the server does not know begins anew, with all rooms from their beginning.
    fn is_welcome(&mut self, session: Option<String>, asked: Option<&str>) -> Vec<String> {
        if self.plan.memory == Memory::Own {
            return Vec::new();
        }
        (self.session, self.is_in) = (session, true);
        if self.session.as_deref() == asked {
            return Vec::new();
        }
        let since = std::mem::replace(&mut self.session_since, Instant::now());
        let age = self.cut_off.saturating_duration_since(since);
        if asked.is_none() {
            return Vec::new();
        }
        let forgotten =
            if age >= SETTLED { &mut self.seen.forgotten } else { &mut self.seen.forgotten_young };
        *forgotten += 1;
        let join = |room: &String| format!(r#"{{"t":"join","r":{},"since":0}}"#, json!(room));
        self.plan.rooms.iter().map(join).collect()
    }
}
