//! What is printed about a configuration: how it differs from the defaults, and the five lines at start.
//! Secrets are shown as `(set)`. Called by the command line and by wiring.

use std::net::SocketAddr;

use serde::Serializer;
use toml::{Table, Value};

use crate::config::Config;
use crate::config::backing::Backing;
use crate::server_settings::DemoAccess;
use crate::store::place::StorePlace;

/// The keys whose values are not shown.
const SECRET_KEYS: [&str; 4] = ["secret", "password", "api_keys", "headers"];

/// One key that was set to something else than its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// For example `server.listen`.
    pub key: String,
    /// Its value in TOML, or `(set)`.
    pub value: String,
    /// Its default in TOML; nothing where there is none.
    pub default: Option<String>,
}

/// How a configuration differs from the defaults.
pub fn differences(config: &Config) -> Vec<Difference> {
    let (own, usual) = (flat(config), flat(&Config::default()));
    let default_of = |key: &str| usual.iter().find(|(other, _)| other == key).map(|(_, value)| value);
    let differing = own.iter().filter(|(key, value)| default_of(key) != Some(value));
    let told = differing.map(|(key, value)| Difference {
        key: key.clone(),
        value: shown(key, value),
        default: default_of(key).map(Value::to_string),
    });
    told.collect()
}

/// Every key with its value; lists of tables stay whole.
pub fn flat(config: &Config) -> Vec<(String, Value)> {
    let table = Table::try_from(config).expect("settings are texts, numbers and lists of them");
    let mut keys = Vec::new();
    flatten("", table, &mut keys);
    keys
}

fn flatten(above: &str, table: Table, keys: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = if above.is_empty() { name } else { format!("{above}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, keys),
            value => keys.push((key, value)),
        }
    }
}

fn shown(key: &str, value: &Value) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    let is_empty = value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    if SECRET_KEYS.contains(&last) && !is_empty {
        return "(set)".into();
    }
    match value {
        Value::Array(list) if list.iter().any(Value::is_table) => {
            let tables = list.iter().map(|table| hide_in(table).to_string());
            format!("[{}]", tables.collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

/// The same with secrets hidden in the tables of a list.
fn hide_in(value: &Value) -> Value {
    let Value::Table(table) = value else {
        return value.clone();
    };
    let hidden = table.iter().map(|(key, value)| match SECRET_KEYS.contains(&key.as_str()) {
        true => (key.clone(), Value::String("(set)".into())),
        false => (key.clone(), value.clone()),
    });
    Value::Table(hidden.collect())
}

/// Writes a URL out without its password.
pub(crate) fn without_password<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    // Of a database there may be several hosts in it, which is no URL for others.
    if let Ok(Some(place @ StorePlace::Postgres(_))) = StorePlace::parse(text) {
        return serializer.serialize_str(&place.to_string());
    }
    let Ok(mut url) = url::Url::parse(text) else {
        return serializer.serialize_str(text);
    };
    if url.password().is_none() {
        return serializer.serialize_str(text);
    }
    // Only URLs without a host refuse, and those have no password either.
    url.set_password(Some("***")).ok();
    serializer.serialize_str(url.as_str())
}

/// The five lines at start: version, where it listens, engine, sources, how to stop. `http` and `door` are
/// the addresses really bound.
pub fn startup_lines(config: &Config, http: &[SocketAddr], door: Option<SocketAddr>) -> String {
    let listening: Vec<String> = http.iter().map(|address| format!("http://{address}")).collect();
    let demo = match config.demo.enabled {
        DemoAccess::On => "demo page open to everybody",
        DemoAccess::Loopback => "demo page open to this machine",
        DemoAccess::Off => "demo page off",
    };
    let threads = config.server.worker_count();
    let lists = config.queue.lists.iter().map(|list| list.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut sources = Vec::new();
    if let Ok(Some(link)) = config.redis.link() {
        sources.push(format!("list {lists} at {link}"));
    }
    if let Some(door) = door {
        sources.push(format!("door {door} (speaks the Redis protocol, takes {lists})"));
    }
    for source in &config.queue.sources {
        sources.push(format!("{} {}", source.kind.word(), source.name));
    }
    if sources.is_empty() {
        sources.push("none (set redis.url or queue.door.listen)".into());
    }
    let engine = match config.backing() {
        Ok(Backing::Store(StorePlace::Sqlite(file))) => {
            format!("embedded: an ack means on disk, in {} and its journal", file.display())
        }
        Ok(Backing::Store(place @ StorePlace::Postgres(_))) => {
            let journal = place.journal_dir();
            format!("embedded: an ack means on disk, in {} and then in {place}", journal.display())
        }
        Ok(Backing::Redis(Some(archive))) => {
            format!("redis: nodes share rooms through it; what Redis forgets is in {archive}")
        }
        Ok(Backing::Redis(None)) => {
            "redis: nodes share rooms through it; hot history only, there is no archive".to_owned()
        }
        Ok(Backing::Memory) | Err(_) => "memory: rooms live in this process and end with it".to_owned(),
    };
    format!(
        "roomcast   {}\nlistening  {} ({demo})\nengine     {engine}; {threads} worker threads\n\
         sources    {}\nstop       Ctrl-C or SIGTERM; sessions are closed politely within {}\n",
        env!("CARGO_PKG_VERSION"),
        listening.join(", "),
        sources.join("; "),
        config.server.drain,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_and_secrets_are_not() {
        let text = r#"
            apps = [{ id = "1", key = "public", secret = "hunter2" }]
            [server]
            workers = 2
            [auth]
            secret = "hunter2"
            api_keys = ["hunter2"]
            [redis]
            url = "redis://user:hunter2@h:6379"
            [store]
            url = "postgres://user:hunter2@h/d"
            [queue.door]
            password = "hunter2"
        "#;
        let config: Config = toml::from_str(text).unwrap();
        let told = differences(&config);
        let of = |key: &str| {
            &told.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("{key}: {told:?}")).value
        };
        assert_eq!(of("server.workers"), "2");
        assert_eq!((of("auth.secret").as_str(), of("queue.door.password").as_str()), ("(set)", "(set)"));
        assert!(
            of("auth.api_keys") == "(set)"
                && of("apps").contains("(set)")
                && of("store.url").contains("user:***@h")
        );
        assert_eq!(told.len(), 7, "{told:?}");
        for shown in [format!("{told:?}"), format!("{:?}", config.auth), toml::to_string(&config).unwrap()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(differences(&Config::default()).is_empty());
    }

    #[test]
    fn five_lines_tell_what_runs() {
        let (http, door) = ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:6380".parse().unwrap());
        let lines = startup_lines(&Config::default(), &[http], Some(door));
        assert_eq!(lines.lines().count(), 5);
        for word in [
            env!("CARGO_PKG_VERSION"),
            "http://127.0.0.1:8080",
            "data/roomcast.db",
            "message_queue",
            "127.0.0.1:6380",
            "20s",
        ] {
            assert!(lines.contains(word), "{word}: {lines}");
        }
        let with_redis: Config = toml::from_str("[redis]\nurl = \"redis://:hunter2@h:6379\"").unwrap();
        let lines = startup_lines(&with_redis, &[http], None);
        assert!(lines.contains("list message_queue at redis://") && !lines.contains("hunter2"), "{lines}");
        assert!(startup_lines(&Config::default(), &[http], None).contains("none (set redis.url"));
        let with_database: Config =
            toml::from_str("[store]\nurl = \"postgres://ann:hunter2@h/chat\"").unwrap();
        let lines = startup_lines(&with_database, &[http], None);
        assert!(lines.contains("data/roomcast.journal and then in postgres://ann:***@h/chat"), "{lines}");
        assert!(!lines.contains("hunter2"), "{lines}");
    }
}
