//! Processes of a story: how they are started, stopped for a while, killed, and found by their connections.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A child that is killed when this is dropped.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program whose output goes into a file of the folder.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Process {
        let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let log = log.expect("the folder can be written");
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a file can be shared")).stdout(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{:?}: {error}; tests/all installs what is missing", command.get_program())
        });
        Process { child, name: name.to_owned() }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; none while it runs.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Ends it as `kill -9` does. It may not have ended by itself.
    pub fn kill(&mut self) {
        let ended = self.has_ended();
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.name);
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Stops it without closing anything, as a machine that hangs.
    pub fn freeze(&self) {
        signal(self.pid(), "-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(self.pid(), "-CONT");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already, by the story's own hand.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a signal to a process that is there.
pub fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.expect("kill can be run").success(), "there is no process {pid}");
}

/// Which of these processes has which connection of 127.0.0.1, by its local port.
pub fn owners(pids: &[u32]) -> HashMap<u16, u32> {
    let inodes = inodes();
    let mut owners = HashMap::new();
    for pid in pids {
        // A process that has just ended has no list any more.
        let Ok(list) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let links = list.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let sockets = links.filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inodes.get(inode).copied()
        });
        owners.extend(sockets.map(|port| (port, *pid)));
    }
    owners
}

/// The local ports of the connections of 127.0.0.1 that stand, by their inodes (proc(5), `/proc/net/tcp`).
fn inodes() -> HashMap<String, u16> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has a table of connections");
    let port = |line: &str| {
        // The fields are: number, local and remote address, state (01: established), …, the inode as the tenth.
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next()?.strip_prefix("0100007F:")?, fields.nth(1)?);
        let inode = fields.nth(5)?;
        (state == "01").then_some(())?;
        Some((inode.to_owned(), u16::from_str_radix(local, 16).ok()?))
    };
    table.lines().filter_map(port).collect()
}
