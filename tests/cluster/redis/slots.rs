//! A Redis Cluster: how it is made of its servers, who has which slots, and how slots move while they are used.

use super::{Instance, Redis, eventually};
use crate::wires::Wires;

/// Slots of a Cluster (cluster specification, "Key distribution model").
const SLOTS: u16 = 16_384;
/// Keys that are moved by one `MIGRATE`.
const KEYS_AT_ONCE: &str = "100";

impl Redis {
    /// Six servers become a Cluster: the first three are primaries, each of the others a replica of one of them.
    pub(super) async fn starts_cluster(&mut self, wires: &Wires) {
        for server in &mut self.servers {
            let bus = roomcast_rig::server::free_port();
            // Without min-replicas-to-write: with one replica each, a new primary would have none and take nothing.
            let options = format!(
                "--cluster-enabled yes --cluster-node-timeout 2000 --cluster-port {bus} \
                 --cluster-announce-ip 127.0.0.1 --cluster-announce-port {} --cluster-announce-bus-port {bus}",
                server.outside
            );
            server.arguments = options.split(' ').map(str::to_owned).collect();
            server.spawn(&[], wires);
        }
        for server in &self.servers {
            server.answers().await;
        }
        let third = SLOTS / 3;
        for (number, server) in self.servers.iter().take(3).enumerate() {
            let first = number as u16 * third;
            let last = if number == 2 { SLOTS - 1 } else { first + third - 1 };
            server.does(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            server.does(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
        }
        let first = &self.servers[0];
        for other in &self.servers[1..] {
            let (port, bus) = (first.port.to_string(), first.bus());
            other.does(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        for (number, replica) in self.servers.iter().enumerate().skip(3) {
            let primary = self.servers[number - 3].id().await;
            eventually("a replica to know its primary", async || {
                replica.ask::<String>(&["CLUSTER", "REPLICATE", &primary]).await
            })
            .await;
        }
    }

    /// Waits until all slots are served, by three primaries with a replica in step each.
    pub(super) async fn cluster_is_whole(&self) {
        for server in &self.servers {
            eventually("the Cluster to be whole", async || {
                let info: String = server.ask(&["CLUSTER", "INFO"]).await?;
                let nodes: String = server.ask(&["CLUSTER", "NODES"]).await?;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                let broken = nodes.lines().any(|line| line.contains("fail") || line.contains("disconnected"));
                let role = server.info("replication", "role").await?;
                let in_step = match &*role {
                    "master" => server.info("replication", "slave0").await?.contains("state=online"),
                    _ => server.info("replication", "master_link_status").await? == "up",
                };
                (info.contains("cluster_state:ok") && replicas == 3 && !broken && in_step).then_some(())
            })
            .await;
        }
    }

    /// The numbers of the servers that are primaries now.
    pub async fn primaries(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            if server.runs() && server.info("replication", "role").await.as_deref() == Some("master") {
                found.push(number);
            }
        }
        found
    }

    /// Waits until the slots of this server, which is dead or hangs, are served by another.
    pub async fn slots_have_moved_from(&self, old: usize) {
        let id_of_old = self.servers[old].outside.to_string();
        eventually("the Cluster to do without a primary", async || {
            let alive = self.servers.iter().enumerate().find(|(at, server)| *at != old && server.runs())?.1;
            let info: String = alive.ask(&["CLUSTER", "INFO"]).await?;
            let nodes: String = alive.ask(&["CLUSTER", "NODES"]).await?;
            let has_slots = nodes.lines().any(|line| {
                let of_old = line.contains(&format!(":{id_of_old}@"));
                of_old && line.split(' ').nth(8).is_some()
            });
            (info.contains("cluster_state:ok") && !has_slots).then_some(())
        })
        .await;
    }

    /// Moves every slot that has keys, and some that have none, from one primary to another, while they are used.
    /// Tells how many keys have moved.
    pub async fn slots_move(&self, from: usize, to: usize) -> u64 {
        let (from, to) = (&self.servers[from], &self.servers[to]);
        let (from_id, to_id) = (from.id().await, to.id().await);
        let mut moved = 0;
        for slot in from.slots_with_keys().await {
            let slot = slot.to_string();
            to.does(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
            from.does(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
            moved += from.keys_move(to, &slot).await;
            // First where the keys are now, so that nobody is sent to a server that does not want them.
            to.does(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
            from.does(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
        moved
    }
}

impl Instance {
    /// Has to work.
    async fn does(&self, words: &[&str]) {
        let mut connection = self.connect().await.expect("Redis is there");
        let done: redis::RedisResult<redis::Value> =
            redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }

    async fn id(&self) -> String {
        self.ask(&["CLUSTER", "MYID"]).await.expect("it is part of a Cluster")
    }

    fn bus(&self) -> String {
        let at = self.arguments.iter().position(|word| word == "--cluster-port");
        self.arguments[at.expect("it is part of a Cluster") + 1].clone()
    }

    /// The slots in which this primary has keys.
    async fn slots_with_keys(&self) -> Vec<u16> {
        let keys: Vec<String> = self.ask(&["KEYS", "*"]).await.expect("it answers");
        let mut slots = Vec::new();
        for key in keys {
            let slot: u16 = self.ask(&["CLUSTER", "KEYSLOT", &key]).await.expect("it answers");
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        slots
    }

    /// Moves the keys of a slot, as long as new ones come.
    async fn keys_move(&self, to: &Instance, slot: &str) -> u64 {
        let mut moved = 0;
        loop {
            let words = ["CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE];
            let keys: Vec<String> = self.ask(&words).await.expect("it answers");
            if keys.is_empty() {
                return moved;
            }
            moved += keys.len() as u64;
            let port = to.outside.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.does(&words).await;
        }
    }
}
