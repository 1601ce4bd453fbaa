//! What nodes tell each other beside the entries of logs, as the content of frames in an inbox. A frame is tag u8,
//! length u32, content; frames with news have the tag `N`, those with commands `C`. Written half here and half by
//! the scripts in `roster.rs` and `commands.rs`, read here alone. Knows no connection.
//!
//! News: slot u32, stamp u64, then records: length u32 of the rest, kind u8, room, body. Command: number u64, kind
//! u8, body. All numbers are big-endian; a name has a byte of length before it.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::bytes::{Left, Unreadable, put_name, put_text};
use super::lease::Lease;
use crate::chat::data::Data;
use crate::chat::names::{RoomName, UserName};
use crate::engines::shared::{Command, Elsewhere, News, NodeSlot};

/// Tag of a frame with news.
pub const NEWS: u8 = b'N';
/// Tag of a frame with a command.
pub const COMMAND: u8 = b'C';

/// Tag of a frame with the rules of a room, which `rules.rs` writes and reads.
pub const RULES: u8 = b'R';

/// Tag of a frame with a question to other nodes, and of one with the answer; `tracing.rs` writes and reads both.
pub const QUESTION: u8 = b'Q';
/// See above.
pub const ANSWER: u8 = b'A';

/// Kinds of records. The scripts write the first two, and the last three.
const CAME: u8 = 1;
const WENT: u8 = 2;
pub(super) const TYPING: u8 = 3;
pub(super) const READ: u8 = 4;
pub(super) const GOT: u8 = 5;
const NUMBER: u8 = 6;
const NAMED_AGAIN: u8 = 7;
const ROSTER: u8 = 8;

/// What a frame with news says.
#[derive(Debug)]
pub struct Frame {
    /// Who sends it.
    pub slot: NodeSlot,
    /// The stamp of the sender's lease.
    pub stamp: u64,
    /// What is told, in order.
    pub told: Vec<(RoomName, Told)>,
}

/// What is told of a room.
#[derive(Debug)]
pub enum Told {
    /// To be handed on.
    News(News),
    /// The room is large: so many users are there on another node, and it does not name them (any more).
    Number(NodeSlot, u32),
    /// The room is not large any more: ask for its roster.
    NamedAgain,
    /// The answer to this node's own question: everybody on other nodes. Later news are later in the inbox too.
    Roster(Vec<Lease>, There),
}

/// Who is in a room on other nodes. Beside it stand the leases under which that was written; see
/// [`Nodes::believed`](super::nodes::Nodes::believed).
#[derive(Debug)]
pub enum There {
    /// These.
    Named(Vec<Elsewhere>),
    /// The room is large: so many on each.
    Numbers(Vec<(NodeSlot, u32)>),
}

/// What comes in a frame with a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// To be handed on, and which it is in the order of all commands.
    Command(u64, Command),
    /// A node has given its lease back: look after the leases now.
    Left(NodeSlot, u64),
}

/// The first bytes of all news of a node.
pub(super) fn head(slot: NodeSlot, stamp: u64) -> Vec<u8> {
    let mut head = slot.to_be_bytes().to_vec();
    head.extend_from_slice(&stamp.to_be_bytes());
    head
}

/// Kind and body of news that nothing is kept of; none for those about the roster, which the scripts write.
pub(super) fn passing(news: &News) -> Option<(u8, Vec<u8>)> {
    let mut body = Vec::new();
    let kind = match news {
        News::Came(..) | News::Went(_) => return None,
        News::Typing(user, on) => {
            body.push(u8::from(*on));
            put_name(user.as_str(), &mut body);
            TYPING
        }
        News::Read(user, offset) => {
            body.extend_from_slice(&offset.to_be_bytes());
            put_name(user.as_str(), &mut body);
            READ
        }
        News::Got(offset, got, of) => {
            body.extend_from_slice(&offset.to_be_bytes());
            body.extend_from_slice(&got.to_be_bytes());
            body.extend_from_slice(&of.to_be_bytes());
            GOT
        }
    };
    Some((kind, body))
}

/// Reads the content of a frame with news.
pub fn news(content: &[u8]) -> Result<Frame, Unreadable> {
    let mut left = Left(content);
    let (slot, stamp) = (left.u32("slot")?, left.u64("stamp")?);
    let mut told = Vec::new();
    while !left.is_empty() {
        told.push(record(&mut Left(left.long("record")?))?);
    }
    Ok(Frame { slot, stamp, told })
}

fn record(left: &mut Left<'_>) -> Result<(RoomName, Told), Unreadable> {
    let kind = left.byte("kind of record")?;
    let room = RoomName::new(left.name("room")?).map_err(|_| Unreadable("room"))?;
    let told = match kind {
        CAME => Told::News(News::Came(user(left)?, info(std::mem::take(&mut left.0))?)),
        WENT => Told::News(News::Went(user(left)?)),
        TYPING => {
            let on = left.flag("typing")?;
            Told::News(News::Typing(user(left)?, on))
        }
        READ => {
            let offset = left.u64("offset")?;
            Told::News(News::Read(user(left)?, offset))
        }
        GOT => Told::News(News::Got(left.u64("offset")?, left.u32("number")?, left.u32("number")?)),
        NUMBER => Told::Number(left.u32("slot")?, left.u32("number")?),
        NAMED_AGAIN => Told::NamedAgain,
        ROSTER => roster(left)?,
        _ => return Err(Unreadable("kind of record")),
    };
    if left.is_empty() { Ok((room, told)) } else { Err(Unreadable("end")) }
}

fn roster(left: &mut Left<'_>) -> Result<Told, Unreadable> {
    let named = left.flag("kind of roster")?;
    let mut holders = Vec::new();
    for _ in 0..left.u32("number of leases")? {
        holders.push(Lease { slot: left.u32("slot")?, stamp: left.u64("stamp")? });
    }
    if named {
        let mut list = Vec::new();
        while !left.is_empty() {
            list.push(Elsewhere {
                node: left.u32("slot")?,
                user: user(left)?,
                info: info(left.long("info")?)?,
            });
        }
        return Ok(Told::Roster(holders, There::Named(list)));
    }
    let mut numbers = Vec::new();
    while !left.is_empty() {
        numbers.push((left.u32("slot")?, left.u32("number")?));
    }
    Ok(Told::Roster(holders, There::Numbers(numbers)))
}

fn user(left: &mut Left<'_>) -> Result<UserName, Unreadable> {
    UserName::new(left.name("user")?).map_err(|_| Unreadable("user"))
}

/// JSON is never empty, so nothing stands for none.
/// What a token says about a user, as it stands in a roster; nothing is none.
pub(super) fn info(json: &[u8]) -> Result<Option<Arc<Data>>, Unreadable> {
    if json.is_empty() {
        return Ok(None);
    }
    let raw: &RawValue = serde_json::from_slice(json).map_err(|_| Unreadable("info"))?;
    Ok(Some(Arc::new(Data::new(raw).map_err(|_| Unreadable("info"))?)))
}

/// A command without its number: kind and body. The script puts the rest before it.
pub(super) fn command(command: &Command) -> Vec<u8> {
    let mut out = Vec::new();
    match command {
        Command::Disconnect { user, code, why } => {
            out.push(1);
            put_name(user.as_str(), &mut out);
            out.extend_from_slice(&code.to_be_bytes());
            put_text(why, &mut out);
        }
        Command::Kick { user, room } => {
            out.push(2);
            put_name(user.as_str(), &mut out);
            put_name(room.as_str(), &mut out);
        }
        Command::Join { user, room } => {
            out.push(4);
            put_name(user.as_str(), &mut out);
            put_name(room.as_str(), &mut out);
        }
    }
    out
}

/// The frame of a node that has given its lease back; without a number, because it need not be made up for.
pub(super) fn left(slot: NodeSlot, stamp: u64) -> Vec<u8> {
    let mut out = vec![COMMAND];
    out.extend_from_slice(&21_u32.to_be_bytes());
    out.extend_from_slice(&0_u64.to_be_bytes());
    out.push(3);
    out.extend_from_slice(&slot.to_be_bytes());
    out.extend_from_slice(&stamp.to_be_bytes());
    out
}

/// Reads the content of a frame with a command.
pub fn order(content: &[u8]) -> Result<Order, Unreadable> {
    let mut left = Left(content);
    let number = left.u64("number of the command")?;
    order_body(number, left.0)
}

/// Reads what [`command`] or [`left`] wrote behind the number.
pub(super) fn order_body(number: u64, body: &[u8]) -> Result<Order, Unreadable> {
    let mut left = Left(body);
    let order = match left.byte("kind of command")? {
        1 => Order::Command(
            number,
            Command::Disconnect {
                user: user(&mut left)?,
                code: left.u16("close code")?,
                why: left.text("reason")?.into(),
            },
        ),
        2 => {
            let user = user(&mut left)?;
            let room = RoomName::new(left.name("room")?).map_err(|_| Unreadable("room"))?;
            Order::Command(number, Command::Kick { user, room })
        }
        3 => Order::Left(left.u32("slot")?, left.u64("stamp")?),
        4 => {
            let user = user(&mut left)?;
            let room = RoomName::new(left.name("room")?).map_err(|_| Unreadable("room"))?;
            Order::Command(number, Command::Join { user, room })
        }
        _ => return Err(Unreadable("kind of command")),
    };
    if left.is_empty() { Ok(order) } else { Err(Unreadable("end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        UserName::new(text).unwrap()
    }

    /// As the script puts it together.
    fn framed(kind: u8, room: &str, body: &[u8]) -> Vec<u8> {
        let mut record = vec![kind];
        put_name(room, &mut record);
        record.extend_from_slice(body);
        let mut frame = head(7, u64::MAX);
        frame.extend_from_slice(&(record.len() as u32).to_be_bytes());
        frame.extend(record);
        frame
    }

    #[test]
    fn news_survive_the_wire() {
        for sent in [
            News::Typing(name("a:b"), true),
            News::Typing(name("ann"), false),
            News::Read(name("größe"), u64::MAX),
            News::Got(3, 4, 5),
        ] {
            let (kind, body) = passing(&sent).unwrap();
            let frame = news(&framed(kind, "{x}:y", &body)).unwrap();
            assert_eq!((frame.slot, frame.stamp), (7, u64::MAX));
            let [(room, Told::News(got))] = &frame.told[..] else { panic!("{frame:?}") };
            assert_eq!((room.as_str(), got), ("{x}:y", &sent));
        }
        assert!(passing(&News::Went(name("ann"))).is_none());
    }

    #[test]
    fn commands_survive_the_wire() {
        for sent in [
            Command::Disconnect { user: name("ann"), code: 4009, why: "be\ngone".into() },
            Command::Disconnect { user: name("ann"), code: 1000, why: "".into() },
            Command::Kick { user: name("a:b"), room: RoomName::new("@ann+bob").unwrap() },
            Command::Join { user: name("a:b"), room: RoomName::new("@a:b").unwrap() },
        ] {
            let mut frame = 9_u64.to_be_bytes().to_vec();
            frame.extend(command(&sent));
            assert_eq!(order(&frame), Ok(Order::Command(9, sent)));
        }
        assert_eq!(left(3, 4)[..5], [COMMAND, 0, 0, 0, 21]);
        assert_eq!(order(&left(3, 4)[5..]), Ok(Order::Left(3, 4)));
    }

    #[test]
    fn every_broken_frame_is_refused() {
        let (_, body) = passing(&News::Read(name("ann"), 1)).unwrap();
        let whole = framed(READ, "lobby", &body);
        for cut in 13..whole.len() {
            assert!(news(&whole[..cut]).is_err(), "{cut}");
        }
        let mut longer = body.clone();
        longer.push(0);
        assert_eq!(news(&framed(READ, "lobby", &longer)).unwrap_err(), Unreadable("end"));
        assert!(news(&framed(READ, "a*", &body)).is_err(), "a pattern is no room");
        assert!(news(&framed(99, "lobby", b"")).is_err());
        assert!(news(&framed(CAME, "lobby", b"\x03ann{\"a\":")).is_err(), "half of a JSON");
        assert!(news(&framed(ROSTER, "lobby", b"\x01\0\0\0\0\0\0\0\x01\x03ann\xff\xff\xff\xff")).is_err());
        assert!(news(&framed(ROSTER, "lobby", b"\x01\xff\xff\xff\xff")).is_err(), "four billion leases");
        let whole = &left(3, 4)[5..];
        for cut in 0..whole.len() {
            assert!(order(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(order(b"Nonsense!").is_err() && news(b"xxxxxxxxxxxxx").is_err());
    }
}
