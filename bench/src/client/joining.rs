//! How a connection comes to be: dialing, the upgrade, `join`, until `live`. A part of the event loop, apart because it
//! runs before anything is measured. Gives each connection its source address and its user.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::connection::{Role, State};
use super::event_loop::{EventLoop, arm};
use super::hearing::{kind, show};
use super::plan::Speakers;
use super::shared::count;
use crate::sys::{self, Dialing};
use crate::wire;

/// Connections from one source address; the kernel has about 28,000 ports for each.
const PER_SOURCE: usize = 20_000;
/// A stalled listener takes this little, so that the server feels the stall at once and not after megabytes.
const STALLED_RECEIVE_BYTES: i32 = 4096;

impl EventLoop<'_> {
    pub(super) fn open_more(&mut self) -> io::Result<()> {
        while self.on_their_way < self.shared.plan.connecting_max && self.opened < self.connections.len() {
            self.open(self.opened)?;
            self.opened += 1;
        }
        Ok(())
    }

    fn open(&mut self, token: usize) -> io::Result<()> {
        let plan = &self.shared.plan;
        let connection = &mut self.connections[token];
        let target = match &plan.speakers {
            Speakers::Queue(door) if connection.role == Role::Pusher => door.address,
            _ => plan.target_of(connection.number),
        };
        let how = Dialing {
            source: source_of(target, connection.number),
            receive_buffer: connection.stalls.then_some(STALLED_RECEIVE_BYTES),
        };
        let stream = sys::dial(target, how)?;
        self.poller.add(&stream, token, sys::READ | sys::WRITE)?;
        connection.stream = Some(stream);
        connection.wants_space = true;
        connection.state = State::Dialing;
        self.on_their_way += 1;
        Ok(())
    }

    pub(super) fn on_space(&mut self, token: usize) -> io::Result<()> {
        let connection = &mut self.connections[token];
        if connection.state == State::Dialing {
            if let Some(error) = connection.stream.as_ref().and_then(|stream| stream.take_error().transpose())
            {
                let error = error?;
                self.on_gone(token, &error.to_string());
                return Ok(());
            }
            match connection.role {
                Role::Pusher => self.on_ready(token),
                Role::Member => {
                    connection.state = State::Upgrading;
                    let host = self.shared.plan.target_of(connection.number).to_string();
                    let request = wire::upgrade_request(&host, &format!("u{}", connection.number));
                    connection.write(request.as_bytes());
                }
            }
        }
        let connection = &mut self.connections[token];
        connection.flush();
        arm(&self.poller, connection, token);
        Ok(())
    }

    pub(super) fn on_ready(&mut self, token: usize) {
        self.connections[token].state = State::Ready;
        self.on_their_way -= 1;
        count(&self.counters().ready, 1);
    }

    pub(super) fn join(&mut self, token: usize) {
        let connection = &mut self.connections[token];
        connection.state = State::Joining;
        let line = self.shared.plan.join_line(connection.room);
        self.frame.clear();
        wire::client_frame(&mut self.frame, wire::TEXT, line.as_bytes(), self.masks.draw());
        connection.write(&self.frame);
    }
}

/// What a frame means to one that has not joined yet.
pub(super) enum Joining {
    Wait,
    Live,
    Refused(String),
}

pub(super) fn hear_joining(body: &[u8]) -> Joining {
    for line in body.split(|byte| *byte == b'\n') {
        match kind(line) {
            b"live" => return Joining::Live,
            b"err" | b"bye" => return Joining::Refused(show(line)),
            _ => {}
        }
    }
    Joining::Wait
}

/// Loopback has a whole network of source addresses; elsewhere the kernel chooses.
fn source_of(target: SocketAddrV4, number: usize) -> Option<Ipv4Addr> {
    let place = number / PER_SOURCE;
    (target.ip().is_loopback() && place > 0)
        .then(|| Ipv4Addr::new(127, 0, (place / 250) as u8, (place % 250) as u8 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_connections_come_from_further_loopback_addresses() {
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
        assert_eq!(source_of(target, PER_SOURCE - 1), None);
        assert_eq!(source_of(target, PER_SOURCE), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source_of(target, PER_SOURCE * 250), Some(Ipv4Addr::new(127, 0, 1, 1)));
        assert_eq!(source_of(SocketAddrV4::new([10, 0, 0, 1].into(), 80), PER_SOURCE), None);
    }

    #[test]
    fn only_live_ends_the_waiting_and_an_error_is_told() {
        assert!(matches!(hear_joining(b"{\"t\":\"joined\",\"r\":\"a\"}"), Joining::Wait));
        assert!(matches!(hear_joining(b"{\"t\":\"joined\"}\n{\"t\":\"live\",\"s\":0}"), Joining::Live));
        let refused = hear_joining(b"{\"t\":\"err\",\"code\":403}");
        assert!(matches!(refused, Joining::Refused(why) if why.contains("403")));
    }
}
