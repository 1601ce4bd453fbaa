//! Who talks in the stories of forwarding, and who judges what has arrived.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use roomcast_rig::PATIENCE;
use roomcast_rig::server::call;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{LIST, ROOMS, STREAM};
use crate::stage::Stage;

/// A backend that says the numbers from 0 in the rooms in turn, each again until it is accepted.
pub struct Talker {
    said: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Talker {
    pub fn start(nodes: Vec<SocketAddr>) -> Talker {
        let (told, said) = watch::channel(0);
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let (mut number, mut node) = (0_u64, 0);
            while !*stopped.borrow() {
                let room = ROOMS[number as usize % ROOMS.len()];
                let body = json!({"r": room, "d": number, "id": format!("n{number}")}).to_string();
                match call(nodes[node % nodes.len()], "POST", "/api/publish", &body).await {
                    Some((200, _)) => {
                        number += 1;
                        told.send_replace(number);
                    }
                    _ => {
                        node += 1;
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                }
            }
        });
        Talker { said, stop, task }
    }

    /// Waits until so many more are accepted.
    pub async fn goes_on(&mut self, more: u64) {
        let goal = *self.said.borrow() + more;
        let said = tokio::time::timeout(PATIENCE, self.said.wait_for(|said| *said >= goal)).await;
        said.expect("people get on").expect("nobody was told to stop");
    }

    /// How many were accepted.
    pub async fn stops(self) -> u64 {
        self.stop.send_replace(true);
        self.task.await.expect("a backend does not fail");
        *self.said.borrow()
    }
}

/// What a target has, oldest first: each frame, and its id where the target keeps one.
pub async fn list(stage: &Stage) -> Vec<(Value, Option<String>)> {
    let lines: Option<Vec<String>> = stage.redis.servers[0].ask(&["LRANGE", LIST, "0", "-1"]).await;
    let frame = |line: String| (serde_json::from_str(&line).expect("a line is JSON"), None);
    lines.unwrap_or_default().into_iter().rev().map(frame).collect()
}

pub async fn stream(stage: &Stage) -> Vec<(Value, Option<String>)> {
    type Items = Vec<(String, BTreeMap<String, String>)>;
    let items: Option<Items> = stage.redis.servers[0].ask(&["XRANGE", STREAM, "-", "+"]).await;
    let frame = |(_, fields): (String, BTreeMap<String, String>)| {
        let frame: Value = serde_json::from_str(&fields["payload"]).expect("a payload is JSON");
        assert_eq!(frame["r"], fields["room"].as_str());
        (frame, Some(fields["id"].clone()))
    };
    items.unwrap_or_default().into_iter().map(frame).collect()
}

/// What was found in a target.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries, each counted once.
    pub entries: u64,
    /// Those that came again.
    pub repeats: u64,
    /// Places that were left out.
    pub holes: u64,
}

/// Looks at each room: places in their order, each with the number that was said there; what comes again is the same.
pub fn judged(frames: &[(Value, Option<String>)]) -> Found {
    let mut found = Found::default();
    let mut rooms: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    for (frame, id) in frames {
        let (room, s) = (frame["r"].as_str().expect("a room"), frame["s"].as_u64().expect("a place"));
        let (e, own) = (frame["e"].as_str().expect("an epoch"), frame["id"].as_str().expect("an id"));
        assert!(id.as_deref().is_none_or(|id| id == format!("{room}@{e}-{s}")), "{id:?}: {frame}");
        assert_eq!(own, format!("n{}", frame["d"]), "the frame is what was said");
        let seen = rooms.entry(room.to_owned()).or_default();
        if let Some(known) = seen.get(&s) {
            assert_eq!(known, own, "another entry at a place that was taken");
            found.repeats += 1;
            continue;
        }
        let top = seen.keys().next_back().copied().unwrap_or(0);
        assert!(s > top, "{room}: {s} came for the first time behind {top}");
        found.holes += s - top - 1;
        found.entries += 1;
        seen.insert(s, own.to_owned());
    }
    for (room, seen) in &rooms {
        let numbers: Vec<u64> = seen.values().map(|id| id[1..].parse().expect("a number")).collect();
        assert!(numbers.is_sorted(), "{room}: the order is that in which it was said");
    }
    found
}
