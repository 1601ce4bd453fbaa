//! One way to reach Redis: alone, behind Sentinel, or as a Cluster.
//! Called by whoever keeps something in Redis. Builds every connection from scratch and follows no
//! failover by itself: at the first error or time-out the caller throws its connections away, waits for
//! a [`Backoff`] and connects again. Knows no key and no list.

use std::fmt;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
};
use redis::{Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

/// Longest that connecting may take. A stopped server accepts connections but never answers them.
const CONNECT_MAX: Duration = Duration::from_millis(1_500);
/// Longest that a command may take before its connection counts as broken.
const RESPONSE_MAX: Duration = Duration::from_millis(2_500);
/// Longest that a Cluster command may take with all its redirections.
const CLUSTER_RESPONSE_MAX: Duration = Duration::from_secs(4);
/// Longest wait for a Sentinel; the others are asked at the same time.
const SENTINEL_MAX: Duration = Duration::from_millis(1_000);
/// What is added to the blocking time of a command, so that the answer "nothing came" arrives in time.
const BLOCK_MARGIN: Duration = Duration::from_secs(2);

/// Why an address cannot be used. The text names the key of the URL that is wrong and never a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUrl(pub String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUrl {}

/// Where Redis is and how to log in. Its `Display` and `Debug` hide the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisLink {
    kind: Kind,
    hosts: Vec<(String, u16)>,
    user: Option<String>,
    password: Option<String>,
    db: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel { master: String },
    Cluster,
}

impl RedisLink {
    /// Reads `redis://[user:password@]host[:6379][/db]`, `redis+sentinel://[user:password@]h1:26379,h2:26379/master[/db]`
    /// or `redis+cluster://[user:password@]h1:7000,h2:7001`. User and password may be percent-coded. Behind
    /// Sentinel they are those of the Redis servers; a Sentinel gets them only when it asks for a login.
    ///
    /// ```
    /// use roomcast::redis_link::RedisLink;
    /// let link = RedisLink::parse("redis+sentinel://:secret@a:26379,b/mymaster").unwrap();
    /// assert_eq!(link.to_string(), "redis+sentinel://***@a:26379,b:26379/mymaster");
    /// assert!(RedisLink::parse("http://localhost").is_err());
    /// ```
    pub fn parse(url: &str) -> Result<RedisLink, BadUrl> {
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
        let (kind, db, port) = match scheme {
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
            "rediss" | "rediss+sentinel" | "rediss+cluster" => {
                return Err(bad(
                    "asks for TLS, which this build does not speak; use a TLS tunnel (stunnel) or redis://",
                ));
            }
            _ => {
                return Err(bad(
                    "has an unknown scheme; use redis://, redis+sentinel:// or redis+cluster://",
                ));
            }
        };
        let hosts = hosts.split(',').map(|host| host_of(host, port)).collect::<Result<Vec<_>, _>>()?;
        if matches!(kind, Kind::Single) && hosts.len() > 1 {
            return Err(bad("has several hosts; use redis+sentinel:// or redis+cluster:// for them"));
        }
        let (user, password) = login_of(login)?;
        Ok(RedisLink { kind, hosts, user, password, db })
    }

    /// A new connection for commands, checked to lead to a primary.
    pub async fn connect(&self) -> RedisResult<RedisConnection> {
        self.connect_with(RESPONSE_MAX).await
    }

    /// A new connection for commands that block for at most `block`. It must carry nothing else: what
    /// comes after a blocking command on the same connection waits for it.
    pub async fn connect_blocking(&self, block: Duration) -> RedisResult<RedisConnection> {
        // With a shorter time-out the client would give up while Redis still hands over an item.
        self.connect_with(block + BLOCK_MARGIN).await
    }

    /// Whether the address speaks of several servers, so that one may take over from another.
    pub fn has_replicas(&self) -> bool {
        self.kind != Kind::Single
    }

    async fn connect_with(&self, response: Duration) -> RedisResult<RedisConnection> {
        match &self.kind {
            Kind::Single => self.connect_node(&self.hosts[0], response).await.map(RedisConnection::Node),
            Kind::Sentinel { master } => {
                self.connect_sentinel(master, response).await.map(RedisConnection::Node)
            }
            Kind::Cluster => self.connect_cluster(response).await.map(RedisConnection::Cluster),
        }
    }

    async fn connect_node(
        &self,
        host: &(String, u16),
        response: Duration,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(response));
        let client = Client::open(self.info(host, true)?)?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = within(CONNECT_MAX, "connecting", connecting).await?;
        check_primary(&mut connection).await?;
        Ok(connection)
    }

    /// Asks all Sentinels at once, follows each answer, and takes the first that leads to a primary. They are
    /// asked again at every connect, because nobody tells an old connection that the primary has moved.
    async fn connect_sentinel(&self, master: &str, response: Duration) -> RedisResult<MultiplexedConnection> {
        // Side by side: while one still names a primary that hangs, another may know the new one.
        let follow =
            async |sentinel| self.connect_node(&self.ask_sentinel(sentinel, master).await?, response).await;
        let mut attempts: FuturesUnordered<_> = self.hosts.iter().map(follow).collect();
        let mut trouble = None;
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.unwrap_or_else(|| (ErrorKind::EmptySentinelList, "no sentinel is named").into()))
    }

    async fn ask_sentinel(&self, sentinel: &(String, u16), master: &str) -> RedisResult<(String, u16)> {
        let ask = async |with_login: bool| -> RedisResult<Option<(String, u16)>> {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(SENTINEL_MAX))
                .set_response_timeout(Some(SENTINEL_MAX));
            let client = Client::open(self.info(sentinel, with_login)?)?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("SENTINEL")
                .arg("get-master-addr-by-name")
                .arg(master)
                .query_async(&mut connection)
                .await
        };
        let answer = match within(SENTINEL_MAX, "asking a sentinel", ask(false)).await {
            Err(error) if error.code() == Some("NOAUTH") => {
                within(SENTINEL_MAX, "asking a sentinel", ask(true)).await?
            }
            answer => answer?,
        };
        answer.ok_or_else(|| {
            (ErrorKind::MasterNameNotFoundBySentinel, "the sentinel knows no such master", master.to_owned())
                .into()
        })
    }

    async fn connect_cluster(&self, response: Duration) -> RedisResult<ClusterConnection> {
        let nodes = self.hosts.iter().map(|host| self.info(host, true)).collect::<RedisResult<Vec<_>>>()?;
        // The defaults wait for minutes between retries and hang for ever on a server that is stopped.
        let client = ClusterClient::builder(nodes)
            .retries(40)
            .min_retry_wait(20)
            .max_retry_wait(200)
            .connection_timeout(SENTINEL_MAX)
            .response_timeout(response)
            .overall_response_timeout(Some(CLUSTER_RESPONSE_MAX.max(response + SENTINEL_MAX)))
            .build()?;
        within(CLUSTER_RESPONSE_MAX, "connecting to the cluster", client.get_async_connection()).await
    }

    fn info(&self, host: &(String, u16), with_login: bool) -> RedisResult<ConnectionInfo> {
        let mut settings = RedisConnectionInfo::default();
        if with_login {
            if let Some(user) = &self.user {
                settings = settings.set_username(user);
            }
            if let Some(password) = &self.password {
                settings = settings.set_password(password);
            }
            settings = settings.set_db(self.db);
        }
        let address = ConnectionAddr::Tcp(host.0.clone(), host.1);
        Ok(address.into_connection_info()?.set_redis_settings(settings))
    }
}

impl fmt::Display for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Single => "redis://",
            Kind::Sentinel { .. } => "redis+sentinel://",
            Kind::Cluster => "redis+cluster://",
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

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLink({self})")
    }
}

/// A connection to a primary or to a cluster. Clones share it.
#[derive(Clone)]
pub enum RedisConnection {
    /// To one server.
    Node(MultiplexedConnection),
    /// To the primaries of a cluster.
    Cluster(ClusterConnection),
}

impl RedisConnection {
    /// Waits until a replica of the server that holds `key` has all that was written here, for at most
    /// `limit`; tells how many replicas have it. What a replica has outlives its primary.
    pub async fn wait_for_replica(&mut self, key: &str, limit: Duration) -> RedisResult<u64> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(1).arg(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        match self {
            RedisConnection::Node(node) => wait.query_async(node).await,
            RedisConnection::Cluster(cluster) => {
                // Without a route the client asks all primaries, those that are just failing among them.
                let route = Route::with_key(key, SlotAddr::Master);
                let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
                Ok(redis::from_redis_value(cluster.route_command(wait, routing).await?)?)
            }
        }
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            RedisConnection::Node(node) => node.req_packed_command(cmd),
            RedisConnection::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            RedisConnection::Node(node) => node.req_packed_commands(pipeline, offset, count),
            RedisConnection::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            RedisConnection::Node(node) => node.get_db(),
            RedisConnection::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Growing waits between attempts: 50 ms, doubled up to 500 ms, each shortened by up to half at random so
/// that many nodes do not come back in step.
#[derive(Debug)]
pub struct Backoff(u64);

impl Backoff {
    const FIRST_MS: u64 = 50;
    const LAST_MS: u64 = 500;

    /// Starts with the shortest wait.
    pub fn new() -> Backoff {
        Backoff(Backoff::FIRST_MS)
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Backoff::LAST_MS);
        Duration::from_millis(rand::random_range(wait / 2..=wait))
    }

    /// Things went well; starts again with the shortest wait.
    pub fn reset(&mut self) {
        self.0 = Backoff::FIRST_MS;
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

async fn check_primary(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role: RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(connection).await;
    match role {
        Ok(answer) => match answer.first() {
            Some(Value::BulkString(role)) if role != b"master" => Err((
                ErrorKind::Io,
                "this server is no primary but a",
                String::from_utf8_lossy(role).into_owned(),
            )
                .into()),
            _ => Ok(()),
        },
        // A user who may not ask for the role learns it from the first write at the latest.
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        Err(error) => Err(error),
    }
}

async fn within<T>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(RedisError::from(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("{what} timed out"),
        ))),
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
    let Some(login) = login else { return Ok((None, None)) };
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
        ] {
            assert_eq!(RedisLink::parse(url).unwrap().to_string(), shown);
        }
        let link = RedisLink::parse("redis://ann:p%40s:s@h").unwrap();
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
            "rediss://:hunter2@h",
            "redis://:hunter2%zz@h",
            "redis://:hunter2@h?x=1",
            "redis://hunter2@h",
        ] {
            let error = RedisLink::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let link = RedisLink::parse("redis://:hunter2@h").unwrap();
        assert!(!format!("{link:?} {link}").contains("hunter2"));
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..20).map(|_| backoff.next_wait().as_millis()).collect();
        assert!((25..=50).contains(&waits[0]) && (50..=100).contains(&waits[1]), "{waits:?}");
        assert!(waits[5..].iter().all(|wait| (250..=500).contains(wait)), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait().as_millis() <= 50);
    }
}
