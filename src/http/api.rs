//! The way into the server API that all its calls share: who may ask, and how a body is read. What is asked is
//! the calls' own business.

use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::http::answer::refuse;
use crate::http::house::House;
use crate::protocols::codes::Problem;

/// How much of a body that is too long is read and thrown away, so that the connection can be kept.
const EXCESS_BYTES_MAX: usize = 1 << 20;

/// The body of a call that is allowed; or the answer that refuses it.
pub async fn admit(
    request: &HttpRequest,
    payload: web::Payload,
    house: &House,
) -> Result<Bytes, HttpResponse> {
    // The body is read first in any case: an answer before its end would cost the connection.
    let body = read_body(payload, house.message_bytes, house.handshake).await;
    let body = body.map_err(|unread| unread.answer(house))?;
    may_call(request, house).map_err(|problem| refused(house, &problem))?;
    Ok(body)
}

/// A key opens the API. Where no key is set it is closed, except to this very machine while the demo is
/// enabled. A page of a foreign origin is refused even then: it would speak in its visitor's name.
pub fn may_call(request: &HttpRequest, house: &House) -> Result<(), Problem> {
    if !house.origins.allow_request(request.headers(), request.uri().authority().map(|host| host.as_str())) {
        return Err(Problem::new(403, "foreign-origin", "this page's origin is not in server.origins"));
    }
    if house.auth.api_keys.is_empty() {
        return match house.demo_is_enabled_for_local(request) {
            true => Ok(()),
            false => {
                Err(Problem::new(403, "closed", "the server API is closed; set auth.api_keys to open it"))
            }
        };
    }
    match bearer(request) {
        Some(key) if house.auth.is_api_key(key) => Ok(()),
        Some(_) => {
            Err(Problem::new(401, "bad-key", "this API key is not known; it must be one of auth.api_keys"))
        }
        None => Err(Problem::new(401, "bad-key", "send an API key: Authorization: Bearer <key>")),
    }
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let (scheme, key) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The answer that says what is wrong.
pub fn refused(house: &House, problem: &Problem) -> HttpResponse {
    house.metrics.errors.count(problem.why);
    let mut answer = refuse(problem);
    if problem.code == 401 {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Why a body was not taken, and whether it was read to its end.
pub struct Unread {
    problem: Problem,
    keep: bool,
}

impl Unread {
    /// The answer that says so. Where the body was not read to its end, it is the connection's last.
    pub fn answer(&self, house: &House) -> HttpResponse {
        let mut answer = refused(house, &self.problem);
        if !self.keep {
            answer.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
        }
        answer
    }
}

/// Reads a body of at most `limit` bytes within `time`.
pub async fn read_body(payload: web::Payload, limit: usize, time: Duration) -> Result<Bytes, Unread> {
    let slow = |_| Unread {
        problem: Problem::new(408, "slow", "the body took too long; send it at once"),
        keep: false,
    };
    tokio::time::timeout(time, collect(payload, limit)).await.map_err(slow)?
}

async fn collect(mut payload: web::Payload, limit: usize) -> Result<Bytes, Unread> {
    let (mut body, mut excess) = (BytesMut::new(), 0);
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            let problem = Problem::new(400, "bad-json", format!("the body broke off: {error}"));
            Unread { problem, keep: false }
        })?;
        if excess == 0 && body.len() + chunk.len() <= limit {
            body.extend_from_slice(&chunk);
            continue;
        }
        excess += chunk.len();
        if excess > EXCESS_BYTES_MAX {
            return Err(Unread { problem: Problem::too_big(limit), keep: false });
        }
    }
    match excess {
        0 => Ok(body.freeze()),
        _ => Err(Unread { problem: Problem::too_big(limit), keep: true }),
    }
}
