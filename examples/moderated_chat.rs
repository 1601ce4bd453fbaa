//! A handler that watches all rooms: greets who comes, refuses shouting, stars out a bad word, and lets a
//! moderator close a session with `/kick`.
//!
//! ```sh
//! cargo run --release --example moderated_chat     # then open http://127.0.0.1:8080
//! ```

use std::collections::HashMap;

use roomcast::actors::events::{Effects, Handler, Incoming, Peer, Verdict};
use roomcast::actors::letters::ConnectionId;
use roomcast::chat::data::Data;
use roomcast::config::Config;
use roomcast::wiring::{Roomcast, ServeError};

#[derive(Default)]
struct Moderator {
    here: HashMap<String, ConnectionId>,
}

impl Handler for Moderator {
    fn on_open(&mut self, who: &Peer, effects: &mut Effects) -> Verdict {
        let (Some(user), Some(connection)) = (&who.user, who.connection) else { return Verdict::Accept };
        self.here.insert(user.as_str().into(), connection);
        effects.send_text(connection, r#"{"t":"note","d":"be kind; /kick NAME is for mod"}"#);
        Verdict::Accept
    }

    fn on_message(&mut self, who: &Peer, message: Incoming<'_>, effects: &mut Effects) -> Verdict {
        let Incoming::Draft(draft) = message else { return Verdict::Accept };
        let Ok(text) = serde_json::from_slice::<String>(draft.data.as_bytes()) else {
            return Verdict::Accept;
        };
        let speaker = who.user.as_ref().map_or("", |user| user.as_str());
        if let (Some(name), "mod") = (text.strip_prefix("/kick "), speaker) {
            if let Some(connection) = self.here.get(name) {
                effects.close(*connection, 4003, "kicked");
            }
            return Verdict::Refuse("done".into());
        }
        if text.len() > 8 && text.chars().any(char::is_alphabetic) && !text.chars().any(char::is_lowercase) {
            return Verdict::Refuse("please do not shout".into());
        }
        draft.data = Data::text(&text.replace("darn", "****"));
        Verdict::Accept
    }

    fn on_close(&mut self, who: &Peer, _: u16, _: &mut Effects) {
        self.here.retain(|_, connection| Some(*connection) != who.connection);
    }
}

fn main() -> Result<(), ServeError> {
    Roomcast::new(Config::default()).rooms(Moderator::default()).run()
}
