//! One engine as a chat server would hold it, with a judge who looks at everything that it says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use roomcast::chat::entry::{Entry, Kind};
use roomcast::chat::message::{Epoch, Offset};
use roomcast::chat::names::{MessageId, RoomName, UserName};
use roomcast::chat::overview::{Look, View};
use roomcast::engines::engine::Ask;
use roomcast::engines::redis::{RoomKeep, Settings, open};
use roomcast::engines::shared::{Command, News, Outcome, Proposal, Safety, Says, Shared};
use roomcast::redis_link::RedisLink;
use roomcast::store::archive::{Answer, Question, StoredRoom};
use roomcast::store::record::Record;

use crate::fixtures::eventually;

/// What a room looks like on a node.
#[derive(Default, Clone, Debug)]
pub struct Seen {
    /// Offset to epoch and id.
    pub log: BTreeMap<Offset, (u64, String)>,
    pub top: Offset,
    pub rewinds: Vec<Offset>,
    pub skips: Vec<Offset>,
    pub passed: Vec<String>,
}

#[derive(Default)]
struct Heard {
    rooms: HashMap<String, Seen>,
    settled: HashMap<u64, (Instant, Outcome)>,
    order: Vec<u64>,
    answers: HashMap<u64, Result<Vec<Answer>, String>>,
    /// What was seen of all nodes together.
    views: HashMap<u64, Result<View, String>>,
    health: Vec<Option<String>>,
    /// What was told beside the logs.
    life: Vec<String>,
    /// Who is where on other nodes.
    people: HashMap<String, BTreeSet<(u32, String)>>,
    /// What must never happen.
    faults: Vec<String>,
}

impl Heard {
    fn take(&mut self, says: Says) {
        match says {
            Says::Settled(settled) => {
                for (ticket, outcome) in settled {
                    self.order.push(ticket);
                    if self.settled.insert(ticket, (Instant::now(), outcome)).is_some() {
                        self.faults.push(format!("ticket {ticket} was settled twice"));
                    }
                }
            }
            Says::Arrived(room, entries) => {
                let seen = self.rooms.entry(room.as_str().into()).or_default();
                for entry in entries {
                    if entry.offset != seen.top + 1 {
                        self.faults.push(format!("{room:?}: {} came after {}", entry.offset, seen.top));
                    }
                    let place = format!("\"s\":{},", entry.offset);
                    if !String::from_utf8_lossy(&entry.line).contains(&place) {
                        self.faults.push(format!("{room:?}: the line at {} says otherwise", entry.offset));
                    }
                    seen.top = entry.offset;
                    let id = entry.id.map_or(String::new(), |id| id.as_str().to_owned());
                    seen.log.insert(entry.offset, (entry.epoch.0, id));
                }
            }
            Says::Rewound { room, to, .. } => {
                let seen = self.rooms.entry(room.as_str().into()).or_default();
                seen.log.retain(|offset, _| *offset <= to);
                seen.rewinds.push(to);
                seen.top = to;
            }
            Says::Skipped { room, to, .. } => {
                let seen = self.rooms.entry(room.as_str().into()).or_default();
                seen.skips.push(to);
                seen.top = to;
            }
            Says::Passed(room, line) => {
                let seen = self.rooms.entry(room.as_str().into()).or_default();
                seen.passed.push(String::from_utf8_lossy(&line).into_owned());
            }
            Says::Answered { ticket, answers } => {
                for answer in answers.iter().flatten() {
                    if let Answer::Room(Some(room)) = answer {
                        self.restore(ticket, room);
                    }
                }
                self.answers.insert(ticket, answers);
            }
            Says::Health(health) => self.health.push(health),
            Says::News(room, node, news) => {
                let people = self.people.entry(room.as_str().into()).or_default();
                match &news {
                    News::Came(user, _) => drop(people.insert((node, user.as_str().into()))),
                    News::Went(user) => drop(people.remove(&(node, user.as_str().into()))),
                    _ => {}
                }
                self.life.push(format!("{}: {news:?}", room.as_str()));
            }
            Says::Roster(room, list) => {
                let people = list.iter().map(|there| (there.node, there.user.as_str().to_owned())).collect();
                self.people.insert(room.as_str().into(), people);
                let mut users: Vec<&str> = list.iter().map(|there| there.user.as_str()).collect();
                users.sort_unstable();
                self.life.push(format!("{}: roster {users:?}", room.as_str()));
            }
            Says::Crowd { room, nodes, .. } => {
                self.life.push(format!("{}: {} nodes", room.as_str(), nodes.len()))
            }
            Says::NodeGone(gone) => {
                self.people.values_mut().for_each(|people| people.retain(|(node, _)| *node != gone));
                self.life.push("a node is gone".into());
            }
            Says::Seen { ticket, view } => drop(self.views.insert(ticket, view)),
            Says::Command(command) => self.life.push(format!("{command:?}")),
            // The stories of rules and of traces are told with whole nodes, in tests/cluster.
            Says::Rules { .. } | Says::Ruled { .. } | Says::Trace(..) => {}
        }
    }

    /// The room of a ticket is known by the ticket's question, which is kept as an answer's error until then.
    fn restore(&mut self, ticket: u64, room: &StoredRoom) {
        let Some(Err(name)) = self.answers.get(&ticket) else { return };
        let seen = self.rooms.entry(name.clone()).or_default();
        seen.top = room.top;
    }
}

pub struct Node {
    engine: Mutex<Option<Box<dyn Shared>>>,
    heard: Arc<Mutex<Heard>>,
    tickets: AtomicU64,
    name: u32,
}

pub fn room(name: &str) -> RoomName {
    RoomName::new(name).unwrap()
}

/// A message with an id; its data is the id too.
pub fn message(name: &str, id: &str) -> Entry {
    let line =
        format!("{{\"t\":\"msg\",\"r\":\"{name}\",\"s\":0,\"id\":\"{id}\",\"u\":\"ann\",\"d\":\"{id}\"}}");
    Entry {
        room: room(name),
        epoch: Epoch(0),
        offset: 0,
        ts: roomcast::clock::wall_ms(),
        kind: Kind::Message,
        user: Some(UserName::new("ann").unwrap()),
        id: Some(MessageId::new(id).unwrap()),
        of: 0,
        mark: None,
        off: false,
        line: Bytes::from(line),
    }
}

impl Node {
    pub fn start(url: &str, name: u32) -> Node {
        Node::start_with(url, name, |_| {})
    }

    pub fn start_with(url: &str, name: u32, change: impl Fn(&mut Settings)) -> Node {
        let mut settings = Settings {
            link: RedisLink::parse(url).unwrap(),
            prefix: "chat".into(),
            node: name.to_string(),
            keep: Box::new(|_| RoomKeep { history: 100_000, keep_ms: 3_600_000, dedup_ms: 600_000 }),
            archive: None,
            leaving: None,
        };
        change(&mut settings);
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let ears = heard.clone();
        let start = open(settings).unwrap();
        let engine = start(Arc::new(move |says| ears.lock().unwrap().take(says))).unwrap();
        Node { engine: Mutex::new(Some(engine)), heard, tickets: AtomicU64::new(1), name }
    }

    /// What is done to a dead node is done to nobody.
    fn with(&self, work: impl FnOnce(&mut Box<dyn Shared>)) {
        self.engine.lock().unwrap().as_mut().map(work).unwrap_or_default();
    }

    /// Ends as a process that is killed: everything stops where it is.
    pub fn crash(&self) {
        self.engine.lock().unwrap().take();
    }

    pub fn is_dead(&self) -> bool {
        self.engine.lock().unwrap().is_none()
    }

    pub fn name(&self) -> u32 {
        self.name
    }

    fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Relaxed)
    }

    pub fn propose(&self, entry: Entry, key: &str, logged: bool, safety: Safety) -> u64 {
        let ticket = self.ticket();
        let proposal = Proposal { ticket, entry, key: key.as_bytes().into(), logged, safety };
        self.with(|engine| engine.propose(vec![proposal]));
        ticket
    }

    /// Says a message; its id is its key.
    pub fn say(&self, name: &str, id: &str) -> u64 {
        self.propose(message(name, id), id, true, Safety::Replicated)
    }

    pub fn outcome(&self, ticket: u64) -> Option<Outcome> {
        self.heard.lock().unwrap().settled.get(&ticket).map(|(_, outcome)| outcome.clone())
    }

    pub async fn settled(&self, ticket: u64) -> Outcome {
        eventually("an outcome", async || self.outcome(ticket)).await
    }

    /// The place that a message gets.
    pub async fn place(&self, ticket: u64) -> (Offset, bool) {
        match self.settled(ticket).await {
            Outcome::Placed(accepted) => (accepted.offset, accepted.duplicate),
            other => panic!("no place but {other:?}"),
        }
    }

    pub fn ask_for(&self, questions: Vec<Question>) -> u64 {
        let ticket = self.ticket();
        if let [Question::Room { room, .. }] = questions.as_slice() {
            self.heard.lock().unwrap().answers.insert(ticket, Err(room.as_str().into()));
        }
        self.with(|engine| engine.ask(Ask { ticket, after: 0, questions }));
        ticket
    }

    pub async fn ask(&self, question: Question) -> Result<Answer, String> {
        let is_join = matches!(question, Question::Room { .. });
        let ticket = self.ask_for(vec![question]);
        let answers = eventually("an answer", async || {
            let heard = self.heard.lock().unwrap();
            heard.answers.get(&ticket).filter(|answer| !is_join || answer.is_ok()).cloned()
        });
        answers.await.map(|mut answers| answers.remove(0))
    }

    /// Whether a question about rooms was answered.
    pub fn joined(&self, ticket: u64) -> bool {
        self.heard.lock().unwrap().answers.get(&ticket).is_some_and(Result::is_ok)
    }

    /// Whether a question was answered with an error.
    pub fn failed(&self, ticket: u64) -> bool {
        self.heard.lock().unwrap().answers.get(&ticket).is_some_and(Result::is_err)
    }

    pub async fn join(&self, name: &str) -> StoredRoom {
        let question = Question::Room { room: room(name), tail: 100, tail_bytes: 1 << 20 };
        match self.ask(question).await {
            Ok(Answer::Room(Some(room))) => room,
            other => panic!("no room but {other:?}"),
        }
    }

    pub fn leave(&self, name: &str) {
        self.with(|engine| engine.leave(vec![room(name)]));
    }

    pub fn seen(&self, name: &str) -> Seen {
        self.heard.lock().unwrap().rooms.get(name).cloned().unwrap_or_default()
    }

    pub async fn reaches(&self, name: &str, top: Offset) -> Seen {
        eventually(&format!("node {} to reach {top} in {name}", self.name), async || {
            Some(self.seen(name)).filter(|seen| seen.top >= top)
        })
        .await
    }

    pub async fn is_well(&self) {
        eventually("a node to be well", async || {
            (self.heard.lock().unwrap().health.last() == Some(&None)).then_some(())
        })
        .await;
    }

    pub fn health(&self) -> Vec<Option<String>> {
        self.heard.lock().unwrap().health.clone()
    }

    pub fn tell(&self, name: &str, news: News) {
        self.with(|engine| engine.tell(vec![(room(name), news)]));
    }

    pub fn note(&self, records: Vec<Record>) {
        self.with(|engine| engine.note(records));
    }

    pub fn count(&self, name: &str, sessions: u32) {
        self.with(|engine| engine.count(vec![(room(name), sessions)]));
    }

    pub async fn look(&self, look: Look) -> Result<View, String> {
        let ticket = self.ticket();
        self.with(|engine| engine.look(ticket, look));
        eventually("a view", async || self.heard.lock().unwrap().views.remove(&ticket)).await
    }

    pub fn command(&self, command: Command) {
        self.with(|engine| engine.command(command));
    }

    /// Waits until something was told beside the logs, and forgets what was told up to there.
    pub async fn hears(&self, text: &str) {
        eventually(&format!("node {} to hear {text:?} in {:?}", self.name, self.life()), async || {
            let mut heard = self.heard.lock().unwrap();
            let at = heard.life.iter().position(|said| said == text)?;
            heard.life.drain(..=at);
            Some(())
        })
        .await;
    }

    /// Waits until just these are in a room on other nodes.
    pub async fn sees(&self, name: &str, users: &[&str]) {
        eventually(&format!("node {} to see {users:?}", self.name), async || {
            let heard = self.heard.lock().unwrap();
            let there = heard.people.get(name)?.iter().map(|(_, user)| user.as_str());
            there.eq(users.iter().copied()).then_some(())
        })
        .await;
    }

    pub fn life(&self) -> Vec<String> {
        self.heard.lock().unwrap().life.clone()
    }

    pub fn settled_order(&self) -> Vec<u64> {
        self.heard.lock().unwrap().order.clone()
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.engine.lock().unwrap().as_ref().map_or(0, |engine| engine.waiting_bytes())
    }

    pub async fn close(&self) {
        let (sender, done) = std::sync::mpsc::channel();
        self.with(|engine| engine.close(Box::new(move || sender.send(()).unwrap())));
        eventually("an engine to end", async || done.try_recv().ok()).await;
    }

    pub fn faults(&self) -> Vec<String> {
        self.heard.lock().unwrap().faults.clone()
    }
}

/// Every acknowledged message is on every node, once, at the place that was acknowledged last; the nodes agree;
/// nothing was out of order.
pub fn judge(nodes: &[&Node], name: &str, acked: &[(String, Offset)]) {
    for node in nodes {
        assert_eq!(node.faults(), Vec::<String>::new(), "node {}", node.name);
    }
    let logs: Vec<Seen> = nodes.iter().map(|node| node.seen(name)).collect();
    for (node, seen) in nodes.iter().zip(&logs) {
        let mut at: HashMap<&str, Vec<Offset>> = HashMap::new();
        for (offset, (_, id)) in &seen.log {
            at.entry(id).or_default().push(*offset);
        }
        let doubled: Vec<_> = at.iter().filter(|(_, places)| places.len() > 1).collect();
        assert!(doubled.is_empty(), "node {}: doubled {doubled:?}", node.name);
        let lost: Vec<_> = acked.iter().filter(|(id, _)| !at.contains_key(id.as_str())).collect();
        let ends = (lost.first(), lost.last());
        let (rewinds, skips) = (&seen.rewinds, &seen.skips);
        let why =
            format!("{} of {} from {ends:?}, rewinds {rewinds:?}, skips {skips:?}", lost.len(), acked.len());
        assert!(lost.is_empty(), "node {} lost {why}", node.name);
    }
    for (offset, entry) in &logs[0].log {
        for (node, seen) in nodes.iter().zip(&logs).skip(1) {
            if let Some(other) = seen.log.get(offset) {
                assert_eq!(entry, other, "{name} {offset}: nodes {} and {}", nodes[0].name, node.name);
            }
        }
    }
}
