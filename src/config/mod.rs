//! The configuration: the settings of all rooms of the house, put together from `config.toml`, the
//! environment and the command line. Read by the command line and by wiring. Each table's meaning lives
//! with its owner; here is only what belongs to nobody else.

pub mod backing;
pub mod explain;
pub mod layers;
mod loops;
pub mod report;

use serde::{Deserialize, Serialize};

use backing::Backing;

use crate::auth::origin::Origins;
use crate::auth::settings::{AuthSettings, Secret};
use crate::auth::token::Verifier;
use crate::auth::visitor::Proxies;
use crate::chat::settings::RoomsSettings;
use crate::collector::settings::TracesSettings;
use crate::forwards::settings::ForwardSettings;
use crate::hooks::settings::HooksSettings;
use crate::limits::Limits;
use crate::log::LogSettings;
use crate::redis_link::RedisLink;
use crate::server_settings::{DemoAccess, DemoSettings, ServerSettings};
use crate::sources::settings::{QueueSettings, RedisSettings};
use crate::sources::source_settings::SourceSettings;
use crate::store::place::StorePlace;

/// Everything that can be set. Every key has a default; an unknown one is an error.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`: where the server listens and whom it trusts.
    pub server: ServerSettings,
    /// `[demo]`: who gets the demo page.
    pub demo: DemoSettings,
    /// `[auth]`: keys of tokens and of the server API.
    pub auth: AuthSettings,
    /// `[rooms]`: what a room keeps and who may do what in it.
    pub rooms: RoomsSettings,
    /// `[engine]`: how nodes share rooms.
    pub engine: EngineSettings,
    /// `[redis]`: which Redis.
    pub redis: RedisSettings,
    /// `[store]`: what outlives a restart.
    pub store: StoreSettings,
    /// `[queue]`: where backends push.
    pub queue: QueueSettings,
    /// `[hooks]`: what a backend is told and asked.
    pub hooks: HooksSettings,
    /// `[forward]`: where copies of what rooms accept go.
    pub forward: ForwardSettings,
    /// `[limits]`: how much one client, one address and one node may take.
    pub limits: Limits,
    /// `[traces]`: where the ways of messages are shown.
    pub traces: TracesSettings,
    /// `[log]`: what is written about the server's own life.
    pub log: LogSettings,
    /// `[[apps]]`: applications that speak the Pusher protocol.
    pub apps: Vec<AppSettings>,
}

/// The `[engine]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// How nodes share rooms. Default `auto`: through Redis where there is one and no database file was chosen.
    pub kind: EngineKind,
}

/// How nodes share rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The best that there is.
    #[default]
    Auto,
    /// They do not: rooms live in this process.
    Memory,
    /// Through Redis.
    Redis,
}

/// The `[store]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// What outlives a restart: `sqlite://PATH`, `postgres://USER:PASSWORD@HOST/DATABASE`, or `none` to keep rooms
    /// in memory only. Default `sqlite://data/roomcast.db`; the journal lies beside it in
    /// `data/roomcast.journal`, which is also that of a database.
    #[serde(serialize_with = "report::without_password")]
    pub url: String,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings { url: "sqlite://data/roomcast.db".into() }
    }
}

impl StoreSettings {
    /// Where the store is; none when rooms are kept in memory only.
    pub fn place(&self) -> Result<Option<StorePlace>, String> {
        StorePlace::parse(&self.url).map_err(|why| format!("store.url: {why}"))
    }
}

/// One `[[apps]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSettings {
    /// The number in paths.
    pub id: String,
    /// What clients connect with.
    pub key: String,
    /// What backends sign with.
    pub secret: Secret,
}

impl Config {
    /// What cannot work, as `key: what to do`. Reads key files, opens nothing.
    pub fn check(&self) -> Result<(), String> {
        self.server.check()?;
        Origins::new(&self.server.origins)?;
        Proxies::new(&self.server.trusted_proxies)?;
        self.auth.check()?;
        Verifier::new(&self.auth)?;
        self.rooms.check(self.backing()?.foundations())?;
        self.queue.check(self.redis.link()?.as_ref())?;
        self.hooks.check()?;
        self.check_forward()?;
        self.limits.check()?;
        self.traces.check()
    }

    fn check_forward(&self) -> Result<(), String> {
        let common = self.redis.link()?;
        let is_taken = |at: &RedisLink, key: &str| self.takes_from(common.as_ref(), at, key);
        self.forward.check(common.as_ref(), &is_taken)?;
        loops::complaint(&self.forward.targets, &self.queue.sources).map_or(Ok(()), Err)?;
        self.forward.check_names("rooms.forward", &self.rooms.forward)?;
        let named = self.rooms.rule.iter().filter_map(|rule| rule.forward.as_ref());
        named.into_iter().try_for_each(|names| self.forward.check_names("rooms.rule.forward", names))
    }

    /// Whether this server takes items from a key in a Redis, by a list, a stream or its own door.
    fn takes_from(&self, common: Option<&RedisLink>, at: &RedisLink, key: &str) -> bool {
        let is_list = self.queue.lists.iter().any(|list| list.name == key);
        let is_door = place(at) == format!("redis://{}", self.queue.door.listen);
        let is_here = |link: &RedisLink| place(link) == place(at);
        let is_source = |source: &SourceSettings| {
            source.stream == key && source.link(common).is_ok_and(|link| is_here(&link))
        };
        is_list && (is_door || common.is_some_and(is_here)) || self.queue.sources.iter().any(is_source)
    }

    /// What works but not as one may think; said at start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.auth.warnings();
        if self.store.url == "none" {
            warnings.push("store.url: rooms are kept in memory only; they begin anew after a restart".into());
        }
        if !self.apps.is_empty() {
            warnings
                .push("apps: this version does not serve the Pusher protocol; its clients get 404".into());
        }
        if self.queue.door.is_open_to_the_world() {
            warnings.push(
                "queue.door: open to other machines without a password; set queue.door.password".into(),
            );
        }
        warnings.extend(self.hooks.warnings());
        if self.hooks.is_used() && matches!(self.backing(), Ok(Backing::Memory)) {
            warnings.push(
                "hooks: without a store what waits for the backend is in memory and ends with the process"
                    .into(),
            );
        }
        let rules = self.rooms.rule.iter().filter_map(|rule| rule.forward.as_ref());
        let named: Vec<&String> = rules.chain([&self.rooms.forward]).flatten().collect();
        for target in self.forward.targets.iter().filter(|target| !named.contains(&&target.name)) {
            warnings.push(format!(
                "forward.targets: no room forwards to {:?}; name it in rooms.forward or in a rule",
                target.name
            ));
        }
        if self.nobody_can_come_in() {
            warnings.push(
                "no key for tokens is set and the demo is not open to other machines, so nobody from outside can \
                 come in; set auth.secret, or demo.enabled = \"on\" to try it"
                    .into(),
            );
        }
        warnings
    }

    fn nobody_can_come_in(&self) -> bool {
        let has_keys =
            self.auth.secret.is_set() || !self.auth.public_key.is_empty() || !self.auth.jwks_url.is_empty();
        let beyond_loopback =
            |addresses: Vec<std::net::SocketAddr>| addresses.iter().any(|a| !a.ip().is_loopback());
        match self.demo.enabled {
            DemoAccess::On => false,
            DemoAccess::Off => !has_keys,
            DemoAccess::Loopback => !has_keys && self.server.addresses().is_ok_and(beyond_loopback),
        }
    }
}

/// A Redis without the login.
fn place(link: &RedisLink) -> String {
    link.to_string().replacen("***@", "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_does_not_come_back_in() {
        let check = |target: &str, rest: &str| {
            let text = format!(
                "[redis]\nurl = \"redis://:pw@h\"\n[[queue.sources]]\nname = \"in\"\nkind = \"redis_stream\"\n\
                 stream = \"orders\"\n[rooms]\nforward = [\"out\"]\n{rest}[[forward.targets]]\nname = \"out\"\n{target}"
            );
            toml::from_str::<Config>(&text).unwrap().check()
        };
        let list = |list: &str| format!("kind = \"redis_list\"\nlist = \"{list}\"\n");
        assert_eq!(check(&list("audit"), ""), Ok(()));
        assert_eq!(check(&format!("{}url = \"redis://other\"", list("message_queue")), ""), Ok(()));
        let stream = "kind = \"redis_stream\"\nstream = \"orders\"".to_owned();
        let same = format!("{}url = \"redis://h:6379\"", list("message_queue"));
        let door = format!("{}url = \"redis://127.0.0.1:6380\"", list("message_queue"));
        for target in [list("message_queue"), stream, same, door] {
            let error = check(&target, "").unwrap_err();
            assert!(error.starts_with("forward.targets: \"out\"") && error.contains("come back"), "{error}");
        }
        let rule = "[[rooms.rule]]\nmatch = \"*\"\nforward = [\"outs\"]\n";
        assert!(check(&list("audit"), rule).unwrap_err().starts_with("rooms.rule.forward: no target"));
    }

    #[cfg(feature = "sqs")]
    #[test]
    fn what_goes_to_a_queue_of_a_cloud_does_not_come_back_in() {
        let queue = |name: &str| {
            let url = format!("https://sqs.eu-west-1.amazonaws.com/1/{name}");
            format!("kind = \"sqs\"\nregion = \"eu-west-1\"\nurl = \"{url}\"\n")
        };
        let check = |target: &str| {
            let (source, target) = (queue("jobs"), queue(target));
            let text = format!(
                "[[queue.sources]]\nname = \"in\"\n{source}[rooms]\nforward = [\"out\"]\n[[forward.targets]]\n\
                 name = \"out\"\n{target}"
            );
            toml::from_str::<Config>(&text).unwrap().check()
        };
        assert_eq!(check("audit"), Ok(()));
        let error = check("jobs").unwrap_err();
        assert!(
            error.contains("forward.targets: \"out\"") && error.contains("queue.sources \"in\""),
            "{error}"
        );
    }
}
