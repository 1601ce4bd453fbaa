//! What a process costs, as /proc tells it: CPU, memory, context switches; and what the whole machine did meanwhile.
//! A process that has gone, or a file that may not be read, counts as zero.

use std::fs;

use serde::Serialize;

use crate::sys;

/// CPU seconds and context switches of some processes, all their threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub user_s: f64,
    pub system_s: f64,
    /// Waits of its own will, and times it was pushed off the core; those of threads that ended are not in it.
    pub switches_voluntary: u64,
    pub switches_involuntary: u64,
}

impl Cost {
    pub fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was spent between `earlier` and this one.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
            switches_voluntary: self.switches_voluntary.saturating_sub(earlier.switches_voluntary),
            switches_involuntary: self.switches_involuntary.saturating_sub(earlier.switches_involuntary),
        }
    }
}

/// Resident memory in bytes. Socket buffers belong to the kernel and are not in it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    pub rss: u64,
    /// As `rss`, with shared pages divided among those who share them.
    pub pss: u64,
    /// Pages that this process alone has written.
    pub private_dirty: u64,
}

pub fn cost(pids: &[u32]) -> Cost {
    let mut sum = Cost::default();
    for pid in pids {
        if let Some((user_s, system_s)) = cpu_seconds(*pid) {
            sum.user_s += user_s;
            sum.system_s += system_s;
        }
        for thread in threads(*pid) {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
            sum.switches_voluntary += field(&status, "voluntary_ctxt_switches:");
            sum.switches_involuntary += field(&status, "nonvoluntary_ctxt_switches:");
        }
    }
    sum
}

fn cpu_seconds(pid: u32) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; fields are counted from its end. utime and stime are
    // fields 14 and 15 (proc(5)), so 11 and 12 after the name.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut seconds = || fields.next()?.parse::<f64>().ok().map(|ticks| ticks / sys::ticks_per_second());
    Some((seconds()?, seconds()?))
}

/// Numbers of a process's threads.
pub fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub fn memory(pid: u32) -> Memory {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let bytes = |name| field(&rollup, name) * 1024;
    Memory { rss: bytes("Rss:"), pss: bytes("Pss:"), private_dirty: bytes("Private_Dirty:") }
}

/// `VmRSS` in bytes. Cheaper than `memory`, fit for sampling: it reads a counter and walks no pages.
pub fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "VmRSS:") * 1024
}

/// Busy CPU seconds of the whole machine: user, nice, system, interrupts; not idle, waiting or stolen.
pub fn machine_busy_s() -> f64 {
    let page = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = page.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = ticks.map(|word| word.parse().unwrap_or(0.0)).collect();
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum();
    busy / sys::ticks_per_second()
}

/// The number after `name` at the start of a line, 0 when there is none.
fn field(page: &str, name: &str) -> u64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_cpu_time() {
        let me = std::process::id();
        assert!(memory(me).rss > 100_000 && rss(me) > 100_000);
        assert!(!threads(me).is_empty());
        let before = cost(&[me]);
        let start = sys::monotonic_ns();
        while cost(&[me]).since(&before).cpu_s() < 0.02 {
            assert!(sys::monotonic_ns() - start < 20_000_000_000, "busy for 20 s and no CPU time counted");
        }
    }

    #[test]
    fn a_process_that_is_not_there_costs_nothing() {
        assert_eq!(cost(&[u32::MAX]).cpu_s(), 0.0);
        assert_eq!(memory(u32::MAX).rss, 0);
    }
}
