//! What is said about a configuration that is wrong: the place, the line, and what was probably meant.
//! Called while the configuration is read. Knows texts, not what the keys do.

use std::fmt;
use std::ops::Range;

use toml::Table;

/// Why there is no configuration. Shown to whoever started the program, who gets exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// An error in a file, with its line. `known` holds the default of every key.
pub fn in_file(name: &str, text: &str, error: &toml::de::Error, known: &Table) -> ConfigError {
    let Some(span) = error.span() else {
        return ConfigError(format!("{name}: {}", without_value(&what_was_meant(error.message(), known))));
    };
    let place = Place::new(text, span, known);
    let what = what_was_meant(error.message(), known);
    let what = if place.is_whole { what } else { without_value(&what) };
    ConfigError(place.tell(name, &what))
}

/// A value that the types allow but that cannot work: `complaint` begins with `key.path:`. The line of that
/// key is shown when the file has it.
pub fn in_value(name: &str, text: &str, complaint: &str, known: &Table) -> ConfigError {
    let span = complaint.split_once(':').and_then(|(key, _)| span_of(text, key));
    ConfigError(match span {
        Some(span) => Place::new(text, span, known).tell(name, complaint),
        None => complaint.to_owned(),
    })
}

/// An error of a value that came from somewhere else than a file.
pub fn in_override(origin: &str, key: &str, error: &toml::de::Error, known: &Table) -> ConfigError {
    let what = what_was_meant(error.message(), known);
    let last = key.rsplit('.').next().unwrap_or(key);
    let what = if may_be_shown(last, known) { what } else { without_value(&what) };
    ConfigError(format!("{origin}: {key}: {what}"))
}

/// Keys whose values may be secrets, or hold one as an address does.
const HIDDEN_KEYS: [&str; 6] = ["secret", "password", "api_keys", "url", "jwks_url", "public_key"];

/// Whether the value of this key may be shown. A key that is not known may be a secret with a slip in its
/// name.
fn may_be_shown(key: &str, known: &Table) -> bool {
    fn has_key(table: &Table, key: &str) -> bool {
        table.get(key).is_some_and(|value| !value.is_table())
            || table.values().filter_map(toml::Value::as_table).any(|inner| has_key(inner, key))
    }
    !HIDDEN_KEYS.contains(&key) && has_key(known, key)
}

/// `invalid type: string "…", expected a list` without the value.
fn without_value(message: &str) -> String {
    match (message.starts_with("invalid"), message.rsplit_once(", expected ")) {
        (true, Some((_, wanted))) => format!("wrong type or value, expected {wanted}"),
        (true, None) => "wrong value".to_owned(),
        _ => message.to_owned(),
    }
}

/// A line of a file and the part of it that is meant.
struct Place {
    number: usize,
    column: usize,
    /// What is shown of the line.
    line: String,
    /// Whether that is all of it.
    is_whole: bool,
    marked: usize,
}

impl Place {
    fn new(text: &str, span: Range<usize>, known: &Table) -> Place {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let marked = text[start..span.end.clamp(start, line_end)].chars().count();
        let (line, is_whole) = shown(line, known);
        Place {
            number: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count(),
            line,
            is_whole,
            marked,
        }
    }

    /// Compilers' form: `file:line:column: what`, the line, and a mark below it.
    fn tell(&self, name: &str, what: &str) -> String {
        let Place { number, line, .. } = self;
        let width = line.chars().count();
        let pad = self.column.min(width.saturating_sub(1));
        let marks = "^".repeat(self.marked.min(width - pad.min(width)).max(1));
        let (gutter, pad) = (" ".repeat(number.to_string().len()), " ".repeat(pad));
        format!(
            "{name}:{number}:{}: {what}\n{gutter} |\n{number} | {line}\n{gutter} | {pad}{marks}",
            self.column + 1
        )
    }
}

/// What may be shown of a line, and whether that is all. A value is shown only with a key that is known to
/// hold no secret. Tabs would shift the mark below, so they become blanks.
fn shown(line: &str, known: &Table) -> (String, bool) {
    let clean = line.replace('\t', " ");
    let bare = clean.trim();
    let is_header = bare.starts_with('[') && bare.ends_with(']') && !bare.contains(['"', '\'', ',', '=']);
    if bare.is_empty() || is_header {
        return (clean, true);
    }
    let Some((key, _)) = clean.split_once('=') else { return ("…".to_owned(), false) };
    let last = key.trim().rsplit('.').next().unwrap_or_default();
    if may_be_shown(last, known) {
        return (clean, true);
    }
    (format!("{key}= …"), false)
}

/// Puts the deserialiser's words into ours and adds what was probably meant.
fn what_was_meant(message: &str, known: &Table) -> String {
    let message = message.trim_end();
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((wrong, candidates)) = names.split_first() else {
        return message.to_owned();
    };
    let is_key = message.starts_with("unknown field");
    if !is_key && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let what = if is_key { "unknown key" } else { "unknown value" };
    if let Some(close) = closest(wrong, candidates) {
        return format!("{what} `{wrong}`; did you mean `{close}`?");
    }
    if let Some(table) = is_key.then(|| table_with(known, wrong)).flatten() {
        return format!("{what} `{wrong}` here; it belongs to [{table}]");
    }
    format!("{what} `{wrong}`; known here: {}", candidates.join(", "))
}

/// The candidate that looks like the word, if any does.
fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const ALIKE: f64 = 0.8;
    let word = word.to_lowercase().replace('-', "_");
    let scored = candidates.iter().map(|candidate| (strsim::jaro_winkler(&word, candidate), *candidate));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}

/// The table that has a key of this name.
fn table_with<'a>(known: &'a Table, key: &str) -> Option<&'a str> {
    let mut tables = known.iter().filter_map(|(name, value)| Some((name, value.as_table()?)));
    tables.find(|(_, table)| table.contains_key(key)).map(|(name, _)| name.as_str())
}

/// Where the file sets `key.path`, as a range of bytes.
fn span_of(text: &str, key: &str) -> Option<Range<usize>> {
    let parsed = toml::de::DeTable::parse(text).ok()?;
    let mut table = parsed.into_inner();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (found, value) = table.into_iter().find(|(name, _)| name.get_ref() == part)?;
        if parts.peek().is_none() {
            return Some(found.span());
        }
        table = match value.into_inner() {
            toml::de::DeValue::Table(inner) => inner,
            _ => return None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::Config;

    fn known() -> Table {
        toml::from_str("[server]\nlisten = \"\"\nworkers = 0\n[auth]\nsecret = \"\"").unwrap()
    }

    #[test]
    fn a_slip_gets_a_suggestion() {
        let message = "unknown field `lisen`, expected one of `listen`, `workers`";
        assert_eq!(what_was_meant(message, &known()), "unknown key `lisen`; did you mean `listen`?");
        let message = "unknown variant `jsn`, expected `text` or `json`";
        assert_eq!(what_was_meant(message, &known()), "unknown value `jsn`; did you mean `json`?");
    }

    #[test]
    fn a_key_of_another_table_is_sent_there() {
        let message = "unknown field `secret`, expected one of `listen`, `workers`";
        assert_eq!(what_was_meant(message, &known()), "unknown key `secret` here; it belongs to [auth]");
    }

    #[test]
    fn what_looks_like_nothing_gets_the_list() {
        let message = "unknown field `zzz`, expected one of `listen`, `workers`";
        assert_eq!(what_was_meant(message, &known()), "unknown key `zzz`; known here: listen, workers");
        assert_eq!(what_was_meant("invalid type: string", &known()), "invalid type: string");
    }

    fn at(text: &str, span: Range<usize>, what: &str) -> String {
        Place::new(text, span, &known()).tell("x.toml", what)
    }

    #[test]
    fn the_mark_stands_below_the_key() {
        let text = "# über\n[server]\n\tworkers = 0\n";
        let start = text.find("workers").unwrap();
        assert_eq!(at(text, start..start + 7, "no"), "x.toml:3:2: no\n  |\n3 |  workers = 0\n  |  ^^^^^^^");
        assert!(at(text, text.len()..text.len(), "end").starts_with("x.toml:4:1: end"));
        assert!(at("", 0..0, "empty").starts_with("x.toml:1:1: empty"));
    }

    #[test]
    fn a_value_that_cannot_work_is_found_in_the_file() {
        let text = "[server]\nworkers = 9999\n[queue.door]\nlisten = \"x\"\n";
        let tell = |complaint: &str| in_value("x.toml", text, complaint, &known()).0;
        assert!(tell("server.workers: too many").starts_with("x.toml:2:1: server.workers: too many\n"));
        assert!(tell("queue.door.listen: no address").starts_with("x.toml:4:1: "));
        assert_eq!(tell("limits.rooms: no"), "limits.rooms: no");
    }

    #[test]
    fn no_secret_is_shown_whatever_is_wrong_with_it() {
        for text in [
            "[auth]\nsecret = hunter2\n",
            "[auth]\nsecret = [\"hunter2\"]\n",
            "[auth]\nsecert = \"hunter2\"\n",
            "[server]\nsecret = \"hunter2\"\n",
            "[auth]\nsecret = [\n  \"hunter2\",\n  hunter2\n]\n",
            "auth = { secret = 7, pass = \"hunter2\" }\n",
            "auth.secret = { a = \"hunter2\" }\n",
        ] {
            let error = toml::from_str::<Config>(text).unwrap_err();
            let told = in_file("x.toml", text, &error, &known()).0;
            assert!(told.starts_with("x.toml:") && !told.contains("hunter2"), "{told}");
        }
        let table: Table = toml::from_str("auth = { api_keys = \"hunter2\" }").unwrap();
        let error = Config::deserialize(table).unwrap_err();
        assert!(error.message().contains("hunter2"), "else there is nothing to hide");
        let told = in_override("--set", "auth.api_keys", &error, &known()).0;
        assert!(told.contains("expected") && !told.contains("hunter2"), "{told}");
    }
}
