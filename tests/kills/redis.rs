//! A Redis server as a process, and one command at a time. Knows no key.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// A process that ends with this.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

/// Looks again and again until `look` finds something.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        thread::sleep(LOOK);
    }
}

/// It listens already.
pub fn start_redis(port: u16, folder: &Path) -> Killed {
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (Debian package redis-server)");
    let child = Killed(child);
    wait_until("redis listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    child
}

/// One command over a connection of its own; the answer as it stands on the wire.
pub fn redis(port: u16, words: &[&str]) -> String {
    let mut link = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    link.write_all(request.as_bytes()).unwrap();
    link.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    link.read_to_string(&mut answer).unwrap();
    answer
}
