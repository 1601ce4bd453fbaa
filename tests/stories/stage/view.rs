//! A room's log as a client has it that keeps to the protocol page: every place with its line, edits and
//! deletes carried out. Two clients who know the same places have the same bytes, however they came by them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::guest::{Guest, Line};

/// Places of one room from the first to the last without a hole.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By place, the line without its room; none where nothing stands any more.
    pub lines: BTreeMap<u64, Option<String>>,
    /// By message, the newest edit.
    edits: BTreeMap<u64, u64>,
}

/// A page of the log, its entries as they came.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    list: Vec<&'a RawValue>,
    more: bool,
}

/// The direction in which a log is paged through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Backwards,
    Forwards,
}

impl View {
    /// The last place.
    pub fn last(&self) -> u64 {
        self.lines.last_key_value().map_or(0, |(place, _)| *place)
    }

    /// One more line of the stream, without its room. It has to stand right behind the last.
    pub fn takes(&mut self, line: &str) {
        let read = Line::of(line.to_owned());
        let (place, t) = (read.s(), read.t().to_owned());
        if !self.lines.is_empty() {
            assert_eq!(place, self.last() + 1, "a hole or an overlap: {line}");
        }
        match t.as_str() {
            "skip" => {
                self.lines.extend((place..place + read.number("n")).map(|place| (place, None)));
                return;
            }
            "edit" | "del" => self.changes(&read, t == "del"),
            "msg" | "react" => {}
            _ => panic!("no entry: {line}"),
        }
        self.lines.insert(place, Some(line.to_owned()));
    }

    fn changes(&mut self, change: &Line, is_delete: bool) {
        let (of, place) = (change.number("of"), change.s());
        let before = match is_delete {
            true => self.edits.remove(&of),
            false => self.edits.insert(of, place),
        };
        if let Some(replaced) = before {
            self.lines.insert(replaced, None);
        }
        let Some(Some(message)) = self.lines.get_mut(&of) else { return };
        let (data, note) = match is_delete {
            true => ("null", "\"gone\":true".to_owned()),
            false => (data_of(&change.raw), format!("\"edited\":{place}")),
        };
        *message = rewritten(message, data, &note);
    }

    /// Takes what a guest hears of a room, up to a place.
    pub async fn follows(&mut self, guest: &mut Guest, room: &str, upto: u64) {
        while self.last() < upto {
            let is_entry = |line: &Line| {
                matches!(line.t(), "msg" | "edit" | "del" | "react" | "skip") && line.json["r"] == room
            };
            let line = guest.claims(&format!("what stands behind {}", self.last()), is_entry).await;
            self.takes(&without_room(&line.raw, room));
        }
    }

    /// The whole log of a room, read in pages.
    pub async fn of_pages(guest: &mut Guest, room: &str, n: usize, way: Way) -> View {
        let (mut pages, mut end) = (Vec::new(), None);
        loop {
            let mut ask = json!({"t": "log", "r": room, "n": n});
            match (way, end) {
                (Way::Backwards, None) => {}
                (Way::Backwards, Some(end)) => ask["before"] = json!(end),
                (Way::Forwards, end) => ask["after"] = json!(end.unwrap_or(0)),
            }
            let (list, more) = page(guest, ask).await;
            let places = |line: &String| Line::of(line.clone()).s();
            assert!(list.len() <= n && (!more || !list.is_empty()), "{} entries, more: {more}", list.len());
            end = match way {
                Way::Backwards => list.first().map(places),
                Way::Forwards => list.last().map(places),
            };
            pages.push(list);
            if !more {
                break;
            }
        }
        if way == Way::Backwards {
            pages.reverse();
        }
        let mut view = View::default();
        for line in pages.iter().flatten() {
            view.takes(line);
        }
        view
    }

    /// Fails unless both know the same places with the same bytes; says the first difference.
    pub fn is_the_same_as(&self, other: &View, who: &str) {
        for (place, line) in &self.lines {
            assert_eq!(other.lines.get(place), Some(line), "{who} at {place}");
        }
        assert_eq!((self.lines.len(), self.last()), (other.lines.len(), other.last()), "{who}");
    }

    /// What stands at a place, as JSON; null where nothing does.
    pub fn at(&self, place: u64) -> Value {
        match self.lines.get(&place) {
            Some(Some(line)) => Line::of(line.clone()).json,
            _ => Value::Null,
        }
    }
}

/// A page: its entries as they came, and whether there are more.
pub async fn page(guest: &mut Guest, ask: Value) -> (Vec<String>, bool) {
    let answer = guest.asks(ask).await;
    assert_eq!(answer.t(), "page", "{}", answer.raw);
    let page: Page = serde_json::from_str(&answer.raw).unwrap_or_else(|e| panic!("{e}: {}", answer.raw));
    (page.list.iter().map(|entry| entry.get().to_owned()).collect(), page.more)
}

/// A line as it stands in a page.
pub fn without_room(line: &str, room: &str) -> String {
    let name = format!(",\"r\":{}", json!(room));
    assert!(line.contains(&name), "not of {room}: {line}");
    line.replacen(&name, "", 1)
}

/// The data in a line, as it is written.
fn data_of(line: &str) -> &str {
    let (start, end) = place_of_data(line);
    &line[start..end]
}

fn place_of_data(line: &str) -> (usize, usize) {
    const KEY: &str = ",\"d\":";
    let start = line.find(KEY).unwrap_or_else(|| panic!("no data: {line}")) + KEY.len();
    let mut values = serde_json::Deserializer::from_str(&line[start..]).into_iter::<IgnoredAny>();
    assert!(matches!(values.next(), Some(Ok(_))), "no data: {line}");
    (start, start + values.byte_offset())
}

/// A message's line with other data and a note at its end in place of an earlier one.
fn rewritten(line: &str, data: &str, note: &str) -> String {
    let (start, end) = place_of_data(line);
    let rest = &line[end..line.len() - 1];
    let rest = ["edited", "gone"].iter().fold(rest, |rest, key| match rest.find(&format!(",\"{key}\":")) {
        Some(at) => &rest[..at],
        None => rest,
    });
    format!("{}{data}{rest},{note}}}", &line[..start])
}
