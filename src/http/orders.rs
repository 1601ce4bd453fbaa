//! What operators have all nodes do: `POST /api/disconnect` closes a user's sessions, `POST /api/leave` takes her
//! out of rooms. Carried out wherever she is; the answer says that the order has gone out.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::actors::letters::Order;
use crate::chat::names::{RoomName, UserName};
use crate::engines::shared::Command;
use crate::http::api::{admit, refused};
use crate::http::house::House;
use crate::protocols::codes::Problem;

/// Close codes that a client reads as "do not come back unchanged", and those for later and for at once.
const CODES: std::ops::RangeInclusive<u16> = 4000..=4299;
/// Longest reason, in bytes. A close frame has room for 123.
const WHY_BYTES_MAX: usize = 64;

#[derive(Deserialize)]
struct Disconnect {
    u: String,
    code: Option<u16>,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Leave {
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
    let body = match admit(&request, payload, &house).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match read_disconnect(&body) {
        Ok(command) => order(&house, vec![command]).await,
        Err(problem) => refused(&house, &problem),
    }
}

/// `POST /api/leave` with `{"u":"bob","rooms":["lobby"]}`.
pub async fn leave(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    let body = match admit(&request, payload, &house).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match read_leave(&body) {
        Ok(commands) => order(&house, commands).await,
        Err(problem) => refused(&house, &problem),
    }
}

async fn order(house: &House, commands: Vec<Command>) -> HttpResponse {
    match house.orders.send(Order(commands)).await {
        Ok(()) => HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(serde_json::json!({})),
        Err(_) => refused(house, &Problem::new(503, "draining", "the server is stopping; ask another node")),
    }
}

fn read_disconnect(body: &[u8]) -> Result<Command, Problem> {
    let Disconnect { u, code, why } = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!("write {{\"u\":\"bob\"}}, optional \"code\" and \"why\": {error}"))
    })?;
    let code = code.unwrap_or(4003);
    if !CODES.contains(&code) {
        return Err(Problem::bad_json("code: write one of 4000 to 4299"));
    }
    let why = why.unwrap_or_else(|| "disconnected".into());
    if why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
        return Err(Problem::bad_json(format!(
            "why: at most {WHY_BYTES_MAX} bytes without control characters"
        )));
    }
    Ok(Command::Disconnect { user: user_of(&u)?, code, why: why.into() })
}

fn read_leave(body: &[u8]) -> Result<Vec<Command>, Problem> {
    let Leave { u, rooms } = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_json(format!("write {{\"u\":\"bob\",\"rooms\":[\"lobby\"]}}: {error}"))
    })?;
    let user = user_of(&u)?;
    let kick =
        |room: &String| Ok(Command::Kick { user: user.clone(), room: RoomName::named_by_client(room)? });
    rooms.iter().map(kick).collect()
}

fn user_of(text: &str) -> Result<UserName, Problem> {
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
        assert_eq!(
            read_leave(br#"{"u":"bob","rooms":["lobby"]}"#),
            Ok(vec![Command::Kick { user: bob, room: lobby }])
        );
        for (body, word) in [
            (&br#"{"u":"bob","code":1000}"#[..], "4000 to 4299"),
            (br#"{"u":"bob","why":"a\nb"}"#, "control"),
            (br#"{"u":""}"#, "u: "),
            (br#"{}"#, "missing field"),
        ] {
            let problem = read_disconnect(body).unwrap_err();
            assert!(problem.msg.contains(word), "{}", problem.msg);
        }
        assert!(read_leave(br#"{"u":"bob","rooms":[""]}"#).is_err());
    }
}
