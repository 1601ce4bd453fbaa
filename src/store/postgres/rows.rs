//! Rows of the table `entries` in a transaction: read together, changed in memory, written together. Called by
//! what applies records.

use std::collections::{HashMap, HashSet};

use crate::chat::entry::{Entry, Kind};
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{MessageId, UserName};
use crate::store::ids::IdKey;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::postgres::rooms::number;
use crate::store::postgres::words;
use crate::store::rooms::{Room, stored};

/// A row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The life of the log.
    pub epoch: Epoch,
    /// `msg`, `edit`, `del`, `react`.
    pub kind: String,
    /// Offset of the newest edit; 0 for none.
    pub edited: Offset,
    /// A deleted message, or an edit whose words do not count any more.
    pub gone: bool,
    /// What readers get.
    pub line: Option<String>,
    ts: u64,
    user: Option<String>,
    id: Option<String>,
    number: Option<i64>,
    of: Offset,
    /// Words with the room before each.
    words: Option<String>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As in the table.
    Loaded,
    /// In the table, and different.
    Changed,
    /// Not in the table.
    New,
}

impl Row {
    /// What becomes of an entry.
    pub fn new(room: &Room, entry: &Entry, line_gone: bool, ids: IdKey) -> Row {
        let number = entry.id.as_ref().map(|id| ids.number(room.id, entry.user.as_ref(), id));
        let is_message = entry.kind == Kind::Message;
        Row {
            epoch: entry.epoch,
            ts: entry.ts,
            kind: entry.kind.word().to_owned(),
            user: entry.user.as_ref().map(|user| user.as_str().to_owned()),
            id: entry.id.as_ref().map(|id| MessageId::as_str(id).to_owned()),
            number,
            of: entry.of,
            edited: 0,
            gone: line_gone,
            line: (!line_gone).then(|| line_text(&entry.line)),
            words: if is_message { words::of_line(room.id, &entry.line) } else { None },
            state: State::New,
        }
    }

    /// Bytes of its line.
    pub fn line_bytes(&self) -> u64 {
        self.line.as_ref().map_or(0, |line| line.len() as u64)
    }

    /// Another line, with its words in the index or with none.
    pub fn set_line(&mut self, room: i64, line: &[u8], with_words: bool) {
        self.words = if with_words { words::of_line(room, line) } else { None };
        self.line = Some(line_text(line));
    }

    /// Whether this is the row of this very entry, whatever has changed it since.
    pub fn is_of(&self, entry: &Entry) -> bool {
        self.epoch == entry.epoch
            && self.ts == entry.ts
            && self.kind == entry.kind.word()
            && self.user.as_deref() == entry.user.as_ref().map(UserName::as_str)
            && (self.edited > 0 || self.gone || self.line.as_deref() == Some(&line_text(&entry.line)))
    }
}

/// A line is JSON and so text without the character NUL; whatever else came here is made so.
fn line_text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.into_owned() }
}

/// The rows of a transaction, by room and offset.
#[derive(Debug, Default)]
pub struct Rows(HashMap<(i64, Offset), Row, ahash::RandomState>);

impl Rows {
    /// Reads rows, those that are there, and the newest edit of each.
    pub async fn load(session: &Session, wanted: HashSet<(i64, Offset)>) -> Result<Rows, Trouble> {
        let mut rows = Rows::default();
        rows.read(session, wanted).await?;
        let edits =
            rows.0.iter().filter(|(_, row)| row.edited > 0).map(|((room, _), row)| (*room, row.edited));
        let edits = edits.filter(|place| !rows.0.contains_key(place)).collect();
        rows.read(session, edits).await?;
        Ok(rows)
    }

    async fn read(&mut self, session: &Session, wanted: HashSet<(i64, Offset)>) -> Result<(), Trouble> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (rooms, places): (Vec<i64>, Vec<i64>) = wanted.into_iter().map(|(r, s)| (r, stored(s))).unzip();
        // The OFFSET keeps the look-ups what they are: one by one through the key.
        let sql = "SELECT room, s, e, ts, kind, u, of, edited, gone, line \
                   FROM unnest($1::int8[], $2::int8[]) AS wanted (r, o) CROSS JOIN LATERAL \
                   (SELECT * FROM entries WHERE room = r AND s = o OFFSET 0) AS found";
        for row in session.query(sql, &[&rooms, &places]).await? {
            let found = Row {
                epoch: Epoch(number(&row, 2)),
                ts: number(&row, 3),
                kind: row.get(4),
                user: row.get(5),
                id: None,
                number: None,
                of: number(&row, 6),
                edited: number(&row, 7),
                gone: row.get(8),
                line: row.get(9),
                words: None,
                state: State::Loaded,
            };
            self.0.insert((row.get(0), number(&row, 1)), found);
        }
        Ok(())
    }

    /// The row at a place.
    pub fn get(&self, room: i64, offset: Offset) -> Option<&Row> {
        self.0.get(&(room, offset))
    }

    /// The same, to be changed. Who changes a loaded row sets its words anew, or it has none.
    pub fn change(&mut self, room: i64, offset: Offset) -> Option<&mut Row> {
        let row = self.0.get_mut(&(room, offset))?;
        if row.state == State::Loaded {
            row.state = State::Changed;
        }
        Some(row)
    }

    /// A new row.
    pub fn insert(&mut self, room: i64, offset: Offset, row: Row) {
        self.0.insert((room, offset), row);
    }

    /// Writes new and changed rows.
    pub async fn write(&self, session: &Session) -> Result<(), Trouble> {
        self.write_new(session).await?;
        self.write_changed(session).await
    }

    fn of_state(&self, state: State) -> Vec<(&(i64, Offset), &Row)> {
        let mut rows: Vec<_> = self.0.iter().filter(|(_, row)| row.state == state).collect();
        rows.sort_unstable_by_key(|(place, _)| **place);
        rows
    }

    async fn write_new(&self, session: &Session) -> Result<(), Trouble> {
        let rows = self.of_state(State::New);
        if rows.is_empty() {
            return Ok(());
        }
        let numbers = |value: &dyn Fn(&(i64, Offset), &Row) -> i64| -> Vec<i64> {
            rows.iter().map(|(place, row)| value(place, row)).collect()
        };
        let texts = |value: fn(&Row) -> Option<&str>| -> Vec<Option<&str>> {
            rows.iter().map(|(_, row)| value(row)).collect()
        };
        let hashes: Vec<Option<i64>> = rows.iter().map(|(_, row)| row.number).collect();
        let gone: Vec<bool> = rows.iter().map(|(_, row)| row.gone).collect();
        let sql = "INSERT INTO entries (room, s, e, ts, kind, u, id, h, of, edited, gone, line, words) \
                   SELECT room, s, e, ts, kind, u, id, h, of, edited, gone, line, \
                   array_to_tsvector(string_to_array(words, ' ')) \
                   FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::text[], \
                   $8::int8[], $9::int8[], $10::int8[], $11::bool[], $12::text[], $13::text[]) \
                   AS new (room, s, e, ts, kind, u, id, h, of, edited, gone, line, words)";
        session
            .execute(
                sql,
                &[
                    &numbers(&|(room, _), _| *room),
                    &numbers(&|(_, s), _| stored(*s)),
                    &numbers(&|_, row| stored(row.epoch.0)),
                    &numbers(&|_, row| stored(row.ts)),
                    &texts(|row| Some(&row.kind)),
                    &texts(|row| row.user.as_deref()),
                    &texts(|row| row.id.as_deref()),
                    &hashes,
                    &numbers(&|_, row| stored(row.of)),
                    &numbers(&|_, row| stored(row.edited)),
                    &gone,
                    &texts(|row| row.line.as_deref()),
                    &texts(|row| row.words.as_deref()),
                ],
            )
            .await?;
        Ok(())
    }

    async fn write_changed(&self, session: &Session) -> Result<(), Trouble> {
        let rows = self.of_state(State::Changed);
        if rows.is_empty() {
            return Ok(());
        }
        let rooms: Vec<i64> = rows.iter().map(|((room, _), _)| *room).collect();
        let places: Vec<i64> = rows.iter().map(|((_, s), _)| stored(*s)).collect();
        let edited: Vec<i64> = rows.iter().map(|(_, row)| stored(row.edited)).collect();
        let gone: Vec<bool> = rows.iter().map(|(_, row)| row.gone).collect();
        let lines: Vec<Option<&str>> = rows.iter().map(|(_, row)| row.line.as_deref()).collect();
        let words: Vec<Option<&str>> = rows.iter().map(|(_, row)| row.words.as_deref()).collect();
        let sql = "UPDATE entries SET edited = new.edited, gone = new.gone, line = new.line, \
                   words = array_to_tsvector(string_to_array(new.words, ' ')) \
                   FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::bool[], $5::text[], $6::text[]) \
                   AS new (room, s, edited, gone, line, words) \
                   WHERE entries.room = new.room AND entries.s = new.s";
        session.execute(sql, &[&rooms, &places, &edited, &gone, &lines, &words]).await?;
        Ok(())
    }
}
