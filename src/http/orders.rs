//! What operators have all nodes do: `POST /api/disconnect` closes a user's sessions, `POST /api/join` brings them into
//! rooms, `POST /api/leave` takes them out. Carried out wherever she is; the answer says that the order has gone out.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::actors::letters::Order;
use crate::auth::api_key::Scope;
use crate::chat::names::{RoomName, UserName};
use crate::engines::shared::Command;
use crate::http::answer::told;
use crate::http::api::{Caller, admit, answer};
use crate::http::batch::read_rooms;
use crate::http::house::House;
use crate::protocols::codes::Problem;

/// Close codes that a client reads as "do not come back unchanged", and those for later and for at once.
const CODES: std::ops::RangeInclusive<u16> = 4000..=4299;
/// Longest reason, in bytes. A close frame has room for 123.
const WHY_BYTES_MAX: usize = 64;

#[derive(Deserialize)]
struct Disconnect {
    u: String,
    /// A whole number, which JSON may also write as `4003.0`.
    code: Option<f64>,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Membership {
    u: String,
    rooms: Vec<String>,
}

/// `POST /api/disconnect` with `{"u":"bob","code":4003,"why":"banned"}`; without `code` 4003, without `why`
/// `disconnected`.
pub async fn disconnect(
    request: HttpRequest,
    payload: web::Payload,
    house: web::Data<House>,
) -> HttpResponse {
    order(request, payload, &house, |caller, body| {
        caller.all_rooms()?;
        Ok(vec![read_disconnect(body)?])
    })
    .await
}

/// `POST /api/join` with `{"u":"bob","rooms":["lobby"]}`: her sessions that are there now enter the rooms, whatever her
/// token says. Rooms of users (`@ann`, `@ann+bob`) are for these users only.
pub async fn join(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, read_join).await
}

/// `POST /api/leave` with `{"u":"bob","rooms":["lobby"]}`.
pub async fn leave(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, read_leave).await
}

async fn order(
    request: HttpRequest,
    payload: web::Payload,
    house: &House,
    read: impl FnOnce(&Caller<'_>, &[u8]) -> Result<Vec<Command>, Problem>,
) -> HttpResponse {
    let (caller, body) = match admit(&request, payload, house, Scope::Admin, house.message_bytes).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    answer(house, carry_out(house, read(&caller, &body)).await)
}

async fn carry_out(house: &House, commands: Result<Vec<Command>, Problem>) -> Result<HttpResponse, Problem> {
    house.orders.send(Order(commands?)).await.map_err(|_| Problem::draining())?;
    Ok(told(serde_json::json!({})))
}

fn read_disconnect(body: &[u8]) -> Result<Command, Problem> {
    let Disconnect { u, code, why } = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!("write {{\"u\":\"bob\"}}, optional \"code\" and \"why\": {error}"))
    })?;
    let code = CODES.into_iter().find(|known| f64::from(*known) == code.unwrap_or(4003.0));
    let code = code.ok_or_else(|| Problem::bad_json("code: write one of 4000 to 4299"))?;
    let why = why.unwrap_or_else(|| "disconnected".into());
    if why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
        return Err(Problem::bad_json(format!(
            "why: at most {WHY_BYTES_MAX} bytes without control characters"
        )));
    }
    Ok(Command::Disconnect { user: user_of(&u)?, code, why: why.into() })
}

fn read_membership(caller: &Caller<'_>, body: &[u8]) -> Result<(UserName, Vec<RoomName>), Problem> {
    let Membership { u, rooms } = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!("write {{\"u\":\"bob\",\"rooms\":[\"lobby\"]}}: {error}"))
    })?;
    Ok((user_of(&u)?, read_rooms(caller, &rooms)?))
}

fn read_join(caller: &Caller<'_>, body: &[u8]) -> Result<Vec<Command>, Problem> {
    let (user, rooms) = read_membership(caller, body)?;
    let enter = |room: RoomName| match room.owners().is_none_or(|owners| owners.include(&user)) {
        true => Ok(Command::Join { user: user.clone(), room }),
        false => Err(Problem::new(403, "not-allowed", "a room that belongs to other users; leave it out")),
    };
    rooms.into_iter().map(enter).collect()
}

fn read_leave(caller: &Caller<'_>, body: &[u8]) -> Result<Vec<Command>, Problem> {
    let (user, rooms) = read_membership(caller, body)?;
    Ok(rooms.into_iter().map(|room| Command::Kick { user: user.clone(), room }).collect())
}

/// The user of an order.
pub fn user_of(text: &str) -> Result<UserName, Problem> {
    UserName::new(text).map_err(|error| Problem::bad_json(format!("u: {}", error.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_and_what_is_wrong_in_it_named() {
        let bob = UserName::new("bob").unwrap();
        let user = bob.clone();
        assert_eq!(
            read_disconnect(br#"{"u":"bob"}"#),
            Ok(Command::Disconnect { user, code: 4003, why: "disconnected".into() })
        );
        let lobby = RoomName::new("lobby").unwrap();
        let caller = Caller::of_this_machine();
        let body = br#"{"u":"bob","rooms":["lobby"]}"#;
        let (user, room) = (bob.clone(), lobby.clone());
        assert_eq!(read_join(&caller, body), Ok(vec![Command::Join { user, room }]));
        assert_eq!(read_leave(&caller, body), Ok(vec![Command::Kick { user: bob, room: lobby }]));
        let direct = |room: &str| format!(r#"{{"u":"bob","rooms":["{room}"]}}"#);
        assert!(read_join(&caller, direct("@bob+ann").as_bytes()).is_ok());
        let refused = read_join(&caller, direct("@ann+eve").as_bytes()).unwrap_err();
        assert_eq!((refused.code, refused.why), (403, "not-allowed"));
        for (body, word) in [
            (&br#"{"u":"bob","code":1000}"#[..], "4000 to 4299"),
            (br#"{"u":"bob","code":4003.5}"#, "4000 to 4299"),
            (br#"{"u":"bob","why":"a\nb"}"#, "control"),
            (br#"{"u":""}"#, "u: "),
            (br#"{}"#, "missing field"),
        ] {
            let problem = read_disconnect(body).unwrap_err();
            assert!(problem.msg.contains(word), "{}", problem.msg);
        }
        for rooms in [r#"[""]"#, "[]", r#"["a","a"]"#, r#"["@b+a","@a+b"]"#] {
            let body = format!(r#"{{"u":"bob","rooms":{rooms}}}"#);
            let problem = read_leave(&caller, body.as_bytes()).unwrap_err();
            assert!(problem.msg.starts_with("rooms: "), "{}", problem.msg);
        }
    }
}
