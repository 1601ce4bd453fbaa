//! A NATS server with JetStream as a process that can be killed and started again on what it had written. Knows no
//! stream.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::server::free_port;

/// It is killed when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    /// Its port.
    pub port: u16,
    files: TempDir,
    process: Child,
}

fn spawn(port: u16, files: &Path) -> Child {
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(files);
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("nats-server is on the path (Debian package nats-server)")
}

impl NatsServer {
    /// It may not listen yet.
    pub fn start() -> NatsServer {
        let (port, files) = (free_port(), tempfile::tempdir().expect("a folder for its files"));
        NatsServer { port, process: spawn(port, files.path()), files }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it as a crash of its machine would.
    pub fn kill(&mut self) {
        self.process.kill().expect("a child can be killed");
        self.process.wait().expect("a child can be waited for");
    }

    /// Starts it again, on what it had written.
    pub fn restart(&mut self) {
        self.process = spawn(self.port, self.files.path());
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It may be dead already, by the story's own hand.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
