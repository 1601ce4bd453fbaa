//! What native clients write: one JSON object per line becomes a request, or a problem that says what
//! to mend. Called by the session. The contract is docs/protocol.md.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::data::{DEPTH_MAX, Data};
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::{MessageId, RoomName};
use crate::chat::room::Resume;
use crate::protocols::codes::Problem;

/// Most entries in one page of the log or of the roster.
pub const PAGE_MAX: usize = 500;
/// Entries in a page when the client names no number.
const PAGE_DEFAULT: usize = 50;

/// The types of frames that are offered.
const TYPES: [&str; 10] = ["hello", "join", "leave", "pub", "typing", "who", "log", "auth", "ping", "bye"];

/// The request number that an answer echoes.
pub type RequestNumber = Option<u64>;

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// Says who it is, and may come back into rooms.
    Hello {
        /// The token, unless the URL had one.
        token: Option<String>,
        /// The name of a guest.
        user: Option<String>,
        /// Rooms to enter at once.
        joins: Vec<Join>,
        /// Rooms that cannot be entered as they were asked for, each with what to mend.
        refused: Vec<Problem>,
    },
    /// Enters a room.
    Join(Join),
    /// Goes out of a room.
    Leave {
        /// Which room.
        room: RoomName,
    },
    /// Says something.
    Publish(Publish),
    /// Begins or stops typing.
    Typing {
        /// Which room.
        room: RoomName,
        /// Whether it begins.
        on: bool,
    },
    /// Asks who is here.
    Who {
        /// Which room.
        room: RoomName,
        /// Only users whose names come after this one.
        after: Option<String>,
        /// At most so many.
        n: usize,
    },
    /// Asks for older or newer entries.
    Log {
        /// Which room.
        room: RoomName,
        /// From which place, in which direction.
        from: PageFrom,
        /// At most so many.
        n: usize,
    },
    /// Shows a new token.
    Auth {
        /// The new token.
        token: String,
    },
    /// Asks for a sign of life.
    Ping,
    /// Goes.
    Bye,
}

/// Entering a room.
#[derive(Debug)]
pub struct Join {
    /// Which room.
    pub room: RoomName,
    /// What the reader has seen already.
    pub resume: Resume,
    /// Reading without being shown to the others.
    pub quiet: bool,
    /// A token that grants this room.
    pub grant: Option<String>,
}

/// Saying something.
#[derive(Debug)]
pub struct Publish {
    /// Which room.
    pub room: RoomName,
    /// The sender's id of the message.
    pub id: Option<MessageId>,
    /// What is said.
    pub data: Data,
    /// The entry it replies to.
    pub reply_to: Option<Offset>,
    /// `false`: for who is here now only.
    pub keep: bool,
}

/// What an answer to a line carries so that the client knows which request it belongs to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The request number.
    pub i: RequestNumber,
    /// The room as the client wrote it, when it was a room's name.
    pub room: Option<RoomName>,
    /// The message id as the client wrote it, when it was an id.
    pub id: Option<MessageId>,
}

/// Text that is borrowed from the line where it has no escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    t: Option<Text<'a>>,
    #[serde(borrow)]
    r: Option<Text<'a>>,
    i: Option<u64>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    u: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    d: Option<&'a RawValue>,
    v: Option<u64>,
    #[serde(borrow)]
    token: Option<Text<'a>>,
    #[serde(borrow)]
    rooms: Option<BTreeMap<Text2<'a>, &'a RawValue>>,
    since: Option<u64>,
    #[serde(borrow)]
    e: Option<Text<'a>>,
    last: Option<u64>,
    from: Option<u64>,
    quiet: Option<bool>,
    off: Option<bool>,
    keep: Option<bool>,
    re: Option<u64>,
    n: Option<u64>,
    before: Option<u64>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

/// [`Text`] as the key of a map.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
struct Text2<'a>(#[serde(borrow)] Cow<'a, str>);

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

/// Reads one line. The reference is filled as far as the line could be read, so that an error can be told
/// apart from others.
pub fn read(line: &str) -> (Reference, Result<Request, Problem>) {
    if !line.starts_with('{') {
        // A list could be read as an object whose keys are left out.
        return (Reference::default(), Err(Problem::bad_json("a line is a JSON object: {\"t\":…}")));
    }
    match serde_json::from_str::<Line>(line) {
        Ok(line) => {
            let reference = Reference {
                i: line.i,
                room: line.r.as_ref().and_then(|r| RoomName::new(&r.0).ok()),
                id: line.id.as_ref().and_then(|id| MessageId::new(&id.0).ok()),
            };
            (reference, line.request())
        }
        Err(error) => {
            let (reference, known) = head_of(line);
            let problem = match known {
                true => Problem::bad_json(format!("{error}; send one JSON object per line")),
                false => unknown_type(),
            };
            (reference, Err(problem))
        }
    }
}

/// The request number of a line that has a value of a wrong type somewhere, and whether its type is one that
/// is offered, as far as can be told.
fn head_of(line: &str) -> (Reference, bool) {
    #[derive(Deserialize)]
    struct Head<'a> {
        i: Option<u64>,
        #[serde(borrow)]
        t: Option<Text<'a>>,
    }
    let Ok(head) = serde_json::from_str::<Head>(line) else { return (Reference::default(), true) };
    let known = head.t.is_none_or(|t| TYPES.contains(&&*t.0));
    (Reference { i: head.i, ..Reference::default() }, known)
}

fn unknown_type() -> Problem {
    Problem::new(
        400,
        "unknown-type",
        "this server does not offer that \"t\"; \"can\" in welcome lists what it offers",
    )
}

impl<'a> Line<'a> {
    fn request(self) -> Result<Request, Problem> {
        let Some(t) = &self.t else {
            return Err(Problem::bad_json(
                "every frame says its type in \"t\", for example {\"t\":\"join\",\"r\":\"lobby\"}",
            ));
        };
        match &*t.0 {
            "pub" => self.publish(),
            "typing" => Ok(Request::Typing { room: self.room()?, on: !self.off.unwrap_or(false) }),
            "hello" => self.hello(),
            "join" => self.join(),
            "leave" => Ok(Request::Leave { room: self.room()? }),
            "who" => self.who(),
            "log" => self.log(),
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
            Some(r) => Ok(RoomName::new(&r.0)?),
            None => Err(Problem::new(400, "bad-room", "name the room in \"r\"")),
        }
    }

    fn publish(self) -> Result<Request, Problem> {
        let room = self.room()?;
        let Some(d) = self.d else {
            return Err(Problem::bad_json("pub needs \"d\", any JSON; a string is fine"));
        };
        let data = Data::new(d).map_err(|_| {
            Problem::bad_json(format!("\"d\" is nested deeper than {DEPTH_MAX} levels; flatten it"))
        })?;
        let id = match &self.id {
            Some(id) => Some(MessageId::new(&id.0).map_err(|bad| Problem::bad_json(bad.0))?),
            None => None,
        };
        if self.re == Some(0) {
            return Err(Problem::bad_json("\"re\" is the offset of an entry: 1 or more"));
        }
        Ok(Request::Publish(Publish { room, id, data, reply_to: self.re, keep: self.keep.unwrap_or(true) }))
    }

    fn hello(self) -> Result<Request, Problem> {
        if self.v.is_some_and(|v| v != 1) {
            return Err(Problem::new(400, "too-old-version", "this path speaks version 1; say \"v\":1"));
        }
        let (mut joins, mut refused) = (Vec::new(), Vec::new());
        for (name, place) in self.rooms.unwrap_or_default() {
            let join = RoomName::new(&name.0).map_err(Problem::from).and_then(|room| {
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
        Ok(Request::Hello { token: self.token.map(owned), user: self.u.map(owned), joins, refused })
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
        let from = match (self.before, after) {
            (Some(before), None) => PageFrom::Before(before),
            (None, Some(after)) => PageFrom::After(after),
            (None, None) => PageFrom::Before(Offset::MAX),
            (Some(_), Some(_)) => {
                return Err(Problem::bad_json("log takes \"before\" or \"after\", not both"));
            }
        };
        Ok(Request::Log { room: self.room()?, from, n: page_size(self.n) })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(line: &str) -> Request {
        read(line).1.unwrap_or_else(|problem| panic!("{line}: {problem:?}"))
    }

    fn why(line: &str) -> (u16, &'static str) {
        let problem = read(line).1.expect_err(line);
        (problem.code, problem.why)
    }

    #[test]
    fn reads_what_the_protocol_page_shows() {
        assert!(matches!(ok(r#"{"t":"hello","v":1,"token":"eyJ"}"#), Request::Hello { token: Some(_), .. }));
        assert!(matches!(
            ok(r#"{"t":"join","r":"lobby"}"#),
            Request::Join(Join { resume: Resume::FromNow, .. })
        ));
        let Request::Join(join) = ok(r#"{"t":"join","r":"lobby","since":42,"e":"k3f9","quiet":true}"#) else {
            panic!()
        };
        assert_eq!((join.resume, join.quiet), (Resume::Since(42, Some("k3f9".into())), true));
        let Request::Publish(publish) = ok(r#"{"t":"pub","r":"lobby","d":{"a": 1},"id":"k7-41","re":3}"#)
        else {
            panic!()
        };
        assert_eq!(
            (publish.data.as_bytes(), publish.reply_to, publish.keep),
            (&b"{\"a\": 1}"[..], Some(3), true)
        );
        let Request::Hello { joins, .. } =
            ok(r#"{"t":"hello","rooms":{"a":{"since":1,"e":"x"},"b":{},"c":null}}"#)
        else {
            panic!()
        };
        assert_eq!(joins.len(), 3);
        assert!(matches!(ok(r#"{"t":"typing","r":"lobby","off":true}"#), Request::Typing { on: false, .. }));
        assert!(matches!(
            ok(r#"{"t":"log","r":"a","after":7}"#),
            Request::Log { from: PageFrom::After(7), n: 50, .. }
        ));
        assert!(matches!(ok(r#"{"t":"who","r":"a","after":"bob"}"#), Request::Who { after: Some(_), .. }));
    }

    #[test]
    fn one_bad_room_does_not_spoil_a_hello() {
        let Request::Hello { joins, refused, .. } =
            ok(r#"{"t":"hello","rooms":{"a":{},"*":{},"b":{"since":1,"last":1}}}"#)
        else {
            panic!()
        };
        assert_eq!((joins.len(), refused.len()), (1, 2));
    }

    #[test]
    fn null_is_data_and_a_missing_d_is_not() {
        let Request::Publish(publish) = ok(r#"{"t":"pub","r":"a","d":null}"#) else { panic!() };
        assert_eq!(publish.data.as_bytes(), b"null");
        assert_eq!(why(r#"{"t":"pub","r":"a"}"#), (400, "bad-json"));
    }

    #[test]
    fn every_malformed_line_gets_its_error() {
        let deep = format!(r#"{{"t":"pub","r":"a","d":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
        for (line, expected) in [
            ("", (400, "bad-json")),
            ("nonsense", (400, "bad-json")),
            ("[]", (400, "bad-json")),
            ("{}", (400, "bad-json")),
            (r#"{"t":5}"#, (400, "bad-json")),
            (r#"{"t":"join"}"#, (400, "bad-room")),
            (r#"{"t":"join","r":""}"#, (400, "bad-room")),
            (r#"{"t":"join","r":"a\nb"}"#, (400, "bad-room")),
            (r#"{"t":"join","r":"a","since":-1}"#, (400, "bad-json")),
            (r#"{"t":"join","r":"a","since":1,"last":1}"#, (400, "bad-json")),
            (r#"{"t":"pub","r":"a","d":1,"id":""}"#, (400, "bad-json")),
            (r#"{"t":"hello","v":2}"#, (400, "too-old-version")),
            (r#"{"t":"dance"}"#, (400, "unknown-type")),
            (r#"{"t":"react","n":"x"}"#, (400, "unknown-type")),
            (r#"["join","lobby"]"#, (400, "bad-json")),
            (r#"{"t":"auth"}"#, (400, "bad-json")),
            (&deep, (400, "bad-json")),
        ] {
            assert_eq!(why(line), expected, "{line}");
        }
    }

    #[test]
    fn an_error_carries_the_number_of_its_request() {
        assert_eq!(read(r#"{"t":"dance","i":7}"#).0.i, Some(7));
        assert_eq!(read(r#"{"t":"join","r":5,"i":8}"#).0.i, Some(8));
        assert_eq!(read(r#"{"t":"join","r":"a","i":9,"since":"x"}"#).0.i, Some(9));
    }

    #[test]
    fn escapes_in_text_and_unknown_keys_are_fine() {
        let (reference, request) = read(r#"{"x":[1,{"y":2}],"t":"j\u006fin","r":"caf\u00e9"}"#);
        assert!(matches!(request, Ok(Request::Join(_))));
        assert_eq!(reference.room.unwrap().as_str(), "café");
    }
}
