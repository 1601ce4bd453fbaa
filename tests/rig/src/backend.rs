//! A backend: a small HTTP server that writes down what is posted to it, checks each signature by itself, and answers
//! as the story wants. It can be away and come back on the same port.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::eventually;
use crate::server::free_port;

/// The secret of every backend: 32 bytes, made for stories alone.
pub const SECRET: &str = "whsec_c3RvcmllcyBhcmUgc2lnbmVkIHdpdGggdGhpcyE=";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Where to.
    pub path: String,
    /// As they were written.
    pub headers: Vec<(String, String)>,
    /// What was posted.
    pub body: String,
    /// What it was answered with; none while it is not.
    pub status: Option<u16>,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answer with a status, headers and a body.
    Say(u16, Vec<(&'static str, String)>, String),
    /// Say nothing, and keep the line open.
    Silence,
}

type Rule = Arc<dyn Fn(&Posted) -> Reply + Send + Sync>;

/// See above.
pub struct Backend {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
    rule: Arc<Mutex<Rule>>,
    listening: Option<JoinHandle<()>>,
}

/// A status without a body.
pub fn status(status: u16) -> Reply {
    Reply::Say(status, Vec::new(), String::new())
}

/// 200 with JSON.
pub fn says(answer: &Value) -> Reply {
    Reply::Say(200, Vec::new(), answer.to_string())
}

impl Posted {
    /// The value of a header; fails when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or_else(|| panic!("no header {name}: {self:?}"), |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The events of a batch; none of a question.
    pub fn events(&self) -> Vec<Value> {
        self.json()["data"]["events"].as_array().cloned().unwrap_or_default()
    }

    /// Fails unless it is signed with the secret, now.
    fn is_signed(&self) {
        let key = BASE64.decode(&SECRET["whsec_".len()..]).expect("the secret is base64");
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let text = format!("{id}.{time}.{}", self.body);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
        assert_eq!(self.header("webhook-signature"), format!("v1,{}", BASE64.encode(tag)), "{self:?}");
        let age = now().abs_diff(time.parse().expect("seconds"));
        assert!(age < 60, "signed {age} s ago or ahead");
        assert_eq!(self.header("content-type"), "application/json");
    }
}

impl Backend {
    /// A backend that takes everything and says yes to all.
    pub async fn open() -> Backend {
        let address = ([127, 0, 0, 1], free_port()).into();
        let rule: Rule = Arc::new(|_| status(200));
        let rule = Arc::new(Mutex::new(rule));
        let mut backend = Backend { address, posted: Arc::default(), rule, listening: None };
        backend.comes().await;
        backend
    }

    /// From now on it answers so.
    pub fn answers(&self, rule: impl Fn(&Posted) -> Reply + Send + Sync + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// It listens, again if need be.
    pub async fn comes(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let (posted, rule) = (self.posted.clone(), self.rule.clone());
        self.listening = Some(tokio::spawn(async move {
            // Dropped with this task, so that who goes away hangs up on everybody.
            let mut lines = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("it listens");
                lines.spawn(serve(socket, posted.clone(), rule.clone()));
            }
        }));
    }

    /// Nobody listens any more, and all lines are cut.
    pub async fn goes(&mut self) {
        let listening = self.listening.take().expect("it was there");
        listening.abort();
        assert!(listening.await.expect_err("it was told to end").is_cancelled());
    }

    /// What a hall is told of it, for events; `more` are further keys.
    pub fn hooks(&self, more: &[&str]) -> Vec<String> {
        let mut settings = vec![format!("hooks.url={}", self.url("/events"))];
        settings.extend(self.keys());
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        settings
    }

    /// The same for questions of some kinds.
    pub fn asked(&self, kinds: &[&str], more: &[&str]) -> Vec<String> {
        let mut settings: Vec<String> =
            kinds.iter().map(|kind| format!("hooks.ask.{kind}={}", self.url("/ask"))).collect();
        settings.extend(self.keys());
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        settings
    }

    fn keys(&self) -> [String; 2] {
        [format!("hooks.secret={SECRET}"), "hooks.private_addresses=true".to_owned()]
    }

    /// Its address with a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The events that it has taken, in the order in which they came, repeats among them.
    pub fn events(&self) -> Vec<Value> {
        let taken = |posted: &Posted| posted.status == Some(200);
        self.posted().iter().filter(|posted| taken(posted)).flat_map(Posted::events).collect()
    }

    /// The same, each once, at its first place.
    pub fn events_once(&self) -> Vec<Value> {
        let mut known = std::collections::HashSet::new();
        let mut events = self.events();
        events.retain(|event| known.insert(event["key"].as_str().expect("a key").to_owned()));
        events
    }

    /// Waits for an event that fits.
    pub async fn hears(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = async || self.events().into_iter().find(&fits);
        eventually(&format!("{what}; it has heard {:#?}", Brief(&self.events())), found).await
    }

    /// Waits until it has heard the message at a place.
    pub async fn hears_message(&self, room: &str, s: u64) -> Value {
        let is_it = |event: &Value| event["event"] == "on_message" && event["r"] == room && event["s"] == s;
        self.hears(&format!("message {s} of {room}"), is_it).await
    }

    /// Waits for a request that fits.
    pub async fn is_asked(&self, what: &str, fits: impl Fn(&Posted) -> bool) -> Posted {
        eventually(what, async || self.posted().into_iter().find(&fits)).await
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs()
}

/// The events of a list in a few words.
struct Brief<'a>(&'a [Value]);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|event| &event["key"])).finish()
    }
}

/// Reads requests of one connection and answers them.
async fn serve(mut socket: TcpStream, posted: Arc<Mutex<Vec<Posted>>>, rule: Arc<Mutex<Rule>>) {
    let mut bytes = Vec::new();
    while let Some(request) = read(&mut socket, &mut bytes).await {
        request.is_signed();
        let at = {
            let mut all = posted.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(request.clone());
            all.len() - 1
        };
        let rule = rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Reply::Say(status, headers, body) = rule(&request) else {
            // The other side hangs up, or this one goes away.
            let mut rest = [0];
            while socket.read(&mut rest).await.is_ok_and(|n| n > 0) {}
            return;
        };
        posted.lock().unwrap_or_else(PoisonError::into_inner)[at].status = Some(status);
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer =
            format!("HTTP/1.1 {status} Told\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Posted> {
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("heads are text");
    let mut lines = head.split("\r\n");
    let first = lines.next().expect("a request line");
    let path = first.strip_prefix("POST ").and_then(|rest| rest.split(' ').next());
    let path = path.unwrap_or_else(|| panic!("no POST: {first}")).to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
        .map(|header| header.unwrap_or_else(|| panic!("no header in {head}")))
        .collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    while bytes.len() < end + 4 + length {
        if socket.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[end + 4..end + 4 + length].to_vec()).expect("bodies are UTF-8");
    bytes.drain(..end + 4 + length);
    Some(Posted { path, headers, body, status: None })
}

/// Answers questions: `no` for those in which this stands, yes to all others.
pub fn refuses(word: &'static str, words: &'static str) -> impl Fn(&Posted) -> Reply + Send + Sync {
    move |posted| match posted.body.contains(word) {
        true => says(&json!({ "refuse": words })),
        false => says(&json!({})),
    }
}
