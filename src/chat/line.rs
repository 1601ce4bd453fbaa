//! An entry's line when its words change: what readers get after an edit or a delete, and the words in it
//! that people search for. Used by whoever keeps lines, so that memory and disk show the same bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::chat::entry::Kind;
use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};

/// Most users whom one message can call by name.
pub const MENTIONS_MAX: usize = 16;

/// The top level of a line: its keys in order, each with its value as it is written.
struct Keys<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Keys<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys<'de>, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
                let mut keys = Vec::with_capacity(12);
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    keys.push((key, value));
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The data of a line, as its sender wrote it; none for entries without data and for what is no line.
pub fn data_of(line: &[u8]) -> Option<&[u8]> {
    let Keys(keys) = serde_json::from_slice(line).ok()?;
    keys.into_iter().find(|(key, _)| key == "d").map(|(_, value)| value.get().as_bytes())
}

/// A message's line after an edit at `edited`: it has the new data, and says where it was edited. What is no
/// line stays as it is.
pub fn amended(line: &[u8], data: &[u8], edited: Offset) -> Vec<u8> {
    rewritten(line, data, "edited", &edited.to_string())
}

/// A message's line after it was deleted: who and when stay, the words are gone. What is no line stays as it
/// is.
pub fn blanked(line: &[u8]) -> Vec<u8> {
    rewritten(line, b"null", "gone", "true")
}

/// A line that was written with the offset 0, at its place: `{"t":"msg","r":"lobby","s":0,…` becomes
/// `{"t":"msg","r":"lobby","s":7,…`. `kind` and `room` are those of the line; what is no line of theirs stays as it is.
pub fn placed(line: &[u8], kind: Kind, room: &RoomName, offset: Offset) -> Vec<u8> {
    let mut placed = Vec::with_capacity(line.len() + 12);
    placed.extend_from_slice(b"{\"t\":\"");
    placed.extend_from_slice(kind.word().as_bytes());
    placed.extend_from_slice(b"\",\"r\":");
    // A string is written without fail.
    serde_json::to_writer(&mut placed, room.as_str()).unwrap_or_default();
    placed.extend_from_slice(b",\"s\":");
    match line.strip_prefix(placed.as_slice()).and_then(|rest| rest.strip_prefix(b"0")) {
        Some(rest) => {
            placed.extend_from_slice(offset.to_string().as_bytes());
            placed.extend_from_slice(rest);
            placed
        }
        None => line.to_vec(),
    }
}

fn rewritten(line: &[u8], data: &[u8], note: &str, value: &str) -> Vec<u8> {
    let Ok(Keys(keys)) = serde_json::from_slice(line) else { return line.to_vec() };
    let mut out = Vec::with_capacity(line.len() + data.len() + 24);
    out.push(b'{');
    for (key, old) in keys.into_iter().filter(|(key, _)| key != "edited" && key != "gone") {
        if out.len() > 1 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key.as_ref()).expect("writing into memory does not fail");
        out.push(b':');
        out.extend_from_slice(if key == "d" { data } else { old.get().as_bytes() });
    }
    out.extend_from_slice(format!(",\"{note}\":{value}}}").as_bytes());
    out
}

/// The words in a message's data: the string itself, or all strings in it, keys not counted, with a space
/// between.
pub fn words_of(data: &[u8]) -> String {
    serde_json::from_slice::<Words>(data).map(|words| words.0).unwrap_or_default()
}

struct Words(String);

impl Words {
    fn add(&mut self, other: &str) {
        if !self.0.is_empty() && !other.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(other);
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        struct Gather;
        macro_rules! nothing {
            ($($name:ident($kind:ty)),*) => {
                $(fn $name<E>(self, _: $kind) -> Result<Words, E> { Ok(Words(String::new())) })*
            };
        }
        impl<'de> Visitor<'de> for Gather {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }

            nothing!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

            fn visit_unit<E>(self) -> Result<Words, E> {
                Ok(Words(String::new()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                Ok(Words(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut all = Words(String::new());
                while let Some(words) = list.next_element::<Words>()? {
                    all.add(&words.0);
                }
                Ok(all)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Words, A::Error> {
                let mut all = Words(String::new());
                while let Some((_, words)) = map.next_entry::<serde::de::IgnoredAny, Words>()? {
                    all.add(&words.0);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Gather)
    }
}

/// The users whom a message's data calls by name (`@ann`), each once, at most [`MENTIONS_MAX`]. A name ends
/// before the first character that is no letter, digit, `_`, `-` or `.`; a `.` or `-` at its end is
/// punctuation. Not in the middle of a word, so that an address of mail calls nobody.
pub fn mentions_in(data: &[u8]) -> Vec<UserName> {
    if !data.contains(&b'@') && !data.windows(2).any(|pair| pair == b"\\u") {
        return Vec::new();
    }
    let words = words_of(data);
    let mut called: Vec<UserName> = Vec::new();
    for (at, _) in words.match_indices('@') {
        let in_word = words[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '@');
        if in_word {
            continue;
        }
        let rest = &words[at + 1..];
        let end =
            rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.')).unwrap_or(rest.len());
        let Ok(user) = UserName::new(rest[..end].trim_end_matches(['.', '-'])) else { continue };
        if !called.contains(&user) {
            called.push(user);
        }
        if called.len() == MENTIONS_MAX {
            break;
        }
    }
    called
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gets_its_place() {
        let room = RoomName::new("a\"b").unwrap();
        let line = br#"{"t":"msg","r":"a\"b","s":0,"u":"ann","d":{"s":0}}"#;
        let wanted = br#"{"t":"msg","r":"a\"b","s":128,"u":"ann","d":{"s":0}}"#;
        assert_eq!(placed(line, Kind::Message, &room, 128), wanted);
        assert_eq!(placed(line, Kind::Edit, &room, 128), line, "of another kind");
    }

    const LINE: &str = r#"{"t":"msg","r":"a","s":5,"id":"x","u":"ann","ts":7,"d":{"text": "old"},"re":3}"#;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_edit_puts_the_new_words_in_the_old_place() {
        let once = text(amended(LINE.as_bytes(), br#""new""#, 9));
        assert_eq!(
            once,
            r#"{"t":"msg","r":"a","s":5,"id":"x","u":"ann","ts":7,"d":"new","re":3,"edited":9}"#
        );
        let twice = text(amended(once.as_bytes(), b"[1 ]", 12));
        assert_eq!(
            twice,
            r#"{"t":"msg","r":"a","s":5,"id":"x","u":"ann","ts":7,"d":[1 ],"re":3,"edited":12}"#
        );
        assert_eq!(data_of(twice.as_bytes()), Some(&b"[1 ]"[..]));
    }

    #[test]
    fn a_delete_leaves_who_and_when() {
        let edited = amended(LINE.as_bytes(), br#""new""#, 9);
        assert_eq!(
            text(blanked(&edited)),
            r#"{"t":"msg","r":"a","s":5,"id":"x","u":"ann","ts":7,"d":null,"re":3,"gone":true}"#
        );
    }

    #[test]
    fn all_strings_in_the_data_are_words() {
        assert_eq!(words_of(br#""one two""#), "one two");
        assert_eq!(words_of(br#"{"text":"one","n":5,"more":["two",null,{"x":"three"}]}"#), "one two three");
        assert_eq!(words_of(b"17"), "");
    }

    #[test]
    fn who_is_called_by_name() {
        let of = |data: &str| -> Vec<String> {
            mentions_in(data.as_bytes()).iter().map(|user| user.as_str().to_owned()).collect()
        };
        assert_eq!(of(r#""hi @ann, @bob-2. and (@ann)""#), ["ann", "bob-2"]);
        assert_eq!(of(r#"{"text":"@zoë!","to":"x@y.org"}"#), ["zoë"]);
        assert_eq!(of(r#""a @ b @@ @""#), Vec::<String>::new());
        assert_eq!(
            of(&format!("\"{}\"", (0..99).map(|n| format!("@u{n} ")).collect::<String>())).len(),
            MENTIONS_MAX
        );
    }
}
