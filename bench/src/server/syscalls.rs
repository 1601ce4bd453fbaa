//! Counts a process's system calls with the kernel's own trace points (perf_event_open), which costs some 100 ns a call
//! where strace costs microseconds. Used for a slice after the measured window, so that the CPU figures stay clean.
//! Needs root or a low `kernel.perf_event_paranoid`; without it there is no count, and the report says so.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

use serde::Serialize;

use super::procfs;

/// Where the kernel lists its trace points.
const EVENTS: &str = "/sys/kernel/tracing/events/syscalls";
const WRITES: &[&str] = &["sendto", "sendmsg", "sendmmsg", "write", "writev"];
const READS: &[&str] = &["recvfrom", "recvmsg", "read", "readv"];
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2"];
const FUTEXES: &[&str] = &["futex"];
const SYNCS: &[&str] = &["fsync", "fdatasync"];

/// System calls by kind. `writes` and `reads` count those to files and wake-up descriptors as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    pub writes: u64,
    pub reads: u64,
    pub waits: u64,
    pub futexes: u64,
    pub syncs: u64,
}

/// Counters on all threads that the processes had when it was made.
pub struct CallCounter {
    counters: Vec<(Kind, File)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Writes,
    Reads,
    Waits,
    Futexes,
    Syncs,
}

impl CallCounter {
    /// Starts counting; `None` where the kernel does not let us.
    pub fn start(pids: &[u32]) -> Option<Self> {
        let groups = [
            (Kind::Writes, WRITES),
            (Kind::Reads, READS),
            (Kind::Waits, WAITS),
            (Kind::Futexes, FUTEXES),
            (Kind::Syncs, SYNCS),
        ];
        let mut counters = vec![];
        for (kind, names) in groups {
            for event in names.iter().filter_map(|name| event_number(name)) {
                for thread in pids.iter().flat_map(|pid| procfs::threads(*pid)) {
                    counters.push((kind, open(event, thread)?));
                }
            }
        }
        (!counters.is_empty()).then_some(Self { counters })
    }

    /// Calls since the start.
    pub fn read(&mut self) -> Calls {
        let mut calls = Calls::default();
        for (kind, file) in &mut self.counters {
            let mut value = [0; 8];
            // A counter whose thread has ended still answers; one that does not has nothing to add.
            let count = file.read_exact(&mut value).map_or(0, |()| u64::from_ne_bytes(value));
            match kind {
                Kind::Writes => calls.writes += count,
                Kind::Reads => calls.reads += count,
                Kind::Waits => calls.waits += count,
                Kind::Futexes => calls.futexes += count,
                Kind::Syncs => calls.syncs += count,
            }
        }
        calls
    }
}

fn event_number(name: &str) -> Option<u64> {
    fs::read_to_string(format!("{EVENTS}/sys_enter_{name}/id")).ok()?.trim().parse().ok()
}

fn open(event: u64, thread: u32) -> Option<File> {
    /// `PERF_TYPE_TRACEPOINT`.
    const TRACEPOINT: u32 = 2;
    /// `PERF_ATTR_SIZE_VER0`: the first eight words, all that a plain count needs.
    const SIZE: u32 = 64;
    /// `PERF_FLAG_FD_CLOEXEC`.
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    // struct perf_event_attr: u32 type, u32 size, u64 config, and zeroes: no sampling, counting from now on.
    let attributes: [u64; 8] = [u64::from(TRACEPOINT) | u64::from(SIZE) << 32, event, 0, 0, 0, 0, 0, 0];
    // SAFETY: the attributes are live, 64 bytes long and say so; the new descriptor is owned at once.
    unsafe {
        let any_core = -1;
        let no_group = -1;
        let fd = libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            thread as i32,
            any_core,
            no_group,
            CLOSE_ON_EXEC,
        );
        (fd >= 0).then(|| File::from_raw_fd(fd as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_writes_are_counted_where_the_kernel_allows_it() {
        let Some(mut counter) = CallCounter::start(&[std::process::id()]) else {
            eprintln!("no trace points for this user; nothing to check");
            return;
        };
        let before = counter.read();
        for _ in 0..100 {
            fs::write("/dev/null", b"x").expect("/dev/null takes everything");
        }
        let after = counter.read();
        assert!(after.writes - before.writes >= 100, "{before:?} {after:?}");
    }
}
