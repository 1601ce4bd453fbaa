//! A chat user: says something, hears something. What is heard is claimed once; a wait that takes too long
//! fails with all that was heard until then.

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::PATIENCE;
use super::wire::{Seen, Wire};

/// A line of the protocol as it came.
#[derive(Debug, Clone)]
pub struct Line {
    pub raw: String,
    pub json: Value,
}

/// Somebody in the hall.
pub struct Guest {
    pub name: String,
    pub wire: Wire,
    room: String,
    pub heard: Vec<String>,
    unclaimed: VecDeque<Line>,
    next: u64,
}

impl Line {
    pub fn of(raw: String) -> Line {
        let json = serde_json::from_str(&raw).unwrap_or_else(|error| panic!("no JSON ({error}): {raw}"));
        Line { raw, json }
    }

    /// The type.
    pub fn t(&self) -> &str {
        self.json["t"].as_str().unwrap_or_else(|| panic!("no type: {}", self.raw))
    }

    /// The offset; fails when there is none.
    pub fn s(&self) -> u64 {
        self.number("s")
    }

    pub fn number(&self, key: &str) -> u64 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("no number {key}: {}", self.raw))
    }

    pub fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_else(|| panic!("no text {key}: {}", self.raw))
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    /// Fails unless this is an error with that code and word.
    pub fn is_err(&self, code: u16, why: &str) -> &Line {
        let found = (self.t(), self.json["code"].as_u64(), self.json["why"].as_str());
        assert_eq!(found, ("err", Some(code.into()), Some(why)), "{}", self.raw);
        assert!(!self.text("msg").is_empty(), "an error says what to do: {}", self.raw);
        self
    }
}

impl Guest {
    /// On a wire that nothing was said on.
    pub fn silent(wire: Wire, name: &str) -> Guest {
        Guest {
            name: name.into(),
            wire,
            room: String::new(),
            heard: Vec::new(),
            unclaimed: VecDeque::new(),
            next: 0,
        }
    }

    /// On a wire whose URL said who it is.
    pub async fn welcomed(wire: Wire, name: &str) -> Guest {
        let mut guest = Guest::silent(wire, name);
        let welcome = guest.hears_a("welcome").await;
        assert_eq!(welcome.text("u"), name);
        guest
    }

    // ---- speaking ----

    /// Writes one frame of text.
    pub async fn sends(&mut self, text: impl AsRef<str>) {
        self.wire.writer.text(text.as_ref()).await;
    }

    /// Asks with a request number; the answer that carries it.
    pub async fn asks(&mut self, mut request: Value) -> Line {
        self.next += 1;
        let i = self.next;
        request["i"] = json!(i);
        self.sends(request.to_string()).await;
        self.claims(&format!("an answer to {request}"), |line| line.json["i"] == i).await
    }

    /// Joins with nothing old; `joined`.
    pub async fn joins(&mut self, room: &str) -> Line {
        self.joins_with(room, json!({})).await
    }

    /// Joins with more keys, such as `since`; `joined`, once the replay is over.
    pub async fn joins_with(&mut self, room: &str, more: Value) -> Line {
        let mut request = json!({"t": "join", "r": room});
        for (key, value) in more.as_object().expect("keys of a join") {
            request[key] = value.clone();
        }
        let joined = self.asks(request).await;
        assert_eq!((joined.t(), joined.text("r")), ("joined", room), "{}", joined.raw);
        let live = self.claims("live", |line| line.t() == "live" && line.json["r"] == room).await;
        assert_eq!(live.s(), joined.s());
        self.room = room.into();
        joined
    }

    /// Says something in the room that was joined last; `ack`, which comes with one's own entry.
    pub async fn says(&mut self, text: &str) -> Line {
        // Ids outlive a guest, and even the server.
        static SAID: AtomicU64 = AtomicU64::new(1);
        let id = format!("{}-{}", self.name, SAID.fetch_add(1, Relaxed));
        let ack = self.asks(json!({"t": "pub", "r": self.room, "d": text, "id": id})).await;
        assert_eq!((ack.t(), ack.text("id")), ("ack", id.as_str()), "{}", ack.raw);
        let own =
            self.claims("my own message", |line| line.t() == "msg" && line.json["id"] == id.as_str()).await;
        assert_eq!(
            (own.s(), own.number("ts"), own.text("u")),
            (ack.s(), ack.number("ts"), self.name.as_str())
        );
        ack
    }

    // ---- hearing ----

    /// The next message that is not claimed yet has to be this one.
    pub fn hears(&mut self, data: impl Into<Value>) -> Hearing<'_> {
        let room = self.room.clone();
        Hearing { guest: self, data: data.into(), room, from: None, at: None, id: None }
    }

    /// Waits for the next line of a type.
    pub async fn hears_a(&mut self, t: &str) -> Line {
        self.claims(t, |line| line.t() == t).await
    }

    /// Waits for an error.
    pub async fn is_refused(&mut self, code: u16, why: &str) -> Line {
        let line = self.hears_a("err").await;
        line.is_err(code, why);
        line
    }

    /// All that the server has for this guest by now, unclaimed. It is asked for a pong, and what it had to
    /// say before comes before that.
    pub async fn hears_no_more(&mut self) -> Vec<Line> {
        let pong = self.asks(json!({"t": "ping"})).await;
        assert_eq!(pong.t(), "pong");
        self.unclaimed.drain(..).collect()
    }

    /// Nobody has said anything that was not claimed.
    pub async fn hears_no_message(&mut self) {
        let rest = self.hears_no_more().await;
        let messages: Vec<&str> =
            rest.iter().filter(|line| line.t() == "msg").map(|line| &*line.raw).collect();
        assert!(messages.is_empty(), "{} should hear nothing more, but: {messages:#?}", self.name);
    }

    /// Waits for a line that fits, also among those that came earlier.
    pub async fn claims(&mut self, what: &str, fits: impl Fn(&Line) -> bool) -> Line {
        if let Some(at) = self.unclaimed.iter().position(&fits) {
            return self.unclaimed.remove(at).expect("it was found there");
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let line = self.next_line(what, end).await;
            if fits(&line) {
                return line;
            }
            self.unclaimed.push_back(line);
        }
    }

    async fn next_line(&mut self, what: &str, end: Instant) -> Line {
        loop {
            let Some(seen) = self.wire.next_before(end).await else {
                panic!("{} waited in vain for {what}; heard: {:#?}", self.name, self.heard)
            };
            match seen {
                Seen::Text(text) => {
                    self.heard.push(text.clone());
                    return Line::of(text);
                }
                Seen::Pong(_) => {}
                other => {
                    panic!("{} waits for {what} and sees {other:?}; heard: {:#?}", self.name, self.heard)
                }
            }
        }
    }

    /// Reads on to the close frame, which has to come after a `bye` with the same code; the `bye`.
    pub async fn is_closed_with(&mut self, code: u16) -> Line {
        let (found, why, texts) = self.wire.until_closed().await;
        self.heard.extend(texts.iter().cloned());
        assert_eq!(found, Some(code), "{} is closed for {why:?}; heard: {:#?}", self.name, self.heard);
        let lines = texts.into_iter().map(Line::of);
        let before = self.unclaimed.drain(..);
        let bye = before.chain(lines).last().filter(|line| line.t() == "bye");
        let bye = bye.unwrap_or_else(|| panic!("no bye before the close: {:#?}", self.heard));
        assert_eq!((bye.number("code"), bye.text("why")), (code.into(), why.as_str()));
        bye
    }

    /// Goes with a close frame and waits for the server's.
    pub async fn goes(mut self) {
        self.wire.writer.close(1000).await;
        let (code, _, _) = self.wire.until_closed().await;
        assert_eq!(code, Some(1000));
    }
}

/// What somebody is to hear.
pub struct Hearing<'a> {
    guest: &'a mut Guest,
    data: Value,
    room: String,
    from: Option<String>,
    at: Option<u64>,
    id: Option<String>,
}

impl Hearing<'_> {
    pub fn from(mut self, user: &str) -> Self {
        self.from = Some(user.into());
        self
    }

    pub fn at(mut self, offset: u64) -> Self {
        self.at = Some(offset);
        self
    }

    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.into());
        self
    }

    pub fn in_room(mut self, room: &str) -> Self {
        self.room = room.into();
        self
    }
}

impl<'a> IntoFuture for Hearing<'a> {
    type Output = Line;
    type IntoFuture = Pin<Box<dyn Future<Output = Line> + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Hearing { guest, data, room, from, at, id } = self;
            let fits = |line: &Line| line.t() == "msg" && line.json["r"] == room.as_str();
            let line = guest.claims(&data.to_string(), fits).await;
            let name = &guest.name;
            assert_eq!(line.json["d"], data, "what {name} hears next: {}", line.raw);
            if let Some(from) = from {
                assert_eq!(line.text("u"), from, "from whom {name} hears it: {}", line.raw);
            }
            if let Some(at) = at {
                assert_eq!(line.s(), at, "where {name} hears it: {}", line.raw);
            }
            if let Some(id) = id {
                assert_eq!(line.text("id"), id, "{}", line.raw);
            }
            line
        })
    }
}
