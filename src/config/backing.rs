//! What stands behind the rooms: decided by `engine.kind`, `redis.url` and `store.url` together. Asked by the
//! wiring and the command line; opens nothing.

use std::path::PathBuf;

use super::{Config, EngineKind, StoreSettings};
use crate::chat::settings::Foundations;

/// What stands behind the rooms of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Nothing: they end with the process.
    Memory,
    /// A database file with its journal, of this node alone.
    File(PathBuf),
    /// Redis, shared with other nodes, and nothing behind it: hot history only.
    Redis,
}

impl Backing {
    /// What acknowledgements can rest on.
    pub fn foundations(&self) -> Foundations {
        match self {
            Backing::Memory => Foundations::default(),
            Backing::File(_) => Foundations { store: true, shared: false },
            Backing::Redis => Foundations { store: false, shared: true },
        }
    }
}

impl Config {
    /// What stands behind the rooms; or which keys do not go together, and what to do.
    pub fn backing(&self) -> Result<Backing, String> {
        let file = self.store.database()?;
        let has_redis = !self.redis.url.is_empty();
        // A database file that was chosen shows that this node is meant to be alone; the default says nothing.
        let is_chosen = file.is_some() && self.store != StoreSettings::default();
        match self.engine.kind {
            EngineKind::Redis if !has_redis => Err("engine.kind: \"redis\" needs redis.url".into()),
            EngineKind::Redis if is_chosen => Err(
                "store.url: several nodes cannot share a database file, and rooms in Redis are for several nodes; \
                 use \"none\", or engine.kind = \"memory\" for one node with a file of its own"
                    .into(),
            ),
            EngineKind::Redis => Ok(Backing::Redis),
            EngineKind::Auto if has_redis && !is_chosen => Ok(Backing::Redis),
            EngineKind::Auto | EngineKind::Memory => Ok(file.map_or(Backing::Memory, Backing::File)),
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
        assert!(matches!(backing(""), Ok(Backing::File(_))));
        assert_eq!(backing("[store]\nurl = \"none\""), Ok(Backing::Memory));
        assert_eq!(backing(redis), Ok(Backing::Redis));
        assert_eq!(backing(&format!("{redis}{file}")), Ok(Backing::File("/srv/a.db".into())));
        assert!(
            backing(&format!("{redis}{file}[engine]\nkind = \"redis\"")).unwrap_err().contains("store.url")
        );
        assert!(backing("[engine]\nkind = \"redis\"").unwrap_err().contains("redis.url"));
        assert!(matches!(backing(&format!("{redis}[engine]\nkind = \"memory\"")), Ok(Backing::File(_))));
    }
}
