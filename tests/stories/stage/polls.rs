//! Somebody who asks again and again: one HTTP connection that is kept, and the cursor of the last answer.

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::guest::Line;
use super::hall::Hall;
use super::http::{Answer, read_head};

/// A connection that is kept from one request to the next.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
    host: String,
    rest: BytesMut,
}

impl Link {
    pub async fn to(hall: &Hall) -> Link {
        Link { socket: hall.socket().await, host: hall.address().to_string(), rest: BytesMut::new() }
    }

    /// Sends a request and does not wait for its answer.
    pub async fn sends(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str(&format!("\r\n{body}"));
        self.socket.write_all(request.as_bytes()).await.expect("the server reads the request");
    }

    /// Reads an answer. The connection stays, unless the answer says otherwise.
    pub async fn hears(&mut self) -> Answer {
        let (head, rest) = read_head(&mut self.socket).await;
        assert!(self.rest.is_empty());
        head.with_body(rest, &mut self.socket).await
    }

    pub async fn asks(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.sends(method, path, headers, body).await;
        self.hears().await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.asks("GET", path, &[], "").await
    }

    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.asks("POST", path, &[], body).await
    }
}

/// A poller: what its URLs begin with, and where it stands.
#[derive(Debug)]
pub struct Poller {
    pub link: Link,
    pub path: String,
    pub since: String,
}

impl Poller {
    /// Has not polled yet. `path`: with its rooms: `/v1/poll?rooms=lobby&user=ann`.
    pub async fn new(hall: &Hall, path: &str) -> Poller {
        Poller { link: Link::to(hall).await, path: path.into(), since: String::new() }
    }

    /// The URL of its next poll.
    pub fn url(&self, wait: u64) -> String {
        let since: String = url::form_urlencoded::byte_serialize(self.since.as_bytes()).collect();
        format!("{}&wait={wait}&since={since}", self.path)
    }

    /// Polls: the lines of the answer.
    pub async fn polls(&mut self, wait: u64) -> Vec<Line> {
        let url = self.url(wait);
        let answer = self.link.get(&url).await;
        self.takes(&answer)
    }

    /// Takes an answer as its own.
    pub fn takes(&mut self, answer: &Answer) -> Vec<Line> {
        let (lines, next) = read(answer);
        self.since = next;
        lines
    }
}

/// The lines of an answer, and the next cursor.
pub fn read(answer: &Answer) -> (Vec<Line>, String) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let json: Value = answer.json();
    let next = json["next"].as_str().unwrap_or_else(|| panic!("no next: {answer:?}")).to_owned();
    let body: Body = serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    (body.frames.iter().map(|frame| Line::of(frame.get().to_owned())).collect(), next)
}

#[derive(serde::Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    frames: Vec<&'a serde_json::value::RawValue>,
}
