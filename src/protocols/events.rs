//! Lines as server-sent events (WHATWG HTML, "Server-sent events"): what a browser's `EventSource` reads. Called by
//! whoever writes to an event stream. The line itself is the bytes that all readers share; the `id:` before it is the
//! one part that each reader has for itself.

use bytes::{BufMut, BytesMut};
use serde::Deserialize;

use crate::protocols::standing::{Meaning, Standing};

/// What stands at the beginning of every stream: a comment, because some proxies pass nothing on before they have
/// got a kilobyte or two, and browsers ignore it.
const PADDING_BYTES: usize = 2 << 10;
/// How long a client waits that is not to come back unchanged, in milliseconds: an `EventSource` comes in any case.
const KEEP_AWAY_MS: u64 = 60_000;
/// How long a client waits that is to come back later, in milliseconds.
const LATER_MS: u64 = 5_000;

/// The keys of `bye`.
#[derive(Deserialize)]
struct Bye {
    code: u16,
    wait: Option<u64>,
}

/// Writes the beginning of a stream. `retry_ms`: when the client comes back should the stream end without a word.
pub fn open(out: &mut BytesMut, retry_ms: u64) {
    out.put_u8(b':');
    out.put_bytes(b' ', PADDING_BYTES);
    out.put_slice(b"\n");
    retry(out, retry_ms);
    out.put_u8(b'\n');
}

/// Writes a comment: nothing happens at the client, and the link is used.
pub fn comment(out: &mut BytesMut) {
    out.put_slice(b": ping\n\n");
}

/// The lines of the events in what was written, in order.
pub fn lines(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    events.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: "))
}

/// Writes one line as an event; the cursor before it, where the line changes that. `id` is a buffer to use.
pub fn event(out: &mut BytesMut, standing: &mut Standing, line: &[u8], id: &mut Vec<u8>) {
    let (meaning, moved) = standing.note(line);
    if moved {
        id.clear();
        standing.write(id);
        if !id.is_empty() {
            out.put_slice(b"id: ");
            out.put_slice(id);
            out.put_u8(b'\n');
        }
    }
    if meaning == Meaning::Bye {
        retry(out, wait_of(line));
    }
    // Lines of the server have no line breaks; what a handler of a program sends may be anything.
    for part in line.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.put_slice(b"data: ");
        out.put_slice(part);
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

fn retry(out: &mut BytesMut, ms: u64) {
    out.put_slice(b"retry: ");
    out.put_slice(itoa::Buffer::new().format(ms).as_bytes());
    out.put_u8(b'\n');
}

/// When a client comes back that is told to go: as the server says, else by the class of the code.
fn wait_of(line: &[u8]) -> u64 {
    match serde_json::from_slice::<Bye>(line) {
        Ok(Bye { wait: Some(wait), .. }) => wait,
        Ok(Bye { code: 4000..4100, .. }) => KEEP_AWAY_MS,
        Ok(Bye { code: 4200..4300, .. }) => 0,
        _ => LATER_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::names::RoomName;

    fn events(lines: &[&str]) -> String {
        let mut standing = Standing::new(&[RoomName::new("lobby").unwrap()], None);
        let (mut out, mut id) = (BytesMut::new(), Vec::new());
        for line in lines {
            event(&mut out, &mut standing, line.as_bytes(), &mut id);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn an_event_has_the_line_and_the_cursor_behind_it() {
        assert_eq!(
            events(&[
                r#"{"t":"joined","r":"lobby","s":1,"e":"k3f9","n":1,"who":1}"#,
                r#"{"t":"msg","r":"lobby","s":1,"id":"a","ts":2,"d":"hi"}"#,
                r#"{"t":"typing","r":"lobby","u":"bob"}"#,
            ]),
            "id: lobby@k3f9-0\ndata: {\"t\":\"joined\",\"r\":\"lobby\",\"s\":1,\"e\":\"k3f9\",\"n\":1,\"who\":1}\n\n\
             id: lobby@k3f9-1\ndata: {\"t\":\"msg\",\"r\":\"lobby\",\"s\":1,\"id\":\"a\",\"ts\":2,\"d\":\"hi\"}\n\n\
             data: {\"t\":\"typing\",\"r\":\"lobby\",\"u\":\"bob\"}\n\n"
        );
    }

    #[test]
    fn the_last_word_says_when_to_come_back() {
        for (bye, retry) in [
            (r#"{"t":"bye","code":4200,"why":"restart","wait":1800}"#, 1800),
            (r#"{"t":"bye","code":4009,"why":"replaced"}"#, KEEP_AWAY_MS),
            (r#"{"t":"bye","code":4202,"why":"slow"}"#, 0),
            (r#"{"t":"bye","code":1011,"why":"internal"}"#, LATER_MS),
        ] {
            assert_eq!(events(&[bye]), format!("retry: {retry}\ndata: {bye}\n\n"));
        }
    }

    #[test]
    fn nothing_that_is_sent_ends_an_event_early() {
        assert_eq!(
            events(&["a\r\nid: x\n\nretry: 9"]),
            "data: a\ndata: \ndata: id: x\ndata: \ndata: retry: 9\n\n"
        );
    }

    #[test]
    fn a_stream_begins_with_something_to_pass_on() {
        let mut out = BytesMut::new();
        open(&mut out, 1_500);
        assert!(out.len() > PADDING_BYTES && out.starts_with(b": ") && out.ends_with(b"\nretry: 1500\n\n"));
    }
}
