//! Events as a backend reads them: one JSON object each. docs/hooks.md shows them to people. Each has a `key` by which a
//! repeat is known.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat::entry::Entry;
use crate::store::record::{Happened, SessionEvent};

#[derive(Serialize)]
struct OfSession<'a> {
    event: &'static str,
    key: String,
    session: &'a str,
    u: &'a str,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

/// What readers of the room have got, and which event and which life of the log it is.
pub(super) fn of_entry(entry: &Entry) -> String {
    let epoch = entry.epoch.to_text();
    let key = format!("{}@{epoch}-{}", entry.room.as_str(), entry.offset);
    let key = serde_json::to_string(&key).expect("a text has a JSON form");
    let line = String::from_utf8_lossy(&entry.line);
    let rest = line.strip_prefix('{').unwrap_or("}");
    format!("{{\"event\":\"on_message\",\"key\":{key},\"e\":\"{epoch}\",{rest}")
}

/// What has happened to a session.
pub(super) fn of_session(event: &SessionEvent) -> String {
    let SessionEvent { session, user, ts, what } = event;
    let (name, word, info, code, why) = match what {
        Happened::Opened(info) => ("on_open", "open", info.as_ref(), None, None),
        Happened::Closed(code) => ("on_close", "close", None, Some(*code), None),
        Happened::Failed(why) => ("on_error", "error", None, None, Some(&**why)),
    };
    let key = match what {
        // There may be several.
        Happened::Failed(_) => format!("{session}-{word}-{ts}"),
        _ => format!("{session}-{word}"),
    };
    // What is no JSON is left out: it was checked when the token was read.
    let info = info.and_then(|info| serde_json::from_slice(info).ok());
    let line = OfSession { event: name, key, session, u: user.as_str(), ts: *ts, info, code, why };
    serde_json::to_string(&line).expect("texts and numbers have a JSON form")
}
