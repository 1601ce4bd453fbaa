//! What stands behind the rooms: decided by `engine.kind`, `redis.url` and `store.url` together. Asked by the
//! wiring and the command line; opens nothing.

use std::path::{Path, PathBuf};

use super::{Config, EngineKind, StoreSettings};
use crate::chat::settings::Foundations;
use crate::store::place::StorePlace;
use crate::store::postgres::address::PostgresUrl;

/// What stands behind the rooms of this node.
#[derive(Debug, Clone, PartialEq)]
pub enum Backing {
    /// Nothing: they end with the process.
    Memory,
    /// A store of this node alone, with a journal before it.
    Store(StorePlace),
    /// Redis, shared with other nodes, and the archive behind it; without one there is hot history only.
    Redis(Option<Box<PostgresUrl>>),
}

impl Backing {
    /// What acknowledgements can rest on.
    pub fn foundations(&self) -> Foundations {
        match self {
            Backing::Memory => Foundations::default(),
            Backing::Store(_) => Foundations { store: true, shared: false },
            Backing::Redis(archive) => Foundations { store: archive.is_some(), shared: true },
        }
    }
}

impl Config {
    /// What stands behind the rooms; or which keys do not go together, and what to do.
    pub fn backing(&self) -> Result<Backing, String> {
        let place = self.store.place()?;
        let is_redis = match self.engine.kind {
            EngineKind::Memory => false,
            EngineKind::Auto => !self.redis.url.is_empty(),
            EngineKind::Redis if self.redis.url.is_empty() => {
                return Err("engine.kind: \"redis\" needs redis.url".into());
            }
            EngineKind::Redis => true,
        };
        // A database file that was chosen shows that this node is meant to be alone; the default says nothing.
        let is_chosen = self.store != StoreSettings::default();
        match place {
            place if !is_redis => Ok(place.map_or(Backing::Memory, Backing::Store)),
            None => Ok(Backing::Redis(None)),
            Some(StorePlace::Postgres(url)) => Ok(Backing::Redis(Some(url))),
            Some(StorePlace::Sqlite(_)) if !is_chosen => Ok(Backing::Redis(None)),
            Some(file) if self.engine.kind == EngineKind::Auto => Ok(Backing::Store(file)),
            Some(StorePlace::Sqlite(_)) => Err(
                "store.url: several nodes cannot share a database file, and rooms in Redis are for several nodes; \
                 use \"postgres://…\" or \"none\", or engine.kind = \"memory\" for one node with a file of its own"
                    .into(),
            ),
        }
    }
}

/// Where what waits for a backend lies when no store names a place.
const HOOKS_FOLDER: &str = "data";

impl Config {
    /// The file of what is still to be told to an application's backend by the node of this name; none where that is
    /// in memory. Where nodes share rooms each has one of its own.
    pub fn hooks_file(&self, node: &str) -> Result<Option<PathBuf>, String> {
        Ok(match self.backing()? {
            Backing::Memory => None,
            Backing::Store(place) => Some(place.hooks_file()),
            Backing::Redis(_) => {
                let name: String =
                    node.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
                Some(Path::new(HOOKS_FOLDER).join(format!("roomcast.{name}.hooks.db")))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backing(text: &str) -> Result<Backing, String> {
        toml::from_str::<Config>(text).unwrap().backing()
    }

    #[test]
    fn what_waits_for_a_backend_lies_beside_the_store_or_belongs_to_one_node() {
        let file = |text: &str| toml::from_str::<Config>(text).unwrap().hooks_file("chat-1:8080").unwrap();
        assert_eq!(file(""), Some("data/roomcast.hooks.db".into()));
        assert_eq!(file("[store]\nurl = \"sqlite:///srv/a.db\""), Some("/srv/a.hooks.db".into()));
        assert_eq!(file("[store]\nurl = \"postgres://ann@h/chat\""), Some("data/roomcast.hooks.db".into()));
        assert_eq!(file("[store]\nurl = \"none\""), None);
        assert_eq!(file("[redis]\nurl = \"redis://h\""), Some("data/roomcast.chat-1-8080.hooks.db".into()));
    }

    #[test]
    fn a_redis_is_for_several_nodes_and_a_file_for_one() {
        let redis = "[redis]\nurl = \"redis://h\"\n";
        let file = "[store]\nurl = \"sqlite:///srv/a.db\"\n";
        let database = "[store]\nurl = \"postgres://ann@h/chat\"\n";
        let kind = |kind: &str| format!("[engine]\nkind = \"{kind}\"\n");
        let is_store = |backing| matches!(backing, Ok(Backing::Store(_)));
        assert!(is_store(backing("")));
        assert_eq!(backing("[store]\nurl = \"none\""), Ok(Backing::Memory));
        assert_eq!(backing(redis), Ok(Backing::Redis(None)));
        assert!(matches!(backing(&format!("{redis}{database}")), Ok(Backing::Redis(Some(_)))));
        assert!(is_store(backing(database)), "one node, with a journal before the database");
        assert_eq!(
            backing(&format!("{redis}{file}")),
            Ok(Backing::Store(StorePlace::Sqlite("/srv/a.db".into())))
        );
        assert!(backing(&format!("{redis}{file}{}", kind("redis"))).unwrap_err().contains("store.url"));
        assert!(backing(&kind("redis")).unwrap_err().contains("redis.url"));
        assert!(is_store(backing(&format!("{redis}{}", kind("memory")))));
    }
}
