//! How text is cut into words for the search, and what a typed search wants: the same for every archive, so that
//! all of them find the same. Knows no index.

use unicode_normalization::UnicodeNormalization;

use crate::chat::line;

/// A longer word is cut here, in bytes, in the index and in a search.
const WORD_BYTES_MAX: usize = 64;
/// Words of a search that count; more are left out.
const SEARCH_WORDS_MAX: usize = 32;
/// Letters from which on the last word of a search may be the start of one.
const START_LETTERS_MIN: usize = 3;

/// The words of a line's data in the form of the index, with a space between; empty for none.
pub fn of_line(line: &[u8]) -> String {
    line::data_of(line).map(|data| indexed(&line::words_of(data))).unwrap_or_default()
}

/// The words of a text, with a space between.
pub fn indexed(text: &str) -> String {
    let folded = fold(text);
    let mut all = String::with_capacity(folded.len() + 8);
    let mut add = |word: &str| {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(word);
    };
    for piece in pieces(&folded) {
        match piece {
            Piece::Word(word) => add(word),
            Piece::Run(run) => {
                pairs(run).for_each(&mut add);
                letters(run).for_each(&mut add);
            }
        }
    }
    all
}

/// One of the words that a search wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This word.
    Word(String),
    /// A word that begins so: the last one of a text that is still being typed.
    Start(String),
}

/// The words that a typed text wants; all of them must occur. Its last word may be the start of one, if nothing
/// stands behind it.
pub fn wanted(text: &str) -> Vec<Wanted> {
    let folded = fold(text);
    let end = folded.as_bytes().as_ptr_range().end;
    let mut all = Vec::new();
    for piece in pieces(&folded) {
        match piece {
            Piece::Word(word) => {
                let is_open = word.as_bytes().as_ptr_range().end == end;
                let is_start = is_open && word.chars().nth(START_LETTERS_MIN - 1).is_some();
                let word = word.to_owned();
                all.push(if is_start { Wanted::Start(word) } else { Wanted::Word(word) });
            }
            Piece::Run(run) if run.chars().nth(1).is_none() => all.push(Wanted::Word(run.to_owned())),
            Piece::Run(run) => all.extend(pairs(run).map(|pair| Wanted::Word(pair.to_owned()))),
        }
    }
    all.truncate(SEARCH_WORDS_MAX);
    all
}

/// Lower case, without accents, compatible forms made one; so `Ｃafé` is found by `cafe`.
fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let is_accent = |c: &char| ('\u{300}'..='\u{36f}').contains(c);
    text.nfkd().flat_map(char::to_lowercase).filter(|c| !is_accent(c)).nfc().collect()
}

/// A part of a text that words are made of.
enum Piece<'a> {
    /// A word, at most [`WORD_BYTES_MAX`] bytes of it.
    Word(&'a str),
    /// Letters of a script that puts no space between words. Every two neighbours stand in the index as a
    /// word, and every one alone.
    Run(&'a str),
}

fn pieces(folded: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, bool)> = None;
    for (at, c) in folded.char_indices() {
        // A mark belongs to the letter before it.
        let is_mark = open.is_some() && unicode_normalization::char::is_combining_mark(c);
        let kind = (is_mark || c.is_alphanumeric()).then(|| match open {
            Some((_, run)) if is_mark => run,
            _ => is_unspaced(c),
        });
        if kind == open.map(|(_, run)| run) {
            continue;
        }
        found.extend(open.map(|(from, run)| piece(&folded[from..at], run)));
        open = kind.map(|run| (at, run));
    }
    found.extend(open.map(|(from, run)| piece(&folded[from..], run)));
    found
}

fn piece(text: &str, run: bool) -> Piece<'_> {
    if run {
        return Piece::Run(text);
    }
    let mut end = text.len().min(WORD_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Piece::Word(&text[..end])
}

/// Chinese, Japanese, and the scripts of South East Asia.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{2e80}'..='\u{312f}' | '\u{31a0}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn pairs(run: &str) -> impl Iterator<Item = &str> {
    let ends = run.char_indices().skip(1).map(|(at, c)| at + c.len_utf8());
    run.char_indices().zip(ends).map(|((from, _), to)| &run[from..to])
}

fn letters(run: &str) -> impl Iterator<Item = &str> {
    run.char_indices().map(|(at, c)| &run[at..at + c.len_utf8()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_words() {
        for (text, words) in [
            ("Hello, World-wide 42!", "hello world wide 42"),
            ("Ｃafé ÄRGER ﬁn Straße", "cafe arger fin straße"),
            ("東京都 x", "東京 京都 東 京 都 x"),
            ("abc日本def", "abc 日本 日 本 def"),
            ("हिन्दी", "हिन्दी"),
            ("-- \"*\" ()", ""),
        ] {
            assert_eq!(indexed(text), words, "{text}");
        }
        assert_eq!(indexed(&"ä".repeat(99)), "a".repeat(64));
    }

    #[test]
    fn what_is_typed_becomes_words() {
        let asked = |text: &str| {
            let text_of = |wanted| match wanted {
                Wanted::Word(word) => word,
                Wanted::Start(start) => format!("{start}…"),
            };
            wanted(text).into_iter().map(text_of).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(asked("Hello wor"), "hello wor…");
        assert_eq!(asked("hello wor "), "hello wor");
        assert_eq!(asked("hello wo"), "hello wo", "too short for a start");
        assert_eq!(asked("a\" OR text:b* NOT (c)"), "a or text b not c");
        assert_eq!(asked("東"), "東");
        assert_eq!(asked("東京都"), "東京 京都");
        assert_eq!(asked(" \"*\" "), "");
        assert_eq!(wanted(&"x ".repeat(99)).len(), SEARCH_WORDS_MAX);
    }
}
