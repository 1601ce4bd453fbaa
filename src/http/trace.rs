//! `GET /api/trace/{room}/{s}`: what became of one entry. Where it came from, when it was kept, and what each session on
//! every node has of it: the answer to "why did Bob not see message 128?".

use std::borrow::Cow;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::actors::letters::{LookAt, TraceEntry};
use crate::auth::api_key::Scope;
use crate::chat::history::PageFrom;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::overview::{Look, View};
use crate::chat::trace::{Asked, Counts, NodeTrace, Origin, SessionName, SessionTrace, State, Traced};
use crate::http::answer::told;
use crate::http::api::{Caller, admit_asking, answer};
use crate::http::asked::{bad_query, page_size, query, room, segment};
use crate::http::house::House;
use crate::protocols::codes::Problem;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TraceAsked {
    user: Option<String>,
    session: Option<String>,
    after: Option<String>,
    n: Option<String>,
}

/// What the store knows of an entry: keys of its line.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Known<'a> {
    #[serde(borrow)]
    t: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    u: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<Offset>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    via: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<bool>,
}

#[derive(Serialize)]
struct Trace<'a> {
    r: &'a str,
    s: Offset,
    e: String,
    #[serde(flatten)]
    known: Known<'a>,
    stored: bool,
    origin: Option<Origin>,
    counts: Counts,
    list: Vec<SessionTrace>,
    more: bool,
    silent: Vec<String>,
}

/// `GET /api/trace/{room}/{s}?user=bob&n=100`: with `user` or `session` only those; the next page of sessions:
/// `after=<the last session>`.
pub async fn entry(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, traced(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

async fn traced(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let room = room(request)?;
    caller.room(&room)?;
    let (offset, asked) = read(request, &room)?;
    let (epoch, line) = find(house, &room, offset).await?;
    let known = line.as_deref().and_then(|line| serde_json::from_slice::<Known<'_>>(line).ok());
    // A later edit has taken the place of this one.
    let known = known.unwrap_or_else(|| Known { t: "skip".into(), ..Known::default() });
    let asked = Asked { ts: known.ts, ..asked };
    let about = asked.clone();
    let traced = house.traces.send(TraceEntry(asked)).await.map_err(|_| Problem::draining())??;
    let Traced { known: NodeTrace { origin, mut counts, mut list, more }, silent, lasts } = traced;
    if about.is_about_somebody() && counts.all() == 0 && silent.is_empty() {
        counts.count(State::NotJoined);
        list.push(SessionTrace::not_joined(about.user, about.session));
    }
    let stored = lasts && origin.as_ref().is_none_or(|origin| origin.kept.is_some());
    let (r, e) = (room.as_str(), epoch.to_text());
    Ok(told(Trace { r, s: offset, e, known, stored, origin, counts, list, more, silent }))
}

/// What is asked, without the entry's time.
fn read(request: &HttpRequest, room: &RoomName) -> Result<(Offset, Asked), Problem> {
    let asked: TraceAsked = query(request)?;
    let n = page_size(asked.n.as_deref())?;
    let offset = segment(request, "s").parse();
    let offset = offset.map_err(|_| bad_query("s: write the s of an entry, a number"))?;
    if let Some(Err(bad)) = asked.user.as_deref().map(UserName::new) {
        return Err(bad_query(format!("user: {}", bad.0)));
    }
    for (word, name) in [("session", &asked.session), ("after", &asked.after)] {
        if name.as_deref().is_some_and(|name| SessionName::parse(name).is_none()) {
            return Err(bad_query(format!("{word}: write a session as it stands in the list of this call")));
        }
    }
    let TraceAsked { user, session, after, .. } = asked;
    let room = room.as_str().to_owned();
    Ok((offset, Asked { room, offset, ts: None, user, session, after, n }))
}

/// The entry's line; none where readers skip it.
async fn find(
    house: &House,
    room: &RoomName,
    offset: Offset,
) -> Result<(Epoch, Option<bytes::Bytes>), Problem> {
    let before = offset.checked_sub(1).ok_or_else(Problem::no_entry)?;
    let look = Look::Log { room: room.clone(), from: PageFrom::After(before), n: 1, bytes: 1 };
    let view = house.looks.send(LookAt(look)).await.map_err(|_| Problem::draining())??;
    let View::Log(Some(page)) = view else { return Err(Problem::no_room()) };
    match page.list.into_iter().next() {
        Some((found, line)) if found == offset => Ok((page.epoch, line)),
        Some((first, _)) => {
            let msg = format!("the entry is forgotten; the oldest that can be read is {first}");
            Err(Problem::new(404, "no-entry", msg))
        }
        None => {
            Err(Problem::new(404, "no-entry", "nothing stands at that offset yet; ask log for what there is"))
        }
    }
}
