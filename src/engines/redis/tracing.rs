//! What other nodes know of an entry: the question goes to the inbox of each node that is there, on partition 0, and the
//! answers come back to this node's own. A node that takes too long is named and not waited for. A question is a task
//! on the engine's thread.
//!
//! Content of both frames: slot u32 of who sends it, number u64 of the question, JSON. Numbers are big-endian.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::chat::trace::{Asked, NodeTrace};
use crate::engines::redis::frame::framed;
use crate::engines::redis::letters::Letter;
use crate::engines::redis::life::bytes::Unreadable;
use crate::engines::redis::life::keys::Keys;
use crate::engines::redis::life::wire::{ANSWER, QUESTION};
use crate::engines::redis::world::World;
use crate::engines::shared::{NodeSlot, OthersTrace, Says};

/// Longest that the others may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Who was reached by a post, and what they are called.
#[derive(Debug, Default)]
struct Reached {
    reached: Vec<NodeSlot>,
    names: HashMap<NodeSlot, String>,
}

/// Something for some nodes.
pub struct Post {
    to: Vec<NodeSlot>,
    frame: Vec<u8>,
    since: Instant,
    /// Who wants to know whom it has reached.
    told: Option<oneshot::Sender<Reached>>,
}

impl Post {
    fn new(to: Vec<NodeSlot>, tag: u8, content: &[u8], told: Option<oneshot::Sender<Reached>>) -> Post {
        Post { to, frame: framed(tag, content), since: Instant::now(), told }
    }

    /// Whether nobody waits for it any more.
    pub fn is_late(&self) -> bool {
        self.since.elapsed() > ANSWER_MAX
    }

    /// Sends it. Where Redis does not answer, nobody was reached.
    pub async fn go(self, connection: &mut MultiplexedConnection, keys: &Keys) {
        let mut pipeline = redis::pipe();
        for slot in &self.to {
            pipeline.cmd(keys.publish()).arg(keys.inbox(*slot)).arg(&self.frame);
        }
        pipeline.cmd("HGETALL").arg(keys.names());
        let answers: Result<Vec<redis::Value>, _> = pipeline.query_async(connection).await;
        let mut answers = match answers {
            Ok(answers) => answers,
            Err(error) => return log::warn!("redis: other nodes cannot be asked: {error}"),
        };
        let names = answers.pop().and_then(|names| redis::from_redis_value(names).ok()).unwrap_or_default();
        let is_heard = |answer: redis::Value| redis::from_redis_value::<u64>(answer).is_ok_and(|n| n > 0);
        let reached = self.to.into_iter().zip(answers);
        let reached = reached.filter_map(|(slot, answer)| is_heard(answer).then_some(slot)).collect();
        if let Some(told) = self.told {
            // Whoever asked may have given up.
            told.send(Reached { reached, names }).ok();
        }
    }
}

/// What a node has answered.
pub struct Answer {
    number: u64,
    slot: NodeSlot,
    part: NodeTrace,
}

/// Questions that are open, by their numbers.
#[derive(Default)]
pub struct Traces {
    next: RefCell<u64>,
    open: RefCell<AHashMap<u64, UnboundedSender<(NodeSlot, NodeTrace)>>>,
}

impl Traces {
    fn open(&self, answers: UnboundedSender<(NodeSlot, NodeTrace)>) -> u64 {
        let number = self.next.replace_with(|next| *next + 1);
        self.open.borrow_mut().insert(number, answers);
        number
    }

    fn close(&self, number: u64) {
        self.open.borrow_mut().remove(&number);
    }

    /// A node has answered. Too late, and nobody hears it.
    pub fn answered(&self, Answer { number, slot, part }: Answer) {
        if let Some(answers) = self.open.borrow().get(&number) {
            // Its task ends when it has given up.
            answers.send((slot, part)).ok();
        }
    }
}

/// Asks all other nodes that are there.
pub async fn ask(world: &World, asked: &Asked) -> Result<OthersTrace, String> {
    let end = tokio::time::Instant::now() + ANSWER_MAX;
    let (Some(own), Some(live)) = (world.peers.lease(), world.peers.live()) else {
        return Err("this node has no number yet; try again".into());
    };
    let others: Vec<NodeSlot> = live.into_iter().filter(|slot| *slot != own.slot).collect();
    if others.is_empty() {
        return Ok(OthersTrace::default());
    }
    let (answers, mut heard) = unbounded_channel();
    let number = world.traces.open(answers);
    let content = content_of(own.slot, number, asked)?;
    let (told, reached) = oneshot::channel();
    world.post_at(0, Letter::Post(Post::new(others.clone(), QUESTION, &content, Some(told))));
    // Without an answer Redis is away, and nobody was asked.
    let Reached { reached, names } = match timeout_at(end, reached).await {
        Ok(Ok(reached)) => reached,
        _ => Reached::default(),
    };
    let mut known: HashMap<NodeSlot, NodeTrace> = HashMap::new();
    while reached.iter().any(|slot| !known.contains_key(slot)) {
        let Ok(Some((slot, part))) = timeout_at(end, heard.recv()).await else { break };
        known.insert(slot, part);
    }
    world.traces.close(number);
    let silent = others.iter().filter(|slot| !known.contains_key(slot));
    let silent = silent.map(|slot| names.get(slot).cloned().unwrap_or_else(|| format!("node {slot}")));
    let silent = silent.collect();
    Ok(OthersTrace { parts: known.into_values().collect(), silent })
}

/// What another node asks.
pub struct FromOther {
    slot: NodeSlot,
    number: u64,
    asked: Asked,
}

fn content_of(own: NodeSlot, number: u64, what: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut content = own.to_be_bytes().to_vec();
    content.extend_from_slice(&number.to_be_bytes());
    serde_json::to_writer(&mut content, what).map_err(|error| error.to_string())?;
    Ok(content)
}

fn read<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<(NodeSlot, u64, T), Unreadable> {
    let (slot, rest) = content.split_first_chunk().ok_or(Unreadable("slot"))?;
    let (number, json) = rest.split_first_chunk().ok_or(Unreadable("number of the question"))?;
    let what = serde_json::from_slice(json).map_err(|_| Unreadable("text"))?;
    Ok((NodeSlot::from_be_bytes(*slot), u64::from_be_bytes(*number), what))
}

/// Reads a question.
pub fn question(content: &[u8]) -> Result<FromOther, Unreadable> {
    let (slot, number, asked) = read(content)?;
    Ok(FromOther { slot, number, asked })
}

/// Reads an answer.
pub fn answer(content: &[u8]) -> Result<Answer, Unreadable> {
    let (slot, number, part) = read(content)?;
    Ok(Answer { slot, number, part })
}

/// Has the chat server answer another node.
pub fn pass_on(world: &Rc<World>, FromOther { slot, number, asked }: FromOther) {
    let (reply, part) = oneshot::channel();
    world.say(Says::Trace(asked, reply));
    let world = world.clone();
    tokio::task::spawn_local(async move {
        let (Ok(part), Some(own)) = (part.await, world.peers.lease()) else { return };
        let content = match content_of(own.slot, number, &part) {
            Ok(content) => content,
            Err(why) => return log::error!("redis: another node gets no answer: {why}"),
        };
        world.post_at(0, Letter::Post(Post::new(vec![slot], ANSWER, &content, None)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_the_wire_and_broken_ones_are_refused() {
        let asked = Asked {
            room: "lobby".into(),
            offset: 128,
            ts: Some(7),
            user: Some("bob".into()),
            session: None,
            after: None,
            n: 10,
        };
        let content = content_of(3, 9, &asked).unwrap();
        let read = question(&content).unwrap();
        assert_eq!((read.slot, read.number, &read.asked), (3, 9, &asked));
        for cut in 0..content.len() {
            assert!(question(&content[..cut]).is_err(), "{cut}");
        }
        let part = NodeTrace { more: true, ..NodeTrace::default() };
        let content = content_of(4, 9, &part).unwrap();
        let read = answer(&content).unwrap();
        assert_eq!((read.number, read.slot, &read.part), (9, 4, &part));
        for cut in 0..content.len() {
            assert!(answer(&content[..cut]).is_err(), "{cut}");
        }
    }
}
