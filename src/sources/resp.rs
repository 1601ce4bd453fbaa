//! The Redis wire protocol, RESP2 and RESP3, from the server's side: bytes to requests.
//! Called by the door. Does no I/O; keeps what a client may make it hold within [`RequestLimits`].
//! Source: redis.io, "Redis serialization protocol specification".

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use crate::sources::resp_inline::{UnbalancedQuotes, split};

/// Longest inline command, and longest line in front of a value.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most values in one command, as in Redis.
const VALUES_MAX: i64 = 1 << 20;
/// Longest value that is skipped rather than taken as an attack, as in Redis (`proto-max-bulk-len`).
const SKIPPED_BYTES_MAX: i64 = 512 << 20;
/// What holding one value costs beside its bytes.
const VALUE_OVERHEAD: usize = 64;
/// First words of what web browsers can be made to send to any port. No Redis client sends them inline.
const WEB_WORDS: [&str; 9] = ["get", "post", "put", "head", "delete", "options", "patch", "connect", "host:"];

/// What one request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Longest value, in bytes. Longer ones are read, thrown away and answered with an error.
    pub value_bytes: usize,
    /// Memory for all values of a request together, in bytes. Handled likewise.
    pub request_bytes: usize,
    /// Most values. More end the connection.
    pub values: i64,
}

impl RequestLimits {
    /// For clients that may push items of `message_bytes`.
    pub fn for_messages(message_bytes: usize) -> RequestLimits {
        let value_bytes = message_bytes.saturating_mul(4).max(64 << 10);
        RequestLimits { value_bytes, request_bytes: value_bytes.max(8 << 20), values: VALUES_MAX }
    }

    /// For clients that have yet to give the password: as in Redis, 10 values of 16 KiB.
    pub fn before_login() -> RequestLimits {
        RequestLimits { value_bytes: 16 << 10, request_bytes: 64 << 10, values: 10 }
    }
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The name and its values; never empty.
    Command(Vec<Bytes>),
    /// It broke a limit and was thrown away.
    TooLarge {
        /// The command's name, if that much was kept.
        name: Option<Bytes>,
        /// How many bytes were too many.
        bytes: usize,
        /// How many are allowed.
        limit: usize,
    },
}

/// What ends a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// Told to the client.
    Wrong(String),
    /// A browser speaks HTTP, probably made to by a foreign page. It is told nothing.
    Http,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Wrong(why) => write!(f, "Protocol error: {why}"),
            ProtocolError::Http => f.write_str("HTTP instead of the Redis protocol"),
        }
    }
}

/// Reads requests out of bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    /// What a request may be from now on.
    pub limits: RequestLimits,
    /// Values that the request under way still lacks; 0: none is under way.
    missing: i64,
    /// Length of the value under way.
    value: Option<usize>,
    /// Bytes still to be thrown away.
    skip: usize,
    values: Vec<Bytes>,
    held: usize,
    too_large: Option<(usize, usize)>,
}

impl Decoder {
    /// Waits for the first request.
    pub fn new(limits: RequestLimits) -> Decoder {
        Decoder { limits, missing: 0, value: None, skip: 0, values: Vec::new(), held: 0, too_large: None }
    }

    /// The next request; `None`: more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        loop {
            if self.missing == 0 {
                match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        let Some(count) = number_line(buffer, "multibulk length")? else {
                            return Ok(None);
                        };
                        self.begin(count)?;
                        continue;
                    }
                    Some(_) => {}
                }
                let Some(line) = inline_line(buffer)? else {
                    return Ok(None);
                };
                let values =
                    split(&line).map_err(|UnbalancedQuotes| wrong("unbalanced quotes in request"))?;
                if !values.is_empty() {
                    return Ok(Some(Request::Command(values)));
                }
                continue;
            }
            if !self.next_value(buffer)? {
                return Ok(None);
            }
            if self.missing == 0 {
                return Ok(Some(self.end()));
            }
        }
    }

    fn begin(&mut self, count: i64) -> Result<(), ProtocolError> {
        if count > self.limits.values {
            let why = if self.limits.values < VALUES_MAX {
                "unauthenticated multibulk length"
            } else {
                "invalid multibulk length"
            };
            return Err(wrong(why));
        }
        self.missing = count.max(0);
        Ok(())
    }

    /// Goes on with a value; `false`: more bytes are needed.
    fn next_value(&mut self, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        if self.skip > 0 {
            let n = self.skip.min(buffer.len());
            buffer.advance(n);
            self.skip -= n;
            self.missing -= i64::from(self.skip == 0);
            return Ok(self.skip == 0);
        }
        let Some(len) = self.value else {
            return self.value_header(buffer);
        };
        if buffer.len() < len + 2 {
            return Ok(false);
        }
        if &buffer[len..len + 2] != b"\r\n" {
            return Err(wrong("a value is longer than its announced length"));
        }
        self.values.push(buffer.split_to(len).freeze());
        buffer.advance(2);
        self.value = None;
        self.missing -= 1;
        Ok(true)
    }

    fn value_header(&mut self, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        match buffer.first() {
            None => return Ok(false),
            Some(b'$') => {}
            Some(other) => return Err(wrong(&format!("expected '$', got '{}'", other.escape_ascii()))),
        }
        let Some(len) = number_line(buffer, "bulk length")? else {
            return Ok(false);
        };
        if !(0..=SKIPPED_BYTES_MAX).contains(&len) {
            return Err(wrong("invalid bulk length"));
        }
        let len = len as usize;
        self.held += len + VALUE_OVERHEAD;
        if len > self.limits.value_bytes {
            self.give_up(len, self.limits.value_bytes);
        } else if self.held > self.limits.request_bytes {
            self.give_up(self.held, self.limits.request_bytes);
        }
        if self.too_large.is_some() {
            self.skip = len + 2;
        } else {
            self.value = Some(len);
        }
        Ok(true)
    }

    /// Frees what the request held; the rest of it is read and thrown away.
    fn give_up(&mut self, bytes: usize, limit: usize) {
        self.too_large.get_or_insert((bytes, limit));
        self.values.truncate(1);
        self.values.shrink_to_fit();
    }

    fn end(&mut self) -> Request {
        self.held = 0;
        let mut values = std::mem::take(&mut self.values);
        match self.too_large.take() {
            None => Request::Command(values),
            Some((bytes, limit)) => Request::TooLarge { name: values.pop(), bytes, limit },
        }
    }
}

fn wrong(why: &str) -> ProtocolError {
    ProtocolError::Wrong(why.into())
}

/// A line such as `*3` or `$5`; the first byte is the caller's business.
fn number_line(buffer: &mut BytesMut, what: &str) -> Result<Option<i64>, ProtocolError> {
    let Some(end) = buffer.iter().take(32).position(|byte| *byte == b'\n') else {
        return if buffer.len() < 32 { Ok(None) } else { Err(wrong(&format!("invalid {what}"))) };
    };
    let line = buffer.split_to(end + 1);
    let number =
        line[1..end].strip_suffix(b"\r").and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.map(Some).ok_or_else(|| wrong(&format!("invalid {what}")))
}

fn inline_line(buffer: &mut BytesMut) -> Result<Option<Bytes>, ProtocolError> {
    let Some(end) = buffer.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if buffer.len() < LINE_BYTES_MAX { Ok(None) } else { Err(wrong("too big inline request")) };
    };
    let mut line = buffer.split_to(end + 1);
    line.truncate(if line[..end].ends_with(b"\r") { end - 1 } else { end });
    let first = line[..].split(|byte| *byte == b' ').next().unwrap_or_default();
    if WEB_WORDS.iter().any(|word| first.eq_ignore_ascii_case(word.as_bytes())) {
        return Err(ProtocolError::Http);
    }
    Ok(Some(line.freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the bytes in pieces of `step` and shows each request, `|` between values.
    fn shown(input: &[u8], step: usize, limits: RequestLimits) -> Result<Vec<String>, ProtocolError> {
        let (mut decoder, mut buffer, mut seen) = (Decoder::new(limits), BytesMut::new(), Vec::new());
        for piece in input.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            while let Some(request) = decoder.next(&mut buffer)? {
                seen.push(match request {
                    Request::Command(values) => values
                        .iter()
                        .map(|value| value.escape_ascii().to_string())
                        .collect::<Vec<_>>()
                        .join("|"),
                    Request::TooLarge { name, bytes, limit } => {
                        format!("{} too large {bytes}>{limit}", name.unwrap_or_default().escape_ascii())
                    }
                });
            }
        }
        Ok(seen)
    }

    const LIMITS: RequestLimits = RequestLimits { value_bytes: 20, request_bytes: 300, values: VALUES_MAX };

    #[test]
    fn requests_are_read_however_they_are_cut() {
        let input = b"*2\r\n$4\r\nECHO\r\n$2\r\nh\n\r\nPING\r\n\r\n*0\r\n*-1\r\n*1\r\n$4\r\nQUIT\r\nset a \"b\\x41\\n\" 'c d'\n";
        for step in 1..input.len() {
            assert_eq!(shown(input, step, LIMITS).unwrap(), ["ECHO|h\\n", "PING", "QUIT", "set|a|bA\\n|c d"]);
        }
    }

    #[test]
    fn what_is_too_large_is_skipped_and_the_next_request_is_read() {
        let long = "x".repeat(500);
        let value = format!("*3\r\n$5\r\nLPUSH\r\n$1\r\nq\r\n$500\r\n{long}\r\nPING\r\n");
        let many = format!("*9\r\n$5\r\nRPUSH\r\n{}PING\r\n", "$1\r\nx\r\n".repeat(8));
        for step in [1, 7, 5_000] {
            assert_eq!(shown(value.as_bytes(), step, LIMITS).unwrap(), ["LPUSH too large 500>20", "PING"]);
            assert_eq!(shown(many.as_bytes(), step, LIMITS).unwrap(), ["RPUSH too large 329>300", "PING"]);
        }
    }

    #[test]
    fn what_is_no_redis_protocol_ends_the_connection() {
        let before_login = RequestLimits::before_login();
        for (input, limits, error) in [
            (&b"*x\r\n"[..], LIMITS, "invalid multibulk length"),
            (b"*1048577\r\n", LIMITS, "invalid multibulk length"),
            (b"*11\r\n", before_login, "unauthenticated multibulk length"),
            (b"*1\r\n:1\r\n", LIMITS, "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", LIMITS, "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", LIMITS, "invalid bulk length"),
            (b"*1\r\n$1\r\nab\r\n", LIMITS, "longer than its announced length"),
            (b"*00000000000000000000000000000000000001\r\n", LIMITS, "invalid multibulk length"),
            (b"set \"a\r\n", LIMITS, "unbalanced quotes"),
            (b"set \"a\"b\r\n", LIMITS, "unbalanced quotes"),
        ] {
            match shown(input, 100, limits) {
                Err(ProtocolError::Wrong(why)) => assert!(why.contains(error), "{why}"),
                other => panic!("{}: {other:?}", input.escape_ascii()),
            }
        }
        assert!(shown(&vec![b'x'; LINE_BYTES_MAX + 1], 1_000, LIMITS).is_err());
        for web in [&b"POST / HTTP/1.1\r\n"[..], b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"post x\n"] {
            assert_eq!(shown(web, 100, LIMITS), Err(ProtocolError::Http));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_cuts_make_no_difference(
            input in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), Just(b'"'), any::<u8>()], 0..200),
            step in 1usize..20
        ) {
            prop_assert_eq!(shown(&input, step, LIMITS), shown(&input, 1_000, LIMITS));
        }
    }
}
