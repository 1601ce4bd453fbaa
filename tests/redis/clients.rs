//! The clients that backends really use, against the door and against a real Redis with a queue behind it.
//! A story fails, and says what to install, when a client is missing.
//!
//! Packages: `apt-get install php-cli php-redis php-nrk-predis redis-tools python3-venv nodejs npm`, and in
//! the directory of ROOMCAST_TEST_TOOLS (default `target/test-tools`): `python3 -m venv venv`,
//! `venv/bin/pip install redis`, `npm install ioredis redis`.

use std::path::Path;
use std::process::{Command, Stdio};

use roomcast_rig::tools;

use crate::door::{PASSWORD, open_door};
use crate::fixtures::node::Node;
use crate::fixtures::rooms::Rooms;
use crate::fixtures::servers::Server;

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name).display().to_string()
}

/// What a client does that speaks to one server.
type Client = fn(&str, &str, &str, &str) -> (Vec<String>, &'static str);

const PHP_REDIS: Client = |host, port, password, kind| {
    (words(&["php", &script("push.php"), host, port, password, kind]), "apt-get install php-cli php-redis")
};
const PREDIS: Client = |host, port, password, kind| {
    (
        words(&["php", &script("push_predis.php"), host, port, password, kind]),
        "apt-get install php-cli php-nrk-predis",
    )
};
const REDIS_PY: Client = |host, port, password, kind| {
    let python = tools().join("venv/bin/python").display().to_string();
    let how = "python3 -m venv venv && venv/bin/pip install redis, in the directory of ROOMCAST_TEST_TOOLS";
    (words(&[&python, &script("push.py"), host, port, password, kind]), how)
};
const NODE: Client = |host, port, password, kind| {
    let directory = tools().display().to_string();
    let how =
        "apt-get install nodejs npm; npm install ioredis redis, in the directory of ROOMCAST_TEST_TOOLS";
    (words(&["node", &script("push.mjs"), host, port, password, kind, &directory]), how)
};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn run(command: &[String], how_to_install: &str) -> String {
    // Beside this thread, which serves the door.
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).stdin(Stdio::null());
    let output = actix_rt::task::spawn_blocking(move || process.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; {how_to_install}", command[0]));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}\n{err}\nIs a package missing? {how_to_install}");
    out.into_owned()
}

/// The lines that a client says must be heard are heard, in the order it says per room.
async fn hears_what_the_client_says(client: Client, port: u16, password: &str, kind: &str, rooms: &Rooms) {
    let (command, how) = client("127.0.0.1", &port.to_string(), password, kind);
    let said = run(&command, how).await;
    let wanted: Vec<String> = said.lines().map(str::to_owned).collect();
    assert!(!wanted.is_empty());
    let heard = rooms.hear(wanted.len()).await;
    let heard: Vec<String> = heard.iter().map(|heard| format!("{}\t{}", heard.room, heard.data)).collect();
    assert_eq!(heard, wanted);
}

async fn at_the_door(client: Client) {
    for password in ["", PASSWORD] {
        let rooms = Rooms::open();
        let door = open_door(&rooms, |settings| settings.password = password.into()).await;
        hears_what_the_client_says(client, door.port, password, "door", &rooms).await;
    }
}

async fn through_redis(client: Client) {
    let (server, rooms) = (Server::start(&[]).await, Rooms::open());
    let node = Node::start(&server.url(), "a", &rooms);
    node.is_connected().await;
    hears_what_the_client_says(client, server.port, "", "redis", &rooms).await;
}

#[actix_rt::test]
async fn php_redis_at_the_door() {
    at_the_door(PHP_REDIS).await;
}

#[actix_rt::test]
async fn php_redis_through_redis() {
    through_redis(PHP_REDIS).await;
}

#[actix_rt::test]
async fn predis_at_the_door() {
    at_the_door(PREDIS).await;
}

#[actix_rt::test]
async fn predis_through_redis() {
    through_redis(PREDIS).await;
}

#[actix_rt::test]
async fn redis_py_at_the_door() {
    at_the_door(REDIS_PY).await;
}

#[actix_rt::test]
async fn redis_py_through_redis() {
    through_redis(REDIS_PY).await;
}

#[actix_rt::test]
async fn ioredis_and_node_redis_at_the_door() {
    at_the_door(NODE).await;
}

#[actix_rt::test]
async fn ioredis_and_node_redis_through_redis() {
    through_redis(NODE).await;
}

#[actix_rt::test]
async fn redis_cli_in_both_versions_of_the_protocol() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |settings| settings.password = PASSWORD.into()).await;
    let port = door.port.to_string();
    for version in ["-2", "-3"] {
        let cli = |rest: &[&str]| {
            let mut all = words(&["redis-cli", version, "--no-auth-warning", "-p", &port, "-a", PASSWORD]);
            all.extend(words(rest));
            all
        };
        let how = "apt-get install redis-tools";
        assert_eq!(run(&cli(&["LPUSH", "message_queue", "\"by hand\""]), how).await.trim(), "1");
        assert_eq!(run(&cli(&["PING"]), how).await.trim(), "PONG");
        assert!(run(&cli(&["GET", "x"]), how).await.contains("this is Roomcast's door"));
        assert!(run(&cli(&["INFO"]), how).await.contains("loading:0"));
    }
    rooms.hear(2).await;
}

#[actix_rt::test]
async fn redis_benchmark_pushes_at_the_door() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let port = door.port.to_string();
    let command = [
        "redis-benchmark",
        "-p",
        &port,
        "-n",
        "20000",
        "-c",
        "10",
        "-P",
        "16",
        "-q",
        "LPUSH",
        "message_queue",
        "1",
    ];
    let said = run(&words(&command), "apt-get install redis-tools").await;
    assert!(said.contains("requests per second"), "{said}");
    rooms.hear(20_000).await;
}
