//! WebSocket as a client needs it (RFC 6455): the upgrade request, masked frames out, frames in. Sans I/O. Used by the
//! client loops; the floor server uses the same parser for masked frames and `server_frame` for its own.

/// The sample key and answer of RFC 6455, section 1.3. One key for all is fine here: the check only has to tell a
/// WebSocket server from something else.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server has to answer to `KEY`.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The request that turns a connection of `user` to `host` into a WebSocket.
pub fn upgrade_request(host: &str, user: &str) -> String {
    format!(
        "GET /v1/ws?user={user} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Length of the answer's head when `bytes` holds all of it; an error when it is no upgrade.
pub fn upgrade_answer(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    if head.starts_with(b"HTTP/1.1 101") && memchr::memmem::find(head, ACCEPT.as_bytes()).is_some() {
        return Ok(Some(end + 4));
    }
    Err(format!("no upgrade but: {}", String::from_utf8_lossy(bytes).escape_debug()))
}

/// A cheap source of masks (xorshift64*). The RFC wants them hard to foresee against hostile scripts in browsers; here
/// they only have to make the server do the real work of unmasking.
pub struct Masks(u64);

impl Masks {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn draw(&mut self) -> [u8; 4] {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32).to_ne_bytes()
    }
}

/// Appends one whole masked frame to `out`.
pub fn client_frame(out: &mut Vec<u8>, opcode: u8, body: &[u8], mask: [u8; 4]) {
    put_head(out, opcode, body.len(), 0x80);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(body);
    apply_mask(&mut out[start..], mask);
}

/// Appends one whole unmasked frame to `out`.
pub fn server_frame(out: &mut Vec<u8>, opcode: u8, body: &[u8]) {
    put_head(out, opcode, body.len(), 0);
    out.extend_from_slice(body);
}

fn put_head(out: &mut Vec<u8>, opcode: u8, length: usize, mask_bit: u8) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(mask_bit | length as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// XORs `body` with the mask; twice is the identity.
pub fn apply_mask(body: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = body.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    rest.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// Where one frame of a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    /// Present in frames from a client.
    pub mask: Option<[u8; 4]>,
    /// First byte of the body, from the start of the buffer given to `next_frame`.
    pub body_start: usize,
    /// One past the last byte of the body, which is where the next frame starts.
    pub end: usize,
}

/// The frame at the start of `bytes`, or `None` when it is not whole yet.
pub fn next_frame(bytes: &[u8]) -> Option<Frame> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (length, head): (usize, usize) = match second & 0x7f {
        126 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        short => (short as usize, 2),
    };
    let masked = second & 0x80 != 0;
    let body_start = head + if masked { 4 } else { 0 };
    let end = body_start.checked_add(length)?;
    if bytes.len() < end {
        return None;
    }
    let mask = masked.then(|| [bytes[head], bytes[head + 1], bytes[head + 2], bytes[head + 3]]);
    Some(Frame { opcode: first & 0x0f, mask, body_start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_class_come_back() {
        for length in [0, 1, 3, 125, 126, 127, 65_535, 65_536, 100_000] {
            let body: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut bytes = vec![];
            client_frame(&mut bytes, TEXT, &body, [1, 2, 3, 250]);
            let frame = next_frame(&bytes).expect("a whole frame");
            assert_eq!((frame.opcode, frame.end), (TEXT, bytes.len()));
            let mut back = bytes[frame.body_start..frame.end].to_vec();
            apply_mask(&mut back, frame.mask.expect("client frames are masked"));
            assert_eq!(back, body, "length {length}");
        }
    }

    #[test]
    fn a_torn_frame_waits_for_the_rest_at_every_cut() {
        let mut bytes = vec![];
        server_frame(&mut bytes, TEXT, &[b'a'; 300]);
        for cut in 0..bytes.len() {
            assert_eq!(next_frame(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(next_frame(&bytes).map(|frame| (frame.mask, frame.end)), Some((None, 304)));
    }

    #[test]
    fn two_frames_in_one_buffer_are_told_apart() {
        let mut bytes = vec![];
        server_frame(&mut bytes, TEXT, b"one");
        server_frame(&mut bytes, PING, b"");
        let first = next_frame(&bytes).expect("the first");
        assert_eq!(&bytes[first.body_start..first.end], b"one");
        assert_eq!(next_frame(&bytes[first.end..]).map(|frame| frame.opcode), Some(PING));
    }

    #[test]
    fn only_a_true_upgrade_is_taken() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\nrest");
        assert_eq!(upgrade_answer(good.as_bytes()), Ok(Some(good.len() - 4)));
        assert_eq!(upgrade_answer(&good.as_bytes()[..20]), Ok(None));
        assert!(upgrade_answer(b"HTTP/1.1 403 Forbidden\r\n\r\n").is_err());
        assert!(upgrade_answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
    }

    #[test]
    fn masks_differ_and_are_not_zero() {
        let mut masks = Masks::new(7);
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| masks.draw()).collect();
        assert!(drawn.len() > 990 && !drawn.contains(&[0; 4]));
    }
}
