//! One key of the server API, as `auth.api_keys` lists them: what it opens, and in which rooms. Asked by the server
//! API and by the command line. Knows no request.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::auth::settings::Secret;
use crate::chat::names::Pattern;

/// Longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Say something.
    Publish,
    /// See which rooms there are, who is there and what was said.
    Read,
    /// Take words back, and people into rooms, out of them and out of the house.
    Admin,
}

impl Scope {
    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Publish => "publish",
            Scope::Read => "read",
            Scope::Admin => "admin",
        }
    }
}

/// One key: a text alone, or `{ key = "…", name = "shop", scopes = ["publish"], rooms = ["team-*"] }`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiKey {
    /// The key itself.
    pub key: Secret,
    /// What it is called where somebody asks who has said something; not a secret.
    pub name: Option<String>,
    /// What it may do; none: everything.
    pub scopes: Option<Vec<Scope>>,
    /// Names or patterns of the rooms that it may do it in; none: all.
    pub rooms: Option<Vec<String>>,
}

impl ApiKey {
    /// One that opens everything.
    pub fn new(key: impl Into<String>) -> ApiKey {
        ApiKey { key: Secret::new(key), ..ApiKey::default() }
    }

    /// Whether it opens calls of this kind.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&scope))
    }

    /// The rooms that it is for; none: all.
    pub fn patterns(&self) -> Option<Vec<Pattern>> {
        self.rooms.as_ref().map(|rooms| rooms.iter().map(|room| Pattern::new(room)).collect())
    }

    /// Whether it is for this room. Those of users (`@…`) need a pattern that begins with `@`.
    pub fn covers(&self, room: &str) -> bool {
        self.patterns().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(room)))
    }

    /// What cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        if !self.key.is_set() {
            return Err("auth.api_keys: an empty key would let everybody in; take it out".into());
        }
        let is_name =
            |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        if self.name.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(format!(
                "auth.api_keys: the name of a key has 1 to {NAME_BYTES_MAX} bytes and no control characters; change it"
            ));
        }
        let is_empty = |list: Option<usize>| list == Some(0);
        if is_empty(self.scopes.as_ref().map(Vec::len)) || is_empty(self.rooms.as_ref().map(Vec::len)) {
            return Err(
                "auth.api_keys: a key with an empty list of scopes or rooms opens nothing; leave the list out for \
                 all, or take the key out"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Shown to people, never the key itself.
impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.key.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ApiKey, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    key: Secret,
    name: Option<String>,
    scopes: Option<Vec<Scope>>,
    rooms: Option<Vec<String>>,
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = ApiKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a key, or { key = \"…\", name = \"shop\", scopes = [\"publish\", \"read\", \"admin\"], rooms = [\"team-*\"] }",
        )
    }

    fn visit_str<E>(self, text: &str) -> Result<ApiKey, E> {
        Ok(ApiKey::new(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ApiKey, A::Error> {
        let Table { key, name, scopes, rooms } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ApiKey { key, name, scopes, rooms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Settings {
        api_keys: Vec<ApiKey>,
    }

    fn read(list: &str) -> Result<Vec<ApiKey>, String> {
        let settings: Result<Settings, _> = toml::from_str(&format!("api_keys = [{list}]"));
        settings.map(|settings| settings.api_keys).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_key_alone_opens_everything() {
        let keys = read(r#""first", { key = "second" }"#).unwrap();
        assert_eq!(keys, [ApiKey::new("first"), ApiKey::new("second")]);
        for scope in [Scope::Publish, Scope::Read, Scope::Admin] {
            assert!(keys.iter().all(|key| key.may(scope) && key.covers("lobby") && key.covers("@ann")));
        }
    }

    #[test]
    fn a_key_with_scopes_opens_those_in_its_rooms() {
        let keys =
            read(r#"{ key = "k", scopes = ["publish", "read"], rooms = ["team-*", "@ann"] }"#).unwrap();
        let [key] = &keys[..] else { panic!("{keys:?}") };
        assert!(key.may(Scope::Publish) && key.may(Scope::Read) && !key.may(Scope::Admin));
        for (room, covered) in [("team-1", true), ("lobby", false), ("@ann", true), ("@bob", false)] {
            assert_eq!(key.covers(room), covered, "{room}");
        }
        let named = read(r#"{ key = "k", name = "shop" }"#).unwrap();
        assert_eq!((named[0].name.as_deref(), named[0].check()), (Some("shop"), Ok(())));
        let all = read(r#"{ key = "k", rooms = ["*"] }"#).unwrap();
        assert!(all[0].covers("lobby") && !all[0].covers("@ann+bob"));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        assert!(read(r#"{ key = "k", scopes = ["write"] }"#).unwrap_err().contains("publish"));
        assert!(read(r#"{ key = "k", scope = ["read"] }"#).unwrap_err().contains("unknown field"));
        assert!(read(r#"{ scopes = ["read"] }"#).unwrap_err().contains("missing field"));
        assert!(read("7").unwrap_err().contains("a key, or"));
        let (empty, control) = (r#"{ key = "k", name = "" }"#, r#"{ key = "k", name = "a\nb" }"#);
        let long = format!(r#"{{ key = "k", name = "{}" }}"#, "n".repeat(NAME_BYTES_MAX + 1));
        let nothing = [r#""""#, r#"{ key = "k", scopes = [] }"#, r#"{ key = "k", rooms = [] }"#];
        for list in nothing.into_iter().chain([empty, control, &long]) {
            assert!(read(list).unwrap()[0].check().unwrap_err().starts_with("auth.api_keys: "), "{list}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let api_keys = read(r#""hunter2", { key = "hunter3", scopes = ["read"] }"#).unwrap();
        let shown =
            format!("{:?} {}", api_keys, toml::to_string(&Settings { api_keys: api_keys.clone() }).unwrap());
        assert!(!shown.contains("hunter") && shown.contains("(set)"), "{shown}");
    }
}
