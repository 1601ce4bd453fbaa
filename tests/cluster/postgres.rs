//! A PostgreSQL of a story: the archive that all nodes share.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use roomcast_rig::server::free_port;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::processes::Process;

/// A server process in a temporary folder: one that its owner reaches, who is never root.
pub struct Postgres {
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

fn programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.map(|entry| entry.path()).max();
    newest.expect("PostgreSQL is installed; tests/all does that").join("bin")
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What `id` says about a user.
fn id(words: &[&str]) -> u32 {
    let output = output(Command::new("id").args(words));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("id tells a number")
}

/// The server refuses to run as root.
fn as_owner(program: &Path) -> Command {
    if id(&["-u"]) != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

impl Postgres {
    /// A new server; it answers.
    pub async fn start() -> Postgres {
        let folder = tempfile::tempdir().expect("temporary files can be made");
        if id(&["-u"]) == 0 {
            let (user, group) = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
            chown(folder.path(), Some(user), Some(group)).expect("root may do that");
        }
        output(
            as_owner(&programs().join("initdb"))
                .args(["--no-sync", "-A", "trust", "-U", "roomcast", "-E", "UTF8", "--locale=C", "-D"])
                .arg(folder.path().join("data"))
                .current_dir(folder.path()),
        );
        let mut postgres = Postgres { port: free_port(), folder, process: None };
        postgres.comes_back().await;
        postgres
    }

    /// What nodes have as `store.url`.
    pub fn url(&self) -> String {
        format!("postgres://roomcast@127.0.0.1:{}/postgres", self.port)
    }

    /// What a statement answers, columns with `|` between; none when it does not answer.
    pub fn sql(&self, sql: &str) -> Option<String> {
        let told = Command::new(programs().join("psql"))
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &self.url()])
            .output()
            .expect("psql can be run");
        let text = String::from_utf8_lossy(&told.stdout).trim_end().to_owned();
        told.status.success().then_some(text)
    }

    /// Kills it as a crash of its machine would.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Starts it again, on what it had written.
    pub async fn comes_back(&mut self) {
        let folder = self.folder.path().to_owned();
        let answers = async || {
            // What is left of a killed one may be in the way of the new one for a moment; then it ends at once.
            if self.process.as_mut().is_none_or(|process| process.has_ended().is_some()) {
                self.process = Some(run(&folder, self.port));
            }
            let ready = Command::new(programs().join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-U", "roomcast", "-p", &self.port.to_string()])
                .status();
            let ready = ready.expect("pg_isready can be run").success();
            TcpStream::connect(("127.0.0.1", self.port)).await.ok().filter(|_| ready).map(|_| ())
        };
        roomcast_rig::eventually("PostgreSQL to answer", answers).await;
    }
}

fn run(folder: &Path, port: u16) -> Process {
    let mut command = as_owner(&programs().join("postgres"));
    command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string()]);
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    Process::start("postgres", command.current_dir(folder), folder)
}
