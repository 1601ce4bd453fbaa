//! The small tables beside the log: read marks, sessions, ids without a place, dead letters. Gathered within a
//! transaction and written together; and how each is read. Called by both sides.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio_postgres::Row;

use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::store::cursors;
use crate::store::ids::IdKey;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::postgres::rooms::{Rooms, number};
use crate::store::record::{Letter, ReadMark, RoomRules, Seen, SessionNote};
use crate::store::rooms::stored;

/// A clock that is ahead of the database's by more than this does not make a note newer than those of others.
const CLOCKS_MS: i64 = 5_000;

/// Text as PostgreSQL can hold it: it has no place for the character NUL.
pub fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What is gathered. Sorted, so that two programs lock rows in the same order.
#[derive(Debug, Default)]
pub struct Notes<'a> {
    reads: BTreeMap<(&'a RoomName, &'a str), &'a ReadMark>,
    sessions: BTreeMap<&'a str, &'a SessionNote>,
    seen: Vec<&'a Seen>,
    dead: Vec<&'a Letter>,
    gone: BTreeSet<&'a str>,
    rules: BTreeMap<&'a RoomName, &'a RoomRules>,
    /// Of two notes the greater one counts, not the newer one: other programs may write too, out of order.
    grow: bool,
}

impl<'a> Notes<'a> {
    /// Notes that may be written beside those of other programs.
    pub fn that_grow() -> Notes<'a> {
        Notes { grow: true, ..Notes::default() }
    }

    /// How far a user has read.
    pub fn read(&mut self, mark: &'a ReadMark) {
        let kept = self.reads.entry((&mark.room, mark.user.as_str())).or_insert(mark);
        if !self.grow || mark.offset >= kept.offset {
            *kept = mark;
        }
    }

    /// Where a session stands.
    pub fn session(&mut self, note: &'a SessionNote) {
        let kept = self.sessions.entry(&note.session).or_insert(note);
        if !self.grow || note.ts >= kept.ts {
            *kept = note;
        }
    }

    /// An id that took no place.
    pub fn seen(&mut self, seen: &'a Seen) {
        self.seen.push(seen);
    }

    /// A dead letter.
    pub fn dead(&mut self, letter: &'a Letter) {
        self.dead.push(letter);
    }

    /// A dead letter goes.
    pub fn dead_gone(&mut self, id: &'a str) {
        self.dead.retain(|letter| *letter.id != *id);
        self.gone.insert(id);
    }

    /// A room has these rules now.
    pub fn rules(&mut self, rules: &'a RoomRules) {
        let kept = self.rules.entry(&rules.room).or_insert(rules);
        if !self.grow || rules.version >= kept.version {
            *kept = rules;
        }
    }

    /// Writes all. `rooms` has every room that a note is about.
    pub async fn write(&self, session: &Session, rooms: &Rooms, ids: IdKey) -> Result<(), Trouble> {
        self.write_reads(session, rooms).await?;
        self.write_sessions(session).await?;
        self.write_seen(session, rooms, ids).await?;
        self.write_rules(session).await?;
        if !self.gone.is_empty() {
            let gone: Vec<&str> = self.gone.iter().copied().collect();
            session.execute("DELETE FROM dead WHERE id = ANY($1)", &[&gone]).await?;
        }
        self.write_dead(session).await
    }

    async fn write_reads(&self, session: &Session, rooms: &Rooms) -> Result<(), Trouble> {
        if self.reads.is_empty() {
            return Ok(());
        }
        let marks = || self.reads.values();
        let of: Vec<i64> = marks().filter_map(|mark| Some(rooms.get(&mark.room)?.room.id)).collect();
        let users: Vec<&str> = marks().map(|mark| mark.user.as_str()).collect();
        let offsets: Vec<i64> = marks().map(|mark| stored(mark.offset)).collect();
        let times: Vec<i64> = marks().map(|mark| stored(mark.ts)).collect();
        let sql = "INSERT INTO reads AS old (room, u, s, ts) \
                   SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[]) \
                   ON CONFLICT (room, u) DO UPDATE SET s = excluded.s, ts = excluded.ts \
                   WHERE NOT $5::bool OR excluded.s > old.s OR (excluded.s = old.s AND excluded.ts > old.ts)";
        session.execute(sql, &[&of, &users, &offsets, &times, &self.grow]).await?;
        Ok(())
    }

    async fn write_sessions(&self, session: &Session) -> Result<(), Trouble> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        let notes = || self.sessions.values();
        let names: Vec<String> = notes().map(|note| text(&note.session)).collect();
        let users: Vec<&str> = notes().map(|note| note.user.as_str()).collect();
        let times: Vec<i64> = notes().map(|note| stored(note.ts)).collect();
        let rooms: Vec<String> = notes().map(|note| cursors::to_json(&note.rooms)).collect();
        let sql = "INSERT INTO sessions AS old (id, u, ts, rooms) \
                   SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[]) \
                   ON CONFLICT (id) DO UPDATE SET u = excluded.u, ts = excluded.ts, rooms = excluded.rooms \
                   WHERE NOT $5::bool OR excluded.ts >= old.ts \
                   OR old.ts > (extract(epoch FROM now()) * 1000)::int8 + $6";
        session.execute(sql, &[&names, &users, &times, &rooms, &self.grow, &CLOCKS_MS]).await?;
        Ok(())
    }

    async fn write_seen(&self, session: &Session, rooms: &Rooms, ids: IdKey) -> Result<(), Trouble> {
        if self.seen.is_empty() {
            return Ok(());
        }
        let of: Vec<i64> = self.seen.iter().filter_map(|seen| Some(rooms.get(&seen.room)?.room.id)).collect();
        let times: Vec<i64> = self.seen.iter().map(|seen| stored(seen.ts)).collect();
        let users: Vec<Option<&str>> =
            self.seen.iter().map(|seen| seen.user.as_ref().map(UserName::as_str)).collect();
        let texts: Vec<&str> = self.seen.iter().map(|seen| seen.id.as_str()).collect();
        let numbers: Vec<i64> = self
            .seen
            .iter()
            .zip(&of)
            .map(|(seen, room)| ids.number(*room, seen.user.as_ref(), &seen.id))
            .collect();
        let sql = "INSERT INTO seen (room, ts, u, id, h) \
                   SELECT room, ts, u, id, h \
                   FROM unnest($1::int8[], $2::int8[], $3::text[], $4::text[], $5::int8[]) WITH ORDINALITY \
                   AS new (room, ts, u, id, h, n) ORDER BY n";
        session.execute(sql, &[&of, &times, &users, &texts, &numbers]).await?;
        Ok(())
    }

    async fn write_rules(&self, session: &Session) -> Result<(), Trouble> {
        if self.rules.is_empty() {
            return Ok(());
        }
        // Where several write, a room without rules keeps its row for a while: an older change that comes late must not
        // bring its rules back.
        let all = self.rules.values().copied();
        let (ended, set): (Vec<&RoomRules>, Vec<&RoomRules>) =
            all.partition(|rules| !self.grow && rules.text.is_empty());
        if !ended.is_empty() {
            let rooms: Vec<&str> = ended.iter().map(|rules| rules.room.as_str()).collect();
            session.execute("DELETE FROM rules WHERE room = ANY($1)", &[&rooms]).await?;
        }
        let rooms: Vec<&str> = set.iter().map(|rules| rules.room.as_str()).collect();
        let texts: Vec<&str> = set.iter().map(|rules| &*rules.text).collect();
        let versions: Vec<i64> = set.iter().map(|rules| stored(rules.version)).collect();
        let sql = "INSERT INTO rules AS old (room, rules, version, ts) \
                   SELECT room, rules, version, (extract(epoch FROM now()) * 1000)::int8 \
                   FROM unnest($1::text[], $2::text[], $3::int8[]) AS new (room, rules, version) \
                   ON CONFLICT (room) DO UPDATE SET rules = excluded.rules, ts = excluded.ts, \
                   version = greatest(excluded.version, old.version) \
                   WHERE NOT $4::bool OR excluded.version >= old.version";
        session.execute(sql, &[&rooms, &texts, &versions, &self.grow]).await?;
        Ok(())
    }

    async fn write_dead(&self, session: &Session) -> Result<(), Trouble> {
        if self.dead.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.dead.iter().map(|letter| text(&letter.id)).collect();
        let times: Vec<i64> = self.dead.iter().map(|letter| stored(letter.ts)).collect();
        let sources: Vec<String> = self.dead.iter().map(|letter| text(&letter.source)).collect();
        let reasons: Vec<String> = self.dead.iter().map(|letter| text(&letter.reason)).collect();
        let items: Vec<&[u8]> = self.dead.iter().map(|letter| &letter.item[..]).collect();
        let sql = "INSERT INTO dead (id, ts, source, reason, item) \
                   SELECT id, ts, source, reason, item \
                   FROM unnest($1::text[], $2::int8[], $3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY \
                   AS new (id, ts, source, reason, item, n) ORDER BY n ON CONFLICT (id) DO NOTHING";
        session.execute(sql, &[&names, &times, &sources, &reasons, &items]).await?;
        Ok(())
    }
}

/// Where a session stood.
pub async fn session_of(session: &Session, name: &str) -> Result<Option<SessionNote>, Trouble> {
    let row = session.row("SELECT u, ts, rooms FROM sessions WHERE id = $1", &[&text(name)]).await?;
    Ok(row.and_then(|row| {
        let user = UserName::new(row.get(0)).ok()?;
        let rooms = cursors::from_json(row.get(2));
        Some(SessionNote { session: name.into(), user, ts: number(&row, 1), rooms })
    }))
}

/// The rules of all rooms; of those too whose rules one of several programs has ended lately.
pub async fn all_rules(session: &Session) -> Result<Vec<RoomRules>, Trouble> {
    let rows = session.query("SELECT room, rules, version FROM rules ORDER BY room", &[]).await?;
    let rules = |row: &Row| {
        let room = RoomName::new(row.get(0)).ok()?;
        Some(RoomRules { room, text: row.get::<_, &str>(1).into(), version: number(row, 2) })
    };
    Ok(rows.iter().filter_map(rules).collect())
}

/// The newest `n` dead letters, newest first.
pub async fn newest_dead(session: &Session, n: usize) -> Result<Vec<Letter>, Trouble> {
    let sql = "SELECT id, ts, source, reason, item FROM dead ORDER BY n DESC LIMIT $1";
    Ok(session.query(sql, &[&stored(n as u64)]).await?.iter().map(letter).collect())
}

/// One dead letter.
pub async fn one_dead(session: &Session, id: &str) -> Result<Option<Letter>, Trouble> {
    let sql = "SELECT id, ts, source, reason, item FROM dead WHERE id = $1";
    Ok(session.row(sql, &[&text(id)]).await?.as_ref().map(letter))
}

/// The ids of all dead letters, oldest first.
pub async fn dead_ids(session: &Session) -> Result<Vec<String>, Trouble> {
    let rows = session.query("SELECT id FROM dead ORDER BY n", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A dead letter goes; whether it was there.
pub async fn dead_gone(session: &Session, id: &str) -> Result<bool, Trouble> {
    Ok(session.execute("DELETE FROM dead WHERE id = $1", &[&text(id)]).await? > 0)
}

fn letter(row: &Row) -> Letter {
    let text = |column| -> Box<str> { row.get::<_, &str>(column).into() };
    Letter {
        id: text(0),
        ts: number(row, 1),
        source: text(2),
        reason: text(3),
        item: Bytes::copy_from_slice(row.get(4)),
    }
}

/// The newest read marks in a room.
pub async fn read_marks(session: &Session, room: i64, n: usize) -> Result<Vec<(UserName, Offset)>, Trouble> {
    let sql = "SELECT u, s FROM reads WHERE room = $1 ORDER BY ts DESC, u LIMIT $2";
    let rows = session.query(sql, &[&room, &stored(n as u64)]).await?;
    Ok(rows.iter().filter_map(|row| Some((UserName::new(row.get(0)).ok()?, number(row, 1)))).collect())
}

/// How far a user has read; 0 for nothing.
pub async fn read_mark(session: &Session, room: i64, user: &UserName) -> Result<Offset, Trouble> {
    let row = session.row("SELECT s FROM reads WHERE room = $1 AND u = $2", &[&room, &user.as_str()]).await?;
    Ok(row.map_or(0, |row| number(&row, 0)))
}
