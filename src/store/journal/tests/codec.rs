//! Every kind of record survives its encoding; no bytes make the decoder panic.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::codec::{Undecodable, decode, encode};
use crate::chat::entry::{Entry, Kind};
use crate::chat::message::Epoch;
use crate::chat::names::{MessageId, RoomName, UserName};
use crate::store::record::{
    Cursor, Happened, Letter, ReadMark, Record, RoomRules, Seen, SessionEvent, SessionNote,
};

fn room() -> impl Strategy<Value = RoomName> {
    "[a-zé日]{1,20}".prop_map(|text| RoomName::new(&text).unwrap())
}

fn user() -> impl Strategy<Value = UserName> {
    "[a-zé+ ]{1,30}".prop_map(|text| UserName::new(&text).unwrap())
}

fn id() -> impl Strategy<Value = MessageId> {
    "[ -~]{1,64}".prop_map(|text| MessageId::new(&text).unwrap())
}

fn text() -> impl Strategy<Value = Box<str>> {
    ".{0,40}".prop_map(Into::into)
}

fn raw() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn entry() -> impl Strategy<Value = Record> {
    let kind = prop::sample::select(vec![Kind::Message, Kind::Edit, Kind::Delete, Kind::React]);
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (room(), numbers, kind, option::of(user()), option::of(id()), option::of(text()), any::<bool>(), raw())
        .prop_map(|(room, (epoch, offset, ts, of), kind, user, id, mark, off, line)| {
            Record::Entry(Entry {
                room,
                epoch: Epoch(epoch),
                offset,
                ts,
                kind,
                user,
                id,
                of,
                mark,
                off,
                line,
            })
        })
}

fn session() -> impl Strategy<Value = Record> {
    let cursor = (room(), any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(room, epoch, offset, quiet)| Cursor { room, epoch: Epoch(epoch), offset, quiet });
    (text(), user(), any::<u64>(), vec(cursor, 0..5))
        .prop_map(|(session, user, ts, rooms)| Record::Session(SessionNote { session, user, ts, rooms }))
}

fn event() -> impl Strategy<Value = Record> {
    let what = prop_oneof![
        option::of(raw()).prop_map(Happened::Opened),
        any::<u16>().prop_map(Happened::Closed),
        text().prop_map(Happened::Failed),
    ];
    (text(), user(), any::<u64>(), what)
        .prop_map(|(session, user, ts, what)| Record::Event(SessionEvent { session, user, ts, what }))
}

pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        entry(),
        session(),
        (room(), option::of(user()), id(), any::<u64>())
            .prop_map(|(room, user, id, ts)| Record::Seen(Seen { room, user, id, ts })),
        (room(), user(), any::<u64>(), any::<u64>())
            .prop_map(|(room, user, offset, ts)| Record::Read(ReadMark { room, user, offset, ts })),
        (text(), any::<u64>(), text(), text(), raw())
            .prop_map(|(id, ts, source, reason, item)| Record::Dead(Letter { id, ts, source, reason, item })),
        text().prop_map(Record::DeadGone),
        event(),
        (room(), text()).prop_map(|(room, text)| Record::Rules(RoomRules { room, text, version: 0 })),
    ]
}

fn bytes_of(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn a_record_survives(record in record()) {
        prop_assert_eq!(decode(&bytes_of(&record)), Ok(record));
    }

    #[test]
    fn a_part_or_more_is_not_the_record(record in record(), cut in any::<prop::sample::Index>()) {
        let mut bytes = bytes_of(&record);
        let whole = bytes.len();
        prop_assert!(decode(&bytes[..cut.index(whole)]).is_err());
        bytes.push(0);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..300)) {
        let mut known = bytes.clone();
        decode(&bytes).ok();
        if known.len() > 1 {
            (known[0], known[1]) = (1, known[1] % 8);
        }
        // What can be decoded is exactly what would be encoded: nothing is guessed.
        if let Ok(record) = decode(&known) {
            prop_assert_eq!(bytes_of(&record), known);
        }
    }

    #[test]
    fn a_changed_byte_never_panics(record in record(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = bytes_of(&record);
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(record) = decode(&bytes) {
            prop_assert_eq!(bytes_of(&record), bytes);
        }
    }
}

#[test]
fn names_are_checked_and_later_encodings_refused() {
    let mut bytes = bytes_of(&Record::DeadGone("x".into()));
    bytes[0] = 2;
    assert_eq!(decode(&bytes), Err(Undecodable::Version(2)));
    let mark =
        ReadMark { room: RoomName::new("ab").unwrap(), user: UserName::new("cd").unwrap(), offset: 1, ts: 2 };
    let mut bytes = bytes_of(&Record::Read(mark));
    assert_eq!(&bytes[2..5], b"\x02ab");
    bytes[4] = b'*';
    assert_eq!(decode(&bytes), Err(Undecodable::Malformed("room")));
}
