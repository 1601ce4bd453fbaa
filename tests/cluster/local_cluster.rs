//! `deploy/local-cluster` does what it says: everything starts, all nodes share their rooms, everything stops.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use roomcast_rig::client::Guest;
use roomcast_rig::eventually;
use serde_json::json;

use crate::processes::{Process, signal};

fn script(words: &[&str], folder: &Path) -> Command {
    // Where the tests run in the background Ctrl-C is ignored, and a shell script cannot change that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local-cluster"));
    command.args(words).arg("--dir").arg(folder).env("ROOMCAST_BIN", env!("CARGO_BIN_EXE_roomcast"));
    command.stdin(Stdio::null());
    command
}

/// A folder that another user may enter, because PostgreSQL does not run as root.
fn open_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("roomcast-{name}-{}", rand::random::<u32>()));
    fs::create_dir_all(folder.join("diaries")).expect("the folder for temporary files can be written");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    folder
}

fn addresses(text: &str) -> Vec<SocketAddr> {
    let all = text.split(' ').map(|url| url.trim_start_matches("http://").parse());
    all.collect::<Result<_, _>>().expect("the script prints addresses")
}

/// Starts it, lets people of all nodes talk, and ends it by `end`.
async fn works(name: &str, words: &[&str], end: impl FnOnce(&Process, &Path)) {
    let folder = open_folder(name);
    let files = folder.join("files");
    let mut process = Process::start("script", &mut script(words, &files), &folder);
    let printed = async || {
        let text = fs::read_to_string(folder.join("script.log")).expect("the script prints into it");
        text.contains("\nstop ").then_some(text)
    };
    let text = eventually("the script to have started everything", printed).await;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let told: HashMap<&str, &str> = lines.map(|(word, rest)| (word, rest.trim())).collect();
    let (front, nodes) = (addresses(told["open"])[0], addresses(told["nodes"]));
    assert_eq!(nodes.len(), 3);

    let diaries = folder.join("diaries");
    let mut ears = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let room = json!({"rooms": {"lobby": {"since": 0}}});
        ears.push(Guest::enter(*node, &diaries, &format!("ear-{number}"), room).await);
    }
    let mut mouth = Guest::enter(front, &diaries, "mouth", json!({"rooms": {"lobby": {}}})).await;
    let ack = mouth.asks(&json!({"t": "pub", "r": "lobby", "d": "hello all", "id": "m-1"})).await;
    assert_eq!(ack["s"], 1, "{ack}");
    for ear in &mut ears {
        let heard = ear.hears("what was said elsewhere", |frame| frame["t"] == "msg").await;
        assert_eq!((&heard["s"], &heard["d"]), (&json!(1), &json!("hello all")));
    }

    let list = fs::read_to_string(files.join("pids")).expect("it knows what it has started");
    let pids: Vec<u32> = list.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(pids.len() >= 10, "{list}");
    end(&process, &files);
    let ended = async || process.has_ended();
    let status = eventually("the script to end", ended).await;
    assert!(status.success(), "{status}: {}", fs::read_to_string(folder.join("script.log")).unwrap());
    let left: Vec<&u32> = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "these go on running: {left:?} of\n{list}");
    fs::remove_dir_all(&folder).expect("the folder was made by this story");
}

#[tokio::test]
async fn a_sentinel_group_with_an_archive_behind_haproxy_ends_by_ctrl_c() {
    works("sentinel", &["start"], |process, _| signal(process.pid(), "-INT")).await;
}

#[tokio::test]
async fn a_redis_cluster_without_an_archive_behind_nginx_ends_by_stop() {
    let stop = |_: &Process, folder: &Path| {
        let status = script(&["stop"], folder).status().expect("the script can be run");
        assert!(status.success());
    };
    works("cluster", &["--cluster", "--no-postgres", "--nginx"], stop).await;
}

#[test]
fn what_it_does_not_know_is_told() {
    let folder = open_folder("words");
    let output = script(&["--clusters"], &folder).output().expect("the script can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), said.trim()),
        (Some(2), "local-cluster: unknown: --clusters; try --help")
    );
    let output = script(&["stop"], &folder).output().expect("the script can be run");
    assert_eq!(output.status.code(), Some(1));
    let help = script(&["--help"], &folder).output().expect("the script can be run");
    assert!(String::from_utf8_lossy(&help.stdout).contains("deploy/local-cluster stop"));
    fs::remove_dir_all(&folder).expect("the folder was made by this story");
}
