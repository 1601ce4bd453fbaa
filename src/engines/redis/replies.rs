//! Reads what scripts and commands answer. Knows no connection.

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use crate::chat::message::Offset;
use crate::engines::redis::logs::Lives;

/// What stands in an answer that is not of the form it must have.
fn odd(what: &'static str) -> RedisError {
    (ErrorKind::Parse, "an answer of Redis cannot be read", what.to_owned()).into()
}

/// Bytes.
pub fn bytes(value: Value) -> RedisResult<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(odd("no bytes")),
    }
}

/// A list.
pub fn list(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Array(list) => Ok(list),
        _ => Err(odd("no list")),
    }
}

/// Text.
pub fn text(value: Value) -> RedisResult<String> {
    String::from_utf8(bytes(value)?).map_err(|_| odd("no text"))
}

/// Whose turn it is on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The epoch of what is written now.
    pub epoch: u64,
    /// The server.
    pub run_id: String,
}

impl Fence {
    /// `epoch:run id`.
    pub fn parse(text: &str) -> Option<Fence> {
        let (epoch, run_id) = text.split_once(':')?;
        Some(Fence { epoch: epoch.parse().ok()?, run_id: run_id.to_owned() })
    }

    /// The same as text.
    pub fn text(&self) -> String {
        format!("{}:{}", self.epoch, self.run_id)
    }
}

/// What a script said: its first word and the rest.
pub fn word(value: Value) -> RedisResult<(String, Vec<Value>)> {
    let mut parts = list(value)?.into_iter();
    let word = text(parts.next().ok_or_else(|| odd("empty"))?)?;
    Ok((word, parts.collect()))
}

/// An entry of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place.
    pub offset: Offset,
    /// Its epoch.
    pub epoch: u64,
    /// Its body.
    pub body: Vec<u8>,
}

/// A room as Redis knows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The newest place; none if the room is not known.
    pub top: Option<Offset>,
    /// The lives of its log, oldest first.
    pub lives: Lives,
}

/// The answer to HGETALL of a room's meta.
pub fn meta(value: Value) -> RedisResult<Meta> {
    let mut meta = Meta::default();
    for (field, value) in pairs(value)? {
        let number = || std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        match field.split_first() {
            Some((b's', [])) => meta.top = number(),
            Some((b'e', epoch)) => {
                let epoch = std::str::from_utf8(epoch).ok().and_then(|text| text.parse().ok());
                meta.lives.extend(epoch.zip(number()));
            }
            _ => {}
        }
    }
    meta.lives.sort_unstable();
    Ok(meta)
}

/// Fields and values of a hash.
pub fn pairs(value: Value) -> RedisResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let flat = match value {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(field, value)| [field, value]).collect(),
        other => list(other)?,
    };
    let flat = flat.into_iter().map(bytes).collect::<RedisResult<Vec<_>>>()?;
    let mut flat = flat.into_iter();
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((field, value));
    }
    Ok(pairs)
}

/// Entries of a history.
pub fn rows(value: Value) -> RedisResult<Vec<Row>> {
    list(value)?.into_iter().map(row).collect()
}

fn row(value: Value) -> RedisResult<Row> {
    let mut parts = list(value)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else { return Err(odd("half an entry")) };
    let id = text(id)?;
    let numbers =
        id.split_once('-').and_then(|(offset, epoch)| Some((offset.parse().ok()?, epoch.parse().ok()?)));
    let (offset, epoch) = numbers.ok_or_else(|| odd("an entry without a place"))?;
    let body = pairs(fields)?.into_iter().find(|(field, _)| field == b"b").map(|(_, body)| body);
    Ok(Row { offset, epoch, body: body.ok_or_else(|| odd("an entry without a body"))? })
}

/// The newest change of each changed message: the place of an edit, or below 0 that of a deletion.
pub fn changes(value: Value) -> RedisResult<ahash::AHashMap<Offset, i64>> {
    let number = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let read = |(of, at)| Some((number(of)?.parse().ok()?, number(at)?.parse().ok()?));
    Ok(pairs(value)?.into_iter().filter_map(read).collect())
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The server is the right one but refuses to write now.
    Wait,
    /// Look for the primary again; the server surely did nothing.
    Refused,
    /// Look for the primary again; the server may have done it.
    Unknown,
}

/// See [`Remedy`].
pub fn remedy(error: &RedisError) -> Remedy {
    match (error.kind(), error.code()) {
        (_, Some("OOM" | "NOREPLICAS" | "MISCONF" | "BUSY")) => Remedy::Wait,
        (ErrorKind::Server(ServerErrorKind::ResponseError), _) => Remedy::Unknown,
        (_, Some(_)) => Remedy::Refused,
        _ => Remedy::Unknown,
    }
}
