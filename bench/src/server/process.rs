//! The server under test: started here on free ports with its limits open, or one that runs already. Owns the child and
//! its scratch folder; both end with the value.

use std::fs::{self, File};
use std::net::{SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http;
use crate::failure::Failure;
use crate::sys;

/// How long a server may take to get ready, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// Limits that would measure themselves. 0 means no limit.
const OPEN_LIMITS: &[&str] = &[
    "limits.messages_per_second=0",
    "limits.connections_per_address=0",
    "limits.connections=1000000",
    "limits.handshake=60s",
    "log.level=warn",
];

/// How to get a server.
#[derive(Clone, Debug)]
pub struct Source {
    /// The program to start.
    pub binary: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// A running server instead: its address, and its process if costs are wanted.
    pub running: Option<(SocketAddrV4, Option<u32>)>,
}

pub struct Server {
    pub address: SocketAddrV4,
    /// Where it speaks RESP; none for a running server, whose door is not known.
    pub door: Option<SocketAddrV4>,
    /// Processes whose costs count.
    pub pids: Vec<u32>,
    /// As typed, for the record.
    pub command: String,
    child: Option<Owned>,
}

/// A child process that ends with this value.
pub struct Owned {
    name: String,
    child: Child,
    folder: TempDir,
}

impl Server {
    pub fn get(source: &Source, more: &[String]) -> Result<Self, Failure> {
        let Some((address, pid)) = source.running else {
            return Self::start(source, more);
        };
        wait_ready(address, None)?;
        let command = format!("a running server at {address}");
        Ok(Self { address, door: None, pids: pid.into_iter().collect(), command, child: None })
    }

    fn start(source: &Source, more: &[String]) -> Result<Self, Failure> {
        if !source.binary.is_file() {
            let binary = source.binary.display();
            return Err(Failure::Missing(format!(
                "no server at {binary}: build it with `cargo build --release`, or name one with --bin or --url"
            )));
        }
        let (address, door) = (free_address()?, free_address()?);
        let mut arguments = vec!["serve".to_owned(), "--listen".to_owned(), address.to_string()];
        let door_setting = format!("queue.door.listen={door}");
        for setting in OPEN_LIMITS.iter().copied().chain([door_setting.as_str()]) {
            arguments.extend(["--set".to_owned(), setting.to_owned()]);
        }
        arguments.extend(source.arguments.iter().chain(more).cloned());
        let binary = source.binary.canonicalize()?;
        let mut owned = Owned::start("roomcast", Command::new(binary).args(&arguments))?;
        wait_ready(address, Some(&mut owned))?;
        let command = format!("roomcast {}", arguments.join(" "));
        Ok(Self { address, door: Some(door), pids: vec![owned.pid()], command, child: Some(owned) })
    }

    /// Ends a server that was started here.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.child.take().map_or(Ok(()), Owned::stop)
    }
}

impl Owned {
    /// Starts `command` in a scratch folder of its own, its output in files there.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("roomcast-bench-").tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: the closure makes one async-signal-safe call.
        unsafe { command.pre_exec(sys::die_with_parent) };
        let child =
            command.spawn().map_err(|error| Failure::Missing(format!("cannot start {name}: {error}")))?;
        Ok(Self { name: name.to_owned(), child, folder })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// An error when it has ended already.
    fn alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(Failure::Run(format!("{} ended with {status}:\n{}", self.name, self.last_words())))
            }
        }
    }

    /// Asks it to end and waits; what was a crash or a hang is an error.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.alive()?;
        sys::terminate(self.pid())?;
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return match status.success() {
                    true => Ok(()),
                    false => Err(Failure::Run(format!(
                        "{} answered SIGTERM with {status}:\n{}",
                        self.name,
                        self.last_words()
                    ))),
                };
            }
            sleep(Duration::from_millis(5));
        }
        Err(Failure::Run(format!("{} did not end within {PATIENCE:?} of SIGTERM", self.name)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at the moment.
pub fn free_address() -> Result<SocketAddrV4, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(SocketAddrV4::new([127, 0, 0, 1].into(), listener.local_addr()?.port()))
}

/// Waits until /readyz says 200.
fn wait_ready(address: SocketAddrV4, mut owned: Option<&mut Owned>) -> Result<(), Failure> {
    let asked = Instant::now();
    loop {
        let answer = match http::get(address, "/readyz") {
            Ok((200, _)) => return Ok(()),
            Ok((status, _)) => format!("status {status}"),
            Err(error) => error.to_string(),
        };
        if let Some(owned) = &mut owned {
            owned.alive()?;
        }
        if asked.elapsed() > PATIENCE {
            let words = owned.map(|owned| owned.last_words()).unwrap_or_default();
            return Err(Failure::Missing(format!(
                "{address} is not ready after {PATIENCE:?}: /readyz: {answer}\n{words}"
            )));
        }
        sleep(Duration::from_millis(10));
    }
}
