//! Requests to Amazon SQS: a JSON body each, signed as the services of AWS want it. Called by the source and the
//! target of that name. Knows what an answer says, not what a message is for.

use std::time::Duration;

use awc::Client;
use bytes::Bytes;
use serde_json::Value;
use url::Url;

use crate::clouds::aws::credentials::Keyring;
use crate::clouds::aws::signing::{Signer, Stamp};
use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;
use crate::http_client;

/// Most messages that SQS gives or takes at once.
pub const ITEMS_MAX: usize = 10;
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
    /// Where the keys are looked for: [`of_this_process`](crate::clouds::environment::of_this_process)
    /// outside of tests.
    pub environment: Environment,
}

/// One queue's server, asked in the name of this machine.
pub struct SqsQueue {
    queue_url: String,
    endpoint: Url,
    region: String,
    keys: Keyring,
    client: Option<Client>,
}

impl SqsQueue {
    /// Reads the addresses. The error says which of them is wrong.
    pub fn new(parts: SqsParts) -> Result<SqsQueue, String> {
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
        Ok(SqsQueue { queue_url, endpoint, region, keys: Keyring::new(environment), client: None })
    }

    /// As it was given; for logs.
    pub fn url(&self) -> &str {
        &self.queue_url
    }

    /// Whether its messages have an order per group.
    pub fn is_fifo(&self) -> bool {
        self.queue_url.ends_with(".fifo")
    }

    /// From scratch: new connections, and keys that are looked for again.
    pub fn open(&mut self) {
        self.client = Some(http_client::client(ANSWER_MAX));
        self.keys.forget();
    }

    /// Ends its connections.
    pub fn close(&mut self) {
        self.client = None;
    }

    /// One request about this queue, such as `ReceiveMessage`.
    pub async fn call(&mut self, action: &str, mut body: Value) -> Result<Bytes, CloudError> {
        let Some(client) = &self.client else { return Err(CloudError::away("not connected")) };
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
        let broken = |error: &dyn std::fmt::Display| CloudError::Away(format!("{action}: {error}"));
        let mut response = request.send_body(body).await.map_err(|error| broken(&error))?;
        let answer = response.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(answer);
        }
        let (code, text) = explanation(status.as_u16(), &answer);
        match status.is_server_error() {
            true => Err(broken(&format!("{code}: {text}"))),
            false => Err(CloudError::refused(code, &text).during(action)),
        }
    }
}

/// `sqs.REGION.amazonaws.com`, or in China and elsewhere with another ending.
fn region_of(endpoint: &Url) -> Option<String> {
    let mut parts = endpoint.host_str()?.split('.');
    let (service, region, owner) = (parts.next()?, parts.next()?, parts.next()?);
    (matches!(service, "sqs" | "sqs-fips") && owner == "amazonaws").then(|| region.to_owned())
}

/// SQS says in JSON what was wrong.
fn explanation(status: u16, answer: &[u8]) -> (String, String) {
    let said: Value = serde_json::from_slice(answer).unwrap_or_default();
    let code = said["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or("no reason");
    let text = said["message"].as_str().or(said["Message"].as_str()).unwrap_or_default();
    (code.to_owned(), format!("{text} (status {status})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clouds::environment::of_this_process;

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
        let sqs = SqsQueue::new(parts(url, "", "")).unwrap();
        assert!(sqs.is_fifo());
        assert_eq!(
            (sqs.region.as_str(), sqs.endpoint.as_str()),
            ("eu-west-1", "https://sqs.eu-west-1.amazonaws.com/")
        );
        let sqs = SqsQueue::new(parts("http://h:9/1/q", "us-east-1", "http://127.0.0.1:25600")).unwrap();
        assert_eq!((sqs.endpoint.as_str(), sqs.is_fifo()), ("http://127.0.0.1:25600/", false));
        let error = |parts| SqsQueue::new(parts).err().unwrap();
        assert!(error(parts("http://h:9/1/q", "", "")).contains("set region"));
        assert!(error(parts("jobs", "r", "")).contains("is no URL"));
        assert!(error(parts("sqs:jobs", "r", "")).contains("is no address"));
    }

    #[test]
    fn what_sqs_complains_about_is_told() {
        let answer = br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no such queue"}"#;
        assert_eq!(
            explanation(400, answer),
            ("QueueDoesNotExist".into(), "no such queue (status 400)".into())
        );
        assert_eq!(explanation(502, b"<html>"), ("no reason".into(), " (status 502)".into()));
    }
}
