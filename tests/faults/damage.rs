//! The journal is cut or damaged on the disk while the server is down. It starts, says what it cut, and has all that
//! was acknowledged before the damaged place.

use std::fs;
use std::path::{Path, PathBuf};

use roomcast_rig::server::Server;

use crate::stage::{Stage, message, says};

/// Messages that are said one after the other before the burst, and in the burst.
const QUIET: u64 = 10;
const BURST: u64 = 60;
/// The message of the burst whose record is damaged.
const VICTIM: u64 = 40;

/// What is done to the file, given where the record of the victim shows its id.
type Damage = fn(&mut Vec<u8>, usize);

const DAMAGES: [(&str, Damage); 4] = [
    ("cut in the middle of a record", |bytes, at| bytes.truncate(at)),
    ("a bit flipped", |bytes, at| bytes[at] ^= 0x10),
    ("zeros from there on", |bytes, at| bytes[at..].fill(0)),
    ("a page of something else", |bytes, at| bytes[at..].iter_mut().take(4096).for_each(|byte| *byte = 0xa7)),
];

#[tokio::test]
async fn a_damaged_journal_costs_nothing_before_the_damaged_place() {
    for (what, damage) in DAMAGES {
        let stage = Stage::new();
        let mut server = Server::start(stage.setup()).await;
        let mut writer = stage.guest(server.address(), "writer").await;
        says(&mut writer, "quiet", 0..QUIET).await;
        // All at once, so that the archive cannot have them when the server dies.
        for number in 0..BURST {
            writer.say(&message(&format!("burst-{number}-"), 200)).await;
        }
        for _ in 0..BURST {
            writer.hears("an ack", |frame| frame["t"] == "ack").await;
        }
        server.kill();
        writer.is_cut().await;
        damage_at(&newest_segment(&stage.home().join("roomcast.journal")), damage);

        server.spawn();
        server.is_ready().await;
        let mut reader = stage.guest(server.address(), "reader").await;
        let joined = reader.hears("joined", |frame| frame["t"] == "joined").await;
        let head = joined["s"].as_u64().expect("a head");
        // The archive may have had more than the journal's sound part.
        assert!(head >= QUIET + VICTIM, "{what}: only {head} are left");
        assert_eq!(reader.reads_up_to("lobby", head).await, head, "{what}");
        if head < QUIET + BURST {
            let log = server.log();
            let said = log.lines().any(|line| line.contains("WARN") && line.contains("journal segment"));
            assert!(said, "{what}: nothing is said of it:\n{log}");
        }
        println!("{what}: {head} of {} are left", QUIET + BURST);

        // What is said now stands right behind, and lasts.
        let mut writer = stage.guest(server.address(), "second-writer").await;
        says(&mut writer, "later", 0..10).await;
        server.kill();
        (writer.is_cut().await, reader.is_cut().await);
        server.spawn();
        server.is_ready().await;
        let heads = stage.last_reader(server.address(), &["lobby"]).await;
        assert_eq!(heads["lobby"], head + 10, "{what}");
        server.stop().await;
    }
}

fn newest_segment(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).expect("the journal's folder is there");
    let files = files.map(|file| file.expect("a folder can be listed").path());
    let holds_burst = |path: &PathBuf| find_victim(&fs::read(path).expect("a segment can be read")).is_some();
    files.filter(|path| path.is_file()).find(holds_burst).expect("a segment holds the burst")
}

fn find_victim(bytes: &[u8]) -> Option<usize> {
    let id = format!("burst-{VICTIM}-");
    bytes.windows(id.len()).position(|window| window == id.as_bytes())
}

fn damage_at(path: &Path, damage: Damage) {
    let mut bytes = fs::read(path).expect("a segment can be read");
    let at = find_victim(&bytes).expect("the victim is there");
    damage(&mut bytes, at);
    fs::write(path, bytes).expect("a segment can be written");
}
