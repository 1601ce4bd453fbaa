//! Spans that are recorded, by OpenTelemetry's own kit. A sampled message carries its span with it; it ends when the last
//! who holds it lets go. What has ended goes into a bounded queue; who sends it on takes it from there. Nobody waits: what
//! does not fit is dropped and counted.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanProcessor};
use tokio::sync::mpsc;

use super::recent::Recent;
use super::{Kind, TraceId, Working};

/// Longest `tracestate` that is handed on, in bytes: what everybody has to (W3C Trace Context, 3.3.1.5).
const TRACE_STATE_BYTES_MAX: usize = 512;
/// Most traces that one request for several entries is linked to.
const LINKS_MAX: usize = 32;

/// What is to be recorded.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Which part of the traces that begin here, 0 to 1.
    pub sample: f64,
    /// Most spans that wait to be sent.
    pub queue: usize,
    /// What is said of this process in all of them (`service.name` and others).
    pub resource: Vec<(String, String)>,
    /// Whether entries are posted or forwarded later.
    pub remembers: bool,
}

/// What has been recorded and is to be sent.
#[derive(Debug)]
pub struct Recorded {
    /// The spans that have ended.
    pub spans: mpsc::Receiver<SpanData>,
    /// Who has recorded them.
    pub resource: Resource,
    /// What is counted.
    pub figures: Arc<Figures>,
}

/// What is counted of spans.
#[derive(Debug, Default)]
pub struct Figures {
    /// Taken by the collector.
    pub sent: AtomicU64,
    /// Dropped because too many waited.
    pub dropped: AtomicU64,
    /// Dropped because the collector did not take them.
    pub failed: AtomicU64,
    /// Waiting now.
    pub waiting: AtomicU64,
    /// 1 while the collector took the last request.
    pub reached: AtomicU64,
}

/// Begins spans. Off by default, and then there are none.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

struct Shared {
    kit: SdkTracer,
    /// A random number below it: sampled. The largest: always.
    chance: u64,
    recent: Option<Recent>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("chance", &self.chance).finish_non_exhaustive()
    }
}

/// What somebody else has begun, as a request or an item tells it.
#[derive(Debug, Clone, Default)]
pub struct Parent(Option<SpanContext>);

/// A step on the way of a message; nothing if it is not sampled. It ends when the last copy is dropped.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    origin: SpanRef,
    kit: Mutex<opentelemetry_sdk::trace::Span>,
}

/// Where a step began, without keeping it from ending.
#[derive(Debug, Clone, Default)]
pub struct SpanRef(Option<Arc<Begun>>);

#[derive(Debug)]
struct Begun {
    shared: Arc<Shared>,
    place: SpanContext,
}

struct Headers<'a> {
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Parent {
    /// Reads what a request or an item says (W3C Trace Context); what cannot be read counts as nothing.
    pub fn read(traceparent: Option<&str>, tracestate: Option<&str>) -> Parent {
        if traceparent.is_none() {
            return Parent(None);
        }
        // The kit takes others too. In an item of a queue anything may stand, and it goes out as a header.
        let is_header = |state: &&str| {
            state.len() <= TRACE_STATE_BYTES_MAX && state.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let headers = Headers { traceparent, tracestate: tracestate.filter(is_header) };
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let place = context.span().span_context().clone();
        Parent(place.is_valid().then_some(place))
    }
}

/// Takes what has ended.
#[derive(Debug)]
struct Outbox {
    spans: mpsc::Sender<SpanData>,
    figures: Arc<Figures>,
}

impl SpanProcessor for Outbox {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.figures.waiting.fetch_add(1, Relaxed);
        if self.spans.try_send(span).is_err() {
            self.figures.waiting.fetch_sub(1, Relaxed);
            let before = self.figures.dropped.fetch_add(1, Relaxed);
            // The first, and then ever more seldom.
            if (before + 1).is_power_of_two() {
                log::warn!(
                    "traces: {} spans were dropped because too many wait; see traces.queue and traces.sample",
                    before + 1
                );
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Tracer {
    /// One that records.
    pub fn new(recording: Recording) -> (Tracer, Recorded) {
        let Recording { sample, queue, resource, remembers } = recording;
        let (sender, spans) = mpsc::channel(queue.max(1));
        let figures: Arc<Figures> = Arc::default();
        let attributes = resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let kit = SdkTracerProvider::builder()
            .with_span_processor(Outbox { spans: sender, figures: figures.clone() })
            // Who gets a span is decided before it is begun.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.clone())
            .build();
        let scope = InstrumentationScope::builder("roomcast").with_version(env!("CARGO_PKG_VERSION")).build();
        let shared = Shared {
            kit: kit.tracer_with_scope(scope),
            chance: chance_of(sample),
            recent: remembers.then(Recent::default),
        };
        (Tracer(Some(Arc::new(shared))), Recorded { spans, resource, figures })
    }

    /// Whether spans are begun at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a trace, if it is sampled.
    pub fn begin(&self, name: &'static str, kind: Kind) -> Span {
        match &self.0 {
            Some(shared) if shared.is_chosen() => shared.span(name, kind, &SpanContext::NONE, Vec::new()),
            _ => Span(None),
        }
    }

    /// Goes on with what somebody else has begun, who decides whether it is sampled; begins a trace where nobody has.
    pub fn go_on(&self, parent: &Parent, name: &'static str, kind: Kind) -> Span {
        match (&self.0, &parent.0) {
            (None, _) => Span(None),
            (Some(_), None) => self.begin(name, kind),
            (Some(shared), Some(place)) if place.is_sampled() => shared.span(name, kind, place, Vec::new()),
            (Some(_), Some(_)) => Span(None),
        }
    }

    /// A request to another server about some entries: a step in the trace of the first of them that is sampled, linked
    /// to those of the others. A trace of its own where none is. `ids` as [`Span::remember`] was told them.
    pub fn of_entries(&self, name: &'static str, ids: impl Iterator<Item = impl AsRef<str>>) -> Span {
        let Some(shared) = &self.0 else { return Span(None) };
        let places = shared.recent.as_ref().map_or_else(Vec::new, |recent| recent.find(ids, LINKS_MAX));
        match places.split_first() {
            Some((first, others)) => shared.span(name, Kind::Client, first, others.to_vec()),
            None => self.begin(name, Kind::Client),
        }
    }
}

/// The bound of random numbers below which so many of them lie.
fn chance_of(sample: f64) -> u64 {
    match sample >= 1.0 {
        true => u64::MAX,
        // The cast is exact enough, and 0 for what is below 0 or no number.
        false => (sample * u64::MAX as f64) as u64,
    }
}

impl Shared {
    fn is_chosen(&self) -> bool {
        match self.chance {
            0 => false,
            u64::MAX => true,
            chance => rand::random::<u64>() < chance,
        }
    }

    fn span(
        self: &Arc<Shared>,
        name: &'static str,
        kind: Kind,
        parent: &SpanContext,
        links: Vec<SpanContext>,
    ) -> Span {
        let builder = SpanBuilder::from_name(name).with_kind(match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Producer => SpanKind::Producer,
            Kind::Internal => SpanKind::Internal,
        });
        let context = match parent.is_valid() {
            true => Context::new().with_remote_span_context(parent.clone()),
            false => Context::new(),
        };
        let mut kit = self.kit.build_with_context(builder, &context);
        for link in links {
            kit.add_link(link, Vec::new());
        }
        let begun = Begun { shared: self.clone(), place: kit.span_context().clone() };
        Span(Some(Arc::new(Open { origin: SpanRef(Some(Arc::new(begun))), kit: Mutex::new(kit) })))
    }
}

impl Open {
    fn kit(&self) -> MutexGuard<'_, opentelemetry_sdk::trace::Span> {
        self.kit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Option<&SpanContext> {
        self.origin.0.as_ref().map(|begun| &begun.place)
    }
}

impl Span {
    /// Whether it is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a step within this one.
    pub fn child(&self, name: &'static str, kind: Kind) -> Span {
        self.0.as_ref().map_or(Span(None), |open| open.origin.child(name, kind))
    }

    /// Where it began.
    pub fn to_ref(&self) -> SpanRef {
        self.0.as_ref().map_or(SpanRef(None), |open| open.origin.clone())
    }

    /// Notes a text about it: no secret, nothing that people wrote, no user's name.
    pub fn text(&self, key: &'static str, value: impl Into<String>) {
        if let Some(open) = &self.0 {
            open.kit().set_attribute(KeyValue::new(key, value.into()));
        }
    }

    /// Notes a number about it.
    pub fn number(&self, key: &'static str, value: i64) {
        if let Some(open) = &self.0 {
            open.kit().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It has failed, and why: fixed words, so that nothing that others wrote is in them.
    pub fn fail(&self, why: &'static str) {
        if let Some(open) = &self.0 {
            open.kit().set_status(Status::error(why));
        }
    }

    /// It has brought an entry into its room, by whose id others find it: [`Tracer::of_entries`].
    pub fn remember(&self, id: impl FnOnce() -> String) {
        if let Some(begun) = self.0.as_ref().and_then(|open| open.origin.0.as_ref())
            && let Some(recent) = &begun.shared.recent
        {
            recent.remember(&id(), begun.place.clone());
        }
    }

    /// This copy lets go.
    pub fn end(self) {}

    /// The name of its trace.
    pub fn trace_id(&self) -> Option<TraceId> {
        let place = self.0.as_ref()?.place()?;
        TraceId::read(&place.trace_id().to_string())
    }

    /// What a request within it carries in the header of this name (W3C Trace Context).
    pub fn traceparent(&self) -> Option<String> {
        let place = self.0.as_ref()?.place()?;
        let flags = place.trace_flags().to_u8();
        Some(format!("00-{}-{}-{flags:02x}", place.trace_id(), place.span_id()))
    }

    /// The same for `tracestate`; none where nobody has said anything.
    pub fn tracestate(&self) -> Option<String> {
        let place = self.0.as_ref()?.place()?;
        Some(place.trace_state().header()).filter(|state| !state.is_empty())
    }

    /// Works within it: lines of the log carry its trace.
    pub async fn over<F: Future>(&self, work: F) -> F::Output {
        let Some(trace) = self.trace_id() else { return work.await };
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _working = Working::within(trace);
            work.as_mut().poll(cx)
        })
        .await
    }
}

impl SpanRef {
    /// Whether it is anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a step within what began there.
    pub fn child(&self, name: &'static str, kind: Kind) -> Span {
        match &self.0 {
            Some(begun) => begun.shared.span(name, kind, &begun.place, Vec::new()),
            None => Span(None),
        }
    }
}

#[cfg(test)]
mod tests;
