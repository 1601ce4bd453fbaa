//! What PostgreSQL's errors mean for people: each text names the database and what to do. Called by everything
//! that touches it.

use std::error::Error;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::store::archive::ArchiveError;
use crate::store::postgres::address::PostgresUrl;

/// What stopped a step.
#[derive(Debug)]
pub enum Trouble {
    /// PostgreSQL says no, or the connection broke.
    Sql(tokio_postgres::Error),
    /// It cannot be reached.
    Away(String),
    /// It did not answer within this time.
    Late(Duration),
    /// Something that was found; ready for people.
    Told(ArchiveError),
}

impl Trouble {
    /// Something that was found.
    pub fn told(text: String) -> Trouble {
        Trouble::Told(ArchiveError(text))
    }

    /// Why a connection could not be made. A server that takes nobody now is away as well.
    pub fn of_connecting(error: tokio_postgres::Error) -> Trouble {
        let takes_nobody = [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::TOO_MANY_CONNECTIONS,
        ];
        match error.code() {
            Some(code) if !takes_nobody.contains(code) => Trouble::Sql(error),
            _ => Trouble::Away(whole(&error)),
        }
    }

    /// Whether the connection is gone, so that another one may have more luck.
    pub fn is_lost_connection(&self) -> bool {
        let Trouble::Sql(error) = self else { return false };
        match error.as_db_error() {
            None => error.is_closed() || is_io(error),
            Some(told) => [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW]
                .contains(told.code()),
        }
    }

    /// Whether the database is not there at all.
    pub fn is_away(&self) -> bool {
        matches!(self, Trouble::Away(_) | Trouble::Late(_)) || self.is_lost_connection()
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// An error with its causes, on one line. What the server quotes may be anybody's words.
fn whole(error: &tokio_postgres::Error) -> String {
    if let Some(told) = error.as_db_error() {
        return told.message().escape_debug().to_string();
    }
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.escape_debug().to_string()
}

/// The error of doing `what` (a verb) with the store in this database.
pub fn explain(url: &PostgresUrl, what: &str, trouble: Trouble) -> ArchiveError {
    let error = match trouble {
        Trouble::Told(told) => return told,
        Trouble::Away(why) => {
            return ArchiveError(format!(
                "cannot {what} the store {url}: no PostgreSQL answers there ({why}); start it, or set store.url"
            ));
        }
        Trouble::Late(time) => {
            return ArchiveError(format!(
                "cannot {what} the store {url}: no answer within {} s; look after the database and the network, \
                 it goes on by itself",
                time.as_secs()
            ));
        }
        Trouble::Sql(error) => error,
    };
    let todo = error.code().map_or("it goes on by itself when the database is back", |code| advice(code));
    let told = whole(&error);
    ArchiveError(match error.code() {
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            let database = url.database();
            format!("cannot {what} the store {url}: {told}; make the database (createdb {database})")
        }
        Some(code) => format!("cannot {what} the store {url}: {told} (SQLSTATE {}); {todo}", code.code()),
        None => format!("cannot {what} the store {url}: {told}; {todo}"),
    })
}

fn advice(code: &SqlState) -> &'static str {
    match code.code() {
        "28000" | "28P01" => "look at user and password in store.url, and at pg_hba.conf of the server",
        "42501" => {
            "give the user the right to it: GRANT CREATE ON DATABASE for the first start, ownership of the schema \
             roomcast afterwards"
        }
        "53100" => "the disk of the database is full; free some space, it goes on by itself",
        "53200" | "53300" | "53400" => "the server is short of memory or connections; it goes on by itself",
        "25006" => "it is a standby; name the primary in store.url, or both with a comma between",
        "55P03" | "57014" => {
            "something holds it up for too long; look at pg_stat_activity, it goes on by itself"
        }
        "40001" | "40P01" => "it goes on by itself",
        "57P01" | "57P02" | "57P03" => "the database is ending or starting; it goes on by itself",
        _ => "keep this text and look at the troubles section of docs/store.md",
    }
}
