//! Spans of requests that say something. A `traceparent` counts for who may call the server API, because it decides what
//! is sampled; what strangers send is not looked at. Called by the routes when it is known who asks.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};

use crate::http::house::House;
use crate::protocols::codes::Problem;
use crate::traces::{Kind, Parent, Span, TraceId};

/// Does what a request asks for, within its span; the log's line about the request carries the trace.
pub async fn within(
    request: &HttpRequest,
    house: &House,
    name: &'static str,
    work: impl AsyncFnOnce(&Span) -> Result<HttpResponse, Problem>,
) -> Result<HttpResponse, Problem> {
    let span = begin(request, house, name);
    if !span.is_on() {
        return work(&span).await;
    }
    if let Some(trace) = span.trace_id() {
        request.extensions_mut().insert(trace);
    }
    span.text("http.request.method", request.method().as_str());
    span.text("http.route", request.match_pattern().unwrap_or_default());
    let answer = span.over(work(&span)).await;
    let status = match &answer {
        Ok(answer) => answer.status().as_u16(),
        Err(problem) => problem.code,
    };
    span.number("http.response.status_code", status.into());
    if let Err(problem) = &answer
        && status >= 500
    {
        span.text("error.type", problem.why);
        span.fail("not done");
    }
    answer
}

fn begin(request: &HttpRequest, house: &House, name: &'static str) -> Span {
    if !house.tracer.is_on() {
        return Span::default();
    }
    let parent =
        Parent::read(header(request.headers(), "traceparent"), header(request.headers(), "tracestate"));
    house.tracer.go_on(&parent, name, Kind::Server)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The trace of a request: its own if it is sampled, or the one that its sender names.
pub fn trace_of(request: &HttpRequest) -> Option<TraceId> {
    let own = request.extensions().get::<TraceId>().copied();
    own.or_else(|| TraceId::of_traceparent(header(request.headers(), "traceparent")?))
}
