//! Commands of the Redis protocol as people type them: words on a line, with quotes around some.
//! Called by the decoder of requests.

use bytes::Bytes;

/// A quote is missing, or something stands right behind a closing one.
#[derive(Debug, PartialEq, Eq)]
pub struct UnbalancedQuotes;

/// Splits an inline command as Redis does: by spaces, with "…" (and its escapes) and '…' around values.
pub fn split(line: &[u8]) -> Result<Vec<Bytes>, UnbalancedQuotes> {
    let mut values = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let value = match rest.first() {
            None => return Ok(values),
            Some(b'"' | b'\'') => quoted(&mut rest)?,
            Some(_) => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                let (word, tail) = rest.split_at(end);
                rest = tail;
                word.to_vec()
            }
        };
        values.push(value.into());
    }
}

fn quoted(rest: &mut &[u8]) -> Result<Vec<u8>, UnbalancedQuotes> {
    let quote = rest[0];
    let (mut value, mut at) = (Vec::new(), 1);
    loop {
        match (rest.get(at), rest.get(at + 1)) {
            (Some(byte), next) if *byte == quote => {
                if next.is_some_and(|next| !next.is_ascii_whitespace()) {
                    return Err(UnbalancedQuotes);
                }
                *rest = &rest[at + 1..];
                return Ok(value);
            }
            (Some(b'\\'), Some(b'x')) if quote == b'"' && hex(rest, at + 2).is_some() => {
                value.extend(hex(rest, at + 2));
                at += 4;
            }
            (Some(b'\\'), Some(escaped)) if quote == b'"' => {
                value.push(unescaped(*escaped));
                at += 2;
            }
            (Some(b'\\'), Some(b'\'')) => {
                value.push(b'\'');
                at += 2;
            }
            (Some(byte), _) => {
                value.push(*byte);
                at += 1;
            }
            (None, _) => return Err(UnbalancedQuotes),
        }
    }
}

fn hex(text: &[u8], at: usize) -> Option<u8> {
    let digit = |place: usize| char::from(*text.get(place)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_redis_does() {
        for (line, words) in [
            ("", &[][..]),
            ("  PING  ", &["PING"]),
            (r#"a "b c" 'd e'"#, &["a", "b c", "d e"]),
            (r#""\x41\t\"\q""#, &["A\t\"q"]),
            (r"'\x41 \' it'", &["\\x41 ' it"]),
        ] {
            assert_eq!(split(line.as_bytes()).unwrap(), words, "{line}");
        }
        for line in ["\"a", "'a", "\"a\"b", "a 'b\\'"] {
            assert_eq!(split(line.as_bytes()), Err(UnbalancedQuotes), "{line}");
        }
    }
}
