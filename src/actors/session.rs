//! A session: the mind of one client's stay. It reads what the client sends, refuses what is not allowed,
//! and passes the rest on as letters to the chat server. What goes out to the client the hub writes.
//! Made by the transports; its end, however it comes, gives back its place and tells the chat server.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use bytes::BytesMut;

use crate::actors::admission::Place;
use crate::actors::chat_server::ChatServer;
use crate::actors::connection::Life;
use crate::actors::hub::{Core, SharedConnection};
use crate::actors::letters::{Ask, Closed, Failed, OpenRaw, RawMessage};
use crate::actors::panics::contained;
use crate::auth::token::{TokenProblem, Verifier};
use crate::chat::client::Pace;
use crate::chat::permission::Identity;
use crate::chat::settings::RoomsSettings;
use crate::chat::trace::Wire;
use crate::hooks::question::{Questions, Visitor};
use crate::limits::Limits;
use crate::log::{ACCESS, is_access_logged, user_hash};
use crate::metrics::Metrics;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::Reference;
use crate::protocols::websocket::codec::Decoder;
use crate::traces::Tracer;

mod asking;
mod errands;
mod gate;
mod identity;
mod reader;
mod reading;

pub use errands::{Entrance, Errand};
use gate::Gate;
use identity::Claim;
pub use identity::guest_named;
pub use reader::Heard;
use reader::Reader;

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
    /// Begins the spans of what clients say.
    pub tracer: Tracer,
    /// Asks a backend before something happens; none when nothing is asked.
    pub questions: Option<Rc<Questions>>,
}

impl SessionHouse {
    /// Who a token says that somebody is.
    pub fn check_token(&self, token: &str) -> Result<Identity, Problem> {
        self.verifier.verify(token, now_unix()).map_err(|problem| {
            let why = match problem {
                TokenProblem::Expired => "expired",
                TokenProblem::Bad(_) => "bad-token",
            };
            Problem::new(401, why, problem.to_string())
        })
    }
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
        /// What a backend is told of it, if it is asked.
        visitor: Option<Box<Visitor>>,
    },
    /// Over HTTP, where the request has said already who it is and what it wants.
    Http(Box<Entrance>),
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
    /// What waits for a backend's answer; none while nothing does.
    gate: Option<Box<Gate>>,
    /// What a backend is told of the client before it comes in.
    visitor: Option<Box<Visitor>>,
    /// By which wire it hears.
    wire: Wire,
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
        let guest = matches!(&arrival, Arrival::Native { guest: true, .. });
        let mind = match &arrival {
            Arrival::Raw(..) => Mind::Raw { messages: Vec::new() },
            Arrival::Native { .. } | Arrival::Http(_) => Mind::Native(Box::new(Native {
                identity: None,
                guest,
                messages: Pace::new(house.limits.messages_per_second, now),
                requests: Pace::new(
                    house.limits.messages_per_second.saturating_mul(REQUESTS_PER_MESSAGE),
                    now,
                ),
                tokens: Pace::new(TOKENS_PER_SECOND, now),
                warned: false,
                asks: Vec::new(),
                gate: None,
                visitor: None,
                wire: match &arrival {
                    Arrival::Http(entrance) => entrance.wire,
                    _ => Wire::WebSocket,
                },
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

    fn arrive(&mut self, mut arrival: Arrival) {
        let connection = self.connection.borrow().id;
        if let (Mind::Native(native), Arrival::Native { visitor, .. }) = (&mut self.mind, &mut arrival) {
            native.visitor = visitor.take();
        }
        match arrival {
            Arrival::Raw(handler, uri) => self.house.chat.do_send(OpenRaw { connection, handler, uri }),
            Arrival::Http(entrance) => self.enter(*entrance),
            Arrival::Native { token: Some(token), .. } => {
                // Who fails has been told and is closed.
                self.hello(&Reference::default(), Claim { token: Some(token), ..Claim::default() });
            }
            Arrival::Native { user: Some(user), guest, .. } if guest => {
                self.hello(&Reference::default(), Claim { user: Some(user), ..Claim::default() });
            }
            Arrival::Native { .. } => {
                let due = self.house.core.borrow().now_ms() + self.house.limits.handshake.millis();
                self.house.core.borrow_mut().set_alarm(&self.connection, due);
            }
        }
        self.post();
    }

    fn failed(&mut self, error: String) {
        let connection = self.connection.borrow().id;
        self.house.chat.do_send(Failed { connection, error });
    }

    fn tell_closed(&mut self) {
        if std::mem::replace(&mut self.told_closed, true) {
            return;
        }
        let connection = self.connection.borrow().id;
        self.log_end();
        self.house.chat.do_send(Closed { connection, code: self.close_code });
    }

    fn log_end(&self) {
        let Mind::Native(native) = &self.mind else { return };
        let Some(identity) = native.identity.as_ref().filter(|_| is_access_logged()) else { return };
        let (user, code) = (user_hash(identity.user.as_str()), self.close_code);
        log::info!(target: ACCESS, user = user.as_str(), code; "a session ended with {code}");
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

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(first) = self.early.take() {
            let (arrival, mut early) = *first;
            self.guarded(|session| {
                session.arrive(arrival);
                if !early.is_empty() {
                    session.read(&mut early);
                }
            });
            self.ask_backend(ctx);
        }
    }
}

impl StreamHandler<Heard> for Session {
    fn handle(&mut self, heard: Heard, ctx: &mut Self::Context) {
        self.guarded(|session| session.heard_all(heard));
        self.ask_backend(ctx);
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
