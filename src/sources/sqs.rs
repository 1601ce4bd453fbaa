//! A queue of Amazon SQS as a source, standard or FIFO. Called by the actor of sources; several nodes take side by
//! side. A FIFO queue gives out nothing more of a message group while some of it is open, so the order of a group is
//! kept whoever takes; a standard queue has no order. Messages are known again by SQS's own ids.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::clouds::aws::sqs::{ITEMS_MAX, SqsParts, SqsQueue};
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::traces::Parent;

/// How long SQS waits for a message before it answers that there is none.
const WAIT_SECONDS: u64 = 2;
/// How long a message that was taken is hidden from others unless it is extended.
const HIDDEN: Duration = Duration::from_secs(30);

/// See above.
pub struct Sqs {
    queue: SqsQueue,
    hidden: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    #[serde(default)]
    messages: Vec<SqsMessage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SqsMessage {
    message_id: String,
    receipt_handle: String,
    body: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    message_attributes: HashMap<String, OwnAttribute>,
}

/// What whoever has sent a message says of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OwnAttribute {
    string_value: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    sent_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcomes {
    #[serde(default)]
    failed: Vec<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    code: String,
}

impl Sqs {
    /// Reads the addresses. The error says which of them is wrong.
    pub fn new(parts: SqsParts) -> Result<Sqs, String> {
        Ok(Sqs { queue: SqsQueue::new(parts)?, hidden: HIDDEN })
    }

    /// What is taken is hidden for so long, in whole seconds, unless it is extended. Default 30 s.
    pub fn hidden_for(self, hidden: Duration) -> Sqs {
        Sqs { hidden, ..self }
    }

    /// The same for several messages, ten at a time.
    async fn call_for_each(
        &mut self,
        action: &str,
        receipts: &[&str],
        hidden: Option<Duration>,
    ) -> Result<(), SourceError> {
        for some in receipts.chunks(ITEMS_MAX) {
            let entry = |(place, receipt): (usize, &&str)| {
                let mut entry = json!({"Id": place.to_string(), "ReceiptHandle": receipt});
                if let Some(hidden) = hidden {
                    entry["VisibilityTimeout"] = hidden.as_secs().into();
                }
                entry
            };
            let entries: Vec<Value> = some.iter().enumerate().map(entry).collect();
            let answer = self.queue.call(action, json!({"Entries": entries})).await?;
            let outcomes: Outcomes =
                serde_json::from_slice(&answer).map_err(|error| failed(action, error))?;
            if let Some(first) = outcomes.failed.first() {
                let text =
                    format!("{} of {} failed, the first: {}", outcomes.failed.len(), some.len(), first.code);
                return Err(failed(action, text));
            }
        }
        Ok(())
    }
}

fn failed(action: &str, why: impl std::fmt::Display) -> SourceError {
    SourceError::new(format!("{action}: {why}"))
}

impl Source for Sqs {
    type Receipt = String;

    fn address(&self) -> String {
        self.queue.url().to_owned()
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        self.queue.open();
        // A queue that is not there, or not ours, is told now and not by a wait that looks like an idle queue.
        self.waiting().await.map(|_| ())
    }

    async fn take(&mut self) -> Result<Batch<String>, SourceError> {
        let mut asked = json!({
            "MaxNumberOfMessages": ITEMS_MAX,
            "WaitTimeSeconds": WAIT_SECONDS,
            "VisibilityTimeout": self.hidden.as_secs(),
            "MessageSystemAttributeNames": ["SentTimestamp"],
        });
        if cfg!(feature = "otel") {
            asked["MessageAttributeNames"] = json!(["traceparent", "tracestate"]);
        }
        let answer = self.queue.call("ReceiveMessage", asked).await?;
        let received: Received =
            serde_json::from_slice(&answer).map_err(|error| failed("ReceiveMessage", error))?;
        let items: Vec<Taken<String>> = received.messages.into_iter().map(SqsMessage::taken).collect();
        Ok(if items.is_empty() { Batch::Nothing } else { Batch::Items(items) })
    }

    async fn ack(&mut self, receipts: Vec<String>) -> Result<(), SourceError> {
        let receipts: Vec<&str> = receipts.iter().map(String::as_str).collect();
        self.call_for_each("DeleteMessageBatch", &receipts, None).await
    }

    async fn give_back(&mut self, receipts: Vec<String>) -> Result<(), SourceError> {
        let receipts: Vec<&str> = receipts.iter().map(String::as_str).collect();
        self.call_for_each("ChangeMessageVisibilityBatch", &receipts, Some(Duration::ZERO)).await
    }

    async fn extend(&mut self, receipts: &[&String]) -> Result<(), SourceError> {
        let receipts: Vec<&str> = receipts.iter().map(|receipt| receipt.as_str()).collect();
        self.call_for_each("ChangeMessageVisibilityBatch", &receipts, Some(self.hidden)).await
    }

    fn patience(&self) -> Duration {
        self.hidden / 3
    }

    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = self.queue.call("GetQueueAttributes", json!({ "AttributeNames": names })).await?;
        let said: Value =
            serde_json::from_slice(&answer).map_err(|error| failed("GetQueueAttributes", error))?;
        let number = |name: &str| said["Attributes"][name].as_str()?.parse::<u64>().ok();
        Ok(names.iter().map(|name| number(name)).sum())
    }

    /// Nothing is held but messages, and those were given back.
    async fn close(&mut self) -> Result<(), SourceError> {
        self.queue.close();
        Ok(())
    }
}

impl SqsMessage {
    fn taken(self) -> Taken<String> {
        let own = |name: &str| self.message_attributes.get(name)?.string_value.as_deref();
        let parent = Parent::read(own("traceparent"), own("tracestate"));
        Taken {
            id: Some(self.message_id.into()),
            item: self.body.into(),
            room: Ok(None),
            pushed_ms: self.attributes.sent_timestamp.and_then(|text| text.parse().ok()),
            parent,
            receipt: self.receipt_handle,
        }
    }
}

#[cfg(all(test, feature = "otel"))]
mod tests {
    use super::*;
    use crate::traces::{Kind, Recording, Tracer};

    #[test]
    fn the_trace_of_a_message_stands_in_its_attributes() {
        let text = r#"{"Messages":[{"MessageId":"m","ReceiptHandle":"r","Body":"1","MessageAttributes":{"traceparent":
            {"StringValue":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","DataType":"String"}}}]}"#;
        let received: Received = serde_json::from_str(text).unwrap();
        let taken = received.messages.into_iter().map(SqsMessage::taken).next().unwrap();
        let recording = Recording { sample: 0.0, queue: 1, resource: Vec::new(), remembers: false };
        let (tracer, _recorded) = Tracer::new(recording);
        let span = tracer.go_on(&taken.parent, "take from a queue", Kind::Consumer);
        assert_eq!(span.trace_id().unwrap().as_str(), "0af7651916cd43dd8448eb211c80319c");
    }
}
