//! The power fails. A killed process leaves its writes to the kernel; a power cut takes back those that were not
//! synced, all of them or any. What was acknowledged survives that too.

use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng;
use roomcast_rig::checker::{Checker, Fault};
use roomcast_rig::eventually;
use roomcast_rig::server::Server;
use tokio::sync::watch;

use crate::shim::Shim;
use crate::stage::{Stage, dice, kills, says};

/// Cuts where `ROOMCAST_KILLS` says nothing else.
const CUTS: usize = 12;

/// The files of the store. The index in shared memory does not outlive a machine: it goes.
fn store(home: &Path) -> Vec<PathBuf> {
    let index = home.join("roomcast.db-shm");
    if index.exists() {
        fs::remove_file(&index).expect("the store can be written");
    }
    let journal = fs::read_dir(home.join("roomcast.journal")).expect("the journal is there");
    let journal = journal.map(|file| file.expect("a folder can be listed").path());
    let files = journal.chain(["roomcast.db", "roomcast.db-wal"].map(|name| home.join(name)));
    files.filter(|path| path.is_file()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_power_cuts() {
    let (stage, mut dice, cuts) = (Stage::new(), dice(), kills(CUTS));
    let shim = Shim::build(stage.home());
    shim.power_may_fail();
    let mut server = Server::start(shim.loads_into(stage.setup())).await;
    let (stop, spectator) = (watch::Sender::new(false), stage.spectator(server.address()));
    let writers: Vec<_> =
        (0..3).map(|number| stage.writer(server.address(), number, stop.subscribe())).collect();
    let acked = || writers.iter().map(|writing| writing.shown.borrow().acked).sum::<u64>();
    let mut unsynced = 0;
    for cut in 0..cuts {
        let goal = acked() + dice.random_range(1..150);
        eventually("acknowledgements", async || (acked() >= goal).then_some(())).await;
        server.kill();
        // All that was not synced goes, or any part of it.
        let takes_all = cut % 2 == 0;
        unsynced += shim.power_fails(&store(stage.home()), || takes_all || dice.random());
        server.spawn();
        server.is_ready().await;
    }
    stop.send_replace(true);
    let mut total = 0;
    for writing in writers {
        total += writing.task.await.expect("a writer does not fail").acked;
    }
    let heads = stage.last_reader(server.address(), &["lobby"]).await;
    spectator.reaches(heads).await;
    server.stop().await;
    println!("{cuts} cuts with {unsynced} writes that were not synced, {total} acknowledged");
    assert!(unsynced > 0, "every cut came when all was synced");
    let report = stage.is_clean();
    assert_eq!(report.acked, total, "{report}");
}

/// A disk that only says that it syncs loses what was acknowledged, and the judge sees it: else this story
/// would prove nothing.
#[tokio::test]
async fn a_disk_that_lies_is_found_out() {
    let stage = Stage::new();
    let shim = Shim::build(stage.home());
    shim.power_may_fail();
    let mut server = Server::start(shim.loads_into(stage.setup())).await;
    let mut writer = stage.guest(server.address(), "writer").await;
    says(&mut writer, "synced", 0..20).await;
    shim.syncs_lie();
    says(&mut writer, "lied", 0..20).await;
    server.kill();
    writer.is_cut().await;
    assert!(shim.power_fails(&store(stage.home()), || true) > 0);
    server.setup.environment.clear();
    server.spawn();
    server.is_ready().await;
    let heads = stage.last_reader(server.address(), &["lobby"]).await;
    server.stop().await;
    assert_eq!(heads["lobby"], 20, "what was synced is there, and nothing else");
    let report = stage.verdict(Checker::new());
    assert_eq!(report.count(Fault::Lost), 20, "{report}");
}
