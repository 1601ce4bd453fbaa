//! What is said about a configuration that is wrong: the place, the line, and what was probably meant.
//! Called while the configuration is read. Knows texts, not what the keys do.

use std::fmt;

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
    let what = what_was_meant(error.message(), known);
    match error.span() {
        Some(span) => ConfigError(at_line(name, text, span.start, span.end, &what)),
        None => ConfigError(format!("{name}: {what}")),
    }
}

/// A value that the types allow but that cannot work: `complaint` begins with `key.path:`. The line of that
/// key is shown when the file has it.
pub fn in_value(name: &str, text: &str, complaint: &str) -> ConfigError {
    let place = complaint.split_once(':').and_then(|(key, _)| place_of(text, key));
    match place {
        Some((start, end)) => ConfigError(at_line(name, text, start, end, complaint)),
        None => ConfigError(complaint.to_owned()),
    }
}

/// An error of a value that came from somewhere else than a file.
pub fn in_override(origin: &str, key: &str, error: &toml::de::Error, known: &Table) -> ConfigError {
    ConfigError(format!("{origin}: {key}: {}", what_was_meant(error.message(), known)))
}

/// Compilers' form: `file:line:column: what`, the line, and a mark below it.
fn at_line(name: &str, text: &str, start: usize, end: usize, what: &str) -> String {
    let start = start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let number = text[..start].matches('\n').count() + 1;
    let line = text[line_start..line_end].trim_end_matches('\r');
    let column = text[line_start..start].chars().count();
    let marked = text[start..end.clamp(start, line_end)].chars().count().max(1);
    let (gutter, pad, marks) = (" ".repeat(number.to_string().len()), " ".repeat(column), "^".repeat(marked));
    // Tabs would shift the mark; a line is shown with blanks instead.
    let line = line.replace('\t', " ");
    format!("{name}:{number}:{}: {what}\n{gutter} |\n{number} | {line}\n{gutter} | {pad}{marks}", column + 1)
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
fn place_of(text: &str, key: &str) -> Option<(usize, usize)> {
    let parsed = toml::de::DeTable::parse(text).ok()?;
    let mut table = parsed.into_inner();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (found, value) = table.into_iter().find(|(name, _)| name.get_ref() == part)?;
        if parts.peek().is_none() {
            return Some((found.span().start, found.span().end));
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
    use super::*;

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

    #[test]
    fn the_mark_stands_below_the_key() {
        let text = "# über\n[server]\n\tworkers = 0\n";
        let start = text.find("workers").unwrap();
        assert_eq!(
            at_line("x.toml", text, start, start + 7, "no"),
            "x.toml:3:2: no\n  |\n3 |  workers = 0\n  |  ^^^^^^^"
        );
        assert!(at_line("x.toml", text, text.len(), text.len(), "end").starts_with("x.toml:4:1: end"));
        assert!(at_line("x.toml", "", 0, 0, "empty").starts_with("x.toml:1:1: empty"));
    }

    #[test]
    fn a_value_that_cannot_work_is_found_in_the_file() {
        let text = "[limits]\nping = \"0s\"\n[queue.door]\nlisten = \"x\"\n";
        assert!(
            in_value("x.toml", text, "limits.ping: too short")
                .0
                .starts_with("x.toml:2:1: limits.ping: too short\n")
        );
        assert!(in_value("x.toml", text, "queue.door.listen: no address").0.starts_with("x.toml:4:1: "));
        assert_eq!(in_value("x.toml", text, "limits.rooms: no").0, "limits.rooms: no");
    }
}
