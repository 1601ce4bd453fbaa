//! Questions to a backend before something happens: how they are written, what an answer may say, and how many may be
//! without an answer. Asked by sessions, on their own threads.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chat::data::Data;
use crate::chat::message::Offset;
use crate::chat::names::{MessageId, Pattern, RoomName, UserName};
use crate::hooks::figures::{AllAskFigures, AskFigures};
use crate::hooks::post::Post;
use crate::hooks::settings::{AskSettings, OnFailure, patterns, shown};
use crate::traces::Span;

/// Longest words of a refusal that are shown to a client, in bytes.
const WORDS_MAX: usize = 512;

/// Who stands at the door, as far as a backend may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Visitor {
    /// The address that it comes from.
    pub address: String,
    /// Path and query of the request, without a token.
    pub uri: String,
    /// The page that it comes from.
    pub origin: Option<String>,
    /// The program that it is.
    pub user_agent: Option<String>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// May somebody come in?
    Connect {
        /// Who the token says it is.
        user: UserName,
        /// What the token says beside.
        info: Option<Data>,
        /// From where.
        visitor: Option<Box<Visitor>>,
    },
    /// May somebody enter a room?
    Join {
        /// Who.
        user: UserName,
        /// Which.
        room: RoomName,
    },
    /// May something be said?
    Publish {
        /// Who says it.
        user: UserName,
        /// Where.
        room: RoomName,
        /// What.
        data: Data,
        /// The sender's own id.
        id: Option<MessageId>,
        /// The entry whose words these are to become; none for something new.
        of: Option<Offset>,
    },
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It may happen, with these changes.
    Yes(Changes),
    /// It may not; the words are for the client.
    No(String),
    /// There was no answer, and it may not happen now; or too many wait for one.
    NotNow(&'static str),
}

/// What a backend has changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Other data to be said.
    pub data: Option<Data>,
    /// Other data to be shown of a user.
    pub info: Option<Data>,
    /// Other rooms than the token's.
    pub rooms: Option<Vec<Pattern>>,
}

/// Asks. Belongs to the thread it was made on.
pub struct Questions {
    settings: AskSettings,
    rooms: Vec<Pattern>,
    post: Post,
    figures: Arc<AllAskFigures>,
    /// Largest data of a message, in bytes.
    message_bytes: usize,
    /// The ids of questions begin with it, so that no two threads have the same one.
    prefix: u64,
    next: Cell<u64>,
}

#[derive(Serialize)]
struct Headers<'a> {
    origin: Option<&'a str>,
    #[serde(rename = "user-agent")]
    user_agent: Option<&'a str>,
}

/// The body of a question.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Asked<'a> {
    Connect {
        u: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<&'a RawValue>,
        address: &'a str,
        uri: &'a str,
        headers: Headers<'a>,
    },
    Join {
        u: &'a str,
        r: &'a str,
    },
    Publish {
        u: &'a str,
        r: &'a str,
        d: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        of: Option<Offset>,
    },
}

/// The body of an answer. Other keys mean nothing.
#[derive(Deserialize, Default)]
struct Told {
    refuse: Option<String>,
    d: Option<Box<RawValue>>,
    info: Option<Box<RawValue>>,
    rooms: Option<Vec<String>>,
}

impl Questions {
    /// Those of the settings, on this thread.
    pub fn new(
        settings: AskSettings,
        post: Post,
        message_bytes: usize,
        figures: Arc<AllAskFigures>,
    ) -> Questions {
        let rooms = patterns(&settings.rooms);
        let (prefix, next) = (rand::random(), Cell::new(0));
        Questions { settings, rooms, post, figures, message_bytes, prefix, next }
    }

    /// Whether it is asked before somebody comes in.
    pub fn asks_connect(&self) -> bool {
        !self.settings.connect.is_empty()
    }

    /// Whether it is asked before somebody enters a room.
    pub fn asks_join(&self, room: &RoomName) -> bool {
        !self.settings.join.is_empty() && self.is_about(room)
    }

    /// Whether it is asked before something is said in a room.
    pub fn asks_publish(&self, room: &RoomName) -> bool {
        !self.settings.publish.is_empty() && self.is_about(room)
    }

    fn is_about(&self, room: &RoomName) -> bool {
        self.rooms.iter().any(|pattern| pattern.matches(room.as_str()))
    }

    /// Asks, and waits as long as the settings say.
    pub async fn ask(&self, question: Question, span: &Span) -> Verdict {
        let (url, on_failure, figures) = self.about(&question);
        // Taken first and given back, so that no two take the last place.
        let open = Open::new(&self.figures);
        if open.before >= self.settings.in_flight as u64 {
            figures.turned_away.fetch_add(1, Relaxed);
            return Verdict::NotNow("the application has too many questions to answer; try again");
        }
        let began = Instant::now();
        let told = self.told(url, &question, span).await;
        let waited = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        figures.waited_us.fetch_add(waited, Relaxed);
        match told {
            Ok(Verdict::Yes(changes)) => {
                figures.allowed.fetch_add(1, Relaxed);
                Verdict::Yes(changes)
            }
            Ok(verdict) => {
                span.text("roomcast.verdict", "refused");
                figures.refused.fetch_add(1, Relaxed);
                verdict
            }
            Err(why) => {
                span.fail("no answer");
                let before = figures.failed.fetch_add(1, Relaxed);
                // The first, and then ever more seldom: a backend that is down would fill the log.
                if (before + 1).is_power_of_two() {
                    log::warn!("hooks: question {}: {}", before + 1, why.escape_debug());
                }
                match on_failure {
                    OnFailure::Allow => Verdict::Yes(Changes::default()),
                    OnFailure::Refuse => Verdict::NotNow("the application gave no answer; try again"),
                }
            }
        }
    }

    fn about(&self, question: &Question) -> (&str, OnFailure, &AskFigures) {
        let AskSettings { connect, join, publish, .. } = &self.settings;
        let AskSettings { connect_on_failure, join_on_failure, publish_on_failure, .. } = self.settings;
        match question {
            Question::Connect { .. } => (connect, connect_on_failure, &self.figures.connect),
            Question::Join { .. } => (join, join_on_failure, &self.figures.join),
            Question::Publish { .. } => (publish, publish_on_failure, &self.figures.publish),
        }
    }

    async fn told(&self, url: &str, question: &Question, span: &Span) -> Result<Verdict, String> {
        let number = self.next.replace(self.next.get() + 1);
        let id = format!("ask_{:016x}_{number}", self.prefix);
        let answer = self.post.send(url, &id, write(question)?.into(), span).await?;
        if !(200..300).contains(&answer.status) {
            return Err(format!("{} answered a question with status {}", shown(url), answer.status));
        }
        let body = answer.body.map_err(|why| format!("{} answered with {why}", shown(url)))?;
        read(&body, self.message_bytes).map_err(|why| format!("{} answered with {why}", shown(url)))
    }
}

/// A question that is counted as being without an answer; until it is dropped, however that comes.
struct Open<'a> {
    figures: &'a AllAskFigures,
    before: u64,
}

impl Open<'_> {
    fn new(figures: &AllAskFigures) -> Open<'_> {
        Open { figures, before: figures.open.fetch_add(1, Relaxed) }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.figures.open.fetch_sub(1, Relaxed);
    }
}

fn raw(data: &Data) -> Result<&RawValue, String> {
    serde_json::from_slice(data.as_bytes()).map_err(|error| format!("data that is none: {error}"))
}

fn write(question: &Question) -> Result<Vec<u8>, String> {
    let nobody = Visitor::default();
    let asked = match question {
        Question::Connect { user, info, visitor } => {
            let Visitor { address, uri, origin, user_agent } = visitor.as_deref().unwrap_or(&nobody);
            let headers = Headers { origin: origin.as_deref(), user_agent: user_agent.as_deref() };
            let info = info.as_ref().map(raw).transpose()?;
            Asked::Connect { u: user.as_str(), info, address, uri, headers }
        }
        Question::Join { user, room } => Asked::Join { u: user.as_str(), r: room.as_str() },
        Question::Publish { user, room, data, id, of } => {
            let id = id.as_ref().map(MessageId::as_str);
            Asked::Publish { u: user.as_str(), r: room.as_str(), d: raw(data)?, id, of: *of }
        }
    };
    serde_json::to_vec(&asked).map_err(|error| error.to_string())
}

fn read(body: &[u8], message_bytes: usize) -> Result<Verdict, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Verdict::Yes(Changes::default()));
    }
    // A list could be read as an object whose keys are left out.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("something else than an object; answer {} or {\"refuse\":\"why\"}".into());
    }
    let told: Told =
        serde_json::from_slice(body).map_err(|error| format!("an object of other keys: {error}"))?;
    if let Some(words) = told.refuse {
        return Ok(Verdict::No(cut(words)));
    }
    let data = |raw: Option<Box<RawValue>>, key: &str| {
        let data = raw.map(|raw| Data::new(&raw)).transpose();
        let data = data.map_err(|_| format!("{key} that is nested too deep"))?;
        match data {
            Some(data) if data.as_bytes().len() > message_bytes => {
                Err(format!("{key} of more than limits.message_bytes = {message_bytes}"))
            }
            data => Ok(data),
        }
    };
    let rooms = told.rooms.as_deref().map(patterns);
    Ok(Verdict::Yes(Changes { data: data(told.d, "d")?, info: data(told.info, "info")?, rooms }))
}

/// Words for a client: not without end, and no more than a line.
fn cut(words: String) -> String {
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match words.len() > WORDS_MAX {
        true => words
            .char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= WORDS_MAX)
            .map(|(_, c)| c)
            .collect(),
        false if words.trim().is_empty() => "refused by the application".into(),
        false => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserName {
        UserName::new("ann").unwrap()
    }

    fn written(question: &Question) -> String {
        String::from_utf8(write(question).unwrap()).unwrap()
    }

    #[test]
    fn questions_say_who_wants_what() {
        let (user, room) = (user(), RoomName::new("lobby").unwrap());
        let join = Question::Join { user: user.clone(), room: room.clone() };
        assert_eq!(written(&join), r#"{"event":"join","u":"ann","r":"lobby"}"#);
        let data = Data::new(serde_json::from_str(r#"{"a": 1.50}"#).unwrap()).unwrap();
        let publish =
            Question::Publish { user: user.clone(), room, data: data.clone(), id: None, of: Some(3) };
        assert_eq!(
            written(&publish),
            r#"{"event":"publish","u":"ann","r":"lobby","d":{"a": 1.50},"of":3}"#,
            "as the sender wrote it"
        );
        let visitor = Visitor {
            address: "192.0.2.1".into(),
            uri: "/v1/ws?user=ann".into(),
            origin: Some("https://e.example".into()),
            user_agent: None,
        };
        let connect = Question::Connect { user, info: Some(data), visitor: Some(visitor.into()) };
        assert_eq!(
            written(&connect),
            r#"{"event":"connect","u":"ann","info":{"a": 1.50},"address":"192.0.2.1","uri":"/v1/ws?user=ann","headers":{"origin":"https://e.example","user-agent":null}}"#
        );
    }

    #[test]
    fn an_answer_says_yes_no_or_something_else_instead() {
        let yes = Ok(Verdict::Yes(Changes::default()));
        for body in ["", " \n", "{}", "{\"other\":1}"] {
            assert_eq!(read(body.as_bytes(), 100), yes, "{body}");
        }
        assert_eq!(read(br#"{"refuse":"too loud"}"#, 100), Ok(Verdict::No("too loud".into())));
        assert_eq!(read(br#"{"refuse":""}"#, 100), Ok(Verdict::No("refused by the application".into())));
        let changed = read(br#"{"d":"***","rooms":["a","b-*"],"info":{"n":1}}"#, 100).unwrap();
        let Verdict::Yes(changes) = changed else { panic!("{changed:?}") };
        assert_eq!(changes.data, Some(Data::text("***")));
        assert_eq!(changes.rooms, Some(vec![Pattern::new("a"), Pattern::new("b-*")]));
        assert_eq!(changes.info.unwrap().as_bytes(), br#"{"n":1}"#);
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_none() {
        for (body, why) in [
            ("yes", "something else"),
            ("[]", "something else"),
            ("{\"refuse\":1}", "other keys"),
            ("{\"rooms\":\"lobby\"}", "other keys"),
            ("{", "other keys"),
            ("{\"d\":\"0123456789\"}", "limits.message_bytes"),
        ] {
            assert!(read(body.as_bytes(), 10).unwrap_err().contains(why), "{body}");
        }
        let deep = format!("{{\"d\":{}1{}}}", "[".repeat(129), "]".repeat(129));
        assert!(read(deep.as_bytes(), 1_000).unwrap_err().contains("deep"));
    }

    #[test]
    fn words_for_clients_have_an_end() {
        let Ok(Verdict::No(words)) = read(format!("{{\"refuse\":\"{}\"}}", "ä".repeat(600)).as_bytes(), 10)
        else {
            panic!("a refusal")
        };
        assert_eq!(words.len(), 512);
        assert_eq!(cut("a\nb".into()), "a b");
    }
}
