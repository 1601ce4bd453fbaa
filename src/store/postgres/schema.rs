//! The tables of a store in PostgreSQL, in a schema of their own named `roomcast`: how they are made, and the
//! check that they are ours. Called when a store is opened; knows no record. docs/store.md explains the tables
//! to people.

use tokio_postgres::error::SqlState;

use crate::store::ids::IdKey;
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::link::Session;

/// The schema that this program writes and reads.
const SCHEMA_VERSION: i64 = 1;
/// Oldest server that the archive is tested with.
const SERVER_VERSION_MIN: i32 = 150_000;
/// Advisory locks of this program, one a database each: "Rmct" and a number.
const LOCK_TABLES: i64 = 0x526d_6374_0001;
const LOCK_ONLY_WRITER: i64 = 0x526d_6374_0002;
const LOCK_FORGETTING: i64 = 0x526d_6374_0003;

/// `words` has the room's number before each word, so that a search in one room never walks the hits of others. The
/// index takes new words into a list first; searches read that list from end to end, so it is kept short. Dead rows
/// are cleaned earlier than by default: words that were taken back are among them.
const TABLES: &str = r#"
CREATE SCHEMA IF NOT EXISTS roomcast;
CREATE TABLE meta (
    key   text PRIMARY KEY,
    value bigint NOT NULL
);
CREATE TABLE rooms (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text COLLATE "C" NOT NULL UNIQUE,
    epoch   bigint NOT NULL DEFAULT 0,
    top     bigint NOT NULL DEFAULT 0,
    first   bigint NOT NULL DEFAULT 1,
    bytes   bigint NOT NULL DEFAULT 0,
    oldest  bigint NOT NULL DEFAULT 0,
    used    bigint NOT NULL DEFAULT 0,
    lineage text NOT NULL DEFAULT ''
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE owners (
    u    text COLLATE "C" NOT NULL,
    room bigint NOT NULL,
    PRIMARY KEY (u, room)
);
CREATE TABLE entries (
    room   bigint NOT NULL,
    s      bigint NOT NULL,
    e      bigint NOT NULL,
    ts     bigint NOT NULL,
    kind   text NOT NULL,
    u      text COLLATE "C",
    id     text,
    h      bigint,
    of     bigint NOT NULL DEFAULT 0,
    edited bigint NOT NULL DEFAULT 0,
    gone   boolean NOT NULL DEFAULT false,
    line   text,
    words  tsvector,
    PRIMARY KEY (room, s)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
        autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX entries_id ON entries (h) WHERE h IS NOT NULL;
CREATE INDEX entries_words ON entries USING gin (words) WITH (gin_pending_list_limit = 2048)
    WHERE words IS NOT NULL;
CREATE TABLE reactions (
    room bigint NOT NULL,
    of   bigint NOT NULL,
    u    text COLLATE "C" NOT NULL,
    k    text NOT NULL,
    "on" boolean NOT NULL,
    s    bigint NOT NULL,
    PRIMARY KEY (room, of, u, k)
);
CREATE TABLE reads (
    room bigint NOT NULL,
    u    text COLLATE "C" NOT NULL,
    s    bigint NOT NULL,
    ts   bigint NOT NULL,
    PRIMARY KEY (room, u)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX reads_user ON reads (u);
CREATE INDEX reads_time ON reads (room, ts DESC, u);
CREATE TABLE sessions (
    id    text COLLATE "C" PRIMARY KEY,
    u     text COLLATE "C" NOT NULL,
    ts    bigint NOT NULL,
    rooms text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX sessions_time ON sessions (ts);
CREATE TABLE seen (
    n    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room bigint NOT NULL,
    ts   bigint NOT NULL,
    u    text COLLATE "C",
    id   text NOT NULL,
    h    bigint NOT NULL
);
CREATE INDEX seen_room ON seen (room, n);
CREATE INDEX seen_id ON seen (h);
CREATE TABLE dead (
    n      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id     text COLLATE "C" NOT NULL UNIQUE,
    ts     bigint NOT NULL,
    source text NOT NULL,
    reason text NOT NULL,
    item   bytea NOT NULL
);
CREATE TABLE rules (
    room    text COLLATE "C" PRIMARY KEY,
    rules   text NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    ts      bigint NOT NULL DEFAULT 0
);
CREATE TABLE positions (
    part  integer PRIMARY KEY,
    epoch bigint NOT NULL,
    n     bigint NOT NULL
) WITH (fillfactor = 20);
CREATE FUNCTION word(room bigint, word text) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT ('''' || room || '/' || replace(replace(rtrim(word, '*'), '\', '\\'), '''', '''''') || ''''
               || CASE WHEN word LIKE '%*' THEN ':*' ELSE '' END)::tsquery $$;
CREATE VIEW log AS
    SELECT rooms.name AS room, s, to_timestamp(ts / 1000.0) AS time, kind, u AS "user",
           CASE WHEN strpos(line, '\u0000') = 0 THEN line::json -> 'd' END AS data,
           of, edited, gone, entries.id AS id
    FROM entries JOIN rooms ON rooms.id = entries.room;
CREATE VIEW unread AS
    SELECT reads.u AS "user", rooms.name AS room, rooms.top, reads.s AS read, rooms.top - reads.s AS unread
    FROM reads JOIN rooms ON rooms.id = reads.room;
"#;

/// What stores of earlier programs do not have yet. Those programs go on with a store that has it.
const LATER_TABLES: &str = r#"
CREATE TABLE IF NOT EXISTS rules (room text COLLATE "C" PRIMARY KEY, rules text NOT NULL);
ALTER TABLE rules ADD COLUMN version bigint NOT NULL DEFAULT 0, ADD COLUMN ts bigint NOT NULL DEFAULT 0;
"#;

/// Makes the tables where there are none; refuses those of somebody else. Several programs may come at once.
pub async fn prepare(session: &Session, url: &PostgresUrl) -> Result<(), Trouble> {
    check_server(session, url).await?;
    session.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_TABLES})")).await?;
    if !is_there(session, url).await? {
        session.batch(TABLES).await?;
        let keys = [("schema", SCHEMA_VERSION), ("applied", 0), ("home", 0), ("cluster", 0)];
        let secret = [("hash_key_1", rand::random::<i64>()), ("hash_key_2", rand::random::<i64>())];
        for (key, value) in keys.into_iter().chain(secret) {
            session.execute("INSERT INTO meta (key, value) VALUES ($1, $2)", &[&key, &value]).await?;
        }
        settle(session).await?;
        log::info!("store: made the tables of the store {url}");
    } else if is_older(session).await? {
        session.batch(LATER_TABLES).await?;
    }
    session.batch("COMMIT").await
}

async fn is_older(session: &Session) -> Result<bool, Trouble> {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('roomcast.rules') \
               AND attname = 'version')";
    let row = session.row(sql, &[]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

async fn check_server(session: &Session, url: &PostgresUrl) -> Result<(), Trouble> {
    let sql = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
               current_setting('server_encoding')";
    let Some(row) = session.row(sql, &[]).await? else { return Ok(()) };
    let (number, version, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    if number < SERVER_VERSION_MIN {
        return Err(Trouble::told(format!("the store {url} is PostgreSQL {version}; 15 or newer is needed")));
    }
    if encoding != "UTF8" {
        return Err(Trouble::told(format!(
            "the database of the store {url} is in {encoding}; make one that is in UTF8 (createdb -E UTF8 -T \
             template0 NAME)"
        )));
    }
    Ok(())
}

/// Whether the tables are there and of this program; `false` for none.
pub async fn is_there(session: &Session, url: &PostgresUrl) -> Result<bool, Trouble> {
    let sql = "SELECT to_regclass('roomcast.meta') IS NOT NULL, \
               (SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                WHERE nspname = 'roomcast')";
    let Some(row) = session.row(sql, &[]).await? else { return Ok(false) };
    let (has_meta, tables): (bool, i64) = (row.get(0), row.get(1));
    if tables == 0 {
        return Ok(false);
    }
    let version = match has_meta {
        true => session.row("SELECT value FROM roomcast.meta WHERE key = 'schema'", &[]).await,
        false => Ok(None),
    };
    let version = match version {
        Ok(row) => row.map(|row| row.get::<_, i64>(0)),
        Err(Trouble::Sql(error)) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => None,
        Err(trouble) => return Err(trouble),
    };
    match version {
        Some(SCHEMA_VERSION) => Ok(true),
        Some(newer) if newer > SCHEMA_VERSION => Err(Trouble::told(format!(
            "the store {url} was made by a newer Roomcast (schema {newer}, this program knows {SCHEMA_VERSION}); \
             start the newer program, or set store.url to another database"
        ))),
        _ => Err(Trouble::told(format!(
            "the database {url} has a schema \"roomcast\" of another program; nothing was changed in it; set \
             store.url to another database"
        ))),
    }
}

/// Takes the lock of a server that is alone with its store, and holds it as long as the connection lives.
pub async fn claim(session: &Session, url: &PostgresUrl) -> Result<(), Trouble> {
    let claimed = session.batch(&format!("SELECT pg_advisory_lock({LOCK_ONLY_WRITER})")).await;
    match claimed {
        Err(Trouble::Sql(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(Trouble::told(format!(
                "another server keeps its rooms in {url}; stop it, or give each a database of its own"
            )))
        }
        done => done,
    }
}

/// Whether this transaction is the one that forgets; another one may be at it.
pub async fn may_forget(session: &Session) -> Result<bool, Trouble> {
    let row = session.row("SELECT pg_try_advisory_xact_lock($1)", &[&LOCK_FORGETTING]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Whether these tables were made here: a dump that was read in has other ones, and so has another cluster.
/// Notes what is so now.
pub async fn is_copy(session: &Session) -> Result<bool, Trouble> {
    let (home, cluster) = whereabouts(session).await?;
    let moved = home != meta(session, "home").await? || cluster != meta(session, "cluster").await?;
    if moved {
        settle(session).await?;
    }
    Ok(moved)
}

async fn settle(session: &Session) -> Result<(), Trouble> {
    let (home, cluster) = whereabouts(session).await?;
    for (key, value) in [("home", home), ("cluster", cluster)] {
        session.execute("UPDATE meta SET value = $2 WHERE key = $1", &[&key, &value]).await?;
    }
    Ok(())
}

/// What no dump takes along: the table's own number and the cluster's; 0 where a service does not tell.
async fn whereabouts(session: &Session) -> Result<(i64, i64), Trouble> {
    let sql = "SELECT 'roomcast.meta'::regclass::oid::int8, \
               has_function_privilege('pg_control_system()', 'execute')";
    let Some(row) = session.row(sql, &[]).await? else { return Ok((0, 0)) };
    let cluster = match row.get(1) {
        true => session.row("SELECT system_identifier FROM pg_control_system()", &[]).await?,
        false => None,
    };
    Ok((row.get(0), cluster.map_or(0, |row| row.get(0))))
}

/// A number of the table `meta`; 0 where it is not there.
pub async fn meta(session: &Session, key: &str) -> Result<i64, Trouble> {
    let row = session.row("SELECT value FROM meta WHERE key = $1", &[&key]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// The key of the numbers that stand for ids.
pub async fn id_key(session: &Session) -> Result<IdKey, Trouble> {
    Ok(IdKey::new(meta(session, "hash_key_1").await?, meta(session, "hash_key_2").await?))
}
