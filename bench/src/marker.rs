//! The mark inside each payload: when it was sent, by whom, and the how manieth of him. Written by the speakers, read
//! by the listeners, which look for the mark alone and never parse the JSON around it. Plain ASCII without quotes or
//! backslashes, so it may stand inside any JSON string.

/// Bytes of a mark: `~` time (16 hex) `-` run and publisher (8 hex) `-` sequence (8 hex) `~`.
pub const MARK_BYTES: usize = 36;
/// How many publishers one run may have; the other bits of their number on the wire name the run.
pub const PUBLISHERS_MAX: u32 = 1 << 20;

const EDGE: u8 = b'~';

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Monotonic nanoseconds: when the message was due (rate) or sent (window).
    pub time_ns: u64,
    /// `run << 20 | publisher`: the messages of another run in the same rooms are known as foreign.
    pub publisher: u32,
    /// 1, 2, 3 … per publisher.
    pub sequence: u32,
}

impl Mark {
    /// Writes the mark over the first `MARK_BYTES` bytes of `place`.
    pub fn stamp(self, place: &mut [u8]) {
        place[0] = EDGE;
        put_hex(&mut place[1..17], self.time_ns);
        place[17] = b'-';
        put_hex(&mut place[18..26], self.publisher.into());
        place[26] = b'-';
        put_hex(&mut place[27..35], self.sequence.into());
        place[35] = EDGE;
    }

    /// The first mark in `text`, if it is whole.
    pub fn find(text: &[u8]) -> Option<Self> {
        let start = memchr::memchr(EDGE, text)?;
        let mark = text.get(start..start + MARK_BYTES)?;
        if mark[17] != b'-' || mark[26] != b'-' || mark[35] != EDGE {
            return None;
        }
        Some(Self {
            time_ns: hex(&mark[1..17])?,
            publisher: hex(&mark[18..26])? as u32,
            sequence: hex(&mark[27..35])? as u32,
        })
    }
}

/// A payload of `bytes` bytes (at least a mark): room for a mark, then filler.
pub fn blank_payload(bytes: usize) -> String {
    let filler = bytes.saturating_sub(MARK_BYTES);
    let mut payload = vec![EDGE; MARK_BYTES];
    Mark { time_ns: 0, publisher: 0, sequence: 0 }.stamp(&mut payload);
    payload.extend(std::iter::repeat_n(b'x', filler));
    String::from_utf8(payload).expect("marks and filler are ASCII")
}

/// Where the mark of a blank payload starts in `text`.
pub fn mark_place(text: &[u8]) -> Option<usize> {
    memchr::memchr(EDGE, text)
}

fn put_hex(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// Value of each hex digit; `NO_DIGIT` for other bytes. A table, because this runs once for every delivery.
const NIBBLES: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};
const NO_DIGIT: u8 = 0xff;

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    let mut seen = 0;
    for digit in digits {
        let nibble = NIBBLES[*digit as usize];
        seen |= nibble;
        value = value << 4 | u64::from(nibble & 15);
    }
    (seen <= 15).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark =
        Mark { time_ns: 1_763_820_000_123_456_789, publisher: 0xabc0_0042, sequence: u32::MAX };

    #[test]
    fn a_mark_is_found_inside_a_line() {
        let mut payload = blank_payload(128).into_bytes();
        assert_eq!(payload.len(), 128);
        MARK.stamp(&mut payload);
        let line = [b"{\"t\":\"msg\",\"d\":\"", payload.as_slice(), b"\"}"].concat();
        assert_eq!(Mark::find(&line), Some(MARK));
        assert_eq!(mark_place(&line), Some(16));
    }

    #[test]
    fn a_torn_or_foreign_mark_is_no_mark() {
        let mut payload = blank_payload(MARK_BYTES).into_bytes();
        MARK.stamp(&mut payload);
        assert_eq!(Mark::find(&payload[..MARK_BYTES - 1]), None);
        payload[30] = b'G';
        assert_eq!(Mark::find(&payload), None);
        assert_eq!(Mark::find(b"no mark here"), None);
    }
}
