//! What comes from the service that shares rooms among nodes: entries in the order of their places, what was
//! taken back, and what other nodes tell of their people.

use bytes::Bytes;

use super::keeping::Change;
use super::{ChatServer, Seat};
use crate::actors::letters::{Ask, ConnectionId, ToHub, What};
use crate::chat::data::Data;
use crate::chat::entry::{Entry, Kind};
use crate::chat::history::Hot;
use crate::chat::line;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::{RoomName, UserName};
use crate::chat::room::Resume;
use crate::chat::rooms::RoomKey;
use crate::clock;
use crate::engines::shared::{Command, Elsewhere, News, NodeSlot, Says};
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Join, Reference};
use crate::protocols::native_frames as frames;

impl ChatServer {
    /// The service tells.
    pub(super) fn service_says(&mut self, says: Says) {
        match says {
            Says::Settled(outcomes) => self.settled(outcomes),
            Says::Arrived(room, entries) => self.arrived(&room, entries),
            Says::Rewound { room, to, epoch } => self.rewound(&room, to, epoch),
            Says::Skipped { room, to, epoch } => self.skipped(&room, to, epoch),
            Says::Passed(room, line) => self.passed(&room, &line),
            Says::News(room, node, news) => self.heard(&room, node, news),
            Says::Roster(room, elsewhere) => self.roster_elsewhere(&room, &elsewhere),
            Says::Crowd { room, nodes, all } => self.crowd_elsewhere(&room, &nodes, all),
            Says::NodeGone(node) => self.node_gone(node),
            Says::Answered { ticket, answers } => self.answered(ticket, answers),
            Says::Seen { ticket, view } => self.seen(ticket, view),
            Says::Trace(asked, reply) => self.trace_for_other(asked, reply),
            Says::Command(command) => self.carry_out_command(command),
            Says::Ruled { ticket, settled } => self.rule_settled(ticket, settled),
            Says::Rules { list, all } => self.rules_told(list, all),
            Says::Health(complaint) => {
                match &complaint {
                    Some(why) => log::error!("rooms cannot be written to now: {}", why.escape_debug()),
                    None => log::info!("rooms can be written to"),
                }
                self.keeping.note_service(complaint);
            }
        }
    }

    /// The next entries of a room. A room that was closed meanwhile gets them when it opens again.
    fn arrived(&mut self, name: &RoomName, entries: Vec<Entry>) {
        let Some(key) = self.rooms.find(name) else { return };
        for entry in entries {
            self.arrive(key, entry);
        }
        self.reached(name);
    }

    fn arrive(&mut self, key: RoomKey, entry: Entry) {
        let room = self.rooms.get(key);
        let top = room.history.top();
        if entry.offset != top + 1 {
            log::error!("offset {} arrived after {top} in a room", entry.offset);
            return;
        }
        if entry.epoch != room.epoch {
            self.rooms.get_mut(key).begin_life(entry.epoch, entry.offset);
            self.tell_life(key, top);
        }
        if entry.kind == Kind::Message {
            self.end_typing(key, entry.user.as_ref());
        }
        let frame = super::text_frame(&entry.line);
        self.rooms.promise(key, entry.ts, 0, None);
        self.rooms.show(key, Hot { ts: entry.ts, lsn: 0, frame: frame.clone() });
        self.apply_change(key, &entry);
        let origin = self.span_of(&entry);
        self.spread(key, &frame, entry.offset, &origin);
    }

    /// A new life of a log begins, and nothing was taken back.
    fn tell_life(&mut self, key: RoomKey, top: Offset) {
        let frame = self.life_frame(key, top);
        self.broadcast(key, &frame, 0, None);
    }

    pub(super) fn life_frame(&mut self, key: RoomKey, top: Offset) -> Bytes {
        let room = self.rooms.get(key);
        let (name, epoch) = (room.name.clone(), room.epoch.to_text());
        self.frame(|out| frames::live(out, &name, top, Some(&epoch)))
    }

    /// What an entry does to earlier ones.
    fn apply_change(&mut self, key: RoomKey, entry: &Entry) {
        let Entry { kind, of, offset, .. } = *entry;
        if kind == Kind::Message {
            return;
        }
        self.learn_from_history(key, of);
        if let Some(state) = self.rooms.get_mut(key).changes.get_mut(of) {
            match (kind, &entry.user, &entry.mark) {
                (Kind::Edit, ..) => state.edited = offset,
                (Kind::Delete, ..) => (state.deleted, state.edited) = (true, 0),
                (Kind::React, Some(user), Some(mark)) => state.react(user, mark, !entry.off, offset),
                _ => {}
            }
        }
        if kind == Kind::React {
            return;
        }
        let replaces = self.edit_before(key, of, offset);
        let raw = line::data_of(&entry.line).and_then(|data| serde_json::from_slice(data).ok());
        let data = raw.and_then(|raw| Data::new(raw).ok()).filter(|_| kind == Kind::Edit);
        self.change_hot(key, offset, &Change { of, data, replaces });
    }

    /// What stands above `to` was taken back: readers forget it, and get what comes in its place.
    fn rewound(&mut self, name: &RoomName, to: Offset, epoch: Epoch) {
        let Some(key) = self.rooms.find(name) else { return };
        self.rooms.go_on_after(key, to, epoch);
        let (room, epoch) = (name.clone(), epoch.to_text());
        let frame = self.frame(|out| frames::rewind(out, &room, to, &epoch));
        for connection in self.members_of(key) {
            let Some(Seat::Session { rooms, .. }) = self.seat_mut(connection) else { continue };
            for member in rooms.iter_mut().filter(|member| member.room == key) {
                (member.since, member.ack) = (member.since.min(to + 1), member.ack.min(to));
            }
        }
        self.go_on_with_members(key, to, |_| frame.clone());
        self.reached(name);
    }

    /// Readers hear which places they do not get.
    fn skipped(&mut self, name: &RoomName, to: Offset, epoch: Epoch) {
        let Some(key) = self.rooms.find(name) else { return };
        let from = self.rooms.get(key).history.top() + 1;
        let is_new = epoch != self.rooms.get(key).epoch;
        log::error!("the places {from} to {to} of a room did not reach this node and are not kept");
        self.rooms.go_on_after(key, to, epoch);
        let room = name.clone();
        let frame = self.frame(|out| frames::gap(out, &room, (from, to), "lost"));
        for connection in self.members_of(key) {
            self.note_gap(connection, key, (from, to));
        }
        self.go_on_with_members(key, to, |_| frame.clone());
        if is_new {
            self.tell_life(key, to);
        }
        self.reached(name);
    }

    /// Every live member gets a frame and goes on after a place. Those who are behind cannot be told where they
    /// stand; they come back by what they remember.
    fn go_on_with_members(&mut self, key: RoomKey, after: Offset, frame: impl Fn(ConnectionId) -> Bytes) {
        let members = self.members_of(key);
        // The hubs count from another place on: all go out before the first comes in again.
        for connection in &members {
            self.mail(connection.worker.into(), ToHub::Left { connection: *connection, room: key });
        }
        for connection in members {
            match self.behind.contains_key(&(connection, key)) {
                true => self.close(connection, Goodbye::restart(0)),
                false => self.live(connection, key, vec![frame(connection)], after),
            }
        }
    }

    pub(super) fn members_of(&self, key: RoomKey) -> Vec<ConnectionId> {
        self.sessions_where(|seat| matches!(seat, Seat::Session { rooms, .. } if rooms.iter().any(|member| member.room == key)))
    }

    /// The connections of this node of which something is true. For rare events: it looks at all.
    fn sessions_where(&self, is_meant: impl Fn(&Seat) -> bool) -> Vec<ConnectionId> {
        let mut found = Vec::new();
        for (worker, seats) in self.seats.iter().enumerate() {
            for (slot, place) in seats.iter().enumerate() {
                if let Some((generation, seat)) = place
                    && is_meant(seat)
                {
                    let (worker, slot) = (worker as u16, slot as u32);
                    found.push(ConnectionId { worker, slot, generation: *generation });
                }
            }
        }
        found
    }

    fn passed(&mut self, name: &RoomName, line: &Bytes) {
        if let Some(key) = self.rooms.find(name) {
            let frame = super::text_frame(line);
            self.broadcast(key, &frame, 0, None);
        }
    }

    /// Another node tells of its people.
    fn heard(&mut self, name: &RoomName, node: NodeSlot, news: News) {
        let Some(key) = self.rooms.find(name) else { return };
        let room = self.rooms.get_mut(key);
        match news {
            News::Came(user, info) => {
                if room.roster.enter_elsewhere(node, &user, info.as_ref()) {
                    self.untold.insert(key);
                }
            }
            News::Went(user) => {
                if room.roster.leave_elsewhere(node, &user) {
                    self.untold.insert(key);
                }
            }
            News::Typing(user, on) => self.types_elsewhere(key, &user, on),
            News::Read(user, offset) => self.has_read_elsewhere(key, &user, offset),
            News::Got(offset, n, of) => {
                room.receipt_elsewhere(node, offset, n, of);
                self.receipts.insert(key);
            }
        }
    }

    fn types_elsewhere(&mut self, key: RoomKey, user: &UserName, on: bool) {
        let typing = &mut self.rooms.get_mut(key).typing;
        let is_news = if on { typing.begin(user, clock::steady_ms()) } else { typing.end(user) };
        if on {
            self.typing.insert(key);
        }
        if is_news {
            self.tell_typing(key, user, on, None);
        }
    }

    fn has_read_elsewhere(&mut self, key: RoomKey, user: &UserName, offset: Offset) {
        let room = self.rooms.get_mut(key);
        let mark = room.reads.marks.entry(user.clone()).or_insert(0);
        if offset > *mark {
            *mark = offset;
            self.tell_read(key, user, offset);
        }
    }

    fn roster_elsewhere(&mut self, name: &RoomName, elsewhere: &[Elsewhere]) {
        let Some(key) = self.rooms.find(name) else { return };
        let roster = &mut self.rooms.get_mut(key).roster;
        roster.set_elsewhere(elsewhere.iter().map(|here| (here.node, &here.user, here.info.as_ref())));
        if roster.has_news() {
            self.untold.insert(key);
        }
    }

    fn crowd_elsewhere(&mut self, name: &RoomName, nodes: &[(NodeSlot, u32)], all: bool) {
        let Some(key) = self.rooms.find(name) else { return };
        let roster = &mut self.rooms.get_mut(key).roster;
        roster.count_elsewhere(nodes, all);
        if roster.has_news() {
            self.untold.insert(key);
        }
    }

    fn node_gone(&mut self, node: NodeSlot) {
        let mut news = Vec::new();
        for (key, room) in self.rooms.iter_mut() {
            room.forget_receipt_of(node);
            if room.roster.lose_node(node) {
                news.push(key);
            }
        }
        self.untold.extend(news);
    }

    /// A session enters a room because an operator says so; in turn with what it asks itself.
    fn enter_by_order(&mut self, connection: ConnectionId, room: &RoomName) {
        if self.rooms.find(room).is_some_and(|key| self.membership(connection, key).is_some()) {
            return;
        }
        let reference = Reference { room: Some(room.clone()), ..Reference::default() };
        let join = Join { room: room.clone(), resume: Resume::FromNow, quiet: false, grant: None };
        self.ask_also(connection, Ask { reference, what: What::Join(join) });
    }

    /// An operator's command, carried out on this node.
    pub(super) fn carry_out_command(&mut self, command: Command) {
        let of = |user: &UserName| {
            let user = user.clone();
            move |seat: &Seat| matches!(seat, Seat::Session { identity, .. } if identity.user == user)
        };
        match command {
            Command::Disconnect { user, code, why } => {
                for connection in self.sessions_where(of(&user)) {
                    let why = why.to_string().into();
                    self.close(connection, Goodbye { code, why, wait_ms: None });
                }
            }
            Command::Join { user, room } => {
                for connection in self.sessions_where(of(&user)) {
                    self.enter_by_order(connection, &room);
                }
            }
            Command::Kick { user, room } => {
                let Some(key) = self.rooms.find(&room) else { return };
                for connection in self.sessions_where(of(&user)) {
                    if let Some(membership) = self.membership(connection, key) {
                        self.leave(connection, membership, "taken-out");
                        let reference = Reference { room: Some(room.clone()), ..Reference::default() };
                        let problem = Problem::new(403, "not-allowed", "you were taken out of this room");
                        self.send_problem(connection, &reference, &problem);
                    }
                }
            }
        }
    }
}
