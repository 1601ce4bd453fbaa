//! A raw path of one's own: what comes on `/echo` goes back as it came, text and binary, up to 16 MiB.
//! This is what WebSocket conformance tools talk to.
//!
//! ```sh
//! PORT=9001 cargo run --release --example echo_handler
//! ```

use roomcast::actors::events::{Effects, Handler, Incoming, Peer, Verdict};
use roomcast::config::Config;
use roomcast::wiring::{Roomcast, ServeError};

struct Echo;

impl Handler for Echo {
    fn on_open(&mut self, who: &Peer, _: &mut Effects) -> Verdict {
        eprintln!("opened {}", who.uri.escape_debug());
        Verdict::Accept
    }

    fn on_message(&mut self, who: &Peer, message: Incoming<'_>, effects: &mut Effects) -> Verdict {
        match (who.connection, message) {
            (Some(connection), Incoming::Text(text)) => effects.send_text(connection, text),
            (Some(connection), Incoming::Binary(bytes)) => effects.send_binary(connection, bytes),
            _ => return Verdict::Refuse("this path echoes what connections send".into()),
        }
        Verdict::Accept
    }

    fn on_close(&mut self, _: &Peer, code: u16, _: &mut Effects) {
        eprintln!("closed with {code}");
    }

    fn on_error(&mut self, _: &Peer, error: &str, _: &mut Effects) {
        eprintln!("error: {}", error.escape_debug());
    }
}

fn main() -> Result<(), ServeError> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "9001".into());
    let mut config = Config::default();
    config.queue.door.listen = String::new();
    config.limits.connections_per_address = 0;
    Roomcast::new(config).listen(&format!("127.0.0.1:{port}")).raw("/echo", Echo).run()
}
