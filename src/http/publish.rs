//! `POST /api/publish`: a backend says something in a room. The answer tells the place that the message
//! got. Who may ask is checked here; what may be said is the chat server's business.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::actors::letters::PublishBatch;
use crate::auth::api_key::Scope;
use crate::chat::data::{DEPTH_MAX, Data};
use crate::chat::message::{Accepted, Draft, Refused, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::http::answer::told;
use crate::http::api::{Caller, admit, answer};
use crate::http::house::House;
use crate::http::traceparent::within;
use crate::protocols::codes::Problem;
use crate::traces::Span;

#[derive(Deserialize)]
struct Ask<'a> {
    r: String,
    u: Option<String>,
    #[serde(borrow)]
    d: &'a RawValue,
    id: Option<String>,
}

/// The place that a message got.
#[derive(Serialize)]
pub struct Told<'a> {
    r: &'a str,
    s: u64,
    e: String,
    dup: bool,
}

impl<'a> Told<'a> {
    /// Of a message in a room.
    pub fn of(room: &'a RoomName, accepted: &Accepted) -> Told<'a> {
        let Accepted { offset, epoch, duplicate, .. } = accepted;
        Told { r: room.as_str(), s: *offset, e: epoch.to_text(), dup: *duplicate }
    }
}

/// `POST /api/publish`.
pub async fn publish(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit(&request, payload, &house, Scope::Publish, house.message_bytes).await {
        Ok((caller, body)) => {
            let saying = async |span: &Span| say(&caller, &body, &house, span).await;
            answer(&house, within(&request, &house, "POST /api/publish", saying).await)
        }
        Err(refusal) => refusal,
    }
}

async fn say(caller: &Caller<'_>, body: &[u8], house: &House, span: &Span) -> Result<HttpResponse, Problem> {
    let draft = Draft { span: span.clone(), ..read_draft(body)? };
    caller.room(&draft.room)?;
    let room = draft.room.clone();
    let answer = say_all(house, caller, vec![draft]).await?.remove(0);
    Ok(told(Told::of(&room, &answer?)))
}

/// Says some messages in this order; one answer for each.
pub async fn say_all(
    house: &House,
    caller: &Caller<'_>,
    drafts: Vec<Draft>,
) -> Result<Vec<Result<Accepted, Refused>>, Problem> {
    let n = drafts.len();
    let stopping = |_| {
        Problem::new(503, "draining", "the server is stopping, send it again with the same id").wait(1_000)
    };
    let answers = house.publish.send(PublishBatch(drafts, caller.door())).await.map_err(stopping)?;
    match answers.len() == n {
        true => Ok(answers),
        false => Err(Problem::new(500, "internal", "an answer is missing; send it again with the same id")),
    }
}

/// Reads one message: `{"r":"lobby","d":…}` with `u` and `id` if they are there.
pub fn read_draft(body: &[u8]) -> Result<Draft, Problem> {
    // A list could be read as an object whose keys are left out.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::bad_json("write an object: {\"r\":\"room\",\"d\":any JSON}"));
    }
    let ask: Ask<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!(
            "write {{\"r\":\"room\",\"d\":any JSON}}, optional \"u\" and \"id\": {error}"
        ))
    })?;
    let (user, id) = (read_user(ask.u.as_deref())?, read_id(ask.id.as_deref())?);
    Ok(draft(RoomName::named_by_client(&ask.r)?, user, id, read_data(ask.d)?))
}

/// Who says it.
pub fn read_user(u: Option<&str>) -> Result<Option<UserName>, Problem> {
    u.map(UserName::new).transpose().map_err(|error| Problem::bad_json(format!("u: {}", error.0)))
}

/// What makes a repeat harmless.
pub fn read_id(id: Option<&str>) -> Result<Option<MessageId>, Problem> {
    id.map(MessageId::new).transpose().map_err(|error| Problem::bad_json(format!("id: {}", error.0)))
}

/// What is said.
pub fn read_data(d: &RawValue) -> Result<Data, Problem> {
    Data::new(d).map_err(|_| Problem::bad_json(format!("d: nested deeper than {DEPTH_MAX} levels")))
}

/// A message of a backend.
pub fn draft(room: RoomName, user: Option<UserName>, id: Option<MessageId>, data: Data) -> Draft {
    Draft {
        room,
        user,
        id,
        data,
        kind: None,
        reply_to: None,
        keep: true,
        via: Via::Api,
        span: Span::default(),
    }
}
