//! The bytes that nodes and scripts exchange: an entry's body, as it stands in the history and in the feed, and the
//! frames that come through an inbox. The scripts read the fixed part of a body. Knows no connection.
//!
//! Body: `'L' or 'P' | kind u8 | flags u8 | ts u64 | of u64 | key u16+bytes | user u8+bytes | id u8+bytes |
//! mark u8+bytes | line`, numbers big endian. `P` takes no place. Frame: `tag u8 | length u32 | content`.

use bytes::Bytes;

use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, RoomName, UserName};

const LOGGED: u8 = b'L';
const PASSING: u8 = b'P';
const OFF: u8 = 1;
const MARKED: u8 = 2;
/// Longest key by which a repeat is known, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// The body of what is to get a place. A key that is longer than [`KEY_BYTES_MAX`] is cut there.
pub fn body(entry: &Entry, key: &[u8], logged: bool) -> Bytes {
    let key = &key[..key.len().min(KEY_BYTES_MAX)];
    let mut out = Vec::with_capacity(entry.line.len() + key.len() + 96);
    out.push(if logged { LOGGED } else { PASSING });
    out.push(match entry.kind {
        Kind::Message => 1,
        Kind::Edit => 2,
        Kind::Delete => 3,
        Kind::React => 4,
    });
    out.push(if entry.off { OFF } else { 0 } | if entry.mark.is_some() { MARKED } else { 0 });
    out.extend_from_slice(&entry.ts.to_be_bytes());
    out.extend_from_slice(&entry.of.to_be_bytes());
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(key);
    put_name(entry.user.as_ref().map_or("", UserName::as_str), &mut out);
    put_name(entry.id.as_ref().map_or("", MessageId::as_str), &mut out);
    put_name(entry.mark.as_deref().unwrap_or(""), &mut out);
    out.extend_from_slice(&entry.line);
    out.into()
}

/// Names, ids and marks have at most 128 bytes.
fn put_name(name: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(name.len()).expect("a name has at most 128 bytes"));
    out.extend_from_slice(name.as_bytes());
}

/// The entry that a body is at a place; none for what another program wrote.
pub fn entry(room: &RoomName, offset: Offset, epoch: u64, body: &[u8]) -> Option<Entry> {
    let mut left = Left(body);
    let logged = left.take(1)?[0] == LOGGED;
    let kind = match left.take(1)?[0] {
        1 => Kind::Message,
        2 => Kind::Edit,
        3 => Kind::Delete,
        4 => Kind::React,
        _ => return None,
    };
    let flags = left.take(1)?[0];
    let (ts, of) = (left.number()?, left.number()?);
    let key_bytes = u16::from_be_bytes(left.take(2)?.try_into().ok()?);
    left.take(usize::from(key_bytes))?;
    let (user, id, mark) = (left.name()?, left.name()?, left.name()?);
    Some(Entry {
        room: room.clone(),
        epoch: Epoch(epoch),
        offset,
        ts,
        kind,
        user: if user.is_empty() { None } else { Some(UserName::new(user).ok()?) },
        id: if id.is_empty() { None } else { Some(MessageId::new(id).ok()?) },
        of,
        mark: (flags & MARKED != 0).then(|| mark.into()),
        off: flags & OFF != 0,
        line: if logged {
            line::placed(left.0, kind, room, offset).into()
        } else {
            Bytes::copy_from_slice(left.0)
        },
    })
}

/// When a body was proposed, Unix milliseconds; 0 for what is no body.
pub fn ts_of(body: &[u8]) -> u64 {
    body.get(3..11).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// A room's name behind its length, as scripts put it into frames.
pub fn named(room: &RoomName) -> Vec<u8> {
    let name = room.as_str().as_bytes();
    // A room name has at most 128 bytes.
    [&(name.len() as u16).to_be_bytes()[..], name].concat()
}

/// What came through an inbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An entry, or with offset 0 a message that takes no place.
    Entry {
        /// Of which room.
        room: &'a str,
        /// Its place.
        offset: Offset,
        /// Its epoch.
        epoch: u64,
        /// Its body.
        body: &'a [u8],
    },
    /// This node's own sign of life.
    Sign(u64),
    /// Something else, under its tag.
    Other(u8, &'a [u8]),
}

/// A node's sign of life.
pub fn sign(number: u64) -> Vec<u8> {
    framed(b'p', &number.to_be_bytes())
}

/// Any content as a frame.
pub fn framed(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 5);
    out.push(tag);
    out.extend_from_slice(&u32::try_from(content.len()).expect("no frame has 4 GiB").to_be_bytes());
    out.extend_from_slice(content);
    out
}

/// The frames in a message to an inbox; ends at the first that is broken.
pub fn frames(message: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut left = Left(message);
    std::iter::from_fn(move || {
        let tag = left.take(1)?[0];
        let length = u32::from_be_bytes(left.take(4)?.try_into().ok()?);
        let mut content = Left(left.take(length as usize)?);
        Some(match tag {
            b'p' => Frame::Sign(content.number()?),
            b'e' => {
                let name_bytes = u16::from_be_bytes(content.take(2)?.try_into().ok()?);
                let room = std::str::from_utf8(content.take(usize::from(name_bytes))?).ok()?;
                Frame::Entry { room, offset: content.number()?, epoch: content.number()?, body: content.0 }
            }
            tag => Frame::Other(tag, content.0),
        })
    })
}

struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<&'a str> {
        let length = usize::from(self.take(1)?[0]);
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaction() -> Entry {
        Entry {
            room: RoomName::new("ä:b").unwrap(),
            epoch: Epoch(0),
            offset: 0,
            ts: 1_790_000_000_000,
            kind: Kind::React,
            user: Some(UserName::new("ann").unwrap()),
            id: Some(MessageId::new("x1").unwrap()),
            of: 9,
            mark: Some("+1".into()),
            off: true,
            line: Bytes::from_static("{\"t\":\"react\",\"r\":\"ä:b\",\"s\":0,\"of\":9}".as_bytes()),
        }
    }

    #[test]
    fn a_body_becomes_the_entry_at_its_place() {
        let wanted = reaction();
        let body = body(&wanted, b"\0key", true);
        assert_eq!(ts_of(&body), wanted.ts);
        let placed = entry(&wanted.room, 12, 7, &body).unwrap();
        let line = Bytes::from_static("{\"t\":\"react\",\"r\":\"ä:b\",\"s\":12,\"of\":9}".as_bytes());
        assert_eq!(placed, Entry { epoch: Epoch(7), offset: 12, line, ..wanted.clone() });
        let plain = Entry { user: None, id: None, mark: None, off: false, ..wanted };
        let passing = super::body(&plain, b"k", false);
        assert_eq!(entry(&plain.room, 0, 7, &passing).unwrap(), Entry { epoch: Epoch(7), ..plain });
    }

    #[test]
    fn broken_bytes_are_nothing() {
        let body = body(&reaction(), b"key", true);
        let fixed = body.len() - reaction().line.len();
        for end in 0..fixed {
            assert!(entry(&reaction().room, 1, 1, &body[..end]).is_none(), "{end}");
        }
        assert_eq!(frames(b"e\0\0\0\x05\0\x01a").count(), 0);
    }

    #[test]
    fn frames_follow_one_another() {
        let mut content = named(&RoomName::new("a").unwrap());
        content.extend_from_slice(&5u64.to_be_bytes());
        content.extend_from_slice(&6u64.to_be_bytes());
        content.extend_from_slice(b"body");
        let message = [framed(b'e', &content), sign(3), framed(b'z', b"?")].concat();
        let wanted = [
            Frame::Entry { room: "a", offset: 5, epoch: 6, body: b"body" },
            Frame::Sign(3),
            Frame::Other(b'z', b"?"),
        ];
        assert_eq!(frames(&message).collect::<Vec<_>>(), wanted);
    }
}
