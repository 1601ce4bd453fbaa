//! The hall: a real server process on a port of its own, in an empty folder, with nothing in its environment.
//! It is killed when the story is over, however it ends; after a failure its log is shown.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::guest::Guest;
use super::http::{Answer, read_head};
use super::wire::Wire;
use super::{PATIENCE, eventually};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_roomcast");

/// A running server.
pub struct Hall {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    copies: Vec<JoinHandle<()>>,
    /// The folder that it runs in; gone with it.
    home: tempfile::TempDir,
    /// Flags of a server that can be started again.
    flags: Vec<String>,
}

/// The program in an empty folder, without anything of this process's environment that it would read.
pub fn program(path: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(path);
    command.current_dir(home).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let is_read =
            |name: &str| name == "RUST_LOG" || name.starts_with("ROOMCAST__") || name.starts_with("OTEL_");
        let theirs = name.to_str().is_some_and(is_read);
        if theirs {
            command.env_remove(name);
        }
    }
    command
}

impl Hall {
    /// A hall with the defaults.
    pub async fn open() -> Hall {
        Hall::with(&[]).await
    }

    /// A hall with some keys of the configuration set: `limits.ping=1s`.
    pub async fn with(settings: &[&str]) -> Hall {
        Hall::with_flags(settings, &[]).await
    }

    /// The same with other flags of the command line.
    pub async fn with_flags(settings: &[&str], flags: &[&str]) -> Hall {
        let home = tempfile::tempdir().expect("a folder for the hall");
        let mut command = program(PROGRAM, home.path());
        command.args(["--listen", "127.0.0.1:0", "--set", "queue.door.listen="]).args(flags);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Hall::run(command, home).await
    }

    /// A hall whose rooms are kept in its folder, so that they outlive the server.
    pub async fn stored(settings: &[&str]) -> Hall {
        Hall::stored_at(0, settings).await
    }

    /// The same on a port that somebody has to know before; 0 for any.
    pub async fn stored_at(port: u16, settings: &[&str]) -> Hall {
        let home = tempfile::tempdir().expect("a folder for the hall");
        let store = format!("sqlite://{}/roomcast.db", home.path().display());
        let listen = format!("127.0.0.1:{port}");
        let mut flags: Vec<String> = ["--listen", &listen, "--store", &store].map(str::to_owned).into();
        // Guests of such a hall do not always answer its close.
        for setting in ["queue.door.listen=", "server.drain=1s"].iter().chain(settings) {
            flags.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        let mut command = program(PROGRAM, home.path());
        command.args(&flags);
        let mut hall = Hall::run(command, home).await;
        hall.flags = flags;
        hall
    }

    /// Runs another command of the program on the folder of a hall that is stored; what it printed.
    pub fn runs(&self, words: &[&str]) -> String {
        let store = format!("store.url=sqlite://{}/roomcast.db", self.home.path().display());
        let mut command = program(PROGRAM, self.home.path());
        let output = command.args(["--set", &store]).args(words).output().expect("the program runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {out}\n{err}");
        out.into_owned()
    }

    /// Stops the server as a process manager does, and starts it again on the same folder.
    pub async fn restarts(&mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{status}");
        self.starts_again().await;
    }

    /// Kills the server in the middle of everything (`kill -9`), and starts it again on the same folder.
    pub async fn crashes(&mut self) {
        self.child.kill().expect("it runs");
        self.ended().await;
        self.starts_again().await;
    }

    async fn starts_again(&mut self) {
        assert!(!self.flags.is_empty(), "only a hall that is stored can be started again");
        for copy in self.copies.drain(..) {
            copy.join().expect("what it printed could be read");
        }
        let mut command = program(PROGRAM, self.home.path());
        command.args(&self.flags);
        self.starts(command).await;
    }

    /// Any program that prints the start-up lines of a server.
    pub async fn run(mut command: Command, home: tempfile::TempDir) -> Hall {
        let child = command.spawn().expect("the program starts");
        let (address, log) = (([127, 0, 0, 1], 0).into(), Arc::default());
        let mut hall = Hall { child, address, log, copies: Vec::new(), home, flags: Vec::new() };
        hall.listens().await;
        hall
    }

    async fn starts(&mut self, mut command: Command) {
        self.child = command.spawn().expect("the program starts");
        self.listens().await;
    }

    /// Waits until the server that was just started is ready.
    async fn listens(&mut self) {
        let (tell, mut listening) = mpsc::unbounded_channel();
        let out = self.child.stdout.take().expect("piped");
        let err = self.child.stderr.take().expect("piped");
        self.copies = vec![copy(out, self.log.clone(), tell.clone()), copy(err, self.log.clone(), tell)];
        let Ok(Some(address)) = timeout(PATIENCE, listening.recv()).await else {
            panic!("the server did not say where it listens");
        };
        self.address = address;
        eventually("/readyz says 200", || async { (self.get("/readyz").await.status == 200).then_some(()) })
            .await;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that the server has printed so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // ---- guests ----

    /// Somebody who has said who he is, and is in no room.
    pub async fn enter(&self, name: &str) -> Guest {
        let wire = self.wire(&format!("/v1/ws?user={name}")).await;
        Guest::welcomed(wire, name).await
    }

    /// The same with a name that a URL cannot hold as it is.
    pub async fn enter_as(&self, name: &str) -> Guest {
        let mut guest = Guest::silent(self.wire("/v1/ws").await, name);
        guest.sends(serde_json::json!({"t": "hello", "v": 1, "u": name}).to_string()).await;
        assert_eq!(guest.hears_a("welcome").await.text("u"), name);
        guest
    }

    /// Somebody who is in a room.
    pub async fn join(&self, room: &str, name: &str) -> Guest {
        let mut guest = self.enter(name).await;
        guest.joins(room).await;
        guest
    }

    /// Somebody with a token in the URL.
    pub async fn enter_with(&self, token: &str, name: &str) -> Guest {
        let wire = self.wire(&format!("/v1/ws?token={token}")).await;
        Guest::welcomed(wire, name).await
    }

    /// A WebSocket connection; fails when the server refuses it.
    pub async fn wire(&self, path: &str) -> Wire {
        self.knock(path, &[]).await.unwrap_or_else(|answer| panic!("not let in: {answer:?}"))
    }

    /// Asks for a WebSocket connection with headers of one's own.
    pub async fn knock(&self, path: &str, headers: &[(&str, &str)]) -> Result<Wire, Answer> {
        Wire::upgrade(self.socket().await, self.address, path, headers).await
    }

    /// A bare TCP connection.
    pub async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    // ---- HTTP ----

    pub async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))
            .await
    }

    /// Pushes a message as a backend on this machine does.
    pub async fn publish(&self, body: &serde_json::Value) -> Answer {
        self.call("POST", "/api/publish", &body.to_string()).await
    }

    /// Asks as a backend on this machine does.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.request(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ))
        .await
    }

    /// Sends a request as it is.
    pub async fn request(&self, request: &str) -> Answer {
        let mut socket = self.socket().await;
        socket.write_all(request.as_bytes()).await.expect("the server reads the request");
        let (head, rest) = read_head(&mut socket).await;
        head.with_body(rest, &mut socket).await
    }

    /// The figures by name and labels: `roomcast_deliveries_dropped_total{reason="slow"}`.
    pub async fn figures(&self) -> BTreeMap<String, f64> {
        let text = self.get("/metrics").await.body;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        samples.map(|line| read(line).unwrap_or_else(|| panic!("no figure: {line}"))).collect()
    }

    /// One figure; fails when there is no such.
    pub async fn figure(&self, name: &str) -> f64 {
        let figures = self.figures().await;
        *figures.get(name).unwrap_or_else(|| panic!("no figure {name} in {figures:#?}"))
    }

    /// Waits until a figure is what it should be.
    pub async fn figure_becomes(&self, name: &str, right: impl Fn(f64) -> bool) -> f64 {
        eventually(name, || async { Some(self.figure(name).await).filter(|value| right(*value)) }).await
    }

    /// Memory of the server that is in use, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells VmRSS");
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB");
        kib << 10
    }

    // ---- the end ----

    /// Sends the server a signal: `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "the server is gone already");
    }

    /// Waits for the server's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        let look = || async {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            child.try_wait().expect("a child can be asked")
        };
        eventually("the end of the server", look).await
    }
}

/// Copies what the server prints; `tell` hears the address that it listens on.
fn copy(
    from: impl Read + Send + 'static,
    log: Arc<Mutex<String>>,
    tell: mpsc::UnboundedSender<SocketAddr>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let address = line.split_once("listening  http://").map(|(_, rest)| rest);
            let address = address.and_then(|rest| rest.split([' ', ',']).next()?.parse().ok());
            if let Some(address) = address {
                // Nobody waits any more only when the story has failed already.
                tell.send(address).ok();
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    })
}

impl Drop for Hall {
    fn drop(&mut self) {
        // They fail only when the server has ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
        for copy in self.copies.drain(..) {
            copy.join().ok();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the server's last words ---\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}
