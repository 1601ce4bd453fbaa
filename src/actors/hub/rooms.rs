//! The rooms of a thread: who is a member, what this turn has for them, and how it is written.

use bytes::Bytes;

use super::{BATCH_BYTES_MAX, Core, LocalRoom, Member, REPLAY_COPY_MAX, SharedConnection, UnderWay, track};
use crate::actors::letters::ConnectionId;
use crate::chat::rooms::RoomKey;

impl Core {
    pub(super) fn room(&mut self, key: RoomKey) -> &mut LocalRoom {
        let index = key.0 as usize;
        if self.rooms.len() <= index {
            self.rooms.resize_with(index + 1, LocalRoom::default);
        }
        &mut self.rooms[index]
    }

    pub(super) fn deliver(&mut self, key: RoomKey, frames: &[u8], count: u32, except: Option<ConnectionId>) {
        if self.room(key).members.is_empty() {
            return;
        }
        if let Some(index) = except.and_then(|id| self.index_in(id, key)) {
            self.settle(key, index);
            let room = self.room(key);
            room.members[index].skip += frames.len() as u32;
            room.members[index].skip_frames += count;
        }
        let spare = if self.room(key).batch.capacity() == 0 { self.spare.pop() } else { None };
        let room = self.room(key);
        if let Some(buffer) = spare {
            room.batch = buffer;
        }
        room.batch.extend_from_slice(frames);
        room.frames += count;
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

    /// The index of a connection of this thread among the members of a room.
    pub(super) fn index_in(&self, id: ConnectionId, key: RoomKey) -> Option<usize> {
        if id.worker != self.worker {
            return None;
        }
        let connection = self.find(id)?;
        let connection = connection.borrow();
        connection.rooms.iter().find(|(room, _)| *room == key).map(|(_, index)| *index as usize)
    }

    pub(super) fn join(&mut self, id: ConnectionId, key: RoomKey, frames: &[Bytes]) {
        let Some(connection) = self.find(id) else {
            self.tally.accepted += frames.len() as u64;
            self.tally.dropped_closed += frames.len() as u64;
            return;
        };
        match self.index_in(id, key) {
            // Again in the same room: first what it still has to hear as a member.
            Some(index) => self.settle(key, index),
            None if connection.borrow().is_open() => {
                let room = self.room(key);
                let index = room.members.len() as u32;
                let (skip, skip_frames) = (room.batch.len() as u32, room.frames);
                room.members.push(Member { slot: id.slot, skip, skip_frames });
                connection.borrow_mut().rooms.push((key, index));
            }
            None => {}
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

    /// Gives one member what the batch holds for it so far, so that it gets what follows only. A batch that is
    /// under way is finished first.
    pub(super) fn settle(&mut self, key: RoomKey, index: usize) {
        self.finish_under_way(key);
        let room = &mut self.rooms[key.0 as usize];
        let member = &mut room.members[index];
        let (from, frames) = (member.skip as usize, room.frames - member.skip_frames);
        member.skip = room.batch.len() as u32;
        member.skip_frames = room.frames;
        let slot = member.slot;
        if frames == 0 {
            return;
        }
        let connection = self.slots[slot as usize].connection.clone().expect("a member is connected");
        let mut connection = connection.borrow_mut();
        self.tally.accepted += u64::from(frames);
        if !connection.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return;
        }
        let Core { rooms, spare, tally, .. } = self;
        let part = &rooms[key.0 as usize].batch[from..];
        track(tally, &mut connection, |open| {
            open.outbox.stage(part, frames, || spare.pop().unwrap_or_default())
        });
        self.list(&mut connection);
    }

    pub(super) fn leave(&mut self, connection: &SharedConnection, key: RoomKey) {
        let (id, at) = {
            let open = connection.borrow();
            (open.id, open.rooms.iter().position(|(room, _)| *room == key))
        };
        let Some(at) = at else { return };
        let index = self.index_in(id, key).expect("its list of rooms has it");
        self.settle(key, index);
        connection.borrow_mut().rooms.swap_remove(at);
        let room = &mut self.rooms[key.0 as usize];
        room.members.swap_remove(index);
        let Some(moved) = room.members.get(index) else {
            return;
        };
        let moved = self.slots[moved.slot as usize].connection.clone().expect("a member is connected");
        for (room, place) in &mut moved.borrow_mut().rooms {
            if *room == key {
                *place = index as u32;
            }
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
            let Some((key, _)) = connection.borrow().rooms.last().copied() else {
                return;
            };
            self.leave(connection, key);
        }
    }

    /// Writes a room's batch to at most so many members. Returns whether nothing is left.
    pub(super) fn write_room(&mut self, key: RoomKey, members_max: usize) -> bool {
        let room = &mut self.rooms[key.0 as usize];
        if room.under_way.is_none() {
            let spare = self.spare.pop().unwrap_or_default();
            let batch = std::mem::replace(&mut room.batch, spare);
            let frames = std::mem::take(&mut room.frames);
            room.under_way = Some(UnderWay { batch, frames, next: 0, end: room.members.len() });
        }
        let Some(mut job) = room.under_way.take() else {
            return true;
        };
        let stop = job.end.min(job.next.saturating_add(members_max));
        let mut shared: Option<Bytes> = None;
        for index in job.next..stop {
            self.write_member(key, index, &job, &mut shared);
        }
        job.next = stop;
        let room = &mut self.rooms[key.0 as usize];
        if job.next < job.end {
            room.under_way = Some(job);
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

    pub(super) fn finish_under_way(&mut self, key: RoomKey) {
        if self.rooms[key.0 as usize].under_way.is_some() {
            // What remains dirty is found again by the next flush, as the room is still in the list.
            self.write_room(key, usize::MAX);
        }
    }

    /// Gives one member its part of a batch: straight to the socket where nothing else waits for it.
    pub(super) fn write_member(
        &mut self,
        key: RoomKey,
        index: usize,
        job: &UnderWay,
        shared: &mut Option<Bytes>,
    ) {
        let member = &mut self.rooms[key.0 as usize].members[index];
        let (skip, skip_frames) = (member.skip as usize, member.skip_frames);
        (member.skip, member.skip_frames) = (0, 0);
        let slot = member.slot;
        let frames = job.frames - skip_frames;
        if frames == 0 {
            return;
        }
        let part = &job.batch[skip..];
        let Some(connection) = self.slots[slot as usize].connection.clone() else {
            return;
        };
        let mut open = connection.borrow_mut();
        self.tally.accepted += u64::from(frames);
        if !open.is_open() {
            self.tally.dropped_closed += u64::from(frames);
            return;
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
            return;
        }
        let Core { spare, tally, .. } = self;
        track(tally, &mut open, |open| open.outbox.stage(part, frames, || spare.pop().unwrap_or_default()));
        self.list(&mut open);
    }
}
