//! Where a reader over HTTP stands, as text: what an event stream writes into `id:`, what a poll answers as `next`,
//! and what both take back. Called by the HTTP transports and by whoever writes events. Knows no stream and no room.
//!
//! Up to [`ROOMS_MAX`] rooms stand in it by name (`lobby@k3f9-42,ops@91ab-7`), so that it needs nothing of any server.
//! With more it would not fit the 8 KB that many proxies allow for all headers. Then it names a session whose rooms
//! the server keeps, and says only which of them have moved since: `~s9f2a.1x3k9q-130.0c8a2z-k3g1-22`, each by a
//! short mark of its name, with the epoch where that has changed. So it stays exact however old the kept record is.

use std::borrow::Cow;
use std::fmt::Write;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::protocols::codes::Problem;
use crate::protocols::native::SESSION_BYTES_MAX;

/// Most rooms of a cursor that names its rooms.
pub const ROOMS_MAX: usize = 8;
/// Longest epoch, in bytes: 64 bits in base 36.
const EPOCH_BYTES_MAX: usize = 13;

/// How far a reader has got in one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// Which room.
    pub room: RoomName,
    /// The life of its log, on the wire's form.
    pub epoch: Box<str>,
    /// All up to here.
    pub offset: Offset,
}

/// A room of a session that has moved since the session's rooms were kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The room's mark; see [`mark_of`].
    pub mark: u32,
    /// The life of its log, if it is another one than was kept.
    pub epoch: Option<Box<str>>,
    /// All up to here.
    pub offset: Offset,
}

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// In rooms that it names.
    Rooms(Vec<Stand>),
    /// In the rooms of a session that the server keeps.
    Session {
        /// The session's name.
        name: Box<str>,
        /// What has moved since they were kept.
        moved: Vec<Moved>,
    },
}

/// A short stand-in for a room's name within one session. Two rooms of a session have the same one in one of four
/// billion cases; whoever joins rooms for a session looks that it is not so.
pub fn mark_of(room: &RoomName) -> u32 {
    crc32c::crc32c(room.as_str().as_bytes())
}

/// A room's name with everything percent-coded that has a meaning in a cursor, a header or a URL.
pub fn coded(room: &RoomName) -> Box<str> {
    let mut out = String::with_capacity(room.as_str().len());
    for byte in room.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'/' | b'!' => {
                out.push(byte.into())
            }
            _ => write!(out, "%{byte:02X}").expect("writing into memory does not fail"),
        }
    }
    out.into()
}

/// A name as it stands in a list or a cursor. A `%` that begins no code stands for itself, so that names may also be
/// written as they are where nothing in them is special.
fn decoded(text: &str) -> Result<RoomName, Problem> {
    let hex = |at: usize| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match hex(at).filter(|_| *byte == b'%') {
            Some(code) => {
                bytes.push(code);
                at += 3;
            }
            None => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    let name = String::from_utf8(bytes).map(Cow::Owned);
    let name =
        name.map_err(|_| Problem::new(400, "bad-room", "room names are UTF-8; percent-code their bytes"))?;
    Ok(RoomName::named_by_client(&name)?)
}

/// Reads a list of rooms: names with a comma between them; one in a name is written as `%2C`. No room twice.
pub fn read_rooms(text: &str) -> Result<Vec<RoomName>, Problem> {
    let mut rooms: Vec<RoomName> = Vec::new();
    for one in text.split(',').filter(|one| !one.is_empty()) {
        let room = decoded(one)?;
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    Ok(rooms)
}

/// Reads a cursor.
pub fn read(text: &str) -> Result<Cursor, Problem> {
    match text.strip_prefix('~') {
        Some(rest) => read_session(rest).ok_or_else(bad_cursor),
        None => {
            let stands = text.split(',').filter(|one| !one.is_empty()).map(read_stand);
            stands.collect::<Result<_, _>>().map(Cursor::Rooms)
        }
    }
}

fn bad_cursor() -> Problem {
    Problem::bad_json(
        "this is no cursor; use what the server gave you as it was (\"next\", or the id of an event), or \
         room@epoch-offset",
    )
}

fn read_stand(text: &str) -> Result<Stand, Problem> {
    let (room, place) = text.rsplit_once('@').ok_or_else(bad_cursor)?;
    let (epoch, offset) = place.split_once('-').ok_or_else(bad_cursor)?;
    let offset = number(offset).ok_or_else(bad_cursor)?;
    let epoch = epoch_in(epoch).ok_or_else(bad_cursor)?;
    Ok(Stand { room: decoded(room)?, epoch, offset })
}

fn read_session(text: &str) -> Option<Cursor> {
    let mut parts = text.split('.');
    let name = parts.next().filter(|name| is_word(name) && name.len() <= SESSION_BYTES_MAX)?;
    let moved = parts.filter(|part| !part.is_empty()).map(read_moved).collect::<Option<_>>()?;
    Some(Cursor::Session { name: name.into(), moved })
}

fn read_moved(text: &str) -> Option<Moved> {
    let (mark, rest) = text.split_once('-')?;
    let mark = u32::from_str_radix(mark, 36).ok()?;
    let (epoch, offset) = match rest.split_once('-') {
        Some((epoch, offset)) => (Some(epoch_in(epoch)?), offset),
        None => (None, rest),
    };
    Some(Moved { mark, epoch, offset: number(offset)? })
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

fn epoch_in(text: &str) -> Option<Box<str>> {
    (is_word(text) && text.len() <= EPOCH_BYTES_MAX).then(|| text.into())
}

fn number(text: &str) -> Option<Offset> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Writes one room of a cursor that names its rooms. `coded`: its name as [`coded`] makes it.
pub fn write_stand(out: &mut Vec<u8>, coded: &str, epoch: &str, offset: Offset) {
    out.extend_from_slice(coded.as_bytes());
    out.push(b'@');
    out.extend_from_slice(epoch.as_bytes());
    write_offset(out, offset);
}

/// Writes the beginning of a cursor that names a session.
pub fn write_session(out: &mut Vec<u8>, name: &str) {
    out.push(b'~');
    out.extend_from_slice(name.as_bytes());
}

/// Writes one room of a session that has moved.
pub fn write_moved(out: &mut Vec<u8>, mark: u32, epoch: Option<&str>, offset: Offset) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let (mut digits, mut rest, mut n) = ([0; 7], mark, 0);
    while n == 0 || rest > 0 {
        digits[n] = DIGITS[(rest % 36) as usize];
        rest /= 36;
        n += 1;
    }
    out.push(b'.');
    out.extend(digits[..n].iter().rev());
    if let Some(epoch) = epoch {
        out.push(b'-');
        out.extend_from_slice(epoch.as_bytes());
    }
    write_offset(out, offset);
}

fn write_offset(out: &mut Vec<u8>, offset: Offset) {
    out.push(b'-');
    out.extend_from_slice(itoa::Buffer::new().format(offset).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    #[test]
    fn a_cursor_is_read_as_the_protocol_page_writes_it() {
        let stand = |name: &str, epoch: &str, offset| Stand { room: room(name), epoch: epoch.into(), offset };
        assert_eq!(
            read("lobby@k3f9-42,ops@91ab-7"),
            Ok(Cursor::Rooms(vec![stand("lobby", "k3f9", 42), stand("ops", "91ab", 7)]))
        );
        assert_eq!(read(""), Ok(Cursor::Rooms(vec![])));
        let direct = Ok(Cursor::Rooms(vec![stand("@ann+bob", "k", 1)]));
        assert_eq!(read("%40ann%2Bbob@k-1"), direct);
        assert_eq!(read("@ann+bob@k-1"), direct, "as somebody writes it by hand");
        assert_eq!(
            read("~s9f2a.1z-130.7-k3-22"),
            Ok(Cursor::Session {
                name: "s9f2a".into(),
                moved: vec![
                    Moved { mark: 71, epoch: None, offset: 130 },
                    Moved { mark: 7, epoch: Some("k3".into()), offset: 22 },
                ],
            })
        );
        assert_eq!(read("~s9f2a"), Ok(Cursor::Session { name: "s9f2a".into(), moved: vec![] }));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in [
            "lobby",
            "lobby@",
            "lobby@k3f9",
            "lobby@k3f9-",
            "lobby@-4",
            "lobby@K-4",
            "lobby@k3-x",
            "lobby@k3--4",
            "@k-1",
            "lobby@k3f9-99999999999999999999",
            "lobby@aaaaaaaaaaaaaa-1",
            "*@k-1",
            "~",
            "~.",
            "~S.1-1",
            "~s.1",
            "~s.x-",
            "~s.zzzzzzz-1",
            "~s.1-2-3-4",
            "~s9 f.1-1",
            "%ff@k-1",
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!(problem.code, 400, "{text}");
        }
    }

    #[test]
    fn a_list_of_rooms_takes_names_as_people_write_them() {
        let names = |text: &str| {
            read_rooms(text).unwrap().iter().map(|room| room.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("lobby,ops,,lobby"), ["lobby", "ops"]);
        assert_eq!(names("a%2Cb,100%,%40ann+bob,5%zz"), ["a,b", "100%", "@ann+bob", "5%zz"]);
        assert!(read_rooms("lobby,team-*").is_err());
    }

    proptest! {
        #[test]
        fn every_name_comes_back(names in prop::collection::vec("\\PC{1,20}", 1..5), offset: u64) {
            let rooms: Vec<RoomName> = names.iter().filter_map(|name| RoomName::new(name).ok()).collect();
            let mut out = Vec::new();
            for (at, room) in rooms.iter().enumerate() {
                if at > 0 { out.push(b','); }
                write_stand(&mut out, &coded(room), "k3f9", offset);
            }
            let text = String::from_utf8(out).unwrap();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            let Ok(Cursor::Rooms(stands)) = read(&text) else { panic!("{text}") };
            prop_assert_eq!(stands.iter().map(|stand| stand.room.clone()).collect::<Vec<_>>(), rooms);
            prop_assert!(stands.iter().all(|stand| stand.offset == offset));
        }

        #[test]
        fn every_mark_comes_back(mark: u32, offset: u64, new in prop::bool::ANY) {
            let epoch = new.then_some("k3f9");
            let mut out = Vec::new();
            write_session(&mut out, "s1");
            write_moved(&mut out, mark, epoch, offset);
            let moved = vec![Moved { mark, epoch: epoch.map(Into::into), offset }];
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(read(&text), Ok(Cursor::Session { name: "s1".into(), moved }));
        }
    }
}
