//! Failovers by chance, one after the other, while writers write in several rooms on four nodes: replicas that are
//! behind, primaries that die or hang, nodes that stay behind, nodes that die. ROOMCAST_ROUNDS says how many rounds
//! (default 3), ROOMCAST_SEED begins the same again.

use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomcast::engines::shared::Safety;

use super::load::Load;
use super::stage::Node;
use super::switch::Switch;
use crate::fixtures::eventually;
use crate::fixtures::servers::Server;

const ROOMS: [&str; 4] = ["a", "b", "c", "@ann+bob"];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn replica_of(primary: &Server) -> Server {
    // Not by an option: when it is restarted it is to be a primary.
    let replica = Server::start(&[]).await;
    follows(&replica, &["127.0.0.1", &primary.port.to_string()]).await;
    let client = redis::Client::open(primary.url()).unwrap();
    eventually("the replica to be in step", async || {
        let mut redis = client.get_multiplexed_async_connection().await.ok()?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut redis).await.ok()?;
        info.contains("state=online").then_some(())
    })
    .await;
    replica
}

/// Tells a server whom to follow, again and again: on a busy machine it may take long to answer.
async fn follows(server: &Server, whom: &[&str]) {
    let client = redis::Client::open(server.url()).unwrap();
    eventually("a server to follow another", async || {
        let mut redis = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("REPLICAOF").arg(whom).query_async::<()>(&mut redis).await.ok()
    })
    .await;
}

async fn become_primary(replica: &Server) {
    follows(replica, &["NO", "ONE"]).await;
}

async fn pause(chance: &mut StdRng, most: u64) {
    tokio::time::sleep(Duration::from_millis(chance.random_range(0..=most))).await;
}

#[actix_rt::test]
async fn whatever_happens_nothing_is_lost_or_doubled() {
    let seed = number("ROOMCAST_SEED", std::process::id().into());
    eprintln!("ROOMCAST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut primary = Server::start(&[]).await;
    let mut replica = replica_of(&primary).await;
    let (mut switches, mut nodes) = (Vec::new(), Vec::new());
    for at in 0..4 {
        switches.push(Switch::start(primary.port).await);
        nodes.push(Rc::new(Node::start(&switches[at].url(), at as u32 + 1)));
    }
    for node in &nodes {
        for room in ROOMS {
            node.join(room).await;
        }
    }
    let safety = if chance.random_bool(0.5) { Safety::Sequenced } else { Safety::Replicated };
    let loads: Vec<Load> = ROOMS.iter().map(|room| Load::start(&nodes, room, safety)).collect();
    let mut old = Vec::new();
    for round in 0..number("ROOMCAST_ROUNDS", 3) {
        loads[0].goes_on(200).await;
        if chance.random_bool(0.2) {
            eprintln!("round {round}: empty return");
            primary.kill();
            pause(&mut chance, 500).await;
            primary.restart().await;
            replica = replica_of(&primary).await;
        } else {
            pause(&mut chance, 500).await;
            become_primary(&replica).await;
            // Before anybody comes, so that all know that there is one.
            let next = replica_of(&replica).await;
            // What is accepted from here on the replica does not have.
            pause(&mut chance, 300).await;
            let fate = chance.random_range(0..3);
            eprintln!("round {round}: the primary {}", ["is killed", "hangs", "is left behind"][fate]);
            match fate {
                0 => primary.kill(),
                1 => primary.freeze(),
                _ => {}
            }
            // Who has only the word of the primary may lose it together with the primary and the node that said it.
            let dies = chance.random_range(0..12);
            if safety == Safety::Replicated && dies < 3 && !nodes[dies].is_dead() {
                eprintln!("round {round}: node {} dies", dies + 1);
                nodes[dies].crash();
            }
            let late = chance.random_range(0..6);
            for (at, switch) in switches.iter().enumerate() {
                if at != late {
                    switch.turn_to(replica.port);
                    pause(&mut chance, 100).await;
                }
            }
            if let Some(switch) = switches.get(late) {
                eprintln!("round {round}: node {} is late", late + 1);
                pause(&mut chance, 3_000).await;
                switch.turn_to(replica.port);
            }
            old.push(std::mem::replace(&mut primary, std::mem::replace(&mut replica, next)));
        }
    }
    for load in &loads {
        load.goes_on(200).await;
    }
    for (load, room) in loads.into_iter().zip(ROOMS) {
        load.ends_well(&format!("by chance, {safety:?}, {room}")).await;
    }
}
