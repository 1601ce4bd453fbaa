//! What is written about the server's own life: text lines for people, JSON lines for CloudWatch Logs and
//! Google Cloud Logging. Set up once by the command line. One line per event, whatever text is in it:
//! nobody can forge a line by sending line breaks.

use std::fmt::Write as _;
use std::io::Write;

use env_logger::{Builder, Target, WriteStyle};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde::{Deserialize, Serialize};

/// The `[log]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How a line looks. Default `text`.
    pub format: LogFormat,
    /// What is worth a line. `RUST_LOG` has more to say. Default `info`.
    pub level: LogLevel,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// From which level on something is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What somebody has to mend.
    Error,
    /// What may need a look.
    Warn,
    /// And what changes in the server's life.
    #[default]
    Info,
    /// And what helps to find a mistake.
    Debug,
    /// And everything else.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Off => LevelFilter::Off,
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
            LogLevel::Trace => LevelFilter::Trace,
        }
    }
}

/// Writes to standard error from now on. `directives` (of `RUST_LOG`, for example `info,roomcast=debug`)
/// go before the level. A second call changes nothing.
pub fn init(settings: &LogSettings, directives: Option<&str>) {
    let mut builder = Builder::new();
    builder.filter_level(settings.level.into());
    // The framework says at info what the start-up lines say already.
    builder.filter_module("actix_server", LevelFilter::from(settings.level).min(LevelFilter::Warn));
    // Strangers who send what is no HTTP would fill the log, a line each; they get their 400 and are forgotten.
    builder.filter_module("actix_http", LevelFilter::Off);
    if let Some(directives) = directives.filter(|text| !text.trim().is_empty()) {
        builder.parse_filters(directives);
    }
    builder.target(Target::Stderr);
    match settings.format {
        LogFormat::Text => builder.format(|out, record| {
            let style = out.default_level_style(record.level());
            let line = text_line(record, &now());
            let (time, rest) = line.split_at(TIME_CHARS + 1);
            let (level, rest) = rest.split_at(LEVEL_CHARS);
            writeln!(out, "{time}{style}{level}{style:#}{rest}")
        }),
        LogFormat::Json => {
            builder.write_style(WriteStyle::Never);
            builder.format(|out, record| out.write_all(&json_line(record, &now())))
        }
    };
    // A logger is there already: a test or an embedding program has its own, which is fine.
    builder.try_init().ok();
}

const TIME_CHARS: usize = "2026-01-01T00:00:00.000Z".len();
const LEVEL_CHARS: usize = "ERROR".len();

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

fn text_line(record: &Record<'_>, time: &str) -> String {
    let mut line = format!("{time} {:<5} {}: ", record.level(), record.target());
    escape_into(&mut line, &record.args().to_string());
    // Writing to a string cannot fail, and a value that fails to show itself has said so in its place.
    record.key_values().visit(&mut TextFields(&mut line)).ok();
    line
}

struct TextFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let text = value.to_string();
        self.0.push(' ');
        escape_into(self.0, key.as_str());
        self.0.push('=');
        let plain = !text.is_empty() && !text.contains([' ', '"', '=']);
        if plain {
            escape_into(self.0, &text);
            return Ok(());
        }
        self.0.push('"');
        escape_into(self.0, &text.replace('"', "\\\""));
        self.0.push('"');
        Ok(())
    }
}

/// Control characters, line separators and marks that turn the writing direction become visible escapes.
fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if is_unsafe(c) => {
                write!(line, "\\u{{{:x}}}", u32::from(c)).expect("a string takes every write");
            }
            c => line.push(c),
        }
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Google's names of severities; CloudWatch takes any.
fn severity(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn json_line(record: &Record<'_>, time: &str) -> Vec<u8> {
    let mut fields = serde_json::Map::new();
    // See text_line.
    record.key_values().visit(&mut JsonFields(&mut fields)).ok();
    // The four fixed names go last, so that a field cannot stand in for them.
    fields.insert("time".into(), time.into());
    fields.insert("severity".into(), severity(record.level()).into());
    fields.insert("message".into(), record.args().to_string().into());
    fields.insert("target".into(), record.target().into());
    let mut line = serde_json::to_vec(&fields).expect("a map of strings and numbers always has a JSON form");
    line.push(b'\n');
    line
}

struct JsonFields<'a>(&'a mut serde_json::Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for JsonFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let json = if let Some(n) = value.to_u64() {
            n.into()
        } else if let Some(n) = value.to_i64() {
            n.into()
        } else if let Some(n) = value.to_f64() {
            serde_json::Number::from_f64(n).map_or(serde_json::Value::Null, serde_json::Value::Number)
        } else if let Some(yes) = value.to_bool() {
            yes.into()
        } else {
            value.to_string().into()
        };
        self.0.insert(key.as_str().to_owned(), json);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::kv::Source;

    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.006Z";

    fn record_with<'a>(fields: &'a dyn Source, message: std::fmt::Arguments<'a>) -> Record<'a> {
        Record::builder().level(Level::Warn).target("roomcast::hub").args(message).key_values(fields).build()
    }

    #[test]
    fn a_text_line_is_one_line_whatever_is_in_it() {
        let fields = [("room", "a\nb"), ("user", "ann lee"), ("n", "7")];
        let line = text_line(
            &record_with(&fields, format_args!("closed\r\n2026 INFO fake\u{1b}[31m\u{202e}")),
            TIME,
        );
        assert_eq!(
            line,
            "2026-01-02T03:04:05.006Z WARN  roomcast::hub: closed\\r\\n2026 INFO fake\\u{1b}[31m\\u{202e} \
             room=a\\nb user=\"ann lee\" n=7"
        );
    }

    #[test]
    fn a_json_line_is_one_object_with_the_fixed_names() {
        let fields: [(&str, Value<'_>); 4] = [
            ("room", Value::from("a\n\"b\"")),
            ("n", Value::from(7u64)),
            ("ok", Value::from(true)),
            ("severity", Value::from("fake")),
        ];
        let line = json_line(&record_with(&fields, format_args!("closed\nfake")), TIME);
        let text = std::str::from_utf8(&line).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "the line break at the end alone: {text}");
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(json["severity"], "WARNING");
        assert_eq!(json["time"], TIME);
        assert_eq!(json["message"], "closed\nfake");
        assert_eq!(json["target"], "roomcast::hub");
        assert_eq!((&json["room"], &json["n"], &json["ok"]), (&"a\n\"b\"".into(), &7.into(), &true.into()));
    }

    #[test]
    fn the_time_has_milliseconds() {
        let time = now();
        assert_eq!(time.len(), TIME_CHARS, "{time}");
        assert!(time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
}
