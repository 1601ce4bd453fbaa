//! What a person reads and a program parses: machine, commit and command first, then Markdown tables, and one JSON line
//! per measurement. Called by the scenarios; also remembers whether any measurement found a fault.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::tally::Faults;

/// Where and with what it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    pub date: String,
    pub commit: String,
    pub command: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
}

impl Environment {
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory_kib =
            value(&meminfo, "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            commit: commit(),
            command: command(),
            cpu: value(&cpuinfo, "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The value behind the first `name :` of a /proc page.
fn value(page: &str, name: &str) -> String {
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The commit of the working copy we stand in, with a mark when files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

/// The command that can be typed again. Of this program only the name is told: where it lies says nothing.
fn command() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name =
        Path::new(&program).file_name().map_or(program.clone(), |name| name.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell would take it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

pub struct Report {
    environment: Environment,
    markdown: Option<File>,
    json: Option<File>,
    faulty: bool,
}

impl Report {
    /// Opens the files and prints where, when and with which command.
    pub fn open(markdown: Option<&Path>, json: Option<&Path>) -> Result<Self, Failure> {
        let usage = |path: &Path, error| Failure::Usage(format!("cannot write {}: {error}", path.display()));
        let markdown =
            markdown.map(|path| File::create(path).map_err(|error| usage(path, error))).transpose()?;
        let append = |path: &Path| {
            OpenOptions::new().create(true).append(true).open(path).map_err(|error| usage(path, error))
        };
        let json = json.map(append).transpose()?;
        let mut report = Self { environment: Environment::look(), markdown, json, faulty: false };
        report.head()?;
        Ok(report)
    }

    fn head(&mut self) -> Result<(), Failure> {
        let Environment { date, commit, command, cpu, cores, memory_mib, kernel } = &self.environment;
        let text = format!(
            "`{command}`\n\n{date}, commit {commit}; {cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}"
        );
        self.paragraph(&text)
    }

    /// Prints a paragraph and keeps it in the file.
    pub fn paragraph(&mut self, text: &str) -> Result<(), Failure> {
        println!("{text}\n");
        if let Some(file) = &mut self.markdown {
            writeln!(file, "{text}\n")?;
        }
        Ok(())
    }

    pub fn table(
        &mut self,
        title: &str,
        notes: &str,
        heads: &[&str],
        rows: &[Vec<String>],
    ) -> Result<(), Failure> {
        self.paragraph(&format!("## {title}\n\n{}", markdown_table(heads, rows)))?;
        if notes.is_empty() { Ok(()) } else { self.paragraph(notes) }
    }

    /// Keeps one measurement as a JSON line and says aloud what went wrong in it.
    pub fn record(
        &mut self,
        case: &Case,
        faults: &Faults,
        complaint: Option<&str>,
        figures: &impl Serialize,
    ) -> Result<(), Failure> {
        if faults.any() {
            self.faulty = true;
            eprintln!(
                "FAULT in {} ({}): {faults:?}\n  first: {}",
                case.name,
                case.subject,
                complaint.unwrap_or("-")
            );
        }
        let Some(file) = &mut self.json else {
            return Ok(());
        };
        let line = json!({ "environment": self.environment, "case": case, "figures": json_of(figures)? });
        writeln!(file, "{line}")?;
        Ok(())
    }

    /// True when any measurement lost, doubled, reordered or misrouted something.
    pub fn faulty(&self) -> bool {
        self.faulty
    }
}

fn json_of(figures: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(figures).map_err(|error| Failure::Run(format!("figures that are no JSON: {error}")))
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub scenario: &'static str,
    pub name: String,
    /// `roomcast` or one of the floors.
    pub subject: String,
    /// How it was started.
    pub server: String,
    pub payload_bytes: usize,
    pub client_threads: usize,
}

/// All lost, doubled, out of order and misrouted deliveries and the rest, in one cell.
pub fn faults_cell(faults: &Faults) -> String {
    if !faults.any() {
        return "none".to_owned();
    }
    let parts = [
        ("lost", faults.lost),
        ("doubled", faults.doubled),
        ("out of order", faults.out_of_order),
        ("misrouted", faults.misrouted),
        ("offset jumps", faults.offset_jumps),
        ("refused", faults.refused),
        ("without ack", faults.unacknowledged),
        ("closed", faults.closed),
    ];
    let told = parts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}"));
    told.collect::<Vec<_>>().join(", ")
}

/// Columns as wide as their widest cell; numbers to the right.
fn markdown_table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line =
        |cells: &mut dyn Iterator<Item = String>| format!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    let padded = |cell: &str, column: usize| {
        let gap = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
        if column == 0 { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
    };
    let mut lines = vec![line(&mut heads.iter().enumerate().map(|(column, head)| padded(head, column)))];
    lines.push(line(&mut widths.iter().enumerate().map(|(column, width)| match column {
        0 => "-".repeat(*width),
        _ => format!("{}:", "-".repeat(width - 1)),
    })));
    for row in rows {
        lines.push(line(&mut row.iter().enumerate().map(|(column, cell)| padded(cell, column))));
    }
    lines.join("\n")
}

/// A number with three significant digits or so.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => thousands(value.round() as i64),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

/// Microseconds, shown as milliseconds.
pub fn milliseconds(us: f64) -> String {
    number(us / 1e3)
}

/// Bytes, shown as MiB.
pub fn mebibytes(bytes: u64) -> String {
    number(bytes as f64 / 1_048_576.0)
}

fn thousands(value: i64) -> String {
    let digits = value.abs().to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        text.push(',');
        text.extend(group.iter().map(|digit| char::from(*digit)));
    }
    if value < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_group_thousands() {
        let cases = [(0.0, "0"), (0.36149, "0.361"), (7.689, "7.69"), (12.34, "12.3"), (999.6, "1,000")];
        cases.iter().for_each(|(value, text)| assert_eq!(number(*value), *text));
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(-1234.0), "-1,234");
    }

    #[test]
    fn a_table_lines_up() {
        let table = markdown_table(
            &["case", "µs"],
            &[vec!["1 × 10".into(), "0.5".into()], vec!["a".into(), "12.5".into()]],
        );
        assert_eq!(table, "| case   |   µs |\n| ------ | ---: |\n| 1 × 10 |  0.5 |\n| a      | 12.5 |");
    }

    #[test]
    fn a_command_can_be_pasted_back() {
        assert_eq!(quoted("--set"), "--set");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn faults_are_named() {
        let faults = Faults { lost: 3, closed: 1, ..Faults::default() };
        assert_eq!(faults_cell(&faults), "3 lost, 1 closed");
        assert_eq!(faults_cell(&Faults::default()), "none");
    }
}
