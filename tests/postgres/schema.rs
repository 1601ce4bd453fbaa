//! How a database becomes a store, and whose it is.

use std::sync::Arc;

use roomcast::chat::entry::Kind;
use roomcast::chat::message::Epoch;
use roomcast::store::archive::{Answer, Archive, OpenError, Question};
use roomcast::store::postgres::PostgresArchive;
use roomcast::store::postgres::address::PostgresUrl;
use roomcast::store::record::{ReadMark, Record, RoomRules};

use crate::common::{Stage, all_of, entry, offsets, room, said, user};
use crate::server::{Database, Server};

fn refused(database: &Database) -> String {
    match PostgresArchive::open(&database.url()).unwrap_err() {
        OpenError::Failed(error) => error.0,
        OpenError::Away(error) => panic!("{error}"),
    }
}

#[test]
fn nodes_that_start_at_once_make_the_tables_once() {
    let database = Database::new();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| PostgresArchive::open_shared(&database.url()).unwrap());
        }
    });
    assert_eq!(database.sql("SELECT value FROM roomcast.meta WHERE key = 'schema'"), "1");
    assert_eq!(database.sql("SELECT count(*) FROM roomcast.meta"), "6");
}

#[test]
fn a_newer_store_and_tables_of_others_are_refused_and_left_alone() {
    let database = Database::new();
    database.sql("CREATE SCHEMA roomcast; CREATE TABLE roomcast.things (a int)");
    assert!(refused(&database).contains("a schema \"roomcast\" of another program"));
    assert_eq!(database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'roomcast'"), "1");
    database.sql("CREATE TABLE roomcast.meta (name text)");
    assert!(refused(&database).contains("of another program"));

    let database = Database::new();
    drop(PostgresArchive::open(&database.url()).unwrap());
    database.sql("UPDATE roomcast.meta SET value = 2 WHERE key = 'schema'");
    assert!(refused(&database).contains("newer Roomcast (schema 2"));

    let database = Database::new();
    let other = format!("{}_latin", database.name);
    database.sql(&format!("CREATE DATABASE {other} ENCODING 'LATIN1' TEMPLATE template0"));
    let url = database.server.url(&other);
    assert!(PostgresArchive::open(&url).unwrap_err().to_string().contains("is in LATIN1"));
}

#[test]
fn a_store_of_an_earlier_program_gets_what_it_lacks() {
    let database = Database::new();
    drop(PostgresArchive::open(&database.url()).unwrap());
    database.sql("DROP TABLE roomcast.rules");
    let mut store = Stage::new(database.clone());
    let rules = |text: &str| RoomRules { room: room("a"), text: text.into(), version: 0 };
    store.put([rules(r#"{"slow":1}"#), rules(r#"{"slow":2}"#)].map(Record::Rules));
    assert_eq!(database.sql("SELECT room, rules FROM roomcast.rules"), r#"a|{"slow":2}"#);
    store.put([Record::Rules(rules(""))]);
    assert_eq!(database.sql("SELECT count(*) FROM roomcast.rules"), "0");
    drop(store);
    // One that knew rules, but no order among several writers.
    database.sql("ALTER TABLE roomcast.rules DROP COLUMN version, DROP COLUMN ts");
    database.sql("INSERT INTO roomcast.rules VALUES ('a', '{\"slow\":3}')");
    drop(PostgresArchive::open(&database.url()).unwrap());
    assert_eq!(database.sql("SELECT * FROM roomcast.rules"), r#"a|{"slow":3}|0|0"#);
}

#[test]
fn two_servers_do_not_keep_their_rooms_in_one_database() {
    let database = Database::new();
    let first = PostgresArchive::open(&database.url()).unwrap();
    assert!(refused(&database).contains("another server keeps its rooms in"));
    drop(first);
    PostgresArchive::open(&database.url()).expect("the first one has let go");
}

#[test]
fn people_can_ask_the_views_and_search_all_rooms() {
    let database = Database::new();
    let mut store = Stage::new(database.clone());
    store.put(
        [said("a", 1, "one"), said("b", 1, "Invoice paid"), entry("b", 2, Kind::Delete, 1, "")]
            .map(Record::Entry),
    );
    store.put([Record::Entry(said("c", 1, "an invoice")), Record::Entry(said("d", 1, "it's \\u0000 odd"))]);
    store.put([Record::Read(ReadMark { room: room("b"), user: user("ann"), offset: 1, ts: 9 })]);
    let log = "SELECT room, s, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), kind, \"user\", data, gone \
               FROM roomcast.log WHERE room < 'c' ORDER BY 1, 2";
    assert_eq!(
        database.sql(log),
        "a|1|1970-01-01 00:00:01|msg|ann|\"one\"|f\nb|1|1970-01-01 00:00:01|msg|ann|null|t\n\
         b|2|1970-01-01 00:00:02|del|ann|\"\"|f"
    );
    assert_eq!(database.sql("SELECT room FROM roomcast.log ORDER BY 1").lines().count(), 5);
    assert_eq!(database.sql("SELECT \"user\", room, top, read, unread FROM roomcast.unread"), "ann|b|2|1|1");
    let search = |words: &str| {
        database.sql(&format!(
            "SELECT rooms.name, s FROM roomcast.rooms JOIN roomcast.entries ON room = rooms.id \
             AND words @@ roomcast.word(rooms.id, '{words}') ORDER BY 1, 2"
        ))
    };
    assert_eq!(
        (search("inv*"), search("invoice"), search("inv")),
        ("c|1".into(), "c|1".into(), String::new())
    );
    assert_eq!(search("it''s \\ *"), "");
}

#[test]
fn rooms_read_in_from_a_dump_begin_a_new_life_once() {
    let server = Arc::new(Server::start(&["-c", "fsync=off"]));
    let (from, to) = (Database::on(server.clone()), Database::on(server.clone()));
    let mut store = Stage::new(from.clone());
    store.put((1..=3).map(|n| Record::Entry(said("a", n, "word"))));
    drop(store);
    let dump = server.tool("pg_dump", &["--schema=roomcast", "--no-owner", &from.name]);
    let script = String::from_utf8(dump).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    server.tool(
        "psql",
        &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file.path().to_str().unwrap(), "-d", &to.name],
    );

    let lives = |database: &Database| {
        let archive = PostgresArchive::open(&database.url()).unwrap();
        let question = Question::Room { room: room("a"), tail: 0, tail_bytes: 0 };
        let Answer::Room(Some(room)) = Archive::reader(&archive).unwrap().answer(&question).unwrap() else {
            panic!("the room is not there")
        };
        assert_eq!((archive.applied(), room.top), (3, 3));
        assert_eq!(offsets(Archive::reader(&archive).unwrap().answer(&all_of("a")).unwrap()), [1, 2, 3]);
        room.lineage
    };
    assert_eq!(lives(&from), [(Epoch(7), 1)], "the store itself goes on in its life");
    let lineage = lives(&to);
    assert!(lineage.len() == 2 && lineage[0] == (Epoch(7), 1), "{lineage:?}");
    assert!(lineage[1].0 > Epoch(7) && lineage[1].1 == 4, "{lineage:?}");
    assert_eq!(lives(&to), lineage, "only the first start does it");
}

#[test]
fn a_connection_can_be_secret_and_the_other_end_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &path("server.key"), "-out", &path("server.crt")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let files = [("server.key", read("server.key")), ("server.crt", read("server.crt"))];
    let server = Server::start_on(&files, &["-c", "fsync=off", "-c", "ssl=on"]);
    server.sql("postgres", "CREATE DATABASE chat");
    let open = |host: &str, query: &str| {
        let url = format!("postgres://postgres@{host}:{}/chat?{query}", server.port);
        let archive =
            PostgresArchive::open(&PostgresUrl::parse(&url).unwrap()).map_err(|error| error.to_string())?;
        let is_secret = server.sql(
            "postgres",
            "SELECT bool_or(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'chat'",
        );
        drop(archive);
        Ok::<String, String>(is_secret)
    };
    assert_eq!(open("localhost", "sslmode=disable").unwrap(), "f");
    assert_eq!(open("localhost", "").unwrap(), "t", "a server that can is talked to in secret");
    assert_eq!(open("127.0.0.1", "sslmode=require").unwrap(), "t");
    let own = format!("sslmode=verify-full&sslrootcert={}", path("server.crt"));
    assert_eq!(open("localhost", &own).unwrap(), "t");
    let error = open("127.0.0.1", &own).unwrap_err();
    assert!(error.contains("certificate"), "the name is another one: {error}");
    let error = open("localhost", "sslmode=verify-full").unwrap_err();
    assert!(error.contains("certificate"), "nobody known has signed it: {error}");
    let error = open("localhost", "sslmode=verify-full&sslrootcert=/no/such/file").unwrap_err();
    assert!(error.contains("/no/such/file"), "{error}");
}
