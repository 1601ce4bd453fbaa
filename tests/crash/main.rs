//! The proof that nothing acknowledged is lost. The real server is killed as `kill -9` does, again and again,
//! at moments that chance picks, while writers write and readers read. In the end a judge reads what the
//! clients wrote down, and nothing else.
//!
//! `ROOMCAST_KILLS=1000` makes it long; `ROOMCAST_SEED` gives the same chances again.

mod crowd;
mod killer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use roomcast_rig::checker::{Checker, Report};
use roomcast_rig::server::{Server, Setup};

use crowd::{Crowd, ROOMS};
use killer::{Deeds, Killer};

/// Kills where `ROOMCAST_KILLS` says nothing else.
const KILLS: usize = 60;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// An empty folder that stays after a failure, for whoever looks for its cause.
fn folder(seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{seed}"));
    std::fs::create_dir_all(folder.join("diaries")).expect("the target folder can be written");
    folder
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_however_often_the_server_is_killed() {
    let kills = number_from("ROOMCAST_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = number_from("ROOMCAST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}; to have it again: ROOMCAST_SEED={seed}");
    let folder = folder(seed);
    println!("diaries and the server's log: {}", folder.display());
    let (diaries, began) = (folder.join("diaries"), Instant::now());

    let server = Server::start(Setup::new(env!("CARGO_BIN_EXE_roomcast"), &folder)).await;
    let mut crowd = Crowd::start(server.address(), &diaries, seed);
    let mut killer = Killer::new(server, StdRng::seed_from_u64(seed));
    for kill in 1..=kills {
        killer.kills(&mut crowd).await;
        if kill % 50 == 0 {
            println!("{kill} kills in {:.0?}, {} acknowledged", began.elapsed(), crowd.acked());
        }
    }
    let (mut server, deeds) = killer.rests().await;

    let written = crowd.writers_stop().await;
    let heads = crowd::heads(server.address(), &diaries).await;
    let (seen, late) = crowd.readers_reach(heads.clone()).await;
    crowd::reads_all("last", server.address(), &diaries, heads.clone()).await;
    // The log is the same after a polite stop.
    server.stop().await;
    let mut server = Server::start(server.setup.clone()).await;
    crowd::reads_all("after-the-stop", server.address(), &diaries, heads.clone()).await;
    server.stop().await;

    let report = judge(&diaries);
    let forgotten: u64 = seen.iter().map(|seen| seen.forgotten).sum();
    let young: u64 = seen.iter().map(|seen| seen.forgotten_young).sum();
    print_table(&deeds, &report, (forgotten, young), began.elapsed());
    assert!(late.is_empty(), "these do not reach {heads:?}: {late:?}; seed {seed}, {}", folder.display());
    assert_eq!(report.acked, written.iter().map(|written| written.acked).sum::<u64>());
    assert!(report.acked > kills as u64, "the server was killed while it worked");
    assert_eq!(report.forgotten, 0, "nothing is old enough to be forgotten");
    assert!(report.is_clean(), "the server broke its promise; seed {seed}, {}\n{report}", folder.display());
    assert_eq!(forgotten, 0, "the server knows all sessions again; seed {seed}, {}", folder.display());
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}

fn judge(diaries: &Path) -> Report {
    let mut checker = Checker::new();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(diaries)
        .expect("the diaries are there")
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    paths.sort();
    for path in paths {
        let is_last = path.file_stem().is_some_and(|name| name == "last");
        let read = if is_last { checker.read_last(&path) } else { checker.read(&path) };
        read.unwrap_or_else(|error| panic!("a diary is broken: {error}"));
    }
    checker.verdict()
}

fn print_table(deeds: &Deeds, report: &Report, (forgotten, young): (u64, u64), took: Duration) {
    println!("{:<18}{:>12}", "kills", deeds.kills());
    for (word, count) in deeds.by_moment() {
        println!("  {word:<16}{count:>12}");
    }
    println!("{:<18}{:>12}", "rooms", ROOMS.len());
    println!("{:<18}{:>12}", "longest restart ms", deeds.longest_restart.as_millis());
    println!("{:<18}{forgotten:>12}", "forgotten sessions");
    println!("{:<18}{young:>12}", "  younger than 5 s");
    println!("{:<18}{:>12}", "seconds", took.as_secs());
    print!("{report}");
}
