//! Where users and sessions stand: read marks, what applications have got, and the server-side cursors that
//! let a client go on without any state of its own.

use std::sync::Arc;

use super::fetching::Fetching;
use super::keeping::Then;
use super::{ChatServer, Membership, Seat};
use crate::actors::letters::{Ask, ConnectionId, Return, What};
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::{Denied, Identity};
use crate::chat::presence::NAMED_USERS_MAX;
use crate::chat::room::Resume;
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::engines::shared::News;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::cursor::{Moved, mark_of};
use crate::protocols::native::{Join, Reference, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::store::archive::Question;
use crate::store::record::{Cursor, ReadMark, Record, SessionNote};

/// Sessions whose cursors are kept per beat; more wait for the next one.
const NOTES_PER_BEAT: usize = 500;

/// A session that is to go on where another connection left it.
#[derive(Debug)]
pub(super) struct Resuming {
    pub(super) i: RequestNumber,
    pub(super) silent: bool,
    /// The name that was asked for; none when it is no name of ours.
    pub(super) name: Option<u64>,
    /// What it has got beyond what was kept.
    moved: Vec<Moved>,
    /// What it asks about rooms that the session was not in.
    rest: Vec<Ask>,
}

/// A session's name on the wire.
pub(super) fn session_text(name: u64) -> String {
    format!("s{}", Epoch(name).to_text())
}

fn session_number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix('s')?, 36).ok().filter(|name| session_text(*name) == text)
}

/// Puts what a reader has got into what was kept of its session, which may be older.
fn go_further(rooms: &mut [Cursor], moved: &[Moved]) {
    for moved in moved {
        let Some(cursor) = rooms.iter_mut().find(|cursor| mark_of(&cursor.room) == moved.mark) else {
            continue;
        };
        let epoch = moved.epoch.as_deref().and_then(|text| u64::from_str_radix(text, 36).ok()).map(Epoch);
        match epoch {
            Some(epoch) => (cursor.epoch, cursor.offset) = (epoch, moved.offset),
            None => cursor.offset = cursor.offset.max(moved.offset),
        }
    }
}

impl ChatServer {
    /// A client asks to go on with a session.
    pub(super) fn go_on_with(
        &mut self,
        connection: ConnectionId,
        back: Return,
        i: RequestNumber,
        silent: bool,
    ) {
        let Return { session, moved, rest } = back;
        let name = session_number(&session);
        let resuming = Resuming { i, silent, name, moved, rest };
        let Some(name) = name else { return self.resume_session(connection, resuming, None) };
        let Some((identity, _)) = self.session(connection) else { return };
        let user = identity.user.clone();
        let elsewhere = self.by_name.get(&name).copied();
        if elsewhere == Some(connection) {
            return self.resume_session(connection, resuming, None);
        }
        // The user is asked again: names are hard to guess, but a name is no proof.
        let same_user = |(identity, _): (&Arc<Identity>, _)| identity.user == user;
        if let Some(other) = elsewhere
            && self.session(other).is_some_and(same_user)
        {
            let note = self.note_of(other);
            self.close(other, Goodbye::REPLACED);
            return self.resume_session(connection, resuming, note);
        }
        if !self.keeping.lasts() {
            return self.resume_session(connection, resuming, None);
        }
        self.stand_still(connection);
        let question = Question::Session(session_text(name).into());
        self.question(vec![question], Fetching::Session(connection, resuming));
    }

    /// Welcomes a session with the rooms in which it stood, if anything is known of it.
    pub(super) fn resume_session(
        &mut self,
        connection: ConnectionId,
        resuming: Resuming,
        note: Option<SessionNote>,
    ) {
        let Some((identity, _)) = self.session(connection) else { return };
        let identity = identity.clone();
        let note = note.filter(|note| note.user == identity.user);
        let already = resuming.name.is_some_and(|name| self.by_name.get(&name) == Some(&connection));
        if note.is_some()
            && let (Some(name), false) = (resuming.name, already)
        {
            self.rename(connection, name);
        }
        if !resuming.silent {
            self.welcome(connection, &identity, resuming.i);
        }
        let Resuming { moved, mut rest, .. } = resuming;
        match note {
            Some(mut note) => {
                go_further(&mut note.rooms, &moved);
                // Who names rooms wants no others: it may have left some meanwhile.
                let wanted =
                    |room: &RoomName| rest.iter().any(|ask| ask.reference.room.as_ref() == Some(room));
                note.rooms.retain(|cursor| rest.is_empty() || wanted(&cursor.room));
                if let Some(Seat::Session { returning, .. }) = self.seat_mut(connection) {
                    *returning = Some(note.rooms.clone().into());
                }
                rest.retain(|ask| {
                    !note.rooms.iter().any(|cursor| ask.reference.room.as_ref() == Some(&cursor.room))
                });
                let joins = note.rooms.into_iter().map(|cursor| self.join_of(&identity, cursor));
                let asks = joins.chain(rest).collect();
                self.ask_first(connection, asks);
            }
            None if already => {}
            None => {
                let reference = Reference { i: resuming.i, ..Reference::default() };
                self.send_problem(connection, &reference, &Problem::no_session());
                self.ask_first(connection, rest);
            }
        }
        self.go_on(connection);
    }

    fn join_of(&self, identity: &Identity, cursor: Cursor) -> Ask {
        let Cursor { room, epoch, offset, quiet } = cursor;
        let reference = Reference { room: Some(room.clone()), ..Reference::default() };
        let what = match identity.may_join(&room, &self.settings.rooms.of(&room)) {
            Ok(()) => {
                let resume = Resume::Since(offset, Some(epoch.to_text().into()));
                What::Join(Join { room, resume, quiet, grant: None })
            }
            Err(denied) => What::Refuse(denied.into()),
        };
        Ask { reference, what }
    }

    fn rename(&mut self, connection: ConnectionId, to: u64) {
        let Some(Seat::Session { name, .. }) = self.seat_mut(connection) else { return };
        let before = std::mem::replace(name, to);
        self.by_name.remove(&before);
        self.by_name.insert(to, connection);
    }

    /// Something about a session's cursors has changed.
    pub(super) fn note_session(&mut self, connection: ConnectionId) {
        if !self.keeping.lasts() {
            return;
        }
        if let Some(Seat::Session { noted, .. }) = self.seat_mut(connection)
            && !std::mem::replace(noted, true)
        {
            self.unkept_sessions.push_back(connection);
        }
    }

    /// Where a session stands.
    pub(super) fn note_of(&self, connection: ConnectionId) -> Option<SessionNote> {
        let Some(Seat::Session { identity, rooms, name, returning, .. }) = self.seat(connection) else {
            return None;
        };
        let mut note = self.note(identity, rooms, *name);
        // A room that it is on its way into must not be forgotten, should everything end in this moment.
        let entered = |cursor: &Cursor| note.rooms.iter().any(|known| known.room == cursor.room);
        let rest: Vec<_> =
            returning.iter().flat_map(|rooms| rooms.iter()).filter(|room| !entered(room)).cloned().collect();
        note.rooms.extend(rest);
        Some(note)
    }

    /// A session is in a room again that it goes on with, or will not be.
    pub(super) fn has_returned(&mut self, connection: ConnectionId, room: &RoomName) {
        let Some(Seat::Session { returning: place, .. }) = self.seat_mut(connection) else { return };
        let Some(returning) = place.take() else { return };
        let rest: Vec<Cursor> =
            returning.into_vec().into_iter().filter(|cursor| cursor.room != *room).collect();
        *place = (!rest.is_empty()).then(|| rest.into());
    }

    fn note(&self, identity: &Identity, rooms: &[Membership], name: u64) -> SessionNote {
        let cursor = |member: &Membership| {
            let room = self.rooms.get(member.room);
            Cursor { room: room.name.clone(), epoch: room.epoch, offset: member.got, quiet: member.quiet }
        };
        SessionNote {
            session: session_text(name).into(),
            user: identity.user.clone(),
            ts: clock::wall_ms(),
            rooms: rooms.iter().map(cursor).collect(),
        }
    }

    /// Keeps where a session stands that is about to go.
    pub(super) fn keep_session(&mut self, connection: ConnectionId) {
        let Some(Seat::Session { rooms, noted, returning, .. }) = self.seat(connection) else { return };
        if !self.keeping.lasts() || rooms.is_empty() && !noted && returning.is_none() {
            return;
        }
        if let Some(note) = self.note_of(connection) {
            self.keeping.record(Record::Session(note), false);
        }
    }

    /// Keeps where sessions and users stand, as far as that has changed. `all`: the server stops.
    pub(super) fn keep_cursors(&mut self, all: bool) {
        if !self.keeping.lasts() || self.keeping.may_keep().is_err() {
            return;
        }
        for ((room, user), offset) in std::mem::take(&mut self.unkept_reads) {
            let mark = ReadMark { room: room.clone(), user: user.clone(), offset, ts: clock::wall_ms() };
            let lsn = self.keeping.record(Record::Read(mark), false);
            if let Some(key) = self.rooms.find(&room) {
                self.rooms.get_mut(key).note_record(lsn);
            }
            self.when(lsn, Then::Read(room, user, offset));
        }
        let n = if all { self.unkept_sessions.len() } else { NOTES_PER_BEAT.min(self.unkept_sessions.len()) };
        for connection in self.unkept_sessions.drain(..n).collect::<Vec<_>>() {
            let Some(note) = self.note_of(connection) else { continue };
            if let Some(Seat::Session { noted, .. }) = self.seat_mut(connection) {
                *noted = false;
            }
            let lsn = self.keeping.record(Record::Session(note), false);
            self.when(lsn, Then::Session(connection));
        }
    }

    /// A user has read a room up to a place.
    pub(super) fn read_to(
        &mut self,
        connection: ConnectionId,
        room: &RoomName,
        offset: Offset,
    ) -> Result<(), Problem> {
        let (key, user) = self.member_of(connection, room)?;
        let room = self.rooms.get_mut(key);
        let offset = offset.min(room.history.top());
        let mark = room.reads.marks.entry(user.clone()).or_insert(0);
        if offset <= *mark {
            return Ok(());
        }
        *mark = offset;
        let name = self.rooms.get(key).name.clone();
        if self.keeping.lasts() {
            self.unkept_reads.insert((name.clone(), user.clone()), offset);
        }
        if self.tell_read(key, &user, offset) {
            self.tell_nodes(name, News::Read(user, offset));
        }
        Ok(())
    }

    /// Tells a room how far somebody has read. In a large room marks are kept but not told, as presence is not: it
    /// would cost more than the talk.
    pub(super) fn tell_read(&mut self, key: RoomKey, user: &UserName, offset: Offset) -> bool {
        let room = self.rooms.get(key);
        let is_told = room.roster.len() <= NAMED_USERS_MAX;
        if is_told {
            let name = room.name.clone();
            let frame = self.frame(|out| frames::read(out, &name, offset, user));
            self.broadcast(key, &frame, 0, None);
        }
        is_told
    }

    /// The room of a member, and who it is.
    pub(super) fn member_of(
        &self,
        connection: ConnectionId,
        room: &RoomName,
    ) -> Result<(RoomKey, UserName), Denied> {
        let key = self.rooms.find(room).filter(|key| self.membership(connection, *key).is_some());
        match (key, self.session(connection)) {
            (Some(key), Some((identity, _))) => Ok((key, identity.user.clone())),
            _ => Err(Denied::NotJoined),
        }
    }

    /// A session's application has got everything up to a place.
    pub(super) fn got_to(
        &mut self,
        connection: ConnectionId,
        room: &RoomName,
        offset: Offset,
    ) -> Result<(), Problem> {
        let (key, _) = self.member_of(connection, room)?;
        let offset = offset.min(self.rooms.get(key).history.top());
        let Some(Seat::Session { rooms, .. }) = self.seat_mut(connection) else { return Ok(()) };
        let Some(member) = rooms.iter_mut().find(|member| member.room == key) else { return Ok(()) };
        member.ack = member.ack.max(offset);
        if offset <= member.got {
            return Ok(());
        }
        member.got = offset;
        self.note_session(connection);
        if self.rooms.get_mut(key).receipt.count(offset) {
            self.receipts.insert(key);
        }
        Ok(())
    }

    /// Tells rooms how far their members have got. A room of n sessions hears of it every n milliseconds at
    /// most, so that all rooms' receipts together cost no more than a thousand deliveries a second each.
    pub(super) fn tell_receipts(&mut self) {
        let now = clock::steady_ms();
        for key in std::mem::take(&mut self.receipts) {
            let room = self.rooms.get_mut(key);
            let (sessions, name) = (room.sessions(), room.name.clone());
            if room.receipt.told_at > now {
                self.receipts.insert(key);
                continue;
            }
            let (is_news, own) = (room.receipt.take_news(), room.receipt.own(sessions));
            let (offset, n, of) = room.receipt.of_all(sessions);
            room.receipt.told_at = now + u64::from(of);
            let frame = self.frame(|out| frames::got(out, &name, offset, n as usize, of as usize));
            self.broadcast(key, &frame, 0, None);
            if is_news {
                self.tell_nodes(name, News::Got(own.0, own.1, own.2));
            }
        }
    }
}
