//! The rooms of a thread: who is a member, what this turn has for them, and how it is written.

use bytes::Bytes;

use super::{
    BATCH_BYTES_MAX, Core, Entrance, LocalRoom, Member, REPLAY_COPY_MAX, Run, SharedConnection, UnderWay,
    track,
};
use crate::actors::connection::Membership;
use crate::actors::letters::ConnectionId;
use crate::chat::message::Offset;
use crate::chat::rooms::RoomKey;
use crate::chat::settings::SlowReader;

impl LocalRoom {
    /// A member from here on: what the batch holds already is not for it.
    fn newcomer(&self, slot: u32) -> Member {
        let mut member = Member { slot, skip: 0, skip_frames: 0, skip_offsets: 0 };
        self.skip_batch(&mut member);
        member
    }

    fn skip_batch(&self, member: &mut Member) {
        member.skip = self.batch.len() as u32;
        member.skip_frames = self.frames;
        member.skip_offsets = (self.last - self.before) as u32;
    }

    /// Notes how far the room's log has been delivered, when nobody is there to hear it.
    fn pass(&mut self, last: Offset) {
        (self.last, self.before) = (last, last);
    }
}

impl Core {
    pub(super) fn room(&mut self, key: RoomKey) -> &mut LocalRoom {
        let index = key.0 as usize;
        if self.rooms.len() <= index {
            self.rooms.resize_with(index + 1, LocalRoom::default);
        }
        &mut self.rooms[index]
    }

    pub(super) fn deliver(&mut self, key: RoomKey, run: Run<'_>, except: Option<ConnectionId>) {
        if self.room(key).members.is_empty() {
            if run.last > 0 {
                self.room(key).pass(run.last);
            }
            return;
        }
        // Gets what came before; this it skips.
        let except = except.and_then(|id| self.settle(id, key));
        let spare = if self.room(key).batch.capacity() == 0 { self.spare.pop() } else { None };
        let room = self.room(key);
        if let Some(buffer) = spare {
            room.batch = buffer;
        }
        room.batch.extend_from_slice(run.frames);
        room.frames += run.count;
        if run.last > 0 {
            room.last = run.last;
        }
        if let Some(index) = except {
            let mut member = room.members[index];
            room.skip_batch(&mut member);
            room.members[index] = member;
        }
        let full = room.batch.len() > BATCH_BYTES_MAX;
        if !room.dirty {
            room.dirty = true;
            self.dirty.push(key);
        }
        if full {
            self.write_room(key, usize::MAX);
            self.write_listed();
        }
    }

    /// The index of a connection of this thread among the live members of a room.
    pub(super) fn index_in(&self, id: ConnectionId, key: RoomKey) -> Option<usize> {
        if id.worker != self.worker {
            return None;
        }
        let connection = self.find(id)?;
        let connection = connection.borrow();
        let membership = connection.rooms.iter().find(|membership| membership.room == key)?;
        membership.is_live().then_some(membership.index as usize)
    }

    pub(super) fn join(&mut self, id: ConnectionId, entrance: Entrance, frames: &[Bytes]) {
        let Some(connection) = self.find(id) else {
            self.tally.accepted += frames.len() as u64;
            self.tally.dropped_closed += frames.len() as u64;
            return;
        };
        // Again in the same room: first what it still has to hear as a member.
        let member = self.settle(id, entrance.room);
        if connection.borrow().is_open() {
            self.make_live(&connection, entrance, member);
        }
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if bytes <= REPLAY_COPY_MAX {
            for frame in frames {
                self.stage(&connection, frame, 1);
            }
            return;
        }
        let now = self.now_ms();
        let mut open = connection.borrow_mut();
        self.tally.accepted += frames.len() as u64;
        if !open.is_open() {
            self.tally.dropped_closed += frames.len() as u64;
            return;
        }
        track(&mut self.tally, &mut open, |open| open.outbox.stage_replay(frames.iter().cloned(), now));
        self.list(&mut open);
    }

    /// Makes a connection a live member, or numbers the stay of one that is a live member anew.
    fn make_live(&mut self, connection: &SharedConnection, entrance: Entrance, member: Option<usize>) {
        let Entrance { room: key, stay, after, slow } = entrance;
        let mut open = connection.borrow_mut();
        let room = self.room(key);
        room.cuts = slow != SlowReader::Close;
        if room.members.is_empty() {
            room.pass(after);
        }
        debug_assert_eq!(after, room.last, "nobody joins behind or ahead of what is delivered");
        let index = member.unwrap_or(room.members.len()) as u32;
        if member.is_none() {
            let newcomer = room.newcomer(open.id.slot);
            room.members.push(newcomer);
        }
        let known = open.rooms.iter().position(|membership| membership.room == key);
        let Some(known) = known else {
            return open.rooms.push(Membership { room: key, index, stay });
        };
        let was_behind = !open.rooms[known].is_live();
        open.rooms[known] = Membership { room: key, index, stay };
        if was_behind {
            self.has_caught_up(&mut open);
        }
    }

    /// Gives one member what the batch holds for it so far, so that it gets what follows only. A batch that is
    /// under way is finished first. Returns where it stands among the live members, if it still is one.
    pub(super) fn settle(&mut self, id: ConnectionId, key: RoomKey) -> Option<usize> {
        self.index_in(id, key)?;
        self.finish_under_way(key);
        let index = self.index_in(id, key)?;
        let room = &mut self.rooms[key.0 as usize];
        let (cuts, had) = (room.cuts, room.members[index]);
        let mut member = had;
        room.skip_batch(&mut member);
        room.members[index] = member;
        let frames = room.frames - had.skip_frames;
        if frames == 0 {
            return Some(index);
        }
        let after = room.before + Offset::from(had.skip_offsets);
        let connection = self.slots[had.slot as usize].connection.clone().expect("a member is connected");
        let mut open = connection.borrow_mut();
        let bytes = self.rooms[key.0 as usize].batch.len() - had.skip as usize;
        if cuts && open.is_open() && self.is_too_much(&open, bytes) {
            self.cut_lane(&mut open, key, after);
            drop(open);
            let end = self.rooms[key.0 as usize].members.len();
            self.take_out(key, index, end);
            return None;
        }
        self.tally.accepted += u64::from(frames);
        if !open.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return Some(index);
        }
        let Core { rooms, spare, tally, .. } = self;
        let part = &rooms[key.0 as usize].batch[had.skip as usize..];
        track(tally, &mut open, |open| open.outbox.stage(part, frames, || spare.pop().unwrap_or_default()));
        self.list(&mut open);
        Some(index)
    }

    pub(super) fn leave(&mut self, connection: &SharedConnection, key: RoomKey) {
        let id = connection.borrow().id;
        let member = self.settle(id, key);
        let mut open = connection.borrow_mut();
        let Some(known) = open.rooms.iter().position(|membership| membership.room == key) else {
            return;
        };
        open.rooms.swap_remove(known);
        match member {
            Some(index) => {
                drop(open);
                let end = self.rooms[key.0 as usize].members.len();
                self.take_out(key, index, end);
            }
            None => self.has_caught_up(&mut open),
        }
    }

    /// Empties a room that is closed. Nobody should be in it any more; whoever is all the same is no member
    /// when the number is given to another room.
    pub(super) fn empty(&mut self, key: RoomKey) {
        while let Some(member) = self.room(key).members.last() {
            let slot = member.slot as usize;
            match self.slots[slot].connection.clone() {
                Some(connection) => self.leave(&connection, key),
                None => {
                    self.room(key).members.pop();
                }
            }
        }
        let room = self.room(key);
        *room = LocalRoom { dirty: room.dirty, ..LocalRoom::default() };
    }

    pub(super) fn leave_all(&mut self, connection: &SharedConnection) {
        loop {
            let Some(membership) = connection.borrow().rooms.last().copied() else {
                return;
            };
            self.leave(connection, membership.room);
        }
    }

    /// Writes a room's batch to at most so many members. Returns whether nothing is left.
    pub(super) fn write_room(&mut self, key: RoomKey, members_max: usize) -> bool {
        let mut job = match self.rooms[key.0 as usize].under_way.take() {
            Some(job) => *job,
            None => self.take_batch(key),
        };
        let mut members_left = members_max;
        let mut shared: Option<Bytes> = None;
        while job.next < job.end && members_left > 0 {
            members_left -= 1;
            if self.write_member(key, job.next, &job, &mut shared) {
                job.next += 1;
            } else {
                self.take_out(key, job.next, job.end);
                job.end -= 1;
            }
        }
        let room = &mut self.rooms[key.0 as usize];
        if job.next < job.end {
            room.under_way = Some(Box::new(job));
            return false;
        }
        job.batch.clear();
        if job.batch.capacity() <= BATCH_BYTES_MAX {
            self.spare.push(job.batch);
        }
        let room = &mut self.rooms[key.0 as usize];
        if room.batch.is_empty() {
            let buffer = std::mem::take(&mut room.batch);
            room.dirty = false;
            if buffer.capacity() > 0 && buffer.capacity() <= BATCH_BYTES_MAX {
                self.spare.push(buffer);
            }
            self.spare.truncate(64);
            return true;
        }
        false
    }

    fn take_batch(&mut self, key: RoomKey) -> UnderWay {
        let spare = self.spare.pop().unwrap_or_default();
        let room = &mut self.rooms[key.0 as usize];
        UnderWay {
            batch: std::mem::replace(&mut room.batch, spare),
            frames: std::mem::take(&mut room.frames),
            before: std::mem::replace(&mut room.before, room.last),
            next: 0,
            end: room.members.len(),
        }
    }

    pub(super) fn finish_under_way(&mut self, key: RoomKey) {
        if self.rooms[key.0 as usize].under_way.is_some() {
            // What remains dirty is found again by the next flush, as the room is still in the list.
            self.write_room(key, usize::MAX);
        }
    }

    /// Gives one member its part of a batch: straight to the socket where nothing else waits for it. Returns
    /// whether it stays a live member.
    pub(super) fn write_member(
        &mut self,
        key: RoomKey,
        index: usize,
        job: &UnderWay,
        shared: &mut Option<Bytes>,
    ) -> bool {
        let room = &mut self.rooms[key.0 as usize];
        let (cuts, member) = (room.cuts, &mut room.members[index]);
        let had = *member;
        (member.skip, member.skip_frames, member.skip_offsets) = (0, 0, 0);
        let frames = job.frames - had.skip_frames;
        if frames == 0 {
            return true;
        }
        let skip = had.skip as usize;
        let part = &job.batch[skip..];
        let Some(connection) = self.slots[had.slot as usize].connection.clone() else {
            return true;
        };
        let mut open = connection.borrow_mut();
        if cuts && open.is_open() && self.is_too_much(&open, part.len()) {
            self.cut_lane(&mut open, key, job.before + Offset::from(had.skip_offsets));
            return false;
        }
        self.tally.accepted += u64::from(frames);
        if !open.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return true;
        }
        if open.rooms.len() == 1 && open.outbox.is_empty() {
            let now = self.turn_ms;
            let all = &job.batch;
            let kept = || shared.get_or_insert_with(|| Bytes::copy_from_slice(all)).slice(skip..);
            let (socket, outbox) = open.parts();
            match outbox.write_through(socket, part, frames, now, kept) {
                Ok(Some(sent)) => self.count_write_through(&mut open, &sent),
                Ok(None) => unreachable!("the outbox is empty"),
                Err(_) => {
                    self.tally.dropped_closed += u64::from(frames);
                    self.give_up(&mut open);
                }
            }
            return true;
        }
        let Core { spare, tally, .. } = self;
        track(tally, &mut open, |open| open.outbox.stage(part, frames, || spare.pop().unwrap_or_default()));
        self.list(&mut open);
        true
    }
}
