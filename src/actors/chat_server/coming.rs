//! Coming and going: the welcome, the join cut, the end of a membership.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{ChatServer, Membership, Seat, text_frame};
use crate::actors::events::Verdict;
use crate::actors::letters::{ConnectionId, Open, ToHub};
use crate::chat::data::Data;
use crate::chat::message::Refused;
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Identity;
use crate::chat::presence::NAMED_USERS_MAX;
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Join, Reference, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::protocols::native_frames::Welcome;

/// What a user costs in a list beside the name and the data, in bytes.
const ROSTER_USER_BYTES: usize = 16;

impl ChatServer {
    pub(super) fn welcome(&mut self, connection: ConnectionId, identity: &Identity, i: RequestNumber) {
        let session = crate::chat::message::Epoch(self.names.hash_one(connection)).to_text();
        let (ping_ms, message_bytes) = (self.settings.ping_ms, self.settings.message_bytes);
        let session = format!("s{session}");
        self.send(connection, |out| {
            frames::welcome(
                out,
                i,
                &Welcome {
                    user: &identity.user,
                    session: &session,
                    ping_ms,
                    message_bytes,
                    has_store: false,
                },
            );
        });
    }

    pub(super) fn open(&mut self, open: Open) {
        let Open { connection, identity, i, again, silent } = open;
        if again {
            self.welcome_again(connection, &identity);
            if !silent {
                self.welcome(connection, &identity, i);
            }
            return;
        }
        self.take_seat(connection, Seat::Session { identity: identity.clone(), rooms: SmallVec::new() });
        let Some(peer) = self.peer(connection) else { return };
        if let Some(Verdict::Refuse(why)) =
            self.call(&peer, None, |handler, effects| handler.on_open(&peer, effects))
        {
            let problem = Problem::new(403, "not-allowed", why);
            self.send(connection, |out| frames::err(out, &Reference { i, ..Reference::default() }, &problem));
            self.close(connection, Goodbye { code: 4003, why: "not-allowed".into(), wait_ms: None });
            return;
        }
        self.welcome(connection, &identity, i);
    }

    /// A new token may cover fewer rooms; the session leaves the others and is told so.
    pub(super) fn welcome_again(&mut self, connection: ConnectionId, identity: &Arc<Identity>) {
        let Some(Seat::Session { identity: known, rooms }) = self.seat_mut(connection) else {
            return;
        };
        *known = identity.clone();
        for membership in rooms.clone() {
            let room = self.rooms.get(membership.room);
            let Err(denied) = identity.may_join(&room.name, &room.settings) else {
                continue;
            };
            let reference = Reference { room: Some(room.name.clone()), ..Reference::default() };
            self.leave(connection, membership);
            self.send(connection, |out| frames::err(out, &reference, &denied.into()));
        }
    }

    pub(super) fn join(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        join: &Join,
    ) -> Result<(), Problem> {
        let Some((identity, rooms)) = self.session(connection) else {
            return Ok(());
        };
        let (identity, count) = (identity.clone(), rooms.len());
        let key = self.find_or_open(&join.room)?;
        let member = self.membership(connection, key);
        let limit = self.settings.rooms_per_session;
        if member.is_none() && limit > 0 && count >= limit {
            return Err(Problem::too_many_rooms(limit));
        }
        let quiet = join.quiet || !self.rooms.get(key).settings.presence;
        self.sit_down(connection, &identity, key, member, quiet);
        // The others hear of it now, if it is time; the newcomer gets the whole list instead.
        self.tell_presence();
        let welcome = self.replay(key, join, reference.i);
        self.mail(connection.worker.into(), ToHub::Joined { connection, room: key, frames: welcome });
        Ok(())
    }

    pub(super) fn sit_down(
        &mut self,
        connection: ConnectionId,
        identity: &Identity,
        key: RoomKey,
        member: Option<Membership>,
        quiet: bool,
    ) {
        let was_shown = member.is_some_and(|member| !member.quiet);
        let room = self.rooms.get_mut(key);
        if member.is_none() {
            room.add_member(connection.worker.into());
            self.members += 1;
        }
        match (was_shown, !quiet) {
            (false, true) => room.roster.enter(&identity.user, identity.info.as_ref()),
            (true, false) => {
                room.roster.leave(&identity.user);
            }
            _ => {}
        }
        if room.roster.has_news() {
            self.untold.insert(key);
        }
        let Some(Seat::Session { rooms, .. }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != key);
        rooms.push(Membership { room: key, quiet });
    }

    /// All that a reader gets before the live stream: `joined`, what he missed, `live`, and the state that has
    /// no place in the log: who is here and who is typing.
    pub(super) fn replay(&mut self, key: RoomKey, join: &Join, i: RequestNumber) -> Vec<Bytes> {
        let room = self.rooms.get(key);
        let (cut, epoch, who) = (room.cut(&join.resume), room.epoch.to_text(), room.roster.len());
        let (name, presence) = (room.name.clone(), room.settings.presence);
        let entries: Vec<Bytes> = room.history.frames_from(cut.start).cloned().collect();
        let typing: Vec<UserName> = room.typing.users().cloned().collect();
        let mut all = Vec::with_capacity(entries.len() + 3 + typing.len());
        all.push(self.frame(|out| frames::joined(out, &name, &epoch, &cut, i, who)));
        all.extend(entries);
        all.push(self.frame(|out| frames::live(out, &name, cut.top, None)));
        if presence {
            all.push(self.roster_frame(key));
        }
        for user in typing {
            all.push(self.frame(|out| frames::typing(out, &name, &user, true)));
        }
        all
    }

    pub(super) fn roster_frame(&mut self, key: RoomKey) -> Bytes {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let who = room.roster.len();
        let all = || room.roster.after(None).map(|(user, present)| (user, present.info.as_deref()));
        let bytes = |(user, info): (&UserName, Option<&Data>)| {
            user.as_str().len() + info.map_or(0, |info| info.as_bytes().len()) + ROSTER_USER_BYTES
        };
        // The list is sent to everybody who joins, so it must not be large; `who` reads it page by page.
        if who > NAMED_USERS_MAX || all().map(bytes).sum::<usize>() > self.settings.message_bytes {
            frames::presence_count(&mut line, &room.name, who);
        } else {
            frames::presence(&mut line, &room.name, all(), &[], who);
        }
        let frame = text_frame(&line);
        self.line = line;
        frame
    }

    pub(super) fn leave(&mut self, connection: ConnectionId, membership: Membership) {
        let Some(Seat::Session { identity, rooms }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != membership.room);
        let user = identity.user.clone();
        self.leave_room(connection, &user, membership);
    }

    /// Takes a member out of a room, here and at its hub. The hub must hear of it before the room's number can
    /// be given to another room.
    pub(super) fn leave_room(&mut self, connection: ConnectionId, user: &UserName, membership: Membership) {
        let key = membership.room;
        self.mail(connection.worker.into(), ToHub::Left { connection, room: key });
        let room = self.rooms.get_mut(key);
        room.remove_member(connection.worker.into());
        self.members -= 1;
        let shown_no_more = !membership.quiet && room.roster.leave(user);
        if shown_no_more {
            self.untold.insert(key);
        }
        // Who reads quietly may type all the same; with his last session in sight it ends.
        let room = self.rooms.get_mut(key);
        if room.roster.get(user).is_none() && room.typing.end(user) {
            self.tell_typing(key, user, false, None);
        }
    }

    pub(super) fn find_or_open(&mut self, name: &RoomName) -> Result<RoomKey, Refused> {
        if let Some(key) = self.rooms.find_or_open(name) {
            return Ok(key);
        }
        if let Some(key) = self.rooms.give_one_up() {
            self.forget(key);
        }
        self.rooms.find_or_open(name).ok_or(Refused::TooManyRooms)
    }
}
