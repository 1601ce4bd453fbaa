//! The `[redis]` and `[queue]` tables of the configuration: where backends push, and how they log in.
//! Read by the configuration, used by the queue actors and the door.

use std::fmt;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Deserializer, Serialize};

use crate::redis_link::RedisLink;
use crate::sources::list_keys::ListKeys;
use crate::sources::source_settings::SourceSettings;

/// The `[redis]` table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:6379/0`, `redis+sentinel://h1:26379,h2:26379/mymaster` or
    /// `redis+cluster://h1:7000,h2:7001`. Empty: no Redis. Default empty. An address that cannot be read
    /// is a mistake in the configuration and ends the start; one that cannot be reached or resolved is
    /// tried again for ever, because in a fleet of containers it may come up later than this server.
    #[serde(serialize_with = "url_without_password")]
    pub url: String,
    /// How the keys begin that Roomcast makes for itself. Those beside a queue are named after their list
    /// instead, because they must share its Cluster slot. Default `roomcast`.
    pub prefix: String,
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings { url: String::new(), prefix: "roomcast".into() }
    }
}

impl RedisSettings {
    /// The parsed address; `None` without one. The error names the key.
    pub fn link(&self) -> Result<Option<RedisLink>, String> {
        if self.url.is_empty() {
            return Ok(None);
        }
        RedisLink::parse(&self.url).map(Some).map_err(|error| format!("redis.url: {error}"))
    }
}

/// The `[queue]` table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// The lists that backends push into: one name, or several `[[queue.list]]` tables. Taken from Redis
    /// when `redis.url` is set; the RESP door takes pushes to the same names. Default `message_queue`.
    #[serde(rename = "list", deserialize_with = "one_or_several", serialize_with = "short_where_possible")]
    pub lists: Vec<ListSettings>,
    /// Dead letters kept in Redis for each list; beyond it the oldest is dropped and counted.
    /// Default 100,000.
    pub dead_items: usize,
    /// The `[queue.door]` table.
    pub door: DoorSettings,
    /// Queues of other kinds, each a `[[queue.sources]]` table. Default none.
    pub sources: Vec<SourceSettings>,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings {
            lists: vec![ListSettings { name: "message_queue".into(), room: None }],
            dead_items: 100_000,
            door: DoorSettings::default(),
            sources: Vec::new(),
        }
    }
}

impl QueueSettings {
    /// What the types cannot say; `common` is the Redis of `redis.url`. The error names the key.
    pub fn check(&self, common: Option<&RedisLink>) -> Result<(), String> {
        for (place, list) in self.lists.iter().enumerate() {
            ListKeys::new(&list.name).map_err(|error| format!("queue.list: {error}"))?;
            if self.lists[..place].iter().any(|other| other.name == list.name) {
                return Err(format!("queue.list: {:?} stands there twice; leave one out", list.name));
            }
            if let Some(room) = &list.room {
                crate::chat::names::RoomName::new(room)
                    .map_err(|error| format!("queue.list: room {room:?}: {error}"))?;
            }
        }
        for (place, source) in self.sources.iter().enumerate() {
            source.check(common)?;
            let others = self.sources[..place].iter().map(|other| &other.name);
            if others.chain(self.lists.iter().map(|list| &list.name)).any(|name| *name == source.name) {
                return Err(format!(
                    "queue.sources: the name {:?} stands there twice; choose another",
                    source.name
                ));
            }
        }
        if self.dead_items == 0 {
            return Err("queue.dead_items: 0 would drop every dead letter; write at least 1".into());
        }
        self.door.check()
    }
}

/// One list that backends push into.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListSettings {
    /// The key of the list in Redis.
    pub name: String,
    /// Where its items go that name no room. Default: `rooms.default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
}

/// The `[queue.door]` table: the built-in door that speaks the Redis protocol.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoorSettings {
    /// Where it listens; empty: closed. Default `127.0.0.1:6380`.
    pub listen: String,
    /// What `AUTH` and `HELLO` must give; empty: nobody is asked. Default empty.
    #[serde(serialize_with = "hidden")]
    pub password: String,
    /// What is cut off the front of a channel before it is a room's name, for frameworks that put their
    /// own name there (`laravel_database_`). A `room:` after it is cut off as well. Default empty.
    pub prefix: String,
    /// Connections at the same time; more are told so and closed. Default 1,000.
    pub connections: usize,
}

impl Default for DoorSettings {
    fn default() -> DoorSettings {
        DoorSettings {
            listen: "127.0.0.1:6380".into(),
            password: String::new(),
            prefix: String::new(),
            connections: 1_000,
        }
    }
}

impl DoorSettings {
    fn check(&self) -> Result<(), String> {
        if self.connections == 0 {
            return Err(
                "queue.door.connections: 0 lets nobody in; write listen = \"\" to close the door".into()
            );
        }
        Ok(())
    }

    /// Whether anybody who reaches the address may push without a password, from other machines too.
    pub fn is_open_to_the_world(&self) -> bool {
        let loopback = ["127.", "localhost:", "[::1]:"].iter().any(|start| self.listen.starts_with(start));
        !self.listen.is_empty() && self.password.is_empty() && !loopback
    }
}

fn hidden<S: Serializer>(secret: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if secret.is_empty() { "" } else { "***" })
}

fn url_without_password<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match RedisLink::parse(url) {
        Ok(link) => serializer.collect_str(&link),
        Err(_) => hidden(url, serializer),
    }
}

fn short_where_possible<S: Serializer>(lists: &[ListSettings], serializer: S) -> Result<S::Ok, S::Error> {
    match lists {
        [ListSettings { name, room: None }] => serializer.serialize_str(name),
        several => several.serialize(serializer),
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ListSettings>, D::Error> {
    struct OneOrSeveral;

    impl<'de> Visitor<'de> for OneOrSeveral {
        type Value = Vec<ListSettings>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a list, or [[queue.list]] tables with a name each")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![ListSettings { name: name.into(), room: None }])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(tables))
        }
    }

    deserializer.deserialize_any(OneOrSeveral)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_is_a_string_and_several_are_tables() {
        let one: QueueSettings = toml::from_str("list = \"jobs\"").unwrap();
        assert_eq!(one.lists, [ListSettings { name: "jobs".into(), room: None }]);
        let two: QueueSettings =
            toml::from_str("[[list]]\nname = \"a\"\n[[list]]\nname = \"b\"\nroom = \"news\"").unwrap();
        assert_eq!(two.lists.len(), 2);
        assert_eq!(two.lists[1].room.as_deref(), Some("news"));
        for settings in [one, two, QueueSettings::default()] {
            let written = toml::to_string(&settings).unwrap();
            assert_eq!(toml::from_str::<QueueSettings>(&written).unwrap(), settings);
        }
    }

    #[test]
    fn a_wrong_setting_names_its_key() {
        for (text, word) in
            [("list = 7", "name of a list"), ("[[list]]\nnam = \"a\"", "nam"), ("[door]\nport = 1", "port")]
        {
            let error = toml::from_str::<QueueSettings>(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        for text in
            ["list = \"\"", "list = \"a{}b\"", "dead_items = 0", "[[list]]\nname = \"a\"\nroom = \"x*\""]
        {
            let error = toml::from_str::<QueueSettings>(text).unwrap().check(None).unwrap_err();
            assert!(error.starts_with("queue."), "{error}");
        }
        let twice: QueueSettings = toml::from_str("[[list]]\nname = \"a\"\n[[list]]\nname = \"a\"").unwrap();
        assert!(twice.check(None).unwrap_err().contains("twice"));
    }

    #[test]
    fn secrets_are_not_written_out() {
        let door = DoorSettings { password: "hunter2".into(), ..DoorSettings::default() };
        let redis = RedisSettings { url: "redis://:hunter2@h".into(), ..RedisSettings::default() };
        let broken = RedisSettings { url: "redis//:hunter2@h".into(), ..RedisSettings::default() };
        for text in [toml::to_string(&door), toml::to_string(&redis), toml::to_string(&broken)] {
            assert!(!text.unwrap().contains("hunter2"));
        }
    }

    #[test]
    fn a_door_without_a_password_is_open_to_the_world_only_off_loopback() {
        let door = |listen: &str, password: &str| DoorSettings {
            listen: listen.into(),
            password: password.into(),
            ..DoorSettings::default()
        };
        assert!(door("0.0.0.0:6380", "").is_open_to_the_world());
        assert!(!door("0.0.0.0:6380", "x").is_open_to_the_world());
        assert!(!door("127.0.0.1:6380", "").is_open_to_the_world());
        assert!(!door("", "").is_open_to_the_world());
    }
}
