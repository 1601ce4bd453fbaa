//! A stream of NATS JetStream, with a real server.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context, stream};
use roomcast_rig::eventually;
use roomcast_rig::nats::NatsServer;
use serde_json::Value;

use crate::relay::{Acks, Window};
use crate::story::{self, Item, Queue};

struct Orders {
    server: NatsServer,
    context: Context,
    pushed: u64,
}

/// How far the rooms have got is noted as a place in the stream, which begins at 1.
fn acks(window: &Window<'_>, given: &BTreeSet<u64>) -> BTreeSet<u64> {
    let upto = window.numbers(br#""upto":"#, b'}').into_iter().max().unwrap_or(0);
    given.range(..upto).copied().collect()
}

impl Orders {
    /// What stands in the bucket: whose turn it is, and how far it is read.
    async fn place(&self) -> Option<Value> {
        let store = self.context.get_key_value("roomcast").await.ok()?;
        serde_json::from_slice(&store.get("ORDERS.roomcast").await.ok()??).ok()
    }
}

impl Queue for Orders {
    const NAME: &'static str = "NATS JetStream";
    const IS_ORDERED: bool = true;
    const ACKS: Acks = acks;

    async fn open() -> Orders {
        let server = NatsServer::start();
        let client = eventually("a connection", async || async_nats::connect(server.url()).await.ok()).await;
        let context = jetstream::new(client);
        let config =
            stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
        eventually("the stream", async || context.create_stream(&config).await.ok()).await;
        Orders { server, context, pushed: 0 }
    }

    fn port(&self) -> u16 {
        self.server.port
    }

    fn settings(&self, port: u16) -> String {
        format!("kind = \"nats\"\nurl = \"nats://127.0.0.1:{port}\"\nstream = \"ORDERS\"\n")
    }

    async fn push(&mut self, item: &Item) {
        let mut headers = HeaderMap::new();
        if let Some(id) = &item.own_id {
            headers.insert("Nats-Msg-Id", id.as_str());
        }
        let body = item.body.clone().into();
        let sent = self.context.publish_with_headers("orders.new", headers, body).await.unwrap();
        let place = sent.await.unwrap().sequence;
        self.pushed += 1;
        assert_eq!(place, self.pushed, "an item's place follows from its number");
    }

    /// The next one would wait for 3 s.
    async fn is_missed(&self) {
        let mut place = self.place().await.expect("the server has noted its turn");
        place["reader"] = "".into();
        let store = self.context.get_key_value("roomcast").await.unwrap();
        store.put("ORDERS.roomcast", place.to_string().into()).await.unwrap();
    }

    async fn is_empty(&self) {
        let is_read = async || (self.place().await?["upto"] == self.pushed).then_some(());
        eventually("the place behind all items", is_read).await;
    }
}

#[tokio::test]
async fn a_nats_stream_survives_a_server_that_is_killed() {
    story::kills::<Orders>().await;
}
