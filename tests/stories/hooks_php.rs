//! Promise: the PHP example does what it says, run by PHP's own server, and libraries of others find our signatures good.
//!
//! Needs php with its curl extension, and standardwebhooks in the directory of ROOMCAST_TEST_TOOLS (default
//! `target/test-tools`): `python3 -m venv venv`, `venv/bin/pip install -r tests/clients/requirements.txt`.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use roomcast_rig::backend::{Backend, SECRET};
use roomcast_rig::server::free_port;
use serde_json::{Value, json};

use crate::stage::eventually;
use crate::stage::hall::Hall;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// PHP's own server with the example, and the file of its log.
struct Php {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Php {
    async fn serve(home: &Path, roomcast: &str, secret: &str) -> Php {
        let port = free_port();
        let log = home.join(format!("php-{port}.log"));
        let file = std::fs::File::create(&log).expect("a log can be written");
        let child = Command::new("php")
            .args(["-S", &format!("127.0.0.1:{port}")])
            .arg(Path::new(ROOT).join("examples/php/ratchet_style.php"))
            .env("ROOMCAST_HOOKS_SECRET", secret)
            .env("ROOMCAST_URL", roomcast)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .expect("apt-get install php-cli php-curl");
        let php = Php { child, port, log };
        eventually("php listens", || async { TcpStream::connect(("127.0.0.1", port)).ok() }).await;
        php
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    async fn logs(&self, words: &str) {
        eventually(&format!("{words:?} in the log of php"), || async {
            self.log().contains(words).then_some(())
        })
        .await;
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        // They fail only when it has ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- php ---\n{}", self.log());
        }
    }
}

#[tokio::test]
async fn a_class_as_for_ratchet_hears_answers_and_decides() {
    let home = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let php = Php::serve(home.path(), &format!("http://127.0.0.1:{port}"), SECRET).await;
    let url = format!("http://127.0.0.1:{}/", php.port);
    let settings = [
        format!("hooks.url={url}"),
        format!("hooks.ask.publish={url}"),
        format!("hooks.ask.join={url}"),
        format!("hooks.secret={SECRET}"),
        "hooks.private_addresses=true".to_owned(),
    ];
    let hall = Hall::stored_at(port, &settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
    php.logs(", ann)").await;
    ann.says("that Darn cat").await;
    bob.hears("that **** cat").from("ann").at(1).await;
    ann.says("!time").await;
    bob.hears("!time").at(2).await;
    let answer = bob.claims("the time", |line| line.t() == "msg" && line.json["u"] == "helper").await;
    assert!(answer.text("d").starts_with("it is ") && answer.s() == 3, "{}", answer.raw);
    let refused = ann.asks(json!({"t": "pub", "r": "lobby", "d": "x".repeat(281)})).await;
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "at most 280 characters");
    let refused = ann.asks(json!({"t": "join", "r": "cellar"})).await;
    assert_eq!(refused.is_err(403, "not-allowed").text("msg"), "the cellar is closed");
    bob.says("!bye").await;
    assert_eq!(bob.is_closed_with(4003).await.text("why"), "as you wished");
    php.logs("has disconnected (4003)").await;
    ann.hears_no_more().await;
}

#[tokio::test]
async fn a_wrong_secret_is_noticed_by_php_and_nothing_is_lost() {
    let home = tempfile::tempdir().expect("a folder");
    let php =
        Php::serve(home.path(), "http://127.0.0.1:9", "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiBvdXJzLCBpbmRlZWQ=")
            .await;
    let settings = [
        format!("hooks.url=http://127.0.0.1:{}/", php.port),
        format!("hooks.secret={SECRET}"),
        "hooks.private_addresses=true".to_owned(),
        "hooks.events=on_open".to_owned(),
    ];
    let hall = Hall::stored(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let _ann = hall.enter("ann").await;
    hall.figure_becomes("roomcast_hooks_failed_total", |failed| failed == 1.0).await;
    assert!(hall.runs(&["dead", "list"]).contains("answered 401"));
}

#[tokio::test]
async fn the_library_of_the_specification_finds_every_signature_good() {
    let backend = Backend::open().await;
    let settings = backend.hooks(&[&format!("hooks.ask.join={}", backend.url("/ask"))]);
    let hall = Hall::stored(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut ann = hall.join("lobby", "ann").await;
    ann.says("gr\u{fc}\u{df}e, \u{1f600} and \"quotes\"").await;
    backend.hears_message("lobby", 1).await;
    let posted = backend.posted();
    assert!(posted.iter().any(|one| one.path == "/ask") && posted.iter().any(|one| one.path == "/events"));
    let lines: String = posted
        .iter()
        .map(|one| {
            let headers: serde_json::Map<String, Value> =
                one.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({"headers": headers, "body": one.body}).to_string() + "\n"
        })
        .collect();
    let tools = std::env::var("ROOMCAST_TEST_TOOLS")
        .map_or_else(|_| Path::new(ROOT).join("target/test-tools"), Into::into);
    let mut python = Command::new(tools.join("venv/bin/python"))
        .arg(Path::new(ROOT).join("tests/clients/verify_hooks.py"))
        .arg(SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 -m venv venv, venv/bin/pip install -r tests/clients/requirements.txt");
    python.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
    let output = python.wait_with_output().expect("it ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}");
    assert_eq!(out, format!("{} good, and none of them good with another byte\n", posted.len()));
}
