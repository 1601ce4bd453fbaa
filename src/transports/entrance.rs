//! The way in for sessions over HTTP: the same questions that the WebSocket door asks (does the node stop, where does
//! the page come from, who is it, is there a place), and what the URL says about rooms. Shared by event streams, polls
//! and errands; knows none of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use ahash::RandomState;

use crate::actors::admission::{NoPlace, Place};
use crate::actors::session::{SessionHouse, guest_named};
use crate::auth::visitor;
use crate::chat::client::Pace;
use crate::chat::names::{RoomName, UserName};
use crate::chat::permission::Identity;
use crate::chat::room::Resume;
use crate::hooks::question::Visitor;
use crate::protocols::codes::Problem;
use crate::protocols::cursor::{self, Cursor, ROOMS_MAX};
use crate::protocols::native::Join;
use crate::transports::callers::Callers;
use crate::transports::long_poll::Pollers;
use crate::transports::websocket::{Door, bearer};

/// The cookie that may hold a token.
pub const TOKEN_COOKIE: &str = "roomcast_token";
/// HTTP requests that a user may make for each message that a session may publish.
const REQUESTS_PER_MESSAGE: u32 = 20;
/// Users whose pace is remembered before those who have been away are forgotten.
const PACES_MAX: usize = 10_000;
/// How long a pace is remembered, in milliseconds. By then its burst is full again.
const PACE_MS: u64 = 2_000;
/// When to ask again where there is no place, in milliseconds.
const FULL_WAIT_MS: u64 = 5_000;

/// What the sessions over HTTP of a worker thread share.
pub struct Entry {
    /// The door for WebSockets, whose rules are the same.
    pub door: Rc<Door>,
    /// Whether sessions are kept, so that a cursor may name one.
    pub keeps_sessions: bool,
    pub(super) pollers: Pollers,
    pub(super) callers: Callers,
    paces: RefCell<HashMap<UserName, (Pace, u64), RandomState>>,
}

/// Who asks.
#[derive(Debug)]
pub struct Asker {
    /// Who it is.
    pub identity: Identity,
    /// Whether it has said its name; else it has got one for this request alone.
    pub is_named: bool,
    /// What tells it from others of the same name: its token.
    pub token: Option<String>,
}

/// What the query of a URL says, decoded; of a key that comes twice the last.
#[derive(Debug, Default)]
pub struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// Reads a query.
    pub fn of(request: &'a HttpRequest) -> Params<'a> {
        Params(url::form_urlencoded::parse(request.query_string().as_bytes()).collect())
    }

    /// The text of a key; of one that is there several times the last.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().rfind(|(known, _)| known == key).map(|(_, value)| &**value)
    }

    /// The whole number of a key.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Problem> {
        let number = self.text(key).map(|text| text.parse::<u64>());
        number.transpose().map_err(|_| Problem::bad_json(format!("{key}= is a whole number, 0 or more")))
    }
}

/// Where a reader is not shown to the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Quiet {
    /// It is shown wherever it is.
    Nowhere,
    /// It is shown nowhere.
    Everywhere,
    /// It is not shown in these.
    In(Vec<RoomName>),
}

/// The rooms that a reader wants, and from where on.
#[derive(Debug)]
pub struct Wish {
    /// Which rooms, in the order in which they were asked for.
    pub rooms: Vec<RoomName>,
    /// Where the reader stands.
    pub from: Option<Cursor>,
    /// In which of them it reads unseen.
    pub quiet: Quiet,
    /// What it wants of rooms in which it stands nowhere.
    newcomer: Resume,
}

impl Wish {
    /// Reads `rooms`, `since`, `last`, `from` and `quiet`. `again`: where the reader has stood when its stream ended,
    /// which counts more than the URL.
    pub fn read(params: &Params<'_>, again: Option<&str>) -> Result<Wish, Problem> {
        let again = again.filter(|text| !text.is_empty());
        let from =
            again.or(params.text("since")).filter(|text| !text.is_empty()).map(cursor::read).transpose()?;
        let mut rooms = cursor::read_rooms(params.text("rooms").unwrap_or_default())?;
        if params.text("rooms").is_none() {
            match &from {
                Some(Cursor::Rooms(stands)) => rooms.extend(stands.iter().map(|stand| stand.room.clone())),
                Some(Cursor::Session { .. }) => {}
                None => {
                    let msg = "name the rooms: rooms=lobby,ops (rooms= for none yet)";
                    return Err(Problem::new(400, "bad-room", msg));
                }
            }
        }
        let newcomer = match (params.number("last")?, params.number("from")?) {
            (Some(_), Some(_)) => return Err(Problem::bad_json("write last= or from=, not both")),
            (Some(n), None) => Resume::Last(usize::try_from(n).unwrap_or(usize::MAX)),
            (None, Some(ts)) => Resume::From(ts),
            (None, None) => Resume::FromNow,
        };
        let quiet = match params.text("quiet") {
            None | Some("" | "0" | "false") => Quiet::Nowhere,
            Some("1" | "true") => Quiet::Everywhere,
            Some(list) => Quiet::In(cursor::read_rooms(list)?),
        };
        Ok(Wish { rooms, from, quiet, newcomer })
    }

    /// Whether its cursor names a session.
    pub fn needs_session(&self) -> bool {
        self.rooms.len() > ROOMS_MAX || matches!(self.from, Some(Cursor::Session { .. }))
    }

    /// The joins of its rooms, each from where the reader stands in it.
    pub fn joins(&self) -> Vec<Join> {
        let join = |room: &RoomName| {
            let resume = match &self.from {
                Some(Cursor::Rooms(stands)) => stands
                    .iter()
                    .find(|stand| stand.room == *room)
                    .map(|stand| Resume::Since(stand.offset, Some(stand.epoch.clone()))),
                _ => None,
            };
            let resume = resume.unwrap_or_else(|| self.newcomer.clone());
            let quiet = match &self.quiet {
                Quiet::Nowhere => false,
                Quiet::Everywhere => true,
                Quiet::In(rooms) => rooms.contains(room),
            };
            Join { room: room.clone(), resume, quiet, grant: None }
        };
        self.rooms.iter().map(join).collect()
    }
}

impl Entry {
    /// The entry beside a door.
    pub fn new(door: Rc<Door>, keeps_sessions: bool) -> Entry {
        Entry {
            door,
            keeps_sessions,
            pollers: Pollers::default(),
            callers: Callers::default(),
            paces: RefCell::default(),
        }
    }

    /// What the sessions of this thread share.
    pub fn house(&self) -> &Rc<SessionHouse> {
        &self.door.house
    }

    /// Who asks, if it may.
    pub fn ask(&self, request: &HttpRequest, params: &Params<'_>) -> Result<Asker, Problem> {
        let refused = &self.house().metrics.door;
        if (self.door.draining)() {
            refused.refused_draining.inc();
            return Err(Problem::new(503, "draining", "this node is stopping; ask again").wait(1_000));
        }
        let headers = request.headers();
        if !self.door.origins.allow_request(headers, request.uri().authority().map(|host| host.as_str())) {
            refused.refused_origin.inc();
            let msg = "pages of this origin may not ask; add it to server.origins";
            return Err(Problem::new(403, "foreign-origin", msg));
        }
        let asker = self.who(request, params)?;
        self.keeps_pace(&asker.identity.user)?;
        Ok(asker)
    }

    fn who(&self, request: &HttpRequest, params: &Params<'_>) -> Result<Asker, Problem> {
        let headers = request.headers();
        let token = params.text("token").map(str::to_owned).or_else(|| token_of(headers));
        if let Some(token) = token {
            let identity = self.house().check_token(&token)?;
            return Ok(Asker { identity, is_named: true, token: Some(token) });
        }
        let local = visitor::is_local(peer(request), headers, visitor::host(headers));
        if !visitor::demo_open(&self.door.demo, local) {
            let msg = "show a token: Authorization: Bearer …, the cookie roomcast_token, or ?token=";
            return Err(Problem::new(401, "bad-token", msg));
        }
        let user = params.text("user");
        Ok(Asker { identity: guest_named(user)?, is_named: user.is_some(), token: None })
    }

    /// A user's requests are counted, because each may begin a session of its own.
    fn keeps_pace(&self, user: &UserName) -> Result<(), Problem> {
        let now = self.house().core.borrow().now_ms();
        let per_second = self.house().limits.messages_per_second.saturating_mul(REQUESTS_PER_MESSAGE);
        let mut paces = self.paces.borrow_mut();
        if paces.len() >= PACES_MAX {
            paces.retain(|_, (_, seen)| now - *seen < PACE_MS);
        }
        let (pace, seen) = paces.entry(user.clone()).or_insert_with(|| (Pace::new(per_second, now), now));
        *seen = now;
        pace.take(per_second, now).map_err(|fast| Problem::too_fast(fast.wait_ms))
    }

    /// Whether the wish can be granted as far as is known before a session begins.
    pub fn check(&self, wish: &Wish) -> Result<(), Problem> {
        let limit = self.house().limits.rooms_per_session;
        if wish.rooms.len() > limit {
            return Err(Problem::too_many_rooms(limit));
        }
        if wish.needs_session() && !self.keeps_sessions {
            let msg = "this server keeps no sessions, so a stream or a poll has at most 8 rooms; open several, or have its \
                       operator set store.url";
            return Err(Problem::new(400, "rooms", msg));
        }
        if has_twins(&wish.rooms) {
            let msg =
                "two of these rooms cannot be told apart in a cursor; open a second stream for one of them";
            return Err(Problem::new(400, "rooms", msg));
        }
        Ok(())
    }

    /// What a backend is told of somebody, where it is asked before he comes in.
    pub fn visitor(&self, request: &HttpRequest) -> Option<Box<Visitor>> {
        self.door.visitor(request.uri(), request.headers(), peer(request))
    }

    /// A place among the connections, for a session that begins.
    pub fn place(&self, request: &HttpRequest) -> Result<Place, Problem> {
        let address = visitor::client_address(peer(request), request.headers(), &self.door.proxies);
        let refused = &self.house().metrics.door;
        self.door.admission.enter(visitor::counted_address(address)).map_err(|why| match why {
            NoPlace::Full => {
                refused.refused_full.inc();
                let msg = "this node has all the connections it may have; try again later";
                Problem::new(503, "full", msg).wait(FULL_WAIT_MS)
            }
            NoPlace::Address => {
                refused.refused_address.inc();
                let msg = "too many connections from your address; close some";
                Problem::new(429, "connections", msg).wait(FULL_WAIT_MS)
            }
        })
    }
}

/// Whether two rooms have the same mark; see [`cursor::mark_of`].
fn has_twins(rooms: &[RoomName]) -> bool {
    let mut marks: Vec<u32> = rooms.iter().map(cursor::mark_of).collect();
    marks.sort_unstable();
    marks.windows(2).any(|two| two[0] == two[1])
}

fn peer(request: &HttpRequest) -> IpAddr {
    // A peer that has gone already has no address; it counts as nobody in particular, and not as local.
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// The token in a request's headers: in `Authorization`, or in the cookie.
pub fn token_of(headers: &HeaderMap) -> Option<String> {
    bearer(headers).or_else(|| cookie(headers, TOKEN_COOKIE))
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all("cookie").filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, value)| *key == name && !value.is_empty())?;
    Some(value.trim_matches('"').to_owned())
}
