//! Readers of one room over one kind of connection, in one loop. They look for the marks in what they are sent, whatever
//! stands around them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::marker::{MARK_BYTES, Mark};
use crate::sys::{Event, Poller, READ};
use crate::tally::{Faults, Heard, Track};
use crate::wire;

/// The room of all of them.
pub const ROOM: &str = "doors";
/// How long a poll waits for something.
const WAIT_SECS: u32 = 55;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long it may take until one more is there, or one more message.
const PATIENCE: Duration = Duration::from_secs(20);

/// How readers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    Stream,
    Poll,
}

impl Wire {
    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Wire::WebSocket => "WebSocket",
            Wire::Stream => "event stream",
            Wire::Poll => "long poll",
        }
    }
}

struct Reader {
    socket: TcpStream,
    host: String,
    user: String,
    /// What has come and was not read to its end.
    bytes: Vec<u8>,
    tracks: HashMap<u32, Track>,
}

/// All readers.
pub struct Readers {
    wire: Wire,
    poller: Poller,
    readers: Vec<Reader>,
    events: Vec<Event>,
    /// Messages that were heard, over all readers.
    pub heard: u64,
    pub faults: Faults,
}

impl Readers {
    /// None yet.
    pub fn new(wire: Wire) -> Result<Readers, Failure> {
        let (poller, faults) = (Poller::new(1024)?, Faults::default());
        Ok(Readers { wire, poller, readers: vec![], events: vec![], heard: 0, faults })
    }

    /// One more, who is in the room when this returns.
    pub fn enter(&mut self, address: SocketAddrV4) -> Result<(), Failure> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (number, host) = (self.readers.len(), address.to_string());
        let user = format!("reader-{number}");
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        match self.wire {
            Wire::WebSocket => {
                socket.write_all(wire::upgrade_request(&host, &user).as_bytes())?;
                let mut frame = vec![];
                let join = format!(r#"{{"t":"join","r":"{ROOM}","quiet":true}}"#);
                wire::client_frame(&mut frame, wire::TEXT, join.as_bytes(), [1, 2, 3, 4]);
                socket.write_all(&frame)?;
            }
            Wire::Stream => {
                let path = format!("/v1/stream?rooms={ROOM}&quiet=1&user={user}");
                socket.write_all(request(&path).as_bytes())?;
            }
            Wire::Poll => {
                let path = format!("/v1/poll?rooms={ROOM}&quiet=1&user={user}");
                socket.write_all(request(&path).as_bytes())?;
            }
        }
        let mut reader = Reader { socket, host, user, bytes: vec![], tracks: HashMap::new() };
        let begun = Instant::now();
        while memchr::memmem::find(&reader.bytes, br#""t":"live""#).is_none() {
            let mut bytes = [0; 4096];
            let length = reader.socket.read(&mut bytes)?;
            reader.bytes.extend_from_slice(&bytes[..length]);
            if length == 0 || begun.elapsed() > PATIENCE {
                let said = String::from_utf8_lossy(&reader.bytes).into_owned();
                return Err(Failure::Run(format!("reader {number} is not let in: {said}")));
            }
        }
        reader.socket.set_nonblocking(true)?;
        self.poller.add(&reader.socket, number, READ)?;
        if self.wire == Wire::Poll {
            reader.answers()?;
        }
        self.readers.push(reader);
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.readers.len()
    }

    /// Reads what comes until so much was heard in all.
    pub fn hear(&mut self, heard: u64) -> Result<(), Failure> {
        let (mut begun, mut before) = (Instant::now(), self.heard);
        while self.heard < heard {
            if self.heard > before {
                (begun, before) = (Instant::now(), self.heard);
            }
            if begun.elapsed() > PATIENCE {
                let missing = heard - self.heard;
                return Err(Failure::Run(format!("{missing} messages did not come ({})", self.wire.name())));
            }
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Reads what there is, or waits for something.
    pub fn turn(&mut self, wait: Duration) -> Result<(), Failure> {
        let mut events = std::mem::take(&mut self.events);
        self.poller.wait(&mut events, u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))?;
        for event in events.iter().filter(|event| event.readable()) {
            self.read(event.token)?;
        }
        self.events = events;
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<(), Failure> {
        let mut bytes = [0; READ_BYTES];
        let reader = &mut self.readers[number];
        let length = match reader.socket.read(&mut bytes) {
            Ok(0) => return Err(Failure::Run(format!("the server closed on reader {number}"))),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        reader.bytes.extend_from_slice(&bytes[..length]);
        let (heard, faults) = match self.wire {
            Wire::WebSocket | Wire::Stream => reader.takes_marks(),
            Wire::Poll => reader.answers()?,
        };
        self.heard += heard;
        self.faults += faults;
        Ok(())
    }
}

impl Reader {
    /// Counts the marks in what has come; keeps what may be the beginning of one.
    fn takes_marks(&mut self) -> (u64, Faults) {
        let (heard, faults, read) = count(&self.bytes, &mut self.tracks);
        // A mark that is not whole begins in the last bytes.
        let kept = read.max(self.bytes.len().saturating_sub(MARK_BYTES - 1));
        self.bytes.drain(..kept);
        (heard, faults)
    }

    /// When an answer is whole: counts its marks and asks again from where it ends.
    fn answers(&mut self) -> Result<(u64, Faults), Failure> {
        let Some(head) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") else {
            return Ok((0, Faults::default()));
        };
        let text = String::from_utf8_lossy(&self.bytes[..head]).to_ascii_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let Some(length) = length.filter(|_| text.starts_with("http/1.1 200")) else {
            return Err(Failure::Run(format!("a poll was answered with {text}")));
        };
        let end = head + 4 + length;
        if self.bytes.len() < end {
            return Ok((0, Faults::default()));
        }
        let body = self.bytes[head + 4..end].to_vec();
        self.bytes.drain(..end);
        let (heard, faults, _) = count(&body, &mut self.tracks);
        let answer: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|error| Failure::Run(format!("a poll's answer: {error}")))?;
        let next = answer["next"].as_str().unwrap_or_default().replace('+', "%2B");
        let user = &self.user;
        let path = format!("/v1/poll?rooms={ROOM}&quiet=1&user={user}&wait={WAIT_SECS}&since={next}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.socket.write_all(request.as_bytes())?;
        Ok((heard, faults))
    }
}

/// How many marks there are, what is wrong with them, and where the last one ends.
fn count(bytes: &[u8], tracks: &mut HashMap<u32, Track>) -> (u64, Faults, usize) {
    let (mut heard, mut faults, mut at) = (0, Faults::default(), 0);
    while let Some(start) = memchr::memchr(b'~', &bytes[at..]).map(|start| at + start) {
        let Some(mark) = Mark::find(&bytes[start..]) else {
            // A sign like its edge that is none, or a mark that is not whole.
            if bytes.len() < start + MARK_BYTES {
                return (heard, faults, start);
            }
            at = start + 1;
            continue;
        };
        at = start + MARK_BYTES;
        match tracks.entry(mark.publisher).or_default().hear(mark.sequence) {
            Heard::New => heard += 1,
            Heard::Late => {
                heard += 1;
                faults.out_of_order += 1;
            }
            Heard::Doubled => faults.doubled += 1,
        }
    }
    (heard, faults, at)
}
