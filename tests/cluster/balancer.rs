//! What stands in front of the nodes: the files of `deploy/`, with the addresses of a story in place of theirs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use roomcast_rig::eventually;
use roomcast_rig::server::{free_port, get};

use crate::processes::Process;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    /// HAProxy that sends each request to the next node, however much the others have to do.
    RoundRobin,
    Nginx,
}

/// A load balancer; it ends when this is dropped.
pub struct Balancer {
    /// Where clients go.
    pub address: SocketAddr,
    _process: Process,
}

/// The nodes of the files.
const SHOWN: [&str; 3] = ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.13:8080"];

impl Balancer {
    /// Starts it in front of these nodes, and waits until it hands requests on.
    pub async fn start(kind: Kind, nodes: &[SocketAddr], home: &Path) -> Balancer {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let process = match kind {
            Kind::HaProxy => haproxy(address, nodes, home, "balance leastconn"),
            Kind::RoundRobin => haproxy(address, nodes, home, "balance roundrobin"),
            Kind::Nginx => nginx(address, nodes, home),
        };
        let ready = async || (get(address, "/readyz").await?.0 == 200).then_some(());
        eventually("the load balancer to find a ready node", ready).await;
        Balancer { address, _process: process }
    }
}

/// Debian keeps them where only root looks.
fn program(name: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(name);
    if path.exists() { path } else { name.into() }
}

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file with other addresses. Each has to be there: a file that has changed is not used unseen.
fn with_addresses(text: String, listens: (&str, String), nodes: &[SocketAddr]) -> String {
    let replace = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "the file has no {from:?} any more");
        text.replace(from, to)
    };
    let mut text = replace(text, listens.0, &listens.1);
    for (number, node) in nodes.iter().enumerate().skip(SHOWN.len()) {
        text = with_one_more(&text, number + 1, *node);
    }
    for (number, shown) in SHOWN.iter().enumerate() {
        text = match nodes.get(number) {
            Some(node) => replace(text, shown, &node.to_string()),
            None => {
                text.lines().filter(|line| !line.contains(shown)).map(|line| format!("{line}\n")).collect()
            }
        };
    }
    text
}

/// The file with a line more wherever it names its last node.
fn with_one_more(text: &str, number: usize, node: SocketAddr) -> String {
    let (last, address) = (SHOWN.len(), SHOWN[SHOWN.len() - 1]);
    let mut lines = Vec::new();
    for line in text.lines() {
        lines.push(line.to_owned());
        if line.contains(address) {
            let line = line.replace(address, &node.to_string());
            lines.push(line.replace(&format!("node{last}"), &format!("node{number}")));
        }
    }
    lines.join("\n") + "\n"
}

fn haproxy(address: SocketAddr, nodes: &[SocketAddr], home: &Path, turns: &str) -> Process {
    let text = deployed("haproxy.cfg").replace("balance leastconn", turns);
    let text = with_addresses(text, ("bind :80\n", format!("bind {address}\n")), nodes);
    let file = home.join("haproxy.cfg");
    std::fs::write(&file, text).expect("the folder can be written");
    Process::start("haproxy", Command::new(program("haproxy")).arg("-db").arg("-f").arg(&file), home)
}

fn nginx(address: SocketAddr, nodes: &[SocketAddr], home: &Path) -> Process {
    let text = with_addresses(deployed("nginx.conf"), ("listen 80;", format!("listen {address};")), nodes);
    // Its own folders belong to the system.
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|name| format!("{name}_temp_path {}/{name};\n", home.display())).concat();
    let text = text.replace("http {\n", &format!("http {{\n{folders}"));
    let file = home.join("nginx.conf");
    std::fs::write(&file, text).expect("the folder can be written");
    let own = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log {0}/nginx-errors.log;",
        home.display()
    );
    Process::start("nginx", Command::new(program("nginx")).arg("-c").arg(&file).args(["-g", &own]), home)
}
