//! The commands of the door: which there are, and what each of those that push carries.
//! Called by the door. Reads values; keeps nothing and answers nothing.

use bytes::Bytes;
use serde_json::{Map, Value};

/// A command in the form that `COMMAND` tells: name, number of values (negative: at least so many), whether
/// it writes, and the place of its first and last key. Cluster clients find the keys by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandInfo {
    /// In lower case.
    pub name: &'static str,
    /// With the name itself; negative: at least so many.
    pub arity: i64,
    /// Whether it pushes.
    pub writes: bool,
    /// Place of the first key and of the last; 0: none.
    pub key: i64,
}

const fn info(name: &'static str, arity: i64, writes: bool, key: i64) -> CommandInfo {
    CommandInfo { name, arity, writes, key }
}

/// All that the door takes.
pub const COMMANDS: [CommandInfo; 31] = [
    info("lpush", -3, true, 1),
    info("rpush", -3, true, 1),
    info("lpushx", -3, true, 1),
    info("rpushx", -3, true, 1),
    info("publish", 3, true, 0),
    info("spublish", 3, true, 1),
    info("xadd", -5, true, 1),
    info("eval", -3, true, 0),
    info("evalsha", -3, true, 0),
    info("llen", 2, false, 1),
    info("ping", -1, false, 0),
    info("echo", 2, false, 0),
    info("auth", -2, false, 0),
    info("hello", -1, false, 0),
    info("select", 2, false, 0),
    info("client", -2, false, 0),
    info("info", -1, false, 0),
    info("command", -1, false, 0),
    info("config", -2, false, 0),
    info("cluster", -2, false, 0),
    info("readonly", 1, false, 0),
    info("readwrite", 1, false, 0),
    info("role", 1, false, 0),
    info("multi", 1, false, 0),
    info("exec", 1, false, 0),
    info("discard", 1, false, 0),
    info("watch", -2, false, 1),
    info("unwatch", 1, false, 0),
    info("reset", 1, false, 0),
    info("quit", -1, false, 0),
    info("asking", 1, false, 0),
];

/// The command of this name, in any case of letters.
pub fn find(name: &[u8]) -> Option<&'static CommandInfo> {
    COMMANDS.iter().find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()))
}

impl CommandInfo {
    /// Whether a command may have so many values, its name counted.
    pub fn takes(&self, values: usize) -> bool {
        let values = values as i64;
        if self.arity < 0 { values >= -self.arity } else { values == self.arity }
    }
}

/// The room that a channel stands for: without the configured prefix, and without `room:`.
pub fn room_of_channel<'a>(channel: &'a str, prefix: &str) -> &'a str {
    let name = channel.strip_prefix(prefix).unwrap_or(channel);
    name.strip_prefix("room:").unwrap_or(name)
}

/// The item of `XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] n [LIMIT n]] id field value …`, given without
/// `XADD key`. The error says what is wrong with the command.
pub fn item_of_xadd(values: &[Bytes]) -> Result<Bytes, &'static str> {
    fields_of_xadd(values).map(item_of_fields)
}

/// The item of a stream's entry, given as names and values in turn: the field `payload`; or the only field, if it
/// is called `data` or `message`; or else all fields as a JSON object of texts.
pub fn item_of_fields(fields: &[Bytes]) -> Bytes {
    let is = |field: &[Bytes], name: &str| field[0].eq_ignore_ascii_case(name.as_bytes());
    if let Some(field) = fields.chunks_exact(2).find(|field| is(field, "payload")) {
        return field[1].clone();
    }
    if let [_, value] = fields
        && (is(fields, "data") || is(fields, "message"))
    {
        return value.clone();
    }
    let texts = fields.chunks_exact(2).map(|field| {
        let (name, value) = (std::str::from_utf8(&field[0]).ok()?, std::str::from_utf8(&field[1]).ok()?);
        Some((name.to_owned(), Value::from(value)))
    });
    match texts.collect::<Option<Map<String, Value>>>() {
        Some(object) => Value::Object(object).to_string().into(),
        // Not UTF-8: the reader of payloads finds that out and says so.
        None => fields.join(&b' ').into(),
    }
}

fn fields_of_xadd(values: &[Bytes]) -> Result<&[Bytes], &'static str> {
    const SYNTAX: &str = "ERR syntax error in XADD; write XADD key * field value";
    let mut rest = values;
    loop {
        let (first, tail) = rest.split_first().ok_or(SYNTAX)?;
        let is = |word: &str| first.eq_ignore_ascii_case(word.as_bytes());
        rest = if is("NOMKSTREAM") {
            tail
        } else if is("LIMIT") {
            tail.get(1..).ok_or(SYNTAX)?
        } else if is("MAXLEN") || is("MINID") {
            let exactness = tail.first().is_some_and(|mark| matches!(&mark[..], b"=" | b"~"));
            tail.get(1 + usize::from(exactness)..).ok_or(SYNTAX)?
        } else {
            // This was the id; messages get their own.
            let odd = tail.is_empty() || !tail.len().is_multiple_of(2);
            return if odd { Err("ERR wrong number of arguments for 'xadd' command") } else { Ok(tail) };
        };
    }
}

/// Payload and channels of an `EVAL` that publishes one payload to many channels, given without `EVAL`.
/// Laravel's broadcaster sends such a script: no keys, the payload first, then a loop over the channels.
pub fn published_by_script(values: &[Bytes]) -> Option<(&Bytes, &[Bytes])> {
    const LOOP: &str = "fori=2,#argvdoredis.call('publish',argv[i],argv[1])end";
    let (script, keys) = (values.first()?, values.get(1)?);
    let shape: Vec<u8> = script
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace() && **byte != b';')
        .map(|byte| if *byte == b'"' { b'\'' } else { byte.to_ascii_lowercase() })
        .collect();
    if shape != LOOP.as_bytes() || &keys[..] != b"0" {
        return None;
    }
    let (payload, channels) = values[2..].split_first()?;
    Some((payload, channels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(words: &[&str]) -> Vec<Bytes> {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn a_channel_loses_its_prefixes() {
        for (channel, prefix, room) in [
            ("lobby", "", "lobby"),
            ("room:lobby", "", "lobby"),
            ("app_lobby", "app_", "lobby"),
            ("app_room:lobby", "app_", "lobby"),
            ("lobby", "app_", "lobby"),
        ] {
            assert_eq!(room_of_channel(channel, prefix), room);
        }
    }

    #[test]
    fn xadd_carries_a_payload_or_fields() {
        for (words, item) in [
            (&["*", "payload", "1"][..], "1"),
            (&["*", "x", "0", "payload", "1"], "1"),
            (&["MAXLEN", "~", "1000", "LIMIT", "5", "*", "data", "{}"], "{}"),
            (&["NOMKSTREAM", "MINID", "7", "*", "message", "2"], "2"),
            (&["1-1", "room", "a", "content", "hi \"you\""], r#"{"content":"hi \"you\"","room":"a"}"#),
            (&["*", "room", "a", "data", "b"], r#"{"data":"b","room":"a"}"#),
        ] {
            assert_eq!(item_of_xadd(&values(words)).unwrap(), item, "{words:?}");
        }
        for words in
            [&[][..], &["*"], &["*", "payload"], &["*", "a", "b", "c"], &["MAXLEN"], &["MAXLEN", "5"]]
        {
            assert!(item_of_xadd(&values(words)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn only_the_publishing_loop_is_taken_for_one() {
        let script = "for i = 2, #ARGV do\n  redis.call('publish', ARGV[i], ARGV[1])\nend";
        let broadcast = values(&[script, "0", "{}", "a", "b"]);
        let (payload, channels) = published_by_script(&broadcast).unwrap();
        assert_eq!((&payload[..], channels.len()), (&b"{}"[..], 2));
        for words in [
            &["return 1", "0", "{}", "a"][..],
            &[script, "1", "k", "{}", "a"],
            &[script, "0"],
            &[&format!("{script} return 1"), "0", "{}", "a"],
        ] {
            assert!(published_by_script(&values(words)).is_none(), "{words:?}");
        }
    }

    #[test]
    fn the_number_of_values_is_checked() {
        assert!(find(b"LPush").unwrap().takes(3) && !find(b"lpush").unwrap().takes(2));
        assert!(find(b"llen").unwrap().takes(2) && !find(b"llen").unwrap().takes(3));
        assert_eq!(find(b"get"), None);
    }
}
