//! What the server writes about itself, read as CloudWatch Logs and Google Cloud Logging would read it: one JSON object a
//! line, with the names that they know, and nothing that nobody should read.

use std::io::{Read, Write};
use std::net::TcpStream;

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, Setup};
use serde_json::{Value, json};

/// Google's LogSeverity.
const SEVERITIES: [&str; 9] =
    ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"];
/// Largest event of CloudWatch Logs before it is cut, in bytes.
const EVENT_BYTES_MAX: usize = 256 << 10;

fn ask(server: &Server, request: &str) {
    let mut socket = TcpStream::connect(server.address()).expect("the server listens");
    write!(socket, "{request}\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address()).expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("it answers and closes");
    assert!(answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&answer));
}

/// The lines of the log that are JSON; those before the settings are read are for people.
fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn is_proper(line: &Value) {
    let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
    assert!(SEVERITIES.contains(&text("severity")), "{line}");
    // RFC 3339 with a zone, which both understand.
    text("time").parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(!text("message").is_empty() && !text("node").is_empty(), "{line}");
    assert!(line.to_string().len() < EVENT_BYTES_MAX);
}

async fn server_with(access: bool) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("temporary files can be made");
    let setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), folder.path())
        .with("log.format=json")
        .with("server.node=chat-7")
        .with("auth.secret=a-secret-that-nobody-may-read-here")
        .with(&format!("log.access={access}"));
    (Server::start(setup).await, folder)
}

async fn visitors_come_and_go(server: &Server, folder: &std::path::Path) {
    ask(server, "GET /healthz?token=in-the-address HTTP/1.1\r\nAuthorization: Bearer in-a-header");
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    ask(server, &format!("GET /no\"such%0apage HTTP/1.1\r\nUser-Agent: curl/8\r\n{trace}"));
    let mut ann = Guest::enter(server.address(), folder, "ann", json!({"rooms": {"lobby": {}}})).await;
    for number in 0..20 {
        ann.asks(&json!({"t": "pub", "r": "lobby", "id": format!("a-{number}"), "d": "between us"})).await;
    }
    ann.goes().await;
}

#[tokio::test]
async fn requests_and_sessions_are_lines_that_both_services_understand() {
    let (server, folder) = server_with(true).await;
    visitors_come_and_go(&server, folder.path()).await;
    let ended = async || {
        let lines = lines(&server);
        lines
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|m| m.contains("ended")))
            .then_some(lines)
    };
    let lines = eventually("the session's line", ended).await;
    lines.iter().for_each(is_proper);
    assert!(lines.iter().all(|line| line["node"] == "chat-7"));
    let line = |path: &str| {
        let found = lines.iter().find(|line| line["path"] == path);
        found.unwrap_or_else(|| panic!("no line about {path}: {lines:#?}"))
    };
    let healthy = line("/healthz");
    assert_eq!(healthy["httpRequest"]["requestMethod"], "GET");
    assert_eq!(healthy["httpRequest"]["status"], 200);
    assert!(healthy["httpRequest"]["latency"].as_str().is_some_and(|latency| latency.ends_with('s')));
    assert_eq!(healthy["httpRequest"]["remoteIp"], "127.0.0.1");
    assert_eq!(line("/v1/ws")["status"], 101);
    let lost =
        lines.iter().find(|line| line["status"] == 404).expect("a line about the page that is not there");
    assert_eq!(lost["logging.googleapis.com/trace"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(lost["agent"], "curl/8");
    let session = lines.iter().find(|line| line["user"].is_string()).expect("a line about the session");
    assert_eq!(session["user"].as_str().map(str::len), Some(16), "a hash: {session}");
    assert_eq!(session["code"], 1000);
    let log = server.log();
    for secret in ["in-the-address", "in-a-header", "a-secret-that-nobody", "between us", "\"ann\""] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn without_them_the_log_is_quiet() {
    let (mut server, folder) = server_with(false).await;
    let before = lines(&server).len();
    visitors_come_and_go(&server, folder.path()).await;
    server.stop().await;
    let lines = lines(&server);
    lines.iter().for_each(is_proper);
    let said: Vec<&Value> = lines[before..].iter().map(|line| &line["message"]).collect();
    assert!(said.iter().all(|message| message.as_str().is_some_and(|m| m.contains("stop"))), "{said:?}");
}
