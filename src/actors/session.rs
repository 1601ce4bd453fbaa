//! A session: the mind of one client's stay. It reads what the client sends, refuses what is not allowed,
//! and passes the rest on as letters to the chat server. What goes out to the client the hub writes.
//! Made by the transports; its end, however it comes, gives back its place and tells the chat server.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use crate::actors::admission::Place;
use crate::actors::chat_server::ChatServer;
use crate::actors::connection::{Ending, Life};
use crate::actors::hub::{Core, SharedConnection};
use crate::actors::letters::{Ask, Closed, Failed, Open, OpenRaw, RawMessage, Said, SaidRaw, What};
use crate::actors::panics::contained;
use crate::auth::token::{TokenProblem, Verifier};
use crate::chat::client::{Pace, TooFast};
use crate::chat::message::{Draft, Via};
use crate::chat::names::UserName;
use crate::chat::permission::Identity;
use crate::chat::settings::RoomsSettings;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{self, Join, Publish, Reference, Request, RequestNumber};
use crate::protocols::native_frames as frames;
use crate::protocols::websocket::codec::{self, Decoder, Event, Oversize};
use crate::protocols::websocket::frame::{Opcode, encode_frame, encode_pong};

/// Bytes read in one go. One buffer serves all sessions of a thread.
const READ_BYTES: usize = 64 << 10;
/// Largest message on a raw path, in bytes.
const RAW_MESSAGE_BYTES: usize = 16 << 20;
/// Requests of any kind that a session may make for each message it may publish.
const REQUESTS_PER_MESSAGE: u32 = 20;
/// Tokens that a session may show per second; each costs a signature check.
const TOKENS_PER_SECOND: u32 = 20;
/// Refusals for being too fast, in seconds' worth of requests, after which the session is closed.
const PATIENCE_S: u32 = 5;
/// How long before its end a client hears that its token runs out, in seconds.
const EXPIRY_NOTICE_S: u64 = 60;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What all sessions of a worker thread share.
pub struct SessionHouse {
    /// The hub's core of this thread.
    pub core: Rc<RefCell<Core>>,
    /// Where letters go.
    pub chat: Addr<ChatServer>,
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// The rules of rooms.
    pub rooms: RoomsSettings,
    /// The limits of clients.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Who a client is when it comes in.
#[derive(Debug)]
pub enum Arrival {
    /// On a raw path: index of its handler, path and query.
    Raw(usize, Box<str>),
    /// On the native path.
    Native {
        /// The `token` of the URL.
        token: Option<String>,
        /// The `user` of the URL.
        user: Option<String>,
        /// Whether it may come without a token.
        guest: bool,
    },
}

enum Mind {
    Raw { messages: Vec<RawMessage> },
    Native(Box<Native>),
}

/// What a native session knows about its client.
struct Native {
    identity: Option<Arc<Identity>>,
    guest: bool,
    messages: Pace,
    requests: Pace,
    tokens: Pace,
    warned: bool,
    asks: Vec<Ask>,
}

/// The actor.
pub struct Session {
    house: Rc<SessionHouse>,
    connection: SharedConnection,
    decoder: Decoder,
    mind: Mind,
    /// Boxed, because it is gone after the first turn and a session should be small.
    early: Option<Box<(Arrival, BytesMut)>>,
    told_closed: bool,
    close_code: u16,
    _place: Place,
}

/// What the reader hands to the session.
#[derive(Debug)]
pub enum Heard {
    /// So many bytes in the thread's read buffer.
    Bytes(usize),
    /// The link broke.
    Broken(std::io::Error),
    /// The session's alarm has rung.
    Alarm,
    /// The hub has closed the connection.
    Closed,
}

struct Reader {
    core: Rc<RefCell<Core>>,
    connection: SharedConnection,
}

impl Session {
    /// Begins a session on a connection that has its place in the hub. `early` is what the client has sent
    /// behind its handshake.
    pub fn begin(
        house: Rc<SessionHouse>,
        connection: SharedConnection,
        arrival: Arrival,
        early: BytesMut,
        place: Place,
    ) -> Addr<Session> {
        let reader = Reader { core: house.core.clone(), connection: connection.clone() };
        let now = house.core.borrow().now_ms();
        let mind = match &arrival {
            Arrival::Raw(..) => Mind::Raw { messages: Vec::new() },
            Arrival::Native { guest, .. } => Mind::Native(Box::new(Native {
                identity: None,
                guest: *guest,
                messages: Pace::new(house.limits.messages_per_second, now),
                requests: Pace::new(
                    house.limits.messages_per_second.saturating_mul(REQUESTS_PER_MESSAGE),
                    now,
                ),
                tokens: Pace::new(TOKENS_PER_SECOND, now),
                warned: false,
                asks: Vec::new(),
            })),
        };
        Session::create(move |ctx| {
            ctx.add_stream(reader);
            Session {
                house,
                connection,
                decoder: Decoder::new(),
                mind,
                early: Some(Box::new((arrival, early))),
                told_closed: false,
                close_code: 1006,
                _place: place,
            }
        })
    }

    fn arrive(&mut self, arrival: Arrival) {
        let connection = self.connection.borrow().id;
        match arrival {
            Arrival::Raw(handler, uri) => self.house.chat.do_send(OpenRaw { connection, handler, uri }),
            Arrival::Native { token: Some(token), .. } => {
                self.hello(&Reference::default(), Some(token), None)
            }
            Arrival::Native { user: Some(user), guest, .. } if guest => {
                self.hello(&Reference::default(), None, Some(user));
            }
            Arrival::Native { .. } => {
                let due = self.house.core.borrow().now_ms() + self.house.limits.handshake.millis();
                self.house.core.borrow_mut().set_alarm(&self.connection, due);
            }
        }
        self.post();
    }

    // ---- bytes ----

    fn read(&mut self, bytes: &mut [u8]) {
        let now = self.house.core.borrow().now_ms();
        self.connection.borrow_mut().heard_ms = now;
        self.house.core.borrow().counters().socket_bytes_in.add(bytes.len() as u64);
        let limits = self.codec_limits();
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut at = 0;
        loop {
            let (used, event) = decoder.decode(&mut bytes[at..], &limits);
            at += used;
            let Some(event) = event else { break };
            self.heard(event);
        }
        self.decoder = decoder;
        self.post();
    }

    fn codec_limits(&self) -> codec::Limits {
        match self.mind {
            Mind::Raw { .. } => codec::Limits {
                message_bytes: RAW_MESSAGE_BYTES,
                frame_bytes_max: RAW_MESSAGE_BYTES as u64,
                oversize: Oversize::Fail,
            },
            Mind::Native(_) => codec::Limits {
                message_bytes: self.house.limits.message_bytes,
                frame_bytes_max: self.house.limits.message_bytes as u64 * 4,
                oversize: Oversize::Discard,
            },
        }
    }

    fn heard(&mut self, event: Event<'_>) {
        if !self.connection.borrow().is_open() {
            // Our close frame is under way: only the client's own matters.
            if let Event::Close { .. } | Event::Fault(_) = event {
                self.house.core.borrow_mut().end_after_letters(&self.connection, Ending::ByClient(None));
            }
            return;
        }
        self.house.core.borrow().counters().messages_in.inc();
        match event {
            Event::Text(text) => match &mut self.mind {
                Mind::Raw { messages } => {
                    messages.push(RawMessage::Text(Bytes::copy_from_slice(text.as_bytes())))
                }
                Mind::Native(_) => self.lines(text),
            },
            Event::Binary(bytes) => match &mut self.mind {
                Mind::Raw { messages } => messages.push(RawMessage::Binary(Bytes::copy_from_slice(bytes))),
                Mind::Native(_) => {
                    self.refuse(
                        Reference::default(),
                        Problem::bad_json("frames are text; send JSON as a text message"),
                    );
                }
            },
            Event::Ping(payload) => self.pong(payload),
            Event::Pong(_) => {}
            Event::TooBig => {
                let limit = self.house.limits.message_bytes;
                self.refuse(Reference::default(), Problem::too_big(limit));
            }
            Event::Close { code, .. } => {
                self.close_code = code.unwrap_or(1005);
                self.post();
                self.house.core.borrow_mut().end_after_letters(&self.connection, Ending::ByClient(code));
            }
            Event::Fault(fault) => {
                self.close_code = fault.close_code;
                self.post();
                self.failed(fault.why.to_owned());
                self.house
                    .core
                    .borrow_mut()
                    .end_after_letters(&self.connection, Ending::ByFault(fault.close_code, fault.why));
            }
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        let mut frame = BytesMut::with_capacity(payload.len() + 2);
        encode_pong(&mut frame, payload);
        self.house.core.borrow_mut().send(&self.connection, &frame);
    }

    /// Puts what this turn has gathered into the chat server's mailbox, as one letter.
    fn post(&mut self) {
        let connection = self.connection.borrow().id;
        match &mut self.mind {
            Mind::Raw { messages } if !messages.is_empty() => {
                let messages = std::mem::take(messages);
                self.house.chat.do_send(SaidRaw { connection, messages });
            }
            Mind::Native(native) if !native.asks.is_empty() => {
                let asks = std::mem::take(&mut native.asks);
                self.house.chat.do_send(Said { connection, asks });
            }
            _ => return,
        }
        self.connection.borrow_mut().letter_sent();
    }

    // ---- lines ----

    fn lines(&mut self, text: &str) {
        let mut any = false;
        for line in text.split('\n') {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            any = true;
            if !self.connection.borrow().is_open() {
                return;
            }
            self.line(line);
        }
        if !any {
            self.refuse(
                Reference::default(),
                Problem::bad_json("an empty frame says nothing; send one JSON object per line"),
            );
        }
    }

    fn line(&mut self, line: &str) {
        let (reference, request) = native::read(line);
        let now = self.house.core.borrow().now_ms();
        if let Err(fast) = self.may_ask(now) {
            let per_second = self.house.limits.messages_per_second;
            if fast.refused > per_second.saturating_mul(REQUESTS_PER_MESSAGE * PATIENCE_S) {
                self.post();
                return self.house.core.borrow_mut().close(&self.connection, Goodbye::RATE);
            }
            return self.refuse(reference, Problem::too_fast(fast.wait_ms));
        }
        match request {
            Ok(request) => self.request(reference, request, now),
            Err(problem) => self.refuse(reference, problem),
        }
    }

    fn may_ask(&mut self, now: u64) -> Result<(), TooFast> {
        let per_second = self.house.limits.messages_per_second.saturating_mul(REQUESTS_PER_MESSAGE);
        match &mut self.mind {
            Mind::Native(native) => native.requests.take(per_second, now),
            Mind::Raw { .. } => Ok(()),
        }
    }

    fn request(&mut self, reference: Reference, request: Request, now: u64) {
        match request {
            Request::Hello { token, user, joins, refused } => {
                self.hello(&reference, token, user);
                if self.identity().is_none() {
                    return;
                }
                for join in joins {
                    let reference = Reference { room: Some(join.room.clone()), ..Reference::default() };
                    // A join is a request, also when many come in one line.
                    match self.may_ask(now) {
                        Ok(()) => self.ask(reference, |session| session.join(join)),
                        Err(fast) => self.refuse(reference, Problem::too_fast(fast.wait_ms)),
                    }
                }
                for problem in refused {
                    self.refuse(Reference::default(), problem);
                }
            }
            Request::Auth { token } => self.auth(reference, &token),
            Request::Ping if self.identity().is_none() => {
                let mut line = Vec::new();
                frames::pong(&mut line, reference.i);
                self.send_line(&line);
            }
            Request::Bye if self.identity().is_none() => {
                self.house.core.borrow_mut().close(&self.connection, Goodbye::DONE);
            }
            Request::Ping => self.ask(reference, |_| Ok(What::Ping)),
            Request::Bye => self.ask(reference, |_| Ok(What::Bye(Goodbye::DONE))),
            Request::Join(join) => self.ask(reference, |session| session.join(join)),
            Request::Leave { room } => self.ask(reference, |_| Ok(What::Leave(room))),
            Request::Publish(publish) => self.ask(reference, |session| session.publish(publish, now)),
            Request::Typing { room, on } => self.ask(reference, |session| {
                let identity = session.identified()?;
                identity.may_publish(&room, &session.house.rooms.of(&room))?;
                Ok(What::Typing { room, on })
            }),
            Request::Who { room, after, n } => self.ask(reference, |session| {
                let granted = session.identified()?.lists(&room);
                Ok(What::Who { room, after, n, granted })
            }),
            Request::Log { room, from, n } => self.ask(reference, |session| {
                let granted = session.identified()?.lists(&room);
                Ok(What::Log { room, from, n, granted })
            }),
        }
    }

    /// Makes a request part of this turn's letter, or refuses it.
    fn ask(&mut self, reference: Reference, make: impl FnOnce(&mut Session) -> Result<What, Problem>) {
        if self.identity().is_none() {
            self.come_as_guest();
        }
        match make(self) {
            Ok(what) if self.identity().is_some() => self.push(reference, what),
            Ok(_) => self.refuse(reference, Problem::who_are_you()),
            Err(problem) => self.refuse(reference, problem),
        }
    }

    fn push(&mut self, reference: Reference, what: What) {
        if let Mind::Native(native) = &mut self.mind {
            native.asks.push(Ask { reference, what });
        }
    }

    /// Tells the client why not, in order with the answers to its other requests.
    fn refuse(&mut self, reference: Reference, problem: Problem) {
        if self.identity().is_some() {
            return self.push(reference, What::Refuse(problem));
        }
        self.house.metrics.errors.count(problem.why);
        let mut line = Vec::new();
        frames::err(&mut line, &reference, &problem);
        self.send_line(&line);
    }

    fn send_line(&mut self, line: &[u8]) {
        let mut frame = BytesMut::with_capacity(line.len() + 10);
        encode_frame(&mut frame, Opcode::Text, line);
        self.house.core.borrow_mut().send(&self.connection, &frame);
    }

    // ---- who it is ----

    fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.mind {
            Mind::Native(native) => native.identity.as_ref(),
            Mind::Raw { .. } => None,
        }
    }

    /// Who the client is, without room grants that have run out.
    fn identified(&mut self) -> Result<Arc<Identity>, Problem> {
        let Some(identity) = self.identity().cloned() else { return Err(Problem::who_are_you()) };
        let Some(fresh) = identity.without_expired_grants(now_unix()) else { return Ok(identity) };
        let fresh = Arc::new(fresh);
        if let Mind::Native(native) = &mut self.mind {
            native.identity = Some(fresh.clone());
        }
        Ok(fresh)
    }

    fn hello(&mut self, reference: &Reference, token: Option<String>, user: Option<String>) {
        let before = self.identity().cloned();
        let identity = match (token, &before) {
            (Some(token), _) => self.verify(&token),
            (None, Some(known)) => Ok(Identity::clone(known)),
            (None, None) => self.guest(user.as_deref()),
        };
        let identity = match identity.and_then(|identity| self.keeps_user(identity)) {
            Ok(identity) => identity,
            Err(problem) => {
                let goodbye = match problem.why {
                    "expired" => Goodbye::EXPIRED,
                    "bad-name" => Goodbye::BAD_NAME,
                    _ => Goodbye::BAD_TOKEN,
                };
                let is_pace = problem.why == "rate";
                self.refuse(reference.clone(), problem);
                // Who was somebody before stays who he was; else there is nobody to go on with.
                if before.is_none() && !is_pace {
                    self.house.core.borrow_mut().close(&self.connection, goodbye);
                }
                return;
            }
        };
        self.take_identity(reference.i, identity, false);
    }

    /// A session keeps its user: the others know by his name who speaks.
    fn keeps_user(&self, identity: Identity) -> Result<Identity, Problem> {
        if self.identity().is_none_or(|known| known.user == identity.user) {
            return Ok(identity);
        }
        Err(Problem::new(403, "not-allowed", "this session belongs to another user; open a new connection"))
    }

    /// From now on the client is this. `silent`: no `welcome` if it was somebody before.
    fn take_identity(&mut self, i: RequestNumber, mut identity: Identity, silent: bool) {
        let again = match self.identity() {
            Some(known) => {
                identity.granted.clone_from(&known.granted);
                true
            }
            None => false,
        };
        let identity = Arc::new(identity);
        if let Mind::Native(native) = &mut self.mind {
            native.identity = Some(identity.clone());
            native.warned = false;
        }
        self.set_expiry_alarm();
        // What was asked before this hello stays before it.
        self.post();
        let connection = self.connection.borrow().id;
        self.connection.borrow_mut().letter_sent();
        self.house.chat.do_send(Open { connection, identity, i, again, silent: silent && again });
    }

    fn auth(&mut self, reference: Reference, token: &str) {
        let identity = self.verify(token).and_then(|identity| self.keeps_user(identity));
        match identity {
            Err(problem) => self.refuse(reference, problem),
            Ok(identity) => {
                self.take_identity(None, identity, true);
                self.push(reference, What::Done);
            }
        }
    }

    /// Checks a token. Signatures are dear, so a client may show a few a second only.
    fn verify(&mut self, token: &str) -> Result<Identity, Problem> {
        let now = self.house.core.borrow().now_ms();
        if let Mind::Native(native) = &mut self.mind {
            native.tokens.take(TOKENS_PER_SECOND, now).map_err(|fast| Problem::too_fast(fast.wait_ms))?;
        }
        self.house.verifier.verify(token, now_unix()).map_err(|problem| {
            let why = match problem {
                TokenProblem::Expired => "expired",
                TokenProblem::Bad(_) => "bad-token",
            };
            Problem::new(401, why, problem.to_string())
        })
    }

    fn guest(&self, user: Option<&str>) -> Result<Identity, Problem> {
        if !self.may_be_guest() {
            return Err(Problem::who_are_you());
        }
        let name = match user {
            Some(name) => UserName::new(name).map_err(|bad| Problem::new(400, "bad-name", bad.0))?,
            None => UserName::new(&format!("guest-{:06x}", rand::random::<u32>() & 0xff_ffff))
                .expect("the name is made to the rules"),
        };
        Ok(Identity::guest(name))
    }

    /// A newcomer's first line may be a join: then he is a guest, if guests may come.
    fn come_as_guest(&mut self) {
        if self.may_be_guest() {
            self.hello(&Reference::default(), None, None);
        }
    }

    fn may_be_guest(&self) -> bool {
        matches!(&self.mind, Mind::Native(native) if native.guest)
    }

    fn set_expiry_alarm(&mut self) {
        let Some(expires_at) = self.identity().and_then(|identity| identity.expires_at) else {
            self.connection.borrow_mut().alarm_at_ms = 0;
            return;
        };
        let warned = matches!(&self.mind, Mind::Native(native) if native.warned);
        let notice = if warned { 0 } else { EXPIRY_NOTICE_S };
        let in_seconds = expires_at.saturating_sub(notice).saturating_sub(now_unix());
        let now = self.house.core.borrow().now_ms();
        // At least a millisecond ahead, because an alarm at 0 is none.
        self.house
            .core
            .borrow_mut()
            .set_alarm(&self.connection, now.saturating_add(in_seconds.saturating_mul(1_000).max(1)));
    }

    fn alarm(&mut self) {
        // It may have rung in the moment in which the hub closed the connection.
        if self.told_closed || !self.connection.borrow().is_open() {
            return;
        }
        let Some(identity) = self.identity().cloned() else {
            self.come_as_guest();
            if self.identity().is_none() {
                self.house.core.borrow_mut().close(&self.connection, Goodbye::NO_HELLO);
            }
            return;
        };
        let Some(expires_at) = identity.expires_at else {
            return;
        };
        let left = expires_at.saturating_sub(now_unix());
        if left == 0 {
            return self.house.core.borrow_mut().close(&self.connection, Goodbye::EXPIRED);
        }
        if let Mind::Native(native) = &mut self.mind
            && !native.warned
        {
            native.warned = true;
            let mut line = Vec::new();
            frames::expiring(&mut line, left);
            self.send_line(&line);
        }
        self.set_expiry_alarm();
    }

    // ---- what it may ----

    fn join(&mut self, join: Join) -> Result<What, Problem> {
        let mut identity = self.identified()?;
        if let Some(grant) = &join.grant {
            let grant = self.verify(grant)?;
            if grant.user != identity.user {
                return Err(Problem::new(
                    403,
                    "not-allowed",
                    "the room's token is for another user; ask for your own",
                ));
            }
            identity = Arc::new(identity.with_grant(grant));
            if let Mind::Native(native) = &mut self.mind {
                native.identity = Some(identity.clone());
            }
        }
        identity.may_join(&join.room, &self.house.rooms.of(&join.room))?;
        Ok(What::Join(join))
    }

    fn publish(&mut self, publish: Publish, now: u64) -> Result<What, Problem> {
        let identity = self.identified()?;
        let Publish { room, id, data, reply_to, keep } = publish;
        identity.may_publish(&room, &self.house.rooms.of(&room))?;
        let per_second = self.house.limits.messages_per_second;
        if let Mind::Native(native) = &mut self.mind {
            native.messages.take(per_second, now).map_err(|fast| Problem::too_fast(fast.wait_ms))?;
        }
        let granted = identity.lists(&room);
        let user = Some(identity.user.clone());
        let draft = Draft { room, user, id, data, kind: None, reply_to, keep, via: Via::Session };
        Ok(What::Publish { draft, granted })
    }

    // ---- the end ----

    fn failed(&mut self, error: String) {
        let connection = self.connection.borrow().id;
        self.house.chat.do_send(Failed { connection, error });
    }

    fn tell_closed(&mut self) {
        if std::mem::replace(&mut self.told_closed, true) {
            return;
        }
        let connection = self.connection.borrow().id;
        self.house.chat.do_send(Closed { connection, code: self.close_code });
    }

    /// Runs code for this session; a panic in it ends this session only.
    fn guarded(&mut self, code: impl FnOnce(&mut Session)) {
        if contained(|| code(self)).is_none() {
            READ_BUFFER.set(vec![0; READ_BYTES].into_boxed_slice());
            log::error!("a session panicked and is closed; the others go on");
            self.failed("the server broke on this session".into());
            self.house.core.borrow_mut().close(&self.connection, Goodbye::INTERNAL);
        }
    }

    fn heard_all(&mut self, heard: Heard) {
        match heard {
            Heard::Bytes(n) => {
                // Taken out for the time of the call: nothing that is called reads the socket.
                let mut buffer = READ_BUFFER.take();
                self.read(&mut buffer[..n]);
                READ_BUFFER.set(buffer);
            }
            Heard::Alarm => {
                self.alarm();
                self.post();
            }
            Heard::Broken(error) => self.failed(error.to_string()),
            Heard::Closed => {
                if let Life::Closing { goodbye, .. } = &self.connection.borrow().life {
                    self.close_code = goodbye.code;
                }
                self.tell_closed();
            }
        }
    }
}

/// Unix time in seconds, for tokens.
fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Actor for Session {
    type Context = actix::Context<Session>;

    fn started(&mut self, _: &mut Self::Context) {
        if let Some(first) = self.early.take() {
            let (arrival, mut early) = *first;
            self.guarded(|session| {
                session.arrive(arrival);
                if !early.is_empty() {
                    session.read(&mut early);
                }
            });
        }
    }
}

impl StreamHandler<Heard> for Session {
    fn handle(&mut self, heard: Heard, _: &mut Self::Context) {
        self.guarded(|session| session.heard_all(heard));
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tell_closed();
        self.house.core.borrow_mut().detach(&self.connection);
    }
}

impl Reader {
    /// Writes on where the kernel had refused bytes, as far as it takes them now.
    fn write_on(&self, cx: &mut Context<'_>) {
        loop {
            {
                let mut connection = self.connection.borrow_mut();
                if connection.life == Life::Dead || !connection.outbox.is_blocked() {
                    return;
                }
                match connection.poll_write_ready(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        connection.life = Life::Dead;
                        return;
                    }
                }
            }
            self.core.borrow_mut().writable(&self.connection);
        }
    }

    /// A client that does not read its answers is not listened to, nor one whose letters are not dealt with.
    fn must_wait(&self) -> bool {
        let connection = self.connection.borrow();
        if !connection.is_open() {
            return false;
        }
        let outbox_full = match connection.raw {
            true => connection.outbox.own_bytes() > 0,
            false => {
                let half = self.core.borrow().limits().outbox_bytes / 2;
                connection.outbox.has_replay() || connection.outbox.behind_bytes() > half
            }
        };
        outbox_full || connection.is_ending() || !connection.may_send_letter()
    }
}

impl Stream for Reader {
    type Item = Heard;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        self.connection.borrow_mut().set_reader(cx.waker());
        self.write_on(cx);
        {
            let mut connection = self.connection.borrow_mut();
            if std::mem::take(&mut connection.nudges.closed) {
                return Poll::Ready(Some(Heard::Closed));
            }
            if connection.life == Life::Dead {
                return Poll::Ready(None);
            }
            if std::mem::take(&mut connection.nudges.alarm) {
                return Poll::Ready(Some(Heard::Alarm));
            }
        }
        if self.must_wait() {
            return Poll::Pending;
        }
        let read = READ_BUFFER.with_borrow_mut(|buffer| self.connection.borrow_mut().poll_read(cx, buffer));
        match ready!(read) {
            Ok(0) => Poll::Ready(None),
            Ok(n) => Poll::Ready(Some(Heard::Bytes(n))),
            Err(error) => {
                self.connection.borrow_mut().life = Life::Dead;
                Poll::Ready(Some(Heard::Broken(error)))
            }
        }
    }
}
