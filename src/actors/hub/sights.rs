//! What connections have of a room's log, looked up when somebody asks: nothing is noted for it while frames go out.

use super::Core;
use crate::actors::letters::{ConnectionId, Sight, Sighting};
use crate::chat::message::Offset;
use crate::chat::rooms::RoomKey;
use crate::protocols::native_frames::PlaceFinder;

impl Core {
    /// Answers what was asked in this turn.
    pub(super) fn answer_sightings(&mut self) {
        for Sighting { room, finder, connections, reply } in std::mem::take(&mut self.sightings) {
            let sights = connections.into_iter().map(|id| self.sight(id, room, &finder)).collect();
            // Whoever asked may have given up.
            reply.send(sights).unwrap_or_default();
        }
    }

    fn sight(&self, id: ConnectionId, key: RoomKey, finder: &PlaceFinder) -> Option<Sight> {
        let connection = self.find(id)?;
        let open = connection.borrow();
        if !open.is_open() {
            return None;
        }
        let membership = open.rooms.iter().find(|membership| membership.room == key)?;
        let upto = membership.is_live().then(|| self.delivered(key, membership.index as usize));
        Some(Sight { upto, unsent: open.find_unsent(|line| finder.offset_of(line)) })
    }

    /// The newest offset that was put on its way to a live member.
    fn delivered(&self, key: RoomKey, index: usize) -> Offset {
        let room = &self.rooms[key.0 as usize];
        let before = match &room.under_way {
            Some(job) if (job.next..job.end).contains(&index) => job.before,
            _ => room.before,
        };
        before + Offset::from(room.members[index].skip_offsets)
    }
}
