//! Looks at the settings of a Redis that rooms are kept in, and says what can lose messages. Called once after the
//! first connection.

use redis::aio::MultiplexedConnection;

/// One warning per setting that is unsafe. `has_replicas`: whether another server is to take over. What the server does
/// not tell (managed services often refuse CONFIG) is not warned about.
pub async fn warnings(connection: &mut MultiplexedConnection, has_replicas: bool) -> Vec<String> {
    let mut facts = ahash::AHashMap::new();
    for name in NAMES {
        let answer: redis::RedisResult<Vec<String>> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        if let Ok([_, value]) = answer.as_deref() {
            facts.insert(name, value.clone());
        }
    }
    unsafe_among(|name| facts.get(name).map(String::as_str), has_replicas)
}

const NAMES: [&str; 7] = [
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "repl-backlog-size",
    "client-output-buffer-limit",
];

fn unsafe_among<'a>(of: impl Fn(&str) -> Option<&'a str>, has_replicas: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |name: &str, wanted: &str, why: &str| {
        let is = of(name).unwrap_or_default();
        warnings.push(format!("redis: {name} is {is:?}; set it to {wanted}: {why}"));
    };
    let number = |name: &str| of(name).and_then(|value| value.parse::<u64>().ok());
    if of("maxmemory-policy").is_some_and(|policy| policy != "noeviction") {
        warn("maxmemory-policy", "noeviction", "a Redis that is full throws rooms away without a word");
    }
    if has_replicas {
        if number("min-replicas-to-write") == Some(0) {
            warn(
                "min-replicas-to-write",
                "1",
                "a primary that is cut off goes on accepting what is taken back later",
            );
        }
        if number("min-replicas-max-lag").is_some_and(|lag| lag > 2) {
            warn(
                "min-replicas-max-lag",
                "2",
                "a primary notices only after that many seconds that it is cut off",
            );
        }
        if number("repl-backlog-size").is_some_and(|bytes| bytes < 64 << 20) {
            warn("repl-backlog-size", "64mb", "a replica that was away for a moment has to copy everything");
        }
    } else {
        if of("appendonly") == Some("no") {
            warn("appendonly", "yes", "a restart of Redis forgets all that no node remembers");
        }
        if of("appendonly") == Some("yes") && of("appendfsync") == Some("no") {
            warn("appendfsync", "everysec or always", "a power cut loses more than a second");
        }
    }
    let pubsub = of("client-output-buffer-limit").and_then(|limits| {
        let mut words = limits.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
        words.next()?.parse::<u64>().ok()
    });
    if pubsub.is_some_and(|bytes| bytes != 0 && bytes < 256 << 20) {
        warn(
            "client-output-buffer-limit",
            "pubsub 256mb 64mb 60",
            "a node that is slow for a moment is cut off and reads everything again",
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_settings_are_named() {
        let standard = |name: &str| {
            Some(match name {
                "maxmemory-policy" => "allkeys-lru",
                "appendonly" => "no",
                "appendfsync" => "everysec",
                "min-replicas-to-write" => "0",
                "min-replicas-max-lag" => "10",
                "repl-backlog-size" => "1048576",
                _ => "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            })
        };
        let named = |has_replicas| -> Vec<String> {
            let all = unsafe_among(standard, has_replicas);
            all.iter().map(|text| text.split_whitespace().nth(1).unwrap().to_owned()).collect()
        };
        assert_eq!(named(false), ["maxmemory-policy", "appendonly", "client-output-buffer-limit"]);
        assert_eq!(
            named(true),
            [
                "maxmemory-policy",
                "min-replicas-to-write",
                "min-replicas-max-lag",
                "repl-backlog-size",
                "client-output-buffer-limit"
            ]
        );
        assert!(unsafe_among(|_| None, true).is_empty(), "a managed service tells nothing");
    }
}
