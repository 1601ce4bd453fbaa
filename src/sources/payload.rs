//! What a backend wrote, read as a draft: which room, by whom, under which id, and the data.
//! Called by every source. Takes bytes, gives a draft or the reason why there is none; knows no queue.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::chat::data::Data;
use crate::chat::message::{Draft, Via};
use crate::chat::names::{MessageId, NAME_BYTES_MAX, RoomName, UserName};
use crate::sources::poison::{Poison, Reason};
use crate::traces::Span;

/// What an item may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadLimits {
    /// Longest item, in bytes: `limits.message_bytes`. Default 65,536.
    pub message_bytes: usize,
}

impl Default for PayloadLimits {
    fn default() -> PayloadLimits {
        PayloadLimits { message_bytes: 65_536 }
    }
}

/// Reads an item.
///
/// An object may have `room` (or `channel`), `id`, `user`, `type` (or `event`) and `content` (or `data`);
/// the first name of a pair wins. `room`, `id` and `user` may be text or a number; `null` is as good as
/// absent. `content` becomes the data byte for byte. Without it, and for everything that is no object, the
/// whole item is the data. Of a key that stands there twice the last one counts, as in PHP and JavaScript.
/// A `type` other than `"message"` is the draft's kind.
///
/// ```
/// use roomcast::chat::names::RoomName;
/// use roomcast::sources::payload::{PayloadLimits, decode};
/// let lobby = RoomName::new("lobby").unwrap();
/// let draft = decode(br#"{"type":"message","user":7,"content":"hi"}"#, &lobby, PayloadLimits::default()).unwrap();
/// assert_eq!(draft.data.as_bytes(), br#""hi""#);
/// assert_eq!(draft.user.unwrap().as_str(), "7");
/// ```
pub fn decode(item: &[u8], default_room: &RoomName, limits: PayloadLimits) -> Result<Draft, Poison> {
    if item.len() > limits.message_bytes {
        let text = format!(
            "{} bytes are more than limits.message_bytes = {}; send less",
            item.len(),
            limits.message_bytes
        );
        return Err(Poison::new(Reason::TooBig, text));
    }
    let text = simdutf8::basic::from_utf8(item)
        .map_err(|_| Poison::new(Reason::NotUtf8, "the item is no UTF-8; encode it as UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Keys::default().into_draft(json(text)?, default_room);
    }
    let keys: Keys<'_> = json(text)?;
    // The second look is for objects without content alone, which travel whole.
    let whole = if keys.content.or(keys.data).is_none() { Some(json(text)?) } else { None };
    keys.into_draft(whole.unwrap_or(RawValue::NULL), default_room)
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Poison> {
    serde_json::from_str(text).map_err(|error| {
        Poison::new(Reason::NotJson, format!("{error}; send one JSON value, text in quotes"))
    })
}

/// The known keys of an object, each as the bytes that the backend wrote.
#[derive(Default)]
struct Keys<'a> {
    room: Option<&'a RawValue>,
    channel: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    content: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
}

impl<'a> Keys<'a> {
    fn into_draft(self, whole: &RawValue, default_room: &RoomName) -> Result<Draft, Poison> {
        let said = self.content.or(self.data);
        let room = match text_of(given(self.room).or(given(self.channel)), "room", Reason::BadRoom)? {
            Some(name) => RoomName::named_by_client(&name)
                .map_err(|e| Poison::new(Reason::BadRoom, format!("room: {e}")))?,
            None => default_room.clone(),
        };
        let user = text_of(given(self.user), "user", Reason::BadUser)?
            .map(|name| UserName::new(&name).map_err(|e| Poison::new(Reason::BadUser, format!("user: {e}"))))
            .transpose()?;
        let id = text_of(given(self.id), "id", Reason::BadId)?
            .map(|id| MessageId::new(&id).map_err(|e| Poison::new(Reason::BadId, format!("id: {e}"))))
            .transpose()?;
        let kind = kind_of(given(self.kind).or(given(self.event)), said.is_some())?;
        let data = Data::new(said.unwrap_or(whole)).map_err(|_| {
            let text = format!("nested deeper than {} levels; flatten it", crate::chat::data::DEPTH_MAX);
            Poison::new(Reason::TooDeep, text)
        })?;
        Ok(Draft {
            room,
            user,
            id,
            data,
            kind,
            reply_to: None,
            keep: true,
            via: Via::Queue,
            span: Span::default(),
        })
    }
}

fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// The text of a string or a number.
fn text_of<'a>(
    value: Option<&'a RawValue>,
    key: &str,
    reason: Reason,
) -> Result<Option<Cow<'a, str>>, Poison> {
    let Some(value) = value else { return Ok(None) };
    let raw = value.get();
    match raw.as_bytes()[0] {
        b'"' => string(raw).map(Some).map_err(|error| Poison::new(reason, format!("{key}: {error}"))),
        b'-' | b'0'..=b'9' => Ok(Some(Cow::Borrowed(raw))),
        _ => Err(Poison::new(reason, format!("{key} is neither text nor a number; write it in quotes"))),
    }
}

/// The kind of message. A document that is data as a whole may use `type` for purposes of its own.
fn kind_of(value: Option<&RawValue>, strict: bool) -> Result<Option<Box<str>>, Poison> {
    let text = match text_of(value, "type", Reason::BadType) {
        Ok(Some(text)) if text != "message" => text,
        Err(poison) if strict => return Err(poison),
        _ => return Ok(None),
    };
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    match (fits, strict) {
        (true, _) => Ok(Some(text.into())),
        (false, false) => Ok(None),
        (false, true) => {
            let text = format!("type has 1 to {NAME_BYTES_MAX} bytes and no control characters; shorten it");
            Err(Poison::new(Reason::BadType, text))
        }
    }
}

/// The text of a JSON string; nothing is copied where nothing is escaped.
fn string(raw: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    if !raw.contains('\\') {
        return Ok(Cow::Borrowed(&raw[1..raw.len() - 1]));
    }
    serde_json::from_str::<String>(raw).map(Cow::Owned)
}

impl<'de> Deserialize<'de> for Keys<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys<'de>, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Keys<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
                let mut keys = Keys::default();
                while let Some(key) = map.next_key::<Key>()? {
                    let place = match key {
                        Key::Room => &mut keys.room,
                        Key::Channel => &mut keys.channel,
                        Key::Id => &mut keys.id,
                        Key::User => &mut keys.user,
                        Key::Type => &mut keys.kind,
                        Key::Event => &mut keys.event,
                        Key::Content => &mut keys.content,
                        Key::Data => &mut keys.data,
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = Some(map.next_value()?);
                }
                Ok(keys)
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Room,
    Channel,
    Id,
    User,
    Type,
    Event,
    Content,
    Data,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(item: &str) -> Result<Draft, Poison> {
        decode(item.as_bytes(), &RoomName::new("lobby").unwrap(), PayloadLimits::default())
    }

    /// Room, user, id, kind and data, as text; `-` where there is none.
    fn shown(item: &str) -> String {
        let draft = read(item).unwrap_or_else(|poison| panic!("{item}: {poison}"));
        let user = draft.user.as_ref().map_or("-", UserName::as_str);
        let id = draft.id.as_ref().map_or("-", MessageId::as_str);
        let data = String::from_utf8(draft.data.as_bytes().to_vec()).unwrap();
        format!("{} {user} {id} {} {data}", draft.room.as_str(), draft.kind.as_deref().unwrap_or("-"))
    }

    #[test]
    fn known_keys_are_taken_and_the_rest_passes_through() {
        for (item, wanted) in [
            (r#"{"type":"message","content":"hi"}"#, r#"lobby - - - "hi""#),
            (r#"{"room":"a","id":"o-17","user":"shop","content":{"t": 1.0}}"#, r#"a shop o-17 - {"t": 1.0}"#),
            (r#"{"channel":"b","event":"paid","data":[1, 2]}"#, "b - - paid [1, 2]"),
            (r#"{"channel":"b","room":"a","data":1,"content":2}"#, "a - - - 2"),
            (r#"{"room":17,"id":5,"user":-3,"content":0}"#, "17 -3 5 - 0"),
            (r#"{"room":null,"channel":"b","id":null,"user":null,"content":null}"#, "b - - - null"),
            (r#"{"room":"a","text":"x"}"#, r#"a - - - {"room":"a","text":"x"}"#),
            (r#"{"type":{"own":1},"x":2}"#, r#"lobby - - - {"type":{"own":1},"x":2}"#),
            (r#"{"content":1,"content":2}"#, "lobby - - - 2"),
            (" \n [1,\n2] \t", "lobby - - - [1, 2]"),
            (r#""just text""#, r#"lobby - - - "just text""#),
            ("7", "lobby - - - 7"),
            ("null", "lobby - - - null"),
            (r#"{"r\u006fom":"\u00fcber","content":1}"#, "über - - - 1"),
            (r#"{"room":"@ann","content":1}"#, "@ann - - - 1"),
            (r#"{"room":"@bob+ann","content":1}"#, "@ann+bob - - - 1"),
            ("{}", "lobby - - - {}"),
        ] {
            assert_eq!(shown(item), wanted, "{item}");
        }
    }

    #[test]
    fn poison_says_what_is_wrong() {
        let long = |n: usize| "x".repeat(n);
        for (item, reason) in [
            (String::new(), Reason::NotJson),
            ("hello".into(), Reason::NotJson),
            ("{\"a\":1} x".into(), Reason::NotJson),
            ("{\"a\":}".into(), Reason::NotJson),
            (format!("\"{}\"", long(65_536)), Reason::TooBig),
            (format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)), Reason::TooDeep),
            (format!("{{\"content\":{}{}}}", "[".repeat(129), "]".repeat(129)), Reason::TooDeep),
            (r#"{"room":"a*","content":1}"#.into(), Reason::BadRoom),
            (r#"{"room":"","content":1}"#.into(), Reason::BadRoom),
            (r#"{"room":["a"],"content":1}"#.into(), Reason::BadRoom),
            (r#"{"room":true,"content":1}"#.into(), Reason::BadRoom),
            (r#"{"user":{"n":1},"content":1}"#.into(), Reason::BadUser),
            (format!(r#"{{"user":"{}","content":1}}"#, long(129)), Reason::BadUser),
            (r#"{"id":"a\nb","content":1}"#.into(), Reason::BadId),
            (format!(r#"{{"id":"{}","content":1}}"#, long(65)), Reason::BadId),
            (r#"{"id":"\ud800","content":1}"#.into(), Reason::BadId),
            (r#"{"type":[],"content":1}"#.into(), Reason::BadType),
            (format!(r#"{{"type":"{}","content":1}}"#, long(129)), Reason::BadType),
        ] {
            let poison = read(&item).expect_err(&item[..item.len().min(80)]);
            assert_eq!(poison.reason, reason, "{poison} for {}", &item[..item.len().min(80)]);
        }
        let lobby = RoomName::new("lobby").unwrap();
        let poison = decode(b"\"\xff\"", &lobby, PayloadLimits::default()).unwrap_err();
        assert_eq!(poison.reason, Reason::NotUtf8);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(item in prop::collection::vec(any::<u8>(), 0..300)) {
            let lobby = RoomName::new("lobby").unwrap();
            if let Ok(draft) = decode(&item, &lobby, PayloadLimits::default()) {
                prop_assert!(serde_json::from_slice::<IgnoredAny>(draft.data.as_bytes()).is_ok());
            }
        }

        #[test]
        fn random_objects_never_panic(
            pairs in prop::collection::vec(("room|channel|id|user|type|event|content|data|x", "[\\[\\]{}\"\\\\a-z0-9:, ]{0,8}|null|-1e5|\"[^\"\\\\]{0,5}\""), 0..6)
        ) {
            let fields: Vec<String> = pairs.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            let item = format!("{{{}}}", fields.join(","));
            if let Ok(draft) = read(&item) {
                prop_assert!(serde_json::from_slice::<IgnoredAny>(draft.data.as_bytes()).is_ok());
            }
        }
    }
}
