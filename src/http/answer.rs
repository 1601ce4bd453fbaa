//! What answers look like: JSON, and for every refused request a body with `code`, `why` and `msg` as in the native
//! protocol. Used by all routes.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use serde::Serialize;

use crate::protocols::codes::Problem;

/// What is told of a problem.
#[derive(Serialize)]
pub struct Refusal<'a> {
    code: u16,
    why: &'a str,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<u64>,
}

impl<'a> Refusal<'a> {
    /// Of this one.
    pub fn of(problem: &'a Problem) -> Refusal<'a> {
        Refusal { code: problem.code, why: problem.why, msg: &problem.msg, wait: problem.wait_ms }
    }
}

/// The answer to a call that was carried out. Nobody may keep it for later.
pub fn told(body: impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(body)
}

/// The same where the JSON is written already.
pub fn told_json(body: Vec<u8>) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store")).insert_header((CONTENT_TYPE, "application/json"));
    answer.body(body)
}

/// The same with a JSON object per line.
pub fn told_lines(lines: impl Iterator<Item = impl Serialize>) -> HttpResponse {
    let mut body = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut body, &line).expect("writing into memory does not fail");
        body.push(b'\n');
    }
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store")).insert_header((CONTENT_TYPE, "application/x-ndjson"));
    answer.body(body)
}

/// The answer that tells a problem. Its code is the HTTP status; a wait goes into `Retry-After` too.
pub fn refuse(problem: &Problem) -> HttpResponse {
    let status = StatusCode::from_u16(problem.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    answer.insert_header((CACHE_CONTROL, "no-store"));
    if let Some(ms) = problem.wait_ms {
        // Whole seconds, rounded up: too early would be refused again.
        answer.insert_header((RETRY_AFTER, ms.div_ceil(1000).max(1).to_string()));
    }
    answer.json(Refusal::of(problem))
}
