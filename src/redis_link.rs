//! One way to reach Redis: alone, behind Sentinel, or as a Cluster.
//! Called by whoever keeps something in Redis. Builds every connection from scratch and follows no
//! failover by itself: at the first error or time-out the caller throws its connections away, waits for
//! a [`Backoff`](backoff::Backoff) and connects again. Knows no key and no list.

pub mod address;
pub mod backoff;
pub mod nodes;
mod tls;

use std::fmt;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo};
use redis::{Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

use crate::redis_link::address::{Address, BadUrl, Kind};

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

/// Where Redis is and how to log in. Its `Display` and `Debug` hide the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisLink(Address);

impl RedisLink {
    /// Reads `redis://[user:password@]host[:6379][/db]`, `redis+sentinel://[user:password@]h1:26379,h2:26379/master[/db]`
    /// or `redis+cluster://[user:password@]h1:7000,h2:7001`; with `rediss` instead of `redis` connections are secret
    /// (TLS). User and password may be percent-coded. Behind Sentinel they are those of the Redis servers; a Sentinel
    /// gets them only when it asks for a login.
    ///
    /// ```
    /// use roomcast::redis_link::RedisLink;
    /// let link = RedisLink::parse("redis+sentinel://:secret@a:26379,b/mymaster").unwrap();
    /// assert_eq!(link.to_string(), "redis+sentinel://***@a:26379,b:26379/mymaster");
    /// assert!(RedisLink::parse("http://localhost").is_err());
    /// ```
    pub fn parse(url: &str) -> Result<RedisLink, BadUrl> {
        Address::parse(url).map(RedisLink)
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
        self.0.kind != Kind::Single
    }

    async fn connect_with(&self, response: Duration) -> RedisResult<RedisConnection> {
        match &self.0.kind {
            Kind::Single => self.connect_node(&self.0.hosts[0], response).await.map(RedisConnection::Node),
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
        let client = tls::client(self.info(host, true)?)?;
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
        let mut attempts: FuturesUnordered<_> = self.0.hosts.iter().map(follow).collect();
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
            let client = tls::client(self.info(sentinel, with_login)?)?;
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
        let nodes = self.0.hosts.iter().map(|host| self.info(host, true)).collect::<RedisResult<Vec<_>>>()?;
        // The defaults wait for minutes between retries and hang for ever on a server that is stopped.
        let builder = ClusterClient::builder(nodes);
        let client = match self.0.tls {
            true => tls::cluster(builder)?,
            false => builder,
        };
        let client = client
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
            if let Some(user) = &self.0.user {
                settings = settings.set_username(user);
            }
            if let Some(password) = &self.0.password {
                settings = settings.set_password(password);
            }
            settings = settings.set_db(self.0.db);
        }
        let (name, port) = host.clone();
        let address = match self.0.tls {
            true => ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(name, port),
        };
        Ok(address.into_connection_info()?.set_redis_settings(settings))
    }
}

impl fmt::Display for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
        Ok(redis::from_redis_value(self.ask_primary_of(key, wait).await?)?)
    }

    /// How many replicas the server that holds `key` believes to be connected. One that was cut off counts
    /// until the server notices (`repl-timeout`).
    pub async fn replicas_of(&mut self, key: &str) -> RedisResult<u64> {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let text: String = redis::from_redis_value(self.ask_primary_of(key, info).await?)?;
        let count = text.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
        Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    async fn ask_primary_of(&mut self, key: &str, cmd: Cmd) -> RedisResult<Value> {
        match self {
            RedisConnection::Node(node) => node.req_packed_command(&cmd).await,
            RedisConnection::Cluster(cluster) => {
                // Without a route the client asks all primaries, those that are just failing among them.
                let route = Route::with_key(key, SlotAddr::Master);
                let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
                cluster.route_command(cmd, routing).await
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

/// An error if the server at the other end says that it is no primary.
pub async fn check_primary(connection: &mut MultiplexedConnection) -> RedisResult<()> {
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
