//! A native client over WebSocket: lines out, lines in. [`Client`] is the bare link; [`Guest`] is somebody in
//! a story, who waits for what he is to hear and keeps a diary.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::diary::Diary;
use crate::{PATIENCE, eventually};

/// A link to the server.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    lines: VecDeque<String>,
    silence: Option<Duration>,
    /// When something last came, were it only a ping.
    heard: Instant,
}

impl Client {
    /// A new link; none when the server does not take it just now. A server that says nothing for `silence`, no
    /// ping either, counts as gone.
    pub async fn connect(address: SocketAddr, silence: Option<Duration>) -> Option<Client> {
        let opening = async {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let opened = tokio_tungstenite::client_async(format!("ws://{address}/v1/ws"), stream).await;
            Some(opened.ok()?.0)
        };
        let socket = timeout(silence.unwrap_or(PATIENCE), opening).await.ok()??;
        Some(Client { socket, lines: VecDeque::new(), silence, heard: Instant::now() })
    }

    /// Sends one line. A link that is gone is not told here: [`Client::hear`] sees its end.
    pub async fn say(&mut self, line: &str) {
        self.socket.send(Message::text(line)).await.ok();
    }

    /// The next line; none at the end of the link. Nothing is lost when the wait is given up.
    pub async fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let message = match self.silence {
                Some(silence) => timeout_at(self.heard + silence, self.socket.next()).await.ok()?,
                None => self.socket.next().await,
            };
            self.heard = Instant::now();
            match message?.ok()? {
                Message::Text(text) => {
                    self.lines.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

/// Somebody in a story. Writes down everything; shows everything to the story.
#[derive(Debug)]
pub struct Guest {
    client: Client,
    diary: Diary,
    name: String,
    unclaimed: VecDeque<Value>,
    /// What he has seen up to, in each room.
    seen: HashMap<String, u64>,
}

impl Guest {
    /// Comes in under a name, with a diary of that name in `folder`, and waits for the welcome. `more` is what
    /// the `hello` carries beside the name: `{"rooms":{"lobby":{"since":0}}}`.
    pub async fn enter(address: SocketAddr, folder: &Path, name: &str, more: Value) -> Guest {
        let diary = Diary::begin(folder.join(format!("{name}.jsonl")));
        let client = eventually("a link", || Client::connect(address, None)).await;
        let mut guest =
            Guest { client, diary, name: name.to_owned(), unclaimed: VecDeque::new(), seen: HashMap::new() };
        let mut hello = serde_json::json!({"t": "hello", "v": 1, "u": name});
        if let (Value::Object(hello), Value::Object(more)) = (&mut hello, more) {
            hello.extend(more);
        }
        guest.say(&hello).await;
        guest.hears("welcome", |frame| frame["t"] == "welcome").await;
        guest
    }

    /// Sends a frame.
    pub async fn say(&mut self, frame: &Value) {
        let line = in_order(frame);
        self.diary.said(&line);
        self.client.say(&line).await;
    }

    /// Sends a frame with an id and waits for its answer: `ack` or `err`.
    pub async fn asks(&mut self, frame: &Value) -> Value {
        self.say(frame).await;
        let id = frame["id"].as_str().expect("the story gave it an id").to_owned();
        let answers = move |heard: &Value| {
            matches!(heard["t"].as_str(), Some("ack" | "err")) && heard["id"] == id.as_str()
        };
        self.hears("an answer", answers).await
    }

    /// Waits for a frame that fits; those that came before it stay for later.
    pub async fn hears(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.unclaimed.iter().position(&fits) {
            return self.unclaimed.remove(at).expect("it was found there");
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let line = timeout_at(end, self.client.hear()).await;
            let line = line.unwrap_or_else(|_| panic!("{} waited in vain for {what}", self.name));
            let line =
                line.unwrap_or_else(|| panic!("the link of {} ended before he heard {what}", self.name));
            let frame = self.writes_down(&line);
            if fits(&frame) {
                return frame;
            }
            self.unclaimed.push_back(frame);
        }
    }

    /// What he has seen already (he may join a room again) he does not look at twice.
    fn writes_down(&mut self, line: &str) -> Value {
        let frame: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        let is_entry = matches!(frame["t"].as_str(), Some("msg" | "edit" | "del" | "react"));
        let place = frame["r"].as_str().zip(frame["s"].as_u64()).filter(|_| is_entry);
        let dropped = place.is_some_and(|(room, s)| {
            let seen = self.seen.entry(room.to_owned()).or_default();
            let again = s <= *seen;
            *seen = s.max(*seen);
            again
        });
        self.diary.heard(line, dropped);
        frame
    }

    /// Reads a room up to a place: all entries up to `offset` and how many there were.
    pub async fn reads_up_to(&mut self, room: &str, offset: u64) -> u64 {
        let mut count = 0;
        loop {
            let is_entry = |frame: &Value| {
                frame["r"] == room && frame["s"].is_u64() && frame["t"] != "joined" && frame["t"] != "ack"
            };
            let frame = self.hears("the next entry", is_entry).await;
            let s = frame["s"].as_u64().expect("it was looked at");
            count += u64::from(frame["t"] == "msg");
            if s >= offset {
                return count;
            }
        }
    }

    /// Goes; the diary is whole.
    pub async fn goes(mut self) {
        self.diary.flush();
        self.client.say(r#"{"t":"bye"}"#).await;
        while self.client.hear().await.is_some() {}
    }

    /// The link is gone, as when the server was killed; reads what had still come.
    pub async fn is_cut(mut self) {
        let end = Instant::now() + PATIENCE;
        while let Some(line) = timeout_at(end, self.client.hear()).await.expect("the link ends") {
            self.writes_down(&line);
        }
        self.diary.flush();
    }
}

/// The frame as text, `t` first.
fn in_order(frame: &Value) -> String {
    let t = frame["t"].as_str().expect("every frame has a type");
    let keys = frame.as_object().expect("a frame is an object").iter().filter(|(key, _)| *key != "t");
    let rest: String =
        keys.map(|(key, value)| format!(",{}:{value}", Value::String(key.to_owned()))).collect();
    format!(r#"{{"t":"{t}"{rest}}}"#)
}
