//! A stream of NATS JetStream as a source: one node at a time reads it in the stream's order, and what the rooms
//! have kept is noted as a place in the stream. Called by the actor of sources.
//!
//! Place and turn are one entry of a key-value bucket, `roomcast`, changed only by comparing its revision. A process
//! that stood still and goes on finds another revision there: it can neither note a place nor say what it has read,
//! for both come after a change of that entry. So the order is kept also where consumers with acknowledgements of
//! their own would mix up what is delivered again with what is new.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, Stream};
use async_nats::jetstream::{self, Message};
use async_nats::{ConnectOptions, ServerAddr};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::sources::source_settings::shown;
use crate::traces::Parent;

/// The bucket with the places of all sources.
const BUCKET: &str = "roomcast";
/// Most messages taken in one step.
const TAKE_ITEMS_MAX: usize = 128;
/// Longest wait for a message.
const WAIT: Duration = Duration::from_secs(1);
/// Longest that the server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A node whose entry does not change for so long is gone.
const MISSED: Duration = Duration::from_secs(3);
/// How often the entry is changed.
const RENEW: Duration = Duration::from_secs(1);
/// How often another node looks at it.
const LOOK: Duration = Duration::from_millis(250);
/// Longest id of a message's own by which it is known again.
const OWN_ID_BYTES_MAX: usize = 38;

/// What stands in the bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Place {
    /// Whose turn it is; empty: nobody's.
    reader: String,
    /// Everything up to here is kept in the rooms.
    upto: u64,
}

/// Where the stream is and who reads.
pub struct NatsParts {
    /// `nats://[user:password@]host:4222`, several with commas.
    pub url: String,
    /// The stream's name.
    pub stream: String,
    /// The name of the place: sources with the same one share it.
    pub group: String,
    /// Only this subject; empty: all.
    pub subject: String,
    /// This node's name.
    pub node: String,
}

/// See above.
pub struct Nats {
    parts: NatsParts,
    live: Option<Live>,
}

struct Live {
    stream: Stream,
    store: Store,
    key: String,
    /// This process as a reader.
    reader: String,
    /// When the revision was first seen that stands there now; of another's entry.
    seen: Option<(u64, Instant)>,
    reading: Option<Reading>,
}

/// While it is this node's turn.
struct Reading {
    revision: u64,
    renewed: Instant,
    place: Place,
    /// The newest message that was read.
    read: u64,
    /// Those that were taken and not acknowledged yet.
    open: BTreeSet<u64>,
    messages: Ordered,
}

impl Nats {
    /// Connects at [`Source::open`].
    pub fn new(parts: NatsParts) -> Nats {
        Nats { parts, live: None }
    }

    fn live(&mut self) -> Result<&mut Live, SourceError> {
        self.live.as_mut().ok_or_else(|| SourceError::new("not connected"))
    }

    fn servers(&self) -> Result<Vec<ServerAddr>, SourceError> {
        let parse = |url: &str| url.trim().parse().map_err(|_| SourceError::new("its url cannot be read"));
        self.parts.url.split(',').map(parse).collect()
    }

    async fn stream(&self, context: &jetstream::Context) -> Result<Stream, SourceError> {
        let name = &self.parts.stream;
        let stream = context.get_stream(name).await.map_err(|error| {
            SourceError::new(format!("stream {name}: {error}; make it with `nats stream add {name}`"))
        })?;
        if stream.cached_info().config.retention != RetentionPolicy::Limits {
            let text = "its retention drops what a consumer of its own has not acknowledged; make it with --retention limits";
            return Err(SourceError::new(format!("stream {name}: {text}")));
        }
        Ok(stream)
    }
}

/// The bucket, as safe as the stream. It is made as the stream that it is, because the client's own way to make one
/// asks for figures of the account that servers before 2.10 tell in another form.
async fn bucket(context: &jetstream::Context, num_replicas: usize) -> Result<Store, SourceError> {
    let failed = |error: &dyn Display| SourceError::new(format!("bucket {BUCKET}: {error}"));
    if let Ok(store) = context.get_key_value(BUCKET).await {
        return Ok(store);
    }
    let config = stream::Config {
        name: format!("KV_{BUCKET}"),
        description: Some("how far roomcast has read streams".into()),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        deny_delete: true,
        allow_rollup: true,
        num_replicas,
        ..Default::default()
    };
    context.create_stream(config).await.map_err(|error| failed(&error))?;
    context.get_key_value(BUCKET).await.map_err(|error| failed(&error))
}

impl Live {
    /// Takes the turn, if it is nobody's or of somebody who is gone.
    async fn come(&mut self, subject: &str) -> Result<bool, SourceError> {
        let entry = self.store.entry(self.key.as_str()).await.map_err(SourceError::new)?;
        let (before, revision) = match entry.filter(|entry| entry.operation == kv::Operation::Put) {
            None => (Place::default(), None),
            Some(entry) => {
                let place: Place = serde_json::from_slice(&entry.value)
                    .map_err(|_| SourceError::new(format!("{} in bucket {BUCKET} is no place", self.key)))?;
                (place, Some(entry.revision))
            }
        };
        if !before.reader.is_empty() && !self.is_gone(revision) {
            return Ok(false);
        }
        let place = Place { reader: self.reader.clone(), ..before };
        let sent = Instant::now();
        let taken = match revision {
            None => self.store.create(self.key.as_str(), bytes_of(&place)).await.map_err(SourceError::new),
            Some(revision) => {
                self.store.update(&self.key, bytes_of(&place), revision).await.map_err(SourceError::new)
            }
        };
        // Another one was faster, or the server is away; the next look tells.
        let Ok(revision) = taken else { return Ok(false) };
        let messages = self.read_from(place.upto + 1, subject).await?;
        let open = BTreeSet::new();
        self.reading = Some(Reading { revision, renewed: sent, read: place.upto, open, place, messages });
        Ok(true)
    }

    /// Whether an entry has not changed for so long that its writer must be gone.
    fn is_gone(&mut self, revision: Option<u64>) -> bool {
        let revision = revision.unwrap_or(0);
        match self.seen {
            Some((seen, since)) if seen == revision => since.elapsed() >= MISSED,
            _ => {
                self.seen = Some((revision, Instant::now()));
                false
            }
        }
    }

    async fn read_from(&self, start_sequence: u64, subject: &str) -> Result<Ordered, SourceError> {
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            replay_policy: ReplayPolicy::Instant,
            filter_subject: subject.to_owned(),
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(SourceError::new)?;
        consumer.messages().await.map_err(SourceError::new)
    }

    /// Writes the place; an error: somebody else has, or the server is away.
    async fn renew(&mut self) -> Result<(), SourceError> {
        let Some(reading) = &mut self.reading else {
            return Err(SourceError::new("it is not this node's turn"));
        };
        let sent = Instant::now();
        let written = self.store.update(&self.key, bytes_of(&reading.place), reading.revision).await;
        reading.revision = written.map_err(SourceError::new)?;
        reading.renewed = sent;
        Ok(())
    }
}

impl Reading {
    /// What is there, at most a batch; waits for the first.
    async fn next(&mut self) -> Result<Vec<Message>, SourceError> {
        let mut found = Vec::new();
        let Ok(first) = timeout(WAIT, self.messages.next()).await else { return Ok(found) };
        let mut next = Some(first);
        while let Some(message) = next {
            let message = message.ok_or_else(|| SourceError::new("the stream ended"))?;
            found.push(message.map_err(SourceError::new)?);
            next = if found.len() < TAKE_ITEMS_MAX { self.messages.next().now_or_never() } else { None };
        }
        Ok(found)
    }
}

fn bytes_of(place: &Place) -> Bytes {
    serde_json::to_vec(place).expect("a text and a number always have a JSON form").into()
}

impl Source for Nats {
    type Receipt = u64;

    fn address(&self) -> String {
        self.parts.url.split(',').map(shown).collect::<Vec<_>>().join(",")
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        self.live = None;
        let options = ConnectOptions::new()
            .name("roomcast")
            .connection_timeout(ANSWER_MAX)
            .request_timeout(Some(ANSWER_MAX));
        let client = timeout(2 * ANSWER_MAX, options.connect(self.servers()?)).await;
        let client =
            client.map_err(|_| SourceError::new("connecting timed out"))?.map_err(SourceError::new)?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_MAX);
        let stream = self.stream(&context).await?;
        let store = bucket(&context, stream.cached_info().config.num_replicas).await?;
        let key = format!("{}.{}", self.parts.stream, self.parts.group);
        let reader = format!("{}#{:016x}", self.parts.node, rand::random::<u64>());
        self.live = Some(Live { stream, store, key, reader, seen: None, reading: None });
        Ok(())
    }

    async fn take(&mut self) -> Result<Batch<u64>, SourceError> {
        let subject = self.parts.subject.clone();
        let live = self.live()?;
        if live.reading.is_none() && !live.come(&subject).await? {
            sleep(LOOK).await;
            return Ok(Batch::StandBy);
        }
        let Some(reading) = &mut live.reading else { return Ok(Batch::StandBy) };
        let found = reading.next().await?;
        if !found.is_empty() || reading.renewed.elapsed() >= RENEW {
            // Only what was read in this node's own turn is said.
            live.renew().await?;
        }
        let life = live.stream.cached_info().created.unix_timestamp();
        let Some(reading) = &mut live.reading else { return Ok(Batch::StandBy) };
        let mut items = Vec::with_capacity(found.len());
        for message in found {
            let taken = taken(message, life)?;
            if taken.receipt > reading.read {
                reading.read = taken.receipt;
                reading.open.insert(taken.receipt);
                items.push(taken);
            }
        }
        Ok(if items.is_empty() { Batch::Nothing } else { Batch::Items(items) })
    }

    async fn ack(&mut self, receipts: Vec<u64>) -> Result<(), SourceError> {
        let live = self.live()?;
        if let Some(reading) = &mut live.reading {
            reading.open.retain(|sequence| !receipts.contains(sequence));
            reading.place.upto = reading.open.first().map_or(reading.read, |oldest| oldest - 1);
        }
        live.renew().await
    }

    /// They are read again from the place.
    async fn give_back(&mut self, _: Vec<u64>) -> Result<(), SourceError> {
        Ok(())
    }

    async fn extend(&mut self, _: &[&u64]) -> Result<(), SourceError> {
        self.live()?.renew().await
    }

    fn patience(&self) -> Duration {
        RENEW
    }

    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        let live = self.live()?;
        let state = live.stream.get_info().await.map_err(SourceError::new)?.state;
        // What was deleted or belongs to other subjects counts as well: the stream does not tell them apart.
        Ok(live.reading.as_ref().map(|reading| state.last_sequence.saturating_sub(reading.place.upto)))
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        if let Some(reading) = &mut live.reading {
            reading.place.reader.clear();
            live.renew().await?;
        }
        Ok(())
    }
}

/// `life` tells a stream from another one that had its name before.
fn taken(message: Message, life: i64) -> Result<Taken<u64>, SourceError> {
    let (sequence, published) = {
        let info = message.info().map_err(SourceError::new)?;
        (info.stream_sequence, info.published.unix_timestamp_nanos() / 1_000_000)
    };
    let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
    let own = header("Nats-Msg-Id");
    let parent = Parent::read(header("traceparent"), header("tracestate"));
    let fits =
        |id: &&str| id.len() <= OWN_ID_BYTES_MAX && !id.is_empty() && !id.chars().any(char::is_control);
    let id = match own.filter(fits) {
        Some(own) => format!("m.{own}"),
        None => format!("{life:x}-{sequence}"),
    };
    Ok(Taken {
        id: Some(id.into()),
        item: message.message.payload,
        room: Ok(None),
        pushed_ms: u64::try_from(published).ok(),
        parent,
        receipt: sequence,
    })
}
