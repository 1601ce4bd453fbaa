//! Whether an entry's line says the same as its columns; and when two lines are the same. Knows no file.

use std::hash::{Hash, Hasher};

use serde_json::Value;

use crate::chat::message::Epoch;

/// What the columns of an entry say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) room: &'a str,
    pub(super) s: u64,
    pub(super) e: u64,
    pub(super) ts: u64,
    pub(super) kind: &'a str,
    pub(super) u: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) edited: u64,
    pub(super) gone: bool,
}

impl Columns<'_> {
    /// The id that readers see: the sender's, or for a message without one its place.
    pub(super) fn shown_id(&self) -> Option<String> {
        match self.id {
            Some(id) => Some(id.to_owned()),
            None if self.kind == "msg" => Some(format!("{}-{}", Epoch(self.e).to_text(), self.s)),
            None => None,
        }
    }

    /// What in the line differs from the columns; none if nothing does.
    pub(super) fn differs(&self, line: &[u8]) -> Option<String> {
        if line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Some("the line has a line break".to_owned());
        }
        let json: Value = match serde_json::from_slice(line) {
            Ok(json @ Value::Object(_)) => json,
            Ok(_) => return Some("the line is JSON, but no object".to_owned()),
            Err(error) => return Some(format!("the line is no JSON ({error})")),
        };
        let texts = [
            ("t", Some(self.kind.to_owned())),
            ("r", Some(self.room.to_owned())),
            ("id", self.shown_id()),
            ("u", self.u.map(str::to_owned)),
        ];
        for (key, column) in texts {
            if json.get(key).and_then(Value::as_str) != column.as_deref() {
                return Some(differing(key, &json, column.as_deref().unwrap_or("nothing")));
            }
        }
        let edited = (self.edited > 0).then_some(self.edited).filter(|_| !self.gone);
        for (key, column) in [("s", Some(self.s)), ("ts", Some(self.ts)), ("edited", edited)] {
            if json.get(key).and_then(Value::as_u64) != column {
                let column = column.map_or_else(|| "nothing".to_owned(), |number| number.to_string());
                return Some(differing(key, &json, &column));
            }
        }
        let is_gone = json.get("gone") == Some(&Value::Bool(true));
        if is_gone != self.gone {
            return Some(differing("gone", &json, if self.gone { "deleted" } else { "not deleted" }));
        }
        if self.gone && json.get("d").is_some_and(|data| !data.is_null()) {
            return Some("it was deleted, and its words are still in the line".to_owned());
        }
        None
    }
}

fn differing(key: &str, json: &Value, column: &str) -> String {
    let told = json.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
    format!("the line says {key} = {told}, the columns say {}", column.escape_debug())
}

/// A number that two frames have in common if they say the same: the order of keys and white space do not
/// count, which a client that writes its log in another language may change.
pub(super) fn fingerprint(frame: &Value) -> u64 {
    // With fixed keys, so that it is the same for all of a run.
    let mut hasher = siphasher::sip::SipHasher13::new();
    feed(frame, &mut hasher);
    hasher.finish()
}

fn feed(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Bool(yes) => (1u8, yes).hash(hasher),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => (2u8, number).hash(hasher),
            (_, Some(number)) => (3u8, number).hash(hasher),
            // `1.0` and `1` are the same number in most languages.
            _ => feed_float(number.as_f64().unwrap_or(0.0), hasher),
        },
        Value::String(text) => (5u8, text).hash(hasher),
        Value::Array(list) => {
            (6u8, list.len()).hash(hasher);
            list.iter().for_each(|value| feed(value, hasher));
        }
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            (7u8, keys.len()).hash(hasher);
            for (key, value) in keys {
                key.hash(hasher);
                feed(value, hasher);
            }
        }
    }
}

fn feed_float(number: f64, hasher: &mut impl Hasher) {
    if number >= 0.0 && number.fract() == 0.0 && number < 2f64.powi(53) {
        (2u8, number as u64).hash(hasher);
    } else if number.fract() == 0.0 && number > -(2f64.powi(53)) {
        (3u8, number as i64).hash(hasher);
    } else {
        (4u8, number.to_bits()).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns<'_> = Columns {
        room: "a",
        s: 5,
        e: 46,
        ts: 7,
        kind: "msg",
        u: Some("ann"),
        id: None,
        edited: 0,
        gone: false,
    };

    #[test]
    fn a_line_and_its_columns_agree_or_it_is_said_where_not() {
        let line = r#"{"t":"msg","r":"a","s":5,"id":"1a-5","u":"ann","ts":7,"d":"x"}"#;
        assert_eq!(COLUMNS.differs(line.as_bytes()), None);
        for (from, to, told) in [
            ("msg", "edit", "says t = \"edit\""),
            ("\"a\"", "\"b\"", "says r = \"b\""),
            (":5", ":6", "says s = 6"),
            ("1a-5", "1a-6", "says id = "),
            (r#""u":"ann","#, "", "says u = nothing, the columns say ann"),
            (":7", ":8", "says ts = 8"),
            ("}", "", "is no JSON"),
            (",", ",\n", "line break"),
            ("}", ",\"gone\":true}", "says gone = true"),
            ("}", ",\"edited\":9}", "says edited = 9"),
        ] {
            let wrong = line.replace(from, to);
            let said = COLUMNS.differs(wrong.as_bytes()).unwrap_or_default();
            assert!(said.contains(told), "{wrong}: {said}");
        }
        assert!(COLUMNS.differs(b"[]").is_some());
        let deleted = Columns { gone: true, ..COLUMNS };
        let blanked = crate::chat::line::blanked(line.as_bytes());
        assert_eq!(deleted.differs(&blanked), None);
        let kept = line.replace('}', ",\"gone\":true}");
        assert!(deleted.differs(kept.as_bytes()).unwrap().contains("still in the line"));
        let sent = Columns { id: Some("k"), ..COLUMNS };
        assert!(sent.differs(line.as_bytes()).unwrap().contains("columns say k"));
    }

    #[test]
    fn frames_that_say_the_same_have_one_fingerprint() {
        let of = |text: &str| fingerprint(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":[1.0,{"x":null}]}"#), of(r#"{ "b" : [1, {"x":null}], "a" : 1.0 }"#));
        let different =
            [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":-1}"#, r#"{"a":1.5}"#, r#"{"a":"1"}"#, r#"{"a":[1]}"#, "{}"];
        let all: std::collections::HashSet<u64> = different.iter().map(|text| of(text)).collect();
        assert_eq!(all.len(), different.len());
    }
}
