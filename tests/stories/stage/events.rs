//! An `EventSource` that is nothing but bytes: reads an event stream as the WHATWG's rules say, remembers the last id,
//! and comes back with it. It holds the server to the rules: chunks arrive whole, and nothing but events is in them.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::PATIENCE;
use super::guest::Line;
use super::hall::Hall;
use super::http::{Answer, read_head};

/// One event, with the id that stands behind it.
#[derive(Debug, Clone)]
pub struct Event {
    pub line: Line,
    /// The id that this event has itself.
    pub id: Option<String>,
}

/// A stream that is being read.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    buffer: BytesMut,
    text: String,
    events: VecDeque<Event>,
    pub head: Answer,
    /// The id of the last event that was taken.
    pub last_id: String,
    /// When to come back, as the server said last.
    pub retry: Option<u64>,
    /// Comments so far.
    pub comments: usize,
    ended: bool,
}

impl Stream {
    /// Asks for a stream; the refusal when there is none.
    pub async fn ask(hall: &Hall, path: &str, headers: &[(&str, &str)]) -> Result<Stream, Answer> {
        let mut socket = hall.socket().await;
        let mut request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n", hall.address());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        socket.write_all(format!("{request}\r\n").as_bytes()).await.expect("the server reads the request");
        let (head, rest) = read_head(&mut socket).await;
        if head.status != 200 {
            return Err(head.with_body(rest, &mut socket).await);
        }
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "{head:?}");
        Ok(Stream {
            socket,
            buffer: rest,
            text: String::new(),
            events: VecDeque::new(),
            head,
            last_id: String::new(),
            retry: None,
            comments: 0,
            ended: false,
        })
    }

    /// A stream; fails when it is refused.
    pub async fn open(hall: &Hall, path: &str) -> Stream {
        Stream::ask(hall, path, &[]).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    /// The same place again, as a browser asks for it after a cut: with the last id, and nothing else.
    pub async fn again(self, hall: &Hall, path: &str) -> Stream {
        let last_id = self.last_id.clone();
        drop(self);
        let headers: &[(&str, &str)] = if last_id.is_empty() { &[] } else { &[("Last-Event-ID", &last_id)] };
        let mut stream =
            Stream::ask(hall, path, headers).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"));
        stream.last_id = last_id;
        stream
    }

    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        self.next_before(Instant::now() + PATIENCE)
            .await
            .expect("no event within the time that a story waits")
    }

    /// The same; an error when there is none before `end`.
    pub async fn next_before(&mut self, end: Instant) -> Result<Option<Event>, tokio::time::error::Elapsed> {
        loop {
            if let Some(event) = self.events.pop_front() {
                if let Some(id) = &event.id {
                    self.last_id.clone_from(id);
                }
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            timeout_at(end, self.read()).await?;
        }
    }

    /// Reads on until a line fits; what came before is dropped.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&Line) -> bool) -> Line {
        let mut heard = Vec::new();
        while let Some(event) = self.next().await {
            if fits(&event.line) {
                return event.line;
            }
            heard.push(event.line.raw);
        }
        panic!("the stream ended before {what}: {heard:#?}")
    }

    /// Reads on until a line of a type.
    pub async fn hears_a(&mut self, t: &str) -> Line {
        self.until(t, |line| line.t() == t).await
    }

    /// Waits for a comment after those so far.
    pub async fn hears_a_comment(&mut self) {
        let (before, end) = (self.comments, Instant::now() + PATIENCE);
        while self.comments == before {
            assert!(!self.ended, "the stream ended without a comment");
            timeout_at(end, self.read()).await.expect("a comment comes");
        }
    }

    async fn read(&mut self) {
        // An end without the last chunk is a link that broke; the client comes back all the same.
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => self.ended = true,
            Ok(_) => {}
        }
        self.unchunk();
        while let Some(at) = self.text.find("\n\n") {
            let block: String = self.text.drain(..at + 2).collect();
            self.take(&block);
        }
    }

    fn unchunk(&mut self) {
        while let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
            let size = std::str::from_utf8(&self.buffer[..at]).expect("a size is ASCII");
            let size =
                usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
            if self.buffer.len() < at + 2 + size + 2 {
                return;
            }
            self.buffer.advance(at + 2);
            let chunk = self.buffer.split_to(size);
            assert_eq!(&self.buffer[..2], b"\r\n", "a chunk ends where it says");
            self.buffer.advance(2);
            self.text.push_str(std::str::from_utf8(&chunk).expect("an event stream is UTF-8"));
            self.ended |= size == 0;
        }
    }

    fn take(&mut self, block: &str) {
        let (mut id, mut data) = (None, Vec::new());
        for line in block.lines() {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", value) => id = Some(value.to_owned()),
                ("data", value) => data.push(value),
                ("retry", value) => self.retry = Some(value.parse().expect("a number of milliseconds")),
                ("", _) | (":", _) if line.starts_with(':') => self.comments += 1,
                ("", "") => {}
                _ => panic!("no field of an event stream: {line:?}"),
            }
        }
        if !data.is_empty() {
            self.events.push_back(Event { line: Line::of(data.join("\n")), id });
        }
    }
}
