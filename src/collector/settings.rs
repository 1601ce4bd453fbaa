//! The `[traces]` table of the configuration. Read by the configuration, used by the wiring. Opens nothing.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::auth::settings::Secret;

/// Where a collector takes traces (OTLP over HTTP: <https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
pub const TRACES_PATH: &str = "/v1/traces";
/// What this program is called where nobody has named it.
const SERVICE: &str = "roomcast";
/// Most spans that may wait: some 600 bytes each.
const QUEUE_MAX: usize = 1_000_000;

/// The `[traces]` table. Every key can also be set by the variable of the environment that OpenTelemetry has for it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesSettings {
    /// The collector: `http://collector:4318`. Where there is no path, `/v1/traces` is added. Default none: no traces.
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub url: String,
    /// Which part of the traces that begin here is sent: 0 to 1. Whoever comes with a trace of its own decides itself.
    /// Default 0.01.
    pub sample: f64,
    /// What this server is called in traces. Default `roomcast`. `OTEL_SERVICE_NAME`.
    pub service: String,
    /// What is said of it besides: `key=value,key=value`, values percent-encoded. Default nothing.
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub attributes: String,
    /// Headers of each request, in the same form; a key to the collector may stand there. Default none.
    /// `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: Secret,
    /// So many spans wait for the collector; what ends while the queue is full is dropped and counted. Default 8,192.
    pub queue: usize,
}

impl Default for TracesSettings {
    fn default() -> TracesSettings {
        TracesSettings {
            url: String::new(),
            sample: 0.01,
            service: String::new(),
            attributes: String::new(),
            headers: Secret::default(),
            queue: 8_192,
        }
    }
}

impl TracesSettings {
    /// Whether spans are sent anywhere.
    pub fn is_used(&self) -> bool {
        !self.url.is_empty()
    }

    /// What cannot work, as `key: what to do`.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample) {
            return Err("traces.sample: write a number from 0 (none) to 1 (all)".into());
        }
        if !(1..=QUEUE_MAX).contains(&self.queue) {
            return Err(format!("traces.queue: write a number from 1 to {QUEUE_MAX}"));
        }
        // Not quoted in the error: a key may stand there.
        let words = "write key=value,key=value; values with other characters percent-encoded";
        pairs(&self.attributes).ok_or_else(|| format!("traces.attributes: {words}"))?;
        let headers = pairs(self.headers.expose()).ok_or_else(|| format!("traces.headers: {words}"))?;
        if !headers.iter().all(|(name, value)| is_header(name, value)) {
            return Err("traces.headers: one of them cannot be a header of HTTP; correct it".into());
        }
        if !self.is_used() {
            return Ok(());
        }
        self.endpoint()?;
        match cfg!(feature = "otel") {
            true => Ok(()),
            false => Err(
                "traces.url: this program was built without traces; build it with `cargo build --release \
                          --features otel`, or leave traces.url empty"
                    .into(),
            ),
        }
    }

    /// The address that spans are posted to.
    pub fn endpoint(&self) -> Result<Url, String> {
        let wrong = |why: &str| format!("traces.url: {why}; write it as http://collector:4318");
        let mut url = Url::parse(&self.url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(
                "only http:// and https:// are known; a collector has a port for OTLP over HTTP",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("traces.url: a login does not belong into it; put it into traces.headers".into());
        }
        if matches!(url.path(), "" | "/") {
            url.set_path(TRACES_PATH);
        }
        Ok(url)
    }

    /// The headers of each request. What cannot be read is none; the check has told.
    pub fn header_pairs(&self) -> Vec<(String, String)> {
        pairs(self.headers.expose()).unwrap_or_default()
    }

    /// What is said of this server in all traces. A name that is given for itself counts more than one among the attributes.
    pub fn resource(&self, node: &str) -> Vec<(String, String)> {
        let given = pairs(&self.attributes).unwrap_or_default();
        let has = |key: &str| given.iter().any(|(known, _)| known == key);
        let mut all = vec![("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        if !has("service.instance.id") {
            all.push(("service.instance.id".to_owned(), node.to_owned()));
        }
        let named = !self.service.is_empty();
        if named || !has("service.name") {
            let name = if named { &self.service } else { SERVICE };
            all.push(("service.name".to_owned(), name.to_owned()));
        }
        all.extend(given.into_iter().filter(|(key, _)| !named || key != "service.name"));
        all
    }
}

/// `key=value,key=value` with percent-encoded values, as OpenTelemetry writes headers and attributes; none when it is not
/// written so. <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#specifying-headers-via-environment-variables>
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            let key = decoded(key.trim())?;
            (!key.is_empty()).then_some((key, decoded(value.trim())?))
        })
        .collect()
}

/// Percent-encoding undone (RFC 3986, 2.1); a plus sign stands for itself.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        // A sign before digits is none in this code.
        bytes.push(
            digits
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(digits, 16))?
                .ok()?,
        );
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn is_header(name: &str, value: &str) -> bool {
    use awc::http::header::{HeaderName, HeaderValue};
    HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut TracesSettings)) -> TracesSettings {
        let mut settings = TracesSettings::default();
        change(&mut settings);
        settings
    }

    fn at(url: &str) -> TracesSettings {
        with(|settings| settings.url = url.into())
    }

    #[test]
    fn a_collector_without_a_path_gets_the_usual_one() {
        for (url, endpoint) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://collector/", "https://collector/v1/traces"),
            ("http://collector:4318/otlp/v1/traces", "http://collector:4318/otlp/v1/traces"),
        ] {
            assert_eq!(at(url).endpoint().unwrap().as_str(), endpoint);
        }
        for (url, word) in [
            ("collector:4318", "only http://"),
            ("grpc://collector:4317", "only http://"),
            ("http://", "empty host"),
            ("http://ann:hunter2@collector", "traces.headers"),
        ] {
            let error = at(url).check().unwrap_err();
            assert!(error.starts_with("traces.url: ") && error.contains(word), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_program_without_traces_says_how_to_build_it_with_them() {
        assert_eq!(TracesSettings::default().check(), Ok(()));
        let checked = at("http://collector:4318").check();
        match cfg!(feature = "otel") {
            true => assert_eq!(checked, Ok(())),
            false => assert!(checked.unwrap_err().contains("--features otel")),
        }
    }

    #[test]
    fn what_cannot_work_is_told() {
        let wrong = |change: fn(&mut TracesSettings)| with(change).check().unwrap_err();
        assert!(wrong(|it| it.sample = 1.5).starts_with("traces.sample: "));
        assert!(wrong(|it| it.sample = f64::NAN).starts_with("traces.sample: "));
        assert!(wrong(|it| it.queue = 0).starts_with("traces.queue: "));
        assert!(wrong(|it| it.attributes = "production".into()).starts_with("traces.attributes: "));
        for headers in ["hunter2", "key=%zz", "key=%+1", "=hunter2", "a key=hunter2", "key=a%0Ab"] {
            let error = with(|it| it.headers = Secret::new(headers)).check().unwrap_err();
            assert!(
                error.starts_with("traces.headers: ") && !error.contains("hunter2"),
                "{headers}: {error}"
            );
        }
    }

    #[test]
    fn headers_and_attributes_are_read_as_opentelemetry_writes_them() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs(""), Some(vec![]));
        assert_eq!(
            pairs(" api-key = a%20b%2C , x=1=2,"),
            Some(vec![pair("api-key", "a b,"), pair("x", "1=2")])
        );
        let of = |resource: &[(String, String)], key: &str| {
            let found: Vec<String> =
                resource.iter().filter(|(known, _)| known == key).map(|(_, value)| value.clone()).collect();
            found.join("|")
        };
        let usual = TracesSettings::default().resource("host-8080");
        assert_eq!(
            (of(&usual, "service.name"), of(&usual, "service.instance.id")),
            ("roomcast".into(), "host-8080".into())
        );
        let given = with(|it| it.attributes = "service.name=chat,deployment.environment.name=test".into());
        assert_eq!(of(&given.resource("n"), "service.name"), "chat");
        assert_eq!(of(&given.resource("n"), "deployment.environment.name"), "test");
        let named = TracesSettings { service: "rooms".into(), ..given };
        assert_eq!(of(&named.resource("n"), "service.name"), "rooms");
    }
}
