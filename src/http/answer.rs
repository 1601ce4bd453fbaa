//! What answers look like: JSON, and for every refused request a body with `code`, `why` and `msg` as in the native
//! protocol. Used by all routes.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, RETRY_AFTER};
use serde::Serialize;

use crate::protocols::codes::Problem;

#[derive(Serialize)]
struct Body<'a> {
    code: u16,
    why: &'a str,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<u64>,
}

/// The answer to a call that was carried out. Nobody may keep it for later.
pub fn told(body: impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(body)
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
    answer.json(Body { code: problem.code, why: problem.why, msg: &problem.msg, wait: problem.wait_ms })
}
