//! Rooms spread over a Cluster: a slot moves and a primary dies while writers write.

use std::process::Command;
use std::rc::Rc;

use roomcast::engines::shared::Safety;

use super::load::Load;
use super::stage::Node;
use crate::fixtures::servers::Cluster;

async fn joined(url: &str) -> Vec<Rc<Node>> {
    let nodes = vec![Rc::new(Node::start(url, 1)), Rc::new(Node::start(url, 2))];
    for node in &nodes {
        for name in ["lobby", "a", "b", "c"] {
            node.join(name).await;
        }
    }
    nodes
}

/// The key tag of the partition of the room "lobby".
const LOBBY: &str = "chat:{p15}f";

fn slot_of(key: &str) -> u16 {
    roomcast::redis_link::nodes::slot_of(key)
}

fn cli(port: u16, words: &[&str]) -> String {
    let run = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).trim().to_owned()
}

/// Moves a slot as an operator's tool would: key by key, with both sides told.
fn move_slot(slot: u16, from: u16, to: u16, all: &[u16]) {
    let slot = slot.to_string();
    let (from_id, to_id) = (cli(from, &["CLUSTER", "MYID"]), cli(to, &["CLUSTER", "MYID"]));
    cli(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    cli(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    loop {
        let keys = cli(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            break;
        }
        let port = to.to_string();
        let mut call = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        call.extend(keys);
        cli(from, &call);
    }
    for port in [to, from].iter().chain(all) {
        cli(*port, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
}

#[actix_rt::test]
async fn a_slot_moves_while_writers_write() {
    let mut cluster = Cluster::start().await;
    let nodes = joined(&cluster.url()).await;
    let load = Load::start(&nodes, "lobby", Safety::Replicated);
    let aside = Load::start(&nodes, "a", Safety::Replicated);
    load.goes_on(300).await;
    let from = cluster.primary_of(LOBBY).await.port;
    let other = if cluster.primary_of("{p1}").await.port == from { "{p0}" } else { "{p1}" };
    let mut primaries = vec![from];
    for key in ["foo", "bar", "baz", "hello", "zap", other] {
        let port = cluster.primary_of(key).await.port;
        if !primaries.contains(&port) {
            primaries.push(port);
        }
    }
    let to = primaries[1];
    let before = fence(from).await;
    let moved = actix_rt::task::spawn_blocking(move || move_slot(slot_of(LOBBY), from, to, &primaries));
    moved.await.unwrap();
    load.goes_on(500).await;
    aside.goes_on(100).await;
    let after = fence(to).await;
    assert!(after > before, "a new epoch at the new server: {before} and {after}");
    load.ends_well("slot moved").await;
    aside.ends_well("beside the moved slot").await;
    for node in &nodes {
        let seen = node.seen("lobby");
        assert!(seen.rewinds.is_empty() && seen.skips.is_empty(), "{:?} {:?}", seen.rewinds, seen.skips);
    }
}

/// The epoch of the lobby's partition.
async fn fence(at: u16) -> u64 {
    let client = redis::Client::open(format!("redis://127.0.0.1:{at}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let fence: String = redis::cmd("GET").arg(LOBBY).query_async(&mut connection).await.unwrap();
    fence.split_once(':').unwrap().0.parse().unwrap()
}

#[actix_rt::test]
async fn a_primary_of_the_cluster_dies() {
    let mut cluster = Cluster::start().await;
    let nodes = joined(&cluster.url()).await;
    let load = Load::start(&nodes, "lobby", Safety::Replicated);
    load.goes_on(300).await;
    cluster.primary_of(LOBBY).await.kill();
    load.goes_on(500).await;
    load.ends_well("cluster primary killed").await;
}

#[actix_rt::test]
async fn a_primary_of_the_cluster_hangs() {
    let mut cluster = Cluster::start().await;
    let nodes = joined(&cluster.url()).await;
    let load = Load::start(&nodes, "lobby", Safety::Replicated);
    load.goes_on(300).await;
    cluster.primary_of(LOBBY).await.freeze();
    load.goes_on(500).await;
    load.ends_well("cluster primary frozen").await;
}

/// The primaries of now.
async fn primaries(cluster: &mut Cluster) -> Vec<u16> {
    let mut ports: Vec<u16> = Vec::new();
    // One name for each third of the slots.
    for name in ["bar", "hello", "foo"] {
        let port = cluster.primary_of(name).await.port;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

#[actix_rt::test]
async fn whatever_happens_in_the_cluster_nothing_is_lost_or_doubled() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let number = |name: &str, default: u64| -> u64 {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seed = number("ROOMCAST_SEED", std::process::id().into());
    eprintln!("ROOMCAST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start().await;
    let nodes = joined(&cluster.url()).await;
    let rooms = ["lobby", "a", "b", "c"];
    let loads: Vec<Load> = rooms.iter().map(|room| Load::start(&nodes, room, Safety::Replicated)).collect();
    for round in 0..number("ROOMCAST_ROUNDS", 2) {
        for load in &loads {
            load.goes_on(50).await;
        }
        match chance.random_range(0..3) {
            0 => {
                eprintln!("round {round}: the lobby's primary is killed");
                let port = cluster.primary_of(LOBBY).await.port;
                cluster.primary_of(LOBBY).await.kill();
                for load in &loads {
                    load.goes_on(50).await;
                }
                let dead = cluster.servers.iter_mut().find(|server| server.port == port).unwrap();
                dead.restart().await;
            }
            1 => {
                eprintln!("round {round}: the lobby's primary hangs");
                let port = cluster.primary_of(LOBBY).await.port;
                cluster.primary_of(LOBBY).await.freeze();
                for load in &loads {
                    load.goes_on(50).await;
                }
                cluster.servers.iter().find(|server| server.port == port).unwrap().thaw();
            }
            _ => {
                let from = cluster.primary_of(LOBBY).await.port;
                let all = primaries(&mut cluster).await;
                let to = *all.iter().find(|port| **port != from).unwrap();
                eprintln!("round {round}: the lobby's slot moves");
                let moved = actix_rt::task::spawn_blocking(move || move_slot(slot_of(LOBBY), from, to, &all));
                moved.await.unwrap();
            }
        }
        cluster.is_ready().await;
    }
    for load in &loads {
        load.goes_on(50).await;
    }
    for (load, room) in loads.into_iter().zip(rooms) {
        load.ends_well(&format!("cluster by chance, {room}")).await;
    }
}
