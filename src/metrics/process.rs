//! The usual figures of a process, as far as /proc has them. A figure that is not to be had is left out.
//! Asked by the table.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::sheet::Sheet;

/// Clock ticks per second in /proc: fixed at 100 by Linux for what programs see, whatever the kernel uses.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process's figures, under the names that Prometheus clients share.
pub fn figures(sheet: &mut Sheet, started: SystemTime) {
    if let Some(seconds) = cpu_seconds() {
        sheet.seconds("process_cpu_seconds", "CPU time of this process", true, seconds);
    }
    if let Some(kib) = status_kib("VmRSS:") {
        sheet.gauge("process_resident_memory_bytes", "Memory in use", kib * 1024);
    }
    if let Ok(list) = std::fs::read_dir("/proc/self/fd") {
        // The listing itself is one of them.
        let open = (list.count() as u64).saturating_sub(1);
        sheet.gauge("process_open_fds", "Open file descriptors", open);
    }
    if let Ok(age) = started.duration_since(UNIX_EPOCH) {
        sheet.seconds(
            "process_start_time_seconds",
            "Start of this process, Unix time",
            false,
            age.as_secs_f64(),
        );
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets and may contain blanks; user and system time are
    // the 14th and 15th, so the 12th and 13th after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn status_kib(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
