//! What stands behind the rooms: decided by `engine.kind`, `redis.url` and `store.url` together. Asked by the
//! wiring and the command line; opens nothing.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn backing(text: &str) -> Result<Backing, String> {
        toml::from_str::<Config>(text).unwrap().backing()
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
