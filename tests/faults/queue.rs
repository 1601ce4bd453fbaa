//! What backends push while the server is killed: each item that was answered is in its room, once.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use rand::Rng;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, free_port};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::shim::Shim;
use crate::stage::{Stage, dice, kills};

/// Kills where `ROOMCAST_KILLS` says nothing else.
const KILLS: usize = 12;
const ITEMS_PER_LIFE: usize = 3;

/// A command in the Redis protocol.
fn command(words: &[&str]) -> String {
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    let words: Vec<String> = words.collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

/// An item; every other one has an id.
fn item(number: usize) -> String {
    match number % 2 {
        0 => json!({"content": format!("item-{number}"), "id": format!("id-{number}")}).to_string(),
        _ => json!({"content": format!("item-{number}")}).to_string(),
    }
}

/// What became of a command.
enum Outcome {
    /// Nobody listens; nothing was sent.
    NotSent,
    /// It was sent, and the link ended before an answer.
    Unknown,
    Answer(String),
}

/// One command over a link of its own.
async fn ask(port: u16, words: &[&str]) -> Outcome {
    let Ok(mut link) = TcpStream::connect(("127.0.0.1", port)).await else { return Outcome::NotSent };
    if link.write_all(command(words).as_bytes()).await.is_err() {
        return Outcome::Unknown;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        match link.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return Outcome::Unknown,
            Ok(_) => {}
        }
    }
    Outcome::Answer(String::from_utf8_lossy(&answer).into_owned())
}

/// The places of each item, as somebody sees them who reads the room from its beginning.
async fn places(stage: &Stage, server: &Server) -> BTreeMap<usize, Vec<u64>> {
    let mut reader = stage.guest(server.address(), "reader").await;
    let joined = reader.hears("joined", |frame| frame["t"] == "joined").await;
    let mut places: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for s in 1..=joined["s"].as_u64().expect("a head") {
        let entry = reader.hears("the next", |frame| frame["t"] == "msg").await;
        assert_eq!(entry["s"], s, "{entry}");
        let number = entry["d"].as_str().and_then(|text| text.strip_prefix("item-"));
        let number = number.and_then(|text| text.parse().ok());
        places.entry(number.unwrap_or_else(|| panic!("no item: {entry}"))).or_default().push(s);
    }
    reader.goes().await;
    places
}

/// What the backend knows about what it pushed.
#[derive(Default)]
struct Pushed {
    answered: Vec<usize>,
    /// Without an id, and the link ended before the answer: in the room once or not at all.
    unknown: Vec<usize>,
}

/// Pushes items one after the other. What has an id is pushed again until it is answered.
async fn push_all(port: u16, stop: watch::Receiver<bool>, answered: watch::Sender<usize>) -> Pushed {
    let mut pushed = Pushed::default();
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        loop {
            match ask(port, &["LPUSH", "message_queue", &item(number)]).await {
                Outcome::Answer(answer) if answer.starts_with(':') => {
                    pushed.answered.push(number);
                    answered.send_modify(|count| *count += 1);
                    break;
                }
                Outcome::Unknown if number % 2 == 1 => {
                    pushed.unknown.push(number);
                    break;
                }
                // It was refused, or nobody was there, or the id makes a repeat harmless.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
    pushed
}

#[tokio::test]
async fn what_the_door_has_answered_is_in_its_room_once_over_kills() {
    let (stage, mut dice, port) = (Stage::new(), dice(), free_port());
    let mut setup = stage.setup();
    setup.settings.retain(|setting| !setting.starts_with("queue.door"));
    let mut server = Server::start(setup.with(&format!("queue.door.listen=127.0.0.1:{port}"))).await;
    let (stop, (answered, mut shown)) = (watch::Sender::new(false), watch::channel(0));
    let backend = tokio::spawn(push_all(port, stop.subscribe(), answered));
    for _ in 0..kills(KILLS) {
        let goal = *shown.borrow() + dice.random_range(1..60);
        let reached = tokio::time::timeout(roomcast_rig::PATIENCE, shown.wait_for(|count| *count >= goal));
        reached.await.expect("the door answers").expect("the backend goes on");
        // Any moment of the next items will do.
        tokio::time::sleep(Duration::from_micros(dice.random_range(0..4_000))).await;
        server.kill();
        server.spawn();
        server.is_ready().await;
    }
    stop.send_replace(true);
    let pushed = backend.await.expect("the backend does not fail");
    let places = places(&stage, &server).await;
    server.stop().await;

    println!(
        "{} answered, {} unknown, {} in the room",
        pushed.answered.len(),
        pushed.unknown.len(),
        places.len()
    );
    let mut before = 0;
    for number in &pushed.answered {
        let of_this = places.get(number).unwrap_or_else(|| panic!("item {number} was answered and is lost"));
        assert_eq!(of_this.len(), 1, "item {number} stands at {of_this:?}");
        assert!(of_this[0] > before, "item {number} stands at {of_this:?}, one pushed earlier at {before}");
        before = of_this[0];
    }
    for (number, of_this) in &places {
        assert_eq!(of_this.len(), 1, "item {number} stands at {of_this:?}");
        assert!(pushed.answered.contains(number) || pushed.unknown.contains(number), "item {number}");
    }
}

/// When the relay kills.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq)]
enum When {
    Never,
    /// Redis has given the items out; the server has not read them.
    BeforeTheServerHasThem,
    /// The server has them; it dies with its next words to Redis, which say that Redis may forget them.
    BeforeRedisForgets,
    /// They have passed; the next words are the last.
    ItemsHavePassed,
}

/// Stands between the server and Redis and kills the server at the worst moments.
struct Relay {
    port: u16,
    when: Arc<AtomicU8>,
    victim: Arc<AtomicU32>,
}

impl Relay {
    async fn start(redis: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let relay = Relay { port, when: Arc::default(), victim: Arc::default() };
        let (when, victim) = (relay.when.clone(), relay.victim.clone());
        tokio::spawn(async move {
            while let Ok((from_server, _)) = listener.accept().await {
                let to_redis = TcpStream::connect(("127.0.0.1", redis)).await.expect("Redis listens");
                let ((server_in, server_out), (redis_in, redis_out)) =
                    (from_server.into_split(), to_redis.into_split());
                tokio::spawn(pass(redis_in, server_out, when.clone(), victim.clone(), from_redis));
                tokio::spawn(pass(server_in, redis_out, when.clone(), victim.clone(), to_redis_again));
            }
        });
        relay
    }

    fn kills(&self, server: &Server, when: When) {
        self.victim.store(server.pid(), SeqCst);
        self.when.store(when as u8, SeqCst);
    }
}

fn from_redis(when: u8, bytes: &[u8]) -> Option<When> {
    let items = holds(bytes, b"item-");
    match when {
        _ if !items => None,
        _ if when == When::BeforeTheServerHasThem as u8 => Some(When::Never),
        _ if when == When::BeforeRedisForgets as u8 => Some(When::ItemsHavePassed),
        _ => None,
    }
}

fn to_redis_again(when: u8, bytes: &[u8]) -> Option<When> {
    let forgets = holds(bytes, b"HDEL") || holds(bytes, b"EVALSHA");
    (forgets && when == When::ItemsHavePassed as u8).then_some(When::Never)
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Passes bytes on until an end; `watch` says what comes next, and `Never` means that the moment is here.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    when: Arc<AtomicU8>,
    victim: Arc<AtomicU32>,
    watch: fn(u8, &[u8]) -> Option<When>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        match watch(when.load(SeqCst), &buffer[..n]) {
            None => {}
            Some(When::Never) => {
                when.store(When::Never as u8, SeqCst);
                let pid = victim.load(SeqCst).to_string();
                let killed = Command::new("kill").args(["-KILL", &pid]).status();
                assert!(killed.expect("kill can be run").success(), "the server was gone already");
                return;
            }
            Some(next) => when.store(next as u8, SeqCst),
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    async fn start(stage: &Stage) -> Redis {
        let port = free_port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(stage.home())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        let redis = Redis { process, port };
        eventually("Redis to listen", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        redis
    }

    async fn does(&self, words: &[&str]) -> String {
        match ask(self.port, words).await {
            Outcome::Answer(answer) => answer,
            _ => panic!("Redis does not answer {words:?}"),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // They fail only when it is gone already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn an_item_of_a_redis_list_gets_one_place_whenever_the_server_dies() {
    let stage = Stage::new();
    let redis = Redis::start(&stage).await;
    let relay = Relay::start(redis.port).await;
    let setup = stage.setup().with(&format!("redis.url=redis://127.0.0.1:{}", relay.port));
    let mut server = Server::new(setup.with("server.node=the-node"));
    let (mut pushed, lives) = (0, 2 * kills(KILLS));
    for life in 0..lives {
        for _ in 0..ITEMS_PER_LIFE {
            redis.does(&["LPUSH", "message_queue", &item(pushed)]).await;
            pushed += 1;
        }
        server.spawn();
        relay.kills(&server, [When::BeforeTheServerHasThem, When::BeforeRedisForgets][life % 2]);
        server.is_dead().await;
    }
    server.spawn();
    server.is_ready().await;
    redis.does(&["LPUSH", "message_queue", &item(pushed)]).await;
    let mut witness = stage.guest(server.address(), "witness").await;
    let last = json!(format!("item-{pushed}"));
    witness.hears("the last item", |frame| frame["d"] == last).await;
    witness.goes().await;
    let places = places(&stage, &server).await;
    server.stop().await;

    let once: BTreeMap<usize, Vec<u64>> =
        (0..=pushed).map(|number| (number, vec![number as u64 + 1])).collect();
    assert_eq!(places, once, "each item has one place, in the order in which it was pushed");
    println!("{lives} kills, {} items, each in one place", pushed + 1);
}

#[tokio::test]
async fn what_the_door_has_answered_is_kept_also_where_rooms_show_first() {
    let (stage, port) = (Stage::new(), free_port());
    let shim = Shim::build(stage.home());
    let mut setup = stage.setup();
    setup.settings.retain(|setting| !setting.starts_with("queue.door"));
    let setup = setup.with(&format!("queue.door.listen=127.0.0.1:{port}")).with("rooms.ack=sequenced");
    let mut server = Server::start(shim.loads_into(setup)).await;
    let mut reader = stage.guest(server.address(), "reader").await;
    let item = item(0);
    let push = ["LPUSH", "message_queue", item.as_str()];

    shim.syncs_fail(true);
    let first = ask(port, &push).await;
    reader.hears("what is not kept yet", |frame| frame["t"] == "msg" && frame["d"] == "item-0").await;
    for outcome in [first, ask(port, &push).await] {
        assert!(matches!(&outcome, Outcome::Answer(answer) if answer.starts_with('-')), "it is not kept");
    }
    shim.syncs_fail(false);
    eventually("the item to be kept", async || match ask(port, &push).await {
        Outcome::Answer(answer) if answer.starts_with(':') => Some(()),
        _ => None,
    })
    .await;

    server.kill();
    reader.is_cut().await;
    server.setup.environment.clear();
    server.spawn();
    server.is_ready().await;
    assert_eq!(places(&stage, &server).await, BTreeMap::from([(0, vec![1])]));
    server.stop().await;
}
