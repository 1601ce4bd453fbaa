//! Readers who have seen more than this node. Where several nodes share a room, what is said reaches them one moment
//! after the other, and who polls goes from node to node faster than that. Told that his place means nothing here, such a
//! reader would begin anew and see everything twice; so he waits until the node is where he is.

use super::ChatServer;
use super::Seat;
use crate::actors::letters::{ConnectionId, What};
use crate::chat::names::RoomName;
use crate::clock;

/// How long a reader waits before his place is taken for one that never was, in milliseconds. What is lost on its way to
/// a node is missed and fetched within it. While rooms cannot be written to, it does not run.
const AHEAD_MS: u64 = 10_000;

/// A reader who waits.
pub(super) struct Ahead {
    connection: ConnectionId,
    room: RoomName,
    /// Until when, by the steady clock.
    until: u64,
    /// He has waited long enough.
    is_over: bool,
}

impl ChatServer {
    /// Whether a session stands still because it has seen more of the room that it enters next than this node.
    pub(super) fn waits_for_room(&mut self, connection: ConnectionId) -> bool {
        if !self.keeping.is_shared() {
            return false;
        }
        let Some(Seat::Session { desk: Some(desk), .. }) = self.seat(connection) else { return false };
        let Some(What::Join(join)) = desk.next() else { return false };
        let is_behind =
            self.rooms.find(&join.room).is_some_and(|key| self.rooms.get(key).is_behind(&join.resume));
        let room = join.room.clone();
        let known = self.ahead.iter().position(|ahead| ahead.connection == connection && ahead.room == room);
        match known {
            Some(at) if !is_behind || self.ahead[at].is_over => {
                self.ahead.swap_remove(at);
                return false;
            }
            Some(_) => {}
            None if !is_behind => return false,
            None => {
                let until = clock::steady_ms() + AHEAD_MS;
                self.ahead.push(Ahead { connection, room, until, is_over: false });
            }
        }
        self.stand_still(connection);
        true
    }

    /// A room has gone on: those who waited for it look again.
    pub(super) fn reached(&mut self, name: &RoomName) {
        if self.ahead.is_empty() {
            return;
        }
        let waiting = self.ahead.iter().filter(|ahead| ahead.room == *name).map(|ahead| ahead.connection);
        for connection in waiting.collect::<Vec<_>>() {
            self.go_on(connection);
        }
    }

    /// Lets those go on who have waited long enough, and forgets those who are gone.
    pub(super) fn end_waits(&mut self) {
        let (now, ails) = (clock::steady_ms(), self.keeping.ails());
        let mut over = Vec::new();
        for ahead in &mut self.ahead {
            match ails {
                true => ahead.until = ahead.until.max(now + AHEAD_MS),
                false if now >= ahead.until => {
                    ahead.is_over = true;
                    over.push(ahead.connection);
                }
                false => {}
            }
        }
        for connection in over {
            self.go_on(connection);
            self.ahead.retain(|ahead| ahead.connection != connection || !ahead.is_over);
        }
    }
}
