//! One connection to PostgreSQL for a thread that may block: makes it, keeps statements prepared, puts a time
//! limit on everything, and makes it anew after an outage. Used by the writing and the reading side; knows no
//! record.

use std::cell::RefCell;
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::errors::Trouble;
use crate::store::postgres::schema;
use crate::store::postgres::tls::Tls;

/// How long making a connection may take, all hosts and handshakes together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// After a failed try the next one waits so long; callers in between hear the same error at once.
const PAUSE: Duration = Duration::from_millis(300);

/// What every connection is told first. The limits are for a server that loses us: it must neither hold locks nor
/// go on with work that nobody waits for. A commit returns when it is on disk, whatever the server's default.
const SETTINGS: &str = "SET search_path = roomcast; SET lock_timeout = '5s'; SET statement_timeout = '30s'; \
    SET idle_in_transaction_session_timeout = '60s'; SET tcp_keepalives_idle = 30; \
    SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET jit = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks.
    Reader,
    /// Writes, and is the only one that does: it holds a lock as long as it lives.
    OnlyWriter,
    /// Writes beside others.
    Writer,
}

/// A connection that comes back.
pub struct Link {
    url: PostgresUrl,
    role: Role,
    open: Option<Open>,
    failed: Option<(Instant, String)>,
}

struct Open {
    // In this order: the session's socket belongs to the runtime.
    session: Session,
    runtime: Option<Runtime>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Ends the connection's own task too. The other way of dropping a runtime may wait, and may not be done on
        // a thread that has a runtime itself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection in use.
pub struct Session {
    client: Client,
    statements: RefCell<HashMap<&'static str, Statement>>,
}

impl Session {
    async fn statement(&self, sql: &'static str) -> Result<Statement, Trouble> {
        let known = self.statements.borrow().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }

    /// All rows.
    pub async fn query(&self, sql: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Trouble> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, with).await?)
    }

    /// One row or none.
    pub async fn row(&self, sql: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Trouble> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query_opt(&statement, with).await?)
    }

    /// How many rows were changed.
    pub async fn execute(&self, sql: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<u64, Trouble> {
        let statement = self.statement(sql).await?;
        Ok(self.client.execute(&statement, with).await?)
    }

    /// Rows of a statement that is not kept prepared.
    pub async fn fetch(&self, sql: &str) -> Result<Vec<Row>, Trouble> {
        Ok(self.client.query(sql, &[]).await?)
    }

    /// Commands without parameters or results.
    pub async fn batch(&self, sql: &str) -> Result<(), Trouble> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

impl Link {
    /// A link that is not connected yet.
    pub fn new(url: PostgresUrl, role: Role) -> Link {
        Link { url, role, open: None, failed: None }
    }

    /// Whom it connects to.
    pub fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// Does some work within a time limit, connected if need be. Work on a connection that turns out to be dead is
    /// done once more on a new one, so it must do no harm twice. Not to be called on a thread that runs actors or
    /// other tasks, see [`apart`]. After any error the connection is given up, and
    /// with it what was begun and not committed.
    pub fn run<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFn(&Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let was_open = self.open.is_some();
        match self.attempt(limit, &work) {
            Err(trouble) if was_open && trouble.is_lost_connection() => self.attempt(limit, &work),
            done => done,
        }
    }

    /// The same on the connection that the last work was done on; an error if it is gone.
    pub fn run_here<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFn(&Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if self.open.is_none() {
            return Err(Trouble::told(format!("the connection to {} broke off; try again", self.url)));
        }
        self.attempt(limit, &work)
    }

    fn attempt<T>(
        &mut self,
        limit: Duration,
        work: &impl AsyncFn(&Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let runtime = open.runtime.as_ref().expect("it is there until the connection is dropped");
        let done = runtime.block_on(async { timeout(limit, work(&open.session)).await });
        let done = done.unwrap_or(Err(Trouble::Late(limit)));
        if done.is_ok() {
            self.open = Some(open);
        }
        done
    }

    fn connect(&mut self) -> Result<Open, Trouble> {
        if let Some((when, why)) = &self.failed
            && when.elapsed() < PAUSE
        {
            return Err(Trouble::Away(why.clone()));
        }
        let made = self.try_connect();
        self.failed = match &made {
            Err(Trouble::Away(why)) => Some((Instant::now(), why.clone())),
            _ => None,
        };
        made
    }

    fn try_connect(&self) -> Result<Open, Trouble> {
        let tls = Tls::new(self.url.check()).map_err(Trouble::told)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Trouble::told(format!("no thread for the database: {error}")))?;
        let connecting = async {
            let (client, connection) =
                self.url.config().connect(tls).await.map_err(Trouble::of_connecting)?;
            // Its end is seen by the client, which says so to who uses it.
            tokio::spawn(async move { connection.await.unwrap_or_default() });
            let session = Session { client, statements: RefCell::default() };
            session.batch(SETTINGS).await?;
            if self.role == Role::OnlyWriter {
                schema::claim(&session, &self.url).await?;
            }
            Ok(session)
        };
        let session = runtime.block_on(async { timeout(CONNECT_LIMIT, connecting).await });
        let session = session.unwrap_or_else(|_| {
            Err(Trouble::Away(format!(
                "it takes the connection and says nothing for {} s",
                CONNECT_LIMIT.as_secs()
            )))
        })?;
        Ok(Open { session, runtime: Some(runtime) })
    }
}

/// Does something on a thread of its own and waits for it. A thread that runs actors has a runtime already, and
/// cannot enter the one of a link.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
