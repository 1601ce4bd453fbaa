//! How words stand in the search index, and what a typed search asks it. Knows no record; how text is cut into
//! words is the same for every archive.
//!
//! The index (FTS5, table `words`) keeps only which rows have a word. Its row number holds room and offset, so
//! that the hits of a room lie side by side and a search in one room never walks those of another.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use crate::chat::message::Offset;
use crate::store::words::{Wanted, wanted};

/// Bits of a row number that hold the offset; the 28 above them hold the number of the room. 34 billion
/// entries a room and 268 million rooms are more than one SQLite file has place for.
const OFFSET_BITS: u32 = 35;
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
    use crate::store::words::indexed;

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
