//! What native clients hear: each thing that happens as one line of JSON, keys in the order of the
//! protocol page (`t r s e i id u ts d …`). Written straight into a buffer; called by the chat server
//! and the session.

use std::fmt::Display;

use serde_json::value::RawValue;

use crate::chat::data::Data;
use crate::chat::message::{Accepted, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::presence::Present;
use crate::chat::room::{Cut, Missing};
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Reference, RequestNumber};

mod entries;
mod finding;
#[cfg(test)]
mod tests;

pub use entries::{change, gap, live, message, page, rewind, skip};
pub use finding::PlaceFinder;

/// What `welcome` says this server can do beyond joining and publishing.
const CAN: &str = r#"["typing","who","log","re","keep","edit","react","read","got"]"#;
/// The same with a store.
const CAN_WITH_STORE: &str =
    r#"["typing","who","log","re","keep","edit","react","read","got","find","rooms","session"]"#;
/// The same, where what was said cannot be searched.
const CAN_WITHOUT_SEARCH: &str =
    r#"["typing","who","log","re","keep","edit","react","read","got","rooms","session"]"#;

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
    /// Whether there is a store: the list of a user's rooms, the search and sessions that outlive their
    /// connections live in it.
    pub has_store: bool,
    /// Whether what was said can be searched.
    pub can_find: bool,
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
        .raw("can", can(welcome).as_bytes())
        .end();
}

fn can(welcome: &Welcome) -> &'static str {
    match (welcome.has_store, welcome.can_find) {
        (true, true) => CAN_WITH_STORE,
        (true, false) => CAN_WITHOUT_SEARCH,
        (false, _) => CAN,
    }
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

fn made_id<'a>(line: Line<'a>, place: &Accepted) -> Line<'a> {
    let epoch = place.epoch.to_text();
    match place.offset {
        0 => line.text("id", &format!("{epoch}-0-{}", place.ts)),
        offset => line.text("id", &format!("{epoch}-{offset}")),
    }
}

/// `ack` of a message: for the sender alone.
pub fn ack(out: &mut Vec<u8>, reference: &Reference, place: &Accepted) {
    acknowledge(out, reference, place, |line| made_id(line, place));
}

/// `ack` of an edit, a delete or a reaction, which have an id only where the sender gave one.
pub fn ack_change(out: &mut Vec<u8>, reference: &Reference, place: &Accepted) {
    acknowledge(out, reference, place, |line| line);
}

fn acknowledge<'a>(
    out: &'a mut Vec<u8>,
    reference: &Reference,
    place: &Accepted,
    without_id: impl FnOnce(Line<'a>) -> Line<'a>,
) {
    let line = Line::of(out, "ack").some(reference.room.as_ref(), |line, room| line.room(room));
    let line = if place.offset > 0 { line.number("s", place.offset) } else { line };
    let line = line.request(reference.i);
    let line = match &reference.id {
        Some(id) => line.text("id", id.as_str()),
        None => without_id(line),
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

/// `read`: how far a user has read.
pub fn read(out: &mut Vec<u8>, room: &RoomName, offset: Offset, user: &UserName) {
    Line::of(out, "read").room(room).number("s", offset).text("u", user.as_str()).end();
}

/// `got`: with `n` of `of` sessions the application has everything up to `offset`.
pub fn got(out: &mut Vec<u8>, room: &RoomName, offset: Offset, n: usize, of: usize) {
    Line::of(out, "got").room(room).number("s", offset).number("n", n as u64).number("of", of as u64).end();
}

/// A room in a user's list.
#[derive(Debug, Clone, Copy)]
pub struct ListedRoom<'a> {
    /// Which room.
    pub room: &'a RoomName,
    /// Offset of its newest entry.
    pub top: Offset,
    /// How far the user has read; 0 for nothing.
    pub read: Offset,
}

/// `rooms`: a user's rooms, each with what is new there.
pub fn rooms<'a>(
    out: &mut Vec<u8>,
    i: RequestNumber,
    list: impl Iterator<Item = ListedRoom<'a>>,
    more: bool,
) {
    let mut line = Line::of(out, "rooms").request(i);
    line.key("list");
    write_list(line.0, list, |out, ListedRoom { room, top, read }| {
        out.extend_from_slice(b"{\"r\":");
        write_text(out, room.as_str());
        write_number(out, ",\"s\":", top);
        write_number(out, ",\"read\":", read);
        write_number(out, ",\"unread\":", top.saturating_sub(read));
        out.push(b'}');
    });
    if more { line.raw("more", b"true") } else { line }.end();
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
