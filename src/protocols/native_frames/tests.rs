//! Lines of the server: keys and order as on the protocol page, valid JSON whatever is in them.

use std::fmt;

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use super::*;
use crate::chat::entry::{Entry, Kind};
use crate::chat::line;
use crate::chat::message::{Draft, Epoch, Via};
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
        span: Default::default(),
    }
}

const PLACE: Accepted = Accepted { offset: 128, epoch: Epoch(45), ts: 1_763_820_000_123, duplicate: false };

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
    let cut = Cut { start: 121, top: 900, missing: Some(Missing::Range(43, 120)), rewind: None };
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
    let push = Draft { keep: false, ..push };
    assert!(!text(|out| message(out, &push, &fleeting)).contains("\"s\":"));
}

#[test]
fn names_are_escaped() {
    let room = RoomName::new("a\"b\\c").unwrap();
    assert_eq!(text(|out| live(out, &room, 1, None)), r#"{"t":"live","r":"a\"b\\c","s":1}"#);
}

#[test]
fn a_page_holds_entries_without_the_room() {
    let entry = text(|out| message(out, &draft(), &PLACE));
    let frame = text(|out| {
        page(out, &draft().room, "k3f9", Some(7), [(1, Some(entry.as_bytes())); 2].into_iter(), true)
    });
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

fn lobby() -> RoomName {
    RoomName::new("lobby").unwrap()
}

fn entry(kind: Kind, offset: Offset, of: Offset) -> Entry {
    Entry {
        room: lobby(),
        epoch: Epoch(45),
        offset,
        ts: 1_763_820_000_790,
        kind,
        user: Some(UserName::new("ann").unwrap()),
        id: None,
        of,
        mark: None,
        off: false,
        line: Bytes::new(),
    }
}

#[test]
fn changes_are_entries_of_their_own() {
    let edit = entry(Kind::Edit, 133, 128);
    assert_eq!(
        text(|out| change(out, &edit, Some(&Data::text("hi everyone")))),
        r#"{"t":"edit","r":"lobby","s":133,"u":"ann","ts":1763820000790,"d":"hi everyone","of":128}"#
    );
    let by_backend = Entry { user: None, id: MessageId::new("m\"1").ok(), ..entry(Kind::Delete, 134, 126) };
    assert_eq!(
        text(|out| change(out, &by_backend, None)),
        r#"{"t":"del","r":"lobby","s":134,"id":"m\"1","ts":1763820000790,"of":126}"#
    );
    let react = Entry { mark: Some("+1".into()), ..entry(Kind::React, 129, 128) };
    assert_eq!(
        text(|out| change(out, &react, None)),
        r#"{"t":"react","r":"lobby","s":129,"u":"ann","ts":1763820000790,"of":128,"k":"+1"}"#
    );
    let undone = Entry { off: true, id: MessageId::new("r-2").ok(), ..react };
    assert_eq!(
        text(|out| change(out, &undone, None)),
        r#"{"t":"react","r":"lobby","s":129,"id":"r-2","u":"ann","ts":1763820000790,"of":128,"k":"+1","off":true}"#
    );
}

#[test]
fn places_without_an_entry_are_named() {
    assert_eq!(text(|out| skip(out, &lobby(), 135, 2)), r#"{"t":"skip","r":"lobby","s":135,"n":2}"#);
    assert_eq!(
        text(|out| gap(out, &lobby(), (137, 188), "slow")),
        r#"{"t":"gap","r":"lobby","missing":[137,188],"why":"slow"}"#
    );
    assert_eq!(
        text(|out| rewind(out, &lobby(), 130, "k3f9")),
        r#"{"t":"rewind","r":"lobby","s":130,"e":"k3f9"}"#
    );
    assert_eq!(text(|out| live(out, &lobby(), 131, None)), r#"{"t":"live","r":"lobby","s":131}"#);
    assert_eq!(
        text(|out| live(out, &lobby(), 131, Some("z81c"))),
        r#"{"t":"live","r":"lobby","s":131,"e":"z81c"}"#
    );
}

#[test]
fn readers_are_told_how_far_others_are_and_what_is_new() {
    let zoe = UserName::new("zoe").unwrap();
    assert_eq!(
        text(|out| super::read(out, &lobby(), 134, &zoe)),
        r#"{"t":"read","r":"lobby","s":134,"u":"zoe"}"#
    );
    assert_eq!(
        text(|out| got(out, &lobby(), 132, 41, 42)),
        r#"{"t":"got","r":"lobby","s":132,"n":41,"of":42}"#
    );
    let (room, direct) = (lobby(), RoomName::new("@ann+bob").unwrap());
    let list = [
        ListedRoom { room: &room, top: 135, read: 131 },
        ListedRoom { room: &direct, top: 12, read: 12 },
        ListedRoom { room: &room, top: 1, read: 2 },
    ];
    assert_eq!(
        text(|out| rooms(out, Some(10), list.into_iter(), false)),
        concat!(
            r#"{"t":"rooms","i":10,"list":[{"r":"lobby","s":135,"read":131,"unread":4},"#,
            r#"{"r":"@ann+bob","s":12,"read":12,"unread":0},{"r":"lobby","s":1,"read":2,"unread":0}]}"#
        )
    );
    assert_eq!(
        text(|out| rooms(out, None, std::iter::empty(), true)),
        r#"{"t":"rooms","list":[],"more":true}"#
    );
}

#[test]
fn an_ack_names_an_id_that_stands_in_the_entry_and_no_other() {
    let reference = Reference { i: Some(4), room: Some(lobby()), id: None };
    assert_eq!(
        text(|out| ack(out, &reference, &PLACE)),
        r#"{"t":"ack","r":"lobby","s":128,"i":4,"id":"19-128","ts":1763820000123}"#
    );
    assert_eq!(
        text(|out| ack_change(out, &reference, &PLACE)),
        r#"{"t":"ack","r":"lobby","s":128,"i":4,"ts":1763820000123}"#
    );
    let named = Reference { id: MessageId::new("e-1").ok(), ..reference };
    let again = Accepted { duplicate: true, ..PLACE };
    assert_eq!(text(|out| ack(out, &named, &again)), text(|out| ack_change(out, &named, &again)));
}

#[test]
fn a_page_holds_entries_of_all_kinds_and_names_places_without_a_line() {
    let mut said = Vec::new();
    message(&mut said, &draft(), &PLACE);
    let mut edit = Vec::new();
    change(&mut edit, &entry(Kind::Edit, 130, 128), Some(&Data::text("new")));
    let said = line::amended(&said, b"\"new\"", 130);
    let places = [(128, Some(&said[..])), (129, None), (130, Some(&edit[..]))];
    assert_eq!(
        text(|out| page(out, &lobby(), "19", Some(7), places.into_iter(), false)),
        concat!(
            r#"{"t":"page","r":"lobby","e":"19","i":7,"list":["#,
            r#"{"t":"msg","s":128,"id":"k7-41","u":"ann","ts":1763820000123,"d":"new","edited":130},"#,
            r#"{"t":"skip","s":129,"n":1},"#,
            r#"{"t":"edit","s":130,"u":"ann","ts":1763820000790,"d":"new","of":128}],"more":false}"#
        )
    );
    let other_make = br#"{"t":"msg","s":1,"r":"lobby","d":1}"#;
    let whole = text(|out| page(out, &lobby(), "19", None, [(1, Some(&other_make[..]))].into_iter(), false));
    assert!(whole.contains(r#""list":[{"t":"msg","s":1,"r":"lobby","d":1}]"#), "{whole}");
}

#[test]
fn welcome_offers_only_what_there_is() {
    let ann = UserName::new("ann").unwrap();
    let can = |has_store, can_find| -> Vec<String> {
        let (session, ping_ms, message_bytes) = ("s9", 25_000, 65_536);
        let hello = Welcome { user: &ann, session, ping_ms, message_bytes, has_store, can_find };
        let line = text(|out| welcome(out, None, &hello));
        assert!(line.starts_with(
            r#"{"t":"welcome","v":1,"u":"ann","session":"s9","ping":25000,"max":65536,"can":["#
        ));
        let json: Value = serde_json::from_str(&line).unwrap();
        serde_json::from_value(json["can"].clone()).unwrap()
    };
    let in_memory = ["typing", "who", "log", "re", "keep", "edit", "react", "read", "got"];
    assert_eq!(can(false, false), in_memory);
    let more = |can_find| {
        let mut more: Vec<String> = can(true, can_find);
        more.retain(|word| !in_memory.contains(&word.as_str()));
        more
    };
    assert_eq!(more(true), ["find", "rooms", "session"]);
    assert_eq!(more(false), ["rooms", "session"]);
}

/// The keys of an object in the order in which they stand.
struct KeysOf(Vec<String>);

impl<'de> Deserialize<'de> for KeysOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeysOf, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = KeysOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeysOf, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(KeysOf(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A line with its keys in order, after a check that it is one line.
fn parsed(line: &[u8]) -> (String, Value) {
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "a frame is one line");
    let KeysOf(keys) = serde_json::from_slice(line).expect("every frame is an object");
    (keys.join(" "), serde_json::from_slice(line).expect("every frame is JSON"))
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "[a-zA-Z0-9 \"\\\\/<>&'+@.-]{1,20}", "\\PC{1,10}"]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    })
}

prop_compose! {
    fn entries()(
        kind in prop::sample::select(vec![Kind::Edit, Kind::Delete, Kind::React]),
        (room, user, id, mark) in (names(), prop::option::of(names()), prop::option::of(names()), names()),
        (offset, of, ts) in (1..=u64::MAX, 1..=u64::MAX, any::<u64>()),
        off in any::<bool>(),
    ) -> Option<Entry> {
        let user = user.map(|user| UserName::new(&user)).transpose().ok()?;
        let id = id.map(|id| MessageId::new(&id)).transpose().ok()?;
        let is_react = kind == Kind::React;
        let mark = is_react.then(|| mark.into());
        let off = is_react && off;
        let room = RoomName::named_by_client(&room).ok()?;
        let (epoch, line) = (Epoch(45), Bytes::new());
        Some(Entry { room, epoch, offset, ts, kind, user, id, of, mark, off, line })
    }
}

proptest! {
    #[test]
    fn a_change_says_what_the_entry_holds(entry in entries(), json in any_json()) {
        let Some(entry) = entry else { return Ok(()) };
        let raw = serde_json::value::to_raw_value(&json).unwrap();
        let data = (entry.kind == Kind::Edit).then(|| Data::new(&raw).unwrap());
        let mut line = Vec::new();
        change(&mut line, &entry, data.as_ref());
        let (keys, found) = parsed(&line);
        let there: Vec<&str> = [
            ("t", true), ("r", true), ("s", true), ("id", entry.id.is_some()), ("u", entry.user.is_some()),
            ("ts", true), ("d", data.is_some()), ("of", true), ("k", entry.mark.is_some()), ("off", entry.off),
        ]
        .into_iter()
        .filter_map(|(key, is_there)| is_there.then_some(key))
        .collect();
        prop_assert_eq!(keys, there.join(" "));
        let mut wanted = json!({
            "t": entry.kind.word(), "r": entry.room.as_str(), "s": entry.offset, "ts": entry.ts, "of": entry.of,
        });
        for (key, value) in [
            ("id", entry.id.as_ref().map(|id| json!(id.as_str()))),
            ("u", entry.user.as_ref().map(|user| json!(user.as_str()))),
            ("d", data.is_some().then(|| json.clone())),
            ("k", entry.mark.as_ref().map(|mark| json!(mark))),
            ("off", entry.off.then_some(Value::Bool(true))),
        ] {
            if let Some(value) = value {
                wanted[key] = value;
            }
        }
        prop_assert_eq!(&found, &wanted);

        let mut out = Vec::new();
        let places = [(entry.offset, Some(&line[..])), (7, None)];
        page(&mut out, &entry.room, "19", None, places.into_iter(), true);
        let (keys, page) = parsed(&out);
        prop_assert_eq!(keys, "t r e list more");
        wanted.as_object_mut().unwrap().remove("r");
        prop_assert_eq!(&page["list"], &json!([wanted, {"t": "skip", "s": 7, "n": 1}]));
    }

    #[test]
    fn whatever_the_names_a_frame_is_a_line_with_its_keys(
        (room, user) in (names(), names()), (a, b) in (any::<u64>(), any::<u64>()), i in prop::option::of(any::<u64>()),
    ) {
        let (Ok(room), Ok(user)) = (RoomName::named_by_client(&room), UserName::new(&user)) else { return Ok(()) };
        let frame = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            parsed(&out)
        };
        let r = room.as_str();
        let (keys, found) = frame(&|out| skip(out, &room, a, b));
        prop_assert_eq!((&*keys, found), ("t r s n", json!({"t": "skip", "r": r, "s": a, "n": b})));
        let (keys, found) = frame(&|out| gap(out, &room, (a, b), "slow"));
        let wanted = json!({"t": "gap", "r": r, "missing": [a, b], "why": "slow"});
        prop_assert_eq!((&*keys, found), ("t r missing why", wanted));
        let (keys, found) = frame(&|out| rewind(out, &room, a, "k3f9"));
        prop_assert_eq!((&*keys, found), ("t r s e", json!({"t": "rewind", "r": r, "s": a, "e": "k3f9"})));
        let (keys, found) = frame(&|out| super::read(out, &room, a, &user));
        prop_assert_eq!((&*keys, found), ("t r s u", json!({"t": "read", "r": r, "s": a, "u": user.as_str()})));
        let (keys, found) = frame(&|out| rooms(out, i, [ListedRoom { room: &room, top: a, read: b }].into_iter(), true));
        prop_assert_eq!(&*keys, if i.is_some() { "t i list more" } else { "t list more" });
        let one = json!([{"r": r, "s": a, "read": b, "unread": a.saturating_sub(b)}]);
        prop_assert_eq!((&found["list"], found["i"].as_u64()), (&one, i));
    }
}
