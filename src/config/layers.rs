//! Where the configuration comes from: flags before environment before file before default.
//! Called by the command line, which hands in what it was given; reads one file and nothing else.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::collector::settings::TRACES_PATH;
use crate::config::Config;
use crate::config::explain::{self, ConfigError};

/// The file that is read when none is named and it is there.
pub const USUAL_FILE: &str = "config.toml";
/// How the variables of the environment begin that stand for keys.
const PREFIX: &str = "ROOMCAST__";

/// The variables of OpenTelemetry, their keys, and what is put behind the value. The later one wins.
/// <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>
const TRACES: [(&str, &str, &str); 6] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.url", TRACES_PATH),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces.url", ""),
    ("OTEL_EXPORTER_OTLP_HEADERS", "traces.headers", ""),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "traces.headers", ""),
    ("OTEL_SERVICE_NAME", "traces.service", ""),
    ("OTEL_RESOURCE_ATTRIBUTES", "traces.attributes", ""),
];

/// Says in OpenTelemetry's words which part of the traces is sampled; a number stands in a variable of its own.
/// <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#general-sdk-configuration>
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";

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
    config.check().map_err(|complaint| blame(name, text, &overrides, &complaint, &known))?;
    Ok(config)
}

/// A complaint is about the last one who set the key: a flag, the environment or the file.
fn blame(name: &str, text: &str, overrides: &[Override], complaint: &str, known: &Table) -> ConfigError {
    let key = complaint.split_once(':').map_or("", |(key, _)| key);
    match overrides.iter().rev().find(|one| one.key == key) {
        Some(one) => ConfigError(format!("{}: {complaint}", one.origin)),
        None => explain::in_value(name, text, complaint, known),
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
    // Platforms give them to every program; one that was built without traces has no use for them.
    let traces = TRACES.iter().filter(|_| cfg!(feature = "otel"));
    all.extend(traces.filter_map(|(name, key, end)| of_platform(name, key, &|text| joined(text, end))));
    all.extend(variable(SAMPLER).filter(|_| cfg!(feature = "otel")).and_then(|(_, sampler)| {
        match sampler.trim_start_matches("parentbased_") {
            "always_on" => of_platform(SAMPLER, "traces.sample", &|_| "1".to_owned()),
            "always_off" => of_platform(SAMPLER, "traces.sample", &|_| "0".to_owned()),
            "traceidratio" => of_platform("OTEL_TRACES_SAMPLER_ARG", "traces.sample", &as_it_is)
                // So says its page where there is no number.
                .or_else(|| of_platform(SAMPLER, "traces.sample", &|_| "1".to_owned())),
            _ => None,
        }
    }));
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

/// An address with a path behind it.
fn joined(text: &str, path: &str) -> String {
    match path {
        "" => text.to_owned(),
        path => format!("{}{path}", text.trim_end_matches('/')),
    }
}

fn set(table: &mut Table, one: &Override, known: &Table) -> Result<(), ConfigError> {
    let mut parts: Vec<&str> = one.key.split('.').collect();
    let wrong = |why: &str| ConfigError(format!("{}: {}: {why}", one.origin, one.key));
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(|| wrong("write table.key"))?;
    let default = default_at(known, &one.key);
    if matches!(default, Some(Value::Table(_))) {
        return Err(wrong("this is a table; name a key in it"));
    }
    let above = parts.join(".");
    if default_at(known, &above).is_some_and(|value| !value.is_table()) {
        return Err(wrong("there is no table of this name"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::flat;
    use crate::store::place::StorePlace;
    use crate::units::Span;

    const SHIPPED: &str = include_str!("../../config.toml");

    fn environment(pairs: &[(&str, &str)]) -> Given {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Given { environment: pairs.iter().map(own).collect(), ..Given::default() }
    }

    fn flags(pairs: &[(&str, &str)]) -> Given {
        let flag = |(key, value): &(&str, &str)| Flag {
            name: "--set".into(),
            key: key.to_string(),
            value: value.to_string(),
        };
        Given { flags: pairs.iter().map(flag).collect(), ..Given::default() }
    }

    fn error(text: &str, given: &Given) -> String {
        merge("config.toml", text, given).expect_err("this must not pass").0
    }

    #[test]
    fn the_shipped_file_says_exactly_the_defaults() {
        let shipped = merge("config.toml", SHIPPED, &Given::default()).unwrap();
        assert_eq!(flat(&shipped), flat(&Config::default()));
    }

    #[test]
    fn the_shipped_file_has_every_key_with_a_reason() {
        let table: Table = toml::from_str(SHIPPED).unwrap();
        for (key, value) in flat(&Config::default()) {
            // Lists of tables have no empty form beside their `[[table]]`, so they stand there as examples.
            match key.as_str() {
                "rooms.rule" => assert!(SHIPPED.contains("# [[rooms.rule]]\n")),
                "queue.sources" => assert!(SHIPPED.contains("# [[queue.sources]]\n")),
                "forward.targets" => assert!(SHIPPED.contains("# [[forward.targets]]\n")),
                "apps" => assert!(SHIPPED.contains("# [[apps]]\n")),
                _ => assert!(default_at(&table, &key).is_some(), "{key} = {value} is missing"),
            }
        }
        for line in SHIPPED.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")) {
            assert!(line.contains(" # "), "no reason: {line}");
        }
    }

    #[test]
    fn flags_go_before_environment_before_file_before_default() {
        let file = "[server]\nlisten = \"127.0.0.1:1\"\nworkers = 3\n[limits]\nping = \"11s\"\n";
        let mut given =
            environment(&[("ROOMCAST__SERVER__LISTEN", "127.0.0.1:2"), ("ROOMCAST__LIMITS__PING", "12s")]);
        given.flags = flags(&[("limits.ping", "13s")]).flags;
        let config = merge("config.toml", file, &given).unwrap();
        assert_eq!((config.server.listen.as_str(), config.server.workers), ("127.0.0.1:2", 3));
        assert_eq!((config.limits.ping, config.limits.handshake), (Span::seconds(13), Span::seconds(10)));
    }

    #[test]
    fn what_platforms_set_is_understood() {
        let given = environment(&[
            ("PORT", "5000"),
            ("REDIS_URL", "redis://h:6379/1"),
            ("DATABASE_URL", "sqlite:///var/lib/roomcast/rooms.db"),
        ]);
        let config = merge("", "", &given).unwrap();
        assert_eq!(config.server.listen, "0.0.0.0:5000");
        assert_eq!(
            (config.redis.url.as_str(), config.store.url.as_str()),
            ("redis://h:6379/1", "sqlite:///var/lib/roomcast/rooms.db")
        );
        let database = merge("", "", &environment(&[("DATABASE_URL", "postgres://ann:x@h/d")])).unwrap();
        assert!(matches!(database.store.place(), Ok(Some(StorePlace::Postgres(_)))));
        let elsewhere = merge("", "", &environment(&[("DATABASE_URL", "mysql://h/d")])).unwrap_err();
        assert!(elsewhere.to_string().contains("DATABASE_URL: store.url"), "{elsewhere}");
        let both = environment(&[("ROOMCAST__SERVER__LISTEN", "127.0.0.1:7"), ("PORT", "5000")]);
        assert_eq!(merge("", "", &both).unwrap().server.listen, "127.0.0.1:7", "the exact name goes first");
        let empty = environment(&[("PORT", ""), ("REDIS_URL", "")]);
        assert_eq!(flat(&merge("", "", &empty).unwrap()), flat(&Config::default()));
    }

    #[test]
    fn values_outside_the_file_get_the_type_that_the_key_wants() {
        let config = merge(
            "",
            "",
            &environment(&[
                ("ROOMCAST__QUEUE__DOOR__PASSWORD", "0123"),
                ("ROOMCAST__AUTH__SECRET", "\"quoted secret, 32 bytes or more\""),
                ("ROOMCAST__SERVER__ORIGINS", "same, https://a.example"),
                ("ROOMCAST__SERVER__TRUSTED_PROXIES", "[\"10.0.0.1\"]"),
                ("ROOMCAST__ROOMS__PRESENCE", "false"),
                ("ROOMCAST__ROOMS__HISTORY", "1_000"),
                ("ROOMCAST__ROOMS__RULE", "[{match = \"team-*\", history = 7}]"),
                ("ROOMCAST__QUEUE__LIST", "[{name = \"a\"}, {name = \"b\"}]"),
                ("ROOMCAST__AUTH__API_KEYS", "first-key-of-the-shop,second-key-of-the-shop"),
                ("OTHER__THING", "1"),
            ]),
        )
        .unwrap();
        assert_eq!(config.queue.door.password, "0123");
        assert_eq!(config.auth.secret.expose(), "quoted secret, 32 bytes or more");
        assert_eq!(config.server.origins, ["same", "https://a.example"]);
        assert_eq!(config.server.trusted_proxies, ["10.0.0.1"]);
        assert_eq!((config.rooms.presence, config.rooms.history), (false, 1000));
        assert_eq!((config.rooms.rule.len(), config.queue.lists.len()), (1, 2));
        assert!(config.auth.api_key("second-key-of-the-shop").is_some());
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place_and_a_guess() {
        assert_eq!(
            error("[server]\nlisten = \"127.0.0.1:1\"\nworker = 3\n", &Given::default()),
            "config.toml:3:1: unknown key `worker`; did you mean `workers`?\n  |\n3 | worker = …\n  | ^^^^^^"
        );
        assert!(
            error("[sever]\n", &Given::default())
                .contains("config.toml:1:2: unknown key `sever`; did you mean `server`?")
        );
        assert!(error("[server]\nsecret = \"x\"\n", &Given::default()).contains("it belongs to [auth]"));
        assert!(
            error("[log]\nformat = \"jsn\"\n", &Given::default())
                .contains("2:10: unknown value `jsn`; did you mean `json`?")
        );
        assert!(
            error("[[rooms.rule]]\nmatch = \"a\"\nhistroy = 1\n", &Given::default())
                .contains("did you mean `history`?")
        );
        let given = environment(&[("ROOMCAST__SERVER__LISTN", "x")]);
        assert!(error("", &given).starts_with("environment variable ROOMCAST__SERVER__LISTN: server.listn: unknown key `listn`; did you mean `listen`?"));
        assert!(
            error("", &flags(&[("limits.pign", "1s")]))
                .contains("--set: limits.pign: unknown key `pign`; did you mean `ping`?")
        );
    }

    #[test]
    fn a_value_that_cannot_work_names_who_set_it() {
        assert!(
            error("[limits]\nping = \"0s\"\n", &Given::default())
                .starts_with("config.toml:2:1: limits.ping: between")
        );
        assert!(error("[limits]\nping = \"5 sec of\"\n", &Given::default()).starts_with("config.toml:2:8: "));
        assert!(error("", &flags(&[("limits.ping", "0s")])).starts_with("--set: limits.ping: between"));
        let port = environment(&[("PORT", "http")]);
        assert!(error("", &port).starts_with("environment variable PORT: server.listen: "));
        for (key, value, word) in [
            ("engine.kind", "redis", "redis.url"),
            ("server.tls_cert", "a.pem", "proxy"),
            ("server.origins", "example.com", "server.origins"),
            ("server.trusted_proxies", "proxy", "server.trusted_proxies"),
            ("rooms.ack", "replicated", "rooms.ack"),
            ("store.url", "mysql://h/d", "store.url"),
            ("redis.url", "http://h", "redis.url"),
            ("auth.public_key", "no/such.pem", "cannot read"),
            ("server", "x", "name a key in it"),
            ("server.listen.port", "1", "no table"),
            ("limits.ping", "25", "\"20s\""),
            ("server.workers", "many", "server.workers"),
            ("", "x", "table.key"),
        ] {
            let text = error("", &flags(&[(key, value)]));
            assert!(text.contains(word), "{key}: {text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_only_when_it_was_named() {
        let given = Given { file: Some("no/such/config.toml".into()), ..Given::default() };
        assert!(load(&given).unwrap_err().0.starts_with("cannot read no/such/config.toml: "));
    }

    #[test]
    fn what_opentelemetry_calls_its_variables_stands_for_our_keys() {
        let given = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=1"),
            ("OTEL_SERVICE_NAME", "chat"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
        ];
        let traces = merge("config.toml", "", &environment(&given)).unwrap().traces;
        if !cfg!(feature = "otel") {
            return assert_eq!(traces, Config::default().traces, "nothing to a program without traces");
        }
        assert_eq!(traces.url, "http://collector:4318/v1/traces");
        assert_eq!((traces.service.as_str(), traces.attributes.as_str()), ("chat", "a=b"));
        assert_eq!(traces.headers.expose(), "api-key=1");
        let both = [given[0], ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/traces")];
        assert_eq!(merge("config.toml", "", &environment(&both)).unwrap().traces.url, "http://other/traces");
        let own = [given[0], ("ROOMCAST__TRACES__URL", "http://own:1"), ("ROOMCAST__TRACES__SAMPLE", "1")];
        let traces = merge("config.toml", "", &environment(&own)).unwrap().traces;
        assert_eq!((traces.url.as_str(), traces.sample), ("http://own:1", 1.0));
        let sample = |given: &[(&str, &str)]| {
            merge("config.toml", "", &environment(given)).map(|config| config.traces.sample)
        };
        let (sampler, number) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
        for (name, part) in [("always_on", 1.0), ("parentbased_always_off", 0.0), ("traceidratio", 0.25)] {
            assert_eq!(sample(&[(number, "0.25"), (sampler, name)]).unwrap(), part, "{name}");
        }
        assert_eq!(sample(&[(sampler, "parentbased_traceidratio")]).unwrap(), 1.0);
        let usual = Config::default().traces.sample;
        assert_eq!(sample(&[(number, "0.25")]).unwrap(), usual, "it counts with its sampler alone");
        assert_eq!(sample(&[(number, "endpoint=x"), (sampler, "jaeger_remote")]).unwrap(), usual);
        let wrong = sample(&[(number, "7"), (sampler, "traceidratio")]).unwrap_err();
        assert!(
            wrong.0.starts_with("environment variable OTEL_TRACES_SAMPLER_ARG: traces.sample: "),
            "{wrong:?}"
        );
        let wrong = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")]);
        assert!(
            error("", &wrong).starts_with("environment variable OTEL_EXPORTER_OTLP_ENDPOINT: traces.url: ")
        );
    }
}
