//! Many messages in one call: `POST /api/batch` says a message per line, in any rooms, `POST /api/broadcast` one
//! message in several rooms. What is wrong with one of them stops no other.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::auth::api_key::Scope;
use crate::chat::message::{Accepted, Draft};
use crate::chat::names::RoomName;
use crate::http::answer::{Refusal, told, told_lines};
use crate::http::api::{Caller, admit, answer};
use crate::http::house::House;
use crate::http::publish::{Told, draft, read_data, read_draft, read_id, read_user, say_all};
use crate::http::traceparent::within;
use crate::protocols::codes::Problem;
use crate::traces::Span;

/// Most lines of a batch, and most rooms of a call.
pub const MANY_MAX: usize = 1_000;
/// A batch has so many times the bytes that a message may have, at most.
const BATCH_MESSAGES: usize = 16;

#[derive(Serialize)]
#[serde(untagged)]
enum LineTold<'a> {
    Said(Told<'a>),
    Refused {
        /// Counted from 1.
        line: usize,
        #[serde(flatten)]
        refusal: Refusal<'a>,
    },
}

/// `POST /api/batch`: one message per line as `POST /api/publish` takes it, one answer per line in the same order.
pub async fn batch(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    let limit = house.message_bytes.saturating_mul(BATCH_MESSAGES);
    match admit(&request, payload, &house, Scope::Publish, limit).await {
        Ok((caller, body)) => {
            let saying = async |span: &Span| say_lines(&caller, &body, &house, span).await;
            answer(&house, within(&request, &house, "POST /api/batch", saying).await)
        }
        Err(refusal) => refusal,
    }
}

async fn say_lines(
    caller: &Caller<'_>,
    body: &[u8],
    house: &House,
    span: &Span,
) -> Result<HttpResponse, Problem> {
    if body.is_empty() {
        return Err(Problem::bad_json("write one message per line: {\"r\":\"room\",\"d\":any JSON}"));
    }
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    if lines.len() > MANY_MAX {
        let msg = format!("a batch has at most {MANY_MAX} lines; send the rest in another one");
        return Err(Problem::new(413, "too-big", msg));
    }
    let read = |line: &&[u8]| read_line(caller, line, house.message_bytes);
    let read: Vec<Result<Draft, Problem>> = lines.iter().map(read).collect();
    let rooms: Vec<Option<RoomName>> =
        read.iter().map(|line| line.as_ref().ok().map(|draft| draft.room.clone())).collect();
    let (mut drafts, mut refused) = (Vec::with_capacity(read.len()), Vec::new());
    for line in read {
        match line {
            Ok(draft) => drafts.push(Draft { span: span.clone(), ..draft }),
            Err(problem) => refused.push(problem),
        }
    }
    let (mut said, mut refused) = (say_all(house, caller, drafts).await?.into_iter(), refused.into_iter());
    let outcomes: Vec<Result<(&RoomName, Accepted), Problem>> = rooms
        .iter()
        .filter_map(|room| match room {
            Some(room) => said.next().map(|said| said.map(|place| (room, place)).map_err(Problem::from)),
            None => refused.next().map(Err),
        })
        .collect();
    let told = outcomes.iter().zip(1..).map(|(outcome, line)| match outcome {
        Ok((room, place)) => LineTold::Said(Told::of(room, place)),
        Err(problem) => {
            house.metrics.errors.count(problem.why);
            LineTold::Refused { line, refusal: Refusal::of(problem) }
        }
    });
    Ok(told_lines(told))
}

fn read_line(caller: &Caller<'_>, line: &[u8], bytes_max: usize) -> Result<Draft, Problem> {
    if line.len() > bytes_max {
        return Err(Problem::too_big(bytes_max));
    }
    let draft = read_draft(line)?;
    caller.room(&draft.room)?;
    Ok(draft)
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    rooms: Vec<String>,
    u: Option<String>,
    #[serde(borrow)]
    d: &'a RawValue,
    id: Option<String>,
}

/// What became of a message in each room, in the order of the call.
struct ByRoom<'a>(Vec<(&'a RoomName, Result<Accepted, Problem>)>);

#[derive(Serialize)]
#[serde(untagged)]
enum RoomTold<'a> {
    Said { s: u64, e: String, dup: bool },
    Refused(Refusal<'a>),
}

impl Serialize for ByRoom<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(room, outcome)| {
            let told = match outcome {
                Ok(Accepted { offset, epoch, duplicate, .. }) => {
                    RoomTold::Said { s: *offset, e: epoch.to_text(), dup: *duplicate }
                }
                Err(problem) => RoomTold::Refused(Refusal::of(problem)),
            };
            (room.as_str(), told)
        }))
    }
}

/// `POST /api/broadcast`: the same message in several rooms; the answer names each room.
pub async fn broadcast(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    // Names of a thousand rooms are larger than a message may be.
    let limit = house.message_bytes.saturating_mul(BATCH_MESSAGES);
    match admit(&request, payload, &house, Scope::Publish, limit).await {
        Ok((caller, body)) => {
            let saying = async |span: &Span| say_everywhere(&caller, &body, &house, span).await;
            answer(&house, within(&request, &house, "POST /api/broadcast", saying).await)
        }
        Err(refusal) => refusal,
    }
}

async fn say_everywhere(
    caller: &Caller<'_>,
    body: &[u8],
    house: &House,
    span: &Span,
) -> Result<HttpResponse, Problem> {
    let ask: Broadcast<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!(
            "write {{\"rooms\":[\"a\",\"b\"],\"d\":any JSON}}, optional \"u\" and \"id\": {error}"
        ))
    })?;
    if ask.d.get().len() > house.message_bytes {
        return Err(Problem::too_big(house.message_bytes));
    }
    let (user, id, data) = (read_user(ask.u.as_deref())?, read_id(ask.id.as_deref())?, read_data(ask.d)?);
    let rooms = read_rooms(caller, &ask.rooms)?;
    let draft = |room: &RoomName| draft(room.clone(), user.clone(), id.clone(), data.clone());
    let drafts = rooms.iter().map(|room| Draft { span: span.clone(), ..draft(room) }).collect();
    let said = say_all(house, caller, drafts).await?;
    let outcomes = rooms.iter().zip(said.into_iter().map(|said| said.map_err(Problem::from)));
    let outcomes: Vec<_> = outcomes.collect();
    for problem in outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
        house.metrics.errors.count(problem.why);
    }
    Ok(told(ByRoom(outcomes)))
}

/// A list of rooms, each once, that the caller's key is for.
pub fn read_rooms(caller: &Caller<'_>, names: &[String]) -> Result<Vec<RoomName>, Problem> {
    if names.is_empty() || names.len() > MANY_MAX {
        return Err(Problem::bad_json(format!("rooms: name 1 to {MANY_MAX} rooms")));
    }
    let mut rooms = Vec::with_capacity(names.len());
    let mut known = std::collections::HashSet::with_capacity(names.len());
    for name in names {
        let room = RoomName::named_by_client(name)
            .map_err(|bad| Problem::new(400, "bad-room", format!("rooms: {name:?}: {}", bad.0)))?;
        caller.room(&room)?;
        if !known.insert(room.clone()) {
            return Err(Problem::bad_json(format!("rooms: {name:?} stands there twice")));
        }
        rooms.push(room);
    }
    Ok(rooms)
}
