//! `roomcast backup FILE`: a copy of the configured store, also of one that a server is using. Knows where store
//! and journal are; the copying itself is the store's.

use std::path::PathBuf;

use clap::Args;

use super::{FAILED, Failure, WRONG_USE};
use crate::config::Config;
use crate::store::place::StorePlace;
use crate::store::sqlite::backup;

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The copy; a file that is not there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store [default: the one that the configuration names]
    #[arg(long, value_name = "URL")]
    pub(super) store: Option<String>,
}

/// Makes the copy; what is printed.
pub(super) fn run(asked: &Backup, config: &Config) -> Result<String, Failure> {
    let place = config.store.place().map_err(|error| Failure::new(WRONG_USE, error))?;
    let place = place.ok_or_else(|| {
        Failure::new(WRONG_USE, "store.url is none: rooms are in memory only; there is nothing to copy")
    })?;
    let database = match &place {
        StorePlace::Sqlite(file) => file,
        StorePlace::Postgres(url) => {
            let text = format!(
                "the store is the database {url}: copy it with PostgreSQL's own tools, for example \
                 pg_dump --schema=roomcast --format=custom --file={} URL",
                asked.file.display()
            );
            return Err(Failure::new(WRONG_USE, text));
        }
    };
    if asked.file.exists() {
        let text = format!("{} is there already; name a file that is not", asked.file.display());
        return Err(Failure::new(WRONG_USE, text));
    }
    let copied = backup::copy(database, &place.journal_dir(), &asked.file)
        .map_err(|error| Failure::new(FAILED, error))?;
    for (from, to) in &copied.lost {
        eprintln!("roomcast: records {from} to {to} are damaged in the journal; the copy is without them");
    }
    Ok(format!(
        "{}: {} bytes, all records up to {} ({} of them from the journal)\n",
        asked.file.display(),
        copied.bytes,
        copied.upto,
        copied.from_journal
    ))
}

#[cfg(test)]
mod tests {
    use super::{Backup, run};
    use crate::cli::{FAILED, FINE, WRONG_USE, run_with};
    use crate::config::Config;
    use crate::store::archive::Archive;
    use crate::store::sqlite::SqliteArchive;

    fn loaded(file: &std::path::Path) -> Config {
        toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    #[test]
    fn a_copy_is_made_once_and_says_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (database, copy) = (folder.path().join("roomcast.db"), folder.path().join("copy.db"));
        let config = folder.path().join("config.toml");
        let configure = |url: &str| std::fs::write(&config, format!("store.url = \"{url}\"\n")).unwrap();
        let backup = || {
            let line = ["roomcast", "--config", config.to_str().unwrap(), "backup", copy.to_str().unwrap()];
            let mut out = Vec::new();
            let code = run_with(line.map(Into::into), Vec::new(), &mut out);
            (code, String::from_utf8(out).unwrap())
        };
        configure("none");
        assert_eq!(backup().0, WRONG_USE);
        configure("postgres://ann:hunter2@127.0.0.1:1/chat");
        assert_eq!(backup(), (WRONG_USE, String::new()), "that is what pg_dump is for");
        let refused = run(&Backup { file: copy.clone(), store: None }, &loaded(&config)).unwrap_err();
        assert!(refused.text.contains("pg_dump --schema=roomcast") && !refused.text.contains("hunter2"));
        configure(&format!("sqlite://{}", database.display()));
        assert_eq!(backup(), (FAILED, String::new()), "there is no store yet");
        let _server = SqliteArchive::open(&database).unwrap();
        let (code, said) = backup();
        assert!(
            code == FINE && said.ends_with(" bytes, all records up to 0 (0 of them from the journal)\n"),
            "{said}"
        );
        assert_eq!(SqliteArchive::open(&copy).unwrap().applied(), 0);
        assert_eq!(backup(), (WRONG_USE, String::new()), "nothing is overwritten");
    }
}
