//! The Redis of a story: one server, a primary with two replicas behind three Sentinels, or a Cluster of three
//! primaries with a replica each. Everybody reaches them through the wires; only the story asks them directly.

pub mod slots;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};
use roomcast_rig::server::free_port;

use crate::processes::Process;
use crate::wires::{Party, Wires};

/// How long the story waits for one answer: a server may be dead or stopped.
const ANSWER_MAX: Duration = Duration::from_millis(1_000);
/// Pause between two questions of the same kind: each takes a connection.
const LOOK: Duration = Duration::from_millis(50);
/// The name under which Sentinel knows the group.
const GROUP: &str = "main";

/// What Redis is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    None,
    /// One server, alone.
    Single,
    /// One primary, two replicas, three Sentinels.
    Sentinel,
    /// Three primaries with a replica each.
    Cluster,
}

/// One server process, with a folder of its own.
pub struct Instance {
    pub party: Party,
    /// Where it listens; for the story.
    pub port: u16,
    /// Where the wires lead to it; for everybody else.
    pub outside: u16,
    arguments: Vec<String>,
    folder: PathBuf,
    process: Option<Process>,
}

impl Instance {
    /// What docs/deploy.md tells operators to set, and what lets replicas be in step soon.
    fn options(&self) -> String {
        format!(
            "--port {} --bind 127.0.0.1 --dir {} --save  --appendonly yes --appendfsync everysec \
             --maxmemory-policy noeviction --client-output-buffer-limit pubsub 256mb 64mb 60 \
             --repl-backlog-size 64mb --repl-diskless-sync-delay 0 --repl-timeout 10",
            self.port,
            self.folder.display()
        )
    }

    fn new(party: Party, name: &str, home: &Path, wires: &Wires) -> Instance {
        let folder = home.join(name);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let port = free_port();
        let outside = wires.lay(party, port);
        Instance { party, port, outside, arguments: Vec::new(), folder, process: None }
    }

    fn spawn(&mut self, more: &[String], wires: &Wires) {
        let mut command = Command::new("redis-server");
        command.args(self.options().split(' ')).args(&self.arguments).args(more);
        let process = Process::start("redis", &mut command, &self.folder);
        wires.knows(process.pid(), self.party);
        self.process = Some(process);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Kills it as a crash of its machine would.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Whether it runs, stopped or not.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Throws away all that it had written.
    pub fn forgets(&self) {
        assert!(!self.runs(), "it would write it again");
        std::fs::remove_dir_all(&self.folder).expect("the folder can be removed");
        std::fs::create_dir_all(&self.folder).expect("the folder can be made");
    }

    /// A connection of the story.
    pub async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(self.port).await
    }

    /// Asks it; none when it does not answer.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let mut connection = self.connect().await.ok()?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
    }

    /// A line of its `INFO`.
    async fn info(&self, section: &str, name: &str) -> Option<String> {
        let info: String = self.ask(&["INFO", section]).await?;
        let wanted = format!("{name}:");
        info.lines().find_map(|line| Some(line.strip_prefix(&wanted)?.trim().to_owned()))
    }

    async fn answers(&self) {
        let answered = async || self.ask::<String>(&["PING"]).await.map(|_| ());
        eventually("Redis to answer", answered).await;
    }
}

/// Waits until a look finds something; looks not too often.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let unhurried = async || {
        let found = look().await;
        if found.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        found
    };
    roomcast_rig::eventually(what, unhurried).await
}

async fn connect(port: u16) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_MAX))
        .set_response_timeout(Some(ANSWER_MAX));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// All of Redis.
pub struct Redis {
    pub shape: Shape,
    pub servers: Vec<Instance>,
    sentinels: Vec<Instance>,
}

impl Redis {
    /// Starts it and waits until all of it is in step.
    pub async fn start(shape: Shape, home: &Path, wires: &Wires) -> Redis {
        let count = match shape {
            Shape::None => 0,
            Shape::Single => 1,
            Shape::Sentinel => 3,
            Shape::Cluster => 6,
        };
        let server = |number| Instance::new(Party::Redis(number), &format!("redis-{number}"), home, wires);
        let mut redis = Redis { shape, servers: (0..count).map(server).collect(), sentinels: Vec::new() };
        match shape {
            Shape::None => return redis,
            Shape::Single => redis.servers[0].spawn(&[], wires),
            Shape::Sentinel => redis.starts_sentinels(home, wires).await,
            Shape::Cluster => redis.starts_cluster(wires).await,
        }
        redis.servers[0].answers().await;
        redis.is_whole().await;
        redis
    }

    async fn starts_sentinels(&mut self, home: &Path, wires: &Wires) {
        let primary = self.servers[0].outside;
        for server in &mut self.servers {
            let announced = format!(
                "--replica-announce-ip 127.0.0.1 --replica-announce-port {} \
                 --min-replicas-to-write 1 --min-replicas-max-lag 2",
                server.outside
            );
            server.arguments = announced.split(' ').map(str::to_owned).collect();
            let more = if server.outside == primary { Vec::new() } else { replica_of(primary) };
            server.spawn(&more, wires);
        }
        for number in 0..3 {
            let name = format!("sentinel-{number}");
            let mut sentinel = Instance::new(Party::Sentinel(number), &name, home, wires);
            let text = format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {GROUP} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {GROUP} 1000\nsentinel failover-timeout {GROUP} 4000\n",
                sentinel.port,
                sentinel.folder.display()
            );
            let file = sentinel.folder.join("sentinel.conf");
            std::fs::write(&file, text).expect("the folder can be written");
            let process =
                Process::start("sentinel", Command::new("redis-sentinel").arg(&file), &sentinel.folder);
            wires.knows(process.pid(), sentinel.party);
            sentinel.process = Some(process);
            self.sentinels.push(sentinel);
        }
    }

    /// What nodes have as `redis.url`.
    pub fn url(&self) -> Option<String> {
        let hosts = |instances: &[Instance]| {
            let hosts = instances.iter().map(|instance| format!("127.0.0.1:{}", instance.outside));
            hosts.collect::<Vec<_>>().join(",")
        };
        match self.shape {
            Shape::None => None,
            Shape::Single => Some(format!("redis://{}", hosts(&self.servers))),
            Shape::Sentinel => Some(format!("redis+sentinel://{}/{GROUP}", hosts(&self.sentinels))),
            Shape::Cluster => Some(format!("redis+cluster://{}", hosts(&self.servers))),
        }
    }

    /// The number of the primary that the Sentinels name; with a single server, that one.
    pub async fn primary(&self) -> usize {
        if self.shape == Shape::Single {
            return 0;
        }
        assert_eq!(self.shape, Shape::Sentinel, "a Cluster has three");
        eventually("the Sentinels to agree on a primary", async || {
            let mut named = Vec::new();
            for sentinel in &self.sentinels {
                let (_, port): (String, u16) =
                    sentinel.ask(&["SENTINEL", "get-master-addr-by-name", GROUP]).await?;
                named.push(port);
            }
            let at = self.servers.iter().position(|server| server.outside == named[0])?;
            named.iter().all(|port| *port == named[0]).then_some(at)
        })
        .await
    }

    /// Waits until another server than this one is the primary, and says so itself.
    pub async fn has_moved_from(&self, old: usize) -> usize {
        eventually("another primary", async || {
            for (at, server) in self.servers.iter().enumerate() {
                let is_other = at != old && server.runs();
                if is_other && server.info("replication", "role").await.as_deref() == Some("master") {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// Starts a server again that was killed, as a replica of what is the primary now.
    pub async fn comes_back(&mut self, number: usize, wires: &Wires) {
        let more = match self.shape {
            Shape::Sentinel => {
                let primary = self.primary().await;
                replica_of(self.servers[primary].outside)
            }
            Shape::None | Shape::Single | Shape::Cluster => Vec::new(),
        };
        self.servers[number].spawn(&more, wires);
        self.servers[number].answers().await;
    }

    /// Waits until every server has its part, and every replica is in step.
    pub async fn is_whole(&self) {
        match self.shape {
            Shape::None => {}
            Shape::Single => self.servers[0].answers().await,
            Shape::Sentinel => {
                eventually("all replicas to be in step", async || {
                    let primary = self.primary().await;
                    let info: String = self.servers[primary].ask(&["INFO", "replication"]).await?;
                    (info.matches("state=online").count() == 2).then_some(())
                })
                .await;
                eventually("the Sentinels to know each other", async || self.sentinels_agree().await).await;
            }
            Shape::Cluster => self.cluster_is_whole().await,
        }
    }

    async fn sentinels_agree(&self) -> Option<()> {
        for sentinel in &self.sentinels {
            let facts: HashMap<String, String> = sentinel.ask(&["SENTINEL", "master", GROUP]).await?;
            let all = facts.get("num-slaves")? == "2"
                && facts.get("num-other-sentinels")? == "2"
                && facts.get("flags")? == "master";
            if !all {
                return None;
            }
        }
        Some(())
    }

    /// The parties of all Sentinels.
    pub fn sentinel_parties(&self) -> Vec<Party> {
        self.sentinels.iter().map(|sentinel| sentinel.party).collect()
    }
}

fn replica_of(port: u16) -> Vec<String> {
    ["--replicaof", "127.0.0.1", &port.to_string()].map(str::to_owned).to_vec()
}
