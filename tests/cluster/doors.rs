//! Four doors to one room, through a load balancer that sends each request to the next node: a loop of polls, each over a
//! connection of its own, an event stream that comes back by the id of its last event, pages of the log, and a WebSocket. A
//! node is killed under them, and links are cut at random. They see the same entries in the same order, each once.
//! `ROOMCAST_ROUNDS=100` does it a hundred times.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast_rig::PATIENCE;
use roomcast_rig::client::Client;
use roomcast_rig::server::get;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::balancer::Kind;
use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{folder, number_from, seed};

/// Entries that are said, and when a node is killed.
const SAID: u64 = 300;
const KILLED_AT: u64 = 100;
/// A link is cut by chance after one of so many lines.
const CUT: u32 = 60;
/// How long a stream may say nothing, were it only a comment: two pings and some.
const SILENCE: Duration = Duration::from_secs(3);

/// Where somebody reads, and his chances.
struct Reader {
    front: SocketAddr,
    room: String,
    dice: StdRng,
}

/// What somebody has seen: entries as they came.
#[derive(Debug, Default)]
struct Seen(Vec<Value>);

impl Seen {
    fn takes(&mut self, line: Value) {
        match line["t"].as_str() {
            Some("msg") => {
                assert_eq!(line["s"], self.0.len() as u64 + 1, "a hole or an overlap: {line}");
                self.0.push(line);
            }
            Some("joined") => assert!(line.get("missing").is_none(), "{line}"),
            Some("gap" | "skip" | "rewind") => panic!("nothing is missing here: {line}"),
            _ => {}
        }
    }

    fn is_whole(&self) -> bool {
        self.0.len() as u64 == SAID
    }
}

/// Posts a line; its answer, or none when it did not come.
async fn posts(front: SocketAddr, line: &Value) -> Option<Value> {
    let posting = async {
        let body = line.to_string();
        let mut socket = TcpStream::connect(front).await.ok()?;
        let head = format!("POST /v1/send?user=writer HTTP/1.1\r\nHost: {front}\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    };
    timeout(Duration::from_secs(5), posting).await.ok()?
}

/// Between two attempts at a door whose node is dead just now.
const PAUSE: Duration = Duration::from_millis(20);

/// Says things in order, each again under the same id until it has its ack.
async fn writes(front: SocketAddr, room: String, said: Arc<AtomicU64>) {
    for n in 1..=SAID {
        let line = json!({"t": "pub", "r": room, "d": n, "id": format!("w-{n}")});
        loop {
            match posts(front, &line).await {
                Some(answer) if answer["t"] == "ack" => {
                    assert_eq!(answer["s"], n, "{answer}");
                    break;
                }
                // Refused for now, or the node died with it.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        said.store(n, Relaxed);
    }
}

/// Polls until all has come, each time over another connection and so mostly at another node.
async fn polls(Reader { front, room, .. }: Reader) -> Seen {
    let (mut seen, mut since) = (Seen::default(), String::new());
    while !seen.is_whole() {
        let coded = since.replace('%', "%25").replace('+', "%2B");
        let path = format!("/v1/poll?rooms={room}&last=1000&user=poller&wait=5&since={coded}");
        let Some((200, body)) = get(front, &path).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        since = answer["next"].as_str().expect("a cursor").to_owned();
        for line in answer["frames"].as_array().expect("lines") {
            seen.takes(line.clone());
        }
    }
    seen
}

/// Reads a stream until all has come; comes back by the last id, as a browser does.
async fn streams(mut reader: Reader) -> Seen {
    let (mut seen, mut last_id) = (Seen::default(), String::new());
    while !seen.is_whole() {
        if reads(&mut reader, &mut seen, &mut last_id).await.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    seen
}

/// Reads one stream to its end; none when there was none. The chunks of HTTP/1.1 have lines of their own between those of
/// the events, which are none of an event stream's and are passed over.
async fn reads(reader: &mut Reader, seen: &mut Seen, last_id: &mut String) -> Option<()> {
    let Reader { front, room, dice } = reader;
    let mut socket = TcpStream::connect(*front).await.ok()?;
    let path = format!("/v1/stream?rooms={room}&last=1000&user=streamer");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {front}\r\nLast-Event-ID: {last_id}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut lines = BufReader::new(socket);
    let mut line = String::new();
    let mut is_good = false;
    let mut id = None;
    while !seen.is_whole() {
        line.clear();
        // A link that says nothing is dead, and so is one that ends.
        let read = timeout(SILENCE, lines.read_line(&mut line)).await.ok().and_then(Result::ok)?;
        if read == 0 {
            return is_good.then_some(());
        }
        is_good |= line.starts_with("HTTP/1.1 200");
        if let Some(value) = line.strip_prefix("id: ") {
            id = Some(value.trim_end().to_owned());
        }
        if let Some(data) = line.strip_prefix("data: ") {
            seen.takes(serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")));
            *last_id = id.take().unwrap_or(std::mem::take(last_id));
            if dice.random_ratio(1, CUT) {
                return Some(());
            }
        }
    }
    Some(())
}

/// Reads the log page by page until it has all.
async fn pages(Reader { front, room, .. }: Reader) -> Seen {
    let mut seen = Seen::default();
    while !seen.is_whole() {
        let path = format!("/v1/rooms/{room}/log?user=page&after={}&n=40", seen.0.len());
        let Some((200, body)) = get(front, &path).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let page: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        for entry in page["list"].as_array().expect("entries") {
            // In a page the room stands outside.
            let mut entry = entry.clone();
            entry["r"] = json!(room);
            seen.takes(entry);
        }
    }
    seen
}

/// Reads over WebSockets until all has come; comes back by its place.
async fn listens(Reader { front, room, mut dice }: Reader) -> Seen {
    let (mut seen, mut epoch) = (Seen::default(), None::<String>);
    while !seen.is_whole() {
        let Some(mut client) = Client::connect(front, Some(SILENCE)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut join = json!({"t": "join", "r": room, "since": seen.0.len()});
        epoch.iter().for_each(|epoch| join["e"] = json!(epoch));
        client.say(r#"{"t":"hello","v":1,"u":"listener"}"#).await;
        client.say(&join.to_string()).await;
        while !seen.is_whole() {
            let Some(line) = client.hear().await else { break };
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if let Some(now) = line["e"].as_str() {
                epoch = Some(now.to_owned());
            }
            seen.takes(line);
            if dice.random_ratio(1, CUT) {
                break;
            }
        }
    }
    seen
}

/// One room, and what is said in it while a node dies.
async fn round(stage: &mut Stage, room: String, dice: &mut StdRng) {
    let (front, said) = (stage.balancer.address, Arc::new(AtomicU64::new(0)));
    let mut reader = || Reader { front, room: room.clone(), dice: StdRng::seed_from_u64(dice.random()) };
    let (polling, streaming, paging, listening) =
        (polls(reader()), streams(reader()), pages(reader()), listens(reader()));
    let writing = tokio::spawn(writes(front, room.clone(), said.clone()));
    let reading = tokio::spawn(async { tokio::join!(polling, streaming, paging, listening) });
    let strike = async || (said.load(Relaxed) >= KILLED_AT).then_some(());
    roomcast_rig::eventually("enough to be said", strike).await;
    let victim = dice.random_range(0..stage.nodes.len());
    stage.nodes[victim].kill();
    stage.node_comes_back(victim);
    timeout(PATIENCE, writing).await.expect("all is said in time").expect("the writer lives");
    let reading = timeout(PATIENCE, reading).await.expect("all is read in time");
    let (polled, streamed, paged, heard) = reading.expect("readers live");
    assert_eq!(streamed.0, polled.0);
    assert_eq!(paged.0, polled.0);
    assert_eq!(heard.0, polled.0);
    let data: Vec<u64> = polled.0.iter().filter_map(|line| line["d"].as_u64()).collect();
    assert_eq!(data, (1..=SAID).collect::<Vec<_>>(), "in the order in which it was said");
    stage.nodes[victim].is_ready().await;
}

#[tokio::test]
async fn four_doors_show_each_entry_once_while_a_node_is_killed() {
    let folder = folder("doors", 0);
    let mut dice = StdRng::seed_from_u64(seed());
    let plan = Plan { balancer: Kind::RoundRobin, ..Plan::of(Shape::Single) };
    let mut stage = Stage::open(&plan.with("limits.messages_per_second=0"), &folder).await;
    let rounds = number_from("ROOMCAST_ROUNDS").unwrap_or(1);
    for number in 1..=rounds {
        round(&mut stage, format!("round-{number}"), &mut dice).await;
    }
    println!("{rounds} rounds of {SAID} entries, a node killed in each");
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

/// A stream of an only node through a load balancer: what is said comes at once, and not when some buffer is full.
async fn events_come_as_they_happen(kind: Kind) {
    let folder = folder(&format!("doors-{kind:?}"), 0);
    let stage = Stage::open(&Plan { balancer: kind, ..Plan::alone() }, &folder).await;
    let front = stage.balancer.address;
    let mut socket = TcpStream::connect(front).await.expect("the load balancer listens");
    let request = format!("GET /v1/stream?rooms=lobby&user=ann HTTP/1.1\r\nHost: {front}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads the request");
    let mut lines = BufReader::new(socket).lines();
    let mut until = async |what: &str| {
        loop {
            let line =
                timeout(SILENCE, lines.next_line()).await.unwrap_or_else(|_| panic!("{what} does not come"));
            let line =
                line.expect("the link holds").unwrap_or_else(|| panic!("the stream ends before {what}"));
            if line.contains(what) {
                return;
            }
        }
    };
    until("\"t\":\"live\"").await;
    for n in 0..5 {
        let answer = posts(front, &json!({"t": "pub", "r": "lobby", "d": format!("line {n}")})).await;
        assert_eq!(answer.expect("an answer")["t"], "ack");
        until(&format!("line {n}")).await;
    }
    // Nothing is said; it is kept open all the same.
    until(": ping").await;
    drop(lines);
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

#[tokio::test]
async fn haproxy_passes_events_on_as_they_happen() {
    events_come_as_they_happen(Kind::HaProxy).await;
}

#[tokio::test]
async fn nginx_passes_events_on_as_they_happen() {
    events_come_as_they_happen(Kind::Nginx).await;
}
