//! Walking through a large hash of Redis without holding everybody else up. Used by whoever lists or removes.

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult};

/// About so many entries per page.
const PAGE: usize = 1_000;

/// A walk through one hash. What is there all the while comes at least once; what comes or goes meanwhile may come
/// or not.
pub(super) struct Pages {
    key: String,
    pattern: String,
    /// None: the walk is over.
    cursor: Option<u64>,
}

impl Pages {
    /// Entries whose fields match a pattern of Redis; see [`starting_with`].
    pub(super) fn new(key: String, pattern: String) -> Pages {
        Pages { key, pattern, cursor: Some(0) }
    }

    /// The next entries, maybe none among many that do not match; `None` after the last.
    pub(super) async fn next<V: FromRedisValue>(
        &mut self,
        redis: &mut impl ConnectionLike,
    ) -> RedisResult<Option<Vec<(String, V)>>> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let mut scan = redis::cmd("HSCAN");
        scan.arg(&self.key).arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(PAGE);
        let (next, page) = scan.query_async(redis).await?;
        self.cursor = (next != 0).then_some(next);
        Ok(Some(page))
    }
}

/// The pattern for all that starts with a text, whatever the text is.
pub(super) fn starting_with(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_pattern() {
        assert_eq!(starting_with("a*[b]?\\"), "a\\*\\[b\\]\\?\\\\*");
        assert_eq!(starting_with(""), "*");
    }
}
