//! The wire between the server and the service it takes from. It sees what is given out and what is acknowledged, and
//! kills the server at the moment that a story wants. Knows how an item looks, and is told how an acknowledgement does.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Longer than any sign that may come in two pieces.
const SIGN_BYTES_MAX: usize = 64;

/// What stands in the item of this number, and nowhere else.
pub fn mark(number: u64) -> String {
    format!("item-{number}.")
}

/// When the relay kills. What is new came into the queue for this life of the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// The service has given something new out; the server never reads it.
    GivenOut,
    /// The server says that it has something new; the service never hears so.
    Kept,
    /// The service has heard so; the server never hears that.
    Forgotten,
    /// So long after the server got something new.
    Later(Duration),
    Never,
}

/// Which of the items that were given out these bytes acknowledge.
pub type Acks = fn(&Window<'_>, &BTreeSet<u64>) -> BTreeSet<u64>;

/// Bytes that have just come in one direction, behind the end of those before.
pub struct Window<'a> {
    bytes: &'a [u8],
    /// How many of them were there before.
    seen: usize,
}

impl Window<'_> {
    /// Where this ends that was not whole before.
    fn ends<'b>(&'b self, sign: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
        let found = self.bytes.windows(sign.len()).enumerate().filter(move |(_, bytes)| *bytes == sign);
        found.map(move |(start, _)| start + sign.len())
    }

    pub fn holds(&self, sign: &[u8]) -> bool {
        self.ends(sign).any(|end| end > self.seen)
    }

    /// The numbers that stand between these two signs.
    pub fn numbers(&self, before: &[u8], after: u8) -> Vec<u64> {
        let number = |start: usize| {
            let length = self.bytes[start..].iter().position(|byte| !byte.is_ascii_digit())?;
            let end = start + length;
            let is_new = self.bytes[end] == after && end >= self.seen;
            std::str::from_utf8(&self.bytes[start..end]).ok()?.parse().ok().filter(|_| is_new)
        };
        self.ends(before).filter_map(number).collect()
    }

    fn items(&self) -> Vec<u64> {
        self.numbers(b"item-", b'.')
    }
}

/// What the relay knows of a life of the server.
struct Life {
    /// Counts them.
    number: u64,
    is_open: bool,
    moment: Moment,
    victim: u32,
    /// The first item that is new.
    new_from: u64,
    /// What the server got.
    given: BTreeSet<u64>,
    wires: Vec<TcpStream>,
}

struct Shared {
    service: u16,
    acks: Acks,
    life: Mutex<Life>,
    opened: Condvar,
    seen: Mutex<Seen>,
}

/// What passed, in all lives.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many items were given out, each as often as it was.
    pub given_out: u64,
    /// Which the server has said it has.
    pub acknowledged: BTreeSet<u64>,
}

/// One connection.
#[derive(Default)]
struct Link {
    /// Something new was acknowledged on it.
    has_acknowledged: AtomicBool,
}

/// What becomes of bytes that have come.
enum Fate {
    Pass,
    /// The server died before they were passed on.
    End,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Life {
    fn kills(&mut self) -> Fate {
        self.moment = Moment::Never;
        let killed = Command::new("kill").args(["-KILL", &self.victim.to_string()]).status();
        assert!(killed.expect("kill can be run").success(), "the server was gone already");
        Fate::End
    }

    fn has_new(&self, items: impl IntoIterator<Item = u64>) -> bool {
        items.into_iter().any(|item| item >= self.new_from)
    }
}

impl Shared {
    fn kills_later(self: &Arc<Shared>, number: u64, wait: Duration) {
        let shared = self.clone();
        thread::spawn(move || {
            thread::sleep(wait);
            let mut life = lock(&shared.life);
            if life.number == number && life.is_open {
                life.kills();
            }
        });
    }

    fn from_service(self: &Arc<Shared>, window: &Window<'_>, link: &Link) -> Fate {
        let (items, mut life) = (window.items(), lock(&self.life));
        lock(&self.seen).given_out += items.len() as u64;
        let has_new = life.has_new(items.iter().copied());
        match life.moment {
            Moment::GivenOut if has_new => return life.kills(),
            Moment::Forgotten if link.has_acknowledged.load(SeqCst) => return life.kills(),
            Moment::Later(wait) if has_new => {
                life.moment = Moment::Never;
                self.kills_later(life.number, wait);
            }
            _ => {}
        }
        life.given.extend(items);
        Fate::Pass
    }

    fn from_server(self: &Arc<Shared>, window: &Window<'_>, link: &Link) -> Fate {
        let mut life = lock(&self.life);
        let acknowledged = (self.acks)(window, &life.given);
        let has_new = life.has_new(acknowledged.iter().copied());
        lock(&self.seen).acknowledged.extend(acknowledged);
        match life.moment {
            Moment::Kept if has_new => return life.kills(),
            Moment::Forgotten if has_new => link.has_acknowledged.store(true, SeqCst),
            _ => {}
        }
        Fate::Pass
    }

    /// Takes a connection once the relay is open, and tells its two ends.
    fn joins(&self, from_server: TcpStream) -> (TcpStream, TcpStream) {
        let life = lock(&self.life);
        let mut life =
            self.opened.wait_while(life, |life| !life.is_open).unwrap_or_else(PoisonError::into_inner);
        let to_service = TcpStream::connect(("127.0.0.1", self.service)).expect("the service listens");
        for wire in [&from_server, &to_service] {
            wire.set_nodelay(true).expect("a socket takes options");
            life.wires.push(wire.try_clone().expect("a socket can be shared"));
        }
        (from_server, to_service)
    }
}

/// Passes bytes on until an end.
fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&Window<'_>) -> Fate) {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let seen = kept.len();
        kept.extend_from_slice(&buffer[..n]);
        let fate = look(&Window { bytes: &kept, seen });
        if matches!(fate, Fate::End) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        kept.drain(..kept.len().saturating_sub(SIGN_BYTES_MAX));
    }
    // Whichever side ended, the other one hears of it; it may have gone already.
    to.shutdown(Shutdown::Both).unwrap_or_default();
    from.shutdown(Shutdown::Both).unwrap_or_default();
}

/// Closed until it is opened for a life of the server; who connects before waits.
pub struct Relay {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    pub fn start(service: u16, acks: Acks) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let life = Life {
            number: 0,
            is_open: false,
            moment: Moment::Never,
            victim: 0,
            new_from: 0,
            given: BTreeSet::new(),
            wires: Vec::new(),
        };
        let (life, opened, seen) = (Mutex::new(life), Condvar::new(), Mutex::default());
        let shared = Arc::new(Shared { service, acks, life, opened, seen });
        let relay = Relay { port, shared: shared.clone() };
        thread::spawn(move || {
            for from_server in listener.incoming() {
                let (server, service) = shared.joins(from_server.unwrap());
                let (server_too, service_too) = (server.try_clone().unwrap(), service.try_clone().unwrap());
                let (link, shared) = (Arc::new(Link::default()), shared.clone());
                let (link_too, shared_too) = (link.clone(), shared.clone());
                thread::spawn(move || {
                    pass(service, server, |window| shared.from_service(window, &link));
                });
                thread::spawn(move || {
                    pass(server_too, service_too, |window| shared_too.from_server(window, &link_too));
                });
            }
        });
        relay
    }

    /// A life of the server begins, which is this process, and ends at that moment. Items from `new_from` on are new.
    pub fn opens(&self, victim: u32, moment: Moment, new_from: u64) {
        let mut life = lock(&self.shared.life);
        life.number += 1;
        (life.is_open, life.moment, life.victim, life.new_from) = (true, moment, victim, new_from);
        life.given.clear();
        self.shared.opened.notify_all();
    }

    /// The server is gone, and so are its connections.
    pub fn closes(&self) {
        let mut life = lock(&self.shared.life);
        life.is_open = false;
        for wire in life.wires.drain(..) {
            // It has ended already.
            wire.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_seen_once_and_whole_however_it_is_cut() {
        let text = b"item-7. XACK item-12. item-x. item-3";
        for cut in 0..text.len() {
            let first = Window { bytes: &text[..cut], seen: 0 };
            let second = Window { bytes: text, seen: cut };
            assert_eq!([first.items(), second.items()].concat(), [7, 12], "cut at {cut}");
            assert!(first.holds(b"XACK") != second.holds(b"XACK"), "cut at {cut}");
        }
    }
}
