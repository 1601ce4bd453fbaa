//! Sessions over plain HTTP: event streams, polls, posted lines and pages of the log, for clients that have no
//! WebSocket (docs/http.md). What they mean the transports know; here their answers get their headers.

use std::rc::Rc;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, HeaderName, HeaderValue, ORIGIN,
    VARY,
};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::http::api::{read_body, refused};
use crate::http::house::House;
use crate::protocols::codes::Problem;
use crate::transports::entrance::{Entry, Params};
use crate::transports::{errands, long_poll, sse};

/// Longest body of `POST /v1/send` in messages of the longest kind.
const BODY_MESSAGES: usize = 16;
/// How long browsers may remember what a page of another origin may send, in seconds.
const PREFLIGHT_S: &str = "600";
/// Tells nginx, and those who learned from it, that the answer is to be passed on as it comes.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /v1/stream`: an event stream.
pub async fn stream(
    request: HttpRequest,
    entry: web::Data<Rc<Entry>>,
    house: web::Data<House>,
) -> HttpResponse {
    let answer = match sse::begin(&entry, &request) {
        Ok(events) => HttpResponse::Ok()
            .insert_header((ACCEL_BUFFERING, "no"))
            .insert_header((CACHE_CONTROL, "no-store, no-transform"))
            .content_type("text/event-stream; charset=utf-8")
            .body(events),
        Err(problem) => refused(&house, &problem),
    };
    for_page(&request, &house, answer)
}

/// `GET /v1/poll`: what has come since, or nothing after a while.
pub async fn poll(
    request: HttpRequest,
    entry: web::Data<Rc<Entry>>,
    house: web::Data<House>,
) -> HttpResponse {
    let answer = match long_poll::poll(&entry, &request).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(problem) => refused(&house, &problem),
    };
    for_page(&request, &house, answer)
}

/// `POST /v1/send`: lines of a client, one answer for each.
pub async fn send(
    request: HttpRequest,
    payload: web::Payload,
    entry: web::Data<Rc<Entry>>,
    house: web::Data<House>,
) -> HttpResponse {
    // The body is read first in any case: an answer before its end would cost the connection.
    let body = read_body(payload, house.message_bytes.saturating_mul(BODY_MESSAGES), house.handshake).await;
    let answer = match body {
        Err(unread) => unread.answer(&house),
        Ok(body) => match carry_out(&entry, &request, &body).await {
            Ok(lines) => HttpResponse::Ok()
                .insert_header((CACHE_CONTROL, "no-store"))
                .content_type("application/x-ndjson")
                .body(lines),
            Err(problem) => refused(&house, &problem),
        },
    };
    for_page(&request, &house, answer)
}

async fn carry_out(entry: &Rc<Entry>, request: &HttpRequest, body: &[u8]) -> Result<Vec<u8>, Problem> {
    let asker = entry.ask(request, &Params::of(request))?;
    errands::send(entry, request, asker, body).await
}

/// `GET /v1/rooms/{room}/log`: a page of a room's log.
pub async fn log(
    request: HttpRequest,
    room: web::Path<String>,
    entry: web::Data<Rc<Entry>>,
    house: web::Data<House>,
) -> HttpResponse {
    let answer = match errands::log(&entry, &request, &room).await {
        Ok(line) => page(line),
        Err(problem) => refused(&house, &problem),
    };
    for_page(&request, &house, answer)
}

/// A page as it is; a refusal as every other refused request has it.
fn page(line: Vec<u8>) -> HttpResponse {
    let body = String::from_utf8(line).expect("lines are UTF-8");
    if !body.starts_with("{\"t\":\"err\"") {
        return json(StatusCode::OK, body);
    }
    let mut refusal: Value = serde_json::from_str(&body).unwrap_or_default();
    let code = refusal["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    if let Some(keys) = refusal.as_object_mut() {
        keys.retain(|key, _| matches!(key.as_str(), "code" | "why" | "msg" | "wait"));
    }
    json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.to_string())
}

fn json(status: StatusCode, body: String) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((CACHE_CONTROL, "no-store"))
        .content_type("application/json")
        .body(body)
}

/// `OPTIONS` of any of these: a browser asks what a page of another origin may send.
pub async fn preflight(request: HttpRequest, house: web::Data<House>) -> HttpResponse {
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"));
    answer.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, last-event-id"));
    answer.insert_header((ACCESS_CONTROL_MAX_AGE, PREFLIGHT_S));
    for_page(&request, &house, answer.finish())
}

/// Lets the page that asks read the answer, if its origin is one of those that may connect.
fn for_page(request: &HttpRequest, house: &House, mut answer: HttpResponse) -> HttpResponse {
    let headers = answer.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("origin"));
    let host = request.uri().authority().map(|host| host.as_str());
    if let Some(origin) = request.headers().get(ORIGIN)
        && house.origins.allow_request(request.headers(), host)
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    answer
}
