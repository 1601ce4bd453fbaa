//! A record as bytes, for the journal's files: `version u8 | kind u8 | fields`. Numbers are little endian, texts
//! and bytes stand behind their length. Decoding takes any bytes and never panics. Knows no file.

use std::fmt;

use bytes::Bytes;

use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::record::{
    Cursor, Happened, Letter, ReadMark, Record, RoomRules, Seen, SessionEvent, SessionNote,
};

/// The encoding that is written. Others are refused, so that an old program does not misread a new journal.
const VERSION: u8 = 1;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// Written by a later program.
    Version(u8),
    /// Not written by this encoding.
    Malformed(&'static str),
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undecodable::Version(version) => {
                write!(f, "its encoding {version} is newer than this program knows ({VERSION})")
            }
            Undecodable::Malformed(what) => write!(f, "its {what} cannot be read"),
        }
    }
}

/// Appends a record's bytes.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    out.push(VERSION);
    match record {
        Record::Entry(entry) => {
            out.push(1);
            put_entry(entry, out);
        }
        Record::Seen(seen) => {
            out.push(2);
            put_name(seen.room.as_str(), out);
            put_name(seen.user.as_ref().map_or("", UserName::as_str), out);
            put_name(seen.id.as_str(), out);
            put_u64(seen.ts, out);
        }
        Record::Read(mark) => {
            out.push(3);
            put_name(mark.room.as_str(), out);
            put_name(mark.user.as_str(), out);
            put_u64(mark.offset, out);
            put_u64(mark.ts, out);
        }
        Record::Session(note) => {
            out.push(4);
            put_session(note, out);
        }
        Record::Dead(letter) => {
            out.push(5);
            put_long(letter.id.as_bytes(), out);
            put_u64(letter.ts, out);
            put_long(letter.source.as_bytes(), out);
            put_long(letter.reason.as_bytes(), out);
            put_long(&letter.item, out);
        }
        Record::DeadGone(id) => {
            out.push(6);
            put_long(id.as_bytes(), out);
        }
        Record::Event(event) => {
            out.push(7);
            put_event(event, out);
        }
        Record::Rules(rules) => {
            out.push(8);
            put_name(rules.room.as_str(), out);
            put_long(rules.text.as_bytes(), out);
        }
    }
}

fn put_event(event: &SessionEvent, out: &mut Vec<u8>) {
    put_long(event.session.as_bytes(), out);
    put_name(event.user.as_str(), out);
    put_u64(event.ts, out);
    match &event.what {
        Happened::Opened(None) => out.push(1),
        Happened::Opened(Some(info)) => {
            out.push(2);
            put_long(info, out);
        }
        Happened::Closed(code) => {
            out.push(3);
            out.extend_from_slice(&code.to_le_bytes());
        }
        Happened::Failed(why) => {
            out.push(4);
            put_long(why.as_bytes(), out);
        }
    }
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    let kind = match entry.kind {
        Kind::Message => 1,
        Kind::Edit => 2,
        Kind::Delete => 3,
        Kind::React => 4,
    };
    out.push(kind);
    out.push(u8::from(entry.off) | u8::from(entry.mark.is_some()) << 1);
    put_u64(entry.epoch.0, out);
    put_u64(entry.offset, out);
    put_u64(entry.ts, out);
    put_u64(entry.of, out);
    put_name(entry.room.as_str(), out);
    put_name(entry.user.as_ref().map_or("", UserName::as_str), out);
    put_name(entry.id.as_ref().map_or("", MessageId::as_str), out);
    if let Some(mark) = &entry.mark {
        put_long(mark.as_bytes(), out);
    }
    put_long(&entry.line, out);
}

fn put_session(note: &SessionNote, out: &mut Vec<u8>) {
    put_long(note.session.as_bytes(), out);
    put_name(note.user.as_str(), out);
    put_u64(note.ts, out);
    put_length(note.rooms.len(), out);
    for cursor in &note.rooms {
        put_name(cursor.room.as_str(), out);
        put_u64(cursor.epoch.0, out);
        put_u64(cursor.offset, out);
        out.push(u8::from(cursor.quiet));
    }
}

fn put_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("nothing that is kept has 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

/// Names and ids have at most 128 bytes and are never empty, so an empty one stands for none.
fn put_name(name: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(name.len()).expect("a name has at most 128 bytes"));
    out.extend_from_slice(name.as_bytes());
}

fn put_long(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// The record that these bytes are, all of them.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, Undecodable> {
    let mut left = Left(bytes);
    let version = left.byte("version")?;
    if version != VERSION {
        return Err(Undecodable::Version(version));
    }
    let record = match left.byte("kind")? {
        1 => Record::Entry(entry(&mut left)?),
        2 => Record::Seen(Seen {
            room: left.room()?,
            user: left.user()?,
            id: left.id()?.ok_or(Undecodable::Malformed("id"))?,
            ts: left.number("time")?,
        }),
        3 => Record::Read(ReadMark {
            room: left.room()?,
            user: left.known_user()?,
            offset: left.number("offset")?,
            ts: left.number("time")?,
        }),
        4 => Record::Session(session(&mut left)?),
        5 => Record::Dead(Letter {
            id: left.text("letter's id")?,
            ts: left.number("time")?,
            source: left.text("source")?,
            reason: left.text("reason")?,
            item: Bytes::copy_from_slice(left.long("item")?),
        }),
        6 => Record::DeadGone(left.text("letter's id")?),
        7 => Record::Event(event(&mut left)?),
        8 => Record::Rules(RoomRules { room: left.room()?, text: left.text("rules")?, version: 0 }),
        _ => return Err(Undecodable::Malformed("kind")),
    };
    if left.0.is_empty() { Ok(record) } else { Err(Undecodable::Malformed("end")) }
}

fn entry(left: &mut Left<'_>) -> Result<Entry, Undecodable> {
    let kind = match left.byte("kind of entry")? {
        1 => Kind::Message,
        2 => Kind::Edit,
        3 => Kind::Delete,
        4 => Kind::React,
        _ => return Err(Undecodable::Malformed("kind of entry")),
    };
    let flags = left.byte("flags")?;
    if flags > 3 {
        return Err(Undecodable::Malformed("flags"));
    }
    Ok(Entry {
        kind,
        off: flags & 1 != 0,
        epoch: Epoch(left.number("epoch")?),
        offset: left.number("offset")?,
        ts: left.number("time")?,
        of: left.number("of")?,
        room: left.room()?,
        user: left.user()?,
        id: left.id()?,
        mark: if flags & 2 != 0 { Some(left.text("mark")?) } else { None },
        line: Bytes::copy_from_slice(left.long("line")?),
    })
}

fn event(left: &mut Left<'_>) -> Result<SessionEvent, Undecodable> {
    let session = left.text("session")?;
    let user = left.known_user()?;
    let ts = left.number("time")?;
    let what = match left.byte("kind of event")? {
        1 => Happened::Opened(None),
        2 => Happened::Opened(Some(Bytes::copy_from_slice(left.long("info")?))),
        3 => Happened::Closed(u16::from_le_bytes([left.byte("close code")?, left.byte("close code")?])),
        4 => Happened::Failed(left.text("reason")?),
        _ => return Err(Undecodable::Malformed("kind of event")),
    };
    Ok(SessionEvent { session, user, ts, what })
}

fn session(left: &mut Left<'_>) -> Result<SessionNote, Undecodable> {
    let session = left.text("session")?;
    let user = left.known_user()?;
    let ts = left.number("time")?;
    let count = left.length("number of rooms")?;
    // Each takes 18 bytes at the least: a wrong count ends with the bytes and reserves no memory.
    let mut rooms = Vec::with_capacity(count.min(left.0.len() / 18));
    for _ in 0..count {
        rooms.push(Cursor {
            room: left.room()?,
            epoch: Epoch(left.number("epoch")?),
            offset: left.number("offset")?,
            quiet: match left.byte("quiet")? {
                0 => false,
                1 => true,
                _ => return Err(Undecodable::Malformed("quiet")),
            },
        });
    }
    Ok(SessionNote { session, user, ts, rooms })
}

/// The bytes that have not been read yet.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Undecodable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Undecodable::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Undecodable> {
        Ok(self.take(1, what)?[0])
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Undecodable> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn length(&mut self, what: &'static str) -> Result<usize, Undecodable> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")) as usize)
    }

    fn long(&mut self, what: &'static str) -> Result<&'a [u8], Undecodable> {
        let length = self.length(what)?;
        self.take(length, what)
    }

    fn text(&mut self, what: &'static str) -> Result<Box<str>, Undecodable> {
        let bytes = self.long(what)?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| Undecodable::Malformed(what))
    }

    fn name(&mut self, what: &'static str) -> Result<&'a str, Undecodable> {
        let length = usize::from(self.byte(what)?);
        std::str::from_utf8(self.take(length, what)?).map_err(|_| Undecodable::Malformed(what))
    }

    fn room(&mut self) -> Result<RoomName, Undecodable> {
        RoomName::new(self.name("room")?).map_err(|_| Undecodable::Malformed("room"))
    }

    fn user(&mut self) -> Result<Option<UserName>, Undecodable> {
        match self.name("user")? {
            "" => Ok(None),
            name => UserName::new(name).map(Some).map_err(|_| Undecodable::Malformed("user")),
        }
    }

    fn known_user(&mut self) -> Result<UserName, Undecodable> {
        self.user()?.ok_or(Undecodable::Malformed("user"))
    }

    fn id(&mut self) -> Result<Option<MessageId>, Undecodable> {
        match self.name("id")? {
            "" => Ok(None),
            id => MessageId::new(id).map(Some).map_err(|_| Undecodable::Malformed("id")),
        }
    }
}
