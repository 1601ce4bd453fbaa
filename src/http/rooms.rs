//! Rooms as an operator sees them, over all nodes: `GET /api/rooms`, `GET /api/rooms/{room}` and
//! `GET /api/rooms/{room}/who`. Every node gives the same answer.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::actors::letters::LookAt;
use crate::auth::api_key::Scope;
use crate::chat::names::RoomName;
use crate::chat::overview::{Look, RoomCount, RoomState, Shown, View};
use crate::http::answer::told;
use crate::http::api::{Caller, admit_asking, answer};
use crate::http::asked::{PageAsked, bad_query, query, room};
use crate::http::house::House;
use crate::protocols::codes::Problem;

#[derive(Serialize)]
struct RoomList<'a> {
    list: Vec<Listed<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    r: &'a str,
    sessions: u64,
}

#[derive(Serialize)]
struct State<'a> {
    r: &'a str,
    e: String,
    s: u64,
    first: u64,
    sessions: u64,
    users: u64,
}

#[derive(Serialize)]
struct Who<'a> {
    r: &'a str,
    list: Vec<Here<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct Here<'a> {
    u: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a RawValue>,
}

/// `GET /api/rooms?prefix=team-&n=100`: the rooms that somebody is in, in order of their names. The next page:
/// `after=<the last name>`.
pub async fn list(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, listed(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

/// `GET /api/rooms/{room}`: how a room stands.
pub async fn state(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, stands(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

/// `GET /api/rooms/{room}/who`: the users who are shown there. The next page: `after=<the last name>`.
pub async fn who(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, shown(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

async fn listed(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let asked: PageAsked = query(request)?;
    let n = asked.n()?;
    let prefix = asked.prefix.unwrap_or_default();
    let look = Look::Rooms { prefix, only: caller.patterns(), after: asked.after, n };
    let View::Rooms(rooms, more) = ask(house, look).await? else { return Err(odd()) };
    let list =
        rooms.iter().map(|RoomCount { room, sessions }| Listed { r: room.as_str(), sessions: *sessions });
    Ok(told(RoomList { list: list.collect(), more }))
}

async fn stands(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let name = room(request)?;
    caller.room(&name)?;
    let View::Room(state) = ask(house, Look::Room(name.clone())).await? else { return Err(odd()) };
    state.map(|state| told(state_of(&name, state))).ok_or_else(Problem::no_room)
}

fn state_of(name: &RoomName, state: RoomState) -> State<'_> {
    let RoomState { epoch, top, first, sessions, users } = state;
    State { r: name.as_str(), e: epoch.to_text(), s: top, first, sessions, users }
}

async fn shown(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let name = room(request)?;
    caller.room(&name)?;
    let asked: PageAsked = query(request)?;
    let n = asked.n()?;
    if asked.prefix.is_some() {
        return Err(bad_query("prefix: rooms have it, users do not; leave it out"));
    }
    let look = Look::Who { room: name.clone(), after: asked.after, n };
    let View::Who(users, more) = ask(house, look).await? else { return Err(odd()) };
    let list = users.iter().map(|shown| Here { u: shown.user.as_str(), d: info_of(shown) }).collect();
    Ok(told(Who { r: name.as_str(), list, more }))
}

/// What a token says about a user, as it stands.
fn info_of(shown: &Shown) -> Option<&RawValue> {
    serde_json::from_slice(shown.info.as_ref()?.as_bytes()).ok()
}

async fn ask(house: &House, look: Look) -> Result<View, Problem> {
    house.looks.send(LookAt(look)).await.map_err(|_| Problem::draining())?
}

fn odd() -> Problem {
    Problem::new(500, "internal", "the answer is to another question; ask again, and report it")
}
