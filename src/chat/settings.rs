//! The `[rooms]` table of the configuration: what a room keeps and who may do what in it.
//! Read by the configuration, asked by the chat server when a room opens.

use serde::{Deserialize, Serialize};

use crate::chat::names::{Pattern, RoomName};
use crate::units::Span;

/// The `[rooms]` table.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomsSettings {
    /// Where a queue message goes that names no room. Default `lobby`.
    pub default: String,
    /// Entries kept hot per room, for joins and resumes. Default 512.
    pub history: usize,
    /// Memory for the hot history of all rooms together, in bytes. When it is full, rooms give up their
    /// older half in turn. Default 256 MiB.
    pub history_bytes: usize,
    /// Age at which an entry is forgotten. Default 30 days.
    pub keep: Span,
    /// Most bytes of lines that a room keeps; the oldest go first. Default 0: any.
    pub keep_bytes: u64,
    /// Whether the newest entry of a room stays whatever its age. Default false.
    pub pin: bool,
    /// How long a message id is remembered, so that a repeat is harmless. Default 24 hours.
    pub dedup_window: Span,
    /// Message ids remembered in all rooms together. When it is full, rooms give up their older half in
    /// turn. Default 1,000,000 (some 80 MB).
    pub dedup_ids: usize,
    /// What an acknowledgement promises. Default `auto`.
    pub ack: AckLevel,
    /// What happens to a reader whose outbox is full. Default `close`.
    pub slow_reader: SlowReader,
    /// Who may join. Default `anyone`.
    pub join: Who,
    /// Who may publish. Default `anyone` (who has joined).
    pub publish: Who,
    /// Whether a room tells who is in it. Default true.
    pub presence: bool,
    /// Names of the targets that get a copy of every entry (`[[forward.targets]]`). Default none.
    pub forward: Vec<String>,
    /// Other values for the rooms that a pattern matches; the first matching rule that has a value wins.
    pub rule: Vec<RoomRule>,
}

impl Default for RoomsSettings {
    fn default() -> RoomsSettings {
        RoomsSettings {
            default: "lobby".into(),
            history: 512,
            history_bytes: 256 << 20,
            keep: Span::days(30),
            keep_bytes: 0,
            pin: false,
            dedup_window: Span::days(1),
            dedup_ids: 1_000_000,
            ack: AckLevel::Auto,
            slow_reader: SlowReader::Close,
            join: Who::Anyone,
            publish: Who::Anyone,
            presence: true,
            forward: Vec::new(),
            rule: Vec::new(),
        }
    }
}

/// One `[[rooms.rule]]`: a pattern and the values that differ for its rooms.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoomRule {
    /// Which rooms; `*` stands for any run of characters.
    #[serde(rename = "match")]
    pub pattern: String,
    /// See [`RoomsSettings::history`].
    pub history: Option<usize>,
    /// See [`RoomsSettings::keep`].
    pub keep: Option<Span>,
    /// See [`RoomsSettings::keep_bytes`].
    pub keep_bytes: Option<u64>,
    /// See [`RoomsSettings::pin`].
    pub pin: Option<bool>,
    /// See [`RoomsSettings::dedup_window`].
    pub dedup_window: Option<Span>,
    /// See [`RoomsSettings::ack`].
    pub ack: Option<AckLevel>,
    /// See [`RoomsSettings::slow_reader`].
    pub slow_reader: Option<SlowReader>,
    /// See [`RoomsSettings::join`].
    pub join: Option<Who>,
    /// See [`RoomsSettings::publish`].
    pub publish: Option<Who>,
    /// See [`RoomsSettings::presence`].
    pub presence: Option<bool>,
    /// See [`RoomsSettings::forward`]; an empty list ends for these rooms what the others have.
    pub forward: Option<Vec<String>>,
}

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// The best that the engine and the store offer together.
    Auto,
    /// The message has its place in the room.
    Sequenced,
    /// And a replica of the engine has it.
    Replicated,
    /// And it is in the archive.
    Archived,
}

/// What happens to a reader whose outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowReader {
    /// It is closed with 4202 and resumes from where it was.
    Close,
    /// It hears of a gap instead of what did not fit.
    Gap,
    /// It gets the newest entry only.
    Latest,
    /// It waits: it is served from the log at its own pace and misses nothing.
    Wait,
}

/// Who may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// Every user; a token that lists rooms still covers only those.
    Anyone,
    /// Only who holds a token that lists the room.
    Token,
}

/// The settings of one room, with the rules applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSettings {
    /// Entries kept hot.
    pub history: usize,
    /// Age at which an entry is forgotten, in milliseconds.
    pub keep_ms: u64,
    /// Most bytes of lines that are kept; 0 for any.
    pub keep_bytes: u64,
    /// Whether the newest entry stays whatever its age.
    pub pin: bool,
    /// What an acknowledgement promises.
    pub ack: AckLevel,
    /// What happens to a reader whose outbox is full.
    pub slow_reader: SlowReader,
    /// How long an id is remembered, in milliseconds.
    pub dedup_window_ms: u64,
    /// Who may join.
    pub join: Who,
    /// Who may publish.
    pub publish: Who,
    /// Whether the room tells who is in it.
    pub presence: bool,
}

impl RoomSettings {
    /// Whether readers and senders are told at once, before an entry is durable.
    pub fn sequenced(&self) -> bool {
        self.ack == AckLevel::Sequenced
    }
}

/// What a server has for acknowledgements to rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Foundations {
    /// Rooms are kept in a store, or in an archive behind the service.
    pub store: bool,
    /// Several nodes share rooms through a service.
    pub shared: bool,
}

impl RoomsSettings {
    /// The settings of the room with this name.
    pub fn of(&self, room: &RoomName) -> RoomSettings {
        let mut settings = RoomSettings {
            history: self.history,
            keep_ms: self.keep.millis(),
            keep_bytes: self.keep_bytes,
            pin: self.pin,
            ack: self.ack,
            slow_reader: self.slow_reader,
            dedup_window_ms: self.dedup_window.millis(),
            join: self.join,
            publish: self.publish,
            presence: self.presence,
        };
        // From the last rule to the first, so that the first one has the last word.
        for rule in self.rule.iter().rev() {
            if !Pattern::new(&rule.pattern).matches(room.as_str()) {
                continue;
            }
            settings.history = rule.history.unwrap_or(settings.history);
            settings.keep_ms = rule.keep.map_or(settings.keep_ms, Span::millis);
            settings.keep_bytes = rule.keep_bytes.unwrap_or(settings.keep_bytes);
            settings.pin = rule.pin.unwrap_or(settings.pin);
            settings.ack = rule.ack.unwrap_or(settings.ack);
            settings.slow_reader = rule.slow_reader.unwrap_or(settings.slow_reader);
            settings.dedup_window_ms = rule.dedup_window.map_or(settings.dedup_window_ms, Span::millis);
            settings.join = rule.join.unwrap_or(settings.join);
            settings.publish = rule.publish.unwrap_or(settings.publish);
            settings.presence = rule.presence.unwrap_or(settings.presence);
        }
        settings
    }

    /// Names of the targets that get a copy of what this room accepts.
    pub fn forward_of(&self, room: &RoomName) -> &[String] {
        let own = self.rule.iter().find_map(|rule| {
            let forward = rule.forward.as_deref()?;
            Pattern::new(&rule.pattern).matches(room.as_str()).then_some(forward)
        });
        own.unwrap_or(&self.forward)
    }

    /// What this server cannot promise with what it has, although the contract of the configuration names it.
    pub fn check(&self, has: Foundations) -> Result<(), String> {
        RoomName::new(&self.default).map_err(|e| format!("rooms.default: {e}"))?;
        for ack in std::iter::once(Some(self.ack)).chain(self.rule.iter().map(|rule| rule.ack)) {
            match ack {
                Some(AckLevel::Replicated) if !has.shared => {
                    return Err(
                        "rooms.ack: \"replicated\" needs rooms in Redis; set redis.url, or use \"auto\""
                            .into(),
                    );
                }
                Some(AckLevel::Archived) if !has.store => {
                    return Err(
                        "rooms.ack: \"archived\" needs a store; set store.url, or use \"auto\"".into()
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_wins() {
        let settings: RoomsSettings = toml::from_str(
            r#"
            history = 100
            [[rule]]
            match = "team-red"
            history = 7
            [[rule]]
            match = "team-*"
            history = 9
            join = "token"
            forward = ["audit"]
            "#,
        )
        .unwrap();
        let of = |name: &str| settings.of(&RoomName::new(name).unwrap());
        assert_eq!((of("team-red").history, of("team-red").join), (7, Who::Token));
        assert_eq!((of("team-blue").history, of("lobby").history), (9, 100));
        let forwards = |name: &str| settings.forward_of(&RoomName::new(name).unwrap()).len();
        assert_eq!(
            (forwards("team-red"), forwards("lobby")),
            (1, 0),
            "a rule without a value does not count"
        );
    }

    #[test]
    fn what_cannot_be_kept_is_not_promised() {
        let settings: RoomsSettings = toml::from_str("ack = \"archived\"").unwrap();
        let nothing = Foundations::default();
        assert!(settings.check(nothing).is_err());
        assert!(settings.check(Foundations { store: true, ..nothing }).is_ok());
        assert!(RoomsSettings::default().check(nothing).is_ok());
        let settings: RoomsSettings =
            toml::from_str("[[rule]]\nmatch = \"*\"\nack = \"replicated\"").unwrap();
        assert!(settings.check(Foundations { store: true, ..nothing }).is_err());
        assert!(settings.check(Foundations { shared: true, ..nothing }).is_ok());
    }
}
