//! UTF-8 that arrives in pieces. Owns the text of one unfinished message: every byte is judged the moment it
//! comes, so a bad one is known before its frame or message ends. Called by the WebSocket codec alone. Knows no
//! frame and no limit: the caller says how far the text may grow.

use simdutf8::{basic, compat};

/// The bytes can never become UTF-8, whatever follows (overlong form, surrogate, above U+10FFFF, stray byte,
/// or an end in the middle of a character).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// Longest start of a character that can still be completed: three of four bytes.
const CARRY_MAX: usize = 3;

/// Text checked so far, plus the start of a character whose other bytes have not come yet.
#[derive(Debug, Default)]
pub struct PartialText {
    text: String,
    carry: [u8; CARRY_MAX],
    carry_len: u8,
}

impl PartialText {
    /// Checks `bytes` and appends them. Memory grows as bytes come, doubling, never past `bytes_max` in all;
    /// the caller has made sure that what it appends fits in that.
    pub fn push(&mut self, bytes: &[u8], bytes_max: usize) -> Result<(), NotUtf8> {
        let rest = &bytes[self.complete_carry(bytes, bytes_max)?..];
        match compat::from_utf8(rest) {
            Ok(whole) => self.append(whole, bytes_max),
            Err(error) if error.error_len().is_some() => return Err(NotUtf8),
            Err(error) => {
                // The end is cut inside a character. What stands before is good already; looking at it again
                // is cheaper than a promise to the compiler that would have to be proven by hand.
                let (good, cut) = rest.split_at(error.valid_up_to());
                self.append(basic::from_utf8(good).map_err(|_| NotUtf8)?, bytes_max);
                self.carry[..cut.len()].copy_from_slice(cut);
                self.carry_len = cut.len() as u8;
            }
        }
        Ok(())
    }

    /// The whole text, once the last fragment is in.
    pub fn finish(&self) -> Result<&str, NotUtf8> {
        if self.carry_len > 0 {
            return Err(NotUtf8);
        }
        Ok(&self.text)
    }

    /// Bytes of memory that the text holds on to.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        self.text.capacity()
    }

    /// Adds bytes to an unfinished character until it is whole, bad, or `bytes` is used up. Gives the count of
    /// bytes it took.
    fn complete_carry(&mut self, bytes: &[u8], bytes_max: usize) -> Result<usize, NotUtf8> {
        let mut taken = 0;
        while self.carry_len > 0 && taken < bytes.len() {
            let had = usize::from(self.carry_len);
            let mut character = [0; CARRY_MAX + 1];
            character[..had].copy_from_slice(&self.carry[..had]);
            character[had] = bytes[taken];
            taken += 1;
            match std::str::from_utf8(&character[..=had]) {
                Ok(whole) => {
                    self.carry_len = 0;
                    self.append(whole, bytes_max);
                }
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {
                    self.carry[had] = bytes[taken - 1];
                    self.carry_len += 1;
                }
            }
        }
        Ok(taken)
    }

    fn append(&mut self, text: &str, bytes_max: usize) {
        let extra = room_to_reserve(self.text.len(), self.text.capacity(), text.len(), bytes_max);
        self.text.reserve_exact(extra);
        self.text.push_str(text);
    }
}

/// How much to ask for, counted from `len` on, so that `add` more bytes fit: double what is there, but stop at
/// `bytes_max`. What a client only announces is never reserved; it has to send the bytes.
pub fn room_to_reserve(len: usize, capacity: usize, add: usize, bytes_max: usize) -> usize {
    let needed = len + add;
    if needed <= capacity {
        return 0;
    }
    needed.max((capacity * 2).min(bytes_max)) - len
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [&str; 9] = [
        "",
        "a",
        "é",
        "€",
        "𝄞",
        "κόσμε",
        "\u{0}\u{7f}\u{80}\u{7ff}",
        "\u{800}\u{d7ff}\u{e000}\u{ffff}",
        "\u{10000}\u{10ffff}",
    ];

    /// Feeds one byte at a time; gives the count of bytes taken before the verdict "bad".
    fn first_bad_byte(bytes: &[u8]) -> Option<usize> {
        let mut text = PartialText::default();
        bytes.iter().position(|byte| text.push(&[*byte], 100).is_err())
    }

    #[test]
    fn text_cut_anywhere_is_put_together_again() {
        for sample in SAMPLES {
            for first in 0..=sample.len() {
                for second in first..=sample.len() {
                    let mut text = PartialText::default();
                    for part in [0..first, first..second, second..sample.len()] {
                        text.push(&sample.as_bytes()[part], 100).unwrap();
                    }
                    assert_eq!(text.finish(), Ok(sample));
                }
            }
        }
    }

    #[test]
    fn a_bad_byte_is_seen_when_it_comes_and_not_later() {
        let cases: [(&[u8], usize); 12] = [
            (b"\x80", 0),
            (b"ab\xbf", 2),
            (b"\xc0\xaf", 0),
            (b"\xc1", 0),
            (b"\xe0\x80\x80", 1),
            (b"\xe2\x82a", 2),
            (b"\xed\xa0\x80", 1),
            (b"\xf0\x8f\xbf\xbf", 1),
            (b"\xf4\x90\x80\x80", 1),
            (b"\xf5", 0),
            (b"\xff", 0),
            (b"\xf0\x9f\x98\xc0", 3),
        ];
        for (bytes, at) in cases {
            assert_eq!(first_bad_byte(bytes), Some(at), "{bytes:x?} byte by byte");
            let mut text = PartialText::default();
            assert_eq!(text.push(&bytes[..=at], 100), Err(NotUtf8), "{bytes:x?} in one piece");
        }
    }

    #[test]
    fn an_end_inside_a_character_is_not_text() {
        for sample in ["é", "€", "𝄞"] {
            for end in 1..sample.len() {
                let mut text = PartialText::default();
                text.push(&sample.as_bytes()[..end], 100).unwrap();
                assert_eq!(text.finish(), Err(NotUtf8));
            }
        }
    }

    #[test]
    fn long_pieces_take_the_fast_path_and_agree_with_the_standard_library() {
        let long = "naïve 𝄞 text, ".repeat(100);
        for cut in 0..long.len() {
            let mut text = PartialText::default();
            text.push(&long.as_bytes()[..cut], long.len()).unwrap();
            text.push(&long.as_bytes()[cut..], long.len()).unwrap();
            assert_eq!(text.finish(), Ok(long.as_str()));
        }
    }

    #[test]
    fn memory_doubles_but_stops_at_the_limit() {
        assert_eq!(room_to_reserve(10, 16, 6, 100), 0);
        assert_eq!(room_to_reserve(16, 16, 1, 100), 16);
        assert_eq!(room_to_reserve(60, 64, 10, 100), 40);
        assert_eq!(room_to_reserve(0, 0, 50, 100), 50);
    }
}
