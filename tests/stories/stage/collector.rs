//! A collector of traces: takes spans as OTLP over HTTP has them, and shows them by their traces. It can be away and
//! come back on the same port.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use actix_web::rt::System;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::eventually;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub trace: String,
    pub id: String,
    /// The span above it; empty for none.
    pub parent: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    pub notes: BTreeMap<String, String>,
    /// What failed; none: nothing.
    pub failure: Option<String>,
    /// Nanoseconds since 1970.
    pub time: (u64, u64),
    /// What is said of the server.
    pub server: BTreeMap<String, String>,
}

type Spans = Arc<Mutex<Vec<Seen>>>;

/// See above.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    serving: Option<(ServerHandle, JoinHandle<()>)>,
}

impl Collector {
    /// One that takes everything.
    pub fn open() -> Collector {
        let mut collector = Collector::away();
        collector.comes();
        collector
    }

    /// One that is not there.
    pub fn away() -> Collector {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it is bound");
        Collector { address, spans: Arc::default(), serving: None }
    }

    /// It listens.
    pub fn comes(&mut self) {
        let (spans, address) = (self.spans.clone(), self.address);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            System::new().block_on(async move {
                let app = move || {
                    let limit = web::PayloadConfig::new(16 << 20);
                    App::new()
                        .app_data(limit)
                        .app_data(web::Data::new(spans.clone()))
                        .service(web::resource("/v1/traces").route(web::post().to(take)))
                };
                let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0);
                let server = server.bind(address).expect("the port is still free").run();
                tell.send(server.handle()).expect("somebody waits for it");
                server.await.expect("it serves");
            });
        });
        self.serving = Some((told.recv().expect("it has started"), thread));
    }

    /// What a hall is told of it.
    pub fn setting(&self) -> String {
        format!("traces.url={}", self.url())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of a trace when all these have come, by their names.
    pub async fn sees(&self, trace: &str, names: &[&str]) -> BTreeMap<String, Seen> {
        let whole = || async {
            let of_trace = self.spans().into_iter().filter(|span| span.trace == trace);
            let by_name: BTreeMap<String, Seen> = of_trace.map(|span| (span.name.clone(), span)).collect();
            names.iter().all(|name| by_name.contains_key(*name)).then_some(by_name)
        };
        eventually(&format!("{names:?} of trace {trace}"), whole).await
    }

    /// Waits for a span that fits.
    pub async fn sees_one(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        eventually(what, || async { self.spans().into_iter().find(&fits) }).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some((server, thread)) = self.serving.take() {
            // It ends when it is asked to; the answer would need a runtime.
            drop(server.stop(false));
            thread.join().ok();
        }
    }
}

async fn take(request: HttpRequest, body: web::Bytes, spans: web::Data<Spans>) -> HttpResponse {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let Some(asked) =
        ExportTraceServiceRequest::decode(body).ok().filter(|_| kind == Some("application/x-protobuf"))
    else {
        return HttpResponse::BadRequest().finish();
    };
    let mut all = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for resource in asked.resource_spans {
        let server = notes(&resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        all.extend(spans.map(|span| seen(span, &server)));
    }
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    HttpResponse::Ok().content_type("application/x-protobuf").body(answer)
}

fn seen(span: Span, server: &BTreeMap<String, String>) -> Seen {
    // STATUS_CODE_ERROR of the protocol is 2.
    let failure = span.status.filter(|status| status.code == 2).map(|status| status.message);
    Seen {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        kind: span.kind,
        notes: notes(&span.attributes),
        failure,
        time: (span.start_time_unix_nano, span.end_time_unix_nano),
        server: server.clone(),
    }
}

fn notes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("another kind of value: {other:?}"),
    };
    attributes.iter().map(|one| (one.key.clone(), text(&one.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
