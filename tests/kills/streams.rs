//! A Redis stream, with a real Redis.

use std::collections::BTreeSet;

use roomcast_rig::eventually;
use roomcast_rig::server::free_port;
use tempfile::TempDir;

use crate::redis::{Killed, redis, start_redis};
use crate::relay::{Acks, Window, mark};
use crate::story::{self, Item, Queue};

const STREAM: &str = "orders";
/// Whose turn it is; kept for 3 s.
const READER: &str = "{orders}:reader:roomcast";

struct Stream {
    port: u16,
    _process: Killed,
    _home: TempDir,
}

/// Nothing more is taken before all that was is acknowledged, in one command.
fn acks(window: &Window<'_>, given: &BTreeSet<u64>) -> BTreeSet<u64> {
    if window.holds(b"XACK") { given.clone() } else { BTreeSet::new() }
}

impl Queue for Stream {
    const NAME: &'static str = "Redis stream";
    const IS_ORDERED: bool = true;
    const ACKS: Acks = acks;

    async fn open() -> Stream {
        let (port, home) = (free_port(), tempfile::tempdir().unwrap());
        Stream { port, _process: start_redis(port, home.path()), _home: home }
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn settings(&self, port: u16) -> String {
        format!("kind = \"redis_stream\"\nurl = \"redis://127.0.0.1:{port}\"\nstream = \"{STREAM}\"\n")
    }

    /// An id beside the body stands in a field of its own, and so does the rest then.
    async fn push(&mut self, item: &Item) {
        let content = mark(item.number);
        let fields = match &item.own_id {
            Some(id) => vec!["room", &item.room, "content", &content, "id", id],
            None => vec!["payload", &item.body],
        };
        let added = redis(self.port, &[&["XADD", STREAM, "*"], &fields[..]].concat());
        assert!(added.starts_with('$'), "{added}");
    }

    async fn is_missed(&self) {
        redis(self.port, &["DEL", READER]);
    }

    async fn is_empty(&self) {
        eventually("all entries to be acknowledged", async || {
            let groups = redis(self.port, &["XINFO", "GROUPS", STREAM]);
            let number = |key: &str| {
                let (_, rest) = groups.split_once(&format!("{key}\r\n:"))?;
                rest.split("\r\n").next()?.parse::<u64>().ok()
            };
            (number("pending") == Some(0) && number("lag") == Some(0)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_stream_survives_a_server_that_is_killed() {
    story::kills::<Stream>().await;
}
