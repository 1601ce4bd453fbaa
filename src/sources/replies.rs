//! Replies of the Redis protocol, RESP2 and RESP3, as bytes.
//! Written by the door's mind. Source: redis.io, "Redis serialization protocol specification".

/// Writes replies in the version that the client speaks.
#[derive(Debug, Default)]
pub struct Replies {
    /// What is to be sent.
    pub bytes: Vec<u8>,
    /// Whether the client has asked for RESP3.
    pub resp3: bool,
}

impl Replies {
    /// A word such as `OK`.
    pub fn simple(&mut self, word: &str) {
        self.line(b'+', word);
    }

    /// An error: its code, then a text. Line breaks in it become spaces.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    /// A whole number.
    pub fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// A value of any bytes.
    pub fn bulk(&mut self, value: &[u8]) {
        self.number(b'$', value.len() as i64);
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// The head of a list of `n` replies.
    pub fn array(&mut self, n: usize) {
        self.number(b'*', n as i64);
    }

    /// The head of `n` pairs of replies.
    pub fn map(&mut self, n: usize) {
        if self.resp3 { self.number(b'%', n as i64) } else { self.number(b'*', 2 * n as i64) }
    }

    fn number(&mut self, kind: u8, number: i64) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.bytes.push(kind);
        self.bytes.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_depend_on_the_version() {
        let write = |resp3: bool| {
            let mut replies = Replies { resp3, ..Replies::default() };
            replies.map(1);
            replies.bulk(b"a");
            replies.null();
            replies.error("ERR two\r\nlines");
            replies.integer(-5);
            String::from_utf8(replies.bytes).unwrap()
        };
        assert_eq!(write(false), "*2\r\n$1\r\na\r\n$-1\r\n-ERR two  lines\r\n:-5\r\n");
        assert_eq!(write(true), "%1\r\n$1\r\na\r\n_\r\n-ERR two  lines\r\n:-5\r\n");
    }
}
