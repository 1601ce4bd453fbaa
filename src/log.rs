//! What is written about the server's own life: text lines for people, JSON lines for CloudWatch Logs and
//! Google Cloud Logging. Set up once by the command line. One line per event, whatever text is in it:
//! nobody can forge a line by sending line breaks.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::OnceLock;

use env_logger::{Builder, Target, WriteStyle};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde::{Deserialize, Serialize};

use crate::traces;

/// The `[log]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How a line looks. Default `text`.
    pub format: LogFormat,
    /// What is worth a line. `RUST_LOG` has more to say. Default `info`.
    pub level: LogLevel,
    /// Whether each HTTP request, and each session at its end, gets a line. Default no.
    pub access: bool,
}

/// The target of lines about requests and sessions; see [`LogSettings::access`].
pub const ACCESS: &str = "access";

/// Where Google looks for the trace of a line.
const GOOGLES_TRACE: &str = "logging.googleapis.com/trace";

/// What JSON lines call this node.
static NODE: OnceLock<String> = OnceLock::new();

/// From now on JSON lines carry the node's name. A second name changes nothing.
pub fn set_node(name: &str) {
    NODE.get_or_init(|| name.to_owned());
}

/// Whether lines with the target [`ACCESS`] are written.
pub fn is_access_logged() -> bool {
    log::log_enabled!(target: ACCESS, Level::Info)
}

/// A user as lines name her: the same on all nodes, without telling who she is to those who only read the lines.
pub fn user_hash(user: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, user.as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
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
    // The database's remarks about tables that are there already, or not any more.
    builder.filter_module("tokio_postgres", LevelFilter::from(settings.level).min(LevelFilter::Warn));
    if !settings.access {
        builder.filter_module(ACCESS, LevelFilter::Off);
    }
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
    if let Some(trace) = traces::current().filter(|_| record.target() != ACCESS) {
        write!(line, " trace={trace}").expect("a string takes every write");
    }
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
    if record.target() == ACCESS {
        shape_for_google(&mut fields);
    } else if let Some(trace) = traces::current() {
        fields.insert("trace".into(), trace.as_str().into());
        fields.insert(GOOGLES_TRACE.into(), trace.as_str().into());
    }
    if let Some(node) = NODE.get() {
        fields.insert("node".into(), node.as_str().into());
    }
    // The four fixed names go last, so that a field cannot stand in for them.
    fields.insert("time".into(), time.into());
    fields.insert("severity".into(), severity(record.level()).into());
    fields.insert("message".into(), record.args().to_string().into());
    fields.insert("target".into(), record.target().into());
    let mut line = serde_json::to_vec(&fields).expect("a map of strings and numbers always has a JSON form");
    line.push(b'\n');
    line
}

/// Google shows requests and traces as such when they stand under its own names (LogEntry: httpRequest, trace); the plain names
/// stay for everybody else.
fn shape_for_google(fields: &mut serde_json::Map<String, serde_json::Value>) {
    if let Some(trace) = fields.get("trace").cloned() {
        fields.insert(GOOGLES_TRACE.into(), trace);
    }
    let mut request = serde_json::Map::new();
    for (ours, theirs) in [
        ("method", "requestMethod"),
        ("path", "requestUrl"),
        ("status", "status"),
        ("address", "remoteIp"),
        ("agent", "userAgent"),
    ] {
        if let Some(value) = fields.get(ours) {
            request.insert(theirs.into(), value.clone());
        }
    }
    if !request.contains_key("requestMethod") {
        return;
    }
    if let Some(ms) = fields.get("ms").and_then(serde_json::Value::as_f64) {
        request.insert("latency".into(), format!("{:.6}s", ms / 1e3).into());
    }
    fields.insert("httpRequest".into(), request.into());
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
    fn a_request_stands_under_the_names_that_google_knows() {
        let fields: [(&str, Value<'_>); 5] = [
            ("method", Value::from("GET")),
            ("path", Value::from("/v1/poll")),
            ("status", Value::from(200u64)),
            ("ms", Value::from(1.5)),
            ("trace", Value::from("0af7651916cd43dd8448eb211c80319c")),
        ];
        let record = Record::builder()
            .level(Level::Info)
            .target(ACCESS)
            .args(format_args!("GET /v1/poll 200"))
            .key_values(&fields)
            .build();
        let json: serde_json::Value = serde_json::from_slice(&json_line(&record, TIME)).unwrap();
        let wanted = serde_json::json!(
            {"requestMethod": "GET", "requestUrl": "/v1/poll", "status": 200, "latency": "0.001500s"}
        );
        assert_eq!(json["httpRequest"], wanted);
        assert_eq!(json["logging.googleapis.com/trace"], json["trace"]);
        assert_eq!(json["status"], 200, "and under the plain names");
    }

    #[test]
    fn a_user_is_named_by_a_hash_that_is_the_same_everywhere() {
        assert_eq!(user_hash("abc"), "ba7816bf8f01cfea", "the first bytes of SHA-256 (FIPS 180-4)");
        assert_ne!(user_hash("ann"), user_hash("bob"));
    }

    #[test]
    fn the_time_has_milliseconds() {
        let time = now();
        assert_eq!(time.len(), TIME_CHARS, "{time}");
        assert!(time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
}
