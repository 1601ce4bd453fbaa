//! One WebSocket frame (RFC 6455, section 5): its opcodes, its header in both directions, the mask, and the
//! codes a close frame may carry. Called by the decoder and by whoever writes frames to a browser. Knows no
//! socket, no message that spans frames, and no extension: the three reserved bits must be 0.

use bytes::{BufMut, BytesMut};

/// Longest header a client can send: 2 bytes, 8 of length, 4 of mask.
pub const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a close, ping or pong frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a close frame: the code takes two bytes of the payload.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Close code: a frame that breaks the protocol.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// Close code: text that is not UTF-8.
pub const CLOSE_NOT_UTF8: u16 = 1007;
/// Close code: more bytes than this server takes.
pub const CLOSE_TOO_BIG: u16 = 1009;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// Why a connection must end, and how to say it: send a close frame with `close_code`, then hang up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// 1002 protocol error, 1007 not UTF-8, 1009 too big.
    pub close_code: u16,
    /// A short reason in plain words; fits into a close frame and is safe to log.
    pub why: &'static str,
}

impl Fault {
    /// The peer broke the protocol: close with 1002.
    pub const fn protocol(why: &'static str) -> Fault {
        Fault { close_code: CLOSE_PROTOCOL_ERROR, why }
    }

    /// Text, or the reason of a close frame, is not UTF-8: close with 1007.
    pub const fn not_utf8(why: &'static str) -> Fault {
        Fault { close_code: CLOSE_NOT_UTF8, why }
    }

    /// More than this server takes: close with 1009.
    pub const fn too_big(why: &'static str) -> Fault {
        Fault { close_code: CLOSE_TOO_BIG, why }
    }
}

/// What a frame is (RFC 6455, 5.2). The others are reserved, and an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of the message that a text or binary frame without FIN began.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Any bytes.
    Binary = 2,
    /// The end of the connection, with a code and a reason.
    Close = 8,
    /// Are you there? The answer is a pong with the same payload.
    Ping = 9,
    /// The answer to a ping, or a sign of life of its own.
    Pong = 10,
}

impl Opcode {
    /// Control frames are short, never fragmented, and may stand between the fragments of a message.
    pub const fn is_control(self) -> bool {
        self as u8 >= 8
    }

    #[inline]
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }
}

/// The header of a frame that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHeader {
    /// This frame ends its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// Bytes of payload that follow.
    pub payload_bytes: u64,
    /// Byte `n` of the payload is mixed with `mask[n % 4]`.
    pub mask: [u8; 4],
}

impl ClientHeader {
    /// Reads a header from the front of `bytes`; gives it and its length, or `None` while bytes are missing.
    /// What is wrong is said as soon as the byte that shows it is there.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(ClientHeader, usize)>, Fault> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        if first & RESERVED_BITS != 0 {
            return Err(Fault::protocol("reserved bit set, but no extension was agreed on"));
        }
        let opcode = Opcode::from_bits(first & OPCODE_BITS).ok_or(Fault::protocol("unknown opcode"))?;
        if opcode.is_control() && !fin {
            return Err(Fault::protocol("fragmented control frame"));
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(Fault::protocol("client frame without a mask"));
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Fault::protocol("control frame longer than 125 bytes"));
        }
        let Some((payload_bytes, length_end)) = parse_length(short, bytes)? else {
            return Ok(None);
        };
        let Some(&mask) = bytes[length_end..].first_chunk::<4>() else {
            return Ok(None);
        };
        Ok(Some((ClientHeader { fin, opcode, payload_bytes, mask }, length_end + 4)))
    }
}

/// The payload length and where its field ends. The shortest form is the only legal one (RFC 6455, 5.2).
#[inline]
fn parse_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let (length, end, form_min) = match short {
        LENGTH_64 => {
            let Some(field) = bytes[2..].first_chunk::<8>() else {
                return Ok(None);
            };
            (u64::from_be_bytes(*field), 10, 1 << 16)
        }
        LENGTH_16 => {
            let Some(field) = bytes[2..].first_chunk::<2>() else {
                return Ok(None);
            };
            (u64::from(u16::from_be_bytes(*field)), 4, u64::from(LENGTH_16))
        }
        _ => (u64::from(short), 2, 0),
    };
    if length >> 63 != 0 {
        return Err(Fault::protocol("frame length with its highest bit set"));
    }
    if length < form_min {
        return Err(Fault::protocol("frame length in more bytes than it needs"));
    }
    Ok(Some((length, end)))
}

/// Takes the mask off `payload` in place (or puts it on: it is its own inverse). `payload` starts at byte
/// `offset` of its frame.
#[inline]
pub fn unmask(payload: &mut [u8], mask: [u8; 4], offset: u64) {
    let [a, b, c, d] = u32::from_le_bytes(mask).rotate_right(8 * (offset % 4) as u32).to_le_bytes();
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// May a client put `code` into a close frame? 1000-1003 and 1007-1014 are registered for the wire, 3000-4999
/// are free for libraries and applications. 1005, 1006 and 1015 only ever stand in for a missing frame.
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Bytes of the header that the server puts before `payload_bytes` of payload: 2, 4 or 10.
pub const fn frame_header_len(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Appends the header of a whole server frame (FIN, no mask). The caller then appends exactly
/// `payload_bytes` bytes of payload.
///
/// ```
/// use roomcast::protocols::websocket::frame::{Opcode, frame_header, payload_of};
///
/// let mut out = bytes::BytesMut::new();
/// frame_header(&mut out, Opcode::Text, 2);
/// out.extend_from_slice(b"{}");
/// assert_eq!(out[..], *b"\x81\x02{}");
/// assert_eq!(payload_of(&out), b"{}");
/// ```
pub fn frame_header(out: &mut BytesMut, opcode: Opcode, payload_bytes: usize) {
    debug_assert!(!opcode.is_control() || payload_bytes <= CONTROL_BYTES_MAX);
    out.put_u8(FIN | opcode as u8);
    match payload_bytes {
        0..=125 => out.put_u8(payload_bytes as u8),
        126..=0xffff => {
            out.put_u8(LENGTH_16);
            out.put_u16(payload_bytes as u16);
        }
        _ => {
            out.put_u8(LENGTH_64);
            out.put_u64(payload_bytes as u64);
        }
    }
}

/// Appends a whole server frame: header and payload. Control frames have their own functions below, which
/// keep to their limit.
pub fn encode_frame(out: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    out.reserve(frame_header_len(payload.len()) + payload.len());
    frame_header(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Appends a close frame. A reason longer than 123 bytes is cut at the end of a character.
pub fn encode_close(out: &mut BytesMut, code: u16, reason: &str) {
    debug_assert!(is_close_code(code), "close code {code} must not be sent");
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    frame_header(out, Opcode::Close, 2 + end);
    out.put_u16(code);
    out.put_slice(&reason.as_bytes()[..end]);
}

/// Appends a close frame without a code: the answer to a close frame that had none.
pub fn encode_close_without_code(out: &mut BytesMut) {
    frame_header(out, Opcode::Close, 0);
}

/// Appends a ping. Panics if `payload` is longer than 125 bytes: the server chooses it.
pub fn encode_ping(out: &mut BytesMut, payload: &[u8]) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a ping carries at most 125 bytes");
    encode_frame(out, Opcode::Ping, payload);
}

/// Appends a pong. Panics if `payload` is longer than 125 bytes: it is the payload of a ping that the decoder
/// has let through.
pub fn encode_pong(out: &mut BytesMut, payload: &[u8]) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a pong carries at most 125 bytes");
    encode_frame(out, Opcode::Pong, payload);
}

/// The payload of one frame made by the functions above: everything behind its header. Empty when `frame` is
/// shorter than its header.
pub fn payload_of(frame: &[u8]) -> &[u8] {
    let header = match frame.get(1) {
        Some(&LENGTH_16) => 4,
        Some(&LENGTH_64) => 10,
        _ => 2,
    };
    frame.get(header..).unwrap_or_default()
}

/// Length of the frame that `bytes` begin with, header included, if it was made by the functions above; none
/// when the header is not whole.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let payload = match bytes.get(1)? {
        &LENGTH_16 => u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(),
        &LENGTH_64 => u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?),
        short => u64::from(*short),
    };
    let payload = usize::try_from(payload).ok()?;
    Some(frame_header_len(payload) + payload)
}

#[cfg(test)]
mod tests;
