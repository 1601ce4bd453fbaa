//! The `[hooks]` table of the configuration: where the four events go, and what a backend is asked before something
//! happens. Read by the configuration, used by the wiring.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::auth::settings::Secret;
use crate::chat::names::Pattern;
use crate::hooks::signature::Keys;
use crate::http_client::Reach;
use crate::http_client::guard::is_public;
use crate::units::Span;

/// Most events in one request.
const BATCH_MAX: usize = 1_000;
/// Longest that a request may take, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// Least bytes of events that may wait.
const SPOOL_BYTES_MIN: u64 = 1 << 20;

/// One of the four events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A session begins.
    OnOpen,
    /// A room has accepted something.
    OnMessage,
    /// A session has ended.
    OnClose,
    /// A session's connection broke a rule or failed.
    OnError,
}

/// The `[hooks]` table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksSettings {
    /// Where events are posted to. Default none: nothing is posted.
    #[serde(serialize_with = "without_secrets")]
    pub url: String,
    /// What requests are signed with: `whsec_` and 24 to 64 bytes in base64; two with a space between while one is
    /// being replaced. Needed with any address here.
    pub secret: Secret,
    /// Which events. Default all four.
    pub events: Vec<Event>,
    /// Rooms whose entries are told by `on_message`, as names or patterns. Default `["*"]`, which are all but those
    /// that belong to users (`@…`).
    pub rooms: Vec<String>,
    /// Most events in one request. Default 100.
    pub batch: usize,
    /// How long a request may take. Default 5 s.
    pub timeout: Span,
    /// How old an event may become while the backend takes nothing; then it goes among the dead letters. Default 24 h.
    pub keep: Span,
    /// Most bytes of events that wait or have failed; above it the oldest are dropped and counted. Default 1 GiB.
    pub spool_bytes: u64,
    /// Whether requests may go to this machine and to private networks. Default `false`.
    pub private_addresses: bool,
    /// `[hooks.ask]`: questions before something happens.
    pub ask: AskSettings,
}

impl Default for HooksSettings {
    fn default() -> HooksSettings {
        HooksSettings {
            url: String::new(),
            secret: Secret::default(),
            events: vec![Event::OnOpen, Event::OnMessage, Event::OnClose, Event::OnError],
            rooms: vec!["*".into()],
            batch: 100,
            timeout: Span::seconds(5),
            keep: Span::days(1),
            spool_bytes: 1 << 30,
            private_addresses: false,
            ask: AskSettings::default(),
        }
    }
}

/// What happens when a question gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// As if the backend had refused for now; the client may try again.
    #[default]
    Refuse,
    /// As if the backend had said yes.
    Allow,
}

/// The `[hooks.ask]` table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskSettings {
    /// Asked before somebody who has said who he is comes in. Default none: not asked.
    #[serde(serialize_with = "without_secrets")]
    pub connect: String,
    /// Asked before somebody enters a room. Default none.
    #[serde(serialize_with = "without_secrets")]
    pub join: String,
    /// Asked before somebody says something, or edits it. Default none.
    #[serde(serialize_with = "without_secrets")]
    pub publish: String,
    /// Rooms about which `join` and `publish` are asked, as names or patterns. Default `["*", "@*"]`: all.
    pub rooms: Vec<String>,
    /// How long an answer may take. Default 2 s.
    pub timeout: Span,
    /// What happens without an answer in time. Default `refuse`.
    pub connect_on_failure: OnFailure,
    /// The same.
    pub join_on_failure: OnFailure,
    /// The same.
    pub publish_on_failure: OnFailure,
    /// Most questions of this process that may be without an answer; what is asked beyond it is refused with
    /// `503 busy`, whatever `on_failure` says. Default 1,000.
    pub in_flight: usize,
}

impl Default for AskSettings {
    fn default() -> AskSettings {
        AskSettings {
            connect: String::new(),
            join: String::new(),
            publish: String::new(),
            rooms: vec!["*".into(), "@*".into()],
            timeout: Span::seconds(2),
            connect_on_failure: OnFailure::Refuse,
            join_on_failure: OnFailure::Refuse,
            publish_on_failure: OnFailure::Refuse,
            in_flight: 1_000,
        }
    }
}

impl AskSettings {
    /// Whether anything is asked.
    pub fn is_used(&self) -> bool {
        [&self.connect, &self.join, &self.publish].iter().any(|url| !url.is_empty())
    }
}

impl HooksSettings {
    /// Whether events are posted.
    pub fn is_used(&self) -> bool {
        !self.url.is_empty() && !self.events.is_empty()
    }

    /// Whether an event is posted.
    pub fn wants(&self, event: Event) -> bool {
        self.is_used() && self.events.contains(&event)
    }

    /// Where requests may go.
    pub fn reach(&self) -> Reach {
        if self.private_addresses { Reach::Anywhere } else { Reach::Public }
    }

    /// What cannot work, with the key and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let urls = [
            ("hooks.url", &self.url),
            ("hooks.ask.connect", &self.ask.connect),
            ("hooks.ask.join", &self.ask.join),
            ("hooks.ask.publish", &self.ask.publish),
        ];
        let used: Vec<_> = urls.into_iter().filter(|(_, url)| !url.is_empty()).collect();
        for (key, url) in &used {
            self.check_url(key, url)?;
        }
        if !used.is_empty() {
            Keys::read(&self.secret).map_err(|error| format!("hooks.secret: {error}"))?;
        }
        if self.batch == 0 || self.batch > BATCH_MAX {
            return Err(format!("hooks.batch: between 1 and {BATCH_MAX}"));
        }
        for (key, span) in [("hooks.timeout", self.timeout), ("hooks.ask.timeout", self.ask.timeout)] {
            if span.millis() == 0 || span.millis() > TIMEOUT_MS_MAX {
                return Err(format!("{key}: more than 0 and at most \"60s\""));
            }
        }
        if self.spool_bytes < SPOOL_BYTES_MIN {
            return Err(format!("hooks.spool_bytes: at least {SPOOL_BYTES_MIN}, which is 1 MiB"));
        }
        if self.ask.in_flight == 0 {
            return Err("hooks.ask.in_flight: 0 would refuse everybody; write at least 1".into());
        }
        Ok(())
    }

    fn check_url(&self, key: &str, text: &str) -> Result<(), String> {
        let example = "write for example \"https://example.com/hooks.php\"";
        let url = Url::parse(text).map_err(|error| format!("{key}: {error}; {example}"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(format!("{key}: it starts with https:// or http://; {example}"));
        }
        let address = match url.host() {
            None => return Err(format!("{key}: it names no host; {example}")),
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            // Other names are looked at when they are resolved.
            Some(Host::Domain("localhost")) => Some([127, 0, 0, 1].into()),
            Some(Host::Domain(_)) => None,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{key}: leave user and password out; requests are signed with hooks.secret"));
        }
        if address.is_some_and(|address| !is_public(address)) && !self.private_addresses {
            return Err(format!(
                "{key}: this is an address of this machine or of a private network; if your backend is there, set \
                 hooks.private_addresses = true"
            ));
        }
        Ok(())
    }

    /// What works but not as one may think.
    pub fn warnings(&self) -> Vec<String> {
        let urls = [&self.url, &self.ask.connect, &self.ask.join, &self.ask.publish];
        let is_plain = |url: &&String| url.starts_with("http://") && !self.private_addresses;
        let mut warnings = Vec::new();
        if urls.iter().any(is_plain) {
            warnings.push("hooks: what people say goes to a backend without TLS; write https://".into());
        }
        warnings
    }
}

/// Names or patterns of rooms.
pub fn patterns(rooms: &[String]) -> Vec<Pattern> {
    rooms.iter().map(|text| Pattern::new(text)).collect()
}

/// An address for logs: no login and nothing behind the path, where secrets stand.
pub fn shown(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return text.split('?').next().unwrap_or_default().to_owned() };
    let has_query = url.query().is_some();
    url.set_query(None);
    url.set_fragment(None);
    // Only URLs without a host refuse, and those are refused at the start.
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    format!("{url}{}", if has_query { "?…" } else { "" })
}

fn without_secrets<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&if url.is_empty() { String::new() } else { shown(url) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

    fn check(text: &str) -> Result<(), String> {
        toml::from_str::<HooksSettings>(text).unwrap_or_else(|error| panic!("{text}: {error}")).check()
    }

    #[test]
    fn an_address_needs_a_secret() {
        assert_eq!(HooksSettings::default().check(), Ok(()), "nothing is posted, nothing is signed");
        assert!(check("url = \"https://e.example/h\"").unwrap_err().starts_with("hooks.secret: "));
        assert!(check("[ask]\njoin = \"https://e.example/h\"").unwrap_err().starts_with("hooks.secret: "));
        assert_eq!(check(&format!("{SECRET}url = \"https://e.example/h\"")), Ok(()));
    }

    #[test]
    fn an_address_of_this_machine_has_to_be_allowed() {
        for url in [
            "http://127.0.0.1:8081/",
            "http://localhost/",
            "http://LOCALHOST/",
            "http://[::1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            let text = format!("{SECRET}url = \"{url}\"\n");
            let error = check(&text).unwrap_err();
            assert!(error.contains("private_addresses = true"), "{url}: {error}");
            assert_eq!(check(&format!("{text}private_addresses = true")), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let url = format!("{SECRET}url = \"https://e.example/h\"\n");
        for (more, key) in [
            ("batch = 0", "hooks.batch"),
            ("batch = 1001", "hooks.batch"),
            ("timeout = \"0s\"", "hooks.timeout"),
            ("timeout = \"61s\"", "hooks.timeout"),
            ("spool_bytes = 10", "hooks.spool_bytes"),
            ("[ask]\nin_flight = 0", "hooks.ask.in_flight"),
            ("[ask]\nconnect = \"ftp://e.example\"", "hooks.ask.connect"),
            ("[ask]\npublish = \"https://u:p@e.example\"", "hooks.ask.publish"),
            ("[ask]\njoin = \"nonsense\"", "hooks.ask.join"),
        ] {
            let error = check(&format!("{url}{more}")).unwrap_err();
            assert!(error.starts_with(key), "{more}: {error}");
        }
        assert!(toml::from_str::<HooksSettings>("events = [\"on_push\"]").is_err());
    }

    #[test]
    fn secrets_in_an_address_are_not_shown() {
        assert_eq!(shown("https://u:hunter2@e.example/a?key=hunter2#x"), "https://e.example/a?…");
        let written = toml::to_string(&HooksSettings {
            url: "https://e.example/a?key=hunter2".into(),
            secret: Secret::new("hunter2"),
            ..HooksSettings::default()
        });
        assert!(!written.unwrap().contains("hunter2"));
    }
}
