//! The stream of a room on the wire: its entries, the places without one, and pages of its log. Part of the
//! frames above.

use super::{Line, made_id, write_list};
use crate::chat::data::Data;
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::{Accepted, Draft, Offset, Via};
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::protocols::native::RequestNumber;

/// `live`: the replay is over. With an epoch: from here on the log has a new life, and nothing was taken back.
pub fn live(out: &mut Vec<u8>, room: &RoomName, top: Offset, epoch: Option<&str>) {
    Line::of(out, "live").room(room).number("s", top).some(epoch, |line, epoch| line.text("e", epoch)).end();
}

/// `msg`: a draft at its place; the same bytes for every reader. Without an id of the sender's the place
/// itself is the id.
pub fn message(out: &mut Vec<u8>, draft: &Draft, place: &Accepted) {
    let line = Line::of(out, "msg").room(&draft.room);
    let line = if draft.keep { line.number("s", place.offset) } else { line };
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

/// `edit`, `del` or `react`: an entry about an earlier one; the same bytes for every reader. The entry's own
/// line is not looked at, because this makes it. `data`: the new words of an edit.
pub fn change(out: &mut Vec<u8>, entry: &Entry, data: Option<&Data>) {
    debug_assert!(entry.kind != Kind::Message && entry.of > 0, "a change is about an earlier entry");
    debug_assert_eq!(data.is_some(), entry.kind == Kind::Edit, "an edit alone has data");
    let line = Line::of(out, entry.kind.word())
        .room(&entry.room)
        .number("s", entry.offset)
        .some(entry.id.as_ref().map(MessageId::as_str), |line, id| line.text("id", id))
        .some(entry.user.as_ref().map(UserName::as_str), |line, user| line.text("u", user))
        .number("ts", entry.ts)
        .some(data, |line, data| line.raw("d", data.as_bytes()))
        .number("of", entry.of)
        .some(entry.mark.as_deref(), |line, mark| line.text("k", mark));
    if entry.off { line.raw("off", b"true") } else { line }.end();
}

/// `skip`: nothing for this reader stands at `n` places from `first` on.
pub fn skip(out: &mut Vec<u8>, room: &RoomName, first: Offset, n: u64) {
    Line::of(out, "skip").room(room).number("s", first).number("n", n).end();
}

/// `gap`: the reader does not get the entries from one place to another, both included. `why`: one word.
pub fn gap(out: &mut Vec<u8>, room: &RoomName, (from, to): (Offset, Offset), why: &str) {
    Line::of(out, "gap")
        .room(room)
        .raw("missing", format!("[{from},{to}]").as_bytes())
        .text("why", why)
        .end();
}

/// `rewind`: what came after `offset` was taken back; other entries take these places.
pub fn rewind(out: &mut Vec<u8>, room: &RoomName, offset: Offset, epoch: &str) {
    Line::of(out, "rewind").room(room).number("s", offset).text("e", epoch).end();
}

/// `page`: a part of the log, or what was found. An entry in it is its line without the room, which stands
/// outside; a place that has no line any more is a `skip` of one.
pub fn page<'a>(
    out: &mut Vec<u8>,
    room: &RoomName,
    epoch: &str,
    i: RequestNumber,
    entries: impl Iterator<Item = (Offset, Option<&'a [u8]>)>,
    more: bool,
) {
    let mut name = Vec::with_capacity(160);
    name.extend_from_slice(b",\"r\":");
    super::write_text(&mut name, room.as_str());
    let mut line = Line::of(out, "page").room(room).text("e", epoch).request(i);
    line.key("list");
    write_list(line.0, entries, |out, (offset, entry)| match entry {
        Some(entry) => write_without(out, entry, &name),
        None => Line::of(out, "skip").number("s", offset).number("n", 1).end(),
    });
    line.raw("more", if more { b"true" } else { b"false" }).end();
}

/// Writes a line without its room, which stands right behind the type. A line of another make stays whole:
/// the room in it is then said twice, and harms nobody.
fn write_without(out: &mut Vec<u8>, line: &[u8], room: &[u8]) {
    const HEAD: &[u8] = b"{\"t\":\"";
    let type_end = line.strip_prefix(HEAD).and_then(|rest| rest.iter().position(|byte| *byte == b'"'));
    let split = type_end.map(|at| line.split_at(HEAD.len() + at + 1));
    match split.and_then(|(head, rest)| Some((head, rest.strip_prefix(room)?))) {
        Some((head, rest)) => {
            out.extend_from_slice(head);
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(line),
    }
}
