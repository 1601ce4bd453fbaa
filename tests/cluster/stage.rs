//! Everything that a story needs, as processes on this machine: nodes, what stands in front of them, Redis, and
//! the wires between nodes and Redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use roomcast_rig::server::{Server, Setup};

use crate::balancer::{Balancer, Kind};
use crate::postgres::Postgres;
use crate::processes::signal;
use crate::redis::{Redis, Shape};
use crate::wires::{Party, Wires};

/// What a story is played on.
pub struct Stage {
    pub folder: PathBuf,
    pub wires: Wires,
    pub redis: Redis,
    pub archive: Option<Postgres>,
    /// Those that serve.
    pub nodes: Vec<Server>,
    /// Those that may come when they are needed. The load balancer knows their addresses.
    pub spare: Vec<Server>,
    pub balancer: Balancer,
}

/// What outlives Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Nothing.
    None,
    /// A file of its own for each node.
    File,
    /// A PostgreSQL that all share.
    Postgres,
}

/// What a stage is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many nodes share the rooms.
    pub nodes: usize,
    /// How many more may come.
    pub spare: usize,
    pub shape: Shape,
    pub balancer: Kind,
    pub store: Store,
    /// Whether the writers also edit, delete and react.
    pub changes: bool,
    /// Keys of the nodes' configuration: `limits.ping=1s`.
    pub settings: Vec<String>,
}

impl Plan {
    /// Three nodes behind HAProxy.
    pub fn of(shape: Shape) -> Plan {
        Plan {
            nodes: 3,
            spare: 0,
            shape,
            balancer: Kind::HaProxy,
            store: Store::None,
            changes: true,
            settings: Vec::new(),
        }
    }

    /// One node that keeps its rooms itself, behind the same load balancer.
    pub fn alone() -> Plan {
        Plan { nodes: 1, store: Store::File, ..Plan::of(Shape::None) }
    }

    /// The same with a shared archive.
    pub fn archived(self) -> Plan {
        Plan { store: Store::Postgres, ..self }
    }

    /// The same with a key of the configuration set.
    pub fn with(mut self, setting: &str) -> Plan {
        self.settings.push(setting.to_owned());
        self
    }
}

/// Settings of all nodes: nothing is forgotten, and a client that is silent is found soon.
const SETTINGS: [&str; 5] = [
    "rooms.history=1000000",
    "limits.ping=1s",
    "limits.connections_per_address=0",
    r#"server.trusted_proxies=["127.0.0.1"]"#,
    "server.drain=5s",
];

fn setup(number: usize, plan: &Plan, store: Option<String>, redis: &Redis, folder: &Path) -> Setup {
    let home = folder.join(format!("node-{number}"));
    std::fs::create_dir_all(&home).expect("the folder can be made");
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), &home);
    setup.store = store.unwrap_or(setup.store);
    setup.settings.extend(SETTINGS.map(str::to_owned));
    setup.settings.push(format!("server.node=node-{number}"));
    setup.settings.extend(redis.url().map(|url| format!("redis.url={url}")));
    setup.settings.extend(plan.settings.iter().cloned());
    setup
}

impl Stage {
    /// Starts everything, in a folder of its own, and waits until it is ready.
    pub async fn open(plan: &Plan, folder: &Path) -> Stage {
        let wires = Wires::new();
        let redis = Redis::start(plan.shape, folder, &wires).await;
        let archive = match plan.store {
            Store::Postgres => Some(Postgres::start().await),
            Store::None | Store::File => None,
        };
        let store = match plan.store {
            Store::None => Some("none".to_owned()),
            Store::File => None,
            Store::Postgres => archive.as_ref().map(Postgres::url),
        };
        let node = |number| Server::new(setup(number, plan, store.clone(), &redis, folder));
        let mut nodes: Vec<Server> = (0..plan.nodes + plan.spare).map(node).collect();
        let addresses: Vec<SocketAddr> = nodes.iter().map(Server::address).collect();
        // The last one comes first.
        let spare = nodes.drain(plan.nodes..).rev().collect();
        for (number, node) in nodes.iter_mut().enumerate() {
            node.spawn();
            wires.knows(node.pid(), Party::Node(number));
        }
        for node in &mut nodes {
            node.is_ready().await;
        }
        let balancer = Balancer::start(plan.balancer, &addresses, folder).await;
        Stage { folder: folder.to_owned(), wires, redis, archive, nodes, spare, balancer }
    }

    /// Starts a node again that was killed or has ended.
    pub fn node_comes_back(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.spawn();
        self.wires.knows(node.pid(), Party::Node(number));
    }

    /// One more node serves.
    pub async fn node_joins(&mut self) {
        let node = self.spare.pop().expect("the story has nodes left");
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.node_comes_back(number);
        self.nodes[number].is_ready().await;
    }

    /// The node that has come last goes; what makes it go is the caller's.
    pub fn node_leaves(&mut self) -> &mut Server {
        let node = self.nodes.pop().expect("the story has nodes left");
        self.spare.push(node);
        self.spare.last_mut().expect("it was put there")
    }

    /// Stops a node without closing anything.
    pub fn node_freezes(&self, number: usize) {
        signal(self.nodes[number].pid(), "-STOP");
    }

    /// Lets it go on.
    pub fn node_thaws(&self, number: usize) {
        signal(self.nodes[number].pid(), "-CONT");
    }

    /// Waits until all servers and all nodes have their part and are ready.
    pub async fn is_whole(&mut self) {
        self.redis.is_whole().await;
        for node in &mut self.nodes {
            node.is_ready().await;
        }
    }

    /// Stops all nodes politely, one after the other; each has to end well.
    pub async fn closes(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}
