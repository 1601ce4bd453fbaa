//! The command line: scenarios and their options, with the defaults of the published figures. Parsed in `main.rs`.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::Pace;
use crate::failure::Failure;
use crate::marker::MARK_BYTES;
use crate::server::process::Source;

/// Measures what Roomcast costs and checks that nothing is lost, doubled, out of order or misrouted.
///
/// Exit code 1: the run went wrong, or the check found a fault. A slow result is never an error.
#[derive(Parser, Debug)]
#[command(name = "roomcast-bench", version)]
pub struct Options {
    #[command(subcommand)]
    pub scenario: Scenario,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
pub enum Scenario {
    /// Rooms of many listeners with one speaker each
    FanOut(Talk),
    /// Rooms of ten where everybody speaks and hears the others
    Chat(Talk),
    /// Connections that have joined and wait: memory of each, CPU of connecting
    Idle(Idle),
    /// Messages by the RESP door and by a real Redis
    Queue(Queue),
    /// As fan-out, with listeners that stop reading, beside the same without
    Slow(Slow),
    /// What it costs that an acknowledged message outlives a power cut, beside the disk and SQLite alone
    Durable(Durable),
    /// Several nodes that share rooms over a Redis: what a message, and a storm of joins, costs it
    Nodes(Nodes),
    /// Readers over event streams and long polls beside WebSockets; pushes by HTTP, RESP door, Redis list and stream
    Doors(Doors),
    /// The kernel's floor alone: fan-out by a bare epoll loop with send()
    Floor(Talk),
    /// Everything in sequence, with its default options
    All,
    /// The floor's own server process (started by the scenarios)
    #[command(hide = true)]
    FloorServer {
        #[arg(long)]
        listen: SocketAddrV4,
        #[arg(long)]
        batched: bool,
    },
}

#[derive(Args, Debug, Default, Clone)]
pub struct Talk {
    /// Rooms and members of each [default: fan-out 1x1000,1x5000,100x100; chat 500x10]
    #[arg(long, value_delimiter = ',', value_name = "ROOMSxMEMBERS")]
    pub shape: Vec<Shape>,
    /// Messages in flight in each room [default: fan-out 1,4,16,32; chat 1,4]
    #[arg(long, value_delimiter = ',')]
    pub window: Vec<u32>,
    /// Messages a second over all rooms, instead of a window [default: chat 5000]
    #[arg(long, value_delimiter = ',')]
    pub rate: Vec<f64>,
}

#[derive(Args, Debug, Clone)]
pub struct Idle {
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Members of each room
    #[arg(long, default_value_t = 100)]
    pub per_room: usize,
}

#[derive(Args, Debug, Clone)]
pub struct Queue {
    /// Listeners of the one room
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100])]
    pub listeners: Vec<usize>,
    /// Messages in flight when pipelined
    #[arg(long, default_value_t = 64)]
    pub window: u32,
    /// Which ways in
    #[arg(long, value_delimiter = ',', default_value = "door,redis")]
    pub way: Vec<Way>,
}

/// How a backend pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The server's own RESP door
    Door,
    /// A real Redis that the server takes from
    Redis,
}

#[derive(Args, Debug, Clone)]
pub struct Slow {
    #[arg(long, default_value = "1x100", value_name = "ROOMSxMEMBERS")]
    pub shape: Shape,
    #[arg(long, default_value_t = 16)]
    pub window: u32,
    /// Listeners that stop reading
    #[arg(long, default_value_t = 10)]
    pub stalled: usize,
}

#[derive(Args, Debug, Clone)]
pub struct Nodes {
    /// How many nodes share the rooms in the storms; talk is between two
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Messages in flight, all rooms together
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 400])]
    pub window: Vec<u32>,
    /// Rooms in which they are in flight, where there are so many
    #[arg(long, default_value_t = 20)]
    pub rooms: u32,
    /// Clients that come all at once; 0 leaves the storms out
    #[arg(long, default_value_t = 20_000)]
    pub clients: usize,
    /// Clients of each room in the storms
    #[arg(long, default_value_t = 100)]
    pub per_room: usize,
}

#[derive(Args, Debug, Clone)]
pub struct Doors {
    /// Readers of the one room, beside fifty that are there first
    #[arg(long, default_value_t = 1_000)]
    pub readers: usize,
    /// Messages of each way to push
    #[arg(long, default_value_t = 100_000)]
    pub pushes: u32,
    /// Backends that push by HTTP at once, where it is not one
    #[arg(long, default_value_t = 16)]
    pub backends: u32,
}

#[derive(Args, Debug, Clone)]
pub struct Durable {
    /// Messages under way at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256])]
    pub in_flight: Vec<usize>,
    /// How often everything is measured in turn
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// The disk: files go into a new folder in this one, and away with the run
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// Leave out the server: the disk, the journal and SQLite alone
    #[arg(long)]
    pub alone: bool,
}

impl Scenario {
    /// A scenario with its default options, by its name on the command line.
    pub fn plain(name: &str) -> Self {
        Options::parse_from(["roomcast-bench", name]).scenario
    }
}

#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Measured seconds of each case
    #[arg(long, global = true, default_value_t = 5.0)]
    pub secs: f64,
    /// Seconds of speaking before the measured ones
    #[arg(long, global = true, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Seconds of counting system calls, after the measured ones
    #[arg(long, global = true, default_value_t = 1.0)]
    pub count_secs: f64,
    /// Bytes of each payload [default: 128; slow 1024]
    #[arg(long, global = true)]
    pub bytes: Option<usize>,
    /// Client threads
    #[arg(long, global = true, default_value_t = 1)]
    pub threads: usize,
    /// Connections under way at once, per thread
    #[arg(long, global = true, default_value_t = 200)]
    pub connecting: usize,
    /// The server to start [default: `roomcast` beside this program]
    #[arg(long, global = true)]
    pub bin: Option<PathBuf>,
    /// A further argument for the started server, as in --server-arg=--store --server-arg=none
    #[arg(long, global = true, allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// A running server instead, as ws://127.0.0.1:8080 or 127.0.0.1:8080
    #[arg(long, global = true)]
    pub url: Option<String>,
    /// Process of the running server, for its costs
    #[arg(long, global = true, requires = "url")]
    pub pid: Option<u32>,
    /// RESP door of the running server
    #[arg(long, global = true, requires = "url")]
    pub door: Option<SocketAddrV4>,
    /// Do not measure the floor beside the server
    #[arg(long, global = true)]
    pub no_floor: bool,
    /// Append one JSON line per case to this file [default: all: roomcast-bench.jsonl]
    #[arg(long, global = true)]
    pub json: Option<PathBuf>,
    /// Write the tables to this file [default: all: roomcast-bench.md]
    #[arg(long, global = true)]
    pub markdown: Option<PathBuf>,
}

impl Common {
    /// Refuses what cannot be measured, naming the option.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |text: String| Err(Failure::Usage(text));
        if let Some(bytes) = self.bytes.filter(|bytes| *bytes < MARK_BYTES) {
            return wrong(format!("--bytes {bytes}: the mark alone takes {MARK_BYTES}"));
        }
        if self.threads == 0 || self.connecting == 0 {
            return wrong("--threads and --connecting must be at least 1".to_owned());
        }
        let seconds = [("--secs", self.secs), ("--warm-up", self.warm_up), ("--count-secs", self.count_secs)];
        for (name, value) in seconds {
            if !(0.0..=86_400.0).contains(&value) {
                return wrong(format!("{name} {value}: give seconds from 0 to 86400"));
            }
        }
        if self.secs <= 0.0 {
            return wrong("--secs must be above 0".to_owned());
        }
        Ok(())
    }

    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    pub fn source(&self) -> Result<Source, Failure> {
        let binary = match &self.bin {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("roomcast"),
        };
        let running = match &self.url {
            None => None,
            Some(url) => Some((address_of(url)?, self.pid)),
        };
        Ok(Source { binary, arguments: self.server_arg.clone(), running })
    }
}

fn address_of(url: &str) -> Result<SocketAddrV4, Failure> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default().replace("localhost", "127.0.0.1");
    host.parse().map_err(|_| {
        Failure::Usage(format!("--url {url}: give an IPv4 address and a port, as 127.0.0.1:8080"))
    })
}

impl Talk {
    pub fn shapes(&self, default: &[Shape]) -> Vec<Shape> {
        if self.shape.is_empty() { default.to_vec() } else { self.shape.clone() }
    }

    /// What was asked for; the defaults only when nothing was.
    pub fn paces(&self, windows: &[u32], rates: &[f64]) -> Vec<Pace> {
        let asked = !self.window.is_empty() || !self.rate.is_empty();
        let (windows, rates) = if asked { (&self.window[..], &self.rate[..]) } else { (windows, rates) };
        windows
            .iter()
            .map(|window| Pace::Window(*window))
            .chain(rates.iter().map(|rate| Pace::Rate(*rate)))
            .collect()
    }

    pub fn check(&self) -> Result<(), Failure> {
        if self.window.contains(&0) || self.rate.iter().any(|rate| *rate <= 0.0) {
            return Err(Failure::Usage("--window and --rate must be above 0".to_owned()));
        }
        Ok(())
    }
}

/// So many rooms of so many members, written `100x100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub rooms: usize,
    pub members: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (rooms, members) = text.split_once(['x', '×'])?;
            let shape = Self { rooms: rooms.parse().ok()?, members: members.parse().ok()? };
            (shape.rooms > 0 && shape.members > 0).then_some(shape)
        };
        parse().ok_or_else(|| format!("{text}: write ROOMSxMEMBERS, as 100x100"))
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} × {}", self.rooms, self.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn shapes_are_read_and_nonsense_is_told() {
        assert_eq!("100x20".parse(), Ok(Shape { rooms: 100, members: 20 }));
        for wrong in ["", "100", "0x5", "5x0", "ax1", "1x2x3"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_that_was_asked_for_replaces_the_default_windows() {
        let talk = Talk { rate: vec![100.0], ..Talk::default() };
        assert!(matches!(talk.paces(&[1, 4], &[])[..], [Pace::Rate(100.0)]));
        assert_eq!(Talk::default().paces(&[1, 4], &[]).len(), 2);
    }

    #[test]
    fn urls_may_have_a_scheme_and_a_path() {
        for url in ["ws://127.0.0.1:80/v1/ws", "localhost:80", "127.0.0.1:80"] {
            assert_eq!(address_of(url).expect(url).port(), 80);
        }
        assert!(address_of("example.com").is_err());
    }
}
