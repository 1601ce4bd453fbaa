//! The floor: what the kernel alone costs. A server in one epoll loop that speaks just enough of the protocol for our
//! client (upgrade, `join`, `pub`) and hands each message on with bare `send()` calls, the same bytes to each listener.
//! It keeps nothing, checks nothing and is no server for anybody else. Runs as a process of its own (the hidden
//! scenario `floor-server`), so that its CPU time is read in the same way.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;

use crate::sys::{self, Event, Poller};
use crate::wire;

const LISTENER: usize = usize::MAX;

struct Peer {
    stream: TcpStream,
    upgraded: bool,
    inbox: Vec<u8>,
    /// What the kernel did not take at once.
    outbox: Vec<u8>,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    offset: u64,
    /// Frames of this turn (batched mode).
    batch: Vec<u8>,
}

/// Serves until the process is ended. `batched`: all messages of one loop turn leave in one `send()` per listener;
/// otherwise each message is a `send()` of its own.
pub fn serve(listener: &TcpListener, batched: bool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut floor = Floor {
        poller: Poller::new(1024)?,
        peers: vec![],
        rooms: vec![],
        names: HashMap::new(),
        batched,
        buffer: vec![0; 64 * 1024],
    };
    floor.poller.add(listener, LISTENER, sys::READ)?;
    let mut events = vec![];
    loop {
        floor.poller.wait(&mut events, 1_000_000_000)?;
        for event in &events {
            match event.token {
                LISTENER => floor.accept(listener)?,
                _ => floor.on_event(*event),
            }
        }
        floor.flush_batches();
    }
}

struct Floor {
    poller: Poller,
    peers: Vec<Option<Peer>>,
    rooms: Vec<Room>,
    names: HashMap<Vec<u8>, usize>,
    batched: bool,
    buffer: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.poller.add(&stream, self.peers.len(), sys::READ)?;
            self.peers.push(Some(Peer { stream, upgraded: false, inbox: vec![], outbox: vec![] }));
        }
    }

    fn on_event(&mut self, event: Event) {
        let Some(peer) = self.peers[event.token].as_mut() else {
            return;
        };
        if event.writable() {
            let waiting = std::mem::take(&mut peer.outbox);
            send(&self.poller, peer, event.token, &waiting, true);
        }
        if !event.readable() {
            return;
        }
        match peer.stream.read(&mut self.buffer) {
            Ok(length) if length > 0 => {
                let mut inbox = std::mem::take(&mut peer.inbox);
                inbox.extend_from_slice(&self.buffer[..length]);
                let used = self.take(event.token, &mut inbox);
                inbox.drain(..used);
                if let Some(peer) = self.peers[event.token].as_mut() {
                    peer.inbox = inbox;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.peers[event.token] = None,
        }
    }

    fn take(&mut self, token: usize, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        let Some(peer) = self.peers[token].as_mut() else {
            return bytes.len();
        };
        if !peer.upgraded {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return 0;
            };
            used = end + 4;
            peer.upgraded = true;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                wire::ACCEPT
            );
            send(&self.poller, peer, token, answer.as_bytes(), false);
        }
        while let Some(frame) = wire::next_frame(&bytes[used..]) {
            let body = &mut bytes[used + frame.body_start..used + frame.end];
            used += frame.end;
            wire::apply_mask(body, frame.mask.unwrap_or_default());
            if frame.opcode == wire::TEXT {
                self.on_line(token, body);
            }
        }
        used
    }

    fn on_line(&mut self, token: usize, line: &[u8]) {
        let Some(name) = value_of(line, b"\"r\":\"") else {
            return;
        };
        let name = line[name].to_vec();
        if line.starts_with(b"{\"t\":\"join\"") {
            return self.join(token, name);
        }
        let (Some(data), Some(room)) = (value_of(line, b"\"d\":\""), self.names.get(&name).copied()) else {
            return;
        };
        self.publish(token, room, &name, &line[data]);
    }

    fn join(&mut self, token: usize, name: Vec<u8>) {
        let live = [b"{\"t\":\"live\",\"r\":\"", name.as_slice(), b"\",\"s\":0}"].concat();
        let room = *self.names.entry(name).or_insert_with(|| {
            self.rooms.push(Room::default());
            self.rooms.len() - 1
        });
        self.rooms[room].members.push(token);
        let mut frame = vec![];
        wire::server_frame(&mut frame, wire::TEXT, &live);
        if let Some(peer) = self.peers[token].as_mut() {
            send(&self.poller, peer, token, &frame, false);
        }
    }

    fn publish(&mut self, sender: usize, room: usize, name: &[u8], data: &[u8]) {
        let room = &mut self.rooms[room];
        room.offset += 1;
        // As long as the server's own entries are.
        let mut line = b"{\"t\":\"msg\",\"r\":\"".to_vec();
        line.extend_from_slice(name);
        let head = format!(
            "\",\"s\":{},\"id\":\"floor-{:010}\",\"u\":\"u{sender}\",\"ts\":1763820000000,\"d\":\"",
            room.offset, room.offset
        );
        line.extend_from_slice(head.as_bytes());
        line.extend_from_slice(data);
        line.extend_from_slice(b"\"}");
        wire::server_frame(&mut room.batch, wire::TEXT, &line);
        if !self.batched {
            hand_out(&self.poller, &mut self.peers, room);
        }
    }

    fn flush_batches(&mut self) {
        let waiting = self.rooms.iter_mut().filter(|room| !room.batch.is_empty());
        waiting.for_each(|room| hand_out(&self.poller, &mut self.peers, room));
    }
}

/// Sends the room's batch to each of its members.
fn hand_out(poller: &Poller, peers: &mut [Option<Peer>], room: &mut Room) {
    for token in &room.members {
        if let Some(peer) = peers[*token].as_mut() {
            send(poller, peer, *token, &room.batch, false);
        }
    }
    room.batch.clear();
}

/// One `send()`; what the kernel refuses waits in the outbox. `woken`: epoll said that there is space again.
fn send(poller: &Poller, peer: &mut Peer, token: usize, bytes: &[u8], woken: bool) {
    let had_to_wait = woken || !peer.outbox.is_empty();
    let sent = match had_to_wait && !woken {
        true => 0,
        // A broken peer shows itself at the next read.
        false => peer.stream.write(bytes).unwrap_or(0),
    };
    peer.outbox.extend_from_slice(&bytes[sent..]);
    let waits = !peer.outbox.is_empty();
    if waits != had_to_wait {
        let bits = if waits { sys::READ | sys::WRITE } else { sys::READ };
        // Fails only for a peer that has gone, which the next read finds out.
        let _ = poller.change(&peer.stream, token, bits);
    }
}

/// Where the string after `key` lies; our own client writes no escapes.
fn value_of(line: &[u8], key: &[u8]) -> Option<Range<usize>> {
    let start = memchr::memmem::find(line, key)? + key.len();
    let end = start + memchr::memchr(b'"', &line[start..])?;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::client::{Pace, Plan, Speakers};
    use crate::figures::Figures;
    use crate::measure::{Subject, Timing, run};
    use crate::progress::Progress;

    fn floor_plan(batched: bool, speakers: Speakers, pace: Pace) -> Plan {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        std::thread::spawn(move || serve(&listener, batched));
        Plan {
            target: std::net::SocketAddrV4::new([127, 0, 0, 1].into(), port),
            also: vec![],
            since: None,
            rooms: 3,
            listeners: 7,
            speakers,
            pace,
            payload_bytes: 200,
            stalled: 0,
            acknowledged: false,
            threads: 2,
            connecting_max: 10,
            run: 1,
        }
    }

    fn measure(plan: Plan) -> Figures {
        let short = Duration::from_millis(100);
        let timing = Timing { warm_up: short, measured: short, counted: Duration::ZERO };
        let figures = run(plan, timing, &Subject::default(), &Progress::new("test")).expect("a whole run");
        assert!(!figures.faults.any(), "{:?} {:?}", figures.faults, figures.complaint);
        assert!(figures.deliveries > 0 && figures.latency_samples > 0, "{figures:?}");
        figures
    }

    fn check(batched: bool, speakers: Speakers, pace: Pace) {
        measure(floor_plan(batched, speakers, pace));
    }

    #[test]
    fn every_message_arrives_once_and_in_order_one_send_each() {
        check(false, Speakers::OneApart, Pace::Window(8));
    }

    #[test]
    fn every_message_arrives_once_and_in_order_batched() {
        check(true, Speakers::OneApart, Pace::Window(8));
    }

    #[test]
    fn all_members_may_speak_on_a_schedule() {
        check(false, Speakers::Members, Pace::Rate(2000.0));
    }

    #[test]
    fn listeners_that_stalled_read_all_in_the_end() {
        let mut plan = floor_plan(false, Speakers::OneApart, Pace::Window(16));
        plan.stalled = 3;
        let (rooms, stalled_in_each) = (plan.rooms as f64, 1.0);
        let figures = measure(plan);
        // They hear what was said while measured and before, so at least as much as one listener of each room did.
        let said = figures.messages_per_s * figures.measured_s / rooms * stalled_in_each;
        assert!(figures.stalled_heard as f64 >= said && figures.stalled_closed == 0, "{figures:?}");
    }
}
