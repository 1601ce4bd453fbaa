//! The dead letters of a store in PostgreSQL for an operator's hands: each call is one statement, beside a running
//! server. Used by the command line.

use std::time::Duration;

use crate::store::archive::{ArchiveError, OpenError};
use crate::store::letters::Letters;
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::{Trouble, explain};
use crate::store::postgres::link::{Link, Role, Session, apart};
use crate::store::postgres::{notes, schema};
use crate::store::record::Letter;

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The dead letters of one store.
pub struct PostgresLetters(Link);

impl PostgresLetters {
    /// Opens those of the store in this database; `None` where there is no store (yet).
    pub fn open(url: &PostgresUrl) -> Result<Option<PostgresLetters>, OpenError> {
        let mut link = Link::new(url.clone(), Role::Writer);
        let there = apart(|| link.run(LIMIT, async |session| schema::is_there(session, url).await));
        let there =
            there.map_err(|trouble| OpenError::of(trouble.is_away(), explain(url, "open", trouble)))?;
        Ok(there.then_some(PostgresLetters(link)))
    }

    /// The command line may be on a thread with a runtime.
    fn run<T: Send>(
        &mut self,
        what: &str,
        work: impl AsyncFn(&Session) -> Result<T, Trouble> + Send,
    ) -> Result<T, ArchiveError> {
        let link = &mut self.0;
        apart(move || link.run(LIMIT, work)).map_err(|trouble| explain(self.0.url(), what, trouble))
    }
}

impl Letters for PostgresLetters {
    fn list(&mut self, n: usize) -> Result<Vec<Letter>, ArchiveError> {
        self.run("read", async move |session| notes::newest_dead(session, n).await)
    }

    fn ids(&mut self) -> Result<Vec<String>, ArchiveError> {
        self.run("read", async |session| notes::dead_ids(session).await)
    }

    fn show(&mut self, id: &str) -> Result<Option<Letter>, ArchiveError> {
        self.run("read", async |session| notes::one_dead(session, id).await)
    }

    fn remove(&mut self, id: &str) -> Result<bool, ArchiveError> {
        self.run("write to", async |session| notes::dead_gone(session, id).await)
    }
}
