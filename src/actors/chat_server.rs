//! The chat server: all rooms of this node, who is in them, and the four events. Everything said, by
//! whomever, comes here as a letter, gets its place in its room, is encoded once and goes to the hubs.
//! Sessions, queues and the API send it letters; it sends letters to hubs only, one per hub and turn.
//!
//! Invariant: it never waits and never touches a socket, so a room's order is the order of this mailbox.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::actors::events::{self, Effect, Effects, Incoming, Peer, Verdict};
use crate::actors::letters::{
    Ask, Closed, ConnectionId, Drain, Failed, Hello, Open, OpenRaw, PublishBatch, RawMessage, Said, SaidRaw,
    ToHub, Turn, What,
};
use crate::actors::panics::contained;
use crate::chat::dedup::IdKeys;
use crate::chat::history::PageFrom;
use crate::chat::message::{Accepted, Draft, Refused, Via};
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::{Denied, Identity};
use crate::chat::presence::NAMED_USERS_MAX;
use crate::chat::rooms::{RoomKey, Rooms};
use crate::chat::settings::RoomsSettings;
use crate::metrics::Metrics;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Join, Reference, RequestNumber};
use crate::protocols::native_frames::{self as frames, Welcome};
use crate::protocols::websocket::frame::{Opcode, encode_frame, payload_of};

/// Pause between two looks at what ends by itself.
const BEAT: Duration = Duration::from_millis(250);
/// Rooms looked at per beat for what is too old.
const TIDY_ROOMS: usize = 2_000;
/// Most bytes under way to one hub before pushes are asked to wait.
const HUB_QUEUED_MAX: usize = 64 << 20;
/// How long a refused push should wait, in milliseconds.
const BUSY_WAIT_MS: u64 = 50;
/// Sessions that a draining server closes per beat at the least.
const DRAIN_PER_BEAT_MIN: usize = 100;

/// What the chat server is told about the node.
#[derive(Debug, Clone)]
pub struct ChatSettings {
    /// The `[rooms]` table.
    pub rooms: RoomsSettings,
    /// Most rooms that may be open.
    pub rooms_max: usize,
    /// Most rooms that one session may be in.
    pub rooms_per_session: usize,
    /// Largest message, in bytes; told to clients.
    pub message_bytes: usize,
    /// Pause between pings, in milliseconds; told to clients.
    pub ping_ms: u64,
    /// Time for a polite end, in milliseconds.
    pub drain_ms: u64,
}

/// Handlers of a program's own.
#[derive(Default)]
pub struct Handlers {
    /// Watches all rooms.
    pub rooms: Option<Box<dyn events::Handler>>,
    /// Each owns a raw path.
    pub raw: Vec<Box<dyn events::Handler>>,
}

struct HubLink {
    hub: Recipient<Turn>,
    queued: Arc<AtomicUsize>,
    items: Vec<ToHub>,
}

/// What a connection is here.
enum Seat {
    /// A native session.
    Session { identity: Arc<Identity>, rooms: SmallVec<[Membership; 1]> },
    /// A connection on a raw path.
    Raw { handler: usize, uri: Box<str> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    room: RoomKey,
    quiet: bool,
}

/// The connections of one worker, by slot.
type Seats = Vec<Option<(u32, Seat)>>;

/// The actor.
pub struct ChatServer {
    settings: ChatSettings,
    handlers: Handlers,
    rooms: Rooms,
    keys: IdKeys,
    names: ahash::RandomState,
    hubs: Vec<Option<HubLink>>,
    seats: Vec<Seats>,
    sessions: usize,
    /// Rooms that have not been told who came and went.
    untold: BTreeSet<RoomKey>,
    /// Rooms in which somebody is typing.
    typing: BTreeSet<RoomKey>,
    metrics: Arc<Metrics>,
    draining: Option<usize>,
    drain_hand: (usize, usize),
    line: Vec<u8>,
}

impl ChatServer {
    /// A chat server without rooms and hubs.
    pub fn new(settings: ChatSettings, handlers: Handlers, metrics: Arc<Metrics>) -> ChatServer {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        ChatServer {
            rooms: Rooms::new(settings.rooms.clone(), settings.rooms_max, epoch),
            settings,
            handlers,
            keys: IdKeys::default(),
            names: ahash::RandomState::new(),
            hubs: Vec::new(),
            seats: Vec::new(),
            sessions: 0,
            untold: BTreeSet::new(),
            typing: BTreeSet::new(),
            metrics,
            draining: None,
            drain_hand: (0, 0),
            line: Vec::new(),
        }
    }

    // ---- what goes to the hubs ----

    fn to_hub(&mut self, worker: usize, item: ToHub) {
        match self.hubs.get_mut(worker) {
            Some(Some(link)) => link.items.push(item),
            _ => debug_assert!(false, "a worker says hello before its connections speak"),
        }
    }

    fn send(&mut self, to: ConnectionId, write: impl FnOnce(&mut Vec<u8>)) {
        let frame = self.frame(write);
        self.to_hub(to.worker.into(), ToHub::Direct { connection: to, frame });
    }

    /// Encodes one line as a WebSocket frame.
    fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.line.clear();
        write(&mut self.line);
        text_frame(&self.line)
    }

    fn broadcast(&mut self, room: RoomKey, frame: &Bytes, except: Option<ConnectionId>) {
        for worker in self.rooms.get(room).workers() {
            self.to_hub(worker, ToHub::Deliver { room, frames: frame.clone(), count: 1, except });
        }
    }

    /// Sends each hub what this turn has for it.
    fn end_turn(&mut self) {
        self.tell_presence();
        for link in self.hubs.iter_mut().flatten() {
            if link.items.is_empty() {
                continue;
            }
            let items = std::mem::take(&mut link.items);
            link.queued.fetch_add(items.iter().map(ToHub::bytes).sum(), Relaxed);
            // The hub lives as long as its worker; when that is gone, so are the sockets of these frames.
            link.hub.do_send(Turn(items));
        }
        self.publish_counters();
    }

    fn publish_counters(&self) {
        let counters = &self.metrics.chat;
        counters.rooms.set(self.rooms.len() as u64);
        counters.sessions.set(self.sessions as u64);
        counters.history_bytes.set(self.rooms.history_bytes() as u64);
        counters.dedup_ids.set(self.rooms.ids() as u64);
        counters.hub_queued_bytes.set(self.hub_queued() as u64);
    }

    fn hub_queued(&self) -> usize {
        self.hubs.iter().flatten().map(|link| link.queued.load(Relaxed)).max().unwrap_or(0)
    }

    // ---- who is connected ----

    fn seat(&self, connection: ConnectionId) -> Option<&Seat> {
        match self.seats.get(usize::from(connection.worker))?.get(connection.slot as usize)? {
            Some((generation, seat)) if *generation == connection.generation => Some(seat),
            _ => None,
        }
    }

    fn seat_mut(&mut self, connection: ConnectionId) -> Option<&mut Seat> {
        match self.seats.get_mut(usize::from(connection.worker))?.get_mut(connection.slot as usize)? {
            Some((generation, seat)) if *generation == connection.generation => Some(seat),
            _ => None,
        }
    }

    fn take_seat(&mut self, connection: ConnectionId, seat: Seat) {
        let worker = usize::from(connection.worker);
        if self.seats.len() <= worker {
            self.seats.resize_with(worker + 1, Vec::new);
        }
        let seats = &mut self.seats[worker];
        let slot = connection.slot as usize;
        if seats.len() <= slot {
            seats.resize_with(slot + 1, || None);
        }
        debug_assert!(seats[slot].is_none(), "a place is closed before it is given again");
        seats[slot] = Some((connection.generation, seat));
        self.sessions += 1;
    }

    fn peer(&self, connection: ConnectionId) -> Option<Peer> {
        let (user, uri) = match self.seat(connection)? {
            Seat::Session { identity, .. } => (Some(identity.user.clone()), "".into()),
            Seat::Raw { uri, .. } => (None, uri.clone()),
        };
        Some(Peer { connection: Some(connection), user, uri })
    }

    fn session(&self, connection: ConnectionId) -> Option<(&Arc<Identity>, &SmallVec<[Membership; 1]>)> {
        match self.seat(connection)? {
            Seat::Session { identity, rooms } => Some((identity, rooms)),
            Seat::Raw { .. } => None,
        }
    }

    fn membership(&self, connection: ConnectionId, room: RoomKey) -> Option<Membership> {
        let (_, rooms) = self.session(connection)?;
        rooms.iter().find(|membership| membership.room == room).copied()
    }

    // ---- the four events ----

    /// Calls the handler that is responsible for a peer, if there is one. A panic in it closes the peer.
    fn call<T>(
        &mut self,
        peer: &Peer,
        raw: Option<usize>,
        call: impl FnOnce(&mut dyn events::Handler, &mut Effects) -> T,
    ) -> Option<T> {
        let handler: &mut dyn events::Handler = match raw {
            Some(index) => self.handlers.raw.get_mut(index)?.as_mut(),
            None => self.handlers.rooms.as_mut()?.as_mut(),
        };
        let mut effects = Effects::default();
        let result = contained(|| call(handler, &mut effects));
        for effect in effects.take() {
            self.carry_out(effect);
        }
        if result.is_none() {
            log::error!("a handler panicked; its session is closed");
            if let Some(connection) = peer.connection {
                self.close(connection, Goodbye::INTERNAL);
            }
        }
        result
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(to, message) => {
                if self.seat(to).is_some() {
                    let frame = frame_of(&message);
                    self.to_hub(to.worker.into(), ToHub::Direct { connection: to, frame });
                }
            }
            Effect::Say(draft) => {
                if let Err(refused) = self.publish(draft) {
                    log::warn!("a handler's message was not said: {refused}");
                }
            }
            Effect::Close(connection, code, why) => {
                self.close(connection, Goodbye { code, why: why.into(), wait_ms: None });
            }
        }
    }

    fn close(&mut self, connection: ConnectionId, goodbye: Goodbye) {
        if self.seat(connection).is_none() {
            return;
        }
        let code = goodbye.code;
        self.to_hub(connection.worker.into(), ToHub::Close { connection, goodbye });
        self.gone(connection, code);
    }

    /// Somebody is gone: out of all rooms, then onClose.
    fn gone(&mut self, connection: ConnectionId, code: u16) {
        let Some(peer) = self.peer(connection) else { return };
        let place = &mut self.seats[usize::from(connection.worker)][connection.slot as usize];
        let Some((_, seat)) = place.take() else { return };
        self.sessions -= 1;
        let raw = match seat {
            Seat::Raw { handler, .. } => Some(handler),
            Seat::Session { identity, rooms } => {
                for membership in rooms {
                    self.leave_room(connection, &identity.user, membership);
                }
                None
            }
        };
        self.call(&peer, raw, |handler, effects| handler.on_close(&peer, code, effects));
    }

    // ---- coming and going ----

    fn welcome(&mut self, connection: ConnectionId, identity: &Identity, i: RequestNumber) {
        let session = crate::chat::message::Epoch(self.names.hash_one(connection)).to_text();
        let (ping_ms, message_bytes) = (self.settings.ping_ms, self.settings.message_bytes);
        let session = format!("s{session}");
        self.send(connection, |out| {
            frames::welcome(
                out,
                i,
                &Welcome { user: &identity.user, session: &session, ping_ms, message_bytes },
            );
        });
    }

    fn open(&mut self, open: Open) {
        let Open { connection, identity, i, again } = open;
        if again {
            self.welcome_again(connection, &identity, i);
            return;
        }
        self.take_seat(connection, Seat::Session { identity: identity.clone(), rooms: SmallVec::new() });
        let Some(peer) = self.peer(connection) else { return };
        if let Some(Verdict::Refuse(why)) =
            self.call(&peer, None, |handler, effects| handler.on_open(&peer, effects))
        {
            let problem = Problem::new(403, "not-allowed", why);
            self.send(connection, |out| frames::err(out, &Reference { i, ..Reference::default() }, &problem));
            self.close(connection, Goodbye { code: 4003, why: "not-allowed".into(), wait_ms: None });
            return;
        }
        self.welcome(connection, &identity, i);
    }

    /// A new token may cover fewer rooms; the session leaves the others and is told so.
    fn welcome_again(&mut self, connection: ConnectionId, identity: &Arc<Identity>, i: RequestNumber) {
        let Some(Seat::Session { identity: known, rooms }) = self.seat_mut(connection) else {
            return;
        };
        *known = identity.clone();
        for membership in rooms.clone() {
            let room = self.rooms.get(membership.room);
            let Err(denied) = identity.may_join(&room.name, &room.settings) else {
                continue;
            };
            let reference = Reference { room: Some(room.name.clone()), ..Reference::default() };
            self.leave(connection, membership);
            self.send(connection, |out| frames::err(out, &reference, &denied.into()));
        }
        self.welcome(connection, identity, i);
    }

    fn join(&mut self, connection: ConnectionId, reference: &Reference, join: &Join) -> Result<(), Problem> {
        let Some((identity, rooms)) = self.session(connection) else {
            return Ok(());
        };
        let (identity, count) = (identity.clone(), rooms.len());
        let key = self.find_or_open(&join.room)?;
        let member = self.membership(connection, key);
        let limit = self.settings.rooms_per_session;
        if member.is_none() && limit > 0 && count >= limit {
            return Err(Problem::too_many_rooms(limit));
        }
        let quiet = join.quiet || !self.rooms.get(key).settings.presence;
        self.sit_down(connection, &identity, key, member, quiet);
        // The others hear of it now, if it is time; the newcomer gets the whole list instead.
        self.tell_presence();
        let welcome = self.replay(key, join, reference.i);
        self.to_hub(connection.worker.into(), ToHub::Joined { connection, room: key, frames: welcome });
        Ok(())
    }

    fn sit_down(
        &mut self,
        connection: ConnectionId,
        identity: &Identity,
        key: RoomKey,
        member: Option<Membership>,
        quiet: bool,
    ) {
        let was_shown = member.is_some_and(|member| !member.quiet);
        let room = self.rooms.get_mut(key);
        if member.is_none() {
            room.add_member(connection.worker.into());
        }
        match (was_shown, !quiet) {
            (false, true) => room.roster.enter(&identity.user, identity.info.as_ref()),
            (true, false) => {
                room.roster.leave(&identity.user);
            }
            _ => {}
        }
        if room.roster.has_news() {
            self.untold.insert(key);
        }
        let Some(Seat::Session { rooms, .. }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != key);
        rooms.push(Membership { room: key, quiet });
    }

    /// All that a reader gets before the live stream: `joined`, what he missed, `live`, and the state that has
    /// no place in the log: who is here and who is typing.
    fn replay(&mut self, key: RoomKey, join: &Join, i: RequestNumber) -> Vec<Bytes> {
        let room = self.rooms.get(key);
        let (cut, epoch, who) = (room.cut(&join.resume), room.epoch.to_text(), room.roster.len());
        let (name, presence) = (room.name.clone(), room.settings.presence);
        let entries: Vec<Bytes> = room.history.frames_from(cut.start).cloned().collect();
        let typing: Vec<UserName> = room.typing.users().cloned().collect();
        let mut all = Vec::with_capacity(entries.len() + 3 + typing.len());
        all.push(self.frame(|out| frames::joined(out, &name, &epoch, &cut, i, who)));
        all.extend(entries);
        all.push(self.frame(|out| frames::live(out, &name, cut.top)));
        if presence {
            all.push(self.roster_frame(key));
        }
        for user in typing {
            all.push(self.frame(|out| frames::typing(out, &name, &user, true)));
        }
        all
    }

    fn roster_frame(&mut self, key: RoomKey) -> Bytes {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let who = room.roster.len();
        if who > NAMED_USERS_MAX {
            frames::presence_count(&mut line, &room.name, who);
        } else {
            let here = room.roster.after(None).map(|(user, present)| (user, present.info.as_deref()));
            frames::presence(&mut line, &room.name, here, &[], who);
        }
        let frame = text_frame(&line);
        self.line = line;
        frame
    }

    fn leave(&mut self, connection: ConnectionId, membership: Membership) {
        let Some(Seat::Session { identity, rooms }) = self.seat_mut(connection) else {
            return;
        };
        rooms.retain(|known| known.room != membership.room);
        let user = identity.user.clone();
        self.leave_room(connection, &user, membership);
        self.to_hub(connection.worker.into(), ToHub::Left { connection, room: membership.room });
    }

    fn leave_room(&mut self, connection: ConnectionId, user: &UserName, membership: Membership) {
        let key = membership.room;
        let room = self.rooms.get_mut(key);
        room.remove_member(connection.worker.into());
        if membership.quiet || !room.roster.leave(user) {
            return;
        }
        let stopped_typing = room.typing.end(user);
        self.untold.insert(key);
        if stopped_typing {
            self.tell_typing(key, user, false, None);
        }
    }

    fn find_or_open(&mut self, name: &RoomName) -> Result<RoomKey, Refused> {
        if let Some(key) = self.rooms.find_or_open(name) {
            return Ok(key);
        }
        self.tidy(TIDY_ROOMS);
        self.rooms.find_or_open(name).ok_or(Refused::TooManyRooms)
    }

    // ---- saying something ----

    /// Gives a draft its place and tells the room. The handler has been asked already.
    fn publish(&mut self, draft: Draft) -> Result<Accepted, Refused> {
        if self.draining.is_some() && draft.via != Via::Session {
            return Err(Refused::Draining);
        }
        if self.hub_queued() > HUB_QUEUED_MAX {
            return Err(Refused::Busy { wait_ms: BUSY_WAIT_MS });
        }
        let key = self.find_or_open(&draft.room)?;
        let now = now_ms();
        let id = draft.id.as_ref().map(|id| self.keys.key(draft.user.as_ref(), id));
        if let Some(before) = id.and_then(|id| self.rooms.repeat_of(key, id, now)) {
            self.metrics.chat.messages_duplicate.inc();
            return Ok(before);
        }
        self.end_typing(key, draft.user.as_ref());
        let room = self.rooms.get(key);
        let offset = if draft.keep { room.next_offset() } else { 0 };
        let place = Accepted { offset, epoch: room.epoch, ts: now, duplicate: false };
        let frame = self.frame(|out| frames::message(out, &draft, &place));
        self.broadcast(key, &frame, None);
        let accepted = match draft.keep {
            true => self.rooms.append(key, now, frame, id),
            false => self.rooms.pass_on(key, now, id),
        };
        debug_assert_eq!(accepted, place);
        self.count_accepted(draft.via);
        while self.rooms.is_short() && self.tidy(64) {}
        Ok(accepted)
    }

    fn count_accepted(&self, via: Via) {
        let counter = match via {
            Via::Session => &self.metrics.chat.messages_accepted_session,
            Via::Queue => &self.metrics.chat.messages_accepted_queue,
            Via::Api => &self.metrics.chat.messages_accepted_api,
        };
        counter.inc();
    }

    fn count_refused(&self, refused: &Refused) {
        let counter = match refused {
            Refused::Busy { .. } => &self.metrics.chat.messages_refused_busy,
            Refused::Draining => &self.metrics.chat.messages_refused_draining,
            Refused::TooManyRooms => &self.metrics.chat.messages_refused_rooms,
            Refused::ByHandler(_) => &self.metrics.chat.messages_refused_handler,
        };
        counter.inc();
    }

    /// Asks the handler, then publishes.
    fn moderate(&mut self, from: Option<ConnectionId>, mut draft: Draft) -> Result<Accepted, Refused> {
        if self.handlers.rooms.is_some() {
            let peer = Peer { connection: from, user: draft.user.clone(), uri: "".into() };
            let room = draft.room.clone();
            let verdict = self.call(&peer, None, |handler, effects| {
                handler.on_message(&peer, Incoming::Draft(&mut draft), effects)
            });
            match verdict {
                Some(Verdict::Accept) => {}
                Some(Verdict::Refuse(why)) => return Err(Refused::ByHandler(why)),
                None => {
                    return Err(Refused::ByHandler("the application failed on this message".into()));
                }
            }
            // Who may speak was checked for the room that was named.
            draft.room = room;
        }
        self.publish(draft)
    }

    fn say(&mut self, connection: ConnectionId, draft: Draft, granted: bool) -> Result<Accepted, Problem> {
        let joined =
            self.rooms.find(&draft.room).is_some_and(|key| self.membership(connection, key).is_some());
        if !joined && !granted {
            return Err(Denied::NotJoined.into());
        }
        self.moderate(Some(connection), draft).map_err(|refused| {
            self.count_refused(&refused);
            refused.into()
        })
    }

    // ---- state: typing and presence ----

    fn end_typing(&mut self, key: RoomKey, user: Option<&UserName>) {
        let Some(user) = user else { return };
        if self.rooms.get_mut(key).typing.end(user) {
            self.tell_typing(key, user, false, None);
        }
    }

    fn type_on(&mut self, connection: ConnectionId, name: &RoomName, on: bool) -> Result<(), Problem> {
        let key = self.rooms.find(name).filter(|key| self.membership(connection, *key).is_some());
        let (Some(key), Some((identity, _))) = (key, self.session(connection)) else {
            return Err(Denied::NotJoined.into());
        };
        let user = identity.user.clone();
        let room = self.rooms.get_mut(key);
        let news = if on { room.typing.begin(&user, now_ms()) } else { room.typing.end(&user) };
        if on {
            self.typing.insert(key);
        }
        if news {
            self.tell_typing(key, &user, on, Some(connection));
        }
        Ok(())
    }

    fn tell_typing(&mut self, key: RoomKey, user: &UserName, on: bool, except: Option<ConnectionId>) {
        let name = self.rooms.get(key).name.clone();
        let frame = self.frame(|out| frames::typing(out, &name, user, on));
        self.broadcast(key, &frame, except);
    }

    /// Tells rooms who came and went, as far as they may be told now.
    fn tell_presence(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let now = now_ms();
        let due: SmallVec<[RoomKey; 8]> =
            self.untold.iter().filter(|key| self.rooms.get(**key).roster.due_at() <= now).copied().collect();
        for key in due {
            self.untold.remove(&key);
            let difference = self.rooms.get_mut(key).roster.take_news(now);
            if difference.came.is_empty() && difference.went.is_empty() {
                continue;
            }
            let room = self.rooms.get(key);
            let (name, who) = (room.name.clone(), room.roster.len());
            let frame = if who > NAMED_USERS_MAX {
                self.frame(|out| frames::presence_count(out, &name, who))
            } else {
                let infos: Vec<_> = difference
                    .came
                    .iter()
                    .map(|user| room.roster.get(user).and_then(|here| here.info.clone()))
                    .collect();
                let came = difference.came.iter().zip(infos.iter().map(|info| info.as_deref()));
                self.frame(|out| frames::presence(out, &name, came, &difference.went, who))
            };
            self.broadcast(key, &frame, None);
        }
    }

    // ---- questions ----

    /// The room of a question: one that the session is in, or that its token lists.
    fn room_to_read(
        &self,
        connection: ConnectionId,
        name: &RoomName,
        granted: bool,
    ) -> Result<Option<RoomKey>, Problem> {
        let key = self.rooms.find(name);
        match key.is_some_and(|key| self.membership(connection, key).is_some()) || granted {
            true => Ok(key),
            false => Err(Denied::NotJoined.into()),
        }
    }

    fn who(
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
        let mut page: Vec<_> = room.roster.after(after).take(n + 1).collect();
        let more = page.len() > n;
        page.truncate(n);
        frames::who(&mut line, &room.name, room.history.top(), i, page.into_iter(), more);
        let frame = text_frame(&line);
        self.line = line;
        self.to_hub(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    fn log(&mut self, connection: ConnectionId, i: RequestNumber, key: RoomKey, from: PageFrom, n: usize) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let room = self.rooms.get(key);
        let (entries, more) = room.history.page(from, n);
        let lines = entries.iter().map(|frame| payload_of(frame));
        frames::page(&mut line, &room.name, &room.epoch.to_text(), i, lines, more);
        let frame = text_frame(&line);
        self.line = line;
        self.to_hub(connection.worker.into(), ToHub::Direct { connection, frame });
    }

    fn answer(&mut self, connection: ConnectionId, ask: Ask) {
        let Ask { reference, what } = ask;
        if let Err(problem) = self.try_answer(connection, &reference, what) {
            self.metrics.errors.count(problem.why);
            self.send(connection, |out| frames::err(out, &reference, &problem));
        }
    }

    fn try_answer(
        &mut self,
        connection: ConnectionId,
        reference: &Reference,
        what: What,
    ) -> Result<(), Problem> {
        match what {
            What::Publish { draft, granted } => {
                let place = self.say(connection, draft, granted)?;
                self.send(connection, |out| frames::ack(out, reference, &place));
            }
            What::Join(join) => self.join(connection, reference, &join)?,
            What::Leave(room) => {
                let key = self.rooms.find(&room);
                match key.and_then(|key| self.membership(connection, key)) {
                    Some(membership) => self.leave(connection, membership),
                    None => return Err(Denied::NotJoined.into()),
                }
                if reference.i.is_some() {
                    self.send(connection, |out| frames::ok(out, reference));
                }
            }
            What::Typing { room, on } => self.type_on(connection, &room, on)?,
            What::Who { room, after, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.who(connection, reference.i, key, after.as_deref(), n),
                None => self.send(connection, |out| {
                    frames::who(out, &room, 0, reference.i, std::iter::empty(), false)
                }),
            },
            What::Log { room, from, n, granted } => match self.room_to_read(connection, &room, granted)? {
                Some(key) => self.log(connection, reference.i, key, from, n),
                None => {
                    return Err(Problem::new(404, "no-room", "nothing has been said in this room yet"));
                }
            },
            What::Ping => self.send(connection, |out| frames::pong(out, reference.i)),
            What::Done => self.send(connection, |out| frames::ok(out, reference)),
            What::Refuse(problem) => return Err(problem),
            What::Bye(goodbye) => self.close(connection, goodbye),
        }
        Ok(())
    }

    // ---- what ends by itself ----

    fn beat(&mut self) {
        let now = now_ms();
        for key in std::mem::take(&mut self.typing) {
            let ended = self.rooms.get_mut(key).typing.take_ended(now);
            for user in ended {
                self.tell_typing(key, &user, false, None);
            }
            if !self.rooms.get(key).typing.is_empty() {
                self.typing.insert(key);
            }
        }
        self.tidy(TIDY_ROOMS);
        self.drain_some();
    }

    /// Looks at some rooms for what is too old or too much. Returns whether any room is open.
    fn tidy(&mut self, n: usize) -> bool {
        for key in self.rooms.tidy(now_ms(), n) {
            self.untold.remove(&key);
            self.typing.remove(&key);
            for link in self.hubs.iter_mut().flatten() {
                link.items.push(ToHub::Forget(key));
            }
        }
        !self.rooms.is_empty()
    }

    /// Closes some sessions of a server that stops, spread over half of the time it has, so that they do not
    /// all come back elsewhere in the same moment.
    fn drain_some(&mut self) {
        let Some(per_beat) = self.draining else { return };
        let mut closed = 0;
        while closed < per_beat && self.sessions > 0 {
            let (worker, slot) = self.drain_hand;
            let Some(seats) = self.seats.get(worker) else {
                self.drain_hand = (0, 0);
                return;
            };
            let Some(place) = seats.get(slot) else {
                self.drain_hand = (worker + 1, 0);
                continue;
            };
            self.drain_hand.1 += 1;
            let Some((generation, seat)) = place else { continue };
            let connection =
                ConnectionId { worker: worker as u16, slot: slot as u32, generation: *generation };
            // Where clients come back to is not the same for all, so neither is when.
            let wait_ms = 500 + self.names.hash_one(connection) % 2_000;
            let goodbye = match seat {
                Seat::Raw { .. } => Goodbye { code: 1001, why: "restart".into(), wait_ms: None },
                Seat::Session { .. } => Goodbye::restart(wait_ms),
            };
            self.close(connection, goodbye);
            closed += 1;
        }
    }
}

fn text_frame(line: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(line.len() + 10);
    encode_frame(&mut frame, Opcode::Text, line);
    frame.freeze()
}

fn frame_of(message: &RawMessage) -> Bytes {
    let (opcode, bytes) = match message {
        RawMessage::Text(bytes) => (Opcode::Text, bytes),
        RawMessage::Binary(bytes) => (Opcode::Binary, bytes),
    };
    let mut frame = BytesMut::with_capacity(bytes.len() + 10);
    encode_frame(&mut frame, opcode, bytes);
    frame.freeze()
}

/// Server time, Unix milliseconds.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Actor for ChatServer {
    type Context = actix::Context<ChatServer>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(TurnEnd);
        ctx.run_interval(BEAT, |chat, _| chat.beat());
    }
}

/// A future that is never done: polled after the mailbox is empty, it sends what the turn has produced.
struct TurnEnd;

impl ActorFuture<ChatServer> for TurnEnd {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        chat: &mut ChatServer,
        _: &mut actix::Context<ChatServer>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        chat.end_turn();
        Poll::Pending
    }
}

impl Handler<Hello> for ChatServer {
    type Result = ();

    fn handle(&mut self, hello: Hello, _: &mut Self::Context) {
        if self.hubs.len() <= hello.worker {
            self.hubs.resize_with(hello.worker + 1, || None);
        }
        self.hubs[hello.worker] = Some(HubLink { hub: hello.hub, queued: hello.queued, items: Vec::new() });
    }
}

impl Handler<Open> for ChatServer {
    type Result = ();

    fn handle(&mut self, open: Open, _: &mut Self::Context) {
        self.open(open);
    }
}

impl Handler<OpenRaw> for ChatServer {
    type Result = ();

    fn handle(&mut self, open: OpenRaw, _: &mut Self::Context) {
        let OpenRaw { connection, handler, uri } = open;
        self.take_seat(connection, Seat::Raw { handler, uri });
        let Some(peer) = self.peer(connection) else { return };
        let verdict = self.call(&peer, Some(handler), |handler, effects| handler.on_open(&peer, effects));
        if let Some(Verdict::Refuse(why)) = verdict {
            self.close(connection, Goodbye { code: 1008, why: why.into(), wait_ms: None });
        }
    }
}

impl Handler<Said> for ChatServer {
    type Result = ();

    fn handle(&mut self, said: Said, _: &mut Self::Context) {
        for ask in said.asks {
            // A session that was closed by one of its asks asks nothing more.
            if self.seat(said.connection).is_none() {
                break;
            }
            self.answer(said.connection, ask);
        }
        self.to_hub(said.connection.worker.into(), ToHub::Done(said.connection));
    }
}

impl Handler<SaidRaw> for ChatServer {
    type Result = ();

    fn handle(&mut self, said: SaidRaw, _: &mut Self::Context) {
        let connection = said.connection;
        for message in said.messages {
            let (Some(peer), Some(Seat::Raw { handler, .. })) =
                (self.peer(connection), self.seat(connection))
            else {
                break;
            };
            let incoming = match message {
                RawMessage::Text(bytes) => Incoming::Text(bytes),
                RawMessage::Binary(bytes) => Incoming::Binary(bytes),
            };
            let handler = *handler;
            let verdict = self
                .call(&peer, Some(handler), |handler, effects| handler.on_message(&peer, incoming, effects));
            if let Some(Verdict::Refuse(why)) = verdict {
                self.close(connection, Goodbye { code: 1008, why: why.into(), wait_ms: None });
            }
        }
        self.to_hub(connection.worker.into(), ToHub::Done(connection));
    }
}

impl Handler<Failed> for ChatServer {
    type Result = ();

    fn handle(&mut self, failed: Failed, _: &mut Self::Context) {
        let Some(peer) = self.peer(failed.connection) else {
            return;
        };
        let raw = match self.seat(failed.connection) {
            Some(Seat::Raw { handler, .. }) => Some(*handler),
            _ => None,
        };
        self.call(&peer, raw, |handler, effects| handler.on_error(&peer, &failed.error, effects));
    }
}

impl Handler<Closed> for ChatServer {
    type Result = ();

    fn handle(&mut self, closed: Closed, _: &mut Self::Context) {
        self.gone(closed.connection, closed.code);
    }
}

impl Handler<PublishBatch> for ChatServer {
    type Result = MessageResult<PublishBatch>;

    fn handle(&mut self, batch: PublishBatch, _: &mut Self::Context) -> Self::Result {
        let mut busy = None;
        let answers = batch.0.into_iter().map(|draft| {
            // Behind one that has to wait all wait, so that their order is kept.
            if let Some(refused) = &busy {
                return Err(Refused::clone(refused));
            }
            let answer = self.moderate(None, draft);
            if let Err(refused) = &answer {
                self.count_refused(refused);
                if matches!(refused, Refused::Busy { .. } | Refused::Draining) {
                    busy = Some(refused.clone());
                }
            }
            answer
        });
        MessageResult(answers.collect())
    }
}

impl Handler<Drain> for ChatServer {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        let beats = (self.settings.drain_ms / 2 / BEAT.as_millis() as u64).max(1) as usize;
        self.draining = Some(self.sessions.div_ceil(beats).max(DRAIN_PER_BEAT_MIN));
        self.drain_some();
    }
}
