//! The real server with its rooms in a database: while that is away, while the server itself is killed, and what the
//! commands say about such a store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomcast::store::archive::Archive;
use roomcast::store::postgres::{PostgresArchive, apart};
use roomcast::store::record::{Item, Letter, Record};
use roomcast_rig::checker::Checker;
use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::reader::{self, Goal, Memory, Seen};
use roomcast_rig::server::{Server as Roomcast, Setup};
use roomcast_rig::writer::{self, Written};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::common::said;
use crate::server::{Database, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_roomcast");

/// A server whose rooms are in this database.
fn setup(home: &Path, database: &Database) -> Setup {
    std::fs::create_dir_all(home.join("diaries")).unwrap();
    let mut setup = Setup::new(PROGRAM, home);
    setup.store = database.address();
    setup
}

fn files(diaries: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(diaries).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What a command prints on both ways, and its exit code.
fn told(output: &Output) -> (i32, String) {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code().unwrap(), said.concat())
}

fn applied(database: &Database) -> u64 {
    database.sql("SELECT value FROM roomcast.meta WHERE key = 'applied'").parse().unwrap()
}

/// People who go on whatever happens: three who talk, one who also edits, deletes and reacts (which needs the
/// archive, so that she waits while it is away), two who read.
struct Party {
    address: SocketAddr,
    diaries: PathBuf,
    writers: Vec<(JoinHandle<Written>, watch::Receiver<Written>)>,
    readers: Vec<(JoinHandle<Seen>, watch::Receiver<Seen>)>,
    stop: watch::Sender<bool>,
    goal: watch::Sender<Goal>,
}

impl Party {
    fn start(address: SocketAddr, diaries: &Path) -> Party {
        let (stop, goal) = (watch::Sender::new(false), watch::Sender::new(None));
        let write = |number: u64| {
            let plan = writer::Plan {
                address,
                name: format!("writer-{number}"),
                rooms: vec!["lobby".into(), format!("room-{number}")],
                seed: number,
                burst: 8,
                pause: Duration::from_millis(40),
                bytes: 500,
                changes: number == 0,
                silence: None,
            };
            let (progress, shown) = watch::channel(Written::default());
            let (folder, stop) = (diaries.to_owned(), stop.subscribe());
            (tokio::spawn(async move { writer::write(plan, &folder, stop, progress).await }), shown)
        };
        let read = |number: u64| {
            let rooms = vec!["lobby".into(), format!("room-{number}")];
            let plan = reader::Plan {
                address,
                name: format!("reader-{number}"),
                rooms,
                memory: Memory::Own,
                seed: number,
                silence: None,
            };
            let (folder, goal) = (diaries.to_owned(), goal.subscribe());
            let (progress, shown) = watch::channel(Seen::default());
            (tokio::spawn(async move { reader::read(plan, &folder, goal, progress).await }), shown)
        };
        let (writers, readers) = ((0..4).map(write).collect(), (0..2).map(read).collect());
        Party { address, diaries: diaries.to_owned(), writers, readers, stop, goal }
    }

    fn acked(&self) -> u64 {
        self.writers.iter().map(|(_, shown)| shown.borrow().acked).sum()
    }

    /// Waits until so much is acknowledged.
    async fn acked_reaches(&self, acked: u64) {
        eventually("acknowledgements", async || (self.acked() >= acked).then_some(())).await;
    }

    /// Waits until everybody is at it again: each has joined, and got further.
    async fn is_at_it(&self) {
        let wrote = |shown: &watch::Receiver<Written>| shown.borrow().acked;
        let read = |shown: &watch::Receiver<Seen>| shown.borrow().upto.clone();
        let before: Vec<_> = self.writers.iter().map(|(_, shown)| wrote(shown)).collect();
        let seen: Vec<_> = self.readers.iter().map(|(_, shown)| read(shown)).collect();
        let all_further = async || {
            let write = self.writers.iter().zip(&before).all(|((_, shown), before)| wrote(shown) > *before);
            let read = self.readers.iter().zip(&seen).all(|((_, shown), seen)| read(shown) != *seen);
            (write && read).then_some(())
        };
        eventually("everybody to be at it again", all_further).await;
    }

    /// Lets everybody come to the end, and somebody new read everything. How much was acknowledged.
    async fn ends(self) -> u64 {
        self.stop.send_replace(true);
        let mut acked = 0;
        for (task, _) in self.writers {
            let written =
                timeout(roomcast_rig::PATIENCE, task).await.expect("the last acknowledgement comes");
            acked += written.expect("a writer does not fail").acked;
        }
        let heads = heads(self.address, &self.diaries).await;
        self.goal.send_replace(Some(Arc::new(heads.clone())));
        for (task, _) in self.readers {
            let read = timeout(roomcast_rig::PATIENCE, task).await.expect("a reader comes to the heads");
            read.expect("a reader does not fail");
        }
        reads_all("last", self.address, &self.diaries, heads).await;
        acked
    }
}

const ROOMS: [&str; 5] = ["lobby", "room-0", "room-1", "room-2", "room-3"];

/// The heads of all rooms.
async fn heads(address: SocketAddr, diaries: &Path) -> BTreeMap<String, u64> {
    let rooms: BTreeMap<&str, serde_json::Value> = ROOMS.map(|room| (room, json!({}))).into();
    let mut guest = Guest::enter(address, diaries, "asker", json!({"rooms": rooms})).await;
    let mut heads = BTreeMap::new();
    for room in ROOMS {
        let joined = guest.hears("joined", |frame| frame["t"] == "joined" && frame["r"] == room).await;
        heads.insert(room.to_owned(), joined["s"].as_u64().expect("a head is a number"));
    }
    guest.goes().await;
    heads
}

/// Somebody new reads every room from its first place to its head.
async fn reads_all(name: &str, address: SocketAddr, diaries: &Path, heads: BTreeMap<String, u64>) {
    let rooms = ROOMS.map(str::to_owned).to_vec();
    let plan =
        reader::Plan { address, name: name.to_owned(), rooms, memory: Memory::Own, seed: 0, silence: None };
    let goal = watch::Sender::new(Some(Arc::new(heads)));
    let reading = reader::read(plan, diaries, goal.subscribe(), watch::Sender::default());
    timeout(roomcast_rig::PATIENCE, reading).await.expect("who reads all comes to the end");
}

#[tokio::test]
async fn nothing_is_lost_whether_the_database_or_the_server_is_killed() {
    let postgres = Arc::new(Server::start(&[]));
    let database = Database::on(postgres.clone());
    let folder = tempfile::tempdir().unwrap();
    let diaries = folder.path().join("diaries");
    let mut server = Roomcast::start(setup(folder.path(), &database)).await;
    let party = Party::start(server.address(), &diaries);
    party.acked_reaches(300).await;

    for round in 1..=3 {
        // Away for long: what is said waits in the journal, and readers at the head do not notice.
        postgres.kill();
        let acked = party.acked();
        party.acked_reaches(acked + 500).await;
        server.says("/readyz", 503).await;
        server.says("/healthz", 200).await;
        postgres.restart();
        server.says("/readyz", 200).await;
        let before = applied(&database);
        eventually("the archive to go on", async || (applied(&database) > before).then_some(())).await;

        // Killed for a moment only, and the server right after it.
        postgres.kill();
        postgres.restart();
        let acked = party.acked();
        party.acked_reaches(acked + 100 * round).await;
        server.kill();
        server.spawn();
        server.is_ready().await;
        // A room that is not in memory yet could not be joined while the database is away.
        party.is_at_it().await;
    }

    let acked = party.ends().await;
    server.stop().await;
    let mut server = Roomcast::start(server.setup.clone()).await;
    let heads = heads(server.address(), &diaries).await;
    reads_all("after-the-stop", server.address(), &diaries, heads).await;
    server.stop().await;

    let verified = server.setup.command(&["verify", "--store", &server.setup.store, "--clients"]);
    let (code, said) = told(&{ verified }.args(files(&diaries)).output().unwrap());
    assert!(code == 0 && said.ends_with("fine: no fault found\n"), "{said}");
    let mut checker = Checker::new();
    for path in files(&diaries) {
        let is_last = path.file_stem().is_some_and(|name| name == "last");
        let read = if is_last { checker.read_last(&path) } else { checker.read(&path) };
        read.unwrap();
    }
    let report = checker.verdict();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.acked, acked);
    let dense = "SELECT bool_and(n = top) FROM roomcast.rooms JOIN \
                 (SELECT room, count(*) AS n FROM roomcast.entries GROUP BY room) AS counted ON room = id";
    assert_eq!(database.sql(dense), "t");
}

/// A message of the lobby whose line says all that a server's would.
fn message(n: u64) -> Record {
    let (mut entry, ts) = (said("lobby", n, ""), n * 1_000);
    let line = format!(r#"{{"t":"msg","r":"lobby","s":{n},"id":"7-{n}","u":"ann","ts":{ts},"d":"words"}}"#);
    entry.line = line.into();
    Record::Entry(entry)
}

#[tokio::test]
async fn a_database_that_is_away_ends_the_start_with_69_and_its_address() {
    let postgres = Arc::new(Server::start(&["-c", "fsync=off"]));
    let database = Database::on(postgres.clone());
    postgres.kill();
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path(), &database);
    let url = format!("postgres://ann:hunter2@127.0.0.1:{}/chat", postgres.port);
    let shown = format!("postgres://ann:***@127.0.0.1:{}/chat", postgres.port);
    let copy = folder.path().join("copy");
    for (words, code) in [
        (&["serve", "--listen", "127.0.0.1:0", "--store", &url][..], 69),
        (&["verify", "--store", &url], 69),
        (&["--set", &format!("store.url={url}"), "dead", "list"], 69),
        (&["backup", "--store", &url, copy.to_str().unwrap()], 2),
    ] {
        let (ended, said) = told(&setup.command(words).output().unwrap());
        assert_eq!(ended, code, "{words:?}: {said}");
        assert!(said.contains(&shown) && !said.contains("hunter2"), "{words:?}: {said}");
    }
    let (code, said) =
        told(&setup.command(&["check-config", "--set", &format!("store.url={url}")]).output().unwrap());
    assert!(code == 0 && said.contains(&shown) && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn the_environment_names_the_database_and_the_commands_work_on_it() {
    let database = Database::new();
    let folder = tempfile::tempdir().unwrap();
    let mut setup = setup(folder.path(), &database);
    setup.environment.push(("DATABASE_URL".into(), database.address()));
    let command = |words: &[&str]| told(&setup.command(words).output().unwrap());
    let (code, text) = command(&["verify"]);
    assert!(code == 69 && text.contains("there is no store at"), "{text}");
    assert_eq!(command(&["dead", "list"]), (0, String::new()), "no store yet, no letters");

    let mut archive = apart(|| PostgresArchive::open(&database.url())).unwrap();
    let letter = |n: u64, item: &'static [u8]| {
        let (id, item) = (format!("d{n}").into(), Bytes::from_static(item));
        Record::Dead(Letter { id, ts: n * 1_000, source: "jobs".into(), reason: "not \0 json".into(), item })
    };
    let records = [letter(1, b"\0\xff1"), letter(2, b"{2"), message(1)];
    let items: Vec<Item> =
        (1..).zip(records).map(|(lsn, record)| Item { lsn, record, with_next: false }).collect();
    apart(|| archive.append(&items)).unwrap();

    // Beside a server that is running, as it would be.
    let (code, text) = command(&["dead", "list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(code == 0 && lines.len() == 2, "{text}");
    assert!(
        lines[0].starts_with("d2  1970-01-01T00:00:02") && lines[1].contains("not \u{fffd} json"),
        "{text}"
    );
    let shown = setup.command(&["dead", "show", "d1"]).output().unwrap();
    assert_eq!(shown.stdout, b"\0\xff1");
    assert_eq!(command(&["dead", "drop", "d1"]), (0, "dropped 1\n".into()));
    assert_eq!(command(&["dead", "drop", "d1"]).0, 1);
    assert_eq!(database.sql("SELECT id FROM roomcast.dead"), "d2");

    let (code, text) = command(&["verify"]);
    assert!(code == 0 && text.contains(": 3 records applied, 0 in the journal"), "{text}");
    drop(archive);
    let mut server = Roomcast::new(setup.clone());
    server.setup.store = database.address();
    server.spawn();
    server.is_ready().await;
    let told =
        format!("data/roomcast.journal and then in postgres://postgres@127.0.0.1:{}", database.server.port);
    // The server greets when everything has begun, which is after its first answers.
    eventually(&told, async || server.log().contains(&told).then_some(())).await;
    server.stop().await;
    assert!(folder.path().join("data/roomcast.journal").is_dir());
}

#[test]
fn verify_finds_what_is_wrong_in_a_database() {
    let database = Database::new();
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path(), &database);
    let mut archive = PostgresArchive::open(&database.url()).unwrap();
    let items: Vec<Item> =
        (1..=12_000).map(|n| Item { lsn: n, record: message(n), with_next: false }).collect();
    items.chunks(1_000).for_each(|items| archive.append(items).unwrap());
    let verify = || told(&setup.command(&["verify", "--store", &setup.store]).output().unwrap());
    let (code, text) = verify();
    assert!(code == 0 && text.contains("fine: no fault found"), "{text}");
    for (harm, good, found) in [
        ("DELETE FROM roomcast.entries WHERE s = 5", "", "nothing stands at 5 to 5"),
        (
            "UPDATE roomcast.entries SET u = 'eve' WHERE s = 6",
            "UPDATE roomcast.entries SET u = 'ann' WHERE s = 6",
            "entry 6: the line says u",
        ),
        (
            "UPDATE roomcast.entries SET words = NULL WHERE s = 7",
            "UPDATE roomcast.entries SET words = '''1/words''' WHERE s = 7",
            "entry 7 has words that the search index does not have",
        ),
        (
            "UPDATE roomcast.entries SET e = 8 WHERE s = 8",
            "UPDATE roomcast.entries SET e = 7 WHERE s = 8",
            "entry 8: it is of epoch 8",
        ),
        (
            "UPDATE roomcast.rooms SET top = 12001",
            "UPDATE roomcast.rooms SET top = 12000",
            "nothing stands at 12001 to 12001",
        ),
    ] {
        database.sql(harm);
        let (code, text) = verify();
        assert!(code == 1 && text.contains(found), "{harm}: {text}");
        if !good.is_empty() {
            database.sql(good);
        }
    }
}
