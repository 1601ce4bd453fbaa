//! Who holds a list's items: a node's name, and the mark of the process that uses the name right now.
//! Called by the list. Reads Linux's /proc to tell a dead process of this machine from a living one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// One process, told apart from every other one: on this machine, on others, and before a reboot.
///
/// Written into a lease as `nonce|boot id|pid namespace|pid|start time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessMark {
    /// Random, new for every start.
    nonce: String,
    /// Which boot of which machine; empty where the system does not say.
    boot: String,
    /// In which numbering of processes (containers have their own).
    pid_namespace: String,
    pid: u32,
    /// In clock ticks since boot, so that a number given away again is another process.
    start_ticks: String,
}

impl ProcessMark {
    /// The mark of this process.
    pub fn of_this_process() -> ProcessMark {
        let pid = std::process::id();
        ProcessMark {
            nonce: format!("{:016x}", rand::random::<u64>()),
            boot: read_word("/proc/sys/kernel/random/boot_id"),
            pid_namespace: pid_namespace(),
            pid,
            start_ticks: start_ticks(pid).unwrap_or_default(),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<ProcessMark> {
        let mut parts = text.split('|').map(str::to_owned);
        let mark = ProcessMark {
            nonce: parts.next()?,
            boot: parts.next()?,
            pid_namespace: parts.next()?,
            pid: parts.next()?.parse().ok()?,
            start_ticks: parts.next()?,
        };
        parts.next().is_none().then_some(mark)
    }

    /// Whether both are the same process.
    pub fn is_same(&self, other: &ProcessMark) -> bool {
        self.nonce == other.nonce
    }

    /// Whether that other process ran where this one can see, and is gone. `false` when in doubt.
    pub fn sees_dead(&self, other: &ProcessMark) -> bool {
        let visible = !self.boot.is_empty()
            && self.boot == other.boot
            && !self.pid_namespace.is_empty()
            && self.pid_namespace == other.pid_namespace;
        visible
            && !other.start_ticks.is_empty()
            && start_ticks(other.pid).is_none_or(|ticks| ticks != other.start_ticks)
    }

    /// The random part.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

impl fmt::Display for ProcessMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}|{}|{}|{}", self.nonce, self.boot, self.pid_namespace, self.pid, self.start_ticks)
    }
}

/// Gives entries ids that sort by age and are never given twice: start of the process in milliseconds,
/// its nonce, a counter. The ids come from here and not from Redis, because a counter in Redis may go back
/// in a failover and then name two items alike.
#[derive(Debug)]
pub struct EntryIds {
    start: String,
    next: AtomicU64,
}

impl EntryIds {
    /// Ids of a process that starts now.
    pub fn new(nonce: &str) -> EntryIds {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        EntryIds { start: format!("{now:012x}-{nonce}-"), next: AtomicU64::new(0) }
    }

    /// What all ids of this process start with.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// What ids start with for items that another node had been handed. They stand out of the order of
    /// [`number_of`](EntryIds::number_of), because they are taken over beside the usual takes.
    pub fn adopted_start(&self) -> String {
        format!("{}x", self.start)
    }

    /// The number of the first of `count` new ids; ids that are not used are lost, which does no harm.
    pub fn reserve(&self, count: usize) -> u64 {
        self.next.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// The number of an id of this process; `None` for one of another process.
    pub fn number_of(&self, id: &str) -> Option<u64> {
        u64::from_str_radix(id.strip_prefix(&self.start)?, 16).ok()
    }
}

fn read_word(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Field 22 of /proc/<pid>/stat (proc(5)); `None` when there is no such process, or only its remains.
fn start_ticks(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets and may hold anything, brackets and spaces too.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_being_written() {
        let mark = ProcessMark::of_this_process();
        assert_eq!(ProcessMark::parse(&mark.to_string()), Some(mark));
        for wrong in ["", "a|b|c|d|e", "a|b|c|1", "a|b|c|1|2|3"] {
            assert_eq!(ProcessMark::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_a_process_that_can_be_seen_is_called_dead() {
        let me = ProcessMark::of_this_process();
        assert!(!me.sees_dead(&me), "this process lives");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let ticks = start_ticks(child.id()).unwrap();
        let other = ProcessMark { nonce: "x".into(), pid: child.id(), start_ticks: ticks, ..me.clone() };
        assert!(!me.sees_dead(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(me.sees_dead(&other));
        assert!(!me.sees_dead(&ProcessMark { boot: "another machine".into(), ..other.clone() }));
        assert!(!me.sees_dead(&ProcessMark { pid_namespace: "another container".into(), ..other }));
    }

    #[test]
    fn a_number_given_away_again_is_another_process() {
        let me = ProcessMark::of_this_process();
        assert!(me.sees_dead(&ProcessMark { start_ticks: "1".into(), nonce: "x".into(), ..me.clone() }));
    }

    #[test]
    fn entry_ids_sort_by_age_and_fit_a_message_id() {
        let ids = EntryIds::new("0123456789abcdef");
        let id = |number: u64| format!("{}{number:012x}", ids.start());
        assert_eq!((ids.reserve(5), ids.reserve(1)), (0, 5));
        assert!(id(9) < id(10) && id(255) < id(256));
        assert_eq!(ids.number_of(&id(77)), Some(77));
        assert_eq!(ids.number_of("000000000000-x-00"), None);
        assert_eq!(ids.number_of(&format!("{}{:012x}", ids.adopted_start(), 1)), None);
        assert!(crate::chat::names::MessageId::new(&id(u64::MAX >> 16)).is_ok());
    }
}
