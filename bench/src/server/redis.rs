//! A real Redis beside the server under test: started bare, and asked what it has done. Called by the scenarios that
//! need one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::process::{Owned, free_address};
use crate::failure::Failure;

/// How long it may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often each command was called, and the processor time of it all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Scripts, each of which may be about many messages or rooms.
    pub scripts: u64,
    /// Everything else that a client asked for; what scripts do is not counted.
    pub others: u64,
    pub cpu_s: f64,
}

impl Work {
    /// What was done between `earlier` and this one.
    pub fn since(&self, earlier: &Work) -> Work {
        Work {
            scripts: self.scripts - earlier.scripts,
            others: self.others - earlier.others,
            cpu_s: self.cpu_s - earlier.cpu_s,
        }
    }
}

/// Whether there is one.
pub fn is_installed() -> bool {
    Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A Redis that keeps nothing on disk, as bare as it gets.
pub fn start() -> Result<(Owned, SocketAddrV4), Failure> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--port", &address.port().to_string()]);
    let owned = Owned::start("redis-server", &mut command)?;
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        if begun.elapsed() > PATIENCE {
            return Err(Failure::Missing(format!("no Redis listens at {address}:\n{}", owned.last_words())));
        }
        sleep(Duration::from_millis(5));
    }
    Ok((owned, address))
}

/// What it has done so far.
pub fn work(address: SocketAddrV4) -> Result<Work, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let info = |stream: &mut TcpStream, section: &str| -> Result<String, Failure> {
        write!(stream, "INFO {section}\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head)?;
        let length: usize = head
            .strip_prefix('$')
            .and_then(|length| length.trim().parse().ok())
            .ok_or_else(|| Failure::Run(format!("Redis answered INFO with {head}")))?;
        let mut text = vec![0; length + 2];
        reader.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let stats = info(&mut stream, "commandstats")?;
    let cpu = info(&mut stream, "cpu")?;
    Ok(read_work(&stats, &cpu))
}

fn read_work(stats: &str, cpu: &str) -> Work {
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name, rest.split(',').next()?.parse::<u64>().ok()?))
    });
    let mut work = Work::default();
    for (name, calls) in calls {
        match name {
            "evalsha" | "eval" | "evalsha_ro" | "eval_ro" | "fcall" => work.scripts += calls,
            // Commands of scripts are counted under their names as well; these are what clients send.
            "subscribe" | "ssubscribe" | "wait" | "hello" | "script|load" => work.others += calls,
            _ => {}
        }
    }
    let seconds = |name: &str| -> f64 {
        let value = cpu.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    };
    work.cpu_s = seconds("used_cpu_user") + seconds("used_cpu_sys");
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_seconds_are_read() {
        let stats = "# Commandstats\r\ncmdstat_evalsha:calls=7,usec=9\r\ncmdstat_hset:calls=90,usec=1\r\n\
                     cmdstat_wait:calls=2,usec=3\r\n";
        let cpu = "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\nused_cpu_sys_children:9\r\n";
        let work = read_work(stats, cpu);
        assert_eq!(work, Work { scripts: 7, others: 2, cpu_s: 3.75 });
        assert_eq!(work.since(&work), Work::default());
    }
}
