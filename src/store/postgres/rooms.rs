//! Rooms as rows: opened together for a transaction, changed in memory, written back together. The rows are locked
//! meanwhile, so that two programs may write to one store. Called by the writing side; knows no entry.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Row;

use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;
use crate::store::rooms::{Room, lives_as_text, lives_in, new_epoch, owners, stored};

/// Rooms of a transaction by their names.
pub type Rooms = HashMap<RoomName, Opened, ahash::RandomState>;

/// A room that a transaction may change.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its row.
    pub room: Room,
    /// The lives of its log, oldest first.
    pub lives: Vec<(Epoch, Offset)>,
    /// Whether the row differs from the table's.
    pub changed: bool,
    /// Whether the lives do.
    pub relived: bool,
}

/// Columns that [`read`] wants in front, in this order: `id, epoch, top, first, bytes, oldest, used`.
pub fn read(row: &Row) -> Room {
    Room {
        id: row.get(0),
        epoch: Epoch(number(row, 1)),
        top: number(row, 2),
        first: number(row, 3),
        bytes: number(row, 4),
        oldest: number(row, 5),
        used: number(row, 6),
    }
}

/// A column that holds a number of ours, none of which is negative.
pub fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).max(0) as u64
}

/// The room with this name.
pub async fn find(session: &Session, name: &RoomName) -> Result<Option<Room>, Trouble> {
    let sql = "SELECT id, epoch, top, first, bytes, oldest, used FROM rooms WHERE name = $1";
    Ok(session.row(sql, &[&name.as_str()]).await?.map(|row| read(&row)))
}

/// The lives of a room's log, oldest first, each with its first offset.
pub async fn lineage(session: &Session, id: i64) -> Result<Vec<(Epoch, Offset)>, Trouble> {
    let row = session.row("SELECT lineage FROM rooms WHERE id = $1", &[&id]).await?;
    Ok(row.map(|row| lives_in(row.get(0))).unwrap_or_default())
}

/// Opens rooms for the transaction; new rows where there are none. So that nobody waits in a circle: new rows come
/// before any lock and in the order of their names, then rows are locked in the order of their numbers.
pub async fn open(session: &Session, names: BTreeSet<&RoomName>) -> Result<Rooms, Trouble> {
    let mut rooms = Rooms::default();
    if names.is_empty() {
        return Ok(rooms);
    }
    let texts: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let known = session.query("SELECT name FROM rooms WHERE name = ANY($1)", &[&texts]).await?;
    let known: BTreeSet<&str> = known.iter().map(|row| row.get(0)).collect();
    let new: Vec<&RoomName> = names.iter().copied().filter(|name| !known.contains(name.as_str())).collect();
    if !new.is_empty() {
        insert(session, &new).await?;
    }
    lock(session, &names, &texts, &mut rooms).await?;
    Ok(rooms)
}

async fn lock(
    session: &Session,
    names: &BTreeSet<&RoomName>,
    texts: &[&str],
    rooms: &mut Rooms,
) -> Result<(), Trouble> {
    let sql = "SELECT id, epoch, top, first, bytes, oldest, used, lineage, name FROM rooms \
               WHERE name = ANY($1) ORDER BY id FOR NO KEY UPDATE";
    for row in session.query(sql, &[&texts]).await? {
        if let Some(name) = names.get(&RoomName::new(row.get(8)).map_err(|_| strange(row.get(8)))?) {
            let lives = lives_in(row.get(7));
            let opened = Opened { room: read(&row), lives, changed: false, relived: false };
            rooms.insert((*name).clone(), opened);
        }
    }
    Ok(())
}

fn strange(name: &str) -> Trouble {
    Trouble::told(format!("the store has a room {} that no room can be called", name.escape_debug()))
}

async fn insert(session: &Session, names: &[&RoomName]) -> Result<(), Trouble> {
    let texts: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let sql = "INSERT INTO rooms (name) SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS new (name, n) \
               ORDER BY n ON CONFLICT DO NOTHING";
    session.execute(sql, &[&texts]).await?;
    let (mut users, mut of) = (Vec::new(), Vec::new());
    for name in names {
        for user in owners(name).into_iter().flatten() {
            users.push(user);
            of.push(name.as_str());
        }
    }
    if !users.is_empty() {
        let sql = "INSERT INTO owners (u, room) SELECT DISTINCT new.u, rooms.id \
                   FROM unnest($1::text[], $2::text[]) AS new (u, name) JOIN rooms ON rooms.name = new.name \
                   ORDER BY 1, 2 ON CONFLICT DO NOTHING";
        session.execute(sql, &[&users, &of]).await?;
    }
    Ok(())
}

/// Writes back what has changed.
pub async fn write(session: &Session, rooms: &Rooms) -> Result<(), Trouble> {
    let changed: Vec<&Opened> = rooms.values().filter(|opened| opened.changed || opened.relived).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let column = |value: &dyn Fn(&Room) -> u64| -> Vec<i64> {
        changed.iter().map(|opened| stored(value(&opened.room))).collect()
    };
    let ids: Vec<i64> = changed.iter().map(|opened| opened.room.id).collect();
    let lineages: Vec<Option<String>> =
        changed.iter().map(|opened| opened.relived.then(|| lives_as_text(&opened.lives))).collect();
    let sql = "UPDATE rooms SET epoch = new.epoch, top = new.top, first = new.first, bytes = new.bytes, \
               oldest = new.oldest, used = new.used, lineage = coalesce(new.lineage, rooms.lineage) \
               FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], \
               $8::text[]) AS new (id, epoch, top, first, bytes, oldest, used, lineage) WHERE rooms.id = new.id";
    session
        .execute(
            sql,
            &[
                &ids,
                &column(&|room| room.epoch.0),
                &column(&|room| room.top),
                &column(&|room| room.first),
                &column(&|room| room.bytes),
                &column(&|room| room.oldest),
                &column(&|room| room.used),
                &lineages,
            ],
        )
        .await?;
    Ok(())
}

/// Every log begins a new life behind its newest entry. For a copy that takes the place of a store: its offsets
/// may have been given out once more after the copying, and nobody must take one entry for the other.
pub async fn begin_new_lives(session: &Session) -> Result<(), Trouble> {
    let newest = session.row("SELECT coalesce(max(epoch), 0) FROM rooms", &[]).await?;
    let epoch = new_epoch(newest.map_or(0, |row| row.get(0)));
    let sql =
        "UPDATE rooms SET epoch = $1, lineage = lineage || ' ' || $2::text || ':' || (top + 1) WHERE top > 0";
    session.execute(sql, &[&stored(epoch.0), &epoch.to_text()]).await?;
    Ok(())
}
