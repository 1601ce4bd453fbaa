//! The mind of a door connection: what a backend's Redis client says becomes items for the rooms and
//! replies. Called by the door's actor with one request after another. Knows no socket, and no room
//! beyond its name.

mod answers;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::chat::names::RoomName;
use crate::sources::door_commands::{CommandInfo, find, item_of_xadd, published_by_script, room_of_channel};
use crate::sources::door_turn::{Push, PushReply, Turn};
use crate::sources::poison::{Poison, Reason};
use crate::sources::replies::Replies;
use crate::sources::resp::{ProtocolError, Request, RequestLimits};

/// The version of Redis whose commands and replies the door follows; clients choose by it what they send.
const REDIS_VERSION: &str = "7.0.0";
/// Most commands between `MULTI` and `EXEC`.
const QUEUED_MAX: usize = 4_096;
const NOAUTH: &str = "NOAUTH Authentication required.";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";
const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                            HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                            select the RESP protocol version at the same time";

/// What all connections of a door share.
#[derive(Debug)]
pub struct DoorRules {
    /// The lists that may be pushed to, each with the room of items that name none.
    pub lists: Vec<(String, RoomName)>,
    /// What is cut off the front of a channel.
    pub prefix: String,
    /// Empty: nobody is asked.
    pub password: String,
    /// What a request may be once a client is in.
    pub limits: RequestLimits,
}

/// One connection's state.
#[derive(Debug)]
pub struct DoorSession {
    rules: Arc<DoorRules>,
    /// Told by `CLIENT ID`.
    id: u64,
    /// Where the client reached the door; told to Cluster clients.
    address: SocketAddr,
    logged_in: bool,
    client_name: Bytes,
    replies: Replies,
    /// Commands between `MULTI` and `EXEC`.
    queued: Option<Vec<Vec<Bytes>>>,
    queued_bytes: usize,
    /// A queued command was wrong: `EXEC` will refuse.
    spoiled: bool,
    closing: bool,
}

impl DoorSession {
    /// A client that came to `address`.
    pub fn new(rules: Arc<DoorRules>, id: u64, address: SocketAddr) -> DoorSession {
        DoorSession {
            logged_in: rules.password.is_empty(),
            rules,
            id,
            address,
            client_name: Bytes::new(),
            replies: Replies::default(),
            queued: None,
            queued_bytes: 0,
            spoiled: false,
            closing: false,
        }
    }

    /// What a request may be at this point.
    pub fn limits(&self) -> RequestLimits {
        if self.logged_in { self.rules.limits } else { RequestLimits::before_login() }
    }

    /// Whether the connection ends after the replies.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the client has asked for RESP3.
    pub fn speaks_resp3(&self) -> bool {
        self.replies.resp3
    }

    /// Deals with one request.
    pub fn handle(&mut self, request: Request, turn: &mut Turn) {
        match request {
            Request::Command(values) => self.command(values, turn),
            Request::TooLarge { .. } if !self.logged_in => self.replies.error(NOAUTH),
            Request::TooLarge { name, bytes, limit } => {
                let name = shown(&name.unwrap_or_default());
                self.spoiled = self.queued.is_some();
                self.replies.error(&format!(
                    "ERR {name} with {bytes} bytes is over the limit of {limit} and was thrown away; \
                     push smaller items, or fewer at once"
                ));
            }
        }
        turn.ready(std::mem::take(&mut self.replies.bytes));
    }

    /// Answers what was no request; the connection ends.
    pub fn fail(&mut self, error: &ProtocolError, turn: &mut Turn) {
        self.closing = true;
        if *error != ProtocolError::Http {
            self.replies.error(&format!("ERR {error}"));
            turn.ready(std::mem::take(&mut self.replies.bytes));
        }
    }

    fn command(&mut self, values: Vec<Bytes>, turn: &mut Turn) {
        let found = find(&values[0]);
        let name = found.map_or("", |command| command.name);
        if !self.logged_in && !matches!(name, "auth" | "hello" | "quit" | "reset") {
            return self.replies.error(NOAUTH);
        }
        let command = match found {
            Some(command) if command.takes(values.len()) => command,
            Some(_) => return self.refuse(&format!("ERR wrong number of arguments for '{name}' command")),
            None => return self.refuse(&unknown(&values[0])),
        };
        match &mut self.queued {
            Some(queued) if !matches!(name, "exec" | "discard" | "multi" | "reset" | "quit" | "watch") => {
                self.queued_bytes += values.iter().map(|value| value.len() + 64).sum::<usize>();
                if queued.len() == QUEUED_MAX || self.queued_bytes > self.rules.limits.request_bytes {
                    return self.refuse("ERR too much between MULTI and EXEC; push in smaller transactions");
                }
                queued.push(values);
                self.replies.simple("QUEUED");
            }
            _ => self.run(command, &values, turn),
        }
    }

    fn refuse(&mut self, error: &str) {
        self.spoiled = self.queued.is_some();
        self.replies.error(error);
    }

    fn run(&mut self, command: &CommandInfo, values: &[Bytes], turn: &mut Turn) {
        let rest = &values[1..];
        match command.name {
            "lpush" | "rpush" | "lpushx" | "rpushx" => self.push(rest, turn),
            "publish" | "spublish" => self.publish(&rest[1], &rest[..1], PushReply::Count, turn),
            "xadd" => self.xadd(rest, turn),
            "eval" => match published_by_script(rest) {
                Some((payload, channels)) => self.publish(payload, channels, PushReply::Null, turn),
                None => self
                    .replies
                    .error("ERR EVAL: this is Roomcast's door, of all scripts it takes Laravel's broadcast"),
            },
            "evalsha" => self.replies.error("NOSCRIPT No matching script. Please use EVAL."),
            // What is accepted does not wait.
            "llen" => self.replies.integer(0),
            "ping" => match rest.first() {
                Some(text) => self.replies.bulk(text),
                None => self.replies.simple("PONG"),
            },
            "echo" => self.replies.bulk(&rest[0]),
            "auth" => self.auth(rest),
            "hello" => self.hello(rest),
            "select" => match std::str::from_utf8(&rest[0]).ok().and_then(|index| index.parse::<u8>().ok()) {
                Some(_) => self.replies.simple("OK"),
                None => self.replies.error("ERR DB index is out of range"),
            },
            "client" => self.client(rest),
            "info" => self.info(),
            "command" => self.commands(rest),
            "config" => self.config(rest),
            "cluster" => self.cluster(rest),
            "role" => {
                self.replies.array(3);
                self.replies.bulk(b"master");
                self.replies.integer(0);
                self.replies.array(0);
            }
            "multi" if self.queued.is_some() => self.replies.error("ERR MULTI calls can not be nested"),
            "multi" => {
                self.queued = Some(Vec::new());
                self.replies.simple("OK");
            }
            "exec" => self.exec(turn),
            "discard" => match self.end_transaction() {
                Some(_) => self.replies.simple("OK"),
                None => self.replies.error("ERR DISCARD without MULTI"),
            },
            "watch" if self.queued.is_some() => self.replies.error("ERR WATCH inside MULTI is not allowed"),
            "reset" => self.reset(),
            "quit" => {
                self.closing = true;
                self.replies.simple("OK");
            }
            // watch, unwatch, readonly, readwrite, asking: nothing here changes under a client.
            _ => self.replies.simple("OK"),
        }
    }

    fn push(&mut self, rest: &[Bytes], turn: &mut Turn) {
        let Some((source, room)) = self.list(&rest[0]) else {
            return;
        };
        let items = rest[1..].iter();
        let pushes = items.map(|item| Push {
            item: item.clone(),
            room: room.clone(),
            source: source.clone(),
            outcome: None,
        });
        self.add(PushReply::Count, pushes, turn);
    }

    fn xadd(&mut self, rest: &[Bytes], turn: &mut Turn) {
        let Some((source, room)) = self.list(&rest[0]) else {
            return;
        };
        match item_of_xadd(&rest[1..]) {
            Ok(item) => self.add(PushReply::EntryId, [Push { item, room, source, outcome: None }], turn),
            Err(error) => self.replies.error(error),
        }
    }

    /// The list of this name; tells the client if there is none.
    fn list(&mut self, key: &[u8]) -> Option<(Arc<str>, RoomName)> {
        let found = self.rules.lists.iter().find(|(name, _)| name.as_bytes() == key);
        if let Some((name, room)) = found {
            return Some((name.as_str().into(), room.clone()));
        }
        let names: Vec<&str> = self.rules.lists.iter().map(|(name, _)| name.as_str()).collect();
        let error = format!(
            "ERR no list {} here: this is Roomcast's door, it takes pushes to {}; see queue.list",
            shown(key),
            names.join(", ")
        );
        self.replies.error(&error);
        None
    }

    /// One payload to many rooms.
    fn publish(&mut self, payload: &Bytes, channels: &[Bytes], reply: PushReply, turn: &mut Turn) {
        let source: Arc<str> = "publish".into();
        let mut pushes = Vec::with_capacity(channels.len());
        for channel in channels {
            match self.room(channel) {
                Ok(room) => {
                    pushes.push(Push { item: payload.clone(), room, source: source.clone(), outcome: None })
                }
                Err(poison) => return self.replies.error(&format!("ERR {poison}")),
            }
        }
        self.add(reply, pushes, turn);
    }

    fn room(&self, channel: &[u8]) -> Result<RoomName, Poison> {
        let bad = |why: &str| Poison::new(Reason::BadRoom, format!("channel {}: {why}", shown(channel)));
        let channel = std::str::from_utf8(channel).map_err(|_| bad("a name is UTF-8"))?;
        RoomName::named_by_client(room_of_channel(channel, &self.rules.prefix)).map_err(|error| bad(error.0))
    }

    fn add(&mut self, reply: PushReply, pushes: impl IntoIterator<Item = Push>, turn: &mut Turn) {
        turn.ready(std::mem::take(&mut self.replies.bytes));
        turn.pushes(reply, pushes);
    }

    fn auth(&mut self, rest: &[Bytes]) {
        let (user, password) = match rest {
            [password] => (&b"default"[..], password),
            [user, password] => (&user[..], password),
            _ => return self.replies.error("ERR syntax error"),
        };
        if self.rules.password.is_empty() && rest.len() == 1 {
            return self.replies.error(NO_PASSWORD);
        }
        match self.log_in(user, password) {
            true => self.replies.simple("OK"),
            false => self.replies.error(WRONGPASS),
        }
    }

    fn log_in(&mut self, user: &[u8], password: &[u8]) -> bool {
        let wanted = self.rules.password.as_bytes();
        // As in Redis, a default user without a password lets in with any.
        let right = user == b"default" && (wanted.is_empty() || bool::from(wanted.ct_eq(password)));
        self.logged_in |= right;
        right
    }

    fn hello(&mut self, rest: &[Bytes]) {
        let mut resp3 = self.replies.resp3;
        let mut options = rest;
        if let Some((version, tail)) = rest.split_first() {
            resp3 = match &version[..] {
                b"2" => false,
                b"3" => true,
                _ => return self.replies.error("NOPROTO unsupported protocol version"),
            };
            options = tail;
        }
        let mut name = None;
        while let Some((option, tail)) = options.split_first() {
            options = match tail {
                [user, password, tail @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                    if !self.log_in(user, password) {
                        return self.replies.error(WRONGPASS);
                    }
                    tail
                }
                [given, tail @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                    name = Some(given.clone());
                    tail
                }
                _ => {
                    return self
                        .replies
                        .error(&format!("ERR Syntax error in HELLO option '{}'", shown(option)));
                }
            };
        }
        if !self.logged_in {
            return self.replies.error(NOAUTH_HELLO);
        }
        self.client_name = name.unwrap_or(std::mem::take(&mut self.client_name));
        self.replies.resp3 = resp3;
        self.greet();
    }

    fn exec(&mut self, turn: &mut Turn) {
        let spoiled = self.spoiled;
        let Some(queued) = self.end_transaction() else {
            return self.replies.error("ERR EXEC without MULTI");
        };
        if spoiled {
            return self.replies.error("EXECABORT Transaction discarded because of previous errors.");
        }
        self.replies.array(queued.len());
        for values in &queued {
            if let Some(command) = find(&values[0]) {
                self.run(command, values, turn);
            }
        }
    }

    fn end_transaction(&mut self) -> Option<Vec<Vec<Bytes>>> {
        self.spoiled = false;
        self.queued_bytes = 0;
        self.queued.take()
    }

    fn reset(&mut self) {
        self.end_transaction();
        self.logged_in = self.rules.password.is_empty();
        self.client_name.clear();
        self.replies.resp3 = false;
        self.replies.simple("RESET");
    }
}

/// A text of the client's for an error or a log line: escaped and cut.
fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(64)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < text.len() { "…" } else { "" })
}

fn unknown(name: &[u8]) -> String {
    format!(
        "ERR unknown command '{}', this is Roomcast's door: it takes LPUSH, RPUSH, PUBLISH, XADD and a broadcast by \
         EVAL; keep other data in a Redis server",
        shown(name)
    )
}
