//! Several nodes that share rooms over one Redis: what a message costs the three of them together, how long it takes
//! from a client of one node to a client of another, and what Redis is asked when everybody comes at once.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::bench::Bench;
use crate::client::{Pace, Since, Speakers};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::measure::{self, Subject};
use crate::options::{Nodes, Shape};
use crate::progress::Progress;
use crate::report::{faults_cell, milliseconds, number, optional};
use crate::server::process::{Owned, Server};
use crate::server::procfs;
use crate::server::redis::{self, Work};
use crate::tally::Faults;
use crate::wire;

/// Entries that each room has before the storms.
const SAID: u64 = 20;
/// From where clients go on: the newest entries are still in the memory of every node.
const SEEN: u64 = 15;
/// How long the nodes are left alone, to see what they ask by themselves.
const QUIET: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

const TALK_HEADS: &[&str] = &[
    "in flight",
    "messages/s",
    "Redis CPU µs / message",
    "messages a Redis core / s",
    "messages / script",
    "nodes' CPU µs / message",
    "p50 ms",
    "p99 ms",
    "other cores",
    "faults",
];

const TALK_NOTES: &str = "Two nodes; in each room one who speaks on the one, and one who listens on the other. Latency runs \
    from the publish until it was read; who speaks hears it by the same way as who listens.";

const STORM_HEADS: &[&str] = &[
    "storm",
    "seconds",
    "scripts",
    "of these by themselves",
    "Redis CPU µs / client",
    "nodes' CPU µs / client",
    "faults",
];

const STORM_NOTES: &str = "A script may be about a hundred rooms or people. What the nodes ask by themselves (leases, probes) \
    is taken from a quiet time before. In the second storm all links are cut and everybody comes back at once, to another \
    node, with the place that he has seen.";

/// Nodes over one Redis.
struct World {
    redis: (Owned, SocketAddrV4),
    nodes: Vec<Server>,
}

impl World {
    fn start(bench: &Bench, nodes: usize, more: &[&str]) -> Result<World, Failure> {
        let redis = redis::start()?;
        let url = format!("redis://{}/0", redis.1);
        let mut arguments: Vec<String> = vec!["--redis".into(), url, "--store".into(), "none".into()];
        for setting in more {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        let nodes = (0..nodes).map(|_| bench.server(&arguments)).collect::<Result<Vec<_>, _>>()?;
        Ok(World { redis, nodes })
    }

    fn subject(&self) -> Subject {
        let pids = self.nodes.iter().flat_map(|node| node.pids.iter().copied()).collect();
        Subject { pids, beside: vec![self.redis.0.pid()], metrics: None }
    }

    fn command(&self) -> String {
        self.nodes.first().map(|node| node.command.clone()).unwrap_or_default()
    }

    /// The first node, and the others.
    fn addresses(&self) -> (SocketAddrV4, Vec<SocketAddrV4>) {
        let mut addresses = self.nodes.iter().map(|node| node.address);
        let first = addresses.next().expect("there is a node");
        (first, addresses.collect())
    }

    fn stop(self) -> Result<(), Failure> {
        for node in self.nodes {
            node.stop()?;
        }
        self.redis.0.stop()
    }
}

pub fn run(bench: &mut Bench, nodes: &Nodes) -> Result<(), Failure> {
    if nodes.nodes == 0 || nodes.rooms == 0 || nodes.per_room == 0 || nodes.window.contains(&0) {
        return Err(Failure::Usage("--nodes, --window, --rooms and --per-room must be above 0".to_owned()));
    }
    if bench.common.url.is_some() {
        return Err(Failure::Usage("nodes starts its own servers: leave --url out".to_owned()));
    }
    if !redis::is_installed() {
        return Err(Failure::Missing("nodes needs `redis-server`".to_owned()));
    }
    let mut rows = vec![];
    let mut command = String::new();
    for window in &nodes.window {
        rows.push(talk(bench, *window, nodes.rooms.min(*window), &mut command)?);
    }
    bench.report.table("Two nodes talk", &format!("Nodes: `{command}`. {TALK_NOTES}"), TALK_HEADS, &rows)?;
    if nodes.clients == 0 {
        return Ok(());
    }
    let mut rows = vec![];
    for presence in [true, false] {
        rows.extend(storms(bench, nodes, presence, &mut command)?);
    }
    let notes = format!("{} nodes: `{command}`. {STORM_NOTES}", nodes.nodes);
    bench.report.table("Storms", &notes, STORM_HEADS, &rows)
}

fn talk(bench: &mut Bench, window: u32, rooms: u32, command: &mut String) -> Result<Vec<String>, Failure> {
    let world = World::start(bench, 2, &[])?;
    *command = world.command();
    let (first, others) = world.addresses();
    let shape = Shape { rooms: rooms as usize, members: 1 };
    let mut plan = bench.plan(first, shape, Speakers::OneApart, Pace::Window(window.div_ceil(rooms)))?;
    plan.also = others;
    let name = format!("{window} in {rooms}");
    let case = bench.case("nodes", &name, "roomcast", command);
    let before = redis::work(world.redis.1)?;
    let figures = bench.measure(&case, plan, bench.timing(), &world.subject())?;
    let work = redis::work(world.redis.1)?.since(&before);
    world.stop()?;
    Ok(talk_row(&name, &figures, &work))
}

fn talk_row(name: &str, figures: &Figures, work: &Work) -> Vec<String> {
    // The scripts of the whole run, by all that was said in it.
    let said = figures.sent_in_all as f64;
    vec![
        name.to_owned(),
        number(figures.messages_per_s),
        optional(figures.beside_cpu_us_per_message),
        optional(figures.beside_cpu_us_per_message.map(|us| 1e6 / us)),
        number(said / (work.scripts.max(1)) as f64),
        optional(figures.cpu_us_per_message),
        milliseconds(figures.latency_p50_us),
        milliseconds(figures.latency_p99_us),
        number(figures.other_cores),
        faults_cell(&figures.faults),
    ]
}

/// What a storm took.
#[derive(Debug, Serialize)]
struct StormFigures {
    clients: u64,
    seconds: f64,
    scripts: u64,
    scripts_by_themselves: f64,
    redis_us_per_client: f64,
    nodes_us_per_client: f64,
    faults: Faults,
}

/// Everybody comes, is cut off, and comes back.
fn storms(
    bench: &mut Bench,
    nodes: &Nodes,
    presence: bool,
    command: &mut String,
) -> Result<Vec<Vec<String>>, Failure> {
    let setting = format!("rooms.presence={presence}");
    let world = World::start(bench, nodes.nodes, &[&setting])?;
    *command = world.command();
    let shape = Shape { rooms: nodes.clients.div_ceil(nodes.per_room), members: nodes.per_room };
    let epoch = fill(&world, shape.rooms)?;
    let (first, others) = world.addresses();
    let (redis, pids) = (world.redis.1, world.subject().pids);

    let quiet = redis::work(redis)?;
    sleep(QUIET);
    let per_second = redis::work(redis)?.since(&quiet).scripts as f64 / QUIET.as_secs_f64();
    let how = if presence { "" } else { ", rooms that do not tell who is there" };
    let mut rows = vec![];
    let mut before = None;
    for (name, since) in [("join", None), ("come back", Some(Since { offset: SEEN, epoch }))] {
        let mut plan = bench.plan(first, shape, Speakers::Nobody, Pace::Window(1))?;
        plan.also = others.clone();
        if since.is_some() {
            // To another node than before.
            plan.also.push(plan.target);
            plan.target = plan.also.remove(0);
        }
        plan.since = since;
        let clients = plan.connections() as u64;
        let name = format!("{clients} {name}{how}");
        let case = bench.case("nodes", &name, "roomcast", command);
        let progress = Progress::new(&format!("storm: {name}"));
        let (work, cost, begun) =
            before.take().unwrap_or((redis::work(redis)?, procfs::cost(&pids), Instant::now()));
        let (client, _) = measure::connect(plan, &progress)?;
        let seconds = begun.elapsed().as_secs_f64();
        let work = redis::work(redis)?.since(&work);
        let cost = procfs::cost(&pids).since(&cost);
        let complaint = client.complaint();
        progress.done();
        let each = |cpu_s: f64| cpu_s * 1e6 / clients as f64;
        // The cut belongs to the storm that follows it.
        before = Some((redis::work(redis)?, procfs::cost(&pids), Instant::now()));
        let figures = StormFigures {
            clients,
            seconds,
            scripts: work.scripts,
            scripts_by_themselves: per_second * seconds,
            redis_us_per_client: each(work.cpu_s),
            nodes_us_per_client: each(cost.cpu_s()),
            faults: client.finish()?.faults,
        };
        bench.report.record(&case, &figures.faults, complaint.as_deref(), &figures)?;
        rows.push(storm_row(&name, &figures));
    }
    world.stop()?;
    Ok(rows)
}

fn storm_row(name: &str, figures: &StormFigures) -> Vec<String> {
    vec![
        name.to_owned(),
        number(figures.seconds),
        figures.scripts.to_string(),
        number(figures.scripts_by_themselves),
        number(figures.redis_us_per_client),
        number(figures.nodes_us_per_client),
        faults_cell(&figures.faults),
    ]
}

/// Says something in every room, by the door of the first node; tells the epoch of the rooms, which is the same for all
/// of a fresh Redis.
fn fill(world: &World, rooms: usize) -> Result<String, Failure> {
    let door = world.nodes[0].door.expect("a node that was started here has a door");
    let mut stream = TcpStream::connect(door)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for room in 0..rooms {
        let item =
            format!(r#"{{"room":"{}","content":"said before"}}"#, crate::client::Plan::room_name(room));
        let push = format!("*3\r\n$5\r\nLPUSH\r\n$13\r\nmessage_queue\r\n${}\r\n{item}\r\n", item.len());
        for _ in 0..SAID {
            stream.write_all(push.as_bytes())?;
            let mut answer = [0; 64];
            let length = stream.read(&mut answer)?;
            if answer[..length].first() != Some(&b':') {
                let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
                return Err(Failure::Run(format!("the door answered {answer}")));
            }
        }
    }
    epoch_of(world.nodes[0].address)
}

fn epoch_of(address: SocketAddrV4) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(wire::upgrade_request(&address.to_string(), "asks").as_bytes())?;
    let line = format!("{{\"t\":\"join\",\"r\":\"{}\"}}", crate::client::Plan::room_name(0));
    let mut frame = vec![];
    wire::client_frame(&mut frame, wire::TEXT, line.as_bytes(), [1, 2, 3, 4]);
    let mut heard = vec![];
    let mut bytes = [0; 4096];
    while wire::upgrade_answer(&heard).map_err(Failure::Run)?.is_none() {
        let length = stream.read(&mut bytes)?;
        heard.extend_from_slice(&bytes[..length]);
    }
    stream.write_all(&frame)?;
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        let epoch = text.split_once(r#""t":"joined""#).and_then(|(_, rest)| rest.split_once(r#""e":""#));
        if let Some((epoch, _)) = epoch.and_then(|(_, rest)| rest.split_once('"')) {
            return Ok(epoch.to_owned());
        }
        match stream.read(&mut bytes)? {
            0 => return Err(Failure::Run("the node closed before it told the epoch".to_owned())),
            length => heard.extend_from_slice(&bytes[..length]),
        }
    }
}
