//! What a message costs Redis, by the CPU time that Redis says it has used.

use std::time::Instant;

use roomcast::engines::shared::Safety;
use roomcast::store::archive::Question;

use super::stage::{Node, message};
use crate::fixtures::backend::command;
use crate::fixtures::eventually;
use crate::fixtures::servers::Server;

/// More than that per message in batches means that something is done that need not be. Measured: 12 to 25.
const BATCHED_MICROS_MAX: f64 = 100.0;

async fn cpu_seconds(redis: &mut roomcast::redis_link::RedisConnection) -> f64 {
    let info: String = command(redis, &["INFO", "cpu"]).await;
    let of = |name: &str| -> f64 {
        info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    of("used_cpu_user:") + of("used_cpu_sys:")
}

/// Redis' microseconds per message, and messages per second.
async fn costs(open: usize, rooms: usize, count: usize) -> (f64, f64) {
    let server = Server::start(&[]).await;
    let nodes = [Node::start(&server.url(), 1), Node::start(&server.url(), 2)];
    for node in &nodes {
        for room in 0..rooms {
            node.join(&format!("r{room}")).await;
        }
    }
    let mut redis = server.connect().await;
    let (before, since) = (cpu_seconds(&mut redis).await, Instant::now());
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..count {
        let id = format!("m{number}");
        waiting.push_back(nodes[0].propose(
            message(&format!("r{}", number % rooms), &id),
            &id,
            true,
            Safety::Replicated,
        ));
        if waiting.len() == open {
            nodes[0].place(waiting.pop_front().unwrap()).await;
        }
    }
    for ticket in waiting {
        nodes[0].place(ticket).await;
    }
    let seconds = since.elapsed().as_secs_f64();
    let used = cpu_seconds(&mut redis).await - before;
    for node in &nodes {
        for room in 0..rooms {
            node.reaches(&format!("r{room}"), (count / rooms) as u64).await;
        }
    }
    (used * 1e6 / count as f64, count as f64 / seconds)
}

#[actix_rt::test]
async fn a_message_costs_redis_little() {
    for (open, rooms) in [(1, 1), (10, 1), (10, 10), (400, 1), (400, 100)] {
        let count = if open < 400 { 100 * open } else { 20_000 };
        let (micros, rate) = costs(open, rooms, count).await;
        eprintln!("{open} open in {rooms} rooms: {micros:.1} us of Redis per message, {rate:.0}/s");
        assert!(open < 400 || micros < BATCHED_MICROS_MAX, "{micros}");
    }
}

/// How often scripts were called.
async fn calls(redis: &mut roomcast::redis_link::RedisConnection) -> u64 {
    let info: String = command(redis, &["INFO", "commandstats"]).await;
    let stat = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap();
    stat.split(',').next().unwrap().parse().unwrap()
}

#[actix_rt::test]
async fn a_storm_of_joins_makes_few_calls() {
    const ROOMS: u64 = 10_000;
    let server = Server::start(&[]).await;
    let (one, two) = (Node::start(&server.url(), 1), Node::start(&server.url(), 2));
    one.join("r0").await;
    two.join("r0").await;
    let mut redis = server.connect().await;
    let (before, used, since) = (calls(&mut redis).await, cpu_seconds(&mut redis).await, Instant::now());
    let tickets: Vec<u64> = (0..ROOMS)
        .map(|n| {
            let room = super::stage::room(&format!("r{n}"));
            one.ask_for(vec![Question::Room { room, tail: 100, tail_bytes: 1 << 20 }])
        })
        .collect();
    for ticket in tickets {
        eventually("a join", async || one.joined(ticket).then_some(())).await;
    }
    let (seconds, made) = (since.elapsed().as_secs_f64(), calls(&mut redis).await - before);
    let used = (cpu_seconds(&mut redis).await - used) * 1e6 / ROOMS as f64;
    eprintln!("{ROOMS} rooms joined in {seconds:.2} s with {made} calls, {used:.1} us of Redis each");
    // A hundred rooms in a call for the join, a hundred in one for the roster, and ticks.
    assert!(made < 2 * ROOMS / 100 + 100, "{made}");
}
