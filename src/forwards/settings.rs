//! The `[forward]` table of the configuration: where copies of entries go. Read by the configuration, used by the
//! wiring. Opens nothing.

use serde::{Deserialize, Serialize, Serializer};

use crate::forwards::feed::Start;
use crate::redis_link::RedisLink;

/// Longest name of a target: it stands in positions, figures and ids of dead letters.
const NAME_BYTES_MAX: usize = 20;
/// Longest name of a key in Redis.
const KEY_BYTES_MAX: usize = 512;

/// The `[forward]` table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForwardSettings {
    /// Where no archive of this node's own keeps them, so many entries wait for a target that is away: in each
    /// partition in Redis, or in this process with `store.url = "none"`. Beyond it the oldest go, which is counted.
    /// Some 300 bytes each with short messages. Default 200,000.
    pub buffer: usize,
    /// The targets, each a `[[forward.targets]]` table. Default none.
    pub targets: Vec<TargetSettings>,
}

impl Default for ForwardSettings {
    fn default() -> ForwardSettings {
        ForwardSettings { buffer: 200_000, targets: Vec::new() }
    }
}

/// What kind of place entries go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// A Redis list: pushed at its head with LPUSH, so that whoever pops at the tail (RPOP) gets the oldest first.
    RedisList,
    /// A Redis stream.
    RedisStream,
    /// A queue of Amazon SQS, standard or FIFO.
    Sqs,
    /// A topic of Google Cloud Pub/Sub.
    Pubsub,
    /// A subject of NATS JetStream.
    Nats,
}

impl TargetKind {
    /// As it stands in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            TargetKind::RedisList => "redis_list",
            TargetKind::RedisStream => "redis_stream",
            TargetKind::Sqs => "sqs",
            TargetKind::Pubsub => "pubsub",
            TargetKind::Nats => "nats",
        }
    }

    /// Why this program has no such target, and what to do.
    pub fn missing(self) -> Option<String> {
        match self {
            TargetKind::RedisList | TargetKind::RedisStream => None,
            kind => Some(format!(
                "this version has no targets of kind {}; use redis_list or redis_stream",
                kind.word()
            )),
        }
    }

    /// The keys that mean something for it, beside `name`, `kind` and `start`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            TargetKind::RedisList => &["url", "list"],
            TargetKind::RedisStream => &["url", "stream", "maxlen"],
            TargetKind::Sqs => &["url", "region", "endpoint"],
            TargetKind::Pubsub => &["url", "topic"],
            TargetKind::Nats => &["url", "subject"],
        }
    }

    /// The keys of those that it cannot do without.
    fn needs(self) -> &'static [&'static str] {
        match self {
            TargetKind::RedisList => &["list"],
            TargetKind::RedisStream => &["stream"],
            TargetKind::Sqs => &["url"],
            TargetKind::Pubsub => &["topic"],
            TargetKind::Nats => &["url", "subject"],
        }
    }
}

/// One target.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    /// What it is called in rules, logs, figures and positions: 1 to 20 small letters, digits, `-` and `_`. How far a
    /// target is, is kept under its name; under a new name it is a new target.
    pub name: String,
    /// What kind of place it is.
    pub kind: TargetKind,
    /// Where it is. Redis: as `redis.url`, which is also the default. NATS: `nats://[user:password@]host:4222`,
    /// several with commas. SQS: the queue's URL. Pub/Sub: another endpoint than Google's.
    #[serde(default, skip_serializing_if = "String::is_empty", serialize_with = "without_password")]
    pub url: String,
    /// The key of the list in Redis.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub list: String,
    /// The key of the stream in Redis.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// About so many entries stay in the Redis stream; the oldest go, read or not. Default 0: all stay.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub maxlen: u64,
    /// The subject of NATS.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The topic of Pub/Sub: `projects/PROJECT/topics/TOPIC`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// The region of SQS. Default: the one in the queue's URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Another server that speaks SQS's protocol. Default: that of the queue's URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Where a target begins that was never there before: behind what is there (`new`), or at the `first` entry that
    /// is kept. Default `new`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: Start,
}

impl TargetSettings {
    /// Where its Redis is: its own, or that of `redis.url`.
    pub fn link(&self, common: Option<&RedisLink>) -> Result<RedisLink, String> {
        if self.url.is_empty() {
            return common.cloned().ok_or_else(|| self.complaint("needs a url, or redis.url"));
        }
        RedisLink::parse(&self.url).map_err(|error| self.complaint(&format!("url: {error}")))
    }

    /// What the types cannot say. The error names the key and the target.
    pub fn check(&self, common: Option<&RedisLink>) -> Result<(), String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.chars().all(fits) {
            let text = "a name has 1 to 20 small letters, digits, - and _; rename it";
            return Err(self.complaint(text));
        }
        if let Some(why) = self.kind.missing() {
            return Err(self.complaint(&why));
        }
        for (key, is_set) in self.given() {
            if is_set && !self.kind.keys().contains(&key) {
                let text = format!("{key} means nothing for {}; leave it out", self.kind.word());
                return Err(self.complaint(&text));
            }
            if !is_set && self.kind.needs().contains(&key) {
                return Err(self.complaint(&format!("{} needs {key}; set it", self.kind.word())));
            }
        }
        if self.is_in_redis() {
            self.link(common)?;
            self.check_key()?;
        }
        Ok(())
    }

    fn is_in_redis(&self) -> bool {
        matches!(self.kind, TargetKind::RedisList | TargetKind::RedisStream)
    }

    /// The key in Redis that it writes to.
    pub fn key(&self) -> &str {
        if self.kind == TargetKind::RedisList { &self.list } else { &self.stream }
    }

    fn check_key(&self) -> Result<(), String> {
        let key = self.key();
        if key.len() <= KEY_BYTES_MAX && !key.chars().any(char::is_control) {
            return Ok(());
        }
        let word = if self.kind == TargetKind::RedisList { "list" } else { "stream" };
        Err(self.complaint(&format!(
            "{word}: a key has at most {KEY_BYTES_MAX} bytes and no control characters; rename it"
        )))
    }

    fn given(&self) -> [(&'static str, bool); 8] {
        [
            ("url", !self.url.is_empty()),
            ("list", !self.list.is_empty()),
            ("stream", !self.stream.is_empty()),
            ("maxlen", self.maxlen > 0),
            ("subject", !self.subject.is_empty()),
            ("topic", !self.topic.is_empty()),
            ("region", !self.region.is_empty()),
            ("endpoint", !self.endpoint.is_empty()),
        ]
    }

    fn complaint(&self, what: &str) -> String {
        format!("forward.targets: {:?}: {what}", self.name)
    }
}

impl ForwardSettings {
    /// What the types cannot say; `common` is the Redis of `redis.url`, `is_taken` tells whether this server itself takes
    /// items from a key there: what went there would come back in. The error names the key.
    pub fn check(
        &self,
        common: Option<&RedisLink>,
        is_taken: &dyn Fn(&RedisLink, &str) -> bool,
    ) -> Result<(), String> {
        if self.buffer == 0 {
            return Err("forward.buffer: 0 would drop every entry; write at least 1".into());
        }
        for (place, target) in self.targets.iter().enumerate() {
            target.check(common)?;
            if self.targets[..place].iter().any(|other| other.name == target.name) {
                return Err(target.complaint("the name stands there twice; choose another"));
            }
            if target.is_in_redis() && is_taken(&target.link(common)?, target.key()) {
                return Err(target.complaint(&format!(
                    "this server takes items from {:?}, so entries would come back in for ever; choose another key",
                    target.key()
                )));
            }
        }
        Ok(())
    }

    /// Whether the names that rooms forward to are those of targets. `key` is where they stand.
    pub fn check_names(&self, key: &str, names: &[String]) -> Result<(), String> {
        let unknown = names.iter().find(|name| self.targets.iter().all(|target| target.name != **name));
        let Some(unknown) = unknown else { return Ok(()) };
        let known = self.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
        let hint = match known.as_str() {
            "" => "there is no [[forward.targets]] yet; add one with this name".to_owned(),
            known => format!("known here: {known}"),
        };
        Err(format!("{key}: no target is called {unknown:?}; {hint}"))
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
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
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[[targets]]\nname = \"audit\"\nkind = \"redis_list\"\nlist = \"audit\"\n";

    fn settings(text: &str) -> ForwardSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_wrong_target_is_refused_with_what_to_do() {
        let link = RedisLink::parse("redis://h").unwrap();
        let is_taken = |at: &RedisLink, key: &str| *at == link && key == "message_queue";
        let check = |text: &str| settings(text).check(Some(&link), &is_taken);
        assert_eq!(check(LIST), Ok(()));
        let own = LIST.replace("list = \"audit\"", "list = \"message_queue\"");
        assert_eq!(check(&format!("{own}url = \"redis://elsewhere\"")), Ok(()), "another server's queue");
        assert_eq!(check(&format!("{LIST}start = \"first\"\nurl = \"redis://:pw@other\"")), Ok(()));
        let cases = [
            ("buffer = 0".to_owned(), "at least 1"),
            (format!("{LIST}{LIST}"), "twice"),
            (format!("{LIST}maxlen = 5"), "maxlen means nothing"),
            (LIST.replace("list = \"audit\"\n", ""), "needs list"),
            (own.clone(), "come back in"),
            (LIST.replace("name = \"audit\"", "name = \"The Audit\""), "1 to 20 small letters"),
            (LIST.replace("list = \"audit\"", "list = \"a\\u0007\""), "control characters"),
            (format!("{LIST}url = \"http://h\""), "url: "),
            ("[[targets]]\nname = \"q\"\nkind = \"sqs\"\nurl = \"https://h/1/q\"".to_owned(), "sqs"),
        ];
        for (text, word) in cases {
            let error = check(&text).unwrap_err();
            assert!(error.starts_with("forward.") && error.contains(word), "{error}");
        }
        assert!(settings(LIST).check(None, &is_taken).unwrap_err().contains("redis.url"));
    }

    #[test]
    fn rooms_forward_to_targets_that_are_there() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(settings(LIST).check_names("rooms.forward", &names(&["audit"])), Ok(()));
        let error = settings(LIST).check_names("rooms.forward", &names(&["audit", "audits"])).unwrap_err();
        assert_eq!(error, "rooms.forward: no target is called \"audits\"; known here: audit");
        let error = settings("").check_names("rooms.rule", &names(&["audit"])).unwrap_err();
        assert!(error.contains("[[forward.targets]]"), "{error}");
    }

    #[test]
    fn passwords_are_not_written_out() {
        let text = format!("{LIST}url = \"redis://ann:hunter2@h\"");
        let written = toml::to_string(&settings(&text)).unwrap();
        assert!(!written.contains("hunter2") && written.contains("***@h"), "{written}");
    }
}
