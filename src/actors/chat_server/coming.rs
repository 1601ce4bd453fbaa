//! Coming and going: the welcome, the join cut, the end of a membership.

use std::sync::Arc;

use bytes::Bytes;

use super::cursors::session_text;
use super::{ChatServer, Membership, Seat, text_frame};
use crate::actors::events::Verdict;
use crate::actors::letters::{ConnectionId, Open, ToHub};
use crate::chat::data::Data;
use crate::chat::message::{Offset, Refused};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Identity;
use crate::chat::presence::NAMED_USERS_MAX;
use crate::chat::room::{Cut, Missing, Past, Resume};
use crate::chat::rooms::RoomKey;
use crate::chat::trace::Wire;
use crate::engines::shared::News;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Join, Reference, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::protocols::native_frames::Welcome;
use crate::store::record::Happened;

/// What a user costs in a list beside the name and the data, in bytes.
const ROSTER_USER_BYTES: usize = 16;
/// Read marks that a newcomer is told: his own and the newest.
const READ_MARKS_TOLD: usize = 100;

/// How somebody sits down in a room.
pub(super) struct Taken {
    pub(super) quiet: bool,
    /// What its application has.
    pub(super) got: Offset,
    /// The first offset that it is to get.
    pub(super) since: Offset,
    /// What it has said itself that it has.
    pub(super) ack: Offset,
}

impl ChatServer {
    pub(super) fn welcome(&mut self, connection: ConnectionId, identity: &Identity, i: RequestNumber) {
        let Some(Seat::Session { name, .. }) = self.seat(connection) else { return };
        let session = session_text(*name);
        let (ping_ms, message_bytes) = (self.settings.ping_ms, self.settings.message_bytes);
        let has_store = self.keeping.lasts();
        let can_find = self.settings.searchable;
        let user = &identity.user;
        let welcome = Welcome { user, session: &session, ping_ms, message_bytes, has_store, can_find };
        self.send(connection, |out| frames::welcome(out, i, &welcome));
    }

    pub(super) fn open(&mut self, open: Open) {
        let Open { connection, identity, i, again, silent, session, wire } = open;
        if !again && !self.come_in(connection, &identity, i, wire) {
            return;
        }
        if again {
            self.welcome_again(connection, &identity);
        }
        match session {
            Some(back) => self.go_on_with(connection, *back, i, silent),
            None if silent => {}
            None => self.welcome(connection, &identity, i),
        }
    }

    /// Somebody comes for the first time. Returns whether the handler lets him in.
    fn come_in(
        &mut self,
        connection: ConnectionId,
        identity: &Arc<Identity>,
        i: RequestNumber,
        wire: Wire,
    ) -> bool {
        self.take_seat(connection, Seat::session(identity.clone(), wire));
        let info = || identity.info.as_ref().map(|info| Bytes::copy_from_slice(info.as_bytes()));
        self.tell_backend(connection, || Happened::Opened(info()));
        let Some(peer) = self.peer(connection) else { return false };
        if let Some(Verdict::Refuse(why)) =
            self.call(&peer, None, |handler, effects| handler.on_open(&peer, effects))
        {
            let problem = Problem::new(403, "not-allowed", why);
            self.send(connection, |out| frames::err(out, &Reference { i, ..Reference::default() }, &problem));
            self.close(connection, Goodbye { code: 4003, why: "not-allowed".into(), wait_ms: None });
        }
        self.seat(connection).is_some()
    }

    /// A new token may cover fewer rooms; the session leaves the others and is told so.
    pub(super) fn welcome_again(&mut self, connection: ConnectionId, identity: &Arc<Identity>) {
        let Some(Seat::Session { identity: known, rooms, .. }) = self.seat_mut(connection) else {
            return;
        };
        *known = identity.clone();
        for membership in rooms.clone() {
            let room = self.rooms.get(membership.room);
            let Err(denied) = identity.may_join(&room.name, &room.settings) else {
                continue;
            };
            let reference = Reference { room: Some(room.name.clone()), ..Reference::default() };
            self.leave(connection, membership, "token");
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
        self.may_enter(&join.room, &identity.user)?;
        let key = self.find_or_open(&join.room)?;
        let member = self.membership(connection, key);
        let limit = self.settings.rooms_per_session;
        if member.is_none() && limit > 0 && count >= limit {
            return Err(Problem::too_many_rooms(limit));
        }
        let quiet = join.quiet || !self.rooms.get(key).settings.presence;
        let start = match join.resume {
            Resume::From(ts) => self.work.told.starts.get(&(join.room.clone(), ts)).copied(),
            _ => None,
        };
        let cut = self.rooms.get(key).cut(&join.resume, start);
        self.forget_behind(connection, key);
        // Who comes back with a place of this log has all before it.
        let (since, ack) = match (&join.resume, &cut.missing) {
            (_, Some(Missing::All { .. })) => (cut.start, 0),
            (Resume::Since(offset, _), _) => (1, (*offset).min(cut.start - 1)),
            _ => (cut.start, 0),
        };
        let (since, ack) =
            member.map_or((since, ack), |member| (member.since.min(since), member.ack.max(ack)));
        let taken = Taken { quiet, got: cut.start - 1, since, ack };
        self.sit_down(connection, &identity, key, member, taken);
        // The others hear of it now, if it is time; the newcomer gets the whole list instead.
        self.tell_presence();
        self.replay(connection, key, &cut, reference.i);
        Ok(())
    }

    pub(super) fn sit_down(
        &mut self,
        connection: ConnectionId,
        identity: &Identity,
        key: RoomKey,
        member: Option<Membership>,
        Taken { quiet, got, since, ack }: Taken,
    ) {
        let was_shown = member.is_some_and(|member| !member.quiet);
        let room = self.rooms.get_mut(key);
        if member.is_none() {
            room.add_member(connection.worker.into());
            self.members += 1;
            self.count_members(key);
        }
        let room = self.rooms.get_mut(key);
        let user = &identity.user;
        let news = match (was_shown, !quiet) {
            (false, true) => {
                let is_first = room.roster.enter(user, identity.info.as_ref());
                is_first.then(|| News::Came(user.clone(), identity.info.clone()))
            }
            (true, false) => room.roster.leave(user).then(|| News::Went(user.clone())),
            _ => None,
        };
        if room.roster.has_news() {
            self.untold.insert(key);
        }
        if let Some(news) = news {
            let name = self.rooms.get(key).name.clone();
            self.tell_nodes(name, news);
        }
        let Some(Seat::Session { rooms, name, .. }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != key);
        rooms.push(Membership { room: key, quiet, stay: 0, got, since, ack });
        let name = *name;
        self.by_name.insert(name, connection);
        self.note_session(connection);
        self.next_stay(connection, key);
    }

    /// A number for a member's next stay among the live ones.
    pub(super) fn next_stay(&mut self, connection: ConnectionId, key: RoomKey) -> u32 {
        self.stays = self.stays.wrapping_add(1);
        let stay = self.stays;
        if let Some(Seat::Session { rooms, .. }) = self.seat_mut(connection)
            && let Some(member) = rooms.iter_mut().find(|member| member.room == key)
        {
            member.stay = stay;
        }
        stay
    }

    /// Gives a reader all that comes before the live stream: `joined`, what he missed, `live`, and the state
    /// that has no place in the log. Where not all of it is hot, he is behind until he has got it.
    fn replay(&mut self, connection: ConnectionId, key: RoomKey, cut: &Cut, i: RequestNumber) {
        let room = self.rooms.get(key);
        let (epoch, who, name) = (room.epoch.to_text(), room.roster.len(), room.name.clone());
        let is_hot = cut.start >= room.history.first();
        let mut all = vec![self.frame(|out| frames::joined(out, &name, &epoch, cut, i, who))];
        if let Some(kept) = cut.rewind {
            all.push(self.frame(|out| frames::rewind(out, &name, kept, &epoch)));
        }
        if !is_hot {
            // Who joins again is live there still, and would hear what is new before what is old.
            self.mail(connection.worker.into(), ToHub::Left { connection, room: key });
            for frame in all {
                self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
            }
            return self.begin_behind(connection, key, cut.start, cut.top);
        }
        all.extend(self.rooms.get(key).history.frames_from(cut.start).cloned());
        all.extend(self.live_and_state(connection, key, cut.top));
        let (frames, bytes) = (all.len(), all.iter().map(Bytes::len).sum());
        self.live(connection, key, all, cut.top);
        self.pause_for_replay(connection, frames, bytes);
    }

    /// `live`, and what a reader has to know beside the log.
    pub(super) fn live_and_state(
        &mut self,
        connection: ConnectionId,
        key: RoomKey,
        head: Offset,
    ) -> Vec<Bytes> {
        let name = self.rooms.get(key).name.clone();
        let mut all = vec![self.frame(|out| frames::live(out, &name, head, None))];
        all.extend(self.state_frames(connection, key));
        all
    }

    /// Who is here, who is typing, and how far those who are here have read.
    pub(super) fn state_frames(&mut self, connection: ConnectionId, key: RoomKey) -> Vec<Bytes> {
        let mut all = Vec::new();
        if self.rooms.get(key).settings.presence {
            all.push(self.roster_frame(key));
        }
        let room = self.rooms.get(key);
        let name = room.name.clone();
        let typing: Vec<UserName> = room.typing.users().cloned().collect();
        let own = self.session(connection).map(|(identity, _)| identity.user.clone());
        let is_told = |user: &UserName| own.as_ref() == Some(user) || room.roster.get(user).is_some();
        let marks = room.reads.marks.iter().filter(|(user, offset)| **offset > 0 && is_told(user));
        // The own mark first: in a large room not all of them are told.
        let mut marks: Vec<(UserName, Offset)> =
            marks.map(|(user, offset)| (user.clone(), *offset)).collect();
        marks.sort_by_key(|(user, offset)| (own.as_ref() != Some(user), std::cmp::Reverse(*offset)));
        for user in typing {
            all.push(self.frame(|out| frames::typing(out, &name, &user, true)));
        }
        for (user, offset) in marks.into_iter().take(READ_MARKS_TOLD) {
            all.push(self.frame(|out| frames::read(out, &name, offset, &user)));
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

    /// `why`: in a word.
    pub(super) fn leave(&mut self, connection: ConnectionId, membership: Membership, why: &'static str) {
        let Some(Seat::Session { identity, rooms, wire, .. }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != membership.room);
        let (user, wire) = (identity.user.clone(), *wire);
        self.note_session(connection);
        self.note_left(connection, &user, wire, membership, (None, why.into()));
        self.leave_room(connection, &user, membership);
    }

    /// Takes a member out of a room, here and at its hub. The hub must hear of it before the room's number can
    /// be given to another room.
    pub(super) fn leave_room(&mut self, connection: ConnectionId, user: &UserName, membership: Membership) {
        let key = membership.room;
        self.forget_behind(connection, key);
        self.mail(connection.worker.into(), ToHub::Left { connection, room: key });
        let room = self.rooms.get_mut(key);
        room.remove_member(connection.worker.into());
        self.members -= 1;
        self.count_members(key);
        let room = self.rooms.get_mut(key);
        let gone_from_here = !membership.quiet && room.roster.leave(user);
        if gone_from_here {
            self.untold.insert(key);
            let name = self.rooms.get(key).name.clone();
            self.tell_nodes(name, News::Went(user.clone()));
        }
        // Who reads quietly may type all the same; with his last session in sight it ends.
        let room = self.rooms.get_mut(key);
        if room.roster.get(user).is_none() && room.typing.end(user) {
            self.tell_typing(key, user, false, None);
        }
    }

    /// Opens a room; makes place for it if need be.
    pub(super) fn open_room(&mut self, name: &RoomName, past: Option<Past>) -> Result<RoomKey, Refused> {
        if let Some(key) = self.rooms.find_or_open(name, past.clone()) {
            return Ok(key);
        }
        if let Some(key) = self.rooms.give_one_up() {
            self.forget(key);
            self.leave_closed();
        }
        self.rooms.find_or_open(name, past).ok_or(Refused::TooManyRooms)
    }
}
