//! Items that can never be said, kept with the reason: as JSON in a Redis list, or in memory.
//! Written by the queue actors and the door, read by the operator's tools.

use std::collections::VecDeque;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::RedisResult;
use serde::{Deserialize, Serialize};

use crate::redis_link::RedisConnection;
use crate::sources::list_keys::ListKeys;
use crate::sources::poison::Poison;

/// Most dead letters kept in memory.
const MEMORY_ITEMS_MAX: usize = 1_000;
/// Most bytes of dead letters kept in memory.
const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Dead letters read at a time when one is looked for.
const PAGE: isize = 100;
/// Bytes of an item that a log line shows.
const PREVIEW_BYTES: usize = 100;

/// One item with what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct DeadLetter {
    /// When it was given up, as in RFC 3339.
    pub time: String,
    /// The list or door that it came through.
    pub source: String,
    /// What is wrong with it.
    pub reason: String,
    /// The item, as text or, when [`base64`](DeadLetter::base64) is set, in that code.
    pub item: String,
    /// Names this dead letter.
    pub id: String,
    /// Whether the item is no UTF-8 and therefore coded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base64: bool,
}

impl DeadLetter {
    /// Notes an item as given up now.
    pub fn new(source: &str, id: &str, poison: &Poison, item: &[u8]) -> DeadLetter {
        DeadLetter::at(Some(jiff::Timestamp::now()), source, id, &poison.to_string(), item)
    }

    /// The form of an item that was given up at this time, Unix milliseconds, and kept in another form since.
    pub fn of(ts: u64, source: &str, id: &str, reason: &str, item: &[u8]) -> DeadLetter {
        let time = i64::try_from(ts).ok().and_then(|ts| jiff::Timestamp::from_millisecond(ts).ok());
        DeadLetter::at(time, source, id, reason, item)
    }

    fn at(time: Option<jiff::Timestamp>, source: &str, id: &str, reason: &str, item: &[u8]) -> DeadLetter {
        let (item, base64) = match simdutf8::basic::from_utf8(item) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (STANDARD.encode(item), true),
        };
        DeadLetter {
            time: time.map(|time| format!("{time:.3}")).unwrap_or_default(),
            source: source.into(),
            reason: reason.into(),
            item,
            id: id.into(),
            base64,
        }
    }

    /// The item as the backend pushed it.
    pub fn bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        if self.base64 { STANDARD.decode(&self.item) } else { Ok(self.item.clone().into_bytes()) }
    }

    /// The form in the Redis list.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and a flag always have a JSON form")
    }
}

/// The start of an item for a log line: escaped, so that it can neither break the line nor colour it.
pub fn preview(item: &[u8]) -> String {
    let shown = &item[..item.len().min(PREVIEW_BYTES)];
    let more = if shown.len() < item.len() { "…" } else { "" };
    format!("{}{more} ({} bytes)", shown.escape_ascii(), item.len())
}

/// Dead letters of a server without Redis: at most 1,000 with at most 16 MiB. Beyond that the oldest are
/// forgotten; each was written to the log when it came.
#[derive(Debug, Default)]
pub struct MemoryDeadLetters(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    letters: VecDeque<DeadLetter>,
    bytes: usize,
}

impl MemoryDeadLetters {
    /// Keeps one; tells how many old ones were forgotten for it, itself among them if it is too large.
    pub fn keep(&self, letter: DeadLetter) -> u64 {
        let mut kept = self.lock();
        kept.bytes += letter.item.len();
        kept.letters.push_back(letter);
        let mut forgotten = 0;
        while kept.letters.len() > MEMORY_ITEMS_MAX || kept.bytes > MEMORY_BYTES_MAX {
            let Some(oldest) = kept.letters.pop_front() else {
                break;
            };
            kept.bytes -= oldest.item.len();
            forgotten += 1;
        }
        forgotten
    }

    /// The newest `n`, newest first.
    pub fn list(&self, n: usize) -> Vec<DeadLetter> {
        self.lock().letters.iter().rev().take(n).cloned().collect()
    }

    /// Takes one out, to drop it or to push its item again.
    pub fn take(&self, id: &str) -> Option<DeadLetter> {
        let mut kept = self.lock();
        let place = kept.letters.iter().position(|letter| letter.id == id)?;
        let letter = kept.letters.remove(place)?;
        kept.bytes -= letter.item.len();
        Some(letter)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

/// Dead letters of a list in Redis, for an operator and for the door of a node that shares its rooms. The
/// queue actor itself writes those of the list.
#[derive(Debug, Clone)]
pub struct RedisDeadLetters(ListKeys);

impl RedisDeadLetters {
    /// Those of the list with these keys.
    pub fn new(keys: ListKeys) -> RedisDeadLetters {
        RedisDeadLetters(keys)
    }

    /// The list's name.
    pub fn list_name(&self) -> &str {
        self.0.list()
    }

    /// Keeps letters, at most `most` with those that are there; tells how many old ones were dropped.
    pub async fn keep(
        &self,
        redis: &mut RedisConnection,
        letters: &[DeadLetter],
        most: usize,
    ) -> RedisResult<u64> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(KEEP).arg(1).arg(self.0.dead()).arg(most);
        for letter in letters {
            eval.arg(letter.to_json());
        }
        eval.query_async(redis).await
    }

    /// How many there are.
    pub async fn count(&self, redis: &mut RedisConnection) -> RedisResult<u64> {
        redis::cmd("LLEN").arg(self.0.dead()).query_async(redis).await
    }

    /// `n` of them after the newest `skip`, newest first. What somebody else put there and is no dead
    /// letter is shown as one, with an empty id.
    pub async fn list(
        &self,
        redis: &mut RedisConnection,
        skip: isize,
        n: isize,
    ) -> RedisResult<Vec<DeadLetter>> {
        let page = self.page(redis, skip, n).await?;
        Ok(page.iter().map(|json| read(json)).collect())
    }

    /// The one with this id.
    pub async fn show(&self, redis: &mut RedisConnection, id: &str) -> RedisResult<Option<DeadLetter>> {
        Ok(self.find(redis, id).await?.map(|json| read(&json)))
    }

    /// Pushes the item to its list again, as the newest; `false`: there is no such dead letter (any more).
    pub async fn requeue(&self, redis: &mut RedisConnection, id: &str) -> RedisResult<bool> {
        let Some(json) = self.find(redis, id).await? else {
            return Ok(false);
        };
        let item = read(&json).bytes().map_err(|error| {
            redis::RedisError::from((
                redis::ErrorKind::Client,
                "the dead letter is not base64",
                error.to_string(),
            ))
        })?;
        let mut eval = redis::cmd("EVAL");
        eval.arg(REQUEUE).arg(2).arg(self.0.dead()).arg(self.0.list()).arg(json).arg(item);
        eval.query_async(redis).await
    }

    /// Forgets it; `false`: there is no such dead letter (any more).
    pub async fn remove(&self, redis: &mut RedisConnection, id: &str) -> RedisResult<bool> {
        let Some(json) = self.find(redis, id).await? else {
            return Ok(false);
        };
        redis::cmd("LREM").arg(self.0.dead()).arg(1).arg(json).query_async(redis).await
    }

    async fn page(&self, redis: &mut RedisConnection, skip: isize, n: isize) -> RedisResult<Vec<Vec<u8>>> {
        redis::cmd("LRANGE").arg(self.0.dead()).arg(skip).arg(skip + n - 1).query_async(redis).await
    }

    async fn find(&self, redis: &mut RedisConnection, id: &str) -> RedisResult<Option<Vec<u8>>> {
        for skip in (0..).step_by(PAGE as usize) {
            let page = self.page(redis, skip, PAGE).await?;
            if page.is_empty() {
                break;
            }
            if let Some(json) = page.into_iter().find(|json| read(json).id == id) {
                return Ok(Some(json));
            }
        }
        Ok(None)
    }
}

const KEEP: &str = "
    for i = 2, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
    local over = redis.call('LLEN', KEYS[1]) - tonumber(ARGV[1])
    if over <= 0 then return 0 end
    redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[1]) - 1)
    return over";

// Pushed first and removed second: if the push fails, the dead letter is still there.
const REQUEUE: &str = "
    if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
    redis.call('LPUSH', KEYS[2], ARGV[2])
    return redis.call('LREM', KEYS[1], 1, ARGV[1])";

fn read(json: &[u8]) -> DeadLetter {
    serde_json::from_slice(json).unwrap_or_else(|_| DeadLetter {
        time: String::new(),
        source: String::new(),
        reason: "this is no dead letter of ours; somebody else wrote to the list".into(),
        item: String::from_utf8_lossy(json).into_owned(),
        id: String::new(),
        base64: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::poison::Reason;

    fn letter(id: &str, item: &[u8]) -> DeadLetter {
        DeadLetter::new("jobs", id, &Poison::new(Reason::NotJson, "no value"), item)
    }

    #[test]
    fn an_item_comes_back_byte_for_byte() {
        for item in [&b"plain"[..], b"\xff\x00\xfe", "ü\n\"".as_bytes(), b""] {
            let dead = letter("1", item);
            let back: DeadLetter = serde_json::from_str(&dead.to_json()).unwrap();
            assert_eq!(back, dead);
            assert_eq!(back.bytes().unwrap(), item);
        }
        assert!(!letter("1", b"plain").to_json().contains("base64"));
        assert!(letter("1", b"x").to_json().contains(r#""reason":"not-json: no value""#));
    }

    #[test]
    fn memory_is_bounded_by_count_and_by_bytes() {
        let memory = MemoryDeadLetters::default();
        let forgotten: u64 = (0..1_010).map(|i| memory.keep(letter(&i.to_string(), b"x"))).sum();
        assert_eq!((forgotten, memory.list(5_000).len()), (10, 1_000));
        assert_eq!(memory.list(1)[0].id, "1009");
        assert_eq!(memory.keep(letter("large", &vec![b'x'; MEMORY_BYTES_MAX - 10])), 990);
        assert_eq!(memory.keep(letter("too large", &vec![b'x'; MEMORY_BYTES_MAX + 1])), 12);
        assert!(memory.list(1).is_empty());
    }

    #[test]
    fn one_can_be_taken_out() {
        let memory = MemoryDeadLetters::default();
        memory.keep(letter("a", b"1"));
        memory.keep(letter("b", b"2"));
        assert_eq!(memory.take("a").unwrap().item, "1");
        assert_eq!(memory.take("a"), None);
        assert_eq!(memory.list(9).len(), 1);
    }

    #[test]
    fn a_preview_cannot_break_a_log_line() {
        assert_eq!(preview(b"a\n\x1b[31m\xff"), r"a\n\x1b[31m\xff (8 bytes)");
        assert!(preview(&[b'x'; 500]).ends_with("x… (500 bytes)"));
    }
}
