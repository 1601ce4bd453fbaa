//! The scenarios: which runs are made and how their figures are shown. Called by `main.rs`. `bench.rs` holds what they
//! share; a scenario knows plans and tables, no socket.

mod bench;
mod doors;
mod durable;
mod idle;
mod nodes;
mod queue;
mod slow;
mod talk;

use crate::failure::Failure;
use crate::options::{Options, Scenario};
use bench::Bench;

/// What `all` is made of; the floor stands beside the figures of the first two anyway.
const ALL: &[&str] = &["fan-out", "chat", "queue", "slow", "durable", "idle", "nodes", "doors"];

/// Runs the scenario that was asked for; true when all that was heard was right.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let everything = matches!(options.scenario, Scenario::All);
    let mut bench = Bench::open(&options.common, everything)?;
    run_one(&mut bench, &options.scenario)?;
    Ok(!bench.report.faulty())
}

fn run_one(bench: &mut Bench, scenario: &Scenario) -> Result<(), Failure> {
    match scenario {
        Scenario::FanOut(talk) => talk::fan_out(bench, talk),
        Scenario::Chat(talk) => talk::chat(bench, talk),
        Scenario::Floor(talk) => talk::floor(bench, talk),
        Scenario::Idle(idle) => idle::run(bench, idle),
        Scenario::Queue(queue) => queue::run(bench, queue),
        Scenario::Slow(slow) => slow::run(bench, slow),
        Scenario::Nodes(nodes) => nodes::run(bench, nodes),
        Scenario::Doors(doors) => doors::run(bench, doors),
        Scenario::Durable(durable) => durable::run(bench, durable),
        Scenario::All => ALL.iter().try_for_each(|name| run_one(bench, &Scenario::plain(name))),
        // main runs it before a report is opened.
        Scenario::FloorServer { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_scenarios_that_exist_and_not_itself() {
        for name in ALL {
            assert!(!matches!(Scenario::plain(name), Scenario::All | Scenario::FloorServer { .. }), "{name}");
        }
    }
}
