//! `POST /api/publish`: a backend says something in a room. The answer tells the place that the message
//! got. Who may ask is checked here; what may be said is the chat server's business.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::actors::letters::PublishBatch;
use crate::chat::data::{DEPTH_MAX, Data};
use crate::chat::message::{Accepted, Draft, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::http::api::{admit, refused};
use crate::http::house::House;
use crate::protocols::codes::Problem;

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
    let body = match admit(&request, payload, &house).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
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
