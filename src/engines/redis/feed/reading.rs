//! What stands in a feed, as Redis gives it. Knows no connection.

use redis::streams::{StreamId, StreamReadReply};

use crate::chat::entry::Entry;
use crate::chat::names::RoomName;
use crate::engines::redis::frame;
use crate::store::archive::Position;

/// Some entries of a feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Those that can be read, in order.
    pub entries: Vec<Entry>,
    /// The place of the last one; none for an empty piece.
    pub upto: Option<Position>,
    /// Those that cannot be read.
    pub unreadable: u64,
    /// Places that were left out behind `after`, as far as that can be told.
    pub missed: u64,
}

/// Reads what came behind a place.
pub fn piece(after: Position, reply: StreamReadReply) -> Piece {
    let mut piece = Piece::default();
    let mut last = after;
    for item in reply.keys.into_iter().flat_map(|stream| stream.ids) {
        let Some(place) = position(&item.id) else {
            piece.unreadable += 1;
            continue;
        };
        // Within an epoch the numbers have no hole; how far an earlier one went is not known here.
        if place.epoch == last.epoch && place.n > last.n {
            piece.missed += place.n - last.n - 1;
        }
        last = place;
        piece.upto = Some(place);
        match entry(place, &item) {
            Some(entry) => piece.entries.push(entry),
            None => piece.unreadable += 1,
        }
    }
    piece
}

/// `epoch-n`.
pub fn position(id: &str) -> Option<Position> {
    let (epoch, n) = id.split_once('-')?;
    Some(Position { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}

/// Fields: `r` room, `o` offset, `b` body, and `e` the epoch of an entry that was put back in a later one.
fn entry(place: Position, item: &StreamId) -> Option<Entry> {
    let room = RoomName::new(&item.get::<String>("r")?).ok()?;
    let epoch = item.get::<u64>("e").unwrap_or(place.epoch);
    let body: Vec<u8> = item.get("b")?;
    frame::entry(&room, item.get("o")?, epoch, &body)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use redis::Value;
    use redis::streams::StreamKey;

    use super::*;
    use crate::chat::entry::Kind;
    use crate::chat::message::Epoch;

    fn said(offset: u64) -> Entry {
        Entry {
            room: RoomName::new("a").unwrap(),
            epoch: Epoch(0),
            offset,
            ts: 9,
            kind: Kind::Message,
            user: None,
            id: None,
            of: 0,
            mark: None,
            off: false,
            line: Bytes::from_static(br#"{"t":"msg","r":"a","s":0,"d":1}"#),
        }
    }

    fn item(id: &str, fields: &[(&str, &[u8])]) -> StreamId {
        let map: HashMap<String, Value> =
            fields.iter().map(|(key, value)| (key.to_string(), Value::BulkString(value.to_vec()))).collect();
        StreamId { id: id.into(), map, ..StreamId::default() }
    }

    fn read(after: Position, ids: Vec<StreamId>) -> Piece {
        piece(after, StreamReadReply { keys: vec![StreamKey { key: "feed".into(), ids }] })
    }

    #[test]
    fn entries_have_the_epoch_of_their_place_or_their_own() {
        let body = frame::body(&said(0), b"k", true);
        let fields: [(&str, &[u8]); 3] = [("r", b"a"), ("o", b"7"), ("b", &body)];
        let mut put_back = fields.to_vec();
        put_back.push(("e", b"5"));
        let read = read(Position { epoch: 6, n: 2 }, vec![item("6-3", &fields), item("6-5", &put_back)]);
        let placed: Vec<_> = read.entries.iter().map(|entry| (entry.epoch.0, entry.offset)).collect();
        assert_eq!(placed, [(6, 7), (5, 7)]);
        assert_eq!(read.entries[0].line, &br#"{"t":"msg","r":"a","s":7,"d":1}"#[..]);
        assert_eq!((read.upto, read.missed, read.unreadable), (Some(Position { epoch: 6, n: 5 }), 1, 0));
    }

    #[test]
    fn what_cannot_be_read_is_passed_and_counted() {
        let read = read(Position::default(), vec![item("6-1", &[("r", b"a")]), item("6-2", &[("b", b"?")])]);
        assert_eq!((read.entries.len(), read.unreadable, read.missed), (0, 2, 0));
        assert_eq!(read.upto, Some(Position { epoch: 6, n: 2 }));
        assert_eq!(super::piece(Position::default(), StreamReadReply::default()), Piece::default());
    }
}
