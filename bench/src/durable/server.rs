//! The whole server through its WebSocket: some connections, each in a room of its own, with as many publishes under
//! way together as asked for; a new one for each `ack`. One thread with epoll, so that the client stays cheap.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use super::Achieved;
use crate::failure::Failure;
use crate::histogram::Histogram;
use crate::marker::blank_payload;
use crate::sys::{self, Event, Poller};
use crate::wire::{self, Masks};

/// Most connections that share the publishes.
const CONNECTIONS_MAX: usize = 16;
/// The server has stopped answering.
const PATIENCE: Duration = Duration::from_secs(20);
const TURN_NS: u64 = 100_000_000;

/// What was achieved, and what went wrong.
#[derive(Debug, Default)]
pub struct Outcome {
    pub achieved: Achieved,
    /// Publishes without an answer.
    pub unacknowledged: u64,
    /// Publishes that were answered with an error, and the first of these.
    pub refused: u64,
    pub complaint: Option<String>,
    /// Places that were acknowledged twice or left out.
    pub offset_jumps: u64,
}

pub fn measure(
    target: SocketAddrV4,
    in_flight: usize,
    payload_bytes: usize,
    warm_up: Duration,
    time: Duration,
) -> Result<Outcome, Failure> {
    let mut crowd = Crowd::connect(target, in_flight, payload_bytes)?;
    let begin = Instant::now();
    let (from, to) = (begin + warm_up, begin + warm_up + time);
    crowd.run(from, to)?;
    Ok(crowd.outcome(time.as_secs_f64()))
}

/// A connection in its room.
struct Member {
    stream: TcpStream,
    room: usize,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// When each publish under way was sent; its place is its request number.
    sent: Vec<Option<Instant>>,
    acks: u64,
    /// Oldest and newest offset that was acknowledged; 0 before the first.
    offsets: (u64, u64),
}

struct Crowd {
    members: Vec<Member>,
    poller: Poller,
    masks: Masks,
    payload: String,
    waits: Histogram,
    outcome: Outcome,
}

impl Crowd {
    fn connect(target: SocketAddrV4, in_flight: usize, payload_bytes: usize) -> Result<Self, Failure> {
        let poller = Poller::new(CONNECTIONS_MAX)?;
        let mut masks = Masks::new(sys::monotonic_ns());
        let count = in_flight.min(CONNECTIONS_MAX);
        let mut members = Vec::with_capacity(count);
        for room in 0..count {
            let share = in_flight / count + usize::from(room < in_flight % count);
            let member = Member::join(target, room, share, &mut masks)?;
            poller.add(&member.stream, room, sys::READ)?;
            members.push(member);
        }
        Ok(Self {
            members,
            poller,
            masks,
            payload: blank_payload(payload_bytes),
            waits: Histogram::default(),
            outcome: Outcome::default(),
        })
    }

    /// Publishes until `to`, counts what is acknowledged from `from` on, then waits for what is under way.
    fn run(&mut self, from: Instant, to: Instant) -> Result<(), Failure> {
        for place in 0..self.members.len() {
            for slot in 0..self.members[place].sent.len() {
                self.publish(place, slot);
            }
            self.flush(place)?;
        }
        let (mut events, mut heard) = (Vec::new(), Instant::now());
        while Instant::now() < to || self.under_way() > 0 {
            self.poller.wait(&mut events, TURN_NS)?;
            if !events.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Ok(());
            }
            for Event { token, .. } in &events {
                self.hear(*token, from, to)?;
                self.flush(*token)?;
            }
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.members.iter().map(|member| member.sent.iter().flatten().count()).sum()
    }

    fn publish(&mut self, place: usize, slot: usize) {
        let member = &mut self.members[place];
        let line =
            format!("{{\"t\":\"pub\",\"r\":\"d{}\",\"i\":{slot},\"d\":\"{}\"}}", member.room, self.payload);
        wire::client_frame(&mut member.outbox, wire::TEXT, line.as_bytes(), self.masks.draw());
        member.sent[slot] = Some(Instant::now());
    }

    /// Sends what waits; what the kernel does not take goes out with the next turn, which its answers start.
    fn flush(&mut self, place: usize) -> Result<(), Failure> {
        let member = &mut self.members[place];
        while !member.outbox.is_empty() {
            match (&member.stream).write(&member.outbox) {
                Ok(count) => drop(member.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let bits = if member.outbox.is_empty() { sys::READ } else { sys::READ | sys::WRITE };
        Ok(self.poller.change(&member.stream, place, bits)?)
    }

    fn hear(&mut self, place: usize, from: Instant, to: Instant) -> Result<(), Failure> {
        if !self.members[place].read()? {
            return Ok(());
        }
        let now = Instant::now();
        while let Some((opcode, body)) = self.members[place].next_frame() {
            match opcode {
                wire::TEXT => {}
                wire::PING => {
                    let mask = self.masks.draw();
                    wire::client_frame(&mut self.members[place].outbox, wire::PONG, &body, mask);
                    continue;
                }
                wire::CLOSE => return Err(Failure::Run("the server closed a connection".to_owned())),
                _ => continue,
            }
            for line in body.split(|byte| *byte == b'\n') {
                let Some(slot) = self.answered(place, line) else { continue };
                if let Some(sent) = self.members[place].sent[slot].take().filter(|_| now >= from && now < to)
                {
                    self.waits.add((now - sent).as_nanos() as u64);
                }
                if now < to {
                    self.publish(place, slot);
                }
            }
        }
        Ok(())
    }

    /// The publish that a line answers.
    fn answered(&mut self, place: usize, line: &[u8]) -> Option<usize> {
        let member = &mut self.members[place];
        let slot = number(line, b"\"i\":").map(|slot| slot as usize).filter(|slot| *slot < member.sent.len());
        if line.starts_with(b"{\"t\":\"ack\"") {
            member.acks += 1;
            let offset = number(line, b"\"s\":").unwrap_or(0);
            let (first, last) = member.offsets;
            member.offsets = (if first == 0 { offset } else { first.min(offset) }, last.max(offset));
            return slot;
        }
        if line.starts_with(b"{\"t\":\"err\"") {
            self.outcome.refused += 1;
            self.outcome.complaint.get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
            return slot;
        }
        None
    }

    fn outcome(self, seconds: f64) -> Outcome {
        let unacknowledged = self.under_way() as u64;
        // Each is alone in its room: as many places as acknowledgements.
        let jumps = |member: &Member| match member.acks {
            0 => 0,
            acks => (member.offsets.1 + 1 - member.offsets.0).abs_diff(acks),
        };
        let offset_jumps = self.members.iter().map(jumps).sum();
        Outcome { achieved: Achieved::of(&self.waits, seconds), unacknowledged, offset_jumps, ..self.outcome }
    }
}

impl Member {
    /// Waits until the room is joined; everything later is not waited for.
    fn join(target: SocketAddrV4, room: usize, share: usize, masks: &mut Masks) -> Result<Self, Failure> {
        let mut stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(wire::upgrade_request(&target.to_string(), &format!("d{room}")).as_bytes())?;
        let sent = vec![None; share];
        let mut member = Self { stream, room, inbox: vec![], outbox: vec![], sent, acks: 0, offsets: (0, 0) };
        let head = loop {
            if let Some(end) = wire::upgrade_answer(&member.inbox).map_err(Failure::Run)? {
                break end;
            }
            member.wait()?;
        };
        member.inbox.drain(..head);
        let join = format!("{{\"t\":\"join\",\"r\":\"d{room}\"}}");
        let mut frame = Vec::new();
        wire::client_frame(&mut frame, wire::TEXT, join.as_bytes(), masks.draw());
        (&member.stream).write_all(&frame)?;
        loop {
            while let Some((_, body)) = member.next_frame() {
                if body.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"{\"t\":\"live\"")) {
                    member.stream.set_nonblocking(true)?;
                    return Ok(member);
                }
            }
            member.wait()?;
        }
    }

    /// Reads while the socket still waits for what comes.
    fn wait(&mut self) -> Result<(), Failure> {
        match self.read()? {
            true => Ok(()),
            false => Err(Failure::Run(format!("the server said nothing for {PATIENCE:?}"))),
        }
    }

    /// Whether something came.
    fn read(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 64 << 10];
        match (&self.stream).read(&mut bytes) {
            Ok(0) => Err(Failure::Run("the server closed a connection".to_owned())),
            Ok(count) => {
                self.inbox.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let frame = wire::next_frame(&self.inbox)?;
        let body = self.inbox[frame.body_start..frame.end].to_vec();
        self.inbox.drain(..frame.end);
        Some((frame.opcode, body))
    }
}

/// The number behind a key. Keys of the server stand before anything a sender wrote.
fn number(line: &[u8], key: &[u8]) -> Option<u64> {
    let from = memchr::memmem::find(line, key)? + key.len();
    let digits = line[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&line[from..from + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_an_ack_are_read() {
        let ack = br#"{"t":"ack","r":"d3","s":128,"i":17,"id":"x","ts":1}"#;
        assert_eq!((number(ack, b"\"s\":"), number(ack, b"\"i\":")), (Some(128), Some(17)));
        assert_eq!(number(ack, b"\"n\":"), None);
    }
}
