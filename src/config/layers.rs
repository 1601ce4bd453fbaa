//! Where the configuration comes from: flags before environment before file before default.
//! Called by the command line, which hands in what it was given; reads one file and nothing else.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::config::Config;
use crate::config::explain::{self, ConfigError};

/// The file that is read when none is named and it is there.
pub const USUAL_FILE: &str = "config.toml";
/// How the variables of the environment begin that stand for keys.
const PREFIX: &str = "ROOMCAST__";

/// What the program was started with.
#[derive(Debug, Default)]
pub struct Given {
    /// The file that was named.
    pub file: Option<PathBuf>,
    /// The variables of the environment.
    pub environment: Vec<(String, String)>,
    /// The flags that stand for keys, in order.
    pub flags: Vec<Flag>,
}

/// A flag that stands for a key.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As the user wrote it, for example `--listen`.
    pub name: String,
    /// The key, for example `server.listen`.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A configuration and where it comes from.
#[derive(Debug)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

struct Override {
    origin: String,
    key: String,
    value: String,
}

/// Reads, merges and checks.
pub fn load(given: &Given) -> Result<Loaded, ConfigError> {
    let file = given.file.clone().or_else(|| Path::new(USUAL_FILE).is_file().then(|| USUAL_FILE.into()));
    let text = match &file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?,
        None => String::new(),
    };
    let name = file.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let config = merge(&name, &text, given)?;
    Ok(Loaded { config, file })
}

fn merge(name: &str, text: &str, given: &Given) -> Result<Config, ConfigError> {
    let known = Table::try_from(Config::default()).expect("the defaults have a TOML form");
    let mut config: Config =
        toml::from_str(text).map_err(|error| explain::in_file(name, text, &error, &known))?;
    let mut table: Table =
        toml::from_str(text).map_err(|error| explain::in_file(name, text, &error, &known))?;
    let overrides = overrides(given);
    for one in &overrides {
        set(&mut table, one, &known)?;
        // Read again after each, so that the one at fault is named.
        config = Config::deserialize(table.clone())
            .map_err(|error| explain::in_override(&one.origin, &one.key, &error, &known))?;
    }
    config.check().map_err(|complaint| blame(name, text, &overrides, &complaint))?;
    Ok(config)
}

/// A complaint is about the last one who set the key: a flag, the environment or the file.
fn blame(name: &str, text: &str, overrides: &[Override], complaint: &str) -> ConfigError {
    let key = complaint.split_once(':').map_or("", |(key, _)| key);
    match overrides.iter().rev().find(|one| one.key == key) {
        Some(one) => ConfigError(format!("{}: {complaint}", one.origin)),
        None => explain::in_value(name, text, complaint),
    }
}

/// In the order in which they are applied: the later one wins.
fn overrides(given: &Given) -> Vec<Override> {
    let variable =
        |name: &str| given.environment.iter().find(|(own, value)| own == name && !value.is_empty());
    let of_platform = |name: &str, key: &str, value: &dyn Fn(&str) -> String| {
        let (_, text) = variable(name)?;
        Some(Override {
            origin: format!("environment variable {name}"),
            key: key.to_owned(),
            value: value(text),
        })
    };
    let as_it_is = |text: &str| text.to_owned();
    let mut all: Vec<Override> = [
        of_platform("PORT", "server.listen", &|port| format!("0.0.0.0:{port}")),
        of_platform("REDIS_URL", "redis.url", &as_it_is),
        of_platform("DATABASE_URL", "store.url", &as_it_is),
    ]
    .into_iter()
    .flatten()
    .collect();
    let named = given.environment.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(PREFIX)?.to_lowercase().replace("__", ".");
        Some(Override { origin: format!("environment variable {name}"), key, value: value.clone() })
    });
    all.extend(named);
    let flags = given.flags.iter().map(|flag| Override {
        origin: flag.name.clone(),
        key: flag.key.clone(),
        value: flag.value.clone(),
    });
    all.extend(flags);
    all
}

fn set(table: &mut Table, one: &Override, known: &Table) -> Result<(), ConfigError> {
    let mut parts: Vec<&str> = one.key.split('.').collect();
    let wrong = |why: &str| ConfigError(format!("{}: {}: {why}", one.origin, one.key));
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(|| wrong("write table.key"))?;
    let default = default_at(known, &one.key);
    if matches!(default, Some(Value::Table(_))) {
        return Err(wrong("this is a table; name a key in it"));
    }
    let mut place = table;
    for part in parts {
        let next = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| wrong("there is no table of this name"))?;
    }
    place.insert(last.to_owned(), typed(default, &one.value));
    Ok(())
}

fn default_at<'a>(known: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = known.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

/// Gives text the type that the key wants. Text for a text needs no quotes, so that a password of digits
/// stays a text; a list may be written as TOML or with commas.
fn typed(default: Option<&Value>, text: &str) -> Value {
    let parsed = text.trim().parse::<Value>().ok();
    match (default, parsed) {
        (Some(Value::String(_)), Some(value)) if value.is_str() || is_tables(&value) => value,
        (Some(Value::String(_)), _) => Value::String(text.to_owned()),
        (Some(Value::Array(_)), Some(Value::Array(list))) => Value::Array(list),
        (Some(Value::Array(_)), _) => comma_list(text),
        (_, Some(value)) => value,
        (_, None) => Value::String(text.to_owned()),
    }
}

/// `[{name = "a"}]`: several where one name is usual.
fn is_tables(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_table))
}

fn comma_list(text: &str) -> Value {
    let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
    Value::Array(elements.map(|element| Value::String(element.to_owned())).collect())
}
