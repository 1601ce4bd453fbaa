//! The proof that nothing acknowledged is lost. The real server is killed as `kill -9` does, again and again,
//! at moments that chance picks, while writers write and readers read. In the end a judge reads what the
//! clients wrote down, and nothing else.
//!
//! `ROOMCAST_KILLS=1000` makes it long; `ROOMCAST_SEED` gives the same chances again.

mod killer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use roomcast_rig::checker::{Checker, Fault, Report};
use roomcast_rig::crowd::{self, Crowd};
use roomcast_rig::server::{Server, Setup};

use killer::{Deeds, Killer, Moment};

/// Kills where `ROOMCAST_KILLS` says nothing else.
const KILLS: usize = 60;
/// Where all of it happens.
const ROOMS: [&str; 4] = ["lobby", "ops", "team-1", "näh & fern"];

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// An empty folder that stays after a failure, for whoever looks for its cause.
fn folder(name: &str, seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
    std::fs::create_dir_all(folder.join("diaries")).expect("the target folder can be written");
    folder
}

/// What a run came to.
struct Outcome {
    deeds: Deeds,
    report: Report,
    /// Acknowledgements that the writers counted themselves.
    acked: u64,
    /// Readers who did not reach the heads.
    late: Vec<String>,
    /// Sessions that the server did not know any more: settled ones, and young ones.
    forgotten: (u64, u64),
    took: Duration,
}

/// Kills a server so many times among a crowd, lets everybody come to the end, and has the diaries judged.
async fn play(setup: Setup, kills: usize, seed: u64, choose: fn(&mut StdRng) -> Moment) -> Outcome {
    let (diaries, began) = (setup.home.join("diaries"), Instant::now());
    let server = Server::start(setup).await;
    let mut crowd = Crowd::start(crowd::Plan {
        address: server.address(),
        diaries: diaries.clone(),
        seed,
        rooms: ROOMS.map(str::to_owned).to_vec(),
        writers: 8,
        readers: 16,
        changes: true,
        silence: None,
    });
    let plan = crowd.plan().clone();
    let mut killer = Killer::new(server, StdRng::seed_from_u64(seed));
    for kill in 1..=kills {
        killer.kills(&mut crowd, choose).await;
        if kill % 50 == 0 {
            println!("{kill} kills in {:.0?}, {} acknowledged", began.elapsed(), crowd.acked());
        }
    }
    let (mut server, deeds) = killer.rests().await;

    let written = crowd.writers_stop().await;
    let heads = crowd::heads("asker", server.address(), &plan).await;
    let (seen, late) = crowd.readers_reach(heads.clone()).await;
    crowd::reads_all("last", server.address(), &plan, heads.clone()).await;
    server.stop().await;
    if server.setup.store != "none" {
        // The log is the same after a polite stop.
        let mut server = Server::start(server.setup.clone()).await;
        crowd::reads_all("after-the-stop", server.address(), &plan, heads).await;
        server.stop().await;
    }
    Outcome {
        deeds,
        report: judge(&diaries),
        acked: written.iter().map(|written| written.acked).sum(),
        late,
        forgotten: seen
            .iter()
            .fold((0, 0), |sum, seen| (sum.0 + seen.forgotten, sum.1 + seen.forgotten_young)),
        took: began.elapsed(),
    }
}

fn seed() -> u64 {
    let seed = number_from("ROOMCAST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}; to have it again: ROOMCAST_SEED={seed}");
    seed
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_however_often_the_server_is_killed() {
    let kills = number_from("ROOMCAST_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = seed();
    let folder = folder("crash", seed);
    println!("diaries and the server's log: {}", folder.display());
    let setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), &folder);
    let outcome = play(setup.clone(), kills, seed, Moment::by_chance).await;
    let verified = verified(&setup, &folder.join("diaries"));
    print_table(&outcome);

    let Outcome { report, late, .. } = outcome;
    let place = format!("seed {seed}, {}", folder.display());
    assert!(report.is_clean(), "the server broke its promise; {place}\n{report}");
    assert!(late.is_empty(), "these do not reach the heads: {late:?}; {place}");
    assert_eq!(report.acked, outcome.acked);
    assert!(report.acked > kills as u64, "the server was killed while it worked");
    assert_eq!(report.forgotten, 0, "nothing is old enough to be forgotten; {place}");
    assert_eq!(outcome.forgotten.0, 0, "the server knows all settled sessions again; {place}");
    verified.unwrap_or_else(|said| panic!("`roomcast verify` is of another opinion; {place}\n{said}"));
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}

/// The whole proof, clients and judge, is worth nothing if it cannot fail.
#[tokio::test]
async fn a_server_that_forgets_everything_is_found_out() {
    let seed = seed();
    let folder = folder("forgetful", seed);
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), &folder);
    setup.store = "none".into();
    let outcome = play(setup, 3, seed, |_| Moment::AtWork).await;
    for fault in [Fault::Lost, Fault::Vanished, Fault::Different] {
        assert!(outcome.report.count(fault) > 0, "{} is not found:\n{}", fault.word(), outcome.report);
    }
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}

/// What the program itself says of its store and of the diaries; what it printed when it found something.
fn verified(setup: &Setup, diaries: &Path) -> Result<(), String> {
    let mut command = setup.command(&["verify", "--store", &setup.store, "--clients"]);
    let output = command.args(crowd::diaries(diaries)).output().expect("the program can be run");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    output.status.success().then_some(()).ok_or_else(|| said.concat())
}

fn judge(diaries: &Path) -> Report {
    let mut checker = Checker::new();
    for path in crowd::diaries(diaries) {
        let is_last = path.file_stem().is_some_and(|name| name == "last");
        let read = if is_last { checker.read_last(&path) } else { checker.read(&path) };
        read.unwrap_or_else(|error| panic!("a diary is broken: {error}"));
    }
    checker.verdict()
}

fn print_table(outcome: &Outcome) {
    let line = |word: &str, figure: u128| println!("{word:<18}{figure:>12}");
    line("kills", outcome.deeds.kills().into());
    for (word, count) in outcome.deeds.by_moment() {
        line(&format!("  {word}"), count.into());
    }
    line("rooms", ROOMS.len() as u128);
    line("longest restart ms", outcome.deeds.longest_restart.as_millis());
    line("forgotten sessions", outcome.forgotten.0.into());
    line("  younger than 5 s", outcome.forgotten.1.into());
    line("seconds", outcome.took.as_secs().into());
    print!("{}", outcome.report);
}
