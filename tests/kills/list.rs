//! The server without a store is killed between taking items from a Redis list and having them forgotten there, 200
//! times. No item is lost, their order is kept, and what comes again carries the same id.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use roomcast_rig::server::free_port;

use crate::redis::{Killed, redis, start_redis, wait_until};
use crate::relay::{Moment, Relay, Window, mark};

const KILLS: usize = 200;
const ITEMS_PER_LIFE: u64 = 3;

/// The command, or the script, by which Redis forgets items.
fn acks(window: &Window<'_>, given: &BTreeSet<u64>) -> BTreeSet<u64> {
    let forgets = window.holds(b"HDEL") || window.holds(b"EVALSHA");
    if forgets { given.clone() } else { BTreeSet::new() }
}

/// Starts the server and waits until it says that it is up; it may be killed before. To the relay all items are new: no
/// life but the last has any of them forgotten, because a room without a store has nothing over a kill.
fn start_server(port: u16, relay: &Relay, moment: Moment) -> Killed {
    let mut child = Command::new(env!("CARGO_BIN_EXE_roomcast"))
        .args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--redis",
            &format!("redis://127.0.0.1:{}", relay.port),
        ])
        .args(["--store", "none", "--set", "queue.door.listen=", "--set", "server.node=the-node"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    relay.opens(child.id(), moment, 0);
    output.lines().map_while(Result::ok).find(|line| line.starts_with("stop"));
    Killed(child)
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
    let relay = Relay::start(redis_port, acks);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut pushed = 0;
    let push = |number: u64| {
        redis(redis_port, &["LPUSH", "message_queue", &format!(r#"{{"content":"{}"}}"#, mark(number))]);
    };
    for life in 0..KILLS {
        (pushed..pushed + ITEMS_PER_LIFE).for_each(push);
        pushed += ITEMS_PER_LIFE;
        let moment = [Moment::GivenOut, Moment::Kept][life % 2];
        let mut server = start_server(port, &relay, moment);
        let reader = read_along(port, heard.clone());
        wait_until("the kill", || server.0.try_wait().unwrap());
        relay.closes();
        if let Some(reader) = reader {
            reader.join().unwrap();
        }
    }
    let server = start_server(port, &relay, Moment::Never);
    let reader = read_along(port, heard.clone()).expect("the last server lives");
    push(pushed);
    wait_until("the last item", || {
        heard.lock().unwrap().iter().any(|(item, _)| *item == mark(pushed)).then_some(())
    });
    drop(server);
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
    let all: Vec<String> = (0..=pushed).map(mark).collect();
    assert_eq!(firsts, all, "every item came, first in the order in which it was pushed");
    let again = heard.len() - firsts.len();
    println!("{KILLS} kills, {pushed} items, {again} came again under their ids");
}
