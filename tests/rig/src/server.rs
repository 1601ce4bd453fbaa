//! The real server as a process that can be killed and started again on the same port and the same store.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{PATIENCE, eventually, within};

/// How to start the server.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program under test.
    pub program: PathBuf,
    /// Where it runs, and where its log goes.
    pub home: PathBuf,
    /// Its port.
    pub port: u16,
    /// `--store`.
    pub store: String,
    /// Keys of the configuration: `rooms.keep=2s`.
    pub settings: Vec<String>,
    /// Text of its config.toml.
    pub file: String,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// A command that runs the command after it: `nsenter …`.
    pub wrapper: Vec<String>,
}

impl Setup {
    /// A server with its store in `home`, open to guests, with a closed door and no limits that a test of many
    /// messages would meet.
    pub fn new(program: impl Into<PathBuf>, home: &Path) -> Setup {
        let settings = ["demo.enabled=on", "queue.door.listen=", "limits.messages_per_second=0"];
        Setup {
            program: program.into(),
            home: home.to_owned(),
            port: free_port(),
            store: format!("sqlite://{}", home.join("roomcast.db").display()),
            settings: settings.map(str::to_owned).to_vec(),
            file: String::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    /// The same with a key of the configuration set.
    pub fn with(mut self, setting: &str) -> Setup {
        self.settings.push(setting.to_owned());
        self
    }

    /// A command of the program, for example `["verify"]`, with the same configuration.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut parts = self.wrapper.iter().map(PathBuf::from).chain([self.program.clone()]);
        let mut command = Command::new(parts.next().expect("there is a program"));
        command.args(parts).args(words).current_dir(&self.home).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let theirs = name.to_str().is_some_and(|name| name.starts_with("ROOMCAST__"));
            if theirs || ["RUST_LOG", "PORT", "REDIS_URL", "DATABASE_URL"].iter().any(|other| name == *other)
            {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// How it is started; changes count from the next start on.
    pub setup: Setup,
    child: Option<Child>,
}

/// A port that nobody listens on, another one with every call. It is outside of the range that the system gives
/// out by itself, so that it is still free when the server comes back after a kill.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    // Held while a port is tried: a story that tries one beside would find it taken.
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = rand::rng().random_range(12_000..32_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}

impl Server {
    /// A server that is not running yet.
    pub fn new(setup: Setup) -> Server {
        Server { setup, child: None }
    }

    /// The same, started and ready.
    pub async fn start(setup: Setup) -> Server {
        let mut server = Server::new(setup);
        server.spawn();
        server.is_ready().await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.setup.port).into()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was started").id()
    }

    /// Starts the process; it is not ready yet.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let setup = &self.setup;
        let file = setup.home.join("config.toml");
        std::fs::write(&file, &setup.file).expect("the home can be written");
        let mut command = setup.command(&["serve", "--store", &setup.store, "--listen"]);
        command.arg(self.address().to_string()).arg("--config").arg(&file);
        for setting in &setup.settings {
            command.args(["--set", setting]);
        }
        let log = self.log_file();
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    fn log_file(&self) -> File {
        let path = self.setup.home.join("server.log");
        OpenOptions::new().create(true).append(true).open(path).expect("the home can be written")
    }

    /// All that it has printed in all of its lives.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.setup.home.join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `/readyz` says 200.
    pub async fn is_ready(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let address = self.address();
            let ready = async || (get(address, "/readyz").await?.0 == 200).then_some(());
            if within(Duration::from_millis(200), ready).await.is_some() {
                return;
            }
            if let Some(status) = self.has_ended() {
                panic!("the server ended at its start with {status}; its log:\n{}", self.last_words());
            }
            assert!(
                Instant::now() < end,
                "the server does not become ready; its log:\n{}",
                self.last_words()
            );
        }
    }

    /// The status of a path such as `/readyz`; none when there is no answer.
    pub async fn status(&self, path: &str) -> Option<u16> {
        Some(get(self.address(), path).await?.0)
    }

    /// Waits until a path answers with this status.
    pub async fn says(&self, path: &str, status: u16) {
        let what = format!("{path} says {status}");
        eventually(&what, async || (self.status(path).await == Some(status)).then_some(())).await;
    }

    /// The exit status of a server that has ended by itself.
    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be asked")
    }

    /// Ends it as `kill -9` does: in the middle of whatever it does. It may have ended by itself, which is a
    /// failure.
    pub fn kill(&mut self) {
        if let Some(status) = self.has_ended() {
            panic!("the server ended by itself with {status}; its log:\n{}", self.last_words());
        }
        let mut child = self.child.take().expect("the server was started");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Waits for the end of a server that ends by itself, or that somebody else kills: its status.
    pub async fn is_dead(&mut self) -> ExitStatus {
        let look = || {
            let ended = self.has_ended();
            async move { ended }
        };
        let status = eventually("the end of the server", look).await;
        self.child = None;
        status
    }

    /// Stops it politely (SIGTERM) and waits for its end, which has to be a good one.
    pub async fn stop(&mut self) {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "the server is gone already");
        let mut child = self.child.take().expect("the server was started");
        let look = || {
            let ended = child.try_wait().expect("a child can be asked");
            async move { ended }
        };
        let status = eventually("the end of the server", look).await;
        assert!(status.success(), "the server ended with {status}; its log:\n{}", self.last_words());
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // They fail only when it has ended by itself.
        child.kill().ok();
        child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- the server's last words ---\n{}", self.last_words());
        }
    }
}

/// One HTTP request over a connection of its own: status and body; none when the server is not there.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    call(address, "GET", path, "").await
}

/// The same with another method and a body.
pub async fn call(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let asking = async {
        let mut socket = TcpStream::connect(address).await.ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    timeout(Duration::from_secs(10), asking).await.ok()?
}
