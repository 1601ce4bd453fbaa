//! Who is connected, and the four events that handlers are told of.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{ChatServer, Membership, Seat, frame_of};
use crate::actors::events::{self, Effect, Effects, Peer};
use crate::actors::letters::{ConnectionId, ToHub};
use crate::actors::panics::contained;
use crate::chat::permission::Identity;
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Goodbye;
use crate::store::record::Happened;

impl ChatServer {
    pub(super) fn seat(&self, connection: ConnectionId) -> Option<&Seat> {
        match self.seats.get(usize::from(connection.worker))?.get(connection.slot as usize)? {
            Some((generation, seat)) if *generation == connection.generation => Some(seat),
            _ => None,
        }
    }

    pub(super) fn seat_mut(&mut self, connection: ConnectionId) -> Option<&mut Seat> {
        match self.seats.get_mut(usize::from(connection.worker))?.get_mut(connection.slot as usize)? {
            Some((generation, seat)) if *generation == connection.generation => Some(seat),
            _ => None,
        }
    }

    pub(super) fn take_seat(&mut self, connection: ConnectionId, seat: Seat) {
        let worker = usize::from(connection.worker);
        if self.seats.len() <= worker {
            self.seats.resize_with(worker + 1, Vec::new);
        }
        let seats = &mut self.seats[worker];
        let slot = connection.slot as usize;
        if seats.len() <= slot {
            seats.resize_with(slot + 1, || None);
        }
        debug_assert!(seats[slot].is_none(), "a place is closed before it is given again");
        seats[slot] = Some((connection.generation, seat));
        self.sessions += 1;
    }

    pub(super) fn peer(&self, connection: ConnectionId) -> Option<Peer> {
        let (user, uri) = match self.seat(connection)? {
            Seat::Session { identity, .. } => (Some(identity.user.clone()), "".into()),
            Seat::Raw { uri, .. } => (None, uri.clone()),
        };
        Some(Peer { connection: Some(connection), user, uri })
    }

    pub(super) fn session(
        &self,
        connection: ConnectionId,
    ) -> Option<(&Arc<Identity>, &SmallVec<[Membership; 1]>)> {
        match self.seat(connection)? {
            Seat::Session { identity, rooms, .. } => Some((identity, rooms)),
            Seat::Raw { .. } => None,
        }
    }

    pub(super) fn membership(&self, connection: ConnectionId, room: RoomKey) -> Option<Membership> {
        let (_, rooms) = self.session(connection)?;
        rooms.iter().find(|membership| membership.room == room).copied()
    }

    /// Calls the handler that is responsible for a peer, if there is one. A panic in it closes the peer.
    pub(super) fn call<T>(
        &mut self,
        peer: &Peer,
        raw: Option<usize>,
        call: impl FnOnce(&mut dyn events::Handler, &mut Effects) -> T,
    ) -> Option<T> {
        let handler: &mut dyn events::Handler = match raw {
            Some(index) => self.handlers.raw.get_mut(index)?.as_mut(),
            None => self.handlers.rooms.as_mut()?.as_mut(),
        };
        let mut effects = Effects::default();
        let result = contained(|| call(handler, &mut effects));
        for effect in effects.take() {
            self.carry_out(effect);
        }
        if result.is_none() {
            log::error!("a handler panicked; its session is closed");
            if let Some(connection) = peer.connection {
                self.close(connection, Goodbye::INTERNAL);
            }
        }
        result
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(to, message) => {
                if self.seat(to).is_some() {
                    let frame = frame_of(&message);
                    self.mail(to.worker.into(), ToHub::Direct { connection: to, frame });
                }
            }
            Effect::Say(draft) => self.say_for_handler(draft),
            Effect::Close(connection, code, why) => {
                self.close(connection, Goodbye { code, why: why.into(), wait_ms: None });
            }
        }
    }

    pub(super) fn close(&mut self, connection: ConnectionId, goodbye: Goodbye) {
        if self.seat(connection).is_none() {
            return;
        }
        self.gone(connection, goodbye.code, goodbye.why.clone());
        self.mail(connection.worker.into(), ToHub::Close { connection, goodbye });
    }

    /// Somebody is gone: out of all rooms, then onClose.
    pub(super) fn gone(&mut self, connection: ConnectionId, code: u16, why: Cow<'static, str>) {
        let Some(peer) = self.peer(connection) else { return };
        self.keep_session(connection);
        self.tell_backend(connection, || Happened::Closed(code));
        self.feeding.remove(&connection);
        let place = &mut self.seats[usize::from(connection.worker)][connection.slot as usize];
        let Some((_, seat)) = place.take() else { return };
        self.sessions -= 1;
        let raw = match seat {
            Seat::Raw { handler, .. } => Some(handler),
            Seat::Session { identity, rooms, name, wire, .. } => {
                if self.by_name.get(&name) == Some(&connection) {
                    self.by_name.remove(&name);
                }
                for membership in rooms {
                    self.note_left(connection, &identity.user, wire, membership, (Some(code), why.clone()));
                    self.leave_room(connection, &identity.user, membership);
                }
                None
            }
        };
        self.call(&peer, raw, |handler, effects| handler.on_close(&peer, code, effects));
    }
}
