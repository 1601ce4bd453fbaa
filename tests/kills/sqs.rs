//! Queues of Amazon SQS, FIFO and standard, with moto's server. The server hides what it takes for 30 s; moto ends that
//! time when the story has no use for it.

use std::collections::BTreeSet;

use roomcast_rig::moto::{Moto, REGION};

use crate::relay::{Acks, Window};
use crate::story::{self, Item, Queue};

/// Nothing more is taken before all that was is deleted, in one request.
fn acks(window: &Window<'_>, given: &BTreeSet<u64>) -> BTreeSet<u64> {
    if window.holds(b"AmazonSQS.DeleteMessageBatch") { given.clone() } else { BTreeSet::new() }
}

struct Stand {
    moto: Moto,
    url: String,
}

impl Stand {
    async fn open(name: &str) -> Stand {
        let moto = Moto::start().await;
        let url = moto.queue(name).await;
        Stand { moto, url }
    }

    fn settings(&self, port: u16) -> String {
        let Stand { url, .. } = self;
        format!(
            "kind = \"sqs\"\nurl = \"{url}\"\nregion = \"{REGION}\"\nendpoint = \"http://127.0.0.1:{port}\"\n"
        )
    }
}

struct Fifo(Stand);

impl Queue for Fifo {
    const NAME: &'static str = "SQS FIFO";
    const IS_ORDERED: bool = true;
    const ACKS: Acks = acks;

    async fn open() -> Fifo {
        Fifo(Stand::open("orders.fifo").await)
    }

    fn port(&self) -> u16 {
        self.0.moto.port
    }

    fn settings(&self, port: u16) -> String {
        self.0.settings(port)
    }

    /// The id beside the item is for SQS alone; the server does not see it.
    async fn push(&mut self, item: &Item) {
        let id = item.own_id.clone().unwrap_or_else(|| format!("push-{}", item.number));
        self.0.moto.push_in_group(&self.0.url, &item.room, &id, &item.body).await;
    }

    async fn is_missed(&self) {
        self.takes_back().await;
    }

    async fn takes_back(&self) {
        self.0.moto.takes_back();
    }

    async fn is_empty(&self) {
        self.0.moto.is_empty(&self.0.url).await;
    }
}

struct Standard(Stand);

impl Queue for Standard {
    const NAME: &'static str = "SQS standard";
    const IS_ORDERED: bool = false;
    const ACKS: Acks = acks;

    async fn open() -> Standard {
        Standard(Stand::open("jobs").await)
    }

    fn port(&self) -> u16 {
        self.0.moto.port
    }

    fn settings(&self, port: u16) -> String {
        self.0.settings(port)
    }

    async fn push(&mut self, item: &Item) {
        self.0.moto.push(&self.0.url, &item.body).await;
    }

    async fn is_missed(&self) {
        self.takes_back().await;
    }

    async fn takes_back(&self) {
        self.0.moto.takes_back();
    }

    async fn is_empty(&self) {
        self.0.moto.is_empty(&self.0.url).await;
    }
}

#[tokio::test]
async fn an_sqs_fifo_queue_survives_a_server_that_is_killed() {
    story::kills::<Fifo>().await;
}

#[tokio::test]
async fn an_sqs_standard_queue_survives_a_server_that_is_killed() {
    story::kills::<Standard>().await;
}
