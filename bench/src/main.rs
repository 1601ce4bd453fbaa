//! roomcast-bench: what Roomcast costs, measured on the machine it runs on, with every delivery checked. Hands over to
//! the scenarios; nothing else.

mod client;
mod doors;
mod durable;
mod failure;
mod figures;
mod floor;
mod histogram;
mod marker;
mod measure;
mod options;
mod progress;
mod report;
mod scenarios;
mod server;
mod sys;
mod tally;
mod wire;

use std::net::TcpListener;
use std::process::ExitCode;

use clap::Parser;

use failure::Failure;
use options::{Options, Scenario};

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.scenario {
        Scenario::FloorServer { listen, batched } => serve_floor(*listen, *batched),
        _ => scenarios::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("roomcast-bench: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn serve_floor(listen: std::net::SocketAddrV4, batched: bool) -> Result<bool, Failure> {
    sys::raise_descriptor_limit();
    floor::serve(&TcpListener::bind(listen)?, batched)?;
    Ok(true)
}
