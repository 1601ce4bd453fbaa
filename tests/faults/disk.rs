//! The disk is full: what cannot be kept is refused, readers go on, and when there is room again the server goes on
//! without a restart.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use roomcast_rig::client::Guest;
use roomcast_rig::server::Server;
use serde_json::json;

use crate::stage::{Stage, gets_through, message, says, still_answers};

const DISK: &str = "24m";
/// The store needs room for its newest entries three times: in the journal, in the log of SQLite, in its file.
const BALLAST_BYTES: usize = 16 << 20;
/// How soon after there is room the server is well again.
const RECOVERY: Duration = Duration::from_secs(10);

/// A small disk in memory, in a mount namespace of its own that a process holds open: nothing of it is left
/// when that process ends, and no right is needed but that to make namespaces.
struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(folder: &Path) -> SmallDisk {
        std::fs::create_dir(folder).expect("the story's folder is empty");
        // It says when it is mounted, then waits for the end of its input.
        let script = format!(r#"mount -t tmpfs -o size={DISK} tmpfs "$0" && echo mounted && exec cat"#);
        let mut tried = String::new();
        // The first needs root; the second asks the kernel for a namespace in which one is root.
        for flags in ["-m", "-rm"] {
            let started = Command::new("unshare")
                .args([flags, "sh", "-c", &script])
                .arg(folder)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let mut holder = started.expect("unshare can be run (Debian package util-linux)");
            let mut said = String::new();
            let out = holder.stdout.take().expect("piped");
            BufReader::new(out).read_line(&mut said).expect("its output can be read");
            if said.trim() == "mounted" {
                return SmallDisk { holder, folder: folder.to_owned() };
            }
            let ended = holder.wait_with_output().expect("it can be waited for");
            tried += &format!("unshare {flags}: {}\n", String::from_utf8_lossy(&ended.stderr).trim());
        }
        panic!(
            "this story needs a small disk of its own, and none can be mounted:\n{tried}run the tests as root, or \
             allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or start the container with \
             --cap-add SYS_ADMIN"
        );
    }

    /// The command that runs another one where the disk is.
    fn wrapper(&self) -> Vec<String> {
        let holder = self.holder.id();
        let is_root = std::fs::read_link(format!("/proc/{holder}/ns/user")).ok()
            == std::fs::read_link("/proc/self/ns/user").ok();
        let spaces: &[&str] = if is_root { &["-m"] } else { &["-U", "--preserve-credentials", "-m"] };
        let words = ["nsenter", "-t", &holder.to_string()].map(str::to_owned).into_iter();
        words.chain(spaces.iter().map(|word| (*word).to_owned())).collect()
    }

    /// A file on the disk as this process sees it.
    fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.strip_prefix("/").expect("temporary folders have whole paths");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(folder).join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It fails only when it has ended already.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writers_and_nobody_else_until_there_is_room() {
    let stage = Stage::new();
    let disk = SmallDisk::mount(&stage.home().join("disk"));
    let ballast = disk.path("ballast");
    std::fs::write(&ballast, vec![0x5a; BALLAST_BYTES]).expect("the disk is empty");
    let mut setup = stage.setup();
    setup.store = format!("sqlite://{}/disk/roomcast.db", stage.home().display());
    setup.wrapper = disk.wrapper();
    let mut server = Server::start(setup).await;
    let mut writer = stage.guest(server.address(), "writer").await;
    let spectator = stage.spectator(server.address());

    // Each message is answered, with an ack as long as there is room.
    let (mut acked, mut refused) = (0, Vec::new());
    while refused.len() < 20 {
        let id = format!("m-{acked}-{}", refused.len());
        let answer = writer.asks(&message(&id, 32_000)).await;
        match answer["t"].as_str() {
            Some("ack") => acked += 1,
            _ => {
                assert_eq!(
                    (&answer["code"], &answer["why"]),
                    (&503.into(), &"not-stored".into()),
                    "{answer}"
                );
                refused.push(id);
            }
        }
        assert!(acked < 2_000, "{acked} messages of 32 KB were kept on a disk of {DISK}");
    }
    println!("full after {acked} messages of 32 KB");
    assert!(acked > 50, "the disk was full after {acked} messages");
    server.says("/readyz", 503).await;
    server.says("/healthz", 200).await;
    // Also who comes only now is served.
    let mut late = Guest::enter(server.address(), &stage.diaries(), "late", json!({})).await;
    late.say(&json!({"t": "join", "r": "lobby"})).await;
    late.hears("live", |frame| frame["t"] == "live").await;
    still_answers(&mut late, "lobby").await;

    std::fs::remove_file(&ballast).expect("the ballast is there");
    let began = std::time::Instant::now();
    let again = refused.pop().expect("some were refused");
    gets_through(&mut writer, &message(&again, 32_000), RECOVERY).await;
    server.says("/readyz", 200).await;
    println!("well again {:?} after there was room", began.elapsed());
    says(&mut writer, "after", 0..20).await;

    server.kill();
    (writer.is_cut().await, late.is_cut().await);
    server.spawn();
    server.is_ready().await;
    let heads = stage.last_reader(server.address(), &["lobby"]).await;
    spectator.reaches(heads).await;
    server.stop().await;
    let report = stage.is_clean();
    assert!(report.acked >= acked + 21, "{report}");
    // What was refused and not said again has no place.
    assert_eq!(report.places, report.acked, "{report}");
}
