//! Lanes: a room's way to one member. Where a slow reader does not cost its connection, its lane is cut when
//! the outbox is nearly full; what is fed to it then comes from the chat server at the reader's own pace.

use bytes::Bytes;

use super::{Core, track};
use crate::actors::connection::{Connection, Membership};
use crate::actors::letters::{ConnectionId, Report};
use crate::chat::message::Offset;
use crate::chat::rooms::RoomKey;

/// The part of an outbox that rooms may fill before their lanes are cut. The rest is for answers: to what
/// the reader asked while there was room for them, and to what its session has to tell it.
const LANES_SHARE: (usize, usize) = (3, 4);

impl Core {
    /// Whether so many more bytes of rooms are too much for a reader.
    pub(super) fn is_too_much(&self, connection: &Connection, bytes: usize) -> bool {
        let outbox = &connection.outbox;
        let (part, of) = LANES_SHARE;
        outbox.is_blocked()
            && outbox.behind_bytes() + outbox.staged_bytes() + bytes > self.limits.outbox_bytes / of * part
    }

    /// Reports that a member is behind, with the offset of the last entry that it got. Whoever calls this
    /// takes it out of the room.
    pub(super) fn cut_lane(&mut self, connection: &mut Connection, key: RoomKey, after: Offset) {
        let id = connection.id;
        let membership = connection.rooms.iter_mut().find(|membership| membership.room == key);
        let membership = membership.expect("a member knows its rooms");
        membership.index = Membership::BEHIND;
        self.reports.push(Report::Behind { connection: id, room: key, stay: membership.stay, after });
        self.tally.lanes_cut += 1;
    }

    /// A connection is behind in one room less. When it was the last, its frames have to leave in time again,
    /// counted from now.
    pub(super) fn has_caught_up(&mut self, connection: &mut Connection) {
        if !connection.is_behind() {
            connection.outbox.renew(self.now_ms());
        }
    }

    /// Takes the member at `index` out of a room whose batch is being written to the members before `end`:
    /// the last of those takes its place, and the last of all that one's.
    pub(super) fn take_out(&mut self, key: RoomKey, index: usize, end: usize) {
        let members = &mut self.rooms[key.0 as usize].members;
        members.swap(index, end - 1);
        members.swap_remove(end - 1);
        for moved in [index, end - 1] {
            self.place(key, moved);
        }
    }

    /// Tells a member where it stands among the members.
    fn place(&mut self, key: RoomKey, index: usize) {
        let Some(member) = self.rooms[key.0 as usize].members.get(index) else {
            return;
        };
        let moved = self.slots[member.slot as usize].connection.clone().expect("a member is connected");
        let mut moved = moved.borrow_mut();
        let membership = moved.rooms.iter_mut().find(|membership| membership.room == key);
        membership.expect("a member knows its rooms").index = index as u32;
    }

    /// Frames for a connection that is behind, and the promise to say when they have left. Without frames: the
    /// promise to say when all has left that waits now.
    pub(super) fn feed(&mut self, id: ConnectionId, frames: Vec<Bytes>) {
        let count = frames.len() as u64;
        self.tally.accepted += count;
        let connection = self.find(id);
        let open = connection.as_ref().map(|connection| connection.borrow_mut());
        let Some(mut open) = open.filter(|connection| connection.is_open()) else {
            self.tally.dropped_closed += count;
            return;
        };
        let now = self.now_ms();
        let marked = track(&mut self.tally, &mut open, |open| {
            open.outbox.stage_replay(frames, now);
            open.outbox.mark(now)
        });
        match marked {
            true => self.list(&mut open),
            false => self.reports.push(Report::Drained { connection: id }),
        }
    }
}
