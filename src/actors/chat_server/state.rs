//! State that has no place in the log, and what ends by itself: typing, presence, what is too old, a drain.

use smallvec::SmallVec;

use super::keeping::Link;
use super::{ChatServer, Seat, TIDY_ROOMS};
use crate::actors::letters::{ConnectionId, ToHub};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Denied;
use crate::chat::presence::NAMED_USERS_MAX;
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::engines::shared::News;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native_frames as frames;

impl ChatServer {
    pub(super) fn end_typing(&mut self, key: RoomKey, user: Option<&UserName>) {
        let Some(user) = user else { return };
        if self.rooms.get_mut(key).typing.end(user) {
            self.tell_typing(key, user, false, None);
        }
    }

    pub(super) fn type_on(
        &mut self,
        connection: ConnectionId,
        name: &RoomName,
        on: bool,
    ) -> Result<(), Problem> {
        let key = self.rooms.find(name).filter(|key| self.membership(connection, *key).is_some());
        let (Some(key), Some((identity, _))) = (key, self.session(connection)) else {
            return Err(Denied::NotJoined.into());
        };
        let user = identity.user.clone();
        if on {
            self.session_may_write(connection, name)?;
        }
        // The others end it by their own clocks, so they hear of it each time that it is said.
        self.tell_nodes(name.clone(), News::Typing(user.clone(), on));
        let room = self.rooms.get_mut(key);
        let news = if on { room.typing.begin(&user, clock::steady_ms()) } else { room.typing.end(&user) };
        if on {
            self.typing.insert(key);
        }
        if news {
            self.tell_typing(key, &user, on, Some(connection));
        }
        Ok(())
    }

    pub(super) fn tell_typing(
        &mut self,
        key: RoomKey,
        user: &UserName,
        on: bool,
        except: Option<ConnectionId>,
    ) {
        let name = self.rooms.get(key).name.clone();
        let frame = self.frame(|out| frames::typing(out, &name, user, on));
        self.broadcast(key, &frame, 0, except);
    }

    /// Tells rooms who came and went, as far as they may be told now.
    pub(super) fn tell_presence(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let now = clock::steady_ms();
        let due: SmallVec<[RoomKey; 8]> =
            self.untold.iter().filter(|key| self.rooms.get(**key).roster.due_at() <= now).copied().collect();
        for key in due {
            self.untold.remove(&key);
            let difference = self.rooms.get_mut(key).roster.take_news(now);
            if difference.is_empty() {
                continue;
            }
            let room = self.rooms.get(key);
            let (name, who) = (room.name.clone(), room.roster.len());
            let frame = if who > NAMED_USERS_MAX {
                self.frame(|out| frames::presence_count(out, &name, who))
            } else {
                let infos: Vec<_> = difference
                    .came
                    .iter()
                    .map(|user| room.roster.get(user).and_then(|here| here.info.clone()))
                    .collect();
                let came = difference.came.iter().zip(infos.iter().map(|info| info.as_deref()));
                self.frame(|out| frames::presence(out, &name, came, &difference.went, who))
            };
            self.broadcast(key, &frame, 0, None);
        }
    }

    pub(super) fn beat(&mut self) {
        let now = clock::steady_ms();
        for key in std::mem::take(&mut self.typing) {
            let ended = self.rooms.get_mut(key).typing.take_ended(now);
            for user in ended {
                self.tell_typing(key, &user, false, None);
            }
            if !self.rooms.get(key).typing.is_empty() {
                self.typing.insert(key);
            }
        }
        self.tidy(TIDY_ROOMS);
        self.keep_cursors(false);
        self.sweep_rules();
        self.tell_receipts();
        self.end_waits();
        self.drain_some();
        // A timer rings after the end of its turn; without this its letters would wait for the next one.
        self.end_turn();
    }

    /// Looks at some rooms for what is too old or too much.
    pub(super) fn tidy(&mut self, n: usize) {
        for key in self.rooms.tidy(clock::cautious_ms(), clock::steady_ms(), n) {
            self.forget(key);
        }
        self.leave_closed();
    }

    /// The service need not send any more what is said in rooms that have been closed.
    pub(super) fn leave_closed(&mut self) {
        let closed = self.rooms.take_closed();
        if let Link::Service(service) = &mut self.keeping.link
            && !closed.is_empty()
        {
            service.leave(closed);
        }
    }

    /// A room is closed; its number may be given to another.
    pub(super) fn forget(&mut self, key: RoomKey) {
        self.untold.remove(&key);
        self.typing.remove(&key);
        self.receipts.remove(&key);
        for link in self.hubs.iter_mut().flatten() {
            link.items.push(ToHub::Forget(key));
        }
    }

    /// Closes some sessions of a server that stops, spread over half of the time it has, so that they do not
    /// all come back elsewhere in the same moment.
    pub(super) fn drain_some(&mut self) {
        let Some(per_beat) = self.draining else { return };
        let mut closed = 0;
        while closed < per_beat && self.sessions > 0 {
            let (worker, slot) = self.drain_hand;
            let Some(seats) = self.seats.get(worker) else {
                self.drain_hand = (0, 0);
                return;
            };
            let Some(place) = seats.get(slot) else {
                self.drain_hand = (worker + 1, 0);
                continue;
            };
            self.drain_hand.1 += 1;
            let Some((generation, seat)) = place else { continue };
            let connection =
                ConnectionId { worker: worker as u16, slot: slot as u32, generation: *generation };
            // Where clients come back to is not the same for all, so neither is when.
            let wait_ms = 500 + self.names.hash_one(connection) % 2_000;
            let goodbye = match seat {
                Seat::Raw { .. } => Goodbye { code: 1001, why: "restart".into(), wait_ms: None },
                Seat::Session { .. } => Goodbye::restart(wait_ms),
            };
            self.close(connection, goodbye);
            closed += 1;
        }
        if self.sessions == 0 {
            // Who has not said who he is has no place here; his hub knows him.
            for link in self.hubs.iter_mut().flatten() {
                link.items.push(ToHub::CloseAll);
            }
        }
    }
}
