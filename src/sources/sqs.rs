//! A queue of Amazon SQS as a source, standard or FIFO. Called by the actor of sources; several nodes take side by
//! side. A FIFO queue gives out nothing more of a message group while some of it is open, so the order of a group is
//! kept whoever takes; a standard queue has no order. Messages are known again by SQS's own ids.
//!
//! SQS is spoken to directly: five requests with a JSON body each, signed as the services of AWS want it.

mod credentials;
mod signing;

use std::time::Duration;

use awc::Client;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::http_client;
use crate::sources::source::{Batch, Source, SourceError, Taken};
use crate::sources::sqs::credentials::Keyring;
use crate::sources::sqs::signing::{Signer, Stamp};

/// Most messages that SQS gives or takes at once.
const ITEMS_MAX: usize = 10;
/// How long SQS waits for a message before it answers that there is none.
const WAIT_SECONDS: u64 = 2;
/// How long a message that was taken is hidden from others unless it is extended.
const HIDDEN_SECONDS: u64 = 30;
/// How often it is extended.
const EXTEND: Duration = Duration::from_secs(10);
/// Longest that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Longest answer: ten messages of 1 MiB, each byte written as six at worst.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which queue.
#[derive(Debug, Clone)]
pub struct SqsParts {
    /// `https://sqs.eu-west-1.amazonaws.com/123456789012/name`
    pub queue_url: String,
    /// Empty: the one in the URL.
    pub region: String,
    /// Where to ask; empty: the URL's server.
    pub endpoint: String,
    /// The environment in which the keys are looked for: [`of_this_process`] outside of tests.
    pub environment: fn(&str) -> Option<String>,
}

/// A variable of this process's environment, if it is there and not empty.
pub fn of_this_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// See above.
pub struct Sqs {
    queue_url: String,
    endpoint: Url,
    region: String,
    keys: Keyring,
    client: Option<Client>,
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
        let SqsParts { queue_url, region, endpoint, environment } = parts;
        let at = if endpoint.is_empty() { &queue_url } else { &endpoint };
        let mut endpoint = Url::parse(at).map_err(|error| format!("{at:?} is no URL: {error}"))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(format!(
                "{at:?} is no address of SQS; write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
            ));
        }
        endpoint.set_path("/");
        let region = match region.is_empty() {
            false => region,
            true => region_of(&endpoint)
                .ok_or("its URL names no region; set region = \"eu-west-1\" or the like")?,
        };
        Ok(Sqs { queue_url, endpoint, region, keys: Keyring::new(environment), client: None })
    }

    async fn call(&mut self, action: &str, mut body: Value) -> Result<Bytes, SourceError> {
        let Some(client) = &self.client else { return Err(SourceError::new("not connected")) };
        body["QueueUrl"] = self.queue_url.as_str().into();
        let (body, keys) = (body.to_string(), self.keys.get(client).await?);
        let host = match self.endpoint.port() {
            Some(port) => format!("{}:{port}", self.endpoint.host_str().unwrap_or_default()),
            None => self.endpoint.host_str().unwrap_or_default().to_owned(),
        };
        let target = format!("AmazonSQS.{action}");
        let signer = Signer { keys: &keys, region: &self.region, host: &host, target: &target };
        let mut request = client.post(self.endpoint.as_str()).timeout(ANSWER_MAX);
        for (name, value) in signer.headers(&Stamp::now(), body.as_bytes()) {
            request = request.insert_header((name, value));
        }
        let mut response = request.send_body(body).await.map_err(|error| failed(action, error))?;
        let answer = response.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| failed(action, error))?;
        if response.status().is_success() {
            return Ok(answer);
        }
        Err(failed(action, explanation(response.status().as_u16(), &answer)))
    }

    /// The same for several messages, ten at a time.
    async fn call_for_each(
        &mut self,
        action: &str,
        receipts: &[&str],
        seconds: Option<u64>,
    ) -> Result<(), SourceError> {
        for some in receipts.chunks(ITEMS_MAX) {
            let entry = |(place, receipt): (usize, &&str)| {
                let mut entry = json!({"Id": place.to_string(), "ReceiptHandle": receipt});
                if let Some(seconds) = seconds {
                    entry["VisibilityTimeout"] = seconds.into();
                }
                entry
            };
            let entries: Vec<Value> = some.iter().enumerate().map(entry).collect();
            let answer = self.call(action, json!({"Entries": entries})).await?;
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

/// `sqs.REGION.amazonaws.com`, or in China and elsewhere with another ending.
fn region_of(endpoint: &Url) -> Option<String> {
    let mut parts = endpoint.host_str()?.split('.');
    let (service, region, owner) = (parts.next()?, parts.next()?, parts.next()?);
    (matches!(service, "sqs" | "sqs-fips") && owner == "amazonaws").then(|| region.to_owned())
}

fn failed(action: &str, why: impl std::fmt::Display) -> SourceError {
    SourceError::new(format!("{action}: {why}"))
}

/// SQS says in JSON what was wrong.
fn explanation(status: u16, answer: &[u8]) -> String {
    let said: Value = serde_json::from_slice(answer).unwrap_or_default();
    let kind = said["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or("no reason");
    let text = said["message"].as_str().or(said["Message"].as_str()).unwrap_or_default();
    format!("status {status}, {kind}: {text}")
}

impl Source for Sqs {
    type Receipt = String;

    fn address(&self) -> String {
        self.queue_url.clone()
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        self.client = Some(http_client::client(ANSWER_MAX));
        self.keys.forget();
        // A queue that is not there, or not ours, is told now and not by a wait that looks like an idle queue.
        self.waiting().await.map(|_| ())
    }

    async fn take(&mut self) -> Result<Batch<String>, SourceError> {
        let asked = json!({
            "MaxNumberOfMessages": ITEMS_MAX,
            "WaitTimeSeconds": WAIT_SECONDS,
            "VisibilityTimeout": HIDDEN_SECONDS,
            "MessageSystemAttributeNames": ["SentTimestamp"],
        });
        let answer = self.call("ReceiveMessage", asked).await?;
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
        self.call_for_each("ChangeMessageVisibilityBatch", &receipts, Some(0)).await
    }

    async fn extend(&mut self, receipts: &[&String]) -> Result<(), SourceError> {
        let receipts: Vec<&str> = receipts.iter().map(|receipt| receipt.as_str()).collect();
        self.call_for_each("ChangeMessageVisibilityBatch", &receipts, Some(HIDDEN_SECONDS)).await
    }

    fn patience(&self) -> Duration {
        EXTEND
    }

    async fn waiting(&mut self) -> Result<Option<u64>, SourceError> {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = self.call("GetQueueAttributes", json!({ "AttributeNames": names })).await?;
        let said: Value =
            serde_json::from_slice(&answer).map_err(|error| failed("GetQueueAttributes", error))?;
        let number = |name: &str| said["Attributes"][name].as_str()?.parse::<u64>().ok();
        Ok(names.iter().map(|name| number(name)).sum())
    }

    /// Nothing is held but messages, and those were given back.
    async fn close(&mut self) -> Result<(), SourceError> {
        self.client = None;
        Ok(())
    }
}

impl SqsMessage {
    fn taken(self) -> Taken<String> {
        Taken {
            id: Some(self.message_id.into()),
            item: self.body.into(),
            room: Ok(None),
            pushed_ms: self.attributes.sent_timestamp.and_then(|text| text.parse().ok()),
            receipt: self.receipt_handle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(queue_url: &str, region: &str, endpoint: &str) -> SqsParts {
        SqsParts {
            queue_url: queue_url.into(),
            region: region.into(),
            endpoint: endpoint.into(),
            environment: of_this_process,
        }
    }

    #[test]
    fn the_region_stands_in_the_address_or_in_the_configuration() {
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs.fifo";
        let sqs = Sqs::new(parts(url, "", "")).unwrap();
        assert_eq!(
            (sqs.region.as_str(), sqs.endpoint.as_str()),
            ("eu-west-1", "https://sqs.eu-west-1.amazonaws.com/")
        );
        let sqs = Sqs::new(parts("http://h:9/1/q", "us-east-1", "http://127.0.0.1:25600")).unwrap();
        assert_eq!(sqs.endpoint.as_str(), "http://127.0.0.1:25600/");
        let error = |parts| Sqs::new(parts).err().unwrap();
        assert!(error(parts("http://h:9/1/q", "", "")).contains("set region"));
        assert!(error(parts("jobs", "r", "")).contains("is no URL"));
        assert!(error(parts("sqs:jobs", "r", "")).contains("is no address"));
    }

    #[test]
    fn what_sqs_complains_about_is_told() {
        let answer = br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no such queue"}"#;
        assert_eq!(explanation(400, answer), "status 400, QueueDoesNotExist: no such queue");
        assert_eq!(explanation(502, b"<html>"), "status 502, no reason: ");
    }
}
