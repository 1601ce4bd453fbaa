//! The address of a Redis as it stands in the configuration. Read and shown here, used by the link.

use std::fmt;

/// Why an address cannot be used. The text names the key of the URL that is wrong and never a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUrl(pub String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUrl {}

/// The parts of an address. Its `Display` and `Debug` hide the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Who is there.
    pub kind: Kind,
    /// Whether connections are secret (TLS), those to Sentinels too.
    pub tls: bool,
    /// Host and port of each server or Sentinel.
    pub hosts: Vec<(String, u16)>,
    /// Percent codes are decoded.
    pub user: Option<String>,
    /// Percent codes are decoded.
    pub password: Option<String>,
    /// Number of the database.
    pub db: i64,
}

/// Who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single,
    /// Sentinels that know where the primary of this name is.
    Sentinel {
        /// As the Sentinels call it.
        master: String,
    },
    /// Some nodes of a cluster.
    Cluster,
}

impl Address {
    /// See [`RedisLink::parse`](crate::redis_link::RedisLink::parse).
    pub fn parse(url: &str) -> Result<Address, BadUrl> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("has no scheme; write redis://host:6379"))?;
        if rest.contains(['?', '#']) {
            return Err(bad(
                "takes no ? or #; percent-code them (%3F, %23) in a password, leave them out elsewhere",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let plain = scheme.strip_prefix("rediss").map(|form| format!("redis{form}"));
        let (kind, db, port) = match plain.as_deref().unwrap_or(scheme) {
            "redis" => (Kind::Single, db_of(path)?, 6379),
            "redis+sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(bad("names no master; write redis+sentinel://host:26379/mymaster"));
                }
                (Kind::Sentinel { master: master.into() }, db_of(db)?, 26379)
            }
            "redis+cluster" if path.is_empty() || path == "0" => (Kind::Cluster, 0, 6379),
            "redis+cluster" => {
                return Err(bad("names a database, but a cluster has only database 0; leave it out"));
            }
            _ => {
                return Err(bad(
                    "has an unknown scheme; use redis://, redis+sentinel:// or redis+cluster://, with rediss for TLS",
                ));
            }
        };
        let hosts = hosts.split(',').map(|host| host_of(host, port)).collect::<Result<Vec<_>, _>>()?;
        if matches!(kind, Kind::Single) && hosts.len() > 1 {
            return Err(bad("has several hosts; use redis+sentinel:// or redis+cluster:// for them"));
        }
        let (user, password) = login_of(login)?;
        Ok(Address { kind, tls: plain.is_some(), hosts, user, password, db })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        f.write_str(match self.kind {
            Kind::Single => "://",
            Kind::Sentinel { .. } => "+sentinel://",
            Kind::Cluster => "+cluster://",
        })?;
        if self.user.is_some() || self.password.is_some() {
            f.write_str("***@")?;
        }
        for (i, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{host}{close}:{port}")?;
        }
        if let Kind::Sentinel { master } = &self.kind {
            write!(f, "/{master}")?;
        }
        if self.db != 0 { write!(f, "/{}", self.db) } else { Ok(()) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn bad(what: &str) -> BadUrl {
    BadUrl(format!("the redis url {what}"))
}

fn db_of(text: &str) -> Result<i64, BadUrl> {
    match text {
        "" => Ok(0),
        digits => digits
            .parse()
            .ok()
            .filter(|db| *db >= 0)
            .ok_or_else(|| bad("has no number as its database; write /0")),
    }
}

fn host_of(text: &str, default_port: u16) -> Result<(String, u16), BadUrl> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(bad("has an empty host; write redis://host:6379"));
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| bad("has no number as its port; write host:6379"))?,
        None => default_port,
    };
    Ok((host.to_owned(), port))
}

fn login_of(login: Option<&str>) -> Result<(Option<String>, Option<String>), BadUrl> {
    let Some(login) = login else {
        return Ok((None, None));
    };
    let (user, password) = login
        .split_once(':')
        .ok_or_else(|| bad("has a login without a password; write user:password@ or :password@"))?;
    let user = percent_decoded(user)?;
    Ok(((!user.is_empty()).then_some(user), Some(percent_decoded(password)?)))
}

fn percent_decoded(text: &str) -> Result<String, BadUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(byte.ok_or_else(|| bad("has a broken percent code in its login; write % as %25"))?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad("has a login that is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_address_is_read() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://h:1/2", "redis://h:1/2"),
            ("redis://[::1]:6380", "redis://[::1]:6380"),
            ("redis://ann:p%40ss@h", "redis://***@h:6379"),
            ("redis+sentinel://a,b:7/main/3", "redis+sentinel://a:26379,b:7/main/3"),
            ("redis+cluster://:x@a:7000,b:7001", "redis+cluster://***@a:7000,b:7001"),
            ("rediss://h", "rediss://h:6379"),
            ("rediss+sentinel://a/main", "rediss+sentinel://a:26379/main"),
            ("rediss+cluster://a:7000,b:7001", "rediss+cluster://a:7000,b:7001"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), shown);
        }
        let link = Address::parse("redis://ann:p%40s:s@h").unwrap();
        assert_eq!((link.user.as_deref(), link.password.as_deref()), (Some("ann"), Some("p@s:s")));
    }

    #[test]
    fn a_wrong_address_is_refused_without_telling_the_password() {
        for url in [
            "localhost:6379",
            "redis://:hunter2@",
            "redis://:hunter2@h:port",
            "redis://:hunter2@h/db",
            "redis://:hunter2@a,b",
            "redis+sentinel://:hunter2@h",
            "redis+cluster://:hunter2@h/1",
            "redisss://:hunter2@h",
            "redis://:hunter2%zz@h",
            "redis://:hunter2@h?x=1",
            "redis://hunter2@h",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let link = crate::redis_link::RedisLink::parse("redis://:hunter2@h").unwrap();
        assert!(!format!("{link:?} {link}").contains("hunter2"));
    }
}
