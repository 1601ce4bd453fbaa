//! The server is killed between taking items from Redis and having them forgotten there, 200 times. No
//! item is lost, their order is kept, and what comes again carries the same id.
//!
//! A relay stands between the server and a real Redis. It sees the items pass and kills the server (as
//! `kill -9` does) at the worst moments: before the server has what it took, or before Redis hears that
//! the rooms have it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use roomcast_rig::server::free_port;

const KILLS: usize = 200;
const ITEMS_PER_LIFE: usize = 3;
/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// When the relay kills.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq)]
enum When {
    Never,
    /// Redis has given the items out; the server has not read them.
    BeforeTheRoomsHaveThem,
    /// The rooms have them; Redis has not heard of it.
    BeforeRedisForgets,
    /// The items of this life have passed; the next request of the server is its last.
    ItemsHavePassed,
}

impl When {
    fn of(number: u8) -> When {
        [When::Never, When::BeforeTheRoomsHaveThem, When::BeforeRedisForgets, When::ItemsHavePassed]
            [number as usize]
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        thread::yield_now();
    }
}

fn start_redis(port: u16, folder: &std::path::Path) -> Killed {
    let child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
        ])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (Debian package redis-server)");
    let child = Killed(child);
    wait_until("redis listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    child
}

/// One command over a connection of its own; the answer as it stands on the wire.
fn redis(port: u16, words: &[&str]) -> String {
    let mut link = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    link.write_all(request.as_bytes()).unwrap();
    link.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    link.read_to_string(&mut answer).unwrap();
    answer
}

/// Passes bytes between the server and Redis, and kills the server when it is time.
struct Relay {
    port: u16,
    when: Arc<AtomicU8>,
    victim: Arc<Mutex<Option<Killed>>>,
}

impl Relay {
    fn start(redis: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (when, victim) = (Arc::new(AtomicU8::new(When::Never as u8)), Arc::new(Mutex::new(None)));
        let relay = Relay { port, when: when.clone(), victim: victim.clone() };
        thread::spawn(move || {
            for from_server in listener.incoming() {
                let (from_server, to_redis) =
                    (from_server.unwrap(), TcpStream::connect(("127.0.0.1", redis)).unwrap());
                let pass = |from: &TcpStream, to: &TcpStream, watch: fn(When, &[u8]) -> Option<When>| {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (when, victim) = (when.clone(), victim.clone());
                    thread::spawn(move || {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(n @ 1..) = from.read(&mut buffer) {
                            match watch(When::of(when.load(SeqCst)), &buffer[..n]) {
                                None => {}
                                Some(When::Never) => {
                                    when.store(When::Never as u8, SeqCst);
                                    // It may be quicker than the one who started it writes it down.
                                    wait_until("the victim", || {
                                        victim.lock().unwrap().is_some().then_some(())
                                    });
                                    // Dead before the next one may begin: they have one port.
                                    *victim.lock().unwrap() = None;
                                    break;
                                }
                                Some(next) => when.store(next as u8, SeqCst),
                            }
                            if to.write_all(&buffer[..n]).is_err() {
                                break;
                            }
                        }
                        // Whichever side ended, the other one hears of it; it may have gone already.
                        to.shutdown(Shutdown::Both).unwrap_or_default();
                        from.shutdown(Shutdown::Both).unwrap_or_default();
                    });
                };
                pass(&to_redis, &from_server, |when, bytes| match when {
                    When::BeforeTheRoomsHaveThem if holds(bytes, b"item-") => Some(When::Never),
                    When::BeforeRedisForgets if holds(bytes, b"item-") => Some(When::ItemsHavePassed),
                    _ => None,
                });
                pass(&from_server, &to_redis, |when, bytes| match when {
                    When::ItemsHavePassed if holds(bytes, b"HDEL") || holds(bytes, b"EVALSHA") => {
                        Some(When::Never)
                    }
                    _ => None,
                });
            }
        });
        relay
    }

    fn victim_is_dead(&self) -> bool {
        self.victim.lock().unwrap().is_none()
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Starts the server and waits until it says that it is up; it may be killed before.
fn start_server(port: u16, redis: u16, relay: &Relay, when: When) {
    relay.when.store(when as u8, SeqCst);
    let mut child = Command::new(env!("CARGO_BIN_EXE_roomcast"))
        .args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--redis",
            &format!("redis://127.0.0.1:{redis}"),
        ])
        .args(["--store", "none", "--set", "queue.door.listen=", "--set", "server.node=the-node"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    *relay.victim.lock().unwrap() = Some(Killed(child));
    output.lines().map_while(Result::ok).find(|line| line.starts_with("stop"));
}

/// A reader who joins with all of the history; writes down `item → ids` in the order in which they came.
fn read_along(port: u16, heard: Arc<Mutex<Vec<(String, String)>>>) -> Option<thread::JoinHandle<()>> {
    let mut link = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = "GET /v1/ws?user=reader HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let join = br#"{"t":"join","r":"lobby","last":512}"#;
    // A mask of zeros is a mask.
    let mut frame = vec![0x81, 0x80 | join.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(join);
    link.write_all(request.as_bytes()).and_then(|()| link.write_all(&frame)).ok()?;
    Some(thread::spawn(move || {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(n @ 1..) = link.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&bytes);
            // Frames follow each other without anything that looks like the start of a message.
            let mut rest = &*text;
            while let Some((message, after)) = next_message(rest) {
                rest = after;
                heard.lock().unwrap().extend(message);
            }
            let keep = rest.len();
            bytes.drain(..bytes.len().saturating_sub(keep));
        }
    }))
}

/// The next whole message in the text, as item and id, and what follows it.
fn next_message(text: &str) -> Option<(Option<(String, String)>, &str)> {
    let start = text.find(r#"{"t":"msg""#)?;
    let end = start + text[start..].find(r#""via":"queue"}"#)? + r#""via":"queue"}"#.len();
    let frame: serde_json::Value = serde_json::from_str(&text[start..end]).expect("a frame is JSON");
    let word = |key: &str| frame[key].as_str().expect("it has an id and text").to_owned();
    Some((Some((word("d"), word("id"))), &text[end..]))
}

#[test]
fn a_server_that_is_killed_between_pop_and_append_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (redis_port, port) = (free_port(), free_port());
    let _redis = start_redis(redis_port, folder.path());
    let relay = Relay::start(redis_port);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut pushed = 0;
    for life in 0..KILLS {
        for _ in 0..ITEMS_PER_LIFE {
            redis(redis_port, &["LPUSH", "message_queue", &format!(r#"{{"content":"item-{pushed}"}}"#)]);
            pushed += 1;
        }
        let when = [When::BeforeTheRoomsHaveThem, When::BeforeRedisForgets][life % 2];
        start_server(port, relay.port, &relay, when);
        let reader = read_along(port, heard.clone());
        wait_until("the kill", || relay.victim_is_dead().then_some(()));
        if let Some(reader) = reader {
            reader.join().unwrap();
        }
    }
    start_server(port, relay.port, &relay, When::Never);
    let reader = read_along(port, heard.clone()).expect("the last server lives");
    redis(redis_port, &["LPUSH", "message_queue", r#"{"content":"item-last"}"#]);
    wait_until("the last item", || {
        heard.lock().unwrap().iter().any(|(item, _)| item == "item-last").then_some(())
    });
    drop(relay.victim.lock().unwrap().take());
    reader.join().unwrap();

    let heard = heard.lock().unwrap();
    let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
    let mut firsts = Vec::new();
    for (item, id) in heard.iter() {
        match ids.insert(item, id) {
            Some(before) => assert_eq!(before, id, "{item} came again under another id"),
            None => firsts.push(item.clone()),
        }
    }
    let all: Vec<String> = (0..pushed).map(|n| format!("item-{n}")).chain(["item-last".into()]).collect();
    assert_eq!(firsts, all, "every item came, first in the order in which it was pushed");
    let again = heard.len() - firsts.len();
    println!("{KILLS} kills, {pushed} items, {again} came again under their ids");
}
