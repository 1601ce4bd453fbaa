//! Where one reader over HTTP stands, followed line by line as its lines leave: so each event can carry the cursor
//! from which to go on behind it, and each poll can say from where to poll next. Called by whoever writes the lines of
//! such a reader. Reads a line only as far as its first keys, because the rest is the sender's and may be long.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::protocols::cursor::{self, Cursor, Moved, ROOMS_MAX};
use crate::protocols::native_frames::write_text;

/// What a line means to a reader of one or several rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It belongs to the log: the reader stands elsewhere now.
    Entry,
    /// A room that is entered; whether something is missing before its replay.
    Joined {
        /// Whether the reader knew a place in that room.
        known: bool,
        /// Whether it is told that something is missing.
        missing: bool,
    },
    /// The replay of a room is over.
    Live {
        /// Whether the log has a new life.
        renewed: bool,
    },
    /// A room cannot be entered, or something else went wrong.
    Refused,
    /// State: who is here, who is typing, how far somebody has read.
    State,
    /// How far the readers of a room have got.
    Receipt,
    /// Who the reader is.
    Welcome,
    /// The answer to a ping.
    Pong,
    /// The last word.
    Bye,
    /// Anything else.
    Other,
}

/// One room of a reader.
#[derive(Debug)]
struct Place {
    room: RoomName,
    /// The name as it stands in lines, with its quotes.
    json: Box<[u8]>,
    coded: Box<str>,
    mark: u32,
    /// Empty while nothing of the room has come and no place in it was known.
    epoch: Box<str>,
    /// The epoch that a kept session has; empty while it is not known.
    kept_epoch: Box<str>,
    offset: Offset,
    /// A place in it was known before the reader came.
    known: bool,
    /// It has moved since the session's rooms were kept.
    moved: bool,
}

/// Where a reader stands in all its rooms.
#[derive(Debug, Default)]
pub struct Standing {
    places: Vec<Place>,
    /// The session that stands for the rooms, where these are too many to be named.
    session: Option<Box<str>>,
    /// What has moved in a session that is gone on with, in rooms that have not been entered again yet.
    before: Vec<Moved>,
    /// Whether the rooms are too many to be named.
    many: bool,
}

/// The keys of the lines that are not read by hand.
#[derive(Deserialize)]
struct Keys<'a> {
    s: Option<Offset>,
    e: Option<String>,
    n: Option<u64>,
    session: Option<String>,
    #[serde(borrow)]
    missing: Option<&'a RawValue>,
}

impl Standing {
    /// A reader who is on the way into these rooms, from where it says that it stands.
    pub fn new(rooms: &[RoomName], from: Option<&Cursor>) -> Standing {
        let mut standing = Standing { many: rooms.len() > ROOMS_MAX, ..Standing::default() };
        for room in rooms {
            standing.add(room.clone());
        }
        match from {
            Some(Cursor::Rooms(stands)) => {
                for stand in stands {
                    if let Some(place) = standing.places.iter_mut().find(|place| place.room == stand.room) {
                        (place.epoch, place.offset, place.known) = (stand.epoch.clone(), stand.offset, true);
                    }
                }
            }
            Some(Cursor::Session { name, moved }) => {
                standing.many = true;
                standing.session = Some(name.clone());
                standing.before.clone_from(moved);
                // What is kept of the others the server knows; here they count as known all the same.
                standing.places.iter_mut().for_each(|place| place.known = true);
            }
            None => {}
        }
        standing
    }

    fn add(&mut self, room: RoomName) -> usize {
        let mut json = Vec::with_capacity(room.as_str().len() + 2);
        write_text(&mut json, room.as_str());
        self.places.push(Place {
            json: json.into(),
            coded: cursor::coded(&room),
            mark: cursor::mark_of(&room),
            epoch: "".into(),
            kept_epoch: "".into(),
            offset: 0,
            known: false,
            moved: false,
            room,
        });
        self.places.len() - 1
    }

    /// A line is on its way: what it means, and whether the cursor is another one behind it.
    pub fn note(&mut self, line: &[u8]) -> (Meaning, bool) {
        let Some((t, rest)) = type_of(line) else { return (Meaning::Other, false) };
        match t {
            b"msg" | b"edit" | b"del" | b"react" => (Meaning::Entry, self.entry(rest)),
            b"joined" => self.joined(line, rest),
            b"live" => self.live(line, rest),
            b"skip" | b"gap" | b"rewind" => (Meaning::Entry, self.passed(t, line, rest)),
            b"pres" | b"typing" | b"read" => (Meaning::State, false),
            b"got" => (Meaning::Receipt, false),
            b"welcome" => (Meaning::Welcome, self.welcomed(line)),
            b"pong" => (Meaning::Pong, false),
            b"bye" => (Meaning::Bye, false),
            b"err" => (Meaning::Refused, false),
            _ => (Meaning::Other, false),
        }
    }

    /// The room that a line is about.
    pub fn room_of(&self, line: &[u8]) -> Option<&RoomName> {
        let (_, rest) = type_of(line)?;
        let (json, _) = room_in(rest)?;
        Some(&self.places[self.find(json)?].room)
    }

    fn find(&self, json: &[u8]) -> Option<usize> {
        self.places.iter().position(|place| *place.json == *json)
    }

    fn place(&mut self, rest: &[u8]) -> Option<&mut Place> {
        let (json, _) = room_in(rest)?;
        let at = self.find(json)?;
        Some(&mut self.places[at])
    }

    /// An entry: `,"r":"lobby","s":128,…`. Without an offset it has no place, and moves nobody.
    fn entry(&mut self, rest: &[u8]) -> bool {
        let Some((json, rest)) = room_in(rest) else { return false };
        let Some(offset) = number_in(rest, b",\"s\":") else { return false };
        let Some(at) = self.find(json) else { return false };
        let place = &mut self.places[at];
        let is_next = offset > place.offset;
        if is_next {
            (place.offset, place.moved) = (offset, true);
        }
        is_next
    }

    fn joined(&mut self, line: &[u8], rest: &[u8]) -> (Meaning, bool) {
        let nothing = (Meaning::Joined { known: false, missing: false }, false);
        let Some((json, _)) = room_in(rest) else { return nothing };
        let Ok(keys) = serde_json::from_slice::<Keys<'_>>(line) else { return nothing };
        let at = match self.find(json) {
            Some(at) => at,
            // A room of a session that is gone on with; only its server knew the name.
            None => {
                match serde_json::from_slice::<String>(json).ok().and_then(|name| RoomName::new(&name).ok()) {
                    Some(room) => {
                        let at = self.add(room);
                        self.places[at].known = self.session.is_some();
                        at
                    }
                    None => return nothing,
                }
            }
        };
        let place = &mut self.places[at];
        let start = keys.s.unwrap_or(0).saturating_sub(keys.n.unwrap_or(0));
        let epoch: Box<str> = keys.e.unwrap_or_default().into();
        (place.epoch, place.kept_epoch, place.offset) = (epoch.clone(), epoch, start);
        // What had moved before goes on standing in the cursor: what is kept of the session may be older than this.
        if let Some(at) = self.before.iter().position(|moved| moved.mark == place.mark) {
            self.before.swap_remove(at);
            place.moved = true;
            place.kept_epoch = "".into();
        }
        (Meaning::Joined { known: place.known, missing: keys.missing.is_some() }, true)
    }

    fn live(&mut self, line: &[u8], rest: &[u8]) -> (Meaning, bool) {
        let keys = serde_json::from_slice::<Keys<'_>>(line).ok();
        let (Some(keys), Some(place)) = (keys, self.place(rest)) else {
            return (Meaning::Live { renewed: false }, false);
        };
        let renewed = keys.e.is_some();
        if let Some(epoch) = keys.e {
            (place.epoch, place.moved) = (epoch.into(), true);
        }
        if keys.s.is_some_and(|head| head > place.offset) {
            (place.offset, place.moved) = (keys.s.unwrap_or_default(), true);
        }
        (Meaning::Live { renewed }, true)
    }

    /// Places that the reader does not get, or gets again.
    fn passed(&mut self, t: &[u8], line: &[u8], rest: &[u8]) -> bool {
        let keys = serde_json::from_slice::<Keys<'_>>(line).ok();
        let (Some(keys), Some(place)) = (keys, self.place(rest)) else { return false };
        let s = keys.s.unwrap_or(0);
        let offset = match t {
            b"skip" => Some(s + keys.n.unwrap_or(1).max(1) - 1),
            b"rewind" => Some(s),
            _ => keys
                .missing
                .and_then(|range| serde_json::from_str::<(Offset, Offset)>(range.get()).ok())
                .map(|(_, to)| to),
        };
        let Some(offset) = offset.filter(|offset| t == b"rewind" || *offset > place.offset) else {
            return false;
        };
        if let Some(epoch) = keys.e {
            place.epoch = epoch.into();
        }
        (place.offset, place.moved) = (offset, true);
        true
    }

    fn welcomed(&mut self, line: &[u8]) -> bool {
        let Ok(Keys { session: Some(session), .. }) = serde_json::from_slice::<Keys<'_>>(line) else {
            return false;
        };
        if self.session.as_deref().is_some_and(|known| known != session) {
            // The session that was asked for is not known any more; what stood in its rooms means nothing here.
            self.before.clear();
            self.places.iter_mut().for_each(|place| place.known = false);
        }
        self.session = Some(session.into());
        false
    }

    /// Writes the cursor; nothing while no place is known.
    pub fn write(&self, out: &mut Vec<u8>) {
        match (&self.session, self.many) {
            (Some(session), true) => self.write_session(out, session),
            (None, true) => {}
            (_, false) => {
                let known = self.places.iter().filter(|place| !place.epoch.is_empty());
                for (at, place) in known.enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    cursor::write_stand(out, &place.coded, &place.epoch, place.offset);
                }
            }
        }
    }

    fn write_session(&self, out: &mut Vec<u8>, session: &str) {
        cursor::write_session(out, session);
        for place in self.places.iter().filter(|place| place.moved) {
            let epoch = (place.epoch != place.kept_epoch).then_some(&*place.epoch);
            cursor::write_moved(out, place.mark, epoch, place.offset);
        }
        for moved in &self.before {
            cursor::write_moved(out, moved.mark, moved.epoch.as_deref(), moved.offset);
        }
    }

    /// Where it stands in each room of which a place is known.
    pub fn stands(&self) -> impl Iterator<Item = (&RoomName, Offset)> {
        self.places.iter().filter(|place| !place.epoch.is_empty()).map(|place| (&place.room, place.offset))
    }
}

/// The type of a line, and what stands behind it.
fn type_of(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(b"{\"t\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// The room behind a type, as JSON text, and what stands behind it.
fn room_in(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = rest.strip_prefix(b",\"r\":")?;
    let (mut escaped, mut at) = (false, 1);
    loop {
        match rest.get(at)? {
            b'"' if !escaped => return Some(rest.split_at(at + 1)),
            byte => escaped = !escaped && *byte == b'\\',
        }
        at += 1;
    }
}

fn number_in(rest: &[u8], key: &[u8]) -> Option<u64> {
    let rest = rest.strip_prefix(key)?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(names: &[&str]) -> Vec<RoomName> {
        names.iter().map(|name| RoomName::new(name).unwrap()).collect()
    }

    fn cursor_of(standing: &Standing) -> String {
        let mut out = Vec::new();
        standing.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Notes lines; the cursor behind each, or nothing where it did not change.
    fn follow(standing: &mut Standing, lines: &[(&str, Option<&str>)]) {
        for (line, expected) in lines {
            let (_, changed) = standing.note(line.as_bytes());
            let now = changed.then(|| cursor_of(standing));
            assert_eq!(now.as_deref(), *expected, "{line}");
        }
    }

    #[test]
    fn a_reader_stands_behind_each_line_that_has_a_place() {
        let mut standing = Standing::new(&rooms(&["lobby", "a\"b"]), None);
        follow(
            &mut standing,
            &[
                (r#"{"t":"welcome","v":1,"u":"ann","session":"s9"}"#, None),
                (r#"{"t":"joined","r":"lobby","s":127,"e":"k3f9","n":2,"who":3}"#, Some("lobby@k3f9-125")),
                (r#"{"t":"msg","r":"lobby","s":126,"id":"x","ts":1,"d":"\"s\":9"}"#, Some("lobby@k3f9-126")),
                (r#"{"t":"msg","r":"lobby","s":127,"id":"y","ts":1,"d":{"s":5}}"#, Some("lobby@k3f9-127")),
                (r#"{"t":"live","r":"lobby","s":127}"#, Some("lobby@k3f9-127")),
                (r#"{"t":"pres","r":"lobby","in":[],"out":[],"who":3}"#, None),
                (
                    r#"{"t":"joined","r":"a\"b","s":0,"e":"1","n":0,"who":1}"#,
                    Some("lobby@k3f9-127,a%22b@1-0"),
                ),
                (
                    r#"{"t":"react","r":"a\"b","s":1,"u":"ann","ts":1,"of":1,"k":"x"}"#,
                    Some("lobby@k3f9-127,a%22b@1-1"),
                ),
                (r#"{"t":"msg","r":"lobby","id":"z","ts":1,"d":"not kept"}"#, None),
                (r#"{"t":"skip","r":"lobby","s":128,"n":3}"#, Some("lobby@k3f9-130,a%22b@1-1")),
                (
                    r#"{"t":"gap","r":"lobby","missing":[131,140],"why":"slow"}"#,
                    Some("lobby@k3f9-140,a%22b@1-1"),
                ),
                (r#"{"t":"live","r":"lobby","s":140,"e":"k3g0"}"#, Some("lobby@k3g0-140,a%22b@1-1")),
                (r#"{"t":"rewind","r":"lobby","s":138,"e":"k3g1"}"#, Some("lobby@k3g1-138,a%22b@1-1")),
                (
                    r#"{"t":"edit","r":"lobby","s":139,"u":"ann","ts":1,"d":"x","of":126}"#,
                    Some("lobby@k3g1-139,a%22b@1-1"),
                ),
                (r#"{"t":"msg","r":"elsewhere","s":139,"id":"q","ts":1,"d":1}"#, None),
                ("not a line", None),
                (r#"{"t":"err","r":"lobby","code":403}"#, None),
            ],
        );
        assert_eq!(standing.room_of(br#"{"t":"live","r":"a\"b","s":1}"#).unwrap().as_str(), "a\"b");
    }

    #[test]
    fn what_was_known_stands_in_the_first_cursor() {
        let from = cursor::read("ops@91ab-7").unwrap();
        let mut standing = Standing::new(&rooms(&["lobby", "ops"]), Some(&from));
        assert_eq!(cursor_of(&standing), "ops@91ab-7");
        let (meaning, _) =
            standing.note(br#"{"t":"joined","r":"ops","s":9,"e":"z1","n":4,"missing":"all","was":"91ab"}"#);
        assert_eq!(meaning, Meaning::Joined { known: true, missing: true });
        assert_eq!(cursor_of(&standing), "ops@z1-5");
        let (meaning, _) = standing.note(br#"{"t":"joined","r":"lobby","s":9,"e":"k","n":0,"who":1}"#);
        assert_eq!(meaning, Meaning::Joined { known: false, missing: false });
        assert_eq!(cursor_of(&standing), "lobby@k-9,ops@z1-5");
    }

    #[test]
    fn many_rooms_are_named_by_a_session() {
        let names: Vec<String> = (0..9).map(|n| format!("room-{n}")).collect();
        let all = rooms(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut standing = Standing::new(&all, None);
        assert_eq!(cursor_of(&standing), "");
        standing.note(br#"{"t":"welcome","v":1,"u":"ann","session":"s9"}"#);
        for name in &names {
            standing.note(format!(r#"{{"t":"joined","r":"{name}","s":5,"e":"k","n":0,"who":1}}"#).as_bytes());
        }
        assert_eq!(cursor_of(&standing), "~s9");
        standing.note(br#"{"t":"msg","r":"room-3","s":6,"id":"x","ts":1,"d":1}"#);
        standing.note(br#"{"t":"live","r":"room-4","s":5,"e":"k2"}"#);
        let text = cursor_of(&standing);
        let Cursor::Session { moved, .. } = cursor::read(&text).unwrap() else { panic!("{text}") };
        let expected = [
            Moved { mark: cursor::mark_of(&all[3]), epoch: None, offset: 6 },
            Moved { mark: cursor::mark_of(&all[4]), epoch: Some("k2".into()), offset: 5 },
        ];
        assert_eq!(moved, expected);
        // Who goes on with it keeps what has moved, also before the rooms are entered again.
        let mut again = Standing::new(&[], Some(&cursor::read(&text).unwrap()));
        assert_eq!(cursor::read(&cursor_of(&again)), cursor::read(&text));
        again.note(br#"{"t":"welcome","v":1,"u":"ann","session":"s9"}"#);
        again.note(br#"{"t":"joined","r":"room-3","s":8,"e":"k","n":2,"who":1}"#);
        again.note(br#"{"t":"msg","r":"room-3","s":7,"id":"x","ts":1,"d":1}"#);
        let Cursor::Session { mut moved, .. } = cursor::read(&cursor_of(&again)).unwrap() else { panic!() };
        moved.sort_by_key(|moved| moved.offset);
        assert_eq!(moved[0], expected[1]);
        assert_eq!(moved[1], Moved { mark: expected[0].mark, epoch: Some("k".into()), offset: 7 });
        // A session that is not known any more is another one.
        let mut lost = Standing::new(&all, Some(&cursor::read(&text).unwrap()));
        lost.note(br#"{"t":"welcome","v":1,"u":"ann","session":"s10"}"#);
        assert_eq!(cursor_of(&lost), "~s10");
    }
}
