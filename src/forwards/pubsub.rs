//! A topic of Google Pub/Sub as a target: the room is the ordering key, so a subscription with message ordering gets
//! each room in its order. A request is taken whole or not at all. Called by the forwarder.

use std::collections::HashMap;

use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;
use crate::clouds::google::messages::PubsubMessage;
use crate::clouds::google::pubsub::PubSubServer;
use crate::forwards::runs::of_any_rooms;
use crate::forwards::target::{Outgoing, Target, TargetError};

/// Most entries in one request; Pub/Sub takes 1,000.
const ITEMS_MAX: usize = 250;
/// Most bytes in one request; Pub/Sub takes 10 MB with all that is around the entries.
const BYTES_MAX: usize = 4 << 20;

/// Longest entry: Pub/Sub takes messages of 10 MB, names and room counted.
const ENTRY_BYTES_MAX: usize = 10_000_000 - 4_096;

/// Which topic.
#[derive(Debug, Clone)]
pub struct PubSubTopic {
    /// `projects/P/topics/T`
    pub topic: String,
    /// Where to ask; empty: what `PUBSUB_EMULATOR_HOST` names, or else Google's server.
    pub endpoint: String,
    /// Where keys and the emulator are looked for:
    /// [`of_this_process`](crate::clouds::environment::of_this_process) outside of tests.
    pub environment: Environment,
}

/// See above.
pub struct PubSubTarget {
    server: PubSubServer,
    topic: String,
}

impl PubSubTarget {
    /// Reads the address. The error says what is wrong with it.
    pub fn new(parts: PubSubTopic) -> Result<PubSubTarget, String> {
        let server = PubSubServer::new(&parts.endpoint, parts.environment)?;
        Ok(PubSubTarget { server, topic: parts.topic })
    }

    /// Sends some. The service does not say which one of several it cannot take; then they go one by one.
    async fn send_some(&mut self, entries: &[Outgoing]) -> Result<(), (usize, TargetError)> {
        if let [entry] = entries
            && entry.line.len() > ENTRY_BYTES_MAX
        {
            let why = format!("the entry has {} bytes, Pub/Sub takes {ENTRY_BYTES_MAX}", entry.line.len());
            return Err((0, TargetError::Refused { index: 0, why }));
        }
        let Err(error) = self.publish(entries).await else { return Ok(()) };
        if error.code() != Some("INVALID_ARGUMENT") {
            return Err((0, TargetError::away(error)));
        }
        for (index, entry) in entries.iter().enumerate() {
            match self.publish(std::slice::from_ref(entry)).await {
                Ok(()) => {}
                Err(error) if error.code() == Some("INVALID_ARGUMENT") => {
                    return Err((index, TargetError::Refused { index, why: error.to_string() }));
                }
                Err(error) => return Err((index, TargetError::away(error))),
            }
        }
        Ok(())
    }

    async fn publish(&mut self, entries: &[Outgoing]) -> Result<(), CloudError> {
        let messages = entries.iter().map(message).collect();
        self.server.publish(&self.topic, messages).await.map(drop)
    }
}

/// Room and id stand beside the entry, so that a subscription can filter and know repeats without reading it.
fn message(entry: &Outgoing) -> PubsubMessage {
    let room = entry.room.as_str().to_owned();
    let attributes = [("room", room.clone()), ("id", entry.id())];
    PubsubMessage {
        data: entry.line.clone(),
        attributes: HashMap::from(attributes.map(|(name, value)| (name.to_owned(), value))),
        ordering_key: room,
        ..Default::default()
    }
}

impl Target for PubSubTarget {
    fn address(&self) -> String {
        format!("{}/{}", self.server.address(), self.topic)
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.server.open().await.map_err(TargetError::away)
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        let mut sent = 0;
        while sent < entries.len() {
            let some = of_any_rooms(&entries[sent..], ITEMS_MAX, BYTES_MAX);
            if let Err((more, error)) = self.send_some(&entries[sent..sent + some]).await {
                let error = match error {
                    TargetError::Refused { index, why } => TargetError::Refused { index: sent + index, why },
                    away => away,
                };
                return (sent + more, Some(error));
            }
            sent += some;
        }
        (sent, None)
    }

    fn batch(&self) -> usize {
        ITEMS_MAX
    }
}
