//! As much HTTP as the stories need: one request per connection, and the answer.

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Fails unless this is a refusal in the shape that all refusals have.
    pub fn is_refusal(&self, code: u16, why: &str) {
        let json = self.json();
        assert_eq!((self.status, json["code"].as_u64()), (code, Some(code.into())), "{self:?}");
        assert_eq!(json["why"], why, "{self:?}");
        assert!(json["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
    }

    pub(super) async fn with_body(mut self, rest: BytesMut, socket: &mut TcpStream) -> Answer {
        let mut body = rest.to_vec();
        match self.header("content-length").map(|text| text.parse::<usize>().expect("a length is a number")) {
            Some(length) => {
                while body.len() < length {
                    let n = timeout(PATIENCE, socket.read_buf(&mut body)).await.expect("the body comes");
                    assert_ne!(n.expect("the link holds"), 0, "the body broke off: {self:?}");
                }
            }
            None => {
                let rest = timeout(PATIENCE, socket.read_to_end(&mut body)).await.expect("the body ends");
                rest.expect("the link holds");
            }
        }
        self.body = String::from_utf8(body).expect("bodies are UTF-8");
        self
    }
}

/// Reads the head of an answer; the bytes behind it come along. Fails when the server hangs up before.
pub async fn read_head(socket: &mut TcpStream) -> (Answer, BytesMut) {
    let mut buffer = BytesMut::new();
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let read = timeout(PATIENCE, socket.read_buf(&mut buffer)).await.expect("the server answers");
        assert_ne!(read.expect("the link holds"), 0, "hung up within the head: {buffer:?}");
    };
    let rest = buffer.split_off(end + 4);
    let head = String::from_utf8(buffer[..end].to_vec()).expect("a head is ASCII");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let answer = Answer {
        status: status.unwrap_or_else(|| panic!("no HTTP: {head}")),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: String::new(),
    };
    (answer, rest)
}
