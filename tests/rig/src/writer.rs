//! A writer who never gives up: he sends with ids of his own, several at once, and sends what was not
//! acknowledged again, under the same id, until it is.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::diary::Diary;
use crate::frame::Frame;

/// What a writer is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The writer's name, also that of his diary.
    pub name: String,
    /// Where he writes.
    pub rooms: Vec<String>,
    /// What his chances come from.
    pub seed: u64,
    /// Most messages that are under way at once.
    pub burst: usize,
    /// Longest pause between two bursts.
    pub pause: Duration,
    /// Longest message, in bytes.
    pub bytes: usize,
    /// Whether he also edits, deletes and reacts, where the server offers that.
    pub changes: bool,
    /// After how long without a sign of life he gives a link up; none: never.
    pub silence: Option<Duration>,
}

/// What a writer has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Messages that were sent at least once.
    pub sent: u64,
    /// Those that were acknowledged.
    pub acked: u64,
    /// Times that the server refused, by reason. What may come again was sent again.
    pub refused: BTreeMap<String, u64>,
}

/// What is on its way.
#[derive(Debug)]
struct Unacked {
    room: String,
    id: String,
    line: String,
    is_message: bool,
    /// When to send it again after a refusal.
    again: Option<Instant>,
}

/// Writes until `stop` says true and all is acknowledged. `progress` shows how far that is.
pub async fn write(
    plan: Plan,
    folder: &Path,
    stop: watch::Receiver<bool>,
    progress: watch::Sender<Written>,
) -> Written {
    let diary = Diary::begin(folder.join(format!("{}.jsonl", plan.name)));
    let dice = StdRng::seed_from_u64(plan.seed);
    let writer = Writer {
        plan,
        diary,
        dice,
        stop,
        progress,
        unacked: VecDeque::new(),
        said: VecDeque::new(),
        outside: BTreeMap::new(),
        can_edit: false,
        number: 0,
        written: Written::default(),
    };
    writer.run().await
}

struct Writer {
    plan: Plan,
    diary: Diary,
    dice: StdRng,
    stop: watch::Receiver<bool>,
    progress: watch::Sender<Written>,
    unacked: VecDeque<Unacked>,
    /// Places of own messages that may be edited, deleted and reacted to.
    said: VecDeque<(String, u64)>,
    /// Rooms that he could not join just now, and when he tries again.
    outside: BTreeMap<String, Instant>,
    can_edit: bool,
    number: u64,
    written: Written,
}

impl Writer {
    async fn run(mut self) -> Written {
        while !self.is_done() {
            match Client::connect(self.plan.address, self.plan.silence).await {
                Some(client) => self.stay(client).await,
                None => sleep(Duration::from_millis(self.dice.random_range(5..30))).await,
            }
        }
        self.diary.flush();
        self.written
    }

    fn is_done(&self) -> bool {
        *self.stop.borrow() && self.unacked.is_empty()
    }

    /// One connection, to its end.
    async fn stay(&mut self, mut client: Client) {
        let rooms: BTreeMap<&String, Value> = self.plan.rooms.iter().map(|room| (room, json!({}))).collect();
        let (rooms, name) = (json!(rooms), json!(self.plan.name));
        self.say(&mut client, &format!(r#"{{"t":"hello","v":1,"u":{name},"rooms":{rooms}}}"#)).await;
        self.outside.clear();
        for unacked in &mut self.unacked {
            unacked.again = None;
            self.diary.said(&unacked.line);
            client.say(&unacked.line).await;
        }
        let mut next_burst = self.next_burst();
        let mut stop = self.stop.clone();
        while !self.is_done() {
            let again = self.unacked.iter().filter_map(|unacked| unacked.again);
            let again = again.chain(self.outside.values().copied()).min();
            let may_write = self.unacked.is_empty() && !*self.stop.borrow();
            tokio::select! {
                line = client.hear() => {
                    let Some(line) = line else { return };
                    self.hear(&line);
                }
                () = sleep_until(next_burst), if may_write => {
                    self.burst(&mut client).await;
                    next_burst = self.next_burst();
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    self.send_again(&mut client).await;
                }
                changed = stop.changed() => changed.expect("the story tells the writers when to stop"),
            }
        }
        client.say(r#"{"t":"bye"}"#).await;
    }

    async fn say(&mut self, client: &mut Client, line: &str) {
        self.diary.said(line);
        client.say(line).await;
    }

    fn next_burst(&mut self) -> Instant {
        Instant::now() + self.plan.pause.mul_f64(self.dice.random())
    }

    async fn burst(&mut self, client: &mut Client) {
        for _ in 0..self.dice.random_range(1..=self.plan.burst) {
            self.number += 1;
            self.written.sent += 1;
            let unacked = self.next_frame();
            self.say(client, &unacked.line).await;
            self.unacked.push_back(unacked);
        }
    }

    /// A new message; now and then something about an own earlier one, where the server offers that.
    fn next_frame(&mut self) -> Unacked {
        let id = format!("{}-{}", self.plan.name, self.number);
        let about = self.can_edit && self.dice.random_ratio(1, 8);
        let (room, what) = match self.said.pop_front().filter(|_| about) {
            Some((room, of)) => (room, self.something_about(of)),
            None => {
                let room = self.plan.rooms[self.dice.random_range(0..self.plan.rooms.len())].clone();
                (room, format!(r#"{{"t":"pub","d":{}"#, self.words()))
            }
        };
        let is_message = what.starts_with(r#"{"t":"pub""#);
        let line = format!(r#"{what},"r":{},"id":"{id}"}}"#, json!(room));
        Unacked { room, id, line, is_message, again: None }
    }

    fn something_about(&mut self, of: u64) -> String {
        match self.dice.random_range(0..3) {
            0 => format!(r#"{{"t":"edit","of":{of},"d":{}"#, self.words()),
            1 => format!(r#"{{"t":"del","of":{of}"#),
            _ => format!(r#"{{"t":"react","of":{of},"k":"+1""#),
        }
    }

    fn words(&mut self) -> Value {
        let length = self.dice.random_range(0..=self.plan.bytes);
        json!(format!("{} {}", self.number, "word ".repeat(length / 5)))
    }

    async fn send_again(&mut self, client: &mut Client) {
        let now = Instant::now();
        let due: Vec<String> =
            self.outside.iter().filter(|(_, at)| **at <= now).map(|(room, _)| room.clone()).collect();
        for room in due {
            self.outside.remove(&room);
            let join = format!(r#"{{"t":"join","r":{}}}"#, json!(room));
            self.say(client, &join).await;
        }
        for unacked in self.unacked.iter_mut().filter(|unacked| unacked.again.is_some_and(|at| at <= now)) {
            unacked.again = None;
            self.diary.said(&unacked.line);
            client.say(&unacked.line).await;
        }
    }

    fn hear(&mut self, line: &str) {
        self.diary.heard(line, false);
        let frame = Frame::read(line).unwrap_or_else(|error| panic!("{}: {error}", self.plan.name));
        match &*frame.t {
            "welcome" => self.can_edit = self.plan.changes && line.contains(r#""edit""#),
            "ack" => self.acked(&frame),
            "err" => self.refused(&frame, line),
            _ => {}
        }
    }

    fn acked(&mut self, frame: &Frame) {
        // An answer to a line that was sent twice over one link comes twice.
        let Some(at) = self.unacked.iter().position(|known| Some(&known.id) == frame.id.as_ref()) else {
            return;
        };
        let unacked = self.unacked.remove(at).expect("it was found there");
        if let Some(s) = frame.s.filter(|_| unacked.is_message) {
            self.said.push_back((unacked.room, s));
            self.said.truncate(64);
        }
        self.written.acked += 1;
        self.progress.send_replace(self.written.clone());
    }

    fn refused(&mut self, frame: &Frame, line: &str) {
        let (why, room) = (frame.why.clone().unwrap_or_default(), frame.r.clone().unwrap_or_default());
        let wait = Duration::from_millis(frame.wait.unwrap_or(30));
        let again = Instant::now() + wait;
        let may_come_again = matches!(frame.code, Some(503 | 429));
        let known = self.unacked.iter().position(|known| frame.id.as_ref() == Some(&known.id));
        match known {
            // What he could not join he cannot write into either, until he has.
            Some(at) if may_come_again || why == "not-joined" => {
                self.unacked[at].again = Some(again);
                if why == "not-joined" {
                    self.outside.entry(room).or_insert(again);
                }
            }
            Some(at) => {
                let unacked = self.unacked.remove(at).expect("it was found there");
                // What he changes may have gone by another way; what he says is fine and has to be taken.
                assert!(!unacked.is_message, "{} was refused for ever: {line}", self.plan.name);
            }
            None => {
                let is_join = may_come_again && frame.id.is_none() && !room.is_empty();
                assert!(is_join, "{} is refused what he did not ask: {line}", self.plan.name);
                self.outside.insert(room, again);
            }
        }
        *self.written.refused.entry(why).or_default() += 1;
        self.progress.send_replace(self.written.clone());
    }
}
