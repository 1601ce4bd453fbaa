//! Backends that push a fixed number of messages and wait for what the server, or Redis, answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use crate::doors::readers::ROOM;
use crate::failure::Failure;
use crate::marker::{Mark, blank_payload, mark_place};

/// Lines of one batch.
pub const BATCH: u32 = 100;
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a backend pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `POST /api/publish`, one after the other on a connection.
    HttpSingle,
    /// `POST /api/batch`.
    HttpBatch,
    /// `LPUSH` to the server's own door, in a pipeline of [`BATCH`].
    Door,
    /// `LPUSH` to Redis, the same.
    RedisList,
    /// `XADD` to Redis, the same.
    RedisStream,
}

impl Way {
    /// As it is called in tables.
    pub fn name(self) -> String {
        match self {
            Way::HttpSingle => "HTTP, one by one".to_owned(),
            Way::HttpBatch => format!("HTTP, batches of {BATCH}"),
            Way::Door => format!("RESP door, pipelines of {BATCH}"),
            Way::RedisList => format!("Redis list, pipelines of {BATCH}"),
            Way::RedisStream => format!("Redis stream, pipelines of {BATCH}"),
        }
    }

    /// Whether a Redis stands between.
    pub fn through_redis(self) -> bool {
        matches!(self, Way::RedisList | Way::RedisStream)
    }
}

/// One backend.
pub struct Pusher {
    way: Way,
    socket: BufReader<TcpStream>,
    host: String,
    /// Its number in the marks.
    publisher: u32,
    payload: String,
}

impl Pusher {
    /// Connected to where it pushes.
    pub fn connect(way: Way, address: SocketAddrV4, publisher: u32, bytes: usize) -> Result<Pusher, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (host, payload) = (address.to_string(), blank_payload(bytes));
        Ok(Pusher { way, socket: BufReader::new(socket), host, publisher, payload })
    }

    /// Pushes the messages from `first` to `last` and waits until they are answered.
    pub fn push(&mut self, first: u32, last: u32) -> Result<(), Failure> {
        let at_once = if self.way == Way::HttpSingle { 1 } else { BATCH };
        let mut from = first;
        while from <= last {
            let to = last.min(from + at_once - 1);
            match self.way {
                Way::HttpSingle => self.posts("/api/publish", self.message(from, "r", "d"))?,
                Way::HttpBatch => {
                    let lines = (from..=to).map(|number| self.message(number, "r", "d") + "\n");
                    let body = lines.collect::<String>();
                    self.posts("/api/batch", body)?;
                }
                Way::Door | Way::RedisList | Way::RedisStream => self.pipelines(from, to)?,
            }
            from = to + 1;
        }
        Ok(())
    }

    fn message(&self, number: u32, room: &str, content: &str) -> String {
        let mut text = format!(r#"{{"{room}":"{ROOM}","{content}":"{}"}}"#, self.payload).into_bytes();
        let place = mark_place(&text).expect("the payload has a mark");
        Mark { time_ns: 0, publisher: self.publisher, sequence: number }.stamp(&mut text[place..]);
        String::from_utf8(text).expect("marks are ASCII")
    }

    fn posts(&mut self, path: &str, body: String) -> Result<(), Failure> {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", self.host);
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.socket.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            self.socket.read_line(&mut line)?;
            if status.is_empty() {
                status.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length =
                    value.trim().parse().map_err(|_| Failure::Run(format!("an answer of {value} bytes")))?;
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.socket.read_exact(&mut answer)?;
        // A batch tells of each line; one that was refused has a code.
        if !status.starts_with("HTTP/1.1 200") || memchr::memmem::find(&answer, br#""code""#).is_some() {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(Failure::Run(format!("{path} answered {status}{answer}")));
        }
        Ok(())
    }

    fn pipelines(&mut self, from: u32, to: u32) -> Result<(), Failure> {
        let mut commands = String::new();
        for number in from..=to {
            let item = self.message(number, "room", "content");
            let words: &[&str] = match self.way {
                Way::RedisStream => &["XADD", STREAM, "*", "payload", &item],
                _ => &["LPUSH", LIST, &item],
            };
            commands.push_str(&format!("*{}\r\n", words.len()));
            words.iter().for_each(|word| commands.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        }
        self.socket.get_mut().write_all(commands.as_bytes())?;
        let mut line = String::new();
        for _ in from..=to {
            line.clear();
            self.socket.read_line(&mut line)?;
            if line.starts_with('$') {
                // The id of a stream's entry.
                line.clear();
                self.socket.read_line(&mut line)?;
            }
            if line.is_empty() || line.starts_with('-') {
                return Err(Failure::Run(format!("a push was answered with {line:?}")));
            }
        }
        Ok(())
    }
}

/// The server's default list, and the stream that it is told to read.
const LIST: &str = "message_queue";
pub const STREAM: &str = "pushes";
