//! The data of a message: any JSON, kept as the bytes that the sender wrote.
//! Checked once where it enters; never parsed into a tree, never encoded again.

use bytes::Bytes;
use serde_json::value::RawValue;

/// Deepest nesting of arrays and objects. Deeper JSON breaks common readers (PHP stops at 512,
/// many native parsers at 128), so one line could take every page in a room down.
pub const DEPTH_MAX: usize = 128;

/// Valid JSON on one line, at most [`DEPTH_MAX`] levels deep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(Bytes);

/// The data is nested deeper than [`DEPTH_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooDeep;

impl Data {
    /// Takes JSON that a parser has found valid. Line breaks between its tokens become spaces, because a
    /// frame is one line; all other bytes stay as they are.
    pub fn new(raw: &RawValue) -> Result<Data, TooDeep> {
        let bytes = raw.get().as_bytes();
        if is_deeper_than(bytes, DEPTH_MAX) {
            return Err(TooDeep);
        }
        if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Ok(Data(Bytes::copy_from_slice(bytes)));
        }
        // Valid JSON has raw line breaks only between tokens: inside strings they are escaped.
        let one_line = bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
        Ok(Data(one_line.collect()))
    }

    /// The JSON of a string.
    pub fn text(text: &str) -> Data {
        let json = serde_json::to_vec(text).expect("a string always has a JSON form");
        Data(json.into())
    }

    /// The JSON bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether valid JSON nests arrays and objects deeper than `levels`.
pub fn is_deeper_than(json: &[u8], levels: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json {
        if in_string {
            match (escaped, byte) {
                (true, _) => escaped = false,
                (false, b'\\') => escaped = true,
                (false, b'"') => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> Result<Data, TooDeep> {
        Data::new(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn bytes_pass_through_as_written() {
        let json = r#"{"a": 1.50, "ü":"\n \" [","b" :[ ]}"#;
        assert_eq!(data(json).unwrap().as_bytes(), json.as_bytes());
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces() {
        assert_eq!(data("{\n \"a\":\r\n1}").unwrap().as_bytes(), b"{  \"a\":  1}");
    }

    #[test]
    fn brackets_in_strings_are_not_levels() {
        let text = format!("\"{}\"", "[".repeat(1000));
        assert!(data(&text).is_ok());
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(data(&deep(DEPTH_MAX)).is_ok());
        assert_eq!(data(&deep(DEPTH_MAX + 1)), Err(TooDeep));
        assert!(data(&format!("{}1{}", r#"{"a":["#.repeat(500), "]}".repeat(500))).is_err());
    }
}
