//! Words for the search: how text is cut into them, how they stand in the index, and what a typed search asks
//! the index. Knows no record.
//!
//! The index (FTS5, table `words`) keeps only which rows have a word. Its row number holds room and offset, so
//! that the hits of a room lie side by side and a search in one room never walks those of another.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};
use unicode_normalization::UnicodeNormalization;

use crate::chat::line;
use crate::chat::message::Offset;

/// Bits of a row number that hold the offset; the 28 above them hold the number of the room. 34 billion
/// entries a room and 268 million rooms are more than one SQLite file has place for.
const OFFSET_BITS: u32 = 35;
/// A longer word is cut here, in bytes, in the index and in a search.
const WORD_BYTES_MAX: usize = 64;
/// Words of a search that count; more are left out.
const SEARCH_WORDS_MAX: usize = 32;
/// Letters from which on the last word of a search may be the start of one.
const START_LETTERS_MIN: usize = 3;
/// Words that a start stands for, at most: each costs about a tenth of a millisecond to find.
const STARTS_MAX: usize = 32;

/// The words of the index in their order, for a reading connection.
pub const VOCABULARY: &str =
    "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab ('main', 'words', 'instance')";

/// The row of an entry in the index; none where the numbers are too large, then it cannot be found.
pub fn row_of(room: i64, offset: Offset) -> Option<i64> {
    let fits = room < 1 << (63 - OFFSET_BITS) && offset < 1 << OFFSET_BITS;
    fits.then_some((room << OFFSET_BITS) | offset as i64)
}

/// The offset in a row number.
pub fn offset_of(row: i64) -> Offset {
    (row & ((1 << OFFSET_BITS) - 1)) as Offset
}

/// The words of a line's data in the form of the index, with a space between; empty for none.
pub fn of_line(line: &[u8]) -> String {
    line::data_of(line).map(|data| indexed(&line::words_of(data))).unwrap_or_default()
}

fn indexed(text: &str) -> String {
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
enum Wanted {
    /// This word.
    Word(String),
    /// A word that begins so: the last one of a text that is still being typed.
    Start(String),
}

/// What a search asks the index: every word quoted, so that nothing in it is syntax. None when there is no word
/// to look for, or none that the index has.
pub fn search(db: &Connection, text: &str) -> Result<Option<String>, rusqlite::Error> {
    let mut terms = Vec::new();
    for wanted in wanted(text) {
        match wanted {
            Wanted::Word(word) => terms.push(format!("\"{word}\"")),
            Wanted::Start(start) => {
                let words = beginning_with(db, &start)?;
                if words.is_empty() {
                    return Ok(None);
                }
                terms.push(format!("(\"{}\")", words.join("\" OR \"")));
            }
        }
    }
    Ok((!terms.is_empty()).then(|| terms.join(" AND ")))
}

fn wanted(text: &str) -> Vec<Wanted> {
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

/// Words of the index that begin so, by the alphabet, a bounded number; the word itself is the first. FTS5 itself
/// would gather the hits of all such words in all rooms before the first one is known.
fn beginning_with(db: &Connection, start: &str) -> Result<Vec<String>, rusqlite::Error> {
    let mut words: Vec<String> = Vec::new();
    let mut look = db.prepare_cached("SELECT term FROM temp.vocabulary WHERE term >= ?1 LIMIT 1")?;
    let mut from = start.to_owned();
    while words.len() < STARTS_MAX {
        let found = look.query_row([&from], |row| row.get(0)).optional()?;
        let Some(word) = found.filter(|word: &String| word.starts_with(start)) else { break };
        // No word has this character, so nothing lies between. `term > ?` would pass every hit of the word.
        from = format!("{word}\u{1}");
        words.push(word);
    }
    Ok(words)
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

/// The changes of the index that belong to one transaction. Put together first, so that words which come and
/// go within it are never written.
#[derive(Debug, Default)]
pub struct WordChanges(HashMap<i64, Change>);

#[derive(Debug)]
struct Change {
    /// What the index has; none for a new row.
    old: Option<String>,
    /// What it is to have; none for nothing.
    new: Option<String>,
}

impl WordChanges {
    /// A new row.
    pub fn add(&mut self, row: i64, words: String) {
        self.0.insert(row, Change { old: None, new: Some(words) });
    }

    /// A row that had words gets others; none to take it out.
    pub fn replace(&mut self, row: i64, old: String, new: Option<String>) {
        match self.0.get_mut(&row) {
            Some(change) => change.new = new,
            None => {
                self.0.insert(row, Change { old: Some(old), new });
            }
        }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// As [`WordChanges::write`], but what goes is only marked in the index, until its parts are merged.
    pub fn mark_gone(self, db: &Connection) -> Result<(), rusqlite::Error> {
        // Each change of the setting writes out what came before it.
        let mut secure = db.prepare_cached("INSERT INTO words (words, rank) VALUES ('secure-delete', ?1)")?;
        secure.execute([0])?;
        self.write(db)?;
        secure.execute([1])?;
        Ok(())
    }

    /// Writes all: first what goes, then what comes, each by rising row; FTS5 wants it so, or it starts a new
    /// segment of the index for every row. Whether words went.
    pub fn write(self, db: &Connection) -> Result<bool, rusqlite::Error> {
        let mut rows: Vec<(i64, Change)> = self.0.into_iter().collect();
        rows.sort_unstable_by_key(|(row, _)| *row);
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let mut gone = false;
        for (row, change) in rows.iter().filter(|(_, change)| given(&change.old)) {
            gone = true;
            db.prepare_cached("INSERT INTO words (words, rowid, text) VALUES ('delete', ?1, ?2)")?
                .execute((row, &change.old))?;
        }
        let mut insert = db.prepare_cached("INSERT INTO words (rowid, text) VALUES (?1, ?2)")?;
        for (row, change) in rows.iter().filter(|(_, change)| given(&change.new)) {
            insert.execute((row, &change.new))?;
        }
        Ok(gone)
    }
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

    #[test]
    fn a_start_stands_for_the_words_that_begin_so() {
        let db = Connection::open_in_memory().unwrap();
        let index = "CREATE VIRTUAL TABLE words USING fts5 (text, content = '', columnsize = 0, detail = none, \
                     tokenize = 'ascii')";
        db.execute_batch(&format!("{index}; {VOCABULARY};")).unwrap();
        let mut changes = WordChanges::default();
        changes.add(1, indexed("invoice Invoices other"));
        changes.add(2, indexed("invoiced invoice äußern"));
        changes.write(&db).unwrap();
        assert_eq!(beginning_with(&db, "invoice").unwrap(), ["invoice", "invoiced", "invoices"]);
        assert_eq!(beginning_with(&db, "auß").unwrap(), ["außern"]);
        assert_eq!(
            search(&db, "Other INVO").unwrap().unwrap(),
            r#""other" AND ("invoice" OR "invoiced" OR "invoices")"#
        );
        assert_eq!(search(&db, "other nothingsuch").unwrap(), None);
        assert_eq!(search(&db, "*").unwrap(), None);
        let many: Vec<String> = (0..99).map(|n| format!("many{n}")).collect();
        let mut changes = WordChanges::default();
        changes.add(3, many.join(" "));
        changes.write(&db).unwrap();
        assert_eq!(beginning_with(&db, "many").unwrap().len(), STARTS_MAX);
    }

    #[test]
    fn a_row_holds_room_and_offset() {
        let row = row_of(7, 1 << 34).unwrap();
        assert_eq!(offset_of(row), 1 << 34);
        assert!(row_of(7, 5).unwrap() < row && row < row_of(8, 1).unwrap());
        assert_eq!(row_of(1 << 28, 1), None);
        assert_eq!(row_of(1, 1 << 35), None);
    }
}
