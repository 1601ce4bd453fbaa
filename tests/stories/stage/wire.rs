//! A WebSocket client that is nothing but bytes: its own handshake, masks and frames, so that it can also do
//! what no proper client does. It holds the server to the rules: frames of the server are never masked, have
//! no reserved bits, and arrive whole.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout, timeout_at};

use super::PATIENCE;
use super::http::{Answer, read_head};

/// Opcodes of RFC 6455, section 5.2.
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The bit that says that a frame is a message's last.
pub const FIN: u8 = 0x80;

const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x2e];

/// What the server has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close(Option<u16>, String),
    /// The link is at its end.
    End,
}

/// Both directions of a WebSocket connection.
#[derive(Debug)]
pub struct Wire {
    pub reader: Reader,
    pub writer: Writer,
}

/// What comes from the server.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    buffer: BytesMut,
}

/// What goes to the server.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
}

/// A frame as a client writes it. `head` is the first byte: [`FIN`] and the opcode.
pub fn client_frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(head, payload.len() as u64);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    frame
}

/// The head of a masked frame that announces `length` bytes.
pub fn frame_head(head: u8, length: u64) -> Vec<u8> {
    let mut frame = vec![head];
    match length {
        0..126 => frame.push(0x80 | length as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame
}

impl Wire {
    /// Asks for an upgrade over a socket; the refusal when there is none.
    pub async fn upgrade(
        mut socket: TcpStream,
        host: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Wire, Answer> {
        let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut request = format!("GET {path} HTTP/1.1\r\n");
        if !has("host") {
            request.push_str(&format!("Host: {host}\r\n"));
        }
        request.push_str(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n",
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        socket.set_nodelay(true).expect("a TCP socket has this option");
        socket.write_all(request.as_bytes()).await.expect("the server reads the request");
        let (head, rest) = read_head(&mut socket).await;
        if head.status != 101 {
            return Err(head.with_body(rest, &mut socket).await);
        }
        // The answer to this very key, worked out apart from any server (RFC 6455, section 1.3).
        assert_eq!(head.header("sec-websocket-accept"), Some("Bz3qJYTGdOe8gUSpLosEdiLKDrk="));
        let (reader, writer) = socket.into_split();
        Ok(Wire { reader: Reader { half: reader, buffer: rest }, writer: Writer { half: writer } })
    }

    /// The next frame, pings answered on the way. Pings do not prolong the wait.
    pub async fn next(&mut self) -> Seen {
        self.next_before(Instant::now() + PATIENCE)
            .await
            .expect("no frame within the time that a story waits")
    }

    /// The same; none when there is none before `end`.
    pub async fn next_before(&mut self, end: Instant) -> Option<Seen> {
        loop {
            match timeout_at(end, self.reader.read()).await.ok()? {
                Seen::Ping(payload) => self.writer.frame(FIN | PONG, &payload).await,
                seen => return Some(seen),
            }
        }
    }

    /// Reads on to the close frame: its code and reason, and the texts before it. Fails when the link ends
    /// without one.
    pub async fn until_closed(&mut self) -> (Option<u16>, String, Vec<String>) {
        let (mut texts, end) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            match self.next_before(end).await {
                Some(Seen::Close(code, why)) => return (code, why, texts),
                Some(Seen::Text(text)) => texts.push(text),
                Some(Seen::End) => panic!("the link ended without a close frame; heard: {texts:#?}"),
                Some(_) => {}
                None => panic!("waited in vain for a close frame; heard: {texts:#?}"),
            }
        }
    }

    /// Cuts the link without a word: with a reset, as when a phone loses its network and the system gives up,
    /// or with a plain end.
    pub fn cut(self, reset: bool) {
        let socket = self.reader.half.reunite(self.writer.half).expect("both halves of one socket");
        if reset {
            let linger = Some(std::time::Duration::ZERO);
            socket2::SockRef::from(&socket).set_linger(linger).expect("a TCP socket has this option");
        }
    }
}

impl Writer {
    /// Writes one masked frame. A link that is gone already is not told here: the reader sees its end.
    pub async fn frame(&mut self, head: u8, payload: &[u8]) {
        self.bytes(&client_frame(head, payload)).await;
    }

    /// Writes one text message.
    pub async fn text(&mut self, text: &str) {
        self.frame(FIN | TEXT, text.as_bytes()).await;
    }

    /// Writes a close frame.
    pub async fn close(&mut self, code: u16) {
        self.frame(FIN | CLOSE, &code.to_be_bytes()).await;
    }

    /// Writes bytes as they are; whether they could be written.
    pub async fn bytes(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(PATIENCE, self.half.write_all(bytes)).await;
        written.unwrap_or_else(|_| panic!("the server did not read {} bytes", bytes.len())).is_ok()
    }
}

impl Reader {
    /// The next frame, pings included.
    pub async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.read()).await.expect("no frame within the time that a story waits")
    }

    async fn read(&mut self) -> Seen {
        loop {
            if let Some(seen) = self.parse() {
                return seen;
            }
            match self.half.read_buf(&mut self.buffer).await {
                Ok(0) => {
                    assert!(self.buffer.is_empty(), "the link ended within a frame: {:?}", self.buffer);
                    return Seen::End;
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                    return Seen::End;
                }
            }
        }
    }

    fn parse(&mut self) -> Option<Seen> {
        let bytes = &self.buffer[..];
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        assert_eq!(first & 0xf0, FIN, "one frame per message and no reserved bits: {first:#x}");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (length, at) = match second {
            126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two bytes"))), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight bytes")), 10),
            short => (u64::from(short), 2),
        };
        if bytes.len() < at + length as usize {
            return None;
        }
        self.buffer.advance(at);
        let payload = self.buffer.split_to(length as usize).freeze();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the server sends UTF-8");
        Some(match first & 0x0f {
            TEXT => Seen::Text(text(&payload)),
            BINARY => Seen::Binary(payload),
            PING => Seen::Ping(payload),
            PONG => Seen::Pong(payload),
            CLOSE if payload.is_empty() => Seen::Close(None, String::new()),
            CLOSE => {
                let code = u16::from_be_bytes(payload[..2].try_into().expect("a code has two bytes"));
                Seen::Close(Some(code), text(&payload[2..]))
            }
            other => panic!("the server sent opcode {other}"),
        })
    }
}
