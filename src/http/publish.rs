//! `POST /api/publish`: a backend says something in a room. The answer tells the place that the message
//! got. Who may ask is checked here; what may be said is the chat server's business.

use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::actors::letters::PublishBatch;
use crate::chat::data::{DEPTH_MAX, Data};
use crate::chat::message::{Accepted, Draft, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::http::answer::refuse;
use crate::http::house::House;
use crate::protocols::codes::Problem;

/// How much of a body that is too long is read and thrown away, so that the connection can be kept.
const EXCESS_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Ask<'a> {
    r: String,
    u: Option<String>,
    #[serde(borrow)]
    d: &'a RawValue,
    id: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    r: &'a str,
    s: u64,
    e: String,
    dup: bool,
}

/// `POST /api/publish`.
pub async fn publish(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    // The body is read first in any case: an answer before its end would cost the connection.
    let body = match read_body(payload, house.message_bytes, house.handshake).await {
        Ok(body) => body,
        Err(Unread { problem, keep }) => {
            let mut answer = refused(&house, &problem);
            if !keep {
                answer.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
            }
            return answer;
        }
    };
    if let Err(problem) = may_publish(&request, &house) {
        return refused(&house, &problem);
    }
    match say(&body, &house).await {
        Ok((room, accepted)) => {
            let told = Told {
                r: room.as_str(),
                s: accepted.offset,
                e: accepted.epoch.to_text(),
                dup: accepted.duplicate,
            };
            HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(told)
        }
        Err(problem) => refused(&house, &problem),
    }
}

async fn say(body: &[u8], house: &House) -> Result<(RoomName, Accepted), Problem> {
    let draft = read_draft(body)?;
    let room = draft.room.clone();
    let stopping = |_| {
        Problem::new(503, "draining", "the server is stopping, send it again with the same id").wait(1_000)
    };
    let answers = house.publish.send(PublishBatch(vec![draft])).await.map_err(stopping)?;
    let answer = answers.into_iter().next();
    let answer =
        answer.ok_or_else(|| Problem::new(500, "internal", "no answer; send it again with the same id"))?;
    Ok((room, answer?))
}

fn read_draft(body: &[u8]) -> Result<Draft, Problem> {
    // A list could be read as an object whose keys are left out.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::bad_json("write an object: {\"r\":\"room\",\"d\":any JSON}"));
    }
    let ask: Ask<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!(
            "write {{\"r\":\"room\",\"d\":any JSON}}, optional \"u\" and \"id\": {error}"
        ))
    })?;
    let bad = |key: &str, why: &str| Problem::bad_json(format!("{key}: {why}"));
    let user = ask.u.map(|text| UserName::new(&text)).transpose().map_err(|error| bad("u", error.0))?;
    let id = ask.id.map(|text| MessageId::new(&text)).transpose().map_err(|error| bad("id", error.0))?;
    let data = Data::new(ask.d).map_err(|_| bad("d", &format!("nested deeper than {DEPTH_MAX} levels")))?;
    Ok(Draft {
        room: RoomName::named_by_client(&ask.r)?,
        user,
        id,
        data,
        kind: None,
        reply_to: None,
        keep: true,
        via: Via::Api,
    })
}

/// A key opens the API. Where no key is set it is closed, except to this very machine while the demo is
/// enabled. A page of a foreign origin is refused even then: it would speak in its visitor's name.
fn may_publish(request: &HttpRequest, house: &House) -> Result<(), Problem> {
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

fn refused(house: &House, problem: &Problem) -> HttpResponse {
    house.metrics.errors.count(problem.why);
    let mut answer = refuse(problem);
    if problem.code == 401 {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Why a body was not taken, and whether it was read to its end.
struct Unread {
    problem: Problem,
    keep: bool,
}

/// Reads a body of at most `limit` bytes within `time`.
async fn read_body(payload: web::Payload, limit: usize, time: Duration) -> Result<Bytes, Unread> {
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
