//! One line of a client as JSON, and what each type of frame makes of its keys. Used by the reader of lines
//! above alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Join, PAGE_MAX, Publish, Reference, Request, SESSION_BYTES_MAX, WORDS_BYTES_MAX};
use crate::chat::data::{DEPTH_MAX, Data};
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::{Mark, MessageId, RoomName};
use crate::chat::room::Resume;
use crate::protocols::codes::Problem;

/// Entries in a page when the client names no number.
const PAGE_DEFAULT: usize = 50;

/// The types of frames that are offered.
pub(super) const TYPES: [&str; 17] = [
    "hello", "join", "leave", "pub", "edit", "del", "react", "read", "got", "typing", "who", "log", "find",
    "rooms", "auth", "ping", "bye",
];

/// Text that is borrowed from the line where it has no escapes.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A line. Keys that only a few types know stand as they were written, so that a bad value can be named.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    t: Option<Text<'a>>,
    #[serde(borrow)]
    r: Option<Text<'a>>,
    i: Option<u64>,
    #[serde(borrow)]
    s: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    u: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    d: Option<&'a RawValue>,
    #[serde(borrow)]
    of: Option<&'a RawValue>,
    #[serde(borrow)]
    k: Option<&'a RawValue>,
    #[serde(borrow)]
    q: Option<&'a RawValue>,
    v: Option<u64>,
    #[serde(borrow)]
    token: Option<Text<'a>>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    rooms: Option<BTreeMap<Text<'a>, &'a RawValue>>,
    since: Option<u64>,
    #[serde(borrow)]
    e: Option<Text<'a>>,
    last: Option<u64>,
    from: Option<u64>,
    #[serde(borrow)]
    until: Option<&'a RawValue>,
    quiet: Option<bool>,
    off: Option<bool>,
    keep: Option<bool>,
    re: Option<u64>,
    n: Option<u64>,
    before: Option<u64>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

/// Where a reader stands in one room of a `hello`.
#[derive(Deserialize)]
struct Place<'a> {
    since: Option<u64>,
    #[serde(borrow)]
    e: Option<Text<'a>>,
    last: Option<u64>,
    from: Option<u64>,
    quiet: Option<bool>,
    #[serde(borrow)]
    token: Option<Text<'a>>,
}

impl<'a> Place<'a> {
    fn read(raw: &'a RawValue) -> Result<Place<'a>, Problem> {
        let json = match raw.get() {
            "null" => "{}",
            json => json,
        };
        let bad = || Problem::bad_json("a room of hello is {} or for example {\"since\":42,\"e\":\"k3f9\"}");
        if !json.starts_with('{') {
            return Err(bad());
        }
        serde_json::from_str(json).map_err(|_| bad())
    }
}

/// `"d":null` is data like any other; only a missing `d` is none.
fn even_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What can be told of a line that has a value of a wrong type somewhere: its request number, and what to mend.
pub(super) fn look_at_wrong(line: &str, error: &serde_json::Error) -> (Reference, Problem) {
    let keys: BTreeMap<Text, &RawValue> = serde_json::from_str(line).unwrap_or_default();
    let of = |key: &'static str| keys.get(&Text(Cow::Borrowed(key))).map(|raw| raw.get());
    let reference = Reference { i: of("i").and_then(|i| i.parse().ok()), ..Reference::default() };
    let t = of("t").and_then(|t| serde_json::from_str::<Text>(t).ok());
    if t.is_some_and(|t| !TYPES.contains(&&*t.0)) {
        return (reference, unknown_type());
    }
    let wrong = keys.iter().find_map(|(key, raw)| Some((&key.0, wants(&key.0, raw.get())?)));
    let problem = match wrong {
        Some((key, wanted)) => Problem::bad_json(format!("\"{key}\" is {wanted}")),
        None => Problem::bad_json(format!("{error}; send one JSON object per line")),
    };
    (reference, problem)
}

/// What a key of a line wants to hold, if it is not that.
fn wants(key: &str, json: &str) -> Option<&'static str> {
    let (is_right, wanted) = match key {
        "t" | "r" | "id" | "u" | "token" | "e" => (json.starts_with('"'), "text; write it in quotes"),
        "i" | "v" | "since" | "last" | "from" | "re" | "n" | "before" => {
            (json.parse::<u64>().is_ok(), "a whole number, 0 or more; write it without quotes")
        }
        "quiet" | "off" | "keep" => (matches!(json, "true" | "false"), "true or false; without quotes"),
        "rooms" => (json.starts_with('{'), "an object, for example {\"lobby\":{\"since\":42}}"),
        _ => return None,
    };
    (!is_right && json != "null").then_some(wanted)
}

fn unknown_type() -> Problem {
    Problem::new(
        400,
        "unknown-type",
        "this server does not offer that \"t\"; \"can\" in welcome lists what it offers",
    )
}

impl Line<'_> {
    pub(super) fn reference(&self) -> Reference {
        Reference {
            i: self.i,
            room: self.r.as_ref().and_then(|r| RoomName::named_by_client(&r.0).ok()),
            id: self.id.as_ref().and_then(|id| MessageId::new(&id.0).ok()),
        }
    }

    pub(super) fn request(self) -> Result<Request, Problem> {
        let Some(t) = &self.t else {
            return Err(Problem::bad_json(
                "every frame says its type in \"t\", for example {\"t\":\"join\",\"r\":\"lobby\"}",
            ));
        };
        match &*t.0 {
            "pub" => self.publish(),
            "typing" => Ok(Request::Typing { room: self.room()?, on: !self.off.unwrap_or(false) }),
            "read" => Ok(Request::Read { room: self.room()?, offset: offset_in("s", self.s)? }),
            "got" => Ok(Request::Got { room: self.room()?, offset: offset_in("s", self.s)? }),
            "react" => self.react(),
            "edit" => self.edit(),
            "del" => {
                Ok(Request::Delete { room: self.room()?, of: offset_in("of", self.of)?, id: self.id()? })
            }
            "hello" => self.hello(),
            "join" => self.join(),
            "leave" => Ok(Request::Leave { room: self.room()? }),
            "who" => self.who(),
            "log" => self.log(),
            "find" => self.find(),
            "rooms" => Ok(Request::Rooms),
            "auth" => match self.token {
                Some(token) => Ok(Request::Auth { token: token.0.into_owned() }),
                None => Err(Problem::bad_json("auth needs \"token\"")),
            },
            "ping" => Ok(Request::Ping),
            "bye" => Ok(Request::Bye),
            _ => Err(unknown_type()),
        }
    }

    fn room(&self) -> Result<RoomName, Problem> {
        match &self.r {
            Some(r) => Ok(RoomName::named_by_client(&r.0)?),
            None => Err(Problem::new(400, "bad-room", "name the room in \"r\"")),
        }
    }

    fn id(&self) -> Result<Option<MessageId>, Problem> {
        let id = self.id.as_ref().map(|id| MessageId::new(&id.0)).transpose();
        id.map_err(|bad| Problem::bad_json(bad.0))
    }

    fn data(&self) -> Result<Data, Problem> {
        let Some(d) = self.d else {
            return Err(Problem::bad_json("pub and edit need \"d\", any JSON; a string is fine"));
        };
        Data::new(d).map_err(|_| {
            Problem::bad_json(format!("\"d\" is nested deeper than {DEPTH_MAX} levels; flatten it"))
        })
    }

    fn publish(self) -> Result<Request, Problem> {
        let (room, data, id) = (self.room()?, self.data()?, self.id()?);
        if self.re == Some(0) {
            return Err(Problem::bad_json("\"re\" is the offset of an entry: 1 or more"));
        }
        Ok(Request::Publish(Publish { room, id, data, reply_to: self.re, keep: self.keep.unwrap_or(true) }))
    }

    fn edit(self) -> Result<Request, Problem> {
        let (room, of) = (self.room()?, offset_in("of", self.of)?);
        Ok(Request::Edit { room, of, data: self.data()?, id: self.id()? })
    }

    fn react(self) -> Result<Request, Problem> {
        let (room, of) = (self.room()?, offset_in("of", self.of)?);
        let Some(k) = text_in("k", self.k)? else {
            return Err(Problem::bad_json("react says with what in \"k\", for example \"k\":\"+1\""));
        };
        let mark = Mark::new(&k).map_err(|bad| Problem::bad_json(bad.0))?;
        Ok(Request::React { room, of, mark, off: self.off.unwrap_or(false), id: self.id()? })
    }

    fn hello(self) -> Result<Request, Problem> {
        if self.v.is_some_and(|v| v != 1) {
            return Err(Problem::new(400, "too-old-version", "this path speaks version 1; say \"v\":1"));
        }
        let session = session_in(self.session)?;
        let (mut joins, mut refused) = (Vec::new(), Vec::new());
        for (name, place) in self.rooms.unwrap_or_default() {
            let join = RoomName::named_by_client(&name.0).map_err(Problem::from).and_then(|room| {
                let place = Place::read(place)?;
                let resume = resume(place.since, place.e, place.last, place.from)?;
                let grant = place.token.map(|token| token.0.into_owned());
                Ok(Join { room, resume, quiet: place.quiet.unwrap_or(false), grant })
            });
            match join {
                Ok(join) => joins.push(join),
                Err(problem) => refused.push(problem),
            }
        }
        let owned = |text: Text<'_>| text.0.into_owned();
        Ok(Request::Hello { token: self.token.map(owned), user: self.u.map(owned), session, joins, refused })
    }

    fn join(self) -> Result<Request, Problem> {
        Ok(Request::Join(Join {
            room: self.room()?,
            resume: resume(self.since, self.e, self.last, self.from)?,
            quiet: self.quiet.unwrap_or(false),
            grant: self.token.map(|token| token.0.into_owned()),
        }))
    }

    fn who(self) -> Result<Request, Problem> {
        let after =
            match self.after {
                None => None,
                Some(raw) => Some(serde_json::from_str::<String>(raw.get()).map_err(|_| {
                    Problem::bad_json("\"after\" of who is the last user's name that you have")
                })?),
            };
        Ok(Request::Who { room: self.room()?, after, n: page_size(self.n) })
    }

    fn log(self) -> Result<Request, Problem> {
        let after = match self.after {
            None => None,
            Some(raw) => Some(
                serde_json::from_str::<u64>(raw.get())
                    .map_err(|_| Problem::bad_json("\"after\" of log is an offset"))?,
            ),
        };
        let until = match self.until {
            None => None,
            Some(raw) => Some(serde_json::from_str::<u64>(raw.get()).map_err(|_| {
                Problem::bad_json("\"until\" of log is a server time in Unix milliseconds, like \"ts\"")
            })?),
        };
        let ends = [
            self.before.map(PageFrom::Before),
            after.map(PageFrom::After),
            self.from.map(PageFrom::Since),
            until.map(PageFrom::Until),
        ];
        let mut named = ends.into_iter().flatten();
        let from = named.next().unwrap_or(PageFrom::Before(Offset::MAX));
        if named.next().is_some() {
            return Err(Problem::bad_json(
                "log takes one of \"before\", \"after\", \"from\" and \"until\"; leave the others out",
            ));
        }
        Ok(Request::Log { room: self.room()?, from, n: page_size(self.n) })
    }

    fn find(self) -> Result<Request, Problem> {
        let words = text_in("q", self.q)?.unwrap_or_default();
        let words = words.trim();
        if words.is_empty() || words.len() > WORDS_BYTES_MAX {
            return Err(Problem::bad_json(format!(
                "\"q\" holds the words to find, 1 to {WORDS_BYTES_MAX} bytes; choose some of that length"
            )));
        }
        let words = words.to_owned();
        Ok(Request::Find { room: self.room()?, words, before: self.before, n: page_size(self.n) })
    }
}

/// The offset of an entry in a key of that name.
fn offset_in(key: &str, raw: Option<&RawValue>) -> Result<Offset, Problem> {
    let offset = raw.and_then(|raw| serde_json::from_str::<Offset>(raw.get()).ok());
    offset.filter(|offset| *offset > 0).ok_or_else(|| {
        Problem::bad_json(format!("\"{key}\" is the offset of an entry, a whole number from 1 on"))
    })
}

/// The text in a key of that name, if it is there.
fn text_in<'a>(key: &str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, Problem> {
    let text = raw.map(|raw| serde_json::from_str::<Text>(raw.get())).transpose();
    text.map(|text| text.map(|text| text.0))
        .map_err(|_| Problem::bad_json(format!("\"{key}\" is text; write it in quotes")))
}

fn session_in(raw: Option<&RawValue>) -> Result<Option<Box<str>>, Problem> {
    let Some(session) = text_in("session", raw)? else { return Ok(None) };
    let is_made_here = session.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    if session.is_empty() || session.len() > SESSION_BYTES_MAX || !is_made_here {
        return Err(Problem::bad_json(
            "\"session\" is a name that welcome gave you; leave it out to begin a new one",
        ));
    }
    Ok(Some(session.into()))
}

fn page_size(n: Option<u64>) -> usize {
    n.map_or(PAGE_DEFAULT, |n| usize::try_from(n).unwrap_or(PAGE_MAX)).clamp(1, PAGE_MAX)
}

fn resume(
    since: Option<u64>,
    epoch: Option<Text<'_>>,
    last: Option<u64>,
    from: Option<u64>,
) -> Result<Resume, Problem> {
    match (since, last, from) {
        (None, None, None) => Ok(Resume::FromNow),
        (Some(offset), None, None) => {
            Ok(Resume::Since(offset, epoch.map(|e| e.0.into_owned().into_boxed_str())))
        }
        (None, Some(n), None) => Ok(Resume::Last(usize::try_from(n).unwrap_or(usize::MAX))),
        (None, None, Some(ts)) => Ok(Resume::From(ts)),
        _ => Err(Problem::bad_json("join takes one of \"since\", \"last\" and \"from\"")),
    }
}
