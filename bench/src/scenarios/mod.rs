//! The scenarios: which runs are made and how their figures are shown. Called by `main.rs`. `bench.rs` holds what they
//! share; a scenario knows plans and tables, no socket.

mod bench;
mod idle;
mod queue;
mod slow;
mod talk;

use crate::failure::Failure;
use crate::options::{Idle, Options, Queue, Scenario, Slow, Talk};
use bench::Bench;

/// Runs the scenario that was asked for; true when all that was heard was right.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let everything = matches!(options.scenario, Scenario::All);
    let mut bench = Bench::open(&options.common, everything)?;
    match &options.scenario {
        Scenario::FanOut(talk) => talk::fan_out(&mut bench, talk)?,
        Scenario::Chat(talk) => talk::chat(&mut bench, talk)?,
        Scenario::Floor(talk) => talk::floor(&mut bench, talk)?,
        Scenario::Idle(idle) => idle::run(&mut bench, idle)?,
        Scenario::Queue(queue) => queue::run(&mut bench, queue)?,
        Scenario::Slow(slow) => slow::run(&mut bench, slow)?,
        Scenario::All => {
            talk::fan_out(&mut bench, &Talk::default())?;
            talk::chat(&mut bench, &Talk::default())?;
            queue::run(&mut bench, &Queue::default())?;
            slow::run(&mut bench, &Slow::default())?;
            idle::run(&mut bench, &Idle::default())?;
        }
        // Handled by main before a report is opened.
        Scenario::FloorServer { .. } => {}
    }
    Ok(!bench.report.faulty())
}
