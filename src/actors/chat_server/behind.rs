//! Members that are behind: those who come back to more than is hot, and those who read too slowly for a room
//! that does not close them. Each has a cursor; entries are fed to it from the store and from what is hot, at
//! the pace at which it takes them, until it is a live member again. It so sees every place once and in order,
//! and costs one piece of the log at a time.

use bytes::Bytes;

use super::fetching::Fetching;
use super::{ChatServer, Membership};
use crate::actors::letters::{ConnectionId, Report, ToHub};
use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::chat::rooms::RoomKey;
use crate::chat::settings::SlowReader;
use crate::protocols::codes::Goodbye;
use crate::protocols::native_frames as frames;
use crate::store::archive::{Answer, Question, StoredEntry};

/// Bytes of lines that are read and fed at a time.
const FEED_BYTES: usize = 256 << 10;
/// The largest replay behind which a session may ask on at once.
const SMALL_REPLAY_FRAMES: usize = 64;
const SMALL_REPLAY_BYTES: usize = 64 << 10;

/// Whose frames a hub has been asked to report the end of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fed {
    /// Those of a member that is behind, in one of its stays.
    Member(RoomKey, u32),
    /// Those of a session that has got a large replay; what it asks next waits for it.
    Session,
}

/// A member that is behind.
#[derive(Debug)]
pub(super) struct Behind {
    /// The next offset that it gets.
    next: Offset,
    /// The head when it joined, until `live` has told it that it is past it.
    head: Option<Offset>,
    stay: u32,
    /// What it misses for reading too slowly.
    slow: SlowReader,
    /// Of lives of the log that begin after this place it has not been told.
    told: Offset,
}

impl ChatServer {
    /// Hubs report.
    pub(super) fn reported(&mut self, report: Report) {
        match report {
            Report::Behind { connection, room, stay, after } => {
                let is_now = self.membership(connection, room).is_some_and(|member| member.stay == stay);
                if !is_now {
                    return;
                }
                let slow = self.rooms.get(room).settings.slow_reader;
                let behind = Behind { next: after + 1, head: None, stay, slow, told: after };
                self.behind.insert((connection, room), behind);
                self.mail(connection.worker.into(), ToHub::Watch { connection });
                self.feeding.entry(connection).or_default().push_back(Fed::Member(room, stay));
            }
            Report::Drained { connection } => {
                let Some(waiting) = self.feeding.get_mut(&connection) else { return };
                let Some(fed) = waiting.pop_front() else { return };
                if waiting.is_empty() {
                    self.feeding.remove(&connection);
                }
                match fed {
                    Fed::Member(room, stay) => self.feed(connection, room, stay),
                    Fed::Session => self.go_on(connection),
                }
            }
        }
    }

    /// A session has got a replay; if it is a large one, it asks nothing more before it has read it. So what waits
    /// for one reader is bounded, however many joins come in one letter.
    pub(super) fn pause_for_replay(&mut self, connection: ConnectionId, frames: usize, bytes: usize) {
        if frames <= SMALL_REPLAY_FRAMES && bytes <= SMALL_REPLAY_BYTES {
            return;
        }
        self.stand_still(connection);
        self.mail(connection.worker.into(), ToHub::Watch { connection });
        self.feeding.entry(connection).or_default().push_back(Fed::Session);
    }

    /// A member that has joined and is to get everything from `start`, of which not all is hot.
    pub(super) fn begin_behind(
        &mut self,
        connection: ConnectionId,
        key: RoomKey,
        start: Offset,
        head: Offset,
    ) {
        let Some(Membership { stay, .. }) = self.membership(connection, key) else { return };
        let behind = Behind { next: start, head: Some(head), stay, slow: SlowReader::Wait, told: head };
        self.behind.insert((connection, key), behind);
        self.feed(connection, key, stay);
    }

    /// Gives a member that is behind its next entries, or makes it live.
    fn feed(&mut self, connection: ConnectionId, key: RoomKey, stay: u32) {
        let Some(behind) = self.behind.get(&(connection, key)).filter(|behind| behind.stay == stay) else {
            return;
        };
        let (next, slow) = (behind.next, behind.slow);
        let room = self.rooms.get(key);
        let (first_hot, top) = (room.history.first(), room.history.top());
        match slow {
            SlowReader::Gap if next <= top => return self.jump(connection, key, top + 1),
            SlowReader::Latest if next < top => return self.jump(connection, key, top),
            _ => {}
        }
        if next >= first_hot {
            return self.make_live(connection, key);
        }
        if !self.keeping.lasts() {
            return self.jump(connection, key, first_hot);
        }
        let question =
            Question::Range { room: room.name.clone(), from: next, to: first_hot - 1, bytes: FEED_BYTES };
        self.question(vec![question], Fetching::Feed(connection, key, stay));
    }

    /// A slow reader hears that it does not get what stands before an offset.
    fn jump(&mut self, connection: ConnectionId, key: RoomKey, to: Offset) {
        let Some(behind) = self.behind.get_mut(&(connection, key)) else { return };
        let from = std::mem::replace(&mut behind.next, to);
        let name = self.rooms.get(key).name.clone();
        self.send(connection, |out| frames::gap(out, &name, (from, to - 1), "slow"));
        self.note_gap(connection, key, (from, to - 1));
        self.make_live(connection, key);
    }

    /// The store has found the next entries of a member that is behind.
    pub(super) fn fed(
        &mut self,
        connection: ConnectionId,
        key: RoomKey,
        stay: u32,
        answers: Result<Vec<Answer>, String>,
    ) {
        let is_now = self.behind.get(&(connection, key)).is_some_and(|behind| behind.stay == stay);
        if !is_now {
            return;
        }
        let list = match answers.map(|answers| answers.into_iter().next()) {
            Ok(Some(Answer::Entries { list, .. })) => list,
            // Without its log the reader must not go on as if nothing were missing: it comes back later.
            _ => return self.close(connection, Goodbye::LATER),
        };
        let Some(behind) = self.behind.get(&(connection, key)) else { return };
        let (next, head) = (behind.next, behind.head);
        let room = self.rooms.get(key);
        let (name, first_kept) = (room.name.clone(), room.first_kept());
        let end = list.last().map_or(first_kept.max(next + 1), |entry| entry.offset + 1);
        let placed = self.frames_of_range(&name, next, end, &list);
        let live_at =
            head.filter(|head| end > *head).map(|head| placed.partition_point(|(last, _)| *last <= head));
        let mut all: Vec<Bytes> = placed.into_iter().map(|(_, frame)| frame).collect();
        let told_live = live_at.is_some();
        if let (Some(head), Some(at)) = (head, live_at) {
            let state = self.live_and_state(connection, key, head);
            all.splice(at..at, state);
        }
        if let Some(behind) = self.behind.get_mut(&(connection, key)) {
            behind.next = end;
            behind.head = head.filter(|_| !told_live);
        }
        self.mail(connection.worker.into(), ToHub::Feed { connection, frames: all });
        self.feeding.entry(connection).or_default().push_back(Fed::Member(key, stay));
    }

    /// Frames for the places from `next` to before `end`, each with the last place that it stands for; places
    /// that are gone become skips.
    fn frames_of_range(
        &mut self,
        name: &RoomName,
        next: Offset,
        end: Offset,
        list: &[StoredEntry],
    ) -> Vec<(Offset, Bytes)> {
        let mut all = Vec::with_capacity(list.len() + 2);
        let mut at = next;
        for entry in list.iter().filter(|entry| entry.offset >= next) {
            if entry.offset > at {
                let skip = self.frame(|out| frames::skip(out, name, at, entry.offset - at));
                all.push((entry.offset - 1, skip));
            }
            all.push((entry.offset, self.frame_of_stored(name, entry)));
            at = entry.offset + 1;
        }
        if at < end {
            all.push((end - 1, self.frame(|out| frames::skip(out, name, at, end - at))));
        }
        all
    }

    /// What a member that is behind still lacks is hot: it gets that and is live.
    fn make_live(&mut self, connection: ConnectionId, key: RoomKey) {
        let Some(behind) = self.behind.remove(&(connection, key)) else { return };
        let room = self.rooms.get(key);
        let (top, next) = (room.history.top(), behind.next);
        let mut all: Vec<Bytes> = room.history.frames_from(next).cloned().collect();
        match behind.head {
            Some(head) => {
                let at =
                    usize::try_from((head + 1).saturating_sub(next)).unwrap_or(usize::MAX).min(all.len());
                let state = self.live_and_state(connection, key, head);
                all.splice(at..at, state);
            }
            // It was live before, and may have missed who came and went.
            None => all.extend(self.state_frames(connection, key)),
        }
        if self.rooms.get(key).begins() > behind.told + 1 {
            all.push(self.life_frame(key, top));
        }
        self.live(connection, key, all, top);
    }

    /// Makes a member live at its hub, after these frames.
    pub(super) fn live(&mut self, connection: ConnectionId, key: RoomKey, frames: Vec<Bytes>, after: Offset) {
        let stay = self.next_stay(connection, key);
        let slow = self.rooms.get(key).settings.slow_reader;
        let joined = ToHub::Joined { connection, room: key, stay, frames, after, slow };
        self.mail(connection.worker.into(), joined);
    }

    /// The next offset that a member gets; none unless it is behind.
    pub(super) fn next_of_behind(&self, connection: ConnectionId, key: RoomKey) -> Option<Offset> {
        self.behind.get(&(connection, key)).map(|behind| behind.next)
    }

    /// A member is behind no more because it has left, or joins again.
    pub(super) fn forget_behind(&mut self, connection: ConnectionId, key: RoomKey) {
        self.behind.remove(&(connection, key));
    }
}
