//! The rules of a room: `POST /api/rooms/{room}/mute`, `ban`, `freeze`, `slow` and `role` change them,
//! `GET /api/rooms/{room}/rules` shows them. An order is answered when it is kept.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::actors::letters::{Rule, RulesOf};
use crate::auth::api_key::Scope;
use crate::chat::moderation::{Change, Role, Rules, SECONDS_MAX, SLOW_MAX, Term};
use crate::chat::names::UserName;
use crate::clock;
use crate::http::answer::told;
use crate::http::api::{Caller, admit, admit_asking, answer};
use crate::http::asked::room;
use crate::http::house::House;
use crate::http::orders::user_of;
use crate::protocols::codes::Problem;

#[derive(Deserialize)]
struct Sentence {
    u: String,
    /// Seconds; a whole number, which JSON may also write as `600.0`.
    #[serde(rename = "for")]
    seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Freeze {
    #[serde(rename = "for")]
    seconds: f64,
}

#[derive(Deserialize)]
struct Slow {
    every: f64,
}

#[derive(Deserialize)]
struct Position {
    u: String,
    role: String,
}

/// What is in force in a room.
#[derive(Serialize)]
struct InForce<'a> {
    r: &'a str,
    muted: Vec<Listed<'a>>,
    banned: Vec<Listed<'a>>,
    frozen: Option<u64>,
    slow: u32,
    roles: &'a BTreeMap<Box<str>, Role>,
}

#[derive(Serialize)]
struct Listed<'a> {
    u: &'a str,
    until: Option<u64>,
}

/// What an order changes, and what its answer says beside the room.
type Read = Result<(Change, Value), Problem>;

/// `POST /api/rooms/{room}/mute` with `{"u":"bob","for":600}`: she may not write there for so many seconds; without
/// `for` for good, 0 ends it.
pub async fn mute(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, |body, now| sentence(body, now, Change::Mute)).await
}

/// `POST /api/rooms/{room}/ban` with `{"u":"bob","for":600}`: she may neither come nor read, and is taken out.
pub async fn ban(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, |body, now| sentence(body, now, Change::Ban)).await
}

/// `POST /api/rooms/{room}/freeze` with `{"for":600}`: nobody but moderators and backends may write; 0 ends it.
pub async fn freeze(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, read_freeze).await
}

/// `POST /api/rooms/{room}/slow` with `{"every":10}`: so many seconds between two messages of a user; 0 ends it.
pub async fn slow(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, |body, _| read_slow(body)).await
}

/// `POST /api/rooms/{room}/role` with `{"u":"bob","role":"moderator"}`, or `member`.
pub async fn role(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    order(request, payload, &house, |body, _| read_role(body)).await
}

/// `GET /api/rooms/{room}/rules`: what is in force.
pub async fn rules(request: HttpRequest, payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    match admit_asking(&request, payload, &house, Scope::Read).await {
        Ok(caller) => answer(&house, shown(&caller, &request, &house).await),
        Err(refusal) => refusal,
    }
}

async fn shown(caller: &Caller<'_>, request: &HttpRequest, house: &House) -> Result<HttpResponse, Problem> {
    let name = room(request)?;
    caller.room(&name)?;
    let rules = house.rules.send(RulesOf(name.clone())).await.map_err(|_| Problem::draining())?;
    Ok(told(in_force(name.as_str(), &rules, clock::wall_ms())))
}

fn in_force<'a>(r: &'a str, rules: &'a Rules, now: u64) -> InForce<'a> {
    let listed = |(u, until)| Listed { u, until };
    InForce {
        r,
        muted: rules.muted(now).map(listed).collect(),
        banned: rules.banned(now).map(listed).collect(),
        frozen: rules.frozen(now),
        slow: rules.slow(),
        roles: rules.roles(),
    }
}

async fn order(
    request: HttpRequest,
    payload: web::Payload,
    house: &House,
    read: impl FnOnce(&[u8], u64) -> Read,
) -> HttpResponse {
    let (caller, body) = match admit(&request, payload, house, Scope::Admin, house.message_bytes).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    answer(house, carry_out(&caller, &request, house, read(&body, clock::wall_ms())).await)
}

async fn carry_out(
    caller: &Caller<'_>,
    request: &HttpRequest,
    house: &House,
    order: Read,
) -> Result<HttpResponse, Problem> {
    let name = room(request)?;
    caller.room(&name)?;
    let (change, mut says) = order?;
    says["r"] = name.as_str().into();
    house.rule.send(Rule { room: name, change }).await.map_err(|_| Problem::draining())??;
    Ok(told(says))
}

fn sentence(body: &[u8], now: u64, change: impl FnOnce(UserName, Term) -> Change) -> Read {
    let Sentence { u, seconds } = read(body, r#"write {"u":"bob","for":600}"#)?;
    let user = user_of(&u)?;
    let term = Term::of(seconds.map(|seconds| whole("for", seconds, SECONDS_MAX)).transpose()?, now);
    let until = match term {
        Term::Over => Value::from(0),
        Term::Until(end) => Value::from(end),
        Term::ForGood => Value::Null,
    };
    let says = json!({ "u": user.as_str(), "until": until });
    Ok((change(user, term), says))
}

fn read_freeze(body: &[u8], now: u64) -> Read {
    let Freeze { seconds } = read(body, r#"write {"for":600}, or {"for":0} to end it"#)?;
    let until = match Term::of(Some(whole("for", seconds, SECONDS_MAX)?), now) {
        Term::Until(end) => end,
        Term::Over | Term::ForGood => 0,
    };
    Ok((Change::Freeze(until), json!({ "until": until })))
}

fn read_slow(body: &[u8]) -> Read {
    let Slow { every } = read(body, r#"write {"every":10}, or {"every":0} to end it"#)?;
    let every = whole("every", every, u64::from(SLOW_MAX))? as u32;
    Ok((Change::Slow(every), json!({ "every": every })))
}

fn read_role(body: &[u8]) -> Read {
    let Position { u, role } = read(body, r#"write {"u":"bob","role":"moderator"}"#)?;
    let user = user_of(&u)?;
    let moderates = match role.as_str() {
        "moderator" => true,
        "member" => false,
        _ => return Err(Problem::bad_json("role: write \"moderator\" or \"member\"")),
    };
    let says = json!({ "u": user.as_str(), "role": role });
    Ok((Change::Moderator(user, moderates), says))
}

fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_json(format!("{example}: {error}")))
}

/// A whole number of seconds up to the greatest one.
fn whole(key: &str, seconds: f64, max: u64) -> Result<u64, Problem> {
    match seconds.fract() == 0.0 && (0.0..=max as f64).contains(&seconds) {
        true => Ok(seconds as u64),
        false => Err(Problem::bad_json(format!("{key}: write a whole number of seconds from 0 to {max}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;

    #[test]
    fn an_order_is_read_and_answered_with_its_end() {
        let bob = || UserName::new("bob").unwrap();
        let mute = |body: &str| sentence(body.as_bytes(), NOW, Change::Mute);
        for (body, term, until) in [
            (r#"{"u":"bob","for":600}"#, Term::Until(601_000), json!(601_000)),
            (r#"{"u":"bob","for":600.0}"#, Term::Until(601_000), json!(601_000)),
            (r#"{"u":"bob"}"#, Term::ForGood, Value::Null),
            (r#"{"u":"bob","for":0}"#, Term::Over, json!(0)),
        ] {
            assert_eq!(
                mute(body),
                Ok((Change::Mute(bob(), term), json!({"u": "bob", "until": until}))),
                "{body}"
            );
        }
        assert_eq!(read_freeze(br#"{"for":2}"#, NOW), Ok((Change::Freeze(3_000), json!({"until": 3_000}))));
        assert_eq!(read_freeze(br#"{"for":0}"#, NOW), Ok((Change::Freeze(0), json!({"until": 0}))));
        assert_eq!(read_slow(br#"{"every":10}"#), Ok((Change::Slow(10), json!({"every": 10}))));
        assert_eq!(
            read_role(br#"{"u":"bob","role":"member"}"#),
            Ok((Change::Moderator(bob(), false), json!({"u": "bob", "role": "member"})))
        );
    }

    #[test]
    fn what_is_wrong_in_an_order_is_named() {
        let mute = |body: &str| sentence(body.as_bytes(), NOW, Change::Mute).unwrap_err().msg;
        for (said, word) in [
            (mute(r#"{"u":"bob","for":-1}"#), "for: write a whole number of seconds from 0 to 315360000"),
            (mute(r#"{"u":"bob","for":1.5}"#), "for: "),
            (mute(r#"{"u":"bob","for":315360001}"#), "for: "),
            (mute(r#"{"u":"bob","for":"1"}"#), "\"for\":600"),
            (mute(r#"{"u":""}"#), "u: "),
            (mute("{}"), "missing field"),
            (read_freeze(b"{}", NOW).unwrap_err().msg, "missing field `for`"),
            (read_slow(br#"{"every":3601}"#).unwrap_err().msg, "from 0 to 3600"),
            (read_role(br#"{"u":"bob","role":"king"}"#).unwrap_err().msg, "role: "),
        ] {
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn only_what_holds_now_is_shown() {
        let order = |rules: Rules, change| rules.with(&change, NOW).unwrap();
        let name = |text: &str| UserName::new(text).unwrap();
        let rules = order(Rules::default(), Change::Mute(name("bob"), Term::Until(5_000)));
        let rules = order(rules, Change::Ban(name("eve"), Term::ForGood));
        let rules = order(rules, Change::Freeze(5_000));
        let rules = order(rules, Change::Moderator(name("mod"), true));
        let shown = |now| serde_json::to_value(in_force("lobby", &rules, now)).unwrap();
        assert_eq!(
            shown(4_999),
            json!({"r": "lobby", "muted": [{"u": "bob", "until": 5_000}], "banned": [{"u": "eve", "until": null}],
                "frozen": 5_000, "slow": 0, "roles": {"mod": "moderator"}})
        );
        assert_eq!((&shown(5_000)["muted"], &shown(5_000)["frozen"]), (&json!([]), &Value::Null));
    }
}
