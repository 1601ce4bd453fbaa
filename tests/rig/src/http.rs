//! One HTTP request over a connection of its own, for the servers that stand beside ours in a story. Knows nothing of
//! what is asked.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, to its end.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether what was asked was done.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Its body as JSON, which it has to be.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", String::from_utf8_lossy(&self.body)))
    }
}

/// What is asked of a server of this machine.
#[derive(Debug)]
pub struct Question<'a> {
    /// Its port.
    pub port: u16,
    /// `GET` and the like.
    pub method: &'a str,
    /// With the query, coded already.
    pub path: &'a str,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// Empty: none.
    pub body: &'a str,
}

impl Question<'_> {
    /// The answer; none when the server is not there, or thinks for longer than [`PATIENCE`].
    pub async fn ask(&self) -> Option<Answer> {
        timeout(PATIENCE, self.exchange()).await.ok()?
    }

    async fn exchange(&self) -> Option<Answer> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        socket.write_all(self.written().as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.ok()?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: bytes.split_off(end + 4) })
    }

    /// As HTTP/1.0, in which no answer comes in chunks.
    fn written(&self) -> String {
        let Question { port, method, path, headers, body } = self;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        )
    }
}

/// A query of these names and values.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{}={}", coded(name), coded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Each byte that means something in a URL as `%41`.
fn coded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}
