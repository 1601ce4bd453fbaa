//! How words stand in the search index, and what a typed search asks it. How text is cut into words is the same
//! for every archive.
//!
//! Each word stands there with the number of its room before it (`7/hello`): the index then has the hits of each
//! room by themselves, and a search in one room never walks those of others, also not for the start of a word.

use crate::store::words::{self, Wanted, wanted};

/// Bytes of words that one entry may have in the index; a `tsvector` takes no mebibyte
/// (<https://www.postgresql.org/docs/current/textsearch-limitations.html>). What is behind is not found.
const BYTES_MAX: usize = 900_000;

/// The words of a line's data with their room, with a space between; none for none.
pub fn of_line(room: i64, line: &[u8]) -> Option<String> {
    let text = words::of_line(line);
    let mut all = String::with_capacity(text.len() * 2);
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if all.len() + word.len() + 24 > BYTES_MAX {
            break;
        }
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&format!("{room}/{word}"));
    }
    (!all.is_empty()).then_some(all)
}

/// What a typed search asks the index, as a `tsquery`: every word quoted, so that nothing in it is syntax. None
/// when there is no word to look for.
pub fn search(room: i64, typed: &str) -> Option<String> {
    let terms: Vec<String> = wanted(typed)
        .into_iter()
        .map(|wanted| match wanted {
            Wanted::Word(word) => quoted(room, &word),
            Wanted::Start(start) => quoted(room, &start) + ":*",
        })
        .collect();
    (!terms.is_empty()).then(|| terms.join(" & "))
}

/// Words have neither quotes nor backslashes in them; that is not relied on.
fn quoted(room: i64, word: &str) -> String {
    format!("'{room}/{}'", word.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_with_their_room() {
        let line = br#"{"t":"msg","r":"a","s":1,"d":"Hello, World"}"#;
        assert_eq!(of_line(7, line).as_deref(), Some("7/hello 7/world"));
        assert_eq!(of_line(7, br#"{"t":"msg","d":"-- !"}"#), None);
        let long: Vec<String> = (0..200_000).map(|n| format!("word{n}")).collect();
        let line = format!(r#"{{"t":"msg","d":"{}"}}"#, long.join(" "));
        assert!(of_line(7, line.as_bytes()).is_some_and(|words| words.len() < BYTES_MAX));
    }

    #[test]
    fn nothing_typed_is_syntax() {
        assert_eq!(search(7, "hello wor").as_deref(), Some("'7/hello' & '7/wor':*"));
        assert_eq!(search(7, "hello wo").as_deref(), Some("'7/hello' & '7/wo'"));
        assert_eq!(search(7, "a' | 'b:* & !c").as_deref(), Some("'7/a' & '7/b' & '7/c'"));
        assert_eq!(search(7, "'\\ \" &"), None);
        assert_eq!(quoted(7, r"a'b\c"), r"'7/a''b\\c'");
    }
}
