//! Questions of sessions: who is here, a page of the log, what somebody said, which rooms a user has. What is
//! hot is answered at once, the rest when the store has answered.

use super::fetching::Fetching;
use super::{ChatServer, text_frame};
use crate::actors::letters::{ConnectionId, ToHub};
use crate::chat::history::{Page, PageFrom};
use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::chat::permission::Denied;
use crate::chat::room::Room;
use crate::chat::rooms::RoomKey;
use crate::protocols::codes::Problem;
use crate::protocols::native::{Reference, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::frame::payload_of;
use crate::store::archive::{Answer, Question, UserRoom};

/// Rooms in one answer to `rooms`.
const ROOMS_MAX: usize = 500;

/// What a session has asked of the store.
#[derive(Debug)]
pub(super) enum Asked {
    /// A page of the log, or of what was found.
    Page(RoomName, Reference),
    /// The user's rooms.
    Rooms(Reference),
}

impl ChatServer {
    /// The room of a question: one that the session is in, or that its token lists.
    pub(super) fn room_to_read(
        &self,
        connection: ConnectionId,
        name: &RoomName,
        granted: bool,
    ) -> Result<Option<RoomKey>, Problem> {
        self.session_may_enter(connection, name)?;
        let key = self.rooms.find(name);
        match key.is_some_and(|key| self.membership(connection, key).is_some()) || granted {
            true => Ok(key),
            false => Err(Denied::NotJoined.into()),
        }
    }

    pub(super) fn who(
        &mut self,
        connection: ConnectionId,
        i: RequestNumber,
        key: RoomKey,
        after: Option<&str>,
        n: usize,
    ) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let mut page = Vec::new();
        let (mut bytes, mut more) = (0, false);
        for (user, present) in room.roster.after(after) {
            bytes += user.as_str().len() + present.info.as_ref().map_or(0, |info| info.as_bytes().len());
            if page.len() == n || !page.is_empty() && bytes > self.settings.message_bytes {
                more = true;
                break;
            }
            page.push((user, present));
        }
        frames::who(&mut line, &room.name, room.history.top(), i, page.into_iter(), more);
        let frame = text_frame(&line);
        self.line = line;
        self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    /// A page of the log: from what is hot if all of it is, else from the store.
    pub(super) fn log(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        key: RoomKey,
        from: PageFrom,
        n: usize,
    ) {
        let bytes = self.settings.message_bytes;
        let room = self.rooms.get(key);
        let Some((page, more)) = hot_page(room, from, n, bytes) else {
            let question = Question::Page { room: room.name.clone(), from, n, bytes };
            let asked = Asked::Page(room.name.clone(), reference.clone());
            self.stand_still(connection);
            return self.question(vec![question], Fetching::Ask(connection, asked));
        };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let entries = (page.first..).zip(page.frames.iter().map(|frame| Some(payload_of(frame))));
        frames::page(&mut line, &room.name, &room.epoch.to_text(), reference.i, entries, more);
        let frame = text_frame(&line);
        self.line = line;
        self.mail(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    /// Searches a room.
    pub(super) fn find(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        room: RoomName,
        words: String,
        before: Option<Offset>,
        n: usize,
    ) {
        let bytes = self.settings.message_bytes;
        let before = before.unwrap_or(Offset::MAX);
        let question = Question::Find { room: room.clone(), words, before, n, bytes };
        self.stand_still(connection);
        self.question(vec![question], Fetching::Ask(connection, Asked::Page(room, reference.clone())));
    }

    /// The rooms of a session's user.
    pub(super) fn list_rooms(&mut self, connection: ConnectionId, reference: &Reference) {
        // Marks that are in memory only make a room hers as well.
        self.keep_cursors(false);
        let Some((identity, _)) = self.session(connection) else { return };
        let question = Question::RoomsOf { user: identity.user.clone(), n: ROOMS_MAX };
        self.stand_still(connection);
        self.question(vec![question], Fetching::Ask(connection, Asked::Rooms(reference.clone())));
    }

    /// The store has answered a session's question.
    pub(super) fn answer_asked(
        &mut self,
        connection: ConnectionId,
        asked: Asked,
        answers: Result<Vec<Answer>, String>,
    ) {
        if self.seat(connection).is_none() {
            return;
        }
        let answer = answers.map(|answers| answers.into_iter().next());
        match (asked, answer) {
            (Asked::Page(name, reference), Ok(Some(Answer::Entries { list, more }))) => {
                let epoch = self.rooms.find(&name).map(|key| self.rooms.get(key).epoch.to_text());
                let entries = list.iter().map(|entry| (entry.offset, entry.line.as_deref()));
                let epoch = epoch.unwrap_or_default();
                self.send(connection, |out| frames::page(out, &name, &epoch, reference.i, entries, more));
            }
            (Asked::Rooms(reference), Ok(Some(Answer::RoomsOf(rooms)))) => {
                let rooms = self.rooms_now(connection, rooms);
                let more = rooms.len() >= ROOMS_MAX;
                let list = rooms.iter().map(|UserRoom { room, top, read }| frames::ListedRoom {
                    room,
                    top: *top,
                    read: *read,
                });
                self.send(connection, |out| frames::rooms(out, reference.i, list, more));
            }
            (Asked::Page(_, reference) | Asked::Rooms(reference), _) => {
                let problem = Problem::new(503, "not-stored", "the store cannot be read now; ask again soon");
                self.send_problem(connection, &reference, &problem.wait(super::BUSY_WAIT_MS));
            }
        }
        self.go_on(connection);
    }

    /// A user's rooms as the store knows them, with what is newer in memory, and those that the session is in.
    fn rooms_now(&self, connection: ConnectionId, mut rooms: Vec<UserRoom>) -> Vec<UserRoom> {
        let Some((identity, memberships)) = self.session(connection) else { return rooms };
        for membership in memberships {
            let name = &self.rooms.get(membership.room).name;
            if !rooms.iter().any(|known| known.room == *name) {
                rooms.push(UserRoom { room: name.clone(), top: 0, read: 0 });
            }
        }
        rooms.retain(|room| {
            identity.may_join(&room.room, &self.settings.rooms.of(&room.room)).is_ok()
                && self.may_enter(&room.room, &identity.user).is_ok()
        });
        for known in &mut rooms {
            let Some(key) = self.rooms.find(&known.room) else { continue };
            let room = self.rooms.get(key);
            known.top = room.history.top();
            if let Some(read) = room.reads.marks.get(&identity.user) {
                known.read = known.read.max(*read);
            }
        }
        rooms
    }
}

/// A page of the log out of memory, and whether there are more entries in its direction; none if some of it is in the
/// store only.
pub(super) fn hot_page(room: &Room, from: PageFrom, n: usize, bytes: usize) -> Option<(Page<'_>, bool)> {
    let page = room.history.page(from, n, bytes);
    let first_hot = room.history.first();
    let older_stored = room.first_kept() < first_hot;
    let is_whole = match from {
        PageFrom::Before(_) | PageFrom::Until(_) => {
            !older_stored || !page.frames.is_empty() && (page.more || page.frames.len() == n)
        }
        PageFrom::After(after) => !older_stored || after.saturating_add(1) >= first_hot,
        PageFrom::Since(ts) => !older_stored || !room.must_look_up(ts),
    };
    let more = page.more || older_stored && matches!(from, PageFrom::Before(_) | PageFrom::Until(_));
    is_whole.then_some((page, more))
}
