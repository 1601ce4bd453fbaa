//! Requests that are answered at once and leave nothing behind: lines that a client posts, and pages of a room's log. A
//! session of the user's does them, so what a session may do, and how fast, holds here as well.

use std::rc::Rc;
use std::time::Duration;

use actix_web::HttpRequest;
use tokio::time::Instant;

use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::protocols::codes::Problem;
use crate::protocols::native::{self, PAGE_MAX, Reference, Request};
use crate::transports::entrance::{Asker, Entry, Params};

/// Most lines in one request.
pub const LINES_MAX: usize = 100;
/// Entries in a page when nobody says how many.
const PAGE_DEFAULT: u64 = 50;
/// How long a request may take. What a store keeps takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out posted lines: one answer for each, in their order.
pub async fn send(
    entry: &Rc<Entry>,
    request: &HttpRequest,
    asker: Asker,
    body: &[u8],
) -> Result<Vec<u8>, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Problem::bad_json("the body is not UTF-8; send it as UTF-8"))?;
    let lines: Vec<&str> = text.split('\n').map(str::trim_ascii).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(Problem::bad_json("an empty body says nothing; send one JSON object per line"));
    }
    if lines.len() > LINES_MAX {
        return Err(Problem::new(
            413,
            "too-big",
            format!("at most {LINES_MAX} lines at a time; send the rest next"),
        ));
    }
    let limit = entry.house().limits.message_bytes;
    let identity = asker.identity.clone();
    let caller = entry.caller(request, asker)?;
    let turn = caller.turn.lock().await;
    let requests = lines.into_iter().map(|line| match line.len() > limit {
        true => (Reference::default(), Err(Problem::too_big(limit))),
        false => native::read(line),
    });
    let sent = caller
        .sends(&identity, requests.map(|(reference, request)| (reference, request.and_then(fits))).collect());
    let end = Instant::now() + PATIENCE;
    let mut out = Vec::new();
    for sent in sent {
        caller.answer(sent, end, &mut out).await;
        out.push(b'\n');
    }
    drop(turn);
    Ok(out)
}

/// A page of a room's log: the line that a session would get; an `err` line where it would get that.
pub async fn log(entry: &Rc<Entry>, request: &HttpRequest, room: &str) -> Result<Vec<u8>, Problem> {
    let params = Params::of(request);
    let asker = entry.ask(request, &params)?;
    let room = RoomName::named_by_client(room)?;
    asker.identity.may_join(&room, &entry.house().rooms.of(&room))?;
    let (from, n) = page_of(&params)?;
    let identity = asker.identity.clone();
    let caller = entry.caller(request, asker)?;
    let turn = caller.turn.lock().await;
    let sent = caller.sends(&identity, vec![(Reference::default(), Ok(Request::Log { room, from, n }))]);
    let mut out = Vec::new();
    for sent in sent {
        caller.answer(sent, Instant::now() + PATIENCE, &mut out).await;
    }
    drop(turn);
    Ok(out)
}

fn page_of(params: &Params<'_>) -> Result<(PageFrom, usize), Problem> {
    let offset = |key: &str, least: Offset| match params.number(key)? {
        Some(offset) if offset < least => Err(Problem::bad_json(format!("{key}= is the offset of an entry"))),
        offset => Ok(offset),
    };
    let ends = [offset("before", 1)?.map(PageFrom::Before), offset("after", 0)?.map(PageFrom::After)];
    let mut named = ends.into_iter().flatten();
    let from = named.next().unwrap_or(PageFrom::Before(Offset::MAX));
    if named.next().is_some() {
        return Err(Problem::bad_json("write before= or after=, not both"));
    }
    let n = params.number("n")?.unwrap_or(PAGE_DEFAULT);
    Ok((from, usize::try_from(n).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)))
}

/// Refuses what means nothing without a stream.
fn fits(request: Request) -> Result<Request, Problem> {
    let why = match &request {
        Request::Join(_) => "a room is entered by reading it: GET /v1/stream?rooms=… or GET /v1/poll?rooms=…",
        Request::Leave { .. } | Request::Bye => "a room is left by ending its stream, or by polling no more",
        Request::Hello { .. } | Request::Auth { .. } => {
            "each request says who it is by itself: Authorization: Bearer …, a cookie, or ?token="
        }
        _ => return Ok(request),
    };
    Err(Problem::new(400, "unknown-type", why))
}
