//! The one table of error and close codes of the native protocol; docs/protocol.md shows the same.
//! Used wherever a request is refused or a session closed.

use std::borrow::Cow;

use crate::chat::message::Refused;
use crate::chat::moderation::{Barred, Full};
use crate::chat::names::BadName;
use crate::chat::permission::Denied;

/// Why a request was refused: what the client sees in an `err` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Like an HTTP status.
    pub code: u16,
    /// One word for programs.
    pub why: &'static str,
    /// One sentence for people, ending with what to do.
    pub msg: Cow<'static, str>,
    /// When to try again, in milliseconds.
    pub wait_ms: Option<u64>,
}

impl Problem {
    /// A problem without a wait.
    pub fn new(code: u16, why: &'static str, msg: impl Into<Cow<'static, str>>) -> Problem {
        Problem { code, why, msg: msg.into(), wait_ms: None }
    }

    /// The same with a wait in milliseconds.
    pub fn wait(mut self, ms: u64) -> Problem {
        self.wait_ms = Some(ms);
        self
    }

    /// What is sent is not JSON of the protocol's shape.
    pub fn bad_json(msg: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(400, "bad-json", msg)
    }

    /// Somebody speaks before saying who he is.
    pub fn who_are_you() -> Problem {
        Problem::new(401, "bad-token", "say hello with a token first")
    }

    /// The message is larger than `limits.message_bytes`.
    pub fn too_big(limit: usize) -> Problem {
        Problem::new(413, "too-big", format!("a message has at most {limit} bytes; send less or in parts"))
    }

    /// Somebody speaks faster than allowed.
    pub fn too_fast(wait_ms: u64) -> Problem {
        Problem::new(429, "rate", format!("too fast; send it again in {wait_ms} ms")).wait(wait_ms)
    }

    /// What is to be changed was said by somebody else.
    pub fn not_yours() -> Problem {
        Problem::new(403, "not-allowed", "only who said it may change it; leave it as it is")
    }

    /// Nothing that could be changed stands at that offset.
    pub fn no_entry() -> Problem {
        Problem::new(404, "no-entry", "nothing stands at that offset any more; ask log for what there is")
    }

    /// The room was never written to.
    pub fn no_room() -> Problem {
        Problem::new(404, "no-room", "nothing has been said in this room yet")
    }

    /// The session that somebody wants to go on with is not known, or is another user's.
    pub fn no_session() -> Problem {
        Problem::new(
            404,
            "no-session",
            "no such session of yours is known any more; join your rooms again, with \"since\" where you can",
        )
    }

    /// What was asked for could not be kept; nobody has seen it.
    pub fn not_stored(wait_ms: u64) -> Problem {
        Problem::new(
            503,
            "not-stored",
            format!("it could not be stored; send it again with the same id in {wait_ms} ms"),
        )
        .wait(wait_ms)
    }

    /// Something that is needed for an answer cannot be read now.
    pub fn unreadable() -> Problem {
        Problem::new(503, "not-stored", "the store cannot be read now; ask again soon").wait(1_000)
    }

    /// The server stops.
    pub fn draining() -> Problem {
        Problem::new(503, "draining", "the server is stopping; ask again, another node or this one later")
            .wait(1_000)
    }

    /// The session is in as many rooms as it may be.
    pub fn too_many_rooms(limit: usize) -> Problem {
        Problem::new(429, "rooms", format!("one session may be in {limit} rooms; leave another room first"))
    }
}

impl From<BadName> for Problem {
    fn from(bad: BadName) -> Problem {
        Problem::new(400, "bad-room", bad.0)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        match denied {
            Denied::NotAllowed(msg) => Problem::new(403, "not-allowed", msg),
            Denied::NotJoined => Problem::new(403, "not-joined", "join the room first"),
        }
    }
}

impl From<Barred> for Problem {
    fn from(barred: Barred) -> Problem {
        let until = |wait: Option<u64>, again: &str, never: &'static str| match wait {
            Some(ms) => Cow::Owned(format!("you can {again} again in {}", people(ms))),
            None => Cow::Borrowed(never),
        };
        let (code, why, msg, wait_ms) = match barred {
            Barred::Muted(wait) => (
                403,
                "muted",
                until(wait, "write", "you may not write here; ask those who run this room"),
                wait,
            ),
            Barred::Banned(wait) => (
                403,
                "banned",
                until(wait, "come", "you may not come here; ask those who run this room"),
                wait,
            ),
            Barred::Frozen(wait) => {
                let msg = format!("nobody can write here now; try again in {}", people(wait));
                (403, "frozen", Cow::Owned(msg), Some(wait))
            }
            Barred::Slow(wait) => (429, "slow-mode", until(Some(wait), "write", ""), Some(wait)),
        };
        Problem { code, why, msg, wait_ms }
    }
}

/// A time for people: rounded up, in the largest unit that has at least two of it.
fn people(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} h", seconds.div_ceil(3_600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Problem {
        match full {
            Full::Users => Problem::new(413, "too-big", full.to_string()),
            Full::Rooms => Problem::new(429, "rooms", full.to_string()),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let msg = refused.to_string();
        match refused {
            Refused::Busy { wait_ms } => Problem::new(503, "busy", msg).wait(wait_ms),
            Refused::Draining => Problem::new(503, "draining", msg),
            Refused::TooManyRooms => Problem::new(429, "rooms", msg),
            Refused::NoEntry => Problem::no_entry(),
            Refused::ByHandler(why) => Problem::new(403, "not-allowed", why),
            Refused::NotStored { wait_ms } => Problem::new(503, "not-stored", msg).wait(wait_ms),
        }
    }
}

/// Why a session is closed. The hundreds tell a client what to do: 40xx do not come back unchanged, 41xx
/// come back with growing delay, 42xx come back at once or after the wait; below 4000 it is RFC 6455.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// WebSocket close code.
    pub code: u16,
    /// One word for programs.
    pub why: Cow<'static, str>,
    /// When to come back, in milliseconds.
    pub wait_ms: Option<u64>,
}

impl Goodbye {
    /// What is needed cannot be read now.
    pub const LATER: Goodbye = Goodbye { code: 4100, why: Cow::Borrowed("store"), wait_ms: Some(1_000) };

    /// The client said bye.
    pub const DONE: Goodbye = Goodbye::of(1000, "bye");
    /// The server broke while handling this session.
    pub const INTERNAL: Goodbye = Goodbye::of(1011, "internal");
    /// The token is wrong.
    pub const BAD_TOKEN: Goodbye = Goodbye::of(4001, "bad-token");
    /// The name of a guest is none.
    pub const BAD_NAME: Goodbye = Goodbye::of(4000, "bad-name");
    /// The token has run out.
    pub const EXPIRED: Goodbye = Goodbye::of(4001, "expired");
    /// Nobody said hello in time.
    pub const NO_HELLO: Goodbye = Goodbye::of(4001, "no-hello");
    /// Another connection goes on with this session.
    pub const REPLACED: Goodbye = Goodbye::of(4009, "replaced");
    /// Far too fast for too long.
    pub const RATE: Goodbye = Goodbye::of(4101, "rate");
    /// No sign of life for two pings.
    pub const NO_PONG: Goodbye = Goodbye::of(4201, "no-pong");
    /// The outbox was full.
    pub const SLOW: Goodbye = Goodbye::of(4202, "slow");

    const fn of(code: u16, why: &'static str) -> Goodbye {
        Goodbye { code, why: Cow::Borrowed(why), wait_ms: None }
    }

    /// The server stops; come back after the wait, in milliseconds.
    pub const fn restart(wait_ms: u64) -> Goodbye {
        Goodbye { code: 4200, why: Cow::Borrowed("restart"), wait_ms: Some(wait_ms) }
    }
}
