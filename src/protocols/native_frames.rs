//! What native clients hear: each thing that happens as one line of JSON, keys in the order of the
//! protocol page (`t r s e i id u ts d …`). Written straight into a buffer; called by the chat server
//! and the session.

use std::fmt::Display;

use serde_json::value::RawValue;

use crate::chat::data::Data;
use crate::chat::message::{Accepted, Draft, Offset, Via};
use crate::chat::names::{RoomName, UserName};
use crate::chat::presence::Present;
use crate::chat::room::{Cut, Missing};
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Reference, RequestNumber};

/// What `welcome` says this server can do beyond joining and publishing.
const CAN: &str = r#"["typing","who","log","re","keep"]"#;

/// One frame in the making: appends keys to a line of JSON.
struct Line<'a>(&'a mut Vec<u8>);

impl<'a> Line<'a> {
    fn of(out: &'a mut Vec<u8>, t: &str) -> Line<'a> {
        out.extend_from_slice(b"{\"t\":\"");
        out.extend_from_slice(t.as_bytes());
        out.push(b'"');
        Line(out)
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn raw(mut self, key: &str, json: &[u8]) -> Self {
        self.key(key);
        self.0.extend_from_slice(json);
        self
    }

    fn number(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self
    }

    fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        write_text(self.0, value);
        self
    }

    fn some<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => write(self, value),
            None => self,
        }
    }

    fn room(self, room: &RoomName) -> Self {
        self.text("r", room.as_str())
    }

    fn request(self, i: RequestNumber) -> Self {
        self.some(i, |line, i| line.number("i", i))
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

/// Writes a JSON string. Most texts have nothing to escape and are copied as they are.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        serde_json::to_writer(&mut *out, text).expect("writing into memory does not fail");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// What a session hears first.
pub struct Welcome<'a> {
    /// Who the server takes it for.
    pub user: &'a UserName,
    /// The session's name.
    pub session: &'a str,
    /// Pause between pings, in milliseconds.
    pub ping_ms: u64,
    /// Largest message, in bytes.
    pub message_bytes: usize,
}

/// `welcome`.
pub fn welcome(out: &mut Vec<u8>, i: RequestNumber, welcome: &Welcome) {
    Line::of(out, "welcome")
        .request(i)
        .number("v", 1)
        .text("u", welcome.user.as_str())
        .text("session", welcome.session)
        .number("ping", welcome.ping_ms)
        .number("max", welcome.message_bytes as u64)
        .raw("can", CAN.as_bytes())
        .end();
}

/// `joined`: `n` entries follow, then `live`.
pub fn joined(out: &mut Vec<u8>, room: &RoomName, epoch: &str, cut: &Cut, i: RequestNumber, who: usize) {
    let n = cut.top + 1 - cut.start;
    let line =
        Line::of(out, "joined").room(room).number("s", cut.top).text("e", epoch).request(i).number("n", n);
    match &cut.missing {
        None => line,
        Some(Missing::Range(first, last)) => line.raw("missing", format!("[{first},{last}]").as_bytes()),
        Some(Missing::All { was }) => line.text("missing", "all").text("was", was),
    }
    .number("who", who as u64)
    .end();
}

/// `live`: the replay is over.
pub fn live(out: &mut Vec<u8>, room: &RoomName, top: Offset) {
    Line::of(out, "live").room(room).number("s", top).end();
}

/// `msg`: a draft at its place; the same bytes for every reader. Without an id of the sender's the place
/// itself is the id.
pub fn message(out: &mut Vec<u8>, draft: &Draft, place: &Accepted) {
    let line = Line::of(out, "msg").room(&draft.room);
    let line = if place.offset > 0 { line.number("s", place.offset) } else { line };
    let line = match &draft.id {
        Some(id) => line.text("id", id.as_str()),
        None => made_id(line, place),
    };
    line.some(draft.user.as_ref(), |line, user| line.text("u", user.as_str()))
        .number("ts", place.ts)
        .raw("d", draft.data.as_bytes())
        .some(draft.reply_to, |line, offset| line.number("re", offset))
        .some(draft.kind.as_deref(), |line, kind| line.text("type", kind))
        .some(via_text(draft.via), |line, via| line.text("via", via))
        .end();
}

fn via_text(via: Via) -> Option<&'static str> {
    match via {
        Via::Session => None,
        Via::Queue => Some("queue"),
        Via::Api => Some("api"),
    }
}

fn made_id<'a>(line: Line<'a>, place: &Accepted) -> Line<'a> {
    let epoch = place.epoch.to_text();
    match place.offset {
        0 => line.text("id", &format!("{epoch}-0-{}", place.ts)),
        offset => line.text("id", &format!("{epoch}-{offset}")),
    }
}

/// `ack`: for the sender alone.
pub fn ack(out: &mut Vec<u8>, reference: &Reference, place: &Accepted) {
    let line = Line::of(out, "ack").some(reference.room.as_ref(), |line, room| line.room(room));
    let line = if place.offset > 0 { line.number("s", place.offset) } else { line };
    let line = line.request(reference.i);
    let line = match &reference.id {
        Some(id) => line.text("id", id.as_str()),
        None => made_id(line, place),
    };
    let line = line.number("ts", place.ts);
    if place.duplicate { line.raw("dup", b"true") } else { line }.end();
}

/// `err`.
pub fn err(out: &mut Vec<u8>, reference: &Reference, problem: &Problem) {
    Line::of(out, "err")
        .some(reference.room.as_ref(), |line, room| line.room(room))
        .request(reference.i)
        .some(reference.id.as_ref(), |line, id| line.text("id", id.as_str()))
        .number("code", problem.code.into())
        .text("why", problem.why)
        .text("msg", &problem.msg)
        .some(problem.wait_ms, |line, ms| line.number("wait", ms))
        .end();
}

/// `ok`: an answer that has nothing more to say.
pub fn ok(out: &mut Vec<u8>, reference: &Reference) {
    Line::of(out, "ok")
        .some(reference.room.as_ref(), |line, room| line.room(room))
        .request(reference.i)
        .end();
}

/// `pong`.
pub fn pong(out: &mut Vec<u8>, i: RequestNumber) {
    Line::of(out, "pong").request(i).end();
}

/// `expiring`: the token ends in so many seconds.
pub fn expiring(out: &mut Vec<u8>, seconds: u64) {
    Line::of(out, "expiring").number("in", seconds).end();
}

/// `bye`: the last line before a close.
pub fn bye(out: &mut Vec<u8>, goodbye: &Goodbye) {
    Line::of(out, "bye")
        .number("code", goodbye.code.into())
        .text("why", &goodbye.why)
        .some(goodbye.wait_ms, |line, ms| line.number("wait", ms))
        .end();
}

/// `pres` in a large room: only how many are here.
pub fn presence_count(out: &mut Vec<u8>, room: &RoomName, who: usize) {
    Line::of(out, "pres").room(room).number("who", who as u64).end();
}

/// `pres`: who came, who went, how many are here.
pub fn presence<'a>(
    out: &mut Vec<u8>,
    room: &RoomName,
    came: impl Iterator<Item = (&'a UserName, Option<&'a Data>)>,
    went: &[UserName],
    who: usize,
) {
    let mut line = Line::of(out, "pres").room(room);
    line.key("in");
    write_list(line.0, came, |out, (user, info)| {
        out.extend_from_slice(b"{\"u\":");
        write_text(out, user.as_str());
        write_info(out, info);
        out.push(b'}');
    });
    line.key("out");
    write_list(line.0, went.iter(), |out, user| write_text(out, user.as_str()));
    line.number("who", who as u64).end();
}

/// `typing`.
pub fn typing(out: &mut Vec<u8>, room: &RoomName, user: &UserName, on: bool) {
    let line = Line::of(out, "typing").room(room).text("u", user.as_str());
    if on { line } else { line.raw("off", b"true") }.end();
}

/// `who`: a page of the roster in order of names.
pub fn who<'a>(
    out: &mut Vec<u8>,
    room: &RoomName,
    top: Offset,
    i: RequestNumber,
    page: impl Iterator<Item = (&'a UserName, &'a Present)>,
    more: bool,
) {
    let mut line = Line::of(out, "who").room(room).number("s", top).request(i);
    line.key("list");
    write_list(line.0, page, |out, (user, present)| {
        out.extend_from_slice(b"{\"u\":");
        write_text(out, user.as_str());
        write_number(out, ",\"n\":", present.sessions);
        write_info(out, present.info.as_deref());
        out.push(b'}');
    });
    if more { line.raw("more", b"true") } else { line }.end();
}

/// `page`: a part of the log. An entry in it is its frame without the room, which stands outside.
pub fn page<'a>(
    out: &mut Vec<u8>,
    room: &RoomName,
    epoch: &str,
    i: RequestNumber,
    entries: impl Iterator<Item = &'a [u8]>,
    more: bool,
) {
    let mut head = Vec::with_capacity(160);
    Line::of(&mut head, "msg").room(room);
    let mut line = Line::of(out, "page").room(room).text("e", epoch).request(i);
    line.key("list");
    write_list(line.0, entries, |out, entry| {
        debug_assert!(entry.starts_with(&head), "an entry begins with its type and room");
        out.extend_from_slice(b"{\"t\":\"msg\"");
        out.extend_from_slice(&entry[head.len()..]);
    });
    line.raw("more", if more { b"true" } else { b"false" }).end();
}

fn write_list<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_number(out: &mut Vec<u8>, key: &str, value: impl Display) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value.to_string().as_bytes());
}

fn write_info(out: &mut Vec<u8>, info: Option<&Data>) {
    if let Some(info) = info {
        out.extend_from_slice(b",\"d\":");
        out.extend_from_slice(info.as_bytes());
    }
}

/// The data of a token's `info` claim as the others are shown it.
pub fn info(raw: &RawValue) -> Option<Data> {
    Data::new(raw).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::Epoch;
    use crate::chat::names::MessageId;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice::<serde_json::Value>(&out).expect("every frame is JSON");
        String::from_utf8(out).unwrap()
    }

    fn draft() -> Draft {
        Draft {
            room: RoomName::new("lobby").unwrap(),
            user: Some(UserName::new("ann").unwrap()),
            id: Some(MessageId::new("k7-41").unwrap()),
            data: Data::text("hi all"),
            kind: None,
            reply_to: None,
            keep: true,
            via: Via::Session,
        }
    }

    const PLACE: Accepted =
        Accepted { offset: 128, epoch: Epoch(45), ts: 1_763_820_000_123, duplicate: false };

    #[test]
    fn frames_have_the_keys_and_the_order_of_the_protocol_page() {
        let reference = Reference { i: None, room: Some(draft().room), id: draft().id };
        assert_eq!(
            text(|out| message(out, &draft(), &PLACE)),
            r#"{"t":"msg","r":"lobby","s":128,"id":"k7-41","u":"ann","ts":1763820000123,"d":"hi all"}"#
        );
        assert_eq!(
            text(|out| ack(out, &reference, &Accepted { duplicate: true, ..PLACE })),
            r#"{"t":"ack","r":"lobby","s":128,"id":"k7-41","ts":1763820000123,"dup":true}"#
        );
        let cut = Cut { start: 121, top: 900, missing: Some(Missing::Range(43, 120)) };
        assert_eq!(
            text(|out| joined(out, &draft().room, "k3f9", &cut, Some(3), 3)),
            r#"{"t":"joined","r":"lobby","s":900,"e":"k3f9","i":3,"n":780,"missing":[43,120],"who":3}"#
        );
        let problem = Problem::new(403, "muted", "you can write again in 40 s").wait(40_000);
        assert_eq!(
            text(|out| err(out, &Reference { i: Some(3), ..Reference::default() }, &problem)),
            r#"{"t":"err","i":3,"code":403,"why":"muted","msg":"you can write again in 40 s","wait":40000}"#
        );
        assert_eq!(
            text(|out| bye(out, &Goodbye::restart(1800))),
            r#"{"t":"bye","code":4200,"why":"restart","wait":1800}"#
        );
    }

    #[test]
    fn a_push_says_so_and_needs_no_user_and_no_id() {
        let push = Draft { user: None, id: None, via: Via::Queue, kind: Some("order".into()), ..draft() };
        assert_eq!(
            text(|out| message(out, &push, &PLACE)),
            r#"{"t":"msg","r":"lobby","s":128,"id":"19-128","ts":1763820000123,"d":"hi all","type":"order","via":"queue"}"#
        );
        let fleeting = Accepted { offset: 0, ..PLACE };
        assert!(!text(|out| message(out, &push, &fleeting)).contains("\"s\":"));
    }

    #[test]
    fn names_are_escaped() {
        let room = RoomName::new("a\"b\\c").unwrap();
        assert_eq!(text(|out| live(out, &room, 1)), r#"{"t":"live","r":"a\"b\\c","s":1}"#);
    }

    #[test]
    fn a_page_holds_entries_without_the_room() {
        let entry = text(|out| message(out, &draft(), &PLACE));
        let frame =
            text(|out| page(out, &draft().room, "k3f9", Some(7), [entry.as_bytes(); 2].into_iter(), true));
        let one = r#"{"t":"msg","s":128,"id":"k7-41","u":"ann","ts":1763820000123,"d":"hi all"}"#;
        assert_eq!(
            frame,
            format!(r#"{{"t":"page","r":"lobby","e":"k3f9","i":7,"list":[{one},{one}],"more":true}}"#)
        );
    }

    #[test]
    fn who_is_here_is_a_list_of_users() {
        let zoe = UserName::new("zoe").unwrap();
        let info = Data::text("Zoe");
        assert_eq!(
            text(|out| presence(out, &draft().room, [(&zoe, Some(&info))].into_iter(), &[], 3)),
            r#"{"t":"pres","r":"lobby","in":[{"u":"zoe","d":"Zoe"}],"out":[],"who":3}"#
        );
    }
}
