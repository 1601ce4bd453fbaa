//! The network between the processes of a story: relays on this machine through which nodes reach Redis and
//! Redis servers reach each other, and which can be cut for some and not for others. A cut wire is silent, as
//! when packets are lost: nobody is told, nothing comes through, and what was under way comes after it is
//! mended. Needs no privileges. Who connects is found in `/proc`, by the process that owns the other end.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::processes::owners;

/// A process of the story, at one end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// A node of Roomcast.
    Node(usize),
    /// A Redis server.
    Redis(usize),
    /// A Sentinel.
    Sentinel(usize),
    /// The story itself.
    Story,
}

/// What a wire does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing comes through, and nobody is told.
    Silent,
    /// It is closed, and so is every new one.
    Closed,
}

/// The wires that are not whole; each counts from both of its ends.
type Cuts = Vec<(Party, Party, Wire)>;

/// How long a process that connects may be unknown: it is told of a moment after it has begun.
const STRANGER_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// All wires of a story. They are gone when this is dropped.
pub struct Wires {
    known: Arc<Mutex<HashMap<u32, Party>>>,
    cuts: watch::Sender<Cuts>,
    new: mpsc::UnboundedSender<Relay>,
}

struct Relay {
    listener: StdListener,
    to: Party,
    port: u16,
}

impl Wires {
    /// No relay yet. They have a thread of their own, so that they carry while a story is busy.
    pub fn new() -> Wires {
        let (new, mut relays) = mpsc::unbounded_channel::<Relay>();
        let (known, cuts) = (Arc::new(Mutex::new(HashMap::new())), watch::Sender::new(Vec::new()));
        let census = Arc::new(tokio::sync::Mutex::new((Instant::now(), HashMap::new())));
        let end = End { known: known.clone(), cuts: cuts.subscribe(), census };
        end.knows(std::process::id(), Party::Story);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                while let Some(relay) = relays.recv().await {
                    tokio::spawn(end.clone().relays(relay));
                }
            });
        });
        Wires { known, cuts, new }
    }

    /// Lays a wire to a server that listens, or will listen, on this port; the port by which others reach it.
    pub fn lay(&self, to: Party, port: u16) -> u16 {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, roomcast_rig::server::free_port()));
        let listener = listener.expect("a free port is free");
        listener.set_nonblocking(true).expect("a listener can be set");
        let outside = listener.local_addr().expect("it is bound").port();
        self.new.send(Relay { listener, to, port }).expect("the relays run");
        outside
    }

    /// Tells which process plays a part.
    pub fn knows(&self, pid: u32, party: Party) {
        self.known.lock().expect("nobody panics with it").insert(pid, party);
    }

    /// Cuts every wire between two parties.
    pub fn cut(&self, pairs: impl IntoIterator<Item = (Party, Party)>, how: Wire) {
        self.cuts.send_modify(|cuts| {
            for (one, other) in pairs {
                cuts.retain(|(a, b, _)| !is_pair((*a, *b), (one, other)));
                cuts.push((one, other, how));
            }
        });
    }

    /// Mends them all. What waited in silent wires comes through now.
    pub fn mend(&self) {
        self.cuts.send_replace(Vec::new());
    }
}

fn is_pair(pair: (Party, Party), other: (Party, Party)) -> bool {
    pair == other || pair == (other.1, other.0)
}

/// Who has which port, and when the look began that found it.
type Census = (Instant, HashMap<u16, u32>);

#[derive(Clone)]
struct End {
    known: Arc<Mutex<HashMap<u32, Party>>>,
    cuts: watch::Receiver<Cuts>,
    /// One look serves all who came before it: at the start of a story hundreds connect at once.
    census: Arc<tokio::sync::Mutex<Census>>,
}

impl End {
    fn knows(&self, pid: u32, party: Party) {
        self.known.lock().expect("nobody panics with it").insert(pid, party);
    }

    fn state(&mut self, from: Party, to: Party) -> Option<Wire> {
        let cuts = self.cuts.borrow_and_update();
        cuts.iter().find(|(a, b, _)| is_pair((*a, *b), (from, to))).map(|(_, _, how)| *how)
    }

    async fn relays(self, relay: Relay) {
        let listener = TcpListener::from_std(relay.listener).expect("it is set to not block");
        while let Ok((stream, peer)) = listener.accept().await {
            let (end, to, port) = (self.clone(), relay.to, relay.port);
            tokio::spawn(async move {
                // Who is gone again before anybody could look needs no wire.
                if let Some(from) = end.who(peer.port()).await {
                    // A wire that breaks is closed; both ends see that.
                    end.carries(stream, from, to, port).await.ok();
                }
            });
        }
    }

    /// Who has this port.
    async fn who(&self, port: u16) -> Option<Party> {
        let came = Instant::now();
        let mut newer_than = came;
        loop {
            let mut census = self.census.lock().await;
            if census.0 < newer_than {
                *census = self.looks().await;
            }
            let found = census.1.get(&port).and_then(|pid| self.part_of(*pid));
            drop(census);
            if found.is_some() {
                return found;
            }
            if came.elapsed() > STRANGER_MAX {
                return None;
            }
            tokio::time::sleep(LOOK).await;
            newer_than = Instant::now();
        }
    }

    fn part_of(&self, pid: u32) -> Option<Party> {
        self.known.lock().expect("nobody panics with it").get(&pid).copied()
    }

    /// The tables of the kernel are long; the wires carry on meanwhile.
    async fn looks(&self) -> Census {
        let began = Instant::now();
        let pids: Vec<u32> = self.known.lock().expect("nobody panics with it").keys().copied().collect();
        let looked = tokio::task::spawn_blocking(move || owners(&pids)).await;
        (began, looked.expect("looking does not fail"))
    }

    async fn carries(mut self, from: TcpStream, who: Party, to: Party, port: u16) -> std::io::Result<()> {
        while self.state(who, to) == Some(Wire::Silent) {
            // Whoever connects waits, as with packets that are lost.
            self.changes().await?;
        }
        if self.state(who, to) == Some(Wire::Closed) {
            return Ok(());
        }
        let there = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        from.set_nodelay(true)?;
        there.set_nodelay(true)?;
        let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), there.into_split());
        let back = self.clone();
        tokio::select! {
            done = self.carries_one_way(from_read, to_write, (who, to)) => done,
            done = back.carries_one_way(to_read, from_write, (who, to)) => done,
        }
    }

    async fn changes(&mut self) -> std::io::Result<()> {
        self.cuts.changed().await.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    async fn carries_one_way(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        pair: (Party, Party),
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match self.state(pair.0, pair.1) {
                Some(Wire::Closed) => return Ok(()),
                Some(Wire::Silent) => {
                    self.changes().await?;
                    continue;
                }
                None => {}
            }
            tokio::select! {
                biased;
                changed = self.changes() => changed?,
                read = from.read(&mut bytes) => match read? {
                    0 => return Ok(()),
                    n => to.write_all(&bytes[..n]).await?,
                },
            }
        }
    }
}
