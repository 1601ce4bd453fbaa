//! The address of a PostgreSQL as it stands in the configuration: `postgres://user:password@host:5432/database`,
//! with the parameters that libpq knows. Read and shown here, used by the link; the password is never shown.
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>)

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

/// How long one server may take to answer a connection, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that does not confirm what was sent within this time is taken for dead.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(15);

/// Where a PostgreSQL is and how to come in. `Display` and `Debug` hide the password.
#[derive(Clone)]
pub struct PostgresUrl {
    config: Config,
    check: Check,
    shown: String,
}

/// What is asked of a server's certificate, as with libpq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing: `sslmode=disable`, `prefer` (the default) and `require` protect against listeners only.
    Nothing,
    /// That it is of this host and signed by who is in this file, or by one of the usual authorities:
    /// `sslmode=verify-full`, `sslrootcert=FILE`.
    Host(Option<PathBuf>),
}

impl PostgresUrl {
    /// Reads an address. The error says what to write instead, without a password.
    pub fn parse(url: &str) -> Result<PostgresUrl, String> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or("write postgres://user:password@host:5432/database")?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !place.contains('/') || place.ends_with('/') {
            return Err("names no database; write postgres://user:password@host:5432/database".into());
        }
        let (mode, roots, others) = take_ssl(query)?;
        let mut plain = format!("postgres://{place}");
        if !others.is_empty() {
            plain.push('?');
            plain.push_str(&others);
        }
        let mut config: Config = plain.parse().map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(String::new, |why| format!(" ({why})"));
            format!(
                "cannot be read{why}; write postgres://user:password@host:5432/database, with %-codes for \
                 special characters in the password"
            )
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("roomcast");
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(UNCONFIRMED_MAX);
        }
        // Of several hosts the one that takes writes; a standby alone is told from a primary at once.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.ssl_mode(mode.0);
        let check = if mode.1 { Check::Host(roots) } else { Check::Nothing };
        Ok(PostgresUrl { config, check, shown: shown(place) })
    }

    /// What the link connects with.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What is asked of the certificate.
    pub(super) fn check(&self) -> &Check {
        &self.check
    }

    /// Name of the database, for advice.
    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }
}

/// Mode and whether the host is checked, the authorities, and the other parameters.
type Taken = ((SslMode, bool), Option<PathBuf>, String);

/// Takes the parameters about TLS out: the client library knows only some of their values.
fn take_ssl(query: &str) -> Result<Taken, String> {
    let (mut mode, mut roots, mut others) = ((SslMode::Prefer, false), None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("sslmode", "disable") => mode = (SslMode::Disable, false),
            ("sslmode", "prefer" | "allow") => mode = (SslMode::Prefer, false),
            ("sslmode", "require") => mode = (SslMode::Require, false),
            ("sslmode", "verify-full") => mode = (SslMode::Require, true),
            ("sslmode", _) => return Err("sslmode is disable, prefer, require or verify-full".into()),
            ("sslrootcert", "system") => {}
            ("sslrootcert", file) => roots = Some(PathBuf::from(file)),
            ("password", _) => {
                return Err(
                    "takes no password behind the ?; write postgres://user:password@host/database".into()
                );
            }
            _ => others.push(pair),
        }
    }
    Ok((mode, roots, others.join("&")))
}

fn shown(place: &str) -> String {
    let Some((login, hosts)) = place.rsplit_once('@') else { return format!("postgres://{place}") };
    match login.split_once(':') {
        Some((user, _)) => format!("postgres://{user}:***@{hosts}"),
        None => format!("postgres://{login}@{hosts}"),
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &PostgresUrl) -> bool {
        self.config == other.config && self.check == other.check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, told) in [
            ("postgres://ann:hunter2@db.example:5433/chat", "postgres://ann:***@db.example:5433/chat"),
            ("postgresql://ann:hunt%40er2@h/chat?sslmode=require", "postgres://ann:***@h/chat"),
            ("postgres://ann:hunter2@h1:5432,h2:5432/chat", "postgres://ann:***@h1:5432,h2:5432/chat"),
            ("postgres://ann@h/chat", "postgres://ann@h/chat"),
            ("postgres://h/chat", "postgres://h/chat"),
        ] {
            let url = PostgresUrl::parse(url).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (told.to_owned(), told.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_password() {
        for (url, told) in [
            ("mysql://ann:hunter2@h/chat", "write postgres://"),
            ("postgres://ann:hunter2@h", "names no database"),
            ("postgres://ann:hunter2@h/", "names no database"),
            ("postgres://ann:hunter2@h:port/chat", "cannot be read"),
            ("postgres://ann@h/chat?password=hunter2", "takes no password behind the ?"),
            ("postgres://ann:hunter2@h/chat?sslmode=maybe", "sslmode is"),
            ("postgres://ann:hunter2@h/chat?colour=red", "cannot be read"),
        ] {
            let error = PostgresUrl::parse(url).unwrap_err();
            assert!(error.contains(told) && !error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn only_verify_full_asks_for_the_right_certificate() {
        let check = |query: &str| {
            let url = PostgresUrl::parse(&format!("postgres://h/d?{query}")).unwrap();
            (url.config.get_ssl_mode(), url.check)
        };
        assert_eq!(check(""), (SslMode::Prefer, Check::Nothing));
        assert_eq!(check("sslmode=disable"), (SslMode::Disable, Check::Nothing));
        assert_eq!(check("sslmode=require"), (SslMode::Require, Check::Nothing));
        assert_eq!(check("sslmode=verify-full"), (SslMode::Require, Check::Host(None)));
        let own = Check::Host(Some("/etc/ca.pem".into()));
        assert_eq!(check("sslrootcert=/etc/ca.pem&sslmode=verify-full"), (SslMode::Require, own));
    }
}
