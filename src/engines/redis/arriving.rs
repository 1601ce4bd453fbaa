//! A partition's way in: what comes through the inbox goes into the logs of its rooms and into memory, and what is
//! next leaves for the sink. Called by the partition only.

use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};

use crate::chat::entry::Entry;
use crate::chat::message::Offset;
use crate::chat::names::RoomName;
use crate::engines::redis::frame::{self, Frame};
use crate::engines::redis::joining::Wish;
use crate::engines::redis::logs::{Heard, Stage};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::shared::Says;

/// How long a hole may heal by itself.
const HOLE_MAX: Duration = Duration::from_millis(20);

/// Runs of entries by room, in the order in which the rooms came first.
type Runs = Vec<(RoomName, Vec<Entry>)>;

impl Partition {
    pub(super) fn on_push(&mut self, live: &mut Live, push: Option<PushInfo>) -> Result<(), String> {
        let Some(push) = push else { return Err("the inbox is closed".into()) };
        match push.kind {
            PushKind::Message | PushKind::SMessage => {}
            PushKind::Disconnection => return Err("the connection of the inbox is lost".into()),
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                return Err("the server has ended the subscription".into());
            }
            _ => return Ok(()),
        }
        if let Some(Value::BulkString(message)) = push.data.into_iter().nth(1) {
            self.on_message(live, message.into());
        }
        Ok(())
    }

    fn on_message(&mut self, live: &mut Live, message: Bytes) {
        let mut runs = Runs::new();
        for frame in frame::frames(&message) {
            match frame {
                Frame::Sign(number) => self.on_sign(live, number),
                Frame::Entry { room, offset, epoch, body } => {
                    let body = message.slice_ref(body);
                    self.on_entry(room, offset, epoch, body, &mut runs);
                }
                Frame::Other(tag, content) => self.on_other_frame(tag, content),
            }
        }
        for (room, run) in runs {
            self.say_arrived(room, run);
        }
    }

    fn on_entry(&mut self, room: &str, offset: Offset, epoch: u64, body: Bytes, runs: &mut Runs) {
        let Some((room, log)) = self.rooms.get_key_value(room) else { return };
        let (room, stage) = (room.clone(), log.stage);
        let Some(entry) = frame::entry(&room, offset, epoch, &body) else {
            log::error!("redis: an entry cannot be read; is another version of this program running?");
            return;
        };
        if offset == 0 {
            if stage == Stage::Live {
                self.world.say(Says::Passed(room, entry.line));
            }
            return;
        }
        self.memory.put(&room, offset, epoch, body);
        let at = match runs.iter().rposition(|(other, _)| *other == room) {
            Some(at) => at,
            None => {
                runs.push((room.clone(), Vec::new()));
                runs.len() - 1
            }
        };
        let Some(log) = self.rooms.get_mut(&room) else { return };
        let heard = log.hear(entry, &mut runs[at].1);
        self.after_hearing(&room, heard);
    }

    /// Remembers what has to be looked at after an entry.
    pub(super) fn after_hearing(&mut self, room: &RoomName, heard: Heard) {
        let Some(log) = self.rooms.get_mut(room) else { return };
        match heard {
            Heard::Fine => {}
            Heard::Hole => {
                log.hole.get_or_insert_with(Instant::now);
            }
            Heard::Astray => {
                log.stage = Stage::Stale;
                self.wishes.push_back(Wish::Again(room.clone()));
            }
        }
    }

    pub(super) fn say_arrived(&mut self, room: RoomName, run: Vec<Entry>) {
        if !run.is_empty() {
            self.world.say(Says::Arrived(room, run));
        }
    }

    /// Asks for what is missing where a hole did not heal by itself.
    pub(super) fn look_at_holes(&mut self, now: Instant) {
        for (room, log) in &mut self.rooms {
            if log.stage == Stage::Live && log.hole.is_some_and(|since| now.duration_since(since) > HOLE_MAX)
            {
                log.hole = None;
                log.stage = Stage::Stale;
                self.wishes.push_back(Wish::Again(room.clone()));
            }
        }
    }
}
