//! What all scenarios share: the options, the report, a server for each case and the floor beside it.

use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Pace, Plan, Speakers};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::marker::PUBLISHERS_MAX;
use crate::measure::{self, Subject, Timing};
use crate::options::{Common, Shape};
use crate::progress::Progress;
use crate::report::{Case, Report};
use crate::server::process::{Owned, Server, Source, free_address};
use crate::sys;

/// Descriptors that the client needs beside its connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// Bytes of a payload where nothing else is said: a chat line.
const PAYLOAD_BYTES: usize = 128;

pub struct Bench {
    pub common: Common,
    pub report: Report,
    /// Bytes of each payload from now on.
    pub payload_bytes: usize,
    source: Source,
    descriptors: u64,
    runs: u32,
}

impl Bench {
    /// Checks the options and opens the report; `everything` also names the files of `all`.
    pub fn open(common: &Common, everything: bool) -> Result<Self, Failure> {
        common.check()?;
        let default = |path: &'static str| everything.then_some(Path::new(path));
        let markdown = common.markdown.as_deref().or(default("roomcast-bench.md"));
        let json = common.json.as_deref().or(default("roomcast-bench.jsonl"));
        Ok(Self {
            source: common.source()?,
            descriptors: sys::raise_descriptor_limit(),
            report: Report::open(markdown, json)?,
            payload_bytes: common.bytes.unwrap_or(PAYLOAD_BYTES),
            common: common.clone(),
            runs: std::process::id(),
        })
    }

    /// A plan with this run's own number and the common options.
    pub fn plan(
        &mut self,
        target: SocketAddrV4,
        shape: Shape,
        speakers: Speakers,
        pace: Pace,
    ) -> Result<Plan, Failure> {
        self.runs += 1;
        let plan = Plan {
            target,
            also: vec![],
            since: None,
            rooms: shape.rooms,
            listeners: shape.members,
            speakers,
            pace,
            payload_bytes: self.payload_bytes,
            stalled: 0,
            acknowledged: true,
            threads: self.common.threads,
            connecting_max: self.common.connecting,
            run: self.runs & 0xfff,
        };
        let needed = plan.connections() as u64 + SPARE_DESCRIPTORS;
        if needed > self.descriptors {
            let most = self.descriptors;
            return Err(Failure::Usage(format!(
                "{shape} needs {needed} open files and this process may have {most}: raise `ulimit -Hn`"
            )));
        }
        if plan.publishers() >= PUBLISHERS_MAX as usize {
            return Err(Failure::Usage(format!("{shape}: more than {PUBLISHERS_MAX} publishers")));
        }
        Ok(plan)
    }

    /// A fresh server (or the running one), with further arguments.
    pub fn server(&self, more: &[String]) -> Result<Server, Failure> {
        let mut server = Server::get(&self.source, more)?;
        server.door = server.door.or(self.common.door);
        Ok(server)
    }

    pub fn timing(&self) -> Timing {
        Timing {
            warm_up: Duration::from_secs_f64(self.common.warm_up),
            measured: self.common.measured(),
            counted: Duration::from_secs_f64(self.common.count_secs),
        }
    }

    pub fn case(&self, scenario: &'static str, name: &str, subject: &str, server: &str) -> Case {
        Case {
            scenario,
            name: name.to_owned(),
            subject: subject.to_owned(),
            server: server.to_owned(),
            payload_bytes: self.payload_bytes,
            client_threads: self.common.threads,
        }
    }

    /// Runs one plan and records it.
    pub fn measure(
        &mut self,
        case: &Case,
        plan: Plan,
        timing: Timing,
        subject: &Subject,
    ) -> Result<Figures, Failure> {
        let progress = Progress::new(&format!("{} {} ({})", case.scenario, case.name, case.subject));
        let figures = measure::run(plan, timing, subject, &progress).map_err(|failure| {
            Failure::Run(format!("{} {} ({}): {failure}", case.scenario, case.name, case.subject))
        })?;
        self.report.record(case, &figures.faults, figures.complaint.as_deref(), &figures)?;
        Ok(figures)
    }

    /// The same plan against the floor server; half the time is enough for a loop that does nothing else.
    pub fn measure_floor(
        &mut self,
        case: &Case,
        shape: Shape,
        speakers: Speakers,
        pace: Pace,
        batched: bool,
    ) -> Result<Figures, Failure> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor-server", "--listen", &address.to_string()]);
        command.args(batched.then_some("--batched"));
        let owned = Owned::start("the floor server", &mut command)?;
        wait_listening(address)?;
        let mut plan = self.plan(address, shape, speakers, pace)?;
        plan.acknowledged = false;
        let subject = Subject { pids: vec![owned.pid()], ..Subject::default() };
        let timing = Timing { measured: self.common.measured() / 2, ..self.timing() };
        let kind = if batched { "floor, batched" } else { "floor, one send each" };
        let case = Case { subject: kind.to_owned(), server: String::new(), ..case.clone() };
        self.measure(&case, plan, timing, &subject)
    }
}

/// Waits until somebody listens there.
pub fn wait_listening(address: SocketAddrV4) -> Result<(), Failure> {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(Failure::Missing(format!("nobody listens at {address}")));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}
