//! Kills the server and starts it again, at moments that chance picks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use roomcast_rig::crowd::Crowd;
use roomcast_rig::server::Server;
use tokio::time::sleep;

/// When a life of the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// In the middle of its work.
    AtWork,
    /// While it comes up, with the journal half read.
    ComingUp,
    /// When it has just become ready and the archive catches up.
    JustReady,
    /// As good as never begun: two kills in quick succession.
    AtOnce,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Moment::AtWork => "at work",
            Moment::ComingUp => "coming up",
            Moment::JustReady => "just ready",
            Moment::AtOnce => "at once",
        }
    }

    /// One of all.
    pub fn by_chance(dice: &mut StdRng) -> Moment {
        match dice.random_range(0..20) {
            0..=11 => Moment::AtWork,
            12..=14 => Moment::ComingUp,
            15..=17 => Moment::JustReady,
            _ => Moment::AtOnce,
        }
    }
}

/// What was done to the server.
#[derive(Debug, Default)]
pub struct Deeds {
    kills: BTreeMap<Moment, u64>,
    /// From the start of the process to `/readyz`.
    pub longest_restart: Duration,
}

impl Deeds {
    /// All kills.
    pub fn kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Kills by their moment, in words.
    pub fn by_moment(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.kills.iter().map(|(moment, count)| (moment.word(), *count))
    }
}

/// Kills. Between two calls of [`Killer::kills`] the server is dead or alive, as it happens.
pub struct Killer {
    server: Server,
    dice: StdRng,
    /// Whether the process runs and is ready.
    ready: bool,
    last_restart: Duration,
    deeds: Deeds,
}

impl Killer {
    /// Takes a server that is ready.
    pub fn new(server: Server, dice: StdRng) -> Killer {
        let last_restart = Duration::from_millis(200);
        Killer { server, dice, ready: true, last_restart, deeds: Deeds::default() }
    }

    /// Lets the server live to a moment that `choose` picks, and kills it there.
    pub async fn kills(&mut self, crowd: &mut Crowd, choose: fn(&mut StdRng) -> Moment) {
        let moment = choose(&mut self.dice);
        match moment {
            Moment::AtWork => {
                self.is_ready().await;
                let more = self.dice.random_range(1..200);
                crowd.acked_reaches(crowd.acked() + more).await;
                self.waits(Duration::from_millis(10)).await;
            }
            Moment::JustReady => {
                self.is_ready().await;
                self.waits(Duration::from_millis(60)).await;
            }
            Moment::ComingUp => {
                self.comes_up();
                self.waits(self.last_restart).await;
            }
            Moment::AtOnce => {
                self.comes_up();
                self.waits(Duration::from_millis(20)).await;
            }
        }
        self.server.kill();
        self.ready = false;
        *self.deeds.kills.entry(moment).or_default() += 1;
        self.server.spawn();
    }

    /// No more kills: the server, ready, and what was done to it.
    pub async fn rests(mut self) -> (Server, Deeds) {
        self.is_ready().await;
        (self.server, self.deeds)
    }

    async fn is_ready(&mut self) {
        if self.ready {
            return;
        }
        let began = Instant::now();
        self.server.is_ready().await;
        self.ready = true;
        self.last_restart = began.elapsed();
        self.deeds.longest_restart = self.deeds.longest_restart.max(self.last_restart);
    }

    /// A life that is to end early begins now, so that the moment counts from its first instruction.
    fn comes_up(&mut self) {
        if self.ready {
            self.server.kill();
            self.server.spawn();
            self.ready = false;
        }
    }

    /// The moment itself: any time up to `longest`.
    async fn waits(&mut self, longest: Duration) {
        sleep(longest.mul_f64(self.dice.random())).await;
    }
}
