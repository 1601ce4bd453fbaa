//! The `[[queue.sources]]` tables of the configuration: queues beside the lists that backends push into. Read by
//! the configuration, used by the wiring. Opens nothing.

use serde::{Deserialize, Serialize, Serializer};

use crate::chat::names::RoomName;
use crate::redis_link::RedisLink;
use crate::sources::list_keys::ListKeys;
use crate::sources::redis_stream::Start;

/// Longest name of a source: with an id of its own kind it makes the id of a message, which has 64 bytes at most.
const NAME_BYTES_MAX: usize = 20;

/// Which kind of queue it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A Redis stream, read as a group of consumers.
    RedisStream,
    /// Channels of Redis; nothing is kept there and nothing acknowledged.
    RedisPubsub,
    /// A stream of NATS JetStream. Needs the feature `nats`.
    Nats,
    /// A queue of Amazon SQS, standard or FIFO. Needs the feature `sqs`.
    Sqs,
    /// A subscription of Google Pub/Sub. Needs the feature `pubsub`.
    Pubsub,
}

impl SourceKind {
    /// As it stands in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            SourceKind::RedisStream => "redis_stream",
            SourceKind::RedisPubsub => "redis_pubsub",
            SourceKind::Nats => "nats",
            SourceKind::Sqs => "sqs",
            SourceKind::Pubsub => "pubsub",
        }
    }

    /// The feature that this program was built without and that it needs.
    pub fn missing_feature(self) -> Option<&'static str> {
        match self {
            SourceKind::Nats if !cfg!(feature = "nats") => Some("nats"),
            SourceKind::Sqs if !cfg!(feature = "sqs") => Some("sqs"),
            SourceKind::Pubsub if !cfg!(feature = "pubsub") => Some("pubsub"),
            _ => None,
        }
    }

    /// The keys that mean something for it, beside `name`, `kind` and `room`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            SourceKind::RedisStream => &["url", "stream", "group", "start"],
            SourceKind::RedisPubsub => &["url", "channels", "prefix"],
            SourceKind::Nats => &["url", "stream", "group", "subject"],
            SourceKind::Sqs => &["url", "region", "endpoint"],
            SourceKind::Pubsub => &["subscription", "endpoint"],
        }
    }
}

/// One queue beside the lists.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// What it is called in logs, figures and ids: 1 to 20 small letters, digits, `-` and `_`. Part of the ids by
    /// which rooms know its items again, so a queue keeps its name.
    pub name: String,
    /// Which kind of queue it is.
    pub kind: SourceKind,
    /// Where it is. Redis: as `redis.url`, which is also the default. NATS: `nats://[user:password@]host:4222`,
    /// several with commas. SQS: the queue's URL.
    #[serde(default, skip_serializing_if = "String::is_empty", serialize_with = "without_password")]
    pub url: String,
    /// The key of the stream in Redis, or its name in NATS.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// The group of consumers in Redis, or the durable consumer in NATS. Default `roomcast`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Where a new group of a Redis stream begins: at the `first` entry, or behind what is there (`new`).
    /// Default `first`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: Start,
    /// Channels of Redis pub/sub; those with `*`, `?` or `[` are patterns. Each stands for the room of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// What is cut off the front of a channel before it is a room's name; then `room:` is cut off as well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Only this subject of a NATS stream; `*` and `>` stand for any. Default: all of the stream.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The region of SQS. Default: the one in the queue's URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// A subscription of Google Pub/Sub, `projects/P/subscriptions/S`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subscription: String,
    /// Another server that speaks the protocol. SQS: default is that of the queue's URL. Pub/Sub: what
    /// `PUBSUB_EMULATOR_HOST` names, or else Google's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Where items go that name no room. Default: `rooms.default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
}

impl SourceSettings {
    /// The group, or its default.
    pub fn group(&self) -> &str {
        if self.group.is_empty() { "roomcast" } else { &self.group }
    }

    /// Where its Redis is: its own, or that of `redis.url`.
    pub fn link(&self, common: Option<&RedisLink>) -> Result<RedisLink, String> {
        if self.url.is_empty() {
            let missing = || self.complaint("needs a url, or redis.url");
            return common.cloned().ok_or_else(missing);
        }
        RedisLink::parse(&self.url).map_err(|error| self.complaint(&error.to_string()))
    }

    /// What the types cannot say. The error names the key and the source.
    pub fn check(&self, common: Option<&RedisLink>) -> Result<(), String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.chars().all(fits) {
            let text = "a name has 1 to 20 small letters, digits, - and _; rename it";
            return Err(self.complaint(text));
        }
        if let Some(room) = &self.room {
            RoomName::new(room).map_err(|error| self.complaint(&format!("room {room:?}: {error}")))?;
        }
        for (key, is_set) in self.given() {
            if is_set && !self.kind.keys().contains(&key) {
                let text = format!("{key} means nothing for {}; leave it out", self.kind.word());
                return Err(self.complaint(&text));
            }
        }
        match self.kind {
            SourceKind::RedisStream => {
                self.link(common)?;
                ListKeys::new(&self.stream).map_err(|error| self.complaint(&format!("stream: {error}")))?;
            }
            SourceKind::RedisPubsub => {
                self.link(common)?;
                if self.channels.is_empty() || self.channels.iter().any(String::is_empty) {
                    return Err(self.complaint("channels: name at least one, as in channels = [\"room:*\"]"));
                }
            }
            SourceKind::Nats if self.url.is_empty() || self.stream.is_empty() => {
                return Err(self.complaint("needs url and stream, as in url = \"nats://127.0.0.1:4222\""));
            }
            SourceKind::Sqs if self.url.is_empty() => {
                return Err(self.complaint("needs the queue's url"));
            }
            SourceKind::Pubsub if !is_subscription(&self.subscription) => {
                let text = "needs a subscription, as in subscription = \"projects/P/subscriptions/S\"";
                return Err(self.complaint(text));
            }
            SourceKind::Nats | SourceKind::Sqs | SourceKind::Pubsub => {}
        }
        let Some(feature) = self.kind.missing_feature() else { return Ok(()) };
        Err(self.complaint(&format!(
            "this program was built without {feature}; build it with `cargo build --release --features {feature}`"
        )))
    }

    fn given(&self) -> [(&'static str, bool); 10] {
        [
            ("url", !self.url.is_empty()),
            ("stream", !self.stream.is_empty()),
            ("group", !self.group.is_empty()),
            ("start", self.start != Start::First),
            ("channels", !self.channels.is_empty()),
            ("prefix", !self.prefix.is_empty()),
            ("subject", !self.subject.is_empty()),
            ("region", !self.region.is_empty()),
            ("subscription", !self.subscription.is_empty()),
            ("endpoint", !self.endpoint.is_empty()),
        ]
    }

    fn complaint(&self, what: &str) -> String {
        format!("queue.sources: {:?}: {what}", self.name)
    }
}

/// `projects/P/subscriptions/S`; Google says more of names when it is asked.
fn is_subscription(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let fits = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control());
    matches!(parts[..], ["projects", project, "subscriptions", name] if fits(project) && fits(name))
}

fn is_default(start: &Start) -> bool {
    *start == Start::default()
}

/// Everything before the host is left out: it may be a login.
fn without_password<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let shown: Vec<String> = url.split(',').map(shown).collect();
    serializer.serialize_str(&shown.join(","))
}

/// An address without its login.
pub fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceSettings {
        toml::from_str(text).unwrap()
    }

    const STREAM: &str = "name = \"orders\"\nkind = \"redis_stream\"\nstream = \"orders\"\n";

    #[test]
    fn what_is_given_is_written_out_without_passwords() {
        let texts = [
            STREAM.to_owned(),
            format!("{STREAM}group = \"g\"\nstart = \"new\"\nroom = \"shop\"\nurl = \"redis://:pa@ss@h\"\n"),
            "name = \"n\"\nkind = \"nats\"\nurl = \"nats://a:pass@h:1,nats://b:pass@h:2\"\nstream = \"S\""
                .to_owned(),
        ];
        for text in texts {
            let settings = source(&text);
            let written = toml::to_string(&settings).unwrap();
            assert!(!written.contains("pass") && !written.contains("pa@"), "{written}");
            assert_eq!(source(&written).name, settings.name);
        }
        assert_eq!(source(STREAM).group(), "roomcast");
    }

    #[test]
    fn a_wrong_source_is_refused_with_what_to_do() {
        let link = RedisLink::parse("redis://h").unwrap();
        let check = |text: &str| source(text).check(Some(&link));
        assert_eq!(check(STREAM), Ok(()));
        assert_eq!(check("name = \"p\"\nkind = \"redis_pubsub\"\nchannels = [\"room:*\"]"), Ok(()));
        let cases = [
            ("name = \"\"\nkind = \"sqs\"", "a name has 1 to 20"),
            ("name = \"a b\"\nkind = \"sqs\"", "a name has 1 to 20"),
            ("name = \"a\"\nkind = \"redis_stream\"", "stream: the name of a list"),
            (
                "name = \"a\"\nkind = \"redis_stream\"\nstream = \"s\"\nchannels = [\"c\"]",
                "channels means nothing",
            ),
            ("name = \"a\"\nkind = \"redis_pubsub\"", "name at least one"),
            ("name = \"a\"\nkind = \"nats\"\nstream = \"s\"", "needs url and stream"),
            ("name = \"a\"\nkind = \"sqs\"", "needs the queue's url"),
            ("name = \"a\"\nkind = \"pubsub\"\nsubscription = \"S\"", "projects/P/subscriptions/S"),
            ("name = \"a\"\nkind = \"pubsub\"\nurl = \"http://h\"", "url means nothing"),
            ("name = \"a\"\nkind = \"redis_stream\"\nstream = \"s\"\nroom = \"x*\"", "room \"x*\""),
            ("name = \"a\"\nkind = \"redis_stream\"\nstream = \"s\"\nurl = \"http://h\"", "scheme"),
        ];
        for (text, word) in cases {
            let error = check(text).unwrap_err();
            assert!(error.starts_with("queue.sources: ") && error.contains(word), "{error}");
        }
        assert!(source(STREAM).check(None).unwrap_err().contains("redis.url"));
        assert!(toml::from_str::<SourceSettings>("name = \"a\"\nkind = \"kafka\"").is_err());
    }

    #[test]
    fn a_kind_that_is_not_built_in_says_how_to_get_it() {
        for (kind, text) in [
            ("nats", "stream = \"S\"\nurl = \"nats://h\""),
            ("sqs", "url = \"https://h/1/q\""),
            ("pubsub", "subscription = \"projects/p/subscriptions/s\""),
        ] {
            let settings = source(&format!("name = \"a\"\nkind = \"{kind}\"\n{text}"));
            match settings.kind.missing_feature() {
                None => assert_eq!(settings.check(None), Ok(())),
                Some(_) => {
                    let error = settings.check(None).unwrap_err();
                    assert!(error.contains(&format!("--features {kind}")), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_the_page_about_queues_shows_is_taken() {
        let link = RedisLink::parse("redis://h").unwrap();
        let mut kinds = Vec::new();
        for block in include_str!("../../docs/queues.md").split("```toml\n").skip(1) {
            let shown: toml::Table = toml::from_str(block.split("```").next().unwrap()).unwrap();
            let sources = shown["queue"].get("sources").and_then(toml::Value::as_array).cloned();
            for shown in sources.unwrap_or_default() {
                let settings: SourceSettings = shown.try_into().unwrap();
                match (settings.check(Some(&link)), settings.kind.missing_feature()) {
                    (Ok(()), None) => {}
                    (Err(error), Some(feature)) => assert!(error.contains(feature), "{error}"),
                    (checked, feature) => panic!("{checked:?} without {feature:?}"),
                }
                kinds.push(settings.kind.word());
            }
        }
        assert_eq!(kinds, ["redis_stream", "redis_pubsub", "nats", "sqs", "pubsub"]);
    }
}
