//! The log of a room for a backend: `GET /api/rooms/{room}/log` reads it, `DELETE /api/rooms/{room}/log/{s}` blanks one
//! entry, whoever has said it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::actors::letters::{Erase, LookAt};
use crate::auth::api_key::Scope;
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::overview::{Look, View};
use crate::http::answer::{told, told_json};
use crate::http::api::{Caller, admit_asking, answer};
use crate::http::asked::{bad_query, page_size, query, room, segment};
use crate::http::house::House;
use crate::http::publish::read_user;
use crate::protocols::codes::Problem;
use crate::protocols::native_frames as frames;

/// Most bytes of entries in a page; one entry at the least.
const PAGE_BYTES: usize = 1 << 20;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogAsked {
    before: Option<String>,
    after: Option<String>,
    n: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EraseAsked {
    u: Option<String>,
}

/// The place of the entry that tells the readers.
#[derive(Serialize)]
struct Erased<'a> {
    r: &'a str,
    s: Offset,
    e: String,
}

/// `GET /api/rooms/{room}/log?after=100&n=50`: entries after a place, before one (`before`), between two, or the newest
/// ones, oldest first; the same object as the native protocol's `page`.
pub async fn read(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, page(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

async fn page(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let room = room(request)?;
    caller.room(&room)?;
    let asked: LogAsked = query(request)?;
    let n = page_size(asked.n.as_deref())?;
    let read = |name: &str, text: Option<&str>| text.map(|text| offset(name, text)).transpose();
    let (before, after) = (read("before", asked.before.as_deref())?, read("after", asked.after.as_deref())?);
    let from = match after {
        Some(after) => PageFrom::After(after),
        None => PageFrom::Before(before.unwrap_or(Offset::MAX)),
    };
    let look = Look::Log { room: room.clone(), from, n, bytes: PAGE_BYTES };
    let view = house.looks.send(LookAt(look)).await.map_err(|_| Problem::draining())??;
    let View::Log(Some(mut page)) = view else { return Err(Problem::no_room()) };
    if after.is_some()
        && let Some(before) = before
    {
        let all = page.list.len();
        page.list.retain(|(offset, _)| *offset < before);
        page.more &= page.list.len() == all;
    }
    let mut line = Vec::new();
    let entries = page.list.iter().map(|(offset, line)| (*offset, line.as_deref()));
    frames::page(&mut line, &room, &page.epoch.to_text(), None, entries, page.more);
    Ok(told_json(line))
}

fn offset(name: &str, text: &str) -> Result<Offset, Problem> {
    text.parse().map_err(|_| bad_query(format!("{name}: write the s of an entry, a number")))
}

/// `DELETE /api/rooms/{room}/log/{s}`: blanks one entry; readers hear `del`. `?u=mod` says who has done it.
pub async fn erase(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Admin).await {
        Ok(caller) => answer(&house, blank(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

async fn blank(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let room = room(request)?;
    caller.room(&room)?;
    let asked: EraseAsked = query(request)?;
    let user = read_user(asked.u.as_deref())?;
    let of = offset("s", &segment(request, "s"))?;
    let erase = Erase { room: room.clone(), of, user };
    let place = house.erase.send(erase).await.map_err(|_| Problem::draining())??;
    Ok(told(Erased { r: room.as_str(), s: place.offset, e: place.epoch.to_text() }))
}
