//! Brings spans to the collector: OTLP over HTTP, protobuf (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>). It
//! gathers what comes within a second or up to a limit, posts it, and tries again for a while where the collector says
//! "not now" or is away; meanwhile spans wait in the tracer's queue, and nobody waits for them. Started and ended by the
//! wiring.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use awc::Client;
use awc::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::http_client;
use crate::traces::{Figures, Recorded};

/// Most spans in one request; not more than may wait.
const BATCH_MAX: usize = 512;
/// How long a span waits for others to go with.
const GATHER: Duration = Duration::from_secs(1);
/// How long a request may take, the answer included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the same spans are offered again; then they are dropped, so that newer ones get their turn.
const KEEP_TRYING: Duration = Duration::from_secs(60);
/// The first and the longest wait between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where spans go.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The whole address, its path included.
    pub url: String,
    /// Headers of each request.
    pub headers: Vec<(String, String)>,
}

/// Sends. Belongs to the thread it was made on.
pub struct Sending {
    collector: Collector,
    client: Client,
    spans: mpsc::Receiver<SpanData>,
    resource: ResourceAttributesWithSchema,
    figures: Arc<Figures>,
    /// Most spans in one request: no more than may wait.
    most: usize,
    /// Whether the log knows that the collector does not take spans.
    told: bool,
}

/// What came of a request.
enum Outcome {
    /// Taken; so many spans were not wanted.
    Taken { rejected: u64 },
    /// Perhaps later, and when, if the collector says so.
    Later(String, Option<Duration>),
    /// Never.
    Refused(String),
}

impl Sending {
    /// That waits for [`Sending::run`].
    pub fn new(collector: Collector, recorded: Recorded) -> Sending {
        let Recorded { spans, resource, figures } = recorded;
        Sending {
            collector,
            client: http_client::client(PATIENCE),
            most: BATCH_MAX.min(spans.max_capacity()),
            spans,
            resource: ResourceAttributesWithSchema::from(&resource),
            figures,
            told: false,
        }
    }

    /// Works until it is told to stop; then what waits is offered once more.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut batch = Vec::new();
        while !*stop.borrow() {
            tokio::select! {
                () = gather(&mut self.spans, &mut batch, self.most) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            self.bring(std::mem::take(&mut batch), &mut stop).await;
        }
        loop {
            while batch.len() < self.most
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.bring(std::mem::take(&mut batch), &mut stop).await;
        }
    }

    /// Offers spans until they are taken or given up.
    async fn bring(&mut self, batch: Vec<SpanData>, stop: &mut watch::Receiver<bool>) {
        let n = batch.len() as u64;
        self.figures.waiting.fetch_sub(n, Relaxed);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = bytes::Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let (end, mut wait) = (Instant::now() + KEEP_TRYING, RETRY.0);
        loop {
            let (why, pause) = match self.post(body.clone()).await {
                Outcome::Taken { rejected } => return self.was_taken(n, rejected.min(n)),
                Outcome::Refused(why) => return self.was_lost(n, &why),
                Outcome::Later(why, pause) => (why, pause),
            };
            self.note_trouble(&why);
            let jittered = wait.mul_f64(rand::random_range(0.5..=1.0));
            let pause = pause.unwrap_or(jittered).max(jittered).min(RETRY.1);
            wait = (wait * 2).min(RETRY.1);
            if Instant::now() + pause > end || *stop.borrow() {
                return self.was_lost(n, &why);
            }
            tokio::select! { () = sleep(pause) => {}, _ = stop.wait_for(|stop| *stop) => {} }
        }
    }

    async fn post(&self, body: bytes::Bytes) -> Outcome {
        let mut request =
            self.client.post(&self.collector.url).insert_header(("content-type", "application/x-protobuf"));
        for (name, value) in &self.collector.headers {
            // The check of the configuration has tried the same.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                request = request.insert_header((name, value));
            }
        }
        let mut answer = match request.send_body(body).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Later(format!("it cannot be reached: {error}"), None),
        };
        let status = answer.status().as_u16();
        let why = format!("it answered {status}");
        match status {
            200..300 => {
                let said = answer.body().limit(ANSWER_BYTES_MAX).await.unwrap_or_default();
                // Who answers in other words has taken them all the same.
                let said = ExportTraceServiceResponse::decode(said).unwrap_or_default();
                let rejected = said.partial_success.map_or(0, |partial| partial.rejected_spans);
                Outcome::Taken { rejected: u64::try_from(rejected).unwrap_or(0) }
            }
            // Those that the protocol says to be for now (OTLP, "Retryable Response Codes").
            429 | 502 | 503 | 504 => {
                let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
                Outcome::Later(why, after.and_then(|after| after.parse().ok()).map(Duration::from_secs))
            }
            _ => Outcome::Refused(why),
        }
    }

    fn was_taken(&mut self, n: u64, rejected: u64) {
        self.figures.sent.fetch_add(n - rejected, Relaxed);
        self.figures.failed.fetch_add(rejected, Relaxed);
        self.figures.reached.store(1, Relaxed);
        if std::mem::take(&mut self.told) {
            log::info!("traces: the collector takes spans again");
        }
    }

    fn was_lost(&mut self, n: u64, why: &str) {
        self.note_trouble(why);
        self.figures.failed.fetch_add(n, Relaxed);
        log::debug!("traces: {n} spans are given up: {}", why.escape_debug());
    }

    /// Told once, until the collector takes something again.
    fn note_trouble(&mut self, why: &str) {
        self.figures.reached.store(0, Relaxed);
        if !std::mem::replace(&mut self.told, true) {
            log::warn!("traces: the collector takes no spans: {}; see traces.url", why.escape_debug());
        }
    }
}

/// Waits for a span, and a little longer for others that go with it. What has come stays in the batch, also if nobody
/// waits any more.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>, most: usize) {
    if spans.recv_many(batch, most).await == 0 {
        // The tracer is gone, and with it the server.
        return std::future::pending().await;
    }
    let end = Instant::now() + GATHER;
    while batch.len() < most {
        let left = most - batch.len();
        match timeout_at(end, spans.recv_many(batch, left)).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
}
