//! Finds the places of a room's log among lines on their way to a reader. Part of the frames above.

use super::write_text;
use crate::chat::message::Offset;
use crate::chat::names::RoomName;

/// Types of lines that stand for a place of the log.
const PLACED: [&[u8]; 5] = [b"msg", b"edit", b"del", b"react", b"skip"];

/// Knows the lines of one room's log by their first bytes.
#[derive(Debug, Clone)]
pub struct PlaceFinder {
    /// `","r":"lobby","s":`
    middle: Vec<u8>,
}

impl PlaceFinder {
    /// For the log of a room.
    pub fn new(room: &RoomName) -> PlaceFinder {
        let mut middle = b"\",\"r\":".to_vec();
        write_text(&mut middle, room.as_str());
        middle.extend_from_slice(b",\"s\":");
        PlaceFinder { middle }
    }

    /// The offset of a line, if it is an entry of the room's log, or stands for places of it.
    pub fn offset_of(&self, line: &[u8]) -> Option<Offset> {
        let rest = line.strip_prefix(b"{\"t\":\"")?;
        let end = rest.iter().take(8).position(|byte| *byte == b'"')?;
        if !PLACED.contains(&&rest[..end]) {
            return None;
        }
        let digits = rest[end..].strip_prefix(self.middle.as_slice())?;
        let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_the_room_are_found() {
        let finder = PlaceFinder::new(&RoomName::new("a\"b").unwrap());
        for (line, offset) in [
            (r#"{"t":"msg","r":"a\"b","s":128,"id":"x","d":1}"#, Some(128)),
            (r#"{"t":"skip","r":"a\"b","s":7,"n":2}"#, Some(7)),
            (r#"{"t":"react","r":"a\"b","s":9,"of":1}"#, Some(9)),
            (r#"{"t":"msg","r":"a","s":128,"id":"x","d":1}"#, None),
            (r#"{"t":"msg","r":"a\"b","id":"x","d":1}"#, None),
            (r#"{"t":"live","r":"a\"b","s":128}"#, None),
            (r#"{"t":"read","r":"a\"b","s":128,"u":"ann"}"#, None),
            (r#"{"t":"msg","r":"a\"b","s":12"#, None),
            ("", None),
        ] {
            assert_eq!(finder.offset_of(line.as_bytes()), offset, "{line}");
        }
    }
}
