//! The way into the server API that all its calls share: who may ask, for what and in which rooms, and how a body is
//! read. What is asked is the calls' own business.

use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::auth::api_key::{ApiKey, Scope};
use crate::chat::names::{Pattern, RoomName};
use crate::chat::trace::Door;
use crate::http::answer::refuse;
use crate::http::house::House;
use crate::protocols::codes::Problem;

/// How much of a body that is not wanted is read and thrown away, so that the connection can be kept.
const EXCESS_BYTES_MAX: usize = 1 << 20;

/// Who asks: somebody who may.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// None: somebody on this machine, where no key is set.
    key: Option<&'a ApiKey>,
}

impl Caller<'_> {
    /// Through which door it speaks: that of its key, by the key's name.
    pub fn door(&self) -> Door {
        let name = self.key.and_then(|key| key.name.as_deref());
        name.map_or(Door::API, |name| Door::named("api", name))
    }

    /// Somebody on this machine.
    #[cfg(test)]
    pub fn of_this_machine() -> Caller<'static> {
        Caller { key: None }
    }

    /// Whether the key is for this room.
    pub fn room(&self, room: &RoomName) -> Result<(), Problem> {
        match self.key.is_none_or(|key| key.covers(room.as_str())) {
            true => Ok(()),
            false => Err(not_allowed("this API key is not for this room; see its rooms in auth.api_keys")),
        }
    }

    /// Whether the key is for all rooms.
    pub fn all_rooms(&self) -> Result<(), Problem> {
        match self.patterns() {
            None => Ok(()),
            Some(_) => {
                Err(not_allowed("this API key is for some rooms, and this is about all; use another key"))
            }
        }
    }

    /// The rooms that the key is for; none: all.
    pub fn patterns(&self) -> Option<Vec<Pattern>> {
        self.key.and_then(ApiKey::patterns)
    }
}

fn not_allowed(msg: &'static str) -> Problem {
    Problem::new(403, "not-allowed", msg)
}

/// Who asks, and the body of the call, which is at most `limit` bytes long; or the answer that refuses it. A body is
/// read to its end in any case: an answer before its end would cost the connection.
pub async fn admit<'a>(
    request: &HttpRequest,
    payload: web::Payload,
    house: &'a House,
    scope: Scope,
    limit: usize,
) -> Result<(Caller<'a>, Bytes), HttpResponse> {
    let caller = may_call(request, house, scope);
    // Of those who may not call nothing is kept in memory.
    let wanted = if caller.is_ok() { limit } else { 0 };
    let body = read_body(payload, wanted, house.handshake).await;
    let caller = caller.map_err(|problem| {
        let keep = body.as_ref().map_or_else(|unread| unread.keep, |_| true);
        with_end(refused(house, &problem), keep)
    })?;
    let body = body.map_err(|unread| unread.answer(house))?;
    Ok((caller, body))
}

/// The same for a call that needs no body; one that comes is thrown away.
pub async fn admit_asking<'a>(
    request: &HttpRequest,
    payload: web::Payload,
    house: &'a House,
    scope: Scope,
) -> Result<Caller<'a>, HttpResponse> {
    let keep = throw_away(payload, house.handshake).await;
    may_call(request, house, scope).map_err(|problem| with_end(refused(house, &problem), keep))
}

/// Reads a body that nobody wants. Returns whether the connection can be kept.
pub async fn throw_away(payload: web::Payload, time: Duration) -> bool {
    match read_body(payload, 0, time).await {
        Ok(_) => true,
        Err(unread) => unread.keep,
    }
}

/// An answer after which the connection is kept, or not.
pub fn with_end(mut answer: HttpResponse, keep: bool) -> HttpResponse {
    if !keep {
        answer.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    answer
}

/// A key opens the API. Where no key is set it is closed, except to this very machine while the demo is
/// enabled. A page of a foreign origin is refused even then: it would speak in its visitor's name.
fn may_call<'a>(request: &HttpRequest, house: &'a House, scope: Scope) -> Result<Caller<'a>, Problem> {
    if !house.origins.allow_request(request.headers(), request.uri().authority().map(|host| host.as_str())) {
        return Err(Problem::new(403, "foreign-origin", "this page's origin is not in server.origins"));
    }
    if house.auth.api_keys.is_empty() {
        return match house.demo_is_enabled_for_local(request) {
            true => Ok(Caller { key: None }),
            false => {
                Err(Problem::new(403, "closed", "the server API is closed; set auth.api_keys to open it"))
            }
        };
    }
    let Some(text) = bearer(request) else {
        return Err(Problem::new(401, "bad-key", "send an API key: Authorization: Bearer <key>"));
    };
    let key = house.auth.api_key(text).ok_or_else(|| {
        Problem::new(401, "bad-key", "this API key is not known; it must be one of auth.api_keys")
    })?;
    match key.may(scope) {
        true => Ok(Caller { key: Some(key) }),
        false => {
            let word = scope.word();
            let msg = format!("this API key has no scope \"{word}\"; give it one in auth.api_keys");
            Err(Problem::new(403, "not-allowed", msg))
        }
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

/// The answer, or the one that says what is wrong.
pub fn answer(house: &House, answer: Result<HttpResponse, Problem>) -> HttpResponse {
    answer.unwrap_or_else(|problem| refused(house, &problem))
}

/// Why a body was not taken, and whether it was read to its end.
pub struct Unread {
    problem: Problem,
    keep: bool,
}

impl Unread {
    /// The answer that says so. Where the body was not read to its end, it is the connection's last.
    pub fn answer(&self, house: &House) -> HttpResponse {
        with_end(refused(house, &self.problem), self.keep)
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
