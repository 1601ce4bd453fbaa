//! Redis behind TLS: rooms and queues work as without, and nobody is trusted who shows a wrong certificate.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, Setup, free_port};

use crate::processes::Process;

/// An authority, and a certificate of it for localhost.
fn make_certificates(folder: &Path) {
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).current_dir(folder).stderr(Stdio::null());
        assert!(command.status().expect("openssl is installed").success(), "openssl {words}");
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=authority -keyout ca.key -out ca.pem");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr");
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .expect("the folder can be written");
    openssl(
        "x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out redis.pem",
    );
    openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=other -keyout other.key -out other.pem");
}

/// A Redis that speaks nothing but TLS.
fn redis(folder: &Path, port: u16) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--tls-auth-clients", "no"]).arg("--tls-port");
    command.arg(port.to_string()).arg("--dir").arg(folder);
    command.arg("--tls-cert-file").arg(folder.join("redis.pem"));
    command.arg("--tls-key-file").arg(folder.join("redis.key"));
    command.arg("--tls-ca-cert-file").arg(folder.join("ca.pem"));
    Process::start("redis", &mut command, folder)
}

/// A node that trusts an authority.
fn node(folder: &Path, name: &str, port: u16, authority: &str) -> Server {
    let home = folder.join(name);
    std::fs::create_dir(&home).expect("the folder can be written");
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), &home);
    setup.store = "none".to_owned();
    setup.environment.push(("REDIS_URL".to_owned(), format!("rediss://localhost:{port}")));
    let authority = folder.join(authority).display().to_string();
    setup.environment.push(("SSL_CERT_FILE".to_owned(), authority));
    let mut server = Server::new(setup);
    server.spawn();
    server
}

fn push(folder: &Path, port: u16, item: &str) {
    let mut command = Command::new("redis-cli");
    command.args(["--tls", "-h", "localhost", "-p"]).arg(port.to_string());
    command.arg("--cacert").arg(folder.join("ca.pem")).args(["LPUSH", "message_queue", item]);
    assert!(command.stdout(Stdio::null()).status().expect("redis-cli is installed").success());
}

#[tokio::test]
async fn rooms_and_queues_go_through_tls() {
    let folder = tempfile::tempdir().expect("temporary files can be made");
    let (folder, port) = (folder.path(), free_port());
    make_certificates(folder);
    let _redis = redis(folder, port);
    let (mut one, mut two) = (node(folder, "one", port, "ca.pem"), node(folder, "two", port, "ca.pem"));
    one.is_ready().await;
    two.is_ready().await;

    let mut ann = Guest::enter(one.address(), folder, "ann", json!({"rooms": {"lobby": {}}})).await;
    let mut bob = Guest::enter(two.address(), folder, "bob", json!({"rooms": {"lobby": {}}})).await;
    ann.say(&json!({"t": "pub", "r": "lobby", "id": "a-1", "d": "secret"})).await;
    let heard = bob.hears("ann", |frame| frame["id"] == "a-1").await;
    assert_eq!((&heard["s"], &heard["d"]), (&json!(1), &json!("secret")));
    push(folder, port, r#"{"room":"lobby","id":"q-1","content":"from a backend"}"#);
    for guest in [&mut ann, &mut bob] {
        let heard = guest.hears("the backend", |frame| frame["id"] == "q-1").await;
        assert_eq!(heard["s"], json!(2));
    }

    // One who trusts somebody else finds no Redis, says why, and is never ready.
    let stranger = node(folder, "stranger", port, "other.pem");
    let complains = async || {
        let log = stranger.log().to_lowercase();
        log.lines().any(|line| line.contains("rediss://") && line.contains("certificate")).then_some(())
    };
    eventually("the stranger's complaint", complains).await;
    assert_ne!(stranger.status("/readyz").await, Some(200));
}
