//! A subscription of Google Pub/Sub as a source. Called by the actor of sources; several nodes take side by side. Where
//! the subscription orders its messages, those with one ordering key come in their order: Pub/Sub gives them to one
//! reader at a time, and when one of them comes again, so do all behind it; the rooms know those by their ids.
//!
//! Messages come over a stream that stays open, because a wait that is given up may have been given messages, and those
//! would be nobody's until their time runs out. A stream is silent where nothing comes, so another request is made now
//! and then to see that the server is there.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::chat::names::RoomName;
use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;
use crate::clouds::google::grpc::Incoming;
use crate::clouds::google::messages::{
    PubsubMessage, ReceivedMessage, StreamingPullRequest, StreamingPullResponse,
};
use crate::clouds::google::pubsub::{PubSubServer, seconds};
use crate::sources::poison::{Poison, Reason};
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::traces::Parent;

/// The attributes that say to which trace a message belongs; Google's own libraries put a word of theirs before.
const TRACE: [&str; 2] = ["traceparent", "googclient_traceparent"];
const TRACE_STATE: [&str; 2] = ["tracestate", "googclient_tracestate"];
/// Most messages taken in one step, and most that the server gives out before some are acknowledged.
const TAKE_ITEMS_MAX: usize = 128;
/// Most bytes that it gives out before; one message has 10 MB at most.
const OUTSTANDING_BYTES_MAX: i64 = 16 << 20;
/// Longest wait for a message.
const WAIT: Duration = Duration::from_secs(1);
/// How long a message that was taken is nobody else's unless it is extended.
const LEASE: Duration = Duration::from_secs(30);
/// Most messages that one request acknowledges or extends; its size is limited to 512 KiB, an id has some 200 bytes.
const REQUEST_ITEMS_MAX: usize = 1_000;
/// Longest id of a message's own by which it is known again.
const OWN_ID_BYTES_MAX: usize = 38;

/// Which subscription.
#[derive(Debug, Clone)]
pub struct PubSubParts {
    /// `projects/P/subscriptions/S`
    pub subscription: String,
    /// Where to ask; empty: what `PUBSUB_EMULATOR_HOST` names, or else Google's server.
    pub endpoint: String,
    /// This node's name; by it the service knows a reader that comes back.
    pub node: String,
    /// Where keys and the emulator are looked for:
    /// [`of_this_process`](crate::clouds::environment::of_this_process) outside of tests.
    pub environment: Environment,
}

/// See above.
pub struct PubSub {
    server: PubSubServer,
    subscription: String,
    node: String,
    lease: Duration,
    stream: Option<Incoming<StreamingPullResponse>>,
    /// Came over the stream and is not in anybody's hands yet.
    come: VecDeque<ReceivedMessage>,
}

impl PubSub {
    /// Reads the address. The error says what is wrong with it.
    pub fn new(parts: PubSubParts) -> Result<PubSub, String> {
        let PubSubParts { subscription, endpoint, node, environment } = parts;
        let server = PubSubServer::new(&endpoint, environment)?;
        Ok(PubSub { server, subscription, node, lease: LEASE, stream: None, come: VecDeque::new() })
    }

    /// What is taken is nobody else's for so long, in whole seconds, unless it is extended. Default 30 s; Pub/Sub itself
    /// takes 10 s at least.
    pub fn leased_for(self, lease: Duration) -> PubSub {
        PubSub { lease, ..self }
    }

    async fn stream(&mut self) -> Result<&mut Incoming<StreamingPullResponse>, CloudError> {
        if self.stream.is_none() {
            let request = StreamingPullRequest {
                subscription: self.subscription.clone(),
                stream_ack_deadline_seconds: seconds(self.lease),
                client_id: self.node.clone(),
                max_outstanding_messages: TAKE_ITEMS_MAX as i64,
                max_outstanding_bytes: OUTSTANDING_BYTES_MAX,
            };
            self.stream = Some(self.server.pull(&request).await?);
        }
        self.stream.as_mut().ok_or_else(|| CloudError::away("not connected"))
    }

    /// Waits for messages where none have come yet, and takes up what else is there.
    async fn listen(&mut self) -> Result<(), CloudError> {
        let has_some = !self.come.is_empty();
        let stream = self.stream().await?;
        if !has_some {
            match timeout(WAIT, stream.next()).await {
                Err(_) => return Ok(()),
                Ok(Ok(Some(answer))) => self.come.extend(answer.received_messages),
                Ok(end) => return self.end(end.map(drop)),
            }
        }
        self.take_up();
        Ok(())
    }

    /// Takes up what has come without waiting. An end of the stream is met by the next wait.
    fn take_up(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while self.come.len() < TAKE_ITEMS_MAX {
            let Some(Ok(Some(answer))) = stream.next().now_or_never() else { return };
            self.come.extend(answer.received_messages);
        }
    }

    /// The service ends each stream after a while, politely or as if it were away; then another one is begun. When it is
    /// away indeed, that fails.
    fn end(&mut self, how: Result<(), CloudError>) -> Result<(), CloudError> {
        self.stream = None;
        match how {
            Err(error) if error.code() != Some("UNAVAILABLE") => Err(error),
            _ => Ok(()),
        }
    }

    /// What was taken, and what nobody has taken yet, in the order in which it came.
    fn with_what_has_come(&mut self, receipts: Vec<String>) -> Vec<String> {
        self.take_up();
        receipts.into_iter().chain(self.come.iter().map(|message| message.ack_id.clone())).collect()
    }

    async fn lease(&mut self, receipts: &[String], lasts: Duration) -> Result<(), SourceError> {
        for some in receipts.chunks(REQUEST_ITEMS_MAX) {
            self.server.lease(&self.subscription, some.to_vec(), lasts).await?;
        }
        Ok(())
    }
}

impl Source for PubSub {
    type Receipt = String;

    fn address(&self) -> String {
        format!("{}/{}", self.server.address(), self.subscription)
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        (self.stream, self.come) = (None, VecDeque::new());
        self.server.open().await?;
        // A subscription that is not there is told now and not by a wait that looks like an idle one.
        self.waiting().await.map(drop)
    }

    async fn take(&mut self) -> Result<Batch<String>, SourceError> {
        self.listen().await?;
        let some = self.come.len().min(TAKE_ITEMS_MAX);
        let items: Vec<Taken<String>> = self.come.drain(..some).map(taken).collect();
        Ok(if items.is_empty() { Batch::Nothing } else { Batch::Items(items) })
    }

    async fn ack(&mut self, receipts: Vec<String>) -> Result<(), SourceError> {
        for some in receipts.chunks(REQUEST_ITEMS_MAX) {
            self.server.acknowledge(&self.subscription, some.to_vec()).await?;
        }
        Ok(())
    }

    /// Gives back what has come as well, and listens no more; else it would come here again.
    async fn give_back(&mut self, receipts: Vec<String>) -> Result<(), SourceError> {
        let receipts = self.with_what_has_come(receipts);
        (self.stream, self.come) = (None, VecDeque::new());
        self.lease(&receipts, Duration::ZERO).await
    }

    async fn extend(&mut self, receipts: &[&String]) -> Result<(), SourceError> {
        let receipts = self.with_what_has_come(receipts.iter().map(|receipt| (*receipt).clone()).collect());
        self.lease(&receipts, self.lease).await
    }

    fn patience(&self) -> Duration {
        self.lease / 3
    }

    /// Pub/Sub tells nobody but its monitoring how many wait. That it answers at all is seen from this: an extension of
    /// nothing is done, or refused as senseless.
    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        match self.server.lease(&self.subscription, Vec::new(), self.lease).await {
            Err(error) if error.code() != Some("INVALID_ARGUMENT") => Err(error.into()),
            _ => Ok(None),
        }
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let given_back = match self.stream {
            Some(_) => self.give_back(Vec::new()).await,
            None => Ok(()),
        };
        self.server.close();
        given_back
    }
}

fn parent_of(attributes: &HashMap<String, String>) -> Parent {
    let attribute =
        |names: [&str; 2]| names.iter().find_map(|name| attributes.get(*name)).map(String::as_str);
    Parent::read(attribute(TRACE), attribute(TRACE_STATE))
}

/// A message without content has at least no JSON in it, and is a dead letter for that.
fn taken(received: ReceivedMessage) -> Taken<String> {
    let PubsubMessage { data, attributes, message_id, publish_time, .. } =
        received.message.unwrap_or_default();
    let fits =
        |id: &&String| id.len() <= OWN_ID_BYTES_MAX && !id.is_empty() && !id.chars().any(char::is_control);
    let id = match attributes.get("id").filter(fits) {
        Some(own) => format!("m.{own}"),
        None => message_id,
    };
    let room = attributes.get("room").map(|room| {
        RoomName::named_by_client(room)
            .map_err(|error| Poison::new(Reason::BadRoom, format!("room: {error}")))
    });
    let pushed_ms = publish_time.and_then(|time| u64::try_from(time.seconds).ok()?.checked_mul(1_000));
    let parent = parent_of(&attributes);
    Taken {
        id: Some(id.into()),
        item: data,
        room: room.transpose(),
        pushed_ms,
        parent,
        receipt: received.ack_id,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clouds::google::messages::Timestamp;

    fn of(attributes: &[(&str, &str)]) -> Taken<String> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let message = PubsubMessage {
            data: Bytes::from_static(b"1"),
            attributes: attributes.collect(),
            message_id: "2070443601311540".into(),
            publish_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 1 }),
            ordering_key: "shop".into(),
        };
        taken(ReceivedMessage { ack_id: "a".into(), message: Some(message) })
    }

    #[test]
    fn room_and_id_may_stand_in_attributes() {
        let plain = of(&[]);
        assert_eq!((plain.id.as_deref(), plain.room.clone()), (Some("2070443601311540"), Ok(None)));
        assert_eq!(plain.pushed_ms, Some(1_700_000_000_000));
        let named = of(&[("room", "shop"), ("id", "o-17")]);
        assert_eq!(named.id.as_deref(), Some("m.o-17"));
        assert_eq!(named.room.unwrap().unwrap().as_str(), "shop");
        // An id of its own that cannot be kept is left out, not cut: two of them may begin alike.
        assert_eq!(of(&[("id", &"x".repeat(39))]).id, plain.id);
        assert_eq!(of(&[("room", "a*")]).room.unwrap_err().reason, Reason::BadRoom);
    }

    #[test]
    fn what_is_no_message_is_poison_and_not_a_panic() {
        let nothing = taken(ReceivedMessage { ack_id: "a".into(), message: None });
        assert!(nothing.item.is_empty());
    }

    #[cfg(feature = "otel")]
    #[test]
    fn the_trace_of_a_message_stands_in_its_attributes() {
        use crate::traces::{Kind, Recording, Tracer};

        let recording = Recording { sample: 0.0, queue: 1, resource: Vec::new(), remembers: false };
        let (tracer, _recorded) = Tracer::new(recording);
        let trace = |attributes: &[(&str, &str)]| {
            let span = tracer.go_on(&of(attributes).parent, "take from a queue", Kind::Consumer);
            span.trace_id().map(|id| id.to_string())
        };
        let named = |digit: &str| format!("00-{}-b7ad6b7169203331-01", digit.repeat(32));
        assert_eq!(trace(&[("traceparent", &named("a"))]), Some("a".repeat(32)));
        assert_eq!(trace(&[("googclient_traceparent", &named("b"))]), Some("b".repeat(32)));
        let both = [("googclient_traceparent", named("b")), ("traceparent", named("a"))];
        assert_eq!(trace(&[(both[0].0, &both[0].1), (both[1].0, &both[1].1)]), Some("a".repeat(32)));
        assert_eq!(trace(&[]), None);
    }
}
