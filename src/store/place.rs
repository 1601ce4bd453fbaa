//! Where a store is: what `store.url` says. Read by the configuration, used by whoever opens a store.

use std::fmt;
use std::path::PathBuf;

use crate::store::postgres::address::PostgresUrl;

/// Where the journal of a store in PostgreSQL lies, in the working directory.
const JOURNAL_OF_DATABASE: &str = "data/roomcast.journal";

/// Where hooks wait that belong to a store in PostgreSQL.
const HOOKS_OF_DATABASE: &str = "data/roomcast.hooks.db";

/// A store. `Display` shows it without a password.
#[derive(Debug, Clone, PartialEq)]
pub enum StorePlace {
    /// In a file.
    Sqlite(PathBuf),
    /// In a database.
    Postgres(Box<PostgresUrl>),
}

impl StorePlace {
    /// What a URL names; none for `none`: rooms in memory only. The error says what to write instead.
    pub fn parse(url: &str) -> Result<Option<StorePlace>, String> {
        if url == "none" {
            return Ok(None);
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return PostgresUrl::parse(url).map(|url| Some(StorePlace::Postgres(Box::new(url))));
        }
        match url.strip_prefix("sqlite://") {
            Some("") => Err("name a file, for example \"sqlite://data/roomcast.db\"".into()),
            Some(path) => Ok(Some(StorePlace::Sqlite(path.into()))),
            None => {
                Err("\"sqlite://PATH\", \"postgres://user:password@host/database\" or \"none\" is known"
                    .into())
            }
        }
    }

    /// The folder of the journal before a store that one node has alone: beside the file, with the ending
    /// `journal`; of a database `data/roomcast.journal`.
    pub fn journal_dir(&self) -> PathBuf {
        match self {
            StorePlace::Sqlite(file) => file.with_extension("journal"),
            StorePlace::Postgres(_) => JOURNAL_OF_DATABASE.into(),
        }
    }

    /// The file of what is still to be told to an application's backend: beside the store, with the ending `hooks.db`;
    /// of a database `data/roomcast.hooks.db`.
    pub fn hooks_file(&self) -> PathBuf {
        match self {
            StorePlace::Sqlite(file) => file.with_extension("hooks.db"),
            StorePlace::Postgres(_) => HOOKS_OF_DATABASE.into(),
        }
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorePlace::Sqlite(file) => file.display().fmt(f),
            StorePlace::Postgres(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_a_database_or_nothing() {
        assert_eq!(StorePlace::parse("none"), Ok(None));
        let file = StorePlace::parse("sqlite://a/b.db").unwrap().unwrap();
        assert_eq!((file.to_string(), file.journal_dir()), ("a/b.db".to_owned(), "a/b.journal".into()));
        let database = StorePlace::parse("postgres://ann:hunter2@h/chat").unwrap().unwrap();
        assert_eq!(database.to_string(), "postgres://ann:***@h/chat");
        assert_eq!(database.journal_dir(), PathBuf::from("data/roomcast.journal"));
        for wrong in ["", "sqlite://", "postgres:", "postgres://h", "mysql://h/d", "data/roomcast.db"] {
            assert!(StorePlace::parse(wrong).is_err(), "{wrong}");
        }
    }
}
