//! A PostgreSQL of the tests' own: on a free port, in a temporary folder, ended with the test.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use roomcast::store::postgres::address::PostgresUrl;
use roomcast_rig::server::free_port;
use tempfile::TempDir;

/// Longest that anything awaited may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something, looking every few milliseconds.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server process with a folder of its own.
pub struct Server {
    pub port: u16,
    folder: TempDir,
    options: Vec<String>,
    process: Mutex<Child>,
}

/// The folder of the newest programs.
fn programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.map(|entry| entry.path()).max();
    newest.expect("no PostgreSQL is installed; on Debian: apt-get install postgresql").join("bin")
}

/// A command that runs as somebody who is not root: the server refuses to run as root.
fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    let told = Command::new("id").arg("-u").output().expect("id is there");
    told.stdout == b"0\n"
}

fn id_of(what: &str, name: &str) -> u32 {
    let told = Command::new("getent").args([what, name]).output().expect("getent is there");
    let line = String::from_utf8(told.stdout).unwrap();
    line.split(':').nth(2).and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no {what} {name}"))
}

impl Server {
    /// One with further options, for example `["-c", "fsync=off"]`; it answers already.
    pub fn start(options: &[&str]) -> Server {
        Server::start_on(&[], options)
    }

    /// The same with files (name, content) in its folder, for example a certificate.
    pub fn start_on(files: &[(&str, Vec<u8>)], options: &[&str]) -> Server {
        env_logger::builder().is_test(true).try_init().ok();
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(id_of("passwd", "nobody")), Some(id_of("group", "nogroup"))).unwrap();
        }
        let data = folder.path().join("data");
        let made = as_nobody(&programs().join("initdb"))
            .args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        for (name, content) in files {
            let path = data.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            if is_root() {
                chown(&path, Some(id_of("passwd", "nobody")), Some(id_of("group", "nogroup"))).unwrap();
            }
        }
        let port = free_port();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let process = Mutex::new(run(folder.path(), port, &options));
        let server = Server { port, folder, options, process };
        server.answers();
        server
    }

    /// Waits until it answers; starts it again if what is left of the one before is still in its way.
    fn answers(&self) {
        eventually("PostgreSQL to answer", || {
            let mut process = self.process.lock().unwrap();
            if process.try_wait().unwrap().is_some() {
                *process = run(self.folder.path(), self.port, &self.options);
            }
            drop(process);
            self.try_sql("postgres", "SELECT 1").ok()
        });
    }

    /// The address of a database in it.
    pub fn url(&self, database: &str) -> PostgresUrl {
        PostgresUrl::parse(&self.address(database)).unwrap()
    }

    pub fn address(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let told = Command::new(programs().join("psql"))
            .args(["-X", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"])
            .args(["-v", "ON_ERROR_STOP=1", "-At", "-c", sql, "-d", database])
            .output()
            .expect("psql runs");
        match told.status.success() {
            true => Ok(String::from_utf8(told.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&told.stderr).into_owned()),
        }
    }

    /// What a statement answers, columns with `|` between.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs one of PostgreSQL's own programs against a database: what it prints.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let told = Command::new(programs().join(program))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(told.status.success(), "{program}: {}", String::from_utf8_lossy(&told.stderr));
        told.stdout
    }

    /// Kills it as a crash of its machine would: the server, and with it all its processes.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts it again, on what it had written.
    pub fn restart(&self) {
        *self.process.lock().unwrap() = run(self.folder.path(), self.port, &self.options);
        self.answers();
    }

    /// Stops it and all its processes without closing connections, as a machine that hangs.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let server = self.process.lock().unwrap().id().to_string();
        let children =
            Command::new("ps").args(["-o", "pid=", "--ppid", &server]).output().expect("ps is there");
        let children = String::from_utf8(children.stdout).unwrap();
        let sent = Command::new("kill").arg(signal).arg(&server).args(children.split_whitespace()).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead or frozen already, by the test's own hand.
        let mut process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let pid = process.id().to_string();
        Command::new("kill").args(["-INT", &pid]).stderr(Stdio::null()).status().ok();
        let ended = (0..500).any(|_| {
            let ended = matches!(process.try_wait(), Ok(Some(_)));
            if !ended {
                std::thread::sleep(Duration::from_millis(10));
            }
            ended
        });
        if !ended {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

fn run(folder: &Path, port: u16, options: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    as_nobody(&programs().join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(options)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("postgres runs")
}

/// A database of a test's own, in a server that tests share: it runs as long as one of them does.
#[derive(Clone)]
pub struct Database {
    pub server: Arc<Server>,
    pub name: String,
}

impl Database {
    pub fn new() -> Database {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let server = shared.upgrade().unwrap_or_else(|| Arc::new(Server::start(&["-c", "fsync=off"])));
        *shared = Arc::downgrade(&server);
        drop(shared);
        Database::on(server)
    }

    /// One in a server of the test's own.
    pub fn on(server: Arc<Server>) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        Database { server, name }
    }

    pub fn url(&self) -> PostgresUrl {
        self.server.url(&self.name)
    }

    pub fn address(&self) -> String {
        self.server.address(&self.name)
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }
}
